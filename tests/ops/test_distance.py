import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import SPACING, assert_kept, chunked, masks, nothing_computed, scan, tasks_per_block

from cohort.grid import GridError
from cohort.ops import distance, graph, measure


def oracle(mask, spacing):
    """SciPy's distance, which knows nothing of masks without outside."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndi.distance_transform_edt(mask, sampling=spacing)


def in_mm(found, source):
    """Coordinates, chunks and attributes are those of the source, but for the unit."""
    assert found.dtype == np.float64
    assert found.attrs["units"] == "mm"
    assert_kept(found.assign_attrs(source.attrs), source)


@given(data=st.data(), mask=masks(high=14))
def test_the_distance_is_that_of_scipy_for_every_chunking(data, mask):
    expected = oracle(mask.to_numpy(), list(SPACING.values()))
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        actual = measure.distance_mm(m)
        np.testing.assert_array_equal(actual, expected)
        in_mm(actual, m)


@given(data=st.data(), ndim=st.integers(1, 2))
def test_planes_and_lines_have_distances_too(data, ndim):
    mask = data.draw(masks(ndim=ndim, high=30))
    expected = oracle(mask.to_numpy(), [SPACING[d] for d in mask.dims])
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        np.testing.assert_array_equal(measure.distance_mm(m), expected)


@given(data=st.data(), mask=masks(high=9), n=st.integers(1, 5))
def test_each_label_has_the_distance_to_its_own_outside(data, mask, n):
    labels = mask * (np.arange(mask.sizes["x"]) % n + 1).astype(np.int16)
    expected = np.zeros(mask.shape)
    for label in range(1, n + 1):
        own = labels.to_numpy() == label
        expected[own] = oracle(own, list(SPACING.values()))[own]
    (lazy,) = data.draw(chunked(labels))
    for i in (labels, lazy):
        away, same = distance.to_other_labels_mm(i)
        np.testing.assert_array_equal(away, expected)
        np.testing.assert_array_equal(same, labels)
        assert_kept(same, i)


def test_a_mask_without_outside_is_infinitely_deep():
    full = scan(np.ones((3, 4, 5), bool))
    for mask in (full, full.chunk(2)):
        assert np.isposinf(measure.distance_mm(mask)).all()


def test_frames_have_their_own_distances():
    frames = np.random.default_rng(0).random((3, 4, 5, 6)) < 0.8
    mask = scan(frames, lead=("time",))
    expected = [oracle(f, list(SPACING.values())) for f in frames]
    for m in (mask, mask.chunk(time=2, y=2), mask.chunk(time=1, x=1)):
        np.testing.assert_array_equal(measure.distance_mm(m), expected)


def test_the_spacing_is_that_of_the_coordinates():
    mask = scan(np.random.default_rng(0).random((6, 7, 8)) < 0.9)
    twice = mask.assign_coords({d: 2 * mask[d] for d in "zyx"})
    np.testing.assert_array_equal(measure.distance_mm(twice), 2 * measure.distance_mm(mask))
    flipped = measure.distance_mm(mask.isel(y=slice(None, None, -1)))
    np.testing.assert_array_equal(flipped.isel(y=slice(None, None, -1)), measure.distance_mm(mask))


def test_nothing_is_computed_until_asked_and_inputs_stay_as_they_are():
    mask = scan(np.random.default_rng(0).random((6, 7, 8)) < 0.9)
    kept = mask.copy(deep=True)
    mask.data.flags.writeable = False
    with nothing_computed():
        lazy = measure.distance_mm(mask.chunk(3))
    np.testing.assert_array_equal(lazy, measure.distance_mm(mask))
    np.testing.assert_array_equal(lazy, lazy.compute())
    xr.testing.assert_identical(mask, kept)


@given(data=st.data(), mask=masks(high=9))
def test_in_scratch_storage_the_bits_are_the_same_and_every_file_is_freed(
    data, mask, tmp_path_factory
):
    (lazy,) = data.draw(chunked(mask))
    with graph.scratch(tmp_path_factory.mktemp("scratch")) as folder:
        actual = measure.distance_mm(lazy)
        assert not any(str(folder) in str(key) for key in dict(actual.data.dask))
        found = actual.to_numpy()
        assert list(folder.iterdir()) == []
    np.testing.assert_array_equal(found, measure.distance_mm(mask))


def test_a_block_takes_at_most_eight_tasks():
    mask = scan(np.zeros((64, 64, 64), bool)).chunk(16)
    assert tasks_per_block(measure.distance_mm(mask), mask) <= 8


def test_a_mask_is_bool_and_has_coordinates():
    labels = scan(np.ones((2, 3, 4), np.int32))
    with pytest.raises(ValueError, match="mask is int32, expected bool"):
        measure.distance_mm(labels)
    with pytest.raises(GridError, match="'x' has no coordinate in mm"):
        measure.distance_mm((labels > 0).drop_vars("x"))
    uneven = (labels > 0).assign_coords(y=[0.0, 1.0, 3.0])
    with pytest.raises(GridError, match=r"'y' is not regular: step 0->1 is 1 mm"):
        measure.distance_mm(uneven)
    with pytest.raises(ValueError, match="labels is float64, expected integers"):
        distance.to_other_labels_mm(labels * 1.0)
