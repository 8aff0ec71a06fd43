"""Six ways to account for head size: published numbers, statsmodels, and truth that was simulated."""

import json
import math

import numpy as np
import oasis_tables
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cohort.stats import adjust, regression
from cohort.stats.adjust import DesignError, compare
from cohort.stats.table.correlation import correlation

UNITS = {"brain_vol": "cm3", "skull_vol": "cm3"}
E_MODEL = {
    "outcome": "brain_vol",
    "formula": "dx + age + male + skull_vol",
    "where": "age >= 60",
    "head": "skull_vol",
    "group": "dx",
    "units": UNITS,
}
KEYS = {
    "covariate": "ancova",
    "ratio": "ratio",
    "residual_all": "resid_all",
    "residual_controls": "resid_ctl",
    "power": "pcp",
}


def simulated(n=120, seed=0, *, power=0.6, head_gap=0.0, effect=-0.03):
    """Volumes that grow like a power of the head size, times noise; one row a person."""
    rng = np.random.default_rng(seed)
    dx = rng.permutation(np.arange(n) % 2)
    skull = rng.normal(1500, 120, n) + head_gap * dx
    age = rng.uniform(60, 90, n)
    brain = (
        1000
        * (skull / 1500) ** power
        * np.exp(effect * dx - 0.004 * (age - 75) + rng.normal(0, 0.04, n))
    )
    return pd.DataFrame({"dx": dx, "skull": skull, "age": age, "brain": brain})


def compared(table, formula="brain ~ dx + age", **options):
    options = {"head": "skull", "group": "dx", "one_scan_per": "all"} | options
    return compare(table, formula=formula, **options)


@pytest.fixture(scope="module")
def elderly(shared):
    return compare(oasis_tables.volumes(shared), **E_MODEL)


# ------------------------------------------------------------- the numbers of 189 elderly people


def test_every_strategy_gives_its_reference_numbers(elderly, shared):
    reference = oasis_tables.reference(shared)
    table = elderly.table.set_index("strategy")
    for strategy, key in KEYS.items():
        row = table.loc[strategy]
        for ours, theirs in {
            "estimate": "ols.dx.b",
            "se": "ols.dx.se",
            "statistic": "ols.dx.t",
            "ci_low": "ols.dx.lo",
            "ci_high": "ols.dx.hi",
            "hc3_se": "hc3.dx.se",
            "hc3_statistic": "hc3.dx.t",
            "partial_r": "partial_r.dx",
            "d_adj": "d_adj.dx",
            "df": "df",
        }.items():
            expected = reference[f"E.{key}.{theirs}"]
            assert row[ours] == pytest.approx(expected, rel=1e-10), (strategy, ours)
        assert row["p"] == pytest.approx(reference[f"E.{key}.ols.dx.p"], rel=1e-9)
        assert row["hc3_p"] == pytest.approx(reference[f"E.{key}.hc3.dx.p"], rel=1e-9)
        assert row["n"] == 189
    for strategy, key in {
        "covariate": "ancova.ols.skull_vol.b",
        "residual_all": "resid_all.slope",
        "residual_controls": "resid_ctl.slope",
        "power": "pcp.alpha",
    }.items():
        assert table.loc[strategy, "coefficient"] == pytest.approx(reference[f"E.{key}"], rel=1e-10)
    for end in ("low", "high"):
        key = f"E.ancova.ols.skull_vol.{end.removesuffix('w').removesuffix('gh')}"
        assert table.loc["covariate", f"coefficient_{end}"] == pytest.approx(reference[key])
    assert table.loc["ratio", "r_head"] == pytest.approx(reference["E.corr.ratio.skull"], rel=1e-10)


def test_the_published_digits_of_every_strategy(elderly):
    table = elderly.table.set_index("strategy")
    published = {
        "covariate": (-5.917047586227, -5.592337952900, -0.399826568476, 0.399908416575),
        "ratio": (-5.955587969820, -5.680251478580, -0.401098326717, None),
        "residual_all": (-5.911011749880, -5.637539120560, -0.398574631397, 0.386610960819),
        "residual_controls": (-5.886105497580, -5.616412640980, -0.397160599153, 0.379786745833),
        "power": (-5.910275342180, -5.642774019410, -0.398532863132, 0.615491784598),
    }
    for strategy, (t, hc3_t, r, coefficient) in published.items():
        row = table.loc[strategy]
        assert row["statistic"] == pytest.approx(t, rel=1e-10)
        assert row["hc3_statistic"] == pytest.approx(hc3_t, rel=1e-10)
        assert row["partial_r"] == pytest.approx(r, rel=1e-10)
        if coefficient is None:
            assert math.isnan(row["coefficient"])
        else:
            assert row["coefficient"] == pytest.approx(coefficient, rel=1e-10)
    assert elderly.table["strategy"].tolist() == list(adjust.STRATEGIES)


def test_the_elderly_are_told_why_the_strategies_differ(elderly):
    head, ratio, raw, residual, agreement = elderly.sentences
    assert elderly.warnings == (head,)
    assert head.startswith("skull_vol is 55.5 cm3 higher with dx = 1 (t = 2.31")
    assert "with age, male held equal 24.5 cm3 higher" in head
    assert "Dividing by skull_vol over-corrects" in ratio
    assert "r = -0.448" in ratio
    assert "to the power 0.615" in ratio
    assert "moves the ratio's group difference down" in ratio
    assert "-39 cm3" in raw
    assert "-48.8 cm3" in raw
    assert "-5.911 and -5.886 against -5.917" in residual
    assert agreement.startswith(
        "All 5 ways to account for skull_vol agree on dx = 1: a lower brain_vol"
    )
    units = elderly.table.set_index("strategy")["unit"].to_dict()
    assert units["ratio"] == "1"
    assert units["power"] == "cm3 per cm3^0.615"
    assert {units[s] for s in ("covariate", "raw", "residual_all", "residual_controls")} == {"cm3"}


def test_the_diagnostics_of_406_people_are_the_reference(shared):
    reference = oasis_tables.reference(shared)
    fit = regression.fit(
        oasis_tables.volumes(shared), outcome="brain_vol", formula="dx + age + male + skull_vol"
    )
    for name, vif in fit.vif.items():
        assert vif == pytest.approx(reference[f"U.vif.{name}"], rel=1e-10)
    whole, augment = fit.glance.iloc[0], fit.augment
    assert whole["n"] == reference["U.n"]
    for found, key in [
        (whole["bp_lm"], "U.bp.lm"),
        (whole["max_cook"], "U.cook.max"),
        (augment["cook"].max(), "U.cook.max"),
        (augment["leverage"].max(), "U.hat.max"),
        (augment["rstudent"].abs().max(), "U.rstudent.absmax"),
    ]:
        assert found == pytest.approx(reference[key], rel=1e-10), key
    assert whole["bp_p"] == pytest.approx(reference["U.bp.p"], rel=1e-9)
    assert augment.loc[augment["cook"].idxmax(), "scan_id"] == "OAS1_0065_MR1"
    assert (augment["cook"] > 4 / len(augment)).sum() == 28


# ------------------------------------------------------------------------- against statsmodels


@settings(max_examples=5)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(16, 150),
    power=st.floats(0.0, 1.5),
    head_gap=st.floats(-200, 200),
)
def test_every_strategy_equals_statsmodels_on_values_made_by_hand(seed, n, power, head_gap):
    table = simulated(n, seed, power=power, head_gap=head_gap)
    result = compared(table)
    y, h, dx = (table[c].to_numpy(float) for c in ("brain", "skull", "dx"))
    all_rows, controls = stats.linregress(h, y), stats.linregress(h[dx == 0], y[dx == 0])
    logs = stats.linregress(np.log(h[dx == 0]), np.log(y[dx == 0]))
    others = np.column_stack([np.ones(n), dx, table["age"]])
    expected = {
        "covariate": (y, np.column_stack([others, h])),
        "raw": (y, others),
        "ratio": (y / h, others),
        "residual_all": (y - all_rows.intercept - all_rows.slope * h, others),
        "residual_controls": (y - controls.intercept - controls.slope * h, others),
        "power": (y / h**logs.slope, others),
    }
    rows = result.table.set_index("strategy")
    for strategy, (values, X) in expected.items():
        oracle = sm.OLS(values, X).fit()
        robust = oracle.get_robustcov_results("HC3")
        row = rows.loc[strategy]
        for column, truth in {
            "estimate": oracle.params[1],
            "se": oracle.bse[1],
            "ci_low": oracle.conf_int()[1][0],
            "hc3_se": robust.bse[1],
            "df": oracle.df_resid,
            "d_adj": oracle.params[1] / math.sqrt(oracle.mse_resid),
        }.items():
            assert row[column] == pytest.approx(truth, rel=1e-7, abs=1e-9 * oracle.bse[1]), (
                strategy,
                column,
            )
        made = result.values[strategy].to_numpy()
        for end, used in (("", np.ones(n, bool)), ("_controls", dx == 0)):
            r, p = stats.pearsonr(made[used], h[used])
            assert row[f"r_head{end}"] == pytest.approx(r, abs=1e-9)
            assert row[f"p_head{end}"] == pytest.approx(p, abs=1e-7)
    for strategy, line in {
        "residual_all": all_rows,
        "residual_controls": controls,
        "power": logs,
    }.items():
        row = rows.loc[strategy]
        df = (n if strategy == "residual_all" else (dx == 0).sum()) - 2
        half = stats.t.ppf(0.975, df) * line.stderr
        assert row["coefficient"] == pytest.approx(line.slope, rel=1e-9, abs=1e-12)
        assert row["coefficient_low"] == pytest.approx(line.slope - half, rel=1e-7, abs=1e-9)
        assert row["coefficient_high"] == pytest.approx(line.slope + half, rel=1e-7, abs=1e-9)


@settings(max_examples=5)
@given(seed=st.integers(0, 10_000), head_gap=st.floats(-300, 300))
def test_residuals_of_one_side_only_are_a_trap_and_of_both_sides_are_the_covariate(seed, head_gap):
    table = simulated(80, seed, head_gap=head_gap)
    result = compared(table, "brain ~ dx").table.set_index("strategy")
    h = np.column_stack([np.ones(80), table["skull"]])
    rest = {
        c: (v := table[c].to_numpy(float)) - h @ np.linalg.lstsq(h, v, rcond=None)[0]
        for c in ("brain", "dx")
    }
    both = sm.OLS(rest["brain"], rest["dx"]).fit()
    honest_df = both.params[0] / (both.bse[0] * math.sqrt(both.df_resid / (80 - 3)))
    assert honest_df == pytest.approx(result.loc["covariate", "statistic"], rel=1e-9)
    # One side only: the estimate shrinks by the share of the group that head size explains.
    shrunk = 1 - np.corrcoef(table["dx"], table["skull"])[0, 1] ** 2
    estimates = result["estimate"]
    assert estimates["residual_all"] == pytest.approx(shrunk * estimates["covariate"], rel=1e-9)


@given(a=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30), seed=st.integers(0, 99))
def test_a_correlation_equals_scipy(a, seed):
    a, b = np.array(a), np.random.default_rng(seed).normal(size=len(a))
    r, p = correlation(a, b)
    if np.ptp(a) < 1e-6:
        return
    expected = stats.pearsonr(a, b)
    assert r == pytest.approx(expected.statistic, abs=1e-9)
    assert p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-9)


# ----------------------------------------------------------------------------- what is simulated


def test_the_power_is_recovered_and_the_ratio_is_right_where_growth_is_in_proportion():
    curved, straight = (compared(simulated(4_000, power=p)) for p in (0.6, 1.0))
    for result, truth in ((curved, 0.6), (straight, 1.0)):
        power = result.table.set_index("strategy").loc["power"]
        assert power["coefficient_low"] < truth < power["coefficient_high"]
        assert abs(power["r_head_controls"]) < 0.05
    assert any("over-corrects" in text for text in curved.sentences)
    assert not any("corrects" in text for text in straight.sentences)
    assert any("keeps no clear trace of skull" in text for text in straight.sentences)
    steep = compared(simulated(4_000, power=1.5))
    assert any("under-corrects" in text and "still rises" in text for text in steep.sentences)


def test_a_head_size_that_differs_by_group_is_warned_of_with_its_test():
    table = simulated(300, head_gap=150.0)
    result = compared(table)
    crude = sm.OLS(table["skull"], sm.add_constant(table["dx"].astype(float))).fit()
    held = sm.OLS(table["skull"], sm.add_constant(table[["dx", "age"]].astype(float))).fit()
    tests = result.head_by_group
    assert tests["held"].tolist() == ["", "age"]
    for row, oracle in zip(tests.itertuples(), (crude, held), strict=True):
        assert row.statistic == pytest.approx(oracle.tvalues["dx"], rel=1e-9)
        assert row.p == pytest.approx(oracle.pvalues["dx"], rel=1e-7)
        hc3 = 2 * stats.t.sf(abs(oracle.params["dx"] / oracle.HC3_se["dx"]), oracle.df_resid)
        assert row.hc3_p == pytest.approx(hc3, rel=1e-7)
    assert "head size itself differs by group" in result.warnings[0]
    assert f"t = {crude.tvalues['dx']:.2f}" in result.warnings[0]
    alike = compared(simulated(300))
    assert "hardly differs by group" in alike.sentences[0]
    assert not any("differs by group" in text for text in alike.warnings)


def test_strategies_that_disagree_are_named():
    # No effect, larger heads in one group, slow growth: the ratio finds a difference that is head size alone.
    result = compared(simulated(2_000, power=0.3, head_gap=120.0, effect=0.0))
    table = result.table.set_index("strategy")
    assert table.loc["covariate", "p"] > 0.05 > table.loc["ratio", "p"]
    assert "The ways to account for skull disagree on dx = 1" in result.warnings[-1]
    assert "lower: ratio (t = " in result.warnings[-1]
    assert "no clear difference: covariate (t = " in result.warnings[-1]


# ------------------------------------------------------------------------------ groups and rows


def test_each_level_of_a_group_is_compared_with_its_reference():
    table = simulated(150).assign(site=np.resize(list("abc"), 150))
    formula = "brain ~ C(site, Treatment('b')) + age"
    result = compared(table, formula, group="site")
    terms = {f"C(site, Treatment('b'))[T.{level}]" for level in "ac"}
    assert set(result.table["term"]) == terms
    assert len(result.table) == 2 * len(adjust.STRATEGIES)
    assert result.reference == "b"
    assert (result.values["control"].to_numpy() == (table["site"] == "b").to_numpy()).all()
    assert set(result.table["level"]) == {"a", "c"}
    for level in "ac":
        assert sum(f"site = {level}" in text for text in result.sentences) >= 2
    assert not any("Treatment" in text for text in result.sentences)


def test_the_rows_are_those_of_the_model_with_head_size():
    table = simulated(60).assign(subject=[f"{i // 2}" for i in range(60)], session=1)
    table["session"] += np.arange(60) % 2
    table.loc[4, "skull"] = np.nan
    result = compared(table, one_scan_per="first", row_id="scan")
    assert result.fit.rows["n_used"] == 30
    assert set(result.table["n"]) == {30}
    assert result.fit.rows["reasons"] == {"missing skull": 1, "repeated subject": 29}
    assert len(result.values) == 30
    assert result.values.drop(columns="control").notna().all(axis=None)
    named = compared(table, "brain ~ dx + age + skull", one_scan_per="first", row_id="scan")
    pd.testing.assert_frame_equal(named.table, result.table)


def test_the_mean_of_two_scans_is_taken_before_the_ratio():
    table = simulated(40, seed=3)
    twice = pd.concat([table, table.assign(brain=table["brain"] * 1.1)], ignore_index=True)
    twice["subject"] = [f"{i % 40:02d}" for i in range(80)]
    twice["session"] = [1 + i // 40 for i in range(80)]
    result = compared(twice, one_scan_per="mean")
    ratio = (table["brain"] * 1.05 / table["skull"]).to_numpy()
    np.testing.assert_allclose(result.values["ratio"], ratio, rtol=1e-12)


def test_values_without_a_logarithm_leave_a_strategy_out_and_say_so():
    table = simulated(60)
    controls = table.index[table["dx"] == 0]
    table.loc[controls[:3], "brain"] = [0.0, -1.0, -5.0]
    result = compared(table)
    rows = result.table.set_index("strategy")
    note = "brain is not positive in 3 of 30 controls (first "
    assert rows.loc["power", "note"].startswith(note)
    assert rows.loc["power", ["estimate", "p", "hc3_p", "coefficient", "r_head"]].isna().all()
    assert result.values["power"].isna().all()
    assert rows.drop("power")[["estimate", "hc3_p"]].notna().all(axis=None)
    assert "All 4 ways" in result.sentences[-2] or "disagree" in result.sentences[-2]
    assert result.sentences[-1].startswith("The strategy power-corrected is left out: brain is not")
    # A patient without a logarithm costs nothing: alpha comes from the controls.
    patients = simulated(60)
    patients.loc[patients["dx"] == 1, "brain"] -= 2_000
    assert compared(patients).table["note"].eq("").all()
    centred = compared(simulated(60).assign(skull=lambda t: t["skull"] - 1500))
    notes = centred.table.set_index("strategy")["note"]
    assert "skull is not positive in" in notes["ratio"]
    assert "skull is not positive in" in notes["power"]
    assert notes[["covariate", "raw", "residual_all", "residual_controls"]].eq("").all()


def test_a_strategy_that_cannot_be_fitted_keeps_its_row_with_the_reason():
    table = simulated(60)
    table["brain"] = table["skull"] * (0.9 - 0.003 * table["age"])  # the ratio is exact in age
    rows = compared(table).table.set_index("strategy")
    assert "'ratio' is an exact combination of the terms" in rows.loc["ratio", "note"]
    assert rows.loc["ratio", ["estimate", "hc3_p", "r_head"]].isna().all()
    assert rows.drop("ratio")["estimate"].notna().all()
    controls = table["dx"] == 0
    same = table.assign(skull=table["skull"].where(~controls, 1500.0), brain=simulated(60)["brain"])
    notes = compared(same).table.set_index("strategy")["note"]
    assert notes["residual_controls"] == "skull is the same in all controls: no slope"
    assert notes["power"] == "skull is the same in all controls: no exponent"


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("brain ~ dx + age", {"head": "skul"}, "head size: no column 'skul'; did you mean 'skull'"),
        ("brain ~ age", {}, "the group 'dx' is not among the terms: age"),
        ("brain ~ dx * age", {}, "the group 'dx' is part of the term dx:age"),
        ("brain ~ dx + np.log(skull)", {}, "the head size 'skull' is part of the term np.log"),
        ("brain ~ dx + skull:age", {}, "the head size 'skull' is part of the term skull:age"),
        ("brain ~ dx + age", {"group": "age"}, "the group 'age' has no reference level in age"),
        ("brain ~ dx + age", {"head": "word"}, "column 'word' holds 'x' in row 0"),
        ("brain ~ C(dx, Sum)", {}, "the group 'dx' has no reference level"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_in_one_line(formula, options, message):
    table = simulated(40).assign(word="x")
    with pytest.raises(DesignError, match=message) as found:
        compared(table, formula, **options)
    assert "\n" not in str(found.value)


def test_json_holds_the_tables_without_nan():
    table = simulated(40)
    table.loc[table.index[table["dx"] == 0][:1], "brain"] = 0.0
    result = compared(table)
    text = json.dumps(result.to_json(), allow_nan=False)
    rows = json.loads(text)["table"]
    assert [row["strategy"] for row in rows] == list(adjust.STRATEGIES)
    assert rows[-1]["estimate"] is None
    assert rows[0]["estimate"] == result.table["estimate"].iloc[0]


def test_neither_the_order_of_rows_nor_text_moves_an_effect():
    table = simulated(90)
    shuffled = table.sample(frac=1, random_state=1).map(repr)
    one, other = (compared(t).table for t in (table, shuffled))
    numbers = one.select_dtypes("number").columns
    np.testing.assert_allclose(one[numbers], other[numbers], rtol=1e-9, atol=1e-12)
