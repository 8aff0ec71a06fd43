"""Scan and rescan: published examples, an analysis of variance by statsmodels, and truth that was simulated."""

import json

import numpy as np
import oasis_tables
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cohort.stats.columns import DesignError
from cohort.stats.reliability import agreement, intraclass, reliability

JUDGED = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Table 2 of Shrout and Fleiss 1979: six targets, four judges."""


def rescanned(n=30, seed=0, *, between=10.0, within=2.0, shift=0.0):
    """Two scans of n people, shuffled, with their truth known."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(100, between, n)
    rows = [
        {
            "subject": f"{i:03d}",
            "session": s,
            "volume": truth[i] + shift * s + rng.normal(0, within),
        }
        for i in range(n)
        for s in (1, 2)
    ]
    table = pd.DataFrame(rows)
    table["scan_id"] = table["subject"] + "_" + table["session"].astype(str)
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def test_the_twenty_pairs_of_oasis_give_the_reference(shared):
    found = reliability(oasis_tables.cross_sectional(shared)).table.set_index("measurement")
    reference = oasis_tables.reference(shared)
    row = found.loc["nWBV"]
    assert row["n"] == 20
    assert row["icc21"] == pytest.approx(reference["C.icc21"], rel=1e-10)
    assert row["sd_difference"] == pytest.approx(reference["C.retest.sd_diff"], rel=1e-10)
    assert row["icc21"] == pytest.approx(0.975031133679, rel=1e-11)
    assert row["sd_difference"] == pytest.approx(0.005256324511, rel=1e-9)
    assert row["icc21_low"] < row["icc21"] < row["icc21_high"] < 1
    assert (found.loc["Age", "icc21"], found.loc["Age", "sd_difference"]) == (1.0, 0.0)
    assert "dx" not in found.index  # 0 and 1 are no measurement
    assert found.loc["Delay", "n"] == 0  # second scans only
    assert np.isnan(found.loc["Delay", "icc21"])


def test_the_example_of_shrout_and_fleiss():
    # ICC(2,1) and ICC(3,1) of their table 4; the intervals as R's psych::ICC prints them.
    assert intraclass(JUDGED, "agreement") == pytest.approx((0.2898, 0.0188, 0.7611), abs=6e-5)
    assert intraclass(JUDGED, "consistency") == pytest.approx((0.7148, 0.3425, 0.9459), abs=6e-5)


@given(seed=st.integers(0, 10_000), n=st.integers(3, 40), k=st.integers(2, 5))
def test_the_mean_squares_are_those_of_an_analysis_of_variance(seed, n, k):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, (n, 1)) + rng.normal(0, 1, (n, k)) + rng.normal(0, 0.5, k) + 50
    people, times = (np.eye(m)[:, 1:] for m in (n, k))
    rows = [np.concatenate([[1.0], people[i], times[j]]) for i in range(n) for j in range(k)]
    X, y = np.array(rows), values.ravel()
    both, by_people, by_times = (
        sm.OLS(y, X[:, keep]).fit()
        for keep in (slice(None), slice(0, n), [0, *range(n, n + k - 1)])
    )
    ms_rest = both.mse_resid
    ms_people = (by_times.ssr - both.ssr) / (n - 1)
    ms_times = (by_people.ssr - both.ssr) / (k - 1)
    icc21 = (ms_people - ms_rest) / (ms_people + (k - 1) * ms_rest + k * (ms_times - ms_rest) / n)
    icc31 = (ms_people - ms_rest) / (ms_people + (k - 1) * ms_rest)
    found = intraclass(values, "agreement"), intraclass(values, "consistency")
    assert found[0][0] == pytest.approx(icc21, rel=1e-8)
    assert found[1][0] == pytest.approx(icc31, rel=1e-8)
    for icc, low, high in found:
        assert low < icc < high


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(7)
    inside = {"agreement": 0, "consistency": 0}
    runs, n = 1_000, 25
    for _ in range(runs):
        truth, shift = rng.normal(0, 3, (n, 1)), rng.normal(0, 0.5, 2)
        values = 100 + truth + shift + rng.normal(0, 1, (n, 2))
        for kind, icc in (("agreement", 9 / (9 + 0.25 + 1)), ("consistency", 9 / (9 + 1))):
            _, low, high = intraclass(values, kind)
            inside[kind] += low < icc < high
    exact = stats.binom.ppf([0.005, 0.995], runs, 0.95)
    assert exact[0] <= inside["consistency"] <= exact[1]
    assert (
        inside["agreement"] >= 0.93 * runs
    )  # Satterthwaite's approximation, a judge effect of two judges


def test_the_figures_of_two_scans():
    table = rescanned(shift=1.5)
    found = reliability(table, units={"volume": "ml"})
    row = found.table.iloc[0]
    wide = table.pivot_table(index="subject", columns="session", values="volume")
    d = wide[2] - wide[1]
    test = stats.ttest_rel(wide[2], wide[1]).confidence_interval()
    within = np.sqrt((d**2).mean() / 2)
    cv = np.sqrt((wide.var(axis=1) / wide.mean(axis=1) ** 2).mean())
    for name, expected in {
        "n": 30,
        "mean": table["volume"].mean(),
        "mean_difference": d.mean(),
        "mean_difference_low": test.low,
        "mean_difference_high": test.high,
        "sd_difference": d.std(),
        "within_sd": within,
        "repeatability": 1.959963984540054 * np.sqrt(2) * within,
        "within_cv": cv,
    }.items():
        assert row[name] == pytest.approx(expected, rel=1e-10), name
    assert row["unit"] == "ml"
    pairs = found.pairs.set_index("subject")
    np.testing.assert_allclose(pairs["difference"], d.loc[pairs.index], rtol=1e-9)
    assert (pairs["first_row"] == pairs.index + "_1").all()
    assert (pairs["second_row"] == pairs.index + "_2").all()


def test_what_was_simulated_is_recovered():
    row = reliability(rescanned(5_000, between=10.0, within=2.0)).table.iloc[0]
    assert row["icc21"] == pytest.approx(100 / 104, abs=0.005)
    assert row["within_sd"] == pytest.approx(2.0, rel=0.05)
    shifted = reliability(rescanned(5_000, shift=5.0)).table.iloc[0]
    assert shifted["icc31"] == pytest.approx(row["icc31"], abs=0.005)
    assert (
        shifted["icc21"] < row["icc21"] - 0.05
    )  # a shift between the scans is an error of agreement
    assert shifted["mean_difference"] == pytest.approx(5.0, abs=0.2)


@given(seed=st.integers(0, 1_000), factor=st.floats(0.001, 1000), offset=st.floats(0, 1e4))
def test_units_do_not_move_the_reliability(seed, factor, offset):
    table = rescanned(12, seed)
    moved = table.assign(volume=table["volume"] * factor + offset)
    one, other = (reliability(t).table.iloc[0] for t in (table, moved))
    for name in ("icc21", "icc31", "icc21_low", "icc31_high"):
        assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-6)
    assert other["repeatability"] == pytest.approx(factor * one["repeatability"], rel=1e-6)


def test_the_order_of_rows_and_text_do_not_matter():
    table = rescanned()
    expected = reliability(table)
    for shown in (table.iloc[::-1], table.map(str), table.assign(session=table["session"] + 8)):
        found = reliability(shown)
        pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
        pd.testing.assert_frame_equal(found.pairs, expected.pairs, check_exact=True)


def test_a_third_scan_is_counted_and_not_used_and_a_missing_value_loses_its_own_pair_only():
    table = rescanned(10)
    third = table[table["session"] == 2].head(4).assign(session=3, volume=1e6)
    third["scan_id"] += "b"
    both = pd.concat([table, third], ignore_index=True)
    found = reliability(both)
    assert found.n_more == 4
    expected = reliability(table).table
    pd.testing.assert_frame_equal(found.table, expected, check_exact=True)
    table["other"] = table["volume"]
    table.loc[0, "other"] = np.nan
    counts = reliability(table).table.set_index("measurement")["n"]
    assert counts.to_dict() == {"volume": 10, "other": 9}


def test_few_pairs_and_values_that_never_vary_have_no_reliability():
    few = reliability(rescanned(2)).table.iloc[0]
    assert few["n"] == 2
    assert np.isnan(few["icc21"])
    assert np.isnan(few["repeatability"])
    same = agreement(np.full((5, 2), 3.0))
    assert np.isnan(same["icc21"])
    assert same["sd_difference"] == 0
    repeated = agreement(np.repeat(np.arange(1.0, 6)[:, None], 2, axis=1) * 0.1)
    assert (repeated["icc21"], repeated["icc31"], repeated["within_cv"]) == (1.0, 1.0, 0.0)
    assert np.isnan(agreement(np.arange(-4.0, 4).reshape(4, 2))["within_cv"])


def test_rows_and_columns_can_be_chosen():
    table = rescanned(10).assign(age=50.0, word="x")
    table["age"] += table["subject"].astype(int)
    found = reliability(table, columns=["volume"], where="age >= 53")
    assert found.table["measurement"].tolist() == ["volume"]
    assert found.table["n"].item() == 7
    json.dumps(reliability(table).to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop(columns="subject"), {}, "reliability: no column 'subject'"),
        (lambda t: t[t["session"] == 1], {}, "no subject has two scans"),
        (lambda t: t, {"columns": ["volum"]}, "no column 'volum'; did you mean 'volume'"),
        (lambda t: t.assign(w="x"), {"columns": ["w"]}, "column 'w' holds 'x'"),
        (lambda t: t.drop(columns="volume"), {}, "no column of numbers"),
        (lambda t: t, {"order": ["visit"]}, "order of scans: no column 'visit'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(change, options, message):
    with pytest.raises(DesignError, match=message) as found:
        reliability(change(rescanned(10)), **options)
    assert "\n" not in str(found.value)
