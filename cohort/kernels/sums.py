"""A linear model in every voxel from running sums: a scan is added, or taken out again, by its own voxels alone.

Kept are, of every voxel, the sums of x y, y and y y over the scans, y counted from an origin so that little is lost where a
voxel is far from zero. p + 3 numbers a voxel whatever the number of scans, and no errors robust to unequal variance and no
arrangements: those need all scans of a voxel at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import special

from cohort.kernels import glm, student

ROUNDING = 1e-12
"""Share of a voxel's sum of squares that differences of sums do not tell from nothing."""

LOST = 1e-6
"""Share of the sums of squares that a voxel once had below which those about its mean have lost digits that maps show.

A sum that was m keeps an error of about 2e-16 m, so that more than 1e-9 of what is left may be rounding.
"""

BLOCK = 1 << 16
"""Voxels that are solved at a time."""


@dataclass
class Sums:
    """Sums over scans, changed in place.

    Attributes
    ----------
    origin : (v,) float64
        What is subtracted from every value.
    Xy : (p, v) float64
    y, yy : (v,) float64
    lacking : (v,) int32
        Scans without a finite number in the voxel; they add nothing to the sums above.
    above : (v,) int32
        Scans above the value of the mask.
    """

    origin: np.ndarray
    Xy: np.ndarray
    y: np.ndarray
    yy: np.ndarray
    lacking: np.ndarray
    above: np.ndarray

    @classmethod
    def empty(cls, origin: np.ndarray, p: int) -> "Sums":
        """Sums over no scan, of `p` columns; an origin that is not finite is 0."""
        start = np.asarray(origin, np.float64).reshape(-1)
        start = np.where(np.isfinite(start), start, 0.0)
        v = start.size
        plain, whole = (np.zeros(v) for _ in range(2)), (np.zeros(v, np.int32) for _ in range(2))
        return cls(start, np.zeros((p, v)), *plain, *whole)

    def add(self, x: np.ndarray, values: np.ndarray, *, above: float | None = None) -> None:
        """Add a scan: its row of the design, (p,), and its voxels, (v,) in any shape."""
        self._change(x, values, 1, above)

    def remove(self, x: np.ndarray, values: np.ndarray, *, above: float | None = None) -> None:
        """Take out a scan that was added before, with the same row."""
        self._change(x, values, -1, above)

    def move(self, before: np.ndarray, after: np.ndarray, values: np.ndarray) -> None:
        """Give a scan that was added another row of the design."""
        wide = _wide(values)
        _add_row(wide, np.asarray(after - before, np.float64), self.origin, self.Xy)

    def merge(self, other: "Sums") -> None:
        """Add sums over other scans, counted from the same origin."""
        for name in ("Xy", "y", "yy", "lacking", "above"):
            own = getattr(self, name)
            own += getattr(other, name)

    def clear(self) -> None:
        """Make them sums over no scan."""
        for name in ("Xy", "y", "yy", "lacking", "above"):
            getattr(self, name)[...] = 0

    def _change(self, x: np.ndarray, values: np.ndarray, sign: int, above: float | None) -> None:
        wide = _wide(values)
        # As NumPy compares: the bar has the precision of the values.
        bar = wide.dtype.type(np.inf if above is None else above)
        row = np.asarray(x, np.float64)
        _add(wide, row, sign, bar, *(self.origin, self.Xy, self.y, self.yy), self.lacking, self.above)  # fmt: skip

    def lost(self, n: int, most: np.ndarray, *, above: float | None, shifted: bool = True) -> bool:
        """Whether hardly more than rounding is left in a voxel, and all scans have to be read anew.

        Where scans left whose values were far larger, or the one from which values are counted and that was far from the
        others.

        Parameters
        ----------
        n : int
            Scans that are in.
        most : (v,) float64
            `yy` when it was largest.
        above : float or None
            As the scans were added with: voxels in which no scan exceeds it do not count.
        shifted : bool
            Whether values may be counted from any origin; squares about the mean say nothing otherwise.
        """
        has = n - self.lacking
        left = self.yy
        if shifted:
            left = left - np.square(self.y) / np.maximum(has, 1)
        lost = (left < LOST * most) & (has > 1) & ((self.yy != 0) | (self.y != 0))
        return bool((lost if above is None else lost & (self.above > 0)).any())

    def recentred(self, X: np.ndarray, *, above: float | None = None) -> bool:
        """Count from the mean of the scans that are in, so that nothing is left of what the origin was.

        Parameters
        ----------
        X : (n, p) float64
            Rows of all scans that are in.
        above : float or None
            As the scans were added with.

        Returns
        -------
        bool
            False, and nothing is changed, if a voxel that only some of the scans have makes it impossible, or one in which
            the origin is so far from all scans that digits would be lost.
        """
        n = len(X)
        some = (self.lacking > 0) & (self.lacking < n) & (self.origin != 0)
        if some.any() or self.lost(n, self.yy, above=above):
            return False
        whole = self.lacking == 0
        shift = np.where(whole, self.y / n, -self.origin)
        self.origin = self.origin + shift
        kept = np.where(whole, shift, 0.0)
        self.yy -= kept * (2 * self.y - n * kept)
        self.y -= n * kept
        self.Xy -= X.sum(axis=0)[:, None] * kept
        return True


def fits(
    sums: Sums,
    X: np.ndarray,
    contrasts: np.ndarray,
    joint: Sequence[np.ndarray],
    voxels: np.ndarray,
) -> glm.Fits:
    """Solve the model in voxels that no scan lacks.

    Parameters
    ----------
    X : (n, p) float64
        Rows of all scans that are in, in any order.
    contrasts, joint
        See `glm.factor`.
    voxels : (v,) int
        Flat indices.

    Returns
    -------
    glm.Fits
        Without HC3: ``hc3_t`` and ``hc3_p`` are NaN.

    Raises
    ------
    glm.DependentColumns
        If the columns depend on each other, or no row is left for the residuals.
    """
    factors = glm.factor(X, contrasts, joint)
    n, norms = len(X), np.sqrt(np.square(X).sum(axis=0))
    # Q'y = R'^-1 D^-1 X'y, as X = Q R D.
    solving = np.linalg.solve((factors.Q.T @ (X / norms)).T, np.diag(1 / norms))
    out = glm.Fits.empty(len(contrasts), len(joint), len(voxels))
    for start in range(0, len(voxels), BLOCK):
        place = slice(start, start + BLOCK)
        here = voxels[place]
        z = solving @ sums.Xy[:, here]
        yy, y, origin = sums.yy[here], sums.y[here], sums.origin[here]
        left = yy - np.square(z).sum(axis=0)
        good = left > ROUNDING * yy
        constant = yy - np.square(y) / n <= ROUNDING * yy
        if factors.constant:
            z[0] += np.sqrt(n) * origin
        variance = np.where(good, left, np.nan) / factors.df
        sigma = np.sqrt(variance)
        estimate = np.where(good, factors.weights.T @ z, np.nan)
        se = factors.scale[:, None] * sigma
        t = estimate / se
        out.estimate[:, place], out.se[:, place], out.t[:, place] = estimate, se, t
        out.p[:, place] = student.two_sided(t, factors.df)
        for row, basis in enumerate(factors.joint):
            q = basis.shape[1]
            F = np.square(basis.T @ z).sum(axis=0) / q / variance
            out.F[row, place], out.F_p[row, place] = F, special.fdtrc(q, factors.df, F)
        out.sigma[place], out.mean[place] = sigma, origin + y / n
        out.n[place], out.df[place] = n, np.where(good, factors.df, 0)
        out.state[place] = np.where(
            good, glm.FITTED, np.where(constant, glm.CONSTANT, glm.EXPLAINED)
        )
    return out


def _wide(values: np.ndarray) -> np.ndarray:
    """Flat, float32 or float64, read-only: what the compiled loops are made for."""
    wide = np.float64 if values.dtype == np.float64 else np.float32
    flat = np.ascontiguousarray(values, wide).reshape(-1).view()
    flat.flags.writeable = False
    return flat


@njit(cache=True, nogil=True)
def _add(values, x, sign, bar, origin, Xy, y, yy, lacking, above):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        if not np.isfinite(values[i]):
            lacking[i] += sign
            continue
        if values[i] > bar:
            above[i] += sign
        d = values[i] - origin[i]
        y[i] += sign * d
        yy[i] += sign * (d * d)
        for j in range(x.size):
            Xy[j, i] += sign * (x[j] * d)


@njit(cache=True, nogil=True)
def _add_row(values, x, origin, Xy):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        if np.isfinite(values[i]):
            for j in range(x.size):
                Xy[j, i] += x[j] * (values[i] - origin[i])
