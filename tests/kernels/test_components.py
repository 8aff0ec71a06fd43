import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import masks

from cohort.kernels import components


@given(data=st.data(), ndim=st.integers(1, 3), connectivity=st.integers(1, 3))
def test_labels_are_the_numbers_of_scipy(data, ndim, connectivity):
    mask = data.draw(masks(high=14, ndim=ndim)).to_numpy()
    labels, n = components.label(mask, connectivity=connectivity)
    expected, count = ndi.label(mask, ndi.generate_binary_structure(ndim, connectivity))
    assert labels.dtype == np.int32
    assert n == count
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_as_many_components_as_a_thin_block_can_hold(connectivity):
    for shape in itertools.product((1, 2, 3, 6), repeat=3):
        mask = np.zeros(shape, bool)
        mask[::2, ::2, ::2] = True
        labels, n = components.label(mask, connectivity=connectivity)
        assert n == mask.sum()
        np.testing.assert_array_equal(labels[mask], np.arange(1, n + 1))


def test_labelling_takes_views_and_read_only_arrays_and_leaves_them_as_they_are():
    mask = np.random.default_rng(0).random((9, 10, 11)) < 0.4
    kept = mask.copy()
    mask.flags.writeable = False
    for view in (mask, mask[:, ::-2], mask.T):
        np.testing.assert_array_equal(components.label(view, connectivity=1)[0], ndi.label(view)[0])
    np.testing.assert_array_equal(mask, kept)


@given(mask=masks(high=9))
def test_sizes_and_borders_are_those_of_each_component(mask):
    labels, n = ndi.label(mask.to_numpy())
    labels = labels.astype(np.int32)
    sizes = components.sizes(labels, n)
    np.testing.assert_array_equal(sizes[1:], np.bincount(labels.ravel(), minlength=n + 1)[1:])
    assert sizes[0] == 0
    touches = components.on_border(labels, n)
    inner = labels[1:-1, 1:-1, 1:-1]
    for number in range(1, n + 1):
        assert touches[number] == ((inner == number).sum() < sizes[number])


def test_rules_choose_components():
    found = components.Components(
        np.array([0, 3, 7, 7, 1]), np.array([False, True, False, True, False])
    )
    assert components.every(found).tolist() == [0, 1, 2, 3, 4]
    assert components.largest(found).tolist() == [False, False, True, False, False]
    assert components.no_smaller(found, voxels=3).tolist() == [False, True, True, True, False]
    assert components.enclosed(found).tolist() == [True, False, True, False, True]


def test_rules_take_no_component_at_all():
    none = components.Components(np.zeros(1, np.int64), np.zeros(1, bool))
    assert components.largest(none).tolist() == [False]
    assert components.no_smaller(none, voxels=0).tolist() == [False]
    assert components.enclosed(none).tolist() == [True]


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_relabel_looks_numbers_up(dtype):
    labels = np.array([[0, 2], [1, 2]], np.int32)
    table = np.array([0, 1, 0]).astype(dtype)
    out = components.relabel(labels, table)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, table[labels])


def test_a_component_is_numbered_by_its_first_voxel_and_not_by_its_block():
    """Two blocks; the object of the second reaches a voxel that comes before the first's in raster order."""
    mask = np.zeros((2, 4), bool)
    mask[1, 1] = True  # in the left block
    mask[0, 3] = True  # in the right block, earlier
    left, right = mask[:, :2], mask[:, 2:]
    surveys = [
        components.survey(components.label(part, connectivity=1)[0], origin=(0, x), shape=(2, 4))
        for part, x in ((left, 0), (right, 2))
    ]
    inner = ((True, True), (True, False)), ((True, True), (False, True))
    joints = [
        components.joint(surveys[0], {}, edges=inner[0], connectivity=1),
        components.joint(surveys[1], {(0, -1): (0, surveys[0])}, edges=inner[1], connectivity=1),
    ]
    merged = components.merge(joints)
    assert merged.numbers.tolist() == [0, 2, 0, 1]
    assert merged.components.sizes.tolist() == [0, 1, 1]
    assert merged.components.on_border.tolist() == [False, True, True]
