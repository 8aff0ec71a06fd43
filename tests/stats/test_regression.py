"""Numbers against statsmodels, published reference values, and truth that was simulated."""

import itertools
import json
import math

import numpy as np
import oasis_tables
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.outliers_influence import OLSInfluence, variance_inflation_factor

from cohort.stats import effects
from cohort.stats.regression import DesignError, added_variable, fit


def simulated(n=60, seed=0, effect=-30.0):
    """Volumes from known coefficients; errors grow with age, so that HC3 differs from classical errors."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(n)],
            "subject": [f"{i:03d}" for i in range(n)],
            "session": "1",
            "dx": rng.permutation(np.arange(n) % 2).astype(float),
            "age": rng.uniform(55, 90, n),
            "skull": rng.normal(1500, 120, n),
            "site": rng.permutation(np.resize(list("abc"), n)),
        }
    )
    noise = rng.normal(0, 1, n) * (table["age"] - 45)
    table["volume"] = 400 + effect * table["dx"] - 4 * table["age"] + 0.5 * table["skull"] + noise
    return table


FORMULAS = [
    "dx",
    "dx + age",
    "dx + age + skull",
    "dx * age + skull",
    "C(site) + age",
    "poly(age, 2) + dx",
]


@given(seed=st.integers(0, 10_000), n=st.integers(12, 200), formula=st.sampled_from(FORMULAS))
def test_a_fit_equals_statsmodels(seed, n, formula):
    result = fit(simulated(n, seed), outcome="volume", formula=formula)
    X, y = result.design.X.to_numpy(), result.design.y.to_numpy()
    classical = sm.OLS(y, X).fit()
    robust = classical.get_robustcov_results("HC3")
    tidy, glance, augment = result.tidy, result.glance.iloc[0], result.augment
    low, high = classical.conf_int().T
    for column, expected in {
        "estimate": classical.params,
        "se": classical.bse,
        "statistic": classical.tvalues,
        "p": classical.pvalues,
        "ci_low": low,
        "ci_high": high,
        "hc3_se": classical.HC3_se,
        "hc3_statistic": classical.params / classical.HC3_se,
        "hc3_p": 2 * stats.t.sf(np.abs(classical.params / classical.HC3_se), classical.df_resid),
        "hc3_ci_low": robust.conf_int()[:, 0],
    }.items():
        np.testing.assert_allclose(tidy[column], expected, rtol=1e-9, err_msg=column)
    for column, expected in {
        "r2": classical.rsquared,
        "r2_adj": classical.rsquared_adj,
        "sigma": math.sqrt(classical.mse_resid),
        "f": classical.fvalue,
        "f_p": classical.f_pvalue,
        "aic": classical.aic,
        "bic": classical.bic,
        "log_likelihood": classical.llf,
    }.items():
        assert glance[column] == pytest.approx(expected, rel=1e-9), column
    lm, lm_p, _, _ = het_breuschpagan(classical.resid, X)
    assert (glance["bp_lm"], glance["bp_p"]) == (
        pytest.approx(lm, rel=1e-7),
        pytest.approx(lm_p, rel=1e-7),
    )
    influence = OLSInfluence(classical)
    np.testing.assert_allclose(augment["leverage"], influence.hat_matrix_diag, rtol=1e-9)
    np.testing.assert_allclose(augment["cook"], influence.cooks_distance[0], rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(
        augment["rstudent"], influence.resid_studentized_external, rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(augment["fitted"] + augment["residual"], augment["observed"])
    for i, value in enumerate(result.vif.values(), 1):
        assert value == pytest.approx(variance_inflation_factor(X, i), rel=1e-7)
    np.testing.assert_allclose(result.covariance, classical.cov_params(), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(result.hc3_covariance)), classical.HC3_se, rtol=1e-9)


def test_known_coefficients_are_recovered():
    result = fit(simulated(20_000), outcome="volume", formula="dx + age + skull").tidy.set_index(
        "term"
    )
    for term, truth in {"Intercept": 400, "dx": -30, "age": -4, "skull": 0.5}.items():
        row = result.loc[term]
        assert abs(row["estimate"] - truth) < 4 * row["hc3_se"]
    assert result.loc["dx", "se"] < 0.5


def test_text_and_numbers_give_the_same_bits():
    table = simulated()
    as_text = table.map(lambda cell: cell if isinstance(cell, str) else repr(cell))
    number, text = (
        fit(t, outcome="volume", formula="dx * age + C(site)").tidy for t in (table, as_text)
    )
    pd.testing.assert_frame_equal(number, text, check_exact=True)


@given(t=st.floats(-80, 80), df=st.integers(2, 5_000))
def test_the_noncentrality_interval_leaves_the_tails_it_should(t, df):
    low, high = effects.noncentrality_interval(t, df)
    assert low < t < high or df < 5
    # where SciPy's distribution function answers, it is the oracle
    for bound, tail in ((low, stats.nct.sf), (high, stats.nct.cdf)):
        probability = tail(t, df, bound)
        if np.isfinite(probability) and abs(t) < 30:
            assert probability == pytest.approx(0.025, abs=2e-6)


def test_partial_r_is_the_correlation_of_the_residuals():
    result = fit(simulated(), outcome="volume", formula="dx + age + skull")
    for row in result.tidy.iloc[1:].itertuples():
        pair = added_variable(result, row.term)
        r = np.corrcoef(pair["x_resid"], pair["y_resid"])[0, 1]
        assert row.partial_r == pytest.approx(r, rel=1e-10)
        assert row.partial_eta2 == pytest.approx(r * r, rel=1e-10)
        slope = (pair["x_resid"] @ pair["y_resid"]) / (pair["x_resid"] @ pair["x_resid"])
        assert slope == pytest.approx(row.estimate, rel=1e-10)
    with pytest.raises(DesignError, match="no column 'agee'; did you mean 'age'"):
        added_variable(result, "agee")


def test_adjusted_d_stands_at_0_1_terms_only():
    tidy = fit(simulated(), outcome="volume", formula="dx + age + C(site)").tidy.set_index("term")
    has_d = tidy["d_adj"].notna()
    assert set(tidy.index[has_d]) == {"dx", "C(site)[T.b]", "C(site)[T.c]"}
    sigma = math.sqrt(sm.OLS(*_arrays("dx + age + C(site)")).fit().mse_resid)
    np.testing.assert_allclose(tidy["d_adj"][has_d], tidy["estimate"][has_d] / sigma, rtol=1e-10)
    assert tidy.loc["Intercept", ["partial_r", "d_adj"]].isna().all()


def _arrays(formula):
    design = fit(simulated(), outcome="volume", formula=formula).design
    return design.y.to_numpy(), design.X.to_numpy()


CORRELATIONS = {
    ("ad", "age"): 0.542463111786,
    ("age", "brain"): -0.719210581515,
    ("ad", "brain"): -0.446770932343,
    ("age", "skull"): -0.141576423892,
    ("ad", "skull"): 0.014222458010,
    ("brain", "skull"): 0.654829346585,
}


def exactly_correlated(n=425):
    """Four columns whose sample correlations are those of the published 425-row table, to rounding."""
    names = ["ad", "age", "skull", "brain"]
    wanted = np.eye(4)
    for i, j in itertools.combinations(range(4), 2):
        pair = (names[i], names[j])
        wanted[i, j] = wanted[j, i] = CORRELATIONS.get(pair, CORRELATIONS.get(pair[::-1]))
    noise = np.random.default_rng(0).normal(size=(n, 4))
    white, _ = np.linalg.qr(noise - noise.mean(axis=0))
    return pd.DataFrame(white @ np.linalg.cholesky(wanted).T, columns=names)


def test_the_published_correlations_give_the_published_regressions():
    table = exactly_correlated()

    def statistics(formula):
        result = fit(table, outcome="brain", formula=formula, one_scan_per="all")
        return result.tidy.set_index("term")["statistic"], result

    t, result = statistics("ad + age + skull")
    assert t["ad"] == pytest.approx(-6.763, abs=5e-4)
    assert t["age"] == pytest.approx(-23.919, abs=5e-4)
    assert t["skull"] == pytest.approx(29.779, abs=5e-4)
    assert result.glance["r2"].item() == pytest.approx(0.8461, abs=5e-5)
    assert result.glance["df_resid"].item() == 421
    assert [round(v, 2) for v in result.vif.values()] == [1.43, 1.46, 1.03]
    assert statistics("ad")[0]["ad"] == pytest.approx(-10.27076306169677, rel=1e-10)
    assert statistics("ad + age")[0]["ad"] == pytest.approx(-2.002, abs=5e-4)
    assert statistics("ad + skull")[0]["ad"] == pytest.approx(-15.549, abs=5e-4)


# ---------------------------------------------------------------- the OASIS tables


@pytest.fixture
def volumes(shared):
    return oasis_tables.volumes(shared)


@pytest.fixture
def oasis1(shared):
    return oasis_tables.cross_sectional(shared)


ANCOVA = "dx + age + male + skull_vol"


def test_the_published_t_tests_are_regressions_on_all_rows(volumes):
    for outcome, t, p in [
        ("brain_vol", -10.27076306169677, 3.0435503446585e-22),
        ("ratio", -15.311391823926579, 2.0192860861208e-42),
    ]:
        for formula in ("dx", "alzheimers"):
            row = fit(volumes, outcome=outcome, formula=formula, one_scan_per="all").tidy.iloc[1]
            assert row["term"] == formula
            assert row["statistic"] == pytest.approx(t, rel=1e-10)
            assert row["p"] == pytest.approx(p, rel=1e-9)
            assert row["df"] == 423


def test_the_425_rows_warn_unasked_of_repeats_and_of_ages_that_barely_overlap(volumes):
    warnings = fit(volumes, outcome="brain_vol", formula="dx", one_scan_per="all").warnings
    assert "19 of 406 subjects are scanned twice and all 425 rows are used" in warnings[0]
    assert warnings[1].startswith(
        "age, which is not in the model, barely overlaps between the groups"
    )
    first = fit(volumes, outcome="brain_vol", formula=ANCOVA)
    assert first.rows["reasons"] == {"repeated subject": 19}
    assert (first.rows["n_table"], first.rows["n_used"], first.rows["n_repeated_subjects"]) == (
        425,
        406,
        19,
    )
    assert "OAS1_0368_MR2" in set(first.augment["scan_id"])
    assert not any("scanned" in text for text in first.warnings)
    elderly = fit(volumes, outcome="brain_vol", formula=ANCOVA, where="age >= 60")
    assert elderly.warnings == ()


def test_the_adjusted_model_of_406_people(volumes):
    result = fit(volumes, outcome="brain_vol", formula=ANCOVA, confounds=["age", "skull_vol"])
    dx = result.tidy.set_index("term").loc["dx"]
    assert dx["estimate"] == pytest.approx(-52.735564831841, rel=1e-10)
    assert dx["se"] == pytest.approx(7.657568815453, rel=1e-10)
    assert dx["statistic"] == pytest.approx(-6.886724246660, rel=1e-10)
    assert dx["p"] == pytest.approx(2.215679122184e-11, rel=1e-9)
    assert dx["hc3_se"] == pytest.approx(8.305305953947, rel=1e-10)
    assert dx["hc3_statistic"] == pytest.approx(-6.349623376220, rel=1e-10)
    vif = {
        "dx": 1.424188281543,
        "age": 1.451065660515,
        "male": 1.488736656333,
        "skull_vol": 1.493076736405,
    }
    assert result.vif == pytest.approx(vif, rel=1e-10)
    whole = result.glance.iloc[0]
    assert whole["bp_lm"] == pytest.approx(2.775645058259, rel=1e-10)
    assert whole["bp_p"] == pytest.approx(0.596044080462, rel=1e-9)
    assert whole["condition"] < 3
    augment = result.augment.set_index("scan_id")
    assert augment["cook"].idxmax() == "OAS1_0065_MR1"
    assert augment["cook"].max() == pytest.approx(0.032401274574, rel=1e-10)
    assert (augment["cook"] > 4 / 406).sum() == 28
    assert augment["leverage"].max() == pytest.approx(0.044855939712, rel=1e-10)
    assert augment["rstudent"].abs().max() == pytest.approx(3.200529731791, rel=1e-10)


def test_the_adjusted_model_of_189_elderly_people_in_full(volumes):
    result = fit(volumes, outcome="brain_vol", formula=ANCOVA, where="age >= 60")
    tidy, whole = result.tidy.set_index("term"), result.glance.iloc[0]
    assert (len(result.augment), int(result.design.X["dx"].sum())) == (189, 93)
    expected = {
        ("dx", "estimate"): -48.770409279940,
        ("dx", "se"): 8.242355426288,
        ("dx", "statistic"): -5.917047586227,
        ("dx", "hc3_se"): 8.720933836741,
        ("dx", "hc3_statistic"): -5.592337952900,
        ("age", "estimate"): -3.977732176921,
        ("age", "statistic"): -8.030839793383,
        ("male", "estimate"): 12.442023033346,
        ("male", "statistic"): 1.236908943518,
        ("skull_vol", "estimate"): 0.399908416575,
        ("skull_vol", "statistic"): 14.095340789984,
        ("dx", "d_adj"): -0.880048215932,
        ("dx", "partial_r"): -0.399826568476,
        ("dx", "partial_eta2"): 0.159861284859,
    }
    for (term, column), value in expected.items():
        # the reference is printed with 12 decimals
        assert tidy.loc[term, column] == pytest.approx(value, rel=1e-10, abs=6e-13), (term, column)
    intervals = {
        "d_adj_low": -1.183993070,
        "d_adj_high": -0.573910639,
        "partial_r_low": math.tanh(
            math.atanh(-0.399826568476) - stats.norm.ppf(0.975) / math.sqrt(183)
        ),
        "partial_r_high": -0.271569743,
    }
    for column, value in intervals.items():
        assert tidy.loc["dx", column] == pytest.approx(value, abs=6e-10), column
    # the published lower end, -0.514129702, is 4e-9 from Fisher's formula, which gives the upper end to all digits
    assert tidy.loc["dx", "partial_r_low"] == pytest.approx(-0.514129702, abs=5e-9)
    assert tidy.loc["dx", "p"] == pytest.approx(1.569812823666e-08, rel=1e-9)
    for column, value in {
        "r2": 0.663027639812436,
        "sigma": 55.4178832443701,
        "f": 90.5097124713601,
        "aic": 2058.9245238907,
    }.items():
        assert whole[column] == pytest.approx(value, rel=1e-10), column
    crude = fit(volumes, outcome="brain_vol", formula="dx", where="age >= 60").tidy.iloc[1]
    assert crude["statistic"] == pytest.approx(-2.069440887363, rel=1e-10)
    assert crude["p"] == pytest.approx(0.039879645826, rel=1e-9)


def test_columns_with_awkward_names_work_on_the_real_table(oasis1):
    tidy = fit(oasis1, outcome="nWBV", formula='dx + Age + eTIV + Q("M/F")').tidy.set_index("term")
    assert tidy.loc["M/F[T.M]", "estimate"] == pytest.approx(
        fit(oasis1, outcome="nWBV", formula="dx + Age + eTIV + male")
        .tidy.set_index("term")
        .loc["male", "estimate"]
    )


# ---------------------------------------------------------------- what it says


UNITS = {"volume": "ml", "age": "years", "skull": "ml"}


def test_units_follow_from_the_columns():
    table = simulated()
    tidy = fit(
        table, outcome="volume", formula="dx * age + skull + C(site) + I(age**2)", units=UNITS
    ).tidy
    assert tidy.set_index("term")["unit"].to_dict() == {
        "Intercept": "ml",
        "C(site)[T.b]": "ml",
        "C(site)[T.c]": "ml",
        "dx": "ml",
        "age": "ml per year",
        "dx:age": "ml per year",
        "skull": "ml per ml",
        "I(age ** 2)": "ml per unit of I(age ** 2)",
    }
    assert set(fit(table, outcome="volume", formula="dx + age").tidy["unit"]) == {""}
    shares = fit(
        table, outcome="volume", formula="dx + age", units={"volume": "1", "age": "years"}
    ).tidy
    assert list(shares["unit"]) == ["1", "1", "per year"]


def test_the_reading_says_what_goes_with_what_and_nothing_of_causes():
    result = fit(
        simulated(),
        outcome="volume",
        formula="dx + age + C(site)",
        confounds=["skull"],
        units=UNITS,
    )
    tidy = result.tidy.set_index("term")
    dx, b, c, age, skull = result.reading
    assert b.startswith("Holding dx, age and skull equal, site = b goes with a volume ")
    assert " than site = a (95 % interval " in b
    assert "site = c" in c
    assert dx.startswith("Holding C(site), age and skull equal, dx = 1 goes with a volume ")
    assert f"{abs(tidy.loc['dx', 'estimate']):.3g} ml lower" in dx
    assert f"HC3 p = {tidy.loc['dx', 'hc3_p']:.2g})." in dx
    assert "one year more of age goes with a volume" in age
    assert f"{tidy.loc['skull', 'estimate']:.3g} ml higher (95 % interval " in skull
    words = " ".join(result.reading).lower()
    assert not any(
        word in words
        for word in ("cause", "effect", "leads", "due", "reduce", "increase", "decrease")
    )


def test_a_coefficient_that_cannot_be_read_alone_says_so():
    crossed = fit(simulated(), outcome="volume", formula="dx * age + poly(skull, 2)")
    assert len(crossed.reading) == 5
    assert all("read together with the other terms" in text for text in crossed.reading)
    (alone,) = fit(simulated(), outcome="volume", formula="dx").reading
    assert alone.startswith("dx = 1 goes with a volume")
    assert alone.endswith("nothing else held equal.")
    assert fit(simulated(), outcome="volume", formula="1").reading == ()


def test_the_model_resolves_to_plain_json():
    table = simulated()
    table.loc[0, "age"] = np.nan
    result = fit(
        table,
        outcome="volume",
        formula="dx + C(site)",
        confounds=["age"],
        where="skull > 1300",
        units=UNITS,
    )
    text = json.dumps(result.to_json(), allow_nan=False)
    model = json.loads(text)
    assert model["fitted"] == "volume ~ dx + C(site) + age"
    assert [c["name"] for c in model["columns"]] == list(result.tidy["term"])
    assert model["coding"] == {"C(site)": {"levels": ["a", "b", "c"], "reference": "a"}}
    assert model["rows"]["n_used"] + len(model["rows"]["dropped"]) == model["rows"]["n_table"] == 60
    assert {"row_id": "s0", "reason": "missing age"} in model["rows"]["dropped"]
    assert set(model["versions"]) >= {"statsmodels", "numpy", "scipy", "patsy"}
    assert model["vif"] == result.vif
    intercept = fit(table, outcome="volume", formula="1").to_json()
    assert intercept["glance"]["f"] is None


def test_the_summary_fits_a_terminal():
    table = simulated()
    table.loc[:1, "age"] = np.nan
    text = fit(table, outcome="volume", formula="dx + age", units=UNITS).summary()
    lines = text.splitlines()
    assert lines[0] == "volume ~ dx + age"
    assert lines[1] == "58 of 60 rows (left out: 2 missing age)"
    assert [line.split()[0] for line in lines[3:7]] == ["term", "Intercept", "dx", "age"]
    assert "ml per year" in lines[6]


# ---------------------------------------------------------------- warnings and refusals


def test_a_fit_warns_of_what_its_numbers_hide():
    table = simulated()
    rng = np.random.default_rng(3)
    table["days"] = table["age"] * 365 + rng.normal(0, 90, 60)
    warnings = fit(table, outcome="volume", formula="dx + age + days").warnings
    assert any(text.startswith("age nearly follows from the other terms (VIF") for text in warnings)
    table.loc[7, ["age", "volume"]] = [400.0, 5000.0]
    warnings = fit(table, outcome="volume", formula="dx + age").warnings
    assert any(
        text.startswith("s7 alone shifts the estimates strongly (Cook's distance")
        for text in warnings
    )
    warnings = fit(simulated(14), outcome="volume", formula="dx + age").warnings
    assert "14 rows for 2 terms, fewer than 10 a term: estimates are unstable" in warnings


def test_a_row_that_alone_decides_a_term_is_named_and_has_no_hc3_error():
    table = simulated()
    table["spike"] = np.where(table.index == 5, 2.5, 0.0)
    result = fit(table, outcome="volume", formula="dx + spike")
    assert (
        "s5 alone decides a term (leverage 1; 1 such rows): no HC3 error for it" in result.warnings
    )
    assert not np.isfinite(result.tidy.set_index("term").loc["spike", "hc3_se"])
    assert result.augment.set_index("scan_id").loc["s5", ["cook", "rstudent"]].isna().all()
    json.dumps(result.to_json(), allow_nan=False)


def test_two_errors_on_two_sides_of_the_line_are_pointed_out():
    found = [
        text
        for seed in range(60)
        for result in [
            fit(simulated(30, seed, effect=-9), outcome="volume", formula="dx + age + skull")
        ]
        for text in [t for t in result.warnings if t.startswith("dx: p = ")]
        if (result.tidy["p"][1] < 0.05) != (result.tidy["hc3_p"][1] < 0.05)
    ]
    assert found
    assert found[0].endswith("by HC3 errors, on two sides of 0.05")


def test_an_outcome_that_the_terms_reproduce_is_refused():
    table = simulated()
    table["total"] = table["age"] + 2 * table["skull"]
    with pytest.raises(
        DesignError, match="the outcome 'total' is an exact combination of the terms age \\+ skull"
    ):
        fit(table, outcome="total", formula="age + skull")


@given(tiny=st.integers(-40, 0), huge=st.integers(0, 40))
def test_units_play_no_part(tiny, huge):
    table = simulated()
    other = table.assign(age=table["age"] * 10.0**tiny, skull=table["skull"] * 10.0**huge)
    one, two = (fit(t, outcome="volume", formula="dx + age + skull") for t in (table, other))
    for column in ("statistic", "p", "hc3_statistic", "partial_r", "d_adj"):
        np.testing.assert_allclose(one.tidy[column], two.tidy[column], rtol=1e-9)
    np.testing.assert_allclose(
        two.tidy["estimate"][2:], one.tidy["estimate"][2:] / [10.0**tiny, 10.0**huge], rtol=1e-9
    )
    np.testing.assert_allclose(np.sqrt(np.diag(two.covariance)), two.tidy["se"], rtol=1e-12)
    assert one.vif == pytest.approx(two.vif, rel=1e-9)


def test_the_fit_may_be_written_as_one_formula():
    table = simulated()
    one, two = (
        fit(table, formula="volume ~ dx + age"),
        fit(table, outcome="volume", formula="dx + age"),
    )
    pd.testing.assert_frame_equal(one.tidy, two.tidy)


@pytest.mark.slow
def test_no_effect_is_found_where_there_is_none_and_the_ratio_finds_one():
    """Groups differ in age, brains shrink with age, and the group itself does nothing."""
    draws, adjusted, robust, ratio = 500, 0, 0, 0
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        dx = np.arange(120) % 2
        table = pd.DataFrame(
            {"dx": dx, "age": rng.normal(68, 8, 120) + 8 * dx, "skull": rng.normal(1500, 120, 120)}
        )
        table["brain"] = 800 - 4 * table["age"] + 0.5 * table["skull"] + rng.normal(0, 55, 120)
        table["ratio"] = table["brain"] / table["skull"]
        row = (
            fit(
                table, outcome="brain", formula="dx", confounds=["age", "skull"], one_scan_per="all"
            )
            .tidy.set_index("term")
            .loc["dx"]
        )
        adjusted += row["p"] < 0.05
        robust += row["hc3_p"] < 0.05
        ratio += stats.ttest_ind(table["ratio"][dx == 1], table["ratio"][dx == 0]).pvalue < 0.05
    low, high = stats.binom.interval(0.99, draws, 0.05)
    assert low <= adjusted <= high
    assert low <= robust <= high
    assert ratio > 0.5 * draws
