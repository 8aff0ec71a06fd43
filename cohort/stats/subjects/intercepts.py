"""Random-intercept models of many outcomes at once: the exact root of the profiled (RE)ML likelihood.

With lambda = var_subject / var_resid, everything but lambda has a closed form, and all that lambda meets are sums
over subjects of the same size. So a step of the search costs p x p numbers an outcome, whatever the rows.
"""

import math
from dataclasses import dataclass

import numpy as np

from cohort.stats.columns import DesignError
from cohort.stats.effects import LEVEL
from cohort.stats.subjects.profile import Point, Profile, search

METHODS = ("reml", "ml")

AT_ONCE = 4096
"""Outcomes that are searched together; bounds the memory at about ``40 * AT_ONCE * p**2`` bytes."""

EXACT = 1e-13
"""Share of an outcome's variation below which what is left is rounding."""


@dataclass(frozen=True)
class Intercepts:
    """Random-intercept fits of m outcomes on p columns. An outcome that cannot be fitted is NaN.

    Attributes
    ----------
    estimate, se, df, statistic, p, ci_low, ci_high : (p, m) float64
        Fixed effects; t with Satterthwaite's degrees of freedom.
    z_p, z_ci_low, z_ci_high : (p, m) float64
        The same by the normal distribution, as statsmodels' ``MixedLM`` gives them.
    covariance : (m, p, p) float64
        Of the estimates, ``(X'V^-1 X)^-1``.
    ratio, var_subject, var_resid, icc, log_likelihood : (m,) float64
        ``ratio`` is lambda; ``icc`` is var_subject / (var_subject + var_resid).
    boundary : (m,) bool
        The likelihood is highest at var_subject = 0, where the fit is ordinary least squares.
    n, n_subjects : (m,) int
        Rows and subjects that hold the outcome.
    problem : tuple of str
        Why an outcome is not fitted; empty where it is.
    """

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    statistic: np.ndarray
    p: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    z_p: np.ndarray
    z_ci_low: np.ndarray
    z_ci_high: np.ndarray
    covariance: np.ndarray
    ratio: np.ndarray
    var_subject: np.ndarray
    var_resid: np.ndarray
    icc: np.ndarray
    log_likelihood: np.ndarray
    boundary: np.ndarray
    n: np.ndarray
    n_subjects: np.ndarray
    problem: tuple[str, ...]


def fit_many(
    X: np.ndarray, Y: np.ndarray, groups: np.ndarray, *, method: str = "reml"
) -> Intercepts:
    """Fit ``y = X b + u[group] + e`` to each column of `Y`.

    Parameters
    ----------
    X : (n, p) float64, finite
        Design matrix with its intercept.
    Y : (n, m) or (n,) float64
        Outcomes; NaN where a row has none. Outcomes that miss the same rows are fitted together.
    groups : (n,) array
        Label of the subject of each row.
    method : {"reml", "ml"}

    Returns
    -------
    Intercepts

    Raises
    ------
    DesignError
        If the shapes disagree, `X` is not finite, or the method is neither.

    Notes
    -----
    With group sums ``S_i`` of ``A = [X y]``, ``A'V^-1 A = W + sum_i S_i S_i' / (n_i (1 + lambda n_i))``, where ``W``
    holds the products within subjects; a sum of non-negative parts, so nothing cancels. The derivative of the
    profiled deviance is evaluated on a grid (`cohort.stats.subjects.profile`); each change of sign is refined by
    Newton's method kept within its bracket, and the best of them and of lambda = 0 is taken. Degrees of freedom: Satterthwaite's
    ``2 v^2 / Var(v)`` with the observed information of (lambda, log var_resid), which is what lmerTest computes
    numerically (Kuznetsova 2017, doi:10.18637/jss.v082.i13); on the boundary those of the residual variance alone.
    Oracle: the exact column of reference/statistics.md 3.5; lme4 to the tolerance of its optimiser.

    Examples
    --------
    >>> y = np.array([1.0, 2, 5, 6, 3, 4])
    >>> fit = fit_many(np.ones((6, 1)), y, np.array([0, 0, 1, 1, 2, 2]))
    >>> [round(float(v[0]), 6) for v in (fit.var_subject, fit.var_resid, fit.df[0])]
    [3.75, 0.5, 2.0]
    """
    if method not in METHODS:
        raise DesignError(f"method is {method!r}; it takes {', '.join(METHODS)}")
    X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    Y = Y[:, None] if Y.ndim == 1 else Y
    groups = np.asarray(groups)
    if X.ndim != 2 or not len(X) == len(Y) == len(groups):
        raise DesignError(
            f"X is {X.shape}, Y {Y.shape} and groups {groups.shape}: they need one number of rows"
        )
    if not np.isfinite(X).all() or np.isinf(Y).any():
        raise DesignError("X must be finite, and Y finite or NaN")
    (p, m), present = (X.shape[1], Y.shape[1]), ~np.isnan(Y)
    found = _Found(p, m)
    _, pattern = np.unique(np.packbits(present, axis=0), axis=1, return_inverse=True)
    for which in range(pattern.max() + 1 if m else 0):
        columns = np.flatnonzero(pattern == which)
        rows = present[:, columns[0]]
        _, codes = np.unique(groups[rows], return_inverse=True)
        found.n[columns], found.n_subjects[columns] = rows.sum(), codes.max(initial=-1) + 1
        for first in range(0, len(columns), AT_ONCE):
            some = columns[first : first + AT_ONCE]
            _fit_pattern(X[rows], Y[np.ix_(rows, some)], codes, found, some, reml=method == "reml")
    return found.result()


class _Found:
    """Arrays that the patterns of missing rows fill, each its own columns."""

    def __init__(self, p: int, m: int) -> None:
        self.estimate, self.df = np.full((p, m), np.nan), np.full((p, m), np.nan)
        self.covariance = np.full((m, p, p), np.nan)
        self.ratio, self.var_resid, self.log_likelihood = np.full((3, m), np.nan)
        self.n, self.n_subjects = np.zeros((2, m), int)
        self.problem = [""] * m

    def result(self) -> Intercepts:
        from scipy import special

        se = np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2).T)
        t = self.estimate / se
        half = special.stdtrit(self.df, (1 + LEVEL) / 2) * se
        z_half = special.ndtri((1 + LEVEL) / 2) * se
        return Intercepts(
            estimate=self.estimate,
            se=se,
            df=self.df,
            statistic=t,
            p=2 * special.stdtr(self.df, -np.abs(t)),
            ci_low=self.estimate - half,
            ci_high=self.estimate + half,
            z_p=2 * special.ndtr(-np.abs(t)),
            z_ci_low=self.estimate - z_half,
            z_ci_high=self.estimate + z_half,
            covariance=self.covariance,
            ratio=self.ratio,
            var_subject=self.ratio * self.var_resid,
            var_resid=self.var_resid,
            icc=self.ratio / (1 + self.ratio),
            log_likelihood=self.log_likelihood,
            boundary=self.ratio == 0,
            n=self.n,
            n_subjects=self.n_subjects,
            problem=tuple(self.problem),
        )


def _fit_pattern(
    X: np.ndarray,
    Y: np.ndarray,
    codes: np.ndarray,
    found: _Found,
    columns: np.ndarray,
    *,
    reml: bool,
) -> None:
    """Fit outcomes without missing rows, and put what is found into `columns`."""
    if why := _unfit(X, codes):
        for column in columns:
            found.problem[column] = why
        return
    scale = np.sqrt(np.square(X).sum(axis=0))
    Q, R = np.linalg.qr(X / scale)
    b0 = Q.T @ Y
    E = Y - Q @ b0
    E -= Q @ (Q.T @ E)  # a second sweep removes what rounding left of the first
    length = np.sqrt(np.square(E).sum(axis=0))
    constant = np.square(length) <= EXACT * np.square(Y - Y.mean(axis=0)).sum(axis=0)
    profile = Profile(Q, E / np.where(constant, 1, length), codes, reml=reml)
    qq, qe, ee = profile.within
    still = ee - (qe * (qe @ np.linalg.pinv(qq, rtol=1e-10, hermitian=True))).sum(1) <= EXACT
    best = np.full(len(columns), np.nan)
    fine = np.flatnonzero(~constant & ~still)
    best[fine] = search(profile, fine)
    for i in np.flatnonzero(np.isnan(best)):
        found.problem[columns[i]] = (
            "the outcome is an exact combination of the terms"
            if constant[i]
            else "the outcome does not vary within subjects beyond what the terms explain"
        )
    fine = np.flatnonzero(~np.isnan(best))
    if not fine.size:
        return
    point, columns, length = profile.at(best[fine], fine), columns[fine], length[fine]
    back = np.linalg.inv(R) / scale[:, None]
    variance = point.variance * length**2
    found.ratio[columns], found.var_resid[columns] = best[fine], variance
    found.estimate[:, columns] = back @ (b0[:, fine] + point.b.T * length)
    found.covariance[columns] = variance[:, None, None] * (back @ point.inverse @ back.T)
    found.df[:, columns] = _satterthwaite(point, back, best[fine] == 0)
    constant_part = profile.df * (1 + math.log(2 * math.pi) + 2 * np.log(length))
    if reml:
        constant_part += 2 * (np.log(np.abs(np.diag(R))).sum() + np.log(scale).sum())
    found.log_likelihood[columns] = -(point.deviance + constant_part) / 2


def _unfit(X: np.ndarray, codes: np.ndarray) -> str:
    """Say why no outcome on these rows can be fitted; nothing if one can."""
    n, p = X.shape
    subjects = codes.max(initial=-1) + 1
    if n <= p:
        return f"{n} rows for {p} columns"
    if subjects == n:
        return f"each of {n} subjects has one row only, so variation within subjects cannot be told"
    sizes = np.bincount(codes)
    centred = np.zeros((subjects, p))
    np.add.at(centred, codes, X)
    inside = X - (centred / sizes[:, None])[codes]
    scale = np.sqrt(np.square(X).sum(axis=0))
    scale[scale == 0] = 1
    if np.linalg.matrix_rank(X / scale, tol=1e-10) < p:
        return f"the columns depend on each other in the {n} rows that hold the outcome"
    within = int(np.linalg.matrix_rank(inside / scale, tol=1e-8))
    if n - subjects - within < 1:
        return f"{n} rows of {subjects} subjects leave no variation within subjects beside {within} terms"
    if subjects - (p - within) < 1:
        return f"{subjects} subjects for {p - within} terms that differ between subjects"
    return ""


def _satterthwaite(point: Point, back: np.ndarray, boundary: np.ndarray) -> np.ndarray:
    """Degrees of freedom of each term and outcome, (p, m): ``2 v^2 / Var(v)`` by the delta method."""
    size = np.einsum("ij,mjk,ik->im", back, point.inverse, back)
    change = np.einsum("ij,mjk,ik->im", back, point.inverse_slope, back) / size
    a, b, c = point.information
    # With g = (change, 1) the gradient of log v, Var(v) / v^2 is 2 g' H^-1 g.
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (a * c - b * b) / (c * change**2 - 2 * b * change + a)
    return np.where(boundary, float(c), df)
