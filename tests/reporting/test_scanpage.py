"""The page of one scan: complete, inert, only of what is so, and gone with whom it shows."""

import base64
import gzip
import html.parser
import json
import re
import shutil
from pathlib import Path

import cohorts
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from cohort import api, schema
from cohort.cli import app
from cohort.io.audit import audit, search
from cohort.io.leaving.redact import Subject
from cohort.io.storage import scanpages
from cohort.io.store import Store, StoreError
from cohort.reporting import scanpage, viewer
from cohort.reporting.facts import gather
from cohort.reporting.page import policy as scripts_policy

HERE = api.Options(workers=0)
X = "\N{MULTIPLICATION SIGN}"


class Page(html.parser.HTMLParser):
    """Tags, visible text and the text of each script of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.tags, self.scripts, self.words = source, [], [], []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        last = self.tags[-1] if self.tags else ("", {})
        if self.cdata_elem == "script":
            self.scripts.append((last[1], data))
        elif self.cdata_elem != "style":
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A catalog of seven scans, all the way; only copied."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(folder / "private"))
        catalog = cohorts.write_cohort(folder / "cohort", scans=7)
        api.update(catalog, options=HERE)
        api.report(catalog, scans=["000"], options=HERE)
    return catalog


@pytest.fixture
def catalog(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "cohort", symlinks=True)
    return tmp_path / "cohort" / made.name


def store_of(catalog: Path) -> Store:
    return Store(catalog.parent / "store")


def page_of(catalog: Path, scan_id: str = "sub-000_ses-1_000v1") -> Page:
    return Page((catalog.parent / f"store/report/scans/{scan_id}.html").read_text("utf-8"))


def unpacked(page: Page, name: str) -> bytes:
    (text,) = [text for attrs, text in page.scripts if attrs.get("id") == name]
    return gzip.decompress(base64.b64decode(text.partition(",")[2]))


def test_a_page_says_all_that_is_known_of_its_scan(made):
    page, store = page_of(made), store_of(made)
    record = store.record("sub-000_ses-1_000v1")
    derivative = store.derivative("ball", "sub-000_ses-1_000v1")
    for text in (
        *(
            "sub-000_ses-1_000v1",
            f"17 {X} 22 {X} 19 (z {X} y {X} x)",
            f"3 {X} 2 {X} 2 mm",
            "R, A, S",
            "orientation_from",
        ),
        *(
            record["source"],
            record["stamp"],
            record["contents"]["image"],
            derivative["recipe_digest"],
        ),
        *(
            "largest_component",
            "head_ml",
            "spots_of (ball)",
            "big ( ball )",
            f"All 17 {X} 22 {X} 19 voxels",
        ),
    ):
        assert " ".join(text.split()) in page.text, text
    assert len(page.all("img")) == 3
    assert all(a["src"].startswith("data:image/jpeg") and a["alt"] for a in page.all("img"))
    assert len(page.all("svg")) == len(derivative["measurements"])


def test_the_policy_admits_the_scripts_of_the_viewer_by_their_digests_and_nothing_else(made):
    page = page_of(made)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    run = [text for attrs, text in page.scripts if "type" not in attrs]
    program = unpacked(page, "viewer-program").decode()
    assert len(run) == 1
    assert policy == scripts_policy([*run, program])
    assert "'unsafe-inline'" not in policy.replace("style-src 'unsafe-inline'", "")
    assert "blob:" not in policy
    assert [a["href"] for a in page.all("a")] == ["#pictures", "../index.html"]
    assert not page.all("link") + page.all("iframe") + page.all("form") + page.all("object")
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    assert "url(" not in page.source
    assert "://" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_viewer_is_given_the_scan_and_what_was_kept_of_it_bit_for_bit(made):
    page, store = page_of(made), store_of(made)
    scan = store.open_scan("sub-000_ses-1_000v1")
    image = nib.Nifti1Image.from_bytes(unpacked(page, "viewer-image"))
    labels = nib.Nifti1Image.from_bytes(unpacked(page, "viewer-labels"))
    np.testing.assert_allclose(image.get_fdata().T, scan["image"], atol=1e-3)
    np.testing.assert_array_equal(image.affine, scan["affine"])
    big = store.open_derivative("ball", "sub-000_ses-1_000v1")["big"]
    np.testing.assert_array_equal(labels.get_fdata().T, big)
    (setup,) = [json.loads(text) for a, text in page.scripts if a.get("id") == "viewer-setup"]
    assert setup["cal_min"] < setup["cal_max"] <= float(scan["image"].max())


def test_the_same_store_gives_the_same_bytes(catalog):
    store = store_of(catalog)
    first, second = (
        scanpage.write_pages(store, ["sub-000_ses-1_000v1"], title="balls")[0].read_bytes()
        for _ in range(2)
    )
    assert first == second


def test_without_the_wheel_a_page_has_planes_no_program_and_the_way_to_get_it(catalog, monkeypatch):
    monkeypatch.setattr(viewer, "WHEEL", "no-such-distribution")
    scanpage.write_pages(store_of(catalog), ["sub-001_ses-1_001v1"], title="balls")
    page = page_of(catalog, "sub-001_ses-1_001v1")
    assert not page.scripts
    assert "script-src &#39;none&#39;" in page.source
    assert 'pip install "cohort[notebook]"' in page.text
    assert len(page.all("img")) == 3


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["sub-001_ses-1_001v1"], ["001"]),
        (["003", "001"], ["003", "001"]),
        (["00"], [f"00{i}" for i in range(7)]),
        (["001", "sub-001", "001v1"], ["001"]),
    ],
)
def test_a_scan_is_named_whole_or_in_part(made, names, found):
    assert [s[4:7] for s in scanpage.chosen(store_of(made), names)] == found


@pytest.mark.parametrize("name", ["nobody", "", "../scans"])
def test_a_name_that_means_no_scan_stops_the_call_before_anything_is_written(catalog, name):
    before = sorted(p for p in catalog.parent.rglob("*") if "runs" in p.parts)
    with pytest.raises(StoreError, match=r"no scan '.*' among the 7 of"):
        api.report(catalog, scans=["001", name], options=HERE)
    assert sorted(p for p in catalog.parent.rglob("*") if "runs" in p.parts) == before


def test_names_of_more_scans_than_a_call_writes_are_refused(tmp_path):
    store = Store(tmp_path)
    ids = [f"sub-{i:03d}_ses-1_T1" for i in range(scanpage.MAX_PAGES + 1)]
    store.write_table("scans", pd.DataFrame({"scan_id": ids}))
    with pytest.raises(StoreError, match="means 51 scans; expected at most 50"):
        scanpage.chosen(store, ["sub-"])
    table = pd.DataFrame({"scan_id": ids, "state": "failed", "reason": "no head"})
    store.write_table("r", table)
    assert scanpage.chosen(store, ["sub-050"], flagged=True) == [ids[50], *ids[:49]]


def test_flagged_scans_are_those_that_failed_stand_out_or_move_a_model(tmp_path):
    store = Store(tmp_path)
    ids = [f"sub-{i}_ses-1_T1" for i in range(9)]
    store.write_table("scans", pd.DataFrame({"scan_id": ids}))
    table = pd.DataFrame({"scan_id": ids, "state": "done", "reason": None, "v": np.arange(9.0)})
    table.loc[3, ["state", "reason"]] = "failed", "no head"
    table.loc[5, "v"] = 1e3
    store.write_table("r", table)
    found = scanpage.flags(gather(store, store.recipes()))
    assert list(found) == [ids[3], ids[5]]
    assert found[ids[3]] == ["r failed: no head"]
    assert "far above" in found[ids[5]][0]


@given(
    arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6) | st.just(np.nan)),
    st.data(),
)
def test_where_a_value_lies_is_scipys_percentile_of_the_others(values, data):
    place = data.draw(st.integers(0, values.size - 1))
    said = scanpage.standing(values, place)
    finite = values[np.isfinite(values)]
    assert said["n"] == finite.size
    if not np.isfinite(values[place]):
        assert said["words"] == "no value"
        assert said["strip"] is None
        return
    others = np.delete(values, place)
    others = others[np.isfinite(others)]
    if others.size:
        less = stats.percentileofscore(others, values[place], kind="strict") / 100 * others.size
        assert said["words"].startswith(f"above {round(less)} of {others.size} other scan")
    if said["strip"]:
        at = list(said["strip"].values())
        assert at[0] == 0
        assert at[4] == 100
        assert at[:5] == sorted(at[:5])
        assert 0 <= said["strip"]["value"] <= 100


def test_numbers_are_rounded_by_the_middle_half_and_counts_are_whole():
    bulk = np.linspace(48.8, 51.4, 57)
    said = scanpage.standing(np.array([*bulk, 988.5]), 3)
    assert [said[n].text for n in ("value", "q1", "q3", "high")] == ["48.939", "49.462", "50.785", "988.500"]  # fmt: skip
    strip = said["strip"]
    assert strip["q3"] - strip["q1"] > 25  # the box is seen, though one value is far
    assert (strip["low"], strip["high"]) == (0, 100)
    alike = scanpage.standing(np.array([50.0] * 20 + [988.5]), 20)
    assert [alike[n].text for n in ("value", "median")] == ["988.5", "50"]
    counts = scanpage.standing(np.array([17.0, 155.0, 20.0, 24.0, 1e6]), 0)
    assert [counts[n].text for n in ("value", "q1", "median", "high")] == ["17", "20", "24", "1,000,000"]  # fmt: skip
    even = scanpage.standing(np.array([17.0, 20.0]), 0)
    assert [even[n].text for n in ("value", "median", "high")] == ["17", "18.5", "20"]


def test_a_page_goes_when_its_scan_changes_and_stays_when_others_do(catalog):
    store = store_of(catalog)
    scanpage.write_pages(store, ["sub-001_ses-1_001v1"], title="balls")
    assert len(store.scan_pages()) == 2
    cohorts.write_scan(catalog.parent / "scans/001_v1.nii.gz", cohorts.ball(77))
    api.update(catalog, options=HERE)
    assert store.scan_pages() == ["sub-000_ses-1_000v1"]
    assert list(scanpage.links(store).values()) == ["scans/sub-000_ses-1_000v1.html"]
    assert [str(p) for p in api.verify(api.open(catalog))] == []


def test_a_page_goes_with_the_subject_and_its_digest_is_in_the_proof(catalog, tmp_path):
    store = store_of(catalog)
    scanpage.write_pages(store, scanpage.chosen(store, ["003", "004"]), title="balls")
    said, _ = api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json")
    assert said["check"]["found"] == []
    gone = {e["file"] for e in said["removed"] if e["file"].startswith("report/")}
    assert gone == set(scanpages.files_of("sub-003_ses-1_003v1"))
    # What the others' pages say of their place among all counts who went.
    assert store.scan_pages() == []
    assert not any("003" in p.name for p in (store.root / "report").rglob("*"))
    assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []


def test_a_flipped_bit_a_lost_and_a_foreign_file_are_found_and_repaired(catalog):
    cohort, folder = api.open(catalog), catalog.parent / "store/report/scans"
    page, record = sorted(folder.iterdir())
    whole = page.read_bytes()
    page.write_bytes(whole[:1000] + b"x" + whole[1001:])
    (told,) = api.verify(cohort)
    assert (told.kind, told.file) == ("damaged", f"report/scans/{page.name}")
    api.verify(cohort, repair=True)
    assert list(folder.iterdir()) == []
    api.report(catalog, scans=["000"], options=HERE)
    assert api.verify(cohort) == []
    record.unlink()
    (told,) = api.verify(cohort)
    assert (told.kind, told.file) == ("missing", f"report/scans/{record.name}")
    page.unlink()
    (folder / "notes.txt").write_text("mine")
    (told,) = api.verify(cohort)
    assert told.kind == "foreign"


def test_the_audit_finds_nothing_in_a_page_and_finds_what_is_planted_in_what_it_packs(catalog):
    cohort = api.open(catalog)
    assert api.audit(cohort)[0] == []
    store = store_of(catalog)
    strict = [f for f in audit(store, ids="token") if f.file.startswith("report/scans/")]
    assert {f.kind for f in strict} == {"id"}  # its name: these ids are the sources' own
    page = catalog.parent / "store/report/scans/sub-000_ses-1_000v1.html"
    secret = viewer.packed(b"\0" * 99 + b"DOE-JANE-1960" + b"\0" * 99)
    page.write_text(
        page.read_text("utf-8").replace("</body>", f"<script type='x'>{secret}</script></body>")
    )
    assert list(search(store, Subject(["DOE-JANE-1960"])))


@pytest.mark.parametrize(
    "evil",
    [
        "</script><script>window.ran=1</script>",
        "<!--<script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}",
        "a\x00b\u202e",
    ],
)
def test_hostile_metadata_is_inert_text(tmp_path, evil):
    store, voxels = Store(tmp_path), np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    scan = schema.make_scan(voxels, np.eye(4))
    scan.attrs["series_description"] = evil.replace("\x00", "")
    store.write_scan("s1", scan, {"subject": evil, "units": evil})
    name = re.sub("[\x00/]", "", evil)
    kept = scan.drop_vars("image").assign({name: (("z", "y", "x"), voxels > 50)})
    store.write_derivative(
        "r",
        "s1",
        kept,
        {
            "kept": [name],
            "state": "done",
            "tables": {evil: {evil: [evil]}},
            "versions": {evil: evil},
        },
    )
    store.write_table(
        "scans", pd.DataFrame({"scan_id": ["s1"], "subject": [evil.replace("\x00", "")]})
    )
    store.write_table(
        "r", pd.DataFrame({"scan_id": ["s1"], "state": ["done"], name: [1.0]}), {name: evil}
    )
    recipe = {"steps": {evil: {"call": evil, evil: evil}}, "keep": [name]}
    (path,) = scanpage.write_pages(store, ["s1"], title=evil, recipes={"r": recipe})
    page = Page(path.read_text("utf-8"))
    assert [a.get("id") for a, _ in page.scripts] == [
        "viewer-setup",
        "viewer-image",
        "viewer-labels",
        "viewer-program",
        None,
    ]
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    visible = " ".join(re.sub("[\x00\u202e]", "\ufffd", evil).split())
    assert page.text.count(visible) >= 6


def test_a_scan_that_cannot_be_read_has_a_page_that_says_so(catalog):
    next((catalog.parent / "store/scans/sub-002_ses-1_002v1.zarr/image").rglob("c/*/*/*")).unlink()
    scanpage.write_pages(store_of(catalog), ["sub-002_ses-1_002v1"], title="balls")
    page = page_of(catalog, "sub-002_ses-1_002v1")
    assert "cannot be drawn (StoreError)" in page.text
    assert "head_ml" in page.text
    assert not page.scripts
    assert str(catalog.parent) not in page.source


def test_of_a_scan_with_time_the_first_frame_is_shown(tmp_path):
    store, time = Store(tmp_path), xr.Variable("time", [0.0, 0.1], {"units": "s"})
    voxels = np.random.default_rng(0).integers(0, 99, (2, 4, 6, 8)).astype(np.int16)
    store.write_scan(
        "cine", schema.make_scan(voxels, np.diag([1.0, 1, 8, 1]), leading={"time": time}), {}
    )
    store.write_table("scans", pd.DataFrame({"scan_id": ["cine"], "subject": ["s"]}))
    (path,) = scanpage.write_pages(store, ["cine"], title="Heart")
    page = Page(path.read_text("utf-8"))
    assert f"All 4 {X} 6 {X} 8 voxels of the first time" in page.text
    np.testing.assert_array_equal(
        nib.Nifti1Image.from_bytes(unpacked(page, "viewer-image")).get_fdata().T, voxels[0]
    )


def test_the_command_prints_where_the_pages_are(catalog, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["report", str(catalog), "--scan", "001", "--scan", "002"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in lines[-3:]] == [
        "index.html", "sub-001_ses-1_001v1.html", "sub-002_ses-1_002v1.html",
    ]  # fmt: skip


def test_the_picture_of_a_scan_leads_to_its_page_when_there_is_one(catalog):
    result = api.report(catalog, scans=["004"], options=HERE)
    page = Page(result.report.read_text("utf-8"))
    leading = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert sorted(leading) == [f"scans/sub-00{i}_ses-1_00{i}v1.html" for i in (0, 4)]
    assert all((result.report.parent / href).is_file() for href in leading)
    scanpages.remove_page(result.store, "sub-004_ses-1_004v1")
    again = Page(api.report(catalog, options=HERE).report.read_text("utf-8"))
    assert leading[0] != leading[1]
    assert [a["href"] for a in again.all("a") if not a["href"].startswith("#")] == [
        "scans/sub-000_ses-1_000v1.html"
    ]
