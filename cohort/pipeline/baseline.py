"""How a cohort stood, and what lies between two such states: the comparison that a call and a report share.

A state is a few tables as lists: ``scans`` (scan_id, content), ``recipe.<recipe>`` (scan_id, three marks of what its numbers
depend on, a column a measurement) and ``models`` (model, term, estimate, se, n). `changes` writes them as ``baseline/``.

A coefficient with a subject beside the same one without it tells by arithmetic what the subject contributed. So a withdrawal
puts `io.leaving.redact.WITHHELD` in the place of ``models``, and what is compared with that says so instead of naming coefficients.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

TOLERANCE = 1e-12
"""Relative difference up to which two numbers are the same: what is promised for reductions on other machines."""

MARKS = ("#inputs", "#recipe", "#libraries")
"""Columns of a baseline that say what its numbers depend on; no measurement can be called so."""

Columns = dict[str, list[Any]]
"""A table as lists of equal length, as it lies in a JSON file."""

NOT_COMPARED = "Coefficients are not compared across a withdrawal: the difference would tell what the subject contributed."
"""What is said in place of coefficients that moved."""

REASONS = ("input", "recipe", "library")
"""Why a number may move, in the order of `MARKS`."""


class Moved(NamedTuple):
    """One number that is another one now."""

    recipe: str
    scan_id: str
    quantity: str
    before: float | None
    after: float | None
    reason: str
    """The first of `REASONS` that holds; empty where none does, which is an alarm."""


def scans_between(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Scans that came, whose content is another one, and that went; from scan -> content."""
    return {
        "added": sorted(now.keys() - before.keys()),
        "replaced": sorted(s for s, c in now.items() if before.get(s, c) != c),
        "withdrawn": sorted(before.keys() - now.keys()),
    }


def numbers_between(recipe: str, before: Columns, now: Columns) -> Iterator[Moved]:
    """Numbers of scans and measurements that stand in both tables of a recipe, and are not the same."""
    names = [name for name in now if name != "scan_id"]
    names = [*MARKS, *(name for name in names if name not in MARKS)]
    places = {scan_id: i for i, scan_id in enumerate(before.get("scan_id", ()))}
    for i, scan_id in enumerate(now.get("scan_id", ())):
        if scan_id not in places:
            continue
        new = tuple(now[name][i] for name in names)
        old = tuple(before[name][places[scan_id]] if name in before else None for name in names)
        if different := moved_of(names, before.keys(), old, new):
            reason = next(iter(reasons_of(old, new)), "")
            yield from (Moved(recipe, scan_id, *each, reason) for each in different)


def moved_of(
    names: Sequence[str], had: Collection[str], old: Sequence[Any], new: Sequence[Any]
) -> list[tuple[str, float | None, float | None]]:
    """What moved of one scan: measurement, number before, number now; `had` are the columns that were known before."""
    return [
        (name, was, now)
        for name, was, now in zip(names, old, new, strict=True)
        if name in had and name not in MARKS and not same(was, now)
    ]


def reasons_of(old: Sequence[Any], new: Sequence[Any]) -> list[str]:
    """Why numbers of a scan may have moved; its rows begin with `MARKS`."""
    return [r for r, was, now in zip(REASONS, old, new, strict=False) if was != now]


def coefficients_between(
    before: Mapping[tuple[str, str], dict[str, Any]], now: Mapping[tuple[str, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Coefficients that moved, came or went; see `coefficients`."""
    said = []
    for model, term in dict.fromkeys([*before, *now]):
        old, new = before.get((model, term)), now.get((model, term))
        if not alike(old, new):
            said.append({"model": model, "term": term, "before": old, "after": new})
    return [{**each, **difference(each)} for each in said]


def by_scan(columns: Columns, column: str) -> dict[str, Any]:
    """One column of a table, by scan."""
    return dict(zip(columns.get("scan_id", ()), columns.get(column, ()), strict=True))


def coefficients(columns: Columns) -> dict[tuple[str, str], dict[str, Any]]:
    """Coefficients of a table of models, by model and term."""
    names = ("estimate", "se", "n")
    rows = zip(*(columns.get(c, ()) for c in ("model", "term", *names)), strict=True)
    return {(model, term): dict(zip(names, row, strict=True)) for model, term, *row in rows}


def number(value: Any) -> float | None:
    """A number as JSON has it; what is missing or infinite is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def same(one: float | None, other: float | None) -> bool:
    """Whether two numbers are equal within `TOLERANCE`."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=0.0)


def alike(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether a coefficient, its error and its rows are what they were."""
    if old is None or new is None:
        return old is new
    return all(same(old[c], new[c]) for c in ("estimate", "se", "n"))


def difference(change: Mapping[str, Any]) -> dict[str, float | None]:
    """How far a coefficient moved, in its own unit and in standard errors of what it was before."""
    old, new = change["before"] or {}, change["after"] or {}
    before, after, se = old.get("estimate"), new.get("estimate"), old.get("se")
    if before is None or after is None:
        return {"difference": None, "standard_errors": None}
    moved = after - before
    return {"difference": moved, "standard_errors": moved / se if se else None}
