"""Groups of slices on one grid: which are parts of one volume, which are images of their own, and which lack an end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cohort.io.slices.continuity import Beside, Part, compare, lacks, place_of, refusal

N = 12
STEP_MM = 2.5
INDICES = st.sets(st.integers(0, N - 1), min_size=1)


def key(kind, *, study="S", spacing=(0.9, 1.2), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)):
    rounded = tuple(round(v, 3) for v in orientation)
    return ("P", study, "1.2.3", "MR", (kind,), None, None, (6, 5), spacing, rounded)


@st.composite
def stacks(draw):
    """Positions of the slices of an oblique and possibly tilted stack, and its orientation."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    step = np.cross(axes[0], axes[1]) * STEP_MM + rng.uniform(-0.5, 0.5) * axes[1]
    jitter = rng.uniform(-0.004, 0.004, (N, 3))
    positions = rng.uniform(-200, 200, 3) + np.arange(N)[:, None] * step + jitter
    return positions, axes[:2].ravel()


def part(kind, positions, numbers, orientation, **options):
    places = [tuple(positions[n]) for n in sorted(numbers)]
    return Part(key(kind, orientation=orientation, **options), places)


def are_parts(one, other):
    """What must come of two groups that hold the slices of these numbers."""
    both = sorted(one | other)
    if one <= other or other <= one or len(both) < 3:
        return False
    gaps = {b - a for a, b in pairwise(both)}
    if are_apart(one, other, min(gaps)):
        return False
    return all(gap % min(gaps) == 0 and gap <= 4 * min(gaps) for gap in gaps)


def are_apart(one, other, step):
    """Whether both are three or more, and lie behind each other with more than one step between."""
    lower, upper = sorted((one, other), key=min)
    room = min(upper) - max(lower)
    return min(len(one), len(other)) > 2 and max(lower) < min(upper) and room > step


def ends_early(one, other):
    """Whether the other holds all slices of one and the next in its order, or goes on after a few that are lost."""
    both = sorted(one | other)
    if len(both) > 2 and one.isdisjoint(other):
        gaps = {b - a for a, b in pairwise(both)}
        even = all(gap % min(gaps) == 0 and gap <= 4 * min(gaps) for gap in gaps)
        if even and are_apart(one, other, min(gaps)):
            return True
    if len(one) < 2 or not one < other:
        return False
    own = sorted(one)
    gaps = sorted(b - a for a, b in pairwise(own))
    step = gaps[(len(gaps) - 1) // 2]
    return bool({own[0] - step, own[-1] + step} & other)


@given(stacks(), INDICES, INDICES)
def test_two_groups_are_parts_of_one_volume_where_each_lacks_what_the_other_has(stack, one, other):
    positions, orientation = stack
    found = compare(
        [part("M", positions, one, orientation), part("N", positions, other, orientation)]
    )
    assert (set(found.torn) == {0, 1}) == are_parts(one, other)
    assert bool(found.torn) == are_parts(one, other)
    assert found.short == {
        n for n, pair in enumerate([(one, other), (other, one)]) if ends_early(*pair)
    }
    if found.torn:
        assert {n: beside.other for n, beside in found.torn.items()} == {0: 1, 1: 0}
        assert found.torn[0].sizes == found.torn[1].sizes[::-1] == (len(one), len(other))
        steps = [beside.step_mm / STEP_MM for beside in found.torn.values()]
        both = sorted(one | other)
        assert steps == pytest.approx([min(np.diff(both))] * 2, rel=0.03)


@given(stacks(), st.lists(st.integers(0, 2), min_size=N, max_size=N), st.integers(1, 3))
def test_echoes_of_torn_volumes_are_torn_as_these_are(stack, labels, n_echoes):
    positions, orientation = stack
    sets = [{n for n, label in enumerate(labels) if label == kind} for kind in range(3)]
    sets = [own for own in sets if own]
    parts = [
        part(f"{kind} {echo}", positions, own, orientation)
        for kind, own in enumerate(sets)
        for echo in range(n_echoes)
    ]
    expected = {k for k, one in enumerate(sets) for other in sets if are_parts(one, other)}
    assert {n // n_echoes for n in compare(parts).torn} == expected
    assert len(compare(parts).torn) == len(expected) * n_echoes


@given(stacks(), st.sets(st.integers(0, 2 * N), min_size=2), st.integers(1, 3), st.booleans())
def test_slices_that_are_groups_of_their_own_are_parts_if_together_they_are_a_volume(
    stack, numbers, n_echoes, is_whole
):
    positions, orientation = stack
    origin, step = positions[0], (positions[-1] - positions[0]) / (N - 1)
    own = sorted(numbers)
    parts = [
        part(f"{n} {echo}", [origin + n * step], [0], orientation)
        for n in own
        for echo in range(n_echoes)
    ]
    if is_whole:  # one that holds all of them makes no difference
        parts.append(
            Part(key("whole", orientation=orientation), [tuple(origin + n * step) for n in own])
        )
    gaps = [b - a for a, b in pairwise(own)]
    expected = len(own) > 2 and all(gap % min(gaps) == 0 and gap <= 4 * min(gaps) for gap in gaps)
    torn = compare(parts).torn
    assert set(torn) == (set(range(len(own) * n_echoes)) if expected else set())
    assert all(beside.sizes == (1, len(own) - 1) for beside in torn.values())


def header(position, orientation):
    return {"position": None if position is None else list(position), "orientation": orientation}


@given(stacks(), st.integers(1, N), st.permutations(range(N)), st.integers(1, 3))
def test_frames_of_one_file_say_as_much_as_files_of_one_slice(stack, cut, order, n_times):
    positions, orientation = stack
    frames = [[n for n in order if (n < cut) == lower] for lower in (True, False)]
    assume(all(frames))
    files = [
        Part(key(kind, orientation=orientation),
             [place_of([header(positions[n], orientation.tolist()) for n in own * n_times])])
        for kind, own in zip("MN", frames, strict=True)
    ]  # fmt: skip
    assert all(len(p) in (3, 7) for one in files for p in one.places)
    slices = [
        part(kind, positions, own, orientation) for kind, own in zip("MN", frames, strict=True)
    ]
    assert compare(files).torn.keys() == compare(slices).torn.keys() == {0, 1}


UPRIGHT = np.array([1.0, 0, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("positions", "orientation"),
    [
        ([(0, 0, 0), None], UPRIGHT),
        ([(0, 0, 0)], None),
        ([(0, 0, 0)], np.zeros(6)),
        ([(0, 0, 0)], np.full(6, 1e300)),
        ([(0, 0, 1e300)], UPRIGHT),
        ([(0, 0, 0), (0, 0, 1), (0, 0, 3)], UPRIGHT),
    ],
    ids=["no position", "no orientation", "zeros", "no direction", "far away", "uneven"],
)
def test_slices_that_no_reader_takes_lie_nowhere(positions, orientation):
    orientation = None if orientation is None else orientation.tolist()
    assert place_of([header(p, orientation) for p in positions]) == ()


@given(stacks(), st.integers(3, N), st.integers(-9, 20), st.sampled_from([0.0, 0.004, 0.6]))
def test_a_stray_slice_on_the_line_of_a_stack_and_beyond_its_ends_says_that_it_lacks_one(
    stack, n, number, off
):
    positions, orientation = stack
    step = (positions[-1] - positions[0]) / (N - 1)
    even = positions[0] + np.arange(n)[:, None] * step
    scan = part("M", even, range(n), orientation)
    for direction in (step / np.linalg.norm(step), orientation[:3]):
        place = positions[0] + number * step + off * direction
        stray = part("N", [place], [0], orientation, spacing=(0.7, 0.7))
        assert lacks(scan, stray) == (not 0 <= number < n and off < 0.1)


def test_what_has_no_place_may_be_of_any_stack_of_its_matrix_and_a_stack_is_no_stray():
    scan = upright("M", range(0, 30, 3))
    nowhere = Part(key("N"), [()])
    assert lacks(scan, nowhere)
    assert not lacks(nowhere, scan)
    assert not lacks(scan, Part((*key("N")[:7], (9, 9), *key("N")[8:]), [()]))
    assert lacks(scan, upright("N", [30, 33]))
    assert not lacks(scan, upright("N", [30, 33, 36]))
    assert not lacks(upright("N", [0, 3]), upright("M", [6]))
    assert not lacks(scan, upright("N", [30], across=0.2))


def upright(kind, depths, *, across=0.0, **options):
    return Part(key(kind, **options), [(across, 0.0, float(z)) for z in depths])


@pytest.mark.parametrize(
    "other",
    [
        upright("N", [30], across=0.2),
        upright("N", [30], spacing=(0.9, 1.3)),
        upright("N", [30], orientation=(1, 0, 0, 0, 0, 1)),
        upright("N", [31]),
        upright("N", [42]),
        Part(key("N"), [(0.0, 0.0, 30.0), ()]),
        upright("N", [24, 27, 30], study="T"),
    ],
    ids=["beside", "another spacing", "another plane", "off the grid", "far", "somewhere", "another study, overlapping"],
)  # fmt: skip
def test_what_lies_elsewhere_is_no_part(other):
    whole = upright("M", range(0, 30, 3))
    assert not compare([whole, other]).torn
    assert set(compare([whole, upright("N", [30])]).torn) == {0, 1}
    assert set(compare([whole, upright("N", [30, 33], study="T")]).torn) == {0, 1}


def test_patients_are_refused_as_patients_whatever_the_catalog_says():
    one = key("M")
    beside = Beside(1, 3.0, (9, 1))
    assert refusal(one, ("Q", *one[1:]), beside, ["a", "b"]).code == "DCM-UID-COLLISION"
    torn = refusal(one, key("N", study="T"), beside, ["a", "b"])
    assert torn.code == "DCM-TORN"
    assert "every 3.000 mm are set apart by their study and ImageType: those at 9 places" in str(
        torn
    )
    assert "lacks those at 1 place, such as" in str(torn)
