"""What is told of a store by `cohort.io.audit`, and what it holds each name, attribute and codec against."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cohort.io import deidentify, traces
from cohort.io.storage.chunks import CODECS, all_codecs
from cohort.io.traces import masked

DATA_TYPES = re.compile(r"bool|u?int(8|16|32|64)|float(32|64)")

ARRAY_ATTRS = frozenset(
    ("units", "scale_factor", "add_offset", "coordinates", "affine", "spacing_mm", "basis")
)
"""Attributes of arrays: what their numbers mean and where they lie."""

LONGEST_ATTR = 200
"""Characters of the longest attribute; more is free text."""

_TOKEN = r"[a-z2-7]{16}"
_SCAN_ID = rf"sub-{_TOKEN}_ses-(?:\d{{1,3}}|{_TOKEN})_{_TOKEN}"
_PARTICIPANT = rf"{_TOKEN}(?:_(?:\d{{1,3}}|{_TOKEN}))?"
PUBLIC: Mapping[str, re.Pattern[str]] = {
    "scan_id": re.compile(
        rf"{_SCAN_ID}|{_PARTICIPANT}"
    ),  # in a cohort that is only a table, of a person
    "subject": re.compile(_TOKEN),
    "session": re.compile(rf"\d{{1,3}}|{_TOKEN}"),
    "participant": re.compile(_PARTICIPANT),
    "series": re.compile(rf"{_TOKEN}(?:x[0-9a-f]{{8}}(?:file{_TOKEN})?)?|file{_TOKEN}|{_SCAN_ID}"),
}
"""What names look like in a store of tokens: column or folder -> shape."""


@dataclass(frozen=True)
class Finding:
    """Something in a store that should not be there.

    Parameters
    ----------
    kind : str
        ``original`` (an id, UID or path of the operator's table), ``person name``, ``uid``, ``date``, ``e-mail``,
        ``url``, ``path``, ``file name``, ``id`` (not a token in a store of tokens), ``attribute`` (not of the
        allow-list, or free text), ``codec``, ``object`` (bytes that somebody may run), ``unreadable``, ``unlisted`` (voxels that no record
        lists, after a withdrawal).
    file : str
        Name within the store, what was found in it masked.
    where : str
        Key, column and row, or line.
    text : str
        What was found, masked: its ends and its length.
    """

    kind: str
    file: str
    where: str
    text: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind}: {self.text} in {self.file}, {self.where}"


def named(path: PurePosixPath) -> tuple[str, str] | None:
    """Whose name a file carries in a store of tokens: kind and name."""
    stem = re.sub(r"\.(json|zarr|thumbnail)$", "", path.parts[1]) if len(path.parts) > 1 else ""
    match path.parts:
        case ("scans", _, *_):
            return "scan_id", stem
        case ("quarantine", _):
            return "series", stem
        case ("derivatives", _, unit, *_) | ("report", "scans", unit):
            return "scan_id", re.sub(r"\.(json|zarr|html)$", "", unit)
    return None


def json_lines(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, keys too; numbers where they are attributes, as a date may be one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "versions" and isinstance(item, Mapping):
                continue  # 2026.10.0 is a date to the eye
            place = f"{where}.{key}" if where and not where.endswith(" ") else f"{where}{key}"
            yield f"{where or 'top'} key", str(key)
            yield from json_lines(item, place)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from json_lines(item, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value
    elif isinstance(value, int | float) and re.search(r"\battr(ibute)?s\.", where):
        yield where, f"{value:.0f}" if float(value).is_integer() else str(value)


def attributes(name: str, value: Any) -> Iterator[Finding]:
    """Attributes that are not of the allow-list: of a record, of a group, of an array."""
    if not isinstance(value, Mapping):
        return
    if value.get("node_type") == "array":
        attrs, allowed = value.get("attributes"), ARRAY_ATTRS
    else:
        attrs, allowed = value.get("attributes", value.get("attrs")), deidentify.ATTRIBUTES
    for key, item in (attrs or {}).items():
        if key not in allowed:
            yield Finding("attribute", name, f"key {masked(str(key))}", masked(str(item)))
        elif isinstance(item, str) and (
            len(item) > LONGEST_ATTR
            or (allowed is deidentify.ATTRIBUTES and not deidentify.is_word(key, item))
        ):
            yield Finding("attribute", name, f"key {key}", masked(item))


def codecs(name: str, metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Codecs and types that a reader would have to run or unpickle."""
    if metadata.get("zarr_format") != 3:
        yield Finding("codec", name, "zarr_format", str(metadata.get("zarr_format"))[:20])
    if metadata.get("node_type") != "array":
        return
    for codec in all_codecs(metadata["codecs"]):
        if codec["name"] not in CODECS:
            yield Finding("codec", name, "codecs", masked(str(codec["name"])))
    if not DATA_TYPES.fullmatch(str(metadata["data_type"])):
        yield Finding("codec", name, "data_type", masked(str(metadata["data_type"])))
    if metadata.get("storage_transformers"):
        yield Finding("codec", name, "storage_transformers", "not empty")


def are_dates(numbers: np.ndarray) -> bool:
    """Whether every number of a column reads as a date, YYYYMMDD."""
    whole = numbers.astype(float)
    if not whole.size or not np.all((whole > 1.8e7) & (whole < 2.1e7) & (whole % 1 == 0)):
        return False
    return all(any(True for _ in traces.SHAPES["date"].finditer(f"{n:.0f}")) for n in whole[:1000])
