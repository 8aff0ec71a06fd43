"""One scan block by block on the workers of a client: no step of it waits for ever, and a call that has to stop leaves it."""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask

from cohort.pipeline.dispatch import crew
from cohort.pipeline.dispatch.cost import Cost, Meter, begin, total
from cohort.pipeline.dispatch.stopping import Dropped, Stop
from cohort.pipeline.dispatch.workforce import Workforce

if TYPE_CHECKING:
    from distributed import Client, Nanny, Scheduler

LOOK_SECONDS = 10.0
"""How often the scheduler is asked whether anything moves, at most."""


class BlocksStuck(RuntimeError):
    """No block came to an end within the limit of time."""


class BlocksLost(RuntimeError):
    """A block ended the process of every worker that it was given to."""


@contextmanager
def on_workers(client: "Client", stop: Stop, *, seconds: float) -> Iterator[None]:
    """Compute Dask's graphs on the workers within this context.

    Parameters
    ----------
    client : Client
    stop : Stop
    seconds : float
        Limit of time in which some block has to come to an end.

    Raises
    ------
    Dropped
        If the call has to stop, and the time is over that it gives what is under way; also if no worker is left.
    BlocksStuck
        If nothing moves any more; the workers are started anew.
    BlocksLost
        If Dask gave a block up, after ``distributed.scheduler.allowed-failures`` workers that died of it and one more.
    """
    # Their processes for whole scans rest: the memory is for blocks.
    client.run(crew.rest, on_error="ignore")
    with stop.gently(), dask.config.set(scheduler=_Scheduler(client, stop, seconds)):
        yield


class _Scheduler:
    """What Dask calls to compute a graph.

    It lies in Dask's configuration, which a worker that is started anew gets a copy of: pickled, it is the name of what
    workers use anyway. A client there (``dask.config.set(scheduler=client)``) cannot be pickled, so that no worker of
    this machine that died would ever come back, and its blocks would be waited for without end.
    """

    def __init__(self, client: "Client", stop: Stop, seconds: float) -> None:
        self._client, self._stop, self._seconds = client, stop, seconds
        self._workforce = Workforce(client, stop)

    def __call__(self, graph: Any, keys: Any, **_: Any) -> Any:
        """Results of the keys of a graph."""
        return _Computation(self._client, self._stop, self._workforce, self._seconds).get(
            graph, keys
        )

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("dask.distributed",)


class _Computation:
    """One graph under way."""

    def __init__(self, client: "Client", stop: Stop, workforce: Workforce, seconds: float) -> None:
        self._client, self._stop, self._workforce = client, stop, workforce
        self._seconds = seconds
        self._done: SimpleQueue[Any] = SimpleQueue()
        self._count, self._moved, self._looked = -1, time.monotonic(), time.monotonic()

    def get(self, graph: Any, keys: Any) -> Any:
        """Results of the keys of a graph, as `Client.get` gives them."""
        assert self._client.loop is not None
        with warnings.catch_warnings():
            # A volume of many blocks is a large graph; nobody who runs a recipe can make it smaller.
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            futures = self._client.get(graph, keys, sync=False)
        self._client.loop.add_callback(self._follow, futures)
        try:
            return self._wait()
        except BaseException as error:
            # What nobody waits for is not to be run again by a worker that is started anew.
            if not self._workforce.gone:
                self._client.cancel(futures, force=True)
            if isinstance(error, BlocksStuck):
                # A C loop hears nothing: only the end of its process ends it.
                self._client.run(_kill, nanny=True, on_error="ignore")
            raise

    def _wait(self) -> Any:
        from distributed import KilledWorker

        while True:
            self._workforce.look()
            if self._workforce.gone or self._stop.overdue:
                raise Dropped
            self._expect_progress()
            try:
                found = self._done.get(timeout=0.25)
            except Empty:
                continue
            if isinstance(found, KilledWorker):
                # Dask's words name a task and an address, and neither is the scan's.
                raise BlocksLost(
                    f"a block of it ended its worker's process, {found.allowed_failures + 1} times over; most likely a"
                    " library crashes on it, as the workers' logs say, or it wants more --memory"
                ) from None
            if isinstance(found, BaseException):
                raise found
            return found

    async def _follow(self, futures: Any) -> None:
        """Wait for the results on the client's loop; whatever they come to arrives."""
        found: Any
        try:
            found = await self._client.gather(futures, asynchronous=True)
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits
            found = error
        self._done.put(found)

    def _expect_progress(self) -> None:
        now = time.monotonic()
        if now - self._looked < min(LOOK_SECONDS, self._seconds / 4):
            return
        self._looked = now
        count = self._client.run_on_scheduler(_moves)
        if count != self._count:
            self._count, self._moved = count, now
        elif now - self._moved > self._seconds:
            raise BlocksStuck(
                f"stopped: no block came to an end within the time limit of {self._seconds:g} s; allow more with --time-limit"
            )


def _moves(dask_scheduler: "Scheduler") -> int:
    """A number that grows with every task that begins or ends."""
    return int(dask_scheduler.transition_counter)


def _kill(dask_worker: "Nanny") -> None:
    """End the process of a worker; its nanny starts it anew. `Client.restart_workers` waits for one that hears nothing."""
    if dask_worker.pid is not None:
        os.kill(dask_worker.pid, signal.SIGKILL)


class BlockMeter:
    """Measures what this process and all workers take from now on, while they compute one scan.

    Parameters
    ----------
    client : Client or None
        None: this process does it all.
    """

    def __init__(self, client: "Client | None") -> None:
        self._client = client
        self._workers = self._ask(begin)
        self._here = Meter()

    def cost(self) -> Cost:
        """What was taken since, its peak the largest process's. Of workers that went, or came, nothing is known."""
        here = self._here.cost()
        taken = here
        for address, now in self._ask(total).items():
            if address in self._workers:
                taken += now.since(self._workers[address])
        return replace(taken, seconds=here.seconds)

    def _ask(self, function: Callable[[], Cost]) -> dict[str, Cost]:
        return {} if self._client is None else self._client.run(function, on_error="ignore")
