"""Files that are still arriving: left alone, counted, taken later; and a clock that is wrong changes nothing for ever."""

import os
from pathlib import Path

import cohorts
import pytest
from typer.testing import CliRunner

from cohort import api, cli
from cohort.call import Call
from cohort.io.store import Store
from cohort.pipeline.intake import arrivals

LONG = 3600.0


def ingest(catalog: Path, settle: float = LONG):
    return api.ingest(catalog, options=api.Options(workers=0, settle_seconds=settle))


@pytest.fixture
def aged(monkeypatch):
    """Says of files that they arrived some seconds ago, whatever the disk says."""
    ages: dict[str, float] = {}
    real = arrivals.arrived

    def arrived(path: Path) -> float | None:
        when = real(path)
        return None if when is None else when - ages.get(path.name, 0.0)

    monkeypatch.setattr(arrivals, "arrived", arrived)
    return ages


def test_a_series_is_taken_once_its_files_lie_still_and_its_times_do_not_count(tmp_path, aged):
    catalog = cohorts.write_cohort(tmp_path, scans=3)
    aged["001_v1.nii.gz"] = LONG + 1
    os.utime(tmp_path / "scans/002_v1.nii.gz", (0, 0))  # copied with the times it had
    result = ingest(catalog)
    assert (result.manifest["settling"], result.manifest["counts"]["done"]) == (2, 1)
    assert set(api.open(catalog).scans["subject"]) == {"001"}
    assert result.problems == []
    last = ingest(catalog, settle=0)
    assert (last.manifest["settling"], last.manifest["counts"]["done"]) == (0, 2)


def test_the_command_says_what_is_still_arriving(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    done = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--settle", "1h", "--workers", "0"])
    assert done.exit_code == 0, done.stderr
    assert "2 series are still arriving; left for the next call" in done.stdout
    for text in ("soon", "-1s"):
        wrong = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--settle", text])
        assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    # Nothing to wait for.
    now = CliRunner().invoke(cli.app, ["ingest", str(catalog), "--settle", "0s", "--workers", "0"])
    assert (now.exit_code, now.stderr.count("error")) == (0, 0), now.stderr
    assert "2 done" in now.stdout


def test_what_is_half_there_is_not_refused_and_the_scan_that_was_there_stays(tmp_path, aged):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    ingest(catalog, settle=0)
    before = Store(tmp_path / "store").record("sub-001_ses-1_001v1")
    scan = tmp_path / "scans/001_v1.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    new = tmp_path / "scans/009_v1.nii.gz"
    new.write_bytes(b"")
    result = ingest(catalog)
    assert (result.problems, result.absent) == ([], [])
    assert result.manifest["settling"] == 2
    assert result.manifest["counts"] == {"fresh": 4, "done": 0, "failed": 0, "quarantined": 0}
    assert Store(tmp_path / "store").record("sub-001_ses-1_001v1") == before
    assert len(api.open(catalog).scans) == 4
    for path in (scan, new):  # the copy died
        aged[path.name] = LONG + 1
    late = ingest(catalog)
    assert {p.series.partition("x")[0] for p in late.problems if p.new} >= {"sub-001_ses-1_001v1"}
    assert late.manifest["settling"] == 0


def test_a_refusal_waits_with_its_series(tmp_path, aged):
    catalog = cohorts.write_cohort(tmp_path, scans=3)
    scan = tmp_path / "scans/001_v1.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:300])
    first = ingest(catalog, settle=0)
    assert first.manifest["counts"]["quarantined"] == 1
    scan.write_bytes(whole)
    ingest(catalog)
    assert len(Store(tmp_path / "store").quarantine()) == 1
    assert ingest(catalog, settle=0).manifest["counts"]["done"] == 1
    assert Store(tmp_path / "store").quarantine() == []


@pytest.mark.parametrize("skew", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
def test_files_of_a_wrong_clock_are_taken(tmp_path, aged, skew):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    for path in (tmp_path / "scans").iterdir():
        aged[path.name] = skew
    result = ingest(catalog)
    assert (result.manifest["settling"], result.manifest["counts"]["done"]) == (0, 2)


def test_without_a_settle_time_nothing_waits_and_no_file_is_asked(tmp_path, monkeypatch):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    monkeypatch.setattr(arrivals, "arrived", lambda path: pytest.fail("asked"))
    options = api.Options(workers=0)
    result = Call(catalog, None, options).work("ingest", ["ingest"])
    assert result.manifest["counts"]["done"] == 2


def test_a_member_of_an_archive_arrives_with_its_archive(tmp_path):
    archive = tmp_path / "study.zip"
    archive.write_bytes(b"PK")
    assert arrivals.arrived(archive / "series/1.dcm") == archive.stat().st_ctime
    assert arrivals.arrived(tmp_path / "nowhere/1.dcm") is None
