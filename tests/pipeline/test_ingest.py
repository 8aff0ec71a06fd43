"""What ingest does when files cannot be read, go away, clash or make the machine fail: nothing is lost silently."""

import errno
import json
import os
from pathlib import Path

import cohorts
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io.catalog import read_catalog
from cohort.io.store import Store
from cohort.pipeline import ingest as room
from cohort.pipeline.dispatch.cost import Cost
from cohort.pipeline.dispatch.window import Failure

HERE = api.Options(workers=0)
SCANS = [f"sub-{n:03d}_ses-1_{n:03d}v1" for n in range(3)]


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path, scans=3)


@pytest.fixture
def broken(monkeypatch):
    """Paths that the disk refuses to read, as after a bad sector; rights would not stop root."""
    paths: set[Path] = set()
    opened, scanned = Path.open, os.scandir

    def check(path):
        if Path(path) in paths:
            raise OSError(errno.EIO, "Input/output error", str(path))

    def open_file(self, *args, **kwargs):
        check(self)
        return opened(self, *args, **kwargs)

    def scan_folder(path="."):
        check(path)
        return scanned(path)

    monkeypatch.setattr(Path, "open", open_file)
    monkeypatch.setattr(os, "scandir", scan_folder)
    return paths


def dicom_catalog(folder: Path) -> Path:
    volume, affine = phantom()
    write_series(folder / "scans" / "a" / "mr", volume, affine, PatientID="A")
    catalog = folder / "catalog.yaml"
    catalog.write_text("cohort: c\nsources: [scans]\nstore: store\nids: keep\n", encoding="utf-8")
    return catalog


def store_of(catalog: Path) -> Store:
    return Store(catalog.parent / "store")


def listed(catalog: Path) -> list[str]:
    scans = store_of(catalog).table("scans")
    assert scans is not None
    return sorted(scans["scan_id"])


def rehash(catalog: Path):
    return api.ingest(catalog, options=api.Options(workers=0, rehash=True))


def codes(result) -> list[str]:
    return sorted(p.code for p in result.problems)


def test_a_slice_that_cannot_be_read_never_makes_a_shorter_scan(tmp_path, broken):
    catalog = dicom_catalog(tmp_path)
    last = max((tmp_path / "scans/a/mr").iterdir())
    broken.add(last)
    first = rehash(catalog)
    assert (codes(first), store_of(catalog).scan_ids()) == (["SRC-UNREADABLE"] * 2, [])
    assert first.newly_bad
    assert any(str(last) in p.text for p in first.problems)
    broken.clear()
    assert rehash(catalog).problems == []
    (scan_id,) = listed(catalog)
    whole = store_of(catalog).record(scan_id)
    broken.add(last)
    again = rehash(catalog)
    assert codes(again) == ["SRC-UNREADABLE"]
    assert (listed(catalog), store_of(catalog).record(scan_id)) == ([scan_id], whole)
    assert again.manifest["stages"]["ingest"]["fresh"] == 1


@pytest.mark.parametrize("bad", ["scans/a", "scans/a/mr"])
def test_scans_below_a_folder_that_cannot_be_read_stay_in_the_tables(tmp_path, broken, bad):
    catalog = dicom_catalog(tmp_path)
    before = api.ingest(catalog, options=HERE), listed(catalog)
    broken.add(tmp_path / bad)
    result = rehash(catalog)
    assert codes(result) == ["SRC-UNREADABLE"]
    assert (listed(catalog), result.manifest["found"]["absent"]) == (before[1], [])
    broken.clear()
    assert rehash(catalog).problems == []
    assert store_of(catalog).quarantine() == []


def test_a_held_scan_keeps_its_participant(catalog, broken):
    api.ingest(catalog, options=HERE)
    before = store_of(catalog).table("scans").set_index("scan_id")["participant"].to_dict()
    broken.add(catalog.parent / "scans/001_v1.nii.gz")
    result = rehash(catalog)
    assert store_of(catalog).table("scans").set_index("scan_id")["participant"].to_dict() == before
    assert result.manifest["unmatched"]["rows_without_scan"] == ["003_v1", "004_v1"]


def test_a_scan_that_went_away_is_told_once(catalog):
    api.ingest(catalog, options=HERE)
    (catalog.parent / "scans/001_v1.nii.gz").unlink()
    told: list[dict] = []
    options = api.Options(workers=0, listen=lambda event: told.append(dict(event)))
    api.ingest(catalog, options=options)
    assert [e["scan_id"] for e in told if e["event"] == "absent"] == [SCANS[1]]
    told.clear()
    again = api.ingest(catalog, options=options)
    assert [e for e in told if e["event"] == "absent"] == []
    assert again.manifest["found"]["absent"] == [SCANS[1]]


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_scan_that_came_back_under_another_name_does_not_stand_twice(catalog, broken, is_blind):
    """As after the pattern for subjects was mended; a file that cannot be read somewhere is none of its business."""
    api.ingest(catalog, options=HERE)
    scans = catalog.parent / "scans"
    (scans / "001_v1.nii.gz").rename(scans / "007_v1.nii.gz")
    (scans / "002_v1.nii.gz").rename(catalog.parent / "elsewhere.nii.gz")
    (scans / "locked").mkdir()
    if is_blind:
        broken.add(scans / "locked")
    result = api.ingest(catalog, options=HERE)
    now = SCANS[1].replace("001", "007")
    assert listed(catalog) == sorted([SCANS[0], now, *SCANS[2:][: int(is_blind)]])
    assert sorted(result.absent) == [SCANS[1], *SCANS[2:][: int(not is_blind)]]
    assert result.manifest["found"]["renamed"] == [(SCANS[1], now)]


def test_an_image_that_was_there_before_is_no_new_name_of_a_scan_that_cannot_be_read(
    catalog, broken
):
    scans = catalog.parent / "scans"
    (scans / "007_v1.nii.gz").write_bytes((scans / "001_v1.nii.gz").read_bytes())
    catalog.write_text(f"accept: [IMG-TWICE]\n{catalog.read_text()}")
    api.ingest(catalog, options=HERE)
    before = listed(catalog)
    assert len(before) == 4
    broken.add(scans / "001_v1.nii.gz")
    result = rehash(catalog)
    assert (listed(catalog), result.absent) == (before, [])


def test_sources_without_any_scan_change_nothing(catalog):
    api.ingest(catalog, options=HERE)
    for path in (catalog.parent / "scans").iterdir():
        path.unlink()
    with pytest.raises(room.NothingFound, match="found none; the store holds 3; is a disk not"):
        api.ingest(catalog, options=HERE)
    assert listed(catalog) == store_of(catalog).scan_ids() == SCANS


def test_ids_that_differ_stay_different_when_they_are_kept(catalog):
    names = room.Names(read_catalog(catalog))
    raw = ["A1", "A-1", "Ä1", "A 1", "", "-", "a" * 65, "a" * 66]
    kept = [names.of("subject", text) for text in raw]
    assert len(set(kept)) == len(raw)
    assert all(name.isascii() and name.isalnum() for name in kept)
    assert kept[0] == "A1"
    assert len({names.session(text) for text in ("v1", "v-1", "v.1")}) == 3


@pytest.mark.parametrize("kind", ["KilledWorker", "MemoryError", "OSError"])
def test_an_error_of_the_machine_is_tried_again(catalog, monkeypatch, kind):
    def fails(function, items, **_):
        return ((item, Failure(kind, "gone", "", lasting=False), Cost()) for item in items)

    with monkeypatch.context() as patch:
        patch.setattr(room, "each", fails)
        result = api.ingest(catalog, options=HERE)
    assert codes(result) == [f"READ-{kind.upper()}"] * 3
    assert ("--memory" in result.problems[0].text) == (kind != "OSError")
    assert {e["lasting"] for e in store_of(catalog).quarantine()} == {False}
    assert api.ingest(catalog, options=HERE).problems == []
    assert listed(catalog) == SCANS


def test_a_scan_that_lost_a_chunk_is_ingested_again(catalog):
    api.ingest(catalog, options=HERE)
    store = store_of(catalog)
    (store.root / f"scans/{SCANS[0]}.zarr/image/c/0/0/0").unlink()
    assert api.ingest(catalog, options=HERE).manifest["stages"]["ingest"]["done"] == 1
    assert store.missing_chunks(SCANS[0]) == []


def test_series_that_clash_have_an_entry_each_and_are_no_news_the_second_time(catalog):
    path = catalog.parent / "scans/copy/000_v1.nii.gz"
    cohorts.write_scan(path, cohorts.ball(50))
    result = api.ingest(catalog, options=HERE)
    assert len({p.series for p in result.problems}) == len(store_of(catalog).quarantine()) == 2
    again = api.ingest(catalog, options=HERE)
    assert (again.manifest["processed"], again.newly_bad) == (0, False)


def test_an_unreadable_label_costs_its_scan_alone(catalog, broken):
    text = cohorts.CATALOG + 'attach: {tissue: "{folder}/{stem}_seg.nii.gz"}\n'
    catalog.write_text(text, encoding="utf-8")
    for n in range(3):
        path = catalog.parent / f"scans/{n:03d}_v1_seg.nii.gz"
        cohorts.write_scan(path, (cohorts.ball(n) > 0).astype("int16"), slope=1.0)
    broken.add(catalog.parent / "scans/001_v1_seg.nii.gz")
    result = rehash(catalog)
    assert (codes(result), listed(catalog)) == (["ATT-UNREADABLE"], [SCANS[0], SCANS[2]])
    broken.clear()
    assert rehash(catalog).problems == []
    assert listed(catalog) == SCANS


def test_progress_is_no_part_of_the_record(catalog):
    told: list[str] = []
    api.ingest(
        catalog, options=api.Options(workers=0, listen=lambda event: told.append(event["event"]))
    )
    (run,) = store_of(catalog).runs()
    lines = (store_of(catalog).root / "runs" / run / "events.jsonl").read_text().splitlines()
    assert "found" in told
    assert "found" not in {json.loads(line)["event"] for line in lines}


def test_a_subject_pattern_that_fits_nothing_is_a_warning(catalog):
    assert api.ingest(catalog, options=HERE).manifest["warnings"] == []
    text = cohorts.CATALOG.replace("_v(?P", "_w(?P")
    catalog.write_text(text, encoding="utf-8")
    result = api.ingest(catalog, options=HERE)
    assert result.manifest["warnings"] == ["the subject pattern matched 0 of 3 files"]
