"""A row of the participants table whose scan is not in the cohort: the page says what became of its series."""

import gzip

import cohorts
import pytest
from series import phantom, write_series

from cohort import api
from cohort.io.store import Store
from cohort.reporting.facts import gather
from cohort.reporting.html import render
from cohort.reporting.sections import flow

HERE = api.Options(workers=0)


def rows_told(catalog) -> dict[str, dict]:
    """Loss of the participants table by its rows."""
    (stage,) = [
        s for s in flow(gather(cohorts.store_of(catalog), [])) if s["title"] == "Participants table"
    ]
    return {name: loss for loss in stage["losses"] for name in loss["names"]}


@pytest.mark.parametrize("ids", ["keep", "token"])
def test_a_row_says_what_became_of_its_series(tmp_path, ids):
    catalog = cohorts.write_cohort(tmp_path, scans=5, rows=8)
    catalog.write_text(catalog.read_text().replace("ids: keep", f"ids: {ids}"))
    for n in (1, 3):
        path = tmp_path / f"scans/{n:03d}_v1.nii.gz"
        whole = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    volume, affine = phantom((3, 6, 5))
    write_series(
        tmp_path / "scans" / "006_v1",
        volume,
        affine,
        PatientID="006_v1",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    result = api.ingest(catalog, options=HERE)
    assert len(result.manifest["unmatched"]["rows_without_scan"]) == 5
    people = Store(tmp_path / "store").table("participants")["participant"].tolist()
    found = rows_told(catalog)
    assert [p for p in people if p in found] == [people[n] for n in (1, 3, 5, 6, 7)]
    for n in (1, 3):
        loss = found[people[n]]
        assert (loss["kind"], loss["n"]) == ("quarantined", 2)
        assert loss["reason"] == "its scan is in quarantine: NII-TRUNCATED"
    assert found[people[6]]["kind"] == "skipped"
    assert found[people[6]]["reason"] == "its scan was skipped: DCM-LOCALIZER"
    for n in (5, 7):
        loss = found[people[n]]
        assert (loss["kind"], loss["reason"], loss["n"]) == (
            "unmatched",
            "no scan was found for the row",
            2,
        )
    assert "its scan is in quarantine: NII-TRUNCATED" in render(
        cohorts.store_of(catalog), title="t"
    )


def test_a_series_that_was_left_for_the_next_run_is_not_called_missing(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    api.ingest(catalog, options=api.Options(workers=0, max_scans=3))
    found = rows_told(catalog)
    assert {name: loss["kind"] for name, loss in found.items()} == {
        "003_v1": "not read yet", "004_v1": "unmatched", "005_v1": "unmatched",
    }  # fmt: skip
    assert "comes with the next run" in found["003_v1"]["reason"]
    api.ingest(catalog, options=HERE)
    assert set(rows_told(catalog)) == {"004_v1", "005_v1"}
