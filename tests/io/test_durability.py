"""A power cut at any moment leaves no record of what is not on the disk: the order of syncs, renames and records."""

import os
from pathlib import Path

import cohorts
import numpy as np
import pytest

from cohort import api, schema
from cohort.io.storage import disk, metadata
from cohort.io.store import Store
from cohort.pipeline.ledger import Ledger

AFFINE = np.diag([2.0, 2.5, 3.0, 1.0])


@pytest.fixture
def calls(monkeypatch):
    """What was synced, by its inode, and what was renamed, in order; both are still done."""
    done: list[tuple[str, int, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(handle: int) -> None:
        fsync(handle)
        done.append(("sync", os.fstat(handle).st_ino, ""))

    def moved(way):
        def move(source, target, **options) -> None:
            inode = Path(source).stat().st_ino
            way(source, target, **options)
            done.append(("rename", inode, str(target)))

        return move

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", moved(rename))
    monkeypatch.setattr(os, "replace", moved(replace))
    return done


def first(calls, kind: str, path: Path) -> int:
    """When a file or folder was first synced, or renamed to where it is."""
    inode = path.stat().st_ino
    for number, (what, which, _) in enumerate(calls):
        if what == kind and which == inode:
            return number
    raise AssertionError(f"never {kind}: {path.name}")


@pytest.mark.parametrize("in_shards", [False, True])
def test_all_of_a_scan_is_synced_before_its_rename_and_that_before_its_record(
    tmp_path, calls, monkeypatch, in_shards
):
    if in_shards:
        monkeypatch.setattr(metadata, "WHOLE_BYTES", 0)
        monkeypatch.setattr(metadata, "CHUNK", 4)
        monkeypatch.setattr(metadata, "SHARD_BYTES", 600)
        metadata._made_array.cache_clear()
    store = Store(tmp_path)
    data = np.arange(9 * 8 * 11, dtype=np.int16).reshape(9, 8, 11)
    store.write_scan("a", schema.make_scan(data, AFFINE, image_attrs={"units": "1"}), {"stamp": ""})
    metadata._made_array.cache_clear()
    final, record, folder = (tmp_path / "scans" / name for name in ("a.zarr", "a.json", ""))
    renamed = first(calls, "rename", final)
    below = [final, *final.rglob("*")]
    assert len(below) > 12
    for path in below:
        assert first(calls, "sync", path) < renamed, path
    written, named = first(calls, "sync", record), first(calls, "rename", record)
    folder_syncs = [n for n, call in enumerate(calls) if call[:2] == ("sync", folder.stat().st_ino)]
    # The folder's own entry for the group, then the record's bytes, its name, and the entry for that.
    assert any(renamed < n < named for n in folder_syncs)
    assert renamed < written < named < folder_syncs[-1]
    assert calls[-1][:2] == ("sync", folder.stat().st_ino)


def test_a_record_of_a_recipe_is_synced_before_its_rename_and_all_names_before_the_tables(
    tmp_path, calls
):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    api.ingest(catalog, options=api.Options(workers=0))
    calls.clear()
    api.run(catalog, options=api.Options(workers=0))
    folder = tmp_path / "store/derivatives/ball"
    records = sorted(folder.glob("*.json"))
    assert len(records) == 4
    named = [first(calls, "rename", record) for record in records]
    assert all(first(calls, "sync", r) < n for r, n in zip(records, named, strict=True))
    listed = first(calls, "sync", folder)
    assert max(named) < listed
    run = max((tmp_path / "store/runs").iterdir())
    for path in (tmp_path / "store/tables/ball.parquet", run / "manifest.json"):
        assert listed < first(calls, "rename", path)


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
def test_names_are_synced_when_a_run_ends_badly(tmp_path, calls, monkeypatch, how):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    api.ingest(catalog, options=api.Options(workers=0))
    state, done = Ledger.state, []

    def ends(ledger, unit, *given, **named):
        done.append(unit)
        if len(done) == 3:
            raise how
        state(ledger, unit, *given, **named)

    monkeypatch.setattr(Ledger, "state", ends)
    with pytest.raises(how):
        api.run(catalog, options=api.Options(workers=0))
    folder = tmp_path / "store/derivatives/ball"
    named = [first(calls, "rename", record) for record in folder.glob("*.json")]
    assert len(named) == 3
    assert max(named) < first(calls, "sync", folder)


def test_a_sync_that_fails_leaves_no_scan(tmp_path, monkeypatch):
    store, real, left = Store(tmp_path), disk.sync, [7]

    def failing(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync", failing)
    scan = schema.make_scan(np.ones((3, 4, 5), np.int16), AFFINE, image_attrs={"units": "1"})
    with pytest.raises(OSError, match="Input/output error"):
        store.write_scan("a", scan, {"stamp": ""})
    monkeypatch.setattr(disk, "sync", real)
    assert store.scan_ids() == []
    assert not (tmp_path / "scans/a.zarr").exists()
