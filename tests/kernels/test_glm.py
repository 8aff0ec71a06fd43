"""A linear model in every voxel, against statsmodels voxel by voxel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cohort.kernels import glm


def people(n, seed):
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(n) % 2)
    return np.column_stack(
        [np.ones(n), group, rng.uniform(50, 90, n), rng.normal(1500, 120, n)]
    ), rng


def reference(y, X, contrasts, joint):
    import statsmodels.api as sm

    has = ~np.isnan(y)
    fitted = sm.OLS(y[has].astype(float), X[has]).fit()
    tests = [fitted.t_test(c) for c in contrasts]
    covariance = fitted.cov_HC3
    both = [fitted.f_test(C) for C in joint]
    hc3 = [float(c @ fitted.params / np.sqrt(c @ covariance @ c)) for c in contrasts]
    return {
        "estimate": [float(t.effect[0]) for t in tests],
        "se": [t.sd.item() for t in tests],
        "t": [t.tvalue.item() for t in tests],
        "p": [t.pvalue.item() for t in tests],
        "hc3_t": hc3,
        "hc3_p": 2 * stats.t.sf(np.abs(hc3), fitted.df_resid),
        "F": [float(f.fvalue) for f in both],
        "F_p": [float(f.pvalue) for f in both],
        "sigma": np.sqrt(fitted.mse_resid),
        "mean": y[has].astype(float).mean(),
        "n": has.sum(),
        "df": fitted.df_resid,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_statsmodels_in_200_voxels_also_where_scans_are_missing(dtype):
    X, rng = people(60, 1)
    Y = (X @ rng.normal(0, [3, 1, 0.1, 0.01], (200, 4)).T + rng.normal(0, 2, (60, 200))).astype(
        dtype
    )
    Y[rng.random(Y.shape) < 0.05] = np.nan
    Y[:, :40] = np.where(np.isnan(Y[:, :40]), 1.5, Y[:, :40])  # some voxels that every scan has
    contrasts = np.array([[0, 1, 0, 0], [0, 2, 0.5, 0.0]])
    joint = [np.array([[0.0, 1, 0, 0], [0, 0, 1, 0]])]
    found = glm.fit(Y, X, contrasts, joint)
    assert (found.state == glm.FITTED).all()
    assert len(np.unique(found.n)) > 3
    for v in range(Y.shape[1]):
        for name, expected in reference(Y[:, v], X, contrasts, joint).items():
            np.testing.assert_allclose(
                getattr(found, name)[..., v], expected, rtol=1e-9, atol=1e-11, err_msg=name
            )


@given(
    cut=st.integers(1, 1099), n=st.integers(13, 30), p=st.integers(1, 11), seed=st.integers(0, 50)
)
def test_a_voxel_has_the_same_bits_in_any_block(cut, n, p, seed):
    X, rng = people(n, seed)
    X = np.column_stack([X, rng.normal(size=(n, 7))])[:, :p]
    Y = rng.normal(100, 5, (n, 1100)).astype(np.float32)
    Y[rng.random(Y.shape) < 0.01] = np.nan
    Y[:, 512:520] = np.nan
    contrasts, joint = np.eye(p)[-1:], [np.eye(p)]
    whole = glm.fit(Y, X, contrasts, joint)
    for part, place in (
        (glm.fit(Y[:, :cut], X, contrasts, joint), slice(cut)),
        (glm.fit(Y[:, cut:], X, contrasts, joint), slice(cut, None)),
    ):
        for name, values in vars(part).items():
            assert values.tobytes() == getattr(whole, name)[..., place].tobytes(), name


@pytest.mark.parametrize("p", range(1, 11))
def test_any_number_of_columns_and_rows_equals_statsmodels(p):
    n = 2 * p + 5
    X, rng = people(n, p)
    X = np.column_stack([X, rng.normal(size=(n, 6))])[:, :p]
    Y = rng.normal(3, 2, (n, 2))
    found = glm.fit(Y, X, np.eye(p)[-1:], [np.eye(p)])
    for v in range(2):
        for name, expected in reference(Y[:, v], X, np.eye(p)[-1:], [np.eye(p)]).items():
            np.testing.assert_allclose(
                getattr(found, name)[..., v], expected, rtol=1e-9, atol=1e-11, err_msg=name
            )


def test_far_from_zero_the_residuals_keep_their_digits():
    X, rng = people(40, 3)
    y = rng.normal(0, 1e-3, (40, 5))
    contrasts = np.eye(4)[1:2]
    near, far = glm.fit(y, X, contrasts), glm.fit(y + 1e4, X, contrasts)
    np.testing.assert_allclose(far.t, near.t, rtol=1e-6)
    intercept = np.eye(4)[:1]
    found = glm.fit(y + 1e4, X, intercept).estimate - glm.fit(y, X, intercept).estimate
    np.testing.assert_allclose(found, 1e4, rtol=1e-10)


def test_voxels_without_an_answer_say_why():
    X, rng = people(20, 4)
    Y = rng.normal(0, 1, (20, 6))
    Y[:, 0] = np.nan
    Y[4:, 1] = np.nan
    Y[X[:, 1] == 1, 2] = np.nan
    Y[:, 3] = 7.25
    Y[:, 4] = X @ [1, 2, 3, 4.0]
    found = glm.fit(Y, X, np.eye(4)[1:2])
    expected = [glm.NO_SCAN, glm.FEW_SCANS, glm.ALIKE, glm.CONSTANT, glm.EXPLAINED, glm.FITTED]
    assert found.state.tolist() == expected
    assert np.isnan(found.t[0, :5]).all()
    assert np.isfinite(found.t[0, 5])
    assert found.n.tolist() == [0, 4, 10, 20, 20, 20]


def test_a_design_that_depends_on_itself_is_refused_with_its_rank():
    X, _ = people(20, 5)
    twice = np.column_stack([X, X[:, 1] * 3])
    with pytest.raises(
        glm.DependentColumns,
        match="expected 5 independent columns and more rows than that, found 4 in 20",
    ):
        glm.fit(np.zeros((20, 3)), twice, np.eye(5)[1:2])


@given(p=st.integers(2, 6), twice=st.integers(1, 3), seed=st.integers(0, 100))
def test_contrasts_that_follow_from_each_other_are_tested_once(p, twice, seed):
    X, rng = people(30, seed)
    X = np.column_stack([X, rng.normal(size=(30, 3))])[:, :p]
    Y = X @ (rng.normal(0, 0.3, (p, 3)) / np.abs(X).max(axis=0)[:, None]) + rng.normal(size=(30, 3))
    asked = rng.normal(size=(rng.integers(1, p), p))
    more = rng.normal(size=(twice, len(asked))) @ asked * 10.0 ** rng.integers(-6, 7, (twice, 1))
    C = rng.permutation(np.vstack([asked, more]))
    expected = reference(Y[:, 0], X, np.eye(p)[:1], [asked])
    found = glm.fit(Y, X, np.eye(p)[:1], [C])
    np.testing.assert_allclose(found.F[0, 0], expected["F"][0], rtol=1e-6)
    np.testing.assert_allclose(found.F_p[0, 0], expected["F_p"][0], rtol=1e-6, atol=1e-12)
    assert len(glm.independent(C)) == len(asked) == np.linalg.matrix_rank(asked)
    kept = glm.independent(asked)
    np.testing.assert_array_equal(kept, asked)


def test_what_one_scan_alone_decides_has_no_robust_error():
    """Of other contrasts the robust error is that without the scan, which statsmodels has; also where scans are missing."""
    X, rng = people(24, 8)
    X = np.column_stack([X, np.zeros(24), np.zeros(24)])
    X[3, 4] = 1.0  # of this site there is one scan
    X[[5, 6], 5] = 1.0  # and of this one there are two, until one is missing
    Y = rng.normal(3, 2, (24, 40))
    Y[5, 20:] = np.nan
    contrasts = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1], [0, 1.0, 0, 0, 1e-9, 0]])  # fmt: skip
    found = glm.fit(Y, X, contrasts)
    assert np.isfinite(found.t).all()
    decided = np.isnan(found.hc3_t)
    np.testing.assert_array_equal(np.isnan(found.hc3_p), decided)
    assert decided[1].all()
    np.testing.assert_array_equal(decided[2], np.arange(40) >= 20)
    assert not decided[[0, 3]].any()
    for v in range(40):
        rows = np.setdiff1d(np.arange(24), [3] if v < 20 else [3, 5, 6])
        columns = [0, 1, 2, 3, 5] if v < 20 else [0, 1, 2, 3]
        own = [0, 2] if v < 20 else [0]
        told = reference(Y[rows, v], X[np.ix_(rows, columns)], contrasts[np.ix_(own, columns)], [])
        for name in ("hc3_t", "hc3_p"):
            np.testing.assert_allclose(getattr(found, name)[own, v], told[name], rtol=1e-9)
