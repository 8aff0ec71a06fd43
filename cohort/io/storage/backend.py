"""Where the files of a store lie, a folder or a bucket: the one interface of both, and what can go wrong with either.

Names are relative POSIX paths (``scans/a.json``), never absolute, never with ``..``. What `Files.write` and
`Files.create` give a name is whole or not there, for every reader and after every crash.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from zarr.storage import StorePath

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoreError(ValueError):
    """A store, a record or a chunk that is not what it should be."""


class Locked(RuntimeError):
    """Somebody else is writing to this store."""


class Unreachable(ConnectionError):
    """An object store that does not answer or does not let us in; it says nothing against what lies there."""


class Unwritable(OSError):
    """A disk that is full or read-only; it says nothing against a scan, and the next one would meet it too."""


AWAY = (Unreachable, Unwritable)
"""Errors of the place where a store lies: they end a run, and no scan is to blame."""


class Log(Protocol):
    """Lines that grow while work goes on."""

    def write(self, text: str, /) -> object:
        """Add text."""

    def flush(self) -> object:
        """Bring what was added to where others see it, soon."""

    def close(self) -> object:
        """Bring the rest there."""


class Files(Protocol):
    """The files of one store.

    Small and picklable: a worker opens what it needs itself, and no credential travels.
    """

    @property
    def url(self) -> str:
        """Where they lie, for messages: a path or a URL."""

    def place(self, name: str) -> Path | str:
        """Where a file lies, for people: a path or a URL."""

    def read(self, name: str) -> bytes:
        """Content of a file. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file, atomically and durably."""

    def create(self, name: str, content: bytes, *, settled: bool = True) -> None:
        """`write` for a file that is not there. Raises FileExistsError where the backend can tell.

        Its content is on the disk before it has its name. Unless `settled`, the name itself follows with `settle`: until
        then a power cut may take the file, whole.
        """

    def settle(self, folder: str) -> None:
        """Bring the names of the files in a folder to the disk, if there is one."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None."""

    def sizes(self, prefix: str, names: Iterable[str]) -> dict[str, int]:
        """Bytes of those files ``<prefix>/<name>`` that are there."""

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder, files and folders, sorted; empty if there is none."""

    def listing(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Every file below a folder with its bytes, sorted; names are relative to the store."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def remove_tree(self, prefix: str) -> None:
        """Remove a folder and all below it, if it is there."""

    def publish(self, prefix: str, files: Mapping[str, bytes], *, durable: bool) -> None:
        """Write the files of a group below `prefix`, where nothing lies: its record and its tree were removed.

        `durable`: on the disk, not only in the operating system's memory, when this returns.
        """

    def publish_folder(self, prefix: str, folder: Path, *, durable: bool) -> None:
        """`publish` for a local folder from `staging`, which is gone afterwards."""

    def staging(self) -> AbstractContextManager[Path]:
        """A new empty local folder for what `publish_folder` takes; removed afterwards."""

    def sweep(self) -> int:
        """Remove what interrupted writers left outside of every group; how many there were. Call under the lock."""

    def zarr_path(self, name: str) -> "StorePath":
        """A folder for zarr, to read."""

    def log(self, name: str) -> Log:
        """Open a text that grows, ``<name>``, or where files cannot grow, parts of it (`log_parts`)."""

    def log_parts(self, name: str) -> list[str]:
        """Names of the files that hold a log, in order."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for writing. Raises `Locked` with who holds it, where and since when."""

    def holder(self) -> str | None:
        """Who holds the store for writing, where and since when; None if nobody does."""

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map, several at a time where each waits for a network; results in order."""
