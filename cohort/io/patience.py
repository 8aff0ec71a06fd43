"""A disk or a file server that fails for a moment is asked again, a bounded number of times."""

import errno
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

Result = TypeVar("Result")

PAUSES_S = (0.05, 0.2, 0.8)
"""Before the second, third and fourth try; then the error stands."""

PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})
"""Errors that another try may not meet: a flaky disk or cable, a file server that moved or is slow."""


def patiently(read: Callable[[], Result]) -> Result:
    """Call `read`, which changes nothing, again where it fails in passing.

    Raises
    ------
    OSError
        The last one, if every try fails; any other error at once.

    Examples
    --------
    >>> tries = iter([OSError(errno.EIO, "Input/output error"), b"voxels"])
    >>> def read():
    ...     found = next(tries)
    ...     if isinstance(found, OSError):
    ...         raise found
    ...     return found
    >>> patiently(read)
    b'voxels'
    """
    for pause in PAUSES_S:
        try:
            return read()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(pause)
    return read()


def opened(path: Path) -> io.BufferedReader:
    """Open a file whose every read is tried again by itself.

    To read a whole file again would fail as often as it has reads: with one read in twenty failing, a file of a hundred is
    never read.

    Raises
    ------
    OSError
        From here and from every read, if all tries fail; ENOENT if the file became another one between two tries.
    """
    return io.BufferedReader(opened_raw(path))


def opened_raw(path: Path) -> io.RawIOBase:
    """As `opened`, each read as large as it is asked for."""
    return _Patient(path, patiently(lambda: _open(path)))


class _Patient(io.RawIOBase):
    def __init__(self, path: Path, raw: io.FileIO) -> None:
        self._path = path
        self._raw = raw
        self._state = _state(raw)
        self._at = 0
        """Position when the file was closed because a read failed."""

    def readinto(self, buffer: Any) -> int:
        return cast(int, self._again("readinto", buffer))

    def readall(self) -> bytes:
        return cast(bytes, self._again("readall"))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._opened().seek(offset, whence)

    def tell(self) -> int:
        return self._at if self._raw.closed else self._raw.tell()

    def fileno(self) -> int:
        return self._opened().fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.closed or self._raw.seekable()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _again(self, name: str, *arguments: Any) -> Any:
        def read() -> Any:
            raw = self._opened()
            at = raw.tell() if raw.seekable() else None
            try:
                return getattr(raw, name)(*arguments)
            except OSError:
                # A file server that moved knows nothing of what was open, and after an error the position may be any.
                if at is not None:
                    raw.close()
                    self._at = at
                raise

        return patiently(read)

    def _opened(self) -> io.FileIO:
        if self._raw.closed and not self.closed:
            raw = _open(self._path)
            if _state(raw) != self._state:
                raw.close()
                raise OSError(errno.ENOENT, "another file by now", str(self._path))
            raw.seek(self._at)
            self._raw = raw
        return self._raw


def _open(path: Path) -> io.FileIO:
    return path.open("rb", buffering=0)


def _state(raw: io.FileIO) -> tuple[int, ...]:
    found = os.fstat(raw.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns
