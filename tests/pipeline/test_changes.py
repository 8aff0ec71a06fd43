"""What changed: scans, coefficients, alarms; over one call and over several, and after a crash."""

import json

import cohorts
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import api
from cohort.call import Call
from cohort.io.storage import jsonfile
from cohort.io.storage.backend import StoreError
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.papers import Papers
from cohort.io.store import Store
from cohort.pipeline.changes import Comparison, merged, since

HERE = api.Options(workers=0)
COLUMNS = ["a_ml", "b_ml"]


def update(catalog):
    """All but the report, which takes most of the time."""
    return Call(catalog, None, HERE).work("update", ["ingest", "run", "fit"])


def record(scan_id, a, *, image="i", key="k", version="1", state="done"):
    return {
        "scan_id": scan_id,
        "state": state,
        "contents": {"image": image},
        "keys": {"a": key},
        "versions": {"numpy": version},
        "measurements": {"a_ml": a, "b_ml": 2.0},
    }


def look(papers, run_id, records, contents=None, tables=None):
    """One call: what it wrote down."""
    comparison = Comparison(papers)
    if contents is not None:
        comparison.scans(contents)
    numbers = comparison.numbers("r", COLUMNS)
    for each in records:
        numbers.take(each["scan_id"], each)
    if tables is not None:
        comparison.models(tables)
    return comparison.write(run_id)


@pytest.fixture
def papers(tmp_path):
    return Papers(LocalFiles(tmp_path))


def test_a_number_that_moves_without_a_reason_is_an_alarm_and_with_one_is_none(papers):
    first = [record(f"s{i}", 1.0 + i) for i in range(7)]
    look(papers, "1", first)
    second = [
        record("s0", 1.0 * (1 + 1e-14)),  # rounding of another machine
        record("s1", 2.0 + 1e-9),
        record("s2", 30.0, image="j"),
        record("s3", 40.0, key="l"),
        record("s4", 50.0, version="2"),
        record("s5", None),
        record("s6", 99.0, state="failed"),
    ]
    said = look(papers, "2", second)
    assert said["numbers"] == {"r": {"input": 1, "recipe": 1, "library": 1}}
    assert [(a["scan_id"], a["quantity"], a["before"], a["after"]) for a in said["alarms"]] == [
        ("s1", "a_ml", 2.0, 2.0 + 1e-9),
        ("s5", "a_ml", 6.0, None),
    ]
    # Told once; and what failed is still compared with what was known of it.
    third = look(papers, "3", [*second[:6], record("s6", 7.5)])
    assert [(a["scan_id"], a["before"], a["after"]) for a in third["alarms"]] == [("s6", 7.0, 7.5)]
    assert look(papers, "4", [*second[:6], record("s6", 7.5)]) == {}


def test_a_record_that_is_taken_again_takes_the_place_of_the_first(papers):
    look(papers, "1", [record("s0", 1.0)])
    assert look(papers, "2", [record("s0", 1.5), record("s0", 1.0)]) == {}


def table(**estimates):
    return pd.DataFrame(
        [{"term": t, "estimate": e, "se": 0.5, "n": 10} for t, e in estimates.items()]
    )


def test_coefficients_are_compared_in_standard_errors_of_what_they_were(papers):
    look(papers, "1", [], tables={"m": table(age=2.0, ad=1.0), "gone": table(age=1.0)})
    said = look(papers, "2", [], tables={"m": table(age=3.5, ad=1.0, sex=0.1), "gone": None})
    found = {
        (c["model"], c["term"]): (c["difference"], c["standard_errors"])
        for c in said["coefficients"]
    }
    assert found == {
        ("m", "age"): (1.5, 3.0),
        ("gone", "age"): (None, None),
        ("m", "sex"): (None, None),
    }


STEPS = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=6)


@given(before=st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")), steps=STEPS)
def test_several_calls_merge_to_what_lies_between_the_first_and_the_last(
    tmp_path_factory, before, steps
):
    papers = Papers(LocalFiles(tmp_path_factory.mktemp("store")))
    look(papers, "20260101T0", [], before)
    runs = [f"20260102T{i}" for i in range(len(steps))]
    seen = [before, *steps]
    for run, contents in zip(runs, steps, strict=True):
        look(papers, run, [], contents)
    found = merged(papers, runs)["scans"]
    last = seen[-1]
    assert found["added"] == sorted(last.keys() - before.keys())
    assert found["withdrawn"] == sorted(before.keys() - last.keys())
    # What went and came back as it was, or changed and changed back, is what it was.
    both = before.keys() & last.keys()
    assert found["replaced"] == sorted(s for s in both if last[s] != before[s])


def test_since_takes_a_run_a_beginning_of_one_or_a_day(papers):
    runs = ["20261119T230000.0Z-a", "20261120T010000.0Z-b", "20261120T020000.0Z-c"]
    for run in runs:
        papers.write_json(f"runs/{run}/manifest.json", {})
    assert since(papers, runs[0]) == runs[1:]
    assert since(papers, "20261120T01") == runs[2:]
    assert since(papers, "2026-11-20") == runs[1:]
    assert since(papers, "2026-12-01") == []
    for wrong in ("20261120", "yesterday", ""):
        with pytest.raises(StoreError, match="expected a run of `cohort status`, or a day"):
            since(papers, wrong)


def test_reprocessing_names_what_came_changed_and_went_and_the_coefficients_that_moved(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=9, rows=14)
    start = update(catalog).manifest["run_id"]
    before = Store(tmp_path / "store").model_table("size", "tidy").set_index("term")
    for n in (2, 5, 7):
        cohorts.write_scan(tmp_path / f"scans/{n:03d}_v1.nii.gz", cohorts.ball(100 + n))
    for n in (9, 10):
        cohorts.write_scan(tmp_path / f"scans/{n:03d}_v1.nii.gz", cohorts.ball(n))
    (tmp_path / "scans/000_v1.nii.gz").unlink()
    again = update(catalog)
    assert again.manifest["processed"] == 5
    assert not again.newly_bad
    found = api.diff(api.open(catalog), start)
    ids = {how: [s[4:7] for s in scans] for how, scans in found["scans"].items()}
    assert ids == {"added": ["009", "010"], "replaced": ["002", "005", "007"], "withdrawn": ["000"]}
    assert found["n_alarms"] == 0
    after = Store(tmp_path / "store").model_table("size", "tidy").set_index("term")
    said = {c["term"]: c for c in found["coefficients"]}
    assert set(said) == set(after.index)
    for term, change in said.items():
        moved = after.loc[term, "estimate"] - before.loc[term, "estimate"]
        assert change["difference"] == pytest.approx(moved, rel=1e-12)
        assert change["standard_errors"] == pytest.approx(moved / before.loc[term, "se"], rel=1e-12)
    assert api.diff(api.open(catalog), again.manifest["run_id"])["scans"]["added"] == []
    assert [str(p) for p in api.verify(api.open(catalog))] == []


def test_a_file_that_goes_and_comes_back_as_it_was_is_no_change(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    start = api.ingest(catalog, options=HERE).manifest["run_id"]
    same, other = (tmp_path / f"scans/00{n}_v1.nii.gz" for n in (1, 2))
    away = [path.rename(tmp_path / path.name) for path in (same, other)]
    gone = api.ingest(catalog, options=HERE).manifest["run_id"]
    away[0].rename(same)
    cohorts.write_scan(other, cohorts.ball(102))
    back = api.ingest(catalog, options=HERE).manifest["run_id"]
    found = api.diff(api.open(catalog), start)["scans"]
    assert {how: [s[4:7] for s in ids] for how, ids in found.items()} == {
        "added": [], "replaced": ["002"], "withdrawn": [],
    }  # fmt: skip
    assert [s[4:7] for s in api.diff(api.open(catalog), gone)["scans"]["added"]] == ["001", "002"]
    # A run of an earlier version did not say what came: it may be anything.
    store = Store(tmp_path / "store")
    said = store.read_json(f"runs/{back}/changes.json")
    store.write_json(
        f"runs/{back}/changes.json", {k: v for k, v in said.items() if k != "contents"}
    )
    found = api.diff(api.open(catalog), start)["scans"]
    assert [s[4:7] for s in found["replaced"]] == ["001", "002"]


def test_an_unchanged_scan_whose_number_moves_raises_the_alarm_once_and_exit_1(tmp_path):
    from typer.testing import CliRunner

    from cohort import cli

    catalog = cohorts.write_cohort(tmp_path, scans=4)
    update(catalog)
    place = tmp_path / "store/derivatives/ball/sub-001_ses-1_001v1.json"
    said = jsonfile.decode(place.read_bytes())
    said["measurements"]["head_ml"] *= 1.001
    place.write_bytes(
        jsonfile.encode(said)
    )  # as a machine whose memory is broken would have measured it
    done = CliRunner().invoke(cli.app, ["run", str(catalog), "--workers", "0"])
    assert done.exit_code == 1
    assert "ALARM sub-001_ses-1_001v1: ball: head_ml" in done.stderr
    manifest = Store(tmp_path / "store").manifest()
    assert [a["quantity"] for a in manifest["alarms"]] == ["head_ml"]
    shown = CliRunner().invoke(cli.app, ["diff", str(catalog), "--since", "2020-01-01"])
    assert shown.exit_code == 1
    assert "ALARM sub-001" in shown.stdout
    assert CliRunner().invoke(cli.app, ["run", str(catalog), "--workers", "0"]).exit_code == 0


def test_a_call_killed_before_its_baseline_says_the_same_again(papers, monkeypatch):
    look(papers, "1", [record("s0", 1.0)], {"s0": "x"})
    write = Papers.write_json

    def dies(self, name, value):
        if name.startswith("baseline/"):
            raise KeyboardInterrupt
        write(self, name, value)

    monkeypatch.setattr(Papers, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        look(papers, "2", [record("s0", 9.0)], {"s0": "x", "s1": "y"})
    monkeypatch.undo()
    said = look(papers, "3", [record("s0", 9.0)], {"s0": "x", "s1": "y"})
    assert said["scans"]["added"] == ["s1"]
    assert said["n_alarms"] == 1
    both = merged(papers, ["2", "3"])
    assert both["scans"]["added"] == ["s1"]
    assert json.loads((papers.files.root / "baseline/scans.json").read_bytes())["scan_id"] == [
        "s0",
        "s1",
    ]


def test_what_is_missing_or_infinite_is_no_number(papers):
    look(papers, "1", [record("s0", float("nan"))])
    assert look(papers, "2", [record("s0", np.nan)]) == {}
    assert look(papers, "3", [record("s0", float("inf"))]) == {}
