"""Outcomes of a model without their sites: what is fitted, who is left out, and what newcomers do not change."""

import json

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohort.io.covariates import Model
from cohort.stats import regression
from cohort.stats.analysis import analyse
from cohort.stats.columns import DesignError
from cohort.stats.harmonize import fit_combat
from cohort.stats.sites.harmonized import harmonized

VOLUMES = ["brain", "grey", "white"]
SITES = ["north", "south", "east"]


def people(n=90, seed=4, first=0):
    """Volumes with a shift of each site; every site has both groups."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, first], np.uint64)))
    table = pd.DataFrame({"scan_id": [f"s{first + i:03d}" for i in range(n)]})
    table["subject"] = [f"p{first + i:03d}" for i in range(n)]
    table["session"] = "1"
    table["scanner"] = np.array(SITES)[np.arange(n) % 3]
    table["dx"] = np.arange(n) // 3 % 2
    table["age"] = rng.uniform(50, 80, n)
    shift = table["scanner"].map({"north": 0.0, "south": 60.0, "east": -40.0})
    for k, name in enumerate(VOLUMES):
        table[name] = 900 - 200 * k - 30 * table["dx"] - 2 * table["age"] + (1 + k / 5) * shift
        table[name] += rng.normal(0, 20, n)
    return table


def model(harmonize=None, **keys):
    asked = {
        "outcomes": VOLUMES,
        "formula": "dx + age",
        "confounds": ["age"],
        "group": "dx",
        "harmonize": {"site": "scanner", **(harmonize or {})},
    }
    return Model.model_validate(asked | keys)


def combat_of(table):
    return fit_combat(
        table, columns=VOLUMES, site="scanner", keep_categorical=["dx"], keep_continuous=["age"]
    )


def test_the_model_is_fitted_to_what_combat_leaves():
    table = people()
    found = analyse(table, model())
    changed = combat_of(table).transform(table)
    for outcome in VOLUMES:
        expected = regression.fit(changed, outcome=outcome, formula="dx + age").tidy
        mine = found.tidy[found.tidy["outcome"] == outcome]
        np.testing.assert_allclose(mine["estimate"], expected["estimate"], rtol=1e-12)
        np.testing.assert_allclose(mine["p"], expected["p"], rtol=1e-9)
    assert_frame_equal(found.tables["harmonize"], combat_of(table).tidy)
    assert (
        "brain, grey, white were harmonised by ComBat over 3 sites (scanner)" in found.reading[-1]
    )
    assert "with what goes with dx, age kept" in found.reading[-1]
    json.dumps(found.to_json(), allow_nan=False)


def test_combat_is_estimated_from_the_rows_that_the_model_fits():
    table = people()
    found = harmonized(table, model(where="age >= 60"))
    inside = table[table["age"] >= 60].reset_index(drop=True)
    assert found.combat == combat_of(inside)
    assert set(found.fitted) == set(inside["scan_id"])


def test_of_subjects_of_several_scans_only_those_that_are_fitted_count():
    table = people()
    again = table.head(30).assign(session="2", scan_id=[f"t{i:03d}" for i in range(30)], brain=9e4)
    found = harmonized(pd.concat([table, again], ignore_index=True), model())
    assert found.combat == combat_of(table)


def test_newcomers_change_nobody_elses_numbers():
    table, later = people(), people(first=90, n=30)
    before = harmonized(table, model())
    saved = json.loads(json.dumps(before.to_json()))
    together = pd.concat([table, later], ignore_index=True)
    after = harmonized(together, model(), saved)
    assert after.combat == before.combat
    assert after.fitted == before.fitted
    assert after.newcomers == tuple(later["scan_id"])
    assert_frame_equal(after.table.loc[table["scan_id"]], before.table)
    assert_frame_equal(
        after.table.loc[later["scan_id"], VOLUMES],
        before.combat.transform(later).set_index("scan_id")[VOLUMES],
        check_names=False,
    )
    assert "30 rows that came later were harmonised by the same estimates" in after.reading[0]
    anew = harmonized(together, model({"refit": True}), saved)
    assert anew.combat == combat_of(together)
    assert anew.newcomers == ()


@pytest.mark.parametrize("change", ["a value", "a row", "the model"])
def test_what_it_was_estimated_from_changed_so_it_is_estimated_anew(change):
    table, asked = people(), model()
    saved = harmonized(table, asked).to_json()
    if change == "a value":
        table.loc[5, "grey"] += 1
    elif change == "a row":
        table = table.drop(index=5)
    else:
        asked = model(where="age < 79")
    found = harmonized(table, asked, saved)
    assert found.combat == combat_of(table[table["age"] < 79] if change == "the model" else table)
    assert any("estimated anew" in text for text in found.warnings)


def test_a_site_that_was_not_there_is_left_out_and_told():
    table, later = people(), people(first=90, n=30).assign(scanner="west")
    saved = harmonized(table, model()).to_json()
    found = harmonized(pd.concat([table, later]), model(), saved)
    reason = "scanner west was not there when ComBat was estimated"
    assert found.dropped == tuple({"row_id": row, "reason": reason} for row in later["scan_id"])
    assert set(found.table.index) == set(table["scan_id"])
    assert any(text.startswith("30 rows cannot be harmonised") for text in found.warnings)


def test_a_row_without_site_is_left_out_and_one_without_value_stays_without():
    table = people()
    table.loc[3, "scanner"] = None
    table.loc[7, "white"] = np.nan
    found = harmonized(table, model())
    assert found.dropped == ({"row_id": "s003", "reason": "missing scanner"},)
    assert np.isnan(found.table.loc["s007", "white"])
    assert analyse(table, model()).glance.set_index("outcome")["n"].to_dict() == {
        "brain": 89, "grey": 89, "white": 88
    }  # fmt: skip


def test_rows_that_cannot_be_harmonised_are_in_the_account_of_the_fit():
    table = people()
    table.loc[[3, 8], "scanner"] = None
    table.loc[8, "age"] = np.nan
    table.loc[20, "age"] = np.nan
    found = analyse(table, model())
    assert found.rows["n_table"] == 90
    assert found.rows["n_used"] == 87
    assert found.rows["reasons"] == {"missing scanner": 2, "missing age": 1}
    assert {d["row_id"] for d in found.rows["dropped"]} == {"s003", "s008", "s020"}
    whole = found.glance.iloc[0]
    assert (whole["n_table"], whole["n_dropped"]) == (90, 3)
    assert "87 of 90 rows (left out: 2 missing scanner; 1 missing age)" in found.summary()
    assert found.to_json()["rows"]["reasons"] == found.rows["reasons"]
    # What ComBat cannot change for want of an age was measured all the same.
    empty = found.screen.missing.query("level == ''").set_index("column")["missing"]
    assert empty.to_dict() | {"brain": 0, "age": 2} == empty.to_dict()


def test_a_covariate_of_the_model_may_be_harmonised_with_the_outcomes():
    table = people().assign(head=lambda t: 1500 + (t["brain"] - 800) / 4)
    together = [*VOLUMES, "head"]
    asked = model({"columns": together}, formula="dx + age + head", confounds=["age", "head"])
    found = harmonized(table, asked)
    assert found.combat.columns == tuple(together)
    assert found.combat.continuous == ("age",)


def test_what_is_not_kept_and_a_site_in_the_model_are_told():
    warned = harmonized(people(), model({"keep": ["dx"]}, formula="dx + age + scanner")).warnings
    assert any(text.startswith("harmonize does not keep age:") for text in warned)
    assert any(text.startswith("scanner is a term of the model") for text in warned)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t["scanner"].where(t.index > 0, "west"), "west"),
        (lambda t: np.where(t["dx"] == 1, "north", "south"), "dx"),
    ],
)
def test_a_site_of_one_scan_and_one_of_one_group_are_refused_in_one_line(change, match):
    table = people()
    table["scanner"] = change(table)
    with pytest.raises(DesignError, match=match) as caught:
        analyse(table, model())
    assert "\n" not in str(caught.value)
