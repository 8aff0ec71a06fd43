"""What is known of a DICOM node without one: its names, answers in parts, and lists that cannot be trusted."""

import json
import re
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from hardcases import dicom_frames
from hypothesis import given
from hypothesis import strategies as st

from cohort.io import node_doctor
from cohort.io.catalog import CatalogError, read_catalog
from cohort.io.discover import SourceError, discover
from cohort.io.sources.buckets import UrlError
from cohort.io.sources.dicomweb import address, listing, multipart, node
from cohort.io.sources.dicomweb.node import NodeAway
from cohort.io.sources.places import check, from_url, is_node, is_object

pytest_plugins = ["orthanc"]

SECRET = "SECRETCANARY0123456789"
HTML = b"<html>DOE^JANE 1.2.3 " + SECRET.encode() + b"</html>"


@pytest.fixture(autouse=True)
def _no_long_pauses(short_pauses):
    """Tries follow each other soon."""


# --- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("dicomweb://", "'' where host:port"),
        ("dicomweb://host:0/x", "'host:0' where"),
        ("dicomweb://host:65536/x", "'host:65536' where"),
        ("dicomweb://ho st/x", "'ho st' where"),
        ("dicomweb://a::b/x", "'a::b' where"),
        ("dicomweb://169.254.169.254/latest", "an address at which no DICOM node answers"),
        ("dicomweb://[fe80::1]/x", "an address at which"),
        ("dicomweb://[::ffff:169.254.1.1]/x", "an address at which"),
        ("dicomweb://0.0.0.0/x", "an address at which"),
        ("dicomweb://2852039166/x", "an address at which"),
        ("dicomweb://host/../x", "a root with"),
        ("dicomweb://host/a%2fb", "a root with"),
        ("dicomweb://host/studies/1.2.3", "a root with"),
        ("dicomweb://host/x#y", "'#'"),
        ("dicomweb://host/x?PatientID=4711", "a filter by 'PatientID'; known are Modality, StudyDate"),
        ("dicomweb://host/x?PatientName=DOE%5EJANE", "a filter by 'PatientName'"),
        ("dicomweb://host/x?00100020=4711", "a filter by '00100020'"),
        ("dicomweb://host/x?%0a=1", "a filter by something else"),
        ("dicomweb://host/x?Modality", "a query that is no list"),
        ("dicomweb://host/x?Modality=mr%26limit%3D1", "a value of Modality that is not such as MR"),
        ("dicomweb://host/x?StudyDate=2024", "a value of StudyDate that is not such as 20240131"),
        ("dicomweb://host/x?Modality=MR&Modality=CT", "a filter twice"),
    ],
)  # fmt: skip
def test_a_url_that_is_no_node_or_asks_for_a_person_is_refused(url, found):
    with pytest.raises(UrlError) as caught:
        from_url(url)
    text = str(caught.value)
    assert text.startswith("expected a URL dicomweb://host:port/root, found ")
    assert found in text
    assert "4711" not in text
    assert "DOE" not in text


@pytest.mark.parametrize("scheme", ["dicomweb", "dicomweb+https"])
def test_credentials_in_a_url_are_refused_and_not_repeated(scheme):
    with pytest.raises(UrlError, match="credentials in it; take them out") as caught:
        from_url(f"{scheme}://user:{SECRET}@host/x")
    assert SECRET not in str(caught.value)


def test_a_url_of_the_web_is_told_how_a_node_is_written():
    with pytest.raises(UrlError, match="found https://; a DICOM node is dicomweb://host:port/root"):
        from_url("https://pacs.example.org/dicom-web")


@given(
    host=st.sampled_from(["pacs.example.org", "10.0.0.7:8042", "[::1]:104", "localhost"]),
    root=st.lists(st.sampled_from(["dicom-web", "aets", "A_B", "rs"]), max_size=3),
    filters=st.fixed_dictionaries(
        {},
        optional={
            "Modality": st.just("MR"),
            "StudyDate": st.sampled_from(["20240131", "20240101-", "-20240101"]),
            "SeriesDescription": st.text("ab */?&=%é[", min_size=1, max_size=9),
        },
    ),
    uids=st.lists(st.text("0123456789.", min_size=1, max_size=9), min_size=3, max_size=3),
)
def test_a_path_says_what_the_url_says_and_what_lies_there(host, root, filters, uids):
    where = address.Address("dicomweb+https", host, tuple(root), tuple(sorted(filters.items())))
    query = listing_query(filters)
    path = from_url("/".join([f"dicomweb+https://{host}", *root]) + query)
    assert path == where.path
    assert address.of(path) == where
    assert is_node(path)
    assert not is_object(path)
    assert where.port == (int(host.rpartition(":")[2]) if re.search(r":\d+$", host) else 443)
    series = where.series_path(*uids[:2])
    instance = series / "instances" / address.step(uids[2])
    assert ".." not in series.parts
    assert address.series_of(instance) == (series, address.step(uids[2]))
    assert address.series_of(series) is None
    assert address.of(instance) == address.Address("dicomweb+https", host, tuple(root))
    assert "/".join(address.below_root(series)) == "/".join(series.parts[-4:])


def listing_query(filters: dict[str, str]) -> str:
    return f"?{urlencode(filters)}" if filters else ""


# --- answers in parts ----------------------------------------------------------------------------------------------------

MARK = b"x-y"


def packed(contents: list[bytes], *, lengths: bool) -> bytes:
    whole = b""
    for content in contents:
        headers = b"Content-Type: application/dicom\r\n"
        headers += b"Content-Length: %d\r\n" % len(content) if lengths else b""
        whole += b"--" + MARK + b"\r\n" + headers + b"\r\n" + content + b"\r\n"
    return whole + b"--" + MARK + b"--\r\n"


def unpacked(text: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(text[at : at + size])
        at += size
    pieces = iter([chunk for chunk in [*chunks, text[at:]] if chunk])
    return [b"".join(part) for part in multipart.parts(pieces, MARK)]


PIECES = st.lists(
    st.sampled_from([b"\r", b"\n", b"--", b"\r\n--x", b"x-", b"-y", b"\r\n\r\n", b"a", b"\0"])
)


@given(
    contents=st.lists(PIECES.map(b"".join), max_size=4),
    sizes=st.lists(st.integers(1, 9), max_size=40),
    lengths=st.booleans(),
    data=st.data(),
)
def test_an_answer_in_parts_is_the_same_in_pieces_of_any_size_and_cut_anywhere_it_is_refused(
    contents, sizes, lengths, data
):
    contents = [c for c in contents if b"\r\n--" + MARK not in b"\r\n" + c + b"\r\n"]
    text = packed(contents, lengths=lengths)
    assert unpacked(text, sizes) == contents
    cut = data.draw(st.integers(0, len(text) - len(b"--\r\n")))
    with pytest.raises(multipart.MultipartError):
        unpacked(text[:cut], sizes)


def test_parts_that_are_not_as_long_as_they_say_are_refused():
    text = packed([b"one", b"two"], lengths=True).replace(b"two", b"tw")
    with pytest.raises(multipart.MultipartError, match="part 2 has 2 bytes and says 3"):
        unpacked(text, [])
    endless = b"--" + MARK + b"\r\n" + b"A: b\r\n" * 10_000
    with pytest.raises(multipart.MultipartError, match="headers of a part do not end"):
        unpacked(endless, [1000] * 100)
    for kind in ("text/html", "application/dicom", "multipart/related", f"{SECRET};boundary=x"):
        with pytest.raises(multipart.MultipartError) as caught:
            multipart.boundary_of(kind)
        assert SECRET not in str(caught.value)


def test_a_catalog_lists_every_wrong_source_at_once(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "cohort: c\nstore: out\nsources: ['dicomweb://h/x?PatientID=1', 'dicomweb://u:p@h/x']\n"
    )
    with pytest.raises(CatalogError) as caught:
        read_catalog(path)
    first, second = caught.value.problems
    assert (
        "sources.0: expected a URL dicomweb://host:port/root, found a filter by 'PatientID'"
        in first
    )
    assert "sources.1: expected a URL dicomweb://host:port/root, found credentials in it" in second


def test_a_password_never_leaves_this_machine_without_tls(monkeypatch):
    monkeypatch.setenv("COHORT_DICOMWEB_HOST", "pacs.example.org")
    monkeypatch.setenv("COHORT_DICOMWEB_TOKEN", SECRET)
    with pytest.raises(NodeAway, match="sent over TLS only; write dicomweb\\+https") as caught:
        check(from_url("dicomweb://pacs.example.org/x"))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# --- nodes that lie ------------------------------------------------------------------------------------------------------


class Liar(BaseHTTPRequestHandler):
    """As much of QIDO-RS as a listing uses, over made up series, with one defect."""

    defect = ""
    n = 7
    seen: list[str]
    headers_seen: list[dict[str, str]]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.headers_seen.append(dict(self.headers))
        status, found, more = self.found()
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def found(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 1000))
        listings = sum("/series" in path and "studies/" not in path for path in self.seen)
        steps = url.path.split("/")[2:]
        numbers = list(range(self.n))
        if steps == ["studies"]:
            tags = [{"0020000D": f"1.{n}"} for n in numbers]
        elif steps[-1] == "instances":
            tags = [
                {"00080018": f"3.{steps[3]}.{n}", "00080016": dicom_frames.ENHANCED_MR}
                for n in range(2)
            ]
        else:
            mine = numbers if len(steps) == 1 else [int(steps[1].partition(".")[2])]
            tags = [{"0020000D": f"1.{n}", "0020000E": f"2.{n}", "00201209": 2} for n in mine]
        match self.defect:
            case "no offset" if steps == ["series"]:
                offset = 0
            case "few a page":
                limit = min(limit, 2)
            case "moves once" if listings == 2:
                tags = tags[1:]
            case "moves for ever":
                tags = tags[listings % 2 :]
            case "no series of all studies" if steps == ["series"]:
                return 404, HTML, {}
            case "counts nothing":
                for one in tags:
                    one.pop("00201209", None)
            case "no JSON":
                return 200, HTML, {}
            case "no list":
                return 200, {"a": HTML.decode()}, {}
            case "no UID":
                tags[2].pop("0020000E", None)
            case "nothing":
                return 204, b"", {}
            case "redirects":
                return 302, HTML, {"Location": "http://127.0.0.1:1/"}
            case "repeats what it was told":
                return 403, f"{HTML!r} {dict(self.headers)}".encode(), {}
            case "busy once" if len(self.seen) == 1:
                return 503, HTML, {"Retry-After": "0"}
            case "busy":
                return 503, HTML, {}
        page = tags[offset : offset + limit]
        vr = {t: {"vr": "UI", "Value": [v]} for one in page for t, v in one.items()}
        assert len(vr) <= 9
        return 200, [{t: {"vr": "UI", "Value": [v]} for t, v in one.items()} for one in page], {}


@pytest.fixture
def liar(monkeypatch):
    """Give the URL of a node with a defect, and what it was asked."""
    servers = []

    def start(defect):
        handler = type("Handler", (Liar,), {"defect": defect, "seen": [], "headers_seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"dicomweb://127.0.0.1:{server.server_port}/root", handler

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def listed(url: str) -> list[listing.Listed]:
    return listing.all_series(node.Node(address.of(from_url(url))))


SOUND = [
    "",
    "no offset",
    "few a page",
    "moves once",
    "no series of all studies",
    "counts nothing",
    "busy once",
]


@pytest.mark.parametrize("defect", SOUND)
@pytest.mark.parametrize("page", [3, 1000])
def test_what_a_node_cannot_do_costs_requests_and_no_series(liar, monkeypatch, defect, page):
    url, handler = liar(defect)
    monkeypatch.setattr(listing, "PAGE", page)
    if defect == "no offset" and page == 3:
        with pytest.raises(OSError, match="the first 3 objects of a longer list"):
            listed(url)
        return
    found = listed(url)
    assert [(one.study, one.series) for one in found] == [(f"1.{n}", f"2.{n}") for n in range(7)]
    assert len(handler.seen) < 60


def test_what_counts_nothing_has_another_state_when_its_instances_are_others(liar):
    states = []
    for more in ("", "9"):
        url, handler = liar("counts nothing")
        plain = handler.found
        handler.found = lambda self, plain=plain, more=more: (
            200,
            [
                {t: {"Value": [v["Value"][0] + more if t == "00080018" else v["Value"][0]]} for t, v in one.items()}
                for one in plain(self)[1]
            ],
            {},
        )  # fmt: skip
        states.append([one.state for one in listed(url)])
    assert all(a != b for a, b in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("moves for ever", "a list that changed 3 times while it was read"),
        ("no JSON", "a list that is no DICOM JSON"),
        ("no list", "a list that is no DICOM JSON"),
        ("no UID", "a list in which something has no UID"),
    ],
)
def test_a_list_that_cannot_be_trusted_ends_the_call_and_takes_no_scan_away(
    liar, monkeypatch, defect, said
):
    url, _ = liar(defect)
    monkeypatch.setattr(listing, "PAGE", 3)
    with pytest.raises(SourceError, match=f"cannot be read: {said}") as caught:
        discover([from_url(url)])
    assert not re.search(rf"DOE|{SECRET}|\n", str(caught.value))


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("redirects", r"it leads elsewhere \(status 302\), which is not followed"),
        ("repeats what it was told", r"the DICOM node denies access \(403\)"),
        ("busy", r"it fails \(status 503\); tried 6 times"),
    ],
)
def test_what_a_node_refuses_is_told_in_our_words(liar, monkeypatch, defect, said):
    url, handler = liar(defect)
    monkeypatch.setenv("COHORT_DICOMWEB_HOST", "127.0.0.1")
    monkeypatch.setenv("COHORT_DICOMWEB_TOKEN", SECRET)
    with pytest.raises(NodeAway, match=said) as caught:
        discover([from_url(url)])
    assert str(caught.value).startswith(f"{url}: ")
    assert not re.search(rf"DOE|{SECRET}", "".join(traceback.format_exception(caught.value)))
    assert {h["Authorization"] for h in handler.headers_seen} == {f"Bearer {SECRET}"}
    assert len(handler.seen) == (6 if defect == "busy" else 1)


def test_a_name_that_stands_for_a_forbidden_address_is_asked_for_nothing(liar, monkeypatch):
    url, handler = liar("")
    monkeypatch.setattr(node, "is_no_node", lambda host: host == "127.0.0.1")
    with pytest.raises(NodeAway, match="stands for an address of no DICOM node"):
        discover([from_url(url)])
    assert handler.seen == []


@pytest.mark.parametrize(
    ("defect", "failing"),
    [
        ("", set()),
        ("no offset", {"pages"}),
        ("counts nothing", {"counts instances"}),
        ("no JSON", {"lists series"}),
    ],
)
def test_the_doctor_names_what_a_node_cannot_do(liar, defect, failing):
    url, _ = liar(defect)
    failed = {c.name for c in node_doctor.probe(url) if not c.passed}
    # This one sends nothing at all.
    assert failed - {"sends a series", "headers alone", "something to try"} == failing
