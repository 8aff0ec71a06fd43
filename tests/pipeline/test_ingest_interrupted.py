"""An ingest that is killed, again and again, and one that meets another: the store is that of an undisturbed one."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io.store import Store
from cohort.provenance import file_digest

CATALOG = "cohort: slices\nsources: [scans]\nstore: store\nids: keep\n"
SERIES, KILLS = 40, 10


def write_cohort(folder: Path, series: int) -> Path:
    """Write DICOM series of a few slices and a catalog; give the catalog."""
    volume, affine = phantom((6, 32, SERIES))
    for number in range(series):
        own = np.roll(volume, number, axis=2)
        write_series(folder / f"scans/{number:03d}", own, affine, PatientID=f"P{number}")
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    return catalog


def ingesting(catalog: Path, *options: str) -> subprocess.Popen:
    """The command in a process of its own, its events to be read line by line."""
    return subprocess.Popen(
        [sys.executable, "-m", "cohort.cli", "ingest", str(catalog), "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(process: subprocess.Popen, event: str, times: int = 1) -> None:
    """Read events until one has come so many times."""
    for line in process.stdout:
        times -= json.loads(line).get("event") == event
        if not times:
            return
    raise AssertionError(f"it ended before: {process.stderr.read()}")


def contents(catalog: Path) -> dict[str, str]:
    """Digest of all that counts in a store, by name."""
    root = catalog.parent / "store"
    return {
        path.relative_to(root).as_posix(): file_digest(path)
        for part in ("scans", "tables", "quarantine")
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A cohort that was ingested in one go."""
    catalog = write_cohort(tmp_path_factory.mktemp("calm"), SERIES)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(catalog.parent / kind))
        api.ingest(catalog, options=api.Options(workers=0))
    return catalog


@pytest.fixture
def catalog(undisturbed, tmp_path):
    """The same cohort, not ingested yet."""
    shutil.copytree(undisturbed.parent / "scans", tmp_path / "scans")
    return Path(shutil.copy(undisturbed, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.cluster)])
def test_killed_at_ten_points_and_called_again_it_leaves_the_same_bytes(
    catalog, undisturbed, workers
):
    moments = random.Random(int(workers))
    kills = KILLS if workers == "0" else 3
    for number in range(kills):
        process = ingesting(catalog, "--workers", workers)
        # The first before any scan, the others anywhere within the second or third of those that are left.
        event, times = ("ingested", moments.randint(1, 3)) if number else ("start", 1)
        until(process, event, times)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    there = len(Store(catalog.parent / "store").scan_ids())
    assert kills - 1 <= there < SERIES
    last = ingesting(catalog, "--workers", workers)
    said, errors = last.communicate()
    assert last.returncode == 0, errors
    end = next(e for e in map(json.loads, said.splitlines()) if e["event"] == "end")
    assert end["counts"] == {"fresh": there, "done": SERIES - there, "failed": 0, "quarantined": 0}
    assert contents(catalog) == contents(undisturbed)
    assert Store(catalog.parent / "store").sweep() == 0


@pytest.mark.slow
def test_of_two_at_once_the_second_says_who_holds_the_store_and_the_first_goes_on(
    catalog, undisturbed
):
    first = ingesting(catalog, "--workers", "0")
    until(first, "ingested")
    first.send_signal(signal.SIGSTOP)
    before = contents(catalog)
    second = ingesting(catalog, "--workers", "0")
    _, said = second.communicate()
    assert second.returncode == 75
    assert f"is locked by process {first.pid} on" in said
    assert contents(catalog) == before
    first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 0
    assert contents(catalog) == contents(undisturbed)
