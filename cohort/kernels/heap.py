"""Memory that was freed goes back to the system, instead of to the heap of the thread that freed it."""

import ctypes
import ctypes.util
import os
from functools import cache

LARGE_BYTES = 2 << 20
"""Arrays from this size on are no part of a heap: they come from the system and go back when they are freed."""

KEPT_BYTES = 4 << 20
"""Freed memory at the end of a heap that is kept for the next arrays, at most."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_small() -> bool:
    """Give back what this process has freed, and have it keep little of what it frees from now on.

    Called before work in threads. glibc raises both bounds by itself, up to 32 and 64 MB, when a large array is freed, and
    each thread has a heap of its own: a few threads then hold some hundred MB that nobody uses. With fixed bounds pages are
    asked for again, which costs about a sixth of the CPU time of arrangements with support. Sources: mallopt(3), malloc_trim(3).

    Returns
    -------
    bool
        False, and nothing is changed, where the C library is another or its bounds stand in the environment.
    """
    return _bounded() and give_back()


def give_back() -> bool:
    """Give freed memory back to the system, some 15 ms for 400 MB; False where the C library is another than glibc."""
    library = _glibc()
    if library is None:
        return False
    library.malloc_trim(0)
    return True


def available() -> bool:
    """Whether the C library has such bounds."""
    return _glibc() is not None


@cache
def _glibc() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("c")
    library = None if name is None else ctypes.CDLL(name)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@cache
def _bounded() -> bool:
    library = _glibc()
    if library is None or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        return False
    set_large = library.mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
    return bool(set_large and library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
