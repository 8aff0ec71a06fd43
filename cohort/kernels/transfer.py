"""Intensities to intensities, voxel by voxel, by a table or a formula that was found in the whole image.

Results are float32 or float64 (`dtype`); arithmetic is float64. What is left out (outside the mask, NaN) stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from scipy.special import ndtr

from cohort.kernels.blocks import volume
from cohort.kernels.histograms import edges_between, groups_of, is_small, number
from cohort.kernels.levels import PARTS, level_codes, level_values

_SLAB = 1 << 16
"""Voxels for which a formula holds float64 values at once."""


def slabs(size: int) -> Iterator[slice]:
    """Pieces of a flat array."""
    return (slice(start, start + _SLAB) for start in range(0, size, _SLAB))


def boxed(item: Any) -> np.ndarray:
    """Anything as an array of one object, so that a reduction can hand it to a kernel as it hands over numbers."""
    out = np.empty((), object)
    out[()] = item
    return out


def boxing(total: np.ndarray, *, finish: Callable[..., np.ndarray], **params: Any) -> np.ndarray:
    """What `finish` makes of a total, boxed."""
    return boxed(finish(total, **params))


# Equalization.


@dataclass(frozen=True)
class Steps:
    """A number for each of some bins."""

    edges: np.ndarray
    values: np.ndarray


def equalizing(total: np.ndarray, *, dtype: np.dtype) -> np.ndarray:
    """Each bin of `levels.binned` to its share of the range, the cumulative share of voxels: boxed `Steps`.

    `dtype` is that of the image.
    """
    low, high = total[:2]
    often = total[2:]
    if not low <= high:
        return boxed(Steps(np.full(often.size + 1, np.nan), np.full(often.size, np.nan)))
    edges = edges_between(low, high, often.size, dtype).astype(np.float64)
    shares = np.cumsum(often) / max(often.sum(), 1)
    return boxed(Steps(edges, low + shares * (high - low)))


def equalized(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    steps: Steps,
    exclude: Sequence[float],
    dtype: np.dtype,
) -> np.ndarray:
    """The number of each voxel's bin; values of `exclude` stay."""
    values, groups = volume(image).reshape(-1), groups_of(mask, None)[0]
    # A bin more, for what is in none.
    table = np.append(steps.values, 0).astype(dtype)
    out = np.empty(values.size, dtype)
    for part in slabs(values.size):
        numbers = number(values[part], groups[part], steps.edges, exclude)
        none = numbers == steps.values.size
        out[part] = np.where(none, values[part], table[numbers])
    return out.reshape(image.shape)


# Matching.


@dataclass(frozen=True)
class Distribution:
    """Values that occur, and how often."""

    numbers: np.ndarray
    """Of each value: itself for whole numbers, else its level."""
    values: np.ndarray
    often: np.ndarray
    ends: tuple[float, float] = (np.nan, np.nan)
    """Of the levels."""


def distribution_of_values(rows: np.ndarray) -> np.ndarray:
    """Boxed `Distribution` of an integer image from its `histograms.value_counts`."""
    return boxed(Distribution(rows[:, 0], rows[:, 0].astype(np.float64), rows[:, 1]))


def distribution_of_levels(total: np.ndarray) -> np.ndarray:
    """Boxed `Distribution` of any image from its `levels.leveled`."""
    if not total[0] <= total[1]:
        return boxed(Distribution(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)))
    return boxed(Distribution(*level_values(total), ends=(total[0], total[1])))


def matched(
    image: np.ndarray, *, source: Distribution, reference: Distribution, dtype: np.dtype
) -> np.ndarray:
    """Each value to that at the same quantile of the reference, NaN if that has no values."""
    values = volume(image)
    if not source.numbers.size:
        return image.astype(dtype)
    if reference.often.size:
        quantiles = np.cumsum(source.often) / source.often.sum()
        known = np.cumsum(reference.often) / reference.often.sum()
        becomes = np.interp(quantiles, known, reference.values)
    else:
        becomes = np.full(source.often.size, np.nan)
    first = int(source.numbers[0])
    table = np.full(int(source.numbers[-1]) - first + 1, np.nan, dtype)
    table[source.numbers - first] = becomes
    flat = values.reshape(-1)
    out = np.empty(values.size, dtype)
    if is_small(values.dtype):
        _looked_up(flat, first, table, out)
        return out.reshape(image.shape)
    low, high = source.ends
    for part in slabs(values.size):
        codes = level_codes(flat[part], low=low, high=high)
        becomes = table[np.maximum(codes // PARTS - first, 0)]
        out[part] = np.where(codes < 0, flat[part], becomes)
    return out.reshape(image.shape)


@njit(cache=True, nogil=True)
def _looked_up(values, first, table, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        out[i] = table[np.int64(values[i]) - first]


# Landmarks.


def percentiles_of_values(rows: np.ndarray, *, at: Sequence[float]) -> np.ndarray:
    """`at_percentiles` of an integer image from its `histograms.value_counts`."""
    return at_percentiles(distribution_of_values(rows).item(), at)


def percentiles_of_levels(total: np.ndarray, *, at: Sequence[float]) -> np.ndarray:
    """`at_percentiles` of any image from its `levels.leveled`."""
    return at_percentiles(distribution_of_levels(total).item(), at)


def at_percentiles(found: Distribution, at: Sequence[float]) -> np.ndarray:
    """Values at percentiles, on a line between the two nearest as in `numpy.percentile`: (n,) float64, NaN of nothing."""
    n = int(found.often.sum())
    if n == 0:
        return np.full(len(at), np.nan)
    place = np.asarray(at, np.float64) / 100 * (n - 1)
    below = np.floor(place).astype(np.int64)
    up_to = np.cumsum(found.often)
    low, high = (
        found.values[np.searchsorted(up_to, np.minimum(k, n - 1), side="right")]
        for k in (below, below + 1)
    )
    return low + (high - low) * (place - below)


def onto_landmarks(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    own: np.ndarray,
    values: Sequence[float],
    dtype: np.dtype,
) -> np.ndarray:
    """Landmarks of the image, `own`, to `values`; others on lines between them, the first and the last line going on.

    Landmarks of one value go to the mean of theirs. ValueError if all are one.
    """
    if np.isnan(own).any():
        return image.astype(dtype)
    known, which = np.unique(own, return_inverse=True)
    if known.size < 2:
        raise ValueError(
            f"the image is {known[0]:g} at every landmark, so nothing says how wide its scale is: give a mask that leaves "
            "out the background"
        )
    becomes = np.bincount(which, weights=values) / np.bincount(which)
    slopes = np.diff(becomes) / np.diff(known)

    def line(v: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(known, v, side="right") - 1, 0, slopes.size - 1)
        return becomes[i] + (v - known[i]) * slopes[i]

    return _by_slab(line, image, mask, dtype)


# Formulas.


def stretched(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    mean: float,
    std: float,
    width: float,
    dtype: np.dtype,
) -> np.ndarray:
    """Normal distribution function of each value; 0.5 where all are equal."""
    scale = 1.0 if std == 0 else std * width
    return _by_slab(lambda v: ndtr((v - mean) / scale), image, mask, dtype)


def standardized(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    n: float,
    mean: float,
    std: float,
    dtype: np.dtype,
) -> np.ndarray:
    """``(image - mean) / max(std, 1 / sqrt(n))``."""
    # An empty mask has no mean, but no voxel either.
    scale = max(std, 1 / np.sqrt(max(n, 1)))
    return _by_slab(lambda v: (v - mean) / scale, image, mask, dtype)


def _by_slab(
    formula: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    mask: np.ndarray | None,
    dtype: np.dtype,
) -> np.ndarray:
    """A formula inside a mask, with float64 values for no more than a slab at a time."""
    values = volume(image).reshape(-1)
    inside = None if mask is None else volume(mask).reshape(-1).view(np.bool_)
    out = np.empty(values.size, dtype)
    for part in slabs(values.size):
        # Infinity less an infinite mean is not a number, as a NaN makes of all: no reason to warn.
        with np.errstate(invalid="ignore"):
            result = formula(values[part].astype(np.float64))
        out[part] = result if inside is None else np.where(inside[part], result, values[part])
    return out.reshape(image.shape)
