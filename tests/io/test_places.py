"""Places beyond folders: which URLs are taken, what a bucket costs in requests, and local copies of what lies elsewhere."""

import http.server
import itertools
import os
import subprocess
import sys
import tarfile
import threading
import traceback
import zipfile
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import nibabel as nib
import numpy as np
import pytest
from series import phantom, write_series

from cohort.io import nifti
from cohort.io.catalog import CatalogError, read_catalog
from cohort.io.discover import SourceError, discover
from cohort.io.sources import buckets, places
from cohort.io.sources.buckets import Bucket
from cohort.io.sources.places import UrlError, from_url, is_object, local, opened
from cohort.io.storage.backend import Unreachable

pytest_plugins = ["s3"]

SECRET = "SECRETCANARY0123456789"


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    volume, affine = phantom()
    write_series(root / "mr", volume, affine, PatientID="B-2")
    nib.save(nib.Nifti1Pair(volume.T, affine), root / "pair.hdr")
    (root / "notes.txt").write_bytes(b"no image\n" * 300_000)
    (root / "empty").touch()
    return root


def content_of(found):
    return sorted((s.kind, s.relative, s.digests, s.subject_id) for s in found.series)


# --- URLs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://169.254.169.254/latest/meta-data", "http://"),
        ("https://example.org/a.zip", "https://"),
        ("file:///etc/passwd", "file://"),
        ("reference://x", "reference://"),
        ("gs://bucket/a", "gs://"),
        ("S3://bucket/a", "S3://"),
        ("s3 ://bucket/a", "something else"),
        ("simplecache::file:///etc/passwd", "a chain of URLs"),
        ("s3://bucket/a.zip::s3://other", "a chain of URLs"),
        ("s3://[::1]/x", "a chain of URLs"),
        ("s3://169.254.169.254/latest", "'169.254.169.254' where the name of a bucket"),
        ("s3://127.1/x", "'127.1' where"),
        ("s3://localhost:9000/x", "'localhost:9000' where"),
        ("s3://", "'' where"),
        ("s3://Bucket/x", "'Bucket' where"),
        ("s3://bucket/../other", "'.', '..' or a control character"),
        ("s3://bucket/a\nb", "'.', '..' or a control character"),
        ("s3://bucket/a?X-Amz-Signature=1", "'?' or '#'"),
        ("s3://bucket/a#b", "'?' or '#'"),
    ],
)  # fmt: skip
def test_a_url_that_leads_elsewhere_is_refused(url, found):
    with pytest.raises(UrlError) as caught:
        from_url(url)
    expected = "expected a local path or a URL s3://bucket/prefix, found "
    assert str(caught.value).startswith(expected + found)


@pytest.mark.parametrize("scheme", ["s3", "https"])
def test_credentials_in_a_url_are_refused_and_not_repeated(scheme):
    with pytest.raises(UrlError) as caught:
        from_url(f"{scheme}://user:{SECRET}@bucket/prefix")
    assert SECRET not in str(caught.value)
    assert "user" not in str(caught.value)


def test_a_url_and_the_path_that_names_it_say_the_same():
    path = from_url("s3://bucket/a/b c/ü.dcm")
    assert path == Path("s3:/bucket/a/b c/ü.dcm")
    assert is_object(path)
    assert is_object(from_url("s3://bucket"))
    for plain in ("/s3:/bucket/a", "data/a", "s3:", "/data/study.zip/a"):
        assert not is_object(Path(plain))


def test_a_catalog_takes_urls_and_archives_as_sources(s3, tree, tmp_path):
    s3.put_tree(tree, "study/")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tree / "mr/000.dcm", "a")
    catalog = tmp_path / "c.yaml"

    def read(*sources):
        catalog.write_text(f"cohort: c\nstore: out\nsources: {list(sources)}\n")
        return read_catalog(catalog).source_paths()

    url = f"{s3.url}/study/"
    assert read(url, "more.zip", "tree") == [
        from_url(url), tmp_path / "more.zip", tmp_path / "tree"
    ]  # fmt: skip
    with pytest.raises(CatalogError, match=r"sources\.0: expected a local path or a URL s3://"):
        read("https://example.org")
    with pytest.raises(CatalogError) as caught:
        read("s3://no-such-bucket-here/x", f"{s3.url}/nothing", "nothing.zip")
    assert len(caught.value.problems) == 3
    for problem in caught.value.problems:
        assert "sources: expected a folder or file, found nothing at '" in problem


# --- a bucket ------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_the_series_of_the_folder_it_was_filled_from(s3, tree):
    s3.put_tree(tree, "study/one/")
    plain = discover([tree])
    for url in (f"{s3.url}/study/one", f"{s3.url}/study/one/"):
        found = discover([from_url(url)])
        assert content_of(found) == content_of(plain)
        assert found.n_files == plain.n_files == 11
        assert {k: len(v) for k, v in found.skipped.items()} == {"empty file": 1, "not an image": 1}
    (pair,) = (s for s in found.series if s.kind == "nifti")
    assert pair.files == tuple(from_url(f"{s3.url}/study/one/pair.{end}") for end in ("hdr", "img"))
    with local([*pair.files, tree / "notes.txt", *pair.files]) as files:
        image = nifti.read_image(files[0]).image
        np.testing.assert_array_equal(image, nifti.read_image(tree / "pair.hdr").image)
        assert files[2:] == [tree / "notes.txt", *files[:2]]
        folder = files[0].parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert sorted(p.name for p in folder.iterdir()) == ["000000.hdr", "000000.img"]
    assert not folder.exists()


def test_one_object_is_a_source_too(s3, tree, monkeypatch):
    # A plain endpoint is allowed because it is set.
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    s3.put("a/x.dcm", (tree / "mr/000.dcm").read_bytes())
    s3.put("a/x.dcm.bak", b"something else")
    (series,) = discover([from_url(f"{s3.url}/a/x.dcm")]).series
    assert (series.relative, series.files) == ("x.dcm", (from_url(f"{s3.url}/a/x.dcm"),))


def test_each_object_is_asked_for_once_and_an_unchanged_one_never_again(s3, tree, tmp_path):
    s3.put_tree(tree)
    source, cache = from_url(s3.url), tmp_path / "cache"
    s3.requests()
    first = discover([source], cache=cache)
    requests = sorted(s3.requests())
    objects = [f"GET /{p.relative_to(tree)}" for p in tree.rglob("*") if p.is_file()]
    assert [r for r in requests if "list-type" not in r] == sorted(objects)
    again = discover([source], cache=cache)
    assert (again.series, again.n_files) == (first.series, first.n_files)
    assert all("list-type" in request for request in s3.requests())
    # Same size, another content: the ETag tells.
    changed = (tree / "mr/003.dcm").read_bytes()[:-1] + b"\x7f"
    s3.put("mr/003.dcm", changed)
    s3.requests()
    after = discover([source], cache=cache)
    assert [r for r in s3.requests() if "list-type" not in r] == ["GET /mr/003.dcm"]
    before_digests, after_digests = first.series[0].digests, after.series[0].digests
    assert [a != b for a, b in zip(before_digests, after_digests, strict=True)] == [
        n == 3 for n in range(7)
    ]


def test_a_look_at_the_beginning_of_an_object_costs_a_part_of_it(s3):
    content = bytes(range(256)) * 4000
    s3.put("large", content)
    path = from_url(f"{s3.url}/large")
    with opened(path) as stream:
        assert stream.read(400) == content[:400]
        assert stream.seek(-10, os.SEEK_END) == len(content) - 10
        assert stream.read() == content[-10:]
        assert stream.seek(70_000) == 70_000
        assert stream.read(300_000) == content[70_000:370_000]
    with opened(from_url(f"{s3.url}/large")) as stream:
        assert stream.read() == content
    with pytest.raises(FileNotFoundError, match="no such"):
        opened(from_url(f"{s3.url}/larg"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_may_lie_in_a_bucket(kind, s3, tree, tmp_path):
    path = tmp_path / "a"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(tree.rglob("*.*")):
                archive.write(file, file.relative_to(tree))
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tree, ".")
    s3.put("deep/in/study.bin", path.read_bytes())
    found = discover([from_url(s3.url)])
    names = [(k, r.removeprefix("deep/in/study.bin/"), *rest) for k, r, *rest in content_of(found)]
    assert [tuple(name) for name in names] == content_of(discover([tree]))
    mr = next(s for s in found.series if s.kind == "dicom")
    assert mr.files[0] == from_url(f"{s3.url}/deep/in/study.bin/mr/000.dcm")
    s3.requests()
    with local(mr.files) as copies:
        assert [c.read_bytes() for c in copies] == [
            f.read_bytes() for f in sorted((tree / "mr").iterdir())
        ]
    # As many requests as for one member: ranges of the archive.
    n = len(s3.requests())
    with local(mr.files[:1]):
        assert len(s3.requests()) == n
    with opened(mr.files[2]) as stream:
        assert stream.read() == (tree / "mr/002.dcm").read_bytes()


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_what_an_object_store_refuses_is_told_in_our_words(s3, monkeypatch):
    for source, said in (
        (f"{s3.url}/nothing", "no object has this prefix"),
        ("s3://no-such-bucket-here", "no such bucket or object"),
    ):
        with pytest.raises(SourceError, match=said) as caught:
            discover([from_url(source)])
        assert "\n" not in str(caught.value)
    s3.put("a\x01b", b"x")
    with pytest.raises(SourceError, match="is no plain path"):
        discover([from_url(s3.url)])


def test_a_file_that_goes_while_it_is_wanted_is_an_error_of_its_own(s3, tmp_path):
    s3.put("there", b"x")
    with (
        pytest.raises(FileNotFoundError, match="no such"),
        local([from_url(f"{s3.url}/there"), from_url(f"{s3.url}/gone")]),
    ):
        pass
    # A missing local file is left to whoever opens it.
    with local([tmp_path / "gone"]) as (path,):
        assert path == tmp_path / "gone"


@pytest.fixture
def server(monkeypatch):
    """Answers every request as the test says; `seen` holds the requests with their headers."""
    seen, answer = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            place = self.path.split("?")[0]
            said = answer[place] if place in answer else answer["*"]
            status, headers, body = said if isinstance(said, tuple) else next(said)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": f"{SECRET}ID",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "NO_PROXY": "127.0.0.1,localhost",
        }.items():
            monkeypatch.setenv(name, value)
        yield running.server_port, answer, seen
        running.shutdown()
        thread.join()


STATED = {"Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT", "ETag": '"a"'}

DENIED = f"""<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{SECRET}ID</AWSAccessKeyId>
<StringToSign>{SECRET}</StringToSign></Error>""".encode()


def test_an_answer_that_repeats_a_credential_is_not_repeated(server):
    _, answer, seen = server
    answer["*"] = (403, {}, DENIED)
    bucket = Bucket(Path("s3:/bucket"))
    for ask in (
        lambda: list(bucket.listing("a")),
        lambda: bucket.head("a"),
        lambda: bucket.range("a", 0, 3),
        lambda: bucket.opened("a").read(),
        lambda: discover([Path("s3:/bucket/a")]),
        lambda: places.check(Path("s3:/bucket/a")),
    ):
        with pytest.raises((OSError, SourceError)) as caught:
            ask()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert "denies access (403" in str(caught.value)
    assert seen


@pytest.mark.parametrize("tries", [1, 12])
def test_a_server_that_fails_a_dozen_times_running_is_asked_again(server, tries):
    """With one request in five failing, one in 15,000 fails six times running: a cohort makes more."""
    _, answer, seen = server
    good = (206, {"Content-Range": "bytes 0-2/3", **STATED}, b"abc")
    answer["/bucket/a"] = iter([*[(503, {}, b"")] * tries, good])
    assert Bucket(Path("s3:/bucket")).range("a", 0, 3) == b"abc"
    assert len(seen) == tries + 1


def listed(*names, more=False):
    """One page of a listing; what follows is asked for by the last name."""
    keys = "".join(
        f"<Contents><Key>{name}</Key><Size>3</Size><LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>"
        for name in names
    )
    token = f"<NextContinuationToken>{names[-1]}</NextContinuationToken>" if more else ""
    return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{keys}</ListBucketResult>".encode()


def broken(body):
    """The same answer, of which only a half arrives."""
    return 200, {"Content-Length": str(2 * len(body))}, body


def breaking_off(names, size, seen):
    """Answers of a server that lists these names in pages of a size; of every five, two break off."""
    for breaks in itertools.cycle((True, False, False, True, False)):
        query = dict(parse_qsl(urlsplit(seen[-1][0]).query))
        if token := query.get("continuation-token"):
            rest = names[names.index(token) + 1 :]
        else:
            rest = [name for name in names if name > query.get("start-after", "")]
        body = listed(*rest[:size], more=len(rest) > size)
        yield broken(body) if breaks else (200, {}, body)


@pytest.mark.parametrize("size", [70, 1000])
def test_a_listing_that_breaks_off_goes_on_where_it_ended(server, size):
    _, answer, seen = server
    names = [f"a/{i:03}" for i in range(300)]
    answer["/bucket"] = breaking_off(names, size, seen)
    found = Bucket(Path("s3:/bucket")).listing("a")
    assert [each.key for each in found] == names
    # Not all of them anew, each time.
    assert any("start-after" in path for path, _ in seen) is (size == 70)


def test_a_listing_in_no_order_is_not_gone_on_with(server):
    """What follows a name would not be all that is left."""
    _, answer, seen = server
    names = [f"a/{(i * 7) % 300:03}" for i in range(300)]
    answer["/bucket"] = breaking_off(names, 70, seen)
    answer["*"] = (404, {}, b"")
    with pytest.raises(OSError, match="object store fails"):
        list(Bucket(Path("s3:/bucket")).listing("a"))


def test_a_listing_that_breaks_off_for_ever_is_an_error(server):
    _, answer, seen = server
    answer["/bucket"] = iter([broken(listed("a/0"))] * 9)
    answer["*"] = (404, {}, b"")
    with pytest.raises(OSError, match="object store fails"):
        list(Bucket(Path("s3:/bucket")).listing("a"))
    assert len(seen) >= 4


def test_an_object_that_cannot_be_had_is_one_thing_and_a_server_that_is_away_another(
    server, monkeypatch
):
    _, answer, _ = server
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.2)
    monkeypatch.setattr(buckets, "_PROBE_S", 0.2)
    answer["/bucket"] = (200, {}, listed("bad.txt", "good.txt"))
    answer["/bucket/good.txt"] = (200, STATED, b"abc")
    answer["/bucket/bad.txt"] = (500, {}, b"")
    answer["*"] = (404, {}, b"")
    found = discover([Path("s3:/bucket")])
    assert [path.name for path in found.unreadable] == ["bad.txt"]
    assert {path.name for paths in found.skipped.values() for path in paths} == {"good.txt"}
    answer["*"] = (500, {}, b"")
    with pytest.raises(Unreachable, match=r"s3://bucket: the object store fails \(500\)"):
        discover([Path("s3:/bucket")])
    with pytest.raises(Unreachable), local([Path("s3:/bucket/bad.txt")]):
        pass


def test_a_redirect_to_another_host_takes_no_credential_along(server):
    port, answer, seen = server
    answer["*"] = (307, {"Location": f"http://localhost:{port}/elsewhere"}, b"")
    answer["/elsewhere"] = (200, {}, b"")
    with pytest.raises(OSError, match="the object store fails"):
        Bucket(Path("s3:/bucket")).range("a", 0, 3)
    assert seen[0][0] == "/bucket/a"
    assert "authorization" in {name.lower() for name in seen[0][1]}
    for path, headers in seen:
        if path.startswith("/bucket/"):
            continue  # asked of the host that the environment names
        assert path == "/elsewhere"
        assert "authorization" not in {name.lower() for name in headers}
        assert SECRET not in str(headers)


def test_without_obstore_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['obstore'] = sys.modules['obstore.store'] = None\n"
        "from pathlib import Path; from cohort.io.discover import discover\n"
        "discover([Path('s3:/bucket/a')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "SourceError: source s3:/bucket/a cannot be read" in done.stderr
    assert "pip install 'cohort[cloud]'" in done.stderr
