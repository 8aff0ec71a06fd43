"""A scheduler that is there already: with certificates, with other people's certificates, with another worker."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from cohorts import write_cohort
from distributed.security import Security
from typer.testing import CliRunner

from cohort import api
from cohort.cli import app
from cohort.io.store import Store
from cohort.pipeline import cluster
from cohort.pipeline.clusters import existing
from cohort.pipeline.clusters.clusterfile import ClusterError

pytestmark = pytest.mark.cluster


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start one of Dask's own commands as a process; it ends with the test."""
    with ExitStack() as stack:

        def begin(command: str, *options: object, **environment: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((tmp_path / f"{command}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{command}", *map(str, options)],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                cwd=tmp_path,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        yield begin


def scheduler(start: Callable[..., subprocess.Popen[bytes]], folder: Path, *options: object) -> str:
    """Start one on loopback; its address."""
    file = folder / "scheduler.json"
    where = ("--host", "127.0.0.1", "--port", 0, "--dashboard-address", "127.0.0.1:0")
    process = start("scheduler", *where, "--scheduler-file", file, *options)
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert process.poll() is None, (folder / "scheduler.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return json.loads(file.read_text())["address"]


def worker(
    start: Callable[..., subprocess.Popen[bytes]],
    address: str,
    *options: object,
    **environment: str,
) -> None:
    """Start one with 1 GiB on loopback."""
    here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--nthreads", 1)
    start("worker", address, *here, "--memory-limit", "1GiB", "--no-nanny", *options, **environment)


def certificates(folder: Path) -> dict[str, str]:
    """New ones, in files."""
    folder.mkdir()
    made = Security.temporary()
    for name, text in (
        ("ca", made.tls_ca_file),
        ("cert", made.tls_client_cert),
        ("key", made.tls_client_key),
    ):
        (folder / f"{name}.pem").write_text(text)
    return {name: f"{folder.name}/{name}.pem" for name in ("ca", "cert", "key")}


def place(folder: Path, address: str, tls: dict[str, str] | None = None) -> Path:
    path = folder / "where.yaml"
    lines = [f"cluster: scheduler\naddress: {address}\n"]
    if tls:
        lines.append(f"tls: {json.dumps(tls)}\n")
    path.write_text("".join(lines))
    return path


def refused(catalog: Path, on: object) -> str:
    """What a call says that cannot run there: one line, exit 2, nothing written."""
    done = CliRunner().invoke(app, ["update", str(catalog), "--on", str(on)])
    assert done.exit_code == 2, (done.stderr, done.exception)
    assert not (catalog.parent / "store").exists()
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
def test_under_tls_work_runs_and_nobody_else_gets_in(tmp_path, start, monkeypatch):
    monkeypatch.setattr(existing, "CONNECT_SECONDS", 5)
    catalog = write_cohort(tmp_path, 3)
    tls = certificates(tmp_path / "ours")
    said = [
        part
        for name, file in tls.items()
        for part in (f"--tls-{name}{'-file' if name == 'ca' else ''}", tmp_path / file)
    ]
    address = scheduler(start, tmp_path, "--protocol", "tls", *said)
    assert address.startswith("tls://127.0.0.1:")
    worker(start, address, *said)
    theirs = certificates(tmp_path / "theirs")
    assert "do not trust each other's certificates" in refused(
        catalog, place(tmp_path, address, theirs)
    )
    gone = {**tls, "key": "ours/none.pem"}
    assert f"tls.key: expected a file that can be read, found {tmp_path}/ours/none.pem" in refused(
        catalog, place(tmp_path, address, gone)
    )
    assert "no scheduler answers at tcp://" in refused(catalog, address.replace("tls:", "tcp:"))
    options = api.Options(on=str(place(tmp_path, address, tls)))
    monkeypatch.chdir("/")  # the files lie beside the YAML, wherever the call is made
    assert api.update(catalog, options=options).manifest["counts"]["done"] == 3
    quiet = api.update(catalog, options=api.Options(workers=0, store=tmp_path / "quiet"))
    for table in ("scans", "ball"):
        assert quiet.store.table(table).equals(Store(tmp_path / "store").table(table))


def test_a_worker_with_another_library_is_refused_before_anything_is_written(tmp_path, start):
    catalog = write_cohort(tmp_path, 2)
    other = tmp_path / "older/scipy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.0.1\n")
    address = scheduler(start, tmp_path)
    worker(start, address, PYTHONPATH=str(other.parent))
    line = refused(catalog, address)
    assert "has scipy 0.0.1, expected" in line
    assert "give workers the same environment as the driver" in line


@pytest.mark.slow
def test_a_scheduler_without_workers_or_none_at_all_is_refused(tmp_path, start, monkeypatch):
    monkeypatch.setattr(existing, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(cluster, "NO_WORKERS_SECONDS", 1)
    catalog = write_cohort(tmp_path, 2)
    address = scheduler(start, tmp_path)
    assert "has had no worker for 1 s" in refused(catalog, address)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        nobody = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert f"no scheduler answers at {nobody} within 2 s" in refused(catalog, nobody)


def test_the_memory_of_a_worker_is_known_before_it_is_used(tmp_path, start):
    address = scheduler(start, tmp_path)
    worker(start, address)
    cluster.check(address)
    assert cluster.worker_bytes(address) == 1 << 30
    (tmp_path / "slurm.yaml").write_text("cluster: slurm\nmemory: 3GiB\n")
    assert cluster.worker_bytes(str(tmp_path / "slurm.yaml"), workers=7) == 3 << 30
    (tmp_path / "local.yaml").write_text("cluster: local\nmemory: 2GiB\n")
    assert cluster.worker_bytes(str(tmp_path / "local.yaml")) == 2 << 30
    assert cluster.worker_bytes(workers=4) == pytest.approx(
        cluster.worker_bytes(workers=1) / 4, rel=0.2
    )


def test_local_workers_are_reached_from_this_machine_only():
    with cluster.connect(workers=1, memory=512 << 20) as client:
        (pid,) = client.run(os.getpid).values()
        (nanny,) = client.run(os.getppid).values()
        found = {
            connection.laddr.ip
            for each in {os.getpid(), pid, nanny}
            for connection in psutil.Process(each).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert found == {"127.0.0.1"}


def test_what_is_no_place_is_refused_by_check(tmp_path):
    with pytest.raises(ClusterError, match="leaves this machine unencrypted"):
        cluster.check("tcp://10.0.0.7:8786")
    with pytest.raises(ClusterError, match="expected local, the address of a scheduler"):
        cluster.check("the big one")
    cluster.check("local")


def test_what_other_nannies_left_in_the_environment_does_not_reach_our_workers(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    with cluster.connect(workers=2, memory=512 << 20) as client:
        found = set(client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values())
    assert found == {str((512 << 20) // 10)}
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "65536"
