"""Members of a zip, through its directory: none is decompressed that is not asked for."""

import io
import stat
import zipfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from cohort.io.refusal import Refused
from cohort.io.sources.archive_limits import (
    LINK,
    MAX_MEMBERS,
    NOT_REGULAR,
    Found,
    bomb,
    damaged,
    most,
)

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins; the second has no member."""

MAX_DIRECTORY = 256 << 20
"""Bytes of the directory."""

_LOCAL, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LOCATOR, _END_64 = b"PK\x06\x07", b"PK\x06\x06"
_END_BYTES, _LOCATOR_BYTES, _END_64_BYTES = 22, 20, 56
"""Of the records at the end of a zip (APPNOTE 4.3.14 to 4.3.16)."""


def zipped(stream: BinaryIO, size: int, path: Path) -> Generator[Found]:
    """Files of the zip of `size` bytes."""
    _check_directory(stream, size, path)
    with _opened(stream) as archive:
        infos = archive.infolist()
        if infos and (first := min(info.header_offset for info in infos)):
            raise damaged(path, f"its directory passes over the first {first:,} bytes")
        if encrypted := sum(info.flag_bits & 1 for info in infos):
            raise Refused(
                "ARC-ENCRYPTED",
                f"{encrypted} of {len(infos)} members are encrypted in {{0}}",
                fix="unpack it with its password and put the files in its place.",
                files=[path],
            )
        if (total := sum(info.file_size for info in infos)) > most(size):
            raise bomb(path, f"{total:,} bytes from an archive of {size:,}")
        for info in infos:
            # The name as it stands: `filename` ends at a NUL. What has content is no folder, whatever its name.
            name = info.orig_filename
            if name.endswith("/") and not info.file_size:
                continue
            if info.file_size > most(info.compress_size):
                raise bomb(
                    path, f"a member of {info.file_size:,} bytes from {info.compress_size:,}"
                )
            # Unix writes the kind of file into the upper half; others leave it empty.
            kind = stat.S_IFMT(info.external_attr >> 16)
            reason = None
            if kind not in (0, stat.S_IFREG):
                reason = LINK if kind == stat.S_IFLNK else NOT_REGULAR
            yield Found(name, reason, partial(_unzipped, archive, info, path))


def _opened(stream: BinaryIO) -> zipfile.ZipFile:
    """The archive; an error of the disk stays one, though zipfile says that such a file is no zip."""
    told = _Telling(stream)
    try:
        return zipfile.ZipFile(cast(IO[bytes], told))
    except zipfile.BadZipFile as error:
        if told.error is not None:
            raise told.error from error
        raise


class _Telling:
    """What zipfile needs of a stream, which remembers for what error it failed last."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def read(self, n: int = -1) -> bytes:
        try:
            return self._stream.read(n)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._stream.seek(offset, whence)
        except OSError as error:
            self.error = error
            raise

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    try:
        return archive.open(info)
    except NotImplementedError as error:
        raise Refused(
            "ARC-METHOD",
            f"members compressed by method {info.compress_type}, which Python does not read, in {{0}}",
            fix="unpack it and pack it again, or put the files in its place.",
            files=[path],
        ) from error


def _check_directory(stream: BinaryIO, size: int, path: Path) -> None:
    """Refuse a directory that is not the one of the whole file, or would fill the memory: zipfile reads it whole.

    The last directory in a file may be that of a zip inside it, or behind it: what begins as a zip is described from its
    first byte on, or a part of it would be passed over without a word.
    """
    tail_size = min(size, (1 << 16) + _END_BYTES + _LOCATOR_BYTES + _END_64_BYTES)
    stream.seek(size - tail_size)
    tail = stream.read(tail_size)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_BYTES:
        raise damaged(path, "its directory is missing")
    comment = int.from_bytes(tail[at + 20 : at + 22], "little")
    if _LOCAL in tail[at + _END_BYTES + comment :]:
        raise damaged(path, "more members follow behind its directory")
    directory, offset = (int.from_bytes(tail[at + n : at + n + 4], "little") for n in (12, 16))
    before = max(0, at - _LOCATOR_BYTES - _END_64_BYTES)
    if tail[max(0, at - _LOCATOR_BYTES) : at].startswith(_LOCATOR) and tail.startswith(
        _END_64, before
    ):
        at = before
        directory, offset = (int.from_bytes(tail[at + n : at + n + 8], "little") for n in (40, 48))
    if directory > MAX_DIRECTORY:
        raise bomb(path, f"a directory of {directory:,} bytes")
    end = size - tail_size + at
    if end != offset + directory:
        raise damaged(
            path,
            f"its last directory ends at byte {end:,} and says {offset + directory:,}, so that it is of another archive",
        )
    stream.seek(offset)
    if stream.read(directory).count(_ENTRY) > MAX_MEMBERS:
        raise bomb(path, f"more than {MAX_MEMBERS:,} members")
    stream.seek(0)
