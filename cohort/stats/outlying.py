"""Values far from those of the other scans, and values that are none: one rule, for the table, the page and the figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

OUTLIER_Z = 4.0
"""A value whose robust z-score exceeds this is named: of a normal cohort 6 in 100,000."""

COLUMNS = ("scan_id", "quantity", "value", "median", "robust_z", "reason")

NO_VALUE = "no value"
"""Reason of a scan that was measured and whose number is none: NaN, or infinite."""


def robust_z(values: Any) -> np.ndarray:
    """Distance of each value from the median, in robust standard deviations.

    Parameters
    ----------
    values : (n,) array-like of float
        NaN and infinities take no part.

    Returns
    -------
    (n,) float64 array
        ``(x - median) / (1.4826 MAD)``; with the mean absolute deviation (x 1.2533) where more than half of the
        values are equal, so that MAD is 0; 0 where all are equal; NaN where the value is not finite.

    Notes
    -----
    Oracle: ``scipy.stats.median_abs_deviation(scale="normal")`` [Iglewicz and Hoaglin 1993].

    Examples
    --------
    >>> robust_z([1, 2, 3, 4, 100]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    result = np.full(numbers.shape, np.nan)
    if not finite.any():
        return result
    known = numbers[finite]
    if largest := np.abs(known).max():
        # By a power of two, which rounds nothing: neither sums nor quotients overflow.
        known = np.ldexp(known, 1 - int(np.frexp(largest)[1]))
    away = known - np.median(known)
    # What differs by rounding is equal.
    least = 8 * np.finfo(np.float64).eps * np.abs(known).max()
    differs = np.abs(away) > least
    spread = np.median(np.abs(away)) / 0.6744897501960817
    if spread <= least:
        spread = np.abs(away[differs]).sum() / away.size * np.sqrt(np.pi / 2)
    result[finite] = np.where(differs, away / spread, 0.0) if spread > 0 else 0.0
    return result


def is_outlying(values: Any) -> np.ndarray:
    """Whether each value, (n,), is further from the median than `OUTLIER_Z`; no value that is not finite is."""
    return np.abs(robust_z(values)) > OUTLIER_Z


def outlying(table: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Name the scans with a value far from those of the others, or with none.

    Parameters
    ----------
    table : DataFrame
        One row a scan, with ``scan_id`` and a column a quantity; where it has a ``state``, only scans that are ``done`` count.
    quantities : sequence of str
        Columns of numbers.

    Returns
    -------
    DataFrame
        One row a scan and quantity: scan_id, quantity, value, median (of all scans), robust_z, reason (``far above the others``,
        ``far below the others``, `NO_VALUE`); quantity by quantity, in the order of the table. Where there is no value, robust_z is
        NaN; where no scan has one, so is the median.

    Examples
    --------
    >>> table = pd.DataFrame({"scan_id": list("abcde"), "ml": [1.0, 2, 3, 4, 100]})
    >>> outlying(table, ["ml"])[["scan_id", "value", "median"]].values.tolist()
    [['e', 100.0, 3.0]]
    >>> outlying(table.replace(4.0, np.nan), ["ml"])[["scan_id", "reason"]].values.tolist()
    [['d', 'no value'], ['e', 'far above the others']]
    """
    done = table[table["state"] == "done"] if "state" in table else table
    found = []
    for quantity in quantities:
        values = done[quantity].to_numpy(np.float64, na_value=np.nan)
        finite = np.isfinite(values)
        z = robust_z(values)
        far = ~finite | (np.abs(z) > OUTLIER_Z)
        way = np.where(z > 0, "far above the others", "far below the others")
        found.append(
            pd.DataFrame(
                {
                    "scan_id": done["scan_id"].to_numpy()[far],
                    "quantity": quantity,
                    "value": values[far],
                    "median": np.median(values[finite]) if far.any() and finite.any() else np.nan,
                    "robust_z": z[far],
                    "reason": np.where(finite, way, NO_VALUE)[far],
                }
            )
        )
    filled = [part for part in found if len(part)]
    if not filled:
        return pd.DataFrame(columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[2:5], float))
    return pd.concat(filled, ignore_index=True)
