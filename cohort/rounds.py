"""One call after another for as long as somebody wants: what `watch` does between two looks at the sources.

A round that finds the store locked, a source or a cluster away, waits longer and longer and tries again; nothing but the
end of the time, a signal or a cancelled call ends the rounds.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cohort.io.storage.backend import Locked

if TYPE_CHECKING:
    from cohort.options import Result

LONGEST_SECONDS = 3600.0
"""Longest pause after rounds that failed."""

FIRST_SECONDS = 15.0
"""Pause after the first that failed; each further one is twice as long."""

STOPS = ("signal", "cancelled")
"""Reasons of a call to stop that are meant for the rounds, too."""


def rounds(
    call: Callable[[], "Result"],
    *,
    every_seconds: float,
    is_over: Callable[[float], bool],
    failed: Callable[[Exception, float], None],
    pause: Callable[[float], None] = time.sleep,
) -> Iterator["Result"]:
    """Call again and again.

    Parameters
    ----------
    call : callable
        One round.
    every_seconds : float
        From the end of a round that went well to the beginning of the next.
    is_over : callable
        Asked before each pause, with its seconds, whether the rounds end instead.
    failed : callable
        Told of each round that did not go well, and of the pause after it in seconds.
    pause : callable
        Waits.

    Yields
    ------
    Result
        Of each round that went well.
    """
    wait = min(FIRST_SECONDS, every_seconds)
    while True:
        try:
            result = call()
        except (Locked, OSError, ValueError) as error:
            # Locked, a source or a cluster that is away, a catalog that is being edited: all of it passes.
            failed(error, wait)
            seconds, wait = wait, min(2 * wait, max(LONGEST_SECONDS, every_seconds))
        else:
            yield result
            if result.manifest.get("stopped") in STOPS:
                return
            seconds, wait = every_seconds, min(FIRST_SECONDS, every_seconds)
        if is_over(seconds):
            return
        pause(seconds)


def deadline(until: str, *, now: datetime) -> datetime:
    """When rounds end.

    Parameters
    ----------
    until : str
        ``06:30``, the next time the clock shows it, or a date with a time, ``2026-11-22T06:30``; both local.

    Raises
    ------
    ValueError
        If it is neither, or has passed.

    Examples
    --------
    >>> evening = datetime(2026, 11, 21, 22, 0)
    >>> deadline("06:30", now=evening), deadline("23:00", now=evening)
    (datetime.datetime(2026, 11, 22, 6, 30), datetime.datetime(2026, 11, 21, 23, 0))
    """
    try:
        if len(until) <= len("06:30"):
            clock = datetime.strptime(until, "%H:%M").time()
            found = datetime.combine(now.date(), clock, tzinfo=now.tzinfo)
            return found if found > now else found + timedelta(days=1)
        found = datetime.fromisoformat(until)
        found = found if found.tzinfo or not now.tzinfo else found.replace(tzinfo=now.tzinfo)
    except ValueError:
        raise ValueError(
            f"--until {until!r}: expected a time such as 06:30, a date and time such as 2026-11-22T06:30, or idle"
        ) from None
    if found <= now:
        raise ValueError(f"--until {until!r} has passed; it is {now:%Y-%m-%dT%H:%M}")
    return found
