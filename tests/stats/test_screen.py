"""What is told before any p: against closed forms, drawn tables, and the OASIS tables."""

import json

import numpy as np
import oasis_tables
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.outliers_influence import variance_inflation_factor

from cohort.stats.columns import DesignError
from cohort.stats.design import prepare
from cohort.stats.regression import fit
from cohort.stats.screen import HEAD, SITE, USUAL, screen
from cohort.stats.screening.ratios import divided


def people(n=80, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i:03d}" for i in range(n)],
            "subject": [f"{i:03d}" for i in range(n)],
            "session": "1",
            "dx": rng.permutation(np.arange(n) % 2),
            "age": rng.uniform(60, 90, n),
            "sex": rng.permutation(np.resize(["F", "M"], n)),
            "scanner": rng.permutation(np.resize(list("abc"), n)),
            "eTIV": rng.normal(1500, 120, n),
        }
    )
    table["brain"] = 300 + 0.4 * table["eTIV"] - 3 * table["age"] + rng.normal(0, 40, n)
    return table


def screened(table, formula, *, one_scan_per="first", where=None, **options):
    design = prepare(table, formula=formula, one_scan_per=one_scan_per, where=where)
    return screen(design, table, **options)


# --------------------------------------------------------------------------- the OASIS tables


def test_the_425_rows_are_warned_of_three_times_unasked(shared):
    table = oasis_tables.volumes(shared)
    found = screened(table, "ratio ~ dx", one_scan_per="all")
    repeats, ages, ratio, *_ = found.warnings
    assert "19 of 406 subjects are scanned twice and all 425 rows are used" in repeats
    assert ages.startswith("age, which is not in the model, barely overlaps between the groups")
    assert ratio.startswith("ratio is brain_vol / skull_vol and still correlates with skull_vol")
    assert (found.group, found.head, found.site) == ("dx", "skull_vol", None)
    assert len(found.repeats) == 19
    assert set(found.repeats["n_rows"]) == {2}
    assert (found.repeats["rows"] == found.repeats["used"]).all()
    r = found.correlations.set_index("covariate")
    assert r.loc["age", "r_group"] == pytest.approx(0.542463111786, rel=1e-10)
    assert r.loc["skull_vol", "r_group"] == pytest.approx(0.014222458010, rel=1e-9)
    brain = screened(table, "brain_vol ~ dx", one_scan_per="all")
    r = brain.correlations.set_index("covariate")["r_outcome"]
    assert r["age"] == pytest.approx(-0.719210581515, rel=1e-10)
    assert r["skull_vol"] == pytest.approx(0.654829346585, rel=1e-10)
    assert r["dx"] == pytest.approx(-0.446770932343, rel=1e-10)
    assert brain.ratios.empty
    ends = brain.balance.set_index(["covariate", "level"]).loc["age"]
    assert (ends.loc["1", "min"], ends.loc["0", "min"], ends.loc["0", "max"]) == (62, 18, 94)


def test_the_ratio_of_the_elderly_keeps_its_reference_correlation(shared):
    table = oasis_tables.volumes(shared)
    reference = oasis_tables.reference(shared)
    for declared in (None, {"ratio": ("brain_vol", "skull_vol")}):
        found = screened(table, "ratio ~ dx + age + male", where="age >= 60", ratios=declared)
        row = found.ratios.iloc[0]
        assert (row["column"], row["numerator"], row["denominator"]) == (
            *("ratio", "brain_vol", "skull_vol"),
        )
        assert row["r"] == pytest.approx(reference["E.corr.ratio.skull"], rel=1e-10)
        assert any("(r = -0.448): the division over-corrects" in text for text in found.warnings)


def test_one_scan_per_subject_is_told_with_the_subjects_left_out(shared):
    table = oasis_tables.volumes(shared)
    found = screened(table, "brain_vol ~ dx + age + male + skull_vol")
    assert "19 of 406 subjects have several rows: one row of each is fitted, 19 rows are not" in (
        found.warnings
    )
    assert len(found.repeats) == 19
    assert all(row in table["scan_id"].to_numpy() for row in found.repeats["used"])
    reference = oasis_tables.reference(shared)
    vif = found.correlations.set_index("covariate")["vif"]
    for name in ("dx", "age", "male", "skull_vol"):
        assert vif[name] == pytest.approx(reference[f"U.vif.{name}"], rel=1e-10)


def test_the_tests_of_the_dementia_clinic_are_missing_in_one_group_only(shared):
    table = oasis_tables.cross_sectional(shared)
    found = screened(table, "nWBV ~ dx + Age + eTIV + male + MMSE")
    told = next(text for text in found.warnings if text.startswith("MMSE is missing in"))
    missing = found.missing.set_index(["column", "level"])
    truth = table["MMSE"].isna()
    assert missing.loc[("MMSE", ""), "missing"] == truth.sum()
    for level in ("0", "1"):
        here = table["dx"] == float(level)
        assert missing.loc[("MMSE", level), "share"] == pytest.approx(truth[here].mean())
    assert "not alike in the groups" in told
    assert f"missing in {truth.sum()} of 436 rows" in told


# ------------------------------------------------------------------------------ drawn tables


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 120))
def test_balance_and_correlations_equal_their_closed_forms(seed, n):
    table = people(n, seed)
    found = screened(table, "brain ~ dx + age")
    ill, well = table[table["dx"] == 1], table[table["dx"] == 0]
    rows = found.balance.set_index(["covariate", "level"])
    for name in ("age", "eTIV"):
        d = (ill[name].mean() - well[name].mean()) / np.sqrt(
            (ill[name].var() + well[name].var()) / 2
        )
        assert rows.loc[(name, "1"), "std_difference"] == pytest.approx(d, rel=1e-9, abs=1e-12)
        inside = ill[name].between(well[name].min(), well[name].max()).mean()
        assert rows.loc[(name, "1"), "overlap"] == pytest.approx(inside)
        assert rows.loc[(name, "0"), "mean"] == pytest.approx(well[name].mean())
        assert rows.loc[(name, "0"), "sd"] == pytest.approx(well[name].std())
    assert rows.loc[("sex = M", "1"), "mean"] == pytest.approx((ill["sex"] == "M").mean())
    r = found.correlations.set_index("covariate")
    for name in ("age", "eTIV"):
        for column, other in (("r_outcome", "brain"), ("r_group", "dx")):
            truth = stats.pearsonr(table[name], table[other]).statistic
            assert r.loc[name, column] == pytest.approx(truth, rel=1e-9, abs=1e-12)
    X = np.column_stack([np.ones(n), table["dx"], table["age"]])
    assert r.loc["age", "vif"] == pytest.approx(variance_inflation_factor(X, 2), rel=1e-9)
    assert list(r.index[r["in_model"]]) == ["dx", "age"]
    assert np.isnan(r.loc["eTIV", "vif"])


@given(
    seed=st.integers(0, 10_000),
    columns=st.integers(2, 6),
    factor=st.sampled_from([1.0, 100.0, -0.5]),
    data=st.data(),
)
def test_a_ratio_is_found_among_columns_and_nothing_else_is(seed, columns, factor, data):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({f"c{i}": rng.normal(100, 10, 20) for i in range(columns)})
    top, bottom = data.draw(st.permutations(list(table.columns)))[:2]
    table["text"] = "x"
    table["constant"] = 7.0
    table["y"] = factor * table[top] / table[bottom]
    assert divided(table, "y") == (top, bottom)
    table.loc[3, top] = 0.0
    table["y"] = factor * table[top] / table[bottom]
    assert divided(table, "y") == (top, bottom)
    table.loc[7, "y"] *= 1 + 1e-6
    assert divided(table, "y") is None
    assert divided(table, bottom) is None


def test_a_column_that_hardly_varies_is_no_ratio_of_two_that_go_together():
    table = people(20)
    table["months"] = 12 * table["age"]
    table["y"] = 1e12 + table["brain"]
    assert divided(table, "y") is None


def test_the_exact_quotient_is_preferred_to_one_up_to_a_factor():
    table = people(20)
    table["brain_litres"] = table["brain"] / 1000
    table["ratio"] = table["brain"] / table["eTIV"]
    assert divided(table, "ratio") == ("brain", "eTIV")
    assert divided(table.map(str), "ratio") == ("brain", "eTIV")


def test_groups_of_several_levels_and_the_correlation_ratio():
    table = people(90).assign(stage=lambda t: np.resize(list("xyz"), 90))
    table["age"] += table["stage"].map({"x": 0.0, "y": 8.0, "z": 3.0})
    found = screened(table, "brain ~ C(stage, Treatment('y')) + age", group="stage")
    rows = found.balance[found.balance["covariate"] == "age"]
    assert rows["level"].tolist() == ["y", "x", "z"]  # the reference of the model first
    assert rows["std_difference"].isna().tolist() == [True, False, False]
    r = found.correlations.set_index("covariate")["r_group"]
    f, _ = stats.f_oneway(*(part["age"] for _, part in table.groupby("stage")))
    assert r["age"] == pytest.approx(np.sqrt(2 * f / (2 * f + 87)), rel=1e-9)
    assert r.filter(like="stage").isna().all()


def test_sites_that_hold_one_group_only_are_named():
    table = people(90)
    table.loc[table["scanner"] == "c", "dx"] = 1
    found = screened(table, "brain ~ dx + age")
    assert found.site == "scanner"
    n = int((table["scanner"] == "c").sum())
    assert (
        f"1 of 3 sites (scanner) hold one group only and compare nothing: c (dx = 1, {n} rows)"
        in (found.warnings)
    )
    assert "3 sites (scanner) and no term for them" in found.warnings
    counts = found.sites.set_index(["site", "level"])["n"]
    assert counts[("c", "0")] == 0
    assert counts.sum() == 90
    adjusted = screened(table, "brain ~ dx + age + scanner")
    assert not any("no term for them" in text for text in adjusted.warnings)
    table["dx"] = (table["scanner"] == "a").astype(int)
    told = screened(table, "brain ~ dx + age").warnings
    assert any("dx and site cannot be told apart" in text for text in told)
    alone = screened(people(90).drop(columns="scanner"), "brain ~ dx + age")
    assert alone.sites.empty
    assert not any("site" in text for text in alone.warnings)


def test_rows_of_no_known_site_are_counted():
    table = people(90)
    table.loc[[3, 4], "scanner"] = None
    told = screened(table, "brain ~ dx + age").warnings
    assert "scanner is not known in 2 of the rows that are fitted: they are of no site" in told
    assert not any("not known" in w for w in screened(people(90), "brain ~ dx + age").warnings)


def test_a_declared_ratio_of_zero_is_no_ratio():
    table = people(30).assign(share=lambda t: t["brain"] / t["eTIV"])
    table.loc[0, "eTIV"] = 0.0
    with pytest.raises(
        DesignError, match=r"in 1 of 30 rows, the first is s000: .* nan is expected"
    ):
        screened(table, "share ~ dx", ratios={"share": ("brain", "eTIV")})


@pytest.mark.parametrize(("start", "is_told"), [(0.05, False), (1.0, True), (-3.0, False)])
def test_zero_is_near_enough_where_rows_are_near_it(start, is_told):
    table = people(60).assign(years=np.linspace(start, start + 3, 60))
    told = screened(table, "brain ~ dx * years").warnings
    assert any("those at years = 0" in text for text in told) is is_told


def test_a_head_size_that_differs_by_group_is_told_and_one_that_does_not_is_not():
    table = people(200)
    apart = table.assign(eTIV=table["eTIV"] + 100 * table["dx"])
    for shown, expected in ((table, False), (apart, True)):
        found = screened(shown, "brain ~ dx + age + eTIV")
        assert any("eTIV itself differs by group" in text for text in found.warnings) is expected
    p = stats.ttest_ind(
        apart.loc[apart["dx"] == 1, "eTIV"], apart.loc[apart["dx"] == 0, "eTIV"], equal_var=False
    ).pvalue
    told = next(t for t in screened(apart, "brain ~ dx + eTIV").warnings if "itself differs" in t)
    assert f"Welch p = {p:.2g}" in told


def test_a_covariate_that_confounds_is_named_unless_the_model_says_the_same():
    table = people(200)
    table["age"] += 8 * table["dx"]
    told = screened(table, "brain ~ dx").warnings
    assert any(text.startswith("age is not in the model and goes with the group") for text in told)
    months = table.assign(months=table["age"] * 12)
    for formula in ("brain ~ dx + age", "brain ~ dx + months"):
        found = screened(months, formula)
        assert not any("age is not in the model" in text for text in found.warnings)
    found = screened(table.assign(educ=table["age"] + 1.0), "brain ~ dx", also=["educ"])
    assert "educ" in set(found.balance["covariate"])
    assert "age" not in set(found.balance["covariate"])  # educ says the same


def test_the_warnings_of_design_and_fit_are_reused_not_repeated():
    table = people(60)
    table["visit_age"] = table["age"] + np.random.default_rng(1).normal(0, 0.1, 60)
    result = fit(table, formula="brain ~ dx + age + visit_age")
    found = screen(result, table)
    high = [text for text in result.warnings if "nearly follows from the other terms" in text]
    assert len(high) == 2
    assert set(high) <= set(found.warnings)
    assert len(found.warnings) == len(set(found.warnings))
    assert set(result.design.warnings) <= set(found.warnings)


def test_a_covariate_that_equals_the_group_is_named():
    table = people(60)
    table["sex"] = np.where(table["dx"] == 1, "M", "F")
    found = screened(table, "brain ~ dx + age")
    r = found.correlations.set_index("covariate").loc["sex = M", "r_group"]
    assert r == pytest.approx(1.0)
    assert "sex = M says the same as dx: the two cannot be told apart" in found.warnings


def test_the_population_is_that_of_where_and_nothing_else():
    table = people(60)
    table.loc[:9, "age"] = 40.0
    table.loc[10:14, "brain"] = np.nan
    table.loc[20:21, "scan_id"] = None
    found = screened(table, "brain ~ dx + age", where="age >= 50")
    missing = found.missing.set_index(["column", "level"])
    assert missing.loc[("brain", ""), "n"] == 60 - 10 - 2
    assert missing.loc[("brain", ""), "missing"] == 5
    assert "brain is missing in 5 of 48 rows, which are not fitted" in "\n".join(found.warnings)


def test_rows_whose_group_is_missing_have_a_level_of_their_own():
    table = people(40).astype({"dx": object})
    table.loc[:3, "dx"] = None
    missing = screened(table, "brain ~ dx + age").missing.set_index(["column", "level"])
    assert missing.loc[("dx", "missing"), ["n", "missing"]].tolist() == [4, 4]
    assert missing.loc[("dx", "0"), "missing"] == 0


def test_without_a_column_of_people_that_is_told():
    table = people(40).drop(columns="subject")
    assert any(
        "no column tells people apart" in text
        for text in screened(table, "brain ~ dx", one_scan_per="all").warnings
    )


def test_without_a_group_there_is_nothing_to_balance():
    found = screened(people(40), "brain ~ age")
    assert found.group is None
    assert found.balance.empty
    assert found.correlations["r_group"].isna().all()
    assert found.correlations["r_outcome"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "dxx"}, "screen: no column 'dxx'; did you mean 'dx'"),
        ({"head": "TIVV"}, "screen: no column 'TIVV'; did you mean 'eTIV'"),
        ({"site": "scaner"}, "did you mean 'scanner'"),
        ({"also": ["agee"]}, "did you mean 'age'"),
        ({"ratios": {"brain": ("brain", "etiv")}}, "ratios: no column 'etiv'"),
    ],
)
def test_an_unknown_column_is_refused_with_the_nearest_name(options, message):
    with pytest.raises(DesignError, match=message):
        screened(people(40), "brain ~ dx + age", **options)


def test_another_table_is_refused():
    table = people(40)
    design = prepare(table, formula="brain ~ dx")
    with pytest.raises(DesignError, match="the table that the model was made from"):
        screen(design, table.iloc[5:])


def test_the_screen_does_not_depend_on_the_order_of_rows_or_on_text():
    table = people(50)
    one = screened(table, "brain ~ dx + age")
    other = screened(table.sample(frac=1, random_state=2).map(str), "brain ~ dx + age")
    for name in ("balance", "correlations", "missing", "sites"):
        left, right = getattr(one, name), getattr(other, name)
        pd.testing.assert_frame_equal(left, right, rtol=1e-9)


def test_json_holds_every_table():
    text = json.dumps(screened(people(40), "brain ~ dx + age").to_json(), allow_nan=False)
    stored = json.loads(text)
    assert {"balance", "correlations", "missing", "repeats", "sites", "ratios", "warnings"} <= set(
        stored
    )
    assert stored["balance"][0]["std_difference"] is None


def test_names_that_are_looked_for():
    heads = ["skull_vol", "skull_volume_ml", "eTIV", "ICV", "tiv", "intracranial_volume", "icv_cm3"]
    assert all(HEAD.fullmatch(name) for name in heads)
    assert not any(
        HEAD.fullmatch(name) for name in ("active", "brain_vol", "receptivity", "skulls")
    )
    assert all(SITE.fullmatch(name) for name in ("site", "Scanner", "center_id", "centre"))
    assert all(USUAL.fullmatch(name) for name in ("age", "Age_years", "sex", "M" + "ale", "eTIV"))
    assert not USUAL.fullmatch("agency")
