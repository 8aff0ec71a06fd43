"""A disk or a file server that fails for a moment is asked again, a bounded number of times."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

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
