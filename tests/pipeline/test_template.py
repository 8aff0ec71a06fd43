"""The template of a cohort: numbers of NumPy, the same bits whoever works, as much memory for many scans as for few."""

import tracemalloc

import cohorts
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage as ndi

from cohort import api, schema
from cohort.cohort import Cohort
from cohort.grid import GridError
from cohort.io.store import Store, StoreError
from cohort.ops import space
from cohort.pipeline.cluster import connect
from cohort.pipeline.pools import pool

SHAPE = (7, 9, 8)
AFFINE = np.array([[2.0, 0, 0, -8], [0, 2, 0, -9], [0, 0, 3, 5], [0, 0, 0, 1]])


def values_of(seed: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def write(root, n: int, *, shape=SHAPE) -> Cohort:
    store = Store(root)
    for i in range(n):
        scan = schema.make_scan(values_of(i, shape), AFFINE)
        store.write_scan(f"sub-{i:03d}", scan, {"stamp": "s"})
    return Cohort(store)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write(tmp_path_factory.mktemp("many"), 2 * pool.GROUP + 5)


def test_mean_std_and_weight_are_those_of_numpy(many):
    ids = many.store.scan_ids()
    found = many.template(scans=reversed(ids))
    stacked = np.stack([values_of(i) for i in range(len(ids))]).astype(np.float64)
    np.testing.assert_allclose(found["mean"], stacked.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found["std"], stacked.std(axis=0, ddof=1), rtol=1e-12)
    assert (found["weight"] == len(ids)).all()
    assert found.attrs == {"variable": "image", "n_scans": len(ids), "left_out": []}
    xr.testing.assert_identical(
        found["mean"].coords.to_dataset(), many.scan(ids[0])["image"].coords.to_dataset()
    )


def test_a_template_is_written_and_read_as_any_dataset(many, tmp_path):
    found = many.template(scans=many.store.scan_ids()[:3])
    found.to_zarr(tmp_path / "template.zarr", zarr_format=3, consolidated=False)
    again = xr.open_zarr(tmp_path / "template.zarr", consolidated=False)
    xr.testing.assert_equal(again.compute(), found)
    assert again.attrs == found.attrs
    assert again["mean"].attrs == found["mean"].attrs


def test_groups_are_merged_in_their_order_whenever_they_come(many, monkeypatch):
    ids = many.store.scan_ids()
    expected = many.template(scans=ids)
    really = pool.each
    monkeypatch.setattr(pool, "each", lambda *a, **k: reversed(list(really(*a, **k))))
    xr.testing.assert_identical(many.template(scans=ids), expected)


@pytest.mark.slow
@pytest.mark.cluster
def test_any_number_of_workers_gives_the_same_bits(many):
    ids = many.store.scan_ids()
    expected = many.template(scans=ids)
    for workers in (1, 3):
        with connect(workers=workers, memory=1 << 30) as client:
            xr.testing.assert_identical(many.template(scans=ids, client=client), expected)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scans(tmp_path):
    shape = (20, 24, 22)
    study = write(tmp_path, 6 * pool.GROUP, shape=shape)
    ids, peaks = study.store.scan_ids(), []
    study.template(scans=ids[:2])  # what is loaded and compiled once
    for some in (ids[: 3 * pool.GROUP], ids):
        tracemalloc.start()
        study.template(scans=some)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0], peaks
    assert peaks[1] < 120 * np.prod(shape), peaks


def test_other_grids_are_refused_with_numbers_unless_they_are_to_be_resampled(tmp_path):
    study = write(tmp_path, 2)
    rough = schema.make_scan(values_of(9, (7, 5, 4)), np.diag([4.0, 4.0, 3.0, 1.0]))
    study.store.write_scan("sub-900", rough, {"stamp": "s"})
    ids = study.store.scan_ids()
    with pytest.raises(GridError, match=r"sub-000 is 7 x 9 x 8 .* but sub-900 is 7 x 5 x 4"):
        study.template(scans=ids)
    found = study.template(scans=ids, like="sub-000")
    images = [study.scan(s)["image"].compute() for s in ids]
    moved = [space.resample(i, like=images[0], fill=np.nan).values.astype(float) for i in images]
    counts = ~np.isnan(moved)
    np.testing.assert_array_equal(found["weight"], counts.sum(axis=0))
    assert 0 < (found["weight"] == 2).mean() < 1  # where sub-900 does not reach
    np.testing.assert_allclose(found["mean"], np.nanmean(moved, axis=0), rtol=1e-13)
    xr.testing.assert_equal(found, study.template(scans=ids, like=images[0]))


def test_scans_are_moved_by_their_poses_before_they_are_averaged(tmp_path):
    """Four views of one object, each elsewhere: averaged as SciPy shifts them, and as sharp as one."""
    z, y, x = np.mgrid[:20, :24, :22]
    study, poses, expected = Cohort(Store(tmp_path)), {}, []
    for i, off in enumerate((0.0, 1.3, -2.4, 0.6)):
        blob = 4000 * np.exp(-((z - 10) ** 2 + (y - 12 - off) ** 2 + (x - 11) ** 2) / 18)
        values = blob.round().astype(np.int16)
        study.store.write_scan(f"s{i}", schema.make_scan(values, AFFINE), {"stamp": "s"})
        poses[f"s{i}"] = np.eye(4)
        poses[f"s{i}"][1, 3] = -2.0 * off  # mm
        expected.append(ndi.shift(values.astype(float), (0, -off, 0), order=3, cval=np.nan))
    found = study.template(scans=poses, poses=poses, order=3)
    expected = np.mean(expected, axis=0)
    inside = np.isfinite(expected)
    assert 0.5 < inside.mean() < 1
    np.testing.assert_allclose(found["mean"].values[inside], expected[inside], atol=2e-3)
    assert float(found["std"].where(found["weight"] == 4).max()) < 8
    assert float(study.template(scans=poses)["std"].max()) > 500
    with pytest.raises(ValueError, match="1 of 5 scans have no pose: s9"):
        study.template(scans=[*poses, "s9"], poses=poses)


@pytest.mark.slow
def test_what_a_recipe_keeps_is_averaged_and_who_lacks_it_is_named(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 4)
    options = api.Options(workers=0)
    api.ingest(catalog, options=options)
    api.run(catalog, options=options)
    cohorts.write_scan(tmp_path / "scans/900_v1.nii.gz", cohorts.ball(9))
    api.ingest(catalog, options=options)
    study = api.open(catalog)
    ids = list(study.scans["scan_id"])
    found = study.template("ball/big")
    without = found.attrs["left_out"]
    assert (len(without), found.attrs["n_scans"]) == (1, 4)
    masks = [study.store.open_derivative("ball", s)["big"].values for s in ids if s not in without]
    np.testing.assert_array_equal(found["mean"], np.mean(masks, axis=0))
    assert masks[0].any()
    with pytest.raises(StoreError, match="none of 5 scans has 'ball/bog'"):
        study.template("ball/bog")
    with pytest.raises(StoreError, match="no scan to take 'image' of"):
        study.template(scans=[])
    with pytest.raises(StoreError, match="a scan without 'ball/big': its grid is not known"):
        study.template("ball/big", like=without[0])
