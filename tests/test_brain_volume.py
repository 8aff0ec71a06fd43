"""The recipe that measures its own confound: heads from files to volumes, in both grains, and what cannot be measured fails by name."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohort import api
from cohort.io.store import Store
from cohort.phantom import head
from cohort.phantom.files import write_nifti
from cohort.pipeline.memory import peak_bytes
from cohort.pipeline.plan import WORKER_BASE_BYTES
from cohort.pipeline.recipe import read_recipe

RECIPE = Path(__file__).parents[1] / "catalogs/recipes/brain-volume.yaml"
CATALOG = f"""\
cohort: heads
sources: [scans]
store: store
ids: keep
subject: "(?P<subject>s\\\\d+)"
recipes: [{RECIPE}]
"""
BY_TRUTH = {
    "intracranial_volume_ml": ("intracranial_ml", 0.04),
    "brain_volume_ml": ("brain_ml", 0.04),
    "grey_ml": ("grey_ml", 0.05),
    "white_ml": ("white_ml", 0.05),
    "csf_ml": ("csf_ml", 0.15),
}
"""Within which share of the truth a single head has to lie; `tests/ops/test_heads.py` holds the means of forty."""
PEAK = """
import json, re, sys
from pathlib import Path
from cohort.io.store import Store
from cohort.pipeline.plan import Task
from cohort.pipeline.recipe import read_recipe
from cohort.pipeline.run import _Job, run_scan
recipe = read_recipe(Path(sys.argv[2]))
run_scan(_Job(Store(Path(sys.argv[1])), recipe, Task(sys.argv[3], "new", tuple(recipe.keys), "scan", 0)))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10)
"""


@pytest.fixture(scope="module")
def cohort_of_heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    truth = {}
    for number, axes in ((101, "RAS"), (102, "PSL")):
        made = head(seed=number, index=number)
        write_nifti(made, folder / f"scans/s{number}/t1.nii.gz", axes=axes)
        truth[f"s{number}"] = made.truth
    # A head of which the top was not imaged, and a crop of a brain.
    whole = nib.load(folder / "scans/s101/t1.nii.gz")
    cut, crop = np.asarray(whole.dataobj)[:, :, :62], np.asarray(whole.dataobj)[30:60, 40:80, 40:70]
    for number, data in ((103, cut), (104, crop)):
        (folder / f"scans/s{number}").mkdir()
        nib.save(nib.Nifti1Image(data, whole.affine), folder / f"scans/s{number}/t1.nii.gz")
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG)
    done = api.update(catalog, options=api.Options(workers=0))
    return catalog, truth, done


@pytest.mark.slow
def test_heads_are_measured_and_others_fail_with_the_reason(cohort_of_heads):
    catalog, truth, done = cohort_of_heads
    measured = api.open(catalog).measurements("brain-volume").set_index("subject")
    assert dict(measured.state) == {
        "s101": "done",
        "s102": "done",
        "s103": "failed",
        "s104": "failed",
    }
    for subject, volumes in truth.items():
        for name, (known, share) in BY_TRUTH.items():
            assert measured[name][subject] == pytest.approx(volumes[known], rel=share), name
    reasons = {f["scan_id"][4:8]: f["message"] for f in done.failed}
    assert (
        "the top" in reasons["s103"]
        or "cut" in reasons["s103"]
        or "registration" in reasons["s103"]
    )
    assert "120 mm" in reasons["s104"]
    quality = measured.loc[["s101", "s102"], ["snr", "cnr", "efc", "fber", "registration_metric"]]
    assert quality.notna().all(axis=None)
    assert (quality.registration_metric < -0.45).all()
    assert (measured.border_voxels[["s101", "s102"]] == 0).all()


@pytest.mark.slow
def test_block_by_block_the_record_is_the_same(cohort_of_heads):
    catalog, _, _ = cohort_of_heads
    store = Store(catalog.parent / "store")
    scan_id = next(s for s in store.scan_ids() if "s101" in s)
    before = store.derivative("brain-volume", scan_id)
    store.files.remove(f"derivatives/brain-volume/{scan_id}.json")
    api.run(catalog, options=api.Options(workers=0, grain="block", max_scans=1))
    assert store.derivative("brain-volume", scan_id) == before


@pytest.mark.slow
def test_the_forecast_of_memory_holds_for_a_head(cohort_of_heads):
    catalog, _, _ = cohort_of_heads
    store = Store(catalog.parent / "store")
    scan_id = next(s for s in store.scan_ids() if "s101" in s)
    forecast = WORKER_BASE_BYTES + peak_bytes(read_recipe(RECIPE), store.record(scan_id))
    command = [sys.executable, "-c", PEAK, str(store.root), str(RECIPE), scan_id]
    peak = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.75 <= forecast / peak <= 1.4, f"{peak=} {forecast=} bytes"
