"""Thresholds that the image itself suggests, found from how often each value occurs.

All are lazy numbers for `masks.threshold`. They look at what is finite and in the mask; NaN and infinity are left out.
Integer images count value by value; floating-point images are divided into bins between their extremes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import histograms, selectors, tally
from cohort.kernels import levels as kernel
from cohort.ops import graph
from cohort.ops.layout import image_and_mask, unit_of

_BINS = 256


def otsu(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Threshold that parts the values into two classes with the largest variance between them.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mask : DataArray, bool, optional
        On the grid of `image`. None: everywhere.

    Returns
    -------
    DataArray, shape (...), float64, the image's unit
        The value itself if there is only one; NaN if there is none. Lazy if image or mask are.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool.

    Notes
    -----
    Equals ``skimage.filters.threshold_otsu`` of ``image[mask]`` to the last bit, for any chunking: a bin a value for
    integers, 256 between the extremes for floating-point values. Counters of 32-bit and longer integers are as many
    as there are different values.
    """
    return _threshold(image, mask, "otsu")


def li(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Threshold with the least cross entropy between the image and its two classes, searched from the mean on.

    Parameters and returns as of `otsu`. Raises GridError if the grids differ, ValueError if the mask is not bool.

    Notes
    -----
    Equals ``skimage.filters.threshold_li`` of ``image[mask]``: to the last bit for integers, within 1e-6 of the range
    for floating-point values, which are told apart in 65,536 levels, each with a mean of its own. (For int16 images that
    span more than 32,767 scikit-image wraps around; this does not.)
    """
    arrays = image_and_mask(image, mask)
    if image.dtype.kind != "f":
        return _threshold(image, mask, "li")
    return count_levels(arrays, finish=selectors.li_of_levels, units=unit_of(image))


def triangle(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Threshold at the foot of the highest peak: the bin farthest from a line between the peak and the longer tail's end.

    Parameters and returns as of `otsu`. Raises GridError if the grids differ, ValueError if the mask is not bool.
    Equals ``skimage.filters.threshold_triangle`` of ``image[mask]`` to the last bit, for any chunking.
    """
    return _threshold(image, mask, "triangle")


def _threshold(image: xr.DataArray, mask: xr.DataArray | None, method: str) -> xr.DataArray:
    arrays = image_and_mask(image, mask)
    params: dict[str, Any] = {"method": method}
    if image.dtype.kind != "f":
        return count_values(
            arrays, finish=selectors.of_values, finish_params=params, units=unit_of(image)
        )
    params["dtype"] = image.dtype.newbyteorder("=")
    return count_bins(
        arrays, bins=_BINS, finish=selectors.of_bins, finish_params=params, units=unit_of(image)
    )


def count_values(arrays: Mapping[str, xr.DataArray], **result: Any) -> xr.DataArray:
    """Count each value of an integer image (in a mask); `result` says what becomes of `histograms.value_counts`."""
    return graph.reduce_partials(histograms.value_counts, arrays, gather=tally.add_sizes, **result)


def count_bins(
    arrays: Mapping[str, xr.DataArray], *, bins: int, exclude: Sequence[float] = (), **result: Any
) -> xr.DataArray:
    """Count in bins between the extremes of an image (in a mask); `result` says what becomes of `levels.binned`.

    Voxels of the values `exclude` are not counted, but have a share in the extremes.
    """
    numbers = _between_extremes(
        kernel.bin_numbers,
        arrays,
        dtype=histograms.number_dtype(bins),
        params={"bins": bins, "exclude": tuple(exclude)},
    )
    return graph.reduce_partials(
        kernel.binned,
        _inserted(arrays, numbers),
        gather=kernel.add_binned,
        params={"bins": bins},
        **result,
    )


def count_levels(arrays: Mapping[str, xr.DataArray], **result: Any) -> xr.DataArray:
    """Count in levels, for what would need each floating-point value; `result` says what becomes of `levels.leveled`."""
    codes = _between_extremes(kernel.level_codes, arrays, dtype=np.int32, params={})
    return graph.reduce_partials(
        kernel.leveled, _inserted(arrays, codes), gather=kernel.add_binned, **result
    )


def _between_extremes(
    number: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    dtype: np.dtype | type,
    params: Mapping[str, Any],
) -> xr.DataArray:
    """Where each voxel lies between the smallest and the largest value."""
    ends = graph.reduce_partials(
        histograms.extent,
        arrays,
        gather=histograms.wider,
        finish=histograms.bounds,
        units=unit_of(arrays["image"]),
        sizes={"bound": 2},
    )
    bounds = {"low": ends.isel(bound=0), "high": ends.isel(bound=1)}
    return graph.map_points(number, arrays, dtype=dtype, numbers=bounds, params=params)


def _inserted(arrays: Mapping[str, xr.DataArray], numbers: xr.DataArray) -> dict[str, xr.DataArray]:
    """The arrays with numbers of voxels behind the image, as the kernels take them."""
    image, *mask = arrays.items()
    return dict([image, ("numbers", numbers), *mask])
