"""Masks: thresholds, their algebra, morphology, holes and components. A mask is a bool DataArray."""

from typing import Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import components, morphology, points
from cohort.ops import graph
from cohort.ops.layout import check_connectivity, check_image, check_mask, layout_of
from cohort.ops.levels import li, otsu, triangle

__all__ = [
    "apply",
    "close",
    "dilate",
    "erode",
    "fill_holes",
    "intersect",
    "invert",
    "largest_component",
    "li",
    "open",
    "otsu",
    "remove_small",
    "subtract",
    "threshold",
    "triangle",
    "unite",
]


def threshold(
    image: xr.DataArray,
    *,
    above: float | xr.DataArray | None = None,
    below: float | xr.DataArray | None = None,
) -> xr.DataArray:
    """Select voxels strictly above one number and strictly below another.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    above, below : float or DataArray without spatial dims, in the image's unit
        Bounds; at least one. A lazy number is used when the mask is computed.

    Returns
    -------
    DataArray, shape of `image`, bool
        Coordinates, chunks and attributes of `image`. Nothing is computed if image or bound are lazy.

    Raises
    ------
    ValueError
        If no bound is given, or one is NaN.

    Notes
    -----
    Equals ``(image.astype(float) > above) & (image.astype(float) < below)``: a bound is never rounded to the
    image's dtype. NaN in the image is neither above nor below. Integers of 64 bits are compared to their last digit, which
    float64 does not hold beyond 2**53.
    """
    check_image("image", image)
    bounds = {
        name: value for name, value in (("above", above), ("below", below)) if value is not None
    }
    if not bounds:
        raise ValueError("threshold() needs above, below or both")
    for name, value in bounds.items():
        if not isinstance(value, xr.DataArray) and np.isnan(value):
            raise ValueError(f"the threshold {name} is {value}: it was measured where nothing is")
    return graph.map_points(points.between, {"image": image}, dtype=bool, numbers=bounds)


def intersect(mask: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """True where both masks are.

    Parameters
    ----------
    mask, other : DataArray, shape (..., z, y, x), bool
        On one grid.

    Returns
    -------
    DataArray, shape of `mask`, bool
        Coordinates, chunks and attributes of `mask`. Nothing is computed if either is lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If either is not bool.

    Notes
    -----
    Equals ``mask & other``.
    """
    return _algebra(points.intersection, mask, other)


def unite(mask: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """True where either mask is.

    As `intersect`; equals ``mask | other``. Raises GridError if the grids differ, ValueError if either is not bool.
    """
    return _algebra(points.union, mask, other)


def subtract(mask: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """True where `mask` is and `other` is not.

    As `intersect`; equals ``mask & ~other``. Raises GridError if the grids differ, ValueError if either is not bool.
    """
    return _algebra(points.difference, mask, other)


def invert(mask: xr.DataArray) -> xr.DataArray:
    """True where `mask` is not.

    As `intersect`; equals ``~mask``. Raises ValueError if it is not bool.
    """
    check_mask("mask", mask)
    return graph.map_points(points.complement, {"mask": mask}, dtype=bool)


def _algebra(kernel: Any, mask: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    check_mask("mask", mask)
    check_mask("other", other)
    return graph.map_points(kernel, {"mask": mask, "other": other}, dtype=bool)


def dilate(
    mask: xr.DataArray,
    *,
    iterations: int = 1,
    radius_mm: float | None = None,
    connectivity: int = 1,
) -> xr.DataArray:
    """Grow a mask, by steps to neighbouring voxels or by a ball of physical radius.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool
    iterations : int, >= 1
        Steps; each adds the neighbours of what is there.
    radius_mm : float, >= 0, optional
        Instead of steps: add all voxels with a centre within this distance, in mm, of that of one that is there.
    connectivity : 1, 2 or 3
        Neighbours share a face, or also an edge, or also a corner.

    Returns
    -------
    DataArray, shape of `mask`, bool
        Coordinates, chunks and attributes of `mask`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool, iterations < 1, radius_mm < 0 or given together with iterations or connectivity.
    GridError
        If `radius_mm` is given and a coordinate is missing or irregular.

    Notes
    -----
    Equals ``scipy.ndimage.binary_dilation`` with its defaults (beyond the border is background), for every chunking.
    """
    return _morph(mask, "d", iterations=iterations, radius_mm=radius_mm, connectivity=connectivity)


def erode(
    mask: xr.DataArray,
    *,
    iterations: int = 1,
    radius_mm: float | None = None,
    connectivity: int = 1,
) -> xr.DataArray:
    """Shrink a mask: keep voxels whose neighbours (or whose ball of `radius_mm`) all belong to it.

    Parameters, returns and refusals (ValueError, GridError; see Raises there) as of `dilate`. Equals
    ``scipy.ndimage.binary_erosion`` with its defaults: beyond the border is background, so a mask also shrinks from there.
    """
    return _morph(mask, "e", iterations=iterations, radius_mm=radius_mm, connectivity=connectivity)


def open(
    mask: xr.DataArray,
    *,
    iterations: int = 1,
    radius_mm: float | None = None,
    connectivity: int = 1,
) -> xr.DataArray:
    """Erode, then dilate: remove what is thinner than the element.

    Parameters, returns and refusals (ValueError, GridError; see Raises there) as of `dilate`. Equals
    ``scipy.ndimage.binary_opening`` with its defaults.
    """
    return _morph(mask, "ed", iterations=iterations, radius_mm=radius_mm, connectivity=connectivity)


def close(
    mask: xr.DataArray,
    *,
    iterations: int = 1,
    radius_mm: float | None = None,
    connectivity: int = 1,
) -> xr.DataArray:
    """Dilate, then erode: close gaps thinner than the element.

    Parameters, returns and refusals (ValueError, GridError; see Raises there) as of `dilate`. Equals
    ``scipy.ndimage.binary_closing`` with its defaults: beyond the border is background, also for the erosion.
    """
    return _morph(mask, "de", iterations=iterations, radius_mm=radius_mm, connectivity=connectivity)


def _morph(
    mask: xr.DataArray, steps: str, *, iterations: int, radius_mm: float | None, connectivity: int
) -> xr.DataArray:
    check_mask("mask", mask)
    check_connectivity(connectivity)
    if isinstance(iterations, bool) or int(iterations) != iterations or iterations < 1:
        raise ValueError(f"iterations is {iterations!r}, expected a whole number of at least 1")
    space = layout_of("mask", mask).space
    if radius_mm is None:
        element, times = morphology.neighbours(connectivity, len(space)), int(iterations)
    else:
        if not 0 <= radius_mm < np.inf:
            raise ValueError(
                f"radius_mm is {radius_mm}, expected a finite number of mm, at least 0"
            )
        if iterations != 1 or connectivity != 1:
            raise ValueError(
                f"radius_mm is {radius_mm}, so iterations ({iterations}) and connectivity ({connectivity}) "
                f"have no meaning: give one or the other"
            )
        spacing = grid.spacing_mm(mask, space)
        element, times = morphology.ball(radius_mm, [spacing[d] for d in space]), 1
    extent = morphology.extent(element)[3 - len(space) :]
    return graph.map_stencil(
        morphology.morph,
        {"mask": mask},
        halo_voxels={d: n * times * len(steps) for d, n in zip(space, extent, strict=True)},
        dtype=bool,
        params={"element": element, "steps": "".join(step * times for step in steps)},
    )


def fill_holes(mask: xr.DataArray) -> xr.DataArray:
    """Fill cavities: background that no path over faces joins to the border of the image.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool

    Returns
    -------
    DataArray, shape of `mask`, bool
        Coordinates, chunks and attributes of `mask`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool.

    Notes
    -----
    Equals ``scipy.ndimage.binary_fill_holes`` for every chunking.
    """
    return graph.join_faces(
        {"mask": invert(mask)}, connectivity=1, rule=components.enclosed, dtype=bool
    )


def largest_component(mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Keep the connected component with the most voxels; of equals, the one with the lowest label.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool
    connectivity : 1, 2 or 3
        Voxels are connected over faces, or also over edges, or also over corners.

    Returns
    -------
    DataArray, shape of `mask`, bool
        Coordinates, chunks and attributes of `mask`; empty if it is empty. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool, or the connectivity is none of 1, 2, 3.

    Notes
    -----
    Equals ``labels == 1 + argmax(bincount(labels)[1:])`` with labels of `scipy.ndimage.label`, for every chunking.
    """
    check_mask("mask", mask)
    check_connectivity(connectivity)
    return graph.join_faces(
        {"mask": mask}, connectivity=connectivity, rule=components.largest, dtype=bool
    )


def remove_small(mask: xr.DataArray, *, min_ml: float, connectivity: int = 1) -> xr.DataArray:
    """Remove connected components of less than a volume.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool
    min_ml : float, >= 0
        Components of at least this volume, in ml, stay.
    connectivity : 1, 2 or 3
        As in `largest_component`.

    Returns
    -------
    DataArray, shape of `mask`, bool
        Coordinates, chunks and attributes of `mask`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool, min_ml is negative or NaN, or the connectivity is none of 1, 2, 3.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    Equals a lookup of ``bincount(labels) * voxel volume >= min_ml`` with labels of `scipy.ndimage.label`.
    """
    check_mask("mask", mask)
    check_connectivity(connectivity)
    if not min_ml >= 0:
        raise ValueError(f"min_ml is {min_ml}, expected a volume of at least 0 ml")
    # 27 voxels of 1 mm3 are 0.027 ml, whatever the rounding of either.
    voxels = min_ml * 1000 / grid.voxel_volume_mm3(mask) * (1 - 1e-9)
    return graph.join_faces(
        {"mask": mask},
        connectivity=connectivity,
        rule=components.no_smaller,
        dtype=bool,
        params={"voxels": voxels},
    )


def apply(image: xr.DataArray, mask: xr.DataArray, *, fill: float = 0) -> xr.DataArray:
    """Keep an image inside a mask and put one number outside.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    mask : DataArray, bool
        On the grid of `image`.
    fill : float
        What stands outside, in the image's unit.

    Returns
    -------
    DataArray, shape and dtype of `image`
        Coordinates, chunks and attributes of `image`. Nothing is computed if either is lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, or the image's dtype cannot hold `fill`.

    Notes
    -----
    Equals ``numpy.where(mask, image, fill)`` in the image's dtype.
    """
    check_image("image", image)
    check_mask("mask", mask)
    if image.dtype.kind in "iub":
        low, high = (
            (0, 1)
            if image.dtype == bool
            else (np.iinfo(image.dtype).min, np.iinfo(image.dtype).max)
        )
        if not (low <= fill <= high and fill == int(fill)):
            raise ValueError(
                f"fill is {fill}, but the image is {image.dtype}, which holds whole numbers from {low} to {high}"
            )
    return graph.map_points(
        points.inside, {"image": image, "mask": mask}, dtype=image.dtype, params={"fill": fill}
    )
