"""Sites by themselves: what is pooled is what each would have reported."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from cohort.stats import outcomes, regression
from cohort.stats.columns import DesignError
from cohort.stats.persite import per_site, per_site_of_many


def people(n=60):
    rng = np.random.default_rng(np.random.Philox(key=8))
    table = pd.DataFrame({"dx": np.arange(n) % 2, "age years": rng.uniform(50, 80, n)})
    table["site"] = [("a", "b", "10", "9")[i // 2 % 4] for i in range(n)]
    table["y"] = 10 - 3 * table["dx"] - 0.1 * table["age years"] + rng.normal(0, 1, n)
    return table


def test_each_site_equals_a_fit_of_its_rows_alone_whatever_columns_are_called():
    table = people()
    formula = "dx + Q('age years')"
    whole = regression.fit(
        table, outcome="y", formula=f"{formula} + C(site)", one_scan_per="all", units={"y": "ml"}
    )
    found = per_site(whole.design, table, "site", units={"y": "ml"})
    assert list(dict.fromkeys(found["site"])) == ["9", "10", "a", "b"]
    for site, rows in found.groupby("site"):
        alone = regression.fit(
            table[table["site"] == site], outcome="y", formula=formula, one_scan_per="all",
            units={"y": "ml"},
        )  # fmt: skip
        columns = ["term", "estimate", "unit", "se", "df", "n", "hc3_se"]
        assert_frame_equal(rows[columns].reset_index(drop=True), alone.tidy[columns])
    assert (found["reason"] == "").all()


def test_the_pooled_effect_of_equal_designs_is_the_mean_of_the_sites():
    table = pd.concat([people().assign(site=s, y=lambda t, d=d: t["y"] + d * t["dx"])
                       for s, d in (("a", 0.0), ("b", 2.0))], ignore_index=True)  # fmt: skip
    whole = regression.fit(table, outcome="y", formula="dx * site", one_scan_per="all")
    found = per_site(whole.design, table, "site").query("term == 'dx'")["estimate"]
    assert found.diff().iloc[-1] == pytest.approx(2.0, abs=1e-10)


def test_a_site_that_cannot_be_fitted_keeps_a_row_with_its_reason():
    table = people()
    table.loc[table["site"] == "b", "dx"] = 1
    design = regression.fit(table, outcome="y", formula="dx + C(site)", one_scan_per="all").design
    found = per_site(design, table, "site")
    (bad,) = found[found["reason"] != ""].to_dict("records")
    assert bad["site"] == "b"
    assert "'dx' is 1 in all" in bad["reason"]
    assert np.isnan(bad["estimate"])
    assert bad["n"] == (table["site"] == "b").sum()


def test_many_outcomes_are_each_what_they_are_alone():
    table = people().assign(z=lambda t: np.sin(np.arange(len(t))), flat=1.0)
    table.loc[[3, 30], "z"] = np.nan
    table.loc[table["site"] == "9", "w"] = 5.0
    table["w"] = table["w"].fillna(table["y"] ** 2)
    options = {"formula": "dx + C(site)", "one_scan_per": "all", "units": {"y": "ml"}}
    fits = outcomes.fit(table, outcomes=["z", "flat", "y", "w"], **options)
    found = per_site_of_many(fits, table, "site", units={"y": "ml"})
    assert list(dict.fromkeys(found["outcome"])) == ["z", "y", "w"]
    for name in ("z", "y"):
        design = regression.fit(table, outcome=name, **options).design
        alone = per_site(design, table, "site", units={"y": "ml"}).drop(
            columns=["d_adj_low", "d_adj_high"]
        )
        mine = found[found["outcome"] == name].reset_index(drop=True)[list(alone)]
        assert_frame_equal(mine, alone, check_dtype=False, rtol=1e-9)
    (bad,) = found[found["reason"] != ""].to_dict("records")
    assert (bad["outcome"], bad["site"]) == ("w", "9")


def test_where_scans_are_averaged_each_site_has_the_means_of_outcome_and_covariates():
    first = people().rename(columns={"age years": "age"})
    first = first.assign(subject=[f"p{i:02d}" for i in range(60)], session="1")
    later = {"y": first["y"] + np.sin(np.arange(60)), "age": first["age"] + np.arange(60) % 7}
    table = pd.concat([first, first.assign(session="2", **later)], ignore_index=True)
    table["z"] = table["y"] ** 2
    options = {"formula": "dx + age + C(site)", "one_scan_per": "mean"}
    design = regression.fit(table, outcome="y", **options).design
    found = {"y": per_site(design, table, "site")}
    many = per_site_of_many(outcomes.fit(table, outcomes=["z", "y"], **options), table, "site")
    found |= {f"{name} of many": rows for name, rows in many.groupby("outcome")}
    numbers = table.groupby("subject")[["y", "z", "age"]].mean().reset_index(drop=True)
    averaged = first.assign(**numbers)
    for name, rows in found.items():
        for site, mine in rows.groupby("site"):
            alone = regression.fit(
                averaged[averaged["site"] == site], outcome=name[0], formula="dx + age"
            ).tidy
            np.testing.assert_allclose(mine["estimate"], alone["estimate"], rtol=1e-9)
            np.testing.assert_allclose(mine["se"], alone["se"], rtol=1e-9)


def test_an_unknown_site_names_the_nearest_column():
    table = people()
    design = regression.fit(table, outcome="y", formula="dx", one_scan_per="all").design
    with pytest.raises(DesignError, match="no column 'siet'; did you mean 'site'"):
        per_site(design, table, "siet")
