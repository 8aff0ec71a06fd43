"""NIfTI-1, NIfTI-2 and Analyze 7.5 files, plain, gzipped or in pairs, to scan Datasets.

Sizes are checked before anything is allocated, and a gzip stream is read to its end: only there does its
checksum stand, and nibabel never gets that far.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xarray as xr

from cohort import schema
from cohort.io import patience
from cohort.io.canvas import canvas
from cohort.io.gunzip import Gunzip
from cohort.io.nifti_header import (
    GZIP,
    MAX_BYTES,
    Volume,
    data_file,
    is_nifti,
    opened,
    read_volume,
)
from cohort.io.policy import DEFAULT, Notes, Policy
from cohort.io.refusal import Refused

__all__ = ["is_nifti", "read_image", "read_labels"]

SLAB_BYTES = 8 << 20
"""What is read at a time."""


def read_image(path: Path, *, policy: Policy = DEFAULT, max_bytes: int = MAX_BYTES) -> xr.Dataset:
    """Read a NIfTI image.

    Parameters
    ----------
    path : Path
        A ``.nii``, a ``.nii.gz`` or the ``.hdr`` of a pair; content decides, not the name.
    policy : Policy
        ``prefer`` (which form to believe), ``fifth_axis``, and ``accept``: ``NII-NO-ORIENT`` (also for Analyze 7.5),
        ``NII-UNITS``.
    max_bytes : int
        Larger volumes are refused before anything is allocated.

    Returns
    -------
    Dataset
        ``image`` (z, y, x), (time, z, y, x) or, if the policy says so, (echo, ...), C-contiguous, native byte order, on
        canonical axes: the stored numbers, with ``scale_factor`` and ``add_offset`` if the header has a slope. ``time``
        in seconds if the header has a unit, else in frames. Attributes ``n_nan`` (of floats), ``orientation_from``
        (``sform``, ``qform`` or ``none``), ``repetition_time_ms``, ``accepted`` (what was used of the policy) and ``flags``:
        ``unscaled_slope`` (0 or NaN), ``negative_slope``, ``odd_codes``, ``pixdim_wrong``, ``units_unknown``,
        ``bitpix_wrong``, ``trailing_bytes``, ``has_nan``, ``time_implausible`` (steps over 1000 s).

    Raises
    ------
    Refused
        ``NII-TRUNCATED``, ``NII-GZIP``, ``NII-FORMS``, ``NII-NO-ORIENT``, ``NII-SINGULAR``, ``NII-UNITS``, ``NII-5D``,
        ``NII-DTYPE``, ``NII-DIMS``, ``NII-TOO-LARGE``, ``NII-SLOPE``, ``NII-INF``, ``NII-HEADER`` or ``NII-NO-PAIR``.

    Notes
    -----
    Oracle: ``nibabel.as_closest_canonical``, equal to the bit.
    """
    volume, image, affine, attrs = _read(path, policy=policy, max_bytes=max_bytes)
    image_attrs: dict[str, Any] = {"units": "1"}
    if volume.is_scaled:
        image_attrs |= {"scale_factor": volume.scale, "add_offset": volume.intercept}
    return schema.make_scan(
        image, affine, leading=volume.leading, image_attrs=image_attrs, attrs=attrs
    )


def read_labels(
    path: Path, *, name: str, policy: Policy = DEFAULT, max_bytes: int = MAX_BYTES
) -> xr.DataArray:
    """Read a mask or label image.

    Parameters
    ----------
    path : Path
        As for `read_image`.
    name : str
        Of the variable. ``"mask"`` must hold nothing but 0 and 1.
    policy, max_bytes
        As for `read_image`.

    Returns
    -------
    DataArray, (z, y, x) or (..., z, y, x)
        bool for ``"mask"``, else the smallest integer type that holds every label (unsigned if none is negative).

    Raises
    ------
    Refused
        As `read_image`, and ``NII-LABELS`` if a value is no whole number, or in a mask neither 0 nor 1.
    """
    volume, stored, affine, attrs = _read(path, policy=policy, max_bytes=max_bytes)
    values = stored
    if volume.is_scaled or stored.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN; `_whole` refuses it
            values = stored * np.float64(volume.scale) + np.float64(volume.intercept)
        values = _whole(values, path)
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
        values = values.astype(smallest_integer(low, high))
    scan = schema.make_scan(values, affine, leading=volume.leading, attrs=attrs)
    return scan["image"].rename(name).assign_attrs(attrs)


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Values rounded, if they are whole numbers but for the rounding of a float32 slope."""
    rounded = np.rint(values)
    size = np.abs(rounded)
    # Beyond 2^53 a float no longer holds every whole number. NaN is none.
    whole = (np.abs(values - rounded) <= np.clip(1e-6 * size, 1e-6, 0.1)) & (size <= 2**53)
    if not whole.all():
        raise Refused(
            "NII-LABELS",
            f"{int((~whole).sum())} of {values.size} values are no whole numbers in {{0}}",
            fix="resample labels with nearest neighbours (order 0), or attach the file as an image.",
            files=[path],
        )
    return rounded


def smallest_integer(low: int, high: int) -> np.dtype:
    """Find the smallest integer type that holds both, unsigned first."""
    types = [np.dtype(f"{kind}{size}") for size in (1, 2, 4, 8) for kind in "ui"]
    return next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max)


def _read(
    path: Path, *, policy: Policy, max_bytes: int
) -> tuple[Volume, np.ndarray, np.ndarray, dict[str, Any]]:
    """Header, voxels on canonical axes, their affine, and attributes."""
    notes = Notes(policy)
    volume = read_volume(path, notes=notes, max_bytes=max_bytes)
    data = data_file(path)
    _check_size(volume, data)
    stored, image, affine = canvas(volume.shape, volume.affine, volume.dtype.newbyteorder("="))
    with opened(data) as stream:
        _skip(stream, volume.offset)
        found = _fill(stream, stored, volume.dtype)
        if found < volume.n_bytes:
            raise _truncated(volume, volume.offset + found, data)
        if _drain(stream, volume, data):
            notes.flags.add("trailing_bytes")
    attrs = dict(volume.attrs)
    if volume.dtype.kind == "f":
        attrs["n_nan"] = _count_nan(image, volume, data)
        if attrs["n_nan"]:
            notes.flags.add("has_nan")
    return volume, image, affine, attrs | notes.attrs()


def _check_size(volume: Volume, data: Path) -> None:
    """Refuse a file too short for what its header claims, before anything is allocated."""
    size = data.stat().st_size
    with patience.opened(data) as stream:
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


def _drain(stream: BinaryIO | Gunzip, volume: Volume, data: Path) -> bool:
    """Read on to the end, where the checksum stands; whether anything follows the voxels.

    Raises
    ------
    Refused
        ``NII-DIMS`` if one more along some axis, a plane or a volume, would fit into what follows: then the dimensions do
        not describe the file.
    """
    n, most = 0, volume.n_bytes // max(volume.shape)
    while n <= max(most, SLAB_BYTES) and (block := stream.read(SLAB_BYTES)):
        n += len(block)
    if n >= most:
        raise Refused(
            "NII-DIMS",
            f"{n} bytes{' or more' * (n > SLAB_BYTES)} follow the {volume.n_bytes} of "
            f"{' x '.join(map(str, volume.shape[::-1]))} voxels, allowed are less than {most}, in {{0}}",
            fix="repair the dimensions in the header, or export the image again.",
            files=[data],
        )
    return n > 0 or (isinstance(stream, Gunzip) and stream.junk > 0)


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


def _count_nan(image: np.ndarray, volume: Volume, path: Path) -> int:
    """Number of NaN; infinite values, and those that the scale would make so, are refused."""
    nan = infinite = 0
    peak = 0.0
    for plane in image.reshape(-1, *image.shape[-2:]):
        finite = np.isfinite(plane)
        if (n_finite := int(finite.sum())) < plane.size:
            n = int(np.isnan(plane).sum())
            nan, infinite = nan + n, infinite + plane.size - n_finite - n
        if volume.is_scaled:
            peak = max(peak, float(np.abs(plane, dtype=np.float64).max(where=finite, initial=0)))
    if infinite:
        raise Refused(
            "NII-INF",
            f"{infinite} of {image.size} voxels are infinite in {{0}}",
            fix="replace them by NaN or by a number, at the source.",
            files=[path],
        )
    if volume.is_scaled:
        volume.check_peak(peak, path)
    return nan
