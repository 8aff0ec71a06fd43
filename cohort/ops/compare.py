"""Comparisons of two images or two masks on one grid: errors, similarity, overlap, distances between surfaces.

Two arrays on different grids are refused with GridError; `space.resample` brings one onto the grid of the other. A result
holds one number for every position along leading dims, lazy if an input is, with the same bits for any chunking.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import pairs
from cohort.ops import filters, graph, masks, measure
from cohort.ops.correlation import correlation, lag_correlation, ncc
from cohort.ops.distance import distance_mm
from cohort.ops.histograms import joint_histogram
from cohort.ops.layout import check_image, check_mask, layout_of, unit_of

__all__ = [
    "correlation",
    "dice",
    "hausdorff_mm",
    "iou",
    "lag_correlation",
    "mae",
    "mse",
    "mutual_information",
    "ncc",
    "ssim",
    "surface_distance_mm",
]


def mae(a: xr.DataArray, b: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Mean absolute error.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        On one grid.
    mask : DataArray, bool, optional
        On the same grid. None: everywhere.

    Returns
    -------
    DataArray, shape (...), float64, unit of `a`
        NaN if the mask is empty, or there is a NaN inside it.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If an image does not hold real numbers, or the mask is not bool.

    Notes
    -----
    Equals ``numpy.abs(a.astype(float) - b).mean()`` to 1e-12.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> a = xr.DataArray(np.array([[200, 0]], np.uint8), dims=["y", "x"])
    >>> float(mae(a, a[:, ::-1]))
    200.0
    """
    found = _mean(pairs.absolute_difference, a, b, mask)
    return _said(found, unit_of(a))


def mse(a: xr.DataArray, b: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Mean squared error, in the square of the unit of `a`.

    As `mae`; equals ``((a.astype(float) - b) ** 2).mean()`` to 1e-12. Raises GridError if the grids differ, ValueError if
    an image does not hold real numbers or the mask is not bool.
    """
    unit = unit_of(a)
    return _said(_mean(pairs.squared_difference, a, b, mask), "1" if unit == "1" else f"{unit}^2")


def mutual_information(
    a: xr.DataArray, b: xr.DataArray, *, bins: int = 64, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Mutual information of the values at the same voxels, from their joint histogram.

    Parameters
    ----------
    a, b, mask
        As in `mae`. Voxels where one is NaN or infinite do not count.
    bins : int, >= 1
        Between the extremes of each image.

    Returns
    -------
    DataArray, shape (...), float64, nat
        0 where one tells nothing of the other; NaN if no voxel counts.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If an image does not hold real numbers, the mask is not bool, or there is less than one bin.

    Notes
    -----
    Equals ``sklearn.metrics.mutual_info_score`` of the numbers of the bins to 1e-12.
    """
    counts = joint_histogram(a, b, bins=bins, mask=mask)
    found = xr.apply_ufunc(
        pairs.information,
        counts,
        input_core_dims=[["bin_a", "bin_b"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return _said(found, "nat")


def ssim(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    size: int = 7,
    data_range: float | None = None,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Structural similarity: the mean over windows of how alike mean, spread and pattern are; 1 for equal images.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        On one grid.
    size : int, odd, >= 3
        Edge of the window in voxels, along every spatial dim.
    data_range : float, > 0, optional
        Range of values for which the images are meant; from the lowest to the highest of both by default.
    mask : DataArray, bool, optional
        Voxels around which windows count. None: those whose window lies within the image.

    Returns
    -------
    DataArray, shape (...), float64, 1

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the window is larger than the image or not odd, the range not positive, or as in `mae`.

    Notes
    -----
    Equals ``skimage.metrics.structural_similarity(a, b, win_size=size, data_range=data_range)`` of float64 images to 1e-9.
    """
    _check(a, b)
    space = layout_of("a", a).space
    least = min(a.sizes[d] for d in space)
    if isinstance(size, bool) or size != int(size) or size < 3 or size % 2 == 0 or size > least:
        raise ValueError(
            f"size is {size}, expected an odd number from 3 to the {least} voxels of the image's shortest axis"
        )
    if data_range is not None and not 0 < data_range < np.inf:
        raise ValueError(f"data_range is {data_range}, expected a positive number")
    span: float | xr.DataArray
    if data_range is None:
        highest = xr.ufuncs.maximum(*(measure.maximum_in(image) for image in (a, b)))
        span = highest - xr.ufuncs.minimum(*(measure.minimum_in(image) for image in (a, b)))
    else:
        span = float(data_range)
    means = [filters.uniform(image.astype(np.float64), size=size) for image in (a, b)]
    for one, two in ((a, a), (b, b), (a, b)):
        both = graph.map_points(pairs.product, {"a": one, "b": two}, dtype=np.float64)
        means.append(filters.uniform(both, size=size))
    names = ("mean_a", "mean_b", "mean_aa", "mean_bb", "mean_ab")
    found = graph.map_points(
        pairs.similarity,
        dict(zip(names, means, strict=True)),
        dtype=np.float64,
        numbers={"span": span},
        params={"n": size ** len(space)},
    )
    if mask is None:
        whole = slice(size // 2, -(size // 2))
        found = found.isel(dict.fromkeys(space, whole))
    return _said(measure.mean_in(found, mask=mask), "1")


def iou(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Intersection over union (Jaccard index) of two masks, 0 to 1; NaN if both are empty.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), bool
        On one grid.

    Returns
    -------
    DataArray, shape (...), float64, 1

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If either is not bool.
    """
    both = measure.n_voxels(masks.intersect(a, b))
    either = measure.n_voxels(masks.unite(a, b))
    return _said(both / either.where(either > 0), "1")


def dice(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Dice coefficient of two masks, twice the intersection over the sum of sizes; NaN if both are empty.

    As `iou`. Raises GridError if the grids differ, ValueError if either is not bool.
    """
    both = measure.n_voxels(masks.intersect(a, b))
    sizes = measure.n_voxels(a) + measure.n_voxels(b)
    return _said(2 * both / sizes.where(sizes > 0), "1")


def hausdorff_mm(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Hausdorff distance of the surfaces of two masks: how far a point of one may be from the other.

    A mask's surface is its voxels that have a face in common with the outside, or with the border of the image; distances are
    between centres.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), bool
        On one grid.

    Returns
    -------
    DataArray, shape (...), float64, mm
        NaN if a mask is empty: there is no distance to nothing.

    Raises
    ------
    GridError
        If the grids differ, or a coordinate is missing or irregular.
    ValueError
        If either is not bool.

    Notes
    -----
    Equals the larger of both ``scipy.spatial.distance.directed_hausdorff`` of the surfaces' points in mm.
    """
    (far, mine), (back, other) = _between_surfaces(a, b)
    found = xr.ufuncs.maximum(
        measure.maximum_in(far, mask=mine), measure.maximum_in(back, mask=other)
    )
    return _said(found.where(np.isfinite(found)), "mm")


def surface_distance_mm(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Mean distance of the surfaces of two masks, over the points of both (average symmetric surface distance).

    As `hausdorff_mm`. Raises GridError if the grids differ or a coordinate is missing or irregular, ValueError if either is not
    bool.
    """
    sums = []
    for far, surface in _between_surfaces(a, b):
        n = measure.n_voxels(surface)
        sums.append((n, measure.mean_in(far, mask=surface) * n))
    (n_a, sum_a), (n_b, sum_b) = sums
    found = (sum_a + sum_b) / (n_a + n_b).where((n_a > 0) & (n_b > 0))
    return _said(found, "mm")


def _between_surfaces(
    a: xr.DataArray, b: xr.DataArray
) -> tuple[tuple[xr.DataArray, xr.DataArray], tuple[xr.DataArray, xr.DataArray]]:
    """Distance from everywhere to the surface of b, and surface of a; and the other way round."""
    check_mask("a", a)
    check_mask("b", b)
    grid.check_same_grid(a=a, b=b)
    mine, other = (masks.subtract(mask, masks.erode(mask)) for mask in (a, b))
    to_other, to_mine = (distance_mm(masks.invert(surface)) for surface in (other, mine))
    return (to_other, mine), (to_mine, other)


def _check(a: xr.DataArray, b: xr.DataArray) -> None:
    check_image("a", a)
    check_image("b", b)


def _mean(
    kernel: Callable[..., np.ndarray],
    a: xr.DataArray,
    b: xr.DataArray,
    mask: xr.DataArray | None,
) -> xr.DataArray:
    _check(a, b)
    return measure.mean_in(graph.map_points(kernel, {"a": a, "b": b}, dtype=np.float64), mask=mask)


def _said(number: xr.DataArray, unit: str) -> xr.DataArray:
    number.attrs = {"units": unit}
    return number.rename(None)
