import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import masks, shapes

from cohort.kernels import morphology

ORACLES = {
    "e": ndi.binary_erosion,
    "d": ndi.binary_dilation,
    "ed": ndi.binary_opening,
    "de": ndi.binary_closing,
}


@given(
    data=st.data(),
    steps=st.sampled_from(sorted(ORACLES)),
    ndim=st.integers(1, 3),
    connectivity=st.integers(1, 3),
    times=st.integers(1, 4),
)
def test_morphology_equals_scipy(data, steps, ndim, connectivity, times):
    mask = data.draw(masks(high=9, ndim=ndim)).to_numpy()
    element = morphology.neighbours(connectivity, ndim)
    actual = morphology.morph(mask, element=element, steps="".join(s * times for s in steps))
    structure = ndi.generate_binary_structure(ndim, connectivity)
    assert actual.dtype == bool
    np.testing.assert_array_equal(actual, ORACLES[steps](mask, structure, times))


@pytest.mark.parametrize("nx", [1, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("steps", sorted(ORACLES))
def test_rows_end_where_they_end_and_not_where_their_words_do(nx, steps):
    mask = np.random.default_rng(nx).random((3, 2, nx)) < (0.9 if steps[0] == "e" else 0.1)
    mask[1] = True
    element = morphology.neighbours(1, 3)
    actual = morphology.morph(mask, element=element, steps="".join(s * 2 for s in steps))
    np.testing.assert_array_equal(actual, ORACLES[steps](mask, iterations=2))


def brute_ball(radius, spacing):
    """All offsets within the radius, as a structure for SciPy."""
    n = [int(radius / mm + 1e-6) for mm in spacing]
    grid = np.meshgrid(
        *(mm * np.arange(-k, k + 1) for k, mm in zip(n, spacing, strict=True)), indexing="ij"
    )
    return np.sqrt(sum(g**2 for g in grid)) <= radius * (1 + 1e-9)


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    radius=st.sampled_from([0.0, 0.3, 1.0, 2.0, 2.9, 4.5, 6.0]),
    steps=st.sampled_from(sorted(ORACLES)),
)
def test_a_ball_is_all_voxels_within_its_radius(data, ndim, radius, steps):
    mask = data.draw(masks(high=9, ndim=ndim)).to_numpy()
    spacing = data.draw(
        st.lists(st.sampled_from([0.1, 0.7, 1.0, 2.0, 3.0]), min_size=ndim, max_size=ndim)
    )
    spacing = [mm if radius / mm < 7 else radius / 2 for mm in spacing]
    actual = morphology.morph(mask, element=morphology.ball(radius, spacing), steps=steps)
    np.testing.assert_array_equal(actual, ORACLES[steps](mask, brute_ball(radius, spacing)))


def test_three_voxels_of_a_tenth_are_three_tenths():
    assert morphology.extent(morphology.ball(0.3, [1.0, 1.0, 0.1])) == (0, 0, 3)
    assert 3 * 0.1 > 0.3  # so a plain comparison would have found two


@given(ndim=st.integers(1, 3), connectivity=st.integers(1, 3), shape=shapes(low=5, high=5))
def test_the_extent_of_an_element_is_tight(ndim, connectivity, shape):
    element = morphology.neighbours(connectivity, ndim)
    assert morphology.extent(element) == (0,) * (3 - ndim) + (1,) * ndim
    point = np.zeros(shape[:ndim], bool)
    point[(2,) * ndim] = True
    grown = morphology.morph(point, element=element, steps="d")
    assert grown.sum() == ndi.generate_binary_structure(ndim, connectivity).sum()


def test_input_is_not_modified_and_may_be_read_only_or_strided():
    mask = np.random.default_rng(0).random((8, 10, 12)) < 0.7
    kept = mask.copy()
    mask.flags.writeable = False
    element = morphology.neighbours(2, 3)
    structure = ndi.generate_binary_structure(3, 2)
    for view in (mask, mask[::2, :, ::-1], mask.transpose(2, 0, 1)):
        for steps in ("e", "d"):
            actual = morphology.morph(view, element=element, steps=steps)
            np.testing.assert_array_equal(actual, ORACLES[steps](view, structure))
    np.testing.assert_array_equal(mask, kept)


def test_iterated_elements_differ_from_a_larger_radius():
    """The tests above would see an element that is one voxel too wide."""
    mask = np.random.default_rng(1).random((13, 13, 13)) < 0.99
    results = [
        morphology.morph(mask, element=morphology.neighbours(c, 3), steps="e" * n)
        for c, n in itertools.product((1, 2, 3), (1, 2))
    ]
    for a, b in itertools.combinations(results, 2):
        assert (a != b).any()
