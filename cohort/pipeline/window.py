"""Many independent tasks on few workers: a bounded number in flight, results as they come, a failure costs one task."""

import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cohort.io.store import StoreError

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Result = TypeVar("Result")

Connect = Callable[[], "Client | None"]
"""Gives a client when there is work, or None for a plain loop in this process."""

TASKS_A_THREAD = 3
"""In flight for each worker thread: one runs, the next waits beside it, one is on its way."""

BATCH_SECONDS = 0.15
"""Work of one task, where a scan takes less."""

MOST_A_BATCH = 32
"""Scans in one task, at most."""


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


def guarded(function: Callable[[Item], Result], sealed: Sealed[Item]) -> Result | Failure:
    """Call `function` on what is sealed; an exception becomes a `Failure` of plain text.

    Exceptions are not sent as they are: some cannot be unpickled, and their arguments may carry paths.
    """
    try:
        return function(sealed.open())
    except MemoryError as error:
        text = str(error) or "out of memory"
        return Failure("MemoryError", text, traceback.format_exc(), lasting=False)
    except Exception as error:  # noqa: BLE001 - one scan must never stop a cohort
        # What the store lost is brought back by ingesting again: not a property of the scan.
        lasting = isinstance(error, ValueError) and not isinstance(error, StoreError)
        return Failure(type(error).__name__, str(error), traceback.format_exc(), lasting=lasting)


def _batch(
    function: Callable[[Item], Result], batch: Sealed[Sequence[Item]]
) -> tuple[float, list[Result | Failure]]:
    """`guarded` for each item of a batch, and the seconds it took."""
    started = time.perf_counter()
    results = [guarded(function, Sealed(item)) for item in batch.open()]
    return time.perf_counter() - started, results


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, client: "Client | None", name: str
) -> Iterator[tuple[Item, Result | Failure]]:
    """Call `function` on every item, in this process or on the workers of `client`.

    Parameters
    ----------
    function : callable
        Importable by name on the workers.
    items : iterable
        Read lazily: memory does not grow with their number.
    client : Client or None
        None: a plain loop, the oracle for the distributed one.
    name : str
        What the tasks are called on a dashboard.

    Yields
    ------
    (item, result or Failure), in the order in which they finish.

    Notes
    -----
    Short items travel in batches of about `BATCH_SECONDS`, so that a task's own cost does not show. If a worker dies
    over a batch, its items are sent again one by one: only the one at fault is lost.
    """
    if client is None:
        for item in items:
            yield item, guarded(function, Sealed(item))
        return
    from distributed import as_completed

    waiting = iter(items)
    alone: deque[Item] = deque()
    call, number, size = uuid.uuid4().hex[:8], 0, 1
    running: dict[Any, Sequence[Item]] = {}

    def submit() -> Iterator[Any]:
        nonlocal number
        batch = [alone.popleft()] if alone else list(islice(waiting, size))
        if batch:
            key = f"cohort-{name}-{call}-{number}"
            future = client.submit(_batch, function, Sealed(batch), key=key, pure=False)
            running[future] = batch
            number += 1
            yield future

    width = max(1, TASKS_A_THREAD * sum(client.nthreads().values()))
    first = [future for _ in range(width) for future in submit()]
    completed = as_completed(first, with_results=True, raise_errors=False)
    for future, result in completed:
        batch = running.pop(future)
        if future.status == "finished":
            seconds, results = result
            size = min(MOST_A_BATCH, max(1, round(BATCH_SECONDS * len(batch) / max(seconds, 1e-6))))
            yield from zip(batch, results, strict=True)
        elif len(batch) > 1:
            alone.extend(batch)
        else:
            yield batch[0], _lost(result)
        del future, result
        while len(running) < width and (new := list(submit())):
            completed.update(new)


def _lost(error: Any) -> Failure:
    """What the scheduler says of a task that never came to an end."""
    kind, value = (type(error), error) if isinstance(error, BaseException) else error[:2]
    if kind.__name__ == "KilledWorker":
        value = "the worker died each time it ran this scan (out of memory, or a library crashed)"
    return Failure(kind.__name__, str(value), "", lasting=False)
