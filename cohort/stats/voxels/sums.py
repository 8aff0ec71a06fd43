"""The same maps from running sums, for scans that are stored one by one: no cube, each scan is read once and never again.

A scan adds its part, and one that is withdrawn takes it out again. What is kept is p + 2 numbers a voxel. Values are counted from
those of the first scan, so that little is lost where a voxel is far from zero. No errors robust to unequal variance, and no
arrangements: those need all scans of a voxel at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cohort.kernels import glm


@dataclass(frozen=True)
class Sums:
    """Sums over some scans; joined by `merged`, in any grouping.

    Attributes
    ----------
    origin : (v,) float64
        Values that are subtracted, the same in all parts.
    XX : (p, p) float64
    Xy : (p, v) float64
    yy : (v,) float64
    n : int
    """

    origin: np.ndarray
    XX: np.ndarray
    Xy: np.ndarray
    yy: np.ndarray
    n: int

    @classmethod
    def empty(cls, origin: np.ndarray, p: int) -> "Sums":
        """Sums over no scan, of `p` columns."""
        v = origin.size
        whole = np.asarray(origin, np.float64).reshape(-1)
        return cls(whole, np.zeros((p, p)), np.zeros((p, v)), np.zeros(v), 0)

    def with_scan(self, x: np.ndarray, y: np.ndarray) -> "Sums":
        """Add a scan: its row of the design, and its voxels."""
        return self._changed(x, y, 1)

    def without_scan(self, x: np.ndarray, y: np.ndarray) -> "Sums":
        """Take a scan out that was added before."""
        return self._changed(x, y, -1)

    def _changed(self, x: np.ndarray, y: np.ndarray, sign: int) -> "Sums":
        row = np.asarray(x, np.float64)
        shifted = np.asarray(y, np.float64).reshape(-1) - self.origin
        return replace(
            self,
            XX=self.XX + sign * np.outer(row, row),
            Xy=self.Xy + sign * row[:, None] * shifted,
            yy=self.yy + sign * np.square(shifted),
            n=self.n + sign,
        )

    def fits(self, contrasts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps of contrasts, flat.

        Returns
        -------
        dict
            beta, se, t (k, v), sigma (v,), NaN where a scan lacks the voxel, or the terms explain it.

        Raises
        ------
        glm.DependentColumns
            If columns depend on each other, or no scan is left for the residuals.

        Notes
        -----
        The first column is the intercept: what was subtracted from every value comes back with it alone.
        """
        p = len(self.XX)
        scale = np.sqrt(np.diag(self.XX))
        scaled = self.XX / np.where(scale > 0, np.outer(scale, scale), 1)
        rank = int(np.linalg.matrix_rank(scaled, tol=1e-12 * p, hermitian=True))
        if rank < p or self.n <= p:
            raise glm.DependentColumns(self.n, p, rank)
        L = np.linalg.cholesky(scaled)
        z = np.linalg.solve(L, self.Xy / scale[:, None])
        left = self.yy - np.square(z).sum(axis=0)
        # Differences of sums are known to about 1e-13 of them: less is nothing.
        left = np.where(left > 1e-12 * self.yy, left, np.nan)
        sigma = np.sqrt(left / (self.n - p))
        weights = np.linalg.solve(L, (np.stack(list(contrasts.values())) / scale).T)
        beta = weights.T @ z
        beta = beta + np.stack([c[0] * self.origin for c in contrasts.values()])
        beta = np.where(np.isnan(sigma), np.nan, beta)
        se = np.sqrt(np.square(weights).sum(axis=0))[:, None] * sigma
        return {"beta": beta, "se": se, "t": beta / se, "sigma": sigma}


def merged(parts: Sequence[Sums]) -> Sums:
    """Join sums over different scans, two by two: the same tree, so the same bits, whoever made the parts."""
    if not parts:
        raise ValueError("expected parts to merge, found none")
    if any(part.origin.tobytes() != parts[0].origin.tobytes() for part in parts):
        raise ValueError("expected sums that count from the same values, found others")
    level = list(parts)
    while len(level) > 1:
        level = [
            _two(level[i], level[i + 1]) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0]


def _two(a: Sums, b: Sums) -> Sums:
    return Sums(a.origin, a.XX + b.XX, a.Xy + b.Xy, a.yy + b.yy, a.n + b.n)
