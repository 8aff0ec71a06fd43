"""Even grids from uneven slices: against numpy's own linear interpolation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.slices import resample

gaps = st.lists(st.floats(0.5, 9.0), min_size=1, max_size=12)


@given(gaps=gaps, step_mm=st.floats(0.5, 5.0), seed=st.integers(0, 99))
def test_each_column_of_voxels_is_interpolated_linearly(gaps, step_mm, seed):
    depth = np.concatenate([[0.0], np.cumsum(gaps)]) - 3.0
    plan = resample.even(depth, step_mm=step_mm, tolerance_mm=1e-9)
    volume = np.random.default_rng(seed).normal(size=(2, depth.size, 3, 2)).astype(np.float32)
    out = np.empty((2, len(plan), 3, 2), np.float32)
    resample.interpolate(volume, plan, out)
    wanted = depth[0] + step_mm * np.arange(len(plan))
    assert wanted[-1] <= depth[-1] + 1e-6
    assert wanted[-1] + step_mm > depth[-1] - 1e-6
    for index in np.ndindex(2, 3, 2):
        t, y, x = index
        expected = np.interp(wanted, depth, volume[t, :, y, x])
        np.testing.assert_allclose(out[t, :, y, x], expected, atol=1e-5)


@given(n=st.integers(2, 9), lost=st.integers(1, 7), jitter=st.floats(-0.009, 0.009))
def test_slices_that_are_where_they_should_be_are_taken_as_they_are(n, lost, jitter):
    n += lost
    there = np.delete(np.arange(n, dtype=float), min(lost, n - 2))
    depth = 2 * there
    depth[1:-1] += jitter
    plan = resample.even(depth, step_mm=2.0, tolerance_mm=0.02)
    exact = plan.lower == plan.upper
    assert exact.sum() == n - 1
    assert (there[plan.lower[exact]] == np.flatnonzero(exact)).all()
    assert plan.weight[~exact] == pytest.approx(0.5, abs=0.01)
