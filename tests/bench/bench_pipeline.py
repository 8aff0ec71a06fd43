"""The whole way from the store to measurements, against a plain loop; what a scan costs beside its kernels."""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from run import HERE, SHARED, Row

sys.path.insert(0, str(HERE.parent))  # tests/cohorts.py

CATALOG = HERE.parents[1] / "catalogs/cohorts/oasis1.yaml"


def loop(files: list[Path]) -> list[dict[str, float]]:
    """Measure what the recipe oasis-csf measures, as one would in a script: nibabel, NumPy, SciPy, one file after another."""
    import nibabel as nib
    from scipy import ndimage as ndi

    found = []
    for file in files:
        data = np.asanyarray(nib.load(file).dataobj)
        mask = data > 0
        inside = data[mask]
        level = np.median(inside)
        core = ndi.binary_erosion(mask, iterations=6)
        labels, n = ndi.label((data < 0.45 * level) & mask & core)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        largest = int(sizes.argmax())
        found.append(
            {
                "n_nonzero": mask.sum(),
                "mean_nonzero": inside.mean(),
                "median_nonzero": level,
                "std_nonzero": inside.std(),
                "dark_frac": (inside < 0.55 * level).mean(),
                "core_voxels": core.sum(),
                "n_dark_components": n,
                "largest_dark_component": sizes[largest],
                "center": ndi.center_of_mass(labels == largest),
            }
        )
    return found


def bench_oasis() -> Iterator[Row]:
    """The 167 real scans, two warm workers, against the serial loop over the compressed files."""
    from cohort import api
    from cohort.pipeline.cluster import connect

    folder = Path(tempfile.mkdtemp())
    files = sorted((SHARED / "oasis1-mni2mm/uint8").glob("*.nii.gz"))
    try:
        with connect(workers=2) as client:
            options = api.Options(store=folder / "store")
            api.ingest(CATALOG, client=client, options=options)
            seconds = []
            for _ in range(3):  # the first round compiles
                shutil.rmtree(folder / "store/derivatives", ignore_errors=True)
                started = time.perf_counter()
                api.run(CATALOG, client=client, options=options)
                seconds.append(time.perf_counter() - started)
            peak = max(client.run(peak_mb).values())
        started = time.perf_counter()
        loop(files)
        rival = time.perf_counter() - started
        yield Row(
            "pipeline/oasis-measure",
            min(seconds[1:]),
            "nibabel + scipy loop, serial",
            rival,
            1.8,
            f"{len(files)} scans, 2 workers",
        )
        yield Row("pipeline/oasis-worker-peak-mb", peak, "1 GB", 1000.0, 1.0, "MB, not seconds")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def peak_mb() -> float:
    """Peak resident memory of this process, MB. Not getrusage: its peak begins with that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def bench_tiny_scans() -> Iterator[Row]:
    """Scans of almost no voxels: what is left is the cost of scheduling, reading, writing and counting."""
    import cohorts

    from cohort import api
    from cohort.pipeline.cluster import connect

    folder = Path(tempfile.mkdtemp())
    cost = {}
    try:
        with connect(workers=2) as client:
            for scans in (20, 50, 5000):
                catalog = cohorts.write_cohort(folder / str(scans), scans=scans)
                api.ingest(catalog, client=client)
                started = time.perf_counter()
                api.run(catalog, client=client)
                cost[scans] = 1000 * (time.perf_counter() - started) / scans
        yield Row(
            "pipeline/overhead-ms-a-scan",
            cost[5000],
            "10 ms",
            10.0,
            1.0,
            "ms of wall time, 2 workers, 5,000 scans",
        )
        yield Row(
            "pipeline/flat-cost",
            cost[5000],
            "a scan of 50",
            cost[50],
            0.8,
            "ms a scan, 50 against 5,000 scans",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
