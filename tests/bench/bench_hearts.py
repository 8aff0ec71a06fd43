"""Hearts: what the recipe of the left ventricle costs a scan, and holds in memory, after four hundred as after fifty."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from run import Row

SCANS = 400
FEW = 50
CATALOG = """\
cohort: hearts
sources: [scans]
store: store
ids: keep
subject: '(?P<subject>\\d+)'
recipes: [lv-ejection-fraction]
"""


def bench_hearts() -> Iterator[Row]:
    """Four hundred small cine series on two workers, against fifty."""
    folder = Path(tempfile.mkdtemp())
    try:
        few, many = (measured(folder / str(n), n) for n in (FEW, SCANS))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first, last = (sum(e["cpu_seconds"] for e in part) for part in (many[:100], many[-100:]))
    yield Row(
        "hearts/flat-cost",
        10 * last,
        "the first hundred",
        10 * first,
        0.8,
        f"ms of CPU a scan, the last of {SCANS}, 2 workers",
    )
    peaks = [max(e["peak_rss_bytes"] for e in events) / 1e6 for events in (few, many)]
    assert peaks[1] <= 1.15 * peaks[0], (
        f"{peaks[1]:.0f} MB after {SCANS}, {peaks[0]:.0f} after {FEW}"
    )
    yield Row("hearts/worker-peak-mb", peaks[1], f"{FEW} scans", peaks[0], 0.87, "MB, not seconds")


def measured(folder: Path, n: int) -> list[dict[str, Any]]:
    """What each scan of a cohort of `n` hearts cost, in the order in which they were done, by workers that start with it."""
    from cohort import api
    from cohort.pipeline.cluster import connect

    write_hearts(folder, n)
    with connect(workers=2) as client:
        result = api.ingest(folder / "catalog.yaml", client=client)
        assert not result.problems, result.problems[0].text
        result = api.run(folder / "catalog.yaml", client=client)
    counts = result.manifest["counts"]
    assert counts["done"] == n, counts
    (events,) = (folder / "store/runs" / result.manifest["run_id"]).glob("events.jsonl")
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    costs = [line for line in lines if "cpu_seconds" in line and "scan_id" in line]
    assert len(costs) == n, f"{len(costs)} of {n} scans tell their cost"
    return costs


def write_hearts(folder: Path, n: int) -> None:
    """Write `n` hearts, no two alike, as NIfTI files of 8 frames, and their catalog."""
    import nibabel as nib

    from cohort.phantom.hearts import Heart

    rng = np.random.default_rng(0)
    (folder / "scans").mkdir(parents=True)
    for number in range(n):
        heart = Heart(
            shape=(7, 70, 74),
            spacing=(10.0, 2.2, 2.0),
            length_mm=56.0,
            base_slice=6,
            n_frames=8,
            ejection_fraction=rng.uniform(0.3, 0.65),
            radius_mm=rng.uniform(21, 27),
            towards_rv=rng.uniform(0, 6.28),
            diastole=int(rng.integers(8)),
            seed=number,
        )
        file = nib.Nifti1Image(heart.cine().values.T, np.diag([*heart.spacing[::-1], 1.0]))
        file.header.set_zooms((*heart.spacing[::-1], 0.9 / heart.n_frames))
        file.header.set_xyzt_units("mm", "sec")
        nib.save(file, folder / "scans" / f"{number:03d}.nii")
    (folder / "catalog.yaml").write_text(CATALOG, encoding="utf-8")
