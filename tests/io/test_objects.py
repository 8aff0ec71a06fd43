"""A bucket and a folder do the same for a store; a client in a bucket sees no half object and no second writer."""

import json
import os
import pickle
import select
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.storage import lock, objects
from cohort.io.storage import s3 as client
from cohort.io.storage.backend import Locked, StoreError, Unreachable
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.objects import ObjectFiles, parse_url

pytest_plugins = ["s3"]

CLIENTS = [
    "obstore",
    pytest.param(
        "s3fs", marks=pytest.mark.skipif(find_spec("s3fs") is None, reason="s3fs is not installed")
    ),
]


@pytest.fixture(params=["folder", *CLIENTS])
def files(request, tmp_path):
    """A store's files in a folder, and in a bucket by either client."""
    if request.param == "folder":
        return LocalFiles(tmp_path / "store")
    bucket = request.getfixturevalue("s3")
    if request.param == "s3fs":
        request.getfixturevalue("monkeypatch").setitem(sys.modules, "obstore", None)
        client._connect.cache_clear()  # other tests have other buckets
    return ObjectFiles(f"{bucket.url}/a/store")


def test_files_come_back_are_listed_and_go(files):
    contents = {f"scans/{n}.zarr/image/c/{i}": os.urandom(40 + i) for n in "ab" for i in range(3)}
    files.write("scans/a.json", b"{}")
    files.write("scans/a.json", b"{1}")
    files.create("scans/b.json", b"")
    for n in "ab":
        prefix = f"scans/{n}.zarr"
        own = {k.removeprefix(f"{prefix}/"): c for k, c in contents.items() if k.startswith(prefix)}
        files.publish(prefix, own, durable=True)
    sizes = {**{k: len(c) for k, c in contents.items()}, "scans/a.json": 3, "scans/b.json": 0}
    assert list(files.listing("scans")) == sorted(sizes.items())
    assert list(files.listing()) == sorted(sizes.items())
    assert list(files.listing("scans/a.zarr/image")) == sorted(
        (k, s) for k, s in sizes.items() if k.startswith("scans/a.zarr/")
    )
    assert files.names("scans") == ["a.json", "a.zarr", "b.json", "b.zarr"]
    assert files.names("nothing") == []
    assert list(files.listing("nothing")) == []
    assert dict(zip(contents, files.each(files.read, contents), strict=True)) == contents
    assert files.read("scans/a.json") == b"{1}"
    assert (files.size("scans/a.json"), files.size("scans"), files.size("x")) == (
        3,
        files.size("scans"),
        None,
    )
    assert files.sizes("scans/a.zarr", ["image/c/0", "image/c/9"]) == {"image/c/0": 40}
    with pytest.raises(FileNotFoundError):
        files.read("scans/c.json")
    files.remove("scans/a.json")
    files.remove("scans/a.json")
    files.remove_tree("scans/a.zarr")
    files.remove_tree("scans/a.zarr")
    assert files.names("scans") == ["b.json", "b.zarr"]


def test_a_staged_folder_is_published_whole_and_large_files_too(files):
    large = os.urandom(12 << 20)  # more than one part of an upload
    with files.staging() as staged:
        folder = staged / "kept.zarr"
        (folder / "c").mkdir(parents=True)
        (folder / "c/0").write_bytes(large)
        (folder / "zarr.json").write_bytes(b"{}")
        files.publish_folder("derivatives/r/a.zarr", folder, durable=False)
    assert not staged.exists()
    assert list(files.listing("derivatives")) == [
        ("derivatives/r/a.zarr/c/0", len(large)),
        ("derivatives/r/a.zarr/zarr.json", 2),
    ]
    assert files.read("derivatives/r/a.zarr/c/0") == large
    assert files.sweep() == 0


def test_files_travel_without_credentials(files, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-not-to-be-seen")
    files.write("a", b"1")
    sent = pickle.dumps(files)
    assert b"a-secret" not in sent
    assert len(sent) < 500
    assert pickle.loads(sent).read("a") == b"1"


def test_a_log_can_be_read_while_it_grows_and_whole_afterwards(files, monkeypatch):
    monkeypatch.setattr(objects, "FLUSH_S", 0.2)
    log, lines = files.log("runs/r/events.jsonl"), [f'{{"n": {n}}}\n' for n in range(40)]
    for line in lines:
        log.write(line)
        log.flush()
        time.sleep(0.01)

    def text():
        return b"".join(files.read(n) for n in files.log_parts("runs/r/events.jsonl")).decode()

    assert "".join(lines).startswith(text())
    assert text()
    log.close()
    assert text() == "".join(lines)
    assert len(files.log_parts("runs/r/events.jsonl")) < 10  # a part a flush, not a part a line


def test_a_second_writer_is_told_who_holds_it_and_the_next_one_gets_it(files):
    again = pickle.loads(pickle.dumps(files))
    with files.lock(), pytest.raises(Locked, match=rf"is locked by process {os.getpid()} on"):
        again.lock().__enter__()
    for _ in range(3):
        with again.lock():
            again.write("cohort.json", b"{}")


HOLD = """
import sys, time
from cohort.io.storage.objects import ObjectFiles
with ObjectFiles(sys.argv[1], term_s=float(sys.argv[2])).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def hold(url: str, term_s: float) -> subprocess.Popen:
    """Another process that holds the lock of a bucket."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, str(term_s)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    return other


def locked(files: ObjectFiles) -> bool:
    try:
        with files.lock():
            return False
    except Locked:
        return True


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(s3):
    url = f"{s3.url}/store"
    with hold(url, 600) as other:
        try:
            assert locked(ObjectFiles(url))
        finally:
            other.kill()
    assert not locked(ObjectFiles(url))


@pytest.mark.slow
def test_the_lock_of_another_machine_is_free_after_its_term_of_silence(s3, monkeypatch):
    url = f"{s3.url}/store"
    monkeypatch.setattr(lock, "_here", lambda: {"process": 1, "machine": "elsewhere"})
    with hold(url, 3) as other:
        try:
            began = time.monotonic()
            while time.monotonic() - began < 6:  # it lives: twice its term and still held
                assert locked(ObjectFiles(url))
                time.sleep(0.5)
        finally:
            other.kill()
    assert locked(ObjectFiles(url))  # from elsewhere, silence is all there is
    ended = time.monotonic()
    while locked(ObjectFiles(url)):
        assert time.monotonic() - ended < 15
        time.sleep(0.2)


def test_a_writer_that_was_taken_for_dead_commits_nothing(s3, monkeypatch):
    url = f"{s3.url}/store"
    slow, quick = ObjectFiles(url, term_s=0.0), ObjectFiles(url)
    monkeypatch.setattr(
        lock.Lease, "_renew", lambda *_: None
    )  # it sleeps and gives no sign of life
    with slow.lock():
        slow.write("scans/a.json", b"1")
        worker = pickle.loads(pickle.dumps(slow))
        time.sleep(1.1)  # the server tells time in seconds
        with quick.lock():
            quick.write("scans/a.json", b"2")
            for late in (slow, worker):
                for act in (late.write, late.create):
                    with pytest.raises(Locked, match=r"was taken over \(claim 2, ours was 1\)"):
                        act("scans/a.json", b"3")
                with pytest.raises(Locked):
                    late.remove("scans/a.json")
    assert quick.read("scans/a.json") == b"2"
    with quick.lock():
        assert [n for n in quick.names(".lock") if n.isdecimal()] == ["00000003"]


def test_of_many_who_want_a_lock_at_once_one_gets_it(s3):
    from concurrent.futures import ThreadPoolExecutor

    url = f"{s3.url}/store"
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            claims = [ObjectFiles(url).lock() for _ in range(8)]

            def claim(held):
                try:
                    held.__enter__()
                except Locked:
                    return None
                return held

            won = [held for held in pool.map(claim, claims) if held is not None]
            assert len(won) == 1
            won[0].__exit__(None, None, None)


def test_a_record_that_somebody_else_made_first_is_not_replaced(s3):
    files = ObjectFiles(f"{s3.url}/store")
    files.create("scans/a.json", b"first")
    with pytest.raises(FileExistsError):
        files.create("scans/a.json", b"other")
    files.create("scans/a.json", b"first")  # our own, whose answer was lost
    assert files.read("scans/a.json") == b"first"


def test_a_server_that_is_away_is_no_missing_file(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    files = ObjectFiles(f"{s3.url}/store")
    monkeypatch.setattr(objects, "connect", lambda name: client.connect(name, retry_s=0.2))
    for act in (files.read, files.size, files.names):
        with pytest.raises(Unreachable, match=r"the object store fails .*cohort doctor"):
            act("a")


@contextmanager
def breaking(endpoint: str, *, answered: bool):
    """A port that leads to the server; the first request of each kind ends in a reset, before or after it was answered."""
    broken: set[bytes] = set()

    class Passage(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection((url.hostname, url.port)) as server:
                while sent := self.request.recv(1 << 16):
                    server.sendall(sent)
                    kind = sent.split()[0]
                    hurt = kind not in broken and kind in (b"GET", b"PUT", b"POST")
                    broken.add(kind)
                    if not hurt or answered:
                        answer = server.recv(1 << 16)
                    if hurt:
                        reset = struct.pack("ii", 1, 0)
                        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                        os.close(self.request.detach())  # at once, without a farewell
                        return
                    while answer:  # until the server has nothing more to say to this request
                        self.request.sendall(answer)
                        ready, _, _ = select.select([server, self.request], [], [])
                        answer = server.recv(1 << 16) if server in ready else b""

    url = urlsplit(endpoint)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Passage) as passage:
        passage.daemon_threads = True
        thread = threading.Thread(target=passage.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{passage.server_address[1]}", broken
        finally:
            passage.shutdown()
            thread.join()


@pytest.mark.parametrize("answered", [False, True])
def test_a_connection_that_breaks_off_costs_nothing(s3, monkeypatch, answered):
    with breaking(s3.endpoint, answered=answered) as (endpoint, broken):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        files = ObjectFiles(f"{s3.url}/store")
        files.create("scans/a.json", b"{}")
        assert b"PUT" in broken
        with pytest.raises(FileExistsError):
            files.create("scans/a.json", b"another")
        assert list(files.listing()) == [("scans/a.json", 2)]
        files.remove("scans/a.json")
        files.remove_tree("scans")
        assert list(files.listing()) == []
        assert broken >= {b"PUT", b"GET", b"POST"}


def test_a_bucket_that_is_not_there_is_said(s3):
    files = ObjectFiles(f"{s3.url}-not/store")
    acts = (
        lambda: files.read("a"),
        lambda: files.write("a", b""),
        lambda: files.names("a"),
        lambda: files.lock().__enter__(),
    )
    for act in acts:
        with pytest.raises(Unreachable, match="there is no such bucket"):
            act()


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a",
        "s3://user:secret@bucket/a",
        "s3://bucket/../a",
        "s3://bucket/a?versionId=1",
        "simplecache::s3://bucket/a",
        "file:///etc",
        "gs://bucket/a",
        "s3://",
        "s3://169.254.169.254/a",
    ],
)
def test_what_is_no_bucket_is_refused_and_no_password_repeated(url):
    with pytest.raises(ValueError, match="expected a local path") as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


@given(st.from_regex(r"[a-z0-9]{3,20}(/[a-z0-9._-]*[a-z0-9]){0,3}", fullmatch=True))
def test_a_url_says_bucket_and_prefix(place):
    name, _, prefix = place.partition("/")
    if ".." in prefix.split("/") or name.isdecimal():
        return
    assert ObjectFiles(f"s3://{place}").url == f"s3://{place}"
    assert parse_url(f"s3://{place}/") == (name, prefix)


def test_without_a_client_the_package_to_install_is_named(monkeypatch):
    for name in ("obstore", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    client._connect.cache_clear()
    with pytest.raises(StoreError, match=r"pip install 'cohort\[cloud\]'"):
        ObjectFiles("s3://bucket/a").read("b")
    client._connect.cache_clear()


def test_a_lock_says_nothing_but_who_and_since_when(s3):
    files = ObjectFiles(f"{s3.url}/store")
    with files.lock():
        (name,) = files.names(".lock")
        says = json.loads(files.read(f".lock/{name}"))
    assert set(says) == {"by", "token", "term_s", "process", "machine"}
