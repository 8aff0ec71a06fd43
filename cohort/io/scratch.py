"""Local folders for what lies elsewhere: copies of scans in a bucket, an archive or on a node, and what is on its way to a bucket.

They hold people's images, and none may outlive who made it. A process that is killed cannot remove its own: but the operating
system lets go of its lock, and the next call on that machine removes what nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_HELD = "cohort-held-"


@contextmanager
def folder() -> Iterator[Path]:
    """A new empty folder that nobody else can read; removed afterwards, at the latest by the next `sweep`."""
    _sweep_once()
    place = Path(tempfile.mkdtemp(prefix="cohort-"))
    handle = os.open(place, os.O_RDONLY)
    try:
        # It takes the name that is swept once it is held. Some file servers hold no folder: there it keeps the other.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = place.rename(place.with_name(_HELD + place.name.removeprefix("cohort-")))
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def sweep() -> int:
    """Remove this user's folders whose processes are gone, and give their number."""
    swept = 0
    for place in Path(tempfile.gettempdir()).glob(f"{_HELD}*"):
        with suppress(OSError):  # another user's, held, or gone by now
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place)
                    swept += 1
            finally:
                os.close(handle)
    return swept


@cache
def _sweep_once() -> None:
    """On a worker, which has no store to sweep."""
    sweep()
