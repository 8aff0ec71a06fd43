"""Bins that divide the range of an image, which nobody knows before it has been looked at.

First its `histograms.extent`, then the number of each voxel's bin, then how often each number occurs.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.histograms import (
    edges_between,
    extent,
    groups_of,
    how_often,
    number,
    number_dtype,
    wider,
)

LEVELS = 1 << 16
"""Bins in which floating-point values are told apart where each value would count."""

PARTS = 1 << 15
"""Steps within a level that its mean is known to; steps of all levels fit a positive int32."""
_LAST = LEVELS * PARTS - 1


def bin_numbers(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    low: float,
    high: float,
    bins: int,
    exclude: Sequence[float] = (),
) -> np.ndarray:
    """Bin of each voxel between `low` and `high`; `bins` for no bin, outside the mask, and for values of `exclude`."""
    values = volume(image).reshape(-1)
    if not low <= high:
        return np.full(image.shape, bins, number_dtype(bins))
    edges = edges_between(low, high, bins, values.dtype).astype(np.float64)
    return number(values, groups_of(mask, None)[0], edges, exclude).reshape(image.shape)


def binned(
    image: np.ndarray,
    numbers: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    bins: int,
) -> np.ndarray:
    """Extent of the image, then how often each number of `bin_numbers` occurs: (2 + bins,) float64 of whole counts."""
    found = how_often(volume(numbers).reshape(-1), 0, bins + 1)
    return np.concatenate([extent(image, mask, origin=origin, shape=shape), found[:-1]])


def add_binned(parts: Sequence[np.ndarray]) -> np.ndarray:
    """`binned`, or `leveled`, of all parts."""
    found = np.stack(parts)
    return np.concatenate([wider(list(found[:, :2])), found[:, 2:].sum(axis=0)])


# Levels: bins so fine, with means of their own, that they stand for the values themselves.


def level_codes(
    image: np.ndarray, mask: np.ndarray | None = None, *, low: float, high: float
) -> np.ndarray:
    """Where each voxel lies between `low` and `high`, in steps of 2**-31 of that: int32, -1 outside the mask or the range."""
    values = volume(image)
    out = np.full(values.size, -1, np.int32)
    if low <= high:
        _level_codes(values.reshape(-1), groups_of(mask, None)[0], low, high, out)
    return out.reshape(image.shape)


@njit(cache=True, nogil=True)
def _code_at(v, low, high):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Code of a float64 that lies between `low` and `high`."""
    part = (v - low) / (high - low) if high > low else 0.0
    return int(part * _LAST + 0.5)


@njit(cache=True, nogil=True)
def _level_codes(values, groups, low, high, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        if groups.size == 0 or groups[i]:
            v = np.float64(values[i])
            if low <= v <= high:
                out[i] = _code_at(v, low, high)


def leveled(
    image: np.ndarray,
    code: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """Extent of the image, then how often each level occurs, then the sums of steps within each: float64 of whole numbers."""
    found = np.zeros((2, LEVELS), np.int64)
    _leveled(volume(code).reshape(-1), found)
    return np.concatenate([extent(image, mask, origin=origin, shape=shape), found.reshape(-1)])


@njit(cache=True, nogil=True)
def _leveled(codes, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(codes.size):
        if codes[i] >= 0:
            level = codes[i] // PARTS
            out[0, level] += 1
            out[1, level] += codes[i] % PARTS


def level_values(total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the levels that occur in `leveled`: their numbers, the mean of the values in each, how often each occurs.

    A mean is known to 2**-32 of the range; a level that holds one value is that value to as much.
    """
    low, high = total[:2]
    often, steps = total[2:].reshape(2, LEVELS)
    there = np.flatnonzero(often)
    code = there * float(PARTS) + steps[there] / often[there]
    return there, low + code / _LAST * (high - low), often[there].astype(np.int64)
