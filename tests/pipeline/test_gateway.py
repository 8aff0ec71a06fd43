"""Dask Gateway for real: its server, its proxy, and clusters of processes on this machine."""

import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import dask
import psutil
import pytest
from cohorts import write_cohort

from cohort import api
from cohort.pipeline import cluster
from cohort.pipeline.clusters.clusterfile import ClusterError

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

CONFIG = """\
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "made for a test"
c.DaskGateway.address = "127.0.0.1:{private}"
c.Proxy.address = "127.0.0.1:{public}"
c.UnsafeLocalBackend.clusters_directory = {folder!r}
c.LocalClusterConfig.worker_memory = "1 G"
# Its defaults are commands that distributed does not install any more.
c.LocalClusterConfig.scheduler_cmd = [{python!r}, "-m", "distributed.cli.dask_scheduler"]
c.LocalClusterConfig.worker_cmd = [{python!r}, "-m", "distributed.cli.dask_worker"]
"""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """A gateway's client fails aloud when it is collected after its loop has ended: here, not in another test."""
    yield
    gc.collect()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """The URL of a gateway; it and all that it started end with the test."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        private, public = (each.getsockname()[1] for each in sockets)
    config = tmp_path / "gateway.py"
    config.write_text(
        CONFIG.format(
            private=private, public=public, folder=str(tmp_path / "clusters"), python=sys.executable
        )
    )
    log = (tmp_path / "gateway.log").open("wb")
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from dask_gateway_server.app import main; main()",
            "--config",
            config,
        ],
        stdout=log,
        stderr=log,
        cwd=tmp_path,
        env={**os.environ, "MADE_FOR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 60
        while "200 GET /api/v1/routes" not in (tmp_path / "gateway.log").read_text():
            assert server.poll() is None, (tmp_path / "gateway.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with dask.config.set({"gateway.auth.kwargs": {"password": "made for a test"}}):
            yield f"http://127.0.0.1:{public}"
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()
        log.close()


def test_a_cluster_of_a_gateway_gives_the_numbers_of_this_process(tmp_path, gateway):
    catalog = write_cohort(tmp_path, 4)
    where = tmp_path / "gateway.yaml"
    where.write_text(f"cluster: gateway\naddress: {gateway}\nauth: basic\nworkers: 2\n")
    with cluster.connect(str(where)) as client:
        client.wait_for_workers(2, timeout=120)
        assert client.scheduler_info()["address"].startswith("tls://")
        ours = api.update(catalog, client=client)
    assert ours.manifest["counts"]["done"] == 4
    quiet = api.update(catalog, options=api.Options(workers=0, store=tmp_path / "quiet"))
    for table in ("scans", "ball"):
        assert quiet.store.table(table).equals(ours.store.table(table))
    with (
        dask.config.set({"gateway.auth.kwargs": {"password": "guessed"}}),
        pytest.raises(ClusterError, match=f"the gateway at {gateway} gave no cluster"),
        cluster.connect(str(where)),
    ):
        pass


def test_a_gateway_that_is_not_there_is_one_line(tmp_path):
    where = tmp_path / "gateway.yaml"
    where.write_text("cluster: gateway\naddress: http://127.0.0.1:9\n")
    with (
        pytest.raises(ClusterError, match=r"the gateway at http://127\.0\.0\.1:9 gave") as caught,
        cluster.connect(str(where)),
    ):
        pass
    assert len(str(caught.value).splitlines()) == 1
