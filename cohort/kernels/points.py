"""Voxel by voxel: comparisons as exact as in float64, and the algebra of masks."""

import math

import numpy as np


def between(
    image: np.ndarray, *, above: float | None = None, below: float | None = None
) -> np.ndarray:
    """Whether ``above < image < below``, as if the image were float64; a bound of None is no bound."""
    if above is None and below is None:
        raise ValueError("a threshold needs above, below or both")
    for name, bound in (("above", above), ("below", below)):
        if bound is not None and math.isnan(bound):
            raise ValueError(f"the threshold {name} is NaN: it was measured where nothing is")
    if below is None:
        return _over(image, float(above))  # type: ignore[arg-type]
    under = _under(image, float(below))
    return under if above is None else np.logical_and(under, _over(image, float(above)), out=under)


def _over(image: np.ndarray, bound: float) -> np.ndarray:
    """``image > bound``: the largest number of the image's dtype that is <= bound decides the same."""
    if image.dtype.kind in "iub":
        lowest, highest = _range(image.dtype)
        if not lowest <= bound < highest:
            return np.full(image.shape, bound < lowest)
        return image > _native(math.floor(bound), image.dtype)
    with np.errstate(over="ignore"):
        cut = image.dtype.type(bound)
    return image > (np.nextafter(cut, image.dtype.type(-np.inf)) if float(cut) > bound else cut)


def _under(image: np.ndarray, bound: float) -> np.ndarray:
    """``image < bound``: the smallest number of the image's dtype that is >= bound decides the same."""
    if image.dtype.kind in "iub":
        lowest, highest = _range(image.dtype)
        if not lowest < bound <= highest:
            return np.full(image.shape, bound > highest)
        return image < _native(math.ceil(bound), image.dtype)
    with np.errstate(over="ignore"):
        cut = image.dtype.type(bound)
    return image < (np.nextafter(cut, image.dtype.type(np.inf)) if float(cut) < bound else cut)


def _range(dtype: np.dtype) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _native(bound: int, dtype: np.dtype) -> np.generic:
    return dtype.type(bool(bound) if dtype.kind == "b" else bound)


def intersection(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """True where both are."""
    return np.logical_and(mask, other)


def union(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """True where either is."""
    return np.logical_or(mask, other)


def difference(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """True where `mask` is and `other` is not."""
    return np.greater(mask, other)


def complement(mask: np.ndarray) -> np.ndarray:
    """True where `mask` is not."""
    return np.logical_not(mask)


def inside(image: np.ndarray, mask: np.ndarray, *, fill: float) -> np.ndarray:
    """The image where `mask` is, `fill` elsewhere, in the image's dtype."""
    return np.where(mask, image, image.dtype.type(fill))


def equal(labels: np.ndarray, *, number: float) -> np.ndarray:
    """Whether a label is `number`; what the labels' dtype cannot hold, as NaN, is no label."""
    low, high = _range(labels.dtype)
    if not low <= number <= high:
        return np.zeros(labels.shape, bool)
    return labels == labels.dtype.type(number)


def averaged(
    mean: np.ndarray, weight: np.ndarray, image: np.ndarray, *, share: float
) -> np.ndarray:
    """Mean of images so far, `weight` in all, and of one more that weighs `share`; NaN as long as none counts."""
    counts = ~np.isnan(image) if image.dtype.kind == "f" else np.ones(image.shape, bool)
    total = weight + share
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(weight == 0, image, mean + (image - mean) * (share / total))
    known = np.where(weight == 0, np.nan, mean)
    return np.where(counts & (share > 0), moved, known)


def weighed(weight: np.ndarray, image: np.ndarray, *, share: float) -> np.ndarray:
    """`weight`, and `share` where the image is not NaN."""
    return weight + share * ~np.isnan(image) if image.dtype.kind == "f" else weight + share
