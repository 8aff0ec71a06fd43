"""The report of 400 scans: a minute at most, and no more memory than one scan at a time takes."""

import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage as ndi
from run import Row

from cohort import schema
from cohort.io.store import Store

SCANS, SHAPE, MEASUREMENTS = 400, (91, 109, 91), 12


def bench_400() -> Iterator[Row]:
    """Write ``report/index.html`` for 400 heads at 2 mm with a mask and twelve measurements each."""
    from cohort.reporting.html import write_report

    folder = Path(tempfile.mkdtemp())
    try:
        store, rng = Store(folder), np.random.default_rng(0)
        # As smooth as a head: pictures of noise would be three times as large as those of anybody.
        voxels = ndi.gaussian_filter(rng.normal(size=SHAPE), 2.0)
        voxels = (1000 + 8000 * voxels + rng.normal(0, 20, SHAPE)).astype(np.int16)
        scan = schema.make_scan(voxels, np.diag([2.0, 2, 2, 1]))
        kept = scan.drop_vars("image").assign(dark=(("z", "y", "x"), voxels > 1500))
        ids = [f"sub-{i:04d}_ses-1_T1" for i in range(SCANS)]
        for scan_id in ids:
            store.write_scan(scan_id, scan, {})
            store.write_derivative("heads", scan_id, kept, {})
        table = pd.DataFrame({"scan_id": ids, "participant": ids, "subject": ids, "state": "done"})
        store.write_table("scans", table)
        numbers = {f"m{i}_ml": rng.normal(1000, 100, SCANS) for i in range(MEASUREMENTS)}
        store.write_table("heads", table.assign(**numbers))
        started, busy = time.perf_counter(), time.process_time()
        path = write_report(store, title="Large", recipes={"heads": {"keep": ["dark"]}})
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        tracemalloc.start()
        write_report(store, title="Large", recipes={"heads": {"keep": ["dark"]}})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = Path(path).stat().st_size
        note = f"{busy:.0f} s of CPU, {size / 1e6:.1f} MB on the disk, {peak / 1e6:.0f} MB at most in memory"
        yield Row("report/400", seconds, "a minute", 60.0, 1.0, note)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
