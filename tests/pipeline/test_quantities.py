"""Units of measurements: those of the recipe, whether or not a scan has a value."""

import cohorts
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cohort import api, schema
from cohort.io.exports import tables
from cohort.io.store import Store
from cohort.pipeline import quantities
from cohort.pipeline.execute import RunError, execute
from cohort.pipeline.gathering import Rows
from cohort.pipeline.recipe import bind

RECIPE = bind(
    {
        "recipe": "units",
        "steps": {
            "smooth": {"call": "gaussian", "image": "image", "sigma_mm": 2},
            "even": {"call": "standardize", "image": "smooth"},
            "level": {"call": "median_in", "image": "smooth"},
            "bright": {"call": "threshold", "image": "smooth", "above": "level"},
            "inside": {"call": "distance_mm", "mask": "bright"},
            "none": {"call": "threshold", "image": "image", "above": 1e9},
        },
        "measure": {
            "ml": {"call": "volume_ml", "mask": "bright"},
            "grey": {"call": "mean_in", "image": "smooth", "mask": "bright"},
            "shade": {"call": "mean_in", "image": "even"},
            "depth": {"call": "maximum_in", "image": "inside"},
            "off": {"call": "mse", "a": "image", "b": "smooth"},
            "where": {"call": "centroid_mm", "mask": "bright"},
            "nothing": {"call": "mean_in", "image": "smooth", "mask": "none"},
            "flow": {"value": "ml / 60", "unit": "ml/s"},
        },
    },
    where="units.yaml",
)


@pytest.mark.parametrize("unit", ["HU", "1", "Bq/ml"])
def test_units_of_a_recipe_are_those_that_its_scans_have(unit):
    voxels = np.random.default_rng(0).normal(100, 9, (6, 7, 8)).astype(np.float32)
    scan = schema.make_scan(voxels, np.diag([2.0, 2, 3, 1]), image_attrs={"units": unit})
    outcome = execute(RECIPE, scan, scan_id="a", stale=set(RECIPE.keys))
    assert outcome.numbers["nothing"] is None
    found = quantities.units(RECIPE, image=unit)
    assert found == {column: outcome.units[column] for column in RECIPE.columns()}
    assert found["grey"] == unit
    assert found["ml"] == "ml"


@pytest.mark.parametrize("call", ["mean_in", "centroid_mm"])
def test_a_series_of_images_fails_with_what_it_has_besides_space(call):
    """What is one number of a volume is five of five volumes: none of them is that of the scan."""
    voxels = np.random.default_rng(0).normal(100, 9, (5, 6, 7, 8)).astype(np.float32)
    times = {"time": xr.Variable("time", [0.0, 2, 4, 6, 8], {"units": "s"})}
    scan = schema.make_scan(voxels, np.diag([2.0, 2, 3, 1]), leading=times)
    what = {"image": "image"} if call == "mean_in" else {"mask": "head"}
    steps = {"head": {"call": "threshold", "image": "image", "above": 0}}
    said = {"recipe": "r", "steps": steps, "measure": {"m": {"call": call, **what}}}
    recipe = bind(said, where="r.yaml")
    with pytest.raises(
        RunError, match=r"step 'm': expected one number of a scan, found 5 \(time\)"
    ):
        execute(recipe, scan, scan_id="a", stale=set(recipe.keys))
    one = execute(recipe, scan.isel(time=[2]), scan_id="a", stale=set(recipe.keys)).numbers
    assert one == execute(recipe, scan.isel(time=2), scan_id="a", stale=set(recipe.keys)).numbers


def test_a_cohort_of_which_every_scan_failed_keeps_the_units(tmp_path):
    scans = pd.DataFrame({"scan_id": ["a", "b", "c"], "units": ["HU", "1", "HU"]})
    scans = scans.assign(participant=None, subject=None, session=None)
    store, rows = Store(tmp_path), Rows(RECIPE, {})
    for scan_id in scans["scan_id"]:
        rows.take(scan_id, {"state": "failed", "type": "RunError", "reason": "no"})
    rows.write(store, scans)
    assert store.table("units")["ml"].isna().all()
    assert store.units("units") == quantities.units(RECIPE, image="HU")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([], "1"),
        ([None, float("nan"), ""], "1"),
        (["HU", None, "HU", "1"], "HU"),
        (["b", "a"], "a"),
    ],
)
def test_the_unit_of_images_is_the_most_common_one(stated, expected):
    assert quantities.of_images(stated) == expected


def test_a_recipe_that_fails_everywhere_is_exported_with_units_and_what_was_called(tmp_path):
    """From files to the sidecar of its table: what a column is does not wait for a value."""
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    recipe = tmp_path / "recipes/ball.yaml"
    recipe.write_text(recipe.read_text().replace("above: 0}", "above: 1000000}"))
    result = api.update(catalog, options=api.Options(workers=0))
    assert len(result.failed) == 2
    store = cohorts.store_of(catalog)
    told = tables.columns(store, "ball")
    assert told["head_ml"] == {"Description": "volume_ml(mask=head) of recipe ball", "Units": "ml"}
    assert (told["where_x"]["Units"], told["n_head"]["Units"]) == ("mm", "voxel")
