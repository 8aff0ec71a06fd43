"""Values of DICOM elements as they stand in the file: text and numbers, nothing converted that could warn or raise.

A tag that is absent, empty or malformed gives an empty answer; what to do about it is the caller's decision.
"""

import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO, cast

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence

Elements = Mapping[int, RawDataElement | DataElement] | Dataset
"""Elements by tag, as they stand in a file."""

Key = str | int
"""Keyword of the dictionary, or tag of a private element."""

_BINARY = {"US": "H", "SS": "h", "AT": "H", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
"""VRs whose values are binary numbers -> as `struct` names them."""

_PRIVATE = {
    0x0019100A: "US",
    0x0043102F: "SS",
    0x20011003: "FL",
    0x2005100D: "FL",
    0x2005100E: "FL",
}
"""Private elements with such values, of which a file in implicit VR does not tell."""

_CHARACTER_SET = 0x00080005

MOST_ELEMENTS = 2_000_000
"""Of a header, those in sequences among them; ten thousand frames with all that is said of each have half as many."""

MOST_ZEROS = 1000
"""Elements in a row of which all is zero. One has no meaning; damaged disks and bombs are full of them."""

_ZEROS = bytes(8)
"""As many bytes as pydicom reads of an element, or an item, before anything else of it."""

_PADDING = " \t\r\n\0"

_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as the standard writes it; Python takes more for one (``1_000``)."""

_ESCAPE, _LOST = b"\x1b", "\ufffd"
"""What switches character sets within a value; what pydicom puts where a byte cannot be decoded."""


class MalformedError(ValueError):
    """A value that is there and is not what the standard has there; says of what kind it is, and nothing of its text."""


class Counted:
    """A stream for pydicom that ends a header which does not end: it counts elements, however deep, by how they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self._seen = self._zeros = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read from the stream. Raises ValueError at one element too many."""
        found = self._read(size)
        if size == len(_ZEROS):
            self._seen += 1
            self._zeros = self._zeros + 1 if found == _ZEROS else 0
            if self._seen > MOST_ELEMENTS or self._zeros > MOST_ZEROS:
                raise ValueError("a header without end")
        return found


def element(elements: Elements, key: Key) -> RawDataElement | DataElement | None:
    """Give an element as it stands in the file, or None."""
    tag = tag_for_keyword(key) if isinstance(key, str) else key
    if tag is None:
        return None
    if not isinstance(elements, Dataset):
        return elements.get(tag)
    if tag not in elements:
        return None
    # An element that was cut off has no value, and pydicom would convert it to look for one.
    # Its own annotation leaves the raw form out.
    return cast(RawDataElement, elements.get_item(tag, keep_deferred=True))


def has(elements: Elements, key: Key) -> bool:
    """Whether the element is there with a value."""
    found = element(elements, key)
    value = None if found is None else found.value
    return value is not None and len(value if hasattr(value, "__len__") else str(value)) > 0


def sequence(elements: Elements, key: Key) -> list[Dataset]:
    """Items of a sequence, their elements as they stand in the file; none if it is no sequence."""
    found = element(elements, key)
    if found is None or found.value is None:
        return []
    if not isinstance(found, RawDataElement):
        return [cast(Dataset, below) for below in found.value] if found.VR == "SQ" else []
    if found.VR == "UN":  # whose content is always in implicit VR
        return _items(found.value, is_implicit=True, is_little_endian=True)
    return _items(found.value, found.is_implicit_VR, found.is_little_endian)


def walk(elements: Elements) -> Iterator[Elements]:
    """The elements, and those of every item of every sequence below."""
    yield elements
    for tag in elements.keys():  # noqa: SIM118 - a Dataset yields elements, converted
        found = element(elements, tag)
        if found is not None and (found.VR == "SQ" or _is_sequence(found)):
            for below in sequence(elements, tag):
                yield from walk(below)


def texts(elements: Elements, key: Key) -> list[str]:
    """Every value of an element as text, stripped of padding."""
    return [value if isinstance(value, str) else f"{value:g}" for value in _values(elements, key)]


def text(elements: Elements, key: Key) -> str:
    """Give the first value as text; "" when there is none."""
    values = texts(elements, key)
    return values[0] if values else ""


def whole(elements: Elements, key: Key) -> str:
    """Give all of an element that holds one value: a backslash in it separates nothing, and is kept."""
    return "\\".join(texts(elements, key)).strip(_PADDING)


def decimal(elements: Elements, key: Key) -> float | None:
    """Give the one number of an element, None if it is absent or empty. Raises `MalformedError` if it holds anything else."""
    values = _values(elements, key)
    if not any(value != "" for value in values):
        return None
    if len(values) > 1:
        raise MalformedError(f"{len(values)} values")
    (value,) = values
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise MalformedError(_kind(value))
    if not math.isfinite(float(value)):
        raise MalformedError("not finite")
    return float(value)


def _kind(text: str) -> str:
    """What is wrong with a text that should be a number, without a word of it."""
    if re.fullmatch(r"[+-]?(nan|inf|infinity)", text, re.IGNORECASE):
        return "not finite"
    if _DECIMAL.fullmatch(text.replace(",", ".", 1)):
        return "a decimal comma"
    if _DECIMAL.fullmatch(re.sub(r"\s", "", text)):
        return "a blank within a number"
    return "no decimal number"


def numbers(elements: Elements, key: Key, n: int) -> list[float] | None:
    """Exactly `n` finite numbers, or None."""
    try:
        values = [float(value) for value in _values(elements, key)]
    except ValueError:
        return None
    return values if len(values) == n and all(map(math.isfinite, values)) else None


def number(elements: Elements, key: Key) -> float | None:
    """Give the first value as a finite number, or None."""
    values = _values(elements, key)
    try:
        value = float(values[0]) if values else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def integer(elements: Elements, key: Key) -> int | None:
    """Give the first value as a whole number, or None."""
    value = number(elements, key)
    return None if value is None or value != int(value) else int(value)


def _values(elements: Elements, key: Key) -> list[str] | list[float]:
    found = element(elements, key)
    if found is None:
        return []
    if isinstance(found, RawDataElement):
        return _raw_values(elements, found)
    return _converted_values(found)


def _is_sequence(item: RawDataElement | DataElement) -> bool:
    """Whether an element of a file in implicit VR is a sequence that the dictionary knows."""
    return item.VR is None and dictionary_has_tag(item.tag) and dictionary_VR(item.tag) == "SQ"


def _items(value: bytes, is_implicit: bool, is_little_endian: bool) -> list[Dataset]:  # noqa: FBT001
    stream = cast(BinaryIO, Counted(BytesIO(value)))
    found = read_sequence(stream, is_implicit, is_little_endian, len(value), "iso8859")
    return list(found)


def _converted_values(item: DataElement) -> list[str] | list[float]:
    """Of an element that pydicom, or a test, has made already."""
    value: Any = item.value
    if value is None:
        return []
    many = value if isinstance(value, list | tuple) or item.VM > 1 else [value]
    return [part.strip(_PADDING) for part in "\\".join(str(part) for part in many).split("\\")]


def _raw_values(elements: Elements, item: RawDataElement) -> list[str] | list[float]:
    raw, vr = item.value or b"", item.VR
    if vr is None or vr == "UN":
        vr = _usual_vr(int(item.tag))
    code = _BINARY.get(vr[:2])
    if code:
        n = len(raw) // struct.calcsize(code)
        form = f"{'<' if item.is_little_endian else '>'}{n}{code}"
        return [float(value) for value in struct.unpack_from(form, raw)]
    return [part.strip(_PADDING) for part in _decoded(elements, raw).split("\\")]


# A file in implicit VR tells none; the dictionary's keys are slow to compare, and the tags that are asked for are few.
@lru_cache(maxsize=1024)
def _usual_vr(tag: int) -> str:
    """VR of an element by the dictionary, "" if it does not know it."""
    return dictionary_VR(tag) if dictionary_has_tag(tag) else _PRIVATE.get(tag, "")


def _decoded(elements: Elements, raw: bytes) -> str:
    if raw.isascii():
        return raw.decode("ascii")
    found = element(elements, _CHARACTER_SET)
    named: Any = "" if found is None else found.value
    if isinstance(named, bytes):
        named = named.decode("ascii", "replace").split("\\")
    names = [
        str(name).strip(_PADDING) for name in ([named] if isinstance(named, str) else named or [])
    ]
    # pydicom warns of a character set that it does not know in the words of the file.
    if not (any(names) and all(name in python_encoding for name in names)):
        names = ["ISO_IR 192"]
    try:
        return _strictly(raw, names)
    except (LookupError, UnicodeError):
        # In which every byte is a sign of its own: two names never become one.
        return raw.decode("latin-1")


def _strictly(raw: bytes, names: list[str]) -> str:
    """Text of bytes in known character sets. Raises UnicodeError where a byte cannot be decoded."""
    if _ESCAPE not in raw:
        return raw.decode(python_encoding[names[0]])
    # Of what it cannot decode pydicom warns, and puts one sign for all of it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = decode_bytes(raw, convert_encodings(names), set())
    if _LOST in text:
        raise UnicodeError
    return text
