"""Every file under the sources, in order, with what is in it: sniffed, parsed as far as its header, digested.

Content decides, never a name. An unchanged file costs one ``stat``.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import UID

from cohort.io import dicom_header, nifti_header
from cohort.io.filecache import UNREADABLE, Entry, FileCache
from cohort.io.refusal import Refused

_HEAD = 4096
_BLOCK = 1 << 20
_WORKERS = 4
_BATCH = 256
"""Files under way at a time: bounds memory, whatever the size of the tree."""


class SourceError(ValueError):
    """A source that does not exist or cannot be read."""


def examined(
    sources: Sequence[Path], known: FileCache, *, rehash: bool
) -> Iterator[tuple[Path, str, Entry]]:
    """Walk the sources and examine each file once, in parallel, a bounded batch at a time.

    Parameters
    ----------
    sources : sequence of Path
        Folders or single files.
    known : FileCache
        What earlier walks have seen; updated.
    rehash : bool
        Examine every file although the cache knows it.

    Yields
    ------
    path : Path
    relative : str
        POSIX path under its source.
    entry : Entry

    Raises
    ------
    SourceError
        If a source does not exist or cannot be read.
    """
    files = (item for source in dict.fromkeys(sources) for item in _walk(source))
    seen: set[Path] = set()
    with ThreadPoolExecutor(_WORKERS) as pool:
        while batch := list(islice(files, _BATCH)):
            states = [_state(path) for path, _, _ in batch]
            entries = [
                Entry(reason=reason or UNREADABLE)
                if reason or state is None
                else None
                if rehash
                else known.get(path, state)
                for (path, _, reason), state in zip(batch, states, strict=True)
            ]
            fresh = {
                i: pool.submit(examine, batch[i][0])
                for i, entry in enumerate(entries)
                if entry is None
            }
            for i, (path, relative, _) in enumerate(batch):
                entry = entries[i]
                if entry is None:
                    entry = fresh[i].result()
                    if (state := states[i]) is not None:
                        known.put(path, state, entry)
                if path not in seen:
                    seen.add(path)
                    yield path, relative, entry


def _walk(source: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Files under a source in the order of their names, depth first, and why one cannot be examined."""
    try:
        root = source.resolve(strict=True)
        if not root.is_dir():
            with root.open("rb"):
                yield root, root.name, None
            return
        folders = [_entries(root)]
    except OSError as error:
        raise SourceError(f"source {source} cannot be read: {error.strerror or error}") from error
    while folders:
        if not folders[-1]:
            folders.pop()
            continue
        path = folders[-1].pop()
        relative = path.relative_to(root).as_posix()
        state = _state(path)
        mode = 0 if state is None else state.st_mode
        if state is None:
            yield path, relative, UNREADABLE
        elif stat.S_ISDIR(mode):
            try:
                folders.append(_entries(path))
            except OSError:
                yield path, relative, UNREADABLE
        elif stat.S_ISLNK(mode):
            yield path, relative, "symbolic link"
        else:
            yield path, relative, None if stat.S_ISREG(mode) else "not a regular file"


def _state(path: Path) -> os.stat_result | None:
    """What the file system says of a file; None if it says nothing (no right to look, an error, just removed)."""
    try:
        return path.lstat()
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    """Content of a folder, the first name last."""
    with os.scandir(folder) as entries:
        return sorted((Path(entry.path) for entry in entries), reverse=True)


def examine(path: Path) -> Entry:
    """Sniff, parse the header of, and digest one file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
            stream.seek(0)
            if dicom_header.is_dicom(head):
                return _examine_dicom(stream, path)
            if nifti_header.is_nifti(head):
                return Entry(kind="nifti", digest=digest(stream), pair=nifti_header.is_pair(head))
            return Entry(reason=_what(head))
    except OSError:
        return Entry(reason=UNREADABLE)


def _examine_dicom(stream: BinaryIO, path: Path) -> Entry:
    try:
        header = dicom_header.parse_header(stream, path)
    except Refused as refused:
        if isinstance(refused.__cause__, OSError):
            raise refused.__cause__ from None
        return Entry(refusal=(refused.code, refused.what, refused.fix))
    if header is None:
        return Entry(reason="not an image")
    if reason := _no_image(header):
        return Entry(reason=reason)
    if not header["rows"] or not header["pixel_offset"]:
        what, fix = (
            "no image in {0}: Rows or PixelData is missing",
            "copy the file again from its source.",
        )
        return Entry(refusal=("DCM-HEADER", what, fix))
    stream.seek(0)
    key = dicom_header.group_key(header)
    return Entry(
        kind="dicom", digest=digest(stream), key=key, series_number=header["series_number"]
    )


def digest(stream: BinaryIO) -> str:
    """SHA-256 of what is left of a stream."""
    state = hashlib.sha256()
    while block := stream.read(_BLOCK):
        state.update(block)
    return state.hexdigest()


def _what(head: bytes) -> str:
    """Say what a file is that is no image."""
    if not head:
        return "empty file"
    if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf")) or head[257:262] == b"ustar":
        return "archive"
    if head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and len(head) >= 348:
        return "Analyze 7.5 (no orientation)"
    return "not an image"


def _no_image(header: dicom_header.Header) -> str | None:
    """Why a DICOM file holds no image; None if it should."""
    if header["sop_class"] == dicom_header.DIRECTORY:
        return "DICOMDIR"
    if (
        header["sop_class"] in dicom_header.SINGLE_FRAME + dicom_header.MULTI_FRAME
        or header["rows"]
    ):
        return None
    uid = UID(header["sop_class"])
    # The dictionary's name, never what the file wrote.
    return f"no pixels ({uid.name})" if uid.name != uid else "no pixels"
