"""Columns that are one column divided by another, and what the division leaves behind."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.table.correlation import correlation

EXACT = 1e-9
"""Largest relative difference at which a column is the ratio of two others."""

ROUNDED = 0.01
"""The same for a ratio that is declared: tables hold it with two or three digits."""

VARIES = 1e-6
"""Share of its size by which a column must vary before it is looked for among the quotients."""

FEW = 3
"""Rows on which every pair of columns is tried before all rows are looked at."""


def left_behind(
    design: Design,
    used: pd.DataFrame,
    controls: np.ndarray,
    declared: Mapping[str, tuple[str, str]],
    *,
    check: bool = True,
) -> pd.DataFrame:
    """Correlate each ratio of a model with its denominator.

    Parameters
    ----------
    used : DataFrame, n rows
        The rows that are fitted.
    controls : (n,) bool array
        Those in the reference level of the group.
    declared : mapping
        Column -> (numerator, denominator). An outcome that it does not name is looked for (`divided`).
    check : bool
        Whether the columns are as they were measured, so that a declared ratio must be that of its columns.

    Returns
    -------
    DataFrame
        ``ratios`` of `cohort.stats.screen.Screen`.

    Raises
    ------
    DesignError
        If a declared column is unknown or no number, or is not the ratio that it is declared to be.
    """
    outcome = str(design.y.name)
    model = (outcome, *design.formula.columns)
    found = {name: pair for name, pair in declared.items() if name in model}
    if outcome not in found and (pair := divided(used, outcome)):
        found[outcome] = pair
    result = []
    for name, (numerator, denominator) in found.items():
        cells.take(used, numerator, "ratios")
        ratio = cells.numbers(cells.take(used, name, "ratios"))
        below = cells.numbers(cells.take(used, denominator, "ratios"))
        if check and name in declared:
            above = cells.numbers(cells.take(used, numerator, "ratios"))
            _check(
                used.index, f"{name} is declared {numerator} / {denominator}", ratio, above, below
            )
        told = ~(np.isnan(ratio) | np.isnan(below))
        r, p = correlation(ratio[told], below[told])
        r_controls, p_controls = correlation(ratio[told & controls], below[told & controls])
        result.append((name, numerator, denominator, r, p, r_controls, p_controls))
    columns = ["column", "numerator", "denominator", "r", "p", "r_controls", "p_controls"]
    return pd.DataFrame(result, columns=columns)


def _check(
    rows: pd.Index, declared: str, ratio: np.ndarray, above: np.ndarray, below: np.ndarray
) -> None:
    """Raise `DesignError` where a column is not the quotient of two others, up to one factor and rounding."""
    product = ratio * below
    told = np.isfinite(product) & np.isfinite(above) & (above != 0)
    if not told.any():
        return
    factor = np.median(product[told] / above[told])
    expected = factor * above
    far = told & ~(np.abs(product - expected) <= ROUNDED * np.abs(expected))
    if far.any():
        first = int(np.flatnonzero(far)[0])
        due = factor * above[first] / below[first] if below[first] else np.nan
        raise DesignError(
            f"ratios: {declared}, but lies more than {100 * ROUNDED:g} % from it (up to one factor for all rows) in "
            f"{int(far.sum())} of {int(told.sum())} rows, the first is {rows[first]}: {ratio[first]:g}, where "
            f"{due:g} is expected; name its two columns, or mend the rows"
        )


def divided(table: pd.DataFrame, name: str) -> tuple[str, str] | None:
    """Find two columns whose quotient is the column `name` in every row, up to one constant factor.

    Returns
    -------
    (numerator, denominator) or None
        The pair with the factor 1 if several fit, then the first of the table.

    Examples
    --------
    >>> table = pd.DataFrame({"brain": [900.0, 1000, 1250], "skull": [1500.0, 1600, 2500]})
    >>> divided(table.assign(percent=100 * table["brain"] / table["skull"]), "percent")
    ('brain', 'skull')
    """
    ratio = cells.numbers(cells.take(table, name, "ratios"))
    values: dict[str, np.ndarray] = {}
    for position, other in enumerate(map(str, table.columns)):
        column = table.iloc[:, position]
        if other == name or not cells.is_number(column):
            continue
        numbers = cells.numbers(column)
        if not np.isnan(numbers).any() and np.ptp(numbers) > 0:
            values[other] = numbers
    told = np.flatnonzero(ratio != 0)[:FEW]
    if len(told) < FEW or np.isnan(ratio).any() or len(values) < 2:
        return None
    if np.ptp(ratio) <= VARIES * np.abs(ratio).max():  # any column by itself would fit
        return None
    names, stacked = list(values), np.stack(list(values.values()))
    few = stacked[:, told]  # (columns, FEW)
    hits = []
    for denominator, below in values.items():
        product = ratio[told] * below[told]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = product[0] / few[:, 0]
            near = np.abs(product - factor[:, None] * few) <= EXACT * np.abs(product)
        for i in np.flatnonzero(near.all(axis=1) & np.isfinite(factor) & (factor != 0)):
            whole = ratio * below
            if (np.abs(whole - factor[i] * stacked[i]) <= EXACT * np.abs(whole)).all():
                hits.append((abs(factor[i] - 1) > EXACT, names[i], denominator))
    return min(hits, key=lambda hit: hit[0])[1:] if hits else None
