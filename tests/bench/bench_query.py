"""A question in SQL to a large cohort: the whole call, from a store that nobody has opened."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from run import Row

SCANS, MEASUREMENTS, ROUNDS = 100_000, 20, 5
ASKED = "SELECT subject, avg(m1), stddev(m2), median(m3) FROM big WHERE m4 > 0.5 GROUP BY subject"


def bench_query() -> Iterator[Row]:
    """100,000 scans, 20 measurements, filtered and grouped: a second at most."""
    from cohort.cohort import Cohort
    from cohort.io.store import Store

    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder)
        rng = np.random.default_rng(0)
        table = pd.DataFrame({f"m{i}": rng.random(SCANS) for i in range(MEASUREMENTS)})
        table.insert(0, "scan_id", [f"sub-{i:06d}" for i in range(SCANS)])
        table.insert(1, "subject", [f"s{i % 50}" for i in range(SCANS)])
        store.write_table("big", table, {f"m{i}": "ml" for i in range(MEASUREMENTS)})
        ours = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            found = Cohort(store).sql(ASKED)
            ours.append(time.perf_counter() - started)
        groups = table[table.m4 > 0.5].groupby("subject")
        expected = groups.agg({"m1": "mean", "m2": "std", "m3": "median"})
        found = found.set_index("subject").loc[expected.index]
        np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-9)
        yield Row("query/100k", min(ours), "1 s", 1.0, 1.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
