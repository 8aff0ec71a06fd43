"""Headers of DICOM slices: what grouping and ordering need to know, read without a pixel, and which belong together.

A slice is a file, a frame of an enhanced multi-frame file, or a tile of a mosaic; each has a header of its own.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypedDict

import numpy as np
from pydicom.datadict import tag_for_keyword

from cohort.io.refusal import Refused
from cohort.io.slices import diffusion, elements, frames, mosaic
from cohort.io.slices.dicom_file import Parsed, is_dicom, parse
from cohort.io.slices.dicom_group import KEY_PARTS, group, group_key, key_digest, mix
from cohort.io.slices.elements import Elements

__all__ = [
    "DIRECTORY",
    "KEY_PARTS",
    "MULTI_FRAME",
    "SINGLE_FRAME",
    "Header",
    "group",
    "group_key",
    "is_dicom",
    "is_enhanced",
    "key_digest",
    "mix",
    "named",
    "read_slices",
]

DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""

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
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID Modality Manufacturer ImageType "
    "SeriesNumber InstanceNumber Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated "
    "BitsStored HighBit PixelRepresentation ImageOrientationPatient ImagePositionPatient PixelSpacing SliceThickness "
    "SpacingBetweenSlices EchoTime EchoNumbers TriggerTime TemporalPositionIdentifier TemporalResolution "
    "AcquisitionDate AcquisitionTime AcquisitionDateTime StudyDate ComplexImageComponent RescaleSlope "
    "RescaleIntercept RescaleType ModalityLUTSequence BurnedInAnnotation LossyImageCompression ImagesInAcquisition "
    "Units RealWorldValueMappingSequence AcquisitionNumber RepetitionTime InversionTime FlipAngle DiffusionBValue "
    "DimensionIndexSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)
_PHILIPS_INTERCEPT, _PHILIPS_SLOPE = 0x2005100D, 0x2005100E
_GE_KIND = 0x0043102F
_GE_KINDS = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}
"""What GE's images are besides magnitude, which their ImageType does not always say."""
_TAGS = [
    *(tag for word in _KEYWORDS.split() if (tag := tag_for_keyword(word)) is not None),
    mosaic.N_IN_GRID,
    _GE_KIND,
    _PHILIPS_INTERCEPT,
    _PHILIPS_SLOPE,
    *diffusion.TAGS,
]


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


def read_slices(stream: BinaryIO, path: Path) -> list[Header] | None:
    """Read what grouping and ordering need to know of the slices of a DICOM file; no pixel is read.

    Parameters
    ----------
    stream : binary file
        At its beginning, seekable.
    path : Path
        Its name, for messages.

    Returns
    -------
    list of Header
        One a slice: of a plain file one, of an enhanced multi-frame file one a frame, of a mosaic one a tile. Of a
        file whose slices cannot be placed one, with its `problem`. None if the file is not DICOM.

    Raises
    ------
    Refused
        ``DCM-HEADER`` if it is DICOM and its header cannot be read, ``DCM-BOMB`` if it inflates without end.
    """
    try:
        parsed = parse(stream, path, tags=_TAGS)
        if parsed is None:
            return None
        whole = _header(parsed.elements, parsed)
        try:
            _check_integers(parsed)
            if is_enhanced(whole, parsed.elements):
                return _frames(whole, parsed, stream, path)
            return _tiles(whole, parsed.elements, stream, path) or [_checked(whole)]
        except Refused as refused:
            whole["problem"] = [refused.code, refused.what, refused.fix]
            return [whole]
    except Refused:
        raise
    # A damaged header makes pydicom raise almost anything, an OSError without a number among them.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(
            "DCM-HEADER",
            f"the header cannot be read ({type(error).__name__}) in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        ) from None


def _check_integers(parsed: Parsed) -> None:
    """Refuse pixels that are no integers: nothing here reads them, and no rescale applies to them."""
    if parsed.are_floats:
        raise Refused(
            "DCM-FLOAT",
            "the pixels are FloatPixelData or DoubleFloatPixelData, expected integers, in {0}",
            fix="export the series with integer pixels and a rescale.",
        )


def is_enhanced(header: Header, root: Elements) -> bool:
    """Whether functional groups describe the frames of a file; some classic slices carry an empty sequence of them."""
    several = header["frames"] > 1 and frames.PER_FRAME in root
    return header["sop_class"] in MULTI_FRAME or several


def _frames(whole: Header, parsed: Parsed, stream: BinaryIO, path: Path) -> list[Header]:
    """One header a frame of an enhanced file, or a tile of the one mosaic in it."""
    n = whole["frames"]
    flat = frames.flattened(parsed.elements, n)
    if not flat:
        raise Refused(
            "DCM-HEADER",
            f"{n} frames, but the functional groups do not describe as many, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    volumes = frames.volume_indices(parsed.elements, flat)
    headers = [_header(frame, parsed) for frame in flat]
    if n == 1 and (tiles := _tiles(headers[0], flat[0], stream, path)):
        return tiles
    for number, (header, volume) in enumerate(zip(headers, volumes, strict=True)):
        header["frame"], header["volume"] = number, volume
    return headers


def _tiles(whole: Header, own: Elements, stream: BinaryIO, path: Path) -> list[Header]:
    """One header a tile; none if the image is no mosaic."""
    is_grid = mosaic.N_IN_GRID in own
    if not (is_grid or mosaic.is_mosaic(own)) or whole["frames"] > 1:
        return []
    position, orientation = whole["position"], whole["orientation"]
    if not position or not orientation or not whole["pixel_spacing"]:
        return []
    image = mosaic.Image(
        whole["rows"],
        whole["columns"],
        position,
        orientation,
        whole["pixel_spacing"],
        whole["slice_spacing"],
    )
    # Private elements are many and large; only here are they worth reading.
    stream.seek(0)
    everything = parse(stream, path)
    root = everything.elements if everything else {}
    tiles = (mosaic.grid_tiles if is_grid else mosaic.siemens_tiles)(image, root, path)
    headers = []
    for number, tile in enumerate(tiles):
        header = whole.copy()
        header["frame"], header["tile"], header["position"] = number, tile.box, tile.position
        header["rows"], header["columns"] = tile.rows, tile.columns
        date, seconds = _time(tile.own)
        if seconds is not None:
            header["acquisition_date"], header["acquisition_time"] = date, seconds
        headers.append(header)
    return headers


def _checked(whole: Header) -> Header:
    """Refuse several frames of which nobody says where they lie."""
    if whole["frames"] > 1:
        raise Refused(
            "DCM-MULTIFRAME",
            f"{whole['frames']} frames in one file without the position of each: {{0}}",
            fix="export the series as enhanced multi-frame or one slice a file.",
        )
    return whole


def _header(d: Elements, parsed: Parsed) -> Header:
    e = elements
    date, seconds = _time(d)
    philips = e.text(d, "Manufacturer").casefold().startswith("philips")
    slope, intercept, problem = _rescale(d)
    return Header(
        sop_class=e.text(d, "SOPClassUID") or parsed.sop_class,
        sop_uid=e.text(d, "SOPInstanceUID"),
        study_uid=e.text(d, "StudyInstanceUID"),
        series_uid=e.text(d, "SeriesInstanceUID"),
        patient_id=e.whole(d, "PatientID"),
        modality=e.text(d, "Modality"),
        image_type=_image_type(d),
        series_number=e.integer(d, "SeriesNumber"),
        instance=e.integer(d, "InstanceNumber"),
        frame=None,
        tile=None,
        problem=problem,
        rows=e.integer(d, "Rows") or 0,
        columns=e.integer(d, "Columns") or 0,
        frames=e.integer(d, "NumberOfFrames") or 1,
        samples=e.integer(d, "SamplesPerPixel") or 1,
        photometric=e.text(d, "PhotometricInterpretation"),
        bits_allocated=(bits := e.integer(d, "BitsAllocated") or 0),
        bits_stored=(stored := e.integer(d, "BitsStored") or bits),
        high_bit=stored - 1 if (high := e.integer(d, "HighBit")) is None else high,
        signed=(sign := e.integer(d, "PixelRepresentation")) == 1,
        has_sign=sign is not None,
        orientation=e.numbers(d, "ImageOrientationPatient", 6),
        position=e.numbers(d, "ImagePositionPatient", 3),
        pixel_spacing=e.numbers(d, "PixelSpacing", 2),
        slice_thickness=e.number(d, "SliceThickness"),
        slice_spacing=e.number(d, "SpacingBetweenSlices"),
        echo_time=e.number(d, "EchoTime"),
        echo_number=e.integer(d, "EchoNumbers"),
        trigger_time=e.number(d, "TriggerTime"),
        temporal_position=e.integer(d, "TemporalPositionIdentifier"),
        temporal_resolution=e.number(d, "TemporalResolution"),
        acquisition_number=e.integer(d, "AcquisitionNumber"),
        repetition_time=e.number(d, "RepetitionTime"),
        inversion_time=e.number(d, "InversionTime"),
        flip_angle=e.number(d, "FlipAngle"),
        b_value=diffusion.b_value(d),
        volume=None,
        acquisition_date=date,
        acquisition_time=seconds,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        has_slope=slope is not None,
        has_intercept=intercept is not None,
        has_lut=e.has(d, "ModalityLUTSequence"),
        has_real_world=any(
            e.has(d, "RealWorldValue" + key) for key in ("MappingSequence", "Slope")
        ),
        philips_slope=e.number(d, _PHILIPS_SLOPE) if philips else None,
        philips_intercept=e.number(d, _PHILIPS_INTERCEPT) if philips else None,
        units=e.text(d, "Units") or e.text(d, "RescaleType"),
        burned_in=e.text(d, "BurnedInAnnotation").upper() == "YES",
        lossy=e.text(d, "LossyImageCompression") == "01",
        images_in_acquisition=e.integer(d, "ImagesInAcquisition"),
        syntax=parsed.syntax,
        has_meta=parsed.has_meta,
        pixel_offset=parsed.pixel_offset,
        pixel_bytes=parsed.pixel_bytes,
    )


def _image_type(d: Elements) -> list[str]:
    """What an image is, in words; empty ones at the end say nothing and come and go within a series."""
    words = [*elements.texts(d, "ImageType"), *elements.texts(d, "ComplexImageComponent")]
    while words and not words[-1]:
        words.pop()
    if elements.text(d, "Manufacturer").startswith("GE"):
        kind = _GE_KINDS.get(elements.integer(d, _GE_KIND) or 0)
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


def _time(d: Elements) -> tuple[str, float | None]:
    """Date, and seconds since midnight, at which a slice was taken."""
    both = elements.text(d, "AcquisitionDateTime")
    date = elements.text(d, "AcquisitionDate") or both[:8] or elements.text(d, "StudyDate")
    return date, _seconds(elements.text(d, "AcquisitionTime") or both[8:])


def _seconds(time: str) -> float | None:
    """Seconds since midnight of a DICOM time, HHMMSS.FFFFFF; what follows, such as a time zone, is ignored."""
    found = re.match(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", time)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def named(
    numbers: Sequence[int] | np.ndarray, headers: Sequence[Header], files: Sequence[Path]
) -> tuple[list[str], list[Path]]:
    """Give each slice's place in a message, its number within the file where that holds several, and the files.

    Examples
    --------
    >>> named([0, 2], [{"frame": 3}, {}, {"frame": 4}], [Path("a"), Path("b"), Path("a")])[0]
    ['frame 4 of {0}', 'frame 5 of {0}']
    """
    own = list(dict.fromkeys(files[number] for number in numbers))
    texts = []
    for number in numbers:
        place, frame = f"{{{own.index(files[number])}}}", headers[number]["frame"]
        texts.append(place if frame is None else f"frame {frame + 1} of {place}")
    return texts, own
