"""Equivalence and the least effect that can be found, against statsmodels and by drawing."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.weightstats import ttost_ind

from cohort.stats import comparison, equivalence
from cohort.stats.regression import DesignError, fit


def grouped(n0, n1, seed=0, effect=0.0):
    rng = np.random.default_rng(seed)
    dx = np.repeat([0, 1], [n0, n1])
    return pd.DataFrame(
        {
            "dx": dx,
            "age": rng.uniform(55, 90, n0 + n1),
            "y": rng.normal(0, 1, n0 + n1) * (1 + dx) + effect * dx,
        }
    )


def fitted(*sizes, formula="dx", **more):
    return fit(grouped(*sizes, **more), outcome="y", formula=formula, one_scan_per="all")


@given(
    n0=st.integers(3, 60),
    n1=st.integers(3, 60),
    seed=st.integers(0, 1000),
    low=st.floats(-3, -0.1),
    high=st.floats(0.1, 3),
)
def test_equivalence_of_two_groups_equals_statsmodels(n0, n1, seed, low, high):
    data = grouped(n0, n1, seed)
    first, second = (data.loc[data["dx"] == k, "y"].to_numpy() for k in (0, 1))
    found = equivalence.difference(comparison.two_samples(first, second), bound=(low, high))
    for row, kind in zip(found.itertuples(index=False), ("pooled", "unequal"), strict=True):
        p, (_, p_low, _), (_, p_high, _) = ttost_ind(second, first, low, high, usevar=kind)
        assert (row.p, row.p_low, row.p_high) == (
            pytest.approx(p, rel=1e-8),
            pytest.approx(p_low, rel=1e-8),
            pytest.approx(p_high, rel=1e-8),
        )
        # the interval of coverage 1 - 2 alpha lies within the bounds exactly then
        assert row.equivalent == (p < 0.05) == (low < row.ci_low and row.ci_high < high)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), bound=st.floats(0.1, 3))
def test_equivalence_of_a_group_alone_is_that_of_students_t(seed, bound):
    result = fitted(20, 31, seed=seed)
    data = grouped(20, 31, seed)
    found = equivalence.term(result, "dx", bound=bound).iloc[0]
    p, _, _ = ttost_ind(data["y"][data["dx"] == 1], data["y"][data["dx"] == 0], -bound, bound)
    assert found["p"] == pytest.approx(p, rel=1e-8)
    row = result.tidy.iloc[1]
    t_low = (row["estimate"] + bound) / row["hc3_se"]
    t_high = (row["estimate"] - bound) / row["hc3_se"]
    p = max(stats.t.sf(t_low, 49), stats.t.cdf(t_high, 49))
    assert found["hc3_p"] == pytest.approx(p, rel=1e-9)
    sigma = result.glance["sigma"].item()
    scaled = equivalence.term(result, "dx", bound=bound / sigma, scale="sd").iloc[0]
    assert scaled["p"] == pytest.approx(found["p"], rel=1e-9)
    assert scaled["bound_high"] == pytest.approx(bound, rel=1e-12)


def test_a_wider_bound_never_makes_equivalence_less_likely():
    result = fitted(30, 30, formula="dx + age")
    bounds = [0.1, 0.3, 0.6, 1.0, 2.0, 5.0]
    ps = [equivalence.term(result, "dx", bound=b)["p"].item() for b in bounds]
    assert (np.diff(ps) < 0).all()
    assert ps[0] > 0.05 > ps[-1]


def test_the_sd_of_two_groups_is_the_pooled_one():
    found = comparison.two_samples(np.array([1.0, 3, 4, 9]), np.array([2.0, 6, 5]))
    student = found.test("student")
    sd = student["difference"] / found.cohen_d
    one = equivalence.difference(found, bound=1.5, scale="sd")
    two = equivalence.difference(found, bound=1.5 * sd)
    np.testing.assert_allclose(one["p"], two["p"], rtol=1e-10)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"bound": 0.0}, "zero lies between them"),
        ({"bound": -1.0}, "zero lies between them"),
        ({"bound": (0.5, 1.0)}, "the bounds of equivalence are 0.5 and 1; zero lies between"),
        ({"bound": float("nan")}, "zero lies between them"),
        ({"bound": 1.0, "scale": "d"}, "the scale of the bound is 'd'"),
        ({"bound": 1.0, "alpha": 0.7}, "alpha is 0.7; it lies between 0 and 0.5"),
    ],
)
def test_what_is_no_bound_is_refused(asked, message):
    result = fitted(10, 10)
    with pytest.raises(DesignError, match=message):
        equivalence.term(result, "dx", **asked)
    with pytest.raises(DesignError, match=message):
        equivalence.difference(comparison.two_samples(np.arange(4.0), np.arange(5.0)), **asked)


def test_an_unknown_term_is_named():
    with pytest.raises(DesignError, match="term: no column 'dxx'; did you mean 'dx'"):
        equivalence.term(fitted(10, 10), "dxx", bound=1)
    with pytest.raises(DesignError, match="no column 'dxx'"):
        equivalence.detectable(fitted(10, 10), "dxx")


# ---------------------------------------------------------------- the least effect


def chance(shift, df, alpha):
    """Power by its definition: a normal variable against the critical value times a drawn sd."""
    critical = stats.t.ppf(1 - alpha / 2, df)
    probability = (np.arange(20_000) + 0.5) / 20_000
    sd = np.sqrt(stats.chi2.ppf(probability, df) / df)
    return (stats.norm.sf(critical * sd - shift) + stats.norm.cdf(-critical * sd - shift)).mean()


@settings(max_examples=10)
@given(
    n0=st.integers(5, 200),
    n1=st.integers(5, 200),
    power=st.floats(0.3, 0.99),
    alpha=st.sampled_from([0.001, 0.01, 0.05]),
)
def test_the_least_effect_of_a_group_alone_equals_statsmodels(n0, n1, power, alpha):
    found = equivalence.detectable(fitted(n0, n1), "dx", power=power, alpha=alpha).iloc[0]
    there = TTestIndPower().power(found["d"], n0, alpha, ratio=n1 / n0)
    assert np.isnan(there) or there == pytest.approx(
        power, rel=1e-7
    )  # NaN where SciPy's lower tail is
    assert chance(found["noncentrality"], n0 + n1 - 2, alpha) == pytest.approx(power, rel=1e-4)
    assert found["effect"] == pytest.approx(found["d"] * fitted(n0, n1).glance["sigma"].item())


def test_the_least_effect_of_other_terms_has_their_unit_and_no_d():
    result = fit(
        grouped(40, 40),
        outcome="y",
        formula="dx + age",
        one_scan_per="all",
        units={"y": "ml", "age": "years"},
    )
    found = equivalence.detectable(result).set_index("term")
    assert list(found.index) == ["dx", "age"]
    assert found.loc["age", "unit"] == "ml per year"
    assert np.isnan(found.loc["age", "d"])
    tidy = result.tidy.set_index("term")
    for column, se in (("effect", "se"), ("hc3_effect", "hc3_se")):
        np.testing.assert_allclose(found[column], found["noncentrality"] * tidy[se].iloc[1:])
    # about z(0.975) + z(0.80) with many rows
    assert equivalence.noncentrality(1e7) == pytest.approx(stats.norm.ppf([0.975, 0.8]).sum(), 1e-5)


def test_an_effect_of_that_size_is_found_as_often_as_said():
    """Drawn with the effect that 60 rows of one design find in 80 of 100 studies."""
    rng = np.random.default_rng(0)
    draws, n = 4000, 60
    X = np.column_stack([np.ones(n), np.arange(n) % 2, rng.normal(size=n)])
    inverse = np.linalg.inv(X.T @ X)
    se = np.sqrt(inverse[1, 1])
    y = equivalence.noncentrality(n - 3.0) * se * X[:, 1] + rng.normal(size=(draws, n))
    b = y @ X @ inverse
    sigma = np.sqrt(((y - b @ X.T) ** 2).sum(axis=1) / (n - 3))
    found = (np.abs(b[:, 1]) / (sigma * se) > stats.t.ppf(0.975, n - 3)).sum()
    low, high = stats.binom.interval(0.999, draws, 0.8)
    assert low <= found <= high


@pytest.mark.parametrize(
    "asked", [{"power": 1.0}, {"power": 0.01}, {"alpha": 0.0}, {"power": 0.05}]
)
def test_power_and_level_that_have_no_answer_are_refused(asked):
    with pytest.raises(DesignError, match="0 < alpha < power < 1 is needed"):
        equivalence.detectable(fitted(10, 10), **asked)


def test_brain_over_skull_of_women_and_men_is_equivalent_within_two_hundredths(shared):
    table = pd.read_csv(shared / "oasis" / "oasis_all_volumes.csv")
    table["ratio"] = table["brain_vol"] / table["skull_vol"]
    found = comparison.two_groups(table, outcome="ratio", group="sex", one_scan_per="all")
    welch = equivalence.difference(found, bound=0.02).set_index("test").loc["welch"]
    assert welch["p"] == pytest.approx(0.0345, abs=5e-5)
    assert welch["equivalent"]
