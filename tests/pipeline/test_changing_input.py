"""A source that changes between being digested and being read never stands in the store under the stamp of what it was."""

import os

import cohorts
import pytest

from cohort import api
from cohort.io.store import Store

HERE = api.Options(workers=0)


@pytest.fixture
def catalog(tmp_path):
    made = cohorts.write_cohort(tmp_path, scans=3)
    made.write_text(made.read_text().partition("models:")[0])
    return made


def put(path, content):
    """Write a file in place with the time that it had."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_scan_that_changed_while_it_was_read_is_refused_and_taken_by_the_next_call(catalog):
    path = catalog.parent / "scans/001_v1.nii.gz"
    whole = path.read_bytes()
    cohorts.write_scan(catalog.parent / "other.nii.gz", cohorts.ball(40))
    other = (catalog.parent / "other.nii.gz").read_bytes()

    def listen(event):
        if event["event"] == "stage" and event["stage"] == "ingest":
            put(path, other)

    result = api.ingest(catalog, options=api.Options(workers=0, listen=listen))
    (problem,) = result.problems
    assert problem.code == "SRC-CHANGED"
    assert str(path) in problem.text
    store = Store(catalog.parent / "store")
    assert store.record("sub-001_ses-1_001v1") is None
    assert len(store.scan_ids()) == 2
    # As it was: had it been taken, its stamp would say that it is fresh.
    put(path, whole)
    assert api.ingest(catalog, options=HERE).manifest["counts"]["done"] == 1
    clean = cohorts.write_cohort(catalog.parent / "clean", scans=3)
    api.ingest(clean, options=HERE)
    assert store.record("sub-001_ses-1_001v1") == Store(clean.parent / "store").record(
        "sub-001_ses-1_001v1"
    )
    assert store.quarantine() == []
