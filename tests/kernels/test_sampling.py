import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import images

from cohort.kernels import sampling


@given(data=st.data(), ndim=st.integers(1, 3), order=st.integers(2, sampling.MAX_ORDER))
def test_coefficients_have_the_bits_of_scipy_along_every_axis(data, ndim, order):
    block = data.draw(images(high=40 if ndim < 3 else 20, ndim=ndim)).to_numpy()
    axis = data.draw(st.integers(0, ndim - 1))
    expected = block.astype(float)
    if block.shape[axis] > 1:  # of one voxel SciPy makes no coefficient
        ndi.spline_filter1d(block, order, axis, output=expected, mode="mirror")
    before = block.copy()
    (found,) = sampling.coefficients(block, axis=axis, order=order)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(block, before)


@given(data=st.data(), order=st.integers(2, sampling.MAX_ORDER), axis=st.integers(0, 2))
def test_a_nan_reaches_its_own_lines_only(data, order, axis):
    block = data.draw(images(low=2, high=20, ndim=3, dtype=np.float64)).to_numpy()
    place = tuple(data.draw(st.integers(0, n - 1)) for n in block.shape)
    block[place] = np.nan
    expected = np.zeros(block.shape, bool)
    expected[tuple(slice(None) if i == axis else p for i, p in enumerate(place))] = True
    (found,) = sampling.coefficients(block, axis=axis, order=order)
    np.testing.assert_array_equal(np.isnan(found), expected)
