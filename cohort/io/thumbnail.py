"""A small picture of a scan: its three mid planes to look at, and a coarse volume to compare it with others.

Made while the scan is in memory at ingest and kept beside it, ``scans/<scan_id>.thumbnail``, with its digest in the scan's
record; what of it is damaged, or of a store from before there were any, is made from the image when it is asked for. The
file is one line of JSON and the pixels after it, 8 bits each, compressed; nothing in it is executable.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numcodecs import Zstd

from cohort import grid
from cohort.io.storage import metadata
from cohort.kernels.previews import Preview, shrunk

SUFFIX = ".thumbnail"

WINDOW = (1.0, 99.5)
"""Percentiles of the planes' pixels between which 255 shades lie, where an image has more values."""

_SHADES = 255


class Thumbnail:
    """What one sees of a scan at a glance.

    Parameters
    ----------
    header : mapping
        Of the file.
    pixels : (N,) uint8 array
        Those of the planes one after the other, then those of the coarse volume.
    """

    def __init__(self, header: Mapping[str, Any], pixels: np.ndarray) -> None:
        self._header = header
        self._affine = np.array(header["affine"], float).reshape(4, 4)
        shapes = [*(said["shape"] for said in header["planes"]), header["coarse"]["shape"]]
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
        if pixels.size != ends[-1]:
            raise ValueError(f"{pixels.size} pixels, expected {ends[-1]} of {shapes}")
        parts = np.split(pixels, ends[:-1])
        self._parts = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    @cached_property
    def planes(self) -> dict[str, xr.DataArray]:
        """Dimension that is cut (z, y, x) -> its middle plane, float32.

        Each is an array (z, y, x) of one voxel along that dimension and at most 160 along the others, with coordinates in mm
        and the affine, so that whatever draws a slice of a scan draws it. Of leading dims (time, echo) the first entry.
        """
        low, step = self._header["shades"]
        found = {}
        for axis, dim in enumerate(grid.SPACE):
            voxels = list(self._header["planes"][axis]["voxels"])
            voxels.insert(axis, 1)
            start = [0, 0, 0]
            start[axis] = self._header["at"][axis]
            values = np.expand_dims(self._parts[axis], axis) * step + low
            found[dim] = _placed(values.astype(np.float32), self._affine, start, voxels)
        return found

    @cached_property
    def coarse(self) -> xr.DataArray:
        """Block means on the scan's own axes: (z, y, x), at most 32 cells along each, float32, with coordinates.

        The last cell of an axis may cover less than its step says.
        """
        least, rise = self._header["cells"]
        values = self._parts[3] * rise + least
        return _placed(
            values.astype(np.float32), self._affine, [0, 0, 0], self._header["coarse"]["voxels"]
        )


def make(stored: xr.Dataset, scan: xr.Dataset) -> bytes:
    """Make the file of a scan.

    Parameters
    ----------
    stored : Dataset
        Its ``image``, (..., z, y, x), is in memory, or read a chunk at a time.
    scan : Dataset
        Says where the voxels lie, and with CF attributes what number a stored one stands for. May be the same.

    Returns
    -------
    bytes
        The same for every chunking.
    """
    image, attrs = stored["image"].variable, scan["image"].attrs
    scale, offset = float(attrs.get("scale_factor", 1.0)), float(attrs.get("add_offset", 0.0))
    shape = image.shape[-3:]
    preview = Preview(shape, image.dtype)
    for start, block in _blocks(image):
        preview.add(block, start)
    shown = [shrunk(plane) for plane in preview.planes]
    low, step = _shades([pixels for pixels, _ in shown])
    parts = [_quantised(plane, low, step) for plane, _ in shown]
    means = preview.means()
    least, most = float(np.float32(means.min())), float(np.float32(means.max()))
    rise = (most - least) / _SHADES
    parts.append(_quantised(means, least, rise))
    header = {
        "format": 1,
        "affine": scan["affine"].values.ravel().tolist(),
        "at": preview.at,
        "planes": [{"shape": plane.shape, "voxels": factors} for plane, factors in shown],
        "shades": [offset + scale * low, scale * step],
        "coarse": {"shape": means.shape, "voxels": preview.cell},
        "cells": [offset + scale * least, scale * rise],
    }
    pixels = b"".join(part.tobytes() for part in parts)
    text = json.dumps(header, allow_nan=False).encode("ascii")
    return bytes(Zstd(level=metadata.LEVEL, checksum=True).encode(b"%b\n%b" % (text, pixels)))


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and pixels of a file. Raises RuntimeError or ValueError if it is damaged."""
    header, _, pixels = bytes(Zstd().decode(content)).partition(b"\n")
    return json.loads(header), pixels


def read(content: bytes) -> Thumbnail:
    """The thumbnail that a file holds. Raises RuntimeError or ValueError if it is damaged."""
    header, pixels = opened(content)
    return Thumbnail(header, np.frombuffer(pixels, np.uint8))


def _blocks(image: xr.Variable) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The first volume of an image, in blocks that fit into memory: chunks as they lie in the store."""
    first = image[(0,) * (image.ndim - 3)]
    if isinstance(image._data, np.ndarray) or first.nbytes <= metadata.WHOLE_BYTES:
        yield (0, 0, 0), first.values
        return
    for start in itertools.product(*(range(0, n, metadata.CHUNK) for n in first.shape)):
        yield start, first[tuple(slice(s, s + metadata.CHUNK) for s in start)].values


def _shades(planes: list[np.ndarray]) -> tuple[float, float]:
    """Darkest shade and the step between shades; of integers that have no more values, those."""
    if all(p.dtype.kind in "iub" for p in planes):
        least, most = min(int(p.min()) for p in planes), max(int(p.max()) for p in planes)
        if most - least <= _SHADES:
            return float(least), 1.0
    low, high = np.percentile(
        np.concatenate([p.ravel() for p in planes]).astype(np.float64), WINDOW
    )
    low, high = float(np.float32(low)), float(np.float32(high))
    return low, (high - low) / _SHADES


def _quantised(values: np.ndarray, low: float, step: float) -> np.ndarray:
    if step == 1.0 and values.dtype.kind in "iub":
        whole = values.view(np.uint8) if values.dtype == np.bool_ else values
        # Round about the end of the type, if need be: the difference is a byte.
        return (whole - whole.dtype.type(int(low))).astype(np.uint8)
    if not step:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - np.float64(low)) / step, 0, _SHADES)).astype(np.uint8)


def _placed(
    values: np.ndarray, affine: np.ndarray, start: list[int], voxels: list[int]
) -> xr.DataArray:
    """Blocks of voxels on a grid of their own: the first begins at `start`."""
    select = np.eye(4)
    for axis, (first, n) in enumerate(zip(start[::-1], voxels[::-1], strict=True)):
        select[axis, axis], select[axis, 3] = n, first + (n - 1) / 2
    coords = grid.coordinates(affine @ select, values.shape)
    return xr.DataArray(values, dims=grid.SPACE, coords=coords)
