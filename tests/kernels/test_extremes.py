"""Counts and maxima of arrangements against the formula, written out in NumPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cohort.kernels import extremes

ORIENTED = {"two-sided": np.abs, "greater": np.asarray, "less": np.negative}


@given(
    terms=st.integers(1, 6),
    arrangements=st.integers(1, 70),
    outcomes=st.integers(1, 70),
    alternative=st.sampled_from(list(extremes.SIDES)),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_counts_and_maxima_are_those_of_the_formula(
    terms, arrangements, outcomes, alternative, seed, data
):
    rng = np.random.default_rng(seed)
    products = rng.normal(size=(terms, arrangements, outcomes)) / 4
    products[0, 0, 0] = 1.0  # explained by the terms: huge, not infinite
    first = data.draw(st.integers(0, arrangements - 1))
    last = data.draw(st.integers(first + 1, arrangements))
    ignored = rng.random(outcomes) < 0.3
    bar = rng.normal(size=outcomes)
    left = np.maximum(1 - np.square(products).sum(axis=0), 1e-30)
    signed = products[0] * np.abs(products[0]) / left
    extreme = ORIENTED[alternative](signed[first:last])
    # Sums of squares are added in another order, so an equal value could fall on either side of its bar.
    bar[np.isclose(extreme, bar, rtol=1e-9).any(axis=0)] += 1e-3
    exceeded, maximum = rng.integers(0, 9, outcomes), rng.normal(size=last - first)
    expected_count = exceeded + (extreme >= bar).sum(axis=0)
    expected_most = np.maximum(maximum, np.where(ignored, -np.inf, extreme).max(axis=1))
    untouched = np.delete(products, range(first, last), axis=1)
    side = extremes.SIDES[alternative]
    extremes.tally(products, first, last, bar, ignored, side, exceeded, maximum)
    np.testing.assert_allclose(products[0, first:last], signed[first:last], rtol=1e-9)
    np.testing.assert_array_equal(exceeded, expected_count)
    np.testing.assert_allclose(maximum, expected_most, rtol=1e-9)
    np.testing.assert_array_equal(np.delete(products, range(first, last), axis=1), untouched)
