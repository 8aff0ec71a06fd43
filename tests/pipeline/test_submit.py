"""`cohort submit`: a driver that outlives its terminal, as a job of SLURM or as a process of its own."""

import hashlib
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from cohorts import write_cohort
from hypothesis import given
from hypothesis import strategies as st
from slurm import Nodes, nodes, run
from typer.testing import CliRunner

from cohort import api, submitting
from cohort.cli import app
from cohort.io.catalog import read_catalog
from cohort.io.store import Locked, Store
from cohort.pipeline.clusters import existing, submit
from cohort.pipeline.clusters.clusterfile import ClusterError, Local, Slurm, read_where

__all__ = ["nodes"]

SLOW_STEP = "  smooth: {call: median, image: image, size: 7}\n"
"""Makes a scan take long enough to be interrupted."""


def cohort(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process of its own."""
    command = [sys.executable, "-m", "cohort.cli", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=240, cwd=cwd
    )


def made(folder: Path, scans: int, *, slow: bool = False) -> Path:
    """A cohort in a new folder; `slow` scans take a second or so each."""
    folder.mkdir(parents=True)
    catalog = write_cohort(folder, scans)
    if slow:
        recipe = folder / "recipes/ball.yaml"
        text = recipe.read_text().replace("steps:\n", f"steps:\n{SLOW_STEP}")
        recipe.write_text(text.replace("keep: [big]", "keep: [big, smooth]"))
        for path in (folder / "scans").iterdir():
            _enlarge(path)
    return catalog


def _enlarge(path: Path) -> None:
    import nibabel as nib
    import numpy as np

    image = nib.load(path)
    data = np.tile(np.asanyarray(image.dataobj), (3, 3, 3))
    header = image.header
    nib.save(nib.Nifti1Image(data, image.affine, header), path)


def contents(store: Path) -> dict[str, str]:
    """Digest of every file that holds a number: of scans, derivatives, tables and models.

    What a killed writer left half written has no place in it: readers pass it by, `verify` tells of it, `gc` takes it.
    """
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("scans", "derivatives", "tables", "models")
        for path in sorted((store / folder).rglob("*"))
        if path.is_file() and path.suffix != ".tmp"
    }


def until(happened, *, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


# -- what is handed on -----------------------------------------------------------------------------


def options_of(arguments: list[str], command: str = "update") -> dict:
    group = typer.main.get_command(app)
    return group.commands[command].make_context(command, list(arguments)).params


@given(
    workers=st.none() | st.integers(0, 99),
    memory=st.none() | st.sampled_from(["2GiB", "500MB"]),
    grain=st.sampled_from(["auto", "scan", "block"]),
    source=st.none() | st.lists(st.text("ab /'\"$*", min_size=1).map(lambda t: f"x{t}"), min_size=1, max_size=3),
    budget=st.none() | st.sampled_from(["6h", "90min"]),
    max_scans=st.none() | st.integers(1, 99),
    flags=st.sets(st.sampled_from(["retry", "rehash", "strict", "accept_versions"])),
)  # fmt: skip
def test_the_driver_gets_every_option_as_it_was_typed(
    workers, memory, grain, source, budget, max_scans, flags
):
    import inspect

    from cohort.cli import update

    given_ = {"workers": workers, "memory": memory, "grain": grain, "source": source}
    given_ |= {"budget": budget, "max_scans": max_scans}
    given_ |= {flag: flag in flags for flag in ("retry", "rehash", "strict", "accept_versions")}
    handed = submitting.arguments(inspect.signature(update).parameters, given_)
    found = options_of(["catalog.yaml", *shlex.split(shlex.join(handed))])
    assert {name: found[name] for name in given_} == {**given_, "source": source or found["source"]}


def test_submit_takes_all_that_update_takes():
    mine, updates = (
        set(typer.main.get_command(app).commands[n].params) for n in ("submit", "update")
    )
    names = {p.name for p in updates}
    assert {p.name for p in mine} == names | {"wait"}
    assert len(names) > 10


# -- where there is no queue -----------------------------------------------------------------------


def test_nothing_is_submitted_where_it_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(existing, "CONNECT_SECONDS", 1)
    catalog = made(tmp_path / "c", 2)
    file = tmp_path / "cluster.yaml"
    for text, says in (
        ("cluster: kubernetes\nimage: cohort:1\n", "has no queue for a driver; .*cohort deploy kubernetes"),
        ("cluster: slurm\nqeue: long\n", "unknown key 'qeue'; did you mean 'queue'"),
        ("cluster: scheduler\naddress: tcp://127.0.0.1:9\n", "no scheduler answers at tcp://127.0.0.1:9"),
    ):  # fmt: skip
        file.write_text(text)
        done = CliRunner().invoke(app, ["submit", str(catalog), "--on", str(file)])
        assert done.exit_code == 2, done
        assert re.fullmatch(rf"error: .*{says}.*\n", done.stderr), done.stderr
        assert done.stdout == ""
    wrong = ["submit", str(catalog), "--on", "local", "--memory", "much"]
    assert CliRunner().invoke(app, wrong).exit_code == 2
    assert not (tmp_path / "c/store").exists()
    store = Store(read_catalog(catalog).store_root())
    with store.lock():
        held = CliRunner().invoke(app, ["submit", str(catalog), "--on", "local"])
    assert (held.exit_code, held.stderr.count("\n")) == (75, 1)
    store.write_info(cohort="balls", catalog="digest", ids="keep")
    (tmp_path / "file").touch()
    place = Slurm(cluster="slurm", folder=str(tmp_path / "file"))
    with pytest.raises(
        ClusterError, match=r"folder .*file/cohort-balls-\w+: .*; state another `folder`"
    ):
        submit.submit("balls", store, place, ["update", str(catalog)])
    assert (store.info()["catalog"], store.info()["ids"]) == ("digest", "keep")
    assert not list(Path(os.environ["XDG_STATE_HOME"]).rglob("*.jobs"))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_driver_on_this_machine_outlives_its_terminal(tmp_path):
    catalog = made(tmp_path / "c", 6, slow=True)
    store = Store(read_catalog(catalog).store_root())
    # `setsid` gives the submitting shell a session of its own, as a terminal does; it ends at once.
    command = shlex.join(
        [
            sys.executable,
            "-m",
            "cohort.cli",
            "submit",
            "catalog.yaml",
            "--on",
            "local",
            "--workers",
            "1",
            "--json",
        ]
    )
    shell = subprocess.Popen(["bash", "-c", command], cwd=catalog.parent, stdout=subprocess.PIPE, start_new_session=True, text=True)  # fmt: skip
    said = json.loads(shell.communicate(timeout=120)[0])
    (job,) = submit.jobs_of(store)
    assert (job.id, job.kind, job.state) == (said["id"], "process", "RUNNING")
    assert os.getsid(int(job.id)) == int(job.id) != shell.pid
    with pytest.raises(Locked, match=f"already submitted: job {job.id} is RUNNING"):
        submit.submit("balls", store, Local(cluster="local"), ["update", str(catalog)])
    assert cohort("submit", catalog, "--on", "local").returncode == 75
    known = submit.submission_of(store)
    assert known is not None
    for private in (known.console, Path(known.folder), submit.file_of(store)):
        assert stat.S_IMODE(private.stat().st_mode) & 0o077 == 0
    until(lambda: not submit.jobs_of(store))
    assert Store(store.root).manifest()["counts"]["done"] == 6


@pytest.mark.slow
@pytest.mark.cluster
def test_a_driver_on_this_machine_is_stopped_and_goes_on(tmp_path):
    catalog = made(tmp_path / "c", 8, slow=True)
    store = Store(read_catalog(catalog).store_root())
    assert submit.cancel_jobs(store) == 0
    where, update = Local(cluster="local"), ["update", str(catalog), "--workers", "1"]
    first = submit.submit("balls", store, where, update)
    until(lambda: len(store.derivative_ids("ball")) >= 2)
    assert submit.cancel_jobs(store) == 1
    assert submit.wait(store, first, tell=print) == 75
    kept = set(store.derivative_ids("ball"))
    assert 2 <= len(kept) < 8
    second = submit.submit("balls", store, where, update)
    told: list[str] = []
    assert submit.wait(store, second, tell=told.append) == 0
    assert told == [f"job {second.id}: RUNNING {second.host}"]
    assert store.manifest()["stages"]["run:ball"]["fresh"] == len(kept)
    assert submit.cancel_jobs(store) == 0


def test_a_process_that_took_over_the_number_of_a_driver_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "LOOK_SECONDS", 0.01)
    store = Store(tmp_path / "store")
    folder = tmp_path / "jobs"
    folder.mkdir()
    other = submit.Submission(
        "process", "cohort-x", str(os.getpid()), str(folder), os.uname().nodename, born=1
    )
    submit.remember(store, other)
    assert submit.submission_of(store) == other
    assert submit.jobs_of(store) == []
    handler = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("told to stop"))
    try:
        assert submit.cancel_jobs(store) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    with pytest.raises(ClusterError, match="ended without an exit code"):
        submit.wait(
            store,
            submit.Submission("process", "cohort-y", "1", str(folder), "elsewhere"),
            tell=print,
        )


# -- on SLURM --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.cluster
def test_a_driver_that_is_preempted_twice_goes_on_and_the_store_is_that_of_a_quiet_run(
    nodes: Nodes,
):
    nodes.clear()
    catalog = made(nodes.shared / "preempted", 10, slow=True)
    where = nodes.cluster(workers=2)
    store = Store(read_catalog(catalog).store_root())
    done = cohort("submit", "catalog.yaml", "--on", f"../{where.name}", cwd=catalog.parent)
    assert done.returncode == 0, done.stderr
    first = re.search(r"submitted as job (\d+), ", done.stdout)[1]
    assert "follow  cohort status catalog.yaml --follow" in done.stdout
    known = submit.submission_of(store)
    # A signal, as before the end of its time.
    nodes.wait_for(lambda: len(store.derivative_ids("ball")) >= 2 or known.code.exists())
    assert not known.code.exists(), known.console.read_text()
    run("scancel", "--batch", "--signal=TERM", first)
    nodes.wait_for(lambda: "goes on as job" in known.log.read_text())
    early = {
        i: (store.root / f"derivatives/ball/{i}.json").stat().st_mtime_ns
        for i in store.derivative_ids("ball")
    }
    assert len(early) < 10
    # Back into the queue, as for somebody who matters more.
    second = re.search(r"goes on as job (\d+)", known.log.read_text())[1]
    nodes.wait_for(lambda: f"job {second} on" in known.log.read_text())
    run("scontrol", "requeue", second)
    nodes.wait_for(lambda: f"{second}|PENDING" in nodes.jobs(form="%i|%T"))
    run("scontrol", "update", f"jobid={second}", "starttime=now+3")
    assert submit.wait(store, known, tell=print) == 0, (
        known.log.read_text() + known.console.read_text()
    )
    assert known.log.read_text().count("started") == 3
    assert store.manifest()["counts"]["failed"] == 0
    late = {i: (store.root / f"derivatives/ball/{i}.json").stat().st_mtime_ns for i in early}
    assert late == early
    _names_nobody([known.log, *(nodes.shared / "jobs").glob("*.err")], catalog.parent)
    nodes.wait_for(lambda: not nodes.jobs())
    quiet = nodes.shared / "quiet"
    api.update(catalog, options=api.Options(store=quiet, workers=1))
    assert contents(store.root) == contents(quiet)


def _names_nobody(logs: list[Path], folder: Path) -> None:
    """No log holds an id, or a path of the data."""
    assert logs
    for log in logs:
        text = log.read_text()
        assert text
        assert not re.search(
            rf"{re.escape(str(folder))}|sub-\d|\d{{3}}_v1|\.nii|people\.csv", text
        ), log


@pytest.mark.slow
@pytest.mark.cluster
def test_cancelling_ends_driver_and_workers_and_nothing_comes_back(nodes: Nodes):
    nodes.clear()
    catalog = made(nodes.shared / "cancelled", 10, slow=True)
    store = Store(read_catalog(catalog).store_root())
    where = read_where(nodes.cluster(workers=2))
    update = ["update", str(catalog), "--on", str(nodes.cluster(workers=2))]
    first = submit.submit("balls", store, where, update)
    with pytest.raises(Locked, match=f"already submitted: job {first.id} is "):
        submit.submit("balls", store, where, update)
    nodes.wait_for(lambda: len(nodes.jobs("--states=RUNNING")) == 3)
    assert submit.cancel_jobs(store) == 1
    assert submit.wait(store, first, tell=print) == 75
    nodes.wait_for(lambda: not nodes.jobs())
    assert "goes on" not in first.log.read_text()
    assert submit.jobs_of(store) == []
    with store.lock():
        pass
    # One that still waits leaves the queue.
    for name in ("n1", "n2", "n3"):
        run("scontrol", "update", f"nodename={name}", "state=drain", "reason=test")
    try:
        second = submit.submit("balls", store, where, update)
        assert [job.state for job in submit.jobs_of(store)] == ["PENDING"]
        assert submit.cancel_jobs(store) == 1
        assert submit.wait(store, second, tell=print) == 75
    finally:
        run("scontrol", "update", "nodename=n[1-3]", "state=resume")


@pytest.mark.slow
@pytest.mark.cluster
def test_a_first_call_that_waits_in_the_queue_is_shown_followed_and_cancelled(nodes: Nodes):
    nodes.clear()
    catalog = made(nodes.shared / "waits", 6)
    broken = catalog.parent / "scans/003_v1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    where = nodes.cluster(workers=1)
    for name in ("n1", "n2", "n3"):
        run("scontrol", "update", f"nodename={name}", "state=drain", "reason=test")
    try:
        assert cohort("submit", catalog, "--on", where).returncode == 0
        shown = cohort("status", catalog)
        assert re.fullmatch(r"balls: 0 scans\n  submitted: job \d+ is PENDING\n", shown.stdout)
        follow = [sys.executable, "-m", "cohort.cli", "status", str(catalog), "--follow"]
        with subprocess.Popen(follow, stderr=subprocess.PIPE, text=True) as follower:
            assert follower.stderr is not None
            assert "is PENDING; " in follower.stderr.readline()
            assert cohort("cancel", catalog).stdout == "1 jobs of the queue taken back\n"
            assert follower.stderr.read() == "nothing is running\n"
    finally:
        run("scontrol", "update", "nodename=n[1-3]", "state=resume")
    ended = "what was submitted ended with exit code 1"
    waited = cohort("submit", catalog, "--on", where, "--wait")
    assert waited.returncode == 1
    assert re.search(r"^ended with exit code 1; its log: \S+\n", waited.stderr, re.MULTILINE)
    assert ended in cohort("status", catalog).stdout
    assert cohort("update", catalog, "--workers", "0").returncode == 0
    assert ended not in cohort("status", catalog).stdout
