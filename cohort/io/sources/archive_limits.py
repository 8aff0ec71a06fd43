"""What may come out of an archive, and how damage is told: shared by every kind of archive.

What an archive claims is never believed: the bytes that come out are counted.
"""

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cohort.io.refusal import Refused

MAX_MEMBERS = 1_000_000
"""An archive of more members is refused: its directory alone would fill the memory."""

MAX_RATIO = 1000
"""More bytes out than this many times the bytes in is a bomb; deflate itself cannot do better than 1032."""

FREE_BYTES = 1 << 30
"""So much may come out whatever the ratio."""

LINK, NOT_REGULAR = "symbolic link", "not a regular file"
"""Why a member, or a file in a folder, is passed over."""

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What the libraries raise for bytes that are no archive after all."""


@dataclass(frozen=True, slots=True)
class Found:
    """A member under the name that the archive gives it."""

    name: str
    reason: str | None
    open: Callable[[], IO[bytes] | None]


@contextmanager
def named(path: Path, number: int) -> Iterator[None]:
    """Say of damage which archive and which of its members; an error of the disk stays what it is."""
    try:
        yield
    except Refused:
        raise
    except DAMAGE as error:
        raise damaged(path, f"member {number} cannot be read ({type(error).__name__})") from error
    except OSError as error:
        # bz2 raises OSError without a number for damaged data; a damaged zip leads to a place that no file has.
        if error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
            raise
        raise damaged(path, f"member {number} cannot be read (bad data)") from error


def most(compressed: int) -> int:
    """Bytes that may come out of so many."""
    return max(FREE_BYTES, MAX_RATIO * compressed)


def damaged(path: Path, why: str) -> Refused:
    """Refuse an archive whose bytes are not what they were."""
    return Refused(
        "ARC-DAMAGED",
        f"the archive is damaged: {why}, in {{0}}",
        fix="copy it again from its source, or unpack what can be saved and put the files in its place.",
        files=[path],
    )


def bomb(path: Path, what: str) -> Refused:
    """Refuse an archive that holds more than a machine should be asked for."""
    return Refused(
        "ARC-BOMB",
        f"the archive may be made to fill the machine: {what}, limit "
        f"{MAX_MEMBERS:,} members and {MAX_RATIO} times its bytes or {FREE_BYTES >> 30} GiB, in {{0}}",
        fix="unpack it yourself if you trust it, and put the files in its place.",
        files=[path],
    )
