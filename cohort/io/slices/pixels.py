"""The pixels of DICOM slices as their files store them: no rescale, no colour, no window."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_j2k_parameters, pixel_array
from pydicom.uid import UID, AllTransferSyntaxes

from cohort.io import patience
from cohort.io.refusal import Refused
from cohort.io.slices import child
from cohort.io.slices.dicom_file import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    open_data,
)
from cohort.io.slices.dicom_header import Header
from cohort.io.slices.skim import UNDEFINED

_NATIVE: dict[str, Literal["<", ">"]] = {
    IMPLICIT: "<",
    EXPLICIT: "<",
    DEFLATED: "<",
    BIG_ENDIAN: ">",
}
"""Transfer syntaxes whose pixels stand in the data set as they are -> byte order."""

_CODECS = {
    "1.2.840.10008.1.2.4.50": "jpeg8",
    "1.2.840.10008.1.2.4.51": "jpeg8",
    "1.2.840.10008.1.2.4.57": "jpegsof3",
    "1.2.840.10008.1.2.4.70": "jpegsof3",
    "1.2.840.10008.1.2.4.90": "jpeg2k",
    "1.2.840.10008.1.2.4.91": "jpeg2k",
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k",
    "1.2.840.10008.1.2.4.203": "htj2k",
}
"""Transfer syntaxes for which pydicom has no decoder free of the GPL, or a slow one -> that of imagecodecs."""


_JPEG_2000, _JPEG_LS, _RLE = (
    ("jpeg2k", "htj2k"),
    ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    "1.2.840.10008.1.2.5",
)

_JPEG_LS_FRAME = 0xF7
"""Marker of the segment with rows and columns."""

_BEGINNINGS = (b"\xff\xd8\xff", b"\xff\x4f\xff")
"""Of a JPEG or JPEG-LS and of a JPEG 2000 stream."""

LOSSY = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
)
"""Transfer syntaxes that lose something, whatever the header says."""


def stored_dtype(header: Header) -> np.dtype:
    """Dtype, native byte order, of the pixels of a file."""
    return np.dtype(f"{'i' if header['signed'] else 'u'}{header['bits_allocated'] // 8}")


def check_length(path: Path, header: Header) -> None:
    """Raise `Refused` unless the uncompressed pixels of a file are as many as its header claims; reads no pixel."""
    if header["syntax"] not in _NATIVE:
        return
    if header["pixel_bytes"] == UNDEFINED:
        raise Refused(
            "DCM-PIXELS",
            "compressed pixels in {0}, whose header says that they are not compressed",
            fix="export the series again from its source.",
            files=[path],
        )
    rows, columns = _stored_shape(header)
    size = header["bits_allocated"] // 8
    expected = header["frames"] * rows * columns * size
    found = header["pixel_bytes"]
    if header["syntax"] != DEFLATED:
        found = min(found, max(path.stat().st_size - header["pixel_offset"], 0))
    # Some files end in padding. A row or a column that the header does not know of would shear the image.
    if expected <= found < expected + max(min(rows, columns) * size, 2):
        return
    raise Refused(
        "DCM-TRUNCATED" if found < expected else "DCM-PIXELS",
        f"{found} bytes of pixels, expected {expected} for {_claim(header)}, in {{0}}",
        fix="copy the file again from its source.",
        files=[path],
    )


def read_frames(path: Path, headers: Sequence[Header]) -> Iterator[np.ndarray]:
    """Read and, where compressed, decode slices of one file.

    Parameters
    ----------
    path : Path
        A plain local file.
    headers : sequence of Header
        Of the slices wanted, in order; those of one mosaic are decoded once.

    Yields
    ------
    (rows, columns) array, int or uint of 8, 16 or 32 bits, native byte order
        Bits above BitsStored are cleared (or carry the sign), whatever the file holds there.

    Raises
    ------
    Refused
        ``DCM-TRUNCATED``, ``DCM-SYNTAX`` (no decoder) or ``DCM-PIXELS`` (the stream is damaged, or none).
    """
    if not headers:
        return
    check_length(path, headers[0])
    with ExitStack() as stack:
        stream = None
        if _is_native(headers[0]):
            stream = stack.enter_context(open_data(path, headers[0]["syntax"]))
        number, image = -1, np.empty((0, 0))
        for header in headers:
            wanted = _stored_number(header)
            if wanted != number:
                number = wanted
                image = _native(stream, path, header) if stream else _compressed(path, header)
                image = _significant(image, header["bits_stored"])
            top, left = header["tile"][:2] if header["tile"] else (0, 0)
            yield image[top : top + header["rows"], left : left + header["columns"]]


def decode_frame(path: Path, header: Header) -> np.ndarray:
    """Decode one compressed image of a file, in this process; `read_frames` asks a child for it.

    Returns
    -------
    (rows, columns) array of integers
        As the codec has them: bits above BitsStored may hold anything.

    Raises
    ------
    Refused
        ``DCM-SYNTAX`` if there is no decoder. A damaged stream makes decoders raise whatever they like.
    """
    number, syntax = _stored_number(header), header["syntax"]
    codec = _CODECS.get(syntax)
    if codec is None:
        if not _is_decodable(syntax):
            raise Refused(
                "DCM-SYNTAX",
                f"no decoder for the transfer syntax{_known(syntax)} of {{0}}",
                fix="store the series uncompressed, for example with dcmconv or gdcmconv.",
                files=[path],
            )
        return _by_pydicom(path, header, number)
    # Heavy, and most series need none of it.
    import imagecodecs

    frame = _frame(path, header, number)
    image = np.asarray(getattr(imagecodecs, f"{codec}_decode")(frame))
    return _as_signed(image, frame, header) if codec in _JPEG_2000 else image


def _frame(path: Path, header: Header, number: int) -> bytes:
    """The stream of one image; refuses a file that holds more of them than its header says."""
    with patience.opened(path) as stream:
        stream.seek(header["pixel_offset"])
        if number == 0:
            _check_count(stream, path, header)
            stream.seek(header["pixel_offset"])
        return get_frame(stream, number, number_of_frames=header["frames"])


def _check_count(stream: BinaryIO, path: Path, header: Header) -> None:
    parse_basic_offsets(stream)
    n, places = parse_fragments(stream)
    if n <= header["frames"]:
        return
    if header["syntax"] != _RLE:  # all others may cut a stream into pieces
        starts = 0
        for place in places:
            stream.seek(place + 8)
            starts += stream.read(3) in _BEGINNINGS
        n = starts
    if n > header["frames"]:
        raise Refused(
            "DCM-PIXELS",
            f"{n} compressed images, expected {header['frames']}, in {{0}}",
            fix="export the series again from its source.",
            files=[path],
        )


def _as_signed(image: np.ndarray, stream: bytes, header: Header) -> np.ndarray:
    """Take the bits of a JPEG 2000 image for what the header says, signed or not, where the stream says otherwise.

    Oracle: pydicom.
    """
    told, dtype = get_j2k_parameters(stream), stored_dtype(header)
    if (
        told.get("is_signed", header["signed"]) == header["signed"]
        or image.itemsize > dtype.itemsize
    ):
        return image
    spare = 8 * dtype.itemsize - int(told["precision"])
    return (image.astype(dtype) << spare) >> spare


def _check_size(stream: bytes, path: Path, header: Header) -> None:
    """Refuse a JPEG-LS image of other rows and columns than the header's; its decoder does not look."""
    place = 2
    while stream[place : place + 1] == b"\xff":
        length = int.from_bytes(stream[place + 2 : place + 4], "big")
        if stream[place + 1] == _JPEG_LS_FRAME:
            rows, columns = (
                int.from_bytes(stream[place + at : place + at + 2], "big") for at in (5, 7)
            )
            if (rows, columns) == (header["rows"], header["columns"]):
                return
            raise Refused(
                "DCM-PIXELS",
                f"a compressed image of {rows} x {columns} pixels, expected {header['rows']} x {header['columns']}, in {{0}}",
                fix="export the series again from its source.",
                files=[path],
            )
        place += 2 + length


def _by_pydicom(path: Path, header: Header, number: int) -> np.ndarray:
    """One image as pydicom decodes it: stored values, no conversion of colours."""
    if header["syntax"] == BIG_ENDIAN:  # not compressed
        return np.asarray(pixel_array(path, index=number, raw=True))
    if header["syntax"] in _JPEG_LS or number == 0:
        frame = _frame(path, header, number)
        if header["syntax"] in _JPEG_LS:
            _check_size(frame, path, header)
    # What stands before the pixels is known: it is not parsed for each of a thousand frames again.
    options: dict[str, Any] = {
        "rows": header["rows"],
        "columns": header["columns"],
        "number_of_frames": header["frames"],
        "samples_per_pixel": header["samples"],
        "photometric_interpretation": header["photometric"],
        "bits_allocated": header["bits_allocated"],
        "bits_stored": header["bits_stored"],
        "pixel_representation": int(header["signed"]),
        "pixel_keyword": "PixelData",
    }
    with patience.opened(path) as stream:
        stream.seek(header["pixel_offset"])
        decoder = get_decoder(UID(header["syntax"]))
        image, _ = decoder.as_array(stream, index=number, raw=True, **options)
    return image


def _is_decodable(syntax: str) -> bool:
    """Whether pydicom has a decoder that is installed."""
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def _is_native(header: Header) -> bool:
    """Whether the pixels can be read as they are; 8-bit pixels in big-endian words cannot."""
    order = _NATIVE.get(header["syntax"])
    return order is not None and not (order == ">" and header["bits_allocated"] == 8)


def _stored_number(header: Header) -> int:
    """Which of the images in its file holds a slice."""
    return 0 if header["tile"] else header["frame"] or 0


def _stored_shape(header: Header) -> tuple[int, int]:
    """Rows and columns of that image."""
    rows, columns = header["tile"][2:] if header["tile"] else (header["rows"], header["columns"])
    return rows, columns


def _native(stream: BinaryIO, path: Path, header: Header) -> np.ndarray:
    shape = _stored_shape(header)
    dtype = stored_dtype(header).newbyteorder(_NATIVE[header["syntax"]])
    size = shape[0] * shape[1] * dtype.itemsize
    stream.seek(header["pixel_offset"] + _stored_number(header) * size)
    raw = stream.read(size)
    if len(raw) < size:
        raise Refused(
            "DCM-TRUNCATED",
            f"{len(raw)} bytes of an image, expected {size} for {_claim(header)}, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    return np.frombuffer(raw, dtype).reshape(shape).astype(stored_dtype(header), copy=False)


def _compressed(path: Path, header: Header) -> np.ndarray:
    asked = header.copy()
    asked["rows"], asked["columns"] = _stored_shape(header)
    image = child.decode(path, asked)
    if image.dtype.itemsize > stored_dtype(header).itemsize:
        raise Refused(
            "DCM-PIXELS",
            f"the compressed image has {8 * image.dtype.itemsize} bits a pixel, its header says "
            f"{header['bits_allocated']}, in {{0}}",
            fix="export the series again from its source.",
            files=[path],
        )
    return image.astype(stored_dtype(header), copy=False)


def _claim(header: Header) -> str:
    rows, columns = _stored_shape(header)
    frames = f"{header['frames']} images of " if header["frames"] > 1 else ""
    return f"{frames}{rows} x {columns} pixels of {header['bits_allocated']} bits"


def _significant(stored: np.ndarray, bits: int) -> np.ndarray:
    """Clear what lies above the stored bits: overlays and dirt."""
    spare = 8 * stored.dtype.itemsize - bits
    if spare == 0:
        return stored
    if stored.dtype.kind == "u":
        return stored & np.array((1 << bits) - 1, stored.dtype)
    return (stored << spare) >> spare


def _known(syntax: str) -> str:
    """Repeat a UID of the standard, nothing else that a header may hold."""
    return f" {syntax}" if syntax in AllTransferSyntaxes else ""
