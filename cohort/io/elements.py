"""Values of DICOM elements as they stand in the file: text and numbers, nothing converted that could warn or raise.

A tag that is absent, empty or malformed gives an empty answer; what to do about it is the caller's decision.
"""

import math
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
"""VRs whose values are binary numbers."""

_PADDING = " \t\r\n\0"


def has(dataset: Dataset, keyword: str) -> bool:
    """Whether the element is there with a value."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return False
    value = dataset.get_item(tag).value
    return value is not None and len(value if hasattr(value, "__len__") else str(value)) > 0


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """Every value of an element as text, stripped of padding."""
    return [
        value if isinstance(value, str) else f"{value:g}" for value in _values(dataset, keyword)
    ]


def text(dataset: Dataset, keyword: str) -> str:
    """Give the first value as text; "" when there is none."""
    values = texts(dataset, keyword)
    return values[0] if values else ""


def numbers(dataset: Dataset, keyword: str, n: int) -> list[float] | None:
    """Exactly `n` finite numbers, or None."""
    try:
        values = [float(value) for value in _values(dataset, keyword)]
    except ValueError:
        return None
    return values if len(values) == n and all(map(math.isfinite, values)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """Give the first value as a finite number, or None."""
    values = _values(dataset, keyword)
    try:
        value = float(values[0]) if values else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Give the first value as a whole number, or None."""
    value = number(dataset, keyword)
    return None if value is None or value != int(value) else int(value)


def _values(dataset: Dataset, keyword: str) -> list[str] | list[float]:
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return []
    # pydicom's own annotation leaves the raw form out.
    item: DataElement | RawDataElement = dataset.get_item(tag)
    if isinstance(item, RawDataElement):
        return _raw_values(dataset, item)
    return _converted_values(item)


def _converted_values(item: DataElement) -> list[str] | list[float]:
    """Of an element that pydicom, or a test, has made already."""
    value: Any = item.value
    if value is None:
        return []
    many = value if isinstance(value, list | tuple) or item.VM > 1 else [value]
    return [part.strip(_PADDING) for part in "\\".join(str(part) for part in many).split("\\")]


def _raw_values(dataset: Dataset, item: RawDataElement) -> list[str] | list[float]:
    raw = item.value or b""
    vr = item.VR
    if vr in (None, "UN") and dictionary_has_tag(item.tag):
        vr = dictionary_VR(item.tag)
    kind = _BINARY.get((vr or "")[:2])
    if kind:
        dtype = np.dtype(kind).newbyteorder("<" if item.is_little_endian else ">")
        return [
            float(v)
            for v in np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype)
        ]
    return [part.strip(_PADDING) for part in _decoded(dataset, raw).split("\\")]


def _decoded(dataset: Dataset, raw: bytes) -> str:
    if raw.isascii():
        return raw.decode("ascii")
    charsets = (
        dataset.get_item("SpecificCharacterSet") if "SpecificCharacterSet" in dataset else None
    )
    named = charsets.value if charsets is not None else None
    if isinstance(named, bytes):
        named = [part.strip(_PADDING) for part in named.decode("ascii", "replace").split("\\")]
    try:
        return decode_bytes(raw, convert_encodings(named or "utf-8"), set())
    except (LookupError, UnicodeError):
        return raw.decode("latin-1")
