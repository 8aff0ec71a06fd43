"""A cohort of 100,000 scans whose images cost nothing: planning, rerunning and asking for its state; what a scan costs to run.

Takes long (an hour, most of it to make the store) and 10 GB where temporary files go, so `run.py` runs it only by name:
``make bench ONLY=plan``. Commands are timed as their users wait for them, whole processes, imports included; the CPU time of
each and the load of the machine stand in the notes, because on a busy machine seconds say little.

Simulated (`tests/manyscans.py`): how a file becomes a Dataset, waiting for the disk while the store is made, and all
derivatives but the first. Real: the 100,000 source files, their discovery and names, the store's scans with all their files and
records, every derivative's record, and every command that is timed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from run import HERE, Row

sys.path.insert(0, str(HERE.parent))

import manyscans

ONLY_BY_NAME = True

LARGE, SMALL = 100_000, 10_000
RUN = 5_000
"""Scans that are run for real, on two workers, to see what each costs."""


COMMAND = """
import re, sys
from pathlib import Path
from cohort.cli import app
try:
    app(sys.argv[1:])
finally:
    # Not getrusage: its peak begins with that of the parent process.
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


class Taken(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def command(*arguments: object) -> Taken:
    """Run `cohort` in a process of its own."""
    line = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"{arguments}: exit {done.returncode}: {done.stderr}")
    cpu = after[2] + after[3] - before[2] - before[3]  # of children
    return Taken(seconds, cpu, int(done.stderr.split()[-1]) * 1024 / 1e6)


def best(*arguments: object, repeat: int = 3) -> Taken:
    """The shortest of several runs: the one that others disturbed least."""
    return min(command(*arguments) for _ in range(repeat))


def make(folder: Path, n: int) -> Path:
    """A cohort of `n` scans, ingested and measured; its catalog."""
    from cohort import api
    from cohort.io.store import Store

    catalog = manyscans.write_many_scans(folder, n)
    with manyscans.simulated_reading():
        api.ingest(catalog, options=api.Options(workers=0))
    api.run(catalog, options=api.Options(workers=0, max_scans=1))
    manyscans.measure_like_the_first(Store(folder / "store"), "noop")
    api.update(catalog, options=api.Options(workers=0))  # tables and report as after any night
    return catalog


def note(taken: Taken) -> str:
    """What is said beside a row."""
    return f"{taken.cpu_seconds:.1f} s of CPU, peak {taken.peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}"


def bench_many() -> Iterator[Row]:
    """Commands that find nothing to do."""
    for n, limits in ((SMALL, (5.0, None, None)), (LARGE, (30.0, 20.0, 1.0))):
        folder = Path(tempfile.mkdtemp())
        try:
            catalog = make(folder, n)
            for name, arguments, limit in zip(
                ("rerun", "plan", "status"),
                (("update", catalog, "--workers", 0), ("plan", catalog), ("status", catalog)),
                limits,
                strict=True,
            ):
                if limit is None:
                    continue
                taken = best(*arguments)
                row = f"plan/{name}-{n // 1000}k"
                yield Row(row, taken.seconds, f"{limit:g} s", limit, 1.0, note(taken))
                if n == LARGE:
                    peak = (taken.peak_mb, "1 GB", 1000.0, 1.0)
                    yield Row(f"{row}-peak-mb", *peak, "MB, not seconds")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def bench_overhead() -> Iterator[Row]:
    """What a scan costs beside its kernels, on two workers: opened, handed to a recipe of one number, written, gathered."""
    from cohort import api
    from cohort.pipeline.cluster import connect

    folder = Path(tempfile.mkdtemp())
    try:
        catalog = manyscans.write_many_scans(folder, RUN)
        with manyscans.simulated_reading():
            api.ingest(catalog, options=api.Options(workers=0))
        with connect(workers=2) as client:
            api.run(catalog, client=client, options=api.Options(max_scans=100))  # imports, compiles
            started = time.perf_counter()
            done = api.run(catalog, client=client).manifest["stages"]["run:noop"]["done"]
            seconds = time.perf_counter() - started
        said = f"ms of wall time, 2 workers, {done} scans, load {os.getloadavg()[0]:.1f}"
        yield Row("plan/overhead-ms-a-scan", 1000 * seconds / done, "5 ms", 5.0, 1.0, said)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
