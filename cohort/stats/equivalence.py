"""What a study can say of no difference: equivalence to zero within a declared bound, and the least effect it could find."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.comparison import Comparison
from cohort.stats.regression import Fit

ALPHA = 0.05
POWER = 0.80

Bound = float | tuple[float, float]
"""Half the width about zero, or both ends."""


def term(
    fit: Fit,
    name: str,
    *,
    bound: Bound,
    scale: Literal["outcome", "sd"] = "outcome",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Test whether a term of a fit lies within a bound that was declared before (two one-sided tests).

    Parameters
    ----------
    name : str
        A term, as in ``fit.tidy["term"]``.
    bound : float or (low, high)
        The largest effect that would not matter; 2 means -2 to 2.
    scale : {"outcome", "sd"}
        Unit of the bound: that of the estimate, or the residual standard deviation of the fit, which is then taken
        for known.
    alpha : float
        Level of each one-sided test.

    Returns
    -------
    DataFrame, one row
        outcome, term, estimate, unit, bound_low, bound_high (in the unit of the estimate), se, df, p_low (of the
        hypothesis that the effect lies below the bounds), p_high (above), p (the larger of both), ci_low, ci_high (of
        coverage ``1 - 2 alpha``), equivalent, the same with ``hc3_`` from HC3 errors, and
        ``errors``: ``classical``, or the kind of the clusters' where the fit has such, which all but ``hc3_`` is of.

    Raises
    ------
    DesignError
        If there is no such term, the bounds do not hold zero between them, or the scale is unknown.

    Notes
    -----
    Schuirmann 1987 (10.1007/BF01068419); equals statsmodels' ``ttost_ind`` for a group alone. Equivalence is shown
    when p is below `alpha`, that is when the interval lies within the bounds. An effect that is not significant is no
    sign of equivalence.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 3, 1.5, 2, 3], "dx": [0, 0, 0, 1, 1, 1]})
    >>> result = fit(table, formula="y ~ dx", one_scan_per="all")
    >>> term(result, "dx", bound=3)[["p", "equivalent"]].round(4).values.tolist()
    [[0.0088, True]]
    """
    row = _row(fit, name)
    if scale not in ("outcome", "sd"):
        raise DesignError(f"the scale of the bound is {scale!r}; it takes 'outcome' or 'sd'")
    sigma = float(fit.glance["sigma"].iloc[0])
    low, high = (end * (sigma if scale == "sd" else 1.0) for end in _ends(bound))
    found: dict[str, Any] = {
        "outcome": row["outcome"],
        "term": name,
        "estimate": row["estimate"],
        "unit": row["unit"],
        "bound_low": low,
        "bound_high": high,
    }
    se, df, errors = _first(fit, row)
    for prefix, one, its_df in (("", se, df), ("hc3_", row["hc3_se"], row["df"])):
        tested = _tost(row["estimate"], one, its_df, low, high, alpha)
        found |= {f"{prefix}{key}": value for key, value in tested.items()}
    return pd.DataFrame([found | {"errors": errors}]).drop(columns="hc3_df")


def difference(
    comparison: Comparison,
    *,
    bound: Bound,
    scale: Literal["outcome", "sd"] = "outcome",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Test whether the difference of two groups lies within a declared bound.

    Parameters
    ----------
    comparison : Comparison
        Of `cohort.stats.comparison.two_groups`.
    bound, scale, alpha
        As for `term`; ``sd`` is the pooled standard deviation.

    Returns
    -------
    DataFrame, two rows
        test (``student``, ``welch``), and the columns of `term` without ``hc3_``.

    Notes
    -----
    Equals statsmodels' ``ttost_ind`` with ``usevar="pooled"`` and ``"unequal"``.

    Examples
    --------
    >>> from cohort.stats.comparison import two_samples
    >>> found = two_samples(np.array([1.0, 2, 3]), np.array([1.5, 2, 3, 4]))
    >>> difference(found, bound=(-1, 4))[["test", "equivalent"]].values.tolist()
    [['student', False], ['welch', False]]
    """
    if scale not in ("outcome", "sd"):
        raise DesignError(f"the scale of the bound is {scale!r}; it takes 'outcome' or 'sd'")
    sizes, variances = comparison.groups["n"] - 1, comparison.groups["sd"] ** 2
    sd = math.sqrt((sizes * variances).sum() / sizes.sum()) if scale == "sd" else 1.0
    low, high = (end * sd for end in _ends(bound))
    rows = [
        {
            "outcome": comparison.outcome,
            "test": row["test"],
            "estimate": row["difference"],
            "unit": comparison.unit,
            "bound_low": low,
            "bound_high": high,
            **_tost(row["difference"], row["se"], row["df"], low, high, alpha),
        }
        for row in comparison.tests.to_dict("records")
    ]
    return pd.DataFrame(rows)


def detectable(
    fit: Fit,
    terms: str | Sequence[str] | None = None,
    *,
    power: float = POWER,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Compute the smallest effect that a fit like this one finds with a given chance.

    It follows from the design and the residuals alone, not from the estimate: what the study could see, where power
    "after the fact" would say no more than p does. Where the fit has errors of clusters it is by those.

    Parameters
    ----------
    terms : str or sequence of str, optional
        As in ``fit.tidy["term"]``; without them all but the intercept.
    power : float
        Chance of a p below `alpha`.
    alpha : float
        Level of the two-sided test.

    Returns
    -------
    DataFrame, one row a term
        outcome, term, power, alpha, effect (in the unit of the estimate), unit, hc3_effect, d (of 0/1 terms: in
        residual sds), noncentrality, df, n.

    Raises
    ------
    DesignError
        If there is no such term, or power and alpha leave nothing to solve for.

    Notes
    -----
    Solves ``P(|T| > t_crit) = power`` for the noncentrality of T and multiplies it by the standard error. For a group
    alone it equals statsmodels' ``TTestIndPower``.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": np.sin(np.arange(128.0)), "dx": np.arange(128) % 2})
    >>> round(detectable(fit(table, formula="y ~ dx", one_scan_per="all"))["d"].item(), 4)
    0.4991
    """
    if not 0 < alpha < power < 1:
        raise DesignError(
            f"alpha is {alpha:g} and power {power:g}; 0 < alpha < power < 1 is needed"
        )
    known = [str(name) for name in fit.tidy["term"]]
    asked = known[1:] if terms is None else [terms] if isinstance(terms, str) else list(terms)
    sigma = float(fit.glance["sigma"].iloc[0])
    shift_of = functools.cache(lambda df: noncentrality(df, power=power, alpha=alpha))
    rows = []
    for name in asked:
        row = _row(fit, name)
        se, df, _ = _first(fit, row)
        shift = shift_of(df)
        rows.append(
            {
                "outcome": row["outcome"],
                "term": name,
                "power": power,
                "alpha": alpha,
                "effect": shift * se,
                "unit": row["unit"],
                "hc3_effect": shift_of(row["df"]) * row["hc3_se"],
                "d": shift * se / sigma if name in fit.design.binary else math.nan,
                "noncentrality": shift,
                "df": df,
                "n": row["n"],
            }
        )
    return pd.DataFrame(rows)


def noncentrality(df: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """Effect in standard errors that a two-sided t test finds with a chance of `power`.

    Examples
    --------
    >>> round(noncentrality(1e6), 3)
    2.802
    """
    from scipy import optimize, stats

    if math.isnan(df):  # of a term that one cluster decides
        return math.nan
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def excess(shift: float) -> float:
        # the other tail by symmetry: where it is small, SciPy's own lower tail is NaN
        tails = stats.nct.sf(critical, df, shift) + stats.nct.sf(critical, df, -shift)
        return float(tails) - power

    high = critical + 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-14))


def _tost(
    estimate: float, se: float, df: float, low: float, high: float, alpha: float
) -> dict[str, Any]:
    from scipy import stats

    if not 0 < alpha < 0.5:
        raise DesignError(f"alpha is {alpha:g}; it lies between 0 and 0.5")
    p_low = float(stats.t.sf((estimate - low) / se, df))
    p_high = float(stats.t.cdf((estimate - high) / se, df))
    half = float(stats.t.ppf(1 - alpha, df)) * se
    p = float(np.maximum(p_low, p_high))
    return {
        "se": se,
        "df": df,
        "p_low": p_low,
        "p_high": p_high,
        "p": p,
        "ci_low": estimate - half,
        "ci_high": estimate + half,
        "equivalent": p < alpha,
    }


def _ends(bound: Bound) -> tuple[float, float]:
    low, high = bound if isinstance(bound, tuple) else (-bound, bound)
    if not (math.isfinite(low) and math.isfinite(high) and low < 0 < high):
        raise DesignError(
            f"the bounds of equivalence are {low:g} and {high:g}; zero lies between them"
        )
    return float(low), float(high)


def _first(fit: Fit, row: dict[str, Any]) -> tuple[float, float, str]:
    """Error and degrees of freedom by which a term is judged, and what they are."""
    if fit.clusters is None:
        return float(row["se"]), float(row["df"]), "classical"
    return float(row["cluster_se"]), float(row["cluster_df"]), fit.clusters.kind


def _row(fit: Fit, name: str) -> dict[str, Any]:
    known = [str(term) for term in fit.tidy["term"]]
    if name not in known:
        raise DesignError(cells.unknown_column(name, known, "term"))
    return {str(k): v for k, v in fit.tidy.iloc[known.index(name)].items()}
