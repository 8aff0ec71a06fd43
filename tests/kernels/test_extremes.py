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
    products[:, 0, 0] = np.arange(terms) == 0  # explained: huge, not infinite
    products[:, -1, -1] = np.arange(terms) == 1  # nuisance leaves nothing
    first = data.draw(st.integers(0, arrangements - 1))
    last = data.draw(st.integers(first + 1, arrangements))
    ignored = rng.random(outcomes) < 0.3
    bar = rng.uniform(-1, 1, outcomes)
    free = 1 - np.square(products[1:]).sum(axis=0)
    square = np.where(free > extremes.TIE, products[0] * np.abs(products[0]), 0)
    signed = square / np.maximum(free - np.square(products[0]), 1e-30)
    extreme = ORIENTED[alternative](signed[first:last])
    shares = ORIENTED[alternative]((square / np.where(free > extremes.TIE, free, 1))[first:last])
    # Sums of squares are added in another order, so an equal value could fall on either side of its bar.
    bar[np.isclose(shares, bar, rtol=1e-9).any(axis=0)] += 1e-3
    exceeded, maximum = rng.integers(0, 9, outcomes), rng.normal(size=last - first)
    expected_count = exceeded + (shares >= bar).sum(axis=0)
    expected_most = np.maximum(maximum, np.where(ignored, -np.inf, extreme).max(axis=1))
    untouched = np.delete(products, range(first, last), axis=1)
    side = extremes.SIDES[alternative]
    extremes.tally(products, first, last, bar, ignored, side, exceeded, maximum)
    np.testing.assert_allclose(products[0, first:last], signed[first:last], rtol=1e-9)
    np.testing.assert_array_equal(exceeded, expected_count)
    np.testing.assert_allclose(maximum, expected_most, rtol=1e-9)
    np.testing.assert_array_equal(np.delete(products, range(first, last), axis=1), untouched)


@given(df=st.integers(1, 1000), seed=st.integers(0, 1000))
def test_what_is_explained_follows_from_t_and_says_it_again(df, seed):
    t = np.concatenate([np.random.default_rng(seed).normal(0, 10, 50), [0.0]])
    share = extremes.explained(t, df)
    np.testing.assert_allclose(
        np.sign(share) * np.sqrt(np.abs(share) * df / (1 - np.abs(share))), t
    )
    assert (np.argsort(share) == np.argsort(t)).all()
    assert (extremes.bars(share) < share).all()
    assert extremes.explained(np.array([-np.inf, np.inf]), df).tolist() == [-1, 1]
