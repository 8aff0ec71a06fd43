"""SLURM for real: what its job scripts do with a driver, and workers that are jobs."""

import gc
import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.security import Security
from hypothesis import given
from hypothesis import strategies as st
from slurm import NAMES, Nodes, nodes, run

from cohort.pipeline import cluster
from cohort.pipeline.clusters import batch, slurm, templates
from cohort.pipeline.clusters.clusterfile import ClusterError, Slurm, read_where

__all__ = ["nodes"]

UNIT = "cohort-made"


def render(
    name: str,
    out: Path,
    update: list[str],
    *,
    where: Slurm | None,
    clock: str = "03:00",
    days: tuple[int, ...] = (),
) -> str:
    """A file of deploy/slurm, as `cohort deploy` and `cohort submit` fill it in."""
    schedule = {"clock": clock, "cron": "0 3 * * 1-5", "days": days}
    return templates.environment().get_template(f"slurm/{name}.j2").render(
        unit=UNIT, out=str(out), update=update, where=where, workers=2, memory=1 << 30,
        environment={"MADE": "it's so"}, schedule=schedule,
    )  # fmt: skip


def program(folder: Path, body: str) -> list[str]:
    """A driver of one's own making."""
    path = folder / "driver.sh"
    path.write_text(f"#!/bin/bash\ncd {folder}\n{body}")
    path.chmod(0o755)
    return [str(path)]


@pytest.fixture
def folder(nodes: Nodes, request) -> Path:
    """Where the jobs of one test write; nobody else's job is in the queue."""
    nodes.clear()
    path = nodes.shared / re.sub(r"\W+", "_", request.node.name)
    path.mkdir(parents=True)
    return path


def send(nodes: Nodes, folder: Path, body: str) -> str:
    """Submit the driver's script around a program; return the job."""
    where = read_where(nodes.cluster())
    script = folder / f"{UNIT}.sbatch"
    script.write_text(render("UNIT.sbatch", folder, program(folder, body), where=where))
    return batch.submit(script)


def code(folder: Path) -> int | None:
    """How the driver has ended."""
    path = folder / f"{UNIT}.exit"
    return int(path.read_text()) if path.exists() and path.read_text() else None


def log(folder: Path) -> str:
    path = folder / f"{UNIT}.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("place", ["/plain/place", '/with a blank/it\'s "here"/100%/#1/$HOME'])
@pytest.mark.parametrize("name", ["UNIT.sbatch", "UNIT-nightly.sbatch"])
@pytest.mark.parametrize(
    "cluster_text",
    [
        None,
        "cluster: slurm\n",
        "cluster: slurm\nqueue: a b\naccount: x\ndirectives: [--qos=long, --exclusive]\nprologue: [module load python]\n",
    ],
)
def test_a_job_script_is_sound_shell_for_any_place(tmp_path, place, name, cluster_text):
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "shellcheck is not installed; it is in the extra `test`"
    where = None
    if cluster_text is not None:
        (tmp_path / "where.yaml").write_text(cluster_text)
        where = read_where(tmp_path / "where.yaml")
    script = tmp_path / "script.sh"
    script.write_text(
        render(name, Path(place), ["cohort", "update", f"{place}/a.yaml"], where=where)
    )
    found = subprocess.run(
        [checker, "--exclude=SC2016", script], check=False, capture_output=True, text=True
    )
    assert found.stdout == ""
    lines = script.read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    # SLURM reads them up to the first command.
    assert lines.index(directives[-1]) < lines.index("set -u")
    assert not any("--exclusive" in line for line in directives)


@given(text=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1))
def test_a_quoted_word_is_one_word_of_a_shell(text):
    import shlex

    assert shlex.split(templates.quote(text)) == [text]
    assert shlex.split(templates.quote([text, "b"])) == [text, "b"]
    assert shlex.split(templates.directive(text), comments=True) == [text]


@pytest.mark.slow
@pytest.mark.parametrize("expected", [0, 1, 2])
def test_a_driver_that_ends_is_not_run_again(nodes, folder, expected):
    send(nodes, folder, f"echo once; exit {expected}\n")
    nodes.wait_for(lambda: code(folder) is not None and not nodes.jobs())
    assert code(folder) == expected
    assert log(folder).count("started") == 1
    assert (folder / f"{UNIT}.console").read_text() == "once\n"
    assert stat.S_IMODE((folder / f"{UNIT}.console").stat().st_mode) == 0o600


STOPS_THEN_ENDS = """\
if [ -e begun ]; then exit 0; fi
trap 'sleep 1; exit 75' TERM
touch begun
while :; do sleep 0.1; done
"""


@pytest.mark.slow
def test_a_driver_goes_on_in_another_job_after_a_signal_of_any_kind(nodes, folder):
    first = send(nodes, folder, STOPS_THEN_ENDS)
    nodes.wait_for(lambda: (folder / "begun").exists())
    run("scancel", "--batch", "--signal=TERM", first)
    nodes.wait_for(lambda: code(folder) is not None)
    assert code(folder) == 0
    assert re.search(rf"job {first} .*goes on as job (?!{first})\d+", log(folder))
    assert log(folder).count("started") == 2


@pytest.mark.slow
def test_a_driver_that_is_told_to_stop_before_it_can_listen_goes_on_too(nodes, folder):
    first = send(nodes, folder, STOPS_THEN_ENDS.replace("trap", "# trap"))
    nodes.wait_for(lambda: (folder / "begun").exists())
    run("scancel", "--batch", "--signal=TERM", first)
    nodes.wait_for(lambda: code(folder) is not None)
    assert (code(folder), log(folder).count("started")) == (0, 2)


@pytest.mark.slow
def test_a_driver_whose_time_is_nearly_over_goes_on_in_another_job(nodes, folder):
    where = read_where(nodes.cluster(walltime="00:01:00"))
    script = folder / f"{UNIT}.sbatch"
    script.write_text(render("UNIT.sbatch", folder, program(folder, STOPS_THEN_ENDS), where=where))
    assert "--time=00:01:00" in script.read_text()
    batch.submit(script)
    nodes.wait_for(lambda: code(folder) is not None)
    assert (code(folder), log(folder).count("started")) == (0, 2)


@pytest.mark.slow
def test_a_driver_that_slurm_puts_back_into_the_queue_goes_on_there(nodes, folder):
    first = send(nodes, folder, STOPS_THEN_ENDS)
    nodes.wait_for(lambda: (folder / "begun").exists())
    run("scontrol", "requeue", first)
    nodes.wait_for(lambda: nodes.jobs(form="%i|%T") == [f"{first}|PENDING"])
    # SLURM waits two minutes before it starts a job again, as nodes may refuse it in the second in which it ended there.
    run("scontrol", "update", f"jobid={first}", "starttime=now+3")
    nodes.wait_for(lambda: code(folder) is not None)
    assert code(folder) == 0
    assert "goes on" not in log(folder)
    assert log(folder).count(f"job {first} on") == 4


@pytest.mark.slow
def test_a_driver_that_is_cancelled_stays_so(nodes, folder):
    first = send(nodes, folder, STOPS_THEN_ENDS)
    second = send(nodes, folder, STOPS_THEN_ENDS)
    nodes.wait_for(lambda: (folder / "begun").exists())
    # One at a time, whatever the number of submissions.
    assert nodes.jobs(form="%i|%T|%r") == [f"{second}|PENDING|Dependency", f"{first}|RUNNING|None"]
    run("scancel", first)
    nodes.wait_for(lambda: log(folder).count("started") == 2 and not nodes.jobs())
    assert "goes on" not in log(folder)


@pytest.mark.slow
def test_the_workers_of_a_driver_that_was_killed_are_ended_with_it(nodes, folder):
    body = (
        "for i in 1 2 3 4 5 6 7; do sbatch --quiet --output=/dev/null --job-name=$SLURM_JOB_NAME-worker "
        "--ntasks=1 --mem=100M --wrap='sleep 300'; done; touch begun; kill -9 $$\n"
    )
    send(nodes, folder, body)
    nodes.wait_for(lambda: code(folder) is not None)
    assert code(folder) == 137
    nodes.wait_for(lambda: not nodes.jobs())


def nightly(nodes: Nodes, folder: Path, clock: str, days: tuple[int, ...] = ()) -> str:
    """Submit the clock, with nights that are seconds, of a driver that counts them; return the first job."""
    where = read_where(nodes.cluster())
    (folder / f"{UNIT}.sbatch").write_text(
        render("UNIT.sbatch", folder, program(folder, "echo night >>nights\n"), where=where)
    )
    script = folder / f"{UNIT}-nightly.sbatch"
    text = render("UNIT-nightly.sbatch", folder, [], where=where, days=days)
    assert text.count('--begin="$begin"') == 1
    script.write_text(text.replace('--begin="$begin"', f"--begin={clock}"))
    return batch.submit(script)


@pytest.mark.parametrize("hour", [0, 12, 23])
@pytest.mark.parametrize("change", ["put back today", "put on tomorrow"])
def test_the_next_night_is_on_the_next_day_where_clocks_change_too(tmp_path, hour, change):
    for name, body in (("sbatch", f'echo "$@" >>{tmp_path}/asked'), ("squeue", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    utc = datetime.now(UTC).replace(tzinfo=None)
    ahead = (hour - utc.hour + 12) % 24 - 12
    now = utc + timedelta(hours=ahead)
    # In the signs of POSIX, hours behind UTC; days count from 0. At noon and later the clocks were put back before.
    is_summer = change == "put back today" and hour < 3
    standard, day = is_summer - ahead, now.timetuple().tm_yday - 1
    summer = f"0/0,{day}/3" if change == "put back today" else f"{day + 1}/3,365/24"
    zone = f"STD{standard:+}OFF{standard - 1:+},{summer}"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TZ": zone, "SLURM_JOB_NAME": "x"}
    for minutes, later in ((-1, 1), (0, 1), (5, 0)):
        clock = now + timedelta(minutes=minutes)
        text = render("UNIT-nightly.sbatch", tmp_path, [], where=None, clock=f"{clock:%H:%M}")
        subprocess.run(["bash", "-c", text], env=environment, check=True, capture_output=True)
        begin, _ = (tmp_path / "asked").read_text().splitlines()
        (tmp_path / "asked").unlink()
        expected = clock + timedelta(days=later)
        assert begin.startswith(f"--begin={expected:%Y-%m-%dT%H:%M} ")


@pytest.mark.slow
def test_the_nightly_script_submits_the_driver_and_itself_again(nodes, folder):
    nightly(nodes, folder, "now+5")
    nights = folder / "nights"
    nodes.wait_for(lambda: nights.exists() and nights.read_text().count("night") >= 3)
    # The next night waits, once, and nothing else.
    waiting = nodes.jobs(f"--name={UNIT}-nightly", "--states=PENDING")
    assert len(waiting) <= 1
    run("scancel", f"--name={UNIT}-nightly")


# The first time: as where the controller is restarted, or too busy to answer.
NO_ANSWER = """\
#!/bin/bash
if {when} && mkdir {folder}/refused 2>/dev/null; then
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    exit 1
fi
exec {sbatch} "$@"
"""


def no_answer(folder: Path, patch: pytest.MonkeyPatch, when: str = "true") -> None:
    """Let the first call of `sbatch` for which `when` holds, in the shell, fail."""
    program = folder / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(NO_ANSWER.format(folder=folder, when=when, sbatch=shutil.which("sbatch")))
    program.chmod(0o755)
    patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.slow
def test_the_chain_of_nights_outlives_a_controller_that_does_not_answer(nodes, folder, monkeypatch):
    no_answer(folder, monkeypatch, '[ -n "${SLURM_JOB_ID:-}" ]')
    nightly(nodes, folder, "now+1")
    nights = folder / "nights"
    nodes.wait_for(lambda: nights.exists() and nights.read_text().count("night") >= 2)
    assert (folder / "refused").exists()
    run("scancel", f"--name={UNIT}-nightly")


@pytest.mark.slow
def test_the_nightly_script_leaves_out_the_days_that_are_not_meant(nodes, folder):
    today = date.today().weekday()
    days = tuple(day for day in range(7) if day not in (today, (today + 1) % 7))
    first = nightly(nodes, folder, "now+1", days)
    # The night after the next one waits: two have come to their end.
    nodes.wait_for(
        lambda: (n := nodes.jobs(f"--name={UNIT}-nightly")) and int(n[0]) >= int(first) + 2
    )
    run("scancel", f"--name={UNIT}-nightly")
    nodes.wait_for(lambda: not nodes.jobs())
    assert not (folder / "nights").exists()


@pytest.mark.slow
def test_the_scrontab_says_when_and_submits_the_driver(nodes, folder):
    where = read_where(nodes.cluster())
    (folder / f"{UNIT}.sbatch").write_text(
        render("UNIT.sbatch", folder, program(folder, "exit 0\n"), where=where)
    )
    *options, line = render("UNIT.scron", folder, [], where=where).splitlines()
    assert options.pop(0).startswith("# ")
    assert all(option.startswith("#SCRON --") for option in options)
    *when, command = line.split(" ", 5)
    assert when == ["0", "3", "*", "*", "1-5"]
    # Debian's SLURM has no scrontab: its options and its command, as scrontab would submit them.
    flags = [option.removeprefix("#SCRON ") for option in options]
    run("sbatch", *flags, f"--wrap={command}")
    nodes.wait_for(lambda: code(folder) == 0)


def test_a_queue_that_cannot_be_asked_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="needs the command `sbatch`; run this on a login node"):
        batch.jobs("name", tmp_path)
    for name, body in (("sbatch", "echo 'no such partition' >&2; exit 1"), ("squeue", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterError, match=r"^sbatch: no such partition$"):
        batch.submit(tmp_path / "script")
    with pytest.raises(ClusterError, match=r"^squeue: "):
        batch.jobs("name", tmp_path)


def test_ctrl_c_is_what_it_was_before_slurm_was_asked_for(tmp_path):
    (tmp_path / "where.yaml").write_text("cluster: slurm\n")
    (tmp_path / "sbatch").touch(mode=0o755)
    code = (
        "import signal; from cohort.pipeline import cluster; before = signal.getsignal(signal.SIGINT)\n"
        "cluster.check('where.yaml'); import dask_jobqueue\n"
        "assert signal.getsignal(signal.SIGINT) is before"
    )
    run(
        sys.executable,
        "-c",
        f"import os; os.chdir({str(tmp_path)!r}); os.environ['PATH'] = '.'\n{code}",
    )


def listening(client: Client) -> set[tuple[str, int]]:
    """Addresses and ports at which the scheduler, which is here, its workers and their nannies can be reached."""
    pids = {os.getpid(), *client.run(os.getpid).values(), *client.run(os.getppid).values()}
    return {
        connection.laddr
        for pid in pids
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_are_jobs_that_listen_here_only_and_end_with_the_client(nodes, folder):
    with cluster.connect(str(nodes.cluster(workers=2, memory="512MiB"))) as client:
        client.wait_for_workers(2, timeout=120)
        assert set(client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {
            str((512 << 20) // 10)
        }
        assert set(client.run(os.getenv, "SLURMD_NODENAME").values()) <= set(NAMES)
        assert {ip for ip, _ in listening(client)} == {"127.0.0.1"}
        assert len(nodes.jobs("--name=cohort-worker")) == 2
    nodes.wait_for(lambda: not nodes.jobs())
    assert list((nodes.shared / "jobs").glob("cohort-worker-*.err"))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_worker_that_was_refused_once_is_asked_for_again(nodes, folder, monkeypatch):
    no_answer(folder, monkeypatch)
    monkeypatch.setattr(slurm, "AGAIN_SECONDS", 2.0)
    with cluster.connect(str(nodes.cluster(workers=2, memory="512MiB"))) as client:
        client.wait_for_workers(2, timeout=120)
        assert (folder / "refused").exists()
        assert slurm.refusal(client.cluster) is None
    nodes.wait_for(lambda: not nodes.jobs())


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_no_node_can_take_are_one_line_with_the_words_of_sbatch(
    nodes, folder, monkeypatch
):
    monkeypatch.setattr(cluster, "NO_WORKERS_SECONDS", 5)
    monkeypatch.setattr(slurm, "AGAIN_SECONDS", 2.0)
    where = str(nodes.cluster(workers=2, memory="900GiB"))
    said = r"5 s: sbatch: .*node configuration is not available; .* memory, .* in .*slurm.yaml"
    with pytest.raises(ClusterError, match=said), cluster.connect(where):
        pass
    # Nor does one come of a job that ends at once: what it said is where the message says.
    where = str(
        nodes.cluster(workers=1, memory="512MiB", prologue="[echo no such module >&2, exit 3]")
    )
    said = r"is in .*/jobs/cohort-worker-\*\.err"
    with pytest.raises(ClusterError, match=said) as told, cluster.connect(where):
        pass
    logs = Path(str(told.value).rpartition(" is in ")[2])
    assert any("no such module" in log.read_text() for log in logs.parent.glob(logs.name))


@pytest.mark.slow
@pytest.mark.cluster
def test_off_this_machine_workers_are_encrypted_and_a_stranger_is_refused(nodes, folder):
    outside = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if name != "lo"
        and psutil.net_if_stats()[name].isup
        and any(a.family.name == "AF_INET" for a in addresses)
    ]
    if not outside:
        pytest.skip("this machine has no network interface but loopback")
    with cluster.connect(
        str(nodes.cluster(workers=1, memory="512MiB", interface=outside[0]))
    ) as client:
        info = client.scheduler_info(n_workers=-1)
        address = info["address"]
        # What can be reached from outside speaks TLS: the scheduler, the worker and its nanny, and nothing else.
        encrypted = {address, *info["workers"], *(w["nanny"] for w in info["workers"].values())}
        assert {
            f"tls://{ip}:{port}" for ip, port in listening(client) if ip != "127.0.0.1"
        } == encrypted
        with pytest.raises(TypeError, match="TLS expects"):
            Client(address, timeout=3)
        # A client that was refused is closed when its garbage is collected; were that while the next one starts its
        # loop, both would wait for the same lock of Dask's for ever.
        gc.collect()
        # Certificates that nobody here gave out.
        with pytest.raises(OSError, match="TLS certificate does not match"):
            Client(address, timeout=3, security=Security.temporary())
        gc.collect()
        with pytest.raises(OSError, match=r"reset|Timed out"):
            Client(address.replace("tls:", "tcp:"), timeout=3)
