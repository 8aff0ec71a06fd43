"""The pixels of one DICOM file as it stores them: no rescale, no colour, no window."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import AllTransferSyntaxes

from cohort.io.dicom_header import Header
from cohort.io.refusal import Refused

_NATIVE: dict[str, Literal["<", ">"]] = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Transfer syntaxes whose pixels stand in the file as they are -> byte order."""

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


def stored_dtype(header: Header) -> np.dtype:
    """Dtype, native byte order, of the pixels of a file."""
    return np.dtype(f"{'i' if header['signed'] else 'u'}{header['bits_allocated'] // 8}")


def check_length(path: Path, header: Header) -> None:
    """Raise `Refused` if a file cannot hold the uncompressed pixels that its header claims; reads no pixel."""
    if header["syntax"] not in _NATIVE:
        return
    expected = _expected_bytes(header)
    found = min(header["pixel_bytes"], max(path.stat().st_size - header["pixel_offset"], 0))
    if found < expected:
        raise Refused(
            "DCM-TRUNCATED",
            f"{found} bytes of pixels, expected {expected} for {header['rows']} x {header['columns']} pixels of "
            f"{header['bits_allocated']} bits, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )


def read_pixels(path: Path, header: Header) -> np.ndarray:
    """Read and, where compressed, decode the one frame of a file.

    Returns
    -------
    (rows, columns) array, int or uint of 8, 16 or 32 bits, native byte order
        Bits above BitsStored are cleared (or carry the sign), whatever the file holds there.

    Raises
    ------
    Refused
        ``DCM-TRUNCATED``, ``DCM-SYNTAX`` (no decoder) or ``DCM-PIXELS`` (the stream is damaged).
    """
    shape = (header["rows"], header["columns"])
    order = _NATIVE.get(header["syntax"])
    if order is None or (order == ">" and header["bits_allocated"] == 8):
        stored = _decode(path, header)
    else:
        check_length(path, header)
        with path.open("rb") as stream:
            stream.seek(header["pixel_offset"])
            raw = stream.read(_expected_bytes(header))
        stored = np.frombuffer(raw, stored_dtype(header).newbyteorder(order)).reshape(shape)
    if stored.shape != shape:
        raise Refused(
            "DCM-PIXELS",
            f"the compressed image is {' x '.join(map(str, stored.shape))} but its header says "
            f"{shape[0]} x {shape[1]}, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    return _significant(stored.astype(stored_dtype(header), copy=False), header["bits_stored"])


def _expected_bytes(header: Header) -> int:
    return header["rows"] * header["columns"] * (header["bits_allocated"] // 8)


def _significant(stored: np.ndarray, bits: int) -> np.ndarray:
    """Clear what lies above the stored bits: overlays and dirt."""
    spare = 8 * stored.dtype.itemsize - bits
    if spare == 0:
        return stored
    if stored.dtype.kind == "u":
        return stored & np.array((1 << bits) - 1, stored.dtype)
    return (stored << spare) >> spare


def _decode(path: Path, header: Header) -> np.ndarray:
    try:
        if header["syntax"] in _CODECS:
            return _imagecodecs(path, _CODECS[header["syntax"]])
        # raw: stored values, no conversion of colours.
        return np.asarray(pixel_array(path, raw=True))
    except NotImplementedError as error:
        raise Refused(
            "DCM-SYNTAX",
            f"no decoder for the transfer syntax{_known(header['syntax'])} of {{0}}",
            fix="store the series uncompressed, for example with dcmconv or gdcmconv.",
            files=[path],
        ) from error
    # Decoders raise whatever they like on a damaged stream; the series is refused all the same.
    except Exception as error:
        raise Refused(
            "DCM-PIXELS",
            f"the pixels cannot be decoded ({type(error).__name__}) in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        ) from error


def _imagecodecs(path: Path, codec: str) -> np.ndarray:
    # Heavy, and most series need none of it.
    import imagecodecs

    frame = get_frame(dcmread(path, force=True).PixelData, 0, number_of_frames=1)
    return np.asarray(getattr(imagecodecs, f"{codec}_decode")(frame))


def _known(syntax: str) -> str:
    """Repeat a UID of the standard, nothing else that a header may hold."""
    return f" {syntax}" if syntax in AllTransferSyntaxes else ""
