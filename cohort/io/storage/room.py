"""What a disk lacks that takes nothing more: room, or the leave to write."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cohort.io.storage.backend import Unwritable

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM)


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Say of a disk that takes nothing what it lacks.

    Parameters
    ----------
    path : Path
        What is to be written.
    size : int, optional
        Its bytes, where they are known.

    Raises
    ------
    Unwritable
        If the disk is full, a quota is used up, it is mounted read-only, or this user may not write there.
    """
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        if error.errno in FULL:
            needed = f"expected room for {size} bytes" if size else "expected room"
            raise Unwritable(
                f"{path}: {needed}, the disk or the quota is full ({_free(path)} bytes are free); make room"
            ) from error
        if error.errno == errno.EROFS:
            raise Unwritable(
                f"{path}: expected a disk that can be written to, found one that is read-only; remount it, or name another store"
            ) from error
        # Inside a writer things are read, too: a source that may not be read says nothing against the store.
        if error.errno in FORBIDDEN and not os.access(_there(path), os.W_OK):
            raise Unwritable(
                f"{path}: expected a place that this user may write to, found {os.strerror(error.errno).lower()};"
                " allow writing there, or name another store"
            ) from error
        raise


def _free(path: Path) -> int:
    """Bytes that a user may still write beside the place of a file."""
    return shutil.disk_usage(_there(path)).free


def _there(path: Path) -> Path:
    """The file, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))  # noqa: PTH110 - it may lie where nobody may look
