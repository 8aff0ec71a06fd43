"""The likelihood of a random intercept as a function of lambda alone, and where it is highest."""

import math
from dataclasses import dataclass

import numpy as np

GRID = np.concatenate([[0.0], np.logspace(-4, 8, 25)])
"""Values of lambda between which the slope of the likelihood is looked at for a change of sign."""


class Profile:
    """Deviance of outcomes without missing rows as a function of lambda, up to a constant.

    Columns are orthonormal and outcomes are residuals of unit length, so that units and offsets play no part.
    """

    def __init__(self, Q: np.ndarray, E: np.ndarray, codes: np.ndarray, *, reml: bool) -> None:
        (self.n, self.p), self.reml = Q.shape, reml
        self.df = self.n - self.p if reml else self.n
        sizes = np.bincount(codes)
        both = np.column_stack([Q, E])
        order = np.argsort(codes, kind="stable")
        sums = np.add.reduceat(both[order], np.cumsum(sizes) - sizes, axis=0)
        within = both - (sums / sizes[:, None])[codes]
        p = self.p
        self.within = _products(within[:, :p], within[:, p:])
        self.between = {}
        for size in np.unique(sizes):
            part = sums[sizes == size] / math.sqrt(size)
            self.between[int(size)] = (len(part), *_products(part[:, :p], part[:, p:]))

    def at(self, ratio: np.ndarray, which: np.ndarray) -> "Point":
        """Evaluate outcomes `which`, each at its ratio (or all at one)."""
        q = np.zeros((3, len(ratio), self.p, self.p))
        x, e, log = (
            np.zeros((3, len(which), self.p)),
            np.zeros((3, len(which))),
            np.zeros((3, len(ratio))),
        )
        q[0], x[0], e[0] = self.within[0], self.within[1][which], self.within[2][which]
        for size, (count, qq, qe, ee) in self.between.items():
            c = 1 / (1 + ratio * size)
            # c and its first two derivatives by the ratio
            for order, weight in enumerate((c, -size * c**2, 2 * size**2 * c**3)):
                q[order] += weight[:, None, None] * qq
                x[order] += weight[:, None] * qe[which]
                e[order] += weight * ee[which]
            log[0] += count * np.log1p(ratio * size)
            log[1] += count * size * c
            log[2] -= count * (size * c) ** 2
        inverse = np.linalg.inv(q[0])
        b = times(inverse, x[0])
        if self.reml:
            step = inverse @ q[1]
            log[0] += np.linalg.slogdet(q[0])[1]
            log[1] += np.trace(step, axis1=1, axis2=2)
            log[2] += (inverse * q[2]).sum((1, 2)) - (step * step.mT).sum((1, 2))
        slope = x[1] - times(q[1], b)
        rss = [
            e[order] - 2 * (b * x[order]).sum(1) + (b * times(q[order], b)).sum(1)
            for order in range(3)
        ]
        rss[2] = rss[2] - 2 * (slope * times(inverse, slope)).sum(1)
        first = rss[1] / rss[0]
        return Point(
            b=b,
            inverse=inverse,
            inverse_slope=-inverse @ q[1] @ inverse,
            variance=rss[0] / self.df,
            deviance=self.df * np.log(rss[0] / self.df) + log[0],
            slope=self.df * first + log[1],
            curvature=self.df * (rss[2] / rss[0] - first**2) + log[2],
            information=(self.df * rss[2] / rss[0] + log[2], -self.df * first, self.df),
        )


@dataclass(frozen=True)
class Point:
    """What a profile is at one lambda an outcome; derivatives are by lambda.

    `information` is the Hessian of the deviance in (lambda, log variance): its three entries.
    """

    b: np.ndarray
    inverse: np.ndarray
    inverse_slope: np.ndarray
    variance: np.ndarray
    deviance: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    information: tuple[np.ndarray, np.ndarray, int]


def _products(Q: np.ndarray, E: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return Q.T @ Q, E.T @ Q, np.square(E).sum(axis=0)


def times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply each of (m, p, p) matrices by its own of (m, p) vectors."""
    return (matrices @ vectors[..., None])[..., 0]


def search(profile: Profile, which: np.ndarray) -> np.ndarray:
    """Lambda of the highest likelihood of each outcome of `which`; NaN if it grows without end."""
    grid = [profile.at(np.array([ratio]), which) for ratio in GRID]
    slopes = np.array([point.slope for point in grid])
    best = np.where(slopes[0] >= 0, 0.0, np.nan)
    lowest = np.where(slopes[0] >= 0, grid[0].deviance, np.inf)
    cell, i = np.nonzero((slopes[:-1] < 0) & (slopes[1:] >= 0))
    ratio = _newton(profile, which[i], GRID[cell], GRID[cell + 1])
    deviance = profile.at(ratio, which[i]).deviance if i.size else ratio
    for j in np.argsort(deviance, kind="stable")[::-1]:  # the lowest is written last
        if deviance[j] < lowest[i[j]]:
            best[i[j]], lowest[i[j]] = ratio[j], deviance[j]
    return best


def _newton(profile: Profile, which: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Root of the slope in each bracket: Newton's step where it stays inside, else half the bracket."""
    low, high = low.copy(), high.copy()
    ratio = np.where(low > 0, np.sqrt(low * high), high / 2)
    active = np.arange(len(which))
    for _ in range(100):
        if not active.size:
            break
        point, at = profile.at(ratio[active], which[active]), ratio[active]
        below = point.slope < 0
        low[active[below]], high[active[~below]] = at[below], at[~below]
        with np.errstate(divide="ignore", invalid="ignore"):
            new = at - point.slope / point.curvature
        inside = (point.curvature > 0) & (new >= low[active]) & (new <= high[active])
        new = np.where(inside, new, (low[active] + high[active]) / 2)
        ratio[active] = new
        active = active[np.abs(new - at) > 1e-14 * new]
    return ratio
