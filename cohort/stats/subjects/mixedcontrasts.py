"""Contrasts of a mixed model: sums of its terms with weights, by t with Satterthwaite's degrees of freedom."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import contrasts, effects
from cohort.stats.subjects.intercepts import fit_many
from cohort.stats.subjects.mixedfit import MixedFit


def estimates(
    fit: MixedFit, texts: Sequence[contrasts.Contrast], *, names: Sequence[str]
) -> pd.DataFrame:
    """Estimate contrasts of a mixed model.

    Parameters
    ----------
    fit : MixedFit
    texts : sequence of str or mapping
        As `cohort.stats.contrasts.estimates` reads them.
    names : sequence of str
        What to call them.

    Returns
    -------
    DataFrame, one row a contrast
        outcome, contrast, estimate, se, df, statistic, p, ci_low, ci_high, n. With a random slope by z (df NaN), as the
        terms are.

    Raises
    ------
    DesignError
        In one line: what cannot be read, a name that is no term, a product of terms, a constant, weights of zero.

    Notes
    -----
    With random intercepts the model is fitted again on columns among which the contrast is one, so that its degrees of
    freedom are as exact as a term's. Equals lmerTest's ``contest1D``.

    Examples
    --------
    >>> from cohort.stats.mixed import fit_mixed
    >>> table = pd.DataFrame({"subject": list("aabbccdd"), "t": [0.0, 1] * 4, "y": [1.0, 2, 5, 6, 3, 5, 4, 4]})
    >>> found = estimates(fit_mixed(table, formula="y ~ t"), ["2 * t"], names=["two years"])
    >>> found[["estimate", "df"]].round(4).to_numpy().tolist()
    [[2.0, 3.0]]
    """
    from scipy import special

    rows: list[dict[str, Any]] = []
    for name, text in zip(names, texts, strict=True):
        weights = contrasts.weights(fit, text)
        estimate = float(weights @ fit.tidy["estimate"].to_numpy())
        se = float(np.sqrt(contrasts.variance(weights, fit.covariance.to_numpy())))
        df = np.nan if fit.model["slope"] is not None else _df(fit, weights)
        t = estimate / se
        if np.isnan(df):
            p, half = 2 * special.ndtr(-abs(t)), special.ndtri((1 + effects.LEVEL) / 2)
        else:
            p, half = 2 * special.stdtr(df, -abs(t)), special.stdtrit(df, (1 + effects.LEVEL) / 2)
        rows.append(
            {
                "outcome": str(fit.design.y.name),
                "contrast": name,
                "estimate": estimate,
                "se": se,
                "df": df,
                "statistic": t,
                "p": float(p),
                "ci_low": estimate - half * se,
                "ci_high": estimate + half * se,
                "n": len(fit.design.y),
            }
        )
    return pd.DataFrame(rows)


def _df(fit: MixedFit, weights: np.ndarray) -> float:
    """Degrees of freedom of ``weights @ b``: those of a column that stands for it."""
    X, y = fit.design.X.to_numpy(), fit.design.y.to_numpy()
    who = cells.categories(fit.design.rows[fit.model["subject"]])
    codes = np.asarray(who.codes, np.intp)
    pivot = int(np.argmax(np.abs(weights) / np.sqrt(np.square(X).sum(axis=0))))
    # b[pivot] = (contrast - the other terms of it) / weight
    columns = X - np.outer(X[:, pivot] / weights[pivot], weights)
    columns[:, pivot] = X[:, pivot] / weights[pivot]
    # Rows in an order of their own, as in the fit.
    order = np.lexsort([fit.design.X.index.to_numpy(str), codes])
    return float(
        fit_many(columns[order], y[order], codes[order], method=fit.model["method"]).df[pivot, 0]
    )
