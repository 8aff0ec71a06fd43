"""A store in a bucket of a real object store, Ceph's: the bytes of a folder, one writer at a time, damage found, parts read."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cohorts
import numpy as np
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io import doctor
from cohort.io.storage import lock, metadata
from cohort.io.storage.backend import Locked
from cohort.io.storage.objects import ObjectFiles
from cohort.io.store import Store
from cohort.io.verify import verify

pytest_plugins = ["ceph"]
pytestmark = pytest.mark.slow

HERE = api.Options(workers=0)
DICOM = "cohort: slices\nsources: [{source}]\nstore: store\nids: keep\n"


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path)


@pytest.fixture
def there(ceph):
    """Options for a store in a bucket."""
    return api.Options(workers=0, store=f"{ceph}/cohorts/balls")


def worked(catalog: Path, options: api.Options) -> Store:
    """The store after ingest and run, which have written all that counts; a report takes longer than both."""
    ingested, ran = api.ingest(catalog, options=options), api.run(catalog, options=options)
    assert ingested.manifest["counts"]["quarantined"] == ran.manifest["counts"]["failed"] == 0
    return ran.store


@pytest.fixture
def in_shards(monkeypatch):
    """Arrays of a few voxels are stored as large ones are: in shards of several chunks, their index at the end."""
    monkeypatch.setattr(metadata, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(metadata, "CHUNK", 9)
    metadata._made_array.cache_clear()
    yield
    metadata._made_array.cache_clear()


@pytest.mark.parametrize("grain", ["scan", "block"])
@pytest.mark.usefixtures("in_shards")
def test_an_update_leaves_the_bytes_that_a_folder_holds_and_parts_of_it_can_be_read(
    catalog, there, grain
):
    local = worked(catalog, HERE)
    store = worked(catalog, api.Options(workers=0, store=there.store, grain=grain))
    assert cohorts.contents(store) == cohorts.contents(local)
    assert list(verify(store)) == []
    scan = store.scan_ids()[2]
    image, whole = (one.open_scan(scan)["image"] for one in (store, local))
    for part in (np.s_[4:7, ::2, 3], np.s_[-1], np.s_[:, 10:12, 5]):
        np.testing.assert_array_equal(image[part], whole[part])


def test_series_in_a_bucket_become_the_scans_that_series_in_a_folder_become(ceph, tmp_path):
    volume, affine = phantom((5, 8, 7))
    for number in range(3):
        write_series(tmp_path / f"scans/{number}", volume + number, affine, PatientID=f"P{number}")
    bucket = ObjectFiles(ceph)
    for path in sorted((tmp_path / "scans").rglob("*.dcm")):
        bucket.put(f"in/{path.relative_to(tmp_path / 'scans').as_posix()}", path)
    stores = []
    for name, source in (("local", "../scans"), ("remote", f"{ceph}/in")):
        (tmp_path / name).mkdir()
        catalog = tmp_path / name / "catalog.yaml"
        catalog.write_text(DICOM.format(source=source), encoding="utf-8")
        result = api.ingest(catalog, options=HERE)
        assert result.manifest["counts"]["done"] == 3
        stores.append(cohorts.contents(result.store))
    scans = [{k: v for k, v in one.items() if k.startswith("scans/")} for one in stores]
    assert scans[0] == scans[1]
    assert len(scans[0]) > 3


def test_a_flipped_bit_and_a_lost_object_are_named_and_mended(catalog, there):
    store = worked(catalog, there)
    before = cohorts.contents(store)
    flipped, lost = [n for n in before if n.startswith("scans/") and "/image/c/" in n][:2]
    damaged = bytearray(before[flipped])
    damaged[len(damaged) // 2] ^= 4
    store.files.write(flipped, bytes(damaged))
    store.files.remove(lost)
    problems = list(verify(store))
    for name in (flipped, lost):
        scan, _, chunk = name.removeprefix("scans/").partition(".zarr/")
        assert any(scan in str(p) and chunk in str(p) for p in problems), name
    api.verify(api.open(there.store), repair=True)
    assert cohorts.contents(worked(catalog, there)) == before


def test_one_of_many_claims_is_granted_and_a_listing_has_no_end(ceph):
    files = ObjectFiles(f"{ceph}/a")

    def claim(number: int) -> bool:
        try:
            files.put_new("once", b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(claim, range(64))) == 1
        names = [f"many/{n:04d}" for n in range(1100)]  # more than one page
        list(pool.map(lambda name: files.put(name, b"x"), names))
    assert [name for name, _ in files.listing("many")] == names
    files.remove_tree("many")
    assert list(files.listing("many")) == []


def test_a_second_writer_is_told_and_one_that_fell_silent_commits_no_more(catalog, there):
    first = ObjectFiles(there.store, term_s=4.0)
    with first.lock():
        with pytest.raises(Locked, match=rf"process {os.getpid()} on .* sign of life"):
            api.ingest(catalog, options=there)
        copy = ObjectFiles(there.store)
        copy._fence = 0  # a worker of somebody whose claim is long over
        with pytest.raises(Locked, match="was taken over"):
            copy.create("scans/a.json", b"{}")
        lock.check(first, first._fence)
    assert api.ingest(catalog, options=there).manifest["counts"]["done"] == 6


def command(catalog: Path, store: str) -> list[str]:
    options = ["--workers", "0", "--store", store]
    return [sys.executable, "-m", "cohort.cli", "ingest", str(catalog), *options]


def test_killed_at_any_moment_and_run_again_it_ends_as_if_undisturbed(tmp_path, there):
    calm = cohorts.write_cohort(tmp_path / "calm")
    began = time.perf_counter()
    subprocess.run(command(calm, str(tmp_path / "calm/store")), check=True, capture_output=True)
    whole = time.perf_counter() - began
    wild, moments = cohorts.write_cohort(tmp_path / "wild"), random.Random(5)
    for _ in range(3):
        process = subprocess.Popen(
            command(wild, there.store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.4, 1.2) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(command(wild, there.store), check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert cohorts.contents(Store(there.store)) == cohorts.contents(cohorts.store_of(calm))
    assert Store(there.store).sweep() == 0


@pytest.mark.cluster
def test_workers_leave_the_same_bytes(catalog, there):
    local = worked(catalog, HERE)
    store = worked(catalog, api.Options(workers=2, memory=2 << 30, store=there.store))
    assert cohorts.contents(store) == cohorts.contents(local)


def test_the_doctor_finds_it_fit_and_tells_of_its_one_defect(ceph):
    checks = doctor.probe(f"{ceph}/a/store")
    assert doctor.is_fit(checks)
    assert [check.name for check in checks if not check.passed] == ["replace only if unchanged"]
    assert "refused although the tag is the right one" in doctor.render(checks)
