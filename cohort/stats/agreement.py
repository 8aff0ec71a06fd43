"""Agreement of a measurement with an expert's, or of two methods, on the same scans: bias and limits of agreement."""

import math
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats.columns import DesignError
from cohort.stats.effects import LEVEL

MIN_PAIRS = 3
"""Pairs below which nothing is estimated."""


def bland_altman(measured: Any, expert: Any) -> pd.DataFrame:
    """Estimate by how much a measurement differs from an expert's, on average and for one scan.

    Parameters
    ----------
    measured, expert : (n,) array-like of float, in one unit
        The same scans in the same order. Pairs of which one is NaN take no part.

    Returns
    -------
    DataFrame
        Over ``term``, all in the unit of the values but for the slope: ``bias`` (mean of measured - expert), ``lower_limit``
        and ``upper_limit`` (between which the differences of 95 % of scans lie), and ``slope`` of the differences on the means
        of both (0 where the bias is the same for small and large); each with ``estimate``, ``se``, ``ci_low``, ``ci_high`` (95 %)
        and ``n``, the pairs. The slope is NaN where the means do not vary.

    Raises
    ------
    DesignError
        If the two differ in length, a value is infinite or no number, or there are fewer than three pairs.

    Notes
    -----
    Limits are bias -+ 1.96 sd; their variance is ``sd**2 (1 / n + 1.96**2 / (2 (n - 1)))``, and intervals are of Student's t
    with n - 1 degrees of freedom [Bland and Altman 1999, doi:10.1177/096228029900800204, 2 and 2.2]. Differences are
    taken as independent: of a subject with several scans give one.

    Examples
    --------
    >>> bland_altman([10.0, 12.0, 15.0, 19.0], [11.0, 12.0, 17.0, 20.0]).loc["bias", "estimate"]
    np.float64(-1.0)
    """
    from scipy import stats

    pair = [_numbers("measured", measured), _numbers("expert", expert)]
    if len(pair[0]) != len(pair[1]):
        raise DesignError(
            f"measured has {len(pair[0])} values and expert {len(pair[1])}; give both for the same scans"
        )
    both = np.stack(pair)
    both = both[:, ~np.isnan(both).any(axis=0)]
    n = both.shape[1]
    if n < MIN_PAIRS:
        raise DesignError(
            f"{n} pairs hold two numbers, expected at least {MIN_PAIRS} to estimate limits of agreement"
        )
    difference, mean = both[0] - both[1], both.mean(axis=0)
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    limit_se = sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    found = {
        "bias": (bias, sd / math.sqrt(n), n - 1),
        "lower_limit": (bias - z * sd, limit_se, n - 1),
        "upper_limit": (bias + z * sd, limit_se, n - 1),
        "slope": (*_slope(mean, difference), n - 2),
    }
    rows = {}
    for term, (estimate, se, df) in found.items():
        half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * se
        rows[term] = {
            "estimate": estimate,
            "se": se,
            "ci_low": estimate - half,
            "ci_high": estimate + half,
            "n": n,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("term").astype({"n": int})


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DesignError(f"{name} does not hold numbers: {error}") from error
    if numbers.ndim != 1 or np.isinf(numbers).any():
        raise DesignError(
            f"{name} has shape {numbers.shape} and {int(np.isinf(numbers).sum())} infinite values, "
            f"expected one finite number (or NaN) a scan"
        )
    return numbers


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and its standard error; NaN where x does not vary."""
    away = x - x.mean()
    square = float(away @ away)
    if square <= (1e-12 * float(np.abs(x).max())) ** 2:
        return math.nan, math.nan
    slope = float(away @ y) / square
    rest = y - y.mean() - slope * away
    return slope, math.sqrt(float(rest @ rest) / (len(x) - 2) / square)
