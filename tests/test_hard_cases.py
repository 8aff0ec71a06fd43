"""Every case of the catalogue through ingest, held against its truth; and whether the truth would see what is wrong."""

import itertools

import numpy as np
import pytest
from hardcases import CASES, ours, phantom
from hardcases.truth import Scan
from hypothesis import assume, given
from hypothesis import strategies as st

from cohort import grid

CATALOGUE = {
    *(f"D{n}" for n in range(1, 50)),
    *(f"N{n}" for n in range(1, 22)),
    *(f"C{n}" for n in range(1, 7)),
}
"""Rows of the list of hard cases."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] if c.slow else [], id=c.name) for c in CASES],
)
def test_a_hard_case_ends_as_it_must(case, tmp_path):
    wrong = ours.problems(case, tmp_path)
    assert not wrong, "\n".join(wrong)


def test_every_row_of_the_catalogue_has_a_case_and_every_case_a_name_of_its_own():
    assert {case.row for case in CASES} == CATALOGUE
    assert len({case.name for case in CASES}) == len(CASES)


def a_scan(codes="LPS", **options):
    affine = phantom.grid(codes, **options)
    return Scan(affine=affine, values=phantom.fill(affine))


@given(
    flips=st.tuples(*[st.booleans()] * 3),
    order=st.sampled_from(list(itertools.permutations(range(3)))),
    turn=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_no_flip_or_swap_of_voxels_passes_unless_the_affine_follows(flips, order, turn):
    scan = a_scan(turn=turn)
    moved = np.flip(scan.values, [axis for axis in range(3) if flips[axis]]).transpose(order)
    # What the affine of the moved array is: voxel (x, y, z) of the result back to voxel of the scan, then to the world.
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for new, old in enumerate(order):
        size = scan.values.shape[old]
        back[2 - old, 2 - new] = -1 if flips[old] else 1
        back[2 - old, 3] = size - 1 if flips[old] else 0
    assert scan.differences(moved, scan.affine @ back) == []
    assume(any(flips) or order != (0, 1, 2))
    assert scan.differences(moved, scan.affine)


@given(axis=st.sampled_from([0, 1, 2]), by=st.sampled_from([-1, 1]), turn=st.floats(-0.3, 0.3))
def test_no_shift_by_a_voxel_passes(axis, by, turn):
    scan = a_scan("PIR", turn=(turn, 0, 0))
    assert scan.differences(np.roll(scan.values, by, axis), scan.affine)
    shifted = scan.affine.copy()
    shifted[:3, 3] += by * scan.affine[:3, axis]
    assert scan.differences(scan.values, shifted)
    inner = phantom.fill(shifted)
    assert not np.array_equal(inner, scan.values)


@given(wrong=st.floats(0.002, 5), place=st.tuples(*[st.integers(0, 2)] * 2))
def test_no_affine_that_is_off_by_more_than_a_micrometre_or_two_passes(wrong, place):
    scan = a_scan(turn=(0.1, 0.2, -0.1))
    affine = scan.affine.copy()
    affine[place[0], 3] += wrong
    assert any("mm off" in line for line in scan.differences(scan.values, affine))


@given(tilt=st.floats(-30, 30).filter(lambda t: abs(t) > 0.1))
def test_a_tilt_that_is_straightened_without_moving_voxels_is_seen(tilt):
    scan = a_scan(tilt=tilt)
    straight = phantom.grid("LPS")
    assert scan.differences(scan.values, straight)
    assert abs(np.linalg.det(scan.affine[:3, :3])) == pytest.approx(np.prod(phantom.SPACING))
    assert grid.is_sheared(scan.affine)
