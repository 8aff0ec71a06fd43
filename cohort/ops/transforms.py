"""Transforms: 4x4 matrices in world RAS+ mm that say where a point goes, made for the axes of an image."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from cohort import grid
from cohort.ops.layout import layout_of


def translation(image: xr.DataArray, *, mm: Mapping[str, float]) -> np.ndarray:
    """Transform that moves along the axes of an image.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
    mm : {dim: float}
        How far, towards higher coordinates.

    Returns
    -------
    (4, 4) float64 array
        World -> world, mm.

    Raises
    ------
    ValueError
        If a distance is not finite or names a dim that the image lacks.
    GridError
        If a coordinate is missing or irregular.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> image = xr.DataArray(np.zeros((2, 2)), coords={"y": [0.0, 1.0], "x": [0.0, 2.0]}, dims=["y", "x"])
    >>> translation(image, mm={"x": 5})[:3, 3].tolist()
    [5.0, 0.0, 0.0]
    """
    axes = _axes(image)
    matrix = np.eye(4)
    for dim, distance in mm.items():
        check_dim(image, "mm", dim)
        if not math.isfinite(distance):
            raise ValueError(f"mm is {distance} along {dim!r}, expected a finite number")
        matrix[:3, 3] += axes[dim] * float(distance)
    return matrix


def rotation(
    image: xr.DataArray,
    *,
    degrees: float,
    plane: Sequence[str],
    about_mm: Sequence[float] | None = None,
) -> np.ndarray:
    """Transform that turns in the plane of two axes of an image.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
    degrees : float
        From the first axis of the plane towards the second.
    plane : two dims
        Such as ``("x", "y")``.
    about_mm : 3 floats, optional
        World x, y, z of a point that stays; the centre of the image by default.

    Returns
    -------
    (4, 4) float64 array
        World -> world, mm.

    Raises
    ------
    ValueError
        If the angle is not finite, or `plane` does not name two dims of the image.
    GridError
        If a coordinate is missing or irregular.
    """
    dims = tuple(plane)
    if len(set(dims)) != 2 or len(dims) != 2:
        raise ValueError(f"plane is {plane!r}, expected two dims, such as ('x', 'y')")
    for dim in dims:
        check_dim(image, "plane", dim)
    if not math.isfinite(degrees):
        raise ValueError(f"degrees is {degrees}, expected a finite number")
    axes = _axes(image)
    u, v = (axes[d] for d in dims)
    v = v - (v @ u) * u  # of a sheared grid
    v /= np.linalg.norm(v)
    cosine, sine = _turn(degrees)
    linear = (
        np.eye(3)
        + (cosine - 1) * (np.outer(u, u) + np.outer(v, v))
        + sine * (np.outer(v, u) - np.outer(u, v))
    )
    point = centre_of(image) if about_mm is None else np.asarray(about_mm, float)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ValueError(f"about_mm is {about_mm!r}, expected world x, y, z in mm")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, point - linear @ point
    return matrix


def affine_of(image: xr.DataArray) -> np.ndarray:
    """Affine; of an image without some dim, and without a coordinate for it, one voxel of 1 mm at 0."""
    missing = {d: 0.0 for d in grid.SPACE if d not in image.dims and d not in image.coords}
    return grid.affine_of(image.assign_coords(missing) if missing else image)


def centre_of(image: xr.DataArray) -> np.ndarray:
    """World position of the centre of the grid, (3,)."""
    middle = [(image.sizes.get(d, 1) - 1) / 2 for d in "xyz"]
    return (affine_of(image) @ (*middle, 1.0))[:3]


def check_dim(image: xr.DataArray, name: str, dim: object) -> None:
    """Raise ValueError unless `dim` is a spatial dim of the image."""
    space = layout_of("image", image).space
    if dim not in space:
        raise ValueError(f"{name} names {dim!r}, but the image has the spatial dims {space}")


def _axes(image: xr.DataArray) -> dict[str, np.ndarray]:
    """Unit vector in the world towards higher coordinates, along each dim."""
    layout = layout_of("image", image)
    affine = affine_of(image)
    found = {}
    for dim in layout.space:
        column = affine[:3, "xyz".index(dim)]
        values = image.coords[dim].values
        way = -1.0 if values.size > 1 and values[-1] < values[0] else 1.0
        found[dim] = way * column / np.linalg.norm(column)
    return found


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact for whole quarters."""
    quarters, rest = divmod(float(degrees), 90.0)
    if rest == 0.0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
