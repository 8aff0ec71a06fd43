"""What a large cohort costs, in counts: files that are read, files that are written, bytes of memory a scan. Never seconds."""

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import manyscans
import pytest
from typer.testing import CliRunner

from cohort import api
from cohort.io.storage import disk
from cohort.io.store import Store

HERE = api.Options(workers=0)


def content(store: Path):
    """Bytes of every file of the scans, the derivatives and the tables."""
    folders = ("scans", "derivatives", "tables")
    return {
        p.relative_to(store).as_posix(): p.read_bytes()
        for f in folders
        for p in sorted((store / f).rglob("*"))
        if p.is_file()
    }


def test_the_simulated_store_is_the_one_that_is_ingested_and_run(tmp_path):
    real, simulated = (manyscans.write_many_scans(tmp_path / name, 5) for name in ("a", "b"))
    api.ingest(real, options=HERE)
    api.run(real, options=HERE)
    with manyscans.simulated_reading():
        api.ingest(simulated, options=HERE)
    api.run(simulated, options=api.Options(workers=0, max_scans=1))
    assert manyscans.measure_like_the_first(Store(tmp_path / "b/store"), "noop") == 5
    api.run(simulated, options=HERE)
    assert content(tmp_path / "a/store") == content(tmp_path / "b/store")
    assert api.verify(api.open(simulated)) == []


@pytest.fixture(scope="module")
def cohort_of(tmp_path_factory):
    """Make a cohort of so many scans, up to date, with a home of its own: what a test may do again and again."""
    patch = pytest.MonkeyPatch()

    def make(n):
        folder = tmp_path_factory.mktemp(f"many{n}")
        for kind in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(folder / "home" / kind.lower()))
        catalog = manyscans.write_many_scans(folder, n)
        with manyscans.simulated_reading():
            api.ingest(catalog, options=HERE)
            api.run(catalog, options=api.Options(workers=0, max_scans=1))
            manyscans.measure_like_the_first(Store(folder / "store"), "noop")
            api.update(catalog, options=HERE)
        return catalog

    yield make
    patch.undo()


@pytest.fixture
def reads(monkeypatch):
    """Which files of a store are read, by the folder they lie in."""
    counted = Counter()
    read = disk._read

    def count(path):
        counted[Path(path).parent.name] += 1
        return read(path)

    monkeypatch.setattr(disk, "_read", count)
    return counted


def modified(folder: Path):
    return {
        p: p.stat().st_mtime_ns
        for f in ("scans", "derivatives", "tables", "quarantine", "models", "recipes")
        for p in (folder / f).rglob("*")
    }


@pytest.mark.slow
def test_of_two_thousand_scans_every_record_is_read_as_often_as_it_must_be(
    cohort_of, reads, monkeypatch
):
    n = 2000
    catalog = cohort_of(n)
    before = modified(catalog.parent / "store")
    reads.clear()
    result = api.update(catalog, options=HERE)
    assert result.manifest["counts"] == {"fresh": n, "done": 0, "failed": 0, "quarantined": 0}
    # Once, to see that the scan is whole; the plan knows it from there.
    assert reads.pop("scans") == n
    assert reads.pop("noop") == n
    assert sum(reads.values()) < 80, reads
    assert modified(catalog.parent / "store") == before

    reads.clear()
    (plan,) = api.plan(catalog)
    assert len(plan.fresh) == n
    assert (reads.pop("scans"), reads.pop("noop")) == (n, n)
    assert sum(reads.values()) < 20, reads

    from cohort.cli import app

    reads.clear()
    done = CliRunner().invoke(app, ["status", str(catalog)])
    assert f"{n} scans" in done.stdout
    assert not reads.keys() & {"scans", "noop"}
    assert sum(reads.values()) < 20, reads


def peak_bytes(call) -> int:
    """Of the lesser of two calls: Python's table of interned names, into which pathlib enters every part of a path, doubles
    once in a while, by 15 MB after 350,000 names of all tests before, and then not again for long."""

    def once() -> int:
        gc.collect()
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return min(once(), once())


@pytest.mark.slow
def test_memory_grows_by_rows_not_by_records(cohort_of):
    few, many = 250, 1000
    peaks = {}
    for n in (few, many):
        catalog = cohort_of(n)
        peaks[n] = [
            peak_bytes(lambda c=catalog: api.plan(c)),
            peak_bytes(lambda c=catalog: api.update(c, options=HERE)),
        ]
    plan, update = ((b - a) / (many - few) for a, b in zip(peaks[few], peaks[many], strict=True))
    # A record takes some 7 kB as a dict: none is kept.
    assert plan < 1500
    assert update < 6000
