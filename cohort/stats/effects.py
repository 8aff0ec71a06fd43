"""Sizes of an effect with their intervals: adjusted d and partial correlation, from a t statistic."""

import math

import numpy as np

LEVEL = 0.95
"""Coverage of every interval."""


def noncentrality_interval(t: float, df: float) -> tuple[float, float]:
    """Interval of the noncentrality parameter that a t statistic estimates.

    Parameters
    ----------
    t : float
    df : float
        Residual degrees of freedom.

    Returns
    -------
    low, high : float
        ``P(T >= t | low) = P(T <= t | high) = 2.5 %``.

    Notes
    -----
    Equals the root of ``scipy.stats.nct.cdf``; SciPy's own inverse is good to 1e-7 only, so it is refined.

    Examples
    --------
    >>> [round(v, 6) for v in noncentrality_interval(0.0, 184)]
    [-1.959964, 1.959964]
    """
    if t < 0:
        low, high = noncentrality_interval(-t, df)
        return -high, -low
    tail = (1 - LEVEL) / 2
    return _noncentrality(t, df, 1 - tail), _noncentrality(t, df, tail)


def _noncentrality(t: float, df: float, probability: float) -> float:
    """Noncentrality under which ``P(T <= t)`` is `probability`; `t` is not negative."""
    from scipy import optimize, special

    def excess(nc: float) -> float:
        return float(special.nctdtr(df, nc, t)) - probability

    start = float(special.nctdtrinc(df, probability, t))
    width = 1e-4 * (1 + abs(start))
    for _ in range(12):
        low, high = start - width, start + width
        if excess(low) > 0 > excess(high):  # the probability falls as the parameter grows
            return float(optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-14))
        width *= 4
    return start


def adjusted_d(t: float, se: float, sigma: float, df: float) -> tuple[float, float, float]:
    """Difference of two groups in residual standard deviations, with its noncentral-t interval.

    Examples
    --------
    The elderly of `reference/statistics.md` 3.2:

    >>> [round(v, 6) for v in adjusted_d(-5.917047586227, 8.242355426288, 55.417883244370, 184)]
    [-0.880048, -1.183993, -0.573911]
    """
    low, high = noncentrality_interval(t, df)
    scale = se / sigma
    return t * scale, low * scale, high * scale


def partial_correlation(t: float, df: float) -> tuple[float, float, float]:
    """Correlation of outcome and term when the other terms are held equal, with its Fisher interval.

    Examples
    --------
    >>> [round(v, 6) for v in partial_correlation(-5.917047586227, 184)]
    [-0.399827, -0.51413, -0.27157]
    """
    r = t / math.sqrt(t * t + df)
    if df <= 1:  # Fisher's z has no variance: n - (number held equal) - 3 = df - 1
        return r, math.nan, math.nan
    from scipy import special

    half = float(special.ndtri((1 + LEVEL) / 2)) / math.sqrt(df - 1)
    z = np.arctanh(r)
    return r, float(np.tanh(z - half)), float(np.tanh(z + half))
