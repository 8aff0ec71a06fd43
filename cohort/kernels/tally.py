"""Small partials of a block that add up exactly: counts, sums of indices, labels present, nearest voxels."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels import components, regions
from cohort.kernels.blocks import TILE, volume

_NOWHERE = np.array([[np.inf, 0.0]])


def voxels(mask: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """How many voxels are True: () int64."""
    del origin, shape
    return np.asarray(np.count_nonzero(mask), np.int64)


def index_sums(mask: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Number of voxels, then the sum of their indices along each axis: (1 + ndim,) int64."""
    del shape
    sums = _index_sums(volume(mask).view(np.uint8))
    n = int(sums[0])
    own = sums[1:][3 - mask.ndim :] + n * np.asarray(origin, np.int64)
    return np.concatenate([[n], own])


@njit(cache=True, nogil=True)
def _index_sums(mask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    sums = np.zeros(4, np.int64)
    for z in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            n = 0
            for x in range(mask.shape[2]):
                n += mask[z, y, x]
            if n == 0:
                continue
            along = 0
            for x in range(mask.shape[2]):
                along += mask[z, y, x] * x
            sums[0] += n
            sums[1] += n * z
            sums[2] += n * y
            sums[3] += along
    return sums


def total(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of exact partials."""
    return np.sum(np.stack(parts), axis=0)


def how_many(found: np.ndarray) -> np.ndarray:
    """Number of labels: () int64."""
    return np.asarray(found.size, np.int64)


def scaled(count: np.ndarray, *, by: float) -> np.ndarray:
    """A count times a number."""
    return count * by


def centre(sums: np.ndarray, *, world: np.ndarray) -> np.ndarray:
    """Mean position, mm, from `index_sums`: (3,) float64, NaN for no voxels. `world` as in `nearest`."""
    if sums[0] == 0:
        return np.full(3, np.nan)
    return world[:, :-1] @ (sums[1:] / sums[0]) + world[:, -1]


def boxed(labels: np.ndarray) -> np.ndarray:
    """An array as one object, for a number of labels that nobody knows beforehand."""
    out = np.empty((), object)
    out[()] = labels
    return out


def labels_present(
    labels: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Labels other than 0, rising: (n,) int64."""
    del origin, shape
    return regions.present(labels)


def union(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of any part, rising."""
    return np.unique(np.concatenate(parts))


def label_sizes(labels: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Label and number of voxels of each label but 0: (n, 2) int64."""
    del origin, shape
    numbers, names = regions.compact(labels)
    count = components.sizes(numbers, names.size - 1)
    there = np.flatnonzero(count)
    return np.stack([names[there], count[there]], axis=1)


def add_sizes(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sizes of the labels of all parts."""
    rows = np.concatenate(parts)
    names, place = np.unique(rows[:, 0], return_inverse=True)
    total = np.zeros(names.size, np.int64)
    np.add.at(total, place, rows[:, 1])
    return np.stack([names, total], axis=1)


def largest(sizes: np.ndarray) -> np.ndarray:
    """Label with the most voxels, of equals the lowest: () float64, NaN if there is none."""
    return np.asarray(sizes[np.argmax(sizes[:, 1]), 0] if len(sizes) else np.nan, np.float64)


def at(
    labels: np.ndarray, *, origin: Sequence[int], shape: Sequence[int], index: Sequence[int]
) -> np.ndarray:
    """Label of the voxel at `index` of the whole array, if the block holds it: (1,) or (0,) int64."""
    del shape
    local = tuple(i - o for i, o in zip(index, origin, strict=True))
    inside = all(0 <= i < n for i, n in zip(local, labels.shape, strict=True))
    return np.array([labels[local]] if inside else [], np.int64)


def object_at(found: np.ndarray, *, place: str) -> np.ndarray:
    """Label that `at` found: () float64."""
    if found[0] == 0:
        raise ValueError(
            f"no object at {place}: the voxel there is background; nearest_mm takes the nearest object"
        )
    return np.asarray(found[0], np.float64)


def nearest(
    labels: np.ndarray,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    world: np.ndarray,
    point: np.ndarray,
) -> np.ndarray:
    """Squared distance, mm2, of the labelled voxel nearest to a point, and its label: (1, 2) float64.

    ``world`` is the (3, ndim + 1) matrix from voxel indices along the array's axes, and 1, to mm.
    """
    del shape
    best = _NOWHERE
    for start in range(0, labels.shape[0], TILE):
        part = labels[start : start + TILE]
        where = np.argwhere(part != 0)
        if len(where):
            index = where + np.array([origin[0] + start, *origin[1:]])
            squared = ((index @ world[:, :-1].T + (world[:, -1] - point)) ** 2).sum(axis=1)
            closest = squared == squared.min()
            best = closer([best, np.array([[squared.min(), part[tuple(where[closest].T)].min()]])])
    return best


def nearest_label(best: np.ndarray) -> np.ndarray:
    """Label that `nearest` found, () float64; NaN if there is no object."""
    return np.asarray(best[0, 1] if np.isfinite(best[0, 0]) else np.nan, np.float64)


def closer(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The nearer of several, of equals the lower label."""
    rows = np.concatenate(parts)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))[:1]]
