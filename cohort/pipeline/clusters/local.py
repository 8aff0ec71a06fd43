"""Worker processes on this machine."""

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from cohort.pipeline.clusters.clusterfile import LEAST_BYTES, ClusterError, Local, parse_bytes
from cohort.pipeline.clusters.workers import worker_environment

MEMORY_SHARE = 0.6
"""Of a machine's free memory, what local workers share by default."""


NEVER = "1000 days"
"""No cluster is there so long."""


def available_bytes() -> int:
    """Memory of this machine that is free for use now, respecting a control group's limit."""
    from distributed.system import MEMORY_LIMIT

    free = int(MEMORY_LIMIT)
    with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 - a kernel file
        if found := re.search(r"MemAvailable:\s+(\d+) kB", stream.read()):
            free = min(free, int(found[1]) << 10)
    return free


def worker_count() -> int:
    """Local workers by default: one for each core this process may use, or as many as the free memory feeds."""
    fed = int(MEMORY_SHARE * available_bytes()) // LEAST_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), fed))


def share(spec: Local, workers: int | None) -> int:
    """Memory of a local worker, in bytes: what is stated, or its part of what is free now."""
    if spec.memory:
        return parse_bytes(spec.memory)
    return int(MEMORY_SHARE * available_bytes() / (workers or spec.workers or worker_count()))


@contextmanager
def open_local(spec: Local, workers: int | None, memory: int | None) -> "Iterator[Any]":
    """A new cluster of one process a worker, on loopback. Raises ClusterError."""
    import dask

    # A nanny starts its worker anew. Dask would close the nanny if the worker is away 15 s after it was lost: on a busy
    # machine it still is, and so it is if it was lost twice in that time.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": NEVER}),
        ExitStack() as stack,
    ):
        with _undisturbed():
            cluster = stack.enter_context(_started(spec, workers, memory))
        yield cluster


@contextmanager
def _undisturbed() -> "Iterator[None]":
    """Signals wait until workers are there, for half of them cannot be closed; a second signal does not wait.

    A Ctrl-C at the terminal reaches every process, and is for the driver alone: threads that begin within, and the
    workers that these start now and later, inherit that they never hear of it.
    """
    heard: list[int] = []
    before: dict[int, Any] = {}

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, hear)
    # Its first use lets the thread that needs it hear of Ctrl-C again.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if len(heard) == 1:
            signal.raise_signal(heard[0])


def _started(spec: Local, workers: int | None, memory: int | None) -> Any:
    import dask
    from distributed import LocalCluster

    count = workers or spec.workers or worker_count()
    limit = memory or share(spec, workers)
    if memory is None and limit < LEAST_BYTES:
        raise ClusterError(
            f"{count} local workers would have {limit >> 20} MiB each, and one needs at least {LEAST_BYTES >> 20};"
            " take fewer --workers"
        )
    # Loopback only: whoever reaches the port of a scheduler runs code. One thread a worker: the kernels
    # release the lock, but decoding, Zarr and Python do not.
    spawned = {
        **dask.config.get("distributed.nanny.pre-spawn-environ"),
        **worker_environment(limit),
    }
    try:
        with (
            dask.config.set({"distributed.nanny.pre-spawn-environ": spawned}),
            _environment(worker_environment(limit)),
        ):
            return LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=limit,
                silence_logs=50,
            )
    except RuntimeError as error:
        raise ClusterError(
            f"{count} worker processes did not start ({error}); in a script, the call has to "
            "stand under `if __name__ == '__main__':`"
        ) from error


@contextmanager
def _environment(values: "Mapping[str, str]") -> "Iterator[None]":
    """Variables of this process while nannies are made: what stands there wins over Dask's configuration.

    Nannies that start at the same time leave the variables of each other behind.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
