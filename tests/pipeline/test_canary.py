"""A few scans first: how far numbers moved, and when that is nothing."""

import json

import cohorts
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cohort.pipeline.canary import choose, compare, without
from cohort.pipeline.plan import Plan, Task
from cohort.pipeline.recipe import bind

RECIPE = bind(yaml.safe_load(cohorts.RECIPE), where="ball.yaml")


def record(tables=None, **measurements):
    return {"state": "done", "measurements": measurements, "tables": tables or {}}


def found(before, after, tolerance=1e-6):
    return compare(RECIPE, {"numpy": "2"}, before, after, tolerance=tolerance)


def test_equal_numbers_are_calm():
    same = {"a": record(x=1.0, y=None), "b": record(x=-2.0, y=3)}
    canary = found(same, same)
    assert (canary.is_calm, canary.columns, canary.scans) == (True, (), 2)


@given(
    before=st.floats(-1e9, 1e9),
    after=st.floats(-1e9, 1e9),
    tolerance=st.floats(0, 1),
)
def test_the_change_is_relative_to_the_larger_of_both(before, after, tolerance):
    canary = found({"a": record(x=before)}, {"a": record(x=after)}, tolerance)
    change = 0 if before == after else abs(after - before) / max(abs(before), abs(after))
    assert canary.is_calm == (change <= tolerance)
    assert [c.largest for c in canary.columns] == ([change] if change else [])


def test_the_column_that_moved_most_comes_first_with_the_scan_it_moved_on():
    before = {s: record(x=10.0, y=4.0, z=1.0) for s in "abc"}
    after = {
        "a": record(x=10.0, y=4.0, z=1.0),
        "b": record(x=11.0, y=4.0 * (1 + 1e-9), z=1.0),
        "c": record(x=10.1, y=4.0, z=1.0),
    }
    canary = found(before, after)
    assert [(c.column, c.compared, c.moved, c.scan_id) for c in canary.columns] == [
        ("x", 3, 2, "b"),
        ("y", 3, 0, "b"),
    ]
    assert canary.columns[0].largest == pytest.approx(1 / 11)
    assert "x: 2 of 3 moved, at most by 0.0909 (10 -> 11, b)" in canary.lines()[1]
    json.dumps(canary.to_json(), allow_nan=False)


def test_a_number_that_is_not_defined_any_more_moved_and_a_column_that_is_new_did_not():
    canary = found({"a": record(x=1.0)}, {"a": record(x=None, new=3.0)})
    assert [(c.column, c.largest, c.after) for c in canary.columns] == [("x", 1.0, None)]


def test_a_scan_that_fails_and_did_not_is_never_calm():
    canary = found({"a": record(x=1.0)}, {"a": {"state": "failed"}}, tolerance=2.0)
    assert (canary.failed, canary.is_calm) == (("a",), False)


def test_tables_of_labels_are_compared_label_by_label():
    table = {"label": [1, 2, 3], "mean": [5.0, 6.0, 7.0]}
    moved = {"label": [1, 3], "mean": [5.0, 8.0]}
    canary = found({"a": record({"of": table})}, {"a": record({"of": moved})})
    mean = next(c for c in canary.columns if c.column == "of.mean")
    assert (mean.compared, mean.moved, mean.largest, mean.before) == (3, 2, 1.0, 6.0)


def test_scans_are_those_with_numbers_in_the_order_of_the_plan():
    def task(name, *, is_measured):
        return Task(name, "", (), "scan", 0, is_measured=is_measured)

    tasks = tuple(task(f"s{n}", is_measured=n % 2 == 1) for n in range(6))
    plan = Plan("ball", ("f",), tasks, ("bad",))
    tried = choose(plan, 2)
    assert [t.scan_id for t in tried] == ["s1", "s3"]
    rest = without(plan, tried)
    assert [t.scan_id for t in rest.tasks] == ["s0", "s2", "s4", "s5"]
    assert (rest.fresh, rest.failed) == (plan.fresh, plan.failed)
    assert choose(plan, 0) == ()
