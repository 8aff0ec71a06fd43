"""NIfTI-1 and NIfTI-2 files, plain, gzipped or in pairs, to scan Datasets.

Sizes are checked before anything is allocated, and a gzip stream is read to its end: only there does its
checksum stand, and nibabel never gets that far.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xarray as xr

from cohort import schema
from cohort.io.canvas import canvas
from cohort.io.gunzip import Gunzip
from cohort.io.nifti_header import (
    GZIP,
    MAX_BYTES,
    Form,
    Volume,
    data_file,
    is_nifti,
    opened,
    read_volume,
)
from cohort.io.refusal import Refused

__all__ = ["is_nifti", "read_image", "read_labels"]

SLAB_BYTES = 8 << 20
"""What is read at a time."""


def read_image(path: Path, *, prefer: Form | None = None, max_bytes: int = MAX_BYTES) -> xr.Dataset:
    """Read a NIfTI image.

    Parameters
    ----------
    path : Path
        A ``.nii``, a ``.nii.gz`` or the ``.hdr`` of a pair; content decides, not the name.
    prefer : {"sform", "qform"}, optional
        Which to believe when both are coded and disagree.
    max_bytes : int
        Larger volumes are refused before anything is allocated.

    Returns
    -------
    Dataset
        ``image`` (z, y, x) or (time, z, y, x), C-contiguous, native byte order, on canonical axes: the stored
        numbers, with ``scale_factor`` and ``add_offset`` if the header has a slope. ``time`` in seconds if the
        header has a unit, else in frames. Attributes ``n_nan``, ``orientation_from``, ``space_units`` and
        ``repetition_time_ms``.

    Raises
    ------
    Refused
        ``NII-TRUNCATED``, ``NII-GZIP``, ``NII-FORMS``, ``NII-NO-ORIENT``, ``NII-SINGULAR``, ``NII-UNITS``, ``NII-5D``,
        ``NII-DTYPE``, ``NII-DIMS``, ``NII-TOO-LARGE``, ``NII-SLOPE``, ``NII-INF``, ``NII-HEADER`` or ``NII-NO-PAIR``.

    Notes
    -----
    Oracle: ``nibabel.as_closest_canonical``, equal to the bit.
    """
    volume, image, affine, attrs = _read(path, prefer=prefer, max_bytes=max_bytes)
    image_attrs: dict[str, Any] = {"units": "1"}
    if (volume.scale, volume.intercept) != (1.0, 0.0):
        image_attrs |= {"scale_factor": volume.scale, "add_offset": volume.intercept}
    leading = {} if volume.time is None else {"time": volume.time}
    return schema.make_scan(image, affine, leading=leading, image_attrs=image_attrs, attrs=attrs)


def read_labels(path: Path, *, name: str, prefer: Form | None = None) -> xr.DataArray:
    """Read a mask or label image.

    Parameters
    ----------
    path : Path
        As for `read_image`.
    name : str
        Of the variable. ``"mask"`` must hold nothing but 0 and 1.
    prefer : {"sform", "qform"}, optional
        As for `read_image`.

    Returns
    -------
    DataArray, (z, y, x) or (time, z, y, x)
        bool for ``"mask"``, else the smallest integer type that holds every label (unsigned if none is negative).

    Raises
    ------
    Refused
        As `read_image`, and ``NII-LABELS`` if a value is no whole number, or in a mask neither 0 nor 1.
    """
    volume, stored, affine, attrs = _read(path, prefer=prefer, max_bytes=MAX_BYTES)
    values = stored
    if (volume.scale, volume.intercept) != (1.0, 0.0) or stored.dtype.kind == "f":
        exact = stored * np.float64(volume.scale) + np.float64(volume.intercept)
        values = np.rint(exact)
        off = np.abs(exact - values)
        if not off.max() <= 1e-6 * max(1.0, float(np.abs(values).max())):
            fractions = int((~(off <= 1e-6)).sum())
            raise Refused(
                "NII-LABELS",
                f"{fractions} of {values.size} values are no whole numbers in {{0}}",
                fix="resample labels with nearest neighbours (order 0), or attach the file as an image.",
                files=[path],
            )
    low, high = int(values.min()), int(values.max())
    if name == "mask":
        if low < 0 or high > 1:
            raise Refused(
                "NII-LABELS",
                f"a mask holds 0 and 1, this one {low} to {high}, in {{0}}",
                fix="attach it as labels, or select one label.",
                files=[path],
            )
        values = values.astype(bool)
    else:
        values = values.astype(_smallest(low, high))
    leading = {} if volume.time is None else {"time": volume.time}
    scan = schema.make_scan(values, affine, leading=leading, attrs=attrs)
    return scan["image"].rename(name).assign_attrs(attrs)


def _smallest(low: int, high: int) -> np.dtype:
    """Find the smallest integer type that holds both, unsigned first."""
    types = [np.dtype(f"{kind}{size}") for size in (1, 2, 4, 8) for kind in "ui"]
    return next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max)


def _read(
    path: Path, *, prefer: Form | None, max_bytes: int
) -> tuple[Volume, np.ndarray, np.ndarray, dict[str, Any]]:
    """Header, voxels on canonical axes, their affine, and attributes."""
    volume = read_volume(path, prefer=prefer, max_bytes=max_bytes)
    data = data_file(path)
    _check_size(volume, data)
    stored, image, affine = canvas(volume.shape, volume.affine, volume.dtype.newbyteorder("="))
    with opened(data) as stream:
        _skip(stream, volume.offset)
        found = _fill(stream, stored, volume.dtype)
        if found < volume.n_bytes:
            raise _truncated(volume, volume.offset + found, data)
        attrs = dict(volume.attrs)
        if trailing := _drain(stream, limit=max(volume.n_bytes, SLAB_BYTES)):
            attrs["n_trailing_bytes"] = trailing
    if volume.dtype.kind == "f":
        attrs["n_nan"] = _count_nan(image, data)
    return volume, image, affine, attrs


def _check_size(volume: Volume, data: Path) -> None:
    """Refuse a file too short for what its header claims, before anything is allocated."""
    size = data.stat().st_size
    with data.open("rb") as stream:
        # Deflate shrinks at most 1032 to 1.
        most = size * 1032 if stream.read(2) == GZIP else size
    if most < volume.offset + volume.n_bytes:
        raise _truncated(volume, size, data)


def _truncated(volume: Volume, found: int, data: Path) -> Refused:
    return Refused(
        "NII-TRUNCATED",
        f"{found} bytes, expected {volume.offset + volume.n_bytes} for "
        f"{' x '.join(map(str, volume.shape[::-1]))} voxels of {volume.dtype.name}, in {{0}}",
        fix="copy the file again from its source.",
        files=[data],
    )


def _skip(stream: BinaryIO | Gunzip, n: int) -> None:
    while n > 0 and (block := stream.read(min(n, SLAB_BYTES))):
        n -= len(block)


def _drain(stream: BinaryIO | Gunzip, *, limit: int) -> int:
    """Read on to the end, where the checksum stands; bytes found there, at most about `limit`."""
    n = 0
    while n < limit and (block := stream.read(SLAB_BYTES)):
        n += len(block)
    return n


def _fill(stream: BinaryIO | Gunzip, stored: np.ndarray, dtype: np.dtype) -> int:
    """Read voxels, some planes at a time, into their places; how many bytes there were."""
    plane = stored.shape[-2] * stored.shape[-1] * dtype.itemsize
    deep = max(1, SLAB_BYTES // plane)
    found = 0
    for place in np.ndindex(stored.shape[:-3]):
        volume = stored[place]
        for start in range(0, volume.shape[0], deep):
            part = volume[start : start + deep]
            raw = stream.read(part.shape[0] * plane)
            found += len(raw)
            if len(raw) < part.shape[0] * plane:
                return found
            part[...] = np.frombuffer(raw, dtype).reshape(part.shape)
    return found


def _count_nan(image: np.ndarray, path: Path) -> int:
    """Number of NaN; infinite values are refused."""
    nan = infinite = 0
    for plane in image.reshape(-1, *image.shape[-2:]):
        finite = int(np.isfinite(plane).sum())
        if finite < plane.size:
            n = int(np.isnan(plane).sum())
            nan, infinite = nan + n, infinite + plane.size - finite - n
    if infinite:
        raise Refused(
            "NII-INF",
            f"{infinite} of {image.size} voxels are infinite in {{0}}",
            fix="replace them by NaN or by a number, at the source.",
            files=[path],
        )
    return nan
