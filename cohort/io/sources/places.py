"""Places where sources lie beyond plain folders, and local copies of what lies there.

A file is named by a path: ``/data/a/b.dcm`` in a folder, ``/data/study.zip/series/1.dcm`` in an archive that is a file,
``s3:/bucket/key`` in a bucket, for the URL ``s3://bucket/key``; an archive may lie in a bucket. Readers see plain local files only:
`local` copies the others under names of its own.
"""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from errno import ENOENT
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from cohort.io.sources import archives, buckets
from cohort.io.sources.buckets import UrlError, from_url, is_object

__all__ = ["UrlError", "check", "from_url", "is_object", "local", "opened"]

_SUFFIXES = (".hdr", ".hdr.gz", ".img", ".img.gz")
"""Files of one image that find each other by their names."""

_LOOK, _RANGE = 1 << 16, 4 << 20
"""Bytes a request for an object, to look at its beginning and to read an archive."""

_WORKERS = 8


def check(path: Path) -> None:
    """See that a source is there and can be read, at the cost of one request.

    Raises
    ------
    OSError
        FileNotFoundError if there is nothing.
    """
    if not is_object(path):
        (os.scandir(path) if path.is_dir() else path.open("rb")).close()
        return
    bucket, key = buckets.Bucket(path), buckets.key_of(path)
    if next(bucket.listing(key), None) is None and bucket.head(key) is None:
        raise FileNotFoundError(ENOENT, "no object has this prefix")


def opened(path: Path) -> BinaryIO:
    """Open a file of any place for reading.

    An object is read in ranges, so that a look at its beginning costs one small request. A member of an archive is
    copied first: of a zip itself only, of a tar everything before it is walked through.

    Raises
    ------
    OSError
        FileNotFoundError if there is no such file, object or member.
    Refused
        If the archive is damaged; see `archives.members`.
    """
    if _archive(path) is None:
        return _ranged(path, _LOOK) if is_object(path) else path.open("rb")
    with local([path]) as (copy,):
        # On POSIX an open file outlives its name.
        return copy.open("rb")


@contextmanager
def local(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Give local files for the time of a ``with``.

    Parameters
    ----------
    files : sequence of Path
        Of one series: each archive is opened once, read forwards, and left after the last member that is wanted.

    Yields
    ------
    list of Path
        In the same order. A plain local file is itself; of others a copy, in a folder of mode 0700 that goes afterwards,
        with a number for a name (and the ending that a NIfTI header and its voxels find each other by).

    Raises
    ------
    OSError
        FileNotFoundError if an object or a member is not there.
    Refused
        If an archive is damaged; see `archives.members`.
    """
    # Files of one folder lie in the same archive or in none.
    one_each = {path.parent: path for path in files}
    archive_of = {folder: _archive(path) for folder, path in one_each.items()}
    elsewhere = [
        path for path in dict.fromkeys(files) if is_object(path) or archive_of[path.parent]
    ]
    if not elsewhere:
        yield list(files)
        return
    with tempfile.TemporaryDirectory(prefix="cohort-") as folder:
        copies = {path: Path(folder, name) for path, name in _names(elsewhere).items()}
        objects: dict[Path, Path] = {}
        members: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
        for path, copy in copies.items():
            if archive := archive_of[path.parent]:
                members[archive][path.relative_to(archive).as_posix()] = copy
            else:
                objects[path] = copy
        _fetch(objects)
        for archive, wanted in members.items():
            _unpack(archive, wanted)
        yield [copies.get(path, path) for path in files]


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """Names for copies: a number for each file, the same for the files of one image."""
    numbers: dict[Path, int] = {}
    names = {}
    for path in files:
        suffix = next((end for end in _SUFFIXES if path.name.endswith(end)), "")
        stem = path.with_name(f"{path.name.removesuffix(suffix)}.") if suffix else path
        names[path] = f"{numbers.setdefault(stem, len(numbers)):06d}{suffix}"
    return names


def _archive(path: Path) -> Path | None:
    """The file above a path that is no file itself; None if there is none."""
    if is_object(path):
        bucket = buckets.Bucket(path)
        candidates = [place for place in (path, *path.parents) if buckets.key_of(place)]
        found = next((place for place in candidates if bucket.head(buckets.key_of(place))), path)
    else:
        found = next((place for place in path.parents if place.exists()), path)
        if not found.is_file():
            return None
    return None if found == path else found


def _ranged(path: Path, size: int) -> BinaryIO:
    """An object, read `size` bytes at a time."""
    bucket = buckets.Bucket(path)
    found = bucket.head(buckets.key_of(path))
    if found is None:
        raise FileNotFoundError(ENOENT, "no such object")
    return BufferedReader(buckets.RangedFile(bucket, found), size)


def _fetch(copies: dict[Path, Path]) -> None:
    """Copy objects."""
    connected = {path.parts[:2]: buckets.Bucket(path) for path in copies}

    def fetch(path: Path) -> None:
        with (
            connected[path.parts[:2]].opened(buckets.key_of(path)) as stream,
            copies[path].open("xb") as copy,
        ):
            shutil.copyfileobj(stream, copy)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(fetch, copies):
            pass


def _unpack(archive: Path, wanted: dict[str, Path]) -> None:
    """Copy members of an archive to the files that `wanted` names."""
    left = set(wanted)
    with _ranged(archive, _RANGE) if is_object(archive) else archive.open("rb") as stream:
        for member in archives.members(stream, archive, wanted=wanted):
            if member.stream is not None:
                with wanted[member.label].open("xb") as copy:
                    shutil.copyfileobj(member.stream, copy)
                left.remove(member.label)
    if left:
        raise FileNotFoundError(ENOENT, "no such member in the archive")
