"""Fewer, larger voxels: one for each block of them."""

import itertools
from collections.abc import Sequence

import numpy as np


def block_mean(image: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """Mean of each block of `by` voxels along each axis (1 or 2), of as many as there are at the edge.

    Integers are rounded to the nearest, halves to even; sums are in float64.
    """
    parts = _parts(image, by)
    total = parts[0].astype(np.float64)
    for part in parts[1:]:
        total += part
    total /= len(parts)
    if image.dtype.kind in "iu":
        # float64 does not hold the last integers of 64 bits.
        limits = np.iinfo(image.dtype)
        rounded = np.rint(total)
        kept = np.clip(rounded, float(limits.min), np.nextafter(float(limits.max) + 1, 0))
        return kept.astype(image.dtype)
    return total.astype(image.dtype)


def block_mode(labels: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """Most frequent value of each block; of several, the one that comes first in it."""
    parts = _parts(labels, by)
    best = parts[0].copy()
    most = np.zeros(best.shape, np.int8)
    for part in parts:
        often = np.zeros(best.shape, np.int8)
        for other in parts:
            often += part == other
        better = often > most
        best[better], most[better] = part[better], often[better]
    return best


def _parts(array: np.ndarray, by: Sequence[int]) -> list[np.ndarray]:
    """Voxels of equal place within their blocks; at an odd edge the last one stands for the one that is not there."""
    pad = [(0, -n % f) for n, f in zip(array.shape, by, strict=True)]
    even = np.pad(array, pad, mode="edge") if any(p for _, p in pad) else array
    return [
        even[tuple(slice(s, None, f) for s, f in zip(start, by, strict=True))]
        for start in itertools.product(*(range(f) for f in by))
    ]
