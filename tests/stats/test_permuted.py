"""The permutation tests of a model: the rows they are on, what they are corrected for, and what they do not depend on."""

import json

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohort.io.covariates import Model
from cohort.stats.analysis import analyse
from cohort.stats.columns import DesignError
from cohort.stats.design import prepare
from cohort.stats.permutation import permute

VOLUMES = ["brain", "grey", "white"]
FORMULA = "dx + age"


def people(n=60, seed=5):
    rng = np.random.Generator(np.random.Philox(key=seed))
    table = pd.DataFrame({"scan_id": [f"s{i:03d}" for i in range(n)]})
    table["subject"] = [f"p{i // 2:03d}" for i in range(n)]
    table["session"] = (np.arange(n) % 2 + 1).astype(str)
    table["dx"] = np.arange(n) // 2 % 2
    table["age"] = rng.uniform(50, 80, n)
    for effect, name in zip((12, 6, 0), VOLUMES, strict=True):
        table[name] = 600 - 2 * table["age"] - effect * table["dx"] + rng.normal(0, 20, n)
    return table


def model(permutation=None, **keys):
    asked = {"outcomes": VOLUMES, "formula": FORMULA, "group": "dx", "one_scan_per": "first"}
    return Model.model_validate(
        asked | {"permutation": {"seed": 3, "n": 300, **(permutation or {})}} | keys
    )


def test_one_term_is_the_permutation_test_of_all_outcomes():
    table = people()
    found = analyse(table, model())
    first = table[table["session"] == "1"]
    design = prepare(first, outcome="brain", formula=FORMULA)
    expected = permute(
        design, first.set_index("scan_id")[VOLUMES], term="dx", n_permutations=300, seed=3
    )
    assert_frame_equal(found.tables["permutation"], expected.tidy)
    said = found.to_json()["permutation"]
    assert (said["seed"], said["n_permutations"], said["method"]) == (3, 300, "freedman-lane")
    assert said["critical_t"] == expected.critical()
    json.dumps(found.to_json(), allow_nan=False)
    assert any(
        line.startswith("By 300 arrangements of rows, dx on brain") for line in found.reading
    )


def test_several_terms_are_corrected_by_the_largest_t_over_all_of_them():
    table = people()
    found = analyse(table, model({"terms": ["dx", "age"]})).tables["permutation"]
    first = table[table["session"] == "1"]
    design = prepare(first, outcome="brain", formula=FORMULA)
    Y = first.set_index("scan_id")[VOLUMES]
    each = [permute(design, Y, term=t, n_permutations=300, seed=3) for t in ("dx", "age")]
    largest = np.maximum(each[0].maximum, each[1].maximum)
    assert found["term"].tolist() == ["dx"] * 3 + ["age"] * 3
    for row in found.to_dict("records"):
        assert row["p_fwe"] == (largest >= abs(row["statistic"]) * (1 - 1e-12)).mean()
    alone = pd.concat([one.tidy for one in each], ignore_index=True)
    assert (found["p_fwe"] >= alone["p_fwe"]).all()
    assert (found["p_fwe"] > alone["p_fwe"]).any()
    assert found["p"].tolist() == alone["p"].tolist()


def test_the_order_of_the_table_changes_no_bit():
    table = people()
    shuffled = table.sample(frac=1, random_state=2)
    assert_frame_equal(
        analyse(table, model()).tables["permutation"],
        analyse(shuffled, model()).tables["permutation"],
    )


@pytest.mark.parametrize("exchange", ["within", "whole"])
def test_blocks_follow_their_rows_whatever_the_order_of_the_table(exchange):
    table = people()
    # Groups within blocks of four where rows change places within, one group a block where blocks do.
    size, dx = (4, np.arange(60) % 2) if exchange == "within" else (2, table["dx"].to_numpy())
    table = table.assign(dx=dx, block=[f"b{i // size:02d}" for i in range(60)])
    asked = {"blocks": "block", "exchange": exchange}
    tables = [
        analyse(rows, model(asked, one_scan_per="all", cluster=None)).tables["permutation"]
        for rows in (table, table.sample(frac=1, random_state=2), table.iloc[::-1])
    ]
    design = prepare(table, outcome="brain", formula=FORMULA, one_scan_per="all")
    expected = permute(
        design, table.set_index("scan_id")[VOLUMES], term="dx", n_permutations=300, seed=3,
        blocks=table["block"].to_numpy(), exchange=exchange,
    )  # fmt: skip
    for found in tables:
        assert_frame_equal(found, expected.tidy)


def test_blocks_that_nothing_can_take_the_place_of_are_counted():
    table = people()
    table["block"] = [f"b{i // 2:02d}" for i in range(60)]
    keys = {"one_scan_per": "all"}
    asked = {"blocks": "block", "exchange": "whole"}
    assert not any("never change" in w for w in analyse(table, model(asked, **keys)).warnings)
    table.loc[[4, 6, 7, 8], "block"] = "b00"  # b00 has six rows, b02 and b04 one each, b03 none
    found = analyse(table, model(asked, **keys))
    assert any(
        w.startswith("1 of 29 blocks have a size of their own and never change places")
        for w in found.warnings
    )
    # Within blocks, those of one row stay where they are.
    within = analyse(table, model({"blocks": "block", "terms": ["age"]}, **keys))
    assert any(
        w.startswith("2 of 60 rows have a block of their own and never change places")
        for w in within.warnings
    )


def test_outcomes_are_tested_on_the_rows_that_hold_all_of_them():
    table = people()
    table.loc[[0, 10], "white"] = np.nan
    found = analyse(table, model(one_scan_per="all"))
    assert set(found.tables["permutation"]["n"]) == {58}
    assert any("on the 58 rows that hold all of them; 2 rows of brain" in w for w in found.warnings)
    whole = table.drop(index=[0, 10])
    expected = analyse(whole, model(one_scan_per="all")).tables["permutation"]
    assert_frame_equal(found.tables["permutation"], expected)


def test_rows_that_hold_all_outcomes_and_tell_no_terms_apart_are_one_line():
    table = people().assign(site=np.array(list("abc"))[np.arange(60) // 20])
    table.loc[table["site"] == "a", "white"] = np.nan
    match = (
        r"^permutation: the 20 rows that hold all outcomes do not tell the terms apart \(Intercept,"
    )
    with pytest.raises(DesignError, match=match):
        analyse(table, model(formula=f"{FORMULA} + site"))


def test_an_outcome_that_cannot_be_fitted_is_not_among_them():
    found = analyse(people().assign(white=1.0), model()).tables["permutation"]
    assert found["outcome"].tolist() == ["brain", "grey"]


def test_scans_of_one_person_move_together_where_blocks_are_stated():
    table = people()
    found = analyse(table, model({"blocks": "subject", "exchange": "whole"}, one_scan_per="all"))
    assert found.permuted.facts["blocks"] == 30
    assert found.permuted.facts["exchanged"] == "whole blocks"
    assert not any("change places with others" in text for text in found.warnings)
    free = analyse(table, model(one_scan_per="all"))
    assert any("state blocks: subject" in text for text in free.warnings)


@pytest.mark.parametrize(
    ("keys", "change", "match"),
    [
        ({"terms": ["xd"]}, {}, "permutation: no term 'xd'; did you mean 'dx'"),
        ({"blocks": "family"}, {}, "no column 'family'"),
        ({"blocks": "family"}, {"family": None}, "'family' is missing in 30 of 30 rows"),
        ({"blocks": "dx"}, {}, "dx"),
    ],
)
def test_what_cannot_be_exchanged_is_one_line(keys, change, match):
    with pytest.raises(DesignError, match=match) as caught:
        analyse(people().assign(**change), model(keys))
    assert "\n" not in str(caught.value)


def test_a_model_without_group_names_its_terms():
    with pytest.raises(DesignError, match=r"the model has no group; name what is tested"):
        analyse(people(), model(formula="age", group=None))
    found = analyse(people(), model({"terms": ["age"]}, formula="age", group=None))
    assert set(found.tables["permutation"]["term"]) == {"age"}
