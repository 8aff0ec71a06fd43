"""Headers of DICOM files: what grouping and ordering need to know, read without a pixel, and which files belong together."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from cohort.io import elements
from cohort.io.refusal import Refused

DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""

DEFLATED = "1.2.840.10008.1.2.1.99"

SINGLE_FRAME = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.128",  # PET
)
"""SOP classes with one slice a file."""

MULTI_FRAME = (
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128.1",
    "1.2.840.10008.5.1.4.1.1.130",
)
"""SOP classes with many slices a file."""

_KEYWORDS = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID Modality ImageType SeriesNumber "
    "InstanceNumber Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored "
    "HighBit PixelRepresentation ImageOrientationPatient ImagePositionPatient PixelSpacing SliceThickness EchoTime "
    "EchoNumbers TriggerTime TemporalPositionIdentifier TemporalResolution AcquisitionTime RescaleSlope "
    "RescaleIntercept RescaleType ModalityLUTSequence BurnedInAnnotation ImagesInAcquisition Units"
)
_TAGS = [tag for word in _KEYWORDS.split() if (tag := tag_for_keyword(word)) is not None]

SAME_DIRECTION = 1e-3
"""Direction cosines that differ by no more are one orientation."""

SAME_SPACING = 1e-4
"""Pixel spacings, mm, that differ by no more are one spacing."""


class Header(TypedDict):
    """What ordering and grouping need to know of one file; plain JSON values, private."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    modality: str
    image_type: list[str]
    series_number: int | None
    instance: int | None
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    orientation: list[float] | None
    position: list[float] | None
    pixel_spacing: list[float] | None
    slice_thickness: float | None
    echo_time: float | None
    echo_number: int | None
    trigger_time: float | None
    temporal_position: int | None
    temporal_resolution: float | None
    acquisition_time: float | None
    slope: float
    intercept: float
    has_slope: bool
    has_lut: bool
    units: str
    burned_in: bool
    images_in_acquisition: int | None
    syntax: str
    pixel_offset: int
    pixel_bytes: int


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM; the preamble may be missing."""
    if head[128:132] == b"DICM":
        return True
    group, vr = head[:2], head[4:6]
    return group in (b"\x02\0", b"\x08\0") and vr in (
        b"UL",
        b"UI",
        b"CS",
        b"OB",
        b"DA",
        b"TM",
        b"SH",
        b"LO",
        b"ST",
    )


def read_header(path: Path) -> Header | None:
    """Read what grouping and ordering need from the header of a DICOM file; no pixel is read.

    Returns
    -------
    Header
        None if the file is not DICOM.

    Raises
    ------
    Refused
        ``DCM-HEADER`` if it is DICOM and its header cannot be read.
    """
    with path.open("rb") as stream:
        return parse_header(stream, path)


def parse_header(stream: BinaryIO, path: Path) -> Header | None:
    """As `read_header`, from a stream that stands at its beginning."""
    head = stream.read(1024)
    if not is_dicom(head):
        return None
    if DEFLATED.encode() in head:
        raise Refused(
            "DCM-SYNTAX",
            "the data set is deflated, which hides its size, in {0}",
            fix="store the series uncompressed, for example with dcmconv or gdcmconv.",
            files=[path],
        )
    stream.seek(0)
    try:
        dataset = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2.1"))
        offset, length = _pixel_element(stream, syntax)
        return _header(dataset, syntax, offset, length)
    # A damaged header makes pydicom raise almost anything.
    except Exception as error:
        raise Refused(
            "DCM-HEADER",
            f"the header cannot be read ({type(error).__name__}) in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        ) from error


def _pixel_element(stream: BinaryIO, syntax: str) -> tuple[int, int]:
    """Offset and length of PixelData's value, on which the parser stopped; (0, 0) if there is none."""
    order: Literal["big", "little"] = "big" if syntax == "1.2.840.10008.1.2.2" else "little"
    start, head = stream.tell(), stream.read(12)
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
    if (group, element) != (0x7FE0, 0x0010) or len(head) < 12:
        return 0, 0
    implicit = syntax == "1.2.840.10008.1.2"
    size = head[4:8] if implicit else head[8:12]
    return start + (8 if implicit else 12), int.from_bytes(size, order)


def _header(d: Dataset, syntax: str, offset: int, length: int) -> Header:
    e = elements
    return Header(
        sop_class=e.text(d, "SOPClassUID") or str(d.file_meta.get("MediaStorageSOPClassUID", "")),
        sop_uid=e.text(d, "SOPInstanceUID"),
        study_uid=e.text(d, "StudyInstanceUID"),
        series_uid=e.text(d, "SeriesInstanceUID"),
        patient_id=e.text(d, "PatientID"),
        modality=e.text(d, "Modality"),
        image_type=e.texts(d, "ImageType"),
        series_number=e.integer(d, "SeriesNumber"),
        instance=e.integer(d, "InstanceNumber"),
        rows=e.integer(d, "Rows") or 0,
        columns=e.integer(d, "Columns") or 0,
        frames=e.integer(d, "NumberOfFrames") or 1,
        samples=e.integer(d, "SamplesPerPixel") or 1,
        photometric=e.text(d, "PhotometricInterpretation"),
        bits_allocated=(bits := e.integer(d, "BitsAllocated") or 0),
        bits_stored=(stored := e.integer(d, "BitsStored") or bits),
        high_bit=stored - 1 if (high := e.integer(d, "HighBit")) is None else high,
        signed=e.integer(d, "PixelRepresentation") == 1,
        orientation=e.numbers(d, "ImageOrientationPatient", 6),
        position=e.numbers(d, "ImagePositionPatient", 3),
        pixel_spacing=e.numbers(d, "PixelSpacing", 2),
        slice_thickness=e.number(d, "SliceThickness"),
        echo_time=e.number(d, "EchoTime"),
        echo_number=e.integer(d, "EchoNumbers"),
        trigger_time=e.number(d, "TriggerTime"),
        temporal_position=e.integer(d, "TemporalPositionIdentifier"),
        temporal_resolution=e.number(d, "TemporalResolution"),
        acquisition_time=_seconds(e.text(d, "AcquisitionTime")),
        slope=1.0 if (slope := e.number(d, "RescaleSlope")) is None else slope,
        intercept=e.number(d, "RescaleIntercept") or 0.0,
        has_slope=slope is not None,
        has_lut=e.has(d, "ModalityLUTSequence"),
        units=e.text(d, "Units") or e.text(d, "RescaleType"),
        burned_in=e.text(d, "BurnedInAnnotation").upper() == "YES",
        images_in_acquisition=e.integer(d, "ImagesInAcquisition"),
        syntax=syntax,
        pixel_offset=offset,
        pixel_bytes=length,
    )


def _seconds(time: str) -> float | None:
    """Seconds since midnight of a DICOM time, HHMMSS.FFFFFF."""
    if len(time) < 6 or not time.replace(".", "").isdigit():
        return None
    return int(time[:2]) * 3600 + int(time[2:4]) * 60 + float(time[4:])


def group_key(header: Header) -> tuple[Any, ...]:
    """Give what files of one scan share; `KEY_PARTS` names the parts."""
    spacing, orientation = header["pixel_spacing"], header["orientation"]
    return (
        header["patient_id"],
        header["study_uid"],
        header["series_uid"],
        header["sop_class"],
        tuple(header["image_type"]),
        None if header["echo_time"] is None else round(header["echo_time"], 2),
        header["echo_number"],
        (header["rows"], header["columns"]),
        None if spacing is None else tuple(round(mm, 4) + 0.0 for mm in spacing),
        None if orientation is None else tuple(round(cosine, 3) + 0.0 for cosine in orientation),
    )


KEY_PARTS = (
    "patient",
    "study",
    "series",
    "SOP class",
    "ImageType",
    "EchoTime",
    "EchoNumbers",
    "matrix",
    "PixelSpacing",
    "orientation",
)
"""Names of the parts of a `group_key`."""


def group(keys: Sequence[tuple[Any, ...]]) -> list[list[int]]:
    """Collect files by `group_key`; keys that rounding set apart come together again.

    Parameters
    ----------
    keys : sequence of tuple
        As `group_key` gives them, one a file.

    Returns
    -------
    list of lists of int
        Numbers of the files of each group, in order.
    """
    by_key: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        by_key[key].append(number)
    heads: defaultdict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for key in sorted(by_key, key=repr):
        near = next((head for head in heads[key[:-2]] if _near(head, key)), None)
        if near is None:
            heads[key[:-2]].append(key)
            groups[key] = by_key[key]
        else:
            groups[near] = sorted(groups[near] + by_key[key])
    return sorted(groups.values())


def _near(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two keys that agree in all but spacing and orientation differ by no more than rounding."""
    for a, b, tolerance in (
        (one[-2], other[-2], SAME_SPACING),
        (one[-1], other[-1], SAME_DIRECTION),
    ):
        if (a is None) != (b is None):
            return False
        # Half a unit of rounding on either side comes on top of the tolerance.
        if a is not None and max(abs(p - q) for p, q in zip(a, b, strict=True)) > 1.001 * tolerance:
            return False
    return True


def key_digest(key: tuple[Any, ...]) -> str:
    """Sixteen hexadecimal digits that tell apart the groups of one series."""
    return hashlib.sha256(repr(key[3:]).encode()).hexdigest()[:16]


def mix(
    part: int, first: tuple[Any, ...], other: tuple[Any, ...], files: Sequence[Path]
) -> Refused:
    """Say that two groups of files, which differ in one part of their keys, may not be one series."""
    code = {0: "DCM-UID-COLLISION", 7: "DCM-MATRIX-MIX", 8: "DCM-SPACING-MIX"}.get(
        part, "DCM-MIXED"
    )
    # Identities are not repeated in messages; sizes are.
    values = f" ({first[part]} and {other[part]})" if part >= 5 else ""
    return Refused(
        code,
        f"two values of {KEY_PARTS[part]}{values} in one series: {{0}} and {{1}}",
        fix="separate them into series of their own.",
        files=files,
    )
