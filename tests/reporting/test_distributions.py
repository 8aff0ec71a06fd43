"""Distributions as shapes: bars are NumPy's histogram, and every mark stands where its value is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.reporting.distributions import FLOOR, LEFT, RIGHT, TICKS, TOP, drawing

PIXEL = 0.051
"""Places are written with one decimal."""


def drawn(values, far=None):
    numbers = np.asarray(values, np.float64)
    scans = [f"s{i}" for i in range(numbers.size)]
    out = np.zeros(numbers.size, bool) if far is None else np.asarray(far)
    return drawing(numbers, scans, out, {s: f"scan-{s}" for s in scans})


@given(
    values=st.lists(
        st.one_of(st.floats(-1e3, 1e3), st.floats(allow_nan=True, allow_infinity=True)),
        min_size=1,
        max_size=40,
    ).filter(lambda them: np.isfinite(them).any())
)
def test_any_finite_numbers_have_a_place_each_in_their_order(values):
    found = drawn(values)
    numbers = np.asarray(values)
    finite = np.flatnonzero(np.isfinite(numbers))
    at = {mark["scan"]: float(mark["x"]) for mark in found["marks"]}
    assert set(at) == {f"s{i}" for i in finite}
    across = np.array([at[f"s{i}"] for i in finite])
    assert ((across >= LEFT) & (across <= RIGHT)).all()
    order = np.argsort(numbers[finite], kind="stable")
    assert (np.diff(across[order]) >= 0).all()
    tall = [float(bar["height"]) for bar in found["bars"]]
    assert max(tall) == pytest.approx(FLOOR - TOP, abs=PIXEL)
    assert 1 <= len(found["ticks"]) <= TICKS
    assert all(LEFT - PIXEL <= float(t["x"]) <= RIGHT + PIXEL for t in found["ticks"])


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60).filter(
        lambda v: np.ptp(v) > 1e-3
    )
)
def test_bars_are_the_histogram_and_places_are_linear(values):
    found, numbers = drawn(values), np.asarray(values)
    bins = round((RIGHT - LEFT) / (float(found["bars"][0]["width"]) + 0.5))
    across = LEFT + (numbers - numbers.min()) / np.ptp(numbers) * (RIGHT - LEFT)
    at = {mark["scan"]: float(mark["x"]) for mark in found["marks"]}
    assert np.allclose([at[f"s{i}"] for i in range(numbers.size)], across, atol=PIXEL)
    assert float(found["median"]) == pytest.approx(
        np.interp(np.median(numbers), [numbers.min(), numbers.max()], [LEFT, RIGHT]), abs=PIXEL
    )
    heights = np.array([float(bar["height"]) for bar in found["bars"]])
    assert 6 <= bins <= 60
    # Heights are whole numbers of scans, and all scans are in them.
    shares = heights / heights.max()
    assert any(
        np.allclose(shares * top, np.round(shares * top), atol=0.02)
        and round((shares * top).sum()) == numbers.size
        for top in range(1, numbers.size + 1)
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 140.0], ["0", "50", "100"]),
        ([0.01, 0.093], ["0.02500", "0.05000", "0.07500"]),
        ([-3.0, 3.0], ["\N{MINUS SIGN}2", "0", "2"]),
        ([7.0, 7.0], ["7"]),
        ([0.0], ["0"]),
    ],
)
def test_numbers_under_the_axis_are_round(values, shown):
    assert [tick["shown"] for tick in drawn(values)["ticks"]] == shown


def test_outliers_are_drawn_last_and_scans_without_a_picture_only_if_they_are_far():
    values = np.array([5.0, 1.0, 2.0, 90.0])
    far = np.array([False, False, False, True])
    scans = ["a", "b", "c", "d"]
    found = drawing(values, scans, far, {"a": "scan-1", "c": "scan-2"})
    assert [(m["scan"], m["anchor"], m["far"]) for m in found["marks"]] == [
        ("a", "scan-1", False),
        ("c", "scan-2", False),
        ("d", "", True),
    ]


@given(
    bulk=st.lists(st.floats(48.8, 51.4), min_size=20, max_size=60),
    beyond=st.lists(st.floats(1e3, 1e12) | st.floats(-1e12, -1e3), min_size=1, max_size=4),
)
def test_far_values_leave_the_others_room_and_have_a_place_each(bulk, beyond):
    numbers = np.array([*bulk, *beyond])
    far = np.arange(numbers.size) >= len(bulk)
    found = drawn(numbers, far)
    at = {mark["scan"]: float(mark["x"]) for mark in found["marks"]}
    across = np.array([at[f"s{i}"] for i in range(numbers.size)])
    assert ((across >= LEFT) & (across <= RIGHT)).all()
    assert (np.diff(across[np.argsort(numbers, kind="stable")]) >= 0).all()
    # Each that is beyond can be picked, beside the axis; the others have it for themselves.
    assert (np.diff(np.sort(across[far])) > 11).all()
    assert ((across[far] < found["start"]) | (across[far] > found["stop"])).all()
    assert ((across[~far] >= found["start"]) & (across[~far] <= found["stop"])).all()
    if np.ptp(bulk) > 1e-3:
        assert np.ptp(across[~far]) >= (found["stop"] - found["start"]) / 2 - 2 * PIXEL
        assert len({tick["x"] for tick in found["ticks"]}) == len(found["ticks"]) > 1
    told = [each["shown"] for each in found["beyond"]]
    assert len(told) == len({*np.sign(beyond)})
    assert sum(int(t.split()[0]) if "beyond," in t else 1 for t in told) == len(beyond)


def test_one_far_value_is_told_also_where_all_others_are_alike():
    found = drawn([50.0] * 20 + [988.5], [False] * 20 + [True])
    assert found["beyond"] == [{"side": "end", "x": RIGHT, "shown": "beyond: 988.5"}]
    assert [bar["height"] for bar in found["bars"]] == [str(FLOOR - TOP)]
    assert found["ticks"][0]["shown"] == "50"


def test_what_is_far_and_near_enough_stays_at_its_place():
    found = drawn([1.0, 2.0, 3.0, 3.9], [False, False, False, True])
    assert found["beyond"] == []
    assert (found["start"], found["stop"]) == (LEFT, RIGHT)
