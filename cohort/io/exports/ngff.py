"""An array with its place in the world as OME-Zarr 0.5: Zarr v3, finer to coarser, readable over HTTP."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

import cohort
from cohort import grid, schema
from cohort.io.exports.place import ExportError
from cohort.kernels.coarser import block_mean, block_mode

VERSION = "0.5"
CHUNK = 64
"""Voxels along each axis of a chunk: what a viewer fetches at a time, by a range of a shard."""
SHARD = 4
"""Chunks along each axis of a shard, which is a file."""
SMALLEST = 64
"""No level is made of one that has no axis longer than this."""

AXES: Mapping[str, tuple[str, str | None]] = {
    "time": ("t", "time"),
    "echo": ("c", "channel"),
    "z": ("z", "space"),
    "y": ("y", "space"),
    "x": ("x", "space"),
}
"""Dim -> name and type of its axis, in the order that OME-Zarr wants."""


def write_ngff(
    image: xr.DataArray,
    folder: Path,
    *,
    name: str,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write an array as a multiscale image into a folder that is there, a block at a time.

    Parameters
    ----------
    image : DataArray, (..., z, y, x)
        In memory or lazy; leading dims time and echo. With ``scale_factor`` or ``add_offset`` the real numbers are written, in
        float32 (float64 for float64), because OME-Zarr has no scale of values; else numbers as they are stored. Masks become
        uint8.
    name : str
        Of the image, for people.
    progress : callable, optional
        Told the bytes of each block of the finest level.

    Returns
    -------
    int
        Levels. Each halves the axes along which voxels are less than twice as wide as along the finest: of images
        by the mean of blocks, of masks and labels by what is most frequent in them.

    Raises
    ------
    ExportError
        If a dim or the dtype has no form there.

    Notes
    -----
    Version 0.5 places an image by a scale and a shift along its own axes; directions in the patient it cannot say. They
    stand in full as ``cohort.affine`` (16 numbers, voxel indices x, y, z to world RAS+ mm) among the attributes.
    """
    odd = [d for d in image.dims if d not in AXES]
    if odd or image.dims[-3:] != grid.SPACE:
        raise ExportError(f"dims {image.dims}: OME-Zarr is written of ([time,] [echo,] z, y, x)")
    if image.dtype.kind not in "biuf" or image.dtype == np.float16:
        raise ExportError(f"{image.name} is {image.dtype}: expected integers, float32 or float64")
    encoding = dict(image.encoding)
    image = image.transpose(*(d for d in AXES if d in image.dims))
    image.encoding = encoding
    is_labels = image.dtype.kind == "b" or (image.dtype.kind in "iu" and image.name != "image")
    reduce = block_mode if is_labels else block_mean
    root = zarr.create_group(folder, zarr_format=3)
    first = _array(root, 0, image, _dtype(image), image.shape)
    for place in _blocks(first):
        block = _numbers(image, place)
        first[place] = block
        if progress is not None:
            progress(block.nbytes)
    spacing = grid.spacing_mm(image)
    factors = [dict.fromkeys(grid.SPACE, 1)]
    source = first
    while halved := _halved(source, factors[-1], spacing):
        by = tuple(2 if d in halved else 1 for d in image.dims)
        shape = tuple(-(-n // f) for n, f in zip(source.shape, by, strict=True))
        target = _array(root, len(factors), image, first.dtype, shape)
        for place in _blocks(target):
            wider = tuple(slice(p.start * f, p.stop * f) for p, f in zip(place, by, strict=True))
            target[place] = reduce(np.asarray(source[wider]), by)
        factors.append({d: n * (2 if d in halved else 1) for d, n in factors[-1].items()})
        source = target
    root.attrs.update(_attributes(image, name, factors, np.asarray(source), is_labels=is_labels))
    return len(factors)


def _dtype(image: xr.DataArray) -> np.dtype:
    if image.dtype.kind == "b":
        return np.dtype(np.uint8)
    if _is_scaled(image):
        return np.dtype(np.float64 if image.dtype == np.float64 else np.float32)
    return image.dtype.newbyteorder("=")


def _is_scaled(image: xr.DataArray) -> bool:
    return (image.attrs.get("scale_factor", 1.0), image.attrs.get("add_offset", 0.0)) != (1.0, 0.0)


def _numbers(image: xr.DataArray, place: tuple[slice, ...]) -> np.ndarray:
    """Voxels of a block as they are written."""
    stored = image[place].to_numpy()
    if _is_scaled(image):
        scale = float(image.attrs.get("scale_factor", 1.0))
        return schema.decode_array(
            stored, scale=scale, offset=float(image.attrs.get("add_offset", 0.0))
        )
    return stored.astype(_dtype(image), copy=False)


def _array(
    root: zarr.Group, level: int, image: xr.DataArray, dtype: np.dtype, shape: tuple[int, ...]
) -> Any:
    chunks = tuple(
        min(CHUNK, n) if d in grid.SPACE else 1 for d, n in zip(image.dims, shape, strict=True)
    )
    shards = tuple(
        c * min(SHARD, -(-n // c)) if d in grid.SPACE else 1
        for d, c, n in zip(image.dims, chunks, shape, strict=True)
    )
    return root.create_array(
        str(level),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=None if shards == chunks else shards,
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=0,
        dimension_names=[AXES[str(d)][0] for d in image.dims],
        # A viewer that asks for a chunk of background gets it, not an error.
        config={"write_empty_chunks": True},
    )


def _blocks(array: Any) -> Iterator[tuple[slice, ...]]:
    """Places of the files of an array."""
    steps = array.shards or array.chunks
    starts = (range(0, n, s) for n, s in zip(array.shape, steps, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(
            slice(c, min(c + s, n)) for c, s, n in zip(corner, steps, array.shape, strict=True)
        )


def _halved(array: Any, factors: Mapping[str, int], spacing: Mapping[Any, float]) -> set[str]:
    """Axes to halve for the next level; none if the level is small enough."""
    sizes = dict(zip(grid.SPACE, array.shape[-3:], strict=True))
    if max(sizes.values()) <= SMALLEST:
        return set()
    wide = {d: spacing[d] * factors[d] for d in grid.SPACE if sizes[d] > 1}
    return {d for d, mm in wide.items() if mm < 2 * min(wide.values())}


def _attributes(
    image: xr.DataArray,
    name: str,
    factors: list[dict[str, int]],
    coarsest: np.ndarray,
    *,
    is_labels: bool,
) -> dict[str, Any]:
    spacing = grid.spacing_mm(image)
    step, unit = _time(image)
    axes: list[dict[str, str]] = []
    for dim in map(str, image.dims):
        short, kind = AXES[dim]
        axis = {"name": short, **({} if kind is None else {"type": kind})}
        if dim in grid.SPACE:
            axis["unit"] = "millimeter"
        elif dim == "time" and unit is not None:
            axis["unit"] = unit
        axes.append(axis)
    datasets = []
    for level, by in enumerate(factors):
        scale, shift = [], []
        for dim in map(str, image.dims):
            if dim in grid.SPACE:
                first = float(image[dim].values[0])
                scale.append(spacing[dim] * by[dim])
                # The middle of the first block of voxels.
                shift.append(first + (by[dim] - 1) / 2 * spacing[dim])
            else:
                scale.append(step if dim == "time" else 1.0)
                shift.append(float(image[dim].values[0]) if dim == "time" and unit else 0.0)
        transformations = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": shift},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    multiscale = {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "mode" if is_labels else "mean",
    }
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if is_labels:
        ome["image-label"] = {}
    elif "echo" not in image.dims:
        ome["omero"] = {"channels": [_channel(name, coarsest)]}
    own: dict[str, Any] = {
        "version": cohort.__version__,
        "affine": grid.affine_of(image).ravel().tolist(),
        "units": str(image.attrs.get("units", "1")),
    }
    if "time" in image.dims:
        own["time"] = np.asarray(image["time"].values, float).tolist()
    return {"ome": ome, "cohort": own}


def _time(image: xr.DataArray) -> tuple[float, str | None]:
    """Step and unit of time; uneven times are counted, and stand among the attributes."""
    if "time" not in image.dims or image["time"].attrs.get("units") != "s":
        return 1.0, None
    times = np.asarray(image["time"].values, float)
    if times.size < 2:
        return 1.0, None
    steps = np.diff(times)
    even = steps.min() > 0 and np.ptp(steps) <= 1e-6 * steps.max()
    return (float(steps[0]), "second") if even else (1.0, None)


def _channel(name: str, coarsest: np.ndarray) -> dict[str, Any]:
    """How a viewer may window the values, from those of the coarsest level."""
    known = coarsest[np.isfinite(coarsest)]
    low, start, end, high = (
        (0.0, 0.0, 1.0, 1.0)
        if known.size == 0
        else (float(v) for v in np.percentile(known.astype(np.float64), [0, 1, 99.5, 100]))
    )
    window = {"min": low, "max": high, "start": start, "end": max(end, start)}
    return {"label": name, "color": "FFFFFF", "active": True, "window": window}
