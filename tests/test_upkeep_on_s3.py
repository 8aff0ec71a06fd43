"""Looking after a store that lies in a bucket: the same commands, the same promises."""

import threading

import cohorts
import pytest

from cohort import api, overview
from cohort.call import Call
from cohort.io.catalog import read_catalog
from cohort.io.storage import objects
from cohort.io.store import Store
from cohort.pipeline.ledger import Ledger

pytest_plugins = ["s3"]

PATIENCE = 120


@pytest.fixture
def cohort(tmp_path, s3):
    catalog = cohorts.write_cohort(tmp_path, scans=6)
    options = api.Options(workers=0, store=f"{s3.url}/cohorts/balls")
    Call(catalog, None, options).work("update", ["ingest", "run", "fit"])
    return api.Cohort(Store(str(options.store)), read_catalog(catalog, store=options.store))


@pytest.mark.slow
def test_a_subject_withdraws_from_a_bucket_and_rubbish_goes(cohort, tmp_path):
    store = cohort.store
    said, _ = api.withdraw(cohort, "003", proof=tmp_path / "proof.json", voxels=True)
    assert said["check"]["found"] == []
    assert len(said["removed"]) > 20
    for name, _ in store.files.listing():
        assert "sub-003" not in name
        assert b"sub-003" not in store.files.read(name), name
    options = api.Options(workers=0, store=store.url)
    again = Call(cohort.catalog, None, options).work("update", ["ingest", "run", "fit"])
    assert (again.manifest["processed"], len(cohort.scans)) == (0, 5)
    store.files.write("scans/sub-9_ses-1_x.zarr/zarr.json", b"{}")
    store.files.write("derivatives/other/sub-001_ses-1_001v1.json", b"{}\n")
    found = api.collect(cohort, keep_runs=1)
    assert {each.kind for each in found} >= {"staging", "derivatives"}
    assert [str(p) for p in api.verify(cohort) if p.is_error] == []
    assert api.collect(cohort, keep_runs=1) == []


@pytest.mark.slow
def test_a_run_in_a_bucket_is_seen_and_followed_from_elsewhere(cohort, monkeypatch):
    monkeypatch.setattr(objects, "FLUSH_S", 0.0)
    store, heard = Store(cohort.store.url), []
    assert overview.status(store)["running"] is None
    begun, go_on = threading.Event(), threading.Event()

    def elsewhere():
        mine = Store(cohort.store.url)
        with mine.lock(), Ledger(mine, "update") as ledger:
            ledger.event("stage", stage="run:ball", total=1, fresh=0)
            begun.set()
            go_on.wait(PATIENCE)
            ledger.event("done", stage="run:ball", scan_id="sub-1", done=1, total=1)

    def listen(event):
        heard.append(event["event"])
        if event["event"] == "stage":
            go_on.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert begun.wait(PATIENCE)
    now = overview.status(store)["running"]
    assert now is not None
    assert (now["stage"], now["total"]) == ("run:ball", 1)
    manifest = overview.follow(store, listen, wait_seconds=0.05)
    thread.join(PATIENCE)
    assert heard == ["start", "stage", "done", "end"]
    assert manifest is not None
    assert manifest["run_id"] == now["run_id"]
    assert overview.status(store)["running"] is None
