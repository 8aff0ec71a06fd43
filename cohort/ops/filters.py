"""Filters: Gaussians, medians and other ranks, means, derivatives. Equal to `scipy.ndimage` for every chunking.

Lengths are in voxels unless a name ends in ``_mm``. A length is one number, for every spatial dim, or ``{dim: number}``, for
the dims named and no other; a dim such as ``time`` is filtered along only if it is named, in frames.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import rankfilters, stencils
from cohort.ops.layout import check_image, check_mask, layout_of
from cohort.ops.windows import (
    Extent,
    at_once,
    box,
    by_axis,
    check_mode,
    gaussian_extent,
    stencil,
    weights_box,
)


def gaussian(
    image: xr.DataArray,
    *,
    sigma_mm: float | Mapping[str, float] | None = None,
    fwhm_mm: float | Mapping[str, float] | None = None,
    sigma: float | Mapping[str, float] | None = None,
    truncate: float = 4.0,
    mode: str = "reflect",
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Smooth an image with a Gaussian, isotropic in millimetres or given in voxels.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    sigma_mm, fwhm_mm, sigma : float or {dim: float}, >= 0
        Exactly one of them: standard deviation in mm, full width at half maximum in mm, or standard deviation in
        voxels. 0 leaves a dim as it is.
    truncate : float, > 0
        Radius at which the kernel is cut, in standard deviations.
    mode : reflect, nearest, mirror, constant or wrap
        What lies beyond the border, as in `scipy.ndimage`; constant is 0.
    mask : DataArray, shape (..., z, y, x), bool, optional
        On the grid of `image`. Only voxels inside count, and only they change: each becomes the weighted mean of those
        inside (normalised convolution), so a constant stays constant up to the edge. Outside, the image is kept.

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 for float64 and integers of over 16 bits)
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    GridError
        If a width is in mm and a coordinate is missing or irregular, or the mask is on another grid.
    ValueError
        If not exactly one width is given, it is negative or not finite or names a dim that the image lacks, truncate is
        not positive, or the mode is unknown.

    Notes
    -----
    Equals ``scipy.ndimage.gaussian_filter(image.astype(result dtype), sigma)`` to the bit. With a mask, where G is that filter
    in float64, it equals ``where(mask, G(where(mask, image, 0)) / G(mask), image)``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> voxel = np.zeros((5, 5, 5), np.float32); voxel[2, 2, 2] = 1
    >>> mm = {d: 2.0 * np.arange(5) for d in "zyx"}
    >>> image = xr.DataArray(voxel, coords=mm, dims=list("zyx")).chunk()
    >>> round(float(gaussian(image, sigma_mm=2.0)[2, 2, 2]), 3)
    0.063
    """
    check_image("image", image)
    check_mode(mode)
    given = {"sigma_mm": sigma_mm, "fwhm_mm": fwhm_mm, "sigma": sigma}
    extent = gaussian_extent(image, given, truncate)
    params: dict[str, Any] = {
        "mode": mode,
        "dtype": stencils.promoted(image.dtype),
        "truncate": truncate,
    }
    if mask is None:
        return by_axis(stencils.gaussian, image, extent, **params)
    check_mask("mask", mask)
    space = layout_of("image", image).space
    if frames := [d for d in extent.reach if d not in space]:
        raise ValueError(
            f"with a mask only spatial dims are smoothed, but sigma is {extent.values[frames[0]]} along {frames[0]!r}"
        )
    params["sigma"] = extent.along(space)
    return stencil(stencils.gaussian_inside, image, extent.reach, mask=mask, **params)


def uniform(
    image: xr.DataArray, *, size: int | Mapping[str, int], mode: str = "reflect"
) -> xr.DataArray:
    """Mean over a box.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    size : int or {dim: int}, >= 1
        Edge of the box in voxels. A box of even size reaches one voxel further back than forward, as in SciPy.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 for float64 and integers of over 16 bits)
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the size is no whole number of at least 1 or names a dim that the image lacks, or the mode is unknown.

    Notes
    -----
    Equals ``scipy.ndimage.uniform_filter`` within 1e-12 of the mean absolute value in float64, 1e-5 in float32: SciPy keeps a
    running sum, whose last bits depend on where the array begins. Ours adds alike everywhere, so that its bits
    are the same for every chunking.
    """
    check_image("image", image)
    check_mode(mode)
    dtype = stencils.promoted(image.dtype)
    return by_axis(stencils.uniform, image, box(image, size), mode=mode, dtype=dtype)


def minimum(
    image: xr.DataArray, *, size: int | Mapping[str, int], mode: str = "reflect"
) -> xr.DataArray:
    """Smallest value in a box.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    size : int or {dim: int}, >= 1
        As in `uniform`.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape and dtype of `image`
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        As `uniform`; and, when computed, if the image holds NaN, which has no rank.

    Notes
    -----
    Equals ``scipy.ndimage.minimum_filter``.
    """
    return _extreme(image, size, mode, largest=False)


def maximum(
    image: xr.DataArray, *, size: int | Mapping[str, int], mode: str = "reflect"
) -> xr.DataArray:
    """Largest value in a box.

    Parameters, returns and refusals (ValueError; see Raises there) as of `minimum`. Equals ``scipy.ndimage.maximum_filter``.
    """
    return _extreme(image, size, mode, largest=True)


def _extreme(
    image: xr.DataArray, size: int | Mapping[str, int], mode: str, *, largest: bool
) -> xr.DataArray:
    check_image("image", image)
    check_mode(mode)
    extent, dtype = box(image, size), image.dtype
    return by_axis(rankfilters.extreme, image, extent, mode=mode, dtype=dtype, largest=largest)


def median(
    image: xr.DataArray, *, size: int | Mapping[str, int], mode: str = "reflect"
) -> xr.DataArray:
    """Median in a box; of an even number of voxels, the larger of the two in the middle.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    size : int or {dim: int}, >= 1
        As in `uniform`. At most three dims may be over 1.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape and dtype of `image`
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        As `minimum`.

    Notes
    -----
    Equals ``scipy.ndimage.median_filter``.
    """
    check_image("image", image)
    extent = box(image, size)
    return _rank(image, extent, math.prod(extent.along(image.dims)) // 2, mode)


def percentile(
    image: xr.DataArray,
    *,
    size: int | Mapping[str, int],
    percentile: float,
    mode: str = "reflect",
) -> xr.DataArray:
    """Value in a box below which a share of its voxels lie.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    size : int or {dim: int}, >= 1
        As in `uniform`. At most three dims may be over 1.
    percentile : float, 0 to 100
        Of n sorted values that with index ``int(n * percentile / 100)`` is taken, and at 100 the last.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape and dtype of `image`
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        As `minimum`, or if the percentile is not between 0 and 100.

    Notes
    -----
    Equals ``scipy.ndimage.percentile_filter``.
    """
    check_image("image", image)
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}, expected a number from 0 to 100")
    extent = box(image, size)
    n = math.prod(extent.along(image.dims))
    return _rank(image, extent, min(n - 1, int(float(n) * percentile / 100.0)), mode)


def _rank(image: xr.DataArray, extent: Extent, rank: float, mode: str) -> xr.DataArray:
    check_mode(mode)
    return at_once(rankfilters.select, image, extent, mode=mode, dtype=image.dtype, rank=int(rank))


def convolve(image: xr.DataArray, *, weights: Any, mode: str = "reflect") -> xr.DataArray:
    """Convolve an image with weights.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    weights : array-like of real numbers, one axis a spatial dim of the image
        A kernel within planes has one voxel along z: ``[[[0, 1, 0], [1, 4, 1], [0, 1, 0]]]``.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 for float64 and integers of over 16 bits)
        The image's unit times that of the weights; integers never wrap, and results may be negative. Coordinates,
        attributes and chunks of `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the weights are not finite, are empty, or have not one axis for each spatial dim, or the mode is unknown.

    Notes
    -----
    Equals ``scipy.ndimage.convolve(image.astype(result dtype), weights)`` to the bit.
    """
    check_image("image", image)
    kernel = np.array(weights, np.float64)
    space = layout_of("image", image).space
    if kernel.ndim != len(space) or kernel.size == 0:
        raise ValueError(
            f"weights have shape {kernel.shape}, expected {len(space)} axes, one for each of {', '.join(space)}"
        )
    if not np.isfinite(kernel).all():
        raise ValueError(
            f"weights hold {np.count_nonzero(~np.isfinite(kernel))} that are not finite"
        )
    check_mode(mode)
    reach, dtype = weights_box(image, kernel.shape).reach, stencils.promoted(image.dtype)
    return stencil(stencils.convolve, image, reach, mode=mode, dtype=dtype, weights=kernel)


def sharpen(image: xr.DataArray, *, mode: str = "reflect") -> xr.DataArray:
    """Strengthen what differs from its surroundings; a constant stays as it is.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 for float64 and integers of over 16 bits)
        Same unit, coordinates, attributes and chunks as `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mode is unknown.

    Notes
    -----
    Equals `convolve` with -1 for every neighbour and, for the voxel itself, 9 in a plane and 27 in space.
    """
    check_image("image", image)
    space = layout_of("image", image).space
    return convolve(image, weights=stencils.sharpening(len(space)), mode=mode)


def sobel(image: xr.DataArray, *, dim: str, mode: str = "reflect") -> xr.DataArray:
    """Derivative along one spatial dim, smoothed along the others.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    dim : z, y or x
        Dim along which the image is differentiated.
    mode : reflect, nearest, mirror, constant or wrap
        As in `gaussian`.

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 for float64 and integers of over 16 bits)
        In the image's unit per voxel, times 2 for the difference of two neighbours and 4 for each dim smoothed: an image that
        rises by 1 a voxel gives 32 in space and 8 in a plane. Not per mm, whatever the spacing. Coordinates, attributes
        and chunks of `image`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If `dim` is no spatial dim of the image, or the mode is unknown.

    Notes
    -----
    Equals ``scipy.ndimage.sobel(image.astype(result dtype), axis)`` to the bit.
    """
    check_image("image", image)
    space = layout_of("image", image).space
    if dim not in space:
        raise ValueError(f"dim is {dim!r}, expected one of the spatial dims {', '.join(space)}")
    return _derivative(stencils.sobel, image, mode, axis=space.index(dim))


def _derivative(
    kernel: Callable[..., np.ndarray], image: xr.DataArray, mode: str, **params: Any
) -> xr.DataArray:
    check_image("image", image)
    check_mode(mode)
    reach = dict.fromkeys(layout_of("image", image).space, 1)
    dtype = stencils.promoted(image.dtype)
    return stencil(kernel, image, reach, mode=mode, dtype=dtype, **params)


def gradient_magnitude(image: xr.DataArray, *, mode: str = "reflect") -> xr.DataArray:
    """Strength of edges: square root of the sum of squares of `sobel` along all spatial dims.

    Parameters, returns and refusals (ValueError; see Raises there) as of `sobel`, and its unit: per voxel, not per mm, and
    times 32 in space, 8 in a plane. Equals, to the bit,
    ``scipy.ndimage.generic_gradient_magnitude(image.astype(result dtype), scipy.ndimage.sobel)``.
    """
    return _derivative(stencils.gradient_magnitude, image, mode)


def laplace(image: xr.DataArray, *, mode: str = "reflect") -> xr.DataArray:
    """Sum of the second differences along all spatial dims.

    Parameters, returns and refusals (ValueError; see Raises there) as of `sobel`; the unit is the image's per voxel squared,
    not per mm2, whatever the spacing. Equals ``scipy.ndimage.laplace(image.astype(result dtype))`` to the bit.
    """
    return _derivative(stencils.laplace, image, mode)
