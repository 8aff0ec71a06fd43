"""How the scans were acquired, as the report says it: the grids and the protocols that occur."""

from typing import Any

import numpy as np
import pandas as pd

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
        Of a row: n and a cell a column. `warnings`: scans that stray, and intensities that do not compare.
    """
    table = facts.protocols.dropna(axis="columns", how="all")
    if not len(table):
        return {"shared": [], "columns": [], "rows": [], "more": 0, "warnings": []}
    parameters = [c for c in table.columns if c not in ("protocol", "n")]
    shown = {c: ["not stated" if pd.isna(v) else _cell(v) for v in table[c]] for c in parameters}
    varies = [c for c in parameters if len(set(shown[c])) > 1]
    return {
        "shared": [(c, shown[c][0]) for c in parameters if c not in varies],
        "columns": varies,
        "rows": [
            {"n": int(n), "cells": [shown[c][i] for c in varies]}
            for i, n in enumerate(table["n"].head(MAX_PROTOCOLS))
        ],
        "more": max(0, len(table) - MAX_PROTOCOLS),
        "warnings": [str(line) for line in facts.ingest.get("warnings") or []],
    }


def _cell(value: Any) -> str:
    return number(value).text if isinstance(value, int | float | np.number) else str(value)
