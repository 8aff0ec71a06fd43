"""A linear model in every voxel of a block: all scans of a voxel stand in one column.

The design is factored once, ``Q R = X``, and every voxel is projected on it: ``z = Q'y``, ``e = y - Qz``. Voxels do not
meet: each sum runs over the scans in their order, so that a number has the same bits in a block of any size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import linalg, special

from cohort.kernels import student

LANES = (64, 256)
"""Least and most voxels that are computed side by side."""

NEAR_BYTES = 512 << 10
"""What such voxels may hold, all their scans in float64: they are gone over several times and should stay near."""

DEPENDENT = 1e-10
"""Share of a column of the design that the others may leave unexplained and still be called dependent."""

SAME = 1e-13
"""Share of a contrast that others may leave unexplained and still be said to say the same: rounding of its weights."""

FULL = 1e-9
"""Share of its own value that a row may leave free and still be called fitted whatever it holds, as in tables."""

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
        Orthonormal columns; the first is constant if a constant is among what the columns span.
    weights : (r, k) float64
        A contrast's estimate is ``weights' Q' y``.
    scale : (k,) float64
        Standard error of each estimate for residuals of variance 1.
    robust : (n, k) float64
        HC3 variance of each estimate is ``robust' e^2``; NaN of a contrast in which a row that is fitted whatever it holds
        (leverage 1) has weight: its error cannot be told.
    joint : tuple of (r, q) float64
        Orthonormal columns for each group of contrasts that is tested together; q is its rank.
    constant : bool
        If the first column is constant: voxels may then be shifted.
    """

    Q: np.ndarray
    weights: np.ndarray
    scale: np.ndarray
    robust: np.ndarray
    joint: tuple[np.ndarray, ...]
    constant: bool

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.Q.shape[0] - self.Q.shape[1]


def independent(C: np.ndarray) -> np.ndarray:
    """Rows that say all that the rows of (q, p) `C` say, and none twice: as many as its rank."""
    lengths = np.sqrt(np.square(C).sum(axis=1))
    scaled = C / np.where(lengths > 0, lengths, 1)[:, None]
    left, order = linalg.qr(scaled.T, mode="r", pivoting=True)
    rank = int((np.abs(np.diag(left)) > SAME * np.sqrt(len(C))).sum())
    return np.asarray(C[np.sort(order[:rank])])


def factor(X: np.ndarray, contrasts: np.ndarray, joint: Sequence[np.ndarray] = ()) -> Factors:
    """Factor a design.

    Parameters
    ----------
    X : (n, p) float64
    contrasts : (k, p) float64
        Sums of estimates, each with its own t.
    joint : sequence of (q, p) float64
        Sums that are zero together, each group with its own F; its first degrees of freedom are the rank of the group.

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
    ones = Q.T @ np.full(n, n**-0.5)
    constant = bool(np.abs(Q @ ones - n**-0.5).max() < 1e-10 * n**-0.5)
    if constant:
        # Reflect the basis so that the first column is the constant: its coefficient is the mean, which costs no product.
        across = ones - np.eye(p)[0]
        turn = np.eye(p) - 2 * np.outer(across, across) / max(across @ across, 1e-300)
        Q, R = Q @ turn, turn @ R
        Q[:, 0] = n**-0.5
    weights = np.linalg.solve(R.T, (contrasts / norms).T)
    leverage = np.square(Q).sum(axis=1)
    shares, scale = Q @ weights, np.sqrt(np.square(weights).sum(axis=0))
    # A row that is fitted whatever it holds has no residual; 0 / 0 would spread to all contrasts.
    full = leverage > 1 - FULL
    robust = np.square(shares / np.where(full, np.inf, 1 - leverage)[:, None])
    robust[:, (np.abs(shares[full]) > 1e-6 * scale).any(axis=0)] = np.nan
    together = tuple(
        np.linalg.qr(np.linalg.solve(R.T, (independent(C) / norms).T))[0] for C in joint
    )
    return Factors(
        Q=np.ascontiguousarray(Q),
        weights=weights,
        scale=scale,
        robust=np.ascontiguousarray(robust),
        joint=together,
        constant=constant,
    )


@dataclass(frozen=True)
class Fits:
    """A block of voxels.

    Attributes
    ----------
    estimate, se, t, p, hc3_t, hc3_p : (k, v) float64
        By contrast, p two-sided; NaN where `state` is not `FITTED`, and of HC3 where one scan alone decides the contrast.
    F, F_p : (m, v) float64
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
    p: np.ndarray
    hc3_t: np.ndarray
    hc3_p: np.ndarray
    F: np.ndarray
    F_p: np.ndarray
    sigma: np.ndarray
    mean: np.ndarray
    n: np.ndarray
    df: np.ndarray
    state: np.ndarray

    @classmethod
    def empty(cls, k: int, m: int, v: int) -> "Fits":
        """Nothing known of `v` voxels, `k` contrasts and `m` groups of them."""

        def rows(n: int) -> np.ndarray:
            return np.full((n, v), np.nan)

        return cls(
            estimate=rows(k),
            se=rows(k),
            t=rows(k),
            p=rows(k),
            hc3_t=rows(k),
            hc3_p=rows(k),
            F=rows(m),
            F_p=rows(m),
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
    total = _fill(out, slice(None), Y, whole)
    out.n[:] = len(Y)
    # A NaN went through all sums of its voxel: only there is it worth looking which scans have it.
    unclear = np.flatnonzero(np.isnan(total))
    if not len(unclear):
        return out
    held = chosen(Y, range(len(Y)), unclear)
    out.n[unclear] -= np.isnan(held).view(np.uint8).sum(axis=0, dtype=np.int32)
    short = out.n[unclear] < len(Y)  # of the others an infinity made the NaN
    lacking = unclear[short]
    out.df[lacking] = 0
    for has, columns in patterns(held[:, short]):
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
        _fill(out, voxels, chosen(Y, np.flatnonzero(has), voxels), part)
    return out


def chosen(Y: np.ndarray, rows: Iterable[int], columns: np.ndarray) -> np.ndarray:
    """Some columns of some rows, row by row: a third of the time of indexing both at once."""
    kept = list(rows)
    out = np.empty((len(kept), len(columns)), Y.dtype)
    for place, row in zip(out, kept, strict=True):
        np.take(Y[row], columns, out=place, mode="clip")  # they lie inside; "raise" would buffer
    return out


def patterns(Y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group voxels by the scans that have them: ``(n,)`` bool and the columns, a pair for each pattern."""
    bits = np.packbits(~np.isnan(Y), axis=0).T
    rows = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1]))).reshape(-1)
    found, member = np.unique(rows, return_inverse=True)
    order = np.argsort(member, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member, minlength=len(found)))[:-1])
    return [(~np.isnan(Y[:, columns[0]]), columns) for columns in groups]


def _fill(out: Fits, place: slice | np.ndarray, Y: np.ndarray, factors: Factors) -> np.ndarray:
    """Fit voxels as if all these scans had them, put them in their place and give their sums of squares."""
    (n, v), k = Y.shape, factors.weights.shape[1]
    wanted = np.hstack([factors.weights, *factors.joint])
    combined, robust = np.empty((wanted.shape[1], v)), np.empty((k, v))
    left, total, mean = np.empty(v), np.empty(v), np.empty(v)
    lane = NEAR_BYTES // (8 * n) // LANES[0] * LANES[0]
    lane = min(max(lane, LANES[0]), LANES[1])
    _project(_plain(Y), factors.Q, factors.robust, factors.constant, wanted, lane, combined, robust, left, total, mean)  # fmt: skip
    flat = left <= FLAT * total
    state = np.where(flat, np.where(total == 0, CONSTANT, EXPLAINED), FITTED).astype(np.uint8)
    good = state == FITTED
    variance = np.where(good, left, np.nan) / factors.df
    sigma = np.sqrt(variance)
    estimate = np.where(good, combined[:k], np.nan)
    se = factors.scale[:, None] * sigma
    t, hc3_t = estimate / se, estimate / np.sqrt(np.where(good, robust, np.nan))
    out.estimate[:, place] = estimate
    out.se[:, place] = se
    out.t[:, place] = t
    out.p[:, place] = student.two_sided(t, factors.df)
    out.hc3_t[:, place] = hc3_t
    out.hc3_p[:, place] = student.two_sided(hc3_t, factors.df)
    start = k
    for row, basis in enumerate(factors.joint):
        q = basis.shape[1]
        part = np.zeros(v)
        for values in combined[start : start + q]:  # one by one: NumPy adds a lone column in pairs
            part += np.square(values)
        F = part / q / variance
        out.F[row, place] = F
        out.F_p[row, place] = special.fdtrc(q, factors.df, F)
        start += q
    out.sigma[place] = sigma
    out.mean[place] = mean
    out.df[place] = np.where(good, factors.df, 0)
    out.state[place] = state
    return total


def _plain(Y: np.ndarray) -> np.ndarray:
    """Read-only, in C order, float32 or float64: what the compiled loops are made for."""
    wide = np.float32 if Y.dtype == np.float32 else np.float64
    plain = np.ascontiguousarray(Y, wide).view()
    plain.flags.writeable = False
    return plain


@njit(cache=True, nogil=True, error_model="numpy")
def _project(Y, Q, robust, constant, wanted, lane, combined, hc3, left, total, mean):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Combinations of coefficients on Q, HC3 sums, sums of squares of residuals and of the outcome, and its mean.

    Four rows, or four columns, at a time: a sum is loaded and stored once for all of them. Zeros fill the last four.
    """
    n, v = Y.shape
    first_column = 1 if constant else 0
    r, k = Q.shape[1] - first_column, robust.shape[1]
    rows, columns = (n + 3) // 4 * 4, max(4, (r + 3) // 4 * 4)
    q_all, weight = np.zeros((columns, rows)), np.zeros((k + 1, rows))
    q_all[:r, :n] = Q[:, first_column:].T
    weight[:k, :n] = robust.T
    weight[k, :n] = 1.0
    y, z, own = np.zeros((rows, lane)), np.zeros((columns, lane)), np.empty((k + 1, lane))
    first, middle, squares, plain = np.zeros(lane), np.zeros(lane), np.empty(lane), np.empty(lane)
    for start in range(0, v, lane):
        w = min(lane, v - start)
        if constant:
            first[:w] = Y[0, start : start + w]
        squares[:] = 0
        plain[:] = 0
        z[:r] = 0
        own[:] = 0
        for i in range(n):
            values, shifted = Y[i, start : start + w], y[i]
            for c in range(w):
                shifted[c] = values[c] - first[c]
        for i in range(0, rows, 4):
            y0, y1, y2, y3 = y[i], y[i + 1], y[i + 2], y[i + 3]
            for c in range(w):
                squares[c] += (y0[c] * y0[c] + y1[c] * y1[c]) + (y2[c] * y2[c] + y3[c] * y3[c])
                plain[c] += (y0[c] + y1[c]) + (y2[c] + y3[c])
            for j in range(r):
                _add(w, z[j], q_all[j, i : i + 4], y0, y1, y2, y3)
        if constant:
            for c in range(w):
                middle[c] = plain[c] / n
        for i in range(n):
            e = y[i]
            for j in range(0, columns - 4, 4):
                q0, q1, q2, q3 = q_all[j, i], q_all[j + 1, i], q_all[j + 2, i], q_all[j + 3, i]
                z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
                for c in range(w):
                    e[c] -= (q0 * z0[c] + q1 * z1[c]) + (q2 * z2[c] + q3 * z3[c])
            j = columns - 4
            q0, q1, q2, q3 = q_all[j, i], q_all[j + 1, i], q_all[j + 2, i], q_all[j + 3, i]
            z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
            for c in range(w):
                d = (e[c] - middle[c]) - ((q0 * z0[c] + q1 * z1[c]) + (q2 * z2[c] + q3 * z3[c]))
                e[c] = d * d
        for i in range(0, rows, 4):
            for j in range(k + 1):
                _add(w, own[j], weight[j, i : i + 4], y[i], y[i + 1], y[i + 2], y[i + 3])
        total[start : start + w] = squares[:w]
        left[start : start + w] = own[k, :w]
        mean[start : start + w] = first[:w] + plain[:w] / n
        for m in range(k):
            hc3[m, start : start + w] = own[m, :w]
        for m in range(wanted.shape[1]):
            out = combined[m, start : start + w]
            for c in range(w):
                out[c] = wanted[0, m] * np.sqrt(n) * (first[c] + middle[c]) if constant else 0.0
            for j in range(r):
                weight_j, zj = wanted[first_column + j, m], z[j]
                for c in range(w):
                    out[c] += weight_j * zj[c]


@njit(inline="always")
def _add(w, out, q, y0, y1, y2, y3):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
    for c in range(w):
        out[c] += (q0 * y0[c] + q1 * y1[c]) + (q2 * y2[c] + q3 * y3[c])
