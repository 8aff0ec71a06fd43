import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import images, scan, shapes

from cohort.kernels import rankfilters
from cohort.kernels.halo import MODES

modes = st.sampled_from(sorted(MODES))
boxes = st.lists(st.integers(1, 5), min_size=3, max_size=3)


@given(data=st.data(), ndim=st.integers(1, 3), size=boxes, mode=modes)
def test_any_rank_equals_scipy(data, ndim, size, mode):
    block = data.draw(images(high=9, ndim=ndim)).to_numpy()
    size = size[:ndim]
    rank = data.draw(st.integers(0, int(np.prod(size)) - 1))
    actual = rankfilters.select(block, size=size, rank=rank, mode=mode)
    assert actual.dtype == block.dtype
    np.testing.assert_array_equal(actual, brute(block, size, rank, mode))
    # SciPy 1.17 has other code for one axis, which errs where the window is longer than the array: give it two axes.
    plane = ndi.rank_filter(block[np.newaxis], rank, (1, *size), mode=mode)[0]
    np.testing.assert_array_equal(actual, plane)


def brute(block, size, rank, mode):
    """Sort every window of the padded block."""
    pad = [(n // 2, n - 1 - n // 2) for n in size]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(block, pad, MODES[mode]), size)
    return np.sort(windows.reshape(*block.shape, -1))[..., rank]


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    size=st.lists(st.integers(1, 19), min_size=3, max_size=3),
    mode=modes,
)
def test_minimum_and_maximum_equal_scipy(data, ndim, size, mode):
    block = data.draw(images(high=9, ndim=ndim)).to_numpy()
    size = size[:ndim]
    for largest, oracle in ((False, ndi.minimum_filter), (True, ndi.maximum_filter)):
        actual = rankfilters.extreme(block, size=size, largest=largest, mode=mode)
        assert actual.dtype == block.dtype
        np.testing.assert_array_equal(actual, oracle(block, size, mode=mode))


@given(n_column=st.integers(1, 12), n=st.integers(1, 6), data=st.data())
def test_a_network_finds_its_rank_in_any_columns_of_zeros_and_ones(n_column, n, data):
    """If a sequence of comparisons is right for all zeros and ones, it is right for all numbers (Knuth's principle)."""
    assume(n_column * n > 2)
    rank = data.draw(st.integers(1, n_column * n - 2))
    bits = data.draw(st.lists(st.booleans(), min_size=n_column * n, max_size=n_column * n))
    # Columns follow each other along the one axis that is left.
    block = np.array(bits, np.uint8).reshape(n, n_column).T.copy()[:, np.newaxis]
    found = rankfilters.select(block, size=(n_column, 1, n), rank=rank, mode="wrap")
    assert (found == sorted(bits)[rank]).all()


def test_a_network_does_no_more_than_it_has_to():
    assert len(rankfilters.selection(9, 3, 13).steps) < 27 * 4
    assert rankfilters.selection(9, 3, 13).n_rows < 32


@pytest.mark.parametrize("nx", [1, 2, 255, 256, 257, 513])
def test_rows_longer_than_a_span_are_served_whole(nx):
    block = np.random.default_rng(nx).integers(0, 99, (3, 4, nx)).astype(np.int16)
    actual = rankfilters.select(block, size=(3, 3, 3), rank=13, mode="reflect")
    np.testing.assert_array_equal(actual, ndi.median_filter(block, 3))


@pytest.mark.parametrize("dtype", ["?", ">i2", ">f4", "f2", "i8", "u8", "f8"])
def test_the_dtype_stays(dtype):
    block = np.random.default_rng(0).integers(0, 2, (5, 6, 7)).astype(dtype)
    for actual in (
        rankfilters.select(block, size=(3, 3, 3), rank=13, mode="reflect"),
        rankfilters.extreme(block, size=(2, 3, 1), largest=True, mode="reflect"),
    ):
        assert actual.dtype == block.dtype
    np.testing.assert_array_equal(
        rankfilters.select(block, size=(3, 3, 3), rank=13, mode="reflect"),
        brute(block, (3, 3, 3), 13, "reflect"),
    )


@given(
    data=st.data(),
    dtype=st.sampled_from(["i8", "u8", ">u8"]),
    shape=shapes(high=6),
    size=boxes,
    mode=modes,
)
def test_integers_beyond_float64_keep_their_last_digit(data, dtype, shape, size, mode):
    seed = data.draw(st.integers(0, 99))
    block = (2**62 + np.random.default_rng(seed).integers(0, 99, shape)).astype(dtype)
    assume(mode != "mirror" or min(shape) > 1)
    rank = data.draw(st.integers(0, int(np.prod(size)) - 1))
    found = rankfilters.select(block, size=size, rank=rank, mode=mode)
    np.testing.assert_array_equal(found, brute(block, size, rank, mode))
    for largest in (False, True):
        found = rankfilters.extreme(block, size=size, largest=largest, mode=mode)
        np.testing.assert_array_equal(found, brute(block, size, -largest, mode))


def test_not_a_number_is_refused_with_its_place():
    image = scan(np.ones((4, 5, 6), np.float32)).to_numpy()
    image[3, 2, 1] = image[3, 4, 5] = np.nan
    for refuse in (
        lambda: rankfilters.select(image, size=(3, 3, 3), rank=13, mode="reflect"),
        lambda: rankfilters.extreme(image, size=(1, 1, 1), largest=True, mode="reflect"),
    ):
        with pytest.raises(
            ValueError, match=r"2 voxels are NaN.* \(3, 2, 1\) of a block of 4 x 5 x 6"
        ):
            refuse()
    assert np.isinf(
        rankfilters.extreme(np.where(np.isnan(image), np.inf, image), size=(3, 3, 3), largest=True, mode="reflect")
    ).any()  # fmt: skip
