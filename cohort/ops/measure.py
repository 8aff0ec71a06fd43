"""Measurements: numbers with units, of images, masks and labels.

Numbers are DataArrays without spatial dims, lazy if what they measure is; float64 unless they count. Floating-point sums
have the same bits for any chunking.
"""

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import moments, tally
from cohort.kernels import regions as kernel
from cohort.ops import graph
from cohort.ops.distance import distance_mm
from cohort.ops.layout import check_mask, image_and_mask, layout_of, unit_of, world_of
from cohort.ops.medians import medians
from cohort.ops.regions import QUANTITIES, SHAPE_QUANTITIES, VOXELS, regions

__all__ = [
    "QUANTITIES",
    "SHAPE_QUANTITIES",
    "VOXELS",
    "centroid_mm",
    "distance_mm",
    "field_of_view_mm",
    "maximum_in",
    "mean_in",
    "median_in",
    "minimum_in",
    "n_voxels",
    "regions",
    "std_in",
    "volume_ml",
]


def n_voxels(mask: xr.DataArray) -> xr.DataArray:
    """Count the voxels of a mask.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool

    Returns
    -------
    DataArray, shape (...), int64, unit voxel
        Lazy if the mask is.

    Raises
    ------
    ValueError
        If the mask is not bool.
    """
    check_mask("mask", mask)
    return graph.reduce_partials(
        tally.voxels,
        {"mask": mask},
        gather=tally.total,
        finish=np.asarray,
        units=VOXELS,
        dtype=np.int64,
    )


def volume_ml(mask: xr.DataArray) -> xr.DataArray:
    """Volume of a mask: its voxels times the volume of one.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool

    Returns
    -------
    DataArray, shape (...), float64, ml
        Lazy if the mask is.

    Raises
    ------
    ValueError
        If the mask is not bool.
    GridError
        If a coordinate is missing or irregular.
    """
    check_mask("mask", mask)
    return graph.reduce_partials(
        tally.voxels,
        {"mask": mask},
        gather=tally.total,
        finish=tally.scaled,
        units="ml",
        finish_params={"by": grid.voxel_volume_mm3(mask) / 1000},
    )


def mean_in(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Mean of an image inside a mask.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mask : DataArray, bool, optional
        On the grid of `image`. None: everywhere.

    Returns
    -------
    DataArray, shape (...), float64, the image's unit
        NaN if the mask is empty, or there is a NaN inside it. Lazy if image or mask are.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool.

    Notes
    -----
    Equals ``numpy.mean`` in float64 to 1e-12, with the same bits for any chunking.
    """
    return _statistic(image, mask, "mean")


def std_in(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Standard deviation of an image inside a mask, over n (``ddof=0``).

    As `mean_in`; equals ``numpy.std`` in float64. Raises GridError if the grids differ, ValueError if the mask is
    not bool.
    """
    return _statistic(image, mask, "std")


def minimum_in(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Smallest value of an image inside a mask.

    As `mean_in`; equals ``numpy.min`` to the bit. Raises GridError if the grids differ, ValueError if the mask is
    not bool.
    """
    return _statistic(image, mask, "minimum")


def maximum_in(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Largest value of an image inside a mask.

    As `mean_in`; equals ``numpy.max`` to the bit. Raises GridError if the grids differ, ValueError if the mask is
    not bool.
    """
    return _statistic(image, mask, "maximum")


def _statistic(image: xr.DataArray, mask: xr.DataArray | None, quantity: str) -> xr.DataArray:
    arrays = image_and_mask(image, mask)
    return graph.reduce_partials(
        moments.rows if quantity in ("mean", "std") else kernel.rows_in,
        arrays,
        gather=np.concatenate,
        finish=kernel.one,
        units=unit_of(image),
        tiled=True,
        params={"squares": quantity == "std"} if quantity in ("mean", "std") else {},
        finish_params={"quantity": quantity},
    )


def median_in(image: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Median of an image inside a mask, exact: the mean of the two middle values if their number is even.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mask : DataArray, bool, optional
        On the grid of `image`. None: everywhere.

    Returns
    -------
    DataArray, shape (...), float64, the image's unit
        NaN if the mask is empty, or there is a NaN inside it. Lazy if image or mask are.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool.

    Notes
    -----
    Equals ``numpy.median`` of the values as float64, by counting in as many rounds as the dtype has
    halves of 32 bits: no sort, and no more than a block in memory.
    """
    return medians(image, image_and_mask(image, mask))


def field_of_view_mm(image: xr.DataArray) -> xr.DataArray:
    """Extent of the grid: voxels times spacing.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
        Only its coordinates are looked at.

    Returns
    -------
    DataArray, shape (axis,), float64, mm
        Along ``axis`` z, y, x (those that the image has).

    Raises
    ------
    GridError
        If a coordinate is missing or irregular.
    """
    space = layout_of("image", image).space
    spacing = grid.spacing_mm(image, space)
    extent = [image.sizes[d] * spacing[d] for d in space]
    return xr.DataArray(extent, dims="axis", coords={"axis": list(space)}, attrs={"units": "mm"})


def centroid_mm(mask: xr.DataArray) -> xr.DataArray:
    """Centre of a mask: the mean position of its voxels.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool

    Returns
    -------
    DataArray, shape (..., axis), float64, mm
        World RAS+ along ``axis`` x, y, z; NaN if the mask is empty. Lazy if the mask is.

    Raises
    ------
    ValueError
        If the mask is not bool.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    Equals the affine applied to ``scipy.ndimage.center_of_mass(mask)``.
    """
    check_mask("mask", mask)
    centre = graph.reduce_partials(
        tally.index_sums,
        {"mask": mask},
        gather=tally.total,
        finish=tally.centre,
        units="mm",
        sizes={"axis": 3},
        finish_params={"world": world_of(mask)},
    )
    return centre.assign_coords(axis=["x", "y", "z"])
