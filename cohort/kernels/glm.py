"""A linear model in every voxel of a block: all scans of a voxel stand in one column.

The design is factored once, ``Q R = X``, and every voxel is projected on it: ``z = Q'y``, ``e = y - Qz``. Voxels do not
meet: each sum runs over the scans in their order, so that a number has the same bits in a block of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

LANE = 64
"""Voxels that are computed side by side; their sums stay in the nearest cache."""

DEPENDENT = 1e-10
"""Share of a column of the design that the others may leave unexplained and still be called dependent."""

FLAT = 1e-24
"""Share of a voxel's sum of squares below which what the terms leave is rounding."""

FITTED, NO_SCAN, FEW_SCANS, ALIKE, CONSTANT, EXPLAINED = range(6)
"""What became of a voxel: fitted; seen in no scan; in no more scans than there are terms; in scans that do not tell the
terms apart; of one value in all scans; explained to the last digit."""


class DependentColumns(ValueError):
    """Columns of a design that are combinations of each other.

    Parameters
    ----------
    n, p, rank : int
        Rows, columns, and how many columns are independent.
    """

    def __init__(self, n: int, p: int, rank: int) -> None:
        self.n, self.p, self.rank = n, p, rank
        super().__init__(
            f"expected {p} independent columns and more rows than that, found {rank} in {n} rows; drop a term"
        )


@dataclass(frozen=True)
class Factors:
    """A design, ready to be projected on.

    Attributes
    ----------
    Q : (n, r) float64
        Orthonormal columns.
    weights : (r, k) float64
        A contrast's estimate is ``weights' Q' y``.
    scale : (k,) float64
        Standard error of each estimate for residuals of variance 1.
    robust : (n, k) float64
        HC3 variance of each estimate is ``robust' e^2``.
    joint : tuple of (r, q) float64
        Orthonormal columns for each group of contrasts that is tested together.
    ones : (r,) float64 or None
        ``Q'1`` if the constant is among what the columns span: voxels may then be shifted.
    """

    Q: np.ndarray
    weights: np.ndarray
    scale: np.ndarray
    robust: np.ndarray
    joint: tuple[np.ndarray, ...]
    ones: np.ndarray | None

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.Q.shape[0] - self.Q.shape[1]


def factor(X: np.ndarray, contrasts: np.ndarray, joint: Sequence[np.ndarray] = ()) -> Factors:
    """Factor a design.

    Parameters
    ----------
    X : (n, p) float64
    contrasts : (k, p) float64
        Sums of estimates, each with its own t.
    joint : sequence of (q, p) float64
        Sums that are zero together, each group with its own F.

    Raises
    ------
    DependentColumns
        If the columns depend on each other, or no row is left for the residuals.
    """
    n, p = X.shape
    norms = np.sqrt(np.square(X).sum(axis=0))
    scaled = X / np.where(norms > 0, norms, 1)
    rank = int(np.linalg.matrix_rank(scaled, tol=DEPENDENT * np.sqrt(p))) if n else 0
    if rank < p or n <= p:
        raise DependentColumns(n, p, rank)
    Q, R = np.linalg.qr(scaled)
    weights = np.linalg.solve(R.T, (contrasts / norms).T)
    leverage = np.square(Q).sum(axis=1)
    # A row that is fitted whatever it holds has no residual; 0 / 0 would spread to all contrasts.
    spare = np.maximum(1 - leverage, 1e-12)
    robust = np.square(Q @ weights / spare[:, None])
    together = tuple(np.linalg.qr(np.linalg.solve(R.T, (C / norms).T))[0] for C in joint)
    ones = Q.T @ np.ones(n)
    spanned = np.abs(Q @ ones - 1).max() < 1e-10
    return Factors(
        Q=np.ascontiguousarray(Q),
        weights=weights,
        scale=np.sqrt(np.square(weights).sum(axis=0)),
        robust=np.ascontiguousarray(robust),
        joint=together,
        ones=ones if spanned else None,
    )


@dataclass(frozen=True)
class Fits:
    """A block of voxels.

    Attributes
    ----------
    estimate, se, t, hc3_t : (k, v) float64
        By contrast; NaN where `state` is not `FITTED`.
    F : (m, v) float64
        By group of contrasts.
    sigma : (v,) float64
        Residual standard deviation.
    mean : (v,) float64
        Of the scans that have the voxel.
    n, df : (v,) int32
        Scans that have the voxel, and degrees of freedom; `df` 0 where it was not fitted.
    state : (v,) uint8
    """

    estimate: np.ndarray
    se: np.ndarray
    t: np.ndarray
    hc3_t: np.ndarray
    F: np.ndarray
    sigma: np.ndarray
    mean: np.ndarray
    n: np.ndarray
    df: np.ndarray
    state: np.ndarray

    @classmethod
    def empty(cls, k: int, m: int, v: int) -> "Fits":
        """Nothing known of `v` voxels, `k` contrasts and `m` groups of them."""
        estimate, se, t, hc3_t = (np.full((k, v), np.nan) for _ in range(4))
        return cls(
            estimate=estimate,
            se=se,
            t=t,
            hc3_t=hc3_t,
            F=np.full((m, v), np.nan),
            sigma=np.full(v, np.nan),
            mean=np.full(v, np.nan),
            n=np.zeros(v, np.int32),
            df=np.zeros(v, np.int32),
            state=np.zeros(v, np.uint8),
        )


def fit(
    Y: np.ndarray, X: np.ndarray, contrasts: np.ndarray, joint: Sequence[np.ndarray] = ()
) -> Fits:
    """Fit every voxel of a block to the scans that have it.

    Parameters
    ----------
    Y : (n, v) float32 or float64
        A row a scan, a column a voxel; NaN where a scan does not have the voxel. Computed in float64.
    X, contrasts, joint
        See `factor`.

    Raises
    ------
    DependentColumns
        If the design has no single answer even with all its rows.

    Notes
    -----
    Voxels are grouped by the scans that have them, and each group is factored once: "spatially varying n" as in BLM
    (Nichols). HC3: MacKinnon and White 1985, doi:10.1016/0304-4076(85)90158-7.
    """
    whole = factor(X, contrasts, joint)
    out = Fits.empty(len(contrasts), len(joint), Y.shape[1])
    Y = _plain(Y)
    out.n[:] = _present(Y)
    complete = out.n == len(Y)
    if complete.all():
        _fill(out, slice(None), Y, whole, contrasts)
        return out
    if complete.any():
        _fill(out, np.flatnonzero(complete), Y[:, complete], whole, contrasts)
    lacking = np.flatnonzero(~complete)
    for has, columns in patterns(Y[:, lacking]):
        voxels = lacking[columns]
        n = int(has.sum())
        if n <= X.shape[1]:
            out.state[voxels] = FEW_SCANS if n else NO_SCAN
            continue
        try:
            part = factor(X[has], contrasts, joint)
        except DependentColumns:
            out.state[voxels] = ALIKE
            continue
        _fill(out, voxels, Y[np.ix_(has, voxels)], part, contrasts)
    return out


def patterns(Y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group voxels by the scans that have them: ``(n,)`` bool and the columns, a pair for each pattern."""
    bits = np.packbits(~np.isnan(Y), axis=0).T
    rows = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1]))).reshape(-1)
    found, member = np.unique(rows, return_inverse=True)
    order = np.argsort(member, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member, minlength=len(found)))[:-1])
    return [(~np.isnan(Y[:, columns[0]]), columns) for columns in groups]


def _fill(
    out: Fits, place: slice | np.ndarray, Y: np.ndarray, factors: Factors, contrasts: np.ndarray
) -> None:
    """Fit voxels that the same scans have, and put them in their place."""
    k, v = len(contrasts), Y.shape[1]
    r = factors.Q.shape[1]
    z, left, total = np.empty((r, v)), np.empty(v), np.empty(v)
    robust, base, mean = np.empty((k, v)), np.empty(v), np.empty(v)
    _project(_plain(Y), factors.Q, factors.robust, factors.ones is not None, z, left, total, robust, base, mean)  # fmt: skip
    if factors.ones is not None:
        z += factors.ones[:, None] * base
    flat = left <= FLAT * total
    state = np.where(flat, np.where(total == 0, CONSTANT, EXPLAINED), FITTED).astype(np.uint8)
    good = state == FITTED
    variance = np.where(good, left, np.nan) / factors.df
    sigma = np.sqrt(variance)
    estimate = np.where(good, _combined(factors.weights, z), np.nan)
    se = factors.scale[:, None] * sigma
    out.estimate[:, place] = estimate
    out.se[:, place] = se
    out.t[:, place] = estimate / se
    out.hc3_t[:, place] = estimate / np.sqrt(np.where(good, robust, np.nan))
    for row, basis in enumerate(factors.joint):
        part = np.square(_combined(basis, z)).sum(axis=0)
        out.F[row, place] = part / basis.shape[1] / variance
    out.sigma[place] = sigma
    out.mean[place] = mean
    out.df[place] = np.where(good, factors.df, 0)
    out.state[place] = state


def _combined(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``weights' z``, each number a sum in the order of the rows: products of matrices differ in bits with their width."""
    out = np.zeros((weights.shape[1], z.shape[1]))
    for row, values in zip(weights, z, strict=True):
        out += row[:, None] * values
    return out


def _plain(Y: np.ndarray) -> np.ndarray:
    """Read-only, in C order, float32 or float64: what the compiled loops are made for."""
    wide = np.float32 if Y.dtype == np.float32 else np.float64
    plain = np.ascontiguousarray(Y, wide).view()
    plain.flags.writeable = False
    return plain


@njit(cache=True, nogil=True)
def _present(Y: np.ndarray) -> np.ndarray:
    n, v = Y.shape
    count = np.zeros(v, np.int32)
    for i in range(n):
        for c in range(v):
            count[c] += Y[i, c] == Y[i, c]
    return count


@njit(cache=True, nogil=True)
def _project(Y, Q, robust, shifted, z, left, total, hc3, base, mean):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Coefficients on Q, sums of squares of residuals and of the outcome (about its first value), and HC3 sums."""
    n, v = Y.shape
    r, k = Q.shape[1], robust.shape[1]
    y = np.zeros((n, LANE))
    e = np.empty(LANE)
    sums = np.empty((r, LANE))
    for start in range(0, v, LANE):
        w = min(LANE, v - start)
        first = np.zeros(LANE)
        if shifted:
            for c in range(w):
                first[c] = Y[0, start + c]
        squares = np.zeros(LANE)
        rest = np.zeros(LANE)
        plain = np.zeros(LANE)
        own = np.zeros((k, LANE))
        sums[:] = 0
        for i in range(n):
            for c in range(w):
                y[i, c] = Y[i, start + c] - first[c]
            for c in range(LANE):
                squares[c] += y[i, c] * y[i, c]
                plain[c] += y[i, c]
        # Four rows, and two columns, at a time: a sum is loaded and stored once for all of them.
        for i in range(0, n - 3, 4):
            for j in range(r):
                q0, q1, q2, q3 = Q[i, j], Q[i + 1, j], Q[i + 2, j], Q[i + 3, j]
                for c in range(LANE):
                    sums[j, c] += (q0 * y[i, c] + q1 * y[i + 1, c]) + (
                        q2 * y[i + 2, c] + q3 * y[i + 3, c]
                    )
        for i in range(n // 4 * 4, n):
            for j in range(r):
                q0 = Q[i, j]
                for c in range(LANE):
                    sums[j, c] += q0 * y[i, c]
        for i in range(n):
            for c in range(LANE):
                e[c] = y[i, c]
            for j in range(0, r - 1, 2):
                q0, q1 = Q[i, j], Q[i, j + 1]
                for c in range(LANE):
                    e[c] -= q0 * sums[j, c] + q1 * sums[j + 1, c]
            if r % 2:
                q0 = Q[i, r - 1]
                for c in range(LANE):
                    e[c] -= q0 * sums[r - 1, c]
            for c in range(LANE):
                e[c] *= e[c]
                rest[c] += e[c]
            for j in range(k):
                q = robust[i, j]
                for c in range(LANE):
                    own[j, c] += q * e[c]
        for c in range(w):
            base[start + c] = first[c]
            mean[start + c] = first[c] + plain[c] / n
            total[start + c] = squares[c]
            left[start + c] = rest[c]
        for j in range(r):
            for c in range(w):
                z[j, start + c] = sums[j, c]
        for j in range(k):
            for c in range(w):
                hc3[j, start + c] = own[j, c]
