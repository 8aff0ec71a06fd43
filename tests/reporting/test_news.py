"""What changed since the last report: said once for all pages of a state, and the alarm for what should not have moved."""

import json
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.io.leaving import withdraw
from cohort.io.leaving.redact import Subject
from cohort.io.store import Store
from cohort.pipeline.changes import Comparison
from cohort.reporting.facts import gather
from cohort.reporting.html import write_report
from cohort.reporting.news import PREVIOUS, news

UNITS = {"csf_ml": "ml"}


def stand(
    store: Store,
    contents: dict[str, str],
    numbers: dict[str, float],
    *,
    key: str = "k",
    library: str = "1",
    age: float = 2.0,
    run: str = "r",
) -> None:
    """Bring a store into a state, as a call does: tables, then the baseline."""
    rows = [{"scan_id": s, "state": "done", "csf_ml": numbers.get(s)} for s in sorted(contents)]
    store.write_table("scans", pd.DataFrame({"scan_id": sorted(contents), "subject": "s"}))
    store.write_table("r", pd.DataFrame(rows, columns=["scan_id", "state", "csf_ml"]), UNITS)
    seen = Comparison(store)
    seen.scans(contents)
    taken = seen.numbers("r", ["csf_ml"])
    for scan_id, content in contents.items():
        record = {"state": "done", "contents": {"image": content}, "keys": {"csf_ml": key}}
        measured = {"csf_ml": numbers.get(scan_id)}
        taken.take(scan_id, {**record, "versions": {"scipy": library}, "measurements": measured})
    row = {"term": "age", "estimate": age, "se": 0.5, "n": len(contents)}
    seen.models({"m": pd.DataFrame([row])})
    seen.write(run)
    manifest = {"run_id": run, "stages": {"run:r": {}}}
    store.write_json(f"runs/{run}/manifest.json", manifest)


def page(store: Store) -> str:
    return write_report(store, title="Trial", recipes={"r": {}}).read_text(encoding="utf-8")


def section(text: str) -> str:
    """What a reader sees of the section."""
    (body,) = re.findall(r'<section id="changes".*?</section>', text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


FIRST = {"a": "1", "b": "2", "c": "3"}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_the_first_report_says_so_and_a_store_that_no_run_described_has_none(store):
    assert "No run has noted how the cohort stands" in section(page(store))
    assert store.read_json(PREVIOUS) is None
    stand(store, FIRST, {"a": 1.0})
    assert "There is no earlier state" in section(page(store))


def test_what_came_changed_went_and_moved_is_said_until_something_else_changes(store):
    stand(store, FIRST, {"a": 1.0, "b": 2.0, "c": 3.0}, run="20261101T0")
    first = page(store)
    assert page(store) == first
    stand(
        store,
        {"a": "1", "b": "9", "d": "4"},
        {"a": 1.0, "b": 2.5, "d": 4.0},
        age=3.5,
        run="20261102T0",
    )
    second = page(store)
    said = section(second)
    for text in (
        "after run 20261101T0",
        "No number of an unchanged scan moved.",
        "1 came d 1 changed b 1 went c",
        "csf_ml r 1 the scan is another one b 2 → 2.500 ml",
        "m age 2 3.500 3 3 3",
    ):
        assert text in said, said
    assert (
        "Since the last report: 1 scan came, 1 scan changed, 1 scan went, 1 coefficient moved."
        in second
    )
    assert page(store) == second
    assert page(store) == second
    stand(store, {"a": "1", "b": "9", "d": "4"}, {"a": 1.0, "b": 2.5, "d": 4.0}, key="new", age=3.5)
    third = section(page(store))
    assert "after run 20261102T0" in third
    assert "Nothing else changed." in third


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "other"}, "the recipe is another one"),
        ({"library": "2"}, "a library is another one"),
    ],
)
def test_a_number_that_moved_for_a_reason_is_no_alarm(store, change, reason):
    stand(store, FIRST, dict.fromkeys(FIRST, 1.0))
    page(store)
    stand(store, FIRST, dict.fromkeys(FIRST, 1.25), **change)
    text = page(store)
    assert f"csf_ml r 3 {reason} a 1 → 1.250 ml" in section(text)
    assert "Alarm" not in text


def test_an_unchanged_scan_whose_number_moved_is_an_alarm_in_the_section_and_at_the_head(store):
    stand(store, FIRST, {"a": 1.0, "b": 2.0, "c": 3.0})
    page(store)
    stand(store, FIRST, {"a": 1.0, "b": 2.0 + 1e-9, "c": None})
    text = page(store)
    said = section(text)
    assert "Alarm: 2 numbers of unchanged scans moved" in said
    assert "b csf_ml (r) ml 2 2.000000001" in said
    assert "c csf_ml (r) ml 3 \N{EN DASH}" in said
    assert "Alarm: 2 numbers of unchanged scans moved although recipe and libraries" in text
    assert '<div class="tile alarm"><dt>numbers moved without a reason</dt>' in text
    assert page(store) == text
    stand(store, FIRST, {"a": 1.0, "b": 2.0 * (1 + 1e-14), "c": None})
    assert "Alarm: 1 number" in section(page(store))  # back again, and nobody knows why


STATES = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=5)


@settings(max_examples=8)
@given(states=STATES)
def test_a_report_compares_with_the_last_report_of_another_state(tmp_path_factory, states):
    store = Store(tmp_path_factory.mktemp("store"))
    before, said = None, None
    for now in states:
        stand(store, now, {})
        for _ in range(2):  # the second page of a state says what the first did
            found = news(store, gather(store, ["r"]))
            if found.kept is not None:
                store.write_json(PREVIOUS, found.kept)
            if before is not None and now != before:
                said = {
                    "added": sorted(now.keys() - before.keys()),
                    "withdrawn": sorted(before.keys() - now.keys()),
                    "replaced": sorted(s for s in now if before.get(s, now[s]) != now[s]),
                }
            before = now
            assert (found.said and found.said["scans"]) == said


def test_a_report_that_was_killed_before_it_kept_the_state_says_the_same_again(store, monkeypatch):
    stand(store, FIRST, {"a": 1.0})
    page(store)
    stand(store, FIRST, {"a": 2.0})
    with monkeypatch.context() as patch:

        def killed(name, value):
            raise KeyboardInterrupt

        patch.setattr(store, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            page(store)
    text = (store.root / "report/index.html").read_text(encoding="utf-8")
    assert "Alarm: 1 number" in section(text)
    assert page(store) == text == page(store)


def test_a_damaged_state_begins_the_comparison_anew(store):
    stand(store, FIRST, {"a": 1.0})
    page(store)
    file = store.root / PREVIOUS
    file.write_bytes(file.read_bytes().replace(b"1.0", b"7.0"))
    stand(store, FIRST, {"a": 2.0})
    assert "There is no earlier state" in section(page(store))
    assert store.read_json(PREVIOUS)["now"]["recipe.r"]["csf_ml"][0] == 2.0


def test_who_withdrew_is_named_neither_in_the_state_nor_in_what_was_said(store):
    ids = {f"sub-{n}_ses-1_T1": n for n in ("anna", "bert")}
    stand(store, ids, dict.fromkeys(ids, 1.0))
    page(store)
    stand(store, ids, dict.fromkeys(ids, 2.0))
    page(store)
    before = store.read_json(PREVIOUS)
    anna = Subject(["sub-anna_ses-1_T1"], exact=["anna"])
    gone = withdraw._last_report(store, anna)
    assert gone == {PREVIOUS: 3}  # a scan, its number, its alarm
    kept = store.read_json(PREVIOUS)
    assert "anna" not in json.dumps(kept)
    assert (
        json.dumps(before).replace("anna", "").count("bert") == json.dumps(kept).count("bert") > 0
    )
    assert withdraw._last_report(store, anna) == {}


def test_scans_of_who_withdrew_are_counted_without_a_name_until_something_else_changes(store):
    ids = {f"sub-{n}_ses-{k}_T1": "1" for n in ("anna", "bert", "carl") for k in (1, 2)}
    stand(store, ids, {}, run="20261101T0")
    page(store)
    for who in ("anna", "bert"):  # one after the other, and the second twice: it was killed
        subject = Subject([s for s in ids if who in s], exact=[who])
        for _ in range(1 + (who == "bert")):
            withdraw._tables(store, subject)
    kept = store.read_json(PREVIOUS)
    assert kept["withdrawn"] == 4
    assert not re.search("anna|bert", json.dumps(kept))
    text = page(store)  # the baseline lost them, too: as it stands, nothing else is another
    assert "20261101T0" in section(text)
    assert "4 went (withdrawn)" in section(text)
    assert "Nothing else changed." not in section(text)
    assert "Since the last report: 4 scans went (withdrawn)." in text
    assert page(store) == text == page(store)
    stand(store, {s: "2" for s in ids if "carl" in s}, {})
    assert "withdrawn" not in section(page(store))


def test_what_a_report_of_an_earlier_version_kept_is_said_again(store):
    stand(store, FIRST, {}, run="20261101T0")
    page(store)
    stand(store, {"a": "1"}, {})
    text = page(store)
    kept = store.read_json(PREVIOUS)
    del kept["said"]["n_withdrawn"]
    store.write_json(PREVIOUS, kept)
    assert page(store) == text
