"""Files and folders that are whole or not there: written beside their place, brought to the disk, renamed."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from cohort.io.patience import patiently
from cohort.io.storage.backend import Log
from cohort.io.storage.lock import folder_holder, folder_lock
from cohort.io.storage.room import writing

if TYPE_CHECKING:
    from zarr.storage import StorePath

Item = TypeVar("Item")
Result = TypeVar("Result")

SYNCS = 4
"""Files of one group that are brought to the disk at a time: each waits for the device, not for us."""

ABSENT = (FileNotFoundError, NotADirectoryError)
"""What says that a file is not there; any other error says that nobody knows."""


class LocalFiles:
    """The files of a store that is a folder; see `cohort.io.storage.backend.Files`.

    Parameters
    ----------
    root : Path
        Need not exist yet; nothing is made until something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The path of the folder."""
        return str(self.root)

    def place(self, name: str) -> Path:
        """Path of a file."""
        return self.root / name

    def read(self, name: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""
        return patiently(partial(_read, f"{self.root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write beside, sync, rename, sync the folder. Raises `Unwritable`."""
        self._write(name, content, settled=True)

    def _write(self, name: str, content: bytes, *, settled: bool) -> None:
        path = self.root / name
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with writing(path, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                sync(temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            if settled:
                sync(path.parent)

    def create(self, name: str, content: bytes, *, settled: bool = True) -> None:
        """`write`: the kernel's lock on the folder keeps a second writer out, so nobody else can be first."""
        self._write(name, content, settled=settled)

    def settle(self, folder: str) -> None:
        """Sync a folder, if there is one."""
        path = self.root / folder
        with writing(path), suppress(FileNotFoundError):
            sync(path)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None."""
        try:
            return patiently((self.root / name).stat).st_size
        except ABSENT:
            return None

    def sizes(self, prefix: str, names: Iterable[str]) -> dict[str, int]:
        """Bytes of those files that are there: one ``stat`` each."""
        return patiently(partial(_sizes, f"{self.root}/{prefix}", tuple(names)))

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder, sorted."""
        try:
            return sorted(os.listdir(self.root / folder))  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def listing(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Every file below a folder with its bytes, sorted."""
        found = []
        for folder, _, files in os.walk(self.root / prefix):
            found += [Path(folder) / file for file in files]
        for name, path in sorted((p.relative_to(self.root).as_posix(), p) for p in found):
            yield name, path.lstat().st_size

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        (self.root / name).unlink(missing_ok=True)

    def remove_tree(self, prefix: str) -> None:
        """Remove a folder and all below it, if it is there."""
        folder = self.root / prefix
        if folder.exists():
            shutil.rmtree(folder)

    def publish(self, prefix: str, files: Mapping[str, bytes], *, durable: bool) -> None:
        """Write a group beside its place, then rename it there. Raises `Unwritable`."""
        size = sum(len(content) for content in files.values())
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        with writing(self.root / prefix, size), self._staged() as staged:
            for folder in sorted(folders - {"."}):
                (staged / folder).mkdir()
            for name, content in files.items():
                (staged / name).write_bytes(content)
            self.publish_folder(prefix, staged, durable=durable)

    def publish_folder(self, prefix: str, folder: Path, *, durable: bool) -> None:
        """Sync every file and folder of a group that has to last, then rename it: what has its place is whole."""
        final = self.root / prefix
        if durable:
            sync_tree(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        if durable:
            sync(final.parent)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new empty folder on the store's own file system, so that it can be renamed into place. Raises `Unwritable`."""
        with writing(self.root / "_staging"), self._staged() as folder:
            yield folder

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        folder = self.root / "_staging" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            # Also after a write for which there was no room: what it left would take more of it.
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> int:
        """Remove staging folders."""
        left = self.names("_staging")
        for name in left:
            shutil.rmtree(self.root / "_staging" / name, ignore_errors=True)
        return len(left)

    def zarr_path(self, name: str) -> "StorePath":
        """A folder for zarr, read only."""
        from zarr.storage import LocalStore, StorePath

        return StorePath(LocalStore(self.root / name, read_only=True))

    def log(self, name: str) -> Log:
        """Open a text file to which lines are appended. It raises `Unwritable`."""
        return _Lines(self.root / name)

    def log_parts(self, name: str) -> list[str]:
        """The one file that holds a log."""
        return [name] if (self.root / name).exists() else []

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder for writing; the operating system frees it if the process dies. Raises `Locked`."""
        return folder_lock(self.root)

    def holder(self) -> str | None:
        """Who holds the folder; see `lock.folder_holder`."""
        return folder_holder(self.root)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """One after the other: a disk answers at once."""
        return map(function, items)


class _Lines:
    """A text file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        with writing(self._path, len(text)):
            self._stream.write(text)

    def flush(self) -> None:
        with writing(self._path):
            self._stream.flush()

    def close(self) -> None:
        with writing(self._path):
            self._stream.close()


def sync_tree(folder: Path) -> None:
    """Bring a folder and all below it to the disk; a file system writes several at once in the time of one or two."""
    paths = [Path(below) / name for below, _, files in os.walk(folder) for name in (*files, "")]
    with ThreadPoolExecutor(SYNCS) as pool:
        for _ in pool.map(sync, paths):
            pass


def _read(path: str) -> bytes:
    # A text, not a Path: to join and open one takes longer than the system takes to read a record.
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except NotADirectoryError as error:  # a file where the store should be: nothing lies in it
        raise FileNotFoundError(error.errno, error.strerror, path) from error


def _sizes(folder: str, names: Iterable[str]) -> dict[str, int]:
    found = {}
    for name in names:
        try:
            found[name] = os.stat(f"{folder}/{name}").st_size  # noqa: PTH116 - as in `_read`
        except ABSENT:
            continue
    return found


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
