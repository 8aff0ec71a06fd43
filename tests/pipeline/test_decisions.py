"""What a catalog decides about single series, and what only the whole cohort shows: replayed, written down, undone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io.private import PrivateError
from cohort.io.store import Store

HERE = api.Options(workers=0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    return tmp_path


def catalog(folder: Path, more: str = "", ids: str = "keep") -> Path:
    path = folder / "catalog.yaml"
    path.write_text(f"cohort: c\nsources: [scans]\nstore: store\nids: {ids}\n{more}")
    return path


def series(folder: Path, name: str, *, seed: int = 0, skip: tuple[int, ...] = (), **tags):
    volume, affine = phantom(seed=seed)
    paths = write_series(folder / "scans" / name, volume, affine, PatientID=name, **tags)
    for number in skip:
        paths[number].unlink()
    return paths


def ingest(path: Path):
    result = api.ingest(path, options=HERE)
    store = Store(path.parent / "store")
    return result, store, {e["code"]: e for e in store.quarantine()}


def test_a_refusal_says_how_to_accept_it_and_the_catalog_replays_it(folder):
    series(folder, "a")
    series(folder, "gap", seed=1, skip=(3,))
    result, store, refused = ingest(catalog(folder))
    assert list(refused) == ["DCM-GAP"]
    assert "resample: uniform" in refused["DCM-GAP"]["reason"]
    assert result.newly_bad
    decided = catalog(folder, "series:\n- {match: '^gap/', resample: uniform}\n")
    result, store, refused = ingest(decided)
    assert not refused
    assert result.manifest["processed"] == 1  # the other scan's decisions did not change
    gap = next(s for s in store.scan_ids() if "gap" in s)
    assert store.record(gap)["policy"] == {"resample": "uniform"}
    assert "uniform" in store.record(gap)["attrs"]["resampled"]
    result, _, refused = ingest(catalog(folder))
    assert list(refused) == ["DCM-GAP"]
    assert not store.record(gap)


def test_the_same_image_under_two_subjects_is_kept_out_until_somebody_decides(folder):
    series(folder, "a")
    series(folder, "b", SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2.4")
    series(folder, "c", seed=5)
    result, store, _ = ingest(catalog(folder))
    twice = [e for e in store.quarantine() if e["code"] == "IMG-TWICE"]
    assert len(twice) == 2
    assert all("accept: [IMG-TWICE]" in e["reason"] for e in twice)
    assert list(store.table("scans")["subject"]) == ["c"]
    counts = result.manifest["counts"]
    assert (counts["done"], counts["quarantined"]) == (1, 2)
    again, _, _ = ingest(catalog(folder))
    assert again.manifest["processed"] == 0
    assert not again.newly_bad
    _, store, refused = ingest(catalog(folder, "accept: [IMG-TWICE]\n"))
    assert not refused
    assert sorted(store.table("scans")["subject"]) == ["a", "b", "c"]
    ingest(catalog(folder))
    shutil.rmtree(folder / "scans" / "b")
    _, store, refused = ingest(catalog(folder))
    assert not refused
    assert sorted(store.table("scans")["subject"]) == ["a", "c"]


def test_ids_that_differ_in_case_are_refused_both(folder):
    series(folder, "Anna")
    series(folder, "anna", seed=1)
    series(folder, "berta", seed=2)
    _, store, _ = ingest(catalog(folder))
    assert [e["code"] for e in store.quarantine()] == ["ID-ALIKE", "ID-ALIKE"]
    assert list(store.table("scans")["subject"]) == ["berta"]


def test_a_damaged_header_takes_the_series_beside_it_along(folder):
    paths = series(folder, "a")
    series(folder, "b", seed=1)
    paths[-1].write_bytes(paths[-1].read_bytes()[:200])
    _, store, refused = ingest(catalog(folder))
    assert list(store.table("scans")["subject"]) == ["b"]
    assert "DCM-BESIDE-DAMAGE" in refused
    assert paths[-1].name in refused["DCM-BESIDE-DAMAGE"]["reason"]


def test_dates_become_days_since_the_first_scan(folder):
    series(folder, "a1", AcquisitionDate="20200229")
    for seed, name, date in ((11, "a2", "20200331"), (12, "a3", "")):
        volume, affine = phantom(seed=seed)
        write_series(folder / "scans" / name, volume, affine, PatientID="a1", AcquisitionDate=date)
    series(folder, "b", seed=3, AcquisitionDate="20190101")
    _, store, _ = ingest(catalog(folder, ids="token"))
    table = store.table("scans")
    days = table["days_since_first_scan"]
    assert sorted(days.dropna()) == [0, 0, 31]
    assert days.isna().sum() == 1
    assert "2020" not in table.drop(columns=["shape_z"]).to_csv().replace("2020.", "")


def test_a_patient_becomes_the_participant_the_map_says(folder):
    series(folder, "MRN77")
    series(folder, "MRN88", seed=1)
    (folder / "people.csv").write_text("ID,age\nP1,40\nP3,50\n")
    (folder / "key.csv").write_text("mrn,ID\nMRN77,P1\nMRN99,P3\n")
    more = "participants:\n  table: people.csv\n  id: ID\n  map: {table: key.csv, subject: mrn, id: ID}\n"
    result, store, _ = ingest(catalog(folder, more))
    table = store.table("scans").set_index("subject")
    assert table.loc["P1", "participant"] == "P1"
    assert table["participant"].isna().sum() == 1
    unmatched = result.manifest["unmatched"]
    assert unmatched["mapped_without_scan"] == ["MRN99"]
    assert unmatched["rows_without_scan"] == ["P3"]
    assert len(unmatched["scans_without_row"]) == 1


def test_a_scan_that_strays_from_its_protocol_is_told(folder):
    for n in range(6):
        series(folder, f"p{n}", seed=n, RepetitionTime="2000")
    series(folder, "odd", seed=9, RepetitionTime="2500")
    result, store, _ = ingest(catalog(folder))
    (drift,) = result.manifest["warnings"]
    assert "odd" in drift
    assert "2500" in drift
    assert list(store.table("protocols")["n"]) == [6, 1]
    assert sorted(store.table("scans")["protocol"]) == [1] * 6 + [2]


def test_which_leads_from_a_token_to_the_files(folder, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    paths = series(folder, "a")
    series(folder, "gap", seed=1, skip=(3,))
    _, store, refused = ingest(catalog(folder, ids="token"))
    cohort = api.open(folder / "catalog.yaml")
    (scan_id,) = store.scan_ids()
    row = api.which(cohort, scan_id)[0]
    assert (row.kind, set(row.files)) == ("scan", {str(p) for p in paths})
    subject = store.record(scan_id)["subject"]
    assert "a" in {r.original for r in api.which(cohort, subject)}
    token = refused["DCM-GAP"]["reason"].split("between file ")[1].split()[0]
    (row,) = api.which(cohort, token)
    assert Path(row.original).parent == folder / "scans" / "gap"
    (table,) = (folder / "state" / "cohort").iterdir()
    assert table.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "elsewhere"))
    with pytest.raises(PrivateError, match="cohort ingest"):
        api.which(cohort, scan_id)


def test_verify_and_audit_of_a_store_find_what_is_planted(folder):
    series(folder, "a")
    _, store, _ = ingest(catalog(folder, ids="token"))
    cohort = api.open(folder / "catalog.yaml")
    assert api.verify(cohort) == []
    assert api.audit(cohort) == ([], True)
    (scan_id,) = store.scan_ids()
    chunk = next(p for p in (folder / "store" / "scans").rglob("image/c/**/0") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    (problem,) = api.verify(cohort, repair=True)
    assert (problem.kind, problem.array) == ("damaged", "image")
    assert scan_id in problem.unit
    result, _, _ = ingest(folder / "catalog.yaml")
    assert result.manifest["processed"] == 1
    assert api.verify(cohort) == []


def test_scans_in_archives_are_the_same_scans(folder):
    series(folder, "a")
    _, store, _ = ingest(catalog(folder))
    (scan_id,) = store.scan_ids()
    image = store.open_scan(scan_id)["image"].values
    shutil.make_archive(str(folder / "a"), "zip", folder / "scans")
    shutil.rmtree(folder / "scans" / "a")
    shutil.move(folder / "a.zip", folder / "scans" / "a.zip")
    result, store, _ = ingest(catalog(folder))
    assert store.scan_ids() == [scan_id]
    assert result.manifest["processed"] == 0  # identity is content
    np.testing.assert_array_equal(store.open_scan(scan_id)["image"].values, image)
    result = api.ingest(
        folder / "catalog.yaml", options=api.Options(workers=0, store=folder / "other")
    )
    assert result.manifest["counts"]["done"] == 1
    other = Store(folder / "other").open_scan(scan_id)["image"].values
    np.testing.assert_array_equal(other, image)
