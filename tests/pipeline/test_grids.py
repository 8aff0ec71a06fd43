"""Recipes whose steps change the grid, compare, or draw random numbers: both grains, what is kept, what is refused."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

from cohort import grid, schema
from cohort.io.storage.chunks import array_of, is_chunk
from cohort.io.store import Store, StoreError
from cohort.ops import compare, space, synthesis
from cohort.pipeline import extents, memory
from cohort.pipeline.cluster import connect
from cohort.pipeline.dispatch.blocks import on_workers
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.execute import own_seed
from cohort.pipeline.plan import WORKER_BASE_BYTES, Task, make_plan
from cohort.pipeline.recipe import RecipeError, bind
from cohort.pipeline.run import _Job, run_blocks, run_scan
from cohort.pipeline.steps import STEPS, Operation

SHAPE = (21, 26, 23)
AFFINE = np.array([[2.0, 0, 0, -20], [0, 1.5, 0.1, -19], [0, -0.1, 2.5, -25], [0, 0, 0, 1]])

EVERYTHING = {
    "recipe": "grids",
    "steps": {
        "head": {"call": "threshold", "image": "image", "above": 40},
        "pools": {"call": "label", "mask": "head"},
        "shifted": {"call": "shift", "image": "image", "mm": {"x": 3.1, "z": -2}, "order": 3},
        "moved": {"call": "shift", "image": "head", "mm": {"x": 3.1, "z": -2}},
        "turned": {"call": "rotate", "image": "image", "degrees": 12, "plane": ["y", "x"]},
        "central": {"call": "center", "image": "image"},
        "fine": {"call": "resample", "image": "image", "spacing_mm": 1.2},
        "coarse": {"call": "resample", "image": "image", "spacing_mm": {"x": 5, "z": 4}},
        "atlas": {"call": "resample", "image": "labels", "like": "fine"},
        "again": {"call": "shift", "image": "atlas", "mm": {"y": 1.7}},
        "flipped": {"call": "reorient", "image": "pools", "axcodes": "PSL"},
        "back": {"call": "resample", "image": "coarse", "like": "image"},
        "sheared": {
            "call": "affine",
            "image": "image",
            "like": "coarse",
            "matrix": [[1, 0.1, 0, 2], [0, 1, 0, -1], [0, 0, 0.9, 0], [0, 0, 0, 1]],
        },
        "static": {"call": "noise", "like": "image", "std": 5, "correlation_mm": 4, "seed": 3},
        "noisy": {"call": "rician", "image": "image", "std": 5, "seed": 3},
        "bent": {"call": "elastic", "image": "image", "alpha_mm": 1, "sigma_mm": 4, "seed": 4},
    },
    "measure": {
        "error": {"call": "mae", "a": "image", "b": "shifted"},
        "error_inside": {"call": "mae", "a": "image", "b": "noisy", "mask": "head"},
        "square": {"call": "mse", "a": "image", "b": "noisy"},
        "r": {"call": "ncc", "a": "image", "b": "back", "mask": "head"},
        "shared": {"call": "mutual_information", "a": "image", "b": "turned", "bins": 16},
        "alike": {"call": "ssim", "a": "image", "b": "bent", "size": 5},
        "overlap": {"call": "iou", "a": "head", "b": "moved"},
        "twice": {"call": "dice", "a": "head", "b": "moved"},
        "farthest": {"call": "hausdorff_mm", "a": "head", "b": "moved"},
        "apart": {"call": "surface_distance_mm", "a": "head", "b": "moved"},
        "of_static": {"call": "std_in", "image": "static"},
        "of_atlas": {"call": "regions", "image": "fine", "labels": "again", "quantities": ["n_voxels", "mean"]},
        "n_flipped": {"call": "count", "labels": "flipped"},
    },
    "keep": ["head", "fine", "again", "sheared", "central", "flipped", "back", "static"],
}  # fmt: skip


def make_scan(seed: int = 0) -> xr.Dataset:
    """A noisy ball with an uneven middle, and an atlas of it that is stored in 8 bits."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    away = (z - 10.2) ** 2 + (y - 12.4) ** 2 + (x - 11.1) ** 2
    noise = np.random.default_rng(seed).integers(50, 150, SHAPE)
    scan = schema.make_scan(np.where(away < 60, noise, 0).astype(np.int16), AFFINE)
    atlas = np.where(away < 60, 1 + (x > 11) + 2 * (y > 12), 0).astype(np.uint8)
    return scan.assign(labels=(grid.SPACE, atlas))


@pytest.fixture
def store(tmp_path) -> Store:
    """Two scans of the same voxels."""
    store = Store(tmp_path / "store")
    for name in ("one", "two"):
        store.write_scan(name, make_scan(), {"stamp": "s"})
    return store


def bound(content: dict):
    return bind(content, where="grids.yaml", variables=("image", "labels"))


def run(
    store: Store, content: dict, scan_id: str, grain: str, stale: tuple[str, ...] | None = None
):
    """Run a recipe; what is on the disk of it, by file."""
    recipe = bound(content)
    task = Task(scan_id, "new", stale or tuple(recipe.keys), grain, 0, block=12)
    done = (run_scan if grain == "scan" else run_blocks)(_Job(store, recipe, task))
    names = [name for name, _ in store.files.listing(f"derivatives/{recipe.name}")]
    return {name: store.files.read(name) for name in names}, done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything, in scan grain: the store, the files of one scan, its record."""
    store = Store(tmp_path_factory.mktemp("grids") / "store")
    store.write_scan("one", make_scan(), {"stamp": "s"})
    files, _ = run(store, EVERYTHING, "one", "scan")
    return store, files, store.derivative("grids", "one")


def kept(store: Store, name: str) -> xr.DataArray:
    return store.open_derivative("grids", "one", variable=name)[name].load()


def test_both_grains_leave_the_same_bytes(made, tmp_path):
    store = Store(tmp_path / "store")
    store.write_scan("one", make_scan(), {"stamp": "s"})
    files, done = run(store, EVERYTHING, "one", "block")
    assert set(done.ran) == set(bound(EVERYTHING).keys)
    assert files == made[1]


def test_steps_give_what_the_operations_give(made):
    store, _, record = made
    scan = store.open_scan("one").load()
    image, head = scan["image"], scan["image"] > 40
    moved = space.shift(head, mm={"x": 3.1, "z": -2})
    expected = {
        "error": compare.mae(image, space.shift(image, mm={"x": 3.1, "z": -2}, order=3)),
        "r": compare.ncc(image, space.resample(space.resample(image, spacing_mm={"x": 5, "z": 4}), like=image), mask=head),
        "shared": compare.mutual_information(image, space.rotate(image, degrees=12, plane=("y", "x")), bins=16),
        "alike": compare.ssim(image, synthesis.elastic(image, alpha_mm=1, sigma_mm=4, seed=own_seed(4, "one")), size=5),
        "farthest": compare.hausdorff_mm(head, moved),
        "apart": compare.surface_distance_mm(head, moved),
        "square": compare.mse(image, synthesis.rician(image, std=5, seed=own_seed(3, "one"))),
    }  # fmt: skip
    assert {n: record["numbers"][n] for n in expected} == {n: float(v) for n, v in expected.items()}
    assert record["units"]["farthest"] == "mm"
    assert record["units"]["shared"] == "nat"
    xr.testing.assert_equal(kept(store, "central").drop_attrs(), space.center(image).drop_attrs())


def test_what_is_kept_on_another_grid_is_a_dataset_of_its_own(made):
    store = made[0]
    here = store.open_derivative("grids", "one")
    assert set(here.data_vars) == {"head", "central", "back", "static", "affine"}
    scan = store.open_scan("one")
    grid.check_same_grid(image=scan["image"], head=here["head"])
    fine = store.open_derivative("grids", "one", variable="fine")
    assert set(fine.data_vars) == {"fine", "affine"}
    expected = space.resample(scan["image"].load(), spacing_mm=1.2)
    np.testing.assert_array_equal(fine["fine"], expected)
    np.testing.assert_array_equal(fine["affine"], grid.affine_of(expected))
    np.testing.assert_array_equal(grid.affine_of(fine["fine"]), grid.affine_of(expected))
    for dim in grid.SPACE:
        np.testing.assert_array_equal(fine[dim], expected[dim])
    again = kept(store, "again")
    assert (again.dtype, again.sizes) == (np.uint8, expected.sizes)
    assert set(np.unique(again)) == {0, 1, 2, 3, 4}
    assert "".join(grid.axis_codes(grid.affine_of(kept(store, "flipped")))) == "PSL"
    # Anybody's xarray opens the groups.
    path = store.root / "derivatives/grids/one.zarr"
    with xr.open_zarr(path, group="fine", consolidated=False) as opened:
        np.testing.assert_array_equal(opened["fine"], expected)
    assert store.open_derivative("grids", "one", variable="head").identical(here)
    with pytest.raises(
        StoreError, match=r"grids of one: 'bent' was not kept; kept was again, back"
    ):
        store.open_derivative("grids", "one", variable="bent")


def test_every_chunk_is_one_of_an_array_wherever_its_group_lies(made):
    _, files, _ = made
    chunks = [name for name in files if is_chunk(name)]
    assert any("/fine/fine/c/" in name for name in chunks)
    for name in chunks:
        array, key = array_of(name)
        assert f"{array}/{key}" == name
        assert json.loads(files[f"{array}/zarr.json"])["node_type"] == "array"


def test_only_kept_arrays_on_other_grids_leave_none_on_the_scans(store):
    content = {
        "recipe": "grids",
        "steps": {"coarse": {"call": "resample", "image": "image", "spacing_mm": 4}},
        "measure": {"mean": {"call": "mean_in", "image": "coarse"}},
        "keep": ["coarse"],
    }
    files, _ = run(store, content, "one", "scan")
    assert not store.open_derivative("grids", "one").variables
    assert kept(store, "coarse").sizes == {"z": 13, "y": 10, "x": 12}
    shutil.rmtree(store.root / "derivatives")
    assert run(store, content, "one", "block")[0] == files


@pytest.mark.parametrize("grain", ["scan", "block"])
def test_kept_arrays_on_other_grids_are_used_again(store, grain):
    def recipe(mm: float) -> dict:
        steps = {
            "there": {"call": "resample", "image": "labels", "spacing_mm": 1.2},
            "moved": {"call": "shift", "image": "there", "mm": {"x": mm}},
        }
        measure = {"parts": {"call": "regions", "image": "moved", "labels": "moved"}}
        return {"recipe": "grids", "steps": steps, "measure": measure, "keep": ["there"]}

    run(store, recipe(2.5), "two", "scan")
    run(store, recipe(1.5), "one", grain)
    files, done = run(store, recipe(2.5), "one", grain, stale=("moved", "parts"))
    assert done.ran == ("moved", "parts")
    # 8 bits that came back from the disk under the name of a step are labels still: nothing between two of them.
    found, wanted = (
        json.loads(files[f"derivatives/grids/{n}.json"])["tables"] for n in ("one", "two")
    )
    assert found == wanted
    assert found["parts"]["label"] == [1, 2, 3, 4]


@pytest.mark.parametrize("grain", ["scan", "block"])
def test_arrays_of_different_grids_are_refused_by_both_names(store, grain):
    content = {
        "recipe": "grids",
        "steps": {
            "head": {"call": "threshold", "image": "image", "above": 40},
            "fine": {"call": "resample", "image": "image", "spacing_mm": 1.2},
        },
        "measure": {"mean": {"call": "mean_in", "image": "fine", "mask": "head"}},
    }
    with pytest.raises(grid.GridError, match=r"^step 'mean': fine is 44 x \d+ x 38 voxels .* but head is 21 x 26 x 23 .*like=fine"):  # fmt: skip
        run(store, content, "one", grain)
    content["steps"]["there"] = {"call": "resample", "image": "head", "spacing_mm": 1.2}
    content["measure"]["mean"]["mask"] = "there"
    run(store, content, "one", grain)
    content["steps"]["there"] = {"call": "resample", "image": "head", "like": "fine"}
    run(store, content, "one", grain)


def test_every_scan_has_random_numbers_of_its_own_and_keeps_them(store):
    content = {
        "recipe": "grids",
        "steps": {"static": {"call": "noise", "like": "image", "std": 5, "seed": 3}},
        "measure": {"mean": {"call": "mean_in", "image": "static"}},
        "keep": ["static"],
    }
    for scan_id in ("one", "two"):
        run(store, content, scan_id, "scan")
    one, two = (store.open_derivative("grids", s)["static"].values.ravel() for s in ("one", "two"))
    # The voxels are the same, the noise has nothing to do with each other: r of 12,558 pairs has a spread of 0.009.
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert abs(one.std() - 5) < 0.2
    before = kept(store, "static")
    shutil.rmtree(store.root / "derivatives")
    run(store, content, "one", "scan")
    np.testing.assert_array_equal(kept(store, "static"), before)
    content["steps"]["static"]["seed"] = 4
    run(store, content, "one", "scan")
    assert (kept(store, "static") != before).all()


def test_extents_are_those_of_the_arrays(made):
    store, _, _ = made
    recipe, record = bound(EVERYTHING), store.record("one")
    found = memory.made(recipe, record)
    for name in EVERYTHING["keep"]:
        array = kept(store, name)
        extent = found[name]
        assert (extent.sizes, extent.dtype) == (array.shape, array.dtype), name
        mm = grid.spacing_mm(array)
        np.testing.assert_allclose(extent.spacing, [mm[d] for d in grid.SPACE], rtol=1e-2)
    assert found["flipped"].axcodes == "PSL"
    assert found["again"].name == "labels"


@pytest.mark.parametrize("spacing", [0.5, 1.0, 4.0, {"z": 5.0}])
def test_a_finer_grid_takes_more_memory_and_a_coarser_one_less(spacing):
    record = {
        "shape": [100, 100, 100],
        "spacing_mm": {"z": 2.0, "y": 2.0, "x": 2.0},
        "axcodes": "RAS",
        "variables": {"image": {"dtype": "int16", "shape": [100, 100, 100]}},
    }

    def recipe(call: dict):
        return bound(
            {
                "recipe": "grids",
                "steps": {"it": call, "smooth": {"call": "gaussian", "image": "it", "sigma_mm": 2}},
                "measure": {"n": {"call": "mean_in", "image": "smooth"}},
                "keep": ["smooth"],
            }
        )

    other = recipe({"call": "resample", "image": "image", "spacing_mm": spacing})
    times = memory.made(other, record)["smooth"].voxels / 100**3
    assert times == pytest.approx(np.prod([2 / s for s in (spacing.values() if isinstance(spacing, dict) else [spacing] * 3)]))  # fmt: skip
    # What is resampled, and its smoothed copy; where it is coarser the most is before: the image, smoothed, and the result.
    expected = 8e6 * times if times > 1 else 8e6 + 4e6 * times
    assert memory.peak_bytes(other, record) == pytest.approx(expected, rel=0.01)


def test_blocks_are_smaller_where_a_step_takes_much_for_each_voxel_of_one():
    record = {
        "scan_id": "large",
        "contents": {"image": "c"},
        "shape": [600, 600, 600],
        "spacing_mm": {"z": 1.0, "y": 1.0, "x": 1.0},
        "axcodes": "RAS",
        "variables": {"image": {"dtype": "int16", "shape": [600, 600, 600]}},
    }

    def block(call: dict) -> int:
        content = {
            "recipe": "grids",
            "steps": {"it": call},
            "measure": {"n": {"call": "mean_in", "image": "it"}},
        }
        (task,) = make_plan(
            bound(content), [(record, None)], versions={}, worker_bytes=650 << 20
        ).tasks
        assert task.grain == "block"
        assert task.block_bytes <= 0.75 * (650 << 20) - WORKER_BASE_BYTES
        return task.block

    assert block({"call": "noise", "like": "image", "std": 1, "seed": 1}) == 128
    # A block of 128 voxels is made from one of 248 then, in float64, twice.
    assert (
        block({"call": "noise", "like": "image", "std": 1, "seed": 1, "correlation_mm": 20}) == 64
    )


def test_reoriented_extents_follow_the_axes():
    found = extents.Extent(1, (10, 20, 30), (3.0, 2.0, 1.0), "RAS", np.dtype("f4"), "image")
    turned = extents.reoriented({"image": found}, {"axcodes": "SLA"})
    # x, y and z of the new array run along what were z, x and y.
    assert (turned.sizes, turned.spacing) == ((20, 30, 10), (2.0, 1.0, 3.0))
    assert extents.reoriented({"image": turned}, {}) == found


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"call": "resample", "image": "image", "spacing_mm": "level"}, "spacing_mm: found 'level', expected a number: it decides"),
        ({"call": "affine", "image": "image", "matrix": "image"}, "matrix: no pose 'image' at this point; there are none"),
        ({"call": "resample", "image": "image", "like": "imagee"}, "like: no image 'imagee' .*; did you mean 'image'"),
        ({"call": "affine", "image": "image", "matrix": [["a"]]}, "matrix: expected a number, found 'a'"),
        ({"call": "rotate", "image": "image", "degrees": 3, "plane": "yx"}, "plane: .*found 'yx'"),
        ({"call": "rotate", "image": "image", "degrees": 3, "plane": ["y", "y"]}, "step 'it': plane is .*expected two dims"),
        ({"call": "resample", "image": "image"}, r"step 'it': resample\(\) takes exactly one of spacing_mm and like"),
        ({"call": "dilate", "mask": "head", "radius_mm": 3, "iterations": 2}, r"step 'it': radius_mm is 3.0, so iterations \(2\)"),
        ({"call": "label", "mask": "head", "connectivity": 4}, "step 'it': connectivity is 4, expected 1"),
        ({"call": "resample", "image": "central", "spacing_mm": 0}, "step 'it': spacing_mm is 0.0 along 'z', expected a positive number"),
        ({"call": "erode", "mask": "image"}, "step 'it': mask is float32, expected bool: make a mask"),
        ({"call": "dilate", "mask": "labels"}, "step 'it': mask is uint8, expected bool"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_a_byte_is_read(step, message):
    content = {
        "recipe": "grids",
        "steps": {
            "level": {"call": "mean_in", "image": "image"},
            "head": {"call": "threshold", "image": "image", "above": "level"},
            "central": {"call": "center", "image": "image"},
            "it": step,
        },
        "measure": {"n": {"call": "mean_in", "image": "it"}},
    }
    with pytest.raises(RecipeError, match=message):
        bound(content)


@pytest.mark.parametrize(
    "step",
    [
        {
            "call": "median",
            "image": "image",
            "size": 99,
        },  # larger than some scans, and smaller than others
        {
            "call": "threshold",
            "image": "image",
            "above": "0 * level",
        },  # of numbers nobody knows yet
        {"call": "gaussian", "image": "image", "sigma_mm": "level - 1000"},
        {"call": "gaussian", "image": "image", "sigma_mm": "level - low - 1"},
        {"call": "shift", "image": "roi", "mm": {"x": 1}, "order": 1},  # refused of masks only
        {"call": "dilate", "mask": "roi"},  # of masks alone
        {"call": "mean_in", "image": "image", "mask": "there"},  # a grid that some scans have
        {"call": "center", "image": "image"},  # looks at voxels
    ],
)
def test_what_depends_on_a_scan_is_left_to_the_scan(step):
    content = {
        "recipe": "grids",
        "steps": {
            "level": {"call": "mean_in", "image": "image"},
            "low": {"call": "minimum_in", "image": "image"},
            "head": {"call": "threshold", "image": "image", "above": 3},
            "there": {"call": "resample", "image": "head", "spacing_mm": 2},
            "it": step,
        },
        "measure": {"n": {"value": "level"}},
    }
    bind(content, where="grids.yaml", variables=("image", "roi"))


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_leave_the_same_bytes_block_by_block(made, tmp_path):
    store = Store(tmp_path / "store")
    store.write_scan("one", make_scan(), {"stamp": "s"})
    recipe = bound(EVERYTHING)
    job = _Job(store, recipe, Task("one", "new", tuple(recipe.keys), "block", 0, block=16))
    with connect(workers=2, memory=700 << 20) as client, on_workers(client, Stop(), seconds=600.0):
        run_blocks(job, client=client)
    names = [name for name, _ in store.files.listing("derivatives")]
    assert {name: store.files.read(name) for name in names} == made[1]


@pytest.mark.parametrize(
    "call",
    [
        {"call": "resample", "image": "tried", "spacing_mm": 0},
        {"call": "resample", "image": "tried", "spacing_mm": {"w": 2}},
        {"call": "reorient", "image": "tried", "axcodes": "LRX"},
        {"call": "noise", "like": "tried", "std": 1, "seed": 1, "correlation_mm": 1e9},
        {"call": "elastic", "image": "tried", "alpha_mm": 1, "sigma_mm": -1, "seed": 1},
    ],
)
def test_a_plan_copes_with_what_only_the_call_refuses(monkeypatch, store, call):
    def untried(image: xr.DataArray) -> xr.DataArray:
        return image

    monkeypatch.setitem(STEPS, "untried", Operation(untried, 1, result_bytes=4, whole=True))
    content = {
        "recipe": "grids",
        "steps": {"tried": {"call": "untried", "image": "image"}, "it": call},
        "measure": {"n": {"call": "mean_in", "image": "it"}},
        "keep": ["it"],
    }
    (task,) = make_plan(bound(content), [(store.record("one"), None)], versions={}).tasks
    assert task.peak_bytes > 0
    with pytest.raises(ValueError, match=r"spacing_mm|axcodes|correlation_mm|sigma_mm"):
        run(store, content, "one", "scan")
