"""An array with its place in the world to a NIfTI file, to the bit."""

import gzip
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
import xarray as xr

from cohort import grid
from cohort.io.exports.place import ExportError
from cohort.io.nifti import smallest_integer

SLAB_BYTES = 64 << 20
"""Voxels are read and written in slabs of about this size."""

FORMS: dict[str, Any] = {"1": nib.Nifti1Header, "2": nib.Nifti2Header}
_EVEN = 1e-6
"""Steps of time may differ by this share and still be one repetition time."""

Version = Literal["auto", "1", "2"]


@dataclass(frozen=True)
class Intent:
    """What the numbers of a map are, as the header of NIfTI says it.

    Attributes
    ----------
    code : str
        As nibabel spells it: ``t test``, ``f test``, ``p value``, ``estimate``, ``correlation``, ``none``.
    parameters : tuple of float
        Those of the code, such as degrees of freedom.
    name, described : str
        Up to 15 and 79 letters of ASCII are kept.
    """

    code: str
    parameters: tuple[float, ...]
    name: str
    described: str


@dataclass(frozen=True)
class Written:
    """What a file holds beside its voxels."""

    version: str
    """Of NIfTI: ``1``, or ``2`` where that alone holds the affine and the scale to the bit."""
    off_mm: float
    """How far a corner of the image moved, because the version that was asked for rounds."""
    timing: list[float] | None
    """Seconds of each volume where no repetition time says them: for a sidecar (``VolumeTiming``)."""
    dtype: str
    shape: tuple[int, ...]
    """As the array's dims: (..., z, y, x)."""


def write_nifti(
    image: xr.DataArray,
    path: Path,
    *,
    version: Version = "auto",
    intent: Intent | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write an array as a NIfTI file, a slab at a time.

    Parameters
    ----------
    image : DataArray, (z, y, x), (time, z, y, x) or (echo, [time,] z, y, x)
        In memory or lazy. Attributes ``scale_factor`` and ``add_offset`` become ``scl_slope`` and ``scl_inter``, the numbers
        themselves are written as they are; ``time`` in seconds or frames.
    path : Path
        Ends in ``.nii`` or ``.nii.gz``.
    version : {"auto", "1", "2"}
        NIfTI-1 holds float32; by default, NIfTI-2 is written where that would round the affine, the scale or the time step.
    intent : Intent, optional
        What a map of numbers is.
    progress : callable, optional
        Told the bytes of each slab.

    Returns
    -------
    Written

    Raises
    ------
    ExportError
        If the name, the dims or the dtype have no NIfTI form.

    Notes
    -----
    If the affine came out of a header by flips (ingest makes axes canonical), they are undone where the result is exact in
    NIfTI-1: reading the file gives back the same voxels at the same places either way.
    """
    check_name(path)
    dtype = _dtype(image)
    labels = image.dtype.kind in "iu" and image.name != "image"
    if labels:
        dtype = smallest_integer(*_extent(image))
    for dim in image.dims[:-3]:
        if dim not in ("time", "echo"):
            raise ExportError(f"dimension {dim!r}: NIfTI holds time and echo beside z, y, x")
    if image.dims[-3:] != grid.SPACE:
        raise ExportError(f"dims {image.dims}: expected (..., 'z', 'y', 'x')")
    step, timing = _time(image)
    scale = float(image.attrs.get("scale_factor", 1.0))
    offset = float(image.attrs.get("add_offset", 0.0))
    turned, chosen = image, version
    if version == "auto":
        flips = _flips(image) if _fits(image.shape) and _is_exact(scale, offset, step) else None
        chosen = "2" if flips is None else "1"
        turned = image if flips is None else _flipped(image, flips)
    elif version == "1" and not _fits(image.shape):
        raise ExportError(f"{image.shape}: NIfTI-1 holds up to 32767 voxels an axis; write NIfTI-2")
    header = FORMS[chosen]()
    _describe(header, turned, dtype, step, (scale, offset))
    if intent is not None:
        header.set_intent(intent.code, intent.parameters, intent.name[:15])
        header["descrip"] = intent.described.encode("ascii", "replace")[:79]
    shape = tuple(image.sizes[d] for d in grid.SPACE)
    said = grid.corners(np.asarray(header.get_sform(), float), shape)
    off = np.abs(said - grid.corners(grid.affine_of(turned), shape)).max()
    with path.open("wb") as raw:
        if path.name.endswith(".gz"):
            # Neither name nor time of day: the same voxels give the same bytes.
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                _write(packed, header, turned, dtype, progress)
        else:
            _write(raw, header, turned, dtype, progress)
    return Written(chosen, float(off), timing, dtype.name, tuple(image.shape))


def check_name(path: Path) -> None:
    """Raise `ExportError` unless a file of this name would be taken for NIfTI."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ExportError(f"{path}: expected a name that ends in .nii or .nii.gz")


def _dtype(image: xr.DataArray) -> np.dtype:
    if image.dtype.kind == "b":
        return np.dtype(np.uint8)
    if image.dtype == np.float16:
        return np.dtype(np.float32)
    if image.dtype.kind not in "iuf" or image.dtype.itemsize > 8:
        raise ExportError(
            f"{image.name} is {image.dtype}: NIfTI holds integers, float32 and float64"
        )
    return image.dtype.newbyteorder("=")


def _time(image: xr.DataArray) -> tuple[float | None, list[float] | None]:
    """Repetition time, s; or the time of each volume, if they follow each other unevenly."""
    if "time" not in image.dims or image["time"].attrs.get("units") != "s":
        return None, None
    times = np.asarray(image["time"].values, float)
    if times.size < 2:
        return None, None
    step = float(times[1] - times[0])
    even = times[0] + step * np.arange(times.size)
    if step > 0 and np.abs(times - even).max() <= _EVEN * step:
        return step, None
    return None, times.tolist()


def _fits(shape: tuple[int, ...]) -> bool:
    return max(shape) <= np.iinfo(np.int16).max


def _is_exact(scale: float, offset: float, step: float | None) -> bool:
    """Whether NIfTI-1 gives these numbers back as they are; of a time step, its shortest form counts."""
    with np.errstate(over="ignore"):
        whole = all(float(np.float32(v)) == v for v in (scale, offset))
        return whole and (step is None or float(str(np.float32(step))) == step)


def _flips(image: xr.DataArray) -> tuple[str, ...] | None:
    """Axes along which the image has to be flipped so that NIfTI-1 says exactly where it lies; None if there are none."""
    affine, shape = grid.affine_of(image), [image.sizes[d] for d in "xyz"]
    for flips in itertools.product((1, -1), repeat=3):
        there = affine @ nib.orientations.inv_ornt_aff(np.column_stack([range(3), flips]), shape)
        single = there.astype(np.float32).astype(np.float64)
        empty = np.broadcast_to(np.uint8(0), shape[::-1])
        if (single == there).all() and (grid.canonical(empty, single)[1] == affine).all():
            return tuple(d for d, flip in zip("xyz", flips, strict=True) if flip < 0)
    return None


def _flipped(image: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    affine, shape = grid.affine_of(image), [image.sizes[d] for d in "xyz"]
    signs = [-1 if d in dims else 1 for d in "xyz"]
    there = affine @ nib.orientations.inv_ornt_aff(np.column_stack([range(3), signs]), shape)
    turned = image.isel({d: slice(None, None, -1) for d in dims})
    turned.encoding = dict(image.encoding)
    return grid.with_affine(turned, there)


def _describe(
    header: Any,
    image: xr.DataArray,
    dtype: np.dtype,
    step: float | None,
    scaling: tuple[float, float],
) -> None:
    affine = grid.affine_of(image)
    sizes = [image.sizes[d] for d in "xyz"]
    if "time" in image.dims or "echo" in image.dims:
        sizes.append(image.sizes.get("time", 1))
    if "echo" in image.dims:
        sizes.append(image.sizes["echo"])
    header.set_data_dtype(dtype)
    header.set_data_shape(sizes)
    if grid.is_sheared(affine):
        lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        header.set_zooms([*lengths, *(1.0 for _ in sizes[3:])])
    else:
        header.set_qform(affine, "scanner")
    header.set_sform(affine, "scanner")
    header["pixdim"][4 : 1 + len(sizes)] = 1
    if step is not None:
        header["pixdim"][4] = step
        header["toffset"] = float(image["time"].values[0])
    header.set_xyzt_units("mm", None if step is None else "sec")
    header["scl_slope"], header["scl_inter"] = scaling
    unit = str(image.attrs.get("units", "1"))
    if unit != "1":
        header["descrip"] = f"unit: {unit}".encode()[:79]
    header["vox_offset"] = header.single_vox_offset


def _write(
    stream: BinaryIO | gzip.GzipFile,
    header: Any,
    image: xr.DataArray,
    dtype: np.dtype,
    progress: Callable[[int], None] | None,
) -> None:
    stream.write(header.binaryblock)
    stream.write(bytes(header.single_vox_offset - len(header.binaryblock)))  # no extension
    for slab in _slabs(image):
        stream.write(np.ascontiguousarray(slab, dtype=dtype).data)
        if progress is not None:
            progress(slab.nbytes)


def _slabs(image: xr.DataArray) -> Iterator[np.ndarray]:
    """The array in pieces that follow each other in memory order, thick enough that few chunks are read twice."""
    plane = max(1, image.sizes["y"] * image.sizes["x"] * image.dtype.itemsize)
    thick = max(1, SLAB_BYTES // plane)
    chunks: Mapping[Any, int] = image.encoding.get("preferred_chunks", {})
    if (chunk := int(chunks.get("z", 1))) <= thick:
        thick -= thick % chunk
    for place in np.ndindex(image.shape[:-3]):
        for start in range(0, image.sizes["z"], thick):
            yield image[(*place, slice(start, start + thick))].to_numpy()


def _extent(image: xr.DataArray) -> tuple[int, int]:
    low, high = 0, 0
    for slab in _slabs(image):
        low, high = min(low, int(slab.min())), max(high, int(slab.max()))
    return low, high
