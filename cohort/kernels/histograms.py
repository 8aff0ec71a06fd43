"""How often which values occur in a block. Counts are whole numbers, so any number of blocks adds up to the same.

A **bin** holds its lower edge and not its upper one; the last holds both, as in `numpy.histogram`. Values are compared with
edges as float64. NaN and what lies beyond the edges is in no bin.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels import regions
from cohort.kernels.blocks import volume

_EVERYTHING = np.empty(0, np.uint8)
_EVERYTHING.flags.writeable = False
_ONE_ROW = np.array([-1, 0])


def is_small(dtype: np.dtype) -> bool:
    """Whether there are so few values of a dtype (integers of 16 bits, bool) that each can have a counter."""
    return dtype.kind in "biu" and dtype.itemsize <= 2


def edges_between(low: float, high: float, bins: int, dtype: np.dtype | type) -> np.ndarray:
    """Edges of bins of equal width, as `numpy.histogram` puts them for an image of `dtype` from `low` to `high`.

    float32 images have float32 edges, unless these would fall together; others have float64 edges. Equal ends are moved
    apart by 1.

    Returns
    -------
    (bins + 1,) float32 or float64 array
    """
    if low == high:
        low, high = low - 0.5, high + 0.5
    if np.dtype(dtype) in (np.float32, np.float16):
        edges = np.linspace(np.float32(low), np.float32(high), bins + 1, dtype=np.float32)
        if (edges[1:] > edges[:-1]).all():
            return edges
    return np.linspace(float(low), float(high), bins + 1)


def bins_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of each value, -1 for none: int64."""
    exact = values.astype(np.float64)
    found = np.searchsorted(edges, exact, side="right") - 1
    found[exact == edges[-1]] = edges.size - 2
    found[(found > edges.size - 2) | np.isnan(exact)] = -1
    return found


def counts(
    image: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    edges: np.ndarray,
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """How many voxels are in each bin.

    Parameters
    ----------
    labels : block of bool or integers, optional
        Where to count; None: everywhere.
    edges : (bins + 1,) float64 array, rising
    numbers : (n,) int64, rising, optional
        Labels to tell apart. None: all but 0 together.

    Returns
    -------
    (n or 1, bins) int64 array
    """
    del origin, shape
    values = volume(image).reshape(-1)
    groups, rows = groups_of(labels, numbers)
    out = np.zeros((1 if numbers is None else numbers.size, edges.size - 1), np.int64)
    if not is_small(values.dtype):
        _count_between(values, edges, _scale(edges), groups, rows, out)
        return out
    low, high = int(values.min()), int(values.max())
    bin_of_value = bins_of(np.arange(low, high + 1), edges)
    if groups.size:
        _count_values(values, low, bin_of_value, groups, rows, out)
    else:
        found = how_often(values, low, high - low + 1)
        inside = bin_of_value >= 0
        np.add.at(out[0], bin_of_value[inside], found[inside])
    return out


def in_order(total: np.ndarray, *, order: np.ndarray | None) -> np.ndarray:
    """Rows of `counts` in another order; None: the only row."""
    return total[0] if order is None else total[order]


def groups_of(
    labels: np.ndarray | None, numbers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Small number of each voxel (nothing if all count), and the row of the counts for each of those, -1 for none."""
    if labels is None:
        return _EVERYTHING, _ONE_ROW
    if labels.dtype == np.bool_:
        return volume(labels).reshape(-1), _ONE_ROW
    small, names = regions.compact(labels)
    if numbers is None:
        rows = np.zeros(names.size, np.int64)
    else:
        rows = np.searchsorted(numbers, names)
        rows[rows == numbers.size] = 0
        rows[numbers[rows] != names] = -1
    rows[0] = -1
    return volume(small).reshape(-1), rows


def _scale(edges: np.ndarray) -> float:
    """Bins per unit; 0 where that is no number."""
    extent = float(edges[-1]) - float(edges[0])
    scale = (edges.size - 1) / extent if extent > 0 else 0.0
    return scale if np.isfinite(scale) else 0.0


@njit(cache=True, nogil=True)
def _bin(v, edges, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Bin of a float64: estimated, then compared with the edges, which decide. -1 for none."""
    n = edges.size - 1
    if not edges[0] <= v <= edges[n]:
        return -1
    at = (v - edges[0]) * scale
    i = 0
    if at >= n:
        i = n - 1
    elif at > 0:
        i = int(at)
    while v < edges[i]:
        i -= 1
    while i < n - 1 and v >= edges[i + 1]:
        i += 1
    return i


@njit(cache=True, nogil=True)
def _count_between(values, edges, scale, groups, rows, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        row = rows[groups[i]] if groups.size else 0
        if row >= 0:
            found = _bin(np.float64(values[i]), edges, scale)
            if found >= 0:
                out[row, found] += 1


@njit(cache=True, nogil=True)
def _count_values(values, low, bin_of_value, groups, rows, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        row = rows[groups[i]]
        if row >= 0:
            found = bin_of_value[np.int64(values[i]) - low]
            if found >= 0:
                out[row, found] += 1


def how_often(values: np.ndarray, low: int, n: int) -> np.ndarray:
    """How often each of the `n` values from `low` occurs: (n,) int64."""
    # Equal neighbours are the rule, and a counter just written is slow to read again: four counters take turns.
    turns = np.zeros((4, n), np.int64)
    _tally_in_turns(values, low, turns)
    return turns.sum(axis=0)


@njit(cache=True, nogil=True)
def _tally_in_turns(values, low, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    n = values.size // 4 * 4
    for i in range(0, n, 4):
        out[0, np.int64(values[i]) - low] += 1
        out[1, np.int64(values[i + 1]) - low] += 1
        out[2, np.int64(values[i + 2]) - low] += 1
        out[3, np.int64(values[i + 3]) - low] += 1
    for i in range(n, values.size):
        out[0, np.int64(values[i]) - low] += 1


def number_dtype(bins: int) -> np.dtype:
    """The smallest dtype for the number of a bin, or for `bins`, which stands for none."""
    return np.min_scalar_type(bins)


def number(
    values: np.ndarray, groups: np.ndarray, edges: np.ndarray, exclude: Sequence[float]
) -> np.ndarray:
    """Bin of each of some values (see `groups_of`); the number of bins for none, and for values of `exclude`."""
    bins = edges.size - 1
    out = np.full(values.size, bins, number_dtype(bins))
    _number(values, groups, edges, _scale(edges), np.asarray(exclude, np.float64), out)
    return out


@njit(cache=True, nogil=True)
def _number(values, groups, edges, scale, exclude, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        if groups.size == 0 or groups[i]:
            v = np.float64(values[i])
            found = _bin(v, edges, scale)
            for e in exclude:
                if v == e:
                    found = -1
            if found >= 0:
                out[i] = found


def value_counts(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """Each value of an integer image and how often it occurs: (n, 2) int64, rising. `tally.add_sizes` adds them up."""
    del origin, shape
    values = volume(image).reshape(-1)
    groups, rows = groups_of(mask, None)
    if is_small(values.dtype):
        low, high = int(values.min()), int(values.max())
        n = high - low + 1
        found = np.zeros((1, n), np.int64)
        if groups.size:
            _count_values(values, low, np.arange(n), groups, rows, found)
        else:
            found[0] = how_often(values, low, n)
        there = np.flatnonzero(found[0])
        return np.stack([there + low, found[0, there]], axis=1)
    taken = values[groups.view(np.bool_)] if groups.size else values
    names, often = np.unique(taken, return_counts=True)
    most = np.iinfo(np.int64).max
    if names.size and int(names[-1]) > most:
        raise ValueError(
            f"the image holds {names[-1]}; whole numbers are counted up to {most}: cast it to float64"
        )
    return np.stack([names.astype(np.int64), often.astype(np.int64)], axis=1)


# The range of the values.


def extent(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """Smallest and largest finite value: (2,) float64; infinite, and the wrong way round, if there is none."""
    del origin, shape
    return np.array(_extent(volume(image).reshape(-1), groups_of(mask, None)[0]))


@njit(cache=True, nogil=True)
def _extent(values, groups):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    low, high = np.inf, -np.inf
    for i in range(values.size):
        if groups.size == 0 or groups[i]:
            v = np.float64(values[i])
            if -np.inf < v < np.inf:
                low, high = min(low, v), max(high, v)
    return low, high


def wider(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Extent of all parts, of one image or (low, high, low, high) of two."""
    ends = np.stack(parts)
    out = ends.min(axis=0)
    out[1::2] = ends[:, 1::2].max(axis=0)
    return out


def bounds(ends: np.ndarray) -> np.ndarray:
    """Extent as it is handed out: NaN if there is none."""
    return np.where(np.isfinite(ends), ends, np.nan)


# Two images.


def joint_extent(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """Extent of `a`, then of `b`, where both are finite: (4,) float64."""
    del origin, shape
    return np.array(
        _joint_extent(volume(a).reshape(-1), volume(b).reshape(-1), groups_of(mask, None)[0])
    )


@njit(cache=True, nogil=True)
def _joint_extent(a, b, groups):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    low_a, high_a, low_b, high_b = np.inf, -np.inf, np.inf, -np.inf
    for i in range(a.size):
        if groups.size == 0 or groups[i]:
            v, w = np.float64(a[i]), np.float64(b[i])
            if -np.inf < v < np.inf and -np.inf < w < np.inf:
                low_a, high_a = min(low_a, v), max(high_a, v)
                low_b, high_b = min(low_b, w), max(high_b, w)
    return low_a, high_a, low_b, high_b


def joint_numbers(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    low_a: float,
    high_a: float,
    low_b: float,
    high_b: float,
    bins: tuple[int, int],
) -> np.ndarray:
    """Number of the pair of bins of each voxel, row by row; -1 for none: int32."""
    out = np.full(a.size, -1, np.int32)
    if low_a <= high_a:
        edges_a = edges_between(low_a, high_a, bins[0], np.float64)
        edges_b = edges_between(low_b, high_b, bins[1], np.float64)
        _joint_numbers(
            volume(a).reshape(-1),
            volume(b).reshape(-1),
            groups_of(mask, None)[0],
            edges_a,
            _scale(edges_a),
            edges_b,
            _scale(edges_b),
            out,
        )
    return out.reshape(a.shape)


@njit(cache=True, nogil=True)
def _joint_numbers(a, b, groups, edges_a, scale_a, edges_b, scale_b, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(a.size):
        if groups.size == 0 or groups[i]:
            row = _bin(np.float64(a[i]), edges_a, scale_a)
            column = _bin(np.float64(b[i]), edges_b, scale_b)
            if row >= 0 and column >= 0:
                out[i] = row * (edges_b.size - 1) + column


def joint_counts(
    number: np.ndarray,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    bins: tuple[int, int],
) -> np.ndarray:
    """How often each number of `joint_numbers` occurs: bins int64."""
    del origin, shape
    found = how_often(volume(number).reshape(-1), -1, bins[0] * bins[1] + 1)
    return found[1:].reshape(bins)
