import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.kernels import ranks
from cohort.kernels.blocks import volume

REAL = (
    np.bool_,
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
)


def median_of(blocks, groups=None, *, numbers=None, dtype=None):
    """All rounds over some blocks."""
    dtype = volume(blocks[0]).dtype if dtype is None else dtype
    n = 1 if numbers is None else numbers.size
    state = ranks.begin(n)
    groups = groups or [None] * len(blocks)
    picked = [ranks.pick(b, g, numbers=numbers) for b, g in zip(blocks, groups, strict=True)]
    for i, digit in enumerate(ranks.rounds(dtype, n)):
        total = sum(ranks.count(*p, state, digit=digit, first=i == 0) for p in picked)
        state = ranks.narrow(state, total, digit=digit, first=i == 0)
    return ranks.medians(state, dtype=dtype, order=np.arange(n))


@st.composite
def drawn(draw, dtype):
    n = draw(st.integers(1, 40))
    if dtype == np.bool_:
        return np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return np.array(
            draw(st.lists(st.integers(int(info.min), int(info.max)), min_size=n, max_size=n)), dtype
        )
    width = 8 * np.dtype(dtype).itemsize
    return np.array(
        draw(st.lists(st.floats(width=width, allow_nan=False), min_size=n, max_size=n)), dtype
    )


@given(data=st.data(), dtype=st.sampled_from(REAL), cut=st.integers(1, 39))
def test_the_median_is_exact_for_every_dtype_and_any_blocks(data, dtype, cut):
    values = data.draw(drawn(dtype))
    low, high = np.sort(values)[[(values.size - 1) // 2, values.size // 2]].astype(float)
    expected = (
        low if low == high else low / 2 + high / 2 if np.isinf(low + high) else (low + high) / 2
    )
    parts = [p for p in (values[:cut], values[cut:]) if p.size]
    np.testing.assert_array_equal(median_of(parts), [expected])


@given(data=st.data(), n_groups=st.integers(1, 6))
def test_each_label_has_its_own_median(data, n_groups):
    values = data.draw(drawn(np.float32))
    seed = data.draw(st.integers(0, 999))
    labels = np.random.default_rng(seed).integers(0, n_groups + 2, values.size) * 10**9
    numbers = np.arange(1, n_groups + 1) * 10**9
    found = median_of([values], [labels], numbers=numbers)
    for number, median in zip(numbers, found, strict=True):
        own = values[labels == number].astype(float)
        with np.errstate(invalid="ignore", over="ignore"):
            expected = np.median(own) if own.size else np.nan
        np.testing.assert_array_equal(median, expected)


def test_nan_inside_makes_nan_and_outside_does_not():
    values = np.array([1.0, np.nan, 3.0, -np.nan])
    assert np.isnan(median_of([values]))[0]
    assert median_of([values], [np.array([True, False, True, False])])[0] == 2.0
    found = median_of([values], [np.array([1, 2, 1, 0])], numbers=np.array([1, 2, 3]))
    np.testing.assert_array_equal(found, [2.0, np.nan, np.nan])


def test_nothing_has_no_median():
    assert np.isnan(median_of([np.ones(4)], [np.zeros(4, bool)]))[0]
    assert median_of([np.ones(4)], [np.zeros(4, int)], numbers=np.empty(0, np.int64)).size == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("n_groups", [1, 2, 100, 10_000, 10**6])
def test_rounds_cover_every_bit_once_and_stay_within_the_budget(dtype, n_groups):
    digits = ranks.rounds(np.dtype(dtype), n_groups)
    assert sum(d.bits for d in digits) == 8 * np.dtype(dtype).itemsize
    shift = 8 * np.dtype(dtype).itemsize
    for digit in digits:
        shift -= digit.bits
        assert digit.shift == shift
        assert digit.bits <= 4 or 2 * n_groups * 2**digit.bits <= 2**20


def test_more_groups_take_more_rounds_and_the_same_answer():
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 5, 500)
    numbers = np.arange(1, 100_000)
    assert len(ranks.rounds(values.dtype, numbers.size)) > 2
    found = median_of([values], [labels], numbers=numbers)
    expected = [np.median(values[labels == k].astype(float)) for k in range(1, 5)]
    np.testing.assert_array_equal(found[:4], expected)
    assert np.isnan(found[4:]).all()
