"""What is written down of a refusal says how many files it is about; files beside scans are told apart without a list of all."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import cohorts
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io.catalog import read_catalog
from cohort.io.discover import Discovery
from cohort.io.store import Store
from cohort.pipeline.ingest import _without_attachments

HERE = api.Options(workers=0)


def test_a_refused_file_counts_as_one_and_a_refused_scan_as_its_own(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=3)
    (damaged,) = write_series(tmp_path / "scans/a", *phantom((1, 6, 5)))
    damaged.write_bytes(damaged.read_bytes().partition(b"\x28\0\x10\0")[0])  # Rows
    cut = tmp_path / "scans/001_v1.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-40])
    result = api.ingest(catalog, options=HERE)
    assert result.manifest["counts"]["quarantined"] == 2
    entries = Store(tmp_path / "store").quarantine()
    assert {entry["n_files"] for entry in entries} == {1}
    assert len(entries) == 2


@dataclass
class Slices:
    """A series of many files, named when they are asked for."""

    folder: Path
    n: int

    @property
    def files(self):
        return (self.folder / f"{number:06d}.dcm" for number in range(self.n))


@pytest.mark.parametrize("n", [10, 20_000])
def test_looking_for_attachments_takes_no_memory_for_each_file(tmp_path, n):
    catalog = cohorts.write_cohort(tmp_path, scans=1)
    text = catalog.read_text(encoding="utf-8")
    catalog.write_text(text + 'attach: {labels: "labels/{stem}.nii.gz"}\n', encoding="utf-8")
    series = [Slices(tmp_path / f"scans/{number}", n) for number in range(3)]
    found = Discovery(series=series)
    read = read_catalog(catalog)
    peaks = []
    for _ in range(3):  # the least: threads that other tests left may take some meanwhile
        tracemalloc.start()
        _without_attachments(read, found)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found.series == series
    assert min(peaks) < 300_000  # 60,000 paths take 20 MB
