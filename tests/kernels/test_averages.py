"""Mean and spread of images, voxel by voxel, however they are grouped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.kernels.voxelwise import Maps


def maps_of(images):
    found = Maps.empty(images[0].size)
    for image in images:
        found.add(image)
    return found


@given(
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float64, np.int16, np.bool_]),
    st.integers(0, 9),
)
def test_mean_and_std_are_those_of_numpy_for_every_grouping(n, seed, dtype, cut):
    rng = np.random.default_rng(seed)
    images = (rng.normal(1000, 30, (n, 3, 4, 5)) * rng.integers(0, 2, (n, 1, 1, 1))).astype(dtype)
    if np.dtype(dtype).kind == "f":
        images[rng.random(images.shape) < 0.4] = np.nan
    values = images.astype(np.float64).reshape(n, -1)
    counts = ~np.isnan(values)
    groups = [g for g in (images[:cut], images[cut:]) if len(g)]
    found = maps_of(groups[0])
    for group in groups[1:]:
        found.merge(maps_of(group))
    np.testing.assert_array_equal(found.n, counts.sum(axis=0))
    none, few = found.n == 0, found.n < 2
    assert np.isnan(found.average()[none]).all()
    assert np.isnan(found.std()[few]).all()
    expected = np.nanmean(values[:, ~none], axis=0)
    np.testing.assert_allclose(found.average()[~none], expected, rtol=1e-13)
    expected = np.nanstd(values[:, ~few], axis=0, ddof=1)
    np.testing.assert_allclose(found.std()[~few], expected, rtol=1e-9, atol=1e-11)


def test_a_spread_survives_a_mean_a_billion_times_as_large():
    values = 1e9 + np.arange(6.0)
    one, later = maps_of(values[:2, None]), maps_of(values[2:, None])
    one.merge(later)
    assert one.std()[0] == pytest.approx(np.arange(6).std(ddof=1), rel=1e-9)
