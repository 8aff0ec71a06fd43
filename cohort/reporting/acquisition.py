"""How the scans were acquired, as the report says it: the grids and the protocols that occur."""

from typing import Any

import numpy as np
import pandas as pd

from cohort.pipeline.intake.protocols import NOT_STATED, TERMS, in_words
from cohort.reporting.facts import Facts
from cohort.reporting.wording import number

TIMES = " \N{MULTIPLICATION SIGN} "


def grids(facts: Facts) -> list[dict[str, Any]]:
    """Shapes and spacings that occur, most frequent first."""
    shape, spacing = (
        ["shape_z", "shape_y", "shape_x"],
        ["spacing_z_mm", "spacing_y_mm", "spacing_x_mm"],
    )
    if not len(facts.scans) or not {*shape, *spacing} <= {*facts.scans.columns}:
        return []
    columns = facts.scans[[*shape, *spacing]].astype(float).round(3)
    return [
        {
            "n": int(n),
            "shape": TIMES.join(number(v).text for v in key[:3]),
            "spacing": TIMES.join(number(v).text for v in key[3:]),
        }
        for key, n in columns.value_counts().items()
        if isinstance(key, tuple)
    ]


MAX_PROTOCOLS = 12
"""Protocols listed before the rest is only counted."""


def protocols(facts: Facts) -> dict[str, Any]:
    """How the scans were acquired: what all protocols share, and of each what sets it apart.

    Returns
    -------
    dict of {shared, columns, rows, more, warnings}
        In the words of `pipeline.intake.protocols.TERMS`, with units. Of a row: n and a cell a column. `warnings`: scans that stray, and intensities that do not compare.
    """
    table = facts.protocols.dropna(axis="columns", how="all")
    if not len(table):
        return {"shared": [], "columns": [], "rows": [], "more": 0, "warnings": []}
    parameters = [c for c in table.columns if c not in ("protocol", "n")]
    shown = {c: [_cell(c, v) for v in table[c]] for c in parameters}
    varies = [c for c in parameters if len(set(shown[c])) > 1]
    return {
        "shared": [
            (TERMS[c][0], _with_unit(c, shown[c][0])) for c in parameters if c not in varies
        ],
        "columns": [_heading(c) for c in varies],
        "rows": [
            {"n": int(n), "cells": [shown[c][i] for c in varies]}
            for i, n in enumerate(table["n"].head(MAX_PROTOCOLS))
        ],
        "more": max(0, len(table) - MAX_PROTOCOLS),
        "warnings": [str(line) for line in facts.ingest.get("warnings") or []],
    }


def _cell(name: str, value: Any) -> str:
    if pd.isna(value):
        return NOT_STATED
    if isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_):
        return number(value).text
    return in_words(name, value)


def _with_unit(name: str, text: str) -> str:
    unit = TERMS[name][1]
    return f"{text} {unit}" if unit and text != NOT_STATED else text


def _heading(name: str) -> str:
    term, unit = TERMS[name]
    return f"{term[0].upper()}{term[1:]}" + (f" ({unit})" if unit else "")
