"""Every file under the sources with what is in it: folders, archives, buckets, DICOM nodes. An unchanged file costs one ``stat``."""

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from cohort.io import patience
from cohort.io.patience import patiently
from cohort.io.sources import archives, content
from cohort.io.sources.archive_limits import LINK, NOT_REGULAR
from cohort.io.sources.buckets import Bucket, Object, is_object, key_of
from cohort.io.sources.dicomweb import address, listing, retrieve
from cohort.io.sources.dicomweb.node import BadAnswer, Node
from cohort.io.sources.filecache import ARCHIVE, UNREADABLE, Entry, FileCache, State
from cohort.io.storage.backend import Unreachable

_LOCAL, _REMOTE = (4, 16), (16, 1)
"""Threads, and files that one takes at a time. An object store answers late, and many at a time."""

_BATCH = 256
"""Files under way at a time: bounds memory, whatever the size of the tree."""


class SourceError(ValueError):
    """A source that does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A file, an object or a series on a node that was met on the way, and why it is not to be looked into."""

    path: Path
    relative: str
    state: State = ""
    reason: str | None = None
    bucket: Bucket | None = None
    found: Object | None = None
    node: Node | None = None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes, forward only."""
        if self.bucket is not None and self.found is not None:
            with self.bucket.opened(self.found.key, etag=self.found.etag) as stream:
                yield stream
        else:
            with patience.opened(self.path) as stream:
                yield stream

    def look(self) -> Entry:
        """What is in it; of an archive and of a series on a node, only that it is one."""
        if self.reason:
            return Entry(reason=self.reason)
        if self.node is not None:
            return Entry(kind=ARCHIVE)
        try:
            if self.bucket is None:
                return content.look(self.path)
            with self.opened() as stream:
                return content.look_at(stream, self.path)
        except Unreachable:
            raise  # it is nothing of this object, and the next would meet it too
        except OSError:
            return Entry(reason=UNREADABLE)


def examined(
    sources: Sequence[Path], known: FileCache, *, rehash: bool
) -> Iterator[tuple[Path, str, Entry]]:
    """Walk the sources and examine each file, in parallel, a bounded batch at a time.

    Parameters
    ----------
    sources : sequence of Path
        Folders, single files, archives, buckets or prefixes in them, DICOM nodes.
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
        An archive is not given, but each of its members; nor is a series on a node, unless it cannot be had. A file
        under two sources is given twice.

    Raises
    ------
    SourceError
        If a source does not exist or cannot be read.
    Unreachable
        If a bucket or a DICOM node stops answering. What was read of it is remembered.
    """
    for source in dict.fromkeys(sources):
        items = _items(source)
        workers, share = _REMOTE if is_object(source) else _LOCAL
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(items, _BATCH)):
                states = [(item.path, item.state) for item in batch]
                entries = [None] * len(batch) if rehash else known.get_all(states)
                fresh = [i for i, entry in zip(batch, entries, strict=True) if entry is None]
                shares = [fresh[n : n + share] for n in range(0, len(fresh), share)]
                found = (entry for part in pool.map(_look, shares) for entry in part)
                for item, entry in zip(batch, entries, strict=True):
                    yield from _ends(item, entry or next(found), known, fresh=entry is None)
                known.commit()


def _look(items: Sequence[_Item]) -> list[Entry]:
    return [item.look() for item in items]


def _ends(
    item: _Item, entry: Entry, known: FileCache, *, fresh: bool
) -> Iterator[tuple[Path, str, Entry]]:
    """What an item ends as, remembered: a file as itself, an archive as its members."""
    if entry.kind == ARCHIVE:
        yield from _members(item, known, read=fresh)
        return
    if fresh and not item.reason:
        known.put(item.path, item.state, entry)
    yield _whole(item, entry)


def _whole(item: _Item, entry: Entry) -> tuple[Path, str, Entry]:
    """An item that ends as one: a file, or an archive that is refused, maybe for one of its members."""
    if not entry.member:
        return item.path, item.relative, entry
    return item.path / entry.member, f"{item.relative}/{entry.member}", entry


def _members(item: _Item, known: FileCache, *, read: bool) -> Iterator[tuple[Path, str, Entry]]:
    """Members of an archive, or the archive itself if it is refused or holds nothing."""
    if read:
        try:
            entry = _read_archive(item, known)
        except Unreachable:
            raise  # it is nothing of this archive or series, and the next would meet it too
        except BadAnswer as error:
            entry = Entry(reason=UNREADABLE, refusal=_no_use(error))
        except OSError:
            entry = Entry(reason=UNREADABLE)
        if entry.kind != ARCHIVE:
            yield _whole(item, entry)
            return
    empty = True
    for label, entry in known.members(item.path):
        empty = False
        yield item.path / label, f"{item.relative}/{label}", entry
    if empty:
        yield item.path, item.relative, Entry(reason="empty archive")


def _read_archive(item: _Item, known: FileCache) -> Entry:
    if item.node is not None:
        return known.put_archive(item.path, item.state, retrieve.members(item.node, item.path))
    with item.opened() as stream, tempfile.TemporaryFile() as copy:
        if item.bucket is not None:  # an archive is read back and forth
            for block in iter(lambda: stream.read(1 << 20), b""):
                copy.write(block)
            stream = cast(BinaryIO, copy)
        members = archives.members(stream, item.path)
        return known.put_archive(
            item.path, item.state, ((m.label, _member(m, item.path)) for m in members)
        )


def _member(member: archives.Member, archive: Path) -> Entry:
    if member.stream is None:
        return Entry(reason=member.reason)
    entry = content.look_at(member.stream, archive / member.label)
    return Entry(reason=content.NESTED) if entry.kind == ARCHIVE else entry


def _items(source: Path) -> Iterator[_Item]:
    if address.is_node(source):
        return _node_items(source)
    return _bucket_items(source) if is_object(source) else _local_items(source)


def _local_items(source: Path) -> Iterator[_Item]:
    """Files under a source, in the order in which the file system lists them, links not followed."""
    try:
        root = source.resolve(strict=True)
        if not root.is_dir():
            with root.open("rb"):
                yield _Item(root, root.name, root.lstat())
            return
    except OSError as error:
        raise _cannot_be_read(source, error) from error
    start = len(os.path.join(root, ""))  # noqa: PTH118 - the length of a prefix
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield _local_item(entry, start)
        except OSError as error:
            if folder == str(root):
                raise _cannot_be_read(source, error) from error
            yield _Item(Path(folder), folder[start:], reason=UNREADABLE)


def _local_item(entry: "os.DirEntry[str]", start: int) -> _Item:
    path, relative = Path(entry.path), entry.path[start:]
    try:
        state = patiently(lambda: entry.stat(follow_symlinks=False))
    except OSError:
        return _Item(path, relative, reason=UNREADABLE)
    if stat.S_ISREG(state.st_mode):
        return _Item(path, relative, state)
    return _Item(path, relative, reason=LINK if stat.S_ISLNK(state.st_mode) else NOT_REGULAR)


def _bucket_items(source: Path) -> Iterator[_Item]:
    """Objects under a source, or the one object that it names."""
    prefix = key_of(source)
    start = len(prefix) + 1 if prefix else 0
    try:
        bucket = Bucket(source)
        nothing = True
        for found in bucket.listing(prefix):
            nothing = False
            relative = found.key[start:] or source.name
            yield _Item(bucket.path(found), relative, found.state, bucket=bucket, found=found)
        if nothing:
            one = bucket.head(prefix)
            if one is None:
                raise SourceError(f"source {source} cannot be read: no object has this prefix")
            yield _Item(source, source.name, one.state, bucket=bucket, found=one)
    except OSError as error:
        raise _cannot_be_read(source, error) from error


def _node_items(source: Path) -> Iterator[_Item]:
    """Series that a node lists."""
    node = Node(address.of(source))
    try:
        listed = listing.all_series(node)
    except BadAnswer as error:
        raise _cannot_be_read(source, error) from error
    for one in listed:
        path = node.address.series_path(one.study, one.series)
        yield _Item(path, "/".join(address.below_root(path)), one.state, node=node)


def _no_use(error: BadAnswer) -> tuple[str, str, str]:
    fix = "the next call asks again; `cohort doctor` tells what works on a node"
    return "WEB-SERIES", f"a DICOM node does not give {{0}}: {error}", fix


def _cannot_be_read(source: Path, error: OSError) -> SourceError:
    return SourceError(f"source {source} cannot be read: {error.strerror or error}")
