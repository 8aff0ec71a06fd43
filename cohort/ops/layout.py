"""How the dims of an array divide: leading ones, over which an operation loops, and spatial ones."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from cohort.grid import SPACE, affine_of, check_same_grid


@dataclass(frozen=True)
class Layout:
    """Dims of an array: leading ones first, then one to three of z, y, x."""

    lead: tuple[Hashable, ...]
    space: tuple[str, ...]

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """All dims, in the order in which arrays hold them."""
        return (*self.lead, *self.space)


def layout_of(name: str, array: xr.DataArray) -> Layout:
    """Layout of an array that the caller knows as `name`.

    Raises
    ------
    TypeError
        If it is no DataArray.
    ValueError
        If it has no spatial dims, holds nothing, or a leading dim stands behind a spatial one.
    """
    if not isinstance(array, xr.DataArray):
        raise TypeError(
            f"{name} is a {type(array).__name__}, expected an xarray.DataArray with dims (z, y, x)"
        )
    space = tuple(str(d) for d in array.dims if d in SPACE)
    lead = tuple(d for d in array.dims if d not in SPACE)
    if not space:
        raise ValueError(
            f"{name} has dims {array.dims}, expected (..., 'z', 'y', 'x') or some of them"
        )
    if array.dims[len(lead) :] != space:
        raise ValueError(
            f"{name} has dims {array.dims}; leading dims come first: "
            f"{name}.transpose{(*(str(d) for d in lead), *space)}"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: {dict(array.sizes)}")
    return Layout(lead, space)


def together(**arrays: xr.DataArray) -> tuple[Layout, list[xr.Variable]]:
    """Bring arrays on one grid to the same dims: leading dims that one lacks are repeated, nothing is copied.

    Arrays are given by the names under which the caller knows them.

    Returns
    -------
    Layout
        Spatial dims as in the first array, leading dims of all of them.
    list of Variable
        Of equal dims and shape.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If leading dims differ in length.
    """
    layouts = {name: layout_of(name, array) for name, array in arrays.items()}
    if len(arrays) > 1:
        check_same_grid(**arrays)
    lead: dict[Hashable, int] = {}
    for name, array in arrays.items():
        for dim in layouts[name].lead:
            if lead.setdefault(dim, array.sizes[dim]) != array.sizes[dim]:
                first = next(iter(arrays))
                raise ValueError(
                    f"{first} has {lead[dim]} along {dim!r} but {name} has {array.sizes[dim]}"
                )
    layout = Layout(tuple(lead), next(iter(layouts.values())).space)
    first_array = next(iter(arrays.values()))
    sizes = lead | {d: first_array.sizes[d] for d in layout.space}
    variables = [repeated(a.variable, sizes).transpose(*layout.dims) for a in arrays.values()]
    return layout, variables


def repeated(variable: xr.Variable, sizes: Mapping[Hashable, int]) -> xr.Variable:
    """Variable with all dims of `sizes`: repeated along those that it lacks, nothing is copied."""
    if set(variable.dims) == set(sizes):
        return variable
    return variable.set_dims(dict(sizes))  # type: ignore[no-untyped-call]


def like(
    template: xr.DataArray, others: Sequence[xr.DataArray], layout: Layout, data: Any
) -> xr.DataArray:
    """Array of `data` with the coordinates, attributes and name of `template`, whatever its dtype."""
    if layout.dims == template.dims:
        return template.copy(deep=False, data=data)
    coords = dict(template.coords)
    for other in others:
        coords |= {d: other.coords[d] for d in layout.lead if d in other.coords and d not in coords}
    return xr.DataArray(
        data, dims=layout.dims, coords=coords, attrs=dict(template.attrs), name=template.name
    )


def number(
    layout: Layout,
    sources: Sequence[xr.DataArray],
    data: object,
    *,
    units: str,
    dims: Sequence[str] = (),
) -> xr.DataArray:
    """Array over the leading dims (and `dims`) that holds a measurement."""
    coords = {d: s.coords[d] for s in reversed(sources) for d in layout.lead if d in s.coords}
    return xr.DataArray(data, dims=(*layout.lead, *dims), coords=coords, attrs={"units": units})


def world_of(array: xr.DataArray) -> np.ndarray:
    """(3, n + 1) matrix from voxel indices along the n spatial dims in their order, and 1, to world x, y, z in mm."""
    columns = ["xyz".index(d) for d in layout_of("array", array).space]
    return affine_of(array)[:3, [*columns, 3]]


def check_mask(name: str, mask: xr.DataArray) -> None:
    """Raise ValueError unless `mask` is bool."""
    layout_of(name, mask)
    if mask.dtype != np.bool_:
        raise ValueError(
            f"{name} is {mask.dtype}, expected bool: make a mask with masks.threshold({name}, above=0) "
            f"or, of labels, with labels.select"
        )


def check_image(name: str, image: xr.DataArray) -> None:
    """Raise ValueError unless `image` holds real numbers of at most 64 bits."""
    layout_of(name, image)
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        raise ValueError(f"{name} is {image.dtype}, expected real numbers of at most 64 bits")


def check_flat(name: str, array: xr.DataArray) -> None:
    """Raise ValueError if there are leading dims."""
    if lead := layout_of(name, array).lead:
        raise ValueError(
            f"{name} has dims {array.dims}; take one position along {', '.join(map(str, lead))}: "
            f"{name}.isel({lead[0]}=0)"
        )


def check_labels(name: str, labels: xr.DataArray) -> None:
    """Raise ValueError unless `labels` are integers."""
    layout_of(name, labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} is {labels.dtype}, expected integers with 0 for background (NaN is no label)"
        )


def check_connectivity(connectivity: int) -> None:
    """Raise ValueError unless it is 1, 2 or 3."""
    if connectivity not in (1, 2, 3):
        raise ValueError(
            f"connectivity is {connectivity!r}, expected 1 (faces), 2 (and edges) or 3 (and corners)"
        )


def check_index(index: Sequence[int]) -> np.ndarray:
    """Labels that somebody asks for, (n,) int64; ValueError unless they are positive and each is there once."""
    names = np.asarray(index)
    if names.ndim != 1 or names.dtype.kind not in "iu":
        raise ValueError(f"index is {index!r}, expected a list of whole numbers")
    if (names <= 0).any():
        raise ValueError(f"index holds {names.min()}; objects are numbered from 1, 0 is background")
    if len(set(names.tolist())) != names.size:
        twice = next(n for n in names.tolist() if names.tolist().count(n) > 1)
        raise ValueError(f"index holds {twice} more than once")
    return names.astype(np.int64)


def image_and_mask(image: xr.DataArray, mask: xr.DataArray | None) -> dict[str, xr.DataArray]:
    """The two by name, checked; without the mask if there is none."""
    check_image("image", image)
    if mask is None:
        return {"image": image}
    check_mask("mask", mask)
    return {"image": image, "mask": mask}


def unit_of(image: xr.DataArray) -> str:
    """The image's unit; "1" if it says none."""
    return str(image.attrs.get("units", "1"))
