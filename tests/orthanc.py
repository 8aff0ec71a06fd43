"""A real DICOM node for tests: Orthanc in a network namespace of its own, reached through a relay that counts and cuts.

Debian's Orthanc listens on every interface; in a namespace with nothing but loopback nobody else can reach it. A Unix socket leads out of
the namespace, and a port of this machine's loopback to that socket: what passes there is counted, and can be cut off or replaced.

A test module asks for it with ``pytest_plugins = ["orthanc"]``; the fixture `orthanc` gives an empty node.
"""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PORT = 8142

# Inside the namespace: Orthanc, and a Unix socket that leads to it. It ends when its input does.
INSIDE = f"""
import socket, subprocess, sys, threading
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
orthanc = subprocess.Popen(["Orthanc", "orthanc.json"], stdout=open("log", "ab"), stderr=subprocess.STDOUT)
def pour(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            try: end.shutdown(socket.SHUT_RDWR)
            except OSError: pass
def serve(near):
    with near:
        try: far = socket.create_connection(("127.0.0.1", {PORT}))
        except OSError: return
        with far:
            back = threading.Thread(target=pour, args=(far, near))
            back.start(); pour(near, far); back.join()
def listen():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket"); server.listen(64)
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=listen, daemon=True).start()
sys.stdin.read()
orthanc.terminate(); orthanc.wait(30)
"""


@dataclass
class Orthanc:
    """A node behind its relay.

    Parameters
    ----------
    folder : Path
        Of the server: configuration, database, log, Unix socket.
    port : int
        Of the relay, on 127.0.0.1.
    """

    folder: Path
    port: int
    seen: list[str] = field(default_factory=list)
    """Requests since the last call of `requests`, as they begin: ``GET /dicom-web/series``."""
    cut: dict[str, int] = field(default_factory=dict)
    """Pattern of requests -> bytes of the answer after which the connection breaks."""
    instead: dict[str, bytes] = field(default_factory=dict)
    """Pattern of requests -> what is answered instead."""
    is_down: bool = False
    password: str = "SECRETCANARY0123456789"
    """Of the user ``reader``, where the node asks for one."""
    scheme: str = "dicomweb"

    @property
    def url(self) -> str:
        """The node, as a catalog names it."""
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"

    def requests(self) -> list[str]:
        """Requests since the last call, without what follows a question mark."""
        new, self.seen[:] = [line.partition("?")[0] for line in self.seen], []
        return new

    def store(self, files: Iterable[Path]) -> None:
        """Send files by STOW-RS, all in one request."""
        mark = b"bOuNdArY"
        part = b"--" + mark + b"\r\nContent-Type: application/dicom\r\n\r\n"
        body = b"".join(part + file.read_bytes() + b"\r\n" for file in files)
        kind = f'multipart/related; type="application/dicom"; boundary={mark.decode()}'
        answer = self.ask("POST", "/dicom-web/studies", body + b"--" + mark + b"--\r\n", kind)
        failed = json.loads(answer)["00081198"].get("Value")  # FailedSOPSequence
        assert not failed, failed

    def delete_all(self) -> None:
        """Leave the node as it was at first."""
        for patient in json.loads(self.ask("GET", "/patients")):
            self.ask("DELETE", f"/patients/{patient}")

    def ask(self, method: str, target: str, body: bytes = b"", kind: str = "text/plain") -> bytes:
        """One request past the relay, neither counted nor cut."""
        login = base64.b64encode(f"reader:{self.password}".encode()).decode()
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: orthanc\r\nConnection: close\r\nContent-Type: {kind}\r\n"
            f"Authorization: Basic {login}\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connect(connection, self.folder / "socket")
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.split()[1:2] == [b"200"], answer[:500]
        return content

    def relay(self, near: socket.socket) -> None:
        """Pass one connection on, as the test has it."""
        with near, socket.socket(socket.AF_UNIX) as far:
            request = b""
            while b"\r\n\r\n" not in request and (data := near.recv(1 << 16)):
                request += data
            line = request.partition(b" HTTP/")[0].decode("ascii", "replace")
            self.seen.append(line)
            for pattern, answer in self.instead.items():
                if re.search(pattern, line):
                    near.sendall(answer)
                    return
            limits = [most for pattern, most in self.cut.items() if re.search(pattern, line)]
            connect(far, self.folder / "socket")
            far.sendall(request)
            left = limits[0] if limits else sys.maxsize
            while left > 0 and not self.is_down and (data := far.recv(min(left, 1 << 16))):
                near.sendall(data)
                left -= len(data)


def connect(connection: socket.socket, path: Path) -> None:
    """Connect to a Unix socket whose path may be longer than a socket's name."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextmanager
def relayed(node: Orthanc, tls: ssl.SSLContext | None = None):
    """Listen on loopback for a node; while `is_down`, connections are refused as by a server that is off."""

    def serve(near: socket.socket) -> None:
        with near, suppress(OSError):
            node.relay(tls.wrap_socket(near, server_side=True) if tls else near)

    def listen() -> None:
        while not ended.is_set():
            if node.is_down:
                time.sleep(0.01)
                continue
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("127.0.0.1", node.port))
                server.listen(64)
                server.settimeout(0.02)
                node.port = server.getsockname()[1]
                ready.set()
                while not ended.is_set() and not node.is_down:
                    with suppress(TimeoutError):
                        near = server.accept()[0]
                        near.settimeout(60)
                        threading.Thread(target=serve, args=(near,), daemon=True).start()

    ready, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert ready.wait(30)
        yield node
    finally:
        ended.set()
        thread.join()


def missing() -> str | None:
    """Why Orthanc cannot run here; None if it can."""
    if shutil.which("Orthanc") is None or not Path(PLUGIN).exists():
        return "Orthanc with DICOMweb is not installed (apt-get install orthanc orthanc-dicomweb)"
    if shutil.which("ip") is None or unshare() is None:
        return "no network namespace can be made here"
    return None


def unshare() -> list[str] | None:
    """Command that runs another one in a network namespace of its own."""
    for command in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        with suppress(OSError):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    return None


@contextmanager
def running(*, secure: bool = False, **configuration):
    """An empty Orthanc until the end of a ``with``; behind TLS, as hospitals have it, if it is to be `secure`."""
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="orthanc-") as name:
        folder = Path(name)
        tls = certified(folder) if secure else None
        settings = {
            "Name": "COHORT", "StorageDirectory": "db", "IndexDirectory": "db",
            "HttpPort": PORT, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "OverwriteInstances": True, "SyncStorageArea": False,
            "Plugins": [PLUGIN], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, **configuration,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [*(unshare() or []), sys.executable, "-c", INSIDE]
        with (
            subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as process,
            relayed(
                Orthanc(folder, 0, scheme="dicomweb+https" if secure else "dicomweb"), tls
            ) as node,
        ):
            try:
                wait(node)
                yield node
            finally:
                process.stdin.close()
                process.wait(60)


def certified(folder: Path) -> ssl.SSLContext:
    """TLS with a certificate for 127.0.0.1 that signs itself, ``cert.pem``."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def wait(node: Orthanc) -> None:
    """Until it answers."""
    for _ in range(600):
        with suppress(OSError, AssertionError):
            node.ask("GET", "/system")
            return
        time.sleep(0.1)
    pytest.fail(f"Orthanc does not start: {(node.folder / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="session")
def orthanc_server():
    """A node that runs until the tests end."""
    with running() as node:
        yield node


@pytest.fixture
def orthanc(orthanc_server):
    """An empty node that nobody cuts off."""
    orthanc_server.delete_all()
    orthanc_server.cut.clear()
    orthanc_server.instead.clear()
    orthanc_server.is_down = False
    orthanc_server.requests()
    return orthanc_server


@pytest.fixture(scope="session")
def guarded_orthanc():
    """A node that speaks TLS, with the certificate ``cert.pem`` in its folder, and wants a password."""
    users = {"reader": Orthanc.password}
    with running(secure=True, AuthenticationEnabled=True, RegisteredUsers=users) as node:
        yield node


@pytest.fixture
def short_pauses(monkeypatch):
    """As many tries as ever, soon after each other; no credentials of whoever runs the tests."""
    from cohort.io.sources.dicomweb import node, retrieve

    for module in (node, retrieve):
        monkeypatch.setattr(module, "PAUSES_S", (0.01,) * len(module.PAUSES_S))
    monkeypatch.setenv("NETRC", "/nonexistent")
    for name in ("HOST", "USER", "PASSWORD", "TOKEN", "CA"):
        monkeypatch.delenv(f"COHORT_DICOMWEB_{name}", raising=False)
