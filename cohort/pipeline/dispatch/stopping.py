"""Why a call ends before its work is done: a signal, a file in the store, a budget, or nobody left to work.

What is done stays done: a stop is never an error. The window asks at every result, submits nothing new once there is a
reason, and gives what is under way `GRACE_SECONDS` to come to an end.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

GRACE_SECONDS = 15.0
"""For what is under way when a call has to stop; a batch system kills 30 s after its signal."""

LOOK_SECONDS = 2.0
"""The store is asked no more often whether somebody cancelled the call."""

POLITE = ("budget", "max_scans")
"""Reasons after which the call goes on to tables, models and report, and is a success: it was asked to do so much."""


class Dropped(BaseException):
    """What was under way is given up, because the call has to stop: nobody's failure."""


def never() -> bool:
    """Nobody cancels."""
    return False


class Stop:
    """Whether, and why, a call has to stop. Use as a context manager around the work: it listens to signals.

    SIGTERM or SIGINT inside `gently` is a reason to stop; everywhere else, and the second time, it interrupts at once
    (KeyboardInterrupt).

    Parameters
    ----------
    budget_seconds : float, optional
        No new scan is begun so many seconds after now.
    max_scans : int, optional
        No more different scans than this are worked on.
    cancelled : callable
        Whether somebody asked for the end of the call; asked every `LOOK_SECONDS` at most.

    Examples
    --------
    >>> stop = Stop(max_scans=2)
    >>> sorted(stop.admit(["a", "b", "c"])), stop.admit(["b", "c", "d"]), stop.left
    (['a', 'b'], {'b'}, 2)
    >>> stop.reason(), stop.because()
    (None, 'max_scans')
    """

    def __init__(
        self,
        *,
        budget_seconds: float | None = None,
        max_scans: int | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> None:
        self._end = None if budget_seconds is None else time.monotonic() + budget_seconds
        self._max_scans, self._cancelled = max_scans, cancelled
        self._looked = time.monotonic()
        self._reason: str | None = None
        self._since = 0.0
        self._begun: set[str] = set()
        self._left: set[str] = set()
        self._refused = False
        self._gentle = False
        self._before: dict[int, Any] = {}

    def reason(self) -> str | None:
        """Why no new scan may begin now: ``signal``, ``cancelled``, ``budget``, or what `give_up` said; else None."""
        if self._reason is None:
            now = time.monotonic()
            if self._end is not None and now >= self._end:
                self.give_up("budget")
            elif now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if self._cancelled():
                    self.give_up("cancelled")
        return self._reason

    def because(self) -> str | None:
        """Why the call did less than all there was: `reason`, or ``max_scans``."""
        return self.reason() or ("max_scans" if self._refused else None)

    @property
    def left(self) -> int:
        """Scans left for the next call."""
        return len(self._left)

    @property
    def overdue(self) -> bool:
        """Whether what is under way has had its time to come to an end."""
        return self.reason() is not None and time.monotonic() - self._since > GRACE_SECONDS

    def give_up(self, reason: str) -> None:
        """Stop for a reason; the first one stays."""
        if self._reason is None:
            self._reason, self._since = reason, time.monotonic()

    def admit(self, names: Iterable[str]) -> set[str]:
        """Those scans that may be worked on: all that were before in this call, others up to `max_scans`."""
        allowed: set[str] = set()
        for name in names:
            if name in self._begun or self._max_scans is None or len(self._begun) < self._max_scans:
                self._begun.add(name)
                allowed.add(name)
            else:
                self._left.add(name)
                self._refused = True
        return allowed

    def leave(self, names: Iterable[str]) -> None:
        """Note scans that wait for this call."""
        self._left.update(names)

    def come_to(self, name: str) -> None:
        """Note that a scan waits no more."""
        self._left.discard(name)

    @property
    def is_final(self) -> bool:
        """Whether the call has to end now, without models and report."""
        return self.reason() not in (None, *POLITE)

    @contextmanager
    def noted(self, manifest: dict[str, Any]) -> Iterator[None]:
        """Note in the manifest on the way out, also after an interrupt, why the call stopped and how many scans it left."""
        try:
            yield
        except KeyboardInterrupt:
            self.give_up("signal")
            raise
        finally:
            if (reason := self.because()) is not None:
                manifest |= {"stopped": reason, "left": self.left}

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Within, the first signal is a reason to stop; the end of its grace, or a second one, interrupts."""
        before, self._gentle = self._gentle, True
        try:
            yield
        finally:
            self._gentle = before

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGTERM, signal.SIGINT):
                self._before[kind] = signal.signal(kind, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first = self._reason != "signal"
        if first:
            self._reason, self._since = "signal", time.monotonic()
        if self._gentle and first:
            # What cannot be asked (a scan that is computed in this very process) is interrupted when its time is over.
            timer = threading.Timer(GRACE_SECONDS, self._interrupt)
            timer.daemon = True
            timer.start()
            return
        raise KeyboardInterrupt

    def _interrupt(self) -> None:
        if self._gentle and self._before and (main := threading.main_thread().ident) is not None:
            signal.pthread_kill(main, signal.SIGINT)
