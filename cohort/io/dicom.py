"""DICOM series to scan Datasets: the files of one group, checked, stacked and read."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydicom import dcmread

from cohort import schema
from cohort.io.canvas import canvas
from cohort.io.deidentify import header_attrs
from cohort.io.dicom_header import (
    MULTI_FRAME,
    SINGLE_FRAME,
    Header,
    group,
    group_key,
    mix,
    read_header,
)
from cohort.io.pixels import check_length, read_pixels, stored_dtype
from cohort.io.refusal import Refused
from cohort.io.stack import Stack, stack

__all__ = ["group_key", "read_header", "read_series"]


def read_series(files: Sequence[Path], *, min_slices: int = 3) -> xr.Dataset:
    """Read the files of one scan.

    Parameters
    ----------
    files : sequence of Path
        Slices of one group, in any order; exact duplicates are dropped and counted.
    min_slices : int
        A series of fewer slices is skipped.

    Returns
    -------
    Dataset
        ``image`` (z, y, x) or (time, z, y, x) on canonical axes: the stored integers, with ``scale_factor`` and
        ``add_offset`` where one rescale serves the series, float32 where it differs from slice to slice. A tilted
        stack keeps its sheared affine. Attributes as `deidentify.header_attrs`, and ``n_files``,
        ``n_duplicates``, ``photometric``, ``possible_truncation``.

    Raises
    ------
    Refused
        With the code, the numbers and the files; see `stack.stack` for those of geometry.

    Notes
    -----
    Oracle: dcm2niix and nibabel; affine within 1e-3 mm, voxels equal.
    """
    files = sorted(set(files))
    headers = [_required(path) for path in files]
    _check_one_group(headers, files)
    for header, path in zip(headers, files, strict=True):
        _check_kind(header, path)
    headers, kept = _without_duplicates(headers, files)
    slices = stack(headers, kept, min_slices=min_slices)
    for header, path in zip(headers, kept, strict=True):
        check_length(path, header)
    image, affine, image_attrs = _fill(slices, headers, kept)
    attrs = header_attrs(dcmread(kept[0], stop_before_pixels=True, force=True))
    attrs |= {
        "n_files": len(kept),
        "n_duplicates": len(files) - len(kept),
        "photometric": headers[0]["photometric"],
        "possible_truncation": _possible_truncation(headers),
    }
    image_attrs["units"] = _units(headers[0])
    leading = {} if slices.time is None else {"time": slices.time}
    return schema.make_scan(image, affine, leading=leading, image_attrs=image_attrs, attrs=attrs)


def _required(path: Path) -> Header:
    header = read_header(path)
    if header is None or not header["rows"] or not header["columns"] or not header["pixel_offset"]:
        raise Refused(
            "DCM-HEADER",
            "no image in {0}: Rows, Columns or PixelData is missing",
            fix="copy the file again from its source.",
            files=[path],
        )
    return header


def _check_one_group(headers: Sequence[Header], files: Sequence[Path]) -> None:
    keys = [group_key(header) for header in headers]
    groups = group(keys)
    if len(groups) == 1:
        return
    first, other = (keys[numbers[0]] for numbers in groups[:2])
    part = next(i for i in range(len(first)) if first[i] != other[i])
    raise mix(part, first, other, [files[numbers[0]] for numbers in groups[:2]])


def _check_kind(header: Header, path: Path) -> None:
    """Refuse what is no slice to measure."""
    kind: tuple[str, str, str] | None = None
    if "LOCALIZER" in header["image_type"]:
        kind = ("DCM-LOCALIZER", "a localizer, not a scan to measure: {0}", "nothing.")
    elif (
        header["samples"] != 1
        or header["bits_allocated"] not in (8, 16, 32)
        or header["photometric"] not in ("MONOCHROME1", "MONOCHROME2")
    ):
        kind = (
            "DCM-NOT-IMAGE",
            f"{header['samples']} samples of {header['bits_allocated']} bits a pixel, or colours, in {{0}}",
            "nothing: colour captures and bit maps are not measured.",
        )
    elif header["sop_class"] not in SINGLE_FRAME + MULTI_FRAME:
        kind = (
            "DCM-NOT-IMAGE",
            "neither CT, MR nor PET: {0}",
            "nothing: screen captures are not measured.",
        )
    if kind:
        raise Refused(kind[0], kind[1], fix=kind[2], files=[path], state="skipped")
    if header["burned_in"]:
        kind = (
            "DCM-BURNED-IN",
            "BurnedInAnnotation is YES in {0}",
            "export the series without burned-in text.",
        )
    elif header["sop_class"] in MULTI_FRAME or header["frames"] > 1:
        kind = (
            "DCM-MULTIFRAME",
            f"{header['frames']} frames in one file, not supported yet: {{0}}",
            "convert the series to one slice a file or to NIfTI.",
        )
    elif "MOSAIC" in header["image_type"]:
        kind = ("DCM-MOSAIC", "a mosaic, not supported yet: {0}", "convert the series to NIfTI.")
    elif (
        header["high_bit"] != header["bits_stored"] - 1
        or not 0 < header["bits_stored"] <= header["bits_allocated"]
    ):
        kind = (
            "DCM-BITS",
            "HighBit {high_bit}, BitsStored {bits_stored} and BitsAllocated {bits_allocated}".format(
                **header
            )
            + " contradict each other in {0}",
            "export the series again from its source.",
        )
    elif header["has_lut"]:
        kind = (
            "DCM-LUT",
            "values pass through a modality table in {0}",
            "export the series with a linear rescale.",
        )
    elif header["slope"] == 0:
        kind = ("DCM-SLOPE", "RescaleSlope is 0 in {0}", "export the series again from its source.")
    if kind:
        raise Refused(kind[0], kind[1], fix=kind[2], files=[path])


def _without_duplicates(
    headers: Sequence[Header], files: Sequence[Path]
) -> tuple[list[Header], list[Path]]:
    """Drop files that repeat an instance; refuse two instances of one UID whose pixels differ."""
    by_uid: defaultdict[str, list[int]] = defaultdict(list)
    for number, header in enumerate(headers):
        by_uid[header["sop_uid"] or f"#{number}"].append(number)
    keep: list[int] = []
    for numbers in by_uid.values():
        first = numbers[0]
        keep.append(first)
        for other in numbers[1:]:
            if not _same_image(*((headers[i], files[i]) for i in (first, other))):
                raise Refused(
                    "DCM-UID-CONFLICT",
                    "one SOPInstanceUID, different images: {0} and {1}",
                    fix="find out which is right and remove the other.",
                    files=[files[first], files[other]],
                )
    return [headers[i] for i in keep], [files[i] for i in keep]


def _same_image(one: tuple[Header, Path], other: tuple[Header, Path]) -> bool:
    pixels, others = (read_pixels(path, header) for header, path in (one, other))
    return one[0]["position"] == other[0]["position"] and np.array_equal(pixels, others)


def _fill(
    slices: Stack, headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read each slice into its place in a canonical volume."""
    scales = {(h["slope"], h["intercept"]) for h in headers}
    stored_type = np.result_type(*{stored_dtype(h) for h in headers})
    dtype = stored_type if len(scales) == 1 else np.dtype(np.float32)
    lead = slices.order.shape[:1] if slices.time is not None else ()
    shape = (*lead, slices.order.shape[1], headers[0]["rows"], headers[0]["columns"])
    stored, canonical, affine = canvas(shape, slices.affine, dtype)
    for place in np.ndindex(slices.order.shape):
        number = int(slices.order[place])
        header = headers[number]
        pixels = read_pixels(files[number], header)
        if len(scales) > 1:
            pixels = schema.decode_array(pixels, scale=header["slope"], offset=header["intercept"])
        stored[place if lead else place[1:]] = pixels
    attrs: dict[str, Any] = {}
    if len(scales) == 1 and (scale := scales.pop()) != (1.0, 0.0):
        attrs = {"scale_factor": scale[0], "add_offset": scale[1]}
    return canonical, affine, attrs


def _units(header: Header) -> str:
    """Name the unit of the rescaled values: HU for CT, the series' own for PET, 1 (arbitrary) for MR."""
    if header["modality"] == "CT" and header["has_slope"] and header["units"] in ("", "HU"):
        return "HU"
    return {"BQML": "Bq/ml", "GML": "g/ml", "CNTS": "counts", "PROPCNTS": "counts"}.get(
        header["units"], "1"
    )


def _possible_truncation(headers: Sequence[Header]) -> bool:
    """Whether the numbers of the images suggest that some at an end are missing."""
    claimed = max((h["images_in_acquisition"] or 0 for h in headers), default=0)
    instances = {h["instance"] for h in headers if h["instance"] is not None}
    holes = bool(instances) and max(instances) - min(instances) + 1 > len(instances)
    return claimed > len(headers) or holes
