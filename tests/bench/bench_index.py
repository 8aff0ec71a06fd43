"""Finding what there is to ingest: headers and digests against bare header reading, on one core, from the page cache.

Ours reads and digests every byte, the first rival no pixel: the larger the files, the more that counts. So one of two
targets is enough: 0.8 of the bare reader, or 1,500 files a second.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from run import HERE, SHARED, Row

sys.path.insert(0, str(HERE.parent))  # tests/manyfiles.py

SETS = {
    "mr-133kB": ("sunnybrook-cine", 1),
    "epi-30kB": ("dcm-qa/dcm_qa_nih/In/20180918GE", 1),
    "ct-527kB": ("tcia-chest-ct", 20),
}
"""Name -> folder of slices, one a file, and how often it is copied to be worth timing."""

RATIO, A_SECOND = 0.8, 1500
"""Of bare `dcmread`, and files a second and core: one of them is to be met."""


@contextmanager
def one_core() -> Iterator[None]:
    """This process, with every thread it starts, on a single core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def cpu(function: Callable[[], object], repeat: int = 5) -> float:
    """Least processor time of several calls, seconds: what one core needs, whatever else runs on it."""
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return min(seconds)


def bench_headers() -> Iterator[Row]:
    """Headers grouped and bytes digested, against pydicom reading the same elements, without and with a digest."""
    from pydicom import dcmread

    from cohort.io.discover import discover
    from cohort.io.slices import dicom_header

    for name, (source, copies) in SETS.items():
        with tempfile.TemporaryDirectory() as folder, one_core(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(copies):
                shutil.copytree(SHARED / source, Path(folder, f"{number}"))
            files = sorted(p for p in Path(folder).rglob("*") if p.is_file())

            def bare(files=files, tags=dicom_header._TAGS):
                for path in files:
                    dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)

            def digested(files=files, bare=bare):
                bare()
                for path in files:
                    hashlib.sha256(path.read_bytes()).hexdigest()

            def ours(folder=folder):
                discover([Path(folder)])

            seconds, rival = cpu(ours), cpu(bare)
            a_second = len(files) / seconds
            note = f"{len(files)} files, {a_second:.0f} a second and core"
            # What counts is that one of the two is met; the row shows the one that is.
            if rival / seconds < RATIO and a_second >= A_SECOND:
                note += f", {rival / seconds:.2f} of dcmread"
                yield Row(
                    f"index/{name}", seconds, "1,500 a second", len(files) / A_SECOND, 1.0, note
                )
            else:
                yield Row(f"index/{name}", seconds, "dcmread", rival, RATIO, note)
            yield Row(f"index/{name}-digest", seconds, "dcmread + sha256", cpu(digested), 1.0)


def bench_unchanged() -> Iterator[Row]:
    """A tree that did not change, against its first indexing."""
    from manyfiles import write_many

    from cohort.io.discover import discover

    with tempfile.TemporaryDirectory() as folder, one_core():
        root, cache = Path(folder, "tree"), Path(folder, "cache")
        write_many(root, 5_000)
        first = cpu(lambda: discover([root]))
        discover([root], cache=cache)
        again = cpu(lambda: discover([root], cache=cache))
        yield Row("index/unchanged", again, "first time", first, 3.0, "5,000 tiny files, CPU time")


def bench_memory() -> Iterator[Row]:
    """Bytes of memory that a file more takes."""
    from manyfiles import peak_bytes, write_many

    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for n in (100, 8_000, 33_000):
            write_many(Path(folder, f"{n}"), n)
            peaks[n] = peak_bytes(Path(folder, f"{n}"), small=Path(folder, "100"))[0]
        yield Row(
            "index/bytes-a-file",
            (peaks[33_000] - peaks[8_000]) / 25_000,
            "200 bytes",
            200.0,
            1.0,
            "bytes, not seconds; series of 100",
        )
