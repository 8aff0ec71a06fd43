"""Where work runs: a plain loop in this process, local worker processes, or a scheduler that is there already."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

MEMORY_SHARE = 0.6
"""Of a machine's free memory, what local workers share by default."""


KEPT_BYTES = 256 << 20
"""Freed memory that a worker keeps for its next arrays, at most; no more than a tenth of its limit."""


def _environment(limit: int) -> dict[str, str]:
    """Environment of local workers of `limit` bytes.

    No profiler: nobody reads it, and it interrupts every worker a hundred times a second. glibc's allocator: Dask's own
    setting gives every array back to the system as soon as it is freed and faults its pages in again for the next one,
    a third of the time of a small scan.
    """
    kept = min(KEPT_BYTES, limit // 10)
    return {
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(kept // 4),
        "MALLOC_TRIM_THRESHOLD_": str(kept),
    }


NO_WORKERS_SECONDS = 60
"""How long a scheduler may be without workers before a call gives up."""


class ClusterError(ValueError):
    """A place to run that cannot be had."""


def parse_bytes(text: str) -> int:
    """``2GiB``, ``500MB`` or a number of bytes -> bytes. Raises `ClusterError` for anything else."""
    from dask.utils import parse_bytes as parse

    try:
        value = int(parse(text))
    except ValueError as error:
        raise ClusterError(
            f"memory {text!r}: expected a number with a unit, such as 2GiB or 500MB"
        ) from error
    if value < 64 << 20:
        raise ClusterError(f"memory {text!r} is {value} bytes; a worker needs at least 64 MiB")
    return value


def available_bytes() -> int:
    """Memory of this machine that is free for use now, respecting a control group's limit."""
    from distributed.system import MEMORY_LIMIT

    free = int(MEMORY_LIMIT)
    with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 - a kernel file
        if found := re.search(r"MemAvailable:\s+(\d+) kB", stream.read()):
            free = min(free, int(found[1]) << 10)
    return free


def worker_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def check(on: str) -> None:
    """Raise `ClusterError` unless `on` is ``local`` or reads like the address of a scheduler."""
    if on != "local" and not re.match(r"^(tcp|tls|ws|wss)://\S+:\d+$", on):
        raise ClusterError(
            f"--on {on!r}: expected local or the address of a scheduler, such as tcp://127.0.0.1:8786"
        )


@contextmanager
def connect(
    on: str = "local", *, workers: int | None = None, memory: int | None = None
) -> "Iterator[Client]":
    """A client, closed on the way out.

    Parameters
    ----------
    on : str
        ``local`` or the address of a scheduler, ``tcp://host:port`` or ``tls://host:port``.
    workers : int, optional
        Local worker processes of one thread each; the cores of this machine by default.
    memory : int, optional
        Bytes a local worker may use; by default an equal part of 60 % of the free memory.

    Raises
    ------
    ClusterError
        If `on` is neither, or no scheduler answers there.
    """
    import dask
    from distributed import Client, LocalCluster

    if on == "local":
        count = workers or worker_count()
        limit = memory or int(MEMORY_SHARE * available_bytes() / count)
        # Loopback only: whoever reaches the port of a scheduler runs code. One thread a worker: the kernels
        # release the lock, but decoding, Zarr and Python do not.
        spawned = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **_environment(limit)}
        try:
            with dask.config.set({"distributed.nanny.pre-spawn-environ": spawned}):
                local = LocalCluster(
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
        with local, Client(local) as client:
            yield client
        return
    check(on)
    try:
        client = Client(on, timeout=10)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no scheduler answers at {on} within 10 s; start one with `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {on} has had no worker for {NO_WORKERS_SECONDS} s; start one with `dask worker {on}`"
            ) from error
        yield client
