"""What one slice says of itself, of what grouping and ordering need to know: elements as they stand in the file -> plain values.

The slices of a series say nearly all of it alike, which is converted once.
"""

import re
from functools import lru_cache
from typing import Any, TypedDict, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from cohort.io.slices import diffusion, elements
from cohort.io.slices.dicom_file import Parsed
from cohort.io.slices.elements import Elements

PHILIPS_INTERCEPT, PHILIPS_SLOPE = 0x2005100D, 0x2005100E
GE_KIND = 0x0043102F
_GE_KINDS = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}
"""What GE's images are besides magnitude, which their ImageType does not always say."""

_OWN_KEYWORDS = (
    "SOPInstanceUID InstanceNumber ImagePositionPatient TriggerTime TemporalPositionIdentifier AcquisitionDate "
    "AcquisitionTime AcquisitionDateTime StudyDate"
)
_OWN = frozenset(tag_for_keyword(word) for word in _OWN_KEYWORDS.split())
"""Elements of which slices of one series differ, and those that are read together with them."""

_REMEMBERED, _SHORT_BYTES = 64, 1024
"""Headers that are remembered, and the length of a value beyond which none is: no sequence of a thousand frames."""

_Said = tuple[tuple[int, str | None, bytes | None, bool, bool], ...]


class Header(TypedDict):
    """What ordering and grouping need to know of one slice; plain JSON values, private."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    modality: str
    image_type: list[str]
    series_number: int | None
    instance: int | None
    frame: int | None
    """Number of the slice within its file, from 0; None if the file is the slice."""
    tile: list[int] | None
    """Of a mosaic: corner (top, left) of the slice, and rows and columns of the whole image."""
    problem: list[str] | None
    """Why the slices of the file cannot be told apart or placed: code, text and remedy of a refusal."""
    rows: int
    columns: int
    frames: int
    """Images that the file holds: a mosaic is one."""
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    has_sign: bool
    orientation: list[float] | None
    position: list[float] | None
    pixel_spacing: list[float] | None
    slice_thickness: float | None
    slice_spacing: float | None
    echo_time: float | None
    echo_number: int | None
    trigger_time: float | None
    temporal_position: int | None
    temporal_resolution: float | None
    acquisition_number: int | None
    repetition_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    b_value: float | None
    volume: int | None
    """Rank among the volumes of a multi-frame file, by its dimension indices."""
    acquisition_date: str
    acquisition_time: float | None
    slope: float
    intercept: float
    has_slope: bool
    has_intercept: bool
    has_lut: bool
    has_real_world: bool
    """Whether a mapping to real-world values is there, which nothing here applies."""
    philips_slope: float | None
    philips_intercept: float | None
    units: str
    burned_in: bool
    lossy: bool
    images_in_acquisition: int | None
    syntax: str
    has_meta: bool
    pixel_offset: int
    pixel_bytes: int


def header(d: Elements, parsed: Parsed) -> Header:
    """Header of a slice.

    Parameters
    ----------
    d : Elements
        Of the slice: those of its file, or of one frame.
    parsed : Parsed
        Its file.
    """
    return cast(Header, {**_shared(d, parsed.sop_class), **_own(d, parsed)})


def _own(d: Elements, parsed: Parsed) -> dict[str, Any]:
    """What slices of one series may say differently: what `_OWN` says, and where the file has its pixels."""
    e = elements
    date, seconds = time(d)
    return {
        "sop_uid": e.text(d, "SOPInstanceUID"),
        "instance": e.integer(d, "InstanceNumber"),
        "frame": None,
        "tile": None,
        "position": e.numbers(d, "ImagePositionPatient", 3),
        "trigger_time": e.number(d, "TriggerTime"),
        "temporal_position": e.integer(d, "TemporalPositionIdentifier"),
        "volume": None,
        "acquisition_date": date,
        "acquisition_time": seconds,
        "syntax": parsed.syntax,
        "has_meta": parsed.has_meta,
        "pixel_offset": parsed.pixel_offset,
        "pixel_bytes": parsed.pixel_bytes,
    }


def _shared(d: Elements, sop_class: str) -> dict[str, Any]:
    """`_read_shared`, remembered by all that it may read: every element but those of `_OWN`."""
    said = []
    for tag, item in d.items() if isinstance(d, dict) else ():
        if tag in _OWN:
            continue
        if type(item) is not RawDataElement or item.length > _SHORT_BYTES:
            return _read_shared(d, sop_class)
        said.append((tag, item.VR, item.value, item.is_implicit_VR, item.is_little_endian))
    return _remembered(tuple(said), sop_class) if said else _read_shared(d, sop_class)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(said: _Said, sop_class: str) -> dict[str, Any]:
    d = {
        tag: RawDataElement(BaseTag(tag), vr, len(value or b""), value, 0, implicit, little)
        for tag, vr, value, implicit, little in said
    }
    return _read_shared(d, sop_class)


def _read_shared(d: Elements, sop_class: str) -> dict[str, Any]:
    """What the slices of a series say alike, as a rule."""
    e = elements
    philips = e.text(d, "Manufacturer").casefold().startswith("philips")
    slope, intercept, problem = _rescale(d)
    return {
        "sop_class": e.text(d, "SOPClassUID") or sop_class,
        "study_uid": e.text(d, "StudyInstanceUID"),
        "series_uid": e.text(d, "SeriesInstanceUID"),
        "patient_id": e.whole(d, "PatientID"),
        "modality": e.text(d, "Modality"),
        "image_type": _image_type(d),
        "series_number": e.integer(d, "SeriesNumber"),
        "problem": problem,
        "rows": e.integer(d, "Rows") or 0,
        "columns": e.integer(d, "Columns") or 0,
        "frames": e.integer(d, "NumberOfFrames") or 1,
        "samples": e.integer(d, "SamplesPerPixel") or 1,
        "photometric": e.text(d, "PhotometricInterpretation"),
        "bits_allocated": (bits := e.integer(d, "BitsAllocated") or 0),
        "bits_stored": (stored := e.integer(d, "BitsStored") or bits),
        "high_bit": stored - 1 if (high := e.integer(d, "HighBit")) is None else high,
        "signed": (sign := e.integer(d, "PixelRepresentation")) == 1,
        "has_sign": sign is not None,
        "orientation": e.numbers(d, "ImageOrientationPatient", 6),
        "pixel_spacing": e.numbers(d, "PixelSpacing", 2),
        "slice_thickness": e.number(d, "SliceThickness"),
        "slice_spacing": e.number(d, "SpacingBetweenSlices"),
        "echo_time": e.number(d, "EchoTime"),
        "echo_number": e.integer(d, "EchoNumbers"),
        "temporal_resolution": e.number(d, "TemporalResolution"),
        "acquisition_number": e.integer(d, "AcquisitionNumber"),
        "repetition_time": e.number(d, "RepetitionTime"),
        "inversion_time": e.number(d, "InversionTime"),
        "flip_angle": e.number(d, "FlipAngle"),
        "b_value": diffusion.b_value(d),
        "slope": 1.0 if slope is None else slope,
        "intercept": 0.0 if intercept is None else intercept,
        "has_slope": slope is not None,
        "has_intercept": intercept is not None,
        "has_lut": e.has(d, "ModalityLUTSequence"),
        "has_real_world": any(
            e.has(d, "RealWorldValue" + key) for key in ("MappingSequence", "Slope")
        ),
        "philips_slope": e.number(d, PHILIPS_SLOPE) if philips else None,
        "philips_intercept": e.number(d, PHILIPS_INTERCEPT) if philips else None,
        "units": e.text(d, "Units") or e.text(d, "RescaleType"),
        "burned_in": e.text(d, "BurnedInAnnotation").upper() == "YES",
        "lossy": e.text(d, "LossyImageCompression") == "01",
        "images_in_acquisition": e.integer(d, "ImagesInAcquisition"),
    }


def _image_type(d: Elements) -> list[str]:
    """What an image is, in words; empty ones at the end say nothing and come and go within a series."""
    words = [*elements.texts(d, "ImageType"), *elements.texts(d, "ComplexImageComponent")]
    while words and not words[-1]:
        words.pop()
    if elements.text(d, "Manufacturer").startswith("GE"):
        kind = _GE_KINDS.get(elements.integer(d, GE_KIND) or 0)
        words += [kind] if kind and kind not in words else []
    return words


def _rescale(d: Elements) -> tuple[float | None, float | None, list[str] | None]:
    """Slope and intercept, None where the header has none, and the refusal if it has something else there."""
    values: list[float | None] = []
    for key in ("RescaleSlope", "RescaleIntercept"):
        try:
            values.append(elements.decimal(d, key))
        except elements.MalformedError as error:
            what = f"{key} is not one number ({error}) in {{0}}"
            return None, None, ["DCM-RESCALE", what, "export the series again from its source."]
    return values[0], values[1], None


def time(d: Elements) -> tuple[str, float | None]:
    """Date, and seconds since midnight, at which a slice was taken."""
    both = elements.text(d, "AcquisitionDateTime")
    date = elements.text(d, "AcquisitionDate") or both[:8] or elements.text(d, "StudyDate")
    return date, _seconds(elements.text(d, "AcquisitionTime") or both[8:])


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a DICOM time, HHMMSS.FFFFFF; what follows, such as a time zone, is ignored."""
    found = re.match(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
