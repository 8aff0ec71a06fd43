"""Bounding boxes of labels: exact, and of any parts in any order."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.regions import compact

_NEVER = np.iinfo(np.int64).max


def boxes(labels: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Label, first voxel and one past the last along each axis, of each label but 0: (n, 1 + 2 ndim) int64."""
    del shape
    numbers, names = compact(labels)
    found = _boxes(volume(numbers), names.size)
    axes = slice(3 - labels.ndim, 3)
    there = np.flatnonzero(found[:, 3] > 0)
    there = there[there > 0]
    low, high = found[there, :3][:, axes], found[there, 3:][:, axes]
    return np.concatenate([names[there, None], low + origin, high + origin], axis=1)


@njit(cache=True, nogil=True)
def _boxes(labels: np.ndarray, n: int) -> np.ndarray:
    out = np.zeros((n, 6), np.int64)
    out[:, :3] = _NEVER
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            x = 0
            while x < nx:
                here, start = labels[z, y, x], x
                while x < nx and labels[z, y, x] == here:
                    x += 1
                if here:
                    box = out[here]
                    box[0], box[3] = min(box[0], z), z + 1
                    box[1], box[4] = min(box[1], y), max(box[4], y + 1)
                    box[2], box[5] = min(box[2], start), max(box[5], x)
    return out


def enclose(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes of the labels of all parts, by rising label."""
    rows = np.concatenate(parts)
    names, place = np.unique(rows[:, 0], return_inverse=True)
    ndim = rows.shape[1] // 2
    out = np.zeros((names.size, rows.shape[1]), np.int64)
    out[:, 1 : 1 + ndim] = _NEVER
    np.minimum.at(out[:, 1 : 1 + ndim], place, rows[:, 1 : 1 + ndim])
    np.maximum.at(out[:, 1 + ndim :], place, rows[:, 1 + ndim :])
    out[:, 0] = names
    return out


def of_labels(found: np.ndarray, *, index: np.ndarray) -> np.ndarray:
    """Boxes of the labels `index`: (n, ndim, 2) int64, start and stop; both 0 for a label without voxels."""
    ndim = found.shape[1] // 2
    out = np.zeros((index.size, ndim, 2), np.int64)
    if len(found):
        row = np.searchsorted(found[:, 0], index).clip(0, len(found) - 1)
        there = found[row, 0] == index
        out[there] = found[row[there], 1:].reshape(-1, 2, ndim).transpose(0, 2, 1)
    return out
