"""A scheduler here, whose workers are jobs of SLURM."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cohort.pipeline.clusters import batch
from cohort.pipeline.clusters.clusterfile import ClusterError, Slurm, parse_bytes
from cohort.pipeline.clusters.extras import extra
from cohort.pipeline.clusters.workers import worker_environment

if TYPE_CHECKING:
    from distributed.security import Security


AGAIN_SECONDS = 20.0
"""Pause after a job that was refused; of a queue that goes on refusing, half the time for which it has done so."""

LONGEST_SECONDS = 600.0
"""The longest such pause."""


def open_slurm(spec: Slurm, workers: int | None, memory: int | None, stack: ExitStack) -> Any:
    """A new cluster of one job a worker; `stack` holds its certificates. Raises ClusterError."""
    jobqueue = extra("dask_jobqueue")
    batch.check_installed()
    count = workers or spec.workers
    limit = memory or parse_bytes(spec.memory)
    spawned = worker_environment(limit)
    logs = log_folder(spec)
    leaves = spec.interface != "lo"
    security = stack.enter_context(_certificates(logs)) if leaves else None
    try:
        cluster = jobqueue.SLURMCluster(
            job_cls=_job_class(jobqueue.slurm.SLURMJob),
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
            job_name=job_name(),
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


def refusal(cluster: Any) -> str | None:
    """What `sbatch` said when it last refused a worker of `open_slurm`; None if it has taken one since."""
    said: str | None = cluster.job_cls.refusal
    return said


def _job_class(plain: Any) -> type:
    """Jobs of one cluster, `plain` but for those that the queue refuses.

    Dask takes a worker whose job was refused, by a controller that was just busy too, for one that is on its way: it would
    never ask for it again, and on closing end with an AssertionError.
    """
    from distributed.core import Status

    class Job(plain):  # type: ignore[misc]
        refusal: str | None = None
        since: float = 0.0

        async def start(self) -> None:
            kind, now = type(self), time.monotonic()
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                self.status = Status.failed
                if kind.refusal is None:
                    kind.since = now
                kind.refusal = (str(error).strip() or type(error).__name__).splitlines()[-1]
                pause = min(max(AGAIN_SECONDS, (now - kind.since) / 2), LONGEST_SECONDS)
                asyncio.get_running_loop().call_later(pause, self._leave)
                raise
            kind.refusal = None

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

        def _leave(self) -> None:
            """Give the place to another job, which the cluster asks for as soon as it sees that one is missing."""
            cluster = self._cluster()
            if cluster is not None and cluster.workers.get(self.name) is self:
                del cluster.workers[self.name]
                cluster.worker_spec.pop(self.name, None)

    return Job


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


def log_folder(spec: Slurm) -> str:
    """Where the jobs of workers leave what they say."""
    return spec.folder or str(batch.state_folder() / "workers")


def job_name() -> str:
    """Of the workers of a driver; one that is a job itself gives them its name, so that they can be ended together."""
    return f"{os.environ.get('SLURM_JOB_NAME', 'cohort')}-worker"
