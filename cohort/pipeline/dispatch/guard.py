"""What surrounds the work on one scan: arguments out of sight, errors as plain text. Light: a worker imports no more."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Sealed(Generic[Item]):
    """An argument whose content shows in no task key, no log and no dashboard.

    Worker logs and error messages print the arguments of a task; paths and ids must not be there.
    """

    def __init__(self, content: Item) -> None:
        self._content = content

    def open(self) -> Item:
        """What was sealed."""
        return self._content

    def __repr__(self) -> str:
        """Nothing of the content."""
        return "<sealed>"


@dataclass(frozen=True)
class Failure:
    """How one task ended badly."""

    kind: str
    message: str
    trace: str
    lasting: bool
    """Whether the same input will fail again: an error of the data, not of the machine."""
    away: str = ""
    """One of `backend.AWAY`, by name, if the store's place is at fault: the next scan would meet it too."""


def guarded(function: Callable[[Item], Result], sealed: Sealed[Item]) -> Result | Failure:
    """Call `function` on what is sealed; an exception becomes a `Failure` of plain text.

    Exceptions are not sent as they are: some cannot be unpickled, and their arguments may carry paths.
    """
    try:
        return function(sealed.open())
    except Exception as error:  # noqa: BLE001 - one scan must never stop a cohort
        return failure(error)


def failure(error: BaseException) -> Failure:
    """Say in plain text what an error was."""
    from cohort.io.storage import backend
    from cohort.io.store import StoreError

    trace = "".join(traceback.format_exception(error))
    # Running out of memory comes in many covers.
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, MemoryError):
            return Failure("MemoryError", str(cause) or "out of memory", trace, lasting=False)
    # What the store lost is brought back by ingesting again: not a property of the scan.
    lasting = isinstance(error, ValueError | SystemExit) and not isinstance(error, StoreError)
    away = next((kind.__name__ for kind in backend.AWAY if isinstance(error, kind)), "")
    # One line: a record, a table and a terminal show it as one. The trace keeps the lines of another library.
    message = " ".join(str(error).split())
    return Failure(type(error).__name__, message, trace, lasting=lasting, away=away)
