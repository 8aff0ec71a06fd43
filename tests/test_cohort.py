"""What a notebook holds: it shows itself, finds scans by parts of their names, and leads a number back to its bytes."""

import hashlib
import subprocess
import sys

import cohorts
import numpy as np
import pytest

from cohort import api, markup
from cohort.io.store import StoreError
from cohort.lineage import lineage
from cohort.pipeline.recipe import STEPS
from cohort.reporting import slices
from cohort.reporting.sliceplots import FLAG

SCAN = "sub-001_ses-1_001v1"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    catalog = cohorts.write_cohort(tmp_path_factory.mktemp("held"), 3)
    api.update(catalog, options=api.Options(workers=0))
    return catalog


@pytest.fixture
def study(catalog):
    return api.open(catalog)


def test_a_cohort_and_a_plan_show_themselves_in_a_few_escaped_lines(catalog, study):
    shown = study._repr_html_()
    assert "Cohort balls" in shown
    assert "Scans: 3 done" in shown
    assert "<td>ball</td><td>3</td>" in shown
    assert "head_ml [ml]" in shown
    (plan,) = api.plan(catalog)
    assert repr(plan) == "<Plan 'ball': 0 of 3 scans to do; 3 fresh, 0 failed before>"
    for text in (shown, plan._repr_html_()):
        assert "<script" not in text
        assert len(text) < 5000


def test_a_plan_of_work_says_why(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 2)
    api.ingest(catalog, options=api.Options(workers=0))
    (plan,) = api.plan(catalog)
    assert repr(plan) == "<Plan 'ball': 2 of 2 scans to do (2 new); 0 fresh, 0 failed before>"
    assert "<td>new</td><td>2</td>" in plan._repr_html_()
    assert "<td>head_ml</td><td>2</td>" in plan._repr_html_()


def test_what_is_shown_is_text_and_small():
    shown = markup.block(
        "<b>", markup.paragraph("a & b"), markup.table(["<i>"], [["<script>"]] * 99)
    )
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "a &amp; b" in shown
    assert shown.count("<tr>") == 21
    assert "and 79 more" in shown


def test_a_scan_is_found_by_a_part_of_its_name(study):
    assert study.scan_id("001") == study.scan_id(SCAN) == SCAN
    assert study.scan("001")["image"].sizes == study.scan(SCAN)["image"].sizes
    with pytest.raises(StoreError, match="3 scans are called 'ses-1': sub-000_ses-1_000v1, "):
        study.scan("ses-1")
    with pytest.raises(
        StoreError, match=r"no scan 'sub-001_ses-1_001v2' in .*did you mean sub-001"
    ):
        study.scan("sub-001_ses-1_001v2")
    with pytest.raises(StoreError, match="no measurements of 'bal', did you mean ball; there are"):
        study.measurements("bal")


def test_a_number_leads_back_to_calls_revisions_versions_and_bytes(study):
    found = study.explain("001", "share")
    assert found["value"] == study.measurements("ball").set_index("scan_id").loc[SCAN, "share"]
    steps = {s["name"]: s for s in found["lineage"]}
    assert list(steps) == [
        "head",
        "level",
        "core",
        "dark",
        "spots",
        "big",
        "n_head",
        "n_big",
        "share",
    ]
    assert steps["big"]["revision"] == STEPS["largest_component"].revision
    assert steps["dark"]["call"] == "threshold(image=image, below=0.9 * level)"
    import numpy

    assert found["versions"]["numpy"] == numpy.__version__
    folder = study.store.root / f"scans/{SCAN}.zarr"
    for name, (digest, size) in found["chunks"].items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest, size)
    assert "share = " in repr(found)
    assert "  big = largest_component(mask=spots)  (revision " in repr(found)
    assert "<td>image/c/0/0/0</td>" in found._repr_html_()


def test_a_part_of_a_measurement_has_its_lineage_and_another_recipes_name_can_be_given(study):
    assert study.explain("001", "where_x")["lineage"][-1]["call"] == "centroid_mm(mask=big)"
    assert study.explain("001", "ball.n_big")["quantity"] == "n_big"
    with pytest.raises(StoreError, match=r"no measurement 'head_mm' in .*did you mean head_ml"):
        study.explain("001", "head_mm")


def test_a_recipe_that_nobody_kept_has_no_lineage():
    assert lineage({}, "ml") == []


def test_opening_a_cohort_loads_no_statistics_figures_or_cluster():
    code = (
        "import sys, cohort; cohort.open; cohort.Cohort;"
        "print([m for m in ('distributed', 'matplotlib', 'statsmodels', 'SimpleITK', 'skimage', 'sklearn', 'numba',"
        " 'duckdb', 'IPython', 'pydicom', 'nibabel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_fit_loads_no_file_formats():
    """36 MB in every process that computes."""
    code = (
        "import sys, cohort.call, cohort.pipeline.recipe, cohort.userfiles, cohort.stats.voxels.fitting;"
        "print([m for m in ('pydicom', 'nibabel', 'distributed', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_one_call_shows_a_slice_of_a_scan_or_the_sheet_of_the_cohort(study):
    figure = study.show("001", plane="coronal", at_mm=4.0, mask="ball/big", window=(0, 60))
    picture, bar = figure.axes
    image = study.scan(SCAN)["image"]
    expected = slices.take(image, plane="coronal", at_mm=4.0)
    np.testing.assert_array_equal(picture.get_images()[0].get_array(), expected.pixels)
    assert picture.get_images()[0].get_clim() == (0, 60)
    assert picture.get_title() == f"coronal, y = {expected.position_mm:.1f} mm"
    assert bar.get_ylabel() == "image"
    mask = study.store.open_derivative("ball", SCAN)["big"]
    assert bool(picture.collections) == bool(
        slices.take(image, plane="coronal", at_mm=4.0, mask=mask).mask.any()
    )
    sheet = study.show(plane="sagittal")
    titles = {axes.get_title().removeprefix(f"{FLAG} ") for axes in sheet.axes if axes.get_images()}
    assert titles == set(study.scans["scan_id"])
    by_name = {axes.get_title().removeprefix(f"{FLAG} "): axes for axes in sheet.axes}
    shown = by_name[SCAN].get_images()[0].get_array()
    middle = slices.take(image, plane="sagittal").pixels
    np.testing.assert_allclose(shown, np.clip(middle, shown.min(), shown.max()), atol=0.6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"scan": "001", "mask": "ball/none"}, "'none' was not kept; kept was big"),
        ({"scan": "001", "variable": "flair"}, "has no variable 'flair'; there are image"),
        ({"scan": "none"}, "none"),
        ({"at_mm": 3.0}, "name a scan as well"),
        ({"scan": "001", "window": (5, 5)}, "window is 5 to 5"),
        ({"scan": "001", "plane": "oblique"}, "no plane 'oblique'"),
        ({"scan": "001", "at_mm": 1e4}, "lies outside the scan"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(study, asked, said):
    with pytest.raises(ValueError, match=said):
        study.show(**asked)


@pytest.mark.parametrize("what", [3, None, 1.5])
def test_what_is_no_name_is_said_to_be_none(study, what):
    with pytest.raises(StoreError, match=rf"expected the name of a scan .* found {what}"):
        study.scan(what)


def test_what_a_recipe_kept_is_stacked_as_it_is_shown(study):
    stacked = study.stack("ball/big")
    ids = [str(s) for s in study.scans["scan_id"]]
    assert list(stacked.scan.values) == ids
    for scan_id in ids:
        one = study.store.open_derivative("ball", scan_id, variable="big")["big"]
        np.testing.assert_array_equal(stacked.sel(scan=scan_id), one)
    with pytest.raises(StoreError, match="has no variable 'nope'; there are image"):
        study.stack("nope")
    with pytest.raises(StoreError, match="'nope' was not kept; kept was big"):
        study.stack("ball/nope")


def test_a_scan_on_which_the_recipe_failed_says_why(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 2)
    # Nothing is head there, so that its median, on which a threshold stands, is no number.
    cohorts.write_scan(tmp_path / "scans/001_v1.nii.gz", np.zeros((19, 22, 17), np.int16))
    api.update(catalog, options=api.Options(workers=0))
    study = api.open(catalog)
    why = "recipe ball failed on sub-001_ses-1_001v1: RunError: step 'dark': below"
    for look in (
        lambda: study.show("001", mask="ball/big"),
        lambda: study.explain("001", "head_ml"),
        lambda: study.explain("001", "ball.head_ml"),
        lambda: study.stack("ball/big"),
    ):
        with pytest.raises(StoreError, match=why):
            look()
    assert study.explain("000", "head_ml")["unit"] == "ml"
