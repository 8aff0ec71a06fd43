"""The cohorts of catalogs/ on the real data beside this checkout, against references nobody here computed."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort import api
from cohort.io.catalog import read_catalog
from cohort.io.store import Store

CATALOGS = Path(__file__).resolve().parents[1] / "catalogs" / "cohorts"

INTEGERS = ["n_nonzero", "core_voxels", "n_dark_components", "largest_dark_component"]
FLOATS = ["mean_nonzero", "median_nonzero", "std_nonzero", "comp_ci", "comp_cj", "comp_ck"]


def update(name: str, store: Path, **options):
    return api.update(CATALOGS / f"{name}.yaml", options=api.Options(store=store, **options))


def tidy(store: Path, model: str) -> pd.DataFrame:
    return Store(store).model_table(model, "tidy").set_index("term")


def check_oasis(store: Path, shared: Path, subjects: int) -> None:
    """Every measurement against measures_reference.csv."""
    found = Store(store).table("oasis-csf").set_index("participant")
    reference = pd.read_csv(shared / "oasis1-mni2mm/measures_reference.csv", index_col="ID").loc[
        found.index
    ]
    assert len(found) == subjects
    for name in INTEGERS:
        np.testing.assert_array_equal(found[name], reference[name], err_msg=name)
    for name in FLOATS:
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-6, err_msg=name)
    # A ratio of counts: exact to the nine digits that are printed.
    np.testing.assert_allclose(found["dark_frac"], reference["dark_frac"], rtol=0, atol=5.1e-10)


@pytest.mark.slow
@pytest.mark.cluster
def test_oasis_all_167_scans_and_both_reference_models(tmp_path, shared):
    result = update("oasis1", tmp_path)
    assert result.manifest["counts"] == {"fresh": 0, "done": 167, "failed": 0, "quarantined": 0}
    assert len(result.manifest["unmatched"]["rows_without_scan"]) == 269
    assert not result.newly_bad
    check_oasis(tmp_path, shared, 167)
    reference = {
        "dark-frac": {"ad": (0.01785024648, 5.803341), "Age": (0.0008572202018, 17.204011), "eTIV": (1.180853228e-05, 1.7618822), "Intercept": (0.1275742509, None)},
        "largest-dark": {"ad": (2626.540571, 5.158066), "Age": (87.829571, 10.647484), "eTIV": (7.557826781, 6.8115633), "Intercept": (-13062.75046, None)},
    }  # fmt: skip
    for model, terms in reference.items():
        table = tidy(tmp_path, model)
        assert set(table["n"]) == {158}
        for term, (estimate, t) in terms.items():
            assert table.loc[term, "estimate"] == pytest.approx(estimate, rel=1e-7)
            if t is not None:
                assert table.loc[term, "statistic"] == pytest.approx(t, rel=1e-7)
    assert Store(tmp_path).model_table("dark-frac", "glance")["r2"].iloc[0] == pytest.approx(
        0.795956, abs=5e-7
    )
    again = update("oasis1", tmp_path)
    assert (again.manifest["processed"], again.manifest["counts"]["fresh"]) == (0, 167)


@pytest.fixture
def few(tmp_path, shared) -> list[Path]:
    """Sixteen of the real scans, two of them of one subject."""
    files = sorted((shared / "oasis1-mni2mm/uint8").glob("*.nii.gz"))
    twice = [f for f in files if "_MR2" in f.name][:1]
    first = [f for f in files if f.name.replace("_MR1", "_MR2") in {t.name for t in twice}]
    chosen = [*first, *twice, *[f for f in files if f not in {*first, *twice}][:14]]
    folder = tmp_path / "scans"
    folder.mkdir()
    for file in chosen:
        shutil.copy(file, folder)
    return [folder]


def test_oasis_measurements_of_a_few_scans_in_both_grains_to_the_bit(tmp_path, shared, few):
    tables = []
    for grain in ("scan", "block"):
        store = tmp_path / grain
        update("oasis1", store, sources=few, workers=0, grain=grain)
        check_oasis(store, shared, 16)
        tables.append(Store(store).table("oasis-csf"))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    records = [
        sorted(
            (p.name, p.read_bytes())
            for p in (tmp_path / grain / "derivatives/oasis-csf").glob("*.json")
        )
        for grain in ("scan", "block")
    ]
    assert records[0] == records[1]


def test_chest_ct_has_the_published_field_of_view_and_hounsfield_range(tmp_path, shared):
    result = update("chest-ct", tmp_path, workers=0)
    assert result.manifest["counts"]["done"] == 1
    row = Store(tmp_path).table("chest-ct").iloc[0]
    assert [row[f"fov_mm_{d}"] for d in "zyx"] == pytest.approx([16.35, 500.0, 500.0], abs=1e-3)
    scans = Store(tmp_path).table("scans").iloc[0]
    assert scans["spacing_z_mm"] == pytest.approx(3.27, abs=1e-9)
    image = api.open(tmp_path).scan(scans["scan_id"])["image"]
    assert (float(image.min()), float(image.max()), image.attrs["units"]) == (-1000.0, 1283.0, "HU")


def test_hippocampus_volumes_equal_the_reference_and_both_loners_are_named(tmp_path, shared):
    result = update("hippocampus", tmp_path, workers=0)
    counts = result.manifest["counts"]
    assert (counts["done"], counts["quarantined"], counts["failed"]) == (127, 1, 0)
    (problem,) = result.problems
    assert "hippocampus_118" in problem.text
    assert [p.name for p in result.orphans] == ["hippocampus_281.nii.gz"]
    recipe = read_catalog(CATALOGS / "hippocampus.yaml").recipes[0]
    found = Store(tmp_path).table(recipe)
    reference = pd.read_csv(shared / "hippocampus-msd/label_reference.csv")
    reference["subject"] = reference["case"].str.extract(r"(\d+)", expand=False)
    found = found.set_index("subject").loc[reference["subject"]]
    np.testing.assert_allclose(found["anterior_ml"], reference["vol1_mm3"] / 1000, rtol=1e-12)
    np.testing.assert_allclose(found["posterior_ml"], reference["vol2_mm3"] / 1000, rtol=1e-12)
    shapes = api.open(tmp_path).scans[["shape_x", "shape_y", "shape_z"]].drop_duplicates()
    assert len(shapes) > 100


def test_the_table_alone_gives_the_published_t_values_and_warns_of_repeated_subjects(
    tmp_path, shared
):
    result = update("oasis-table", tmp_path)
    assert result.manifest["counts"] == {"fresh": 0, "done": 0, "failed": 0, "quarantined": 0}
    dx = {m: tidy(tmp_path, m).loc["dx"] for m in Store(tmp_path).models()}
    assert dx["brain-by-dx"]["statistic"] == pytest.approx(-10.27076306169677, rel=1e-10)
    assert dx["ratio-by-dx"]["statistic"] == pytest.approx(-15.311391823926579, rel=1e-10)
    assert dx["brain-adjusted"]["statistic"] == pytest.approx(-6.886724246660, rel=1e-10)
    assert dx["brain-adjusted"]["hc3_statistic"] == pytest.approx(-6.349623376220, rel=1e-10)
    assert (dx["brain-by-dx"]["n"], dx["brain-adjusted"]["n"]) == (425, 406)
    assert dx["elderly-adjusted"]["statistic"] == pytest.approx(-5.917047586227, rel=1e-10)
    assert any("19" in w and "twice" in w for w in result.fits["brain-by-dx"].warnings)
