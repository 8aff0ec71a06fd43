"""The doctor finds nothing wrong with a sound server or disk, and each known defect of a server, and only that one."""

import email.utils
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from cohort.io import doctor
from cohort.io.store import Store, StoreError

pytest_plugins = ["s3"]

DEFECTS = {
    "suffix-200": "suffix range",  # rclone: the right bytes, but as if they were the whole object
    "suffix-head": "suffix range",  # s3rver: the object's first bytes
    "suffix-lies": "suffix range",  # the same, under the name of the last ones
    "range-200": "range",
    "ignores-if-none-match": "create only if absent",
    "ignores-if-match": "replace only if unchanged",
    "refuses-if-match": "replace only if unchanged",  # Ceph 16, also with the right tag
    "lists-late": "list after write",
    "no-parts": "several parts",
    "frozen-clock": "times",
    "keeps": "delete",
}
"""Defect -> the check that fails for it."""


class Server(BaseHTTPRequestHandler):
    """As much of S3 as a store uses, over objects in memory, with one defect."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, tuple[bytes, float]]
    parts: dict[tuple[str, str], bytes]
    puts: list[str]
    defect: str

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        return unquote(url.path).lstrip("/"), {name: values[0] for name, values in query.items()}

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def store(self, key: str, content: bytes) -> None:
        self.puts.append(key)  # the clock of this server: two seconds a put
        self.objects[key] = (content, 1e9 + 2 * len(self.puts) * (self.defect != "frozen-clock"))
        self.answer(200, ETag=tag(content))

    def do_PUT(self) -> None:
        key, query = self.asked
        content, known = self.body(), self.objects.get(key)
        if "partNumber" in query:
            self.parts[key, query["partNumber"]] = content
            return self.answer(200, ETag=tag(content))
        if self.headers["If-None-Match"] and known and self.defect != "ignores-if-none-match":
            return self.answer(412)
        same = known and tag(known[0]) == self.headers["If-Match"]
        right = self.defect == "ignores-if-match" or (same and self.defect != "refuses-if-match")
        if self.headers["If-Match"] and not right:
            return self.answer(412)
        return self.store(key, content)

    def do_POST(self) -> None:
        key, query = self.asked
        content = self.body().decode()
        if "delete" in query:
            names = [name.split("</Key>")[0] for name in content.split("<Key>")[1:]]
            for name in names if self.defect != "keeps" else ():
                self.objects.pop(f"{key}/{name}", None)
            gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            return self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
        if self.defect == "no-parts":
            return self.answer(501)
        if "uploads" in query:
            said = f"<InitiateMultipartUploadResult><UploadId>{key}</UploadId></InitiateMultipartUploadResult>"
            return self.answer(200, said.encode())
        mine = sorted((int(n), p) for (k, n), p in self.parts.items() if k == key)
        whole = b"".join(part for _, part in mine)
        self.objects[key] = (whole, time.time())
        said = f"<CompleteMultipartUploadResult><ETag>{tag(whole)}</ETag></CompleteMultipartUploadResult>"
        return self.answer(200, said.encode())

    def do_DELETE(self) -> None:
        if self.defect != "keeps":
            self.objects.pop(self.asked[0], None)
        self.answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self.asked
        if "list-type" in query:
            return self.answer(200, self.listed(key, query).encode())
        if key not in self.objects:
            return self.answer(404)
        content, written = self.objects[key]
        headers = {
            "ETag": tag(content),
            "Last_Modified": email.utils.formatdate(written, usegmt=True),
            "Accept_Ranges": "bytes",
        }
        if self.command == "HEAD" or not (wanted := self.headers["Range"]):
            return self.answer(200, content, **headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        start, stop = (
            (int(first), int(last) + 1) if first else (len(content) - int(last), len(content))
        )
        if self.defect == "range-200" and first:
            return self.answer(200, content, **headers)
        if self.defect == "suffix-200" and not first:
            return self.answer(200, content[start:stop], **headers)
        if self.defect == "suffix-head" and not first:
            start, stop = 0, int(last)
        if self.defect == "suffix-lies" and not first:
            place = f"bytes {start}-{stop - 1}/{len(content)}"
            return self.answer(206, content[: int(last)], **headers, Content_Range=place)
        place = f"bytes {start}-{stop - 1}/{len(content)}"
        return self.answer(206, content[start:stop], **headers, Content_Range=place)

    def listed(self, bucket: str, query: dict[str, str]) -> str:
        prefix, entries, folders = query.get("prefix", ""), [], set()
        for key, (content, written) in sorted(self.objects.items()):
            name = key.removeprefix(f"{bucket}/")
            if not name.startswith(prefix) or (
                self.defect == "lists-late" and key == self.puts[-1]
            ):
                continue
            below = name[len(prefix) :]
            if query.get("delimiter") and "/" in below:
                folders.add(prefix + below.split("/")[0] + "/")
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(written))
            entries.append(
                f"<Contents><Key>{name}</Key><Size>{len(content)}</Size><ETag>{tag(content)}</ETag>"
                f"<LastModified>{when}</LastModified></Contents>"
            )
        below = [f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(entries + below)}</ListBucketResult>"


def tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, defect: str = "") -> Iterator[Server]:
    """A server in a thread; the environment leads to it."""
    handler = type("Handler", (Server,), {"objects": {}, "parts": {}, "puts": [], "defect": defect})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        try:
            yield handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """A defect is no passing trouble: do not wait long for it to go."""
    monkeypatch.setattr(doctor, "RETRY_S", 0.5)


def failed(checks):
    return [check.name for check in checks if not check.passed]


def test_a_sound_server_passes_and_keeps_nothing(s3):
    checks = doctor.probe(f"{s3.url}/a/store")
    assert failed(checks) == []
    assert doctor.is_fit(checks)
    assert doctor.render(checks).endswith("\nfit for a store")
    assert list(Store(s3.url).files.listing()) == []


def test_the_server_of_these_tests_is_sound_without_a_defect(monkeypatch):
    monkeypatch.setattr(doctor, "TICK_S", 0)
    with serving(monkeypatch) as server:
        assert failed(doctor.probe("s3://bucket/store")) == []
        assert server.objects == {}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named_and_only_that_one(monkeypatch, defect):
    monkeypatch.setattr(doctor, "TICK_S", 0)
    with serving(monkeypatch, defect):
        checks = doctor.probe("s3://bucket/store")
    assert failed(checks) == [DEFECTS[defect]]
    assert doctor.is_fit(checks) == defect.endswith("if-match")
    (line,) = [l for l in doctor.render(checks).splitlines() if l.startswith(("FAIL", "note"))]
    assert DEFECTS[defect] in line


def test_a_store_refuses_a_server_on_which_two_runs_would_mix(monkeypatch):
    with serving(monkeypatch, "ignores-if-none-match") as server:
        with pytest.raises(
            StoreError, match="overwrites what a put with If-None-Match must not touch"
        ):
            Store("s3://bucket/store").lock().__enter__()
        assert server.objects == {}


def test_a_server_that_does_not_answer_or_knows_no_such_bucket_is_one_failure(monkeypatch, s3):
    (check,) = doctor.probe(f"{s3.url}-not/a")
    assert (check.passed, check.found) == (False, f"{s3.url}-not: there is no such bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (check,) = doctor.probe("s3://bucket/a")
    assert not check.passed
    assert doctor.render([check]).endswith("not fit for a store: write and read")


def test_a_disk_passes_before_the_store_is_there_and_keeps_nothing(tmp_path):
    checks = doctor.probe(tmp_path / "not/yet")
    assert failed([c for c in checks if c.needed]) == []
    assert [c.name for c in checks][-2:] == ["free space", "free files"]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said():
    (check,) = doctor.probe("/proc/store")
    assert not check.passed
    assert not doctor.is_fit([check])
