import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import DTYPES, images, shapes

from cohort.kernels import regions
from cohort.kernels.blocks import TILE


def measure(image, labels, index, world=None):
    """The table of a whole image as one block."""
    rows = regions.rows(image, labels, origin=(0,) * image.ndim, shape=image.shape)
    index = np.asarray(index)
    return regions.table(
        rows,
        index=index,
        order=np.arange(index.size),
        shape=image.shape,
        world=world,
        voxel_ml=0.006,
    )


@given(data=st.data(), ndim=st.integers(1, 3))
def test_regions_equal_scipy(data, ndim):
    image = data.draw(images(high=9, ndim=ndim)).to_numpy()
    seed, n = data.draw(st.integers(0, 999)), data.draw(st.integers(1, 5))
    labels = np.random.default_rng(seed).integers(0, n + 1, image.shape)
    index = np.arange(1, n + 1)
    at, found = regions.columns(ndim), measure(image, labels, index)
    exact, scale = image.astype(float), np.abs(image.astype(float)).sum() + 1
    count = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    np.testing.assert_array_equal(found[:, at["n_voxels"]], count)
    there = index[count > 0]
    if not there.size:
        return
    found = found[count > 0]
    for name, oracle in {
        "sum": ndi.sum_labels,
        "mean": ndi.mean,
        "variance": ndi.variance,
        "std": ndi.standard_deviation,
    }.items():
        with np.errstate(invalid="ignore"):  # SciPy divides by the counts of absent labels too
            expected = oracle(exact, labels, there)
        close = {"rtol": 1e-12, "atol": 1e-12 * scale**0.5, "err_msg": name}
        np.testing.assert_allclose(found[:, at[name]], expected, **close)
    np.testing.assert_array_equal(found[:, at["minimum"]], ndi.minimum(exact, labels, there))
    np.testing.assert_array_equal(found[:, at["maximum"]], ndi.maximum(exact, labels, there))
    boxes = [ndi.find_objects(labels)[k - 1] for k in there]
    np.testing.assert_array_equal(found[:, at["start"]], [[s.start for s in box] for box in boxes])
    np.testing.assert_array_equal(found[:, at["stop"]], [[s.stop for s in box] for box in boxes])
    for row, label in zip(found, there, strict=True):
        # SciPy's choice among equals depends on its sort; the promise is the first in raster order.
        for name, pick, away in (
            ("minimum_position", np.argmin, np.inf),
            ("maximum_position", np.argmax, -np.inf),
        ):
            first = np.unravel_index(pick(np.where(labels == label, exact, away)), image.shape)
            np.testing.assert_array_equal(row[at[name]], first)


@given(shape=shapes(low=2, high=7), seed=st.integers(0, 999))
def test_centres_equal_scipy_in_world_mm(shape, seed):
    rng = np.random.default_rng(seed)
    image, labels = rng.random(shape) + 0.5, rng.integers(1, 3, shape)
    world = np.array([[0.0, 0.2, 1.5, -3.0], [0.0, 1.0, 0.0, 5.0], [3.0, 0.0, 0.0, 7.0]])
    at, found = regions.columns(3), measure(image, labels, [1, 2], world)
    for i, label in enumerate((1, 2)):
        if (labels == label).any():
            for name, weight in (("centroid_mm", np.ones(shape)), ("center_of_mass_mm", image)):
                index = ndi.center_of_mass(weight, labels, label)
                np.testing.assert_allclose(found[i, at[name]], world @ [*index, 1], rtol=1e-12)


def test_sums_of_a_million_tenths_stay_exact_to_1e_12():
    image = np.full((1, 4, 1 << 18), 0.1)
    found = measure(image, np.ones(image.shape, np.uint8), [1])
    at = regions.columns(3)
    np.testing.assert_allclose(found[0, at["sum"]], image.size * 0.1, rtol=1e-13)
    assert found[0, at["variance"]] < 1e-28


def test_variance_survives_a_large_offset():
    image = (np.random.default_rng(0).normal(size=(3, 70, 70)) + 1e8).astype(np.float64)
    at = regions.columns(3)
    found = measure(image, np.ones(image.shape, bool), [1])
    np.testing.assert_allclose(found[0, at["variance"]], np.var(image - 1e8), rtol=1e-6)


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 1, 2), (1, 2, 69)])
def test_nan_is_the_minimum_and_the_maximum(place):
    image = np.random.default_rng(0).random((2, 3, 70)).astype(np.float32)
    image[place] = np.nan
    image[1, 2, 69] = np.nan
    at = regions.columns(3)
    found = measure(image, np.ones(image.shape, bool), [1])[0]
    for name in ("minimum", "maximum", "mean", "variance"):
        assert np.isnan(found[at[name]]), name
    assert tuple(found[at["minimum_position"]]) == place
    assert tuple(found[at["maximum_position"]]) == place


def test_infinities_are_numbers():
    image = np.array([[1.0, np.inf, 2.0, -np.inf]])
    found, at = measure(image, np.array([[1, 1, 2, 2]]), [1, 2]), regions.columns(2)
    assert found[:, at["maximum"]].tolist() == [np.inf, 2.0]
    assert found[:, at["minimum"]].tolist() == [1.0, -np.inf]
    assert found[:, at["sum"]].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_labels_may_be_of_any_integer_dtype_and_size(dtype):
    big = min(int(np.iinfo(dtype).max), 2**53)
    labels = np.array([[0, big, 7], [7, 0, big]], dtype)
    assert regions.present(labels).tolist() == [7, big]
    numbers, names = regions.compact(labels)
    assert numbers.dtype in (np.uint8, np.int32)
    np.testing.assert_array_equal(names[numbers], labels.astype(np.int64))
    found = measure(np.arange(6.0).reshape(2, 3), labels, [7, big])
    assert found[:, regions.columns(2)["sum"]].tolist() == [5.0, 6.0]


@given(
    top=st.sampled_from([3, 255, 256, 65535, 65536, 70_000, 10**6, 10**12]), seed=st.integers(0, 99)
)
def test_compact_numbers_stand_for_their_labels(top, seed):
    labels = np.random.default_rng(seed).integers(0, top + 1, (3, 210, 130))
    labels[0, 0, :2] = 0, top
    numbers, names = regions.compact(labels)
    assert numbers.dtype == np.int32
    assert names[0] == 0
    assert numbers.max() < names.size
    assert (np.diff(names) > 0).all()
    np.testing.assert_array_equal(names[numbers], labels)
    np.testing.assert_array_equal(regions.present(labels), np.setdiff1d(labels, [0]))


@pytest.mark.parametrize(
    ("labels", "wrong"), [(np.array([1, -3]), "-3"), (np.array([1, 2**63], np.uint64), str(2**63))]
)
def test_labels_out_of_range_are_refused_with_their_number(labels, wrong):
    with pytest.raises(ValueError, match=f"the labels hold {wrong}"):
        regions.present(labels)


@given(dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_rows_of_blocks_cut_at_tiles_are_the_rows_of_the_whole(dtype, seed):
    shape = (2, TILE + 6, 2 * TILE + 1)
    rng = np.random.default_rng(seed)
    image, labels = (rng.random(shape) * 200).astype(dtype), rng.integers(0, 4, shape)
    whole = regions.rows(image, labels, origin=(0, 0, 0), shape=shape)
    parts = [
        regions.rows(image[:, y, x], labels[:, y, x], origin=(0, y.start, x.start), shape=shape)
        for x in (slice(TILE, 2 * TILE + 1), slice(0, TILE))
        for y in (slice(0, TILE), slice(TILE, TILE + 6))
    ]
    together = np.concatenate(parts)
    order = np.lexsort((together[:, regions.LABEL], together[:, regions.TILE_NUMBER]))
    expected = whole[np.lexsort((whole[:, regions.LABEL], whole[:, regions.TILE_NUMBER]))]
    np.testing.assert_array_equal(together[order], expected)


def test_a_label_without_voxels_is_zero_voxels_and_nan():
    found = measure(np.ones((2, 2)), np.ones((2, 2), int), [1, 9], np.ones((3, 3)))
    at = regions.columns(2)
    assert found[1, at["n_voxels"]] == found[1, at["volume_ml"]] == found[1, at["sum"]] == 0
    rest = np.delete(found[1], [at["n_voxels"], at["volume_ml"], at["sum"]])
    assert np.isnan(rest).all()
