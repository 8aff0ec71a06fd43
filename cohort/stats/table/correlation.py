"""Correlation of two columns, with its p."""

import math

import numpy as np

ROUNDING = 1e-12
"""A correlation below this is rounding, and written as zero."""


def correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Pearson's r and its two-sided p; NaN where a side is constant or there are fewer than three rows.

    Examples
    --------
    >>> r, p = correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]))
    >>> round(r, 9), round(p, 9)
    (0.8, 0.2)
    """
    from scipy import special

    if len(a) < 3 or not np.ptp(a) > 0 or not np.ptp(b) > 0:
        return math.nan, math.nan
    x, y = a - a.mean(), b - b.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # squares of tiny numbers vanish
    r = float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))
    r = 0.0 if abs(r) < ROUNDING else r
    df = len(a) - 2
    return r, float(special.betainc(df / 2, 0.5, (1 - r) * (1 + r)))
