"""A model of a catalog, whole: every part equals the module that computes it, on the same rows."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohort.io.covariates import Model
from cohort.stats import adjust, contrasts, imputation, mixed, multiplicity, regression, robust
from cohort.stats.analysis import analyse
from cohort.stats.columns import DesignError
from cohort.stats.wording.layout import adjustments

UNITS = {"brain": "ml", "grey": "ml", "skull": "ml", "age": "years"}
ADJUSTED = {"formula": "dx + age + skull", "confounds": ["age", "skull"], "group": "dx"}


def people(seed=3, n=90):
    rng = np.random.default_rng(np.random.Philox(key=seed))
    table = pd.DataFrame({"scan_id": [f"s{i:03d}" for i in range(n)], "dx": np.arange(n) % 2})
    table["subject"] = [f"p{min(i, n - 7):03d}" if i >= n - 8 else f"p{i:03d}" for i in range(n)]
    table["session"] = "1"
    table["site"] = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    table["age"] = rng.uniform(50, 80, n)
    table["skull"] = rng.normal(1500, 120, n)
    table["brain"] = 300 + 0.5 * table["skull"] - 40 * table["dx"] - 2 * table["age"]
    table["brain"] += rng.normal(0, 30, n)
    table["grey"] = 0.6 * table["brain"] + rng.normal(0, 30, n)
    return table


def model(**keys):
    return Model.model_validate({"outcome": "brain", "one_scan_per": "first", **ADJUSTED, **keys})


def plain_fit(table, **keys):
    return regression.fit(
        table, outcome="brain", formula=ADJUSTED["formula"], confounds=ADJUSTED["confounds"],
        units=UNITS, **keys
    )  # fmt: skip


def test_the_fit_and_its_attributes_are_those_of_the_regression():
    table = people()
    found, expected = analyse(table, model(), UNITS), plain_fit(table)
    assert_frame_equal(found.tidy[expected.tidy.columns], expected.tidy)
    assert_frame_equal(found.augment, expected.augment)
    assert_frame_equal(found.covariance, expected.covariance)
    assert (found.rows, found.reading, found.vif) == (expected.rows, expected.reading, expected.vif)
    high = expected.augment[expected.augment["cook"] > 4 / len(expected.augment)]
    assert set(found.influence["scan_id"]) == set(high["scan_id"])
    assert found.influence["cook"].is_monotonic_decreasing
    json.dumps(found.to_json(), allow_nan=False)


def test_the_warnings_of_the_screen_come_first_and_before_the_numbers():
    found = analyse(people(), model(one_scan_per="all"), UNITS)
    assert found.warnings[: len(found.screen.warnings)] == found.screen.warnings
    assert len(set(found.warnings)) == len(found.warnings)
    assert any("scanned" in text for text in found.warnings)
    lines = found.summary().splitlines()
    n = len(found.warnings)
    assert all(line.startswith("warning: ") for line in lines[:n])
    assert lines[n].startswith("brain ~ dx")
    assert not any(line.startswith("warning: ") for line in lines[n:])


def test_the_terminal_shows_the_screen_before_any_p():
    table = people()
    table.loc[:8, "skull"] = np.nan
    found = analyse(table, model(site="site", one_scan_per="all"), UNITS)
    text = found.summary()
    assert text.index("before any p:") < text.index("95 % interval")
    before = text.split("before any p:")[1].split("95 % interval")[0].splitlines()
    lines = {line.split()[0]: line for line in before if line.strip()}
    said = found.screen.correlations.set_index("covariate").loc["age"]
    for value in (said["r_group"], said["r_outcome"], said["vif"]):
        assert f"{value:.2f}" in lines["age"]
    assert "  missing: skull in 9 of 90 rows" in text
    counts = found.screen.sites.set_index(["site", "level"])["n"]
    assert lines["b"].split() == ["b", str(counts["b", "0"]), str(counts["b", "1"])]
    errors = found.tidy.set_index("term").loc["dx"]
    assert f"{errors['cluster_kind']}, {errors['n_clusters']:.0f} clusters of subject" in text


def test_rows_that_repeat_get_cluster_robust_errors_beside_the_others():
    table = people()
    found = analyse(table, model(one_scan_per="all"), UNITS)
    by_subject = robust.cluster(plain_fit(table, one_scan_per="all"), "subject").tidy
    assert_frame_equal(found.tidy[by_subject.columns], by_subject)
    assert "cluster_q_bh" in found.tidy
    assert "cluster_se" not in analyse(table, model(), UNITS).tidy
    by_site = analyse(table, model(cluster="site"), UNITS).tidy
    fit = plain_fit(table)
    labels = table.set_index("scan_id")["site"].loc[fit.design.X.index]
    assert_frame_equal(
        by_site[["cluster_se"]], robust.cluster(fit, list(labels)).tidy[["cluster_se"]]
    )


def test_without_a_declared_family_the_groups_terms_of_all_outcomes_are_one():
    found = analyse(people(), model(outcomes=["grey"]), UNITS).tidy
    tested = found[found["term"] == "dx"]
    assert tested["outcome"].tolist() == ["brain", "grey"]
    np.testing.assert_allclose(tested["q_bh"], multiplicity.adjust(tested["p"], "bh"), rtol=1e-14)
    assert set(tested["family_n"]) == {2}
    assert found.loc[found["term"] != "dx", "q_bh"].isna().all()


def test_a_declared_family_may_hold_terms_and_contrasts():
    declared = {"old": "dx + 70 * age"}
    found = analyse(
        people(), model(contrasts=declared, family={"terms": ["dx", "age", "old"]}), UNITS
    )
    tested = found.tables["contrasts"]
    terms = found.tidy.set_index("term")
    p = [*terms.loc[["dx", "age"], "p"], tested["p"].item()]
    holm = [*terms.loc[["dx", "age"], "p_holm"], tested["p_holm"].item()]
    np.testing.assert_allclose(holm, multiplicity.adjust(p, "holm"), rtol=1e-14)
    assert np.isnan(terms.loc["skull", "p_holm"])


def test_a_category_and_a_spline_are_each_tested_as_a_whole():
    keys = {"formula": "dx + site + bs(age, df=4)", "confounds": [], "site": "site"}
    found = analyse(people(), model(**keys), UNITS)
    table = found.tables["joint"].set_index("test")
    assert table.index.tolist() == ["site", "bs(age, df=4)"]
    for left, right in (("site", "dx + bs(age, df=4)"), ("bs(age, df=4)", "dx + site")):
        small = regression.fit(people(), outcome="brain", formula=right).glance.iloc[0]
        whole = found.fit.glance.iloc[0]
        more = small["df_resid"] - whole["df_resid"]
        rest = whole["sigma"] ** 2 * whole["df_resid"]
        f = (small["sigma"] ** 2 * small["df_resid"] - rest) / more / whole["sigma"] ** 2
        assert table.loc[left, "f"] == pytest.approx(f, rel=1e-8)
        assert table.loc[left, "df"] == more
    assert "each as a whole" in found.summary()
    assert "joint" not in analyse(people(), model(), UNITS).tables


def test_a_contrast_that_is_called_like_a_term_cannot_share_its_family():
    with pytest.raises(DesignError, match="'dx' is a term and the name of a contrast"):
        analyse(people(), model(contrasts={"dx": "dx"}, family={"terms": ["dx"]}), UNITS)


@pytest.mark.parametrize("cluster", [None, "site"])
def test_every_outcome_has_what_it_has_as_the_first(cluster):
    table = people(n=120)
    table["site"] = [f"f{i // 5:02d}" for i in range(120)]
    keys = {"equivalence": {"dx": {"bound": 40}}, "cluster": cluster}
    both = analyse(table, model(outcomes=["brain", "grey"], **keys), UNITS)
    for outcome in ("brain", "grey"):
        alone = analyse(table, model(outcome=outcome, **keys), UNITS)
        mine = both.tidy[both.tidy["outcome"] == outcome].set_index("term")
        expected = alone.tidy.set_index("term")
        numbers = [c for c in expected.columns if expected[c].dtype.kind in "if"]
        numbers = [c for c in numbers if "family" not in c and "q_b" not in c and "p_" not in c]
        assert {"d_adj_low", "partial_r_high", "detectable", "r2", "n"} <= {*numbers}
        np.testing.assert_allclose(mine[numbers], expected[numbers], rtol=1e-7, err_msg=outcome)
        for name in ("equivalence", "means"):
            rows = both.tables[name]
            rows = rows[rows["outcome"] == outcome].reset_index(drop=True)
            assert_frame_equal(rows, alone.tables[name])
    text = both.summary()
    assert "dx on brain within -40 to 40: " in text
    assert "dx on grey within -40 to 40: " in text


def test_contrasts_are_of_every_outcome():
    table, text = people(), "dx + 10 * age"
    found = analyse(table, model(outcomes=["grey"], contrasts={"a": text}), UNITS)
    tested = found.tables["contrasts"].set_index("outcome")
    for outcome in ("brain", "grey"):
        fit = regression.fit(
            table, outcome=outcome, formula=ADJUSTED["formula"], confounds=ADJUSTED["confounds"]
        )
        expected = contrasts.estimates(fit, text).iloc[0]
        assert tested.loc[outcome, "p"] == pytest.approx(expected["p"], rel=1e-12)


@pytest.mark.parametrize("outcomes", [["brain", "grey"], ["grey", "brain"]])
@pytest.mark.parametrize("formula", ["dx + grey", "dx + I(grey**2) + age", "dx + np.log(grey)"])
def test_an_outcome_is_not_explained_by_itself_in_whatever_place_it_is_named(outcomes, formula):
    asked = model(outcome=outcomes[0], outcomes=outcomes, formula=formula, confounds=[])
    with pytest.raises(DesignError, match="the outcome 'grey' is also among the terms: dx"):
        analyse(people(), asked, UNITS)
    with pytest.raises(DesignError, match="the outcome 'grey' is also among the terms"):
        analyse(people(), model(outcomes=outcomes, confounds=["grey"]), UNITS)


@pytest.mark.parametrize(
    ("grey", "why"),
    [
        (1.0, "the same in all"),
        (np.nan, "no rows to fit"),
        (np.r_[1e200, 2e200, 3e200, np.zeros(87)], "reaches 3e\\+200: state it in another unit"),
    ],
)
def test_an_outcome_that_cannot_be_fitted_does_not_stop_the_others(grey, why):
    found = analyse(people().assign(grey=grey), model(outcomes=["grey"]), UNITS)
    assert re.search(why, found.glance.set_index("outcome").loc["grey", "reason"])
    assert found.glance["outcome"].tolist() == ["brain", "grey"]
    assert any(w.startswith("1 of 2 outcomes are not fitted, the first is") for w in found.warnings)
    assert set(found.tidy.loc[found.tidy["term"] == "dx", "family_n"]) == {1}


def test_an_outcome_without_a_level_says_what_it_is_compared_with_and_stops_no_other():
    table = people()
    table.loc[table["site"] == "a", "grey"] = np.nan
    keys = {"outcomes": ["grey"], "formula": "dx + site + age", "confounds": ["age"]}
    asked = {"contrasts": {"b": "site[T.b]"}, "equivalence": {"site[T.b]": {"bound": 9}}}
    found = analyse(table, model(**keys, **asked), UNITS)
    told = "grey: no row of it has site = a, so its effects of site compare with b"
    assert told in found.warnings
    for name in asked:
        assert found.tables[name]["outcome"].tolist() == ["brain"]
        assert "site[T.b]" in found.left_out[f"{name} of grey"]
    assert set(found.tables["means"]["outcome"]) == {"brain", "grey"}
    whole = analyse(people(), model(**keys, **asked), UNITS)
    assert not any("compare with" in text for text in whole.warnings)
    assert not any("of grey" in name for name in whole.left_out)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"contrasts": {"a": "dx + aeg"}}, "aeg.*did you mean 'age'"),
        ({"family": {"terms": ["sex"]}}, "'sex'"),
        ({"equivalence": {"xd": {"bound": 1}}}, "'xd'"),
        ({"cluster": "sote"}, "no column 'sote'; did you mean 'site'"),
        ({"site": "sote"}, "no column 'sote'; did you mean 'site'"),
    ],
)
def test_what_is_declared_and_is_not_of_the_model_is_one_line(keys, message):
    with pytest.raises(DesignError, match=message) as caught:
        analyse(people(), model(**keys), UNITS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ({0: 2}, r"0 \(44\), 1 \(45\), 2 \(1\)"),
        (dict.fromkeys(range(30), 2), r"0 \(30\), 1 \(30\), 2 \(30\)"),
        ({i: i for i in range(90)}, r"5 \(1\) and 84 other values"),
        ({i: i % 2 + 1 for i in range(90)}, r"1 \(45\), 2 \(45\)"),
    ],
)
@pytest.mark.parametrize("random", [None, {}])
def test_a_group_of_numbers_that_would_be_one_slope_is_refused(values, held, random):
    table = people()
    table["dx"] = [values.get(i, value) for i, value in enumerate(table["dx"])]
    keys = {
        "outcome": "brain",
        "formula": "dx + age",
        "group": "dx",
        "one_scan_per": "all",
        "random": random,
    }
    asked = Model.model_validate(keys)
    with pytest.raises(DesignError, match=rf"group: 'dx' holds .*{held}.*C\(dx\)") as caught:
        analyse(table, asked, UNITS)
    assert "\n" not in str(caught.value)


def test_levels_that_are_numbers_are_compared_when_the_formula_says_so():
    table = people().assign(dx=np.arange(90) % 3)
    keys = {"formula": "C(dx) + age + skull", "head": "skull"}
    found = analyse(table, model(**keys), UNITS)
    assert set(found.tidy.loc[found.tidy["q_bh"].notna(), "term"]) == {"C(dx)[T.1]", "C(dx)[T.2]"}
    assert {"means", "ladder", "adjustments"} <= set(found.tables)


def test_head_size_in_six_ways_is_that_of_adjust():
    table = people()
    found = analyse(table, model(head="skull"), UNITS)
    assert found.adjustments is not None
    expected = adjust.compare(
        table, outcome="brain", formula=ADJUSTED["formula"], confounds=ADJUSTED["confounds"],
        head="skull", group="dx", units=UNITS,
    )  # fmt: skip
    assert_frame_equal(found.tables["adjustments"], expected.table)
    shown = "\n".join(adjustments(found.adjustments))
    assert all(name in shown for name in (*expected.table["strategy"], *expected.sentences))


def test_a_ratio_is_not_divided_again_and_says_so():
    table = people().assign(share=lambda t: t["brain"] / t["skull"])
    found = analyse(table, model(outcome="share", formula="dx", confounds=[], head="skull"), UNITS)
    assert found.adjustments is None
    assert found.left_out["adjustments"] == "share is divided by skull already"
    assert any("still correlates with skull" in text for text in found.warnings)


def test_a_declared_ratio_must_be_the_quotient_of_its_columns():
    table = people().assign(share=lambda t: (100 * t["brain"] / t["skull"]).round(1))
    keys = {"outcome": "share", "formula": "dx + age", "confounds": [], "head": "skull"}
    found = analyse(table, model(**keys, ratios={"share": ["brain", "skull"]}), UNITS)
    assert found.left_out["adjustments"] == "share is divided by skull already"
    with pytest.raises(DesignError, match="share is declared brain / grey, but lies more than 1 %"):
        analyse(table, model(**keys, ratios={"share": ["brain", "grey"]}), UNITS)
    table.loc[2, "share"] *= 10
    message = r"in 1 of \d+ rows, the first is s002: .* is expected"
    with pytest.raises(DesignError, match=message) as caught:
        analyse(table, model(**keys, ratios={"share": ["brain", "skull"]}), UNITS)
    assert "\n" not in str(caught.value)


def test_the_mean_of_several_scans_is_not_called_one_of_them():
    table = people().assign(dx=lambda t: t["subject"].str[1:].astype(int) % 2)
    first, mean = (
        next(w for w in analyse(table, model(one_scan_per=rule), UNITS).warnings if "subjects" in w)
        for rule in ("first", "mean")
    )
    assert first.endswith("have several rows: one row of each is fitted, 6 rows are not")
    assert mean.endswith("have several rows: the mean of each subject's rows is fitted, as one row")


def test_missing_groups_are_not_said_to_differ_between_the_groups():
    table = people()
    table.loc[::6, "dx"] = np.nan
    table.loc[1::8, "age"] = np.nan
    table["sex"] = (np.arange(90) // 2 % 2).astype(float)
    table.loc[4::9, "sex"] = np.nan
    keys = {"formula": "dx + age + sex", "confounds": [], "one_scan_per": "all", "cluster": None}
    found = analyse(table, model(**keys, impute={"seed": 1}), UNITS)
    (told,) = [w for w in found.warnings if w.startswith("dx is missing in 15 of 90 rows")]
    assert told.endswith("rows, which are not fitted")
    (drawn,) = [w for w in found.warnings if "itself is drawn" in w]
    assert drawn.startswith("dx itself is drawn in 15 rows")


def test_a_product_without_its_columns_and_a_group_of_two_are_told():
    told = analyse(people(), model(formula="dx + dx:age + skull", confounds=[]), UNITS).warnings
    assert any(w.startswith("dx:age is in the model and age alone is not") for w in told)
    told = analyse(people(), model(formula="dx * age + skull", confounds=[]), UNITS).warnings
    assert not any("alone" in w for w in told)
    table = people().assign(dx=(np.arange(90) < 2) * 1)
    told = analyse(table, model(), UNITS).warnings
    assert any(w.startswith("dx = 1 holds for 2 rows only") for w in told)
    assert not any("rows only" in w for w in analyse(people(), model(), UNITS).warnings)


def test_an_effect_at_an_age_that_nobody_has_is_told_until_the_age_is_centred():
    told = analyse(people(), model(formula="dx * age + skull", confounds=[]), UNITS).warnings
    (found,) = [w for w in told if w.startswith("with dx:age in the model")]
    assert re.search(r"at age = 0, outside the rows \(50.2 to 80\): write center\(age\)", found)
    assert any(w.startswith("dx nearly follows") and "center() what is" in w for w in told)
    formula = "dx * center(age) + skull"
    told = analyse(people(), model(formula=formula, confounds=[]), UNITS).warnings
    assert not any("center" in w for w in told)


def test_a_model_that_divides_nothing_is_not_warned_of_dividing():
    table = people().assign(brain=lambda t: 900 + 0.1 * t["skull"] - 40 * t["dx"])
    table["brain"] += np.random.default_rng(np.random.Philox(key=2)).normal(0, 30, len(table))
    found = analyse(table, model(head="skull"), UNITS)
    assert any("over-corrects" in text for text in found.adjustments.sentences)
    assert not any("corrects" in text for text in found.warnings)


def test_head_size_that_some_rows_lack_is_told():
    table = people()
    table.loc[:9, "skull"] = np.nan
    keys = {"formula": "dx + age", "confounds": [], "head": "skull"}
    (told,) = [w for w in analyse(table, model(**keys), UNITS).warnings if "is known in" in w]
    assert re.match(r"adjustments: skull is known in \d+ of the \d+ rows", told)
    keys["formula"] = "dx + age + skull"
    assert not any("is known in" in w for w in analyse(table, model(**keys), UNITS).warnings)


@pytest.mark.parametrize("dx", [None, "AD"])
def test_a_group_that_is_no_term_is_told(dx):
    table = people() if dx is None else people().assign(dx=dx)
    found = analyse(table, model(formula="age + skull", confounds=[]), UNITS)
    assert "dx is the group and no term of the model: nothing compares it" in found.warnings
    assert not any("nothing compares" in w for w in analyse(people(), model(), UNITS).warnings)


def test_a_bound_on_no_term_names_the_key():
    with pytest.raises(DesignError, match=r"^equivalence: no term 'xd'; did you mean 'dx'"):
        analyse(people(), model(equivalence={"xd": {"bound": 1}}), UNITS)


def test_a_group_of_three_levels_has_means_and_no_simple_comparison():
    found = analyse(people(), model(formula="site + age", confounds=["age"], group="site"), UNITS)
    assert found.comparison is None
    assert "comparison" in found.left_out
    assert len(found.tables["means"]) == 3


@pytest.mark.parametrize("formula", ["C(dx, Treatment('cn'))", "C(dx, Treatment('cn')) * age"])
def test_the_simple_comparison_has_the_reference_of_the_model(formula):
    table = people().assign(dx=lambda t: np.where(t["dx"] == 1, "ad", "cn"))
    found = analyse(table, model(formula=f"{formula} + skull", confounds=[]), UNITS)
    ill, well = (table.loc[table["dx"] == level, "brain"] for level in ("ad", "cn"))
    used = table["scan_id"].isin(found.augment["scan_id"])
    assert found.comparison.levels == ("cn", "ad")
    expected = ill[used].mean() - well[used].mean()
    assert found.comparison.test("student")["difference"] == pytest.approx(expected, rel=1e-9)
    shown = found.summary()
    assert "dx = ad less cn, with nothing held equal" in shown
    before = shown.split("before any p:")[1].split("estimate")[0]
    assert not re.search(r"\[T\.ad\] ", before)


def test_the_simple_comparison_is_of_the_rows_of_the_fit():
    table = people()
    table.loc[::9, "age"] = np.nan
    found = analyse(table, model(where="skull > 1400"), UNITS)
    assert found.comparison is not None
    assert found.comparison.groups["n"].sum() == len(found.augment)


def test_missing_covariates_are_drawn_where_the_model_states_a_seed():
    table = people()
    table.loc[::10, "age"] = np.nan
    found = analyse(table, model(impute={"seed": 4}), UNITS)
    expected = imputation.impute(
        table, seed=4, outcome="brain", formula=ADJUSTED["formula"],
        confounds=ADJUSTED["confounds"], units=UNITS,
    )  # fmt: skip
    assert_frame_equal(found.tables["imputed"], expected.table)
    shown = found.summary().split("with missing covariates drawn (age in ")[1].splitlines()
    assert "20 draws, seed 4" in shown[0]
    rows = [line.split() for line in shown if line.split()[:2] == ["dx", "imputed"]]
    drawn = expected.tidy.set_index("term").loc["dx"]
    assert rows[0][2] == str(drawn["n"])
    assert rows[0][-2] == f"{drawn['p']:.2g}"
    whole = analyse(people(), model(impute={"seed": 4}), UNITS)
    assert whole.left_out["imputed"] == "no covariate of the model is missing"


def test_random_effects_are_those_of_the_mixed_model_on_all_scans():
    first = people()
    table = pd.concat([first, first.assign(scan_id="t" + first["scan_id"], session="2")])
    table["brain"] += np.random.default_rng(np.random.Philox(key=1)).normal(0, 9, len(table))
    asked = Model.model_validate({"outcome": "brain", **ADJUSTED, "random": {}})
    found = analyse(table, asked, UNITS)
    expected = mixed.fit_mixed(
        table, outcome="brain", formula=ADJUSTED["formula"], confounds=ADJUSTED["confounds"],
        units=UNITS,
    )  # fmt: skip
    assert_frame_equal(found.tidy[expected.tidy.columns], expected.tidy)
    assert found.rows["n_used"] == len(table)
    assert not any("not independent" in text for text in found.warnings)
    assert found.influence.empty
    json.dumps(found.to_json(), allow_nan=False)
    assert "ICC" in found.summary()
    assert "per_site" not in found.left_out
    assert found.summary().count("left out: of least squares; this is a mixed model") == 1
    assert {"forest", "means", "residuals"} <= set(found.left_out)
    sited = asked.model_copy(update={"site": "site"})
    assert "per_site left out: " in analyse(table, sited, UNITS).summary()
