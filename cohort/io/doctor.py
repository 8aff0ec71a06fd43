"""What a place can do that a store needs: tried out on the place itself, with a scratch folder that is removed again."""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cohort.io.storage import s3
from cohort.io.storage.objects import parse_url

RETRY_S = 10.0
"""Seconds for which a request is tried again: a doctor tells soon."""

TICK_S = 1.1
"""Seconds between two writes whose times must differ: servers tell time in seconds."""

PART = 12 << 20
"""Bytes of an object that is put in several parts."""

FREE_BYTES, FREE_FILES = 10 << 30, 100_000
"""What should be free on a disk: some hundreds of scans, and twelve files for each of some thousands."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    passed: bool
    found: str
    """What happened, with numbers."""
    otherwise: str
    """What does not work where it fails."""
    needed: bool = True
    """Whether a store can do without."""


def probe(url: str | Path) -> list[Check]:
    """Try out a folder or ``s3://bucket/prefix``, there or not yet.

    Raises
    ------
    UrlError
        If the URL is none of a bucket.
    """
    if "://" in str(url):
        return _Bucket(str(url)).checks()
    return _Folder(Path(url)).checks()


def probe_source(source: str, path: Path) -> list[Check]:
    """Try out whether scans can be read from a source of a catalog; nothing is written.

    Parameters
    ----------
    source : str
        As the catalog states it: a URL, or the folder or file at `path`.
    path : Path
    """
    from cohort.io.sources.dicomweb.address import is_url

    if is_url(source):
        from cohort.io import node_doctor

        return node_doctor.probe(source)
    listing = partial(_first_objects, source) if "://" in source else partial(_first_files, path)
    return [Trial("list", listing, "no scan can be found: look at the path and the rights").check()]


def _first_objects(url: str) -> tuple[bool, str]:
    name, prefix = parse_url(url)
    n = len(s3.connect(name, retry_s=RETRY_S).children(prefix))
    return n > 0, f"{n} names directly below {url}"


def _first_files(path: Path) -> tuple[bool, str]:
    if path.is_dir():
        n = sum(1 for _ in path.iterdir())
        return n > 0, f"{n} names in {path}"
    with path.open("rb") as stream:
        return bool(stream.read(1)), f"a file of {path.stat().st_size:,} bytes"


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether a store can be kept there."""
    return all(check.passed for check in checks if check.needed)


def render(checks: Sequence[Check], *, use: str = "store") -> str:
    """The checks as lines of text, the verdict last: whether the place is fit for this use."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "ok  " if check.passed else "FAIL" if check.needed else "note"
        lines.append(f"{mark}  {check.name:<{width}}  {check.found}")
        if not check.passed:
            lines.append(f"{'':6}{'':<{width}}  -> {check.otherwise}")
    failed = [check.name for check in checks if check.needed and not check.passed]
    verdict = f"not fit for a {use}: {', '.join(failed)}" if failed else f"fit for a {use}"
    return "\n".join([*lines, verdict])


@dataclass(frozen=True)
class Trial:
    """How to make a `Check`: `run` gives whether it passed and what was found."""

    name: str
    run: Callable[[], tuple[bool, str]]
    otherwise: str
    needed: bool = True

    def check(self) -> Check:
        """Run it; an error is a failure with its text."""
        try:
            passed, found = self.run()
        except (OSError, ValueError) as error:
            passed, found = False, str(error).partition("; `cohort doctor")[0]
        return Check(self.name, passed, found, self.otherwise, self.needed)


class _Bucket:
    """Trials on a bucket, in the order in which a failure explains the next."""

    def __init__(self, url: str) -> None:
        name, prefix = parse_url(url)
        self.bucket = s3.connect(name, retry_s=RETRY_S)
        self.at = f"{prefix}/.doctor-{uuid.uuid4().hex}".strip("/")
        self.content = os.urandom(4096)

    def checks(self) -> list[Check]:
        trials = [
            Trial("write and read", self._write, "nothing works: look at endpoint, key and rights"),
            Trial("list after write", self._list, "a scan just written is not found; locks fail"),
            Trial("range", self._range, "a part of a large scan cannot be read"),
            Trial("suffix range", self._suffix, "a part of a large scan cannot be read: its index is at the end"),
            Trial("create only if absent", self._create, "two runs at once mix: there is no lock"),
            Trial("several parts", self._parts, "large scans cannot be written"),
            Trial("times", self._times, "the lock of a process that died stays for ever"),
            Trial("delete", self._delete, "what is replaced or withdrawn stays"),
            Trial(
                "replace only if unchanged",
                self._replace,
                "cohort does without; programs that count on it do not",
                needed=False,
            ),
        ]  # fmt: skip
        checks: list[Check] = []
        try:
            for trial in trials:
                checks.append(trial.check())
                if not checks[0].passed:
                    break
        finally:
            with suppress(OSError):
                if left := [key for key, _ in self.bucket.list(self.at)]:
                    self.bucket.delete(left)
        return checks

    def _write(self) -> tuple[bool, str]:
        self.bucket.put(f"{self.at}/a", self.content)
        read = self.bucket.get(f"{self.at}/a")
        return read == self.content, _bytes(read, self.content)

    def _list(self) -> tuple[bool, str]:
        for n in range(3):
            key = f"{self.at}/new/{n}"
            self.bucket.put(key, b"new")
            if (key, 3) not in list(self.bucket.list(f"{self.at}/new")):
                return False, "an object that was just put is not in the listing"
        children = sorted(self.bucket.children(self.at))
        if children != [f"{self.at}/a", f"{self.at}/new"]:
            return False, f"{len(children)} names directly below a prefix, expected 2"
        return True, "3 objects, each at once"

    def _range(self) -> tuple[bool, str]:
        read = self.bucket.get_part(f"{self.at}/a", 100, 50)
        return read == self.content[100:150], _bytes(read, self.content[100:150])

    def _suffix(self) -> tuple[bool, str]:
        read = self.bucket.get_part(f"{self.at}/a", -1, 50)
        right = self.content[-50:]
        found = "the object's first bytes" if read == self.content[:50] else _bytes(read, right)
        return read == right, found

    def _create(self) -> tuple[bool, str]:
        key = f"{self.at}/once"
        self.bucket.create(key, b"first")
        try:
            self.bucket.create(key, b"second")
        except FileExistsError:
            kept = self.bucket.get(key) == b"first"
            return kept, "refused where something is" if kept else "refused, but replaced"
        return False, "If-None-Match: * is ignored, the object was replaced"

    def _parts(self) -> tuple[bool, str]:
        with tempfile.TemporaryDirectory() as folder:
            large = Path(folder) / "large"
            large.write_bytes(os.urandom(PART))
            self.bucket.put(f"{self.at}/large", large)
            read, right = self.bucket.get(f"{self.at}/large"), large.read_bytes()
        return read == right, _bytes(read, right)

    def _times(self) -> tuple[bool, str]:
        key = f"{self.at}/time"
        self.bucket.put(key, b"1")
        before = self.bucket.head(key).modified
        time.sleep(TICK_S)
        self.bucket.put(key, b"2")
        passed_s = (self.bucket.head(key).modified - before).total_seconds()
        return 0 < passed_s < 60, f"{passed_s:.0f} s between two puts 1 s apart"

    def _delete(self) -> tuple[bool, str]:
        keys = [f"{self.at}/new/{n}" for n in range(3)]
        self.bucket.delete(keys)
        left = [key for key, _ in self.bucket.list(f"{self.at}/new")]
        return not left, f"{len(keys) - len(left)} of {len(keys)} gone at once"

    def _replace(self) -> tuple[bool, str]:
        key = f"{self.at}/a"
        tag = self.bucket.head(key).etag
        try:
            self.bucket.replace(key, b"right", etag=tag)
        except FileExistsError:
            return False, "refused although the tag is the right one"
        try:
            self.bucket.replace(key, b"wrong", etag=tag)
        except FileExistsError:
            return True, "done with the right tag, refused with an old one"
        return False, "If-Match is ignored, a changed object was replaced"


class _Folder:
    """Trials on a disk."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - lexical, as catalogs are
        # A store need not be there yet: what holds for the folder that will hold it holds for the store.
        self.parent = next(p for p in (self.path, *self.path.parents) if p.is_dir())
        self.scratch = self.parent / f".cohort-doctor-{uuid.uuid4().hex}"

    def checks(self) -> list[Check]:
        trials = [
            Trial("write and read", self._write, "nothing works: look at the rights of the folder"),
            Trial("create only if absent", self._create, "two runs at once may mix"),
            Trial("lock", self._lock, "two runs at once mix: there is no lock"),
            Trial("sync", self._sync, "a power cut loses what was reported as written"),
            Trial("rename", self._rename, "a reader may see half a file"),
            Trial("free space", self._space, "writing stops when the disk is full", needed=False),
            Trial("free files", self._files, "writing stops when no file is left", needed=False),
        ]
        checks: list[Check] = []
        try:
            for trial in trials:
                checks.append(trial.check())
                if not checks[0].passed:
                    break
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        return checks

    def _write(self) -> tuple[bool, str]:
        self.scratch.mkdir()
        (self.scratch / "a").write_bytes(b"content")
        read = (self.scratch / "a").read_bytes()
        return read == b"content", f"{_bytes(read, b'content')}, in {self.parent}"

    def _create(self) -> tuple[bool, str]:
        (self.scratch / "once").open("x").close()
        try:
            (self.scratch / "once").open("x").close()
        except FileExistsError:
            return True, "refused where something is"
        return False, "a file that is there was created again"

    def _lock(self) -> tuple[bool, str]:
        with (
            (self.scratch / "lock").open("a") as first,
            (self.scratch / "lock").open("a") as second,
        ):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, "a second holder is refused"
        return False, "two hold the same lock"

    def _sync(self) -> tuple[bool, str]:
        began = time.perf_counter()
        for path in (self.scratch / "a", self.scratch):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return True, f"a file and its folder in {1000 * (time.perf_counter() - began):.1f} ms"

    def _rename(self) -> tuple[bool, str]:
        (self.scratch / "b").write_bytes(b"new")
        (self.scratch / "b").replace(self.scratch / "a")
        (self.scratch / "group").mkdir()
        (self.scratch / "group").rename(self.scratch / "moved")
        right = (self.scratch / "a").read_bytes() == b"new" and (self.scratch / "moved").is_dir()
        return right, "a file over another, and a folder" if right else "something else is there"

    def _space(self) -> tuple[bool, str]:
        disk = os.statvfs(self.parent)
        free = disk.f_bavail * disk.f_frsize
        return free >= FREE_BYTES, f"{free / 1e9:.1f} GB"

    def _files(self) -> tuple[bool, str]:
        disk = os.statvfs(self.parent)
        if not disk.f_files:
            return True, "as many as there is space for"
        return disk.f_favail >= FREE_FILES, f"{disk.f_favail:,}; a scan takes 12"


def _bytes(read: bytes, right: bytes) -> str:
    if read == right:
        return f"{len(right):,} bytes, the right ones"
    return (
        f"{len(read):,} bytes, expected {len(right):,}"
        if len(read) != len(right)
        else "other bytes"
    )
