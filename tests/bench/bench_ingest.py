"""DICOM to a store, against the converter that everybody uses, on the same files; memory over the number of series."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from run import HERE, Row

sys.path.insert(0, str(HERE.parent))  # tests/series.py

SERIES, SLICES, MATRIX = 40, 60, 256
FEW, MANY = 50, 2000
ROUNDS = 3
CATALOG = "cohort: bench\nsources: [scans]\nstore: store\nids: keep\n"
IN_A_PROCESS = """
import sys
from pathlib import Path
from cohort import api
if __name__ == "__main__":
    api.ingest(sys.argv[1], options=api.Options(workers=2))
    print(Path("/proc/self/status").read_text())
"""


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder, and caches and keys of one's own, that go at the end."""
    folder = Path(tempfile.mkdtemp())
    own = {f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "STATE")}
    try:
        with patch.dict(os.environ, own):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def head(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Something like a head: smooth inside, noise everywhere, 12 bits."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    radius = (z[:, None, None] / 0.9) ** 2 + (y[None, :, None] / 0.8) ** 2 + (x / 0.65) ** 2
    waves = np.sin(7 * x) * np.cos(5 * y)[:, None] * np.cos(6 * z)[:, None, None]
    signal = np.where(radius < 1, 700 + 250 * waves, 0)
    return np.abs(signal + rng.normal(0, 12, shape).astype(np.float32)).astype(np.int16)


def write_cohort(folder: Path, *, series: int, shape: tuple[int, int, int]) -> tuple[Path, int]:
    """Write MR series, a folder each, and a catalog; give it and the bytes of all files."""
    from series import write_series

    affine = np.diag([-0.9375, -0.9375, 3.0, 1.0])
    tags = {
        "Manufacturer": "SIEMENS", "ManufacturerModelName": "Prisma", "MagneticFieldStrength": "3",
        "RepetitionTime": "2300", "EchoTime": "2.98", "FlipAngle": "9", "SliceThickness": "3", "BitsStored": 12,
        "HighBit": 11, "ProtocolName": "t1", "SeriesDescription": "t1", "PatientSex": "F", "PatientAge": "061Y",
        "StudyDate": "20200101", "SeriesTime": "101010", "AcquisitionTime": "101010", "PatientPosition": "HFS",
    }  # fmt: skip
    # A few volumes, used again and again: only the compressors look at voxels, and they look at one at a time.
    volumes = [head(seed, shape) for seed in range(min(series, 8))]
    for number in range(series):
        volume = np.roll(volumes[number % len(volumes)], number, axis=2)
        write_series(folder / f"scans/{number:05d}", volume, affine, PatientID=f"P{number}", **tags)
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    return catalog, sum(p.stat().st_size for p in (folder / "scans").rglob("*.dcm"))


def dcm2niix(folders: list[Path], out: Path, *, gzip: bool) -> None:
    """As its users call it, once for each folder."""
    program = Path(sys.executable).with_name("dcm2niix")
    for folder in folders:
        subprocess.run(
            [program, "-z", "y" if gzip else "n", "-f", "%i_%s", "-o", out, folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def seconds(work: object) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bench_dicom() -> Iterator[Row]:
    """Index, digest, check, stack, compress and commit, two warm workers; then the converter on the same page cache."""
    from cohort import api
    from cohort.pipeline.cluster import connect

    with workplace() as folder:
        small, _ = write_cohort(fresh(folder / "small"), series=4, shape=(5, 32, 32))
        catalog, size = write_cohort(
            fresh(folder / "all"), series=SERIES, shape=(SLICES, MATRIX, MATRIX)
        )
        scans, out = folder / "all/scans", folder / "nii"
        halves = [fresh(folder / name) for name in ("a", "b")]
        for number, series in enumerate(sorted(scans.iterdir())):
            (halves[number % 2] / series.name).symlink_to(series)
        with connect(workers=2) as client:
            api.ingest(small, client=client)

            def ours() -> None:
                result = api.ingest(catalog, client=client)
                assert result.manifest["counts"]["done"] == SERIES

            def two_processes(*, gzip: bool) -> None:
                with ThreadPoolExecutor(2) as pool:
                    list(
                        pool.map(
                            lambda half: dcm2niix(sorted(half.iterdir()), out, gzip=gzip), halves
                        )
                    )

            def clear() -> None:
                shutil.rmtree(folder / "all/store", ignore_errors=True)
                shutil.rmtree(folder / "CACHE", ignore_errors=True)
                fresh(out)
                os.sync()  # nobody waits for what another has left to be written

            # Round after round, so that whoever shares the machine disturbs all alike.
            found: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for name, work in (
                    ("ours", ours),
                    ("y", lambda: dcm2niix([scans], out, gzip=True)),
                    ("n", lambda: dcm2niix([scans], out, gzip=False)),
                    ("y2", lambda: two_processes(gzip=True)),
                    ("n2", lambda: two_processes(gzip=False)),
                ):
                    clear()
                    found.setdefault(name, []).append(seconds(work))
        best = {name: min(times) for name, times in found.items()}
        what = f"{SERIES} series, {SERIES * SLICES} files, {size / 1e6:.0f} MB"
        for flag, target in (("y", 1.0), ("n", 0.5)):
            yield Row(
                f"ingest/dicom-z-{flag}",
                best["ours"],
                f"dcm2niix -z {flag}",
                best[flag],
                target,
                f"{what}; two processes of it: {best[flag + '2']:.2f} s",
            )


def bench_memory() -> Iterator[Row]:
    """Peak resident memory of the calling process, few and many tiny series, a process each."""
    peaks = {}
    for count in (FEW, MANY):
        with workplace() as folder:
            catalog, _ = write_cohort(fresh(folder / "all"), series=count, shape=(3, 8, 8))
            script = folder / "ingest.py"
            script.write_text(IN_A_PROCESS, encoding="utf-8")
            done = subprocess.run(
                [sys.executable, script, catalog], check=True, capture_output=True, text=True
            )
            peaks[count] = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) * 1024 / 1e6
    yield Row(
        "ingest/flat-memory",
        peaks[MANY],
        f"{FEW} series",
        peaks[FEW],
        0.8,
        f"MB, not seconds: peak of the driver, {MANY} tiny series",
    )
