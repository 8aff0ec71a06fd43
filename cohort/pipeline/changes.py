"""What changed between two calls: scans that came, changed or went, coefficients that moved, numbers that should not have.

``baseline/`` of the store says how things stood when the last call that looked came to its end: of each scan the content it
was made from, of each measurement its number and a mark of what it depends on (input, recipe and revisions, libraries),
of each model its coefficients. A call compares, writes ``runs/<run_id>/changes.json``, and then the new baseline: killed in
between, the next call says the same again, and nothing is lost. A number that moved although nothing it depends on did is
an **alarm**: the same input gave two results, on another machine or at another time, and somebody has to find out why.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cohort.io.leaving.redact import WITHHELD
from cohort.io.storage.backend import StoreError
from cohort.io.storage.papers import Papers
from cohort.pipeline.baseline import (
    MARKS,
    REASONS,
    Columns,
    alike,
    by_scan,
    coefficients,
    coefficients_between,
    difference,
    moved_of,
    number,
    reasons_of,
    scans_between,
)

if TYPE_CHECKING:
    import pandas as pd

LISTED = 1000
"""Alarms that are written down one by one; all are counted."""


class Comparison:
    """What one call found, against the baseline of the call before it.

    Parameters
    ----------
    store : Papers
        Locked by the caller.

    Notes
    -----
    Only what was noted is compared: a call of one stage says nothing of the others.
    """

    def __init__(self, store: Papers) -> None:
        self._store = store
        self._now: dict[str, Columns] = {}
        self._said: dict[str, Any] = {}
        self._numbers: dict[str, Numbers] = {}
        self.alarms: list[dict[str, Any]] = []

    def scans(self, contents: Mapping[str, str]) -> None:
        """Note the scans of the cohort and the digest of the content each was made from."""
        before = by_scan(self._baseline("scans"), "content")
        said = self._said["scans"] = scans_between(before, contents)
        # What came back as it was is known by these, over several calls.
        self._said["contents"] = {
            s: [_short(before.get(s)), _short(contents.get(s))]
            for ids in said.values()
            for s in ids
        }
        ids = sorted(contents)
        self._now["scans"] = {"scan_id": ids, "content": [contents[s] for s in ids]}

    def numbers(self, recipe: str, columns: Sequence[str]) -> "Numbers":
        """Where the derivative records of a recipe are noted, one after the other."""
        self._numbers[recipe] = Numbers(columns, self._baseline(f"recipe.{recipe}"))
        return self._numbers[recipe]

    def models(self, tables: Mapping[str, "pd.DataFrame | None"]) -> None:
        """Note the coefficients of all models: model -> its tidy table, None if it could not be fitted."""
        baseline = self._baseline("models")
        before = coefficients(baseline)
        now = {
            (name, _term(row, table)): {
                "estimate": number(row["estimate"]),
                "se": number(row["se"]),
                "n": number(row["n"]),
            }
            for name, table in tables.items()
            if table is not None
            for row in table.to_dict("records")
        }
        withheld = baseline == WITHHELD
        self._said["coefficients"] = [] if withheld else coefficients_between(before, now)
        self._said |= {"coefficients_withheld": True} if withheld else {}
        keys = list(now)
        self._now["models"] = {
            "model": [model for model, _ in keys],
            "term": [term for _, term in keys],
            **{c: [now[k][c] for k in keys] for c in ("estimate", "se", "n")},
        }

    def write(self, run_id: str) -> dict[str, Any]:
        """Write what changed, if anything did, then the new baseline; what was written, empty if nothing changed."""
        moved: dict[str, dict[str, int]] = {}
        for recipe, numbers in self._numbers.items():
            moved[recipe], alarms = numbers.compare()
            self.alarms += [{"recipe": recipe, **alarm} for alarm in alarms]
            self._now[f"recipe.{recipe}"] = numbers.columns()
        self._said["numbers"] = moved
        changed = (
            any(self._said.get("scans", {}).values())
            or bool(self._said.get("coefficients"))
            or any(n for each in moved.values() for n in each.values())
            or bool(self.alarms)
        )
        said: dict[str, Any] = {}
        if changed:
            said = {
                "run_id": run_id,
                **self._said,
                "n_alarms": len(self.alarms),
                "alarms": self.alarms[:LISTED],
            }
            self._store.write_json(f"runs/{run_id}/changes.json", said)
        for name, columns in self._now.items():
            if columns != self._baseline(name):
                self._store.write_json(f"baseline/{name}.json", columns)
        return said

    def _baseline(self, name: str) -> Columns:
        try:
            return self._store.read_json(f"baseline/{name}.json") or {}
        except StoreError:
            return {}  # it can be made again: this call says that everything is new


class Numbers:
    """What one recipe measured, scan by scan, beside what it had measured when a call looked last.

    Parameters
    ----------
    columns : sequence of str
        Names of its measurements.
    before : Columns
        Its baseline.
    """

    def __init__(self, columns: Sequence[str], before: Columns) -> None:
        self._columns = [*MARKS, *columns]
        known = [before.get(c) for c in self._columns]
        self._before: dict[str, tuple[Any, ...]] = {
            scan_id: tuple(None if values is None else values[i] for values in known)
            for i, scan_id in enumerate(before.get("scan_id", ()))
        }
        self._had = {c for c in self._columns if c in before}
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._marks: dict[str, str] = {}
        self._last: dict[str, tuple[Any, str]] = {}
        """Part of a record -> what the last one said there, and its mark: scan after scan says the same."""

    def take(self, scan_id: str, record: Mapping[str, Any] | None) -> None:
        """Take the derivative record of a scan, in place of an earlier one.

        Of a scan that failed, or has none, what was known stays: once it is measured again, nothing else may have moved.
        """
        if record is not None and record["state"] == "done":
            measured = record["measurements"]
            numbers = (number(measured.get(c)) for c in self._columns[len(MARKS) :])
            self._rows[scan_id] = (*self._marks_of(record), *numbers)
        elif scan_id in self._before:
            self._rows[scan_id] = self._before[scan_id]

    def compare(self) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """Scans whose numbers moved, by the first reason for it, and the numbers that moved without one."""
        moved = dict.fromkeys(REASONS, 0)
        alarms: list[dict[str, Any]] = []
        for scan_id, new in sorted(self._rows.items()):
            old = self._before.get(scan_id)
            if old is None or old is new:
                continue
            different = moved_of(self._columns, self._had, old, new)
            if not different:
                continue
            reasons = reasons_of(old, new)
            if reasons:
                moved[reasons[0]] += 1
            else:
                alarms += [
                    {"scan_id": scan_id, "quantity": name, "before": was, "after": now}
                    for name, was, now in different
                ]
        return moved, alarms

    def columns(self) -> Columns:
        """The new baseline."""
        ids = sorted(self._rows)
        found = {c: [self._rows[s][i] for s in ids] for i, c in enumerate(self._columns)}
        return {"scan_id": ids, **found}

    def _marks_of(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Short digests of what the numbers of a record depend on; most scans share most of them."""
        for name in ("contents", "keys", "versions"):
            part = record.get(name, {})
            before, mark = self._last.get(name, (None, ""))
            if part != before:
                text = json.dumps(part, sort_keys=True)
                mark = hashlib.sha256(text.encode()).hexdigest()[:16]
                mark = self._marks.setdefault(mark, mark)
                self._last[name] = part, mark
            yield mark


def _short(content: str | None) -> str | None:
    """Enough of a digest to tell two contents of one scan apart."""
    return None if content is None else content[:16]


# -- over several calls ----------------------------------------------------------------------------


def since(store: Papers, when: str) -> list[str]:
    """Runs that came after a run, or on a day and later, oldest first.

    Parameters
    ----------
    when : str
        A run id, or the beginning of one, or a day, YYYY-MM-DD (UTC).

    Raises
    ------
    StoreError
        If there is no such run, or several begin so.
    """
    runs = store.files.names("runs")
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", when):
        return [run for run in runs if run >= when.replace("-", "")]
    found = [run for run in runs if run.startswith(when)] if when else []
    if len(found) != 1:
        oldest = f"the oldest there is: {runs[0]}" if runs else "there is no run yet"
        what = f"{len(found)} runs begin with" if found else "no run"
        raise StoreError(
            f"{what} {when!r}; expected a run of `cohort status`, or a day such as 2026-11-21 ({oldest})"
        )
    return runs[runs.index(found[0]) + 1 :]


def merged(store: Papers, runs: Sequence[str]) -> dict[str, Any]:
    """What changed over several runs, as one ``changes.json`` would say it.

    A scan that came and went is not named, nor one that went or changed and is what it was again; of a coefficient that
    moved twice, the first and the last count. Across a withdrawal none is compared (``coefficients_withheld``).
    """
    was: dict[str, str | None] = {}
    now: dict[str, str | None] = {}
    first: dict[tuple[str, str], Any] = {}
    last: dict[tuple[str, str], Any] = {}
    alarms: list[dict[str, Any]] = []
    n_alarms = n_withdrawn = 0
    withheld = False
    for run, said in _each(store, runs):
        for scan_id, before, after in _steps(said, run):
            was.setdefault(scan_id, before)
            now[scan_id] = after
        for each in said.get("coefficients", ()):
            key = (each["model"], each["term"])
            first.setdefault(key, each["before"])
            last[key] = each["after"]
        withheld |= said.get("coefficients_withheld", False)
        alarms += said.get("alarms", ())
        n_alarms += said.get("n_alarms", 0)
        n_withdrawn += said.get("subjects_withdrawn", 0)
    moved = [
        {"model": model, "term": term, "before": first[model, term], "after": last[model, term]}
        for model, term in first
        if not alike(first[model, term], last[model, term])
    ]
    return {
        "runs": list(runs),
        "scans": {
            "added": sorted(s for s in now if was[s] is None and now[s] is not None),
            "replaced": sorted(s for s in now if None not in (was[s], now[s]) and was[s] != now[s]),
            "withdrawn": sorted(s for s in now if was[s] is not None and now[s] is None),
        },
        "subjects_withdrawn": n_withdrawn,
        "coefficients": [{**each, **difference(each)} for each in moved],
        "coefficients_withheld": withheld or n_withdrawn > 0,
        "n_alarms": n_alarms,
        "alarms": alarms[:LISTED],
    }


def _each(store: Papers, runs: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for run in runs:
        said = store.read_json(f"runs/{run}/changes.json")
        if said:
            yield run, said


def _steps(said: Mapping[str, Any], run: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Scans that changed in a run, and their content before and after it, None where there was none."""
    known = said.get("contents", {})
    for how, ids in said.get("scans", {}).items():
        for scan_id in ids:
            # A run of an earlier version did not say; its contents are like no other.
            before, after = known.get(scan_id, (f"before {run}", f"after {run}"))
            yield scan_id, None if how == "added" else before, None if how == "withdrawn" else after


def _term(row: Mapping[Any, Any], table: "pd.DataFrame") -> str:
    """Name of a coefficient: its term, with the outcome where that is not the model's first."""
    if "outcome" not in table or row["outcome"] == table["outcome"].iloc[0]:
        return str(row["term"])
    return f"{row['outcome']}: {row['term']}"
