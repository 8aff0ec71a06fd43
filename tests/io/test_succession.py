"""Groups of slices at the same places: which are one time series that a tag sets apart."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.slices.succession import follow, may_be_one, moments_of

VOLUMES = st.sets(st.integers(0, 11), min_size=1)
TAGS = {
    "TemporalPositionIdentifier": lambda t, n: (t + 1, None, None),
    "TriggerTime": lambda t, n: (1, t * (31.0 + n), None),
    "AcquisitionTime": lambda t, n: (None, 0.0, 36000 + 2.5 * t + 0.07 * n),
}


def slices(tag, volumes, places=5):
    """Moments of each place, in any order of the volumes."""
    return {f"[{n}]": [TAGS[tag](t, n) for t in volumes] for n in range(places)}


@pytest.mark.parametrize("tag", TAGS)
@given(one=VOLUMES, other=VOLUMES)
def test_volumes_that_continue_each_other_or_alternate_are_one_series(tag, one, other):
    both = sorted(one | other)
    gaps = [b - a for a, b in pairwise(both)]
    told_by_the_tag = tag == "TemporalPositionIdentifier" or min(len(one), len(other)) > 1
    if not told_by_the_tag:  # what stands for one volume is told by the first tag that it has
        return
    are_one = not one & other and len(both) > 2
    are_one = are_one and all(gap % min(gaps) == 0 and gap <= 4 * min(gaps) for gap in gaps)
    found = follow(slices(tag, one), slices(tag, other))
    assert found == ((len(one), len(other)) if are_one else None)


@pytest.mark.parametrize("tag", TAGS)
def test_one_place_that_says_otherwise_keeps_groups_apart(tag):
    one, other = slices(tag, (0, 2, 4)), slices(tag, (1, 3, 5))
    assert follow(one, other) == (3, 3)
    assert follow(one, other | {"[5]": other["[0]"]}) is None
    assert follow(one, other | {"[3]": one["[3]"]}) is None
    assert follow(one, other | {"[3]": [(None, None, None)] * 3}) is None


def key(*words, echo_time=None, echo=None):
    return ("P", "S", "1.2.3", "MR", words, echo_time, echo, (6, 5), (1.0, 1.0), (1.0,))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (key("ORIGINAL", "M"), key("ORIGINAL", "M", "NORM"), "surely"),
        (key("ORIGINAL", "M", echo_time=30.0), key("ORIGINAL", "M", echo_time=30.02), "surely"),
        (key("ORIGINAL", "M", echo=1), key("ORIGINAL", "M", "NORM"), "surely"),
        (key("ORIGINAL", "M"), key("ORIGINAL", "P"), "possibly"),
        (key("ORIGINAL", "M"), key("DERIVED", "M"), ""),
        (key("DERIVED", "M"), key("DERIVED", "M", "ADC"), ""),
        (key("M", echo_time=4.92), key("M", echo_time=7.38), ""),
        (key("M", echo_time=5.0, echo=1), key("M", echo_time=5.0, echo=2), ""),
    ],
)
def test_echoes_and_derived_images_are_images_of_their_own(one, other, said):
    assert may_be_one(one, other) == may_be_one(other, one) == said


def header(position, volume=None, trigger=None, clock=None, day=""):
    return {"position": position, "temporal_position": volume, "trigger_time": trigger,
            "acquisition_time": clock, "acquisition_date": day}  # fmt: skip


def test_a_file_of_many_frames_says_when_those_of_its_first_place_were_taken():
    frames = [header([0.0, 0.0, float(z)], volume=t + 1) for t in range(3) for z in range(4)]
    assert moments_of(frames) == ((1, None, None), (2, None, None), (3, None, None))
    assert moments_of([header([0.0, 0.0, 0.0])]) == ()


def test_seconds_go_on_after_midnight():
    (before,), (after,) = (
        moments_of([header([0.0] * 3, clock=clock, day=day)])
        for clock, day in ((86399.0, "20191231"), (1.0, "20200101"))
    )
    assert after[2] - before[2] == pytest.approx(2)
