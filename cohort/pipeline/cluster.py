"""Where work runs: local worker processes, a scheduler that is there already, or one with jobs of a cluster as its workers."""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from cohort.pipeline.clusterfile import (
    ADDRESS,
    ClusterError,
    Gateway,
    Kubernetes,
    Local,
    Scheduler,
    Slurm,
    Where,
    check_encrypted,
    parse_bytes,
    read_where,
)

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "ClusterError",
    "available_bytes",
    "check_versions",
    "connect",
    "parse_bytes",
    "where",
    "worker_count",
]

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

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""

GRACE_SECONDS = 300
"""Before its job's time is over, a worker hands back what it holds."""

SAME = (
    "cohort",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "xarray",
    "zarr",
    "numba",
    "pydicom",
    "nibabel",
)
"""Packages whose versions have to be those of the driver on every worker: their numbers and formats meet in one store."""


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


def where(on: str) -> Where:
    """What ``--on`` says: ``local``, the address of a scheduler, or a YAML file.

    Raises
    ------
    ClusterError
        If it is none of them, or the file states something that cannot be.
    """
    if on == "local":
        return Local(cluster="local")
    if on.endswith((".yaml", ".yml")):
        return read_where(on)
    if not ADDRESS.match(on):
        raise ClusterError(
            f"--on {on!r}: expected local, the address of a scheduler such as tcp://127.0.0.1:8786, or a YAML file"
        )
    try:
        check_encrypted(on, has_tls=False)
    except ValueError as error:
        raise ClusterError(f"--on {error}") from None
    return Scheduler(cluster="scheduler", address=on)


@contextmanager
def connect(
    on: str = "local", *, workers: int | None = None, memory: int | None = None
) -> "Iterator[Client]":
    """A client, closed on the way out together with what was started for it.

    Parameters
    ----------
    on : str
        As `where` takes it.
    workers : int, optional
        Instead of the number that `on` states; for ``local`` the cores of this machine.
    memory : int, optional
        Bytes a worker may use, instead of what `on` states; for ``local`` an equal part of 60 % of the free memory.

    Raises
    ------
    ClusterError
        If there is no such place, no scheduler answers there, no worker comes, or one has other versions.
    """
    from distributed import Client

    spec = where(on)
    with ExitStack() as stack:
        match spec:
            case Local():
                cluster: Any = stack.enter_context(_local(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Scheduler():
                client = stack.enter_context(_existing(spec))
            case Slurm():
                cluster = stack.enter_context(_slurm(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Kubernetes():
                cluster = stack.enter_context(_kubernetes(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Gateway():
                client = stack.enter_context(_gateway(spec, workers, stack))
        if not isinstance(spec, Local):
            _wait(client, on)
            check_versions(client)
        yield client


def _local(spec: Local, workers: int | None, memory: int | None) -> Any:
    import dask
    from distributed import LocalCluster

    count = workers or spec.workers or worker_count()
    stated = parse_bytes(spec.memory) if spec.memory else None
    limit = memory or stated or int(MEMORY_SHARE * available_bytes() / count)
    # Loopback only: whoever reaches the port of a scheduler runs code. One thread a worker: the kernels
    # release the lock, but decoding, Zarr and Python do not.
    spawned = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **_environment(limit)}
    try:
        with dask.config.set({"distributed.nanny.pre-spawn-environ": spawned}):
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


def _existing(spec: Scheduler) -> "Client":
    from distributed import Client
    from distributed.security import Security

    security = None
    if spec.tls is not None:
        security = Security(
            require_encryption=True,
            tls_ca_file=spec.tls.ca,
            tls_client_cert=spec.tls.cert,
            tls_client_key=spec.tls.key,
        )
    try:
        return Client(spec.address, timeout=CONNECT_SECONDS, security=security)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no scheduler answers at {spec.address} within {CONNECT_SECONDS} s; start one with `dask scheduler`"
        ) from error


def _slurm(spec: Slurm, workers: int | None, memory: int | None) -> Any:
    from distributed.security import Security

    jobqueue = _extra("dask_jobqueue")
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "cluster: slurm needs the command `sbatch`; run this on a login node of the cluster"
        )
    count = workers or spec.workers
    limit = memory or parse_bytes(spec.memory)
    spawned = json.dumps(_environment(limit))
    hours, minutes, seconds = _seconds(spec.walltime)
    lifetime = max(60, hours * 3600 + minutes * 60 + seconds - GRACE_SECONDS)
    leaves = spec.interface != "lo"
    try:
        cluster = jobqueue.SLURMCluster(
            queue=spec.queue,
            account=spec.account,
            cores=1,
            processes=1,
            memory=f"{limit}B",
            walltime=spec.walltime,
            interface=spec.interface,
            python=sys.executable,
            local_directory=spec.scratch,
            log_directory=spec.folder,
            security=Security.temporary() if leaves else None,
            shared_temp_directory=spec.folder,
            # The dashboard has no login and shows logs: on loopback, whatever the workers use.
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            # A worker that knows when its job ends hands its work back before.
            worker_extra_args=["--lifetime", f"{lifetime}s", "--lifetime-stagger", "30s"],
            job_extra_directives=["--requeue", *spec.directives],
            job_script_prologue=[
                f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON='{spawned}'",
                *spec.prologue,
            ],
            silence_logs=50,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the scheduler of the SLURM workers did not start: {error}") from error
    # Adaptive even at a fixed number: a job that is lost is asked for again.
    cluster.adapt(minimum=spec.minimum or count, maximum=max(count, spec.minimum or 0))
    return cluster


def _kubernetes(spec: Kubernetes, workers: int | None, memory: int | None) -> Any:
    operator = _extra("dask_kubernetes.operator")
    limit = memory or parse_bytes(spec.memory)
    resources = {"memory": str(limit), "cpu": "1"}
    made = operator.make_cluster_spec(
        name=spec.name,
        image=spec.image,
        n_workers=workers or spec.workers,
        resources={"requests": resources, "limits": {"memory": str(limit)}},
        env={**spec.env, **_environment(limit)},
    )
    try:
        return operator.KubeCluster(custom_cluster_spec=made, namespace=spec.namespace)
    except Exception as error:
        raise ClusterError(
            f"no Dask cluster in namespace {spec.namespace!r} ({type(error).__name__}: {error}); "
            "is the dask-kubernetes operator installed, and does kubectl reach the cluster?"
        ) from error


def _gateway(spec: Gateway, workers: int | None, stack: ExitStack) -> "Client":
    gateway = _extra("dask_gateway")
    try:
        server = stack.enter_context(gateway.Gateway(spec.address, auth=spec.auth))
        cluster = stack.enter_context(server.new_cluster(shutdown_on_close=True, **spec.options))
        cluster.scale(workers or spec.workers)
        return cluster.get_client()
    except Exception as error:
        raise ClusterError(
            f"the gateway at {spec.address} gave no cluster ({type(error).__name__}: {error})"
        ) from error


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ClusterError(
            f"this kind of cluster needs the package {module.split('.')[0].replace('_', '-')}; "
            "install it with pip install 'cohort[cluster]'"
        ) from error


def _seconds(walltime: str) -> tuple[int, int, int]:
    """Hours, minutes and seconds of ``[days-]hours:minutes:seconds``."""
    days, _, rest = walltime.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return int(days or 0) * 24 + hours, minutes, seconds


def _wait(client: "Client", on: str) -> None:
    try:
        client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the cluster at {on} has had no worker for {NO_WORKERS_SECONDS} s; "
            "look at the queue of its jobs, or start one with `dask worker`"
        ) from error


def check_versions(client: "Client") -> None:
    """Raise `ClusterError` if a worker has another Python or other versions of the packages that make numbers."""
    here = versions()
    try:
        workers = client.run(versions)
    except ImportError as error:
        raise ClusterError(
            f"a worker lacks a package ({error}); give workers the same environment as the driver"
        ) from error
    for address, found in workers.items():
        for name, version in here.items():
            if found.get(name) != version:
                raise ClusterError(
                    f"the worker at {address} has {name} {found.get(name) or 'not'}, expected {version} as here; "
                    "give workers the same environment as the driver"
                )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in `SAME`, as installed in this process's environment."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in SAME:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
