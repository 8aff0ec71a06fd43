import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import chunkings, images

from cohort.kernels import histograms, tally
from cohort.kernels.levels import bin_numbers, binned, level_codes, level_values, leveled

WHERE = {"origin": (0, 0, 0), "shape": (0, 0, 0)}


def parts(array, chunks):
    """The blocks of an array, in raster order."""
    edges = [np.cumsum((0, *sizes)) for sizes in chunks]
    for index in np.ndindex(*(len(sizes) for sizes in chunks)):
        yield array[tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, index, strict=True))]


@given(
    data=st.data(),
    image=images(),
    low=st.floats(-300, 300),
    width=st.sampled_from([0.0, 0.1, 7.0, 255.0, 1e9]),
    bins=st.integers(1, 300),
)
def test_counts_of_blocks_add_up_to_those_of_scipy(data, image, low, width, bins):
    values = image.to_numpy()
    labels = np.random.default_rng(0).integers(0, 4, values.shape)
    chunks = data.draw(chunkings(values.shape))
    edges = np.linspace(low, low + width, bins + 1)
    numbers = np.array([1, 3, 9])

    def total(where, **more):
        blocks = zip(parts(values, chunks), parts(where, chunks), strict=True)
        return tally.total(
            [histograms.counts(a, b, edges=edges, **WHERE, **more) for a, b in blocks]
        )

    scipys = (values, low, low + width, bins)
    np.testing.assert_array_equal(total(labels > 1)[0], ndi.histogram(*scipys, labels > 1))
    np.testing.assert_array_equal(total(labels)[0], ndi.histogram(*scipys, labels))
    expected = np.stack([np.histogram(values[labels == n], edges)[0] for n in numbers])
    np.testing.assert_array_equal(total(labels, numbers=numbers), expected)
    everywhere = histograms.counts(values, edges=edges, **WHERE)
    np.testing.assert_array_equal(everywhere[0], ndi.histogram(*scipys))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_value_on_an_edge_belongs_to_the_bin_above_and_the_last_edge_to_the_last_bin(dtype):
    image = np.array([[-1, 0, 1, 2, 3, 4, 4, 5]], dtype)
    found = histograms.counts(image, edges=np.linspace(0.0, 4, 5), **WHERE)
    assert found.tolist() == [[1, 1, 1, 3]]


def test_edges_next_to_a_value_decide_to_the_last_bit():
    rng = np.random.default_rng(0)
    edges = np.linspace(-1.3, 2.7, 1001)
    near = np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9)])
    values = np.concatenate([near, rng.normal(size=1000)])
    found = histograms.counts(values[None], edges=edges, **WHERE)[0]
    np.testing.assert_array_equal(found, np.histogram(values, edges)[0])
    estimated = ((values - edges[0]) * (1000 / 4.0)).astype(int)
    exact = np.searchsorted(edges, values, side="right") - 1
    assert (estimated != exact).any()  # or the comparison with the edges was not needed


def test_nan_and_infinity_are_in_no_bin():
    image = np.array([[np.nan, np.inf, -np.inf, 0.5]])
    assert histograms.counts(image, edges=np.array([0.0, 1.0]), **WHERE).tolist() == [[1]]
    assert histograms.extent(image, **WHERE).tolist() == [0.5, 0.5]
    assert bin_numbers(image, low=0, high=1, bins=2).tolist() == [[2, 2, 2, 1]]
    assert level_codes(image, low=0, high=1).tolist()[0][:3] == [-1, -1, -1]


@given(image=images(), bins=st.integers(1, 300))
def test_edges_and_bins_between_the_extremes_are_those_of_numpy(image, bins):
    values = image.to_numpy()
    if values.dtype.kind == "f":
        values += np.random.default_rng(1).random(values.shape, values.dtype)
    low, high = histograms.extent(values, **WHERE)
    assert (low, high) == (values.min(), values.max())
    np.testing.assert_array_equal(
        histograms.edges_between(low, high, bins, values.dtype),
        np.histogram_bin_edges(values, bins),
    )
    numbers = bin_numbers(values, low=low, high=high, bins=bins)
    found = binned(values, numbers, bins=bins, **WHERE)
    np.testing.assert_array_equal(found, [low, high, *np.histogram(values, bins)[0]])


def test_float32_edges_that_would_fall_together_are_float64():
    low = np.float32(1e6)
    edges = histograms.edges_between(low, np.nextafter(low, np.float32(2e6)), 256, np.float32)
    assert edges.dtype == np.float64
    assert (np.diff(edges) > 0).all()


@given(data=st.data(), image=images(), wide=st.booleans())
def test_value_counts_of_blocks_add_up_to_those_of_numpy(data, image, wide):
    values = image.to_numpy().astype(np.int64 if wide else np.int16)
    mask = np.random.default_rng(0).random(values.shape) < 0.5
    chunks = data.draw(chunkings(values.shape))
    blocks = zip(parts(values, chunks), parts(mask, chunks), strict=True)
    inside = tally.add_sizes([histograms.value_counts(a, b, **WHERE) for a, b in blocks])
    np.testing.assert_array_equal(inside.T, np.unique(values[mask], return_counts=True))
    everywhere = histograms.value_counts(values, **WHERE)
    np.testing.assert_array_equal(everywhere.T, np.unique(values, return_counts=True))


def test_values_that_no_counter_can_name_are_refused():
    with pytest.raises(ValueError, match="holds 9223372036854775808"):
        histograms.value_counts(np.array([[2**63]], np.uint64), **WHERE)


def test_levels_know_values_apart_from_each_other_and_the_means_of_those_together():
    few = np.array([[-1000.0, -3, 40, 41, 3071, 3071]], np.float32)
    low, high = histograms.extent(few, **WHERE)
    total = leveled(few, level_codes(few, low=low, high=high), **WHERE)
    _, values, often = level_values(total)
    np.testing.assert_allclose(values, [-1000, -3, 40, 41, 3071], atol=4071 * 2**-31)
    assert often.tolist() == [1, 1, 1, 1, 2]
    many = np.random.default_rng(0).normal(size=(1, 200_000))
    low, high = histograms.extent(many, **WHERE)
    _, values, often = level_values(leveled(many, level_codes(many, low=low, high=high), **WHERE))
    np.testing.assert_allclose((values * often).sum() / many.size, many.mean(), atol=1e-11)
