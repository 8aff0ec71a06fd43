"""Many independent scans on few workers: a bounded number in flight, results as they come, a failure costs one scan."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from cohort.io.storage import backend
from cohort.pipeline.dispatch import crew
from cohort.pipeline.dispatch.cost import Cost, Meter
from cohort.pipeline.dispatch.crew import Answer, Batch
from cohort.pipeline.dispatch.guard import Failure, Sealed, guarded
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.workforce import Workforce

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Connect", "Failure", "Sealed", "each", "guarded", "raise_away"]

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

TIME_LIMIT_SECONDS = 3600.0
"""For one scan, unless the caller says otherwise."""

TRIES = 3
"""How often a scan is sent because its worker died, or its answer was lost; it runs in a process of its own, so it was not the scan."""

DROP_SECONDS = 5.0
"""For workers to say that they dropped what was under way, before they are no longer waited for."""


def _no_bytes(_: object) -> int:
    """Nobody knows what an item takes."""
    return 0


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    client: "Client | None",
    name: str,
    stop: Stop | None = None,
    seconds: float = TIME_LIMIT_SECONDS,
    bytes_of: Callable[[Item], int] = _no_bytes,
) -> Iterator[tuple[Item, Result | Failure, Cost]]:
    """Call `function` on every item, in this process or in processes of the workers of `client`.

    Parameters
    ----------
    function : callable
        Importable by name on the workers.
    items : iterable
        Read lazily: memory does not grow with their number.
    client : Client or None
        None: a plain loop, the oracle for the distributed one; nothing is isolated there.
    name : str
        What the tasks are called on a dashboard.
    stop : Stop, optional
        Asked at every result. What was not begun, or was dropped, is not yielded.
    seconds : float
        Limit of time for each item on a worker.
    bytes_of : callable
        Forecast of what an item takes at its peak, interpreter included; 0 if nobody knows. Items in flight never take
        more together than the workers have, except one by itself.

    Yields
    ------
    (item, result or Failure, Cost), in the order in which they finish.

    Raises
    ------
    OSError
        One of `backend.AWAY`, as the first item met it: a store that cannot be reached or written is not an item's fault.

    Notes
    -----
    Short items travel in batches of about `BATCH_SECONDS`, so that a task's own cost does not show. What becomes of an
    item that crashes, hangs or wants too much memory: `pipeline.dispatch.crew`.
    """
    stop = Stop() if stop is None else stop
    if client is None:
        yield from _loop(function, items, stop)
        return
    flight = _Flight(function, items, client, name, stop, seconds, bytes_of)
    with stop.gently():
        try:
            yield from flight.results()
        finally:
            flight.end()


def _loop(
    function: Callable[[Item], Result], items: Iterable[Item], stop: Stop
) -> Iterator[tuple[Item, Result | Failure, Cost]]:
    with stop.gently():
        for item in items:
            if stop.reason() is not None:
                return
            meter = Meter()
            try:
                result = guarded(function, Sealed(item))
            except KeyboardInterrupt:
                if stop.reason() is None:
                    raise
                return
            raise_away(result)
            yield item, result, meter.cost()


@dataclass(frozen=True)
class _Sent:
    """Items of one task."""

    items: Sequence[Any]
    bytes: int
    tries: int = 1


class _Flight:
    """What is under way on the workers."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        client: "Client",
        name: str,
        stop: Stop,
        seconds: float,
        bytes_of: Callable[[Any], int],
    ) -> None:
        from distributed.protocol import pickle

        self._client, self._stop, self._seconds, self._bytes_of = client, stop, seconds, bytes_of
        self._dumps: Callable[[Any], bytes] = pickle.dumps
        self._function = function
        self._waiting = iter(items)
        self._again: deque[_Sent] = deque()
        self._next: _Sent | None = None
        self._call, self._name = uuid.uuid4().hex[:8], name
        self._number, self._size = 0, 1
        self._running: dict[Future[Any], _Sent] = {}
        self._done: SimpleQueue[tuple[Future[Any], Any]] = SimpleQueue()
        self._workforce = Workforce(client, stop)
        self._away: Failure | None = None

    def results(self) -> Iterator[tuple[Any, Any, Cost]]:
        """Keep the workers busy until all is done or the call has to stop."""
        told = dropped = 0.0
        while True:
            self._workforce.look()
            if self._stop.reason() is None and self._away is None:
                self._submit()
            elif not told:
                told = time.monotonic()
                self._finish(at_once=False)
            if not self._running or self._workforce.gone:
                break
            if self._stop.overdue and not dropped:
                dropped = time.monotonic()
                self._finish(at_once=True)
            if dropped and time.monotonic() - dropped > DROP_SECONDS:
                break
            try:
                future, found = self._done.get(timeout=0.25)
            except Empty:
                continue
            yield from self._take(future, found)
        if self._away is not None:
            raise_away(self._away)

    def end(self) -> None:
        """Let go of what is still under way: somebody stopped asking for results."""
        if self._running and not self._workforce.gone:
            self._finish(at_once=True)
        self._running.clear()

    def _submit(self) -> None:
        """Send what fits into the window, by number and by memory."""
        assert self._client.loop is not None
        while len(self._running) < TASKS_A_THREAD * self._workforce.threads:
            sent = self._next = self._next or self._draw()
            if sent is None:
                return
            used = sum(other.bytes for other in self._running.values())
            if self._running and used + sent.bytes > self._workforce.memory:
                return
            self._next = None
            load = self._dumps((self._function, sent.items))
            batch = Batch(self._call, load, len(sent.items), self._seconds, sent.bytes)
            key = f"cohort-{self._name}-{self._call}-{self._number}"
            future = self._client.submit(crew.run_batch, Sealed(batch), key=key, pure=False)
            self._running[future] = sent
            self._number += 1
            self._client.loop.add_callback(self._follow, future)

    def _draw(self) -> "_Sent | None":
        """What is to be sent next."""
        if self._again:
            return self._again.popleft()
        items = list(islice(self._waiting, self._size))
        return _Sent(items, max(map(self._bytes_of, items))) if items else None

    async def _follow(self, future: "Future[Any]") -> None:
        """Wait for a task, on the client's loop. Whatever it comes to arrives: an exception that cannot be opened here, too."""
        try:
            (found,) = await self._client.gather([future], asynchronous=True)
        except BaseException as error:  # noqa: BLE001 - `distributed.as_completed` waits for ever instead
            found = error
        self._done.put((future, found))

    def _take(self, future: "Future[Any]", found: Any) -> Iterator[tuple[Any, Any, Cost]]:
        sent = self._running.pop(future)
        if isinstance(found, BaseException):
            yield from self._lose(sent, found, is_its_own=future.status == "error")
            return
        answers: list[Answer] = found
        took = sum(answer.cost.seconds for answer in answers)
        n = round(BATCH_SECONDS * len(answers) / max(took, 1e-6))
        self._size = min(MOST_A_BATCH, max(1, n))
        for item, answer in zip(sent.items, answers, strict=True):
            result = answer.open()
            if isinstance(result, Failure) and result.away:
                self._away = self._away or result
            elif answer.content is not None:
                yield item, result, answer.cost

    def _lose(
        self, sent: "_Sent", error: BaseException, *, is_its_own: bool
    ) -> Iterator[tuple[Any, Any, Cost]]:
        """What becomes of scans whose task came to no end, or whose answer did not arrive: the error is not its own then."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        if isinstance(error, FutureCancelledError):
            self._workforce.lost()
            return
        # A connection went while an answer was on its way. If it was that to the scheduler, `Workforce.look` finds out.
        if (isinstance(error, KilledWorker) or not is_its_own) and sent.tries < TRIES:
            self._again.extend(_Sent([i], sent.bytes, sent.tries + 1) for i in sent.items)
            return
        text = str(error)
        if isinstance(error, KilledWorker):
            text = f"the workers that ran this scan were killed, {sent.tries} times over; look at the machines they ran on"
        for item in sent.items:
            yield item, Failure(type(error).__name__, text, "", lasting=False), Cost()

    def _finish(self, *, at_once: bool) -> None:
        self._workforce.tell(partial(crew.finish, self._call, at_once=at_once))


def raise_away(result: Any) -> None:
    """Raise what the place of the store failed with, if it did."""
    if isinstance(result, Failure) and result.away:
        raise getattr(backend, result.away)(result.message)
