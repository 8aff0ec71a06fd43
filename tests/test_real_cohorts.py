"""The cohorts of catalogs/ on the real data beside this checkout, against references nobody here computed."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import xarray as xr
from skimage.draw import polygon2mask

from cohort import api, grid, motion
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


def outlined(image: xr.DataArray, folder: Path) -> np.ndarray:
    """An expert's outlines of the left ventricle, filled in on the grid of the image: (time, z, y, x) bool."""
    from_world = np.linalg.inv(grid.affine_of(image)) @ grid.LPS_TO_RAS
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))
    ]
    by_number = {int(header.InstanceNumber): header for header in headers}
    points = pd.read_csv(folder / "lv_expert_contours_decimated.csv")
    truth = np.zeros(image.shape, bool)
    for (number, phase), outline in points.groupby(["InstanceNumber", "phase_1based"]):
        header = by_number[number]
        along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        height, width = (float(mm) for mm in header.PixelSpacing)
        places = (
            np.array(header.ImagePositionPatient, float)
            + np.outer(outline["x_col_px"] * width, along_row)
            + np.outer(outline["y_row_px"] * height, along_column)
        )
        x, y, z = nib.affines.apply_affine(from_world, places).T
        assert np.abs(z - round(z[0])).max() < 0.01
        truth[phase - 1, round(z[0])] = polygon2mask(image.shape[2:], np.c_[y, x])
    return truth


def test_sunnybrooks_left_ventricle_agrees_with_an_expert_without_a_seed_in_both_grains(
    tmp_path, shared, record_property
):
    rows = []
    for grain in ("scan", "block"):
        result = update("sunnybrook", tmp_path / grain, workers=0, grain=grain)
        assert result.manifest["counts"]["done"] == 1
        assert not result.problems
        rows.append(Store(tmp_path / grain).table("lv-ejection-fraction"))
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    row = rows[0].iloc[0]
    units = json.loads((tmp_path / "scan/tables/lv-ejection-fraction.units.json").read_text())
    assert (units["edv_ml"], units["ejection_fraction"]) == ("ml", "1")

    # The series: folders out of order, two files twice, slices 10 mm apart though their locations step by 8.153.
    store = api.open(tmp_path / "scan")
    image = store.scan(row["scan_id"])["image"]
    assert image.sizes == {"time": 20, "z": 11, "y": 256, "x": 256}
    assert grid.spacing_mm(image)["z"] == pytest.approx(10.0, abs=1e-3)

    # The expert: 148.76 ml at end-diastole (frame 19), 84.27 ml at end-systole (frame 6).
    assert row["edv_ml"] == pytest.approx(148.8, rel=0.15)
    assert 0.33 < row["ejection_fraction"] < 0.53
    assert row["stroke_volume_ml"] == pytest.approx(row["edv_ml"] - row["esv_ml"])
    assert min((row["end_diastole_frame"] - 19) % 20, (19 - row["end_diastole_frame"]) % 20) <= 2
    assert abs(row["end_systole_frame"] - 6) <= 1
    assert (row["implausible"], row["border_voxels"], row["end_slices"]) == (0, 0, 0)
    assert (row["area_jumps"], row["touches_border"]) == (0, 0)
    # Heart rate 58 to 59 a minute in the headers of the slices.
    assert row["heart_rate_bpm"] == pytest.approx(58.5, abs=1)
    assert row["cardiac_output_l_min"] == pytest.approx(
        row["stroke_volume_ml"] * row["heart_rate_bpm"] / 1000
    )

    (path,) = (tmp_path / "scan/derivatives/lv-ejection-fraction").glob("*.zarr")
    found = xr.open_zarr(path, consolidated=False)["ventricle"].values.astype(bool)
    truth = outlined(image, shared / "sunnybrook-cine")
    voxel = grid.voxel_volume_mm3(image) / 1000
    assert truth[[19, 6]].sum((1, 2, 3)) * voxel == pytest.approx([148.76, 84.27], rel=0.005)
    for frame, least in ((19, 0.80), (6, 0.72)):
        mid = np.flatnonzero(truth[frame].any(axis=(1, 2)))[1:-1]
        ours, theirs = found[frame, mid], truth[frame, mid]
        dice = 2 * (ours & theirs).sum((1, 2)) / (ours.sum((1, 2)) + theirs.sum((1, 2)))
        record_property(
            f"dice of frame {frame}", dict(zip(mid.tolist(), dice.round(3).tolist(), strict=True))
        )
        assert dice.mean() >= least
        assert dice.min() >= 0.6  # the right object in every slice


@pytest.fixture(scope="module")
def cine(shared, tmp_path_factory):
    """The series, in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        store = tmp_path_factory.mktemp("sunnybrook")
        options = api.Options(store=store, workers=0)
        api.ingest(CATALOGS / "sunnybrook.yaml", options=options)
        study = api.open(store)
        return study.scan(study.scans["scan_id"].iloc[0])["image"].compute()


@pytest.fixture(scope="module")
def volumes(cine):
    """What is found in it, ml."""
    return motion.volume_curve_ml(motion.left_ventricle(cine)).values


def test_sunnybrooks_volumes_do_not_depend_on_how_the_series_lies(cine, volumes):
    # Flipped both ways, the slices from the other end, the beat from another frame.
    turned = cine.isel(x=slice(None, None, -1), z=slice(None, None, -1)).roll(time=7)
    turned = turned.isel(y=slice(None, None, -1))
    found = motion.volume_curve_ml(motion.left_ventricle(turned))
    np.testing.assert_array_equal(np.roll(found, -7), volumes)


def test_sunnybrooks_volumes_do_not_depend_on_the_axes_and_the_scale_of_intensities(cine, volumes):
    other = cine.rename(y="x", x="y").transpose("time", "z", "y", "x") * 4 - 96
    found = motion.volume_curve_ml(motion.left_ventricle(other))
    np.testing.assert_array_equal(found, volumes)
