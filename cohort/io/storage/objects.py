"""The files of a store that is a bucket: ``s3://bucket/prefix``.

What makes a group be there is its record, as on a disk: the record is removed first, chunks are put under their names,
and the record is created last by a conditional put. An object is put whole or not at all, so nothing is staged there.
Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ...) of each process, never from a catalog, and are never written or sent.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cohort.io import scratch
from cohort.io.sources.buckets import from_url
from cohort.io.storage import lock
from cohort.io.storage.backend import Log
from cohort.io.storage.s3 import Bucket, connect

if TYPE_CHECKING:
    from zarr.storage import StorePath

Item = TypeVar("Item")
Result = TypeVar("Result")

PARALLEL = 8
"""Requests under way at a time: a request waits for the network, not for us."""

FLUSH_S = 5.0
"""A log's new lines are put at most this often: an object cannot grow, so each time is an object of its own."""


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of the URL of a store.

    Returns
    -------
    bucket, prefix : str
        The prefix without slashes at its ends; empty for a whole bucket.

    Raises
    ------
    UrlError
        As `buckets.from_url`.

    Examples
    --------
    >>> parse_url("s3://lab/cohorts/oasis1/")
    ('lab', 'cohorts/oasis1')
    """
    _, bucket, *parts = from_url(url).parts
    return bucket, "/".join(parts)


class ObjectFiles:
    """The files of a store that is a bucket or a prefix of one; see `cohort.io.storage.backend.Files`.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    term_s : float
        Seconds after which the lock of a writer that fell silent is free.

    Notes
    -----
    Copies made while the store is locked carry the number of the lock, and commit nothing once another writer has
    taken over (`lock.check`). Interrupted uploads of large shards leave parts that only the bucket's own lifecycle rule
    (AbortIncompleteMultipartUpload) removes.
    """

    def __init__(self, url: str, *, term_s: float = lock.TERM_S) -> None:
        self._bucket_name, self._prefix = parse_url(url)
        self.url = f"s3://{self._bucket_name}/{self._prefix}".rstrip("/")
        self.term_s = term_s
        self._fence: int | None = None

    @property
    def _bucket(self) -> Bucket:
        return connect(self._bucket_name)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    def _name(self, key: str) -> str:
        return key.removeprefix(f"{self._prefix}/") if self._prefix else key

    def place(self, name: str) -> str:
        """URL of an object."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """Content of an object. Raises FileNotFoundError, `Unreachable`."""
        return self._bucket.get(self._key(name))

    def write(self, name: str, content: bytes) -> None:
        """Put an object. Raises `Locked` if another writer took the store over."""
        self._check_fence()
        self.put(name, content)

    def create(self, name: str, content: bytes, *, settled: bool = True) -> None:
        """Put an object that is not there, by a conditional put. Raises FileExistsError, `Locked`."""
        del settled  # a put that was answered is durable
        self._check_fence()
        self.put_new(name, content)

    def settle(self, folder: str) -> None:
        """Nothing: what was put is listed."""

    def put(self, name: str, content: bytes | Path) -> None:
        """Put bytes or a local file, whoever holds the store."""
        self._bucket.put(self._key(name), content)

    def put_new(self, name: str, content: bytes) -> None:
        """`put` with ``If-None-Match: *``. Raises FileExistsError."""
        try:
            self._bucket.create(self._key(name), content)
        except FileExistsError:
            # A put whose answer was lost is sent again, and finds itself.
            if self.read(name) != content:
                raise

    def _check_fence(self) -> None:
        if self._fence is not None:
            lock.check(self, self._fence)

    def modified(self, name: str) -> datetime:
        """When an object was put, by the clock of the server. Raises FileNotFoundError."""
        return self._bucket.head(self._key(name)).modified

    def size(self, name: str) -> int | None:
        """Bytes of an object, or None."""
        try:
            return self._bucket.head(self._key(name)).size
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str, names: Iterable[str]) -> dict[str, int]:
        """Bytes of those objects that are there: one listing."""
        start = len(prefix) + 1
        there = {name[start:]: size for name, size in self.listing(prefix)}
        return {name: there[name] for name in names if name in there}

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly below a prefix, sorted."""
        return sorted(k.rpartition("/")[2] for k in self._bucket.children(self._key(folder)))

    def listing(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Every object below a prefix with its bytes, sorted."""
        for key, size in self._bucket.list(self._key(prefix)):
            yield self._name(key), size

    def remove(self, name: str) -> None:
        """Remove an object if it is there. Raises `Locked` if another writer took the store over."""
        self._check_fence()
        self.drop(name)

    def drop(self, name: str) -> None:
        """Remove an object, whoever holds the store."""
        self._bucket.delete([self._key(name)])

    def remove_tree(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        if keys := [key for key, _ in self._bucket.list(self._key(prefix))]:
            self._bucket.delete(keys)

    def publish(self, prefix: str, files: Mapping[str, bytes], *, durable: bool) -> None:
        """Put the objects of a group. A put that was answered is durable."""
        del durable
        for _ in self.each(lambda n: self.put(f"{prefix}/{n}", files[n]), files):
            pass

    def publish_folder(self, prefix: str, folder: Path, *, durable: bool) -> None:
        """`publish` for a local folder. One file at a time: a large one is put in several parts at once."""
        del durable
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
        shutil.rmtree(folder)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new empty local folder."""
        with scratch.folder() as folder:
            yield folder

    def sweep(self) -> int:
        """Nothing: what was put is whole, and groups without a record are the store's to sweep."""
        return 0

    def zarr_path(self, name: str) -> "StorePath":
        """What lies below a prefix for zarr, to read."""
        from zarr.storage import StorePath

        return StorePath(self._bucket.zarr_store(), self._key(name))

    def log(self, name: str) -> Log:
        """Open a log that is put in parts, ``<stem>-000001<suffix>``, ..."""
        return _Parts(self, name)

    def log_parts(self, name: str) -> list[str]:
        """The parts of a log, in order."""
        folder, _, last = name.rpartition("/")
        stem, dot, suffix = last.rpartition(".")
        part = re.compile(rf"{re.escape(stem)}-\d+{re.escape(dot + suffix)}")
        return [f"{folder}/{n}" for n in self.names(folder) if part.fullmatch(n)]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing, by a lease. Raises `Locked`, StoreError."""
        lease = lock.Lease(self, term_s=self.term_s)
        with lease.held() as self._fence:
            try:
                yield
            finally:
                self._fence = None

    def holder(self) -> str | None:
        """Who holds the store, or None; see `lock.Lease.holder`."""
        return lock.Lease(self, term_s=self.term_s).holder()

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map, `PARALLEL` at a time, in order."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            yield from pool.map(function, items)


class _Parts:
    """A log in an object store: what came in a few seconds becomes one object."""

    def __init__(self, files: ObjectFiles, name: str) -> None:
        self._files = files
        self._stem, _, self._suffix = name.rpartition(".")
        self._lines: list[str] = []
        self._number = 0
        self._last = float("-inf")

    def write(self, text: str) -> None:
        self._lines.append(text)
        if time.monotonic() - self._last >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Put what came, unless that was done a moment ago."""
        if self._lines and time.monotonic() - self._last >= FLUSH_S:
            self._put()

    def close(self) -> None:
        """Put the rest."""
        if self._lines:
            self._put()

    def _put(self) -> None:
        self._number += 1
        content = "".join(self._lines).encode("utf-8", "surrogatepass")
        self._files.put(f"{self._stem}-{self._number:06d}.{self._suffix}", content)
        self._lines.clear()
        self._last = time.monotonic()
