"""Registration as a step: the pose moves images, its numbers are measured, and one that is not to be trusted fails the scan."""

import numpy as np
import pytest
import xarray as xr

from cohort import schema
from cohort.io.store import Store
from cohort.ops import space
from cohort.ops.register import RegistrationError
from cohort.pipeline.plan import Task
from cohort.pipeline.recipe import RecipeError, bind
from cohort.pipeline.run import _Job, run_blocks, run_scan

SHIFT = {"x": 4.3, "z": -3.1}


def content(**more):
    return {
        "recipe": "moved",
        "steps": {
            "other": {"call": "shift", "image": "image", "mm": SHIFT},
            "pose": {"call": "register", "moving": "other", "fixed": "image", **more},
            "back": {"call": "affine", "image": "other", "matrix": "pose", "like": "image"},
        },
        "measure": {
            "before": {"call": "mae", "a": "other", "b": "image"},
            "after": {"call": "mae", "a": "back", "b": "image"},
            "metric": {"value": "pose_metric", "unit": "nat"},
            "gain": {"value": "pose_metric_before - pose_metric"},
            "overlap": "pose_overlap",
            "growth": {"value": "pose_determinant - 1"},
        },
        "keep": ["back"],
    }


def blobs():
    """Three balls of their own size and brightness, so that no turn leaves the image as it is."""
    z, y, x = np.ogrid[:30, :40, :44]
    values = np.zeros((30, 40, 44))
    for height, (c, b, a), width in ((300, (14, 18, 24), 60), (180, (20, 28, 12), 20), (120, (8, 10, 34), 12)):  # fmt: skip
        values += height * np.exp(-((z - c) ** 2 + (y - b) ** 2 / 1.5 + (x - a) ** 2) / width)
    return schema.make_scan(values.astype(np.int16), np.diag([1.5, 1.5, 2.0, 1]))


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store")
    store.write_scan("one", blobs(), {"stamp": "s"})
    return store


def run(store, grain, **more):
    recipe = bind(content(**more), where="moved.yaml")
    job = _Job(store, recipe, Task("one", "new", tuple(recipe.keys), grain, 0, block=16))
    (run_scan if grain == "scan" else run_blocks)(job)
    return {n: store.files.read(n) for n, _ in store.files.listing("derivatives")}


def test_the_pose_brings_the_image_back_and_its_numbers_are_measured(store):
    files = run(store, "scan")
    record = store.derivative("moved", "one")
    found = record["measurements"]
    assert found["after"] < found["before"] / 4
    assert found["gain"] > 0
    assert 0.5 < found["overlap"] <= 1
    assert abs(found["growth"]) < 1e-9
    assert record["units"]["metric"] == "nat"
    pose = np.array(record["poses"]["pose"])
    np.testing.assert_allclose(pose[:3, 3], [-SHIFT["x"], 0, -SHIFT["z"]], atol=0.3)
    image = store.open_scan("one")["image"].load()
    moved = space.affine(space.shift(image, mm=SHIFT), pose, like=image)
    xr.testing.assert_equal(store.open_derivative("moved", "one")["back"].load(), moved)
    for name in list(files):
        store.files.remove(name)
    assert run(store, "block") == files


@pytest.mark.parametrize("grain", ["scan", "block"])
def test_one_that_is_not_to_be_trusted_fails_the_scan_with_the_reason(store, grain):
    with pytest.raises(RegistrationError, match=r"not to be trusted: the quality is .*at least 2"):
        run(store, grain, least_quality=2.0)
    assert store.derivative("moved", "one") is None


def test_a_pose_is_no_number():
    said = content()
    said["measure"]["pose2"] = said["steps"]["pose"]
    with pytest.raises(RecipeError, match="gives a pose, not a number"):
        bind(said, where="moved.yaml")
