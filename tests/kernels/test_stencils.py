import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import images

from cohort.kernels import lines, stencils
from cohort.kernels.halo import MODES

modes = st.sampled_from(sorted(MODES))


@given(
    n=st.integers(1, 7), before=st.integers(0, 20), after=st.integers(0, 20), name=st.sampled_from(sorted(MODES))
)  # fmt: skip
def test_what_lies_beyond_the_border_is_what_numpy_pads(n, before, after, name):
    numbers = np.arange(1, n + 1)
    place = lines.beyond(n, before, after, name)
    found = np.where(place < 0, 0, numbers[place])
    np.testing.assert_array_equal(found, np.pad(numbers, (before, after), mode=MODES[name]))


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    sigma=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.7, 4.0]), min_size=3, max_size=3),
    truncate=st.sampled_from([1.0, 2.5, 4.0, 45.0]),
    mode=modes,
)
def test_gaussian_has_the_bits_of_scipy(data, ndim, sigma, truncate, mode):
    block = data.draw(images(high=20, ndim=ndim)).to_numpy()
    before = block.copy()
    actual = stencils.gaussian(block, sigma=sigma[:ndim], truncate=truncate, mode=mode)
    promoted = block.astype(stencils.promoted(block.dtype))
    expected = ndi.gaussian_filter(promoted, sigma[:ndim], mode=mode, truncate=truncate)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(block, before)


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    shape=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    seed=st.integers(0, 99),
    mode=modes,
)
def test_convolve_has_the_bits_of_scipy(data, ndim, shape, seed, mode):
    block = data.draw(images(high=9, ndim=ndim)).to_numpy()
    weights = np.random.default_rng(seed).normal(size=shape[:ndim]).round(1)
    actual = stencils.convolve(block, weights=weights, mode=mode)
    expected = ndi.convolve(block.astype(actual.dtype), weights, mode=mode)
    np.testing.assert_array_equal(actual, expected)


@given(data=st.data(), ndim=st.integers(1, 3), mode=modes)
def test_derivatives_have_the_bits_of_scipy(data, ndim, mode):
    block = data.draw(images(high=9, ndim=ndim)).to_numpy()
    promoted = block.astype(stencils.promoted(block.dtype))
    for axis in range(ndim):
        np.testing.assert_array_equal(
            stencils.sobel(block, axis=axis, mode=mode), ndi.sobel(promoted, axis, mode=mode)
        )
    np.testing.assert_array_equal(
        stencils.gradient_magnitude(block, mode=mode),
        ndi.generic_gradient_magnitude(promoted, ndi.sobel, mode=mode),
    )
    np.testing.assert_array_equal(
        stencils.laplace(block, mode=mode), ndi.laplace(promoted, mode=mode)
    )


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    size=st.lists(st.integers(1, 11), min_size=3, max_size=3),
    mode=modes,
)
def test_uniform_equals_scipy(data, ndim, size, mode):
    block = data.draw(images(high=20, ndim=ndim)).to_numpy()
    actual = stencils.uniform(block, size=size[:ndim], mode=mode)
    expected = ndi.uniform_filter(block.astype(actual.dtype), size[:ndim], mode=mode)
    tolerance = 1e-12 if actual.dtype == np.float64 else 1e-5
    scale = np.abs(block.astype(float)).max()
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("inner", [1, 127, 128, 129, 300])
def test_lines_beyond_the_first_bundle_are_filtered_too(inner):
    block = np.random.default_rng(inner).normal(size=(5, 3, inner))
    np.testing.assert_array_equal(
        stencils.gaussian(block, sigma=(1.0, 1.0, 1.0), truncate=4.0, mode="reflect"),
        ndi.gaussian_filter(block, 1.0),
    )


def test_nan_and_infinity_spread_as_in_scipy():
    block = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    block[2, 3, 1], block[7, 7, 6] = np.nan, np.inf
    weights = np.arange(27.0).reshape(3, 3, 3)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(
            stencils.gaussian(block, sigma=(1.0, 0.5, 1.0), truncate=2.0, mode="mirror"),
            ndi.gaussian_filter(block, (1.0, 0.5, 1.0), truncate=2.0, mode="mirror"),
        )
        np.testing.assert_array_equal(
            stencils.convolve(block, weights=weights, mode="wrap"),
            ndi.convolve(block, weights, mode="wrap"),
        )
        np.testing.assert_array_equal(
            stencils.sobel(block, axis=1, mode="nearest"), ndi.sobel(block, 1, mode="nearest")
        )


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("?", "f4"), ("u1", "f4"), ("i2", "f4"), ("u2", "f4"), ("f2", "f4"), (">f4", "f4"), ("f4", "f4"),
     ("i4", "f8"), ("u4", "f8"), ("i8", "f8"), (">f8", "f8"), ("f8", "f8")],
)  # fmt: skip
def test_the_result_holds_every_value_of_the_block(dtype, expected):
    assert stencils.promoted(np.dtype(dtype)) == np.dtype(expected)
    block = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    unchanged = stencils.gaussian(block, sigma=(0.0, 0.0), truncate=4.0, mode="reflect")
    np.testing.assert_array_equal(unchanged, block.astype(expected))
    assert unchanged.dtype == np.dtype(expected)
