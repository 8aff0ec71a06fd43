"""A driver that outlives the terminal: a job of the cluster's own queue, or a process of its own on this machine.

What was submitted for a store stands in a private file of the user's, ``<digest of the store>.jobs``; scripts and logs lie
in a folder beside it, or in the `folder` that a cluster's YAML names.
"""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cohort import provenance
from cohort.io.storage.backend import Locked
from cohort.pipeline.clusters import batch, templates
from cohort.pipeline.clusters.batch import Job
from cohort.pipeline.clusters.clusterfile import ClusterError, Kubernetes, Slurm, Where

if TYPE_CHECKING:
    from cohort.io.storage.papers import Papers
    from cohort.io.store import Store

LOOK_SECONDS = 2.0
"""How often somebody who waits looks."""

LOOKS = 5
"""So many times in a row a submission is seen neither waiting nor running before it counts as lost."""


@dataclass(frozen=True)
class Submission:
    """One driver, over all the jobs in which it goes on."""

    kind: Literal["slurm", "process"]
    unit: str
    """The name of its jobs and files."""
    id: str
    """Of its first job, or of its process."""
    folder: str
    host: str
    """Where it was submitted; a process runs there."""
    born: int = 0
    """When the process began, in ticks of this machine's clock since it was started: ids are used again."""

    @property
    def log(self) -> Path:
        """When its jobs started, stopped and went on; names no scan and no file."""
        return Path(self.folder) / f"{self.unit}.log" if self.kind == "slurm" else self.console

    @property
    def console(self) -> Path:
        """What the command says: for the operator, it may name files."""
        return Path(self.folder) / f"{self.unit}.console"

    @property
    def mark(self) -> Path:
        """There when it was cancelled."""
        return Path(self.folder) / f"{self.unit}.cancelled"

    @property
    def code(self) -> Path:
        """Its exit code, once it has ended and does not go on."""
        return Path(self.folder) / f"{self.unit}.exit"


def submit(cohort: str, store: "Store", where: Where, update: Sequence[str]) -> Submission:
    """Start a driver that goes on when this process, or its terminal, ends.

    Parameters
    ----------
    cohort : str
        The catalog's name for it.
    store : Store
    where : Where
        SLURM: the driver is a job. Any other but Kubernetes: a process on this machine, without a terminal.
    update : sequence of str
        Arguments of ``cohort``, such as ``["update", "oasis1.yaml", "--on", "slurm.yaml"]``; relative paths in them are
        relative to the present folder.

    Raises
    ------
    Locked
        If a driver that was submitted for this store waits or runs, or somebody else writes to it.
    StoreError
        If the store belongs to another cohort, or cannot be written from here (`Unwritable`).
    ClusterError
        If there is no queue here, or it refuses the job.
    """
    if isinstance(where, Kubernetes):
        raise ClusterError(
            "cluster: kubernetes has no queue for a driver; expected its CronJob: `cohort deploy kubernetes CATALOG`, "
            "`kubectl apply`, then `kubectl create job --from=cronjob/NAME NAME-now`"
        )
    if found := jobs_of(store):
        raise Locked(
            f"already submitted: job {found[0].id} is {found[0].state} on {found[0].host or 'no node yet'}; "
            "`cohort cancel` stops it"
        )
    # Somebody else's call, or a place that cannot be written, is met here and not by a driver in the night.
    with store.lock():
        # From now on there is something to look at, to follow and to cancel, however long the queue is.
        store.write_info(cohort=cohort)
    unit = f"cohort-{re.sub(r'[^a-z0-9]+', '-', cohort.lower()).strip('-')}-{_digest(store)[:8]}"
    shared = where.folder if isinstance(where, Slurm) else None
    folder = Path(shared or batch.state_folder()) / unit
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ClusterError(
            f"folder {folder}: expected a place for scripts and logs that can be written, found: {error.strerror}; "
            "state another `folder` in the cluster's YAML, on storage that all nodes share"
        ) from error
    planned = Submission("process", unit, "", str(folder), socket.gethostname())
    for old in (planned.mark, planned.code):
        old.unlink(missing_ok=True)
    command = [sys.executable, "-m", "cohort.cli", *update]
    made = (
        _as_job(planned, where, command)
        if isinstance(where, Slurm)
        else _as_process(planned, command)
    )
    remember(store, made)
    return made


def submission_of(store: "Papers") -> Submission | None:
    """What was last submitted for a store by this user, or None."""
    try:
        return Submission(**json.loads(file_of(store).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def jobs_of(store: "Papers") -> list[Job]:
    """Drivers submitted for a store that wait or run; none once they have ended.

    Raises
    ------
    ClusterError
        If SLURM has to be asked and does not answer.
    """
    known = submission_of(store)
    if known is None:
        return []
    if known.kind == "slurm":
        return batch.jobs(known.unit, known.log)
    if known.host != socket.gethostname():
        # Its own end is the only one that says whether it lives: the lock of the store does.
        return []
    lives = known.born == _born(int(known.id))
    return [Job(known.id, "process", "RUNNING", known.host, str(known.log))] if lives else []


def cancel_jobs(store: "Papers") -> int:
    """Stop the drivers submitted for a store: those that wait leave the queue, those that run finish or drop a scan.

    Returns
    -------
    int
        How many were told. They end within 30 s, and their workers with them. Where SLURM's commands are not, none can be
        told: one that waits finds itself cancelled when it starts, and one that runs is not submitted again.
    """
    known = submission_of(store)
    if known is None:
        return 0
    if Path(known.folder).is_dir():
        # Before anything else: a driver that stops now is not submitted again.
        known.mark.touch()
    try:
        found = jobs_of(store)
    except ClusterError:
        return 0
    for job in found:
        if job.kind == "slurm":
            with suppress(ClusterError):  # it ended just now
                batch.stop(job)
        else:
            with suppress(ProcessLookupError):
                os.kill(int(job.id), signal.SIGTERM)
    return len(found)


def wait(store: "Papers", known: Submission, *, tell: Callable[[str], None]) -> int:
    """Wait until a submission has ended, over all its jobs; return the driver's exit code.

    Parameters
    ----------
    tell : callable
        Called with a line whenever its job or the state of its job is another.

    Raises
    ------
    ClusterError
        If it ended without a word: killed, or its node was lost for good.
    """
    said, missed = "", 0
    while True:
        if (code := exit_code(known)) is not None:
            return code
        found = jobs_of(store)
        line = "; ".join(f"job {job.id}: {job.state} {job.host}".rstrip() for job in found)
        if line and line != said:
            tell(line)
            said = line
        missed = 0 if found else missed + 1
        if known.mark.exists() and not found:
            return 75
        if missed > LOOKS:
            raise ClusterError(
                f"the driver ended without an exit code, killed or lost with its node; see {known.log}; "
                "what is done is kept, submit again to go on"
            )
        time.sleep(LOOK_SECONDS)


def _as_job(planned: Submission, where: Slurm, command: Sequence[str]) -> Submission:
    batch.check_installed()
    script = Path(planned.folder) / f"{planned.unit}.sbatch"
    text = templates.environment().get_template("slurm/UNIT.sbatch.j2").render(
        unit=planned.unit, out=planned.folder, where=where, update=list(command), environment=_private_places()
    )  # fmt: skip
    script.write_text(text, encoding="utf-8")
    script.chmod(0o700)
    return replace(planned, kind="slurm", id=batch.submit(script))


def _private_places() -> Mapping[str, str]:
    """Where keys, caches and logs lie, if the user said so: the same for the driver, whatever its job inherits."""
    names = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _as_process(planned: Submission, command: Sequence[str]) -> Submission:
    # A session of its own: no terminal that closes, or Ctrl-C in it, reaches the driver.
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        command[0],
        list(command),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(planned.console), writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return replace(planned, id=str(pid), born=_born(pid) or 0)


def exit_code(known: Submission) -> int | None:
    """Exit code of a driver that has ended, if somebody heard it."""
    if known.kind == "process":
        try:
            ended, status = os.waitpid(int(known.id), os.WNOHANG)
        except ChildProcessError:  # submitted by another process
            return None
        code = os.waitstatus_to_exitcode(status) if ended else None
        # Told to stop before it could listen.
        return 75 if code == -signal.SIGTERM else code
    try:
        return int(known.code.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _born(pid: int) -> int | None:
    """When a process began, in ticks since this machine did; None if there is no such process, or it has ended."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _digest(store: "Papers") -> str:
    return provenance.digest(store.url)[:16]


def file_of(store: "Papers") -> Path:
    """Where it is remembered what was submitted for a store: private, as it names folders."""
    return batch.state_folder() / f"{_digest(store)}.jobs"


def remember(store: "Papers", made: Submission) -> None:
    """Note what was submitted for a store; what was before is forgotten."""
    path = file_of(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(asdict(made)), encoding="utf-8")
    temporary.replace(path)
