"""The processes in which a worker runs its scans, and what becomes of a scan that crashes, hangs or wants too much memory.

A scan never runs in the worker itself: a worker that dies takes the results it holds and the work beside it along, may not
come back, and says of nothing why. Here the worker sees the end of a child, knows the scan, and goes on.

The ladder: a scan that ends its process, or has too little memory, is run once more, alone in a new process with all of
the worker's memory; what fails there too is at fault. One that passes its limit of time is ended and named at once.
"""

import pickle
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from cohort.pipeline.dispatch.cell import Cell, Ended
from cohort.pipeline.dispatch.cost import Cost
from cohort.pipeline.dispatch.guard import Failure, Sealed

if TYPE_CHECKING:
    from distributed import Worker

PAUSE_SECONDS = 0.01
"""Between two answers of a batch, at most."""

MEMORY_SHARE = 0.95
"""Of a worker's limit, what it and its scans may fill together."""


@dataclass(frozen=True)
class Batch:
    """Scans for one task of the scheduler."""

    call: str
    """Which call of the window they belong to."""
    load: bytes
    """Pickled: the function and the list of what to call it on."""
    n: int
    seconds: float
    """Limit of time for each."""
    bytes: int = 0
    """What the largest of them is expected to take, interpreter included; 0 if nobody knows."""


@dataclass(frozen=True)
class Answer:
    """What became of one scan."""

    content: bytes | None = None
    """Pickled result, or `Failure`; None: not begun, or dropped, because the call is over."""
    cost: Cost = field(default_factory=Cost)

    def open(self) -> Any:
        """The result or `Failure`; None if there is none."""
        return None if self.content is None else pickle.loads(self.content)


class Gate:
    """Lets in what fits into a sum of bytes, in the order of arrival."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = self._next = self._turn = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free (all, if it is more), and hold them."""
        size = min(size, self.total)
        with self._changed:
            number, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: number == self._turn and self._used + size <= self.total)
            self._turn += 1
            self._used += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


class Crew:
    """The processes of one worker.

    Parameters
    ----------
    memory : int or None
        Bytes the worker and its processes may use; None for no limit.
    threads : int
        Batches that the worker runs at a time.
    """

    def __init__(self, memory: int | None, threads: int) -> None:
        self._memory = memory
        self._share = (memory or threads) // threads
        self._gate = Gate(memory or threads)
        self._idle: list[Cell] = []
        self._busy: set[Cell] = set()
        self._over: set[str] = set()

    def run(self, batch: Batch) -> list[Answer]:
        """Run a batch; an answer to each scan, in order. Raises `CellError` if no process starts here."""
        answers: list[Answer] = []
        suspects: list[int] = []
        size = max(self._share, batch.bytes)
        with self._gate.hold(size):
            while len(answers) < batch.n:
                for answer, suspect in self._through(batch, len(answers), batch.n, size):
                    if suspect:
                        suspects.append(len(answers))
                    answers.append(answer)
        for number in suspects:
            with self._gate.hold(self._gate.total):
                answers[number] = self._alone(batch, number, answers[number].cost)
        return answers

    def finish(self, call: str, *, at_once: bool) -> None:
        """Begin no more scans of a call; `at_once` also ends those under way."""
        self._over.add(call)
        if at_once:
            for one in tuple(self._busy):
                one.kill()

    def rest(self) -> None:
        """End the processes that have nothing to do: their memory is wanted elsewhere."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """End all processes."""
        self.rest()
        for one in tuple(self._busy):
            one.kill()

    def _through(
        self, batch: Batch, first: int, last: int, size: int
    ) -> Iterator[tuple[Answer, bool]]:
        """Run the scans from `first` to before `last` until their process or the call ends: answer, and whether to try again."""
        if batch.call in self._over:
            yield Answer(), False
            return
        limit = self._limit(size)
        with self._cell() as one:
            started = time.perf_counter()
            try:
                if (unopened := one.begin(batch.load, first, last, limit)) is not None:
                    yield from [(_answer(unopened), False)] * (last - first)
                    return
                took = 0.0
                for number in range(first, last):
                    started = time.perf_counter()
                    kind, content, cost = one.answer(batch.seconds, limit)
                    yield Answer(content, cost), kind == "MemoryError"
                    if batch.call in self._over and number + 1 < last:
                        one.close()
                        return
                    took += cost.seconds
                    if not one.has_answer:
                        # Scans of a millisecond: to be woken by each would cost as much as they do.
                        pace = took / (number + 1 - first)
                        time.sleep(min(PAUSE_SECONDS, pace * (last - number - 1) / 2))
            except Ended as end:
                cost = Cost(seconds=time.perf_counter() - started, peak_rss_bytes=end.peak_bytes)
                yield _answer(_why(end, batch), cost), end.why != "time"

    def _alone(self, batch: Batch, number: int, before: Cost) -> Answer:
        """Run a scan in a new process with all of the worker's memory; what fails now has failed."""
        self.rest()
        limit = self._limit(self._gate.total)
        ((answer, suspect),) = self._through(batch, number, number + 1, self._gate.total)
        if answer.content is None or (suspect and batch.call in self._over):
            return Answer()
        cost = before + answer.cost
        found = answer.open() if suspect else None
        if isinstance(found, Failure) and found.kind == "MemoryError" and limit is not None:
            return _answer(_too_large(found, cost.peak_rss_bytes, limit), cost)
        return Answer(answer.content, cost)

    @contextmanager
    def _cell(self) -> Iterator[Cell]:
        """A process; kept afterwards if it is alive and at rest."""
        one = self._idle.pop() if self._idle else Cell()
        self._busy.add(one)
        try:
            yield one
        except BaseException:
            one.close()
            raise
        finally:
            self._busy.discard(one)
            if one.alive:
                self._idle.append(one)

    def _limit(self, size: int) -> int | None:
        """Bytes that the process of a scan may fill out of `size`: the worker's own are not free."""
        if self._memory is None:
            return None
        own = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return int(min(size, self._memory) * (MEMORY_SHARE - own / self._memory))


def run_batch(sealed: Sealed[Batch]) -> list[Answer]:
    """Run a batch in the processes of the worker that is at work here."""
    from distributed import get_worker

    return _crew_of(get_worker()).run(sealed.open())


def finish(call: str, *, at_once: bool, dask_worker: "Worker") -> None:
    """`Crew.finish` on a worker."""
    _crew_of(dask_worker).finish(call, at_once=at_once)


def rest(dask_worker: "Worker") -> None:
    """`Crew.rest` on a worker."""
    _crew_of(dask_worker).rest()


def _crew_of(worker: "Worker") -> Crew:
    """The crew of a worker, made at first use; it ends with the worker."""
    if (crew := vars(worker).get("cohort_crew")) is None:
        limit = worker.memory_manager.memory_limit
        # One of two threads that come first wins.
        crew = vars(worker).setdefault("cohort_crew", Crew(limit, worker.state.nthreads))
        finalize(worker, crew.close)
    return crew


def _answer(failure: Failure, cost: Cost | None = None) -> Answer:
    return Answer(pickle.dumps(failure), cost or Cost())


def _why(end: Ended, batch: Batch) -> Failure:
    """What to say of a scan that ended its process both times."""
    match end.why:
        case "memory":
            return Failure("MemoryError", "", "", lasting=False)
        case "time":
            text = f"stopped at the time limit of {batch.seconds:g} s a scan; allow more with --time-limit"
            return Failure("TimeLimit", text, "", lasting=False)
        case "SIGKILL":
            # Ours come as memory or time: the system does it when a machine is out of memory.
            text = "its process was killed from outside (SIGKILL) both times; most likely the machine ran out of memory"
            return Failure("Killed", text, "", lasting=False)
        case how:
            text = (
                f"crashed its process ({how}) both times it ran, the second time alone in a new one"
            )
            return Failure("Crashed", text, end.trace, lasting=True)


def _too_large(found: Failure, peak: int, limit: int) -> Failure:
    """One line for a scan that has too little even with all of a worker's memory."""
    said = f" ({found.message})" if found.message else ""
    text = f"OOM, peak {_gib(peak)}, limit {_gib(limit)}{said}; give workers more --memory"
    return Failure("MemoryError", text, found.trace, lasting=False)


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
