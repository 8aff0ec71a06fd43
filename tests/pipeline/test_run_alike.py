"""The same store to the byte, whoever works and however many: 1, 2 and 8 workers, threads and processes, both grains."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cohorts
import psutil
import pytest

from cohort import api
from cohort.pipeline.cluster import connect

SCANS = 5

MEMORY = 700 << 20


def content(store: Path) -> dict[str, str]:
    """Digest of every file of a store, but the records of its runs: those hold the clock."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.relative_to(store).parts[0] not in ("runs", ".lock")
    }


@contextmanager
def workers(kind: str, count: int) -> Iterator[object]:
    """A client of so many threads or processes; None for the plain loop."""
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        if kind == "none":
            yield None
        elif kind == "processes":
            yield stack.enter_context(connect(workers=count, memory=MEMORY))
        else:
            own = (
                psutil.Process().memory_info().rss
            )  # the worker is this process, with all the tests before
            cluster = LocalCluster(1, processes=False, threads_per_worker=count, memory_limit=own + count * MEMORY, dashboard_address="127.0.0.1:0")  # fmt: skip
            yield stack.enter_context(Client(stack.enter_context(cluster)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cohort and the store that a plain loop leaves of it."""
    folder = tmp_path_factory.mktemp("alike")
    catalog = cohorts.write_cohort(folder, SCANS)
    return catalog, content(made_store(catalog, "none", 0, "scan"))


def made_store(catalog: Path, kind: str, count: int, grain: str) -> Path:
    """Ingest and run with nothing there before."""
    store = catalog.parent / "store"
    shutil.rmtree(store, ignore_errors=True)
    options = api.Options(workers=0 if kind == "none" else None, grain=grain, memory=MEMORY)
    with workers(kind, count) as client:
        api.ingest(catalog, client=client, options=options)
        result = api.run(catalog, client=client, options=options)
    assert result.manifest["stages"]["run:ball"]["grain"][grain] == SCANS
    assert result.manifest["counts"]["done"] == SCANS
    return store


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("kind", "count", "grain"),
    [
        ("processes", 1, "scan"),
        ("processes", 2, "scan"),
        ("processes", 8, "scan"),
        ("threads", 2, "scan"),
        ("threads", 8, "scan"),
        ("none", 0, "block"),
        ("processes", 2, "block"),
    ],
)
def test_one_store_whoever_works(made, kind, count, grain):
    catalog, expected = made
    assert content(made_store(catalog, kind, count, grain)) == expected
    assert len([name for name in expected if name.endswith(".json")]) > 2 * SCANS
