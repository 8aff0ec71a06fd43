"""Small p from few arrangements: a generalised Pareto distribution in place of counts, where the maxima are few.

Counts of K arrangements know no p below 1 / K, and small ones roughly. What exceeds a high threshold follows a generalised
Pareto distribution whatever the maxima follow below it, and its two numbers are known from some hundred maxima (Knijnenburg
2009, doi:10.1093/bioinformatics/btp211; for images Winkler 2016, doi:10.1016/j.neuroimage.2016.05.068).
"""

from dataclasses import dataclass

import numpy as np

from cohort.stats.exchanges import maximum as counts

LARGEST = 0.1
"""Counted p above this are left as they are: enough arrangements lie beyond."""

START = 4
"""Of so many maxima one lies beyond the threshold that is tried first."""

FEWEST = 50
"""Maxima that must lie beyond a threshold."""

GOODNESS = 0.05
"""p of the Anderson-Darling test from which a tail counts as fitting."""

DRAWS = 200
"""Samples of the fitted tail with which its Anderson-Darling statistic is compared."""


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of what lies beyond a threshold.

    Attributes
    ----------
    threshold : float
    shape, scale : float
        ``P(x > threshold + y) = beyond (1 + shape y / scale)^(-1 / shape)``; exponential for shape 0, with an end for a
        negative one.
    beyond : float
        Probability of the threshold.
    n_beyond, count : int
        Maxima that were fitted, and arrangements, the table as it is included.
    """

    threshold: float
    shape: float
    scale: float
    beyond: float
    n_beyond: int
    count: int

    @property
    def largest(self) -> float:
        """Largest p that the tail says."""
        return min(LARGEST, self.beyond)

    @property
    def smallest(self) -> float:
        """Smallest p that is said, a tenth of what counts can.

        Of maxima of normals, two in three tails are right within a factor of 2.4 at 1 / K, of 15 at a tenth of it, and of
        hundreds further out (measured, K = 500 and 2000).
        """
        return 0.1 / self.count

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """P that the most extreme of an arrangement is as large as each value; between `smallest` and `largest`."""
        y = np.maximum(np.asarray(values, np.float64) - self.threshold, 0) / self.scale
        p = self.beyond * _survival(y, self.shape)
        return np.clip(p, self.smallest, self.largest)

    def quantile(self, p: float) -> float:
        """Value whose probability is `p`, for a p within the tail."""
        ratio = p / self.beyond
        y = -np.log(ratio) if abs(self.shape) < 1e-9 else (ratio**-self.shape - 1) / self.shape
        return float(self.threshold + self.scale * y)


def fit_tail(maximum: np.ndarray) -> Tail | None:
    """Fit the tail of the maxima of arrangements.

    Parameters
    ----------
    maximum : (K,) float64
        Most extreme statistic of each arrangement. The first is the table as it is, which is no draw of the null
        distribution and is left out of the fit.

    Returns
    -------
    Tail or None
        None if there are too few maxima, or no threshold is high enough: counts stay.

    Notes
    -----
    Shape and scale by moments (Hosking and Wallis 1987, doi:10.1080/00401706.1987.10488243). The threshold begins at the
    75 % quantile and rises, each with a tenth less beyond it, until the Anderson-Darling test of the fit passes. As shape
    and scale are estimated, the test's statistic is compared with those of samples of the fitted tail, fitted again; their
    random numbers have one key, so that the same maxima give the same tail.
    """
    count = len(maximum)
    drawn = np.sort(np.asarray(maximum, np.float64)[1:])
    drawn = drawn[np.isfinite(drawn)]
    n = len(drawn) // START
    while n >= FEWEST:
        threshold = (drawn[-n - 1] + drawn[-n]) / 2
        y = drawn[-n:] - threshold
        shape, scale = (float(v[0]) for v in _moments(y[None]))
        # A shape below -1 would be a heap at the end: values that are counts of few, or all alike.
        if -1 < shape < np.inf and scale > 0 and _fits(y, shape, scale):
            # The table as it is counts as beyond: so p is that of counts at the threshold.
            return Tail(threshold, shape, scale, (n + 1) / count, n, count)
        n = n * 9 // 10
    return None


def corrected(
    maximum: np.ndarray, values: np.ndarray, tail: Tail | None = None, df: int | None = None
) -> np.ndarray:
    """P of `maximum.share`, small ones by a tail, if there is one; it falls as values rise."""
    p = counts.share(maximum, values, df)
    if tail is None:
        return p
    return np.where(p <= tail.largest, tail.probabilities(values), p)


def critical(
    maximum: np.ndarray, level: float, tail: Tail | None = None, df: int | None = None
) -> float:
    """Value from which `corrected` is at most `level`; infinite if none has it."""
    counted = level if tail is None else max(level, tail.largest)
    lowest = counts.critical(maximum, counted, df)
    if tail is None or level >= tail.largest:
        return lowest
    return max(lowest, tail.quantile(level)) if level >= tail.smallest else np.inf


def _survival(y: np.ndarray, shape: float) -> np.ndarray:
    """P beyond y in units of the scale; 0 past the end."""
    if abs(shape) < 1e-9:
        return np.exp(-y)
    inside = np.maximum(1 + shape * y, 0)
    with np.errstate(divide="ignore"):
        return np.exp(-np.log(inside) / shape)


def _moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale of each row, by mean and variance."""
    mean, variance = y.mean(axis=1), y.var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.square(mean) / variance
    return (1 - ratio) / 2, mean * (1 + ratio) / 2


def _distance(y: np.ndarray, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Anderson-Darling statistic of each row, sorted."""
    n = y.shape[1]
    survival = np.stack([_survival(row / b, a) for row, a, b in zip(y, shape, scale, strict=True)])
    # A value past the end that was fitted has probability 0, of which there is no logarithm.
    survival = np.clip(survival, 1e-12, 1 - 1e-12)
    odd = 2 * np.arange(1, n + 1) - 1
    return -n - (odd * (np.log1p(-survival) + np.log(survival[:, ::-1]))).mean(axis=1)


def _fits(y: np.ndarray, shape: float, scale: float) -> bool:
    """Whether sorted values could come of this distribution."""
    rng = np.random.Generator(np.random.Philox(key=len(y)))
    u = 1 - rng.random((DRAWS, len(y)))
    made = -np.log(u) if abs(shape) < 1e-9 else (u**-shape - 1) / shape
    made = np.sort(scale * made, axis=1)
    usual = _distance(made, *_moments(made))
    own = _distance(y[None], np.array([shape]), np.array([scale]))[0]
    return bool((1 + (usual >= own).sum()) / (1 + DRAWS) >= GOODNESS)
