"""What was measured, as the page says it: how the values lie, which scans are flagged, and the table of single scans."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cohort.reporting.facts import Facts
from cohort.reporting.wording import Shown, count, decimals_for, number
from cohort.stats.outlying import NO_VALUE, is_outlying, outlying

KEYS = frozenset({"scan_id", "participant", "subject", "session", "state", "reason", "series"})
"""Columns of a recipe's table that are no measurements."""

MAX_KINDS = 3
"""Sets of measurements without a value that one sentence names."""

FAR, MISSING = "far from the others", NO_VALUE
"""What a measurement is flagged for."""


class Flag(NamedTuple):
    """Why a scan should be looked at."""

    kind: str
    """`FAR` or `MISSING`."""
    recipe: str
    quantities: tuple[str, ...]
    text: str


Flags = dict[str, list[Flag]]
"""Scan -> its flags."""


def measurement_columns(table: pd.DataFrame) -> list[str]:
    """Columns of numbers of a recipe's table."""
    return [
        str(c) for c in table.columns if c not in KEYS and pd.api.types.is_numeric_dtype(table[c])
    ]


def flags(facts: Facts) -> Flags:
    """Scans with a value far from the others, or with none: what `stats.outlying` names."""
    flagged: Flags = {}
    for recipe in facts.measured:
        done = facts.done(recipe)
        found = outlying(done, measurement_columns(done)).to_dict("records")
        missing: dict[str, list[str]] = {}
        for row in found:
            if row["reason"] == NO_VALUE:
                missing.setdefault(str(row["scan_id"]), []).append(str(row["quantity"]))
        for scan_id, names in missing.items():
            text = f"no value for {', '.join(names)}"
            flagged.setdefault(scan_id, []).append(Flag(MISSING, recipe, tuple(names), text))
        for row in found:
            if row["reason"] == NO_VALUE:
                continue
            z = number(row["robust_z"], decimals=1).text
            text = f"{row['quantity']} {row['reason']} (robust z {z})"
            flag = Flag(FAR, recipe, (str(row["quantity"]),), text)
            flagged.setdefault(str(row["scan_id"]), []).append(flag)
    # Where a measurement has no value in any scan everybody is flagged, and whoever is far from the others still comes first.
    return dict(sorted(flagged.items(), key=lambda item: rank(item[1])))


def rank(own: Sequence[Flag]) -> int:
    """Place of a scan by its flags: 0 with a value far from the others, 1 with none, 2 without a flag."""
    return 0 if any(f.kind == FAR for f in own) else 1 if own else 2


def measurements(facts: Facts, recipe: str) -> list[dict[str, Any]]:
    """One line a measurement: how many values, where they lie, which are far out."""
    done = facts.done(recipe)
    ids = [str(s) for s in done["scan_id"]] if "scan_id" in done else [""] * len(done)
    lines = []
    for column in measurement_columns(done):
        values = done[column].to_numpy(np.float64, na_value=np.nan)
        finite = values[np.isfinite(values)]
        far = is_outlying(values)
        show = shower(finite)
        cuts = np.percentile(finite, (0, 25, 50, 75, 100)) if finite.size else [None] * 5
        lines.append(
            {
                "name": column,
                "unit": facts.unit(recipe, column),
                "n": int(finite.size),
                "missing": int(values.size - finite.size),
                **dict(
                    zip(
                        ("low", "q1", "median", "q3", "high"),
                        (show(c) for c in cuts),
                        strict=True,
                    )
                ),
                "outliers": [scan_id for scan_id, away in zip(ids, far, strict=True) if away],
                "values": values,
                "scans": ids,
                "far": far,
            }
        )
    return lines


def shower(finite: np.ndarray) -> Callable[[Any], Shown]:
    """How the numbers of one measurement are shown.

    Whole numbers as such, and with one decimal what lies between two of them, as a quantile may. Else three digits of the spread:
    what it takes to tell two scans apart, no more. The spread is that of the middle half, which one far value does not move.
    """
    whole = bool(finite.size) and bool((finite == np.rint(finite)).all())
    decimals = _decimals(finite)

    def show(value: Any) -> Shown:
        if whole and value is not None and math.isfinite(value):
            return number(value, decimals=0 if float(value).is_integer() else 1)
        return number(value, decimals=decimals)

    return show


def _decimals(finite: np.ndarray) -> int | None:
    """None where there is no spread."""
    if not finite.size:
        return None
    low, high = np.percentile(finite, (25, 75))
    # Where half of the values are alike, that of all that are not far from the others.
    spread = (high - low) / 1.349 or finite[~is_outlying(finite)].std()
    return decimals_for(spread, digits=3) if spread > 0 else None


def rows(facts: Facts, recipe: str, flagged: Flags, *, most: int) -> dict[str, Any]:
    """Table of single scans: those that failed, then by `rank`, `most` of them, columns rounded alike.

    Returns
    -------
    {columns: [(name, unit)], lines: [{scan_id, participant, state, reason, flags, cells}], more: int}
    """
    table, columns = facts.measured[recipe], measurement_columns(facts.done(recipe))
    numbers = {c: table[c].to_numpy(np.float64, na_value=np.nan) for c in columns}
    show = {c: shower(values[np.isfinite(values)]) for c, values in numbers.items()}
    mine = {s: [f for f in each if f.recipe == recipe] for s, each in flagged.items()}
    told = {s: [f.text for f in each] for s, each in mine.items()}
    ids = table["scan_id"].astype(str) if "scan_id" in table else pd.Series("", table.index)
    failed = table["state"] == "failed" if "state" in table else pd.Series(False, table.index)  # noqa: FBT003
    order = np.where(failed, -1, ids.map(lambda s: rank(mine.get(s, []))))
    ranked = table.iloc[np.argsort(order, kind="stable")[:most]]
    lines = [
        {
            "flags": told.get(str(row.get("scan_id")), []),
            **{
                key: "" if pd.isna(row.get(key)) else str(row[key])
                for key in ("scan_id", "participant", "state", "reason")
            },
            "cells": [show[c](None if pd.isna(row[c]) else row[c]) for c in columns],
        }
        for row in ranked.astype(object).to_dict("records")
    ]
    return {
        "columns": [(c, facts.unit(recipe, c)) for c in columns],
        "lines": lines,
        "more": max(0, len(table) - most),
    }


def without_value(facts: Facts, flagged: Flags) -> list[str]:
    """How many measured scans have no value for what, one sentence a recipe."""
    lines = []
    for recipe in facts.measured:
        counted = Counter(
            f.quantities
            for each in flagged.values()
            for f in each
            if f.kind == MISSING and f.recipe == recipe
        )
        ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        told = [f"{count(n, 'scan')} for {', '.join(names)}" for names, n in ordered[:MAX_KINDS]]
        if len(ordered) > MAX_KINDS:
            rest = sum(n for _, n in ordered[MAX_KINDS:])
            told.append(f"{count(rest, 'scan')} for others")
        if told:
            n = ordered[0][1]
            first = told[0].replace(" for ", f" {'has' if n == 1 else 'have'} no value for ", 1)
            lines.append(
                f"{'; '.join([first, *told[1:]])} (recipe {recipe}): they were measured, and what came out is no number."
            )
    return lines
