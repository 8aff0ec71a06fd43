"""Members of a tar, plain or compressed with gzip, bzip2 or xz: read forwards, once.

The standard library walks the headers. What it leaves open is closed here: a tar that stops early or goes on as garbage is
damaged, not shorter; headers, sparse members and compressors cannot ask for memory without limit; nothing is read backwards.
"""

import bz2
import io
import lzma
import tarfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from cohort.io.gunzip import Gunzip
from cohort.io.sources.archive_limits import (
    LINK,
    MAX_MEMBERS,
    NOT_REGULAR,
    Found,
    bomb,
    damaged,
    most,
)

MAX_HEADER = 1 << 20
"""Bytes that the header of one member may take, extensions included."""

TAR_BLOCK = 512

GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
"""How compressed files begin."""

_BLOCK = 1 << 20
_XZ_MEMORY = 256 << 20
"""A stream that needs more (``xz -9`` needs 64 MiB) is damaged, or made to do damage."""


class _Source(Protocol):
    def read(self, n: int, /) -> bytes: ...


def taped(stream: BinaryIO, head: bytes, size: int, path: Path) -> Generator[Found]:
    """Files of the tar that stands at its beginning, begins with `head` and has `size` bytes."""
    tape = _Tape(inflated(stream, head), size, path)
    tape.allow(MAX_HEADER)
    tar = tarfile.TarFile(fileobj=tape, mode="r", encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    n = 0
    while True:
        tape.allow(MAX_HEADER)
        info = tar.next()
        tape.allow(None)
        if info is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # of every member it has seen
        n += 1
        if n > MAX_MEMBERS:
            raise bomb(path, f"more than {MAX_MEMBERS:,} members")
        if info.size < 0:
            raise tarfile.ReadError("negative size")
        # A sparse member claims more than there is.
        if info.size > most(size):
            raise bomb(path, f"a member of {info.size:,} bytes from an archive of {size:,}")
        if not info.isdir():
            link = info.issym() or info.islnk()
            reason = LINK if link else None if info.isfile() else NOT_REGULAR
            yield Found(info.name, reason, partial(tar.extractfile, info))
    # tarfile takes whatever is no header for the end, and a compressed stream has its checksum behind it.
    if tape.last != bytes(TAR_BLOCK):
        raise damaged(path, f"it stops, or is damaged, after {n} members")
    while block := tape.read(_BLOCK):
        if block.count(0) < len(block):
            raise damaged(path, f"something follows the end mark after {n} members")


class _Tape:
    """A tar file that is read forwards only, and no further than a ratio and a limit for headers allow.

    Parameters
    ----------
    source : binary file
        Uncompressed bytes; sought in only if it can.
    size : int
        Bytes of the archive.
    path : Path
        Its name, for refusals.
    """

    def __init__(self, source: _Source, size: int, path: Path) -> None:
        self._source, self._path, self._most = source, path, most(size)
        self._at = 0
        self._allowed: int | None = None
        self.last = b""

    def allow(self, n: int | None) -> None:
        """Limit what may be read until the next call; None for no limit but the ratio's."""
        self._allowed = n

    def read(self, n: int) -> bytes:
        if self._allowed is not None:
            if n > self._allowed:
                raise bomb(
                    self._path, f"the header of a member takes more than {MAX_HEADER:,} bytes"
                )
            self._allowed -= n
        pieces: list[bytes] = []
        while n > 0 and (piece := self._source.read(min(n, _BLOCK))):
            pieces.append(piece)
            n -= len(piece)
            self._at += len(piece)
            if self._at > self._most:
                raise bomb(self._path, f"more than {self._most:,} bytes come out of it")
        self.last = b"".join(pieces)
        return self.last

    def seek(self, position: int) -> int:
        if position < self._at:
            raise tarfile.ReadError("a member lies before its header")
        if isinstance(self._source, io.IOBase):
            self._at = self._source.seek(position)
        before, self._allowed = self._allowed, None
        while self._at < position and self.read(min(position - self._at, _BLOCK)):
            pass
        self._allowed = before
        return self._at

    def tell(self) -> int:
        return self._at


def inflated(stream: BinaryIO, head: bytes) -> _Source:
    """Uncompressed bytes of a file that begins with `head` and stands at its beginning."""
    if head.startswith(GZIP):
        return Gunzip(stream)
    if head.startswith(BZIP2):
        return _Inflate(stream, bz2.BZ2Decompressor)
    if head.startswith(XZ):
        return _Inflate(stream, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _XZ_MEMORY))
    return stream


class _Inflate:
    """Uncompressed bytes of a bzip2 or xz file, several streams in a row, in bounded pieces."""

    def __init__(
        self,
        stream: BinaryIO,
        begin: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
    ) -> None:
        self._stream, self._begin, self._state = stream, begin, begin()

    def read(self, n: int) -> bytes:
        """At most `n` bytes; none at the end."""
        while True:
            data = b""
            if self._state.eof:
                # xz may pad with zeros between streams and after the last.
                data = (self._state.unused_data or self._stream.read(_BLOCK)).lstrip(b"\0")
                if not data and not (data := self._stream.read(_BLOCK).lstrip(b"\0")):
                    return b""
                self._state = self._begin()
            elif self._state.needs_input and not (data := self._stream.read(_BLOCK)):
                raise EOFError("the stream stops before its end")
            if piece := self._state.decompress(data, n):
                return piece
