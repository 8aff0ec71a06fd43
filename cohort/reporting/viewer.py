"""The slice viewer of a scan's page: NiiVue out of the installed wheel of ipyniivue, and the scan as NiiVue takes it.

Nothing of NiiVue lies in this repository. Its module is found when a page is written, packed, and handed to the browser as text,
which `templates/viewer.js` turns into a script when somebody asks for it: a page that nobody asks costs no more than its bytes.
"""

import base64
import gzip
import re
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import xarray as xr

from cohort import grid

WHEEL = "ipyniivue"
"""Distribution that carries NiiVue as an ES module."""

GET_IT = 'pip install "cohort[notebook]"'

MAX_VOXELS = 1 << 22
"""Voxels that a page embeds: 16 bits each and one byte of outlines, which keeps any page under 20 MB, however noisy its scan."""

READ_BYTES = 512 << 20
"""A scan of more bytes in the store is not read whole: its middle is shown, at full resolution."""

TILE_BYTES = 64 << 20
"""Voxels that are averaged at a time, as float32."""

_EXPORT = re.compile(r"export\s*\{\s*([\w$]+)\s+as\s+default\s*\}\s*;?\s*$")


_HANDED = 'dispatchEvent(new CustomEvent("niivue", { detail: %s }));\n'


class ViewerError(ValueError):
    """The viewer cannot be had; the message says why, and how to get it."""


@dataclass(frozen=True)
class Program:
    """NiiVue, as a module that gives its widget to whoever listens for the event ``niivue``.

    Parameters
    ----------
    source : str
        JavaScript.
    version : str
        Of the wheel.
    licence : str
        What has to go where the program goes.
    """

    source: str
    version: str
    licence: str


def program() -> Program:
    """Take NiiVue out of the installed wheel.

    Raises
    ------
    ViewerError
        If the wheel is not installed, or has another form than is known.

    Notes
    -----
    The package is not imported: that would start half of Jupyter. An inline module exports to nobody, so that its last statement
    becomes an event, with the widget in it.
    """
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        raise ViewerError(f"the viewer comes with {WHEEL}: {GET_IT}") from None
    try:
        source = Path(str(wheel.locate_file(f"{WHEEL}/static/widget.js"))).read_text("utf-8")
    except OSError:
        source = ""
    found = _EXPORT.search(source)
    if found is None:
        raise ViewerError(
            f"{WHEEL} {wheel.version} has no widget.js that ends in its default export; expected 2.4 or later: {GET_IT}"
        )
    return Program(
        source=f"{source[: found.start()]}{_HANDED % found[1]}",
        version=wheel.version,
        licence=next((str(f.read_text()) for f in wheel.files or () if f.name == "LICENSE"), ""),
    )


def packed(content: bytes) -> str:
    """Bytes as a data URI of gzip: what ``viewer.js`` unpacks. The same bytes give the same text."""
    small = gzip.compress(content, 9, mtime=0)
    return f"data:application/gzip;base64,{base64.b64encode(small).decode('ascii')}"


# -- what is embedded of a scan ----------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """Which voxels of a scan are embedded: a box, and along each axis how many voxels become one.

    Parameters
    ----------
    whole : mapping of dim -> int
        Voxels of the scan.
    start, stop : mapping of dim -> int
        Of the box, in voxels.
    factor : mapping of dim -> int
    """

    whole: Mapping[str, int]
    start: Mapping[str, int]
    stop: Mapping[str, int]
    factor: Mapping[str, int]

    @property
    def shape(self) -> dict[str, int]:
        """Voxels along each axis afterwards; the last of an axis may be the mean of fewer."""
        return {d: -(-(self.stop[d] - self.start[d]) // f) for d, f in self.factor.items()}

    @property
    def is_crop(self) -> bool:
        """Whether a part of the scan is left out; see `sampling`."""
        return any(self.stop[d] - self.start[d] < n for d, n in self.whole.items())

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """Voxel -> world of what is embedded, (4, 4), from that of the scan: centres of blocks are means of centres."""
        step = np.array([self.factor[d] for d in "xyz"], float)
        change = np.diag([*step, 1.0])
        change[:3, 3] = [self.start[d] for d in "xyz"] + (step - 1) / 2
        return affine @ change


def sampling(
    shape: Mapping[Hashable, int],
    spacing_mm: Mapping[Hashable, float],
    itemsize: int,
    *,
    most: int = MAX_VOXELS,
) -> Sampling:
    """Choose what is embedded of a scan.

    Parameters
    ----------
    shape, spacing_mm : mapping of dim -> number
        Of z, y and x.
    itemsize : int
        Bytes of a voxel in the store.
    most : int, voxels

    Returns
    -------
    Sampling
        The axis with the finest steps is averaged first, so that the voxels that are left come near to cubes. Of a scan beyond
        `READ_BYTES` the box in its middle, not averaged: to average it all of it would have to be read.

    Examples
    --------
    >>> mm = {"z": 1.0, "y": 1.0, "x": 1.0}
    >>> sampling({"z": 176, "y": 208, "x": 176}, mm, 2).factor
    {'z': 2, 'y': 1, 'x': 1}
    >>> huge = sampling({"z": 1300, "y": 1300, "x": 1300}, mm, 2)
    >>> huge.shape, huge.start["z"], huge.factor["z"]
    ({'z': 161, 'y': 161, 'x': 161}, 569, 1)
    """
    sizes = {d: int(shape[d]) for d in grid.SPACE}
    if itemsize * int(np.prod(list(sizes.values()), dtype=np.int64)) > READ_BYTES:

        def voxels(side: int) -> int:
            return int(np.prod([min(n, side) for n in sizes.values()], dtype=np.int64))

        side = bisect_right(range(1, max(sizes.values()) + 1), most, key=voxels)
        kept = {d: min(n, side) for d, n in sizes.items()}
        start = {d: (sizes[d] - n) // 2 for d, n in kept.items()}
        stop = {d: start[d] + n for d, n in kept.items()}
        return Sampling(sizes, start, stop, dict.fromkeys(sizes, 1))
    factor = dict.fromkeys(sizes, 1)
    while np.prod([-(-n // factor[d]) for d, n in sizes.items()], dtype=np.int64) > most:
        # An axis of which nothing is left to average goes last, whatever its steps are.
        finest = min(sizes, key=lambda d: (factor[d] >= sizes[d], spacing_mm[d] * factor[d]))
        factor[finest] += 1
    return Sampling(sizes, dict.fromkeys(sizes, 0), sizes, factor)


def block_mean(image: xr.DataArray, sample: Sampling) -> np.ndarray:
    """Mean of each block of voxels, float32, (z, y, x); of leading dims (time, echo) the first entry.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
        Lazy or in memory. About `TILE_BYTES` are held at a time, whatever the image has, beside the result.
    sample : Sampling

    Notes
    -----
    NaN takes no part in a mean; a block of nothing else is NaN. Oracle: ``skimage.measure.block_reduce`` where the factors divide
    the shape.
    """
    flat = _first(image)
    out = np.empty([sample.shape[d] for d in grid.SPACE], np.float32)
    (fz, fy, fx), (nz, ny, _) = (sample.factor[d] for d in grid.SPACE), out.shape
    x = slice(sample.start["x"], sample.stop["x"])
    thick, high = _tile(flat, sample)
    for k in range(0, nz, thick):
        z = _span(sample, "z", k, min(k + thick, nz))
        for j in range(0, ny, high):
            y = _span(sample, "y", j, min(j + high, ny))
            block = flat.isel(z=z, y=y, x=x).to_numpy().astype(np.float32, copy=False)
            out[k : k + thick, j : j + high] = _means(block, (fz, fy, fx))
    return out


def _tile(image: xr.DataArray, sample: Sampling) -> tuple[int, int]:
    """Blocks along z and y that are read at a time: as many chunks as fit, so that few are read twice."""
    row = 4 * (sample.stop["x"] - sample.start["x"])
    chunks = image.encoding.get("preferred_chunks") or {}
    per = {d: -(-int(chunks.get(d, 64)) // sample.factor[d]) for d in "zy"}
    tall = max(1, TILE_BYTES // (row * sample.factor["y"] * sample.factor["z"]))
    thick = max(1, min(per["z"], tall))
    fits = max(1, tall // thick)
    return thick, fits if fits < per["y"] else fits // per["y"] * per["y"]


def _span(sample: Sampling, dim: str, first: int, last: int) -> slice:
    start, factor = sample.start[dim], sample.factor[dim]
    return slice(start + first * factor, min(start + last * factor, sample.stop[dim]))


def _means(block: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    finite = np.isfinite(block)
    sums, counts = np.where(finite, block, 0).astype(np.float64), finite.astype(np.float64)
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, block.shape[axis], factor)
            sums = np.add.reduceat(sums, starts, axis)
            counts = np.add.reduceat(counts, starts, axis)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def picked(labels: xr.DataArray, sample: Sampling) -> np.ndarray:
    """The middle voxel of each block, (z, y, x): labels have no mean."""
    places = {
        d: np.minimum(np.arange(s, sample.stop[d], f) + (f - 1) // 2, sample.stop[d] - 1)
        for d, s, f in ((d, sample.start[d], sample.factor[d]) for d in grid.SPACE)
    }
    return _first(labels).isel(places).to_numpy()


def _first(array: xr.DataArray) -> xr.DataArray:
    first: dict[Hashable, int] = {d: 0 for d in array.dims if d not in grid.SPACE}
    return array.isel(first).transpose(*grid.SPACE)


def nifti(values: np.ndarray, affine: np.ndarray) -> bytes:
    """A volume as an uncompressed NIfTI file in memory.

    Parameters
    ----------
    values : (z, y, x) array
        uint8 as it is; floats as 16-bit integers with a slope, exact if all are integers that fit, else to 1/131068 of their
        range. NaN becomes the lowest value: NIfTI integers have none.
    affine : (4, 4) array
        Voxel (x, y, z) -> world, RAS+, mm.
    """
    import nibabel as nib

    slope, inter = 1.0, 0.0
    if values.dtype != np.uint8:
        values, slope, inter = _quantized(values)
    image = nib.Nifti1Image(values.T, affine)
    image.header.set_slope_inter(slope, inter)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _quantized(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    filled = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if low >= -32768 and high <= 32767 and np.array_equal(filled, np.rint(filled)):
        return filled.astype(np.int16), 1.0, 0.0
    middle = low / 2 + high / 2
    slope = (high / 65534 - low / 65534) or 1.0
    return np.rint((filled - middle) / slope).clip(-32767, 32767).astype(np.int16), slope, middle


def painted(labels: Sequence[np.ndarray], numbers: Sequence[Sequence[int]]) -> np.ndarray:
    """Masks and label images in one uint8 image, the smaller over the larger.

    Parameters
    ----------
    labels : sequence of (z, y, x) bool or integer arrays
    numbers : sequence of sequences of int
        For each, the numbers that it is painted in: label 1 in the first, the next in the next, and around again.
    """
    out = np.zeros(labels[0].shape, np.uint8)
    for i in sorted(range(len(labels)), key=lambda i: -int(np.count_nonzero(labels[i]))):
        inside = labels[i] != 0
        mine = np.asarray(numbers[i], np.uint8)
        out[inside] = mine[(labels[i][inside].astype(np.int64) - 1) % len(mine)]
    return out
