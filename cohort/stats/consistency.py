"""Declared checks of a table: what must be the same, or must hold, in every row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort import expression
from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.table import records
from cohort.stats.table.rows import row_ids
from cohort.stats.wording.reading import number

KINDS = ("constant", "holds")

SDS = 6.0
"""Robust standard deviations from the median beyond which a row strays."""

NORMAL = 1.4826022185056018
"""Median absolute deviation -> standard deviation of a normal distribution: 1 / its upper quartile."""

EXACT = 1e-9
"""Relative difference that is rounding, where the rows hardly differ at all."""

MIN_ROWS = 5
"""Rows below which the majority says nothing."""


@dataclass(frozen=True)
class Consistency:
    """What strays from the declared checks.

    Attributes
    ----------
    checks : DataFrame, one row a check
        check, kind, expression, n (rows that have a value), missing (rows that have none), strays, ``expected``
        (median of a constant, NaN below `MIN_ROWS`; 1 for ``holds``), sd (robust), tolerance (largest difference that is allowed).
    strays : DataFrame, one row a row of the table that strays
        check, row_id (named as in `cohort.stats.table.rows.row_ids`), value, expected, ``sds`` (robust standard deviations
        away; infinite if the other rows are all equal, NaN for ``holds``).
    warnings : tuple of str
        One line a check that fails.
    """

    checks: pd.DataFrame
    strays: pd.DataFrame
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN and infinity as None)."""
        return {
            "checks": records.plain(self.checks),
            "strays": records.plain(self.strays),
            "warnings": list(self.warnings),
        }


def check(
    table: pd.DataFrame,
    declared: Mapping[str, Mapping[str, Any]],
    *,
    row_id: str = "scan_id",
) -> Consistency:
    """Find the rows of a table that break what was declared of every row.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant); numbers, or text that holds numbers.
    declared : mapping
        Name -> one of ``{"constant": expression}``, optionally with ``sds`` (`SDS`) and ``tolerance`` (a difference
        in the expression's unit that is always allowed, 0), or ``{"holds": expression}``. Expressions are those of
        `cohort.expression.column`.
    row_id : str
        Column that names rows; else ``participant`` or the index does.

    Returns
    -------
    Consistency

    Raises
    ------
    DesignError
        In one line: a check that is neither, an expression that is not the grammar, an unknown column.

    Notes
    -----
    A constant is expected to be the median, and its spread is the median absolute deviation times 1.4826 (Leys et
    al. 2013, doi:10.1016/j.jesp.2013.03.013), so that the rows that stray, up to half of them, do not widen what
    they are judged by. A row strays beyond ``sds`` of these, ``tolerance``, and rounding (1e-9 of the median). Fewer
    than five rows judge nobody. A row with a missing cell is counted and not judged, a division by zero strays.

    Examples
    --------
    >>> heads = pd.DataFrame({"eTIV": [1400.0, 1500, 1600, 1755, 1755, 1500]})
    >>> heads["ASF"] = (1755 / heads["eTIV"]).round(3)
    >>> heads.loc[5, "ASF"] = 1.68
    >>> found = check(heads, {"scaling": {"constant": "eTIV * ASF"}})
    >>> found.strays[["row_id", "value"]].to_numpy().tolist()
    [['5', 2520.0]]
    """
    names = [str(c) for c in table.columns]
    table = table.set_axis(names, axis=1).set_axis(row_ids(table, row_id), axis=0)
    checks: list[dict[str, Any]] = []
    strays: list[pd.DataFrame] = []
    warnings = []
    for name, body in declared.items():
        kind, text = _declaration(name, body)
        values = _evaluate(table, text, f"check {name!r}")
        told = ~np.isnan(values)
        if kind == "constant":
            expected, sd, tolerance = _constant(name, body, values[told])
            with np.errstate(invalid="ignore"):
                astray = told & ~(np.abs(values - expected) <= tolerance) & ~np.isnan(expected)
        else:
            expected, sd, tolerance = 1.0, np.nan, 0.0
            astray = told & (values == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            sds = np.abs(values[astray] - expected) / sd
        checks.append(
            {
                "check": name,
                "kind": kind,
                "expression": text,
                "n": int(told.sum()),
                "missing": int((~told).sum()),
                "strays": int(astray.sum()),
                "expected": expected,
                "sd": sd,
                "tolerance": tolerance,
            }
        )
        found = pd.DataFrame(
            {
                "check": name,
                "row_id": table.index[astray].astype(str),
                "value": values[astray],
                "expected": expected,
                "sds": sds,
            }
        )
        if len(found):
            warnings.append(_told(checks[-1], found))
        elif len(table) >= MIN_ROWS and (np.isnan(expected) or not told.any()):
            n = int(np.isfinite(values).sum())
            warnings.append(
                f"check {name!r} judges nobody: {text} has a value in {n} of {len(table)} rows"
            )
        strays.append(found)
    empty = pd.DataFrame(columns=["check", "row_id", "value", "expected", "sds"])
    return Consistency(
        checks=pd.DataFrame(checks),
        strays=pd.concat(strays, ignore_index=True) if strays else empty,
        warnings=tuple(warnings),
    )


def _declaration(name: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and expression of a check."""
    kinds = [kind for kind in KINDS if kind in body]
    if len(kinds) != 1 or not isinstance(body[kinds[0]], str):
        raise DesignError(f"check {name!r} takes one of {', '.join(KINDS)} with an expression")
    options = {"sds", "tolerance"} if kinds[0] == "constant" else set()
    if unknown := sorted(set(map(str, body)) - {kinds[0], *options}):
        raise DesignError(
            f"check {name!r} has no {unknown[0]!r}; it takes {', '.join([kinds[0], *sorted(options)])}"
        )
    for option in options & set(body):
        value = body[option]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise DesignError(f"check {name!r}: {option} is {value!r}; it takes a number from 0")
    return kinds[0], body[kinds[0]]


def _evaluate(table: pd.DataFrame, text: str, where: str) -> np.ndarray:
    """Value of an expression in each row; NaN where a cell is missing, infinite where it divides by zero."""
    named = [c for c in dict.fromkeys(table.columns) if c in text]
    filled = {
        c: column.mask(cells.missing(column))
        for c in named
        for column in [cells.take(table, c, where)]
    }
    try:
        values = expression.column(table.assign(**filled), text).to_numpy()
    except expression.ExpressionError as error:
        raise DesignError(f"{where}: {error}") from error
    empty = np.zeros(len(table), bool)
    for name in _used(text, named):
        empty |= cells.missing(table[name])
    undefined = np.isnan(values) & ~empty  # 0 / 0
    return np.where(undefined, np.inf, values)


def _used(text: str, named: list[str]) -> list[str]:
    """Columns whose missing cells leave an expression without a value."""
    try:
        tree = expression.parse(text, comparisons=True)
    except expression.ExpressionError:  # the expression says itself what a missing cell counts as
        return []
    return [name for name in named if name in expression.names(tree)]


def _constant(name: str, body: Mapping[str, Any], values: np.ndarray) -> tuple[float, float, float]:
    """Expected value, robust standard deviation, and the largest difference that is allowed."""
    finite = values[np.isfinite(values)]
    if len(finite) < MIN_ROWS:
        return np.nan, np.nan, np.inf
    expected = float(np.median(finite))
    sd = NORMAL * float(np.median(np.abs(finite - expected)))
    allowed = (
        float(body.get("sds", SDS)) * sd,
        float(body.get("tolerance", 0.0)),
        EXACT * abs(expected),
    )
    return expected, sd, max(allowed)


def _told(judged: Mapping[str, Any], found: pd.DataFrame) -> str:
    """Name the rows that stray, the farthest first."""
    shown = found.assign(away=(found["value"] - found["expected"]).abs())
    shown = shown.sort_values("away", ascending=False, kind="stable").head(5)
    opening = f"check {judged['check']!r}: "
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    if judged["kind"] == "holds":
        opening += f"{judged['expression']} does not hold in {len(found)} of {judged['n']} rows"
        return f"{opening}: {', '.join(shown['row_id'])}{more}"
    rows = ", ".join(
        f"{row['row_id']} ({number(row['value'])}"
        + (f", {row['sds']:.0f} robust sds away)" if np.isfinite(row["sds"]) else ")")
        for row in shown.to_dict("records")
    )
    return (
        f"{opening}{judged['expression']} is {number(judged['expected'])} (robust sd {number(judged['sd'])}) in "
        f"{judged['n'] - len(found)} of {judged['n']} rows, and strays in {rows}{more}"
    )
