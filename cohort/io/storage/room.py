"""What a disk lacks that takes nothing more: room, or the leave to write."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cohort.io.storage.backend import Unwritable

FULL = (errno.ENOSPC, errno.EDQUOT)


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
        If the disk is full, a quota is used up, or it is mounted read-only.
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
        raise


def _free(path: Path) -> int:
    """Bytes that a user may still write beside the place of a file."""
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free
