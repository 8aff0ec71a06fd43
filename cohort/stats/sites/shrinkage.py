"""What a site adds to each column and how much it spreads it, drawn towards what it does to all columns.

Plain arrays: n rows, k columns, q covariates, s sites. A cell may be NaN: each column is then estimated on its own rows.
"""

from dataclasses import dataclass

import numpy as np

CHANGE = 1e-4
"""Relative change of shifts and spreads at which the parametric iteration ends, as in sva and neuroCombat."""

MAX_ROUNDS = 1000

COLUMNS_AT_ONCE = 256
"""Columns whose likelihoods under all others are held at a time by the non-parametric prior."""


@dataclass(frozen=True)
class Standardized:
    """Columns without their level and what covariates explain, in standard deviations.

    Attributes
    ----------
    z : (n, k) float64
    mean, scale : (k,) float64
    slopes : (q, k) float64
    unexplained : (k,) float64
        Share of each column's variance that sites and covariates leave.
    """

    z: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    slopes: np.ndarray
    unexplained: np.ndarray


def standardize(
    values: np.ndarray, codes: np.ndarray, covariates: np.ndarray, *, reference: int | None = None
) -> Standardized:
    """Fit sites and covariates to each column and standardise it by the residual variance.

    Parameters
    ----------
    values : (n, k) float64, NaN where a cell is missing
    codes : (n,) int
        Site of each row.
    covariates : (n, q) float64
        Of full rank within sites.
    reference : int, optional
        Site that gives level and variance; without it all rows do.

    Returns
    -------
    Standardized
    """
    k, sites = values.shape[1], codes.max() + 1
    mean, variance, total = np.empty((3, k))
    slopes = np.empty((covariates.shape[1], k))
    present = ~np.isnan(values)
    _, pattern = np.unique(np.packbits(present, axis=0), axis=1, return_inverse=True)
    for which in range(pattern.max() + 1):
        columns = np.flatnonzero(pattern == which)
        rows = present[:, columns[0]]
        y, x, site = values[np.ix_(rows, columns)], covariates[rows], codes[rows]
        weights = np.bincount(site, minlength=sites)
        y_means, x_means = _means(y, site, weights), _means(x, site, weights)
        y_within, x_within = y - y_means[site], x - x_means[site]
        lengths = np.sqrt(np.square(x_within).sum(axis=0))
        slope = np.linalg.lstsq(x_within / lengths, y_within, rcond=None)[0] / lengths[:, None]
        levels = y_means - x_means @ slope
        residual = np.square(y_within - x_within @ slope)
        slopes[:, columns] = slope
        total[columns] = y.var(axis=0)
        if reference is None:
            mean[columns] = weights @ levels / weights.sum()
            variance[columns] = residual.mean(axis=0)
        else:
            mean[columns] = levels[reference]
            variance[columns] = residual[site == reference].mean(axis=0)
    scale = np.sqrt(variance)
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # the caller refuses columns without variance
        z = (values - mean - covariates @ slopes) / scale
        unexplained = variance / total
    return Standardized(z, mean, scale, slopes, unexplained)


def _means(values: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(weights), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / weights[:, None]


def shrink(z: np.ndarray, *, parametric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Estimate shift and spread of one site, each column's drawn towards those of all columns.

    Parameters
    ----------
    z : (rows of the site, k) float64
        `Standardized.z`; at least two rows of each column are no NaN.

    Returns
    -------
    shift, spread : (k,) float64
        Posterior means, in standard deviations and as a ratio of variances.

    Notes
    -----
    neuroCombat's ``it_sol`` and ``int_eprior``; the latter in logarithms here, so that sites of thousands of scans do
    not underflow.
    """
    n = (~np.isnan(z)).sum(axis=0)
    shift, spread = np.nanmean(z, axis=0), np.nanvar(z, axis=0, ddof=1)
    if parametric:
        return _parametric(z, n, shift, spread)
    return _empirical(z, n, shift, spread)


def _parametric(
    z: np.ndarray, n: np.ndarray, shift: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    center, width = shift.mean(), shift.var(ddof=1)
    typical, unlike = spread.mean(), spread.var(ddof=1)
    unlike = max(unlike, 1e-24 * typical**2)  # columns that say the same: the prior is a point
    a, b = (2 * unlike + typical**2) / unlike, (typical * unlike + typical**3) / unlike
    old_shift, old_spread = shift, spread
    for _ in range(MAX_ROUNDS):
        new_shift = (width * n * shift + old_spread * center) / (width * n + old_spread)
        squares = np.nansum(np.square(z - new_shift), axis=0)
        new_spread = (squares / 2 + b) / (n / 2 + a - 1)
        # As sva and neuroCombat have it, with the sign of the shift: the spreads alone decide where all shifts are
        # negative, and as shifts change through the spreads only, they have settled by then as well.
        moved = np.abs(new_shift - old_shift) / np.where(old_shift == 0, np.inf, old_shift)
        change = max(moved.max(), (np.abs(new_spread - old_spread) / old_spread).max())
        old_shift, old_spread = new_shift, new_spread
        if change <= CHANGE:
            break
    return old_shift, old_spread


def _empirical(
    z: np.ndarray, n: np.ndarray, shift: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    k = len(shift)
    around = np.nansum(np.square(z - shift), axis=0)
    new = np.empty((2, k))
    for first in range(0, k, COLUMNS_AT_ONCE):
        i = np.arange(first, min(first + COLUMNS_AT_ONCE, k))
        squares = around[i, None] + n[i, None] * np.square(shift[i, None] - shift)
        log = -(n[i, None] * np.log(spread) + squares / spread) / 2
        log[np.arange(len(i)), i] = -np.inf  # a column is no prior of itself
        weights = np.exp(log - log.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        new[:, i] = weights @ shift, weights @ spread
    return new[0], new[1]
