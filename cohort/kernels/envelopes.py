"""Euclidean distance, axis by axis along whole lines: from a voxel to the nearest one outside of its region.

A pass along an axis turns squared distances within the axes before it into those with this axis too: of all voxels of the
line, the lower envelope of parabolas (Maurer, Qi and Raghavan 2003; Felzenszwalb and Huttenlocher 2012). Squares are added
in the order of the axes and compared as `scipy.ndimage` compares them, so that the bits are SciPy's.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.regions import MAXIMUM, MAXIMUM_AT, N, merge

_LANES = 64
"""Lines side by side of the first pass: a block of these stays in the cache."""
_GATHERED = 8
"""Lines that later passes gather at once: what one cache line holds of each voxel."""


def to_outside(*state: np.ndarray, axis: int, spacing: Sequence[float]) -> tuple[np.ndarray]:
    """One pass of the distance from each voxel of a mask to the nearest voxel that is not in it.

    Parameters
    ----------
    state : one block of one to three axes
        The mask (bool) for axis 0, and what the pass before gave for the others, which is overwritten.
    axis : int
        Along which the block holds whole lines.
    spacing : one float an axis
        In mm.

    Returns
    -------
    one float64 array
        Squared distance in mm2, after the last axis the distance in mm: 0 outside, inf if there is no outside.
    """
    (field,) = state
    if axis == 0:
        return (_first_pass(field, spacing),)
    _next_pass(field, np.empty(0, np.uint8), axis, spacing)
    return (field,)


def to_other_label(
    *state: np.ndarray, axis: int, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """One pass of the distance from each labelled voxel to the nearest one with another label (or none).

    As `to_outside`, but the state is the labels (integers) for axis 0, and then the squares and the labels.
    """
    if axis == 0:
        (labels,) = state
        return _first_pass(labels, spacing), labels
    squared, labels = state
    _next_pass(squared, volume(labels).reshape(-1), axis, spacing)
    return squared, labels


def deepest(
    found: np.ndarray,
    *,
    index: np.ndarray,
    order: np.ndarray,
    shape: Sequence[int],
    world: np.ndarray,
) -> np.ndarray:
    """Largest distance of each label, and where it is, from the `regions.rows` of the distances.

    Returns
    -------
    (n, 4) float64 array
        Distance, then world x, y, z, all in mm; NaN for a label without voxels. Other names as in `regions.table`.
    """
    merged = merge(found, index=index)
    place = np.unravel_index(merged[:, MAXIMUM_AT].astype(np.int64), tuple(shape))
    where = np.stack(place, axis=1) @ world[:, :-1].T + world[:, -1]
    out = np.concatenate([merged[:, [MAXIMUM]], where], axis=1)
    out[merged[:, N] == 0] = np.nan
    return out[order]


def _first_pass(regions: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    out = np.empty(regions.shape, np.float64)
    n = regions.shape[0]
    _nearest(volume(regions).reshape(n, -1), spacing[0], out.reshape(n, -1))
    if regions.ndim == 1:
        np.sqrt(out, out=out)
    return out


def _next_pass(
    squared: np.ndarray, labels: np.ndarray, axis: int, spacing: Sequence[float]
) -> None:
    n, inner = squared.shape[axis], int(np.prod(squared.shape[axis + 1 :]))
    last = axis == squared.ndim - 1
    _sweep(squared.reshape(-1), labels, (n, inner), spacing[axis], last)


@njit(cache=True, nogil=True)
def _nearest(regions: np.ndarray, step: float, out: np.ndarray) -> None:
    """Square of the distance along the first axis to the nearest voxel that differs; 0 where `regions` is."""
    n = out.shape[0]
    for first in range(0, out.shape[1], _LANES):
        last = min(out.shape[1], first + _LANES)
        out[0, first:last] = np.inf
        for i in range(1, n):
            for j in range(first, last):
                out[i, j] = out[i - 1, j] + 1 if regions[i, j] == regions[i - 1, j] else 1.0
        above = np.full(last - first, np.inf)
        for i in range(n - 1, -1, -1):
            if i < n - 1:
                for j in range(first, last):
                    same = regions[i, j] == regions[i + 1, j]
                    above[j - first] = above[j - first] + 1 if same else 1.0
            for j in range(first, last):
                away = min(out[i, j], above[j - first]) * step
                out[i, j] = away * away if regions[i, j] else 0.0


@njit(cache=True, nogil=True)
def _sweep(squared, labels, lines, step, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Pass along an axis of `lines` = (voxels on a line, voxels from one to the next), in place."""
    n, stride = lines
    place, height = np.empty(n + 2, np.int64), np.empty(n + 2)
    gathered, names = np.empty((_GATHERED, n)), np.empty((_GATHERED, n), labels.dtype)
    for outer in range(0, squared.size, n * stride):
        for first in range(outer, outer + stride, _GATHERED):
            many = min(_GATHERED, outer + stride - first)
            for i in range(n):
                for j in range(many):
                    gathered[j, i] = squared[first + i * stride + j]
                    if labels.size:
                        names[j, i] = labels[first + i * stride + j]
            for j in range(many):
                _line(gathered[j], names[j], labels.size > 0, step, last, place, height)
            for i in range(n):
                for j in range(many):
                    squared[first + i * stride + j] = gathered[j, i]


@njit(cache=True, nogil=True)
def _line(line, names, named, step, last, place, height):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One line. Each run of one region is on its own: the voxels at its ends hide all that lies beyond them."""
    stop = 0
    while stop < line.size:
        start = stop
        stop += 1
        if line[start] == 0:
            continue
        while stop < line.size and line[stop] != 0 and not (named and names[stop] != names[start]):
            stop += 1
        n = 0
        if start > 0:
            place[0], height[0] = start - 1, 0.0
            n = 1
        for i in range(start, stop):
            if line[i] < np.inf:
                n = _push(place, height, n, i, line[i], step)
        if stop < line.size:
            n = _push(place, height, n, stop, 0.0, step)
        if n:
            _envelope(line, start, stop, place, height, n, step, last)


@njit(cache=True, nogil=True)
def _push(place, height, n, at, own, step):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Put a parabola on the stack, after taking off those that it and the ones below hide; how many there are then."""
    while n >= 2:
        a = (place[n - 1] - place[n - 2]) * step
        b = (at - place[n - 1]) * step
        c = a + b
        if c * height[n - 1] - b * height[n - 2] - a * own - a * b * c <= 0.0:
            break
        n -= 1
    place[n], height[n] = at, own
    return n + 1


@njit(cache=True, nogil=True)
def _envelope(line, start, stop, place, height, n, step, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Lowest parabola over each voxel of a run."""
    k = 0
    for i in range(start, stop):
        away = (place[k] - i) * step
        now = height[k] + away * away
        while k + 1 < n:
            away = (place[k + 1] - i) * step
            then = height[k + 1] + away * away
            if now <= then:
                break
            now = then
            k += 1
        line[i] = np.sqrt(now) if last else now
