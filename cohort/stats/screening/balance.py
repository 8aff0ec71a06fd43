"""How alike the groups of a design are in its covariates, and what the covariates go with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import diagnostics
from cohort.stats.design import Design
from cohort.stats.table.correlation import correlation


def coded(column: pd.Series) -> dict[str, np.ndarray]:
    """A column as numbers: itself, or a share for each level of a category but the first of two."""
    if cells.is_number(column):
        return {str(column.name): cells.numbers(column)}
    categories = cells.categories(column)
    empty = cells.missing(column)
    levels = list(categories.categories)
    return {
        f"{column.name} = {level}": np.where(empty, np.nan, categories == level)
        for level in (levels[1:] if len(levels) == 2 else levels)
    }


def balance(
    used: pd.DataFrame, columns: Sequence[str], beside: Sequence[str], levels: pd.Categorical | None
) -> pd.DataFrame:
    """Describe each covariate in each level of the group; the first level is the reference.

    Parameters
    ----------
    used : DataFrame
        The rows that are fitted.
    columns, beside : sequence of str
        Covariates of the model, and others.
    levels : Categorical or None
        Level of each row; without one there is nothing to compare.

    Returns
    -------
    DataFrame
        ``balance`` of `cohort.stats.screen.Screen`.
    """
    shown = ["covariate", "in_model", "level", "n", "mean", "sd", "min", "max"]
    found: list[dict[str, Any]] = []
    if levels is None:
        return pd.DataFrame(found, columns=[*shown, "std_difference", "overlap"])
    for name in (*columns, *beside):
        for shown_as, values in coded(cells.take(used, name, "screen")).items():
            told = ~np.isnan(values)
            share = bool(np.isin(values[told], (0.0, 1.0)).all())
            parts = {str(v): values[told & (levels == v)] for v in levels.categories}
            first = next(iter(parts.values()))
            for level, here in parts.items():
                others = values[told & (levels != level) & (levels.codes >= 0)]
                found.append(
                    {
                        "covariate": shown_as,
                        "in_model": name in columns,
                        "level": level,
                        **_moments(here),
                        "std_difference": np.nan if here is first else _std_difference(here, first),
                        "overlap": np.nan if share else _overlap(here, others),
                    }
                )
    return pd.DataFrame(found, columns=[*shown, "std_difference", "overlap"])


def _moments(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"n": 0, **dict.fromkeys(("mean", "sd", "min", "max"), np.nan)}
    sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "sd": sd,
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _std_difference(here: np.ndarray, reference: np.ndarray) -> float:
    if min(len(here), len(reference)) < 2:
        return np.nan
    spread = np.sqrt((here.var(ddof=1) + reference.var(ddof=1)) / 2)
    return float((here.mean() - reference.mean()) / spread) if spread > 0 else np.nan


def _overlap(here: np.ndarray, others: np.ndarray) -> float:
    if not len(here) or not len(others):
        return np.nan
    return float(((here >= others.min()) & (here <= others.max())).mean())


def correlations(
    design: Design,
    used: pd.DataFrame,
    group: str | None,
    beside: Sequence[str],
    levels: pd.Categorical | None,
) -> pd.DataFrame:
    """Correlate each column of a design, and each covariate beside it, with the outcome and the group.

    Returns
    -------
    DataFrame
        ``correlations`` of `cohort.stats.screen.Screen`.
    """
    vif, _ = diagnostics.collinearity(design.X)
    looked_at = {str(c): design.X[c].to_numpy() for c in design.X.columns[1:]}
    for name in beside:
        looked_at |= coded(cells.take(used, name, "screen"))
    own = {
        str(c)
        for c, term in zip(design.X.columns, design.terms, strict=True)
        if term is not None and term.columns == (group,)
    }
    y = design.y.to_numpy()
    return pd.DataFrame(
        [
            {
                "covariate": name,
                "in_model": name in vif,
                "r_outcome": pairwise(values, y),
                "r_group": np.nan if levels is None or name in own else _with_group(values, levels),
                "vif": vif.get(name, np.nan),
            }
            for name, values in looked_at.items()
        ],
        columns=["covariate", "in_model", "r_outcome", "r_group", "vif"],
    )


def pairwise(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation over the rows that have both."""
    told = ~(np.isnan(a) | np.isnan(b))
    return correlation(a[told], b[told])[0]


def _with_group(values: np.ndarray, levels: pd.Categorical) -> float:
    """R with the second of two levels; the correlation ratio eta of more."""
    codes = levels.codes.astype(np.float64)
    if len(levels.categories) <= 2:
        return pairwise(values, np.where(codes < 0, np.nan, codes))
    told = ~np.isnan(values) & (codes >= 0)
    v, c = values[told], codes[told]
    total = float(np.square(v - v.mean()).sum()) if len(v) else 0.0
    if total == 0:
        return np.nan
    between = sum((c == k).sum() * (v[c == k].mean() - v.mean()) ** 2 for k in np.unique(c))
    return float(np.sqrt(between / total))
