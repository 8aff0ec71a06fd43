"""A call that dies in the middle, as by kill -9, at a chosen change of its store."""

import os
import warnings
from collections.abc import Callable

from cohort.io import private
from cohort.io.storage.disk import LocalFiles


def killed_at(operation: int, call: Callable[[], object]) -> bool:
    """Call in a process of its own that dies at the n-th change of the store or of what lies with the user; whether it died."""
    with warnings.catch_warnings():
        # A fork beside threads: the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        count = 0

        def counted(method):
            def run(*given, **named):
                nonlocal count
                count += 1
                if count > operation:
                    os._exit(9)
                return method(*given, **named)

            return run

        try:
            for name in ("write", "remove", "remove_tree", "publish"):
                setattr(LocalFiles, name, counted(getattr(LocalFiles, name)))
            private.forget = counted(private.forget)
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
