"""Places where sources lie beyond plain folders, and local copies of what lies there.

A file is named by a path: ``/data/a/b.dcm`` in a folder, ``/data/study.zip/series/1.dcm`` in an archive that is a file,
``s3:/bucket/key`` in a bucket, for the URL ``s3://bucket/key``, ``dicomweb:/host/root/studies/...`` on a DICOM node; an archive may lie
in a bucket. Readers see plain local files only: `local` copies the others under names of its own.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from errno import ENOENT, ESTALE
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from cohort.io import patience, scratch
from cohort.io.sources import archives, buckets
from cohort.io.sources.buckets import UrlError, is_object
from cohort.io.sources.dicomweb import address
from cohort.io.sources.dicomweb.address import is_node
from cohort.provenance import file_digest

__all__ = ["UrlError", "check", "from_url", "is_node", "is_object", "local", "opened"]

_SUFFIXES = (".hdr", ".hdr.gz", ".img", ".img.gz")
"""Files of one image that find each other by their names."""

_LOOK, _RANGE = 1 << 16, 4 << 20
"""Bytes a request for an object, to look at its beginning and to read an archive."""

_WORKERS = 8


def from_url(url: str) -> Path:
    """Path that names what a URL leads to: a bucket or what lies in it, or a DICOM node.

    Raises
    ------
    UrlError
        For anything else; see `buckets.from_url` and `dicomweb.address.from_url`.
    """
    if address.is_url(url):
        return address.from_url(url)
    try:
        return buckets.from_url(url)
    except UrlError as error:
        if url.startswith(("http://", "https://")):
            hint = "; a DICOM node is dicomweb://host:port/root, with TLS dicomweb+https://"
            raise UrlError(f"{error}{hint}") from None
        raise


def check(path: Path) -> None:
    """See that a source is there and can be read, at the cost of one request.

    Raises
    ------
    OSError
        FileNotFoundError if there is nothing.
    """
    if is_node(path):
        from cohort.io.sources.dicomweb.node import Node

        Node(address.of(path)).listed("studies", [("limit", "1")])
        return
    if not is_object(path):
        (os.scandir(path) if path.is_dir() else path.open("rb")).close()
        return
    bucket, key = buckets.Bucket(path), buckets.key_of(path)
    if next(bucket.listing(key), None) is None and bucket.head(key) is None:
        raise FileNotFoundError(ENOENT, "no object has this prefix")


def opened(path: Path) -> BinaryIO:
    """Open a file of any place for reading.

    An object is read in ranges, so that a look at its beginning costs one small request. A member of an archive and an instance
    on a node are copied first: of a zip itself only, of a tar everything before it is walked through.

    Raises
    ------
    OSError
        FileNotFoundError if there is no such file, object or member.
    Refused
        If the archive is damaged; see `archives.members`.
    """
    if not is_node(path) and _archive(path) is None:
        return _ranged(path, _LOOK) if is_object(path) else patience.opened(path)
    with local([path]) as (copy,):
        # On POSIX an open file outlives its name.
        return copy.open("rb")


@contextmanager
def local(files: Sequence[Path], *, digests: Sequence[str] = ()) -> Iterator[list[Path]]:
    """Give local files for the time of a ``with``.

    Parameters
    ----------
    files : sequence of Path
        Of one series: each archive is opened once, read forwards, and left after the last member that is wanted.
    digests : sequence of str, optional
        SHA-256 of each: a copy has to have it, because what is far away may be another by now.

    Yields
    ------
    list of Path
        In the same order. A plain local file is itself; of others a copy, in a folder of mode 0700 that goes afterwards,
        with a number for a name (and the ending that a NIfTI header and its voxels find each other by).

    Raises
    ------
    OSError
        FileNotFoundError if an object or a member is not there; ESTALE if a copy has another digest.
    Refused
        If an archive is damaged; see `archives.members`.
    """
    # Files of one folder lie in the same archive or in none.
    one_each = {path.parent: path for path in files}
    archive_of = {f: None if is_node(path) else _archive(path) for f, path in one_each.items()}
    elsewhere = [
        path
        for path in dict.fromkeys(files)
        if is_object(path) or is_node(path) or archive_of[path.parent]
    ]
    if not elsewhere:
        yield list(files)
        return
    with scratch.folder() as folder:
        copies = {path: folder / name for path, name in _names(elsewhere).items()}
        objects: dict[Path, Path] = {}
        members: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
        instances: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
        for path, copy in copies.items():
            if is_node(path):
                series, name = _instance(path)
                instances[series][name] = copy
            elif archive := archive_of[path.parent]:
                members[archive][path.relative_to(archive).as_posix()] = copy
            else:
                objects[path] = copy
        _fetch(objects)
        for archive, wanted in members.items():
            _unpack(archive, wanted)
        for series, wanted in instances.items():
            _retrieve(series, wanted)
        for path, expected in zip(files, digests, strict=bool(digests)):
            if path in copies and file_digest(copies[path]) != expected:
                raise OSError(
                    ESTALE,
                    "it changed after it was indexed; call again, with --rehash if it stays so",
                )
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


def _retrieve(series: Path, wanted: dict[str, Path]) -> None:
    """Copy instances of a series on a node to the files that `wanted` names."""
    # Only whoever reads from a node needs what knows DICOM.
    from cohort.io.sources.dicomweb.node import Node
    from cohort.io.sources.dicomweb.retrieve import fetch

    fetch(Node(address.of(series)), series, wanted)


def _instance(path: Path) -> tuple[Path, str]:
    """Series and name of an instance on a node."""
    found = address.series_of(path)
    if found is None:
        raise FileNotFoundError(ENOENT, "this names no instance on a DICOM node")
    return found


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
    with _ranged(archive, _RANGE) if is_object(archive) else patience.opened(archive) as stream:
        for member in archives.members(stream, archive, wanted=wanted):
            if member.stream is not None:
                with wanted[member.label].open("xb") as copy:
                    shutil.copyfileobj(member.stream, copy)
                left.remove(member.label)
    if left:
        raise FileNotFoundError(ENOENT, "no such member in the archive")
