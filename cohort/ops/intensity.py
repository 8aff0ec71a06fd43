"""Intensities: how they are distributed, and other scales for them.

Counts are exact, sums are added over the canonical tiles, and transforms look at one voxel at a time: the same numbers for
any chunking. What has to see the whole image before it can change a voxel is lazy all the same. Transformed images are
float32; float64 if the image is float64 or has integers of 32 bits or more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import transfer, whitening
from cohort.kernels.histograms import is_small
from cohort.ops import graph, measure
from cohort.ops.histograms import cdf, histogram, joint_histogram, quantile, whole_bins
from cohort.ops.landmarks import Landmarks, fit_landmarks, normalize, percentiles
from cohort.ops.layout import check_image, image_and_mask, layout_of, unit_of
from cohort.ops.levels import count_bins, count_levels, count_values

__all__ = [
    "Landmarks",
    "cdf",
    "equalize",
    "fit_landmarks",
    "gaussian_stretch",
    "histogram",
    "joint_histogram",
    "match",
    "normalize",
    "percentiles",
    "quantile",
    "standardize",
    "whiten",
    "whiten_contrast",
]


def equalize(
    image: xr.DataArray,
    *,
    bins: int = 256,
    exclude: Sequence[float] = (),
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Spread the values so that every part of the range is used by as many voxels.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    bins : int, >= 1
        Steps between the smallest and the largest value, and so different values in the result.
    exclude : floats
        Values, such as 0 and 255, that are not counted and not changed. They still belong to the range.
    mask : DataArray, bool, optional
        On the grid of `image`. Only what is inside counts and changes. None: everywhere.

    Returns
    -------
    DataArray, shape of `image`, float32 or float64
        In the image's unit and within its range. Coordinates, chunks and attributes of `image`. What is excluded,
        outside the mask, NaN or infinite has its old value, to the bit. Nothing is computed if image or mask are lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, there is less than one bin, or a value to exclude is NaN.

    Notes
    -----
    Equals ``low + cdf[bin] * (high - low)`` with the extremes of the image (in the mask), the bins of
    ``numpy.histogram(image, bins)`` and the cumulative share of the voxels that count. For uint8 images from 0 to 255
    that is ``cdf[image] * 255``.

    Examples
    --------
    >>> image = xr.DataArray([[0, 1, 2, 100]], dims=("y", "x"))
    >>> equalize(image).values.tolist()
    [[25.0, 50.0, 75.0, 100.0]]
    >>> equalize(image, exclude=[0, 100]).values.tolist()
    [[0.0, 50.0, 100.0, 100.0]]
    """
    n_bins = whole_bins(bins)
    left_out = tuple(float(v) for v in exclude)
    if any(math.isnan(v) for v in left_out):
        raise ValueError(
            f"exclude is {list(left_out)}; NaN is never changed and cannot be excluded"
        )
    arrays = image_and_mask(image, mask)
    steps = count_bins(
        arrays,
        bins=n_bins,
        exclude=left_out,
        finish=transfer.equalizing,
        finish_params={"dtype": image.dtype.newbyteorder("=")},
        units=unit_of(image),
        dtype=object,
    )
    dtype = _real(image.dtype)
    return graph.map_points(
        transfer.equalized,
        arrays,
        dtype=dtype,
        numbers={"steps": steps},
        params={"exclude": left_out, "dtype": dtype},
    )


def gaussian_stretch(
    image: xr.DataArray, *, width: float = 1.0, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Put each value where it stands in the normal distribution with the image's mean and spread.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    width : float, > 0
        Standard deviation of that distribution, in standard deviations of the image: wider keeps more of the tails apart.
    mask : DataArray, bool, optional
        On the grid of `image`. Only what is inside counts and changes. None: everywhere.

    Returns
    -------
    DataArray, shape of `image`, float32 or float64, unit 1
        Between 0 and 1, and 0.5 for the mean; 0.5 everywhere if all values are equal. Outside the mask are the old values.
        Coordinates, chunks and attributes (but the unit) of `image`. A NaN that counts makes all NaN. Nothing is
        computed if image or mask are lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, or the width is not a finite number above 0.

    Notes
    -----
    Equals ``scipy.stats.norm(mean, width * std).cdf(image)``, with `measure.mean_in` and `measure.std_in`.
    """
    if not 0 < width < math.inf:
        raise ValueError(
            f"width is {width}, expected a finite number above 0 of standard deviations"
        )
    return _by_numbers(
        transfer.stretched,
        image_and_mask(image, mask),
        mean=measure.mean_in(image, mask=mask),
        std=measure.std_in(image, mask=mask),
        width=float(width),
    )


def standardize(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Shift and scale the values to mean 0 and standard deviation 1.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mask : DataArray, bool, optional
        On the grid of `image`. Only what is inside counts and changes. None: everywhere.

    Returns
    -------
    DataArray, shape of `image`, float32 or float64, unit 1
        Outside the mask are the old values. Coordinates, chunks and attributes (but the unit) of `image`. A NaN that
        counts makes all NaN. Nothing is computed if image or mask are lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool.

    Notes
    -----
    Equals ``(image - mean) / max(std, 1 / sqrt(n))``: the second bound keeps a constant image at 0. The
    parameters are measurements of their own, `measure.mean_in`, `measure.std_in` and `measure.n_voxels`; attributes
    cannot hold what is not computed yet.
    """
    arrays = image_and_mask(image, mask)
    space = layout_of("image", image).space
    return _by_numbers(
        transfer.standardized,
        arrays,
        n=math.prod(image.sizes[d] for d in space) if mask is None else measure.n_voxels(mask),
        mean=measure.mean_in(image, mask=mask),
        std=measure.std_in(image, mask=mask),
    )


def _by_numbers(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    **numbers: float | xr.DataArray,
) -> xr.DataArray:
    """A formula of the image and of numbers measured in it; what it gives has no unit."""
    dtype = _real(arrays["image"].dtype)
    result = graph.map_points(kernel, arrays, dtype=dtype, numbers=numbers, params={"dtype": dtype})
    return result.assign_attrs(units="1")


def whiten(features: xr.DataArray, *, epsilon: float = 1e-5) -> xr.DataArray:
    """Make several contrasts of one scan uncorrelated and of unit variance, and otherwise as they were (ZCA).

    Parameters
    ----------
    features : DataArray, shape (feature, ..., z, y, x), any real dtype
        Contrasts on one grid, for example ``xr.concat([t1, t2], dim="feature")``.
    epsilon : float, >= 0
        Added to each variance before its root divides, in squared units of the features.

    Returns
    -------
    DataArray, shape of `features`, float32 or float64, unit 1
        Coordinates, chunks and attributes (but the unit) of `features`. A NaN or infinity anywhere makes all NaN.
        Nothing is computed if `features` is lazy.

    Raises
    ------
    ValueError
        If there is no dim ``feature``, or epsilon is negative or not finite.

    Notes
    -----
    Equals ``U @ diag(1 / sqrt(S + epsilon)) @ U.T @ (x - mean)`` with the eigenvectors and -values of ``numpy.cov`` over
    all voxels (n - 1). Along eigenvectors with S >> epsilon the result has covariance 1, so scale features of tiny
    units first. Directions whose variance is no more than the rounding of the largest are dropped, not blown up. Covariance is
    found in one pass, tile by tile, with the same bits for any chunking.
    """
    layout = layout_of("features", features)
    check_image("features", features)
    if "feature" not in layout.lead:
        raise ValueError(
            f"features has dims {features.dims}, expected a leading dim 'feature': "
            f"xr.concat([t1, t2], dim='feature')"
        )
    epsilon = _small(epsilon)
    images = [features.isel(feature=i, drop=True) for i in range(features.sizes["feature"])]
    parts = _whitened(images, epsilon, _real(features.dtype), range(len(images)))
    result = xr.concat(parts, dim="feature").transpose(*features.dims)
    if features.chunks is not None:
        result = result.chunk(dict(features.chunksizes))
    return features.copy(deep=False, data=result.data).assign_attrs(units="1")


def whiten_contrast(
    a: xr.DataArray,
    b: xr.DataArray,
    c: xr.DataArray | None = None,
    *,
    which: str = "a",
    epsilon: float = 1e-5,
) -> xr.DataArray:
    """Free one image of a scan from what two or three have in common: one of the features that `whiten` gives.

    Parameters
    ----------
    a, b, c : DataArray, shape (..., z, y, x), any real dtype
        On one grid.
    which : {"a", "b", "c"}
        The one to give.
    epsilon : float, >= 0
        As of `whiten`.

    Returns
    -------
    DataArray, shape of the image, float32 or float64, unit 1
        The bits are those of `whiten`. Coordinates, chunks and attributes (but the unit) of `a`. Nothing is computed if an
        image is lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If an image is not real, `which` is none of those given, or epsilon is negative or not finite.
    """
    images = {n: image for n, image in (("a", a), ("b", b), ("c", c)) if image is not None}
    for name, image in images.items():
        check_image(name, image)
    if which not in images:
        raise ValueError(f"which is {which!r}, expected one of {', '.join(images)}")
    dtype = _real(np.result_type(*images.values()))
    row = list(images).index(which)
    return _whitened(list(images.values()), _small(epsilon), dtype, [row])[0]


def _small(epsilon: float) -> float:
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}, expected a finite number of at least 0")
    return float(epsilon)


def _whitened(
    images: Sequence[xr.DataArray], epsilon: float, dtype: np.dtype, rows: Sequence[int]
) -> list[xr.DataArray]:
    """Some of the features made of images."""
    arrays = {f"feature {i}": image for i, image in enumerate(images)}
    transform = graph.reduce_partials(
        whitening.moments,
        arrays,
        gather=np.concatenate,
        finish=whitening.whitening,
        units="1",
        dtype=object,
        tiled=True,
        finish_params={"n_features": len(images), "epsilon": epsilon},
    )
    return [
        graph.map_points(
            whitening.whitened,
            arrays,
            dtype=dtype,
            numbers={"transform": transform},
            params={"row": row, "dtype": dtype},
        ).assign_attrs(units="1")
        for row in rows
    ]


def match(image: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """Give an image the distribution of values of another: each value becomes that at the same quantile.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    reference : DataArray, any real dtype
        On any grid. Leading dims, if any, are those of `image`.

    Returns
    -------
    DataArray, shape of `image`, float32 or float64
        In the reference's unit. Coordinates, chunks and attributes (but the unit) of `image`. NaN and infinity are left
        out and stay; all is NaN if the reference has no finite value. Nothing is computed if either is lazy.

    Raises
    ------
    ValueError
        If either is not real, or the reference has leading dims that the image lacks.

    Notes
    -----
    Equals ``skimage.exposure.match_histograms(image, reference)`` (rounded to the result's dtype) for integers of up to
    16 bits. Other values are told apart in 65,536 levels between the extremes, each with a mean of its own: equal to
    1e-6 of the reference's range where no two values share a level, and else as if the image had been rounded to those.
    """
    source = _distribution("image", image)
    dtype = _real(image.dtype)
    result = graph.map_points(
        transfer.matched,
        {"image": image},
        dtype=dtype,
        numbers={"source": source, "reference": _distribution("reference", reference)},
        params={"dtype": dtype},
    )
    return result.assign_attrs(units=unit_of(reference))


def _distribution(name: str, image: xr.DataArray) -> xr.DataArray:
    check_image(name, image)
    result: dict[str, Any] = {"units": unit_of(image), "dtype": object}
    if is_small(image.dtype):
        return count_values({"image": image}, finish=transfer.distribution_of_values, **result)
    return count_levels({"image": image}, finish=transfer.distribution_of_levels, **result)


def _real(dtype: np.dtype) -> np.dtype:
    """Dtype of a transformed image."""
    narrow = dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if narrow else np.float64)
