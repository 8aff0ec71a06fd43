"""Many outcomes at once against a loop of single fits, whatever is missing."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.stats import outcomes
from cohort.stats.regression import DesignError, fit

FORMULA = "dx * age + C(site)"


def simulated(seed=0, n=60, m=4, offset=0.0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(n)],
            "subject": [f"{i if i % 5 else i // 2:03d}" for i in range(n)],
            "session": rng.permutation(n).astype(str),
            "dx": rng.permutation(np.arange(n) % 2),
            "age": rng.uniform(55, 90, n),
            "site": rng.permutation(np.resize(list("abc"), n)),
        }
    )
    for k in range(m):
        noise = rng.normal(0, 1, n) * (table["age"] - 45)
        table[f"region{k}"] = offset + 300 + 10 * k * table["dx"] - 4 * table["age"] + noise
    return table, [f"region{k}" for k in range(m)]


def punched(table, names, data):
    """The table with cells of some outcomes missing; some outcomes miss the same."""
    table = table.copy()
    holes = [data.draw(st.sets(st.integers(0, len(table) - 1), max_size=6)) for _ in range(2)]
    for name in names:
        table.loc[sorted(data.draw(st.sampled_from([set(), *holes]))), name] = np.nan
    return table


TIDY = [
    "estimate",
    "se",
    "df",
    "statistic",
    "p",
    "ci_low",
    "ci_high",
    "hc3_se",
    "hc3_statistic",
    "hc3_p",
    "hc3_ci_low",
    "hc3_ci_high",
    "partial_r",
    "partial_eta2",
    "d_adj",
]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 1000),
    data=st.data(),
    rule=st.sampled_from(["first", "last", "mean", "all"]),
    formula=st.sampled_from([FORMULA, "dx + age", "age", "1"]),
)
def test_many_outcomes_are_a_loop_of_single_fits(seed, data, rule, formula):
    table, names = simulated(seed)
    if rule == "mean":
        first = table.groupby("subject")[["dx", "site"]].transform("first")
        table = table.assign(dx=first["dx"], site=first["site"])
    table = punched(table, names, data)
    units = {"region0": "ml", "region1": "mm", "age": "years"}
    asked = {"formula": formula, "confounds": ["age"], "one_scan_per": rule, "units": units}
    asked["where"] = "age > 56"
    found = outcomes.fit(table, outcomes=names, **asked)
    singles = [fit(table, outcome=name, **asked) for name in names]
    expected = pd.concat([single.tidy for single in singles], ignore_index=True)
    columns = ["outcome", "term", "role", "unit", "n"]
    pd.testing.assert_frame_equal(found.tidy[columns], expected[columns])
    for column in TIDY:
        np.testing.assert_allclose(
            found.tidy[column], expected[column], rtol=1e-10, atol=1e-13, err_msg=column
        )
    whole = pd.concat([single.glance for single in singles], ignore_index=True)
    for column in ("n", "df_model", "df_resid", "r2", "sigma", "f", "f_p"):
        np.testing.assert_allclose(found.glance[column], whole[column], rtol=1e-9, err_msg=column)
    assert set(found.glance["reason"]) == {""}
    for name, single in zip(names, singles, strict=True):
        pattern = found.glance.set_index("outcome").loc[name, "pattern"]
        dropped = found.designs[pattern].dropped
        assert [d["row_id"] for d in dropped] == [d["row_id"] for d in single.design.dropped]
        reasons = {d["reason"].replace(name, "outcome") for d in single.design.dropped}
        assert {d["reason"] for d in dropped} == reasons


@given(seed=st.integers(0, 1000), p=st.integers(1, 8), m=st.integers(1, 5))
def test_the_solution_equals_statsmodels(seed, p, m):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(40), rng.normal(size=(40, p - 1)) * 10.0 ** np.arange(p - 1)])
    Y = rng.normal(size=(40, m)) + X[:, -1:]
    found = outcomes.solve(X, Y)
    for j in range(m):
        expected = sm.OLS(Y[:, j], X).fit()
        np.testing.assert_allclose(found.se[:, j], expected.bse, rtol=1e-8)
        np.testing.assert_allclose(found.hc3_se[:, j], expected.HC3_se, rtol=1e-8)
        np.testing.assert_allclose(
            found.estimate[:, j], expected.params, rtol=1e-8, atol=1e-8 * expected.bse.max()
        )
        assert found.ssr[j] == pytest.approx(expected.ssr, rel=1e-9)
        assert found.tss[j] == pytest.approx(expected.centered_tss, rel=1e-9)


def test_the_bits_of_an_outcome_do_not_depend_on_its_neighbours():
    table, names = simulated(m=9)
    whole = outcomes.fit(table, outcomes=names, formula=FORMULA).tidy
    for chosen in ([names[3]], names[::-1], names[2:7]):
        some = outcomes.fit(table, outcomes=chosen, formula=FORMULA).tidy
        assert list(dict.fromkeys(some["outcome"])) == chosen
        for name in chosen:
            pd.testing.assert_frame_equal(
                some[some["outcome"] == name].reset_index(drop=True),
                whole[whole["outcome"] == name].reset_index(drop=True),
                check_exact=True,
            )


@given(m=st.integers(1, 2 * outcomes.WIDTH + 3), at=st.floats(0, 1), seed=st.integers(0, 9))
def test_the_bits_do_not_depend_on_how_many_there_are(m, at, seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(30), rng.normal(size=(30, 3))])
    Y = rng.normal(size=(30, m))
    whole, j = outcomes.solve(X, Y), round(at * (m - 1))
    one = outcomes.solve(X, np.asfortranarray(Y[:, j:])[:, :1])
    for name in ("estimate", "se", "hc3_se", "ssr", "tss"):
        np.testing.assert_array_equal(getattr(whole, name)[..., j], getattr(one, name)[..., 0])


def test_an_offset_of_the_outcome_costs_no_digits():
    near, names = simulated()
    far = near.assign(**{name: near[name] + 2.0**20 for name in names})
    near = near.assign(**{name: far[name] - 2.0**20 for name in names})  # the same rounding
    one, two = (outcomes.fit(t, outcomes=names, formula="dx + age").tidy for t in (near, far))
    terms = one["term"] != "Intercept"
    np.testing.assert_allclose(one["se"], two["se"], rtol=1e-10)
    np.testing.assert_allclose(one["statistic"][terms], two["statistic"][terms], rtol=1e-7)


def test_an_outcome_that_cannot_be_fitted_has_a_reason_and_stops_no_other():
    table, names = simulated()
    table["flat"] = 7.0
    table["sum"] = 2 * table["age"] + 1
    table["few"] = np.where(np.arange(60) < 3, table["age"], np.nan)
    table["empty"] = np.nan
    asked = ["flat", names[0], "sum", "few", "empty", names[1]]
    found = outcomes.fit(table, outcomes=asked, formula="dx + age", one_scan_per="all")
    reasons = found.glance.set_index("outcome")["reason"]
    assert list(reasons.index) == asked
    assert reasons["flat"] == "the same in all 60 rows that are used"
    assert reasons["sum"] == "an exact combination of the terms dx + age"
    assert reasons["few"].startswith("3 rows for 3 columns")
    assert reasons["empty"].startswith("no rows to fit")
    assert list(reasons[names[:2]]) == ["", ""]
    assert found.warnings[-1].startswith("4 of 6 outcomes are not fitted, the first is 'flat': the")
    tidy = found.tidy.set_index("outcome")
    assert tidy.loc[["flat", "sum"], TIDY[3:5]].isna().all(axis=None)
    assert not {"few", "empty"} & set(tidy.index)
    for formula in ("dx + age", "age + I(dx ** 2 + age)"):
        itself = outcomes.fit(table, outcomes=["dx"], formula=formula, one_scan_per="all")
        assert itself.glance["reason"].item().startswith("also among the terms ")
        assert itself.tidy["p"].isna().all()
    alone = outcomes.fit(table, outcomes=names[:2], formula="dx + age", one_scan_per="all").tidy
    pd.testing.assert_frame_equal(
        found.tidy[found.tidy["outcome"].isin(names)].reset_index(drop=True), alone
    )


def test_a_row_that_alone_decides_a_term_leaves_it_without_hc3_error():
    table, names = simulated()
    table["spike"] = np.where(np.arange(60) == 7, 2.5, 0.0)
    found = outcomes.fit(table, outcomes=names, formula="dx + spike", one_scan_per="all").tidy
    single = fit(table, outcome=names[0], formula="dx + spike", one_scan_per="all").tidy
    np.testing.assert_allclose(found["hc3_se"][:3], single["hc3_se"], rtol=1e-9)
    assert np.isnan(found["hc3_se"][2])


def test_text_that_holds_numbers_is_read_as_numbers():
    table, names = simulated()
    table.loc[4, names[0]] = np.nan
    as_text = table.map(lambda cell: cell if isinstance(cell, str) else repr(cell))
    as_text = as_text.replace("nan", "")
    one, two = (outcomes.fit(t, outcomes=names, formula="dx + age").tidy for t in (table, as_text))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_what_is_wrong_with_the_call_is_refused():
    table, names = simulated()
    table["word"] = "x"
    table["far"] = np.inf
    for asked, message in [
        ({"outcomes": []}, "no outcomes are given"),
        ({"outcomes": ["region0", "region0"]}, "the outcome 'region0' is given twice"),
        ({"outcomes": ["regoin0"]}, "outcome: no column 'regoin0'; did you mean 'region0'"),
        ({"outcomes": ["region0", "word"]}, "column 'word' holds 'x' in row 0"),
        ({"outcomes": ["region0", "far"]}, "column 'far' is infinite in row 0"),
        ({"outcomes": names, "formula": "dx + agee"}, "no column 'agee'; did you mean 'age'"),
        ({"outcomes": names, "formula": "dx + dx2"}, "'dx2' is an exact combination of 'dx'"),
    ]:
        data = table.assign(dx2=1 - table["dx"])
        with pytest.raises(DesignError, match=message):
            outcomes.fit(data, **{"formula": "dx + age", **asked})
