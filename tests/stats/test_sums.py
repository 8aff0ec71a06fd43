"""Maps from running sums, against the maps that have all scans at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.kernels import glm
from cohort.stats.voxels.sums import Sums, merged

CONTRASTS = {"mean": np.array([1.0, 0, 0]), "group": np.array([0.0, 1, 0])}


def data(n=40, v=60, far=1000.0):
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(n), np.arange(n) % 2, rng.uniform(50, 90, n)])
    return X, (far + rng.normal(0, 1, (n, v))).astype(np.float32)


def added(X, Y, origin):
    sums = Sums.empty(origin, X.shape[1])
    for x, y in zip(X, Y, strict=True):
        sums = sums.with_scan(x, y)
    return sums


def check(sums, X, Y):
    whole = glm.fit(Y, X, np.stack(list(CONTRASTS.values())))
    found = sums.fits(CONTRASTS)
    for name, expected in (("beta", whole.estimate), ("se", whole.se), ("t", whole.t)):
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["sigma"], whole.sigma, rtol=1e-10)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 39), max_size=6, unique=True))
def test_parts_that_are_merged_give_the_maps(cuts):
    X, Y = data()
    ends = [0, *sorted(cuts), 40]
    parts = [added(X[a:b], Y[a:b], Y[0]) for a, b in itertools.pairwise(ends)]
    check(merged(parts), X, Y)


@settings(max_examples=15)
@given(gone=st.sets(st.integers(0, 39), max_size=10))
def test_scans_that_leave_are_as_if_they_had_never_been_there(gone):
    X, Y = data()
    sums = added(X, Y, Y[0])
    for i in gone:
        sums = sums.without_scan(X[i], Y[i])
    rest = [i for i in range(40) if i not in gone]
    assert sums.n == len(rest)
    check(sums, X[rest], Y[rest])


def test_voxels_that_a_scan_lacks_have_no_map():
    X, Y = data()
    Y[3, 7] = np.nan
    Y[:, 8] = 5.0
    found = added(X, Y, np.nan_to_num(Y[0])).fits(CONTRASTS)
    assert np.isnan(found["t"][:, [7, 8]]).all()
    assert np.isfinite(found["t"][:, :7]).all()


def test_what_cannot_be_answered_is_refused():
    X, Y = data()
    with pytest.raises(glm.DependentColumns, match="found 2 in 40 rows"):
        added(np.column_stack([X[:, :2], X[:, 1]]), Y, Y[0]).fits(CONTRASTS)
    with pytest.raises(glm.DependentColumns, match="in 3 rows"):
        added(X[:3], Y[:3], Y[0]).fits(CONTRASTS)
    with pytest.raises(ValueError, match="count from the same values"):
        merged([added(X, Y, Y[0]), added(X, Y, Y[1])])
