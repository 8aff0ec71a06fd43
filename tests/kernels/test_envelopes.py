import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import masks, shapes

from cohort.kernels import envelopes

EXACT = st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0])
"""Spacings whose squares are exact: equal distances are equal to the bit, whatever the compiler does."""


def passes(kernel, block, spacing):
    """All passes over a whole array; the first thing that the last one gives."""
    state = (block,)
    for axis in range(block.ndim):
        state = kernel(*state, axis=axis, spacing=spacing)
    return state[0]


def oracle(mask, spacing):
    """SciPy's distance, which knows nothing of masks without outside."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndi.distance_transform_edt(mask, sampling=spacing)


@given(data=st.data(), ndim=st.integers(1, 3))
def test_the_distance_is_that_of_scipy_to_the_bit(data, ndim):
    mask = data.draw(masks(ndim=ndim, high=20)).to_numpy()
    spacing = data.draw(st.lists(EXACT, min_size=ndim, max_size=ndim))
    actual = passes(envelopes.to_outside, mask, spacing)
    assert actual.dtype == np.float64
    np.testing.assert_array_equal(actual, oracle(mask, spacing))


@given(
    shape=shapes(high=16),
    spacing=st.lists(st.floats(0.05, 7.0), min_size=3, max_size=3),
    seed=st.integers(0, 999),
)
def test_any_spacing_gives_the_distance_of_scipy(shape, spacing, seed):
    """Of two ways that differ in the last bit SciPy's is taken, except where a compiler fuses its multiplications."""
    mask = np.random.default_rng(seed).random(shape) < 0.97
    actual = passes(envelopes.to_outside, mask, spacing)
    np.testing.assert_array_max_ulp(actual, oracle(mask, spacing), maxulp=1)


@given(shape=shapes(high=14), seed=st.integers(0, 999), n=st.integers(0, 4))
def test_each_label_has_the_distance_to_its_own_outside(shape, seed, n):
    rng, spacing = np.random.default_rng(seed), (3.0, 1.0, 1.5)
    labels = ndi.grey_dilation(rng.integers(0, n + 1, shape) * (rng.random(shape) < 0.3), size=2)
    expected = np.zeros(shape)
    for label in np.setdiff1d(labels, [0]):
        own = labels == label
        expected[own] = oracle(own, spacing)[own]
    kept = labels.copy()
    np.testing.assert_array_equal(passes(envelopes.to_other_label, labels, spacing), expected)
    np.testing.assert_array_equal(labels, kept)


def test_the_order_of_the_spacings_matters():
    mask = np.random.default_rng(0).random((9, 10, 11)) < 0.95
    right = passes(envelopes.to_outside, mask, (3.0, 1.0, 1.5))
    assert (right != passes(envelopes.to_outside, mask, (1.5, 1.0, 3.0))).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_line_that_is_cut_in_two_gives_other_distances(axis):
    """The passes see whole lines, or they are wrong: the tests of the graph stand on this."""
    mask = np.ones((8, 8, 8), bool)
    mask[0, 0, 0] = False
    whole = passes(envelopes.to_outside, mask, (1.0, 1.0, 1.0))
    halves = [
        passes(envelopes.to_outside, half, (1.0, 1.0, 1.0)) for half in np.split(mask, 2, axis)
    ]
    assert (np.concatenate(halves, axis) != whole).any()


def test_the_deepest_voxel_is_the_first_of_equals():
    from cohort.kernels import regions

    away = np.array([[[1.0, 2.0, 2.0, 0.0], [1.0, 1.0, 0.0, 5.0]]])
    labels = np.array([[[1, 1, 1, 0], [1, 1, 0, 4]]])
    rows = regions.rows(away, labels, origin=(0, 0, 0), shape=away.shape, squares=False)
    world = np.array([[0.0, 0.0, 2.0, 10.0], [0.0, 1.0, 0.0, 0.0], [3.0, 0.0, 0.0, -1.0]])
    found = envelopes.deepest(
        rows, index=np.array([1, 2, 4]), order=np.array([2, 1, 0]), shape=away.shape, world=world
    )
    assert found[0].tolist() == [5.0, 16.0, 1.0, -1.0]
    assert np.isnan(found[1]).all()
    assert found[2].tolist() == [2.0, 12.0, 0.0, -1.0]
