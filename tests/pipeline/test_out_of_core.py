"""A volume several times as large as a worker's memory: the walk from filter to regions, and no worker notices."""

import re
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from cohort import schema
from cohort.io.store import Store
from cohort.pipeline.cluster import connect
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.plan import make_plan
from cohort.pipeline.recipe import bind
from cohort.pipeline.run import run_recipe
from cohort.pipeline.versions import numeric

LIMIT = 640 << 20
SHAPE = (384, 512, 640)

WALK = {
    "recipe": "walk",
    "steps": {
        "smooth": {"call": "gaussian", "image": "image", "sigma_mm": 1.0},
        "level": {"call": "otsu", "image": "smooth"},
        "mask": {"call": "threshold", "image": "smooth", "above": "level"},
        "closed": {"call": "close", "mask": "mask", "iterations": 5},
        "filled": {"call": "fill_holes", "mask": "closed"},
        "parts": {"call": "label", "mask": "filled"},
        "big": {"call": "largest_component", "mask": "filled"},
        "depth": {"call": "distance_mm", "mask": "big"},
    },
    "measure": {
        "n_parts": {"call": "count", "labels": "parts"},
        "big_ml": {"call": "volume_ml", "mask": "big"},
        "deepest_mm": {"call": "maximum_in", "image": "depth", "mask": "big"},
        "mean_depth_mm": {"call": "mean_in", "image": "depth", "mask": "big"},
        "of_parts": {
            "call": "regions", "image": "image", "labels": "parts",
            "quantities": ["n_voxels", "mean", "std", "centroid_mm", "bounding_box"],
        },
    },
    "keep": ["big"],
}  # fmt: skip


def block(shape: tuple[int, ...], origin: tuple[int, ...], whole: tuple[int, ...]) -> np.ndarray:
    """Part of a head of two shells with holes and crumbs, from its place alone."""
    axes = np.ogrid[tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))]
    z, y, x = (2 * a / n - 1 for a, n in zip(axes, whole, strict=True))
    away = np.sqrt(z * z + y * y + x * x)
    crumbs = np.sin(23 * z) * np.sin(29 * y) * np.sin(31 * x)
    tissue = np.where((away < 0.8) & (np.abs(away - 0.5) > 0.05), 700, 60) + 500 * (crumbs > 0.8)
    noise = (axes[0] * 7919 + axes[1] * 104729 + axes[2] * 1299709) % 61
    return (tissue + noise).astype(np.int16)


def volume(shape: tuple[int, int, int]) -> da.Array:
    """The head of `block`, lazily."""

    def part(block_info: dict) -> np.ndarray:
        place = block_info[None]["array-location"]
        return block(tuple(b - a for a, b in place), tuple(a for a, _ in place), shape)

    return da.map_blocks(
        part, chunks=da.core.normalize_chunks((128, 128, 128), shape), dtype=np.int16
    )


def write_volume(store: Store, shape: tuple[int, int, int]) -> None:
    """Store the head of `shape`, a shard at a time."""
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    tiny = schema.make_scan(np.zeros((1, 1, 1), np.int16), affine, image_attrs={"units": "1"})
    from cohort.grid import coordinates

    image = xr.Variable(("z", "y", "x"), volume(shape), {"units": "1"})
    scan = xr.Dataset({"image": image, "affine": tiny["affine"]}, coords=coordinates(affine, shape))
    store.write_scan("head", scan, {"stamp": "s"})


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def walk(store: Store, client, grain: str, limit: int) -> dict:
    """Run the recipe; the record it leaves."""
    recipe = bind(WALK, where="walk")
    scans = [(store.record("head"), None)]
    plan = make_plan(recipe, scans, versions=numeric(), grain=grain, worker_bytes=limit)
    with Ledger(store, "run") as ledger:
        run_recipe(plan, recipe, store, ledger, lambda: client)
    record = store.derivative("walk", "head")
    assert record["state"] == "done", record
    return record


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_walk_over_more_than_memory_holds_equals_the_walk_in_memory(tmp_path):
    store = Store(tmp_path)
    write_volume(store, SHAPE)
    with connect(workers=2, memory=LIMIT) as client:
        pids = {
            w["pid"]
            for w in client.run(lambda dask_worker: {"pid": __import__("os").getpid()}).values()
        }
        blocks = walk(store, client, "auto", LIMIT)
        after = {
            w["pid"]
            for w in client.run(lambda dask_worker: {"pid": __import__("os").getpid()}).values()
        }
        peaks = client.run(peak_bytes).values()
    assert after == pids, "a worker was restarted"
    assert max(peaks) < LIMIT
    assert store.manifest()["stages"]["run:walk"]["grain"] == {"scan": 0, "block": 1}
    # float64 distances alone are 1.6 times what a worker has; what they take on the disk is said.
    events = (store.root / "runs" / store.runs()[-1] / "events.jsonl").read_text()
    used = int(re.search(r'"scratch_bytes": (\d+)', events)[1])
    assert 0 < used < 8 * np.prod(SHAPE)
    assert not list((store.root / "_staging").iterdir())
    whole = walk(store, None, "scan", 64 << 30)
    assert whole == blocks
