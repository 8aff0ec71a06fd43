"""Headers of DICOM slices: what grouping and ordering need to know, read without a pixel, and which belong together.

A slice is a file, a frame of an enhanced multi-frame file, or a tile of a mosaic; each has a header of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.datadict import tag_for_keyword

from cohort.io.refusal import Refused
from cohort.io.slices import diffusion, frames, mosaic, slice_header
from cohort.io.slices.dicom_file import Parsed, is_dicom, parse
from cohort.io.slices.dicom_group import KEY_PARTS, group, group_key, key_digest, mix
from cohort.io.slices.elements import Elements
from cohort.io.slices.slice_header import GE_KIND, PHILIPS_INTERCEPT, PHILIPS_SLOPE, Header

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
_TAGS = [
    *(tag for word in _KEYWORDS.split() if (tag := tag_for_keyword(word)) is not None),
    mosaic.N_IN_GRID,
    GE_KIND,
    PHILIPS_INTERCEPT,
    PHILIPS_SLOPE,
    *diffusion.TAGS,
]


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
        whole = slice_header.header(parsed.elements, parsed)
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
    headers = [slice_header.header(frame, parsed) for frame in flat]
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
        date, seconds = slice_header.time(tile.own)
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
