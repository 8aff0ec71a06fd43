"""Where work runs: local worker processes, a scheduler that is there already, or one with jobs of a cluster as its workers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from cohort.pipeline.clusters import batch
from cohort.pipeline.clusters.clusterfile import (
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
from cohort.pipeline.clusters.existing import open_existing
from cohort.pipeline.clusters.extras import extra
from cohort.pipeline.clusters.gateway import open_gateway
from cohort.pipeline.clusters.kubernetes import open_kubernetes
from cohort.pipeline.clusters.local import available_bytes, open_local, share, worker_count
from cohort.pipeline.clusters.slurm import job_name, log_folder, open_slurm, refusal
from cohort.pipeline.clusters.workers import check_versions, worker_environment

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "ClusterError",
    "available_bytes",
    "check_versions",
    "connect",
    "parse_bytes",
    "smallest_limit",
    "where",
    "worker_bytes",
    "worker_count",
    "worker_environment",
]

DEATHS = 3
"""Of workers on one block, after which the scan that it belongs to is named: one may be an accident, and so may two."""

NO_WORKERS_SECONDS = 60
"""How long a scheduler may be without workers before a call gives up."""


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


def check(on: str) -> None:
    """Raise what `connect` would, as far as that can be known at no cost: before anything is written.

    A scheduler that is there already is asked for its workers and their versions; no job, pod or process is started.

    Raises
    ------
    ClusterError
        If there is no such place, its commands or packages are not installed, or a scheduler does not answer, has no
        worker, or has one with other versions.
    """
    spec = where(on)
    match spec:
        case Scheduler():
            with open_existing(spec) as client:
                _wait(client, on, spec)
                check_versions(client)
        case Slurm():
            extra("dask_jobqueue")
            batch.check_installed()
        case Kubernetes():
            extra("dask_kubernetes.operator")
        case Gateway():
            extra("dask_gateway")


def worker_bytes(on: str = "local", *, workers: int | None = None) -> int:
    """Memory that a worker will have, before there is one; parameters as `connect` takes them.

    A scheduler that is there already is asked; of a gateway's workers nothing is known, and this machine's stand for them.

    Raises
    ------
    ClusterError
        As `where`, or if a scheduler does not answer.
    """
    spec = where(on)
    match spec:
        case Slurm() | Kubernetes():
            return parse_bytes(spec.memory)
        case Scheduler():
            with open_existing(spec) as client:
                if known := smallest_limit(client):
                    return known
            return share(Local(cluster="local"), None)
        case Local():
            return share(spec, workers)
        case Gateway():
            return share(Local(cluster="local"), None)


def smallest_limit(client: "Client") -> int | None:
    """Memory of the worker that has least, in bytes; None if there is none, or none knows."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((int(w["memory_limit"]) for w in workers if w["memory_limit"]), default=None)


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
    import dask
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    from cohort.pipeline.clusters.freed import GiveBack

    spec = where(on)
    with ExitStack() as stack:
        # What becomes of a scheduler or a worker is said in one line by whoever waits for it.
        for logger in ("distributed", "distributed.client"):
            stack.enter_context(silence_logging_cmgr("critical", logger))
        # For schedulers that start here.
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}))
        match spec:
            case Local():
                cluster: Any = stack.enter_context(open_local(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Scheduler():
                client = stack.enter_context(open_existing(spec))
            case Slurm():
                cluster = stack.enter_context(open_slurm(spec, workers, memory, stack))
                client = stack.enter_context(Client(cluster))
            case Kubernetes():
                cluster = stack.enter_context(open_kubernetes(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Gateway():
                client = stack.enter_context(open_gateway(spec, workers, stack))
        if not isinstance(spec, Local):
            _wait(client, on, spec)
            check_versions(client)
        client.register_plugin(GiveBack())
        yield client


def _wait(client: "Client", on: str, spec: Where) -> None:
    while True:
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError as error:
            said = (
                f"the cluster at {on} has had no worker for {NO_WORKERS_SECONDS} s; "
                "look at the queue of its jobs, or start one with `dask worker`"
            )
            if isinstance(spec, Slurm):
                # A job may wait in its queue for as long as the queue is.
                if batch.jobs(job_name()):
                    continue
                said = _why_no_job(client, on, spec)
            raise ClusterError(said) from error
        return


def _why_no_job(client: "Client", on: str, spec: Slurm) -> str:
    if words := refusal(client.cluster):
        return (
            f"no job of a worker was taken for {NO_WORKERS_SECONDS} s: {words}; "
            f"expected queue, memory, walltime and account in {on} to be as the cluster grants them"
        )
    return (
        f"the jobs of the workers ended within {NO_WORKERS_SECONDS} s and no worker came; "
        f"expected one, and why there is none is in {log_folder(spec)}/{job_name()}-*.err"
    )
