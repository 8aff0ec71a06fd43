"""Places that are not there, or take nothing: one line that says what and what to do, exit 2, and nothing written."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import cohorts
import pytest
from typer.testing import CliRunner

from cohort import cli
from cohort.io.storage.backend import Unreachable
from cohort.io.storage.disk import LocalFiles
from cohort.pipeline.clusters import existing

COMMANDS = {
    "update": ["update"],
    "ingest": ["ingest"],
    "watch": ["watch"],
    "submit": ["submit"],
}


def call(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(done, message: str, store: Path) -> None:
    """Exit 2, one line on stderr, none on stdout, nothing written."""
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert done.stdout == ""
    assert not store.exists()


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path, scans=2)


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens, because we keep the port and do not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreachable_scheduler(catalog, command, nobody, monkeypatch):
    monkeypatch.setattr(existing, "CONNECT_SECONDS", 1)
    done = call(command, catalog, "--on", nobody)
    refused(
        done, rf"no scheduler answers at {nobody} within 1 s; start one", catalog.parent / "store"
    )


WRONG_FILES = {
    "an unknown key": ("cluster: local\nworker: 2\n", r"'worker'.*did you mean 'workers'"),
    "an unknown kind": ("cluster: slurmm\n", r"slurmm"),
    "a wrong value": ("cluster: local\nmemory: lots\n", r"memory.*lots.*such as 2GiB"),
    "no YAML": ("cluster: [local\n", r"line 2"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_file_that_states_what_cannot_be(catalog, command, case):
    text, message = WRONG_FILES[case]
    where = catalog.parent / "cluster.yaml"
    where.write_text(text)
    done = call(command, catalog, "--on", where)
    refused(done, message, catalog.parent / "store")
    assert "cluster.yaml" in done.stderr


@contextmanager
def cluster_of(folder: Path, worker_path: Path):
    """A scheduler and a worker, as somebody starts them by hand; the worker finds `worker_path` before its libraries."""
    where, dask = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = [*dask, "scheduler", "--port", "0", "--scheduler-file", str(where), *local]
    worker = [*dask, "worker", "--scheduler-file", str(where), "--no-nanny", *local]
    with (
        subprocess.Popen(scheduler, **quiet) as one,
        subprocess.Popen(
            worker, env={**os.environ, "PYTHONPATH": str(worker_path)}, **quiet
        ) as two,
    ):
        try:
            end = time.monotonic() + 120
            while not where.exists():
                assert time.monotonic() < end
                time.sleep(0.05)
            yield json.loads(where.read_text())["address"]
        finally:
            two.kill()
            one.kill()


@pytest.mark.slow
@pytest.mark.cluster
def test_a_worker_with_another_version_of_a_library(catalog, tmp_path):
    other = tmp_path / "other/scipy-0.1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.1.0\n")
    with cluster_of(tmp_path, tmp_path / "other") as address:
        done = call("update", catalog, "--on", address)
    here = metadata.version("scipy")
    message = rf"has scipy 0\.1\.0, expected {re.escape(here)} as here; give workers the same"
    refused(done, message, catalog.parent / "store")


# -- disks -------------------------------------------------------------------------------------------


def on_a_disk(place: Path, how: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call ``cohort`` where another disk is mounted at a place, for this process alone."""
    command = f'mount {how} "$1" && shift && exec "$@"'
    program = [sys.executable, "-m", "cohort.cli", *map(str, arguments)]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", command, "sh", str(place), *program],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if "unshare:" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("this machine lets nobody mount a disk of one's own")
    return done


READ_ONLY, FULL = "-t tmpfs -o ro none", "-t tmpfs -o size=4k none"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "command", ["update", pytest.param("run", marks=SLOW), pytest.param("gc", marks=SLOW)]
)
def test_a_store_that_is_read_only(catalog, command):
    place = catalog.parent / "store"
    if command != "update":
        assert call("ingest", catalog, "--workers", 0).exit_code == 0
        how = f'--bind "{place}" "$1" && mount -o remount,bind,ro'
    else:
        place.mkdir()
        how = READ_ONLY
    before = sorted(place.rglob("*"))
    done = on_a_disk(place, how, command, catalog, *(["--workers", 0] * (command != "gc")))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(
        r"store/\.lock: expected a disk that can be written to, found one that is read-only",
        done.stderr,
    )
    after = {"gc": "what was removed is gone"}.get(command, "what was finished is kept")
    assert f"; {after}; resume with: cohort" in done.stderr
    assert done.stdout == ""
    assert sorted(place.rglob("*")) == before


def without_leave(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Call ``cohort`` as somebody for whom the modes of files count: for root they do not."""
    drop = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("this machine lets root give up nothing")
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    program = [*drop, sys.executable, "-m", "cohort.cli", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)


def test_a_store_that_this_user_may_only_read(catalog):
    place = catalog.parent / "store"
    place.mkdir()
    place.chmod(0o555)
    done = without_leave("update", catalog, "--workers", 0)
    said = r"error: .*store/\.lock: expected a place that this user may write to, found permission denied; allow writing"
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(said + r".*; resume with: cohort update .*\n", done.stderr), done.stderr
    place.chmod(0o755)
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    place.chmod(0o555)
    (place / ".lock").chmod(0o444)
    for look in (["verify"], ["gc", "--dry-run"]):
        done = without_leave(look[0], catalog, *look[1:])
        assert (done.returncode, done.stderr) == (0, ""), look
    place.chmod(0o755)


def test_a_file_where_the_store_should_be(catalog):
    place = catalog.parent / "store"
    place.write_text("notes")
    said = rf"error: {re.escape(str(place))}: expected a folder for the store or none yet, found a file at .*store; name another"
    done = call("update", catalog, "--workers", 0)
    assert done.exit_code == 2
    assert re.match(said, done.stderr), done.stderr
    for command in ("status", "verify"):
        done = call(command, catalog)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: nothing in {place} yet")
        done = call(command, place)
        assert (
            done.stderr
            == f"error: {place} is no cohort: expected a catalog (.yaml) or a store with a cohort.json\n"
        )
    assert place.read_text() == "notes"


@pytest.mark.slow
def test_looking_at_a_store_that_is_read_only_works(catalog):
    place = catalog.parent / "store"
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    how = f'--bind "{place}" "$1" && mount -o remount,bind,ro'
    looks = (
        ["status"],
        ["diff", "--since", "2020-01-01"],
        ["plan"],
        ["verify"],
        ["gc", "--dry-run"],
    )
    for command in looks:
        done = on_a_disk(place, how, command[0], catalog, *command[1:])
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.parametrize(
    ("command", "after"),
    [
        (["verify"], "call again with"),
        (["verify", "--repair"], "call again with"),
        (["status"], "call again with"),
        (["gc"], "what was removed is gone; resume with"),
        (["gc", "--dry-run"], "call again with"),
        (["update", "--workers", "0"], "what was finished is kept; resume with"),
    ],
)
def test_a_place_that_went_away_is_told_with_what_that_command_left(
    catalog, monkeypatch, command, after
):
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    line = ["cohort", command[0], str(catalog), *command[1:]]
    monkeypatch.setattr(sys, "argv", line)

    def away(self, name):
        raise Unreachable("s3://b: the object store fails (503)")

    monkeypatch.setattr(LocalFiles, "names", away)
    done = call(*line[1:])
    assert (done.exit_code, done.stdout) == (2, "")
    said = f"error: s3://b: the object store fails (503); {after}: {shlex.join(line)}"
    assert done.stderr.splitlines() == [said]


def test_a_disk_that_is_full(catalog):
    place = catalog.parent / "store"
    place.mkdir()
    done = on_a_disk(place, FULL, "update", catalog, "--workers", 0)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.search(
        r"error: .*store/.*: expected room for \d+ bytes, the disk or the quota is full \(\d+ bytes are free\); make room",
        line,
    )
