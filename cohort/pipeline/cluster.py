"""Where work runs: local worker processes, a scheduler that is there already, or one with jobs of a cluster as its workers."""

import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cohort.pipeline import batch
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
from cohort.pipeline.existing import open_existing
from cohort.pipeline.workers import check_versions, worker_environment

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

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

MEMORY_SHARE = 0.6
"""Of a machine's free memory, what local workers share by default."""

NO_WORKERS_SECONDS = 60
"""How long a scheduler may be without workers before a call gives up."""


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
            _extra("dask_jobqueue")
            batch.check_installed()
        case Kubernetes():
            _extra("dask_kubernetes.operator")
        case Gateway():
            _extra("dask_gateway")


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
            return _share(Local(cluster="local"), None)
        case Local():
            return _share(spec, workers)
        case Gateway():
            return _share(Local(cluster="local"), None)


def smallest_limit(client: "Client") -> int | None:
    """Memory of the worker that has least, in bytes; None if there is none, or none knows."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((int(w["memory_limit"]) for w in workers if w["memory_limit"]), default=None)


def _share(spec: Local, workers: int | None) -> int:
    """Memory of a local worker."""
    if spec.memory:
        return parse_bytes(spec.memory)
    return int(MEMORY_SHARE * available_bytes() / (workers or spec.workers or worker_count()))


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
    from distributed.utils import silence_logging_cmgr

    from cohort.pipeline.freed import GiveBack

    spec = where(on)
    with ExitStack() as stack:
        # What becomes of a scheduler or a worker is said in one line by whoever waits for it.
        for logger in ("distributed", "distributed.client"):
            stack.enter_context(silence_logging_cmgr("critical", logger))
        match spec:
            case Local():
                cluster: Any = stack.enter_context(_local(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Scheduler():
                client = stack.enter_context(open_existing(spec))
            case Slurm():
                cluster = stack.enter_context(_slurm(spec, workers, memory, stack))
                client = stack.enter_context(Client(cluster))
            case Kubernetes():
                cluster = stack.enter_context(_kubernetes(spec, workers, memory))
                client = stack.enter_context(Client(cluster))
            case Gateway():
                client = stack.enter_context(_gateway(spec, workers, stack))
        if not isinstance(spec, Local):
            _wait(client, on, spec)
            check_versions(client)
        client.register_plugin(GiveBack())
        yield client


def _local(spec: Local, workers: int | None, memory: int | None) -> Any:
    import dask
    from distributed import LocalCluster

    count = workers or spec.workers or worker_count()
    limit = memory or _share(spec, workers)
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


def _slurm(spec: Slurm, workers: int | None, memory: int | None, stack: ExitStack) -> Any:
    jobqueue = _extra("dask_jobqueue")
    batch.check_installed()
    count = workers or spec.workers
    limit = memory or parse_bytes(spec.memory)
    spawned = worker_environment(limit)
    logs = spec.folder or str(batch.state_folder() / "workers")
    leaves = spec.interface != "lo"
    security = stack.enter_context(_certificates(logs)) if leaves else None
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
            log_directory=logs,
            job_name=_job_name(),
            security=security,
            # The dashboard has no login and shows logs: on loopback, whatever the workers use.
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            worker_extra_args=[
                "--dashboard-address",
                "127.0.0.1:0",
                # A worker that knows when its job ends hands its work back before.
                "--lifetime",
                f"{spec.seconds - spec.grace_seconds}s",
                "--lifetime-stagger",
                f"{spec.grace_seconds // 10}s",
            ],
            job_extra_directives=["--requeue", *spec.directives],
            job_script_prologue=[
                *(f"export {name}={value}" for name, value in spawned.items()),
                *spec.prologue,
            ],
            silence_logs=50,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the scheduler of the SLURM workers did not start: {error}") from error
    # Adaptive even at a fixed number: a job that is lost is asked for again.
    cluster.adapt(minimum=spec.minimum or count, maximum=max(count, spec.minimum or 0))
    return cluster


@contextmanager
def _certificates(folder: str) -> "Iterator[Security]":
    """Certificates for one scheduler and its workers, in a folder that they share and only this user may read."""
    from distributed.security import Security

    made = Security.temporary()
    Path(folder).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="tls-") as private:
        ca, cert, key = (str(Path(private) / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        parts = ((ca, made.tls_ca_file), (cert, made.tls_worker_cert), (key, made.tls_worker_key))
        for path, text in parts:
            Path(path).write_text(text, encoding="ascii")
        yield Security(
            require_encryption=True,
            tls_ca_file=ca,
            tls_scheduler_cert=cert,
            tls_scheduler_key=key,
            tls_worker_cert=cert,
            tls_worker_key=key,
            tls_client_cert=cert,
            tls_client_key=key,
        )


def _kubernetes(spec: Kubernetes, workers: int | None, memory: int | None) -> Any:
    operator = _extra("dask_kubernetes.operator")
    limit = memory or parse_bytes(spec.memory)
    resources = {"memory": str(limit), "cpu": "1"}
    made = operator.make_cluster_spec(
        name=spec.name,
        image=spec.image,
        n_workers=workers or spec.workers,
        resources={"requests": resources, "limits": {"memory": str(limit)}},
        # Through the nanny: it replaces what the pod says about memory by settings of its own.
        env={
            **spec.env,
            "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON": json.dumps(worker_environment(limit)),
        },
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
        server = gateway.Gateway(spec.address, proxy_address=spec.proxy, auth=spec.auth)
        stack.callback(_close_gateway, server)
        cluster = stack.enter_context(server.new_cluster(shutdown_on_close=True, **spec.options))
        cluster.scale(workers or spec.workers)
        return cluster.get_client()
    except Exception as error:
        raise ClusterError(
            f"the gateway at {spec.address} gave no cluster ({type(error).__name__}: {error})"
        ) from error


def _close_gateway(server: Any) -> None:
    server.close()
    # Its destructor closes it once more, which fails aloud in distributed 2026: the loop has ended.
    del server._loop_runner


def _extra(module: str) -> Any:
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ClusterError(
            f"this kind of cluster needs the package {module.split('.')[0].replace('_', '-')}; "
            "install it with pip install 'cohort[cluster]'"
        ) from error
    finally:
        # dask-jobqueue makes Ctrl-C an exit with code 0 when it is imported.
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)


def _wait(client: "Client", on: str, spec: Where) -> None:
    while True:
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS_SECONDS)
        except TimeoutError as error:
            # A job may wait in its queue for as long as the queue is.
            if isinstance(spec, Slurm) and batch.jobs(_job_name()):
                continue
            raise ClusterError(
                f"the cluster at {on} has had no worker for {NO_WORKERS_SECONDS} s; "
                "look at the queue of its jobs, or start one with `dask worker`"
            ) from error
        return


def _job_name() -> str:
    """Of the workers of a driver; one that is a job itself gives them its name, so that they can be ended together."""
    return f"{os.environ.get('SLURM_JOB_NAME', 'cohort')}-worker"
