"""Errors that hold when rows of one cluster (subject, family, site) go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import effects
from cohort.stats.columns import DesignError
from cohort.stats.regression import Fit

KINDS = ("CR1", "CR2")
FEW_CLUSTERS = 40
"""Below this many clusters CR1 is too small, and CR2 with its own degrees of freedom is taken."""

FEW_DF = 4.0
"""Below these degrees of freedom even the p of CR2 is not to be trusted (Tipton 2015)."""

_DECIDED = 1e-9


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
        cluster_kind and n_clusters.
    covariance : DataFrame, shape (p, p)
    warnings : tuple of str
    """

    kind: str
    by: str
    n_clusters: int
    largest: int
    tidy: pd.DataFrame
    covariance: pd.DataFrame
    warnings: tuple[str, ...]


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
        Without it CR2 for fewer than 40 clusters, else CR1.

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
    from scipy import stats

    if kind not in (None, *KINDS):
        raise DesignError(f"the kind is {kind!r}; it takes {' or '.join(KINDS)}")
    name, codes = _clusters(fit, by)
    n_clusters = int(codes.max()) + 1
    if n_clusters < 2:
        raise DesignError(f"{n_clusters} cluster by {name!r}; errors between clusters need two")
    kind = kind or ("CR2" if n_clusters < FEW_CLUSTERS else "CR1")
    X = fit.design.X.to_numpy()
    length = np.sqrt((X**2).sum(axis=0))
    basis, triangle = np.linalg.qr(X / length)
    inverse = np.linalg.inv(triangle)
    residual = fit.augment["residual"].to_numpy()
    order = np.argsort(codes, kind="stable")
    clusters = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    weight = basis @ inverse.T / length  # of each row in each estimate, (n, p)
    covariance, df, decided = _sandwich(kind, clusters, basis, weight, residual)
    covariance[decided, :] = covariance[:, decided] = np.nan
    se = np.sqrt(np.diag(covariance))
    estimate = fit.tidy["estimate"].to_numpy()
    half = stats.t.ppf((1 + effects.LEVEL) / 2, df) * se
    columns = {
        "cluster_se": se,
        "cluster_statistic": estimate / se,
        "cluster_df": np.where(decided, np.nan, df),
        "cluster_p": 2 * stats.t.sf(np.abs(estimate / se), df),
        "cluster_ci_low": estimate - half,
        "cluster_ci_high": estimate + half,
        "cluster_kind": kind,
        "n_clusters": n_clusters,
    }
    names = fit.design.X.columns
    return Clustered(
        kind=kind,
        by=name,
        n_clusters=n_clusters,
        largest=int(np.bincount(codes).max()),
        tidy=fit.tidy.assign(**columns),
        covariance=pd.DataFrame(covariance, names, names),
        warnings=tuple(_warnings(name, [str(c) for c in names], df, decided)),
    )


def _clusters(fit: Fit, by: str | Sequence[Any] | pd.Series) -> tuple[str, np.ndarray]:
    """Name of the clusters, and the number of that of each row, in order of appearance."""
    rows = fit.design.rows
    if isinstance(by, str):
        name, labels = by, cells.take(rows, by, "clusters")
    elif (
        isinstance(by, pd.Series) and by.index.is_unique and fit.design.X.index.isin(by.index).all()
    ):
        name, labels = (
            "cluster" if by.name is None else str(by.name),
            by.reindex(fit.design.X.index),
        )
    else:
        name, labels = "cluster", pd.Series(list(by))
    if len(labels) != len(rows):
        raise DesignError(f"{len(labels)} clusters are given for {len(rows)} rows")
    empty = np.flatnonzero(cells.missing(labels))
    if empty.size:
        raise DesignError(
            f"{name!r} is missing in row {fit.design.X.index[empty[0]]} ({empty.size} of {len(rows)} rows): no cluster"
        )
    codes, _ = pd.factorize(pd.Series([cells.label(cell) for cell in labels.tolist()]))
    return name, np.asarray(codes)


def _sandwich(
    kind: str,
    clusters: Sequence[np.ndarray],
    basis: np.ndarray,
    weight: np.ndarray,
    residual: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of the estimates, degrees of freedom of each, and which of them one cluster decides.

    With W the weights of the rows in the estimates and H = QQ', cluster g contributes ``W_g' A_g e_g``. The degrees
    of freedom are ``tr(M)^2 / tr(M^2)`` for M_gh = u_g' (I - H)_gh u_h and u_g = A_g w_g. M is a diagonal less a
    product TT' of rank p, so that neither a G x G nor an n x n matrix is built.
    """
    n, p = basis.shape
    n_clusters = len(clusters)
    scores = np.empty((n_clusters, p))
    squares = np.empty((n_clusters, p))  # u_g' u_g of each estimate
    within = np.empty((n_clusters, p, p))  # T: row g is Q_g' u_g; of each estimate, the last axis
    decided = np.zeros(p, bool)
    lengths = np.sqrt((weight**2).sum(axis=0))
    for g, rows in enumerate(clusters):
        Q, W = basis[rows], weight[rows]
        across, size, _ = np.linalg.svd(Q, full_matrices=False)
        free = 1 - size**2  # eigenvalues of I - H_gg along `across`; 1 elsewhere
        full = free < _DECIDED  # there the residuals of the cluster are zero whatever its outcomes
        along = across.T @ W
        decided |= (np.abs(along[full]) > 1e-6 * lengths).any(axis=0)
        u = W
        if kind == "CR2":
            root = np.where(full, 0.0, 1 / np.sqrt(np.where(full, 1.0, free)))
            u = W + across @ ((root - 1)[:, None] * along)
        scores[g] = residual[rows] @ u
        squares[g] = (u**2).sum(axis=0)
        within[g] = Q.T @ u
    covariance = scores.T @ scores
    if kind == "CR1":
        covariance *= n_clusters / (n_clusters - 1) * (n - 1) / (n - p)
        return covariance, np.full(p, n_clusters - 1.0), decided
    df = np.full(p, np.nan)
    for j in np.flatnonzero(~decided):
        D, T = squares[:, j], within[:, :, j]
        crossed = (T**2).sum(axis=1)
        trace = D.sum() - crossed.sum()
        df[j] = trace**2 / ((D**2).sum() - 2 * (D * crossed).sum() + ((T.T @ T) ** 2).sum())
    return covariance, df, decided


def _warnings(by: str, names: Sequence[str], df: np.ndarray, decided: np.ndarray) -> list[str]:
    found = [
        f"{name} is decided by one {by} alone: no cluster-robust error for it"
        for name, alone in zip(names, decided, strict=True)
        if alone
    ]
    few = [name for name, value in zip(names, df, strict=True) if value < FEW_DF]
    if few:
        found.append(
            f"fewer than {FEW_DF:g} degrees of freedom for {', '.join(few)} by {by}: too few clusters carry it, and "
            "its cluster-robust p is not to be trusted"
        )
    return found
