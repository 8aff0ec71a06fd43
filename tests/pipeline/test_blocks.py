"""Block grain on workers that die: they come back, nothing is waited for without end, and the numbers are the same."""

import functools
import os
import pickle
import re
import signal
import time
from contextlib import suppress

import cohorts
import dask
import dask.array as da
import numpy as np
import poison
import pytest

from cohort import api
from cohort.io.store import Store
from cohort.ops import masks
from cohort.pipeline.cluster import connect
from cohort.pipeline.dispatch import blocks
from cohort.pipeline.dispatch.stopping import Dropped, Stop
from cohort.pipeline.steps import STEPS

MEMORY = 700 << 20
BLOCKS = api.Options(workers=0, grain="block", memory=MEMORY)
NOTHING = np.ones((0, 0, 0), bool)


@pytest.fixture(scope="module")
def client():
    with connect(workers=2, memory=MEMORY) as client:
        yield client


def test_what_dask_keeps_of_the_scheduler_can_be_pickled():
    # Its configuration goes to every worker that is started anew.
    class Nobody:
        status = "running"

    scheduler = blocks._Scheduler(Nobody(), Stop(), 1.0)
    assert pickle.loads(pickle.dumps({"scheduler": scheduler})) == {"scheduler": "dask.distributed"}


@pytest.mark.slow
@pytest.mark.cluster
def test_all_workers_may_die_under_a_scan(client, tmp_path, monkeypatch):
    catalog = cohorts.write_cohort(tmp_path, 1)
    api.ingest(catalog, options=api.Options(workers=0))
    store = Store(tmp_path / "store")
    api.run(catalog, options=BLOCKS)
    expected = list(store.derivatives("ball", store.scan_ids()))
    for scan_id in store.scan_ids():
        store.files.remove(f"derivatives/ball/{scan_id}.json")
    compute, killed = blocks._Computation.get, []

    def get(computation, graph, keys):
        if len(killed) < 2:
            # Dask's configuration holds our scheduler now: what starts them again has to cope with it.
            killed.append(list(client.run(os.getpid).values()))
            for pid in killed[-1]:
                os.kill(pid, signal.SIGKILL)
        return compute(computation, graph, keys)

    monkeypatch.setattr(blocks._Computation, "get", get)
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "60s"}):
        manifest = api.run(catalog, client=client, options=BLOCKS).manifest
    assert manifest["counts"]["done"] == 1, manifest
    assert len(killed) == 2
    assert list(store.derivatives("ball", store.scan_ids())) == expected


@pytest.mark.slow
@pytest.mark.cluster
def test_a_block_that_hangs_is_ended_and_the_workers_are_free_again(client):
    stuck = da.ones(4, chunks=2).map_blocks(poison.slowly, dtype=float, meta=np.ones(0))
    with (
        pytest.raises(blocks.BlocksStuck, match="time limit of 2 s"),
        blocks.on_workers(client, Stop(), seconds=2.0),
    ):
        stuck.compute()
    with blocks.on_workers(client, Stop(), seconds=600.0):
        assert da.ones(4, chunks=2).sum().compute() == 4


@pytest.mark.slow
@pytest.mark.cluster
def test_a_scan_that_kills_workers_is_named_and_those_beside_it_are_done(
    client, tmp_path, monkeypatch
):
    catalog = cohorts.write_cohort(tmp_path, 3)
    bad = cohorts.ball(1)
    bad[9, 10, 8] = poison.DEADLY
    cohorts.write_scan(tmp_path / "scans/001_v1.nii.gz", bad, slope=1.0)
    api.ingest(catalog, options=api.Options(workers=0))
    store = Store(tmp_path / "store")
    _, poisoned, _ = ids = store.scan_ids()
    api.run(catalog, options=BLOCKS)
    expected = dict(zip(ids, store.derivatives("ball", ids), strict=True))
    for scan_id in ids:
        store.files.remove(f"derivatives/ball/{scan_id}.json")

    threshold = masks.threshold

    @functools.wraps(threshold)
    def deadly(image, **given):
        mask = threshold(image, **given)
        blocks = image.data.map_blocks(poison.deadly, mask.data, dtype=bool, meta=NOTHING)
        return mask.copy(data=blocks)

    monkeypatch.setitem(STEPS, "threshold", STEPS["threshold"]._replace(function=deadly))
    done = api.run(catalog, client=client, options=BLOCKS)
    assert done.manifest["counts"] == {"fresh": 0, "done": 2, "failed": 1, "quarantined": 0}
    (failed,) = done.failed
    assert (failed["scan_id"], failed["type"]) == (poisoned, "BlocksLost")
    assert re.fullmatch(r"a block of it ended its worker's process, 3 times .*", failed["message"])
    assert "tcp://" not in failed["message"]
    found = dict(zip(ids, store.derivatives("ball", ids), strict=True))
    assert {s: found[s] for s in ids if s != poisoned} == {
        s: expected[s] for s in ids if s != poisoned
    }
    # The next call tries it again: it may have been a machine.
    monkeypatch.undo()
    api.run(catalog, client=client, options=BLOCKS)
    assert dict(zip(ids, store.derivatives("ball", ids), strict=True)) == expected


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_are_lost_again_and_again_come_back_and_stay(client):
    """Dask lets go of the nanny of a worker that is away 15 s after it was lost: of one that is lost all the time, too."""
    client.wait_for_workers(2, timeout=120)
    began = time.monotonic()
    while time.monotonic() - began < 20:
        for pid in client.run(os.getpid, on_error="ignore").values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    client.wait_for_workers(2, timeout=120)
    assert da.ones(4, chunks=2).sum().compute(scheduler=client) == 4


@pytest.mark.slow
@pytest.mark.cluster
def test_a_call_that_has_to_stop_drops_its_blocks(client, monkeypatch):
    from cohort.pipeline.dispatch import stopping

    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.5)
    stop = Stop()
    stop.give_up("cancelled")
    with pytest.raises(Dropped), blocks.on_workers(client, stop, seconds=600.0):
        da.ones(4, chunks=2).map_blocks(poison.slowly, dtype=float, meta=np.ones(0)).compute()
