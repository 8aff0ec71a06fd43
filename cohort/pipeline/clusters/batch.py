"""SLURM's commands as functions, and where the papers of jobs lie."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cohort.pipeline.clusters.clusterfile import ClusterError

ANSWER_SECONDS = 60
"""How long a busy controller may take; SLURM's own commands give up after about as long."""


@dataclass(frozen=True)
class Job:
    """A driver that was submitted and has not ended."""

    id: str
    """Of the batch system, or the process."""
    kind: str
    """``slurm`` or ``process``."""
    state: str
    """As SLURM names it: PENDING, RUNNING, COMPLETING, ..."""
    host: str
    """Where it runs; nothing while it waits."""
    log: str
    """A file that says when it started, stopped and went on; it names no scan."""


def state_folder() -> Path:
    """The user's folder for what a program has to remember: private, and on a cluster the same on every node."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return home / "cohort"


def check_installed() -> None:
    """Raise `ClusterError` where SLURM's commands are not."""
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "cluster: slurm needs the command `sbatch`; run this on a login node of the cluster"
        )


def submit(script: Path) -> str:
    """Submit a job script; return the job's id. Raises `ClusterError` with what `sbatch` says."""
    return _call("sbatch", "--parsable", str(script)).strip().partition(";")[0]


def jobs(name: str, log: Path | None = None) -> list[Job]:
    """Jobs of this user by that name which have not ended, in the order of their ids."""
    listed = _call(
        "squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%i|%T|%N"
    )
    rows = (line.strip().split("|") for line in listed.splitlines() if line.strip())
    found = [Job(id_, "slurm", state, host, str(log or "")) for id_, state, host in rows]
    return sorted(found, key=lambda job: (len(job.id), job.id))


def stop(job: Job) -> None:
    """Take a job that waits out of the queue, or tell the script of one that runs to stop."""
    if job.state == "RUNNING":
        # To the script alone: it tells its driver, which ends its workers.
        _call("scancel", "--batch", "--signal=TERM", job.id)
    elif job.state != "COMPLETING":
        _call("scancel", job.id)


def _call(*command: str) -> str:
    check_installed()
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{command[0]} did not answer within {ANSWER_SECONDS} s") from error
    except (subprocess.CalledProcessError, OSError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise ClusterError(f"{command[0]}: {said[-1] if said else 'failed'}") from error
    return done.stdout
