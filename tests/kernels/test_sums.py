"""Maps from running sums, against the maps that have all scans at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.kernels import glm
from cohort.kernels.sums import Sums, fits

CONTRASTS = np.array([[1.0, 0, 0], [0.0, 1, 0], [0.0, 30, 1]])
JOINT = (np.eye(3)[1:], np.eye(3)[:2])


def data(n=40, v=60, far=1000.0, seed=2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), np.arange(n) % 2, rng.uniform(50, 90, n)])
    return X, (far + rng.normal(0, 1, (n, v))).astype(dtype)


def added(X, Y, origin, above=None):
    sums = Sums.empty(origin, X.shape[1])
    for x, y in zip(X, Y, strict=True):
        sums.add(x, y, above=above)
    return sums


def check(sums, X, Y, voxels=None):
    voxels = np.arange(Y.shape[1]) if voxels is None else voxels
    whole = glm.fit(Y[:, voxels], X, CONTRASTS, JOINT)
    found = fits(sums, X, CONTRASTS, JOINT, voxels)
    for name in ("estimate", "se", "t", "F", "sigma", "mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    for name in ("n", "df", "state"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


@settings(max_examples=25)
@given(
    gone=st.sets(st.integers(0, 39), max_size=20),
    cut=st.integers(1, 39),
    far=st.sampled_from([0.0, 1.0, 1000.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 50),
)
def test_sums_of_parts_without_those_who_left_give_the_maps(gone, cut, far, dtype, seed):
    X, Y = data(far=far, dtype=dtype, seed=seed)
    sums, other = added(X[:cut], Y[:cut], Y[0], far), added(X[cut:], Y[cut:], Y[0], far)
    sums.merge(other)
    for i in gone:
        sums.remove(X[i], Y[i], above=far)
    rest = [i for i in range(40) if i not in gone]
    check(sums, X[rest], Y[rest])
    np.testing.assert_array_equal(sums.above, (Y[rest] > far).sum(axis=0))


@given(seed=st.integers(0, 50))
def test_a_scan_with_another_row_and_sums_without_an_origin_of_somebody(seed):
    X, Y = data(seed=seed)
    sums, moved = added(X, Y, Y[0]), X.copy()
    moved[5] = [1, 1 - X[5, 1], 55.0]
    sums.move(X[5], moved[5], Y[5])
    check(sums, moved, Y)
    assert sums.recentred(moved)
    np.testing.assert_allclose(sums.origin, Y.mean(axis=0, dtype=float), rtol=1e-12)
    check(sums, moved, Y)


@settings(max_examples=60)
@given(
    who=st.sampled_from([0, 7]), power=st.floats(0, 9), withdrawn=st.booleans(), seed=st.integers(0, 50)
)  # fmt: skip
def test_digits_are_kept_or_known_to_be_lost_where_who_leaves_was_far_from_the_others(
    who, power, withdrawn, seed
):
    """Scan 0 is the one from which values are counted; it may have left before."""
    X, Y = data(far=1.0, seed=seed, dtype=np.float64)
    Y[who] *= 10**power
    sums, rest = added(X, Y, Y[0]), np.setdiff1d(np.arange(40), [0, who])
    most = sums.yy.copy()
    for i in {0, who}:
        sums.remove(X[i], Y[i])
    lost = sums.lost(len(rest), most, above=None)
    if withdrawn and not sums.recentred(X[rest]):
        assert lost
    if power < 2:
        assert not lost
    if power > 4:
        assert lost
    if not lost:
        check(sums, X[rest], Y[rest])


def test_a_voxel_comes_back_when_the_scan_that_lacks_it_leaves():
    X, Y = data(far=100.0)
    Y[3, [7, 9]] = np.nan, np.inf
    Y[0, 11] = np.nan  # of the origin, too
    sums = added(X, Y, Y[0])
    np.testing.assert_array_equal(np.flatnonzero(sums.lacking), [7, 9, 11])
    assert not sums.recentred(X)  # voxel 7 has an origin, and some lack it
    whole = np.setdiff1d(np.arange(60), [7, 9, 11])
    check(sums, X, Y, whole)
    sums.remove(X[3], Y[3])
    sums.remove(X[0], Y[0])
    rest = [i for i in range(40) if i not in (0, 3)]
    assert not sums.lacking.any()
    check(sums, X[rest], Y[rest])


def test_values_that_are_constant_or_explained_are_told_apart():
    X, Y = data()
    Y[:, 8] = 5.0
    Y[:, 9] = X[:, 1] * 3
    sums = added(X, Y, Y[0])
    check(sums, X, Y)
    state = fits(sums, X, CONTRASTS, JOINT, np.array([7, 8, 9])).state
    assert state.tolist() == [glm.FITTED, glm.CONSTANT, glm.EXPLAINED]
    sums.remove(X[0], Y[0])
    assert sums.recentred(X[1:])
    state = fits(sums, X[1:], CONTRASTS, JOINT, np.array([7, 8, 9])).state
    assert state.tolist() == [glm.FITTED, glm.CONSTANT, glm.EXPLAINED]


def test_what_cannot_be_answered_is_refused():
    X, Y = data()
    voxels = np.arange(60)
    twice = np.column_stack([X[:, :2], X[:, 1]])
    with pytest.raises(glm.DependentColumns, match="found 2 in 40 rows"):
        fits(added(twice, Y, Y[0]), twice, CONTRASTS, JOINT, voxels)
    with pytest.raises(glm.DependentColumns, match="in 3 rows"):
        fits(added(X[:3], Y[:3], Y[0]), X[:3], CONTRASTS, JOINT, voxels)
