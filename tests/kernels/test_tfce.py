"""Threshold-free cluster enhancement against its integral, taken level by level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort.kernels import clusters, tfce


def level_by_level(heights, connectivity, power=0.5, rise=2.0):
    """The integral between every two heights of the map, with SciPy's labels."""
    structure = ndi.generate_binary_structure(3, connectivity)
    total, below = np.zeros(heights.shape), 0.0
    for level in np.unique(heights[heights > 0]):
        labels, _ = ndi.label(heights >= level, structure)
        size = np.bincount(labels.ravel())
        part = (level ** (rise + 1) - below ** (rise + 1)) / (rise + 1)
        total += np.where(labels > 0, size[labels] ** power * part, 0)
        below = level
    return total


def blobs(seed, shape=(7, 9, 8)):
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return field / field.std() * 2


@given(seed=st.integers(0, 200), connectivity=st.sampled_from([1, 2, 3]), tied=st.booleans())
def test_equals_the_integral(seed, connectivity, tied):
    heights = np.round(blobs(seed)) if tied else blobs(seed)
    found = tfce.enhance(heights, connectivity=connectivity)
    np.testing.assert_allclose(found, level_by_level(heights, connectivity), rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 200))
def test_twice_the_t_is_eight_times_the_support(seed):
    heights = blobs(seed)
    np.testing.assert_allclose(
        tfce.enhance(2 * heights), 8 * tfce.enhance(heights), rtol=1e-14, atol=0
    )


def test_in_mm3_a_finer_grid_gives_the_same():
    coarse = np.zeros((3, 3, 3))
    coarse[1, 1, 1] = 4
    fine = np.kron(coarse, np.ones((2, 2, 2)))
    found = tfce.enhance(fine, voxel_volume=1.0).max()
    assert found == pytest.approx(tfce.enhance(coarse, voxel_volume=8.0).max(), rel=1e-12)


def test_nothing_above_zero_has_no_support():
    heights = np.full((2, 3, 4), -1.0)
    heights[0, 0, 0] = np.nan
    assert not tfce.enhance(heights).any()


@given(seed=st.integers(0, 200), connectivity=st.sampled_from([1, 2, 3]))
def test_clusters_are_those_of_scipy(seed, connectivity):
    heights = blobs(seed, (6, 7, 9))
    heights[0, :2] = np.nan
    found = clusters.clusters(heights, above=1.5, connectivity=connectivity)
    structure = ndi.generate_binary_structure(3, connectivity)
    labels, n = ndi.label(np.nan_to_num(heights, nan=-9) > 1.5, structure)
    np.testing.assert_array_equal(found.labels, labels)
    index = np.arange(1, n + 1)
    np.testing.assert_allclose(found.mass, ndi.sum(heights - 1.5, labels, index))
    np.testing.assert_array_equal(found.size, ndi.sum(np.ones_like(heights), labels, index))
    where = ndi.maximum_position(heights, labels, index) if n else []
    assert [np.unravel_index(p, heights.shape) for p in found.peak] == [tuple(w) for w in where]
    most = clusters.largest(heights, above=1.5, connectivity=connectivity)
    assert most == (max(found.size, default=0), pytest.approx(max(found.mass, default=0.0)))
