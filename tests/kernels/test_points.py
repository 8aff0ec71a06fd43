import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.kernels import points

REAL = (
    np.bool_,
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.int64,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
)


@st.composite
def values(draw, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        drawn = draw(st.lists(st.integers(int(info.min), int(info.max)), min_size=1, max_size=6))
        return np.array([*drawn, info.min, info.max], dtype)
    drawn = draw(st.lists(st.floats(width=8 * dtype.itemsize), min_size=1, max_size=6))
    return np.array([*drawn, np.inf, -np.inf, np.nan, 0.0], dtype)


@given(data=st.data(), dtype=st.sampled_from(REAL))
def test_a_bound_is_never_rounded_to_the_dtype_of_the_image(data, dtype):
    image = data.draw(values(dtype))
    near = [float(v) for v in image if not math.isnan(v)]
    bound = data.draw(
        st.one_of(
            st.floats(allow_nan=False),
            st.sampled_from(near),
            st.sampled_from(near).map(lambda v: math.nextafter(v, math.inf)),
            st.sampled_from(near).map(lambda v: math.nextafter(v, -math.inf)),
        )
    )
    # Python compares an int of any size with a float, and a float with a float, exactly.
    exact = [v.item() for v in image]
    assert points.between(image, above=bound).tolist() == [v > bound for v in exact]
    assert points.between(image, below=bound).tolist() == [v < bound for v in exact]


def test_the_naive_comparison_is_indeed_wrong():
    image = np.array([0.1], np.float32)  # a little over 0.1
    assert points.between(image, above=0.1).tolist() == [True]
    assert (image > 0.1).tolist() == [False]


def test_both_bounds_hold_together():
    assert points.between(np.arange(6), above=1.5, below=4.0).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("bounds", [{}, {"above": math.nan}, {"above": 1.0, "below": math.nan}])
def test_no_bound_or_one_that_is_nan_is_refused(bounds):
    with pytest.raises(ValueError, match=r"threshold .*(needs above|NaN)"):
        points.between(np.zeros(3), **bounds)


def test_algebra_is_that_of_numpy():
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    assert points.intersection(a, b).tolist() == (a & b).tolist()
    assert points.union(a, b).tolist() == (a | b).tolist()
    assert points.difference(a, b).tolist() == (a & ~b).tolist()
    assert points.complement(a).tolist() == (~a).tolist()


def test_inside_keeps_the_dtype():
    out = points.inside(np.array([1, 2, 3], np.int16), np.array([True, False, True]), fill=-1024)
    assert out.dtype == np.int16
    assert out.tolist() == [1, -1024, 3]


def test_nan_is_no_label():
    assert points.equal(np.arange(3), number=2.0).tolist() == [False, False, True]
    assert not points.equal(np.arange(3), number=math.nan).any()
