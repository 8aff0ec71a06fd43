"""The simple comparison against SciPy, on tables as they come."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from cohort.stats import comparison
from cohort.stats.regression import DesignError, fit

VALUES = st.integers(-1000, 1000).map(lambda k: k / 8)


@st.composite
def samples(draw):
    first, second = (draw(st.lists(VALUES, min_size=2, max_size=40)) for _ in range(2))
    # SciPy warns of a sample that does not vary
    first, second = ([*v, v[0] + 1] if np.ptp(v) == 0 else v for v in (first, second))
    return np.array(first), np.array(second)


@given(samples())
def test_a_comparison_equals_scipy(drawn):
    first, second = drawn
    found = comparison.two_samples(first, second)
    for name, equal in (("student", True), ("welch", False)):
        expected = stats.ttest_ind(second, first, equal_var=equal)
        row = found.test(name)
        assert row["statistic"] == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
        assert row["df"] == pytest.approx(expected.df, rel=1e-10)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-8)
        low, high = expected.confidence_interval()
        assert (row["ci_low"], row["ci_high"]) == (
            pytest.approx(low, rel=1e-9, abs=1e-9),
            pytest.approx(high, rel=1e-9, abs=1e-9),
        )
        assert row["difference"] == pytest.approx(second.mean() - first.mean(), abs=1e-12)
    ranked = stats.mannwhitneyu(second, first, method="auto")
    assert (found.mann_whitney_u, found.mann_whitney_p) == (ranked.statistic, ranked.pvalue)
    np.testing.assert_allclose(found.groups["sd"], [first.std(ddof=1), second.std(ddof=1)])
    assert list(found.groups["n"]) == [len(first), len(second)]
    assert abs(found.hedges_g) <= abs(found.cohen_d)


def test_welch_rests_on_the_group_that_varies_where_the_other_does_not():
    varies = np.array([1.0, 4, 2, 9])
    welch = comparison.two_samples(np.full(7, 3.0), varies).test("welch")
    assert welch["df"] == pytest.approx(3)
    assert welch["se"] == pytest.approx(varies.std(ddof=1) / 2)
    assert welch["p"] == pytest.approx(stats.ttest_1samp(varies, 3.0).pvalue)


@given(samples())
def test_swapping_the_groups_swaps_the_signs(drawn):
    one, two = comparison.two_samples(*drawn), comparison.two_samples(*drawn[::-1])
    assert one.cohen_d == pytest.approx(-two.cohen_d, abs=1e-12)
    assert one.cohen_d_low == pytest.approx(-two.cohen_d_high, abs=1e-9)
    for name in ("student", "welch"):
        assert one.test(name)["p"] == pytest.approx(two.test(name)["p"], rel=1e-12)
    pairs = len(drawn[0]) * len(drawn[1])
    assert one.mann_whitney_u + two.mann_whitney_u == pytest.approx(pairs)


def table(n=40, seed=0):
    rng = np.random.default_rng(seed)
    made = pd.DataFrame({"dx": rng.permutation(np.arange(n) % 2), "age": rng.uniform(55, 90, n)})
    made["sex"] = np.where(rng.permutation(n) % 3, "F", "M")
    return made.assign(volume=500 - 4 * made["age"] + rng.normal(0, 20, n))


@pytest.mark.parametrize(("group", "levels"), [("dx", ("0", "1")), ("sex", ("F", "M"))])
def test_a_comparison_is_the_regression_on_the_group_alone(group, levels):
    data = table()
    found = comparison.two_groups(
        data, outcome="volume", group=group, one_scan_per="all", units={"volume": "ml"}
    )
    row = fit(data, outcome="volume", formula=group, one_scan_per="all").tidy.iloc[1]
    student = found.test("student")
    assert found.levels == levels
    assert found.unit == "ml"
    for ours, theirs in {
        "difference": "estimate",
        "se": "se",
        "p": "p",
        "ci_low": "ci_low",
    }.items():
        assert student[ours] == pytest.approx(row[theirs], rel=1e-9), ours
    assert (found.cohen_d, found.cohen_d_low, found.cohen_d_high) == (
        pytest.approx(row["d_adj"], rel=1e-9),
        pytest.approx(row["d_adj_low"], rel=1e-8),
        pytest.approx(row["d_adj_high"], rel=1e-8),
    )


def test_the_reference_may_be_either_level():
    table = pd.DataFrame({"y": [1.0, 2, 3, 4, 6, 9], "dx": ["a"] * 3 + ["b"] * 3})
    options = {"outcome": "y", "group": "dx", "one_scan_per": "all"}
    plain = comparison.two_groups(table, **options)
    turned = comparison.two_groups(table, reference="b", **options)
    assert (plain.levels, turned.levels) == (("a", "b"), ("b", "a"))
    assert turned.groups["level"].tolist() == ["b", "a"]
    for name in ("student", "welch"):
        assert turned.test(name)["difference"] == -plain.test(name)["difference"]
    with pytest.raises(DesignError, match="reference of 'dx': no level 'B'"):
        comparison.two_groups(table, reference="B", **options)


def test_any_two_values_are_two_groups_and_rows_are_accounted_for():
    data = table().assign(dx=lambda t: np.where(t["dx"] == 1, 10, 2))
    data["subject"] = [f"P{i // 2 if i < 6 else i}" for i in range(40)]
    data["session"] = np.arange(40)
    data.loc[30, "volume"] = np.nan
    found = comparison.two_groups(data, outcome="volume", group="dx", where="age > 56")
    assert found.levels == ("2", "10"), "ordered as numbers"
    reasons = found.design.reasons
    assert reasons["repeated subject"] + reasons.get("where 'age > 56' is false", 0) >= 1
    assert reasons["missing volume"] == 1
    assert found.groups["n"].sum() == 40 - sum(reasons.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dx": list("abcd") * 10}, "'dx' has 4 levels \\(a, b, c, d\\); two are compared"),
        ({"dx": [1] + [0] * 39}, "holds for one row only"),
        ({"volume": [1.0, 2.0] * 20, "dx": [0, 1] * 20}, "exact|does not vary within the groups"),
        ({"dx": [None] * 40}, "no rows to fit"),
    ],
)
def test_what_cannot_be_compared_says_why(change, message):
    with pytest.raises(DesignError, match=message):
        comparison.two_groups(
            table().assign(**change), outcome="volume", group="dx", one_scan_per="all"
        )


def test_samples_are_checked_as_well():
    with pytest.raises(DesignError, match="1 and 3 rows: a group of one has no standard deviation"):
        comparison.two_samples(np.ones(1), np.arange(3.0))
    with pytest.raises(DesignError, match="missing or infinite"):
        comparison.two_samples(np.array([1.0, np.nan]), np.arange(3.0))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=4, max_size=60))
def test_a_correlation_equals_scipy(pairs):
    x, y = np.array(pairs).T
    x[0], y[-1] = x[0] + 3.5, y[-1] - 2.25
    data = pd.DataFrame({"x": x, "y": y})
    assume(np.ptp(x) > 0 and np.ptp(y) > 0 and abs(stats.pearsonr(x, y).statistic) < 1 - 1e-9)
    for values in (x, y):  # a group of one is refused
        assume(not np.isin(values, (0, 1)).all() or min((values == k).sum() for k in (0, 1)) > 1)
    found = comparison.correlation(data, x="x", y="y", one_scan_per="all").iloc[0]
    expected = stats.pearsonr(x, y)
    low, high = expected.confidence_interval()
    assert found["r"] == pytest.approx(expected.statistic, rel=1e-9, abs=1e-12)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found["ci_low"], found["ci_high"]) == (
        pytest.approx(low, rel=1e-8, abs=1e-12),
        pytest.approx(high, rel=1e-8, abs=1e-12),
    )
    other = comparison.correlation(data, x="y", y="x", one_scan_per="all").iloc[0]
    assert other["r"] == pytest.approx(found["r"], rel=1e-12, abs=1e-15)


def test_a_correlation_takes_numbers_and_says_so():
    with pytest.raises(DesignError, match="column 'sex' holds categories"):
        comparison.correlation(table(), x="sex", y="volume", one_scan_per="all")
    double = table().assign(twice=lambda t: 2 * t["age"] + 1)
    with pytest.raises(DesignError, match="'twice' is an exact multiple of 'age'"):
        comparison.correlation(double, x="age", y="twice", one_scan_per="all")
    found = comparison.correlation(table(), x="dx", y="age", one_scan_per="all").iloc[0]
    t = comparison.two_groups(table(), outcome="age", group="dx", one_scan_per="all")
    assert found["statistic"] == pytest.approx(t.test("student")["statistic"], rel=1e-9)
