"""A SLURM of three nodes on this machine: the real controller, daemons and munge, on loopback, nothing under /etc touched.

A test module asks for it with ``from slurm import nodes``. Where SLURM is not installed its tests are skipped with the
reason; with ``CI=true`` they fail.
"""

import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "squeue", "scontrol", "munged")
NAMES = ("n1", "n2", "n3")

# On a machine that is busy with other things a daemon may not answer within the seconds that SLURM grants by default: a job
# that a node was slow to launch is put back for two minutes, an `sbatch` is refused, a node is set down or drained for good.
CONFIG = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ReturnToService=1
KillWait=30
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
SlurmdTimeout=0
UnkillableStepTimeout=600
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/ctld
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=6000 State=UNKNOWN
PartitionName=batch Nodes=n[1-3] LLN=YES Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why SLURM cannot run here, or None."""
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"SLURM is not installed ({', '.join(lacking)}); tests/debian.txt lists its packages"
    if os.geteuid() != 0:
        return "the daemons of SLURM need root"
    return None


@dataclass(frozen=True)
class Nodes:
    """Three idle nodes of two cores each; `SLURM_CONF` leads SLURM's commands to them.

    Parameters
    ----------
    folder : Path
        State, logs and sockets of the daemons; removed with them. Tests put their own files into `shared`.
    """

    folder: Path

    @property
    def shared(self) -> Path:
        """What all nodes see."""
        return self.folder / "shared"

    def cluster(self, name: str = "slurm.yaml", **settings: object) -> Path:
        """Write the YAML for ``--on``: three workers of 1 GiB, all files on `shared`, unless `settings` say otherwise."""
        said = {
            "cluster": "slurm",
            "workers": 3,
            "memory": "1GiB",
            "driver_memory": "1GiB",
            "queue": "batch",
            "walltime": "00:20:00",
            "folder": self.shared / "jobs",
            "scratch": self.shared,
            **settings,
        }
        path = self.shared / name
        path.write_text("".join(f"{key}: {value}\n" for key, value in said.items()))
        return path

    def jobs(self, *options: str, form: str = "%i") -> list[str]:
        """Jobs as `squeue` lists them."""
        return run("squeue", "--noheader", f"--format={form}", *options).split()

    def wait_for(self, happened: Callable[[], object], *, seconds: float = 400) -> None:
        """Wait until something has happened; say what the queue looks like if it does not."""
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                nodes = run("sinfo", "--Node", "--long")
                pytest.fail(f"not within {seconds} s:\n{run('squeue', '--long')}\n{nodes}")
            time.sleep(0.2)

    def clear(self) -> None:
        """Nobody's job is left, and every node works again."""
        self.wait_for(
            lambda: run("scancel", f"--user={os.getuid()}") or not self.jobs(), seconds=60
        )
        for name in NAMES:
            state = run("sinfo", "--noheader", f"--nodes={name}", "--format=%T")
            if "down" in state or "drain" in state:
                run("scontrol", "update", f"nodename={name}", "state=resume")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three idle nodes."""
    if (reason := missing()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # The paths of sockets are short, and munged wants folders that every user may pass: pytest's own are neither.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            yield _start(folder)
        finally:
            gc.collect()  # of a closed cluster: its certificates lie in files that go when it does
            _stop(folder)
            shutil.rmtree(folder, ignore_errors=True)


def run(*command: str) -> str:
    """What a command prints. Raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _start(folder: Path) -> Nodes:
    munge = folder / "munge"
    for name in ("shared", "ctld", "munge", *(f"spool-{node}" for node in NAMES)):
        (folder / name).mkdir()
    (munge / "key").write_bytes(os.urandom(1024))
    for path in (munge, munge / "key"):
        shutil.chown(path, "munge", "munge")
    munge.chmod(0o755)
    (munge / "key").chmod(0o600)
    port, first = _free_ports(4)
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            port=port,
            first=first,
            last=first + 2,
        )
    )
    run(
        "runuser", "-u", "munge", "--", "munged", f"--key-file={munge}/key", f"--socket={munge}/sock",
        f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--force",
    )  # fmt: skip
    run("slurmctld")
    for name in NAMES:
        run("slurmd", "-N", name)
    made = Nodes(folder)
    made.wait_for(lambda: len(run("sinfo", "-h", "-N", "-t", "idle").splitlines()) == len(NAMES))
    return made


def _free_ports(count: int) -> tuple[int, int]:
    """First of `count` free ports in a row, and the one after it."""
    for first in range(20_000 + os.getpid() % 10_000, 60_000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first, first + 1
    raise OSError("no free ports on 127.0.0.1")


def _stop(folder: Path) -> None:
    """Everything that was started here or by a job of these nodes: it knows the nodes by their configuration."""
    with contextlib.suppress(subprocess.SubprocessError):
        run("scancel", f"--user={os.getuid()}")
        time.sleep(1)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _ours(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5
        while list(_ours(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)


def _ours(folder: Path) -> Iterator[int]:
    """Processes whose environment or command line names the folder, but for this one and those that it started itself."""
    here = psutil.Process()
    mine = {here.pid, *(child.pid for child in here.children(recursive=True))}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            said = (
                Path(f"/proc/{process.pid}/environ").read_bytes(),
                *map(str.encode, process.cmdline()),
            )
            if process.pid not in mine and any(str(folder).encode() in text for text in said):
                yield process.pid
