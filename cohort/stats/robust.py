"""Errors that hold when rows of one cluster (subject, family, site) go together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import effects
from cohort.stats.clustering.sandwich import KINDS, Sandwich, sandwich
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.outcomes import Outcomes
from cohort.stats.regression import Fit
from cohort.stats.wording import reading

__all__ = ["KINDS", "Clustered", "cluster", "clustered", "of_outcomes"]

FEW_DF = 4.0
"""Below these degrees of freedom even the p of CR2 is not to be trusted (Tipton 2015)."""


@dataclass(frozen=True)
class Clustered:
    """A fit with cluster-robust errors beside its own.

    Attributes
    ----------
    kind : {"CR1", "CR2"}
    by : str
        What the clusters are.
    n_clusters, largest : int
        How many there are, and the rows of the largest.
    tidy : DataFrame
        That of the fit with cluster_se, cluster_statistic, cluster_df, cluster_p, cluster_ci_low, cluster_ci_high,
        cluster_d_adj_low, cluster_d_adj_high, cluster_partial_r_low, cluster_partial_r_high (that interval on the
        scales of d and of r, the residual sd taken as known), cluster_kind and n_clusters.
    covariance : DataFrame, shape (p, p)
    sandwich : Sandwich
        Degrees of freedom of any sum of the estimates.
    warnings : tuple of str
    """

    kind: str
    by: str
    n_clusters: int
    largest: int
    tidy: pd.DataFrame
    covariance: pd.DataFrame
    sandwich: Sandwich
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What the errors are, for ``model.json``."""
        return {
            "by": self.by,
            "kind": self.kind,
            "n_clusters": self.n_clusters,
            "largest": self.largest,
        }

    @property
    def described(self) -> str:
        """What the errors are, in words."""
        df = "Satterthwaite's" if self.kind == "CR2" else f"{self.n_clusters - 1}"
        return f"{self.kind}, {self.n_clusters} clusters of {self.by}, {df} degrees of freedom"


def cluster(
    fit: Fit, by: str | Sequence[Any] | pd.Series = "subject", *, kind: str | None = None
) -> Clustered:
    """Compute errors that allow any dependence within clusters, and none between them.

    Parameters
    ----------
    fit : Fit
        Of all rows (``one_scan_per: all``), or with the site or the family as cluster.
    by : str, or one label a fitted row
        Column of ``fit.design.rows`` (``subject``), or labels in the order of its rows; a Series that has the row ids
        as its index is put in their order.
    kind : {"CR1", "CR2"}, optional
        Without it CR1 where every term has at least 40 Satterthwaite degrees of freedom, else CR2: many clusters do
        not help a term that few of them carry.

    Returns
    -------
    Clustered

    Raises
    ------
    DesignError
        If a row has no cluster, or there are fewer than two.

    Notes
    -----
    CR1 equals statsmodels' ``cov_type="cluster"`` (``use_t=True``) and Stata's ``vce(cluster)``: the sum of outer
    products of cluster scores times ``G / (G - 1) * (n - 1) / (n - p)``, and t with ``G - 1`` degrees of freedom. CR2
    (Bell and McCaffrey 2002) multiplies the residuals of cluster g by the symmetric ``(I - H_gg)^-1/2``, which makes
    the variance unbiased for independent errors of one size, and its t has Satterthwaite's degrees of freedom for such
    errors, a number a term: R's ``clubSandwich``, Pustejovsky and Tipton 2018 (10.1080/07350015.2016.1247004), Imbens
    and Kolesar 2016 (10.1162/REST_a_00552). A term that one cluster decides alone has no such error (NaN).

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 7], "dx": [0, 0, 0, 1, 1, 1], "subject": list("aabccd")})
    >>> found = cluster(fit(table, formula="y ~ dx", one_scan_per="all"))
    >>> found.kind, found.n_clusters, found.tidy["cluster_se"].round(4).tolist()
    ('CR2', 4, [0.2357, 1.2019])
    """
    if kind not in (None, *KINDS):
        raise DesignError(f"the kind is {kind!r}; it takes {' or '.join(KINDS)}")
    name, codes = _clusters(fit.design, by)
    made = sandwich(fit.design.X.to_numpy(), codes, kind=kind)
    covariance = made.covariance(fit.augment["residual"].to_numpy())
    names = fit.design.X.columns
    return Clustered(
        kind=made.kind,
        by=name,
        n_clusters=len(made.sizes),
        largest=int(made.sizes.max()),
        tidy=fit.tidy.assign(**_columns(made, covariance, fit.tidy)),
        covariance=pd.DataFrame(covariance, names, names),
        sandwich=made,
        warnings=tuple(_warnings(name, [str(c) for c in names], made)),
    )


def clustered(fit: Fit, by: str | Sequence[Any] | pd.Series, units: Mapping[str, str]) -> Fit:
    """A fit whose headline errors are those of clusters: its sentences, and all that is computed from it.

    Parameters
    ----------
    by
        As for `cluster`.
    units : mapping
        Column -> unit.

    Raises
    ------
    DesignError
        As `cluster`.
    """
    found = cluster(fit, by)
    how = f"{found.kind} by {found.n_clusters} clusters of {found.by}"
    return replace(
        fit,
        tidy=found.tidy,
        warnings=(*fit.warnings, *found.warnings),
        reading=tuple(reading.sentences(fit.design, found.tidy, units, clusters=how)),
        clusters=found,
    )


def of_outcomes(others: Outcomes, by: pd.Series | None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Effects on many outcomes with cluster-robust errors beside the others.

    Parameters
    ----------
    by : Series or None
        Label of each row of the table, indexed by row id. Without it no errors are added.

    Returns
    -------
    tidy : DataFrame
        That of `others` with the columns of `Clustered.tidy`; NaN where the rows of an outcome have fewer than two
        clusters, and for outcomes that could not be fitted.
    warnings : tuple of str
    """
    if by is None:
        return others.tidy, ()
    tidy, told = others.tidy, []
    columns: dict[str, Any] = {}
    place = tidy.groupby("outcome", sort=False).indices
    for pattern, design in others.designs.items():
        X, Y = design.X.to_numpy(), others.values[pattern]
        try:
            name, codes = _clusters(design, by)
        except DesignError as error:
            told.append(f"{', '.join(map(str, Y.columns))}: no cluster-robust errors: {error}")
            continue
        made = sandwich(X, codes)
        for outcome in Y.columns:
            rows = place[outcome]
            part = tidy.iloc[rows]
            residual = Y[outcome].to_numpy() - X @ part["estimate"].to_numpy()
            for key, values in _columns(made, made.covariance(residual), part).items():
                kind = object if key == "cluster_kind" else np.float64
                blank = None if kind is object else np.nan
                columns.setdefault(key, np.full(len(tidy), blank, kind))[rows] = values
        told += _warnings(name, [str(c) for c in design.X.columns], made)
    if "cluster_kind" in columns:
        columns["cluster_kind"] = pd.array(columns["cluster_kind"], dtype="str")
    return tidy.assign(**columns), tuple(dict.fromkeys(told))


def _columns(made: Sandwich, covariance: np.ndarray, tidy: pd.DataFrame) -> dict[str, Any]:
    """What `Clustered.tidy` has beside a fit's own; each (p,) or one value."""
    from scipy import stats

    se, df = np.sqrt(np.diag(covariance)), made.df(np.eye(len(covariance)))
    estimate = tidy["estimate"].to_numpy()
    t, half = estimate / se, stats.t.ppf((1 + effects.LEVEL) / 2, df) * se
    found: dict[str, Any] = {
        "cluster_se": se,
        "cluster_statistic": t,
        "cluster_df": df,
        "cluster_p": 2 * stats.t.sf(np.abs(t), df),
    }
    classical, df_resid = tidy["se"].to_numpy(), tidy["df"].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        per_sd = (tidy["d_adj"] / tidy["estimate"]).to_numpy()
    scales = [("low", estimate - half), ("high", estimate + half)]
    for end, value in scales:
        found[f"cluster_ci_{end}"] = value
    for end, value in scales:
        away = value / classical
        found[f"cluster_d_adj_{end}"] = value * per_sd
        found[f"cluster_partial_r_{end}"] = np.where(
            tidy["partial_r"].isna(), math.nan, away / np.sqrt(away**2 + df_resid)
        )
    return {**found, "cluster_kind": made.kind, "n_clusters": float(len(made.sizes))}


def _clusters(design: Design, by: str | Sequence[Any] | pd.Series) -> tuple[str, np.ndarray]:
    """Name of the clusters, and the number of that of each row, in order of appearance."""
    rows = design.rows
    if isinstance(by, str):
        name, labels = by, cells.take(rows, by, "clusters")
    elif isinstance(by, pd.Series) and by.index.is_unique and design.X.index.isin(by.index).all():
        name, labels = (
            "cluster" if by.name is None else str(by.name),
            by.reindex(design.X.index),
        )
    else:
        name, labels = "cluster", pd.Series(list(by))
    if len(labels) != len(rows):
        raise DesignError(f"{len(labels)} clusters are given for {len(rows)} rows")
    empty = np.flatnonzero(cells.missing(labels))
    if empty.size:
        raise DesignError(
            f"{name!r} is missing in row {design.X.index[empty[0]]} ({empty.size} of {len(rows)} rows): no cluster"
        )
    codes, found = pd.factorize(pd.Series([cells.label(cell) for cell in labels.tolist()]))
    if len(found) < 2:
        raise DesignError(f"{len(found)} cluster by {name!r}; errors between clusters need two")
    return name, np.asarray(codes)


def _warnings(by: str, names: Sequence[str], made: Sandwich) -> list[str]:
    found = [
        f"{name} is decided by one {by} alone: no cluster-robust error for it"
        for name, alone in zip(names, made.decided, strict=True)
        if alone
    ]
    few = [name for name, df in zip(names, made.satterthwaite, strict=True) if df < FEW_DF]
    if few:
        found.append(
            f"fewer than {FEW_DF:g} degrees of freedom for {', '.join(few)} by {by}: too few clusters carry it, and "
            "its cluster-robust p is not to be trusted"
        )
    return found
