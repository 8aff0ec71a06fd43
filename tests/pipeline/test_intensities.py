"""Intensities of a cohort: one pass for all histograms, a scale that newcomers do not move, and measured parameters."""

import json

import cohorts
import numpy as np
import pytest
import xarray as xr

from cohort import api, schema
from cohort.cohort import Cohort
from cohort.io.store import Store
from cohort.ops import intensity
from cohort.ops.landmarks import Landmarks
from cohort.pipeline.cluster import connect
from cohort.pipeline.pools import pool

SHAPE = (6, 8, 7)
HERE = api.Options(workers=0)


def values_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of whole numbers, of a scanner of its own, and labels; not all labels are in all scans."""
    rng = np.random.default_rng(seed)
    image = rng.normal(300 + 20 * seed, 40, SHAPE).round().astype(np.int16)
    return image, rng.choice([0, 1, 2 + seed % 3], SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("many"))
    for i in range(pool.GROUP + 4):
        image, labels = values_of(i)
        scan = schema.make_scan(image, np.diag([2.0, 2.0, 3.0, 1.0]))
        scan["labels"] = scan["image"].copy(data=labels)
        store.write_scan(f"s{i:02d}", scan, {"stamp": "s"})
    return Cohort(store)


def test_counts_of_a_cohort_are_those_of_all_its_voxels(many):
    ids = many.store.scan_ids()
    found = many.histogram(labels="labels", scans=ids)
    pairs = [values_of(i) for i in range(len(ids))]
    image, labels = (np.stack(each) for each in zip(*pairs, strict=True))
    names, often = np.unique(image, return_counts=True)
    assert found.sizes["bin"] == np.ptp(image) + 1
    assert found["counts"].sel(bin=names).values.tolist() == often.tolist()
    assert int(found["counts"].sum()) == image.size
    assert found["label"].values.tolist() == [1, 2, 3, 4]
    for label in found["label"].values:
        names, often = np.unique(image[labels == label], return_counts=True)
        mine = found["by_label"].sel(label=label)
        assert mine.sel(bin=names).values.tolist() == often.tolist()
        assert int(mine.sum()) == often.sum()
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        exact = np.quantile(image, q, method="inverted_cdf")
        assert float(intensity.quantile(found["counts"], q)) == exact
        exact = np.quantile(image[labels == 4], q, method="inverted_cdf")
        assert float(intensity.quantile(found["by_label"].sel(label=4), q)) == exact
    assert found.attrs == {
        "variable": "image", "labels": "labels", "n_scans": len(ids), "left_out": []
    }  # fmt: skip


def test_bins_that_are_agreed_on_take_one_pass_and_add_up(many, monkeypatch):
    ids = many.store.scan_ids()
    opened: list[str] = []
    really = Store.open_scan
    monkeypatch.setattr(Store, "open_scan", lambda s, i: (opened.append(i), really(s, i))[1])
    whole = many.histogram(bins=30, range=(0, 1500), scans=ids)
    assert opened == ids
    parts = [many.histogram(bins=30, range=(0, 1500), scans=p) for p in (ids[:7], ids[7:])]
    xr.testing.assert_equal(parts[0] + parts[1], whole)
    images = np.stack([values_of(i)[0] for i in range(len(ids))])
    assert whole["counts"].values.tolist() == np.histogram(images, 30, (0, 1500))[0].tolist()


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_find_the_same(many):
    ids = many.store.scan_ids()
    with connect(workers=2, memory=1 << 30) as client:
        more = {"scans": ids, "client": client}
        xr.testing.assert_identical(
            many.histogram(labels="labels", **more), many.histogram(labels="labels", scans=ids)
        )
        assert many.landmarks(**more) == many.landmarks(scans=ids)


def test_a_scale_is_learnt_from_the_percentiles_of_each_scan(many):
    ids = many.store.scan_ids()
    at = (5, 25, 50, 75, 95)
    found = many.landmarks(scans=ids, at=at, scale=(0, 10))
    rows = [np.percentile(values_of(i)[0], at) for i in range(len(ids))]
    expected = np.mean([np.interp(r, r[[0, -1]], [0, 10]) for r in rows], axis=0)
    np.testing.assert_allclose(found.values, expected, atol=2e-3)
    assert (found.n_scans, found.left_out) == (len(ids), ())
    # Scanners are 20 apart; on the scale their medians are one.
    medians = [
        float(intensity.normalize(many.scan(i)["image"], **found.parameters()).median())
        for i in ids
    ]
    np.testing.assert_allclose(medians, found.values[2], atol=1e-2)


def test_a_range_counts_the_whole_numbers_in_it_and_no_others(tmp_path):
    store = Store(tmp_path / "store")
    values = np.arange(6, dtype=np.int16).repeat(10).reshape(3, 4, 5)
    store.write_scan("s", schema.make_scan(values, np.diag([2.0, 2.0, 2.0, 1.0])), {"stamp": "s"})
    found = Cohort(store).histogram(range=(0.5, 3.5), scans="s")
    assert found["counts"].sel(bin=[1, 2, 3]).values.tolist() == [10, 10, 10]
    assert found.sizes["bin"] == 3
    with pytest.raises(ValueError, match=r"no whole number from 2.2 to 2.8: give bins"):
        Cohort(store).histogram(range=(2.2, 2.8), scans="s")


def test_a_mask_of_numbers_is_what_is_not_zero_and_a_series_is_refused(tmp_path, many):
    ids = many.store.scan_ids()
    learnt = many.landmarks(mask="labels", scans=ids)
    assert learnt.n_scans == len(ids)
    store = Store(tmp_path / "store")
    series = np.arange(120, dtype=np.int16).reshape(2, 3, 4, 5)
    time = {"time": xr.Variable("time", [0.0, 1.0])}
    scan = schema.make_scan(series, np.diag([2.0, 2.0, 2.0, 1.0]), leading=time)
    store.write_scan("s", scan, {"stamp": "s"})
    with pytest.raises(ValueError, match=r"s: image has dims .*'time'.*, expected z, y, x"):
        Cohort(store).landmarks(scans="s")


def test_what_cannot_be_counted_is_said(many):
    ids = many.store.scan_ids()[:2]
    for more, says in (
        ({"bins": 0}, "bins is 0"),
        ({"bins": 4, "range": (9, 3)}, "two finite numbers, the lower first"),
        ({"range": (0, 1, 2)}, "two finite numbers"),
        ({"range": (float("nan"), 1)}, "two finite numbers"),
        ({"labels": "image"}, "s00 is float32, expected integers"),
        ({"variable": "image", "labels": "mask"}, "none of 2 scans has 'image' and 'mask'"),
    ):
        with pytest.raises(ValueError, match=says):
            many.histogram(scans=ids, **more)
    with pytest.raises(ValueError, match="none of 2 scans has 'image', 'mask' and more than one"):
        many.landmarks(scans=ids, mask="mask")


RECIPE = """\
recipe: scaled
steps:
  head:     {{call: threshold, image: image, above: 0}}
  standard: {{call: standardize, image: image, mask: head}}
  scaled:   {{call: normalize, image: image, mask: head, {scale}}}
measure:
  mean:     {{call: mean_in, image: image, mask: head}}
  std:      {{call: std_in, image: image, mask: head}}
  n:        {{call: n_voxels, mask: head}}
  zero:     {{call: mean_in, image: standard, mask: head}}
  one:      {{call: std_in, image: standard, mask: head}}
  median:   {{call: median_in, image: scaled, mask: head}}
keep: [scaled, standard]
"""


@pytest.mark.slow
def test_a_newcomer_is_brought_onto_the_saved_scale_and_moves_nobody(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 4)
    api.ingest(catalog, options=HERE)
    api.run(catalog, options=HERE)
    study = api.open(catalog)
    learnt = study.landmarks(mask="ball/big")
    text = learnt.to_json()
    scale = json.dumps(Landmarks.from_json(text).parameters())[1:-1]
    (tmp_path / "recipes/scaled.yaml").write_text(RECIPE.format(scale=scale))
    catalog.write_text(catalog.read_text().replace("recipes: [ball]", "recipes: [ball, scaled]"))
    assert api.run(catalog, options=HERE).manifest["counts"]["failed"] == 0
    store = cohorts.store_of(catalog)
    before = {s: store.files.read(f"derivatives/scaled/{s}.json") for s in store.scan_ids()}

    cohorts.write_scan(tmp_path / "scans/900_v1.nii.gz", 3 * cohorts.ball(9))
    api.update(catalog, options=HERE)
    study = api.open(catalog)
    for scan_id, record in before.items():
        assert store.files.read(f"derivatives/scaled/{scan_id}.json") == record
    (newcomer,) = set(store.scan_ids()) - set(before)
    table = study.measurements("scaled").set_index("scan_id")
    image = study.scan(newcomer)["image"].compute()
    inside = image.values[image.values > 0].astype(np.float64)
    mine = table.loc[newcomer]
    # What standardisation stood on, as measurements.
    assert mine["mean"] == pytest.approx(inside.mean(), rel=1e-12)
    assert mine["std"] == pytest.approx(inside.std(), rel=1e-12)
    assert mine["n"] == inside.size
    assert mine["zero"] == pytest.approx(0, abs=1e-6)
    assert mine["one"] == pytest.approx(1, abs=1e-6)
    expected = intensity.normalize(image, **learnt.parameters(), mask=image > 0)
    kept = store.open_derivative("scaled", newcomer)["scaled"]
    np.testing.assert_array_equal(kept, expected)
    # Three times as bright, and on the scale of the others all the same.
    others = table.loc[list(before), "median"]
    assert abs(mine["median"] - others.mean()) < 3
    assert abs(mine["mean"] - table.loc[list(before), "mean"].mean()) > 50
