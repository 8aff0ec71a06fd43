"""An object store on loopback that can be stopped, made slow, and made to fail at times, and keeps its objects."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

# Real S3 requests over real sockets. While it is stopped, connections are refused; what is stored stays in the process.
SERVER = """
import random, sys, threading, time
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

class Weather:
    chance, slow, failed = 0.0, 0.0, 0
    numbers = random.Random(12)
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        drawn = Weather.numbers.random()
        if Weather.slow:
            time.sleep(Weather.slow * drawn)
        if Weather.numbers.random() < Weather.chance:
            Weather.failed += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)

def begin(port):
    server = make_server("127.0.0.1", port, app, True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return server

import logging
logging.getLogger("werkzeug").setLevel(logging.ERROR)
app = Weather(DomainDispatcherApplication(create_backend_app))
server = begin(0)
port = server.port
print(port, flush=True)
for line in sys.stdin:
    word, *given = line.split()
    if word == "stop":
        server.shutdown()
        server.server_close()
    elif word == "start":
        server = begin(port)
    elif word == "weather":
        Weather.chance, Weather.slow = map(float, given)
    print(Weather.failed, flush=True)
"""


class Server:
    """A server in a process of its own, driven over its input."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"

    @property
    def environment(self) -> dict[str, str]:
        """What leads a process to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "NO_PROXY": "127.0.0.1",
        }

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within, this process finds it too."""
        with patch.dict(os.environ, self.environment):
            yield

    def bucket(self) -> str:
        """URL of a store in a new bucket."""
        import urllib.request

        name = f"test-{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(
            f"{self.endpoint}/{name}",
            data=b"",
            method="PUT",
            headers={"Authorization": "AWS test:x"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            assert answer.status == 200
        return f"s3://{name}/cohort"

    def tell(self, *words: object) -> int:
        """``stop``, ``start``, or ``weather CHANCE SECONDS``: requests that fail, and how slow the others are at most.

        Returns
        -------
        int
            Requests that were made to fail so far.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def served() -> Iterator[Server]:
    """A server that runs as long as this lasts."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
