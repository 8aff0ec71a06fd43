"""Memory is arithmetic: the plan's forecast against the peak that a process of its own reaches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cohort import schema
from cohort.io.store import Store
from cohort.pipeline.memory import peak_bytes
from cohort.pipeline.plan import WORKER_BASE_BYTES
from cohort.pipeline.recipe import bind
from cohort.pipeline.steps import STEPS

SHAPE = (256, 256, 320)

GIVEN = {
    "threshold": {"image": "image", "above": 50},
    "apply": {"image": "image", "mask": "mask"},
    "remove_small": {"mask": "mask", "min_ml": 1},
    "select": {"labels": "labels", "largest": True},
    "gaussian": {"image": "image", "sigma_mm": 1.5},
    "percentile": {"image": "image", "size": 3, "percentile": 20},
    "convolve": {"image": "image", "weights": [[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]},
    "sobel": {"image": "image", "dim": "y"},
    "match": {"image": "image", "reference": "other"},
    "regions": {"image": "image", "labels": "labels"},
} | {n: {"image": "image", "size": 3} for n in ("median", "minimum", "maximum", "uniform")}

# In a process of its own: the peak is that of the whole process, with everything loaded and compiled.
MEASURE = """
import json, re, sys
from pathlib import Path
from cohort.io.store import Store
from cohort.pipeline.plan import Task
from cohort.pipeline.recipe import bind
from cohort.pipeline.run import _Job, run_scan
def peak():  # not getrusage: its peak begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
root, content = Path(sys.argv[1]), json.loads(sys.argv[2])
recipe = bind(content, where="memory")
for scan in ("tiny", "large"):
    base = peak()
    run_scan(_Job(Store(root), recipe, Task(scan, "new", tuple(recipe.keys), "scan", 0)))
print(json.dumps([base, peak()]))
"""


def recipe_of(name: str) -> dict:
    """A recipe that comes down to one operation: what it reads is made by operations that take less."""
    operation = STEPS[name]
    takes = operation.function.__annotations__
    sources = {"image": "image", "mask": "mask", "other": "mask", "labels": "labels"}
    given = GIVEN.get(name) or {
        k: v for k, v in sources.items() if k in takes and not (k == "mask" and "image" in takes)
    }
    reads = {v for v in given.values() if isinstance(v, str)}
    steps = {}
    if reads & {"mask", "labels"}:
        steps["mask"] = {"call": "threshold", "image": "image", "above": 60}
    if "labels" in reads:
        steps["labels"] = {"call": "label", "mask": "mask"}
    if "other" in reads:
        steps["other"] = {"call": "minimum", "image": "image", "size": 1}
    call = {"call": name, **given}
    if operation.gives != "array":
        return {"recipe": "memory", "steps": steps, "measure": {"it": call}}
    # Something has to be measured of an array; a maximum takes next to nothing.
    steps["it"] = call
    last = (
        {"call": "count", "labels": "it"} if name == "label" else {"call": "n_voxels", "mask": "it"}
    )
    if operation.result_bytes > 1 and name != "label":
        last = {"call": "mean_in", "image": "it"}
    return {"recipe": "memory", "steps": steps, "measure": {"n": last}}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    for name, shape in (("tiny", (20, 21, 22)), ("large", SHAPE)):
        z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
        inside = z**2 + y**2 + x**2 < 0.8
        data = np.where(inside, rng.integers(50, 100, shape, np.int16), 0).astype(np.int16)
        Store(root).write_scan(
            name, schema.make_scan(data, np.diag([1.0, 1, 1, 1])), {"stamp": "s"}
        )
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_forecast_is_within_a_quarter_of_the_measured_peak(store, name):
    content = recipe_of(name)
    forecast = WORKER_BASE_BYTES + peak_bytes(
        bind(content, where="memory"), Store(store).record("large")
    )
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(store), json.dumps(content)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    base, peak = json.loads(run.stdout)
    assert 0.75 <= forecast / peak <= 1.25, f"{base=} {peak=} {forecast=} bytes"
