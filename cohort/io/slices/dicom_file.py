"""A DICOM file as raw elements up to its pixels, whatever wraps them: preamble, file meta information, compression.

Nothing is converted here and no pixel is read. A deflated file is inflated as far as it is read, and no farther than
a limit: 0.4 MB of it can stand for gigabytes.
"""

import logging
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag

from cohort.io import patience
from cohort.io.refusal import Refused
from cohort.io.slices.elements import Counted
from cohort.io.slices.skim import NotPlainError, skim

# What pydicom says of a damaged header quotes it, names and all: it must reach no log.
logging.getLogger("pydicom").propagate = False

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"

INFLATED_BYTES = 1 << 30
"""A deflated file may always grow to this size ..."""

INFLATED_TIMES = 50
"""... or to so many times its own."""

_ELEMENT_BYTES = 64 << 20
"""A longer element is no header; its value is left out."""

_MOST_ELEMENTS = 100_000
"""Before the pixels, without those in sequences (`elements.MOST_ELEMENTS`)."""

_FIRST_VRS = frozenset(b"UL UI CS OB DA TM SH LO ST".split())
"""What a file without preamble begins with."""

_TRANSFER_SYNTAX, _MEDIA_CLASS = 0x00020010, 0x00020002

_CHARACTER_SET = 0x00080005
_CHARACTER_SETS_BYTES = 1024

_FLOATS, _PIXELS = (0x7FE00008, 0x7FE00009), 0x7FE00010
_TO_PIXELS = range(_FLOATS[0], _PIXELS + 1)
_GROUP_2 = 0x00020000
_AFTER_META = range(_GROUP_2 + 0x10000, 1 << 32)

_HEAD = 1 << 16
"""Bytes read at once."""

_BLOCK = 1 << 20
"""Bytes read or inflated at a time."""


@dataclass(frozen=True)
class Parsed:
    """What stands before the pixels of a file.

    Parameters
    ----------
    elements : dict of tag -> element
        Those that were asked for, as they stand in the file.
    syntax : str
        Transfer syntax.
    sop_class : str
        As the file meta information says, "" without.
    has_meta : bool
        Whether somebody says how the data set is encoded; otherwise that is guessed from its first element.
    pixel_offset, pixel_bytes : int
        Of the value of PixelData; 0 if there is none. In a deflated file the offset counts inflated bytes.
    are_floats : bool
        Whether the pixels are FloatPixelData or DoubleFloatPixelData.
    """

    elements: dict[int, RawDataElement | DataElement]
    syntax: str
    sop_class: str
    has_meta: bool
    pixel_offset: int
    pixel_bytes: int
    are_floats: bool = False


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM; preamble and meta may be missing."""
    if head[128:132] == b"DICM":
        return True
    group = head[:2]
    if group in (b"\x02\0", b"\x08\0", b"\0\x08") and head[4:6] in _FIRST_VRS:
        return True
    return group == b"\x08\0" and _is_implicit(head)


def _is_implicit(head: bytes) -> bool:
    """Whether two elements of group 0008 follow each other as they do in implicit VR."""
    size = int.from_bytes(head[4:8], "little")
    second = head[8 + size : 12 + size]
    ascending = second[2:4][::-1] > head[2:4][::-1]
    return size % 2 == 0 and second[:2] == b"\x08\0" and ascending


def parse(stream: BinaryIO, path: Path, *, tags: Sequence[int] | None = None) -> Parsed | None:
    """Read the elements before the pixels.

    Parameters
    ----------
    stream : binary file
        At its beginning, seekable.
    path : Path
        Its name, for messages.
    tags : sequence of int, optional
        Wanted at the top level; default all.

    Returns
    -------
    Parsed
        None if the file is not DICOM.

    Raises
    ------
    Refused
        ``DCM-BOMB`` if it inflates beyond its limit.

    Notes
    -----
    Where the transfer syntax and the first element disagree about explicit value representations, the element is
    right (as in pydicom). A damaged file makes pydicom raise almost anything.
    """
    head = stream.read(_HEAD)
    if not is_dicom(head):
        return None
    # Most headers are plain, most fit in here; a cut one makes pydicom raise anything.
    with suppress(NotPlainError):
        return _plain(head, tags)
    with suppress(Exception):
        parsed = _parse(BytesIO(head), path, tags)
        if parsed.pixel_offset:
            return parsed
    stream.seek(0)
    return _parse(stream, path, tags)


def _plain(head: bytes, tags: Sequence[int] | None) -> Parsed:
    """`_parse` for a file whose plain header lies in `head`. Raises `NotPlainError`."""
    meta = skim(head, _start(head), implicit=False, stop=_AFTER_META)
    syntax, sop_class = (_uid(meta.elements.get(tag)) for tag in (_TRANSFER_SYNTAX, _MEDIA_CLASS))
    encoding = _encoding(head[meta.place : meta.place + 6], syntax)
    if (
        syntax == DEFLATED
        or encoding == BIG_ENDIAN
        or min(meta.elements, default=_GROUP_2) < _GROUP_2
    ):
        raise NotPlainError
    wanted = None if tags is None else {_CHARACTER_SET, *tags}
    found = skim(head, meta.place, implicit=encoding == IMPLICIT, stop=_TO_PIXELS, tags=wanted)
    character_set = found.elements.get(_CHARACTER_SET)
    if (
        found.tag != _PIXELS
        or (found.vr is None and encoding == EXPLICIT)
        or (character_set and not 0 < character_set.length <= _CHARACTER_SETS_BYTES)
    ):
        raise NotPlainError
    elements = cast(dict[int, RawDataElement | DataElement], found.elements)
    return Parsed(
        elements, syntax or encoding, sop_class, bool(syntax), found.value_at, found.length
    )


def _start(head: bytes) -> int:
    """Where the file meta information begins, or without it the data set."""
    return 132 if head[128:132] == b"DICM" else 0


def _encoding(first: bytes, syntax: str) -> str:
    """How a data set is encoded that begins with `first`, one of the syntaxes that are not compressed."""
    if syntax == BIG_ENDIAN or (not syntax and first[:1] == b"\0"):
        return BIG_ENDIAN
    return EXPLICIT if first[4:6].isalpha() and first[4:6].isupper() else IMPLICIT


def _parse(stream: BinaryIO, path: Path, tags: Sequence[int] | None) -> Parsed:
    stream.seek(_start(stream.read(132)))
    meta = {int(e.tag): e for e in _elements(stream, EXPLICIT, _after_meta)}
    syntax, sop_class = (_uid(meta.get(tag)) for tag in (_TRANSFER_SYNTAX, _MEDIA_CLASS))
    whole = cast(BinaryIO, _Inflated(stream, path)) if syntax == DEFLATED else stream
    data = cast(BinaryIO, Counted(whole))
    start = data.tell()
    first = data.read(6)
    data.seek(start)
    encoding = _encoding(first, syntax)
    at_pixels = _AtPixels(data)
    elements = {int(e.tag): e for e in _data_elements(data, encoding, at_pixels, tags)}
    return Parsed(
        elements,
        syntax or encoding,
        sop_class,
        bool(syntax),
        at_pixels.offset,
        at_pixels.length,
        at_pixels.are_floats,
    )


def open_data(path: Path, syntax: str) -> BinaryIO:
    """Open a file so that offsets of its data set count as in `Parsed`."""
    if syntax != DEFLATED:
        return patience.opened(path)
    with patience.opened(path) as whole:
        stream = BytesIO(whole.read())
    stream.seek(_start(stream.read(132)))
    deque(_elements(stream, EXPLICIT, _after_meta), maxlen=0)
    return cast(BinaryIO, _Inflated(stream, path))


def _elements(
    stream: BinaryIO,
    encoding: str,
    stop: Callable[[BaseTag, str | None, int], bool],
    tags: Sequence[int] | None = None,
) -> Iterator[RawDataElement | DataElement]:
    return data_element_generator(
        stream,
        is_implicit_VR=encoding == IMPLICIT,
        is_little_endian=encoding != BIG_ENDIAN,
        stop_when=stop,
        defer_size=_ELEMENT_BYTES,
        specific_tags=None if tags is None else list(tags),
    )


def _data_elements(
    stream: BinaryIO, encoding: str, stop: "_AtPixels", tags: Sequence[int] | None
) -> Iterator[RawDataElement | DataElement]:
    """Elements up to the pixels. pydicom, which warns in the words of the file, does not see the character set."""
    yield from _elements(stream, encoding, stop, tags)
    while (found := stop.taken()) is not None:
        place, vr, length = found
        stream.seek(place)
        value = stream.read(min(length, _CHARACTER_SETS_BYTES))
        stream.seek(place + length)
        yield RawDataElement(
            BaseTag(_CHARACTER_SET),
            vr,
            length,
            value,
            place,
            encoding == IMPLICIT,
            encoding != BIG_ENDIAN,
        )
        yield from _elements(stream, encoding, stop, tags)


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != 2


def _uid(element: RawDataElement | DataElement | None) -> str:
    value = element.value if element is not None else None
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


class _AtPixels:
    """Stops a parser at the pixels, and at a character set on the way, and remembers where they are."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.offset = self.length = self._seen = 0
        self.are_floats = False
        self._character_set: tuple[int, str | None, int] | None = None

    def taken(self) -> tuple[int, str | None, int] | None:
        """Place, VR and length of the character set that stopped the parser; None if something else did."""
        found, self._character_set = self._character_set, None
        return found

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        # A plain number: comparing a BaseTag takes ten times as long.
        number = int(tag)
        self._seen += 1
        if self._seen > _MOST_ELEMENTS:
            raise ValueError("a header without end")
        if number == _CHARACTER_SET:
            self._character_set = self._stream.tell(), vr, length
            return True
        if number == _PIXELS:
            self.offset, self.length = self._stream.tell(), length
        self.are_floats = number in _FLOATS
        return number in _TO_PIXELS


class _Inflated(RawIOBase):
    """The rest of a deflated file, inflated as far as somebody has read; of that, only the last part is kept."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._source, self._path = stream, path
        self._start = stream.tell()
        self._size = stream.seek(0, os.SEEK_END)
        self._limit = max(INFLATED_BYTES, INFLATED_TIMES * self._size)
        self._position = 0
        self._restart()

    def read(self, size: int = -1, /) -> bytes:
        if self._position < self._base:
            self._restart()
        end = self._limit + 1 if size < 0 else self._position + size
        self._inflate(end)
        data = bytes(self._kept[self._position - self._base : end - self._base])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _restart(self) -> None:
        self._source.seek(self._start)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._kept = bytearray()
        self._base = 0
        """Inflated bytes before those kept."""

    def _inflate(self, end: int) -> None:
        """Have the bytes from the position to `end` at hand, or all there are."""
        while self._base + len(self._kept) < end and not self._inflater.eof:
            if self._base + len(self._kept) > self._limit:
                raise Refused(
                    "DCM-BOMB",
                    f"{self._size} deflated bytes grow to more than {self._limit}, the most that is read, in {{0}}",
                    fix="store the series uncompressed, for example with dcmconv or gdcmconv.",
                    files=[self._path],
                )
            block = self._inflater.unconsumed_tail or self._source.read(_BLOCK)
            if not block:
                return
            self._kept += self._inflater.decompress(block, _BLOCK)
            passed = min(self._position - self._base - _BLOCK, len(self._kept))
            if passed > 0:
                del self._kept[:passed]
                self._base += passed
