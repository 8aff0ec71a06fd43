"""Random intercepts against the dense likelihood, closed forms of balanced designs, published values and MixedLM."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cohort.stats.mixed import DesignError, fit_many, fit_mixed

FORMULA = "years * dem + years * conv + age0 + male + icv"


def simulated(n_subjects=40, seed=0, subject_sd=2.0, slope_sd=0.0, m=1):
    """Two to five visits a person; X holds an intercept, time, a group and their interaction."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_subjects), rng.integers(1, 6, n_subjects))
    codes = np.concatenate([codes, np.arange(n_subjects)])
    time = rng.uniform(0, 4, len(codes))
    group = (np.arange(n_subjects) % 2)[codes].astype(float)
    X = np.column_stack([np.ones(len(codes)), time, group, time * group])
    Y = 1500 + X @ rng.normal(0, 1, (4, m)) + rng.normal(0, 1, (len(codes), m))
    Y += rng.normal(0, subject_sd, (n_subjects, m))[codes]
    Y += rng.normal(0, slope_sd, (n_subjects, m))[codes] * time[:, None] if slope_sd else 0
    return X, Y, codes


def table_of(X, y, codes):
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(len(y))],
            "subject": [f"p{c:03d}" for c in codes],
            "time": X[:, 1],
            "dx": X[:, 2],
            "volume": y,
        }
    )


def dense_deviance(X, y, codes, ratio, variance=None, *, reml=True):
    """-2 log-likelihood from the n x n covariance, profiled over the variance unless that is given."""
    n, p = X.shape
    V = np.eye(n) + ratio * (codes[:, None] == codes)
    inverse = np.linalg.inv(V)
    information = X.T @ inverse @ X
    b = np.linalg.solve(information, X.T @ inverse @ y)
    rss = (y - X @ b) @ inverse @ (y - X @ b)
    df = n - p if reml else n
    variance = rss / df if variance is None else variance
    deviance = df * math.log(2 * math.pi * variance) + rss / variance + np.linalg.slogdet(V)[1]
    deviance += np.linalg.slogdet(information)[1] if reml else 0
    return deviance, b, variance * np.linalg.inv(information)


@given(seed=st.integers(0, 10_000), subject_sd=st.sampled_from([0.0, 0.3, 2.0]), reml=st.booleans())
def test_a_fit_is_the_maximum_of_the_dense_likelihood(seed, subject_sd, reml):
    X, Y, codes = simulated(15, seed, subject_sd)
    fit = fit_many(X, Y, codes, method="reml" if reml else "ml")
    y, ratio = Y[:, 0], fit.ratio[0]
    deviance, b, covariance = dense_deviance(X, y, codes, ratio, reml=reml)
    assert fit.log_likelihood[0] == pytest.approx(-deviance / 2, rel=1e-10)
    np.testing.assert_allclose(fit.estimate[:, 0], b, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.covariance[0], covariance, rtol=1e-7, atol=1e-12)
    for other in [0, *np.logspace(-5, 5, 41), ratio * 0.999, ratio * 1.001]:
        assert dense_deviance(X, y, codes, other, reml=reml)[0] >= deviance - 1e-9
    assert fit.boundary[0] == (ratio == 0)


def balanced(seed, n_subjects, visits):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_subjects), visits)
    y = 700 + rng.normal(0, 5, n_subjects)[codes] + rng.normal(0, 1, len(codes))
    return codes, y.reshape(n_subjects, visits)


@given(seed=st.integers(0, 10_000), n_subjects=st.integers(4, 30), visits=st.integers(2, 5))
def test_balanced_variances_are_those_of_the_analysis_of_variance(seed, n_subjects, visits):
    codes, y = balanced(seed, n_subjects, visits)
    fit = fit_many(np.ones((y.size, 1)), y.ravel(), codes)
    within = y.var(axis=1, ddof=1).mean()
    between = (visits * y.mean(axis=1).var(ddof=1) - within) / visits
    assert fit.var_resid[0] == pytest.approx(within, rel=1e-9)
    assert fit.var_subject[0] == pytest.approx(between, rel=1e-9)
    assert fit.icc[0] == pytest.approx(between / (between + within), rel=1e-9)
    assert fit.df[0, 0] == pytest.approx(n_subjects - 1, rel=1e-6)
    mean = stats.ttest_1samp(y.mean(axis=1), 0)
    assert fit.statistic[0, 0] == pytest.approx(mean.statistic, rel=1e-9)
    assert fit.p[0, 0] == pytest.approx(mean.pvalue, rel=1e-5)


@given(seed=st.integers(0, 10_000), n_subjects=st.integers(4, 30))
def test_two_visits_are_the_paired_t_test(seed, n_subjects):
    codes, y = balanced(seed, n_subjects, 2)
    visit = np.tile([0.0, 1.0], n_subjects)
    fit = fit_many(np.column_stack([np.ones(y.size), visit]), y.ravel(), codes)
    paired = stats.ttest_rel(y[:, 1], y[:, 0])
    assert fit.statistic[1, 0] == pytest.approx(paired.statistic, rel=1e-8)
    assert fit.df[1, 0] == pytest.approx(n_subjects - 1, rel=1e-6)
    assert fit.p[1, 0] == pytest.approx(paired.pvalue, rel=1e-5)
    interval = paired.confidence_interval()
    assert (fit.ci_low[1, 0], fit.ci_high[1, 0]) == pytest.approx((interval.low, interval.high))


@given(seed=st.integers(0, 10_000), n_subjects=st.integers(6, 30), visits=st.integers(2, 4))
def test_a_group_of_balanced_subjects_is_the_t_test_of_their_means(seed, n_subjects, visits):
    codes, y = balanced(seed, n_subjects, visits)
    group = (np.arange(n_subjects) % 2).astype(float)
    fit = fit_many(np.column_stack([np.ones(y.size), group[codes]]), y.ravel(), codes)
    means = y.mean(axis=1)
    student = stats.ttest_ind(means[group == 1], means[group == 0])
    assert fit.statistic[1, 0] == pytest.approx(student.statistic, rel=1e-8)
    assert fit.df[1, 0] == pytest.approx(n_subjects - 2, rel=1e-6)
    assert fit.p[1, 0] == pytest.approx(student.pvalue, rel=1e-5)


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("seed", range(4))
def test_degrees_of_freedom_are_those_that_lmertest_differentiates_numerically(method, seed):
    X, Y, codes = simulated(12, seed)
    y, reml = Y[:, 0], method == "reml"
    fit = fit_many(X, Y, codes, method=method)
    at = np.array([math.sqrt(fit.ratio[0]), math.sqrt(fit.var_resid[0])])  # lme4's theta, sigma

    def deviance(v):
        return dense_deviance(X, y, codes, v[0] ** 2, v[1] ** 2, reml=reml)[0]

    def variances(v):
        return np.diag(dense_deviance(X, y, codes, v[0] ** 2, v[1] ** 2, reml=reml)[2])

    h = 1e-3 * np.eye(2)
    steps = [[deviance(at + a + b) for b in (*h, *-h)] for a in (*h, *-h)]
    hessian = np.array(
        [
            [(steps[i][j] - steps[i][j + 2] - steps[i + 2][j] + steps[i + 2][j + 2]) / 4e-6]
            for i in range(2)
            for j in range(2)
        ]
    ).reshape(2, 2)
    gradient = np.array([(variances(at + s) - variances(at - s)) / 2e-3 for s in h])
    spread = np.einsum("ij,ik,kj->j", gradient, 2 * np.linalg.inv(hessian), gradient)
    np.testing.assert_allclose(fit.df[:, 0], 2 * variances(at) ** 2 / spread, rtol=1e-3)


def test_on_the_boundary_the_fit_is_ordinary_least_squares():
    X, _, codes = simulated(20, 1)
    rng = np.random.default_rng(0)
    means = X[:, :1] * 0 + rng.normal(0, 1, (len(X), 3))
    sums = np.zeros((20, 3))
    np.add.at(sums, codes, means)
    Y = means - (sums / np.bincount(codes)[:, None])[codes]  # subjects do not differ at all
    fit = fit_many(X, Y, codes)
    assert fit.boundary.all()
    assert (fit.var_subject == 0).all()
    for j in range(3):
        plain = sm.OLS(Y[:, j], X).fit()
        np.testing.assert_allclose(fit.estimate[:, j], plain.params, rtol=1e-8, atol=1e-13)
        np.testing.assert_allclose(fit.se[:, j], plain.bse, rtol=1e-8)
        np.testing.assert_allclose(fit.p[:, j], plain.pvalues, rtol=1e-7)
        assert (fit.df[:, j] == plain.df_resid).all()


def test_outcomes_with_missing_rows_are_fitted_on_their_own_rows():
    X, Y, codes = simulated(30, 5, m=7)
    rng = np.random.default_rng(1)
    Y[rng.random(Y.shape) < 0.1] = np.nan
    Y[:, 6] = Y[:, 5]  # a pattern that two outcomes share
    labels = np.array([f"person {c}" for c in codes])
    fit = fit_many(X, Y, labels)
    for j in range(7):
        rows = ~np.isnan(Y[:, j])
        alone = fit_many(X[rows], Y[rows, j], labels[rows])
        for name in ("estimate", "se", "df", "p", "ci_low", "z_p"):
            np.testing.assert_allclose(
                getattr(fit, name)[:, j], getattr(alone, name)[:, 0], rtol=1e-8, err_msg=name
            )
        assert fit.ratio[j] == pytest.approx(alone.ratio[0], rel=1e-8)
        assert fit.n[j] == rows.sum()
        assert fit.n_subjects[j] == len(set(labels[rows]))


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_units_offsets_labels_and_the_order_of_rows_play_no_part(seed, scale):
    X, Y, codes = simulated(20, seed)
    order = np.random.default_rng(seed).permutation(len(Y))
    first = fit_many(X, Y, codes)
    moved = X[order] * np.array([1, 1 / scale, 1, 1 / scale])
    again = fit_many(moved, scale * (Y[order] + 10), (37 - codes)[order])
    np.testing.assert_allclose(again.statistic[1:], first.statistic[1:], rtol=1e-6)
    np.testing.assert_allclose(again.p[1:], first.p[1:], rtol=1e-5, atol=1e-300)
    np.testing.assert_allclose(again.icc, first.icc, rtol=1e-6, atol=1e-12)


def test_many_outcomes_are_each_what_they_are_alone():
    X, Y, codes = simulated(25, 3, subject_sd=0.2, m=30)
    Y[:, 3] = X[:, 1]
    Y[:, 4] = codes
    fit = fit_many(X, Y, codes)
    assert "exact combination" in fit.problem[3]
    assert "does not vary within subjects" in fit.problem[4]
    assert np.isnan(fit.estimate[:, 3:5]).all()
    assert 0 < fit.boundary.sum() < 28
    for j in range(30):
        alone = fit_many(X, Y[:, j], codes)
        np.testing.assert_allclose(fit.estimate[:, j], alone.estimate[:, 0], rtol=1e-9)
        assert fit.problem[j] == alone.problem[0]


def test_rows_that_cannot_tell_say_why():
    X, Y, codes = simulated(20, 3)
    for rows, groups, match in [
        (np.unique(codes, return_index=True)[1], codes, "each of 20 subjects has one row only"),
        (np.arange(4), codes, "4 rows for 4 columns"),
        (np.arange(len(X)), codes * 0, "1 subjects for 1 terms that differ between subjects"),
    ]:
        assert match in fit_many(X[rows], Y[rows], groups[rows]).problem[0]
    doubled = np.column_stack([X, X[:, 1] * 2])
    assert "depend on each other" in fit_many(doubled, Y, codes).problem[0]
    with pytest.raises(DesignError, match="it takes reml, ml"):
        fit_many(X, Y, codes, method="pql")
    with pytest.raises(DesignError, match="one number of rows"):
        fit_many(X, Y[:-1], codes)
    with pytest.raises(DesignError, match="finite"):
        fit_many(np.where(X == 1, np.inf, X), Y, codes)


def longitudinal(shared):
    """The table of reference/statistics.md 3.5, from the visits of OASIS-2."""
    visits = pd.read_csv(shared / "oasis" / "oasis2_longitudinal.csv")
    return pd.DataFrame(
        {
            "scan_id": visits["MRI ID"],
            "subject": visits["Subject ID"],
            "y": 100 * visits["nWBV"],
            "years": visits["MR Delay"] / 365.25,
            "dem": visits["Group"] == "Demented",
            "conv": visits["Group"] == "Converted",
            "age0": visits.groupby("Subject ID")["Age"].transform("first") - 75,
            "male": visits["M/F"] == "M",
            "icv": (visits["eTIV"] - 1500) / 100,
        }
    )


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_reference_numbers_of_the_longitudinal_model(shared, method):
    reference = pd.read_csv(shared / "oasis" / "reference_stats.csv", index_col="key")
    exact, lme4 = reference["exact_profile"], reference["R"]
    fit = fit_mixed(longitudinal(shared), outcome="y", formula=FORMULA, method=method)
    tidy, whole = fit.tidy.set_index("term"), fit.glance.iloc[0]
    terms = [key.split(".")[2] for key in exact.index if key.startswith(f"L.{method}.")]
    for term in {t for t in terms if t in tidy.index}:
        for field, column in {"b": "estimate", "se": "se"}.items():
            key = f"L.{method}.{term}.{field}"
            assert tidy.loc[term, column] == pytest.approx(exact[key], rel=1e-8), key
            assert tidy.loc[term, column] == pytest.approx(lme4[key], rel=1e-5), key
    for name, column in {
        "lambda": "ratio",
        "var_subj": "var_subject",
        "var_resid": "var_resid",
        "llf": "log_likelihood",
        "icc": "icc",
    }.items():
        assert whole[column] == pytest.approx(exact[f"L.{method}.{name}"], rel=1e-8), name
    assert (whole["n"], whole["n_subjects"]) == (373, 150)


def test_mixedlm_agrees_as_far_as_its_optimiser_goes(shared, record_property):
    fit = fit_mixed(longitudinal(shared), outcome="y", formula=FORMULA)
    X, y = fit.design.X.to_numpy(), fit.design.y.to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rival = sm.MixedLM(y, X, fit.design.rows["subject"]).fit(reml=True)
    gap = np.abs(fit.tidy["estimate"] / rival.fe_params - 1)
    record_property("largest relative difference of an estimate", float(gap.max()))
    np.testing.assert_allclose(fit.tidy["estimate"], rival.fe_params, rtol=1e-4, atol=1e-4)
    assert fit.glance["log_likelihood"][0] == pytest.approx(rival.llf, rel=1e-8)
    predicted = np.array([value.iloc[0] for value in rival.random_effects.values()])
    np.testing.assert_allclose(fit.subjects["intercept"], predicted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        fit.augment["observed"] - fit.augment["fitted_subject"], fit.augment["residual"]
    )


@pytest.mark.slow
def test_random_slopes_are_those_of_lme4(shared):
    fit = fit_mixed(longitudinal(shared), outcome="y", formula=FORMULA, slope="years")
    row, whole = fit.tidy.set_index("term").loc["years:dem"], fit.glance.iloc[0]
    assert row["estimate"] == pytest.approx(-0.19945716255, rel=1e-4)
    assert row["se"] == pytest.approx(0.07382422486, rel=1e-4)
    assert whole["log_likelihood"] == pytest.approx(-681.442433579, rel=1e-7)
    assert whole["lrt"] == pytest.approx(2 * (690.901478545080 - 681.442433579), rel=1e-5)
    compared = fit.compared.set_index("term").loc["years:dem"]
    assert compared["se_intercept"] == pytest.approx(0.059457314282, rel=1e-8)
    assert compared["ratio"] == pytest.approx(0.07382422486 / 0.059457314282, rel=1e-4)
    assert fit.tidy["df"].isna().all()
    assert any("normal distribution" in text for text in fit.warnings)


@pytest.mark.parametrize(("seed", "slope_sd"), [(0, 1.0), (1, 0.0)])
def test_random_slopes_are_generalised_least_squares_and_never_warn(seed, slope_sd):
    X, Y, codes = simulated(40, seed, slope_sd=slope_sd)
    fit = fit_mixed(table_of(X, Y[:, 0], codes), formula="volume ~ time * dx", slope="time")
    whole = fit.glance.iloc[0]
    random = np.array(
        [[whole["var_subject"], whole["cov_slope"]], [whole["cov_slope"], whole["var_slope"]]]
    )
    Z = X[:, :2]
    V = (Z @ random @ Z.T) * (codes[:, None] == codes) + whole["var_resid"] * np.eye(len(X))
    inverse = np.linalg.inv(V)
    order = ["Intercept", "time", "dx", "time:dx"]
    covariance = np.linalg.inv(X.T @ inverse @ X)
    b = covariance @ X.T @ inverse @ Y[:, 0]
    tidy = fit.tidy.set_index("term").loc[order]
    np.testing.assert_allclose(tidy["estimate"], b, rtol=1e-7)
    np.testing.assert_allclose(tidy["se"], np.sqrt(np.diag(covariance)), rtol=1e-7)
    rest = Y[:, 0] - X @ b
    likelihood = -0.5 * (
        (len(X) - 4) * math.log(2 * math.pi)
        + np.linalg.slogdet(V)[1]
        - np.linalg.slogdet(covariance)[1]
        + rest @ inverse @ rest
    )
    assert whole["log_likelihood"] == pytest.approx(likelihood, rel=1e-9)
    expected = (stats.chi2.sf(whole["lrt"], 1) + stats.chi2.sf(whole["lrt"], 2)) / 2
    assert whole["lrt_p"] == pytest.approx(expected, rel=1e-12)
    assert (expected < 0.01) == bool(slope_sd)
    assert fit.subjects["slope"].std() < 1.5
    effects = (
        random @ np.array([Z[codes == s].T @ (inverse @ rest)[codes == s] for s in range(40)]).T
    )
    np.testing.assert_allclose(
        fit.subjects[["intercept", "slope"]].to_numpy().T, effects, rtol=1e-5, atol=1e-6
    )


def test_what_an_optimiser_that_failed_complained_of_is_not_told():
    X, Y, codes = simulated(40, 3, slope_sd=0.0)  # where the gradient of bfgs stalls
    fit = fit_mixed(table_of(X, Y[:, 0], codes), formula="volume ~ time * dx", slope="time")
    (found,) = [text for text in fit.warnings if "bfgs" in text]
    assert found == "the random slopes were found by powell, after bfgs failed"


@pytest.mark.parametrize(
    ("slope_sd", "said"),
    [
        (1.5, "Subjects differ in their change along time"),
        (0.0, "Subjects do not show that they differ in their change along time"),
    ],
)
def test_the_sentence_on_slopes_is_that_of_the_likelihood_ratio_at_five_percent(slope_sd, said):
    X, Y, codes = simulated(40, 7, slope_sd=slope_sd)
    table = table_of(X, Y[:, 0], codes)
    fit = fit_mixed(table, formula="volume ~ time * dx", slope="time")
    p = fit.glance["lrt_p"].item()
    assert p < 0.01 if slope_sd else 0.05 < p < 0.95
    assert fit.reading[-1].startswith(f"{said}: likelihood ratio ")


def test_the_rows_of_a_subject_are_accounted_for_and_not_warned_of():
    X, Y, codes = simulated(40, 2)
    table = table_of(X, Y[:, 0], codes)
    table.loc[[3, 5], "subject"] = [None, " "]
    table.loc[7, "time"] = np.nan
    fit = fit_mixed(
        table, outcome="volume", formula="time", confounds=["dx"], units={"volume": "ml"}
    )
    assert fit.design.n_repeated > 0
    assert not [text for text in fit.warnings if "not independent" in text]
    assert fit.design.reasons == {"missing subject": 2, "missing time": 1}
    assert fit.to_json()["rows"]["n_table"] == len(table)
    assert len(fit.augment) == len(table) - 3
    assert fit.subjects["n"].sum() == len(table) - 3
    assert set(fit.augment["scan_id"]) == set(table["scan_id"]) - {"s3", "s5", "s7"}
    assert json.loads(json.dumps(fit.to_json(), allow_nan=False))["glance"]["lrt"] is None
    assert "variance between subjects" in fit.summary()
    assert fit.reading[0].startswith("time: ")
    assert " ml " in fit.reading[0]
    assert fit.reading[0].endswith("the other terms held equal.")
    crossed = fit_mixed(table, formula="volume ~ time * dx").reading
    assert all("read together with the other terms of its columns" in text for text in crossed[:3])
    assert "nothing else held equal" in fit_mixed(table, formula="volume ~ dx").reading[0]
    plain = fit_mixed(table.drop(columns="scan_id"), formula="volume ~ time + dx")
    assert plain.tidy["estimate"].tolist() == fit.tidy["estimate"].tolist()


@pytest.mark.parametrize("slope", [None, "time"])
def test_the_order_of_the_table_changes_no_bit(slope):
    X, Y, codes = simulated(40, 2, slope_sd=1.0)
    table = table_of(X, Y[:, 0], codes)
    first, second = (
        fit_mixed(t, formula="volume ~ time * dx", slope=slope)
        for t in (table, table.sample(frac=1, random_state=3))
    )
    pd.testing.assert_frame_equal(first.tidy, second.tidy, check_exact=True)
    pd.testing.assert_frame_equal(first.glance, second.glance, check_exact=True)
    pd.testing.assert_frame_equal(first.covariance, second.covariance, check_exact=True)


def test_warnings_of_a_small_and_of_an_unclustered_table():
    rng = np.random.default_rng(1)
    X, _, codes = simulated(10, 1)
    y = rng.normal(0, 1, len(codes))
    y -= (np.bincount(codes, y) / np.bincount(codes))[codes]
    fit = fit_mixed(table_of(X, y, codes), formula="volume ~ time")
    assert any("10 subjects, fewer than 30" in text for text in fit.warnings)
    assert any("ordinary least squares" in text for text in fit.warnings)


@pytest.mark.parametrize(
    ("change", "arguments", "match"),
    [
        ({}, {"subject": "person"}, "no column 'person'"),
        ({}, {"method": "mle"}, "method is 'mle'; it takes reml, ml"),
        ({}, {"slope": "tine"}, "no column 'tine'; did you mean 'time'"),
        ({}, {"slope": "dx"}, "'dx' does not vary within any subject"),
        ({"subject": lambda t: t["scan_id"]}, {}, "each of .* subjects has one row only"),
        ({"volume": lambda t: t["subject"].str[1:]}, {}, "does not vary within subjects"),
        (
            {"dx": lambda t: (t["subject"] == t["subject"].mode()[0]) * 1.0},
            {},
            r"dx = 1 holds for one subject only \(p\d+, \d rows\)",
        ),
        ({"volume": lambda t: 3 * t["time"]}, {}, "exact combination"),
    ],
)
def test_refusals_are_one_line(change, arguments, match):
    X, Y, codes = simulated(20, 4)
    table = table_of(X, Y[:, 0], codes).assign(**change)
    with pytest.raises(DesignError, match=match) as refusal:
        fit_mixed(table, **{"formula": "volume ~ time + dx", **arguments})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["participant", "session", "scan_of"])
def test_the_column_that_names_the_subjects_may_be_any(name):
    X, Y, codes = simulated(20, 4)
    table = table_of(X, Y[:, 0], codes)
    expected = fit_mixed(table, formula="volume ~ time + dx")
    found = fit_mixed(
        table.drop(columns="subject").assign(**{name: table["subject"]}),
        formula="volume ~ time + dx",
        subject=name,
    )
    pd.testing.assert_frame_equal(found.tidy, expected.tidy)
    assert f"(1 | {name})" in found.summary()
    assert found.design.rows.columns.is_unique
