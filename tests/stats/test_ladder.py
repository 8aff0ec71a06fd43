"""From crude to adjusted: the first step is the group alone, the last is the model."""

import numpy as np
import oasis_tables
import pandas as pd
import pytest

from cohort.stats import regression
from cohort.stats.columns import DesignError
from cohort.stats.ladder import ladder


def people(n=60):
    rng = np.random.default_rng(np.random.Philox(key=5))
    table = pd.DataFrame({"group": np.array(["a", "b", "c"])[np.arange(n) % 3]})
    table["age"] = rng.uniform(50, 80, n) + 5 * (table["group"] == "b")
    table["skull"] = rng.normal(1500, 100, n)
    table["y"] = 900 - 3 * table["age"] + 0.3 * table["skull"] + rng.normal(0, 20, n)
    return table


def test_every_step_equals_the_fit_with_the_terms_so_far():
    table = people()
    whole = regression.fit(table, formula="y ~ age + group + bs(skull, df=4)", one_scan_per="all")
    found = ladder(whole.design, "group")
    assert list(dict.fromkeys(found["added"])) == ["", "age", "bs(skull, df=4)"]
    formulas = ["group", "group + age", "group + age + bs(skull, df=4)"]
    for (_, rows), formula in zip(found.groupby("step"), formulas, strict=True):
        fit = regression.fit(table, outcome="y", formula=formula, one_scan_per="all")
        expected = fit.tidy.set_index("term").loc[rows["term"]]
        for column in ("estimate", "se", "hc3_se", "p"):
            np.testing.assert_allclose(rows[column], expected[column], rtol=1e-8)


def test_terms_are_added_as_the_formula_lists_them_categories_too():
    table = people().assign(sex=np.array(["F", "M"])[np.arange(60) // 3 % 2], dx=np.arange(60) % 2)
    fit = regression.fit(
        table,
        outcome="y",
        formula="age + dx + C(group) + sex",
        confounds=["skull"],
        one_scan_per="all",
    )
    found = ladder(fit.design, "dx")
    assert found["added"].tolist() == ["", "age", "C(group)", "sex", "skull"]
    whole = fit.tidy.set_index("term").loc["dx"]
    assert found["estimate"].iloc[-1] == pytest.approx(whole["estimate"], rel=1e-10)


def test_a_group_within_an_interaction_has_no_ladder():
    design = regression.fit(people(), formula="y ~ group * age", one_scan_per="all").design
    with pytest.raises(DesignError, match="no single number compares its levels"):
        ladder(design, "group")


def test_both_ends_are_the_published_numbers(shared):
    fit = regression.fit(
        oasis_tables.volumes(shared), outcome="brain_vol", formula="dx + age + male + skull_vol",
        where="age >= 60",
    )  # fmt: skip
    found = ladder(fit.design, "dx", units={"brain_vol": "cm3"})
    assert found["statistic"].iloc[0] == pytest.approx(-2.069440887363, rel=1e-10)
    assert found["statistic"].iloc[-1] == pytest.approx(-5.917047586227, rel=1e-10)
    assert set(found["unit"]) == {"cm3"}
