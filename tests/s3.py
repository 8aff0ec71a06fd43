"""An object store on loopback for tests: moto in a process of its own, a fresh bucket a test.

A test module asks for it with ``pytest_plugins = ["s3"]``; the fixture `s3` sets the environment and gives the bucket.
"""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest

# It ends when its input does, and so never outlives the tests.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass
class S3:
    """A bucket.

    Parameters
    ----------
    endpoint : str
        Where the server listens.
    bucket : str
    log : Path
        What the server writes of every request.
    """

    endpoint: str
    bucket: str
    log: Path
    _seen: int = 0

    @property
    def url(self) -> str:
        """The bucket, as a catalog names it."""
        return f"s3://{self.bucket}"

    def put(self, key: str, content: bytes) -> None:
        """Store an object, whatever its key."""
        self._send(f"/{quote(key)}", content)

    def put_tree(self, folder: Path, prefix: str = "") -> None:
        """Store every file below a folder."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(prefix + path.relative_to(folder).as_posix(), path.read_bytes())

    def requests(self) -> list[str]:
        """Method and path of the requests for this bucket since the last call, ``GET /a/b.dcm``."""
        found = re.findall(rf"([A-Z]+) /{self.bucket}(.*) HTTP/", self.log.read_text())
        new, self._seen = found[self._seen :], len(found)
        return [f"{method} {path}" for method, path in new]

    def _send(self, path: str, content: bytes) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}/{self.bucket}{path}",
            data=content,
            method="PUT",
            # Whoever signs, however badly, may overwrite.
            headers={"Content-Type": "application/octet-stream", "Authorization": "AWS test:x"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            assert answer.status == 200


@pytest.fixture(scope="session")
def s3_server():
    """Endpoint and log of a server that runs until the tests end."""
    if find_spec("moto") is None and os.environ.get("CI") != "true":
        pytest.skip("moto is not installed")
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        with process:
            yield process.stdout.readline().strip(), Path(log.name)
            process.stdin.close()
            process.wait(30)


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A fresh bucket; the environment of this process leads to it."""
    endpoint, log = s3_server
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    store = S3(endpoint, f"test-{uuid.uuid4().hex[:12]}", log)
    store._send("", b"")
    store.requests()
    return store
