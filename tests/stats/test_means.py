"""Adjusted means and the test of slopes against designs that are built anew, and the published numbers."""

import numpy as np
import oasis_tables
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cohort.stats import means
from cohort.stats.formula import design_matrix
from cohort.stats.regression import DesignError, fit


def simulated(seed=0, n=90):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "dx": rng.permutation(np.arange(n) % 2),
            "age": rng.uniform(55, 90, n),
            "skull": rng.normal(1500, 120, n),
            "site": rng.permutation(np.resize(list("aabc"), n)),
            "sex": rng.permutation(np.resize(list("FM"), n)),
        }
    )
    noise = rng.normal(0, 1, n) * (table["age"] - 45)
    return table.assign(volume=500 - 30 * table["dx"] - 4 * table["age"] + noise)


MODELS = [
    ("dx + age + skull + site", "dx"),
    ("dx * age + skull", "dx"),
    ("dx * site + age", "dx"),
    ("dx * site + age", "site"),
    ("dx * age * sex + skull", "sex"),
    ("dx * age * sex + skull", "dx"),
    ("site + site:age", "site"),
    ("C(site) * age + I(skull**2)", "site"),
    ("C(site, Treatment('c')) * age", "site"),
    ("C(dx) * age", "dx"),
    ("dx + dx:site + site", "dx"),
    ("site + dx:site", "site"),
    ("dx * bs(age, df=4) + skull", "dx"),
    ("sex + site:sex", "sex"),
]


@pytest.mark.parametrize("model", MODELS, ids=" by ".join)
@settings(max_examples=2)
@given(seed=st.integers(0, 500))
def test_adjusted_means_are_predictions_for_everybody_at_one_level(seed, model):
    formula, group = model
    table = simulated(seed)
    result = fit(table, outcome="volume", formula=formula, one_scan_per="all")
    found = means.adjusted_means(result, group)
    classical = sm.OLS(result.design.y.to_numpy(), result.design.X.to_numpy()).fit()
    df = classical.df_resid
    levels = sorted(table[group].unique())
    assert list(found["level"]) == [str(level) for level in levels]
    for level, row in zip(levels, found.itertuples(index=False), strict=True):
        # both halves in one design, so that no level is missing
        both = pd.concat([table, table.assign(**{group: level})], ignore_index=True)
        at = design_matrix(formula, both)[list(result.design.X.columns)].iloc[len(table) :].mean()
        at = at.to_numpy()
        assert row.estimate == pytest.approx(at @ classical.params, rel=1e-8)
        for se, covariance in (
            (row.se, classical.cov_params()),
            (row.hc3_se, classical.get_robustcov_results("HC3").cov_params()),
        ):
            assert se == pytest.approx(np.sqrt(at @ covariance @ at), rel=1e-6)
        half = stats.t.ppf(0.975, df) * row.se
        assert (row.ci_low, row.ci_high) == (
            pytest.approx(row.estimate - half),
            pytest.approx(row.estimate + half),
        )
        here = table.loc[table[group] == level, "volume"]
        assert (row.n, row.observed) == (len(here), pytest.approx(here.mean()))


def test_without_other_terms_the_means_are_those_of_the_groups():
    table = simulated()
    found = means.adjusted_means(
        fit(table, outcome="volume", formula="site", one_scan_per="all", units={"volume": "ml"}),
        "site",
    )
    np.testing.assert_allclose(found["estimate"], table.groupby("site")["volume"].mean())
    np.testing.assert_allclose(found["estimate"], found["observed"])
    assert set(found["unit"]) == {"ml"}


def test_the_difference_of_the_means_is_the_coefficient():
    result = fit(simulated(), outcome="volume", formula="dx + age + skull", one_scan_per="all")
    low, high = means.adjusted_means(result, "dx")["estimate"]
    assert high - low == pytest.approx(result.tidy.set_index("term").loc["dx", "estimate"])


@pytest.mark.parametrize(
    ("formula", "group", "message"),
    [
        ("dx + age", "agee", "group: no column 'agee'; did you mean 'age'"),
        ("dx + age", "age", "'age' is neither 0 and 1 nor a category"),
        ("C(site, Sum) + age", "site", "is not treatment coded"),
        ("dx + I(dx * age) + age", "dx", "stands in several terms"),
        ("dx + dx:age", "dx", "needs the term 'age' beside 'dx:age': add it to the formula"),
        ("site:sex", "site", "site does not stand as a term of its own"),
        ("I(dx * 1)", "dx", "'dx' does not stand as one term of its own"),
    ],
)
def test_what_has_no_adjusted_means_says_why(formula, group, message):
    result = fit(simulated(), outcome="volume", formula=formula, one_scan_per="all")
    with pytest.raises(DesignError, match=message):
        means.adjusted_means(result, group)


# ---------------------------------------------------------------- slopes


@settings(max_examples=8)
@given(seed=st.integers(0, 500), group=st.sampled_from(["dx", "site"]))
def test_the_test_of_slopes_is_the_joint_test_of_the_interactions(seed, group):
    table = simulated(seed)
    result = fit(table, outcome="volume", formula="dx + site + age + skull", one_scan_per="all")
    found = means.equal_slopes(result, group, ["age", "skull"]).set_index("test")
    formula = f"dx + site + age + skull + {group}:age + {group}:skull"
    X = design_matrix(formula, table)
    length = np.sqrt((X**2).sum())
    model = sm.OLS(table["volume"].to_numpy(), (X / length).to_numpy()).fit()
    robust = model.get_robustcov_results("HC3", use_t=True)
    for name, chosen in {
        f"{group}:age, {group}:skull": [c for c in X if ":" in c],
        f"{group}:age": [c for c in X if c.endswith(":age")],
        f"{group}:skull": [c for c in X if c.endswith(":skull")],
    }.items():
        L = np.array([[float(c == wanted) for c in X] for wanted in chosen])
        expected = model.f_test(L)
        row = found.loc[name]
        assert (row["df"], row["df_resid"]) == (len(chosen), model.df_resid)
        assert row["f"] == pytest.approx(expected.fvalue, rel=1e-5)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-5)
        assert row["hc3_f"] == pytest.approx(robust.f_test(L).fvalue, rel=1e-5)
    assert found.index[0] == f"{group}:age, {group}:skull"


def test_slopes_that_are_in_the_model_are_not_added_again():
    result = fit(simulated(), outcome="volume", formula="dx * age + skull", one_scan_per="all")
    assert list(means.equal_slopes(result, "dx")["test"]) == ["dx:skull"]
    crossed = fit(simulated(), outcome="volume", formula="dx * age", one_scan_per="all")
    with pytest.raises(DesignError, match="no slope to test"):
        means.equal_slopes(crossed, "dx")
    with pytest.raises(DesignError, match="no column 'agee'; did you mean 'age'"):
        means.equal_slopes(result, "dx", ["agee"])


def test_slopes_that_cannot_be_told_are_refused():
    table = simulated()
    table["dose"] = np.where(table["dx"] == 1, table["age"], 3.0)
    result = fit(table, outcome="volume", formula="dx + age + dose", one_scan_per="all")
    with pytest.raises(DesignError, match="does not vary within a level of 'dx'"):
        means.equal_slopes(result, "dx")
    few = fit(simulated(n=8), outcome="volume", formula="dx + age + skull", one_scan_per="all")
    assert len(means.equal_slopes(few, "dx")) == 3
    fewer = fit(simulated(n=6), outcome="volume", formula="dx + age + skull", one_scan_per="all")
    with pytest.raises(DesignError, match="6 rows for 6 columns with the interactions"):
        means.equal_slopes(fewer, "dx")


# ---------------------------------------------------------------- the published numbers


@pytest.fixture
def elderly(shared):
    return fit(
        oasis_tables.volumes(shared),
        outcome="brain_vol",
        formula="dx + age + male + skull_vol",
        where="age >= 60",
        units={"brain_vol": "ml"},
    )


def test_the_adjusted_means_of_189_elderly_people(elderly):
    well, ill = means.adjusted_means(elderly, "dx").to_dict("records")
    assert (well["level"], well["n"], ill["level"], ill["n"]) == ("0", 96, "1", 93)
    assert well["estimate"] == pytest.approx(910.954455359953, rel=1e-10)
    assert well["se"] == pytest.approx(5.718271976580, rel=1e-10)
    assert ill["estimate"] == pytest.approx(862.184046080013, rel=1e-10)
    assert ill["se"] == pytest.approx(5.811797511821, rel=1e-10)


def test_the_slopes_of_189_elderly_people_do_not_differ(elderly):
    joint = means.equal_slopes(elderly, "dx").iloc[0]
    assert (joint["df"], joint["df_resid"]) == (3, 181)
    assert joint["f"] == pytest.approx(1.1160, abs=5e-5)
    assert joint["p"] == pytest.approx(0.344, abs=5e-4)
