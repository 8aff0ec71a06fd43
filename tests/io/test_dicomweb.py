"""A DICOM node as a source: the store that a folder of the same files gives, few requests, nothing lost or mixed when it fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import canary
import numpy as np
import pandas as pd
import pydicom
import pytest
import xarray as xr
from hardcases import dicom_frames
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from series import phantom, save, write_series
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io import node_doctor
from cohort.io.catalog import CatalogError
from cohort.io.discover import discover
from cohort.io.doctor import is_fit
from cohort.io.sources.dicomweb import address, listing, node
from cohort.io.sources.places import check, from_url, local, opened
from cohort.io.store import Store

pytest_plugins = ["orthanc"]

HERE = api.Options(workers=0)
SECRET = "SECRETCANARY0123456789"  # the password of `guarded_orthanc`, too
JPEG2000 = "1.2.840.10008.1.2.4.90"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture(autouse=True)
def _no_long_pauses(short_pauses):
    """Tries follow each other soon."""


def report(path: Path, **tags) -> Path:
    """A structured report: a DICOM file without pixels."""
    dataset = Dataset()
    for keyword, value in {
        "SOPClassUID": REPORT, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(), "PatientID": "P1", "Modality": "SR", "SeriesNumber": 9, **tags,
    }.items():  # fmt: skip
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_tree(folder: Path) -> list[Path]:
    """Series of four people: plain, compressed, in one file, two echoes of one series, and a report."""
    volume, affine = phantom()
    write_series(folder / "plain", volume, affine, PatientID="A")
    write_series(folder / "j2k", volume + 1, affine, PatientID="B", syntax=JPEG2000)
    frames, turned = phantom((5, 7, 6), seed=3)
    dicom_frames.enhanced(folder / "frames" / "one.dcm", turned, frames[np.newaxis], PatientID="C")
    same = {
        "PatientID": "D",
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
    }
    for n, echo in enumerate(("10", "20")):
        write_series(folder / f"echo{n}", volume + 2 + n, affine, EchoTime=echo, **same)
    report(folder / "sr" / "report.dcm")
    return sorted(p for p in folder.rglob("*") if p.is_file())


def write_catalog(folder: Path, source: str, name: str, **more: str) -> Path:
    """A catalog of one source; those of one folder share a key."""
    lines = {
        "cohort": "c",
        "sources": f"[{json.dumps(source)}]",
        "store": name,
        "key": "key",
        **more,
    }
    path = folder / f"{name}.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8")
    return path


def counts(result: api.Result) -> dict[str, int]:
    return {state: n for state, n in result.manifest["counts"].items() if n}


def resources(requests: list[str]) -> list[str]:
    """What was asked for, without root and UIDs."""
    steps = [r.removeprefix("GET /dicom-web/") for r in requests]
    return [re.sub(r"(studies|series|instances)/[0-9.]+", r"\1/*", step) for step in steps]


LISTING, SERIES = ["series"] * 2, "studies/*/series/*"
"""Requests of a call that finds nothing new, and the request for the pixels of a series."""


# --- a node gives what a folder gives ------------------------------------------------------------------------------------


def everything(root: Path) -> dict[str, bytes]:
    """Files of a store that do not tell of the call that wrote them."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for part in ("scans", "tables")
        for p in sorted((root / part).rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("ids", ["token", "keep"])
def test_the_store_of_a_node_is_that_of_the_folder_it_was_filled_from(orthanc, tmp_path, ids):
    orthanc.store(write_tree(tmp_path / "tree"))
    stores = []
    for source, name in ((str(tmp_path / "tree"), "folder"), (orthanc.url, "node")):
        result = api.ingest(write_catalog(tmp_path, source, name, ids=ids), options=HERE)
        assert counts(result) == {"done": 5}
        assert result.manifest["found"]["skipped"] == {"no pixels (Basic Text SR Storage)": 1}
        stores.append(result.store)
    folder, there = stores
    assert len(there.scan_ids()) == 5
    assert there.scan_ids() == folder.scan_ids()
    for scan_id in there.scan_ids():
        with folder.open_scan(scan_id) as expected, there.open_scan(scan_id) as actual:
            xr.testing.assert_identical(actual.load(), expected.load())
    pd.testing.assert_frame_equal(there.table("scans"), folder.table("scans"))
    ours, theirs = everything(there.root), everything(folder.root)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_an_unchanged_node_costs_a_listing_and_a_new_instance_its_series(orthanc, tmp_path):
    files = write_tree(tmp_path / "tree")
    late = tmp_path / "tree" / "plain" / "006.dcm"
    orthanc.store(f for f in files if f != late)
    catalog = write_catalog(tmp_path, orthanc.url, "store")
    first = api.ingest(catalog, options=HERE)
    assert counts(first) == {"done": 5}
    asked = resources(orthanc.requests())
    # Once for the index and once for each scan: the two echoes are one series, the frames one instance. Of a report only the header.
    assert asked.count(SERIES) == 4 + 4
    assert asked.count(f"{SERIES}/instances/*") == 1
    assert asked.count(f"{SERIES}/metadata") == 1
    again = api.ingest(catalog, options=HERE)
    assert again.manifest["processed"] == 0
    assert counts(again) == {"fresh": 5}
    # "studies": is it there.
    assert [r for r in resources(orthanc.requests()) if r != "studies"] == LISTING

    orthanc.store([late])
    after = api.ingest(catalog, options=HERE)
    assert (after.manifest["processed"], counts(after)) == (1, {"fresh": 4, "done": 1})
    asked = orthanc.requests()
    uid = pydicom.dcmread(late).SeriesInstanceUID
    fetched = [request for request in asked if request.endswith(uid)]
    assert resources(fetched) == [SERIES, SERIES]
    assert resources(asked).count(SERIES) == 2
    assert after.store.table("scans").shape == first.store.table("scans").shape

    volume, affine = phantom(seed=8)
    orthanc.store(write_series(tmp_path / "more", volume, affine, PatientID="E"))
    assert counts(api.ingest(catalog, options=HERE)) == {"fresh": 5, "done": 1}
    assert resources(orthanc.requests()).count(SERIES) == 2


def test_filters_choose_series_also_where_the_node_does_not(orthanc, tmp_path, monkeypatch):
    volume, affine = phantom()
    for n, (kind, day) in enumerate((("MR", "20230101"), ("MR", "20240615"), ("CT", "20240615"))):
        tags = {"Modality": kind, "StudyDate": day, "SeriesDescription": f"T1 number {n}"}
        orthanc.store(write_series(tmp_path / f"{n}", volume + n, affine, PatientID=f"{n}", **tags))

    def people(query):
        return {s.subject_id for s in discover([from_url(orthanc.url + query)]).series}

    cases = {
        "": {"0", "1", "2"},
        "?Modality=MR": {"0", "1"},
        "?StudyDate=20240101-": {"1", "2"},
        "?Modality=MR&StudyDate=20240615": {"1"},
        "?SeriesDescription=T1%20*2": {"2"},
        "?Modality=PT": set(),
    }
    for query, expected in cases.items():
        assert people(query) == expected
    # A node that takes no notice of what it is asked to filter by.
    listed = node.Node.listed

    def deaf(self, resource, query):
        return listed(self, resource, [(k, v) for k, v in query if k not in address.FILTERS])

    monkeypatch.setattr(node.Node, "listed", deaf)
    for query, expected in cases.items():
        assert people(query) == expected


@pytest.mark.parametrize("page", [2, 3, 1000])
def test_pages_of_any_size_list_the_same(orthanc, tmp_path, monkeypatch, page):
    orthanc.store(write_tree(tmp_path / "tree"))
    expected = discover([from_url(orthanc.url)]).series
    monkeypatch.setattr(listing, "PAGE", page)
    assert discover([from_url(orthanc.url)]).series == expected


def test_one_instance_is_one_request_and_an_open_file(orthanc, tmp_path):
    files = write_tree(tmp_path / "tree")
    orthanc.store(files)
    (plain,) = (s for s in discover([from_url(orthanc.url)]).series if s.subject_id == "A")
    originals = {f.read_bytes() for f in files}
    orthanc.requests()
    with opened(plain.files[3]) as stream:
        assert stream.read() in originals
    assert resources(orthanc.requests()) == [f"{SERIES}/instances/*"]
    with local(plain.files[2:5]) as copies:
        assert {copy.read_bytes() for copy in copies} <= originals
        assert len(copies) == 3
        assert copies[0].parent.stat().st_mode & 0o777 == 0o700
    assert resources(orthanc.requests()) == [SERIES]
    assert not copies[0].parent.exists()
    for nothing in (plain.files[0].parent, plain.files[0].parents[1]):
        with pytest.raises(FileNotFoundError, match="names no instance"):
            opened(nothing)


# --- what goes wrong -----------------------------------------------------------------------------------------------------


def two_series(folder: Path) -> dict[str, str]:
    """Person -> UID of the series."""
    uids = {}
    for n, person in enumerate("AB"):
        volume, affine = phantom((9, 30, 40), seed=n)
        (*_, last) = write_series(folder / person, volume, affine, PatientID=person)
        uids[person] = pydicom.dcmread(last).SeriesInstanceUID
    return uids


HTML = b"<html>DOE^JANE 1.2.3 " + SECRET.encode() + b"</html>"


def answer(
    body: bytes, *, status: str = "200 OK", kind: str = "text/html", length: int | None = None
) -> bytes:
    n = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


BROKEN = {
    "text": (answer(HTML), "it is of the kind text/html, expected multipart/related"),
    "no parts": (answer(HTML, kind="multipart/related; boundary=x"), "it stops before its end"),
    "no DICOM": (
        answer(b"--x\r\n\r\n" + HTML + b"\r\n--x--", kind="multipart/related; boundary=x"),
        "a part is no DICOM file",
    ),
    "nothing": (answer(b"--x--\r\n", kind="multipart/related; boundary=x"), "it stops before its end|9 of 9"),
    "shorter than said": (answer(b"--x\r\n", kind="multipart/related; boundary=x", length=99), "connection breaks"),
    "closed at once": (b"", "the connection breaks"),
    "no HTTP": (HTML, "the connection breaks"),
    "failing": (answer(HTML, status="500 Internal Server Error"), r"it fails \(status 500\)"),
    "forbidden": (answer(HTML, status="403 Forbidden"), r"denies access \(403\)"),
    "gone": (answer(HTML, status="404 Not Found"), r"nothing of that name \(status 404\)"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_series_that_is_not_to_be_had_is_refused_by_name_and_no_other(orthanc, tmp_path, how):
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    content, said = BROKEN[how]
    orthanc.instead[f"series/{re.escape(uids['B'])}$"] = content
    found = discover([from_url(orthanc.url)], cache=tmp_path / "cache")
    assert [series.subject_id for series in found.series] == ["A"]
    ((nobody, refusal),) = found.refused
    assert nobody is None
    assert refusal.code == "WEB-SERIES"
    assert found.unreadable == [*refusal.files] == [Path(*refusal.files[0].parts[:-1], uids["B"])]
    assert re.search(said, refusal.what), refusal.what
    assert not re.search(rf"DOE|{SECRET}|{uids['B']}", str(refusal))
    # It is not remembered.
    orthanc.instead.clear()
    found = discover([from_url(orthanc.url)], cache=tmp_path / "cache")
    assert (len(found.series), found.refused, found.unreadable) == (2, [], [])


def test_a_series_that_is_cut_off_is_quarantined_by_name_and_taken_by_the_next_call(
    orthanc, tmp_path
):
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    catalog = write_catalog(tmp_path, orthanc.url, "store", ids="keep")
    orthanc.cut[f"series/{re.escape(uids['B'])}$"] = 10_000
    result = api.ingest(catalog, options=HERE)
    assert counts(result) == {"done": 1, "quarantined": 1}
    (problem,) = result.problems
    assert problem.code == "WEB-SERIES"
    assert f"/series/{uids['B']}: it stops before its end; tried 3 times" in problem.text
    assert uids["B"] not in problem.public
    orthanc.cut.clear()
    after = api.ingest(catalog, options=HERE)
    assert (counts(after), after.problems) == ({"fresh": 1, "done": 1}, [])


def test_a_series_that_breaks_off_twice_is_asked_for_three_times(orthanc, tmp_path):
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    passed_on, wanted = orthanc.relay, f"series/{re.escape(uids['B'])}$"

    def breaks(near):
        tries = sum(bool(re.search(wanted, line)) for line in orthanc.seen)
        orthanc.cut = {wanted: 10_000} if tries < 2 else {}
        passed_on(near)

    orthanc.relay = breaks
    try:
        found = discover([from_url(orthanc.url)])
    finally:
        del orthanc.relay
    assert (len(found.series), found.refused, found.unreadable) == (2, [], [])
    assert sum(request.endswith(uids["B"]) for request in orthanc.requests()) == 3


def test_a_scan_in_the_store_outlives_a_node_that_cannot_give_its_series(orthanc, tmp_path):
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    catalog = write_catalog(tmp_path, orthanc.url, "store", ids="keep")
    before = api.ingest(catalog, options=HERE).store.table("scans")
    # One more instance: the series is asked for again, and does not come.
    more = pydicom.dcmread(tmp_path / "tree/B/008.dcm")
    more.SOPInstanceUID = more.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    place = [float(x) for x in more.ImagePositionPatient]
    more.ImagePositionPatient = [*place[:2], f"{place[2] + 3.0:g}"]
    orthanc.store([save(more, tmp_path / "more.dcm")])
    orthanc.cut[f"series/{re.escape(uids['B'])}$"] = 10_000
    result = api.ingest(catalog, options=HERE)
    assert [p.code for p in result.problems] == ["WEB-SERIES"]
    assert result.absent == []
    held = result.store.table("scans").set_index("scan_id").loc[before["scan_id"]].reset_index()
    pd.testing.assert_frame_equal(held, before)
    orthanc.cut.clear()
    after = api.ingest(catalog, options=HERE)
    assert counts(after) == {"fresh": 1, "done": 1}
    shapes = sorted(after.store.open_scan(s).sizes["z"] for s in after.store.scan_ids())
    assert shapes == [9, 10]


@pytest.mark.parametrize(("after", "again"), [(1, 1 + 2), (3, 1)])
def test_a_node_that_goes_away_stops_the_call_in_one_line_and_the_next_goes_on(
    orthanc, tmp_path, after, again
):
    """After the first series for the index, and after the first scan."""
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    catalog = write_catalog(tmp_path, orthanc.url, "store")
    passed_on, fetched = orthanc.relay, f"series/({'|'.join(map(re.escape, uids.values()))})$"

    def dies(near):
        orthanc.is_down |= sum(bool(re.search(fetched, line)) for line in orthanc.seen) == after
        with near:
            if not orthanc.is_down:
                passed_on(near)

    orthanc.relay = dies
    try:
        result = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--workers", "0"])
    finally:
        del orthanc.relay
    assert result.exit_code in (2, 75), result.output
    (line,) = [line for line in result.stderr.splitlines() if "error" in line or "stopped" in line]
    assert f"{orthanc.url}: it does not answer (connection refused); tried 6 times" in line
    assert not re.search("|".join(uids.values()), result.output)
    assert len(orthanc.requests()) < 20
    store = Store(tmp_path / "store")
    assert (len(store.scan_ids()), store.quarantine()) == (after // 2, [])
    # What was indexed or read is not fetched again.
    orthanc.is_down = False
    result = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert len(store.scan_ids()) == 2
    assert resources(orthanc.requests()).count(SERIES) == again


def test_a_series_that_changes_between_index_and_reading_is_read_by_the_next_call(
    orthanc, tmp_path
):
    uids = two_series(tmp_path / "tree")
    orthanc.store(tmp_path.glob("tree/*/*"))
    catalog = write_catalog(tmp_path, orthanc.url, "store", ids="keep")
    other = pydicom.dcmread(tmp_path / "tree/B/004.dcm")
    other.PixelData = bytes(len(other.PixelData))
    other = save(other, tmp_path / "other.dcm")
    passed_on = orthanc.relay

    def swaps(near):
        if sum(line.endswith(uids["B"]) for line in orthanc.seen) == 1:
            orthanc.store([other])  # the same UID
        passed_on(near)

    orthanc.relay = swaps
    try:
        result = api.ingest(catalog, options=HERE)
    finally:
        del orthanc.relay
    assert counts(result) == {"done": 1, "quarantined": 1}
    assert "it changed after it was indexed; call again, with --rehash" in result.problems[0].text
    # A listing does not tell of it.
    assert counts(api.ingest(catalog, options=HERE)) == {"fresh": 1, "quarantined": 1}
    result = api.ingest(catalog, options=api.Options(workers=0, rehash=True))
    assert counts(result) == {"fresh": 1, "done": 1}


def test_a_node_that_is_away_before_anything_begins_is_a_wrong_call(orthanc, tmp_path):
    orthanc.is_down = True
    catalog = write_catalog(tmp_path, orthanc.url, "store")
    result = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--workers", "0"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "cannot be read (it does not answer (connection refused); tried 6 times)" in line
    assert not (tmp_path / "store").exists()


def test_a_password_comes_from_environment_or_netrc_and_goes_to_its_host_over_tls(
    guarded_orthanc, tmp_path, monkeypatch, caplog, capfd
):
    node, ca = guarded_orthanc, guarded_orthanc.folder / "cert.pem"
    assert node.password == SECRET
    catalog = write_catalog(tmp_path, node.url, "store")

    def refused() -> str:
        result = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--workers", "0"])
        assert result.exit_code == 2
        assert not (tmp_path / "store").exists()
        assert SECRET not in result.output
        (line,) = result.stderr.splitlines()
        return line

    assert "certificate is not trusted" in refused()
    monkeypatch.setenv("COHORT_DICOMWEB_CA", str(ca))
    assert "denies access (401); no credentials were given for it" in refused()
    host = f"127.0.0.1:{node.port}"
    monkeypatch.setenv("COHORT_DICOMWEB_USER", "reader")
    monkeypatch.setenv("COHORT_DICOMWEB_PASSWORD", SECRET)
    # For another node.
    monkeypatch.setenv("COHORT_DICOMWEB_HOST", "pacs.example.org")
    assert "no credentials were given" in refused()
    monkeypatch.setenv("COHORT_DICOMWEB_HOST", host)
    check(from_url(node.url))
    monkeypatch.setenv("COHORT_DICOMWEB_PASSWORD", f"wrong{SECRET}")
    assert refused().endswith("denies access (401))")
    monkeypatch.delenv("COHORT_DICOMWEB_HOST")

    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login reader password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert "no credentials were given" in refused()
    netrc.write_text(f"machine 127.0.0.1 login reader password {SECRET}\n")
    check(from_url(node.url))
    assert is_fit(node_doctor.probe(node.url))
    netrc.chmod(0o644)
    assert "netrc can be read by others; chmod 600 it" in refused()
    netrc.chmod(0o600)
    netrc.write_text(f"{SECRET} reader\n")
    assert "netrc is no netrc file (line " in refused()
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_the_doctor_finds_a_sound_node_fit_and_writes_nothing_there(orthanc, tmp_path):
    orthanc.store(write_tree(tmp_path / "tree"))
    before = orthanc.ask("GET", "/statistics")
    result = CliRunner().invoke(cli.app, ["doctor", orthanc.url])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "fit for a source"
    assert all(line.startswith("ok ") for line in result.stdout.splitlines()[:-1])
    assert orthanc.ask("GET", "/statistics") == before
    assert not re.search(r"\d\.\d+\.\d+\.\d+\.\d+", result.stdout)
    orthanc.is_down = True
    result = CliRunner().invoke(cli.app, ["doctor", orthanc.url, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["name"] == "answers"


# --- privacy and memory ----------------------------------------------------------------------------------------------------


def test_no_canary_of_a_node_is_in_store_events_or_output(orthanc, tmp_path, capfd, caplog):
    sources = tmp_path / "tree"
    canary.write_dicom(sources, 4, slices=5, gap=True)
    canary.write_dicom(sources, 5, slices=4)
    orthanc.store(sources.rglob("*.dcm"))
    uid = f"{canary.UID}.2.5"
    orthanc.cut[f"series/{re.escape(uid)}$"] = 3000
    with caplog.at_level("DEBUG"):
        events: list[dict] = []
        catalog = write_catalog(tmp_path, orthanc.url, "store")
        options = api.Options(workers=0, listen=lambda event: events.append(dict(event)))
        result = api.ingest(catalog, options=options)
        assert sorted(p.code for p in result.problems) == ["DCM-GAP", "WEB-SERIES"]
        orthanc.is_down = True
        with pytest.raises(CatalogError) as caught:
            api.ingest(catalog, options=options)
    assert canary.hits_in_store(tmp_path / "store") == []
    assert canary.hits_in_text(json.dumps(events)) == []
    shared = [problem.public for problem in result.problems] + [str(caught.value)]
    assert canary.hits_in_text("".join([*shared, *capfd.readouterr(), caplog.text])) == []
    # The operator is told which.
    assert uid in "".join(problem.text for problem in result.problems)


MEASURE = """
import re, sys
from pathlib import Path
from cohort.io.discover import discover
from cohort.io.sources.places import from_url, local
def bytes_of(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
small, large = sys.argv[1:]
for series in discover([from_url(small)]).series:
    with local(series.files):
        pass
before = bytes_of("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which may be that of who began us
found = discover([from_url(large)])
for series in found.series:
    with local(series.files) as files:
        size = sum(f.stat().st_size for f in files)
print(len(found.series), size, bytes_of("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_is_bounded_by_one_series(orthanc, tmp_path):
    small, affine = phantom()
    orthanc.store(write_series(tmp_path / "s", small, affine, Modality="MR"))
    volume = np.random.default_rng(0).integers(0, 4000, (24, 768, 768)).astype(np.int16)
    for n in range(6):
        files = write_series(tmp_path / "l", volume + n, affine, Modality="CT", PatientID=f"{n}")
        orthanc.store(files)
    urls = [f"{orthanc.url}?Modality={kind}" for kind in ("MR", "CT")]
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, *urls], capture_output=True, text=True, check=True,
        env={**os.environ, "NETRC": "/nonexistent"},
    )  # fmt: skip
    n_series, size, grown = map(int, out.stdout.split())
    assert n_series == 6
    assert size > 28e6
    # Chunks of a series, and one instance while it is digested; 1.6 MB were measured.
    assert grown < size / 4
