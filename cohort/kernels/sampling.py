"""Values of an array between its voxels: nearest, linear, or B-splines of orders 2 to 5 over coefficients of whole lines.

Voxel `o` of the result takes the value at ``matrix @ (o, 1)``, in voxels of the array. The sums are SciPy's, in its order and
in float64, and `o` counts from the start of the whole result, so that the bits are the same for every division into blocks.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.stencils import promoted

SNAP = 1e-6
"""A place that is nearer to a voxel, in voxels, is that voxel: rounding loses no border plane and blurs no whole shift."""

MAX_ORDER = 5

_LANES = 16
"""Lines that are filtered side by side."""

_POLES = {
    2: (-0.17157287525380990,),
    3: (-0.26794919243112271,),
    4: (-0.36134122590022018, -0.013725429297339121),
    5: (-0.43057534709997379, -0.043096288203264654),
}
"""Of the filters that give the coefficients of each order [Unser et al. 1991, doi:10.1109/34.75515]; as their square roots, such
as sqrt(3) - 2, they would lose digits."""


def sampled_dtype(dtype: np.dtype, order: int) -> np.dtype:
    """What samples of an array are: its own values at order 0, else floats that hold them."""
    return np.dtype(dtype) if order == 0 else promoted(np.dtype(dtype))


def coefficients(block: np.ndarray, *, axis: int, order: int) -> tuple[np.ndarray]:
    """B-spline coefficients along whole lines, float64, the array mirrored about its end voxels: the bits of [ndi.spline_filter1d].

    A volume takes a quarter of the time of SciPy, which goes from line to line: a voxel waits for the one before, and along z each
    lies elsewhere in memory.
    """
    found = np.array(block, np.float64, order="C")
    n = found.shape[axis]
    if n > 1 and found.size:
        lines = found.reshape(-1, n, math.prod(found.shape[axis + 1 :]))
        if lines.shape[2] == 1:
            lines = lines.transpose(2, 1, 0)
        poles = _POLES[order]
        gain = math.prod((1 - z) * (1 - 1 / z) for z in poles)
        _filter_lines(lines, np.array([(z, z ** (n - 1)) for z in poles]), gain)
    return (found,)


@njit(cache=True, nogil=True)
def _filter_lines(lines, poles, gain):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Filter the lines along axis 1 by poles, each with its power at the far end; side by side, in a copy that stays in the cache."""
    n = lines.shape[1]
    at = np.zeros((n, _LANES))
    for p in range(lines.shape[0]):
        for first in range(0, lines.shape[2], _LANES):
            here = lines[p, :, first : first + _LANES]
            for i in range(n):
                for j in range(here.shape[1]):
                    at[i, j] = here[i, j] * gain
            for pole, far in poles:
                for j in range(_LANES):
                    at[0, j] += far * at[n - 1, j]
                power = pole
                for i in range(1, n - 1):
                    for j in range(_LANES):
                        at[0, j] += power * (at[i, j] + far * at[n - 1 - i, j])
                    power *= pole
                for j in range(_LANES):
                    at[0, j] /= 1 - far * far
                for i in range(1, n):
                    for j in range(_LANES):
                        at[i, j] += pole * at[i - 1, j]
                for j in range(_LANES):
                    at[n - 1, j] = (pole * at[n - 2, j] + at[n - 1, j]) * pole / (pole * pole - 1)
                for i in range(n - 2, -1, -1):
                    for j in range(_LANES):
                        at[i, j] = pole * (at[i + 1, j] - at[i, j])
            for i in range(n):
                for j in range(here.shape[1]):
                    here[i, j] = at[i, j]


def needed(
    matrix: np.ndarray,
    shape: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    *,
    order: int,
) -> tuple[slice, ...] | None:
    """Part of an array that a block of the result looks at; None if the block lies outside of it.

    Parameters
    ----------
    matrix : (n, n + 1) array
        Voxel of the result, and 1, -> place in the array.
    shape : n ints
        Of the array.
    start, size : n ints
        First voxel of the block in the result, and its voxels along each axis.

    >>> needed(np.array([[1.0, 2.5]]), (10,), (0,), (4,), order=1)
    (slice(1, 8, None),)
    """
    ends = [(s, s + n - 1) for s, n in zip(start, size, strict=True)]
    at = np.array(list(itertools.product(*ends)), float)
    places = at @ matrix[:, :-1].T + matrix[:, -1]
    found = []
    for low, high, n in zip(places.min(axis=0), places.max(axis=0), shape, strict=True):
        if high < -0.5 - SNAP or low > n - 0.5 + SNAP:
            return None
        # One voxel more than the support on each side: for rounding, and for what a mirrored border needs.
        reach = order // 2 + 1
        first = min(max(0, int(np.floor(low)) - reach), n - 1)
        last = max(min(n - 1, int(np.floor(high)) + 1 + reach), 0)
        found.append(slice(first, last + 1))
    return tuple(found)


def sample(
    part: np.ndarray | None,
    *,
    origin: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    shape: Sequence[int],
    matrix: np.ndarray,
    order: int,
    fill: float,
    to_edge: bool,
    dtype: np.dtype,
    moves: np.ndarray | None = None,
) -> np.ndarray:
    """Sample a block of the result.

    Parameters
    ----------
    part : array of 1 to 3 axes or None
        What `needed` gave, of the array itself (orders 0, 1) or of its `coefficients`; None: nothing.
    origin : ints
        First voxel of `part` in the array.
    start, size : ints
        First voxel of the block in the result, and its voxels along each axis.
    shape : ints
        Of the whole array.
    matrix : (n, n + 1) array
        Voxel of the result, and 1, -> place in the array.
    fill : float
        Value outside, which is beyond the centre of the outermost voxels.
    to_edge : bool
        Whether a place beyond those, but in the half voxel around them, has their value.
    dtype
        Of the result.
    moves : (n, *size) float64 array, optional
        How far from there the place is, in voxels of the array; of `part` there has to be more, then.
    """
    if part is None:
        return np.full(tuple(size), fill, dtype)
    n = part.ndim
    three = 3 - n
    full = np.zeros((3, 4))
    full[:three, :three] = np.eye(three)
    full[three:, three:] = matrix
    rim = 0.5 if to_edge else 0.0
    front = (0,) * three
    first, begin = (np.array(front + tuple(a), np.int64) for a in (origin, start))
    whole = np.array((1,) * three + tuple(shape), np.int64)
    offsets = np.zeros((3, 0, 0, 0))
    if moves is not None:
        offsets = np.zeros((3, *(1,) * three, *size))
        offsets[three:] = moves.reshape(n, *offsets.shape[1:])
    source = volume(part)
    # Compiled code knows neither big-endian numbers nor half floats, which come back as they were.
    into = np.empty(
        (1,) * three + tuple(size), source.dtype if order == 0 else dtype.newbyteorder("=")
    )
    if order == 0:
        _nearest(source, first, begin, whole, full, rim, into.dtype.type(fill), offsets, into)
    elif order == 1:
        _linear(source, first, begin, whole, full, rim, float(fill), offsets, into)
    else:
        _SPLINES[order](source, first, begin, whole, full, rim, float(fill), offsets, into)
    out = into.reshape(tuple(size))
    return out.view(np.bool_) if dtype == np.bool_ else out.astype(dtype, copy=False)


@njit(cache=True, nogil=True)
def _row(i, j, start, matrix, moves, whole, rim, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Places of a row of the result, (3, n); below 0 along an axis where they are outside."""
    for axis in range(3):
        base = (matrix[axis, 3] + (start[0] + i) * matrix[axis, 0]) + (start[1] + j) * matrix[
            axis, 1
        ]
        for k in range(at.shape[1]):
            at[axis, k] = base + (start[2] + k) * matrix[axis, 2]
        if moves.size:
            for k in range(at.shape[1]):
                at[axis, k] += moves[axis, i, j, k]
        last = whole[axis] - 1.0
        for k in range(at.shape[1]):
            place = at[axis, k]
            near = np.floor(place + 0.5)
            if abs(place - near) < SNAP:
                place = near
            if rim > 0 and place >= -rim - SNAP and place <= last + rim + SNAP:
                place = min(max(place, 0.0), last)
            at[axis, k] = place if place <= last else -1.0


@njit(cache=True, nogil=True)
def _nearest(source, origin, start, whole, matrix, rim, fill, moves, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    at = np.empty((3, out.shape[2]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _row(i, j, start, matrix, moves, whole, rim, at)
            for k in range(out.shape[2]):
                z, y, x = at[0, k], at[1, k], at[2, k]
                if z < 0 or y < 0 or x < 0:
                    out[i, j, k] = fill
                else:
                    out[i, j, k] = source[
                        int(z + 0.5) - origin[0], int(y + 0.5) - origin[1], int(x + 0.5) - origin[2]
                    ]


@njit(cache=True, nogil=True)
def _linear(source, origin, start, whole, matrix, rim, fill, moves, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    at = np.empty((3, out.shape[2]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _row(i, j, start, matrix, moves, whole, rim, at)
            for k in range(out.shape[2]):
                z, y, x = at[0, k], at[1, k], at[2, k]
                if z < 0 or y < 0 or x < 0:
                    out[i, j, k] = fill
                    continue
                z0, y0, x0 = int(z), int(y), int(x)
                fz, fy, fx = z - z0, y - y0, x - x0
                # On the last voxel there is no next one, and no need of it: its weight is 0.
                z1 = z0 + (fz > 0) - origin[0]
                y1 = y0 + (fy > 0) - origin[1]
                x1 = x0 + (fx > 0) - origin[2]
                z0, y0, x0 = z0 - origin[0], y0 - origin[1], x0 - origin[2]
                low = (1 - fy) * ((1 - fx) * source[z0, y0, x0] + fx * source[z0, y0, x1])
                low += fy * ((1 - fx) * source[z0, y1, x0] + fx * source[z0, y1, x1])
                high = (1 - fy) * ((1 - fx) * source[z1, y0, x0] + fx * source[z1, y0, x1])
                high += fy * ((1 - fx) * source[z1, y1, x0] + fx * source[z1, y1, x1])
                out[i, j, k] = (1 - fz) * low + fz * high


@njit(cache=True, nogil=True)
def _knots(at, n, order, first, weights, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Weights of the B-splines that reach a place (de Boor's recurrence), and where in the part their coefficients lie."""
    knot = np.floor(at) if order & 1 else np.floor(at + 0.5)
    t = at - knot if order & 1 else at - knot + 0.5
    weights[0] = 1.0
    for j in range(1, order + 1):
        saved = 0.0
        for r in range(j):
            share = weights[r] / j
            weights[r] = saved + (r + 1 - t) * share
            saved = (t + j - r - 1) * share
        weights[j] = saved
    begin = int(knot) - order // 2
    for r in range(order + 1):
        i = abs(begin + r)
        if n == 1:
            i = 0
        elif i >= n:
            i %= 2 * (n - 1)
            i = i if i < n else 2 * (n - 1) - i
        places[r] = i - first


def _spline(order: int) -> Callable[..., None]:
    """Sampler of one order: loops of known length take two thirds of the time."""
    taps = order + 1

    @njit(cache=True, nogil=True)
    def spline(source, origin, start, whole, matrix, rim, fill, moves, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        wz, wy, wx = np.empty(6), np.empty(6), np.empty(6)
        pz, py, px = np.empty(6, np.int64), np.empty(6, np.int64), np.empty(6, np.int64)
        at = np.empty((3, out.shape[2]))
        for i in range(out.shape[0]):
            for j in range(out.shape[1]):
                _row(i, j, start, matrix, moves, whole, rim, at)
                for k in range(out.shape[2]):
                    z, y, x = at[0, k], at[1, k], at[2, k]
                    if z < 0 or y < 0 or x < 0:
                        out[i, j, k] = fill
                        continue
                    _knots(z, whole[0], order, origin[0], wz, pz)
                    _knots(y, whole[1], order, origin[1], wy, py)
                    _knots(x, whole[2], order, origin[2], wx, px)
                    total = 0.0
                    for a in range(taps):
                        plane = 0.0
                        for b in range(taps):
                            line = 0.0
                            for c in range(taps):
                                line += wx[c] * source[pz[a], py[b], px[c]]
                            plane += wy[b] * line
                        total += wz[a] * plane
                    out[i, j, k] = total

    return spline


_SPLINES = {order: _spline(order) for order in range(2, MAX_ORDER + 1)}
