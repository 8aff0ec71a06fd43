"""What changed since the last report, and the alarm: a number moved although nothing that it depends on did.

The report keeps how the cohort stood when it was made (``report/previous.json``: the baseline of that time, and what was said of
it). The next one is compared with that. A report of a cohort in which nothing moved says what the one before it said, so that the
same store gives the same page; the comparison is always with the last state that was another one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cohort.io.leaving.redact import WITHHELD
from cohort.io.storage.backend import StoreError
from cohort.pipeline import baseline
from cohort.pipeline.baseline import Columns, Moved
from cohort.reporting.facts import Facts, Source
from cohort.reporting.wording import count, number

PREVIOUS = "report/previous.json"
"""Where the state of the last report lies in the store."""

LISTED = 200
"""Alarms that are shown one by one; all are counted."""

EXAMPLES = 5
"""Scans named for a measurement that moved: those that moved most."""

SHOWN = 60
"""Scans named that came, changed or went; all are counted."""

WITHDRAWN = "went (withdrawn)"
"""How scans went of which nobody may know whose they were."""

FOR = {
    "input": "the scan is another one",
    "recipe": "the recipe is another one",
    "library": "a library is another one",
}
"""Why numbers moved, in words."""


@dataclass(frozen=True)
class News:
    """What a report says of changes, and what it keeps for the next one.

    Parameters
    ----------
    said : mapping or None
        ``since`` (run), ``scans``, ``n_withdrawn``, ``moved``, ``coefficients``, ``coefficients_withheld``, ``n_alarms``,
        ``alarms``; None where there is nothing to compare with.
    is_first : bool
        There is a state, and no earlier one.
    kept : mapping or None
        What `PREVIOUS` has to hold; None if it holds it.
    """

    said: Mapping[str, Any] | None
    is_first: bool
    kept: Mapping[str, Any] | None


def news(store: Source, facts: Facts) -> News:
    """Compare the cohort as it stands with what the last report of another state kept."""
    now = _state(store, facts)
    if not now:
        return News(None, is_first=False, kept=None)
    try:
        previous = store.read_json(PREVIOUS)
    except StoreError:
        previous = None  # damaged: the comparison begins anew
    if previous is not None and previous.get("now") == now and not previous.get("withdrawn"):
        said = previous.get("said")
        return News(said, is_first=said is None, kept=None)
    run = facts.manifest.get("run_id")
    said = None if previous is None else _compared(previous, now)
    return News(said, is_first=said is None, kept={"run": run, "now": now, "said": said})


def _state(store: Source, facts: Facts) -> dict[str, Columns]:
    """The baseline of a store: what the last call that looked left of each stage."""
    names = ["scans", *(f"recipe.{name}" for name in facts.measured), "models"]
    found = {}
    for name in names:
        try:
            columns = store.read_json(f"baseline/{name}.json")
        except StoreError:
            continue  # the next call makes it again
        if columns:
            found[name] = columns
    return found


def _compared(previous: Mapping[str, Any], now: Mapping[str, Columns]) -> dict[str, Any]:
    before = previous["now"]
    moved = [
        each
        for name, columns in now.items()
        if name.startswith("recipe.") and name in before
        for each in baseline.numbers_between(name.removeprefix("recipe."), before[name], columns)
    ]
    alarms = [each for each in moved if not each.reason]
    scans = [baseline.by_scan(state.get("scans", {}), "content") for state in (before, now)]
    tables = [state.get("models", {}) for state in (before, now)]
    withheld = WITHHELD in tables or bool(previous.get("withdrawn"))
    models = [baseline.coefficients(table) for table in tables]
    return {
        "since": previous.get("run"),
        "scans": baseline.scans_between(*scans),
        # Of people who withdrew: how many, and nothing else, is what the store may keep.
        "n_withdrawn": previous.get("withdrawn", 0),
        "moved": _by_quantity([each for each in moved if each.reason]),
        "coefficients": [] if withheld else baseline.coefficients_between(*models),
        "coefficients_withheld": withheld,
        "n_alarms": len(alarms),
        "alarms": [_named(each) for each in alarms[:LISTED]],
    }


def _by_quantity(moved: list[Moved]) -> list[dict[str, Any]]:
    """Measurements that moved, by the reason, with the scans that moved most."""
    counts = Counter((each.recipe, each.quantity, each.reason) for each in moved)
    found = []
    for (recipe, quantity, reason), n in counts.items():
        those = [e for e in moved if (e.recipe, e.quantity, e.reason) == (recipe, quantity, reason)]
        those.sort(key=lambda each: (-_size(each), each.scan_id))
        examples = [_named(each) for each in those[:EXAMPLES]]
        line = {"recipe": recipe, "quantity": quantity, "reason": reason, "n": n}
        found.append({**line, "examples": examples})
    return found


def _named(each: Moved) -> dict[str, Any]:
    return {k: v for k, v in each._asdict().items() if k != "reason"}


def _size(each: Moved) -> float:
    """How far a number moved; one that came or went, further than any."""
    if each.before is None or each.after is None:
        return float("inf")
    return abs(each.after - each.before)


# -- in words ----------------------------------------------------------------------------------------


def words(found: News, facts: Facts) -> dict[str, Any]:
    """What the template of the section shows."""
    said = found.said
    if said is None:
        return {"said": None, "is_first": found.is_first}
    scans = [
        {"how": how, "n": len(ids), "names": ids[:SHOWN], "more": max(0, len(ids) - SHOWN)}
        for key, how in (("added", "came"), ("replaced", "changed"), ("withdrawn", "went"))
        if (ids := said["scans"][key])
    ]
    if n := said.get("n_withdrawn"):
        scans.append({"how": WITHDRAWN, "n": n, "names": [], "more": 0})
    return {
        "said": said,
        "is_first": False,
        "since": said["since"],
        "scans": scans,
        "moved": [
            {**line, "why": FOR[line["reason"]], **_examples(line, facts)} for line in said["moved"]
        ],
        "coefficients": [_coefficient(each) for each in said["coefficients"]],
        "withheld": baseline.NOT_COMPARED
        if (withheld := said.get("coefficients_withheld"))
        else "",
        "n_alarms": said["n_alarms"],
        "alarms": [_step(each, facts) for each in said["alarms"]],
        "quiet": not (
            scans or said["moved"] or said["coefficients"] or withheld or said["n_alarms"]
        ),
    }


def summary(found: News) -> tuple[list[dict[str, Any]], list[str]]:
    """Tiles and sentences for the head of the page: none unless something is alarming or moved."""
    said = found.said
    if said is None:
        return [], []
    tiles, sentences = [], []
    if n := said["n_alarms"]:
        label = "numbers moved without a reason"
        tiles.append({"label": label, "n": n, "shown": number(n), "alarm": True})
        sentences.append(
            f"Alarm: {count(n, 'number')} of unchanged scans moved although recipe and libraries are the same. "
            "Trust none of them until somebody has found out why; they are listed under the changes."
        )
    parts = [
        f"{count(len(ids), 'scan')} {how}"
        for key, how in (("added", "came"), ("replaced", "changed"), ("withdrawn", "went"))
        if (ids := said["scans"][key])
    ]
    if n := said.get("n_withdrawn"):
        parts.append(f"{count(n, 'scan')} {WITHDRAWN}")
    if k := len(said["coefficients"]):
        parts.append(f"{count(k, 'coefficient')} moved")
    if parts:
        sentences.append(f"Since the last report: {', '.join(parts)}.")
    return tiles, sentences


def _examples(line: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    return {
        "unit": facts.unit(line["recipe"], line["quantity"]),
        "steps": [_step(each, facts) for each in line["examples"]],
    }


def _step(each: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """One number before and after, with as many digits as tell the two apart."""
    before, after = each["before"], each["after"]
    digits = 4
    if before is not None and after is not None:
        while digits < 17 and f"{before:.{digits}g}" == f"{after:.{digits}g}":
            digits += 1
    unit = facts.unit(each["recipe"], each["quantity"])
    shown = {"before": number(before, digits=digits), "after": number(after, digits=digits)}
    return {**each, **shown, "unit": unit}


def _coefficient(each: Mapping[str, Any]) -> dict[str, Any]:
    old, new = each["before"] or {}, each["after"] or {}
    return {
        "model": each["model"],
        "term": each["term"],
        "before": number(old.get("estimate")),
        "after": number(new.get("estimate")),
        "errors": number(each["standard_errors"], digits=2),
        "rows_before": number(old.get("n")),
        "rows_after": number(new.get("n")),
    }
