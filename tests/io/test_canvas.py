"""A canvas filled in stored order equals `grid.canonical` of the same voxels."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid
from cohort.io.canvas import canvas

AXES = [
    codes
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]


@given(
    codes=st.sampled_from(AXES),
    shape=st.lists(st.integers(1, 4), min_size=3, max_size=5),
    tilt=st.floats(-0.4, 0.4),
)
def test_a_canvas_equals_the_canonical_form_of_what_is_written_to_it(codes, shape, tilt):
    turn = nib.eulerangles.euler2mat(tilt, tilt / 2, -tilt)
    axes = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), shape[:-4:-1])
    affine = nib.affines.from_matvec(turn) @ axes @ np.diag([0.9, 1.2, 3.0, 1.0])
    data = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    stored, result, new_affine = canvas(shape, affine, data.dtype)
    stored[...] = data
    expected, expected_affine = grid.canonical(data, affine)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(new_affine, expected_affine)
    assert result.flags.c_contiguous


def test_a_singular_affine_has_no_canvas():
    with pytest.raises(grid.GridError, match="singular"):
        canvas((2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0]), np.dtype(float))
