import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import masks

from cohort.kernels import tally


def halves(block):
    """Two blocks along the first axis, with their origins."""
    cut = block.shape[0] // 2
    parts = [(block[:cut], 0), (block[cut:], cut)]
    return [
        (part, {"origin": (first,) + (0,) * (block.ndim - 1), "shape": block.shape})
        for part, first in parts
        if part.size
    ]


@given(mask=masks(low=1, high=8))
def test_counts_and_sums_of_indices_add_up(mask):
    mask = mask.to_numpy()
    assert tally.total([tally.voxels(b, **at) for b, at in halves(mask)]) == mask.sum()
    sums = tally.total([tally.index_sums(b, **at) for b, at in halves(mask)])
    np.testing.assert_array_equal(sums, [mask.sum(), *np.argwhere(mask).sum(axis=0)])


def test_no_voxels_have_no_centre():
    assert np.isnan(tally.centre(np.zeros(4, np.int64), world=np.ones((3, 4)))).all()


@given(seed=st.integers(0, 999), n=st.integers(1, 9))
def test_labels_and_sizes_add_up(seed, n):
    labels = np.random.default_rng(seed).integers(0, n, (4, 3, 5)) ** 3
    expected, count = np.unique(labels[labels > 0], return_counts=True)
    present = tally.union([tally.labels_present(b, **at) for b, at in halves(labels)])
    np.testing.assert_array_equal(present, expected)
    assert tally.how_many(present) == expected.size
    sizes = tally.add_sizes([tally.label_sizes(b, **at) for b, at in halves(labels)])
    np.testing.assert_array_equal(sizes, np.stack([expected, count], axis=1))


def test_of_equals_the_lowest_label_is_the_largest():
    assert tally.largest(np.array([[2, 5], [4, 9], [7, 9]])) == 4
    assert np.isnan(tally.largest(np.empty((0, 2), np.int64)))


@given(seed=st.integers(0, 999), point=st.tuples(*[st.floats(-5, 15)] * 3))
def test_the_nearest_object_has_the_nearest_voxel(seed, point):
    labels = np.random.default_rng(seed).integers(-40, 4, (70, 4, 3)).clip(0)
    world = np.array([[0.0, 0.1, 1.5, 1.0], [0.0, 1.0, 0.0, 2.0], [0.2, 0.0, 0.0, 3.0]])
    best = tally.closer(
        [tally.nearest(b, **at, world=world, point=np.array(point)) for b, at in halves(labels)]
    )
    where = np.argwhere(labels)
    away = ((np.c_[where, np.ones(len(where))] @ world.T - point) ** 2).sum(axis=1)
    np.testing.assert_allclose(best[0, 0], away.min(), rtol=1e-9, atol=1e-9)
    near = labels[tuple(where[away <= away.min() * (1 + 1e-9) + 1e-12].T)]
    assert tally.nearest_label(best) in near


def test_without_objects_none_is_nearest():
    nothing = tally.nearest(
        np.zeros((2, 2), int), origin=(0, 0), shape=(2, 2), world=np.eye(3), point=np.zeros(3)
    )
    assert np.isnan(tally.nearest_label(nothing))


def test_background_at_a_point_is_refused_with_the_point():
    found = np.concatenate(
        [tally.at(b, **at, index=(3, 1)) for b, at in halves(np.zeros((4, 2), int))]
    )
    assert found.tolist() == [0]
    with pytest.raises(ValueError, match=r"no object at \(1, 2\) mm"):
        tally.object_at(found, place="(1, 2) mm")
