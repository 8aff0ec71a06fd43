"""What the report says, section by section: the store's tables and records as plain values for the templates.

Every function takes facts gathered from the store and returns numbers, names and sentences; nothing here knows
HTML or draws.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cohort.reporting.facts import Facts
from cohort.reporting.measured import FAR, MISSING, Flags, without_value
from cohort.reporting.unfitted import Unfitted, loss, sentence
from cohort.reporting.wording import count, number

MAX_LISTED = 20
"""Names listed after a reason before the rest is only counted."""


# -- the flow of scans -------------------------------------------------------------------------------


def flow(
    facts: Facts, maps: Sequence[Mapping[str, Any]] = (), unfitted: Sequence[Unfitted] = ()
) -> list[dict[str, Any]]:
    """Stages from files to models: how many go on, how many do not, and why.

    Parameters
    ----------
    facts : Facts
    maps : sequence of mappings
        Models of maps, as `mapspage.contexts` gives them.
    unfitted : sequence of Unfitted
        Declared models without a fit.

    Returns
    -------
    list of {title, joins, n, shown, noun, losses, notes}
        A loss is {kind, reason, n, names, more}.
    """
    stages = []
    found = facts.ingest.get("found") or {}
    refused = {
        state: [e for e in facts.refused if e.get("state", "quarantined") == state]
        for state in ("quarantined", "skipped")
    }
    if len(facts.scans) or facts.refused or found.get("series") or facts.has_sources:
        stages += [_found_stage(facts, found, refused), _ingested_stage(facts)]
    elif not len(facts.participants):
        stages.append(_stage("Found", 0, "series", notes=["The sources hold no scan."]))
    if len(facts.participants):
        stages.append(_participants_stage(facts))
    for recipe in facts.measured:
        notes, losses = _not_measured(facts, recipe), []
        for kind, those in (("failed", facts.failed(recipe)), ("stale", facts.stale(recipe))):
            pairs = zip(those.get("reason", []), those.get("scan_id", []), strict=False)
            losses += _by_reason(kind, pairs)
        stages.append(
            _stage(f"Measured by {recipe}", len(facts.done(recipe)), "scans", losses, notes)
        )
    used = [(f"model {name}", "rows", m.get("rows") or {}) for name, m in facts.models.items()]
    used += [(f"maps {each['name']}", "scans", each["rows"]) for each in maps]
    for name, noun, rows in used:
        dropped = rows.get("dropped") or []
        losses = _by_reason("left out", ((d.get("reason"), d.get("row")) for d in dropped))
        total = rows.get("n_table")
        notes = [] if total is None else [f"Of {count(int(total), 'row')} of its table."]
        n_used = int(rows.get("n_used") or 0)
        stages.append(_stage(f"Used by {name}", n_used, noun, losses, notes))
    stages += [_stage(f"Used by model {m.name}", 0, "rows", [loss(m)]) for m in unfitted]
    return stages


def _stage(
    title: str,
    n: int,
    noun: str,
    losses: list[dict[str, Any]] | None = None,
    notes: list[str] | None = None,
    *,
    joins: bool = False,
) -> dict[str, Any]:
    """One box of the flow; `joins`: it does not follow from the box above but comes in from the side."""
    return {
        "joins": joins,
        "title": title,
        "n": n,
        "shown": number(n),
        "noun": noun.removesuffix("s") if n == 1 and noun != "series" else noun,
        "losses": losses or [],
        "notes": notes or [],
    }


def _not_measured(facts: Facts, recipe: str) -> list[str]:
    """What makes the scans that a recipe measured others than those that were ingested."""
    ids = [set(t["scan_id"]) for t in (facts.scans, facts.measured[recipe]) if "scan_id" in t]
    if len(ids) < 2:
        return []
    waiting, gone = len(ids[0] - ids[1]), len(ids[1] - ids[0])
    notes = [f"{count(waiting, 'scan')} not measured yet."] if waiting else []
    if gone:
        notes.append(f"{count(gone, 'scan')} of these left the cohort; the next run drops them.")
    return notes


def _found_stage(
    facts: Facts, found: Mapping[str, Any], refused: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    losses = []
    for state, entries in refused.items():
        losses += _by_reason(state, ((_why(e), e.get("series")) for e in entries))
    accounted = len(facts.scans) + sum(len(entries) for entries in refused.values())
    notes = []
    if facts.n_withdrawn:
        # What was counted then holds series of theirs.
        total = accounted
        who = count(facts.n_withdrawn, "subject")
        notes.append(
            f"{who} withdrew since the sources were looked at; the next ingest counts the files."
        )
    else:
        total = int(found.get("series") or accounted)
        if found.get("files"):
            notes.append(f"In {count(int(found['files']), 'file')}.")
        notes += [
            f"{count(int(n), 'file')} left aside: {reason}."
            for reason, n in (found.get("skipped") or {}).items()
        ]
    if n := found.get("withdrawn"):
        notes.append(f"{count(int(n), 'series', 'series')} of subjects who withdrew left out.")
    if n := len(found.get("absent") or []):
        notes.append(
            f"{count(n, 'scan')} that the sources do not hold any more, or hold under another name, {'is' if n == 1 else 'are'} in the cohort no more; "
            f"{'it stays' if n == 1 else 'they stay'} in the store until withdrawn."
        )
    if not (total + accounted + facts.n_withdrawn + found.get("withdrawn", 0)):
        notes.append("The sources hold no scan.")
    if total != accounted:
        notes.append(
            f"The sources hold {count(total, 'series', 'series')}, the store accounts for {accounted:,}: "
            "one series can hold several scans, and what is new comes with the next run."
        )
    return _stage("Found", total, "series", losses, notes)


def _why(entry: Mapping[str, Any]) -> str:
    """Reason of a refusal, with its code in front once."""
    code, reason = str(entry.get("code") or ""), str(entry.get("reason") or "no reason given")
    return reason if not code or reason.startswith(code) else f"{code}  {reason}"


def _ingested_stage(facts: Facts) -> dict[str, Any]:
    unmatched = facts.ingest.get("unmatched") or {}
    losses = []
    for key, kind, reason in (
        ("scans_without_row", "unmatched", "no row of the participants table belongs to the scan"),
        (
            "attachments_without_scan",
            "unmatched",
            "an attached mask or label image belongs to no scan",
        ),
    ):
        losses += _by_reason(kind, ((reason, name) for name in unmatched.get(key) or []))
    return _stage("Ingested", len(facts.scans), "scans", losses)


def _participants_stage(facts: Facts) -> dict[str, Any]:
    unmatched = facts.ingest.get("unmatched") or {}
    losses, told = [], dict[str, tuple[str, str]]()
    for row in unmatched.get("rows_without_scan") or []:
        told[str(row)] = _of_row(facts, unmatched, str(row))
    for kind in ("unmatched", "quarantined", "skipped", "not read yet"):
        losses += _by_reason(kind, ((why, row) for row, (k, why) in told.items() if k == kind))
    is_table = not (len(facts.scans) or facts.refused or facts.has_sources)
    notes = ["The cohort is a table: its models need no scan."] if is_table else []
    return _stage(
        "Participants table",
        len(facts.participants),
        "rows",
        losses,
        notes,
        joins=not is_table,
    )


def _of_row(facts: Facts, unmatched: Mapping[str, Any], row: str) -> tuple[str, str]:
    """Why a row of the participants table has no scan: kind, and reason in words."""
    names = (unmatched.get("rows_refused") or {}).get(row) or []
    entries = [e for e in facts.refused if e.get("series") in set(names)]
    for state, what in (("quarantined", "is in quarantine"), ("skipped", "was skipped")):
        mine = [e for e in entries if e.get("state", "quarantined") == state]
        if mine:
            more = len(entries) - 1
            rest = (
                f" (and {count(more, 'other series', 'other series')} of the row)" if more else ""
            )
            # What the code stands for is told above, where the series was found; many rows may share it.
            return state, f"its scan {what}: {mine[0].get('code') or _why(mine[0])}{rest}"
    if row in (unmatched.get("rows_waiting") or []):
        return "not read yet", "its scan was found and comes with the next run"
    return "unmatched", "no scan was found for the row"


def _by_reason(kind: str, pairs: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """(reason, name) pairs grouped by reason, most frequent first."""
    groups: dict[str, list[str]] = {}
    for reason, name in pairs:
        text = "no reason given" if pd.isna(reason) else str(reason)
        groups.setdefault(text, []).append(str(name))
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "kind": kind,
            "reason": r,
            "n": len(names),
            "names": names[:MAX_LISTED],
            "more": max(0, len(names) - MAX_LISTED),
        }
        for r, names in ordered
    ]


def summary(
    facts: Facts,
    flagged: Flags,
    maps: Sequence[Mapping[str, Any]] = (),
    unfitted: Sequence[Unfitted] = (),
) -> dict[str, Any]:
    """Tiles and sentences at the head of the page; `flagged` as `flags` gives them, `maps` and `unfitted` as for `flow`.

    Returns
    -------
    {tiles: [{label, n, shown, alarm}], sentences: [str]}
    """
    quarantined = [e for e in facts.refused if e.get("state", "quarantined") == "quarantined"]
    failed = {name: len(facts.failed(name)) for name in facts.measured}
    outliers = sum(any(f.kind == FAR for f in each) for each in flagged.values())
    missing = sum(any(f.kind == MISSING for f in each) for each in flagged.values())
    tiles = [
        {"label": "scans in the cohort", "n": len(facts.scans), "alarm": False},
        {"label": "series quarantined", "n": len(quarantined), "alarm": bool(quarantined)},
        {"label": "measurements failed", "n": sum(failed.values()), "alarm": any(failed.values())},
        {"label": "scans with an outlying value", "n": outliers, "alarm": bool(outliers)},
        {"label": "models fitted", "n": len(facts.models) + len(maps), "alarm": False},
    ]
    if missing:
        tiles.insert(4, {"label": "scans without a value", "n": missing, "alarm": True})
    if unfitted:
        failed_to_fit = any(model.failed for model in unfitted)
        tiles.append({"label": "models without a fit", "n": len(unfitted), "alarm": failed_to_fit})
    people = facts.scans["subject"].nunique() if "subject" in facts.scans else 0
    if len(facts.scans):
        sentences = [
            f"The cohort holds {count(len(facts.scans), 'scan')} of {count(int(people), 'subject')}."
        ]
    elif len(facts.participants):
        sentences = [
            f"The cohort holds no scan; its table has {count(len(facts.participants), 'row')}."
        ]
    else:
        sentences = [
            "The cohort is empty: no scan was ingested and there is no participants table."
        ]
    if quarantined:
        sentences.append(
            f"{count(len(quarantined), 'series', 'series')} could not be trusted and {'was' if len(quarantined) == 1 else 'were'} "
            "put in quarantine; the flow below says why."
        )
    for recipe in facts.measured:
        done = len(facts.done(recipe))
        sentences.append(
            f"The recipe {recipe} measured {count(done, 'scan') if done else 'no scan'}"
            + (
                f" and failed on {failed[recipe]:,}; nothing of a failed scan enters a model."
                if failed[recipe]
                else "."
            )
        )
    if outliers:
        sentences.append(
            f"{count(outliers, 'scan')} {'has' if outliers == 1 else 'have'} a value far from the others. "
            "It is marked, not removed: look at the picture first."
        )
    sentences += without_value(facts, flagged)
    capped = sum(
        _truths(t["age_capped"]) for t in (facts.scans, facts.participants) if "age_capped" in t
    )
    if capped:
        sentences.append(
            f"{count(capped, 'age')} over 89 {'is' if capped == 1 else 'are'} given as 90."
        )
    for name, model in [*facts.models.items(), *((each["name"], each) for each in maps)]:
        reading = [str(line) for line in model.get("reading") or []]
        sentences.append(f"Model {name}: {reading[0]}" if reading else f"Model {name} was fitted.")
    sentences += map(sentence, unfitted)
    return {
        "tiles": [{**tile, "shown": number(tile["n"])} for tile in tiles],
        "sentences": sentences,
    }


def _truths(column: pd.Series) -> int:
    """Cells that say yes, whether the column holds booleans, numbers or text."""
    return int(column.astype(str).str.lower().isin(("true", "1", "1.0")).sum())
