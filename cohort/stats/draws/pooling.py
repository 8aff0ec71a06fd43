"""Rubin's rules: one estimate with one error from the fits of many draws."""

import numpy as np
import pandas as pd

from cohort.stats.effects import LEVEL


def pool(estimates: np.ndarray, se: np.ndarray, df: float) -> pd.DataFrame:
    """Pool the estimates of several draws.

    Parameters
    ----------
    estimates, se : (m, p) float64 array, m >= 2
        One row a draw.
    df : float
        Degrees of freedom that the complete data would have.

    Returns
    -------
    DataFrame, p rows
        estimate, se, df, statistic, p, ci_low, ci_high, between, fmi, relative_increase.

    Notes
    -----
    With W the mean of se**2, B the variance of the estimates and T = W + (1 + 1/m) B: se is the root of T, its degrees
    of freedom those of Barnard and Rubin 1999, doi:10.1093/biomet/86.4.948, and the fraction of missing information
    (r + 2 / (df + 3)) / (r + 1) with r = (1 + 1/m) B / W. Equals R's ``mice::pool.scalar``.

    Examples
    --------
    Draws that agree lose nothing but what the observed data lack:

    >>> pool(np.full((20, 1), 2.0), np.full((20, 1), 1.0), 30.0)[["se", "fmi"]].round(3).to_numpy().tolist()
    [[1.0, 0.064]]
    """
    from scipy import stats

    m = len(estimates)
    estimate = estimates.mean(axis=0)
    within = np.square(se).mean(axis=0)
    between = estimates.var(axis=0, ddof=1)
    total = within + (1 + 1 / m) * between
    increase = (1 + 1 / m) * between / within
    missing = (1 + 1 / m) * between / total
    observed = (df + 1) / (df + 3) * df * (1 - missing)
    with np.errstate(divide="ignore"):
        pooled_df = 1 / (np.square(missing) / (m - 1) + 1 / observed)
    error = np.sqrt(total)
    half = stats.t.ppf((1 + LEVEL) / 2, pooled_df) * error
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": error,
            "df": pooled_df,
            "statistic": estimate / error,
            "p": 2 * stats.t.sf(np.abs(estimate / error), pooled_df),
            "ci_low": estimate - half,
            "ci_high": estimate + half,
            "between": between,
            "fmi": (increase + 2 / (pooled_df + 3)) / (increase + 1),
            "relative_increase": increase,
        }
    )
