"""Labels: numbered objects, 0 for background."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import boxes, components, points, tally
from cohort.ops import graph
from cohort.ops.layout import (
    check_connectivity,
    check_index,
    check_labels,
    check_mask,
    layout_of,
    world_of,
)

Point = Sequence[float] | Mapping[str, float]
_HIGHEST = 1 << 53
"""Label; float64 tells no higher ones apart."""
Box = Mapping[str, slice] | Sequence[slice] | xr.DataArray | xr.Dataset


def label(mask: xr.DataArray, *, connectivity: int = 1) -> xr.DataArray:
    """Number the connected components of a mask, in raster order of their first voxels.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool
        Leading dims are labelled one by one, each from 1.
    connectivity : 1, 2 or 3
        Voxels are connected over faces, or also over edges, or also over corners.

    Returns
    -------
    DataArray, shape of `mask`, int32
        0 where the mask is not. Coordinates, chunks and attributes of `mask`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool, or the connectivity is none of 1, 2, 3.

    Notes
    -----
    The numbers of ``scipy.ndimage.label``, for every chunking.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> mask = xr.DataArray(np.array([[True, False, True], [False, True, True]]), dims=["y", "x"])
    >>> label(mask).values.tolist()
    [[1, 0, 2], [0, 2, 2]]
    """
    check_mask("mask", mask)
    check_connectivity(connectivity)
    return graph.join_faces(
        {"mask": mask}, connectivity=connectivity, rule=components.every, dtype=np.int32
    )


def count(labels: xr.DataArray) -> xr.DataArray:
    """How many different labels there are, background not counted.

    Parameters
    ----------
    labels : DataArray, shape (..., z, y, x), integer

    Returns
    -------
    DataArray, shape (...), int64
        Lazy if `labels` are.

    Raises
    ------
    ValueError
        If the labels are not integers or, when computed, one is negative.
    """
    check_labels("labels", labels)
    return graph.reduce_partials(
        tally.labels_present,
        {"labels": labels},
        gather=tally.union,
        finish=tally.how_many,
        units="1",
        dtype=np.int64,
    )


def select(
    labels: xr.DataArray,
    *,
    label: int | None = None,
    at_mm: Point | None = None,
    nearest_mm: Point | None = None,
    largest: bool = False,
) -> xr.DataArray:
    """Make a mask of one object.

    Parameters
    ----------
    labels : DataArray, shape (..., z, y, x), integer
    label : int
        The object's number; a number that is not there gives an empty mask.
    at_mm : (x, y, z) or mapping of x, y and z, world RAS+ mm
        The object to which the voxel at this point belongs.
    nearest_mm : (x, y, z) or mapping of x, y and z, world RAS+ mm
        The object with the voxel nearest to this point; of equals, the lowest label.
    largest : bool
        The object with the most voxels; of equals, the lowest label.

    Returns
    -------
    DataArray, shape of `labels`, bool
        Coordinates, chunks and attributes of `labels`; empty where there are no objects to choose from. Nothing is computed if
        they are lazy.

    Raises
    ------
    ValueError
        If not exactly one way to choose is given, the label is no whole number from 1 to 2**53, the point lies outside the grid or, when computed, on background.
    GridError
        If a point is given and a coordinate is missing or irregular.
    """
    check_labels("labels", labels)
    ways = {
        "label": label is not None,
        "at_mm": at_mm is not None,
        "nearest_mm": nearest_mm is not None,
        "largest": largest,
    }
    if sum(ways.values()) != 1:
        given = ", ".join(name for name, is_given in ways.items() if is_given) or "none"
        raise ValueError(f"select() needs one of label, at_mm, nearest_mm, largest; {given} given")
    number: float | xr.DataArray
    if label is not None:
        if label <= 0:
            raise ValueError(f"label is {label}; objects are numbered from 1, 0 is background")
        if not (label <= _HIGHEST and int(label) == label):
            raise ValueError(f"label is {label}, expected a whole number from 1 to {_HIGHEST}")
        number = float(label)
    elif at_mm is not None:
        number = _at(labels, at_mm)
    elif nearest_mm is not None:
        number = _nearest(labels, nearest_mm)
    else:
        number = graph.reduce_partials(
            tally.label_sizes,
            {"labels": labels},
            gather=tally.add_sizes,
            finish=tally.largest,
            units="1",
        )
    return graph.map_points(
        points.equal, {"labels": labels}, dtype=bool, numbers={"number": number}
    )


def bounding_boxes(labels: xr.DataArray, *, index: Sequence[int] | None = None) -> xr.Dataset:
    """The smallest box around each object, in voxels and in mm.

    Parameters
    ----------
    labels : DataArray, shape (..., z, y, x), integer
    index : ints, optional
        Labels whose boxes are wanted, in this order. None: of all that there are; with Dask they are looked up now, once.

    Returns
    -------
    Dataset
        Over ``label`` (after leading dims), ``dim`` (z, y, x) and ``bound`` (start, stop): ``bounding_box``, int64, indices of
        the first voxel and one past the last, and ``bounding_box_mm``, float64, the coordinates of the outer faces of these
        voxels. A label without voxels has 0, 0 and NaN. Lazy if the labels are.

    Raises
    ------
    ValueError
        If the labels are not integers, an entry of `index` is not positive or there twice or, when computed, a label is negative.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    The slices of ``scipy.ndimage.find_objects``. `crop` takes a box: ``crop(image, boxes.sel(label=3))``.
    """
    check_labels("labels", labels)
    space = layout_of("labels", labels).space
    steps = grid.spacing_mm(labels, space)
    names = numbers_of(labels, index)
    found = graph.reduce_partials(
        boxes.boxes,
        {"labels": labels},
        gather=boxes.enclose,
        finish=boxes.of_labels,
        units="voxel",
        dtype=np.int64,
        sizes={"label": names.size, "dim": len(space), "bound": 2},
        finish_params={"index": names},
    )
    values = [labels[d].values for d in space]
    # A coordinate may fall.
    signed = [np.copysign(steps[d], v[-1] - v[0]) for d, v in zip(space, values, strict=True)]
    step, first = xr.DataArray(signed, dims="dim"), xr.DataArray([v[0] for v in values], dims="dim")
    faces = first + (found.where(found.isel(bound=1) > 0) - 0.5) * step
    return xr.Dataset(
        {
            "bounding_box": found,
            "bounding_box_mm": faces.transpose(*found.dims).assign_attrs(units="mm"),
        },
        coords={"label": names, "dim": list(space), "bound": ["start", "stop"]},
    )


def numbers_of(labels: xr.DataArray, index: Sequence[int] | None = None) -> np.ndarray:
    """Labels to look at, (n,) int64: `index`, or all that there are, rising; with Dask these are looked up now.

    Raises
    ------
    ValueError
        If an entry of `index` is not positive or there twice, or a label is negative.
    """
    if index is not None:
        return check_index(index)
    found = graph.reduce_partials(
        tally.labels_present,
        {"labels": labels},
        gather=tally.union,
        finish=tally.boxed,
        units="1",
        dtype=object,
    )
    return np.unique(np.concatenate(found.values.reshape(-1).tolist()))


def crop(image: xr.DataArray, box: Box) -> xr.DataArray:
    """Cut a box out of an image.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
    box : mapping of dim -> slice, slices of all of z, y, x, or one row of `bounding_boxes`
        Voxel indices. A dim that a mapping does not name stays whole.

    Returns
    -------
    DataArray, dtype of `image`
        A view: the voxels of the box with their coordinates and so with their place in the world (`grid.affine_of`); leading dims and
        attributes of `image`. If it is lazy nothing is computed but the box, and only the chunks that the box meets are ever read.

    Raises
    ------
    ValueError
        If the box is empty, reaches beyond the image, has steps, or names other dims.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> labels = xr.DataArray(np.array([[0, 0, 0], [0, 2, 2]]), dims=["y", "x"])
    >>> labels = labels.assign_coords(y=[0.0, 1.0], x=[5.0, 7.0, 9.0])
    >>> crop(labels, bounding_boxes(labels).sel(label=2)).x.values.tolist()
    [7.0, 9.0]
    """
    space = layout_of("image", image).space
    cut = {dim: _range(dim, part, image.sizes) for dim, part in _slices(box, space).items()}
    found = image.isel(cut)
    for dim in cut:
        # One voxel alone does not tell how thick it is.
        if found.sizes[dim] == 1 and dim in image.coords:
            known = image.coords[dim].attrs
            if "spacing_mm" not in known and image.sizes[dim] > 1:
                step = grid.spacing_mm(image, (dim,))[dim]
                values = found[dim].variable.copy()
                values.attrs = {**known, "spacing_mm": step}
                found = found.assign_coords({dim: values})
    return found


def _slices(box: Box, space: Sequence[str]) -> dict[str, slice]:
    """A box by the names of dims."""
    row = box["bounding_box"] if isinstance(box, xr.Dataset) else box
    if isinstance(row, xr.DataArray):
        if set(row.dims) != {"dim", "bound"}:
            raise ValueError(
                f"box has dims {row.dims}, expected ('dim', 'bound'): take one, such as boxes.sel(label=3)"
            )
        ends = row.transpose("dim", "bound").values.tolist()
        return {str(d): slice(*pair) for d, pair in zip(row["dim"].values, ends, strict=True)}
    if isinstance(row, Mapping):
        return {str(dim): part for dim, part in row.items()}
    if len(row) != len(space):
        raise ValueError(f"box has {len(row)} slices, but the image has dims {', '.join(space)}")
    return dict(zip(space, row, strict=True))


def voxel_at(array: xr.DataArray, **points: Point) -> dict[str, int]:
    """Index along each of x, y, z of the voxel at a point, world RAS+ mm, given by the name under which the caller knows it.

    Raises
    ------
    ValueError
        If it is no point, or lies outside the grid.
    GridError
        If a coordinate is missing or irregular.
    """
    ((name, point),) = points.items()
    place = _xyz(name, point)
    exact = np.linalg.inv(grid.affine_of(array)) @ [*place, 1.0]
    index = {dim: int(np.floor(i + 0.5)) for dim, i in zip("xyz", exact[:3], strict=True)}
    for dim, i in index.items():
        n = array.sizes.get(dim, 1)
        if not 0 <= i < n:
            raise ValueError(
                f"{name} {place} mm is voxel {i} along {dim!r}, outside of the {n} of the grid"
            )
    return index


def _at(labels: xr.DataArray, point: Point) -> xr.DataArray:
    """Lazy number of the object at a point."""
    space, place = layout_of("labels", labels).space, _xyz("at_mm", point)
    index = voxel_at(labels, at_mm=place)
    return graph.reduce_partials(
        tally.at,
        {"labels": labels},
        gather=np.concatenate,
        finish=tally.object_at,
        units="1",
        params={"index": tuple(index[d] for d in space)},
        finish_params={"place": f"{place} mm"},
    )


def _nearest(labels: xr.DataArray, point: Point) -> xr.DataArray:
    """Lazy number of the object nearest to a point."""
    place = _xyz("nearest_mm", point)
    return graph.reduce_partials(
        tally.nearest,
        {"labels": labels},
        gather=tally.closer,
        finish=tally.nearest_label,
        units="1",
        params={"world": world_of(labels), "point": np.array(place)},
    )


def _xyz(name: str, point: Point) -> tuple[float, float, float]:
    """A point as x, y, z."""
    if isinstance(point, Mapping):
        if set(point) != {"x", "y", "z"}:
            raise ValueError(f"{name} has {sorted(point)}, expected x, y and z in mm")
        point = [point[d] for d in "xyz"]
    if len(point) != 3 or not np.isfinite(np.asarray(point, float)).all():
        raise ValueError(f"{name} is {point}, expected three numbers x, y, z in mm")
    x, y, z = (float(v) for v in point)
    return x, y, z


def _range(dim: str, part: slice, sizes: Mapping[Any, int]) -> slice:
    """A slice along one dim, checked."""
    if dim not in sizes or dim not in grid.SPACE:
        raise ValueError(f"box names {dim!r}, which is no spatial dim of the image: {dict(sizes)}")
    n = sizes[dim]
    start, stop = 0 if part.start is None else part.start, n if part.stop is None else part.stop
    if part.step not in (None, 1):
        raise ValueError(f"box has a step of {part.step} along {dim!r}; a crop keeps every voxel")
    ends = [float(end) for end in (start, stop)]
    if not (all(end.is_integer() for end in ends) and 0 <= start < stop <= n):
        raise ValueError(
            f"box runs from {start} to {stop} along {dim!r}, of {n} voxels; it holds at least one voxel, and none "
            f"beyond the image (a label without voxels has no box)"
        )
    return slice(int(start), int(stop))
