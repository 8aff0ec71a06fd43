"""A random intercept and a random slope: subjects differ in level and in their change along one column."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from cohort.stats.columns import DesignError

OPTIMISERS = (("bfgs", ()), ("powell", (("ftol", 1e-12),)))
"""Tried in this order until one converges: the first is fast, the second does not need a gradient."""


@dataclass(frozen=True)
class Slopes:
    """A fit with random intercept and slope.

    Attributes
    ----------
    estimate : (p,) float64
    covariance : (p, p) float64
        ``(X'V^-1 X)^-1`` at the estimated variances.
    random : (2, 2) float64
        Variance of the intercepts and of the slopes, and their covariance.
    effects : (subjects, 2) float64
        Predicted intercept and slope of each subject, in the order of its code.
    var_resid, log_likelihood : float
    optimiser : str
        Which of `OPTIMISERS` gave the fit.
    told : tuple of str
        What that one complained of, one line each, each once.
    """

    estimate: np.ndarray
    covariance: np.ndarray
    random: np.ndarray
    effects: np.ndarray
    var_resid: float
    log_likelihood: float
    optimiser: str
    told: tuple[str, ...]


def fit_slopes(
    X: np.ndarray, y: np.ndarray, codes: np.ndarray, along: np.ndarray, *, reml: bool
) -> Slopes:
    """Fit ``y = X b + u0[subject] + u1[subject] * along + e`` with correlated u0 and u1.

    Parameters
    ----------
    X : (n, p) float64
        Design matrix of full rank.
    y, along : (n,) float64
        Outcome, and the column that the slopes go along.
    codes : (n,) int
        Subject of each row, 0 to the number of subjects - 1.
    reml : bool

    Returns
    -------
    Slopes

    Raises
    ------
    DesignError
        If none of `OPTIMISERS` converges.

    Notes
    -----
    statsmodels' ``MixedLM`` searches the variances, on orthonormal columns and a residual of unit variance, where its
    gradient does not stall. Estimates, errors and likelihood are then those of generalised least squares at these
    variances: ``MixedLM.bse_fe`` inverts the joint Hessian of estimates and variances instead, and is a few per cent
    above lme4's. Oracle: lme4 (reference/statistics.md 3.5), within 1e-4.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    n = len(y)
    scale = np.sqrt(np.square(X).sum(axis=0))
    Q, R = np.linalg.qr(X / scale)
    residual = y - Q @ (Q.T @ y)
    unit = math.sqrt(float(residual @ residual) / n)
    spread = float(np.sqrt(np.square(along).mean()))
    Z = np.column_stack([np.ones(n), along / spread])
    for optimiser, options in OPTIMISERS:
        told: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = MixedLM(residual / unit, Q * math.sqrt(n), codes, exog_re=Z).fit(
                    reml=reml, method=[optimiser], **dict(options)
                )
                fine = bool(result.converged) and np.isfinite(result.llf)
            except (np.linalg.LinAlgError, ValueError) as error:
                told.append(f"{optimiser}: {' '.join(str(error).split())}")
                fine = False
        lines = (" ".join(str(w.message).split()) for w in caught)
        told += [f"{optimiser}: {line}" for line in lines]
        if fine:
            break
    else:
        raise DesignError(
            f"the random slopes could not be estimated ({told[-1] if told else 'no convergence'}); fit without slope"
        )
    relative = np.asarray(result.cov_re, np.float64) / float(result.scale)
    b, inverse, rss, log_dets, effects = _least_squares(Q, residual / unit, Z, codes, relative)
    df = n - X.shape[1] if reml else n
    variance = rss / df * unit**2
    log_likelihood = -(df * (1 + math.log(2 * math.pi * variance)) + log_dets[0]) / 2
    if reml:
        log_likelihood -= log_dets[1] / 2 + np.log(np.abs(np.diag(R))).sum() + np.log(scale).sum()
    back = np.linalg.inv(R) / scale[:, None]
    shape = np.array([1, 1 / spread])
    return Slopes(
        estimate=back @ (Q.T @ y + b * unit),
        covariance=variance * (back @ inverse @ back.T),
        random=variance * relative * np.outer(shape, shape),
        effects=effects * unit * shape,
        var_resid=variance,
        log_likelihood=float(log_likelihood),
        optimiser=optimiser,
        told=tuple(dict.fromkeys(told)),
    )


def _least_squares(
    Q: np.ndarray, y: np.ndarray, Z: np.ndarray, codes: np.ndarray, relative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, tuple[float, float], np.ndarray]:
    """Generalised least squares when ``V = I + Z_i relative Z_i'`` in each subject.

    Returns
    -------
    b, inverse, rss, log_dets, effects
        ``log_dets`` are of V and of ``Q'V^-1 Q``; ``effects`` are the predictions of each subject's u.
    """
    subjects = codes.max() + 1
    A = np.column_stack([Q, y])
    zz, za = np.zeros((subjects, 2, 2)), np.zeros((subjects, 2, A.shape[1]))
    np.add.at(zz, codes, Z[:, :, None] * Z[:, None, :])
    np.add.at(za, codes, Z[:, :, None] * A[:, None, :])
    # Woodbury: V^-1 = I - Z (relative^-1 + Z'Z)^-1 Z', written so that a singular `relative` is allowed.
    inner = np.eye(2) + zz @ relative
    shrink = relative @ np.linalg.inv(inner)
    M = A.T @ A - np.einsum("gia,gij,gjb->ab", za, shrink, za)
    inverse = np.linalg.inv(M[:-1, :-1])
    b = inverse @ M[:-1, -1]
    rss = float(M[-1, -1] - b @ M[:-1, -1])
    log_dets = (
        float(np.linalg.slogdet(inner)[1].sum()),
        float(np.linalg.slogdet(M[:-1, :-1])[1]),
    )
    effects = np.einsum("gij,gj->gi", shrink, za[:, :, -1] - za[:, :, :-1] @ b)
    return b, inverse, rss, log_dets, effects
