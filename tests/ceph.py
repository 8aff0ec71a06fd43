"""Ceph's object gateway on loopback for tests: a monitor, a manager, a store in memory and the gateway, a fresh bucket a test.

A test module asks for it with ``pytest_plugins = ["ceph"]``. The programs are those of Debian (`debian.txt` beside this
file); without them a test is skipped, and fails where CI is true. Nothing is written outside a temporary folder.
"""

import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_ports

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "ceph", "ceph-authtool", "monmaptool")
KEY, SECRET = "COHORTKEY", "COHORTSECRET"
STEP_SECONDS, START_SECONDS = 120, 240
"""For one command, and until the gateway answers, on a machine that is busy with other things; alone it takes 13 s."""

# A monitor ends itself on a disk of which less than 5 % is free, which says nothing of the few megabytes here.
CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {root}/keyring
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 2147483648
run_dir = {root}/run
admin_socket = {root}/run/$cluster-$name.asok
pid_file = {root}/run/$name.pid
log_file = {root}/log/$name.log
mon_data = {root}/mon
mon_data_avail_warn = 0
mon_data_avail_crit = 0
mgr_data = {root}/mgr
osd_data = {root}/osd
rgw_data = {root}/rgw
ms_bind_ipv6 = false
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{rgw} tcp_nodelay=1
"""
CAPS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
}


class Cluster:
    """The daemons, and the commands that make them one cluster.

    Parameters
    ----------
    root : Path
        An empty folder for all they write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        v2, v1, self.port = free_ports(3)
        self.fsid, self.conf = str(uuid.uuid4()), root / "ceph.conf"
        for name in ("mon", "mgr", "osd", "rgw", "run", "log"):
            (root / name).mkdir()
        text = CONF.format(root=root, fsid=self.fsid, v1=v1, v2=v2, rgw=self.port)
        self.conf.write_text(text, encoding="utf-8")
        self.monitor = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def do(self, *command: str) -> None:
        """Run a command to its end; what it says is shown if it fails."""
        done = subprocess.run(
            command,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_SECONDS,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"

    def ask(self, *command: str) -> None:
        """Run a command of the cluster's administrator."""
        self.do("ceph", "-c", str(self.conf), "--connect-timeout", str(STEP_SECONDS), *command)

    def start(self, program: str, *options: str) -> None:
        """Start a daemon that does not outlive us."""
        command = ["setpriv", "--pdeathsig", "KILL", program, "-f", "-c", str(self.conf), *options]
        with (self.root / f"log/{program}.out").open("wb") as out:
            self.daemons.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=self.root))

    def up(self) -> None:
        """Make keys, start the daemons, wait for the gateway, make a user."""
        conf, keyring = str(self.conf), str(self.root / "keyring")
        self.do("ceph-authtool", "-C", keyring)
        for name, caps in CAPS.items():
            said = [word for who, what in caps.items() for word in ("--cap", who, what)]
            self.do("ceph-authtool", keyring, "--gen-key", "-n", name, *said)
        monmap = str(self.root / "monmap")
        self.do("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", self.monitor, monmap)
        self.do(
            "ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring
        )
        self.start("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self.ask("auth", "import", "-i", keyring)
        self.ask("osd", "new", osd, "0")
        self.start("ceph-mgr", "-i", "x")
        self.do("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.ask("osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")
        self.start("ceph-osd", "-i", "0")
        self.start("radosgw", "-n", "client.rgw")
        self.wait()
        user = [
            "--uid=cohort",
            "--display-name=cohort",
            f"--access-key={KEY}",
            f"--secret={SECRET}",
        ]
        self.do("radosgw-admin", "-c", conf, "-n", "client.rgw", "user", "create", *user)

    def wait(self) -> None:
        """Wait until the gateway answers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        began = time.monotonic()
        while time.monotonic() - began < START_SECONDS:
            dead = [d.args for d in self.daemons if d.poll() is not None]
            assert not dead, f"{dead}: {self.said()}"
            try:
                with direct.open(f"http://127.0.0.1:{self.port}/", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"no answer within {START_SECONDS} s: {self.said()}")

    def said(self) -> str:
        """The end of what each daemon said."""
        files = sorted((self.root / "log").iterdir())
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-500:]}" for p in files)

    def down(self) -> None:
        """End the daemons; what they hold is in memory and may go."""
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster that answers."""
    folder = Path(tempfile.mkdtemp(prefix="ceph"))
    cluster = Cluster(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ceph_server():
    """Endpoint of a gateway that runs until the tests end."""
    lacking = [program for program in (*PROGRAMS, "setpriv") if shutil.which(program) is None]
    if lacking:
        message = (
            f"not installed: {', '.join(lacking)}; apt-get install the packages of tests/debian.txt"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with running() as cluster:
        yield f"http://127.0.0.1:{cluster.port}"


@pytest.fixture
def ceph(ceph_server, monkeypatch):
    """A fresh bucket in the gateway; the environment of this process leads to it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": ceph_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=ceph_server, region_name="us-east-1").create_bucket(
        Bucket=bucket
    )
    return f"s3://{bucket}"
