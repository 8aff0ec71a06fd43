"""Where a voxel lies: a grid is a shape and an affine.

An **affine** is a 4x4 matrix from voxel indices ``(x, y, z)`` to world ``(x, y, z)`` in RAS+ millimetres, as
in nibabel for the array transposed to ``("x", "y", "z")``. A DataArray carries it as the scalar coordinate
``grid`` with attribute ``affine`` (16 floats, row-major), and one coordinate in mm along each axis.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

SPACE = ("z", "y", "x")
"""Spatial dims, in the order in which arrays hold them."""

SAME_GRID_MM = 1e-3
"""Corners of two grids may differ by this much and still be one grid."""

REGULAR_RELATIVE = 1e-3
"""Steps of a coordinate may differ from their mean by this share of it."""

_MM = ("mm", "millimeter", "millimeters", "millimetre", "millimetres")
"""How a coordinate may say that it is in mm; one that says nothing is."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient axes point left, posterior, superior; ours right, anterior, superior."""


class GridError(ValueError):
    """Two grids differ, or a coordinate is missing or irregular."""


def steps_mm(affine: np.ndarray) -> np.ndarray:
    """Step along each voxel axis, in mm: their product is the voxel's volume.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel indices (x, y, z) -> world mm.

    Returns
    -------
    (3,) float64 array
        Along x, y, z. In a sheared (tilted) grid the step along z is ``|det| / (dx dy)``.
    """
    linear = np.asarray(affine, float)[:3, :3]
    lengths = np.sqrt((linear**2).sum(axis=0))
    volume = abs(np.linalg.det(linear))
    if not np.isfinite(linear).all() or not lengths.all() or volume < 1e-9 * lengths.prod():
        raise GridError(
            f"the affine is singular: axes of {lengths.round(6).tolist()} mm span {volume:.3g} mm3"
        )
    if is_sheared(affine):
        lengths[2] = volume / (lengths[0] * lengths[1])
    return lengths


def is_sheared(affine: np.ndarray) -> bool:
    """Whether two voxel axes are not at right angles (cosine over 1e-4, as in a tilted CT)."""
    linear = np.asarray(affine, float)[:3, :3]
    unit = linear / np.sqrt((linear**2).sum(axis=0))
    cosines = unit.T @ unit
    return bool(np.abs(cosines - np.diag(np.diag(cosines))).max() > 1e-4)


def _axes(affine: np.ndarray) -> np.ndarray:
    """Unit vectors (columns) on which positions are projected to give the coordinates along x, y, z."""
    linear = np.asarray(affine, float)[:3, :3]
    unit = linear / np.sqrt((linear**2).sum(axis=0))
    if is_sheared(affine):
        normal = np.cross(unit[:, 0], unit[:, 1])
        normal /= np.sqrt((normal**2).sum())
        unit[:, 2] = normal * np.sign(normal @ unit[:, 2])
    return unit


def coordinates(affine: np.ndarray, shape: Sequence[int]) -> dict[str, xr.Variable]:
    """Coordinates of voxel centres along z, y and x, and the scalar coordinate ``grid``.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel indices (x, y, z) -> world RAS+ mm.
    shape : 3 ints
        Voxels along z, y, x.

    Returns
    -------
    dict of Variable
        ``z``, ``y``, ``x`` (float64, attributes ``units`` and ``spacing_mm``) and ``grid``. Each axis is a
        distance along that voxel axis; its origin is the first voxel's projection on it, so on an
        axis-aligned grid it is the world coordinate.

    Examples
    --------
    >>> c = coordinates(np.diag([2.0, 2.0, 3.0, 1.0]), (4, 5, 6))
    >>> c["z"].values.tolist(), c["grid"].attrs["affine"][:4]
    ([0.0, 3.0, 6.0, 9.0], [2.0, 0.0, 0.0, 0.0])
    """
    affine = np.asarray(affine, float)
    steps, first = steps_mm(affine), _axes(affine).T @ affine[:3, 3]
    result: dict[str, xr.Variable] = {}
    for dim, n in zip(SPACE, shape, strict=True):
        axis = "xyz".index(dim)
        # An axis that runs against its own world axis (a flipped, uncanonical grid) still counts upwards.
        values = _clean(first[axis]) + steps[axis] * np.arange(n)
        result[dim] = xr.Variable((dim,), values, {"units": "mm", "spacing_mm": float(steps[axis])})
    result["grid"] = xr.Variable((), np.int8(0), {"affine": affine.ravel().tolist()})
    return result


def _clean(value: float) -> float:
    """Negative zero becomes zero."""
    return float(value) + 0.0


def spacing_mm(
    array: xr.DataArray | xr.Dataset, dims: Sequence[Hashable] = SPACE
) -> dict[Hashable, float]:
    """Distance between voxel centres along each of `dims`, from the coordinates alone.

    Returns
    -------
    dict of dim -> float, > 0, mm

    Raises
    ------
    GridError
        If a coordinate is missing, holds NaN or no numbers, is irregular, has one voxel and no ``spacing_mm`` attribute, or says
        by its attribute ``units`` that it is not in mm.
    """
    return {dim: abs(_step(array, dim)) for dim in dims}


def slice_dim(array: xr.DataArray) -> Literal["z", "y", "x"]:
    """The dim of the largest spacing, which is that through the slices; the first of z, y, x where several are."""
    spacing = spacing_mm(array)
    widest = max(spacing.values()) * (1 - REGULAR_RELATIVE)
    dims: tuple[Literal["z", "y", "x"], ...] = ("z", "y", "x")
    return next(d for d in dims if spacing[d] >= widest)


def _step(array: xr.DataArray | xr.Dataset, dim: Hashable) -> float:
    if dim not in array.coords:
        raise GridError(
            f"dimension {dim!r} has no coordinate in mm; give it one, for example "
            f"image.assign_coords({dim}=2.0 * np.arange({array.sizes.get(dim, 'n')}))"
        )
    coordinate = array.coords[dim]
    values = _millimetres(coordinate, dim)
    if values.size == 1:
        if "spacing_mm" not in coordinate.attrs:
            raise GridError(
                f"dimension {dim!r} has one voxel, so no spacing; "
                f"set image[{dim!r}].attrs['spacing_mm']"
            )
        return float(coordinate.attrs["spacing_mm"])
    steps = np.diff(values)
    mean = (values[-1] - values[0]) / (values.size - 1)
    off = np.abs(steps - mean)
    if not np.isfinite(values).all() or mean == 0 or off.max() > REGULAR_RELATIVE * abs(mean):
        worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
        raise GridError(
            f"coordinate {dim!r} is not regular: step {worst}->{worst + 1} is {steps[worst]:.6g} mm, "
            f"mean step is {mean:.6g} mm (tolerance {REGULAR_RELATIVE * abs(mean):.3g} mm)"
        )
    return _whole_multiple(float(mean), coordinate.attrs.get("spacing_mm"))


def _millimetres(coordinate: xr.DataArray, dim: Hashable) -> np.ndarray:
    """Values of a coordinate; GridError if it says that they are not in mm, or they are no numbers."""
    unit = coordinate.attrs.get("units") or "mm"
    if str(unit).lower() not in _MM:
        raise GridError(
            f"coordinate {dim!r} is in {unit}, expected mm; convert it, and state attrs['units'] = 'mm'"
        )
    if coordinate.dtype.kind not in "iuf":
        raise GridError(f"coordinate {dim!r} is {coordinate.dtype}, expected numbers in mm")
    return np.asarray(coordinate.values, float)


def _whole_multiple(step: float, spacing: Any) -> float:
    """A step within rounding of k times the stated spacing is k times that spacing, to the bit."""
    if spacing:
        k = round(step / float(spacing))
        if k and abs(step - k * float(spacing)) < 1e-9 * abs(step):
            return k * float(spacing)
    return step


def voxel_volume_mm3(array: xr.DataArray | xr.Dataset) -> float:
    """Volume of one voxel, mm3: the product of the three spacings."""
    spacing = spacing_mm(array)
    return spacing["x"] * spacing["y"] * spacing["z"]


def affine_of(array: xr.DataArray | xr.Dataset) -> np.ndarray:
    """Affine of an array as it is now: voxel indices (x, y, z) -> world RAS+ mm.

    The coordinate ``grid`` survives a selection such as ``image.isel(z=slice(3, 9, 2))`` unchanged; the axis
    coordinates tell which voxels are left, so the matrix returned is that of the selection. Without ``grid``
    the array is axis-aligned and its coordinates are world coordinates. An axis of which one voxel was
    picked (``image.isel(z=3)``) counts as one voxel thick.

    Returns
    -------
    (4, 4) float64 array

    Raises
    ------
    GridError
        As `spacing_mm`.
    """
    grid = array.coords.get("grid")
    stored = None if grid is None else grid.attrs.get("affine")
    if stored is None:
        affine = np.eye(4)
        for axis, dim in enumerate("xyz"):
            step = _step(array, dim) if dim in array.dims else _spacing_of_scalar(array, dim)
            affine[axis, axis] = step
            affine[axis, 3] = _clean(float(_millimetres(array.coords[dim], dim).flat[0]))
        return affine
    affine = np.asarray(stored, float).reshape(4, 4)
    steps, first = steps_mm(affine), _axes(affine).T @ affine[:3, 3]
    select = np.eye(4)
    for axis, dim in enumerate("xyz"):
        if dim not in array.coords:
            raise GridError(
                f"dimension {dim!r} has no coordinate in mm, so the affine has no origin along it"
            )
        start = float(_millimetres(array.coords[dim], dim).flat[0])
        step = _step(array, dim) if array.coords[dim].size > 1 else steps[axis]
        select[axis, axis] = _near_integer(step / steps[axis])
        select[axis, 3] = _near_integer((start - first[axis]) / steps[axis])
    return affine @ select


def _near_integer(value: float) -> float:
    """Whole multiples of a voxel come back exact, whatever rounding did to the coordinates."""
    return float(round(value)) if abs(value - round(value)) < 1e-6 else value


def _spacing_of_scalar(array: xr.DataArray | xr.Dataset, dim: str) -> float:
    if dim not in array.coords:
        raise GridError(f"dimension {dim!r} has no coordinate in mm")
    return float(array.coords[dim].attrs.get("spacing_mm", 1.0))


def with_affine(array: xr.DataArray, affine: np.ndarray) -> xr.DataArray:
    """Copy of `array` (dims ..., z, y, x) whose coordinates are those of `affine`."""
    shape = [array.sizes[dim] for dim in SPACE]
    return array.drop_vars(
        [name for name in (*SPACE, "grid") if name in array.coords]
    ).assign_coords(coordinates(affine, shape))


def to_ras(affine_lps: np.ndarray) -> np.ndarray:
    """The same voxels with world axes right, anterior, superior instead of DICOM's left, posterior, superior."""
    return LPS_TO_RAS @ np.asarray(affine_lps, float)


def axis_codes(affine: np.ndarray) -> tuple[str, str, str]:
    """Anatomical direction to which each voxel axis x, y, z points, such as ``("R", "A", "S")`` [nibabel.aff2axcodes]."""
    from nibabel import (
        aff2axcodes,
    )  # 36 MB with what it imports: not for those who never turn an image

    return tuple(aff2axcodes(np.asarray(affine, float)))


def canonical(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip and transpose to the closest canonical axes; never resample.

    Parameters
    ----------
    data : (..., z, y, x) array
        Leading axes stay where they are.
    affine : (4, 4) array
        Voxel indices (x, y, z) -> world RAS+ mm.

    Returns
    -------
    data : (..., z, y, x) view
        Every voxel once, x to the right, y to the front, z upwards.
    affine : (4, 4) float64 array
        Of the new voxel axes; every voxel keeps its world position.
    """
    from nibabel import orientations

    affine = np.asarray(affine, float)
    lead = data.ndim - 3
    orientation = orientations.io_orientation(affine)
    if np.isnan(orientation).any():
        raise GridError(
            f"the affine is singular, an axis has no direction: {affine[:3, :3].round(6).tolist()}"
        )
    shape_xyz = data.shape[:-4:-1]
    order = np.argsort(orientation[:, 0])
    flipped = data
    for axis in range(3):
        if orientation[axis, 1] < 0:
            flipped = np.flip(flipped, axis=lead + 2 - axis)
    # Axis k of the result (x, y, z) is axis order[k] of the input; arrays hold z, y, x.
    axes = [*range(lead), *(lead + 2 - int(order[k]) for k in (2, 1, 0))]
    return flipped.transpose(axes), affine @ orientations.inv_ornt_aff(orientation, shape_xyz)


def corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World positions, mm, of the eight corner voxels of a grid of `shape` (z, y, x): (8, 3) array."""
    nz, ny, nx = (n - 1 for n in shape)
    index = np.array([(x, y, z, 1) for z in (0, nz) for y in (0, ny) for x in (0, nx)], float)
    return (index @ np.asarray(affine, float).T)[:, :3]


def check_same_grid(**arrays: xr.DataArray) -> None:
    """Raise `GridError`, with both shapes and spacings, unless all arrays lie on one grid.

    Arrays are given by the names under which the caller knows them: ``check_same_grid(image=a, mask=b)``.
    Arrays without coordinates are compared by shape alone.
    """
    (first_name, first), *others = arrays.items()
    for name, other in others:
        if said := difference(first_name, first, name, other):
            raise GridError(
                f"{said}; resample one onto the other with space.resample({name}, like={first_name}, order=0)"
            )


def difference(first_name: str, first: xr.DataArray, name: str, other: xr.DataArray) -> str:
    """How the grids of two arrays differ, with the numbers; nothing if they lie on one grid, as `check_same_grid` has it."""
    mine = {d: n for d, n in first.sizes.items() if d in SPACE}
    yours = {d: n for d, n in other.sizes.items() if d in SPACE}
    # Plain mappings: `coords[d]` would build a DataArray each time.
    own, theirs = first.coords.variables, other.coords.variables
    if mine != yours:
        return f"{first_name} is {_extent(first)} but {name} is {_extent(other)}"
    if any(d not in own or d not in theirs for d in mine):
        return ""
    same = all(np.array_equal(own[d].values, theirs[d].values) for d in mine)
    if same and _stored(first) == _stored(other):
        return ""
    shape = [first.sizes.get(d, 1) for d in SPACE]
    apart = np.abs(corners(affine_of(first), shape) - corners(affine_of(other), shape)).max()
    if apart <= SAME_GRID_MM:
        return ""
    return (
        f"{first_name} and {name} are both {_extent(first)} but lie up to {apart:.4g} mm apart "
        f"(tolerance {SAME_GRID_MM} mm)"
    )


def _stored(array: xr.DataArray) -> Any:
    grid = array.coords.variables.get("grid")
    return None if grid is None else grid.attrs.get("affine")


def _extent(array: xr.DataArray) -> str:
    dims: Mapping[Hashable, int] = {d: array.sizes[d] for d in array.dims if d in SPACE}
    sizes = " x ".join(str(n) for n in dims.values())
    try:
        spacing = " x ".join(f"{mm:.6g}" for mm in spacing_mm(array, tuple(dims)).values())
    except GridError:
        return f"{sizes} voxels (z, y, x)"
    return f"{sizes} voxels of {spacing} mm (z, y, x)"
