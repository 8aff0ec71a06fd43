"""Declared checks: rows made to stray are named, no others, whatever the order, units or text."""

import json

import numpy as np
import oasis_tables
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.stats.columns import DesignError
from cohort.stats.consistency import NORMAL, check


def heads(n=60, seed=0):
    """Head sizes and the scaling factors that a table rounds to three digits: their product is nearly one number."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1100, 2000, n).astype(float)
    return pd.DataFrame(
        {"scan_id": [f"s{i:03d}" for i in range(n)], "eTIV": size, "ASF": np.round(1755 / size, 3)}
    )


def constant(table, **options):
    return check(table, {"scaling": {"constant": "eTIV * ASF", **options}})


def test_the_inconsistent_row_of_oasis_is_named_and_no_other(shared):
    table = oasis_tables.cross_sectional(shared)
    volumes = oasis_tables.read(shared, "oasis_all_volumes.csv")
    joined = table.merge(volumes[["ID", "brain_vol", "skull_vol"]], on="ID", how="left")
    for shown in (table, joined):
        found = constant(shown)
        assert found.strays["row_id"].tolist() == ["OAS1_0061_MR1"]
        assert found.strays["value"].item() == pytest.approx(2520, abs=1)
        assert found.strays["expected"].item() == pytest.approx(1755, abs=1)
        assert found.strays["sds"].item() > 1000
        assert found.checks[["n", "missing", "strays"]].iloc[0].tolist() == [436, 0, 1]
        assert "in 435 of 436 rows, and strays in OAS1_0061_MR1 (2520" in found.warnings[0]


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(10, 200),
    share=st.floats(0, 0.4),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_rows_made_to_stray_are_named_and_no_others(seed, n, share, unit):
    table = heads(n, seed)
    rng = np.random.default_rng(seed)
    bad = np.sort(rng.permutation(n)[: int(share * n)])
    table.loc[bad, "ASF"] *= rng.choice([0.5, 1.3, 10.0], len(bad))
    table["eTIV"] *= unit
    shuffled = table.sample(frac=1, random_state=seed)
    for shown in (table, table.assign(eTIV=table["eTIV"].map(repr)), shuffled):
        found = constant(shown)
        assert sorted(found.strays["row_id"]) == table["scan_id"][bad].tolist()
        product = table["eTIV"] * table["ASF"]
        sd = NORMAL * (product - product.median()).abs().median()
        assert found.checks["expected"].item() == pytest.approx(product.median(), rel=1e-12)
        assert found.checks["sd"].item() == pytest.approx(sd, rel=1e-9)
    assert bool(found.warnings) == bool(len(bad))


@given(factor=st.floats(0.01, 1e6), wrong=st.sampled_from([1e-6, -0.5, 1e9]))
def test_an_exact_constant_lets_rounding_pass_and_nothing_more(factor, wrong):
    table = heads(30)
    table["ASF"] = factor / table["eTIV"]
    assert constant(table).strays.empty
    table.loc[4, "ASF"] *= 1 + wrong
    found = constant(table)
    assert found.strays["row_id"].tolist() == ["s004"]
    assert constant(table, tolerance=abs(2 * wrong * factor)).strays.empty


def test_a_table_of_wholly_equal_products_has_no_spread_and_still_names_the_stray():
    table = pd.DataFrame({"a": [2.0] * 9, "b": [3.0] * 8 + [4.0]})
    found = check(table, {"six": {"constant": "a * b"}})
    assert found.strays["row_id"].tolist() == ["8"]
    assert np.isinf(found.strays["sds"].item())
    assert found.warnings == (
        "check 'six': a * b is 6 (robust sd 0) in 8 of 9 rows, and strays in 8 (8)",
    )
    json.dumps(found.to_json(), allow_nan=False)


def test_the_number_of_robust_sds_is_declared():
    table = heads(100)
    product = table["eTIV"] * table["ASF"]
    sd = NORMAL * (product - product.median()).abs().median()
    away = (product - product.median()).abs() / sd
    for sds in (0.5, 1.0, 1.4):
        assert len(constant(table, sds=sds).strays) == (away > sds).sum() > 0


def test_missing_cells_are_counted_and_not_judged_and_a_division_by_zero_strays():
    table = heads(20)
    table.loc[0, "ASF"] = np.nan
    text = table.astype({"eTIV": object})
    text.loc[1, "eTIV"] = " "
    found = constant(text)
    assert found.checks[["n", "missing", "strays"]].iloc[0].tolist() == [18, 2, 0]
    table["ASF"] = 1755 / table["ASF"]
    table.loc[2, "ASF"] = 0.0
    found = check(table, {"scaling": {"constant": "eTIV / ASF"}})
    assert found.strays["row_id"].tolist() == ["s002"]
    table.loc[2, "eTIV"] = 0.0
    assert check(table, {"x": {"constant": "eTIV / ASF"}}).strays["row_id"].tolist() == ["s002"]
    few = constant(heads(4).assign(ASF=[1.0, 2.0, 3.0, 4.0]))
    assert few.strays.empty
    assert few.checks["n"].item() == 4


def test_a_check_that_can_judge_nobody_is_told():
    table = heads(20).assign(none=np.nan)
    for body, n in (
        ({"constant": "eTIV / (ASF - ASF)"}, 0),
        ({"constant": "none * ASF"}, 0),
        ({"holds": "none < 3"}, 0),
        ({"constant": "few"}, 4),
    ):
        few = table.assign(few=np.where(np.arange(20) < 4, 1.0, np.nan))
        (told,) = check(few, {"x": body}).warnings
        assert told.startswith("check 'x' judges nobody: ")
        assert told.endswith(f" has a value in {n} of 20 rows")
    assert not constant(heads(4)).warnings


def test_a_relation_names_every_row_in_which_it_does_not_hold():
    table = pd.DataFrame(
        {"id": list("abcdef"), "brain": [1, 2, 3, 4, None, 9], "skull": [2, 2, 2, 9, 9, 1]}
    )
    found = check(table, {"inside": {"holds": "brain <= skull"}}, row_id="id")
    assert found.strays["row_id"].tolist() == ["c", "f"]
    assert found.checks[["n", "missing", "strays"]].iloc[0].tolist() == [5, 1, 2]
    assert found.warnings == ("check 'inside': brain <= skull does not hold in 2 of 5 rows: c, f",)
    filled = check(table, {"inside": {"holds": "brain <= skull, missing false"}}, row_id="id")
    assert filled.strays["row_id"].tolist() == ["c", "e", "f"]


def test_many_strays_are_named_five_and_counted():
    table = pd.DataFrame({"a": np.arange(20.0)})
    (told,) = check(table, {"small": {"holds": "a < 10"}}).warnings
    assert told.endswith("does not hold in 10 of 20 rows: 10, 11, 12, 13, 14 and 5 more")


def test_nothing_declared_finds_nothing():
    found = check(heads(), {})
    assert found.checks.empty
    assert found.strays.empty
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "check 'x' takes one of constant, holds with an expression"),
        ({"constant": "eTIV", "holds": "eTIV"}, "takes one of"),
        ({"constant": 3}, "takes one of"),
        ({"constant": "eTIV * ASFF"}, "no 'ASFF' here; .*did you mean 'ASF'"),
        ({"constant": "__import__('os')"}, "a call is not allowed"),
        ({"constant": "scan_id * ASF"}, "column 'scan_id' holds 's000' in row s000"),
        ({"constant": "eTIV", "sds": -1}, "sds is -1; it takes a number from 0"),
        ({"constant": "eTIV", "tolerance": "1"}, "tolerance is '1'"),
        ({"constant": "eTIV", "sd": 3}, "check 'x' has no 'sd'; it takes constant, sds, tolerance"),
        ({"holds": "eTIV > 0", "sds": 3}, "check 'x' has no 'sds'; it takes holds"),
    ],
)
def test_a_check_that_is_none_is_refused_in_one_line(body, message):
    with pytest.raises(DesignError, match=message) as found:
        check(heads(), {"x": body})
    assert "\n" not in str(found.value)
