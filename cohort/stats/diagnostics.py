"""What a fit does not tell by itself: rows that carry it, columns that say the same, and what to warn of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats.design import Design
from cohort.stats.table.rows import counted

VIF_HIGH = 10.0
COOK_HIGH = 1.0
ROWS_PER_TERM = 10
LEVERAGE_FULL = 1 - 1e-9
SIGNIFICANT = 0.05


def influence(design: Design, results: Any) -> pd.DataFrame:
    """Compute leverage, Cook's distance and the externally studentised residual of each row.

    Parameters
    ----------
    results
        Of statsmodels' ``OLS`` on the design.

    Returns
    -------
    DataFrame, n rows
        The identity of the row, observed, fitted, residual, leverage, cook, rstudent; the last two are NaN for a
        row that alone decides a term (leverage 1).

    Notes
    -----
    Equals statsmodels' ``OLSInfluence``, without a fit a row.
    """
    p = design.X.shape[1]
    residual, df = results.resid, float(results.df_resid)
    leverage, free = _leverage(results)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (results.ssr - residual**2 / free) / (df - 1)  # variance when the row is left out
        rstudent = residual / np.sqrt(without * free)
    cook = residual**2 * leverage / (p * results.scale * free**2)
    return design.rows.assign(
        observed=design.y.to_numpy(),
        fitted=results.fittedvalues,
        residual=residual,
        leverage=leverage,
        cook=cook,
        rstudent=rstudent,
    )


def hc3(results: Any) -> np.ndarray:
    """Compute the covariance of the estimates that holds when the rows' errors differ in size.

    Returns
    -------
    (p, p) float64 array
        NaN for a term that one row alone decides (leverage 1): its error cannot be told.

    Notes
    -----
    Equals statsmodels' ``HC3`` (MacKinnon and White 1985) where that exists.
    """
    model = results.model
    _, free = _leverage(results)
    full = np.isnan(free)
    scores = model.pinv_wexog * np.where(full, 0.0, results.resid / free)
    covariance = scores @ scores.T
    lengths = np.sqrt(np.square(model.pinv_wexog).sum(axis=1))
    decided = (np.abs(model.pinv_wexog[:, full]) > 1e-6 * lengths[:, None]).any(axis=1)
    covariance[decided, :] = covariance[:, decided] = np.nan
    return covariance


def _leverage(results: Any) -> tuple[np.ndarray, np.ndarray]:
    """Leverage of each row, and what it leaves free: NaN where that is rounding alone."""
    leverage = (results.model.exog * results.model.pinv_wexog.T).sum(axis=1)
    return leverage, np.where(leverage < LEVERAGE_FULL, 1 - leverage, np.nan)


def collinearity(X: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Compute the variance inflation factor of each column, and the condition of all together.

    Both on standardised columns without the intercept, so that units play no part.

    Parameters
    ----------
    X : DataFrame, shape (n, p)
        ``Intercept`` first, then columns that are not constant.

    Returns
    -------
    vif : dict
        As statsmodels' ``variance_inflation_factor`` with a constant in the model.
    condition : float
        Ratio of the largest and the smallest singular value; 1 when nothing correlates.
    """
    values = X.to_numpy()[:, 1:]
    if not values.shape[1]:
        return {}, 1.0
    values = values - values.mean(axis=0)
    values = values / np.sqrt((values**2).sum(axis=0))
    _, singular, right = np.linalg.svd(values, full_matrices=False)
    vif = ((right / singular[:, None]) ** 2).sum(axis=0)
    return dict(zip(X.columns[1:], map(float, vif), strict=True)), float(singular[0] / singular[-1])


def breusch_pagan(results: Any) -> tuple[float, float]:
    """Test whether the variance of the residuals depends on the terms (Koenker's form).

    Returns
    -------
    lm, p : float
        As statsmodels' ``het_breuschpagan``; NaN for the intercept alone.
    """
    from scipy import stats

    model = results.model
    n, columns = model.exog.shape
    if columns < 2:
        return np.nan, np.nan
    squares = np.square(results.resid)
    rest = squares - model.exog @ (model.pinv_wexog @ squares)
    lm = n * (1 - np.square(rest).sum() / np.square(squares - squares.mean()).sum())
    return float(lm), float(stats.chi2.sf(lm, columns - 1))


def warnings(tidy: pd.DataFrame, augment: pd.DataFrame, vif: Mapping[str, float]) -> list[str]:
    """Say what the numbers of a fit hide, one line each."""
    n, terms = len(augment), len(tidy) - 1
    found = []
    if n < ROWS_PER_TERM * terms:
        found.append(
            f"{counted(n)} for {counted(terms, 'term')}, fewer than {ROWS_PER_TERM} a term: estimates are unstable"
        )
    for name, value in vif.items():
        if value > VIF_HIGH:
            product = any(
                "(" not in name + o and set(name.split(":")) & set(o.split(":"))
                for o in vif
                if o != name
            )
            found.append(
                f"{name} nearly follows from the other terms (VIF {value:.3g}), which widens its interval"
                f"{'; it stands in a product, so center() what is multiplied' if product else ''}"
            )
    ids = augment.iloc[:, 0].astype(str)
    full = ids[augment["leverage"] >= LEVERAGE_FULL]
    if len(full):
        found.append(
            f"{full.iloc[0]} alone decides a term (leverage 1; {len(full)} such rows): no HC3 error for it"
        )
    heavy = augment["cook"] > COOK_HIGH
    for row_id, cook in zip(ids[heavy], augment.loc[heavy, "cook"], strict=True):
        found.append(f"{row_id} alone shifts the estimates strongly (Cook's distance {cook:.2g})")
    asked = tidy["role"].isin(["group", "covariate", "interaction"])
    for name, p, robust in zip(*(tidy.loc[asked, c] for c in ("term", "p", "hc3_p")), strict=True):
        if np.isfinite(robust) and (p < SIGNIFICANT) != (robust < SIGNIFICANT):
            found.append(
                f"{name}: p = {p:.2g} by classical and {robust:.2g} by HC3 errors, on two sides of {SIGNIFICANT}"
            )
    return found
