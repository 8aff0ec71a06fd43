"""`map` on workers: the same results in the same order, whatever becomes of the workers."""

import os

import poison
import pytest

from cohort import api
from cohort.io.sources import files
from cohort.io.store import Store
from cohort.pipeline.cluster import connect
from cohort.pipeline.dispatch.mapping import mapped

MEMORY = 1 << 30


def items(n, *fatal):
    return [(number, os.getpid(), number in fatal) for number in range(n)]


def expected(n):
    return [number * number for number in range(n)]


def test_without_workers_it_is_a_plain_loop():
    assert list(mapped(poison.square_at_home, items(9, 3), connect=lambda: None)) == expected(9)


@pytest.fixture(scope="module")
def client():
    with connect(workers=2, memory=MEMORY) as client:
        yield client


@pytest.mark.slow
@pytest.mark.cluster
def test_what_ends_its_process_on_a_worker_is_done_here_in_its_turn(client):
    found = mapped(poison.square_at_home, items(40, 0, 17, 39), connect=lambda: client)
    assert list(found) == expected(40)


@pytest.mark.slow
@pytest.mark.cluster
def test_an_error_is_that_of_the_plain_loop(client):
    found = mapped(poison.play, [("square", 1), ("refuse", 13)], connect=lambda: client)
    assert next(found) == 1
    with pytest.raises(ValueError, match="thirteen is refused"):
        next(found)


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_are_gone_leave_the_work_to_this_process():
    import dask

    with dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}), connect(workers=2, memory=MEMORY) as client:  # fmt: skip
        found = mapped(poison.square_slowly, range(200), connect=lambda: client)
        first = next(found)
        client.cluster.scale(0)
        assert [first, *found] == expected(200)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_store_is_the_same_when_workers_look_into_the_files(tmp_path, client, monkeypatch):
    from series import phantom, write_series

    volume, affine = phantom()
    for number in range(6):
        write_series(tmp_path / f"scans/{number}", volume + number, affine, PatientID=f"P{number}")
    (tmp_path / "scans/notes.txt").write_text("no image")
    stores = []
    for name, least in (("near", 1 << 30), ("far", 1)):
        catalog = tmp_path / f"{name}.yaml"
        catalog.write_text(f"cohort: c\nsources: [scans]\nstore: {name}\nids: keep\n")
        monkeypatch.setattr(files, "_FAR_LEAST", least)
        result = api.ingest(catalog, client=client)
        assert result.manifest["counts"]["done"] == 6
        stores.append(Store(tmp_path / name))
    near, far = ({s: store.record(s) for s in store.scan_ids()} for store in stores)
    assert near == far
