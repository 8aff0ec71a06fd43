"""The pages in a real browser without a network: quiet, complete, in working order, reached by the keyboard, and inert."""

import os
import re
from pathlib import Path

import browser as browsers
import cohorts
import numpy as np
import pandas as pd
import pytest
from browser import Visit, colours
from PIL import Image

from cohort import api, schema
from cohort.demo import make_demo
from cohort.io.store import Store
from cohort.reporting import scanpage
from cohort.reporting.html import write_report

HERE = api.Options(workers=0)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def browser():
    with browsers.launched(browsers.chromium()) as running:
        yield running


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """Keys and caches of cohorts that several tests look at."""
    home = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name))
        yield


@pytest.fixture(scope="module")
def balls(tmp_path_factory, private):
    """The report of eight small scans, one of them with a page of its own."""
    catalog = cohorts.write_cohort(tmp_path_factory.mktemp("balls"), scans=8)
    api.update(catalog, options=HERE)
    return api.report(catalog, scans=["003"], options=HERE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, private):
    """The report of the demo, and a page of each scan that was flagged, and of one."""
    folder = tmp_path_factory.mktemp("demo")
    result, problems = make_demo(folder, scans=6, seed=0, options=HERE)
    assert problems == []
    one = api.open(result.catalog.path).scans["scan_id"].iloc[0]
    return api.report(result.catalog.path, scans=[one], flagged=True, options=HERE)


@pytest.fixture(scope="module")
def oasis(tmp_path_factory, private, shared):
    """The report of sixteen scans of OASIS-1, and a page of one."""
    files = sorted((shared / "oasis1-mni2mm/uint8").glob("*.nii.gz"))[:16]
    options = api.Options(workers=0, store=tmp_path_factory.mktemp("oasis"), sources=files)
    catalog = ROOT / "catalogs/cohorts/oasis1.yaml"
    api.update(catalog, options=options)
    one = Store(options.store).scan_ids()[0]
    return api.report(catalog, scans=[one], options=options)


COHORTS = ["balls", *(pytest.param(name, marks=pytest.mark.slow) for name in ("demo", "oasis"))]
SMALL = pytest.mark.parametrize("made", ["balls"], indirect=True)


@pytest.fixture(params=COHORTS)
def made(request):
    return request.param, request.getfixturevalue(request.param)


@pytest.fixture
def report(made, browser):
    name, result = made
    visit = Visit(browser, result.report)
    visit.name = name
    yield visit
    visit.page.close()


@pytest.fixture
def scan(made, browser):
    name, result = made
    visit = Visit(browser, result.pages[0])
    visit.name = name
    yield visit
    visit.page.close()


def opened(visit: Visit) -> None:
    """Open the viewer by the keyboard, and wait until it has drawn."""
    visit.page.focus("#viewer-open")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#viewer[data-state]", state="attached")
    assert visit.page.get_attribute("#viewer", "data-state") == "ready", visit.page.text_content(
        "#viewer-state"
    )
    settled(visit)


def settled(visit: Visit) -> None:
    visit.page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


# -- the report --------------------------------------------------------------------------------------


def test_a_report_opens_quietly_whole_and_asks_nobody_for_anything(report):
    picture = report.shot(f"report-{report.name}")
    assert report.quiet()
    assert report.undecoded() == []
    assert report.page.evaluate("document.images.length") >= 8
    assert colours(picture) > 100
    assert np.ptp(picture, axis=(0, 1)).min() > 200
    # Of the pictures of the scans something is seen, not only their frames.
    assert colours(report.shot(f"sheet-{report.name}", "#sheet")) > 100


def test_the_contact_sheet_is_filtered_by_words(report):
    page = report.page
    cells = page.locator("#sheet > li")
    names = cells.evaluate_all("all => all.map((each) => each.dataset.name)")
    word = names[3][4:11]
    page.fill("#sheet-text", word)
    shown = cells.evaluate_all(
        "all => all.filter((each) => each.checkVisibility()).map((each) => each.dataset.name)"
    )
    assert set(shown) == {name for name in names if word in name}
    assert f"{len(shown)} of {len(names)}" in page.text_content("#sheet-count")
    page.fill("#sheet-text", "no scan has these words")
    assert cells.evaluate_all("all => all.filter((each) => each.checkVisibility()).length") == 0
    page.click("#sheet-reset")
    assert cells.evaluate_all("all => all.filter((each) => each.checkVisibility()).length") == len(
        names
    )
    assert report.quiet()


def test_the_contact_sheet_is_sorted_by_any_measurement_both_ways(made, report):
    page, store = report.page, made[1].store
    recipe = store.recipes()[0]
    table = store.table(recipe).set_index("scan_id")
    options = page.locator("#sheet-by > option").evaluate_all(
        "all => all.map((each) => [each.value, each.textContent])"
    )
    chosen = [(value, text) for value, text in options if text.startswith(f"{recipe}: ")]
    assert len(chosen) >= 2
    for value, text in chosen[:4]:
        column = text.removeprefix(f"{recipe}: ").split(" (")[0].split(" [")[0]
        (column,) = [c for c in table.columns if column.replace(",", " ").split()[0] == c]
        for way, turn in (("up", 1), ("down", -1)):
            page.select_option("#sheet-by", value)
            page.select_option("#sheet-way", way)
            names = page.locator("#sheet > li").evaluate_all(
                "all => all.map((each) => each.dataset.name)"
            )
            numbers = table[column].reindex(names).to_numpy(float)
            finite = np.isfinite(numbers)
            assert (np.diff(turn * numbers[finite]) >= 0).all()
            assert finite[: finite.sum()].all()  # scans without a number come last
    page.select_option("#sheet-by", "name")
    page.select_option("#sheet-way", "up")
    names = page.locator("#sheet > li").evaluate_all("all => all.map((each) => each.dataset.name)")
    assert names == sorted(names)
    assert report.quiet()


@SMALL
def test_the_keyboard_reaches_every_control_of_the_report_and_the_focus_is_seen(report):
    reached = report.tabbed()
    assert {"sheet-text", "sheet-by", "sheet-reset"} <= {each["id"] for each in reached}
    assert [each for each in reached if not each["seen"]] == []


@SMALL
def test_the_report_prints(report):
    report.page.emulate_media(media="print")
    assert colours(report.shot(f"print-{report.name}")) > 100
    assert not report.page.is_visible("nav.toc")
    assert not report.page.is_visible("#sheet-controls")
    assert report.page.is_visible("#summary")
    assert report.page.pdf().startswith(b"%PDF-")
    assert report.quiet()


# -- the page of a scan ------------------------------------------------------------------------------


def test_a_scans_page_opens_quietly_and_runs_nothing_before_it_is_asked(scan):
    assert scan.quiet()
    assert scan.undecoded() == []
    assert scan.page.evaluate("document.images.length") == 3
    assert scan.page.locator("canvas").count() == 0
    assert scan.page.is_visible("#viewer-open")
    reached = scan.tabbed()
    assert "viewer-open" in [each["id"] for each in reached]
    assert [each for each in reached if not each["seen"]] == []


def test_the_viewer_draws_three_planes_and_no_face(scan):
    opened(scan)
    before = scan.shot(f"viewer-{scan.name}", "#viewer canvas")
    assert colours(before) > 100
    # Each third shows something: axial, coronal, sagittal side by side.
    assert all(np.ptp(third) > 60 for third in np.array_split(before, 3, axis=1))
    # These keys switch NiiVue to a surface, and cut it open.
    for key in "vcp":
        scan.page.keyboard.press(key)
    settled(scan)
    np.testing.assert_array_equal(scan.shot(f"viewer-{scan.name}-keys", "#viewer canvas"), before)
    assert scan.quiet()


@SMALL
def test_the_cross_moves_by_the_arrow_keys_one_voxel_a_time(made, scan):
    opened(scan)
    image = made[1].store.open_scan(Path(scan.page.url).stem)["image"]
    places = []
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "PageUp", "PageDown"):
        scan.page.keyboard.press(key)
        settled(scan)
        text = scan.page.text_content("#viewer-where")
        places.append([float(part.split()[1]) for part in text.split(":")[0].split(", ")])
    steps = np.diff(places, axis=0)
    focus = scan.focus()
    assert (focus["tag"], focus["seen"]) == ("CANVAS", True)
    scan.page.keyboard.press("Tab")
    assert scan.focus()["id"] == "viewer-low"  # the viewer lets go
    # To the right in the picture is to the patient's left.
    mm = [abs(image[d].values[1] - image[d].values[0]) for d in "xyz"]
    np.testing.assert_allclose(
        steps, [[-mm[0], 0, 0], [0, mm[1], 0], [0, 0, mm[2]], [0, 0, -mm[2]]], atol=0.11
    )
    assert scan.quiet()


@SMALL
def test_the_cross_is_thin_whatever_the_voxels_are(scan):
    opened(scan)
    scan.page.evaluate(
        "(e => { e.value = 0; e.dispatchEvent(new Event('input')); })(document.getElementById('viewer-opacity'))"
    )
    settled(scan)
    shot = scan.shot(f"viewer-{scan.name}-cross", "#viewer canvas").astype(int)
    inside = shot[4:-4, 4:-4]  # without the frame of the focus
    for third in np.array_split(inside, 3, axis=1):
        amber = third[..., 0] - third[..., 2] > 60
        for axis in (0, 1):
            lines = amber.sum(axis=axis)
            # What crosses this row (or column) is one line of the cross.
            assert 1 <= np.median(lines[lines > 0]) <= 3


@SMALL
def test_masks_fade_and_the_window_changes_what_is_drawn(scan):
    opened(scan)
    first = scan.shot(f"viewer-{scan.name}-mask", "#viewer canvas").astype(int)
    scan.page.evaluate(
        "(e => { e.value = 0; e.dispatchEvent(new Event('input')); })(document.getElementById('viewer-opacity'))"
    )
    settled(scan)
    bare = scan.shot(f"viewer-{scan.name}-bare", "#viewer canvas").astype(int)
    tinted = np.abs(first - bare).sum(axis=2) > 0
    assert 0.001 < tinted.mean() < 0.5
    # What the mask covered is grey without it.
    assert (
        np.abs(bare[tinted][:, 0] - bare[tinted][:, 2]).mean()
        < 0.2 * np.abs(first[tinted][:, 0] - first[tinted][:, 2]).mean()
    )
    scan.page.fill("#viewer-high", str(1e6))
    scan.page.keyboard.press("Tab")
    settled(scan)
    dark = scan.shot(f"viewer-{scan.name}-dark", "#viewer canvas").astype(int)
    assert np.median(dark) <= np.median(bare)
    assert dark.mean() < 0.7 * bare.mean()
    assert scan.quiet()


@SMALL
def test_a_scans_page_prints_without_its_viewer(scan):
    opened(scan)
    scan.page.emulate_media(media="print")
    assert not scan.page.is_visible("#viewer")
    assert colours(scan.shot(f"print-scan-{scan.name}")) > 100


# -- what must not happen ----------------------------------------------------------------------------


def test_without_webgl_the_viewer_says_so_and_the_planes_stay(balls, browser):
    with browsers.another(browser, "--disable-3d-apis") as running:
        visit = Visit(running, balls.pages[0])
        visit.page.click("#viewer-open")
        visit.page.wait_for_selector("#viewer[data-state=failed]", state="attached")
        assert "has no WebGL 2" in visit.page.text_content("#viewer-state")
        assert visit.undecoded() == []
        assert visit.page.is_enabled("#viewer-open")


@pytest.mark.parametrize("place", ["report", "scan"])
def test_a_script_that_is_put_into_a_page_does_not_run(balls, browser, tmp_path, place):
    page = balls.report if place == "report" else balls.pages[0]
    source = page.read_text("utf-8").replace("</body>", "<script>window.ran = 1</script></body>")
    (tmp_path / "page.html").write_text(source, encoding="utf-8")
    visit = Visit(browser, tmp_path / "page.html")
    assert visit.page.evaluate("window.ran") is None
    assert visit.page.evaluate("window.refused") == ["script-src-elem inline"]
    visit.page.close()


def test_a_viewer_that_was_changed_is_refused(balls, browser, tmp_path):
    from cohort.reporting import viewer

    source = balls.pages[0].read_text("utf-8")
    other = viewer.packed(viewer.program().source.encode() + b"// changed\n")
    whole = viewer.packed(viewer.program().source.encode())
    assert source.count(whole) == 1
    (tmp_path / "page.html").write_text(source.replace(whole, other), encoding="utf-8")
    visit = Visit(browser, tmp_path / "page.html")
    visit.page.click("#viewer-open")
    visit.page.wait_for_selector("#viewer[data-state=failed]", state="attached")
    assert "the page's policy refuses it" in visit.page.text_content("#viewer-state")
    visit.page.close()


EVIL = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>{{ 7 * 7 }}"


def test_hostile_metadata_never_runs_neither_in_the_report_nor_in_a_scans_page(tmp_path, browser):
    store, voxels = Store(tmp_path), np.arange(20 * 22 * 24, dtype=np.int16).reshape(20, 22, 24)
    scan = schema.make_scan(voxels, np.eye(4))
    scan.attrs["series_description"] = EVIL
    name = EVIL.replace("/", "")
    ids = ["s1", "s2", "s3"]
    for scan_id in ids:
        store.write_scan(scan_id, scan, {"subject": EVIL, "units": EVIL})
        kept = scan.drop_vars("image").assign({name: (("z", "y", "x"), voxels > 5000)})
        store.write_derivative("r", scan_id, kept, {"kept": [name], "state": "done"})
    people = pd.DataFrame(
        {"scan_id": ids, "subject": EVIL, "participant": EVIL, "state": "done", "flags": EVIL}
    )
    store.write_table("scans", people)
    store.write_table(
        "r",
        people.drop(columns="flags").assign(reason=EVIL, **{name: [1.0, 2.0, 9.0]}),
        {name: EVIL},
    )
    recipe = {"steps": {EVIL: {"call": EVIL, EVIL: EVIL}}, "keep": [name]}
    pages = [
        write_report(store, title=EVIL, acknowledgements=EVIL, recipes={"r": recipe}),
        *scanpage.write_pages(store, ["s1"], title=EVIL, recipes={"r": recipe}),
    ]
    for path in pages:
        visit = Visit(browser, path)
        if "/scans/" in path.as_posix():
            opened(visit)
        assert visit.page.evaluate("window.ran") is None
        assert visit.page.title().count(EVIL) == 1
        assert visit.quiet()
        visit.page.close()


def test_the_picture_of_a_report_in_the_readme_is_there_described_and_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ((words, name),) = re.findall(r"^!\[(.+)\]\((\S+\.png)\)$", readme, flags=re.MULTILINE)
    assert len(words) > 40
    assert (ROOT / name).stat().st_size < 300_000
    with Image.open(ROOT / name) as picture:
        assert colours(np.asarray(picture.convert("RGB"))) > 50


def test_a_missing_browser_skips_with_a_reason_and_fails_in_ci(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="Chromium is not installed"):
        browsers.chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Chromium"):
        browsers.chromium()
