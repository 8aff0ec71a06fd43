"""Linear contrasts of a fit: sums of terms with weights, one at a time (t) or several at once (F).

A contrast is written as text over the terms of the fit (``dx + 70 * dx:age``) or as a mapping from term to weight.
Nothing of the text is evaluated (`cohort.stats.terms.weights`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import effects
from cohort.stats.columns import DesignError
from cohort.stats.regression import Fit
from cohort.stats.terms.weights import Contrast, label, weights

__all__ = ["Contrast", "estimates", "joint", "variance", "wald", "weights"]

DEPENDENT = 1e-9
"""Share of the largest direction below which a further contrast says nothing that the others did not."""


def estimates(
    fit: Fit, contrasts: Contrast | Sequence[Contrast], *, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Estimate contrasts of a fit, each with classical and HC3 errors.

    Parameters
    ----------
    fit : Fit
    contrasts : str, mapping, or a sequence of them
        Text joins terms and numbers by ``+ - * /`` and parentheses; terms are written as in ``fit.tidy["term"]``,
        blanks aside. A mapping gives the weight of each term.
    names : sequence of str, optional
        What to call them; otherwise their text.

    Returns
    -------
    DataFrame, one row a contrast
        outcome, contrast, estimate, se, df, statistic, p, ci_low, ci_high, hc3_se, hc3_statistic, hc3_p, hc3_ci_low,
        hc3_ci_high, partial_r, n; where the fit has errors of clusters, the same with ``cluster_``.

    Raises
    ------
    DesignError
        In one line: what cannot be read, a name that is no term, a product of terms, a constant, weights of zero.

    Notes
    -----
    Equals statsmodels' ``t_test``, and ``get_robustcov_results("HC3").t_test``.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "group": list("aabbcc")})
    >>> result = fit(table, formula="y ~ group", one_scan_per="all")
    >>> estimates(result, "group[T.c] - group[T.b]")["estimate"].round(6).tolist()
    [2.5]
    """
    from scipy import stats

    asked, labels = _listed(contrasts, names)
    L = np.array([weights(fit, contrast) for contrast in asked])
    df = _df(fit)
    estimate = L @ fit.tidy["estimate"].to_numpy()
    columns: dict[str, Any] = {
        "outcome": str(fit.design.y.name),
        "contrast": labels,
        "estimate": estimate,
    }
    alone = np.full(len(L), df)
    kinds = [("", fit.covariance, alone), ("hc3_", fit.hc3_covariance, alone)]
    if fit.clusters is not None:
        kinds.append(("cluster_", fit.clusters.covariance, fit.clusters.sandwich.df(L)))
    for prefix, covariance, dfs in kinds:
        se = np.sqrt([variance(row, covariance.to_numpy()) for row in L])
        half = stats.t.ppf((1 + effects.LEVEL) / 2, dfs)
        columns[f"{prefix}se"] = se
        if prefix != "hc3_":
            columns[f"{prefix}df"] = dfs
        columns[f"{prefix}statistic"] = estimate / se
        columns[f"{prefix}p"] = 2 * stats.t.sf(np.abs(estimate / se), dfs)
        columns[f"{prefix}ci_low"] = estimate - half * se
        columns[f"{prefix}ci_high"] = estimate + half * se
    t = np.asarray(columns["statistic"])
    columns["partial_r"] = t / np.sqrt(t**2 + df)
    return pd.DataFrame(columns | {"n": len(fit.design.y)})


def joint(
    fit: Fit, contrasts: Contrast | Sequence[Contrast], *, name: str | None = None
) -> pd.DataFrame:
    """Test that several contrasts are zero together (Wald's F), with classical and HC3 errors.

    Parameters
    ----------
    contrasts : str, mapping, or a sequence of them
        As for `estimates`. The name of a term of several columns (``C(site)``) stands for all of them.
    name : str, optional
        What to call the test; otherwise the contrasts, joined.

    Returns
    -------
    DataFrame, one row
        outcome, test, df (contrasts that do not follow from the others), df_resid, f, p, partial_eta2, hc3_f, hc3_p,
        n.

    Raises
    ------
    DesignError
        As `estimates`.

    Notes
    -----
    Equals statsmodels' ``f_test``, and that of ``get_robustcov_results("HC3")``. The classical F is that of the fit
    against the one without the terms.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "group": list("aabbcc")})
    >>> joint(fit(table, formula="y ~ group", one_scan_per="all"), "group")[["df", "df_resid"]].values.tolist()
    [[2.0, 3.0]]
    """
    asked, labels = _listed(contrasts, None)
    rows: list[np.ndarray] = []
    terms = fit.design.terms
    for contrast in asked:
        owned = [j for j, term in enumerate(terms) if term is not None and term.name == contrast]
        rows += [np.eye(len(terms))[j] for j in owned] or [weights(fit, contrast)]
    found = wald(
        np.array(rows),
        fit.tidy["estimate"].to_numpy(),
        fit.covariance.to_numpy(),
        fit.hc3_covariance.to_numpy(),
        _df(fit),
    )
    title = {"outcome": str(fit.design.y.name), "test": name or ", ".join(labels)}
    return pd.DataFrame([{**title, **found, "n": len(fit.design.y)}])


def wald(
    L: np.ndarray, estimate: np.ndarray, covariance: np.ndarray, hc3: np.ndarray, df_resid: float
) -> dict[str, float]:
    """Compute the F of ``L @ estimate == 0`` from two covariances.

    Parameters
    ----------
    L : (k, p) float64 array
        Rows that follow from others are no further degrees of freedom.
    estimate, covariance, hc3 : (p,), (p, p) and (p, p) float64 arrays
    df_resid : float

    Returns
    -------
    dict
        df, df_resid, f, p, partial_eta2, hc3_f, hc3_p; the last two NaN where HC3 has no error in some direction.
    """
    from scipy import stats

    unit = np.sqrt(np.diag(covariance))  # in standard errors, so that units play no part
    scaled = L * unit
    scaled = scaled / np.sqrt((scaled**2).sum(axis=1))[:, None]
    left, size, _ = np.linalg.svd(scaled, full_matrices=False)
    independent = left[:, size > DEPENDENT * size[0]].T @ scaled
    df = len(independent)
    effect = independent @ (estimate / unit)
    middle = independent @ (covariance / np.outer(unit, unit)) @ independent.T
    f = float(effect @ np.linalg.solve(middle, effect)) / df
    hc3_f = math.nan
    used = (independent != 0).any(axis=0)
    part = (hc3 / np.outer(unit, unit))[np.ix_(used, used)]
    if np.isfinite(part).all():
        middle = independent[:, used] @ part @ independent[:, used].T
        size = np.linalg.eigvalsh(middle)
        if (
            size[0] > DEPENDENT * size[-1]
        ):  # not where residuals of zero leave a direction without error
            hc3_f = float(effect @ np.linalg.solve(middle, effect)) / df
    return {
        "df": float(df),
        "df_resid": df_resid,
        "f": f,
        "p": float(stats.f.sf(f, df, df_resid)),
        "partial_eta2": f * df / (f * df + df_resid),
        "hc3_f": hc3_f,
        "hc3_p": float(stats.f.sf(hc3_f, df, df_resid)),
    }


def _listed(
    contrasts: Contrast | Sequence[Contrast], names: Sequence[str] | None
) -> tuple[list[Contrast], list[str]]:
    asked: list[Contrast] = [contrasts] if isinstance(contrasts, str | Mapping) else list(contrasts)
    if not asked:
        raise DesignError("no contrast is given; write one, such as 'dx + 70 * dx:age'")
    labels = [label(contrast) for contrast in asked] if names is None else list(names)
    if len(labels) != len(asked):
        raise DesignError(f"{len(labels)} names for {len(asked)} contrasts")
    return asked, labels


def variance(row: np.ndarray, covariance: np.ndarray) -> float:
    """Variance of a weighted sum; terms of weight 0 play no part, even where they have no error (NaN)."""
    used = row != 0
    return float(row[used] @ covariance[np.ix_(used, used)] @ row[used])


def _df(fit: Fit) -> float:
    return float(fit.glance["df_resid"].iloc[0])
