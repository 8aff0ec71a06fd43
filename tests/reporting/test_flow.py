"""The flow of scans adds up: what a stage begins with is what goes on and what does not, each counted once."""

import re

import cohorts
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cohort import api
from cohort.reporting.facts import Facts, gather
from cohort.reporting.sections import flow

HERE = api.Options(workers=0)
STATES = ("done", "failed", "stale")


def noted(stage: dict, words: str) -> int:
    """The number before some words in the notes of a stage; 0 if they are not there."""
    return sum(int(n) for note in stage["notes"] for n in re.findall(rf"(\d+) {words}", note))


def lost(stage: dict) -> int:
    return sum(loss["n"] for loss in stage["losses"])


def adds_up(facts: Facts) -> None:
    found, ingested, *rest = (s for s in flow(facts) if not s["joins"])
    if not any("the store accounts for" in note for note in found["notes"]):
        assert found["n"] - lost(found) == ingested["n"]
    for stage in rest:
        if stage["title"].startswith("Measured"):
            waiting = noted(stage, r"scans? not measured yet")
            gone = noted(stage, r"scans? of these left the cohort")
            assert stage["n"] + lost(stage) + waiting - gone == ingested["n"]
        else:
            assert stage["n"] + lost(stage) == noted(stage, "rows? of its table")


@given(
    scans=st.sets(st.integers(0, 9)),
    measured=st.dictionaries(st.integers(0, 12), st.sampled_from(STATES)),
    refused=st.lists(st.sampled_from(("quarantined", "skipped")), max_size=4),
    absent=st.integers(0, 2),
    withdrawn=st.integers(0, 2),
)
def test_what_goes_on_and_what_does_not_are_what_there_was(
    scans, measured, refused, absent, withdrawn
):
    table = pd.DataFrame({"scan_id": [f"s{i}" for i in sorted(scans)]}, dtype=object)
    rows = {"scan_id": [f"s{i}" for i in measured], "state": list(measured.values())}
    series = len(scans) + len(refused) + 5 * bool(withdrawn)  # counted when they were there
    found = {"series": series, "files": 90, "absent": [f"s{i}" for i in range(absent)]}
    facts = Facts(
        scans=table,
        protocols=pd.DataFrame(),
        participants=pd.DataFrame(),
        measured={"r": pd.DataFrame({**rows, "reason": "because"})},
        units={},
        models={},
        refused=[{"series": f"q{i}", "state": s, "reason": "?"} for i, s in enumerate(refused)],
        manifest={},
        ingest={"found": found},
        n_withdrawn=withdrawn,
    )
    if series or refused or scans:
        adds_up(facts)
    said = " ".join(note for stage in flow(facts) for note in stage["notes"])
    assert "the store accounts for" not in said
    if withdrawn:  # nobody knows what else there is
        assert "The sources hold no scan." not in said
    assert ("In 90 files." in said) == (not withdrawn and bool(series or refused or scans))
    assert not re.search(r"\b1 (scans|subjects|rows)\b", said)


MODELS = """\
  first: {outcome: head_ml, formula: old, where: "weight > 60"}
  mean: {outcome: head_ml, formula: weight, one_scan_per: mean}
"""


def test_the_flow_of_a_real_cohort_adds_up_at_every_step(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=7)
    catalog.write_text(catalog.read_text() + MODELS, encoding="utf-8")
    scans, people = tmp_path / "scans", tmp_path / "people.csv"
    cohorts.write_scan(scans / "003_v2.nii.gz", cohorts.ball(40))
    people.write_text(people.read_text() + "003_v2,44,71.0\n", encoding="utf-8")
    (scans / "003_v3.nii.gz").write_bytes((scans / "003_v1.nii.gz").read_bytes()[:300])
    store = cohorts.store_of(catalog)

    def stages() -> str:
        facts = gather(store, ["ball"])
        adds_up(facts)
        return " ".join(f"{s['title']} {s['n']} {' '.join(s['notes'])}" for s in flow(facts))

    api.ingest(catalog, options=HERE)
    assert "8 scans not measured yet" not in stages()  # no run has made a table of it
    api.run(catalog, options=HERE)
    api.fit(catalog, options=HERE)
    assert "Found 9 In 9 files. Ingested 8 " in stages()
    (scans / "001_v1.nii.gz").write_bytes(b"\x1f\x8b" + bytes(300))
    (scans / "002_v1.nii.gz").unlink()
    cohorts.write_scan(scans / "009_v1.nii.gz", cohorts.ball(41))
    api.ingest(catalog, options=HERE)
    said = stages()
    assert (
        "1 scan that the sources do not hold any more, or hold under another name, is in the cohort no more"
        in said
    )
    assert "accounts for" not in said
    assert "Measured by ball 8 1 scan not measured yet. 2 scans of these left the cohort" in said
    api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json")
    assert "1 subject withdrew since" in stages()
    for step in (api.ingest, api.run, api.fit):
        step(catalog, options=HERE)
        said = stages()
    assert "left the cohort" not in said
    assert "not measured yet" not in said
