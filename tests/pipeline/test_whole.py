"""Steps that cannot be cut into blocks, and poses: one task in both grains, the same bytes, memory that is forecast."""

import json
import pickle
import re
import shutil
import threading
from dataclasses import dataclass

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage as ndi
from test_grids import make_scan
from test_plan import HERE

from cohort import grid
from cohort.io.store import Store
from cohort.ops import graph, space
from cohort.ops.graph import whole
from cohort.pipeline import memory
from cohort.pipeline.plan import PlanError, Task, make_plan
from cohort.pipeline.recipe import RecipeError, bind
from cohort.pipeline.run import _Job, run_blocks, run_scan
from cohort.pipeline.steps import STEPS, Operation

CALLS: list[tuple[str, int]] = []


def called(*arrays: xr.DataArray) -> None:
    """Note a call, and that all of it is in memory."""
    assert all(a.chunks is None and isinstance(a.variable._data, np.ndarray) for a in arrays)
    CALLS.append(("called", threading.get_ident()))


def flattened(image: xr.DataArray, *, mask: xr.DataArray, order: int = 1) -> xr.DataArray:
    """An image without the polynomial that fits it best: every voxel depends on every other."""
    called(image, mask)
    line = np.polynomial.polynomial.polyfit(
        np.flatnonzero(mask.values.ravel()) / mask.size, image.values[mask.values], order
    )
    trend = np.polynomial.polynomial.polyval(np.arange(image.size) / image.size, line)
    return image - trend.reshape(image.shape).astype(np.float32)


@dataclass
class Found:
    """What `pose` gives."""

    matrix: np.ndarray
    off: float

    def checked(self) -> np.ndarray:
        if self.off > 3:
            raise ValueError(
                f"the mask is {self.off:.3g} voxels off the middle, expected at most 3"
            )
        return self.matrix


def pose(image: xr.DataArray, *, mask: xr.DataArray) -> Found:
    """Where the image has to go so that the middle of a mask is that of the grid."""
    called(image, mask)
    off = np.array(ndi.center_of_mass(mask.values))[::-1] - (np.array(image.shape[::-1]) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, 3] = -(grid.affine_of(image)[:3, :3] @ off)
    return Found(matrix, float(np.abs(off).max()))


def quality(image: xr.DataArray) -> xr.DataArray:
    """A number."""
    called(image)
    return xr.DataArray(float(np.median(image.values)), attrs={"units": "HU"})


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Three operations more."""
    CALLS.clear()
    for name, operation in (
        ("flattened", Operation(flattened, 1, peak_bytes=40, result_bytes=4, whole=True)),
        ("pose", Operation(pose, 1, "pose", ("off",), peak_bytes=0, whole=True)),
        ("quality", Operation(quality, 1, "number", peak_bytes=4, whole=True)),
    ):
        monkeypatch.setitem(STEPS, name, operation)


def content(mm: float = 1.0) -> dict:
    return {
        "recipe": "whole",
        "steps": {
            "head": {"call": "threshold", "image": "image", "above": 40},
            "flat": {"call": "flattened", "image": "image", "mask": "head"},
            "where": {"call": "pose", "image": "flat", "mask": "head"},
            "small": {"call": "resample", "image": "image", "spacing_mm": 3},
            "moved": {"call": "affine", "image": "flat", "matrix": "where", "like": "small"},
            "shifted": {"call": "shift", "image": "moved", "mm": {"x": mm}},
        },
        "measure": {
            "q": {"call": "quality", "image": "shifted"},
            "mean": {"call": "mean_in", "image": "shifted"},
            "how_far": {"value": "2 * where_off"},
        },
        "keep": ["flat", "moved"],
    }


def recipe(mm: float = 1.0, **more):
    return bind({**content(mm), **more}, where="whole.yaml", variables=("image", "labels"))


def run(store: Store, bound, grain: str, stale=None):
    task = Task("one", "new", stale or tuple(bound.keys), grain, 0, block=9)
    done = (run_scan if grain == "scan" else run_blocks)(_Job(store, bound, task))
    names = [name for name, _ in store.files.listing("derivatives")]
    return {name: store.files.read(name) for name in names}, done


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store")
    store.write_scan("one", make_scan(), {"stamp": "s"})
    return store


def test_a_step_that_cannot_be_cut_runs_once_on_whole_arrays_in_both_grains(store):
    files, _ = run(store, recipe(), "scan")
    assert len(CALLS) == 3
    record = store.derivative("whole", "one")
    image = store.open_scan("one")["image"].load()
    flat = flattened(image, mask=image > 40)
    kept = store.open_derivative("whole", "one")["flat"]
    np.testing.assert_array_equal(kept, flat)
    found = pose(flat, mask=image > 40)
    matrix = found.checked()
    assert record["poses"] == {"where": matrix.tolist()}
    assert record["measurements"]["how_far"] == 2 * found.off > 0
    moved = space.affine(flat, matrix, like=space.resample(image, spacing_mm=3))
    np.testing.assert_array_equal(store.open_derivative("whole", "one", variable="moved")["moved"], moved)  # fmt: skip
    assert record["numbers"]["q"] == float(np.median(space.shift(moved, mm={"x": 1.0})))
    assert record["units"]["q"] == "HU"
    shutil.rmtree(store.root / "derivatives")
    CALLS.clear()
    assert run(store, recipe(), "block")[0] == files
    assert len(CALLS) == 3


@pytest.mark.parametrize("grain", ["scan", "block"])
def test_a_pose_that_did_not_change_is_used_again(store, grain):
    run(store, recipe(mm=2.5), grain)
    expected = store.derivative("whole", "one")
    run(store, recipe(mm=1.0), grain)
    CALLS.clear()
    (task,) = make_plan(
        recipe(mm=2.5),
        [(store.record("one"), store.derivative("whole", "one"))],
        versions=store.derivative("whole", "one")["versions"],
    ).tasks
    assert set(task.stale) == {"shifted", "q", "mean"}
    _, done = run(store, recipe(mm=2.5), grain, stale=task.stale)
    assert done.ran == ("shifted", "q", "mean")
    assert len(CALLS) == 1  # of `quality`
    assert store.derivative("whole", "one") == expected
    # Where what it moves is not at hand any more, the matrix still is.
    without = recipe(mm=2.5, keep=[])
    run(store, without, grain)
    CALLS.clear()
    _, done = run(store, recipe(mm=1.5, keep=[]), grain, stale=("shifted", "q", "mean"))
    assert "where" not in done.ran
    assert "flat" in done.ran
    assert json.dumps(expected["poses"]) == json.dumps(store.derivative("whole", "one")["poses"])


def test_a_pose_that_is_not_to_be_trusted_fails_the_scan_with_its_reason(store):
    store.write_scan("far", make_scan().roll(x=4), {"stamp": "s"})
    task = Task("far", "new", tuple(recipe().keys), "scan", 0)
    with pytest.raises(ValueError, match=re.escape("voxels off the middle, expected at most 3")):
        run_scan(_Job(store, recipe(), task))


def test_a_pose_is_no_image_and_no_number():
    for step, text in (
        ({"call": "shift", "image": "where", "mm": {"x": 1}}, "image: no image 'where'"),
        ({"call": "affine", "image": "image", "matrix": "head"}, "matrix: no pose 'head' at this point; there are where"),
    ):  # fmt: skip
        steps = {**content()["steps"], "it": step}
        with pytest.raises(RecipeError, match=text):
            recipe(steps=steps)
    with pytest.raises(RecipeError, match=r"pose\(\) gives a pose, not a number"):
        recipe(measure={"it": {"call": "pose", "image": "image", "mask": "head"}})
    with pytest.raises(RecipeError, match="'where' is no step that gives an array"):
        recipe(keep=["where"])


def test_memory_for_what_cannot_be_cut_is_forecast_in_block_grain_too():
    shape = [512, 512, 512]
    scan = {
        "scan_id": "large", "contents": {"image": "c"}, "shape": shape,
        "spacing_mm": {"z": 1.0, "y": 1.0, "x": 1.0}, "axcodes": "RAS",
        "variables": {"image": {"dtype": "int16", "shape": shape}},
    }  # fmt: skip
    # The image, its mask and 40 bytes a voxel at work; `where` and `quality` take less.
    expected = 512**3 * (4 + 1 + 40)
    assert memory.whole_bytes(recipe(), scan) == expected
    (task,) = make_plan(
        recipe(), [(scan, None)], versions=HERE, grain="block", worker_bytes=16 << 30
    ).tasks
    assert task.block_bytes == expected
    with pytest.raises(PlanError, match=r"large takes \d+ MiB in memory even in blocks, as steps cannot be cut \(flat, where\)"):  # fmt: skip
        make_plan(recipe(), [(scan, None)], versions=HERE, worker_bytes=2 << 30)


def test_arrays_come_whole_from_files_and_from_blocks_and_leave_none_behind(tmp_path):
    image = make_scan()["image"].astype(np.float32)
    settled = graph.settle(image.chunk({"z": 5, "y": 7}), tmp_path)
    cut = image.chunk({"x": 4})

    def both(a: xr.DataArray, b: xr.DataArray, *, times: float) -> xr.DataArray:
        called(a, b)
        assert list(a.coords) == list(image.coords)
        return (a + times * b).transpose("x", "y", "z").rename("sum").isel(x=slice(1, None))

    found = graph.in_one_task(both, {"a": settled, "b": cut}, {"times": 2.0}, folder=tmp_path, block=10)  # fmt: skip
    expected = (3 * image).transpose("x", "y", "z").rename("sum").isel(x=slice(1, None))
    assert found.chunks[0] == (10, 10, 2)
    xr.testing.assert_identical(found.compute(), expected)
    graph.free(settled)
    graph.free(found)
    assert not list(tmp_path.iterdir())


def test_what_travels_of_an_array_is_no_larger_than_its_coordinates():
    image = make_scan()["image"]
    large = xr.DataArray(da.zeros((500, 600, 700), chunks=100), dims=grid.SPACE, name="image")
    large = grid.with_affine(large, np.eye(4)).assign_attrs(units="HU")
    shell = whole.Shell.of(large)
    assert len(pickle.dumps(shell)) < 40_000
    xr.testing.assert_identical(shell.around(large.data), large)
    xr.testing.assert_identical(whole.Shell.of(image).around(image.values), image)


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_do_what_cannot_be_cut(store):
    from cohort.pipeline.cluster import connect
    from cohort.pipeline.dispatch.blocks import on_workers
    from cohort.pipeline.dispatch.stopping import Stop

    image = store.open_scan("one")["image"]

    def halved(image: xr.DataArray) -> xr.DataArray:
        import os

        return (image / 2).assign_attrs(pid=os.getpid())

    with connect(workers=1, memory=700 << 20) as client, store.stage() as folder:
        pids = client.run(__import__("os").getpid).values()
        with on_workers(client, Stop(), seconds=600.0):
            found = graph.in_one_task(halved, {"image": image.chunk()}, {}, folder=folder, block=8)
            np.testing.assert_array_equal(found.compute(), image / 2)
        assert found.attrs["pid"] in pids
