"""DICOM series to scan Datasets: the slices of one group, checked, stacked and read."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median_low
from typing import Any, cast

import numpy as np
import xarray as xr
from pydicom.dataset import Dataset

from cohort import grid, schema
from cohort.io import patience
from cohort.io.canvas import canvas
from cohort.io.deidentify import ages_disagree, header_attrs
from cohort.io.policy import DEFAULT, Notes, Policy
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_header, resample, volumes
from cohort.io.slices.agreement import check_agreement, varying
from cohort.io.slices.dicom_file import parse
from cohort.io.slices.dicom_group import uid_conflict
from cohort.io.slices.dicom_header import Header, group_key, read_slices
from cohort.io.slices.dicom_kind import check_kind, check_photometric
from cohort.io.slices.frames import flattened
from cohort.io.slices.pixels import LOSSY, check_length, read_frames
from cohort.io.slices.rescale import Rescale, philips_attrs, rescale
from cohort.io.slices.stack import Stack, stack

__all__ = ["MAX_BYTES", "group_key", "read_series", "read_slices"]

MAX_BYTES = 4 << 30
"""A series that takes more memory is refused."""

SAME_DISTANCE = 0.01
"""A tag that differs from the distance of the slices by more than this share of it is wrong."""

Frames = tuple[int, ...] | None
Slice = tuple[Header, Path]


def read_series(
    files: Sequence[Path],
    *,
    frames: Sequence[Frames] | None = None,
    policy: Policy = DEFAULT,
    max_bytes: int = MAX_BYTES,
) -> xr.Dataset:
    """Read the slices of one scan.

    Parameters
    ----------
    files : sequence of Path
        Those of one group, in any order; exact duplicates are dropped and counted.
    frames : sequence, optional
        Of each file the slices that belong to the scan, as `read_slices` numbers them; None for all.
    policy : Policy
        ``min_slices``, ``resample``, ``philips_precise``, and ``accept``: ``DCM-LOCALIZER``, ``DCM-CAPTURE``,
        ``DCM-BURNED-IN``, ``DCM-NO-META``, ``DCM-LUT``, ``DCM-MONOCHROME1``.
    max_bytes : int
        Larger series are refused before anything is allocated.

    Returns
    -------
    Dataset
        ``image`` (z, y, x) or (time, z, y, x) on canonical axes: the stored integers, with ``scale_factor`` and
        ``add_offset`` where one rescale serves the series, float32 where it differs from slice to slice or slices
        were interpolated. A tilted stack keeps its sheared affine. Attributes as `deidentify.header_attrs`, and
        ``n_files``, ``n_duplicates`` (slices), ``photometric``, ``philips_scale_slope``, ``philips_scale_intercept``,
        ``philips_precise``, ``resampled``, ``accepted`` (what was used of the policy) and ``flags``:
        ``possible_truncation``, ``lossy_source``, ``slice_spacing_tag_wrong``, ``time_inferred``, ``negative_slope``,
        ``monochrome1``, ``sheared``, ``philips_scale_varies``, ``volume_order_conflict`` (tags disagree about which slices
        are one volume), ``sign_assumed`` (no PixelRepresentation), ``real_world_values_unused`` (the values are the stored
        numbers, although a mapping to others is there). What differs from slice to slice is no attribute.

    Raises
    ------
    Refused
        With the code, the numbers and the files; see `stack.stack` for those of geometry, `dicom_kind.check_kind` for
        those of what is no image to measure, `pixels.read_frames` for those of pixels, `rescale.rescale` for those of
        values; ``DCM-TOO-LARGE``, ``DCM-UID-CONFLICT``, and where slices of several groups are mixed ``DCM-MIXED``,
        ``DCM-MATRIX-MIX``, ``DCM-SPACING-MIX`` or ``DCM-UID-COLLISION``.

    Notes
    -----
    Oracle: dcm2niix and nibabel; affine within 1e-3 mm, voxels equal. Where it differs, see DECISIONS.md.

    A RealWorldValueMappingSequence (PS3.3 C.7.6.16.2.11) is never applied, not even on demand. It maps stored values beside the
    rescale, not after it; an image may have several, each with a unit, a label and a range of stored values outside of which
    nothing is said; slope and intercept may stand for a table. Which of them a researcher means is in none of the tags, and
    a mixture of them in one cohort would look like an effect. Where a rescale is there, that is what the values are, in its
    unit; where none is, the stored numbers stay and ``real_world_values_unused`` says that somebody knows more of them.
    """
    notes = Notes(policy)
    wanted = dict(zip(files, frames or [None] * len(files), strict=True))
    found = [(header, path) for path in sorted(wanted) for header in _slices(path, wanted[path])]
    _check_one_group(found)
    for header, path in found:
        check_kind(header, path, notes)
    firsts: dict[Path, Header] = {}
    for header, path in found:
        firsts.setdefault(path, header)
    for path, header in firsts.items():
        _check_size(header, path, max_bytes)
    kept = _without_duplicates(found)
    headers, paths = [header for header, _ in kept], [path for _, path in kept]
    check_agreement(headers, paths)
    check_photometric(headers[0], paths[0], notes)
    slices = stack(headers, paths, policy=policy)
    shown = _shown(headers[0], paths[0])
    attrs = header_attrs(shown)
    for name in varying(headers):
        attrs.pop(name, None)
    if ages_disagree(shown):
        notes.flags.add("age_conflict")
    precise = policy.philips_precise and (attrs.get("manufacturer"), headers[0]["modality"]) == (
        "philips",
        "MR",
    )
    values = rescale(headers, paths, precise=precise, decoded=slices.even is not None)
    image, affine = _fill(slices, headers, paths, values, max_bytes)
    notes.flags |= _flags(headers, slices)
    attrs |= {
        "n_files": len(set(paths)),
        "n_duplicates": len(found) - len(kept),
        "photometric": headers[0]["photometric"],
        **philips_attrs(headers),
        **({"philips_precise": True} if precise else {}),
        **_resampled(slices),
        **notes.attrs(),
    }
    leading = {} if slices.time is None else {"time": slices.time}
    image_attrs = values.attrs | {"units": _units(headers[0])}
    return schema.make_scan(image, affine, leading=leading, image_attrs=image_attrs, attrs=attrs)


def _slices(path: Path, wanted: Frames) -> list[Header]:
    with patience.opened(path) as stream:
        headers = read_slices(stream, path) or []
    if headers and headers[0]["problem"] and not headers[0]["pixel_offset"]:
        code, what, fix = headers[0]["problem"]
        raise Refused(code, what, fix=fix, files=[path])
    if not headers or not all(headers[0][k] for k in ("rows", "columns", "pixel_offset")):
        raise Refused(
            "DCM-HEADER",
            "no image in {0}: Rows, Columns or PixelData is missing",
            fix="copy the file again from its source.",
            files=[path],
        )
    if wanted is None:
        return headers
    if max(wanted) >= len(headers):
        raise Refused(
            "DCM-HEADER",
            f"{len(headers)} slices in {{0}}, expected at least {max(wanted) + 1}: it has changed meanwhile",
            fix="ingest again.",
            files=[path],
        )
    return [headers[number] for number in wanted]


def _check_one_group(slices: Sequence[Slice]) -> None:
    keys = [group_key(header) for header, _ in slices]
    groups = dicom_header.group(keys, clashing=False)
    if len(groups) == 1:
        return
    first, other = (keys[numbers[0]] for numbers in groups[:2])
    part = next(i for i in range(len(first)) if first[i] != other[i])
    raise dicom_header.mix(part, first, other, [slices[numbers[0]][1] for numbers in groups[:2]])


def _check_size(header: Header, path: Path, max_bytes: int) -> None:
    """Refuse a file whose pixels are not those its header claims, or too many; reads none."""
    size = header["rows"] * header["columns"] * (header["bits_allocated"] // 8)
    if size > max_bytes:
        what = f"a slice of {header['rows']} x {header['columns']} pixels"
        raise _too_large(what, size, max_bytes, path)
    check_length(path, header)


def _too_large(what: str, size: int, max_bytes: int, path: Path) -> Refused:
    return Refused(
        "DCM-TOO-LARGE",
        f"{what} takes {size / 2**20:.1f} MiB, at most {max_bytes / 2**20:.1f} are read: {{0}}",
        fix="divide the series into smaller ones.",
        files=[path],
    )


def _without_duplicates(slices: Sequence[Slice]) -> list[Slice]:
    """Drop slices that are there twice; refuse two instances of one UID whose pixels differ."""
    by_uid: dict[Hashable, Slice] = {}
    copies: list[tuple[Slice, Slice]] = []
    for number, one in enumerate(slices):
        first = by_uid.setdefault((one[0]["sop_uid"] or number, one[0]["frame"]), one)
        if first is not one:
            copies.append((first, one))
    for first, other, same in _compared(copies):
        if not same:
            raise uid_conflict([first[1], other[1]])
    # Sent again under a new UID: only where nothing else in the header tells two slices apart.
    alike: defaultdict[Hashable, list[Slice]] = defaultdict(list)
    for number, one in enumerate(by_uid.values()):
        alike[_identity(one[0]) if one[0]["position"] else number].append(one)
    pairs = [(first, other) for first, *others in alike.values() for other in others]
    again = {id(other) for _, other, same in _compared(pairs) if same}
    return [one for one in by_uid.values() if id(one) not in again]


def _identity(header: Header) -> Hashable:
    """What tells a slice from the others of its series, but for its pixels and its name."""
    return (
        tuple(header["position"] or ()),
        header["frame"],
        header["instance"],
        header["trigger_time"],
        header["temporal_position"],
        header["acquisition_date"],
        header["acquisition_time"],
        header["volume"],
    )


def _compared(pairs: Sequence[tuple[Slice, Slice]]) -> Iterator[tuple[Slice, Slice, bool]]:
    """Say of each pair whether both are the same image in the same place; two files are read once for all their pairs."""
    by_files: defaultdict[tuple[Path, Path], list[tuple[Slice, Slice]]] = defaultdict(list)
    for first, other in pairs:
        by_files[first[1], other[1]].append((first, other))
    for paths, several in by_files.items():
        ones, others = (
            read_frames(path, [pair[side][0] for pair in several])
            for side, path in enumerate(paths)
        )
        for (first, other), pixels, again in zip(several, ones, others, strict=True):
            same = all(first[0][key] == other[0][key] for key in ("position", "slope", "intercept"))
            yield first, other, same and np.array_equal(pixels, again)


def _shown(header: Header, path: Path) -> Dataset:
    """The header of a slice, as `deidentify` looks at it."""
    with patience.opened(path) as stream:
        parsed = parse(stream, path)
    elements = parsed.elements if parsed else {}
    if dicom_header.is_enhanced(header, elements):
        number = 0 if header["tile"] else header["frame"] or 0
        (elements,) = flattened(elements, header["frames"], only=number)
    return Dataset(cast(Any, elements))


def _fill(
    slices: Stack,
    headers: Sequence[Header],
    files: Sequence[Path],
    values: Rescale,
    max_bytes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Read each slice into its place in a canonical volume."""
    lead = slices.order.shape[:1] if slices.time is not None else ()
    n = slices.order.shape[1]
    plane = headers[0]["rows"], headers[0]["columns"]
    shape = (*lead, len(slices.even) if slices.even else n, *plane)
    uneven = (*lead, n, *plane) if slices.even else (0,)
    size = sum(int(np.prod(s, dtype=np.int64)) for s in (shape, uneven)) * values.dtype.itemsize
    if size > max_bytes:
        raise _too_large(
            f"a series of {' x '.join(map(str, shape))} voxels", size, max_bytes, files[0]
        )
    stored, canonical, affine = canvas(shape, slices.affine, values.dtype)
    target = np.empty(uneven, values.dtype) if slices.even else stored
    places = {int(slices.order[place]): place for place in np.ndindex(slices.order.shape)}
    for number, pixels in _read(headers, files):
        place = places[number] if lead else places[number][1:]
        target[place] = values.values(number, pixels, headers[number], files[number])
    if slices.even:
        resample.interpolate(target, slices.even, stored)
    return canonical, affine


def _read(headers: Sequence[Header], files: Sequence[Path]) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pixels of every slice, file by file."""
    for path, numbers in groupby(range(len(files)), key=lambda number: files[number]):
        several = list(numbers)
        yield from zip(several, read_frames(path, [headers[n] for n in several]), strict=True)


def _flags(headers: Sequence[Header], slices: Stack) -> set[str]:
    """What is worth knowing of a series that is read all the same."""
    step = float(grid.steps_mm(slices.affine)[2])
    tag = headers[0]["slice_spacing"] or headers[0]["slice_thickness"]
    private = {(h["philips_slope"], h["philips_intercept"]) for h in headers}
    says = {
        "possible_truncation": slices.even is None and _possible_truncation(headers),
        "lossy_source": any(h["lossy"] or h["syntax"] in LOSSY for h in headers),
        "slice_spacing_tag_wrong": slices.order.shape[1] > 1
        and bool(tag)
        and abs(abs(tag or 0) - step) > SAME_DISTANCE * step,
        "time_inferred": slices.time is not None and slices.time.attrs["basis"] in volumes.INFERRED,
        "negative_slope": any(h["slope"] < 0 for h in headers),
        "monochrome1": any(h["photometric"] == "MONOCHROME1" for h in headers),
        "sheared": grid.is_sheared(slices.affine),
        "philips_scale_varies": len(private) > 1,
        "sign_assumed": not all(h["has_sign"] for h in headers),
        "real_world_values_unused": any(
            h["has_real_world"] and not h["has_slope"] for h in headers
        ),
    }
    return {*slices.flags, *(flag for flag, is_so in says.items() if is_so)}


def _possible_truncation(headers: Sequence[Header]) -> bool:
    """Whether the numbers of the images suggest that some at an end are missing."""
    claimed = max((h["images_in_acquisition"] or 0 for h in headers), default=0)
    instances = sorted({h["instance"] for h in headers if h["instance"] is not None})
    # Series of which every second image belongs to another echo have even holes.
    steps = np.diff(instances).tolist()
    return claimed > len(headers) or (bool(steps) and max(steps) > median_low(steps))


def _resampled(slices: Stack) -> dict[str, str]:
    if not slices.even:
        return {}
    smallest, largest = slices.gaps
    return {
        "resampled": f"uniform: {slices.order.shape[1]} slices {smallest:.3f} to {largest:.3f} mm apart, "
        f"interpolated linearly onto {len(slices.even)} every {slices.even.step_mm:.3f} mm"
    }


def _units(header: Header) -> str:
    """Name the unit of the rescaled values: HU for CT, the series' own for PET, 1 (arbitrary) for MR."""
    if header["modality"] == "CT" and header["has_slope"] and header["units"] in ("", "HU"):
        return "HU"
    return {"BQML": "Bq/ml", "GML": "g/ml", "CNTS": "counts", "PROPCNTS": "counts"}.get(
        header["units"], "1"
    )
