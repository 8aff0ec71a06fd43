"""Maps of a cube much larger than the memory that their process may take: the limit is the system's, not a wish."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cohort.kernels import heap

FREE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from cohort.kernels import heap

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

def work(_):
    for size in (30, 20, 10):  # each that is freed would raise glibc's bound above the next
        np.ones((size << 20) // 8)

said = heap.keep_small() if sys.argv[1] == "small" else None
before = resident()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(40)))
print(said, resident() - before)
"""

FIT = """
import json, resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from cohort.io import cube
from cohort.io.storage.disk import LocalFiles
from cohort.stats import voxelwise

ALLOWED, N, SHAPE = 64 << 20, 2000, (40, 40, 42)

def said(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

def maps(n, shape):
    folder = Path(sys.argv[1]) / str(n)
    folder.mkdir()
    def load(name):
        rng = np.random.default_rng(int(name))
        return rng.integers(0, 200, shape, np.uint8).astype(np.float32)
    scans = dict.fromkeys(map(str, range(n)), "")
    metadata = cube.write(folder / "c", scans, load, tile_bytes=4 << 20)
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(n), np.arange(n) % 2, rng.uniform(50, 90, n)])
    return voxelwise.fit(
        cube.Cube(LocalFiles(folder), "c", metadata, scans), X, {"group": np.array([0.0, 1, 0])},
        permutations=voxelwise.Permutations(seed=1, n=20), workers=2,
    )

# What is imported, compiled, and kept by BLAS for each thread at work in it, is there before the limit.
maps(30, (2, 3, 32))
block = np.ones((512, 512))
with ThreadPoolExecutor(3) as pool:
    list(pool.map(lambda _: block @ block, range(60)))
del block
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
data, before = said("VmData"), said("VmRSS")
# Two threads have stacks of 8 MB of addresses, of which they touch little.
resource.setrlimit(resource.RLIMIT_DATA, (data + ALLOWED + (16 << 20), resource.RLIM_INFINITY))
found = maps(N, SHAPE)
cube_bytes = N * int(np.prod(SHAPE)) * 4
print(json.dumps({"fitted": len(found.voxels), "rose": said("VmHWM") - before, "allowed": ALLOWED, "cube": cube_bytes}))
"""


def run(code, *arguments):
    """Standard output of a Python of its own, without bounds of the allocator in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(not heap.available(), reason="glibc's allocator")
def test_what_threads_freed_goes_back_to_the_system():
    kept, left = run(FREE, "small").split()
    assert kept == "True"
    assert float(left) < 16
    assert float(run(FREE, "as it is").split()[1]) > 32


def test_bounds_that_somebody_set_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    heap._bounded.cache_clear()
    try:
        assert heap.keep_small() is False
    finally:
        heap._bounded.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peaks are Linux's")
def test_a_cube_of_eight_times_what_the_process_may_take(tmp_path):
    found = json.loads(run(FIT, tmp_path))
    assert found["cube"] >= 8 * found["allowed"]
    assert found["fitted"] == 40 * 40 * 42
    assert found["rose"] <= found["allowed"]


def test_blas_has_one_thread_until_the_last_who_asked_is_done():
    """The number belongs to the process: two fits in two threads of it, of which the first ends first."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from cohort.stats.voxels.pieces import one_blas_thread

    def threads():
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == {2}
        with pytest.raises(KeyError), one_blas_thread():
            raise KeyError
        assert threads() == {2}
