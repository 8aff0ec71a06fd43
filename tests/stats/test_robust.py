"""Cluster-robust errors against statsmodels, the definition written out in n x n matrices, and closed forms."""

import numpy as np
import oasis_tables
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cohort.stats import comparison, robust
from cohort.stats.regression import DesignError, fit


def simulated(seed=0, clusters=20, n=60, shared=20.0):
    """Rows of one subject have an error in common; some subjects have one row, some many."""
    rng = np.random.default_rng(seed)
    who = np.concatenate([np.arange(clusters), rng.integers(0, clusters // 2 + 1, n - clusters)])
    table = pd.DataFrame(
        {
            "subject": [f"P{k:03d}" for k in who],
            "dx": (who % 3 == 0) * 1.0,
            "age": rng.uniform(55, 90, n),
            "site": [str(k % 4) for k in who],
        }
    )
    noise = rng.normal(0, shared, clusters)[who] + rng.normal(0, 10, n)
    return table.assign(volume=500 - 4 * table["age"] + noise).sample(frac=1, random_state=1)


def fitted(seed=0, formula="dx + age", **sizes):
    table = simulated(seed, **sizes)
    return fit(table, outcome="volume", formula=formula, one_scan_per="all")


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), clusters=st.integers(4, 55))
def test_cr1_equals_statsmodels(seed, clusters):
    result = fitted(seed, clusters=clusters)
    found = robust.cluster(result, kind="CR1")
    expected = sm.OLS(result.design.y.to_numpy(), result.design.X.to_numpy()).fit(
        cov_type="cluster",
        cov_kwds={"groups": pd.factorize(result.design.rows["subject"])[0]},
        use_t=True,
    )
    tidy = found.tidy
    np.testing.assert_allclose(tidy["cluster_se"], expected.bse, rtol=1e-8)
    np.testing.assert_allclose(tidy["cluster_statistic"], expected.tvalues, rtol=1e-8)
    np.testing.assert_allclose(tidy["cluster_p"], expected.pvalues, rtol=1e-6)
    np.testing.assert_allclose(
        tidy[["cluster_ci_low", "cluster_ci_high"]], expected.conf_int(), rtol=1e-7
    )
    np.testing.assert_allclose(found.covariance, expected.cov_params(), rtol=1e-7)
    assert set(tidy["cluster_df"]) == {clusters - 1.0}


def by_definition(X, residual, labels):
    """CR2 and its degrees of freedom, every matrix written out; shape (p,) and (p,)."""
    n, p = X.shape
    bread = np.linalg.inv(X.T @ X)
    M = np.eye(n) - X @ bread @ X.T
    meat, directions = np.zeros((p, p)), []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        values, vectors = np.linalg.eigh(M[np.ix_(rows, rows)])
        power = np.where(values > 1e-9, values, np.inf) ** -0.5
        A = vectors @ np.diag(power) @ vectors.T
        score = X[rows].T @ A @ residual[rows]
        meat += np.outer(score, score)
        directions.append(M[:, rows] @ A @ X[rows] @ bread)  # (n, p)
    df = []
    for j in range(p):
        P = np.column_stack([direction[:, j] for direction in directions])
        values = np.linalg.eigvalsh(P.T @ P)
        df.append(values.sum() ** 2 / (values**2).sum())
    return np.sqrt(np.diag(bread @ meat @ bread)), np.array(df)


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), clusters=st.integers(5, 39))
def test_cr2_is_its_definition(seed, clusters):
    result = fitted(seed, "dx + center(age)", clusters=clusters)
    found = robust.cluster(result)
    assert found.kind == "CR2"
    assert found.n_clusters == clusters
    labels = result.design.rows["subject"].to_numpy()
    se, df = by_definition(
        result.design.X.to_numpy(), result.augment["residual"].to_numpy(), labels
    )
    np.testing.assert_allclose(found.tidy["cluster_se"], se, rtol=1e-8)
    np.testing.assert_allclose(found.tidy["cluster_df"], df, rtol=1e-8)
    t = found.tidy["cluster_statistic"]
    np.testing.assert_allclose(found.tidy["cluster_p"], 2 * stats.t.sf(np.abs(t), df), rtol=1e-7)
    half = stats.t.ppf(0.975, df) * se
    np.testing.assert_allclose(
        found.tidy["cluster_ci_high"] - found.tidy["estimate"], half, rtol=1e-7
    )


def test_cr2_of_single_rows_is_hc2():
    result = fitted(clusters=30, n=30)
    expected = sm.OLS(result.design.y.to_numpy(), result.design.X.to_numpy()).fit().HC2_se
    found = robust.cluster(result, np.arange(30))
    np.testing.assert_allclose(found.tidy["cluster_se"], expected, rtol=1e-9)


@given(n0=st.integers(3, 30), n1=st.integers(3, 30), seed=st.integers(0, 100))
def test_cr2_of_two_groups_of_single_rows_is_welch_with_degrees_of_freedom_in_closed_form(
    n0, n1, seed
):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 1, n0 + n1)
    dx = np.repeat([0.0, 1.0], [n0, n1])
    table = pd.DataFrame({"y": y, "dx": dx})
    found = robust.cluster(
        fit(table, formula="y ~ dx", one_scan_per="all"), range(n0 + n1), kind="CR2"
    )
    row = found.tidy.iloc[1]
    welch = comparison.two_samples(y[dx == 0], y[dx == 1]).test("welch")
    assert row["cluster_se"] == pytest.approx(welch["se"], rel=1e-9)
    # Imbens and Kolesar 2016: degrees of freedom for equal variances
    df = (1 / n0 + 1 / n1) ** 2 / (1 / (n0**2 * (n0 - 1)) + 1 / (n1**2 * (n1 - 1)))
    assert row["cluster_df"] == pytest.approx(df, rel=1e-9)


def one_row_each(clusters, treated, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"y": rng.normal(0, 1, clusters), "dx": np.arange(clusters) < treated})
    return fit(table.astype(float), formula="y ~ dx", one_scan_per="all")


@pytest.mark.parametrize(("clusters", "treated"), [(45, 3), (45, 20), (90, 40), (400, 3)])
def test_cr1_is_for_terms_that_many_clusters_carry_not_for_many_clusters(clusters, treated):
    found = robust.cluster(one_row_each(clusters, treated), range(clusters))
    # Imbens and Kolesar 2016: degrees of freedom of two groups
    n0, n1 = clusters - treated, treated
    df = (1 / n0 + 1 / n1) ** 2 / (1 / (n0**2 * (n0 - 1)) + 1 / (n1**2 * (n1 - 1)))
    assert found.kind == ("CR1" if df >= 40 else "CR2")
    assert found.sandwich.satterthwaite[1] == pytest.approx(df, rel=1e-9)
    expected = clusters - 1 if df >= 40 else df
    assert found.tidy["cluster_df"].iloc[1] == pytest.approx(expected, rel=1e-9)
    warned = any(w.startswith("fewer than 4 degrees of freedom for dx") for w in found.warnings)
    assert warned == (df < 4)
    by_hand = robust.cluster(one_row_each(clusters, treated), range(clusters), kind="CR1")
    assert by_hand.warnings == found.warnings


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), clusters=st.integers(6, 39))
def test_degrees_of_freedom_of_a_sum_are_those_of_the_term_that_it_is_in_another_coding(
    seed, clusters
):
    table = simulated(seed, clusters=clusters)
    table["old"] = table["dx"] + table["age"] / 10  # y = a dx + b age = a old + (b - a / 10) age
    one, two = (
        robust.cluster(fit(table, outcome="volume", formula=f, one_scan_per="all"), kind="CR2")
        for f in ("dx + age", "old + age")
    )
    weights = np.array([[0.0, -0.1, 1.0]])
    expected = two.tidy.set_index("term").loc["age", "cluster_df"]
    assert one.sandwich.df(weights)[0] == pytest.approx(expected, rel=1e-6)


def test_labels_may_come_as_a_column_a_list_or_a_series_in_any_order():
    result = fitted()
    rows = result.design.rows
    series = pd.Series(rows["subject"].to_numpy(), result.design.X.index, name="subject")
    one, two, three = (
        robust.cluster(result, by) for by in ("subject", list(rows["subject"]), series.iloc[::-1])
    )
    assert (one.by, two.by, three.by) == ("subject", "cluster", "subject")
    pd.testing.assert_frame_equal(one.tidy, two.tidy)
    pd.testing.assert_frame_equal(one.tidy, three.tidy)
    assert one.largest == rows["subject"].value_counts().max()


@settings(max_examples=8)
@given(tiny=st.integers(-12, 12))
def test_units_play_no_part(tiny):
    table = simulated()
    other = table.assign(age=table["age"] * 10.0**tiny)
    one, two = (
        robust.cluster(
            fit(t, outcome="volume", formula="dx + age", one_scan_per="all")
        ).tidy.set_index("term")
        for t in (table, other)
    )
    for column in ("cluster_statistic", "cluster_df", "cluster_p"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-6)


def test_a_term_that_one_cluster_decides_has_no_error_and_is_named():
    table = simulated().assign(spike=lambda t: (t["subject"] == "P001") * 1.0)
    assert table["spike"].sum() >= 2
    for kind in robust.KINDS:
        result = fit(table, outcome="volume", formula="dx + age + spike", one_scan_per="all")
        found = robust.cluster(result, kind=kind)
        tidy = found.tidy.set_index("term")
        columns = ["cluster_se", "cluster_df", "cluster_p", "cluster_ci_low"]
        assert tidy.loc["spike", columns].isna().all()
        assert tidy.loc[["dx", "age"], columns].notna().all(axis=None)
        assert (
            "spike is decided by one subject alone: no cluster-robust error for it"
            in found.warnings
        )


def test_slopes_keep_their_error_when_every_cluster_has_a_column_of_its_own():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"family": np.repeat(list("abcdef"), 5), "age": rng.uniform(50, 90, 30)})
    table["y"] = table["age"] + rng.normal(0, 5, 30)
    result = fit(table, outcome="y", formula="C(family) + age", one_scan_per="all")
    found = robust.cluster(result, table["family"]).tidy.set_index("term")
    se, df = by_definition(
        result.design.X.to_numpy(),
        result.augment["residual"].to_numpy(),
        table["family"].to_numpy(),
    )
    assert found.loc["age", "cluster_se"] == pytest.approx(se[-1], rel=1e-8)
    assert found.loc["age", "cluster_df"] == pytest.approx(df[-1], rel=1e-8)


def test_few_clusters_that_carry_a_term_are_warned_of():
    table = simulated(clusters=12)
    table["dx"] = table["subject"].isin(["P001", "P002"]) * 1.0
    found = robust.cluster(fit(table, outcome="volume", formula="dx + age", one_scan_per="all"))
    assert found.tidy.set_index("term").loc["dx", "cluster_df"] < 4
    assert any(w.startswith("fewer than 4 degrees of freedom for") for w in found.warnings)
    assert not robust.cluster(fitted(clusters=38)).warnings


def test_what_is_no_cluster_is_refused():
    result = fitted()
    with pytest.raises(DesignError, match="clusters: no column 'subjct'; did you mean 'subject'"):
        robust.cluster(result, "subjct")
    with pytest.raises(DesignError, match="3 clusters are given for 60 rows"):
        robust.cluster(result, [1, 2, 3])
    with pytest.raises(
        DesignError, match="1 cluster by 'cluster'; errors between clusters need two"
    ):
        robust.cluster(result, ["a"] * 60)
    with pytest.raises(DesignError, match=r"'cluster' is missing in row .* \(1 of 60 rows\)"):
        robust.cluster(result, [None, *range(59)])
    with pytest.raises(DesignError, match="the kind is 'CR3'; it takes CR1 or CR2"):
        robust.cluster(result, kind="CR3")


def test_the_425_scans_of_406_people(shared):
    result = fit(
        oasis_tables.volumes(shared),
        outcome="brain_vol",
        formula="dx + age + male + skull_vol",
        one_scan_per="all",
    )
    found = robust.cluster(result)
    assert (found.kind, found.n_clusters, found.largest) == ("CR1", 406, 2)
    dx = found.tidy.set_index("term").loc["dx"]
    assert dx["cluster_se"] == pytest.approx(8.209417755689, rel=1e-10)
    assert dx["cluster_statistic"] == pytest.approx(-6.409303082158, rel=1e-10)
    assert dx["cluster_df"] == 405


@pytest.mark.slow
def test_with_few_clusters_cr2_keeps_its_level_and_no_other_error_does():
    """Twelve clusters, four of them with the group, no effect: how often p is below 5 %."""
    draws, found = 500, {"p": 0, "hc3_p": 0, "CR1": 0, "CR2": 0}
    for seed in range(draws):
        result = fitted(seed, "dx", clusters=12, n=48)
        for name in ("p", "hc3_p"):
            found[name] += result.tidy.loc[1, name] < 0.05
        for kind in robust.KINDS:
            found[kind] += robust.cluster(result, kind=kind).tidy.loc[1, "cluster_p"] < 0.05
    low, high = stats.binom.interval(0.99, draws, 0.05)
    assert low <= found.pop("CR2") <= high
    assert min(found.values()) > high


@pytest.mark.slow
def test_with_many_clusters_of_which_few_have_the_group_the_level_is_kept():
    """45 clusters, three of them with the group, no effect: how often p is below 5 %."""
    draws, found = 200, {"CR1": 0, "chosen": 0}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(45), 4)
        table = pd.DataFrame({"dx": (who < 3) * 1.0, "subject": who.astype(str)})
        table["y"] = rng.normal(0, 1, 45)[who] + rng.normal(0, 1, 180)
        result = fit(table, formula="y ~ dx", one_scan_per="all")
        for name, kind in (("CR1", "CR1"), ("chosen", None)):
            found[name] += robust.cluster(result, kind=kind).tidy.loc[1, "cluster_p"] < 0.05
    high = stats.binom.ppf(0.995, draws, 0.05)
    assert found["chosen"] <= high < found["CR1"]
