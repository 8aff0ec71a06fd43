"""Arrays sampled at the voxels of another grid: order, chunks, coordinates."""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import sampling
from cohort.ops import graph
from cohort.ops.layout import Layout, layout_of
from cohort.ops.transforms import affine_of


def default_order(dtype: np.dtype, name: Hashable | None) -> int:
    """Order to sample an array of this dtype and name with: 0 for masks and labels, 1 for all else."""
    are_labels = dtype.kind in "iu" and (dtype.itemsize >= 4 or name == "labels")
    return 0 if dtype == np.bool_ or are_labels else 1


def order_of(image: xr.DataArray, order: int | None) -> int:
    """Order to sample an image with: the one asked for, or 0 for masks and labels and 1 for all else.

    Raises
    ------
    ValueError
        If it is none of 0 to 5, or above 0 for a mask.
    """
    if order is None:
        return default_order(image.dtype, image.name)
    if isinstance(order, bool) or order not in range(sampling.MAX_ORDER + 1):
        raise ValueError(f"order is {order!r}, expected a whole number from 0 (nearest) to 5")
    if order and image.dtype == np.bool_:
        raise ValueError(
            f"order is {order} for a mask, expected 0; for shares of voxels take image.astype('float32')"
        )
    return int(order)


def dtype_of(image: xr.DataArray, order: int, fill: float) -> np.dtype[Any]:
    """Type of what an image is sampled to; ValueError if that cannot hold `fill`."""
    dtype = sampling.sampled_dtype(image.dtype, order)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    if limits and not (limits.min <= fill <= limits.max and float(fill).is_integer()):
        raise ValueError(f"fill is {fill}, expected a value that {dtype} can hold")
    return dtype


def interpolable(image: xr.DataArray, order: int) -> xr.DataArray:
    """What the kernels of `order` sample: the image, or its spline coefficients, which follow from whole lines of it."""
    if order < 2:
        return image
    (found,) = graph.map_lines(
        sampling.coefficients, {"image": image}, dtypes=[np.float64], params={"order": order}
    )
    return found


def sampled(
    image: xr.DataArray,
    voxels: np.ndarray,
    sizes: Mapping[str, int],
    target: xr.DataArray,
    *,
    order: int,
    fill: float,
    to_edge: bool,
) -> Any:
    """Values at the voxels of a grid of the image's spatial dims: `voxels` leads from its voxels (x, y, z) to those of the image."""
    layout = layout_of("image", image)
    shape = tuple(image.sizes[d] for d in layout.space)
    matrix = _within(voxels, layout)
    dtype = dtype_of(image, order, fill)
    return graph.map_parts(
        sampling.sample,
        interpolable(image, order),
        chunks=_chunks(image, target, sizes, np.abs(voxels).max(axis=0)),
        needed=partial(_needed, matrix, shape, order),
        dtype=dtype,
        params={
            "matrix": matrix,
            "shape": shape,
            "order": order,
            "fill": fill,
            "to_edge": to_edge,
            "dtype": dtype,
        },
    )


def _needed(
    matrix: np.ndarray, shape: Sequence[int], order: int, start: Sequence[int], size: Sequence[int]
) -> tuple[slice, ...] | None:
    return sampling.needed(matrix, shape, start, size, order=order)


def _within(voxels: np.ndarray, layout: Layout) -> np.ndarray:
    """The matrix along the image's own axes in their order; ValueError if it leads out of them."""
    mine = ["xyz".index(d) for d in layout.space]
    others = [i for i in range(3) if i not in mine]
    if others and np.abs(voxels[others][:, [*mine, 3]]).max() > sampling.SNAP:
        raise ValueError(
            f"the transform leads out of the image, which has only the dims {layout.space}"
        )
    return np.ascontiguousarray(voxels[mine][:, [*mine, 3]])


def _chunks(
    image: xr.DataArray, target: xr.DataArray, sizes: Mapping[str, int], steps: np.ndarray
) -> tuple[tuple[int, ...], ...]:
    """Chunks of the result: those of the target if it is lazy and has this shape, else about as large as the image's.

    Where the result is coarser (`steps`, along x, y, z, in voxels of the image, over 1), they have fewer voxels, so that a
    block needs no more of the image than a chunk of it and its surroundings.
    """
    if target.chunks is not None and all(target.sizes[d] == n for d, n in sizes.items()):
        by_dim = target.chunksizes
        return tuple(tuple(n for n in by_dim[d] if n) for d in sizes)
    found = []
    for dim, n in sizes.items():
        most = max(image.chunksizes[dim]) if image.chunks is not None else n
        most = max(1, int(most / max(1.0, steps["xyz".index(dim)])))
        found.append(tuple(min(most, n - first) for first in range(0, n, most)))
    return tuple(found)


def sizes_at(
    sizes: Mapping[str, int], old_mm: Mapping[str, float], new_mm: Mapping[str, float]
) -> dict[str, int]:
    """Voxels along each dim of the grid of another spacing that covers the same field of view, to half a new voxel."""
    return {d: max(1, round(n * old_mm[d] / new_mm[d])) for d, n in sizes.items()}


def coordinates(
    image: xr.DataArray,
    voxels: np.ndarray,
    sizes: Mapping[str, int],
    spacing: Mapping[str, float],
) -> dict[str, Any]:
    """Coordinates of a grid whose voxels (x, y, z) lie at `voxels` of the image's."""
    if "grid" in image.coords:
        found = grid.coordinates(affine_of(image) @ voxels, [sizes.get(d, 1) for d in grid.SPACE])
        return {d: found[d] for d in (*sizes, "grid")}
    found = {}
    for dim, n in sizes.items():
        i = "xyz".index(dim)
        step = affine_of(image)[i, i]
        first = float(image.coords[dim].values[0]) + step * voxels[i, 3]
        values = first + math.copysign(spacing[dim], step) * np.arange(n)
        attrs = {**image.coords[dim].attrs, "spacing_mm": spacing[dim]}
        found[dim] = xr.Variable((dim,), values, attrs)
    return found


def on_grid(image: xr.DataArray, data: Any, coords: Mapping[str, Any]) -> xr.DataArray:
    """Array of `data` with the leading coordinates, attributes and name of `image`, and the spatial ones of a grid."""
    gone = {*grid.SPACE, "grid"} & set(image.coords)
    kept = {
        name: c
        for name, c in image.coords.items()
        if name not in gone and not set(c.dims) & set(grid.SPACE)
    }
    kept |= {n: image.coords[n] for n in gone if n not in coords and n not in image.dims}
    return xr.DataArray(
        data, dims=image.dims, coords={**kept, **coords}, attrs=dict(image.attrs), name=image.name
    )
