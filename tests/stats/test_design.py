"""Rows, reasons and refusals: every row is used or left out for a stated reason, and no bad model gets through."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.stats.design import DesignError, prepare
from cohort.stats.formula import FormulaError


def people(n=40, seed=0):
    """One row a person; text, as tables are read."""
    rng = np.random.default_rng(seed)
    numbers = pd.DataFrame(
        {
            "volume": rng.normal(900, 50, n),
            "age": rng.uniform(60, 90, n),
            "skull": rng.normal(1500, 90, n),
            "dx": rng.permutation(np.arange(n) % 2),
        }
    )
    table = numbers.map(repr)
    table["site"] = rng.permutation(np.resize(list("abc"), n))
    table.insert(0, "scan_id", [f"scan-{i}" for i in range(n)])
    table.insert(1, "subject", [f"{i:04d}" for i in range(n)])
    table.insert(2, "session", "1")
    return table


def visits():
    """Person 0000 three times (sessions 10, 9, 2 in this order), person 0001 twice, the rest once."""
    table = people()
    again = table.iloc[[0, 0, 1]].assign(
        scan_id=["scan-0-b", "scan-0-c", "scan-1-b"],
        session=["9", "2", "2"],
        volume=["910", "920", "930"],
    )
    table.loc[0, ["session", "volume"]] = ["10", "900"]
    return pd.concat([table, again], ignore_index=True)


MODEL = {"outcome": "volume", "formula": "dx + age"}


def test_the_design_holds_the_intercept_first_and_the_rows_by_their_ids():
    table = people()
    design = prepare(table, outcome="volume", formula="dx + age + C(site)")
    assert list(design.X) == ["Intercept", "C(site)[T.b]", "C(site)[T.c]", "dx", "age"]
    assert list(design.X.index) == list(design.y.index) == list(table["scan_id"])
    np.testing.assert_array_equal(design.y, table["volume"].astype(float))
    np.testing.assert_array_equal(design.X["age"], table["age"].astype(float))
    assert design.coding == {"C(site)": {"levels": ["a", "b", "c"], "reference": "a"}}
    assert design.dropped == ()
    assert (design.n_table, design.n_subjects, design.n_repeated) == (40, 40, 0)


@given(
    data=st.data(),
    rule=st.sampled_from(["first", "last", "mean", "all"]),
    where=st.sampled_from([None, "age >= 65"]),
)
def test_every_row_is_used_or_left_out_for_one_reason(data, rule, where):
    table = visits()
    holes = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(table) - 1), st.sampled_from(["volume", "age"])),
            max_size=6,
        )
    )
    for row, column in holes:
        table.loc[row, column] = data.draw(st.sampled_from([None, "", " "]))
    design = prepare(table, **MODEL, one_scan_per=rule, where=where)
    left_out = [entry["row_id"] for entry in design.dropped]
    assert sorted([*design.X.index, *left_out]) == sorted(table["scan_id"])
    assert sum(design.reasons.values()) == len(left_out)
    if rule != "all":
        assert not design.rows["subject"].duplicated().any()
        assert design.n_subjects == len(design.rows)


@pytest.mark.parametrize(
    ("rule", "used", "volume"),
    [("first", "scan-0-c", 920.0), ("last", "scan-0", 900.0), ("mean", "scan-0-c", 910.0)],
)
def test_the_scan_of_a_repeated_subject_is_chosen_by_session_as_a_number(rule, used, volume):
    design = prepare(visits(), **MODEL, one_scan_per=rule)
    assert design.y.filter(like="scan-0").loc[used] == volume
    assert design.n_repeated == 2
    assert design.reasons == {"repeated subject": 3}
    told = {"mean": f"the mean of the scans of subject 0000 is used, as {used}"}
    assert {
        "row_id": "scan-0-b",
        "reason": "repeated subject",
        "detail": told.get(rule, f"{used} of subject 0000 is used"),
    } in design.dropped
    assert design.warnings == ()


def test_without_an_order_the_table_decides():
    design = prepare(visits(), **MODEL, order=())
    assert "scan-0" in design.y.index


def test_a_subject_whose_first_scan_failed_is_represented_by_the_next():
    table = visits()
    table.loc[table["scan_id"] == "scan-0-c", "volume"] = None
    design = prepare(table, **MODEL)
    assert "scan-0-b" in design.y.index
    assert {"row_id": "scan-0-c", "reason": "missing volume"} in design.dropped


def test_all_rows_of_repeated_subjects_raise_a_warning_with_the_count():
    design = prepare(visits(), **MODEL, one_scan_per="all")
    assert len(design.y) == 43
    assert (
        "2 of 40 subjects are scanned more than once and all 43 rows are used" in design.warnings[0]
    )
    assert "not independent" in design.warnings[0]


def test_repeated_subjects_are_an_error_when_asked():
    with pytest.raises(
        DesignError,
        match=r"2 of 40 subjects have several scans, the first is '0000' \(scan-0, scan-0-b",
    ):
        prepare(visits(), **MODEL, one_scan_per="error")
    assert len(prepare(people(), **MODEL, one_scan_per="error").y) == 40


@pytest.mark.parametrize("formula", ["dx + age", "site + age", "C(dx) + age"])
def test_a_state_that_changes_between_scans_has_no_mean(formula):
    table = visits()
    table.loc[table["scan_id"] == "scan-0-b", ["dx", "site"]] = [
        "1" if table["dx"][0] == "0" else "0",
        "z",
    ]
    with pytest.raises(
        DesignError, match="differs between the scans of subject '0000' and has no mean"
    ):
        prepare(table, outcome="volume", formula=formula, one_scan_per="mean")


def test_the_reasons_say_where_and_what_was_missing():
    table = people()
    table.loc[0, "age"] = None
    table.loc[1, "skull"] = ""
    table.loc[2, "scan_id"] = None
    table.loc[3, "subject"] = None
    young = int((table["age"].astype(float) < 70).sum())
    design = prepare(table, outcome="volume", formula="dx + age + skull", where="age >= 70")
    rows = {entry["row_id"]: entry["reason"] for entry in design.dropped}
    assert rows["scan-0"] == "where 'age >= 70' meets a missing value"
    assert rows["2"] == "no scan"
    assert young - 4 <= design.reasons["where 'age >= 70' is false"] <= young
    everyone = {
        entry["row_id"]: entry["reason"]
        for entry in prepare(table, outcome="volume", formula="age + skull").dropped
    }
    assert everyone == {
        "2": "no scan",
        "scan-0": "missing age",
        "scan-1": "missing skull",
        "scan-3": "missing subject",
    }


def test_confounds_that_the_formula_does_not_name_are_added_and_marked():
    design = prepare(
        people(), outcome="volume", formula="dx", confounds=["age", "skull", "C(site)", "I(age**2)"]
    )
    assert str(design.formula) == "dx + age + skull + C(site) + I(age ** 2)"
    assert design.roles == {
        "Intercept": "intercept",
        "C(site)[T.b]": "confound",
        "C(site)[T.c]": "confound",
        "dx": "group",
        "age": "confound",
        "skull": "confound",
        "I(age ** 2)": "confound",
    }
    same = prepare(people(), outcome="volume", formula="dx + age", confounds=["age"])
    assert list(same.X) == ["Intercept", "dx", "age"]
    roles = prepare(
        people(), outcome="volume", formula="dx * age + site", confounds=["skull"]
    ).roles
    assert (roles["dx"], roles["site[T.b]"], roles["age"], roles["dx:age"]) == (
        "group",
        "group",
        "covariate",
        "interaction",
    )


def test_a_confound_may_have_any_name():
    table = people().rename(columns={"skull": "skull (ml)", "age": "don't"})
    design = prepare(table, outcome="volume", formula="dx", confounds=["skull (ml)", "don't"])
    assert list(design.X) == ["Intercept", "dx", "skull (ml)", "don't"]


def test_groups_whose_ages_barely_overlap_are_warned_of_also_when_age_is_not_in_the_model():
    table = people()
    old = table["age"].astype(float) > 70
    table["dx"] = np.where(old, "1", "0")
    table.loc[np.flatnonzero(old)[:2], "dx"] = "0"
    inside = f"2 of {(table['dx'] == '0').sum()} rows with dx = 0"
    (warning,) = prepare(table, **MODEL).warnings
    assert warning.startswith(
        f"age barely overlaps between the groups: {inside} lie in the range of dx = 1"
    )
    (warning,) = prepare(table, outcome="volume", formula="dx").warnings
    assert warning.startswith(
        f"age, which is not in the model, barely overlaps between the groups: {inside}"
    )
    assert prepare(people(), **MODEL).warnings == ()


def test_a_table_without_scans_names_its_rows_by_participant_or_index():
    table = people().drop(columns="scan_id")
    assert list(prepare(table, **MODEL).y.index[:2]) == ["0", "1"]
    table["participant"] = [f"P{i}" for i in range(40)]
    assert list(prepare(table, **MODEL).y.index[:2]) == ["P0", "P1"]
    assert list(prepare(table, **MODEL).rows) == ["scan_id", "participant", "subject", "session"]


def broken(**columns):
    return people().assign(**columns)


def test_bad_models_are_refused_in_one_line_that_names_the_fault():
    ages = people()["age"]
    cases = [
        (people(), {"formula": "dx + agee"}, "no column 'agee'; did you mean 'age'"),
        (people(), {"outcome": "volum"}, "outcome: no column 'volum'; did you mean 'volume'"),
        (people(), {"confounds": ["skul"]}, "no column 'skul'; did you mean 'skull'"),
        (people(), {"confounds": "skull"}, "it takes a list of columns"),
        (people(), {"where": "agee > 60"}, "no 'agee' here; .*did you mean 'age'"),
        (people(), {"where": "__import__('os')"}, "a call is not allowed"),
        (
            people(),
            {"where": "age > 200"},
            r"no rows to fit: 40 rows in the table, 40 left out \(40 where 'age > 200'",
        ),
        (
            people(),
            {"subject": "subjct"},
            "no column 'subjct'; did you mean 'subject'.*one_scan_per 'all'",
        ),
        (
            people(),
            {"one_scan_per": "second"},
            "one_scan_per is 'second'; it takes first, last, mean, error, all",
        ),
        (people(), {"outcome": None}, "no outcome"),
        (
            people(),
            {"formula": "skull ~ dx"},
            "the outcome is 'volume', but the formula explains 'skull'",
        ),
        (people(), {"formula": "dx + volume"}, "the outcome 'volume' is also among the terms"),
        (
            people(4),
            {"formula": "dx + age + skull"},
            r"4 rows for 4 columns \(Intercept, dx, age, skull\)",
        ),
        (broken(age="71"), {}, "'age' is 71 in all 40 rows that are used"),
        (broken(volume="5"), {}, "the outcome 'volume' is 5 in all 40 rows"),
        (
            broken(dx=["1"] + ["0"] * 39),
            {},
            r"dx = 1 holds for one row only \(scan-0\): a group of one",
        ),
        (broken(dx=["0"] + ["1"] * 39), {}, "dx = 0 holds for one row only"),
        (
            broken(site=["z"] + ["a", "b", "c"] * 13),
            {"formula": "site"},
            r"site\[T.z\] = 1 holds for one row only",
        ),
        (
            broken(site=["a", *["b", "c"] * 19, "b"]),
            {"formula": "site"},
            r"site = a holds for one row only \(scan-0\): .*every effect of it would be against one person",
        ),
        (
            broken(site=["a", *["b", "c"] * 19, "b"]),
            {"formula": "C(site, Sum) + age"},
            r"C\(site, Sum\) = a holds for one row only \(scan-0\): a group of one tells nothing$",
        ),
        (
            broken(site="a"),
            {"formula": "dx + site"},
            "site is 'a' in all 40 rows that are used: 40 rows in the table, 0 left out",
        ),
        (broken(site=1), {"formula": "C(site):age"}, r"C\(site\) is '1' in all 40 rows"),
        (
            people(),
            {"formula": "dx + cr(age, df=4)"},
            r"'cr\(age, df=4\)\[3\]' is an exact combination of .* write cr\(\.\.\., constraints='center'\)$",
        ),
        (
            broken(name=[f"n{i // 4}" for i in range(40)]),
            {"formula": "name + C(name)"},
            r"exact combination of 'name\[T.n1\]' and the intercept: drop one of them$",
        ),
        (
            broken(age=["abc", *ages[1:]]),
            {},
            r"column 'age' holds 'abc' in row scan-0, where a number is needed \(1 of 40",
        ),
        (
            broken(volume=["NA", *ages[1:]]),
            {},
            r"holds 'NA' in row scan-0, .*; if it means not known, state participants: missing: \['NA'\]$",
        ),
        (broken(volume=["71,5", *ages[1:]]), {}, "holds '71,5' .*; write decimals with a point$"),
        (broken(volume=["n/k", *ages[1:]]), {}, "column 'volume' holds 'n/k' in row scan-0"),
        (broken(volume=["-inf", *ages[1:]]), {}, "column 'volume' is infinite in row scan-0"),
        (broken(scan_id="same"), {}, "scan_id 'same' stands in several rows"),
        (
            broken(age=[f"{70 + i / 10:.1f}".replace(".", ",") for i in range(40)]),
            {},
            r"'age' holds '70,0' and the like in all 40 rows, which is text; write decimals with a point and ",
        ),
        (
            broken(
                name=[f"n{i // 2}" for i in range(40)], second=[f"m{i % 20}" for i in range(40)]
            ),
            {"formula": "dx + name + second"},
            r"rows for \d+ columns \(Intercept, name\[T.n\d+\], .{40,90} and \d+ more\)",
        ),
        (
            broken(skull=[f"{i}e183" for i in range(1, 41)]),
            {"formula": "dx + skull"},
            "'skull' reaches 4e\\+184; from 1e-60 to 1e\\+60 can be computed with: state it in another unit",
        ),
        (
            broken(volume=[f"{i}e-183" for i in range(1, 41)]),
            {},
            "the outcome 'volume' reaches 4e-182",
        ),
        (
            broken(days=(ages.astype(float) * 365.25 + 3).map(repr)),
            {"formula": "dx + age + days"},
            "'days' is an exact combination of 'age' and the intercept",
        ),
        (
            people(),
            {"formula": "dx + site + C(site)"},
            r"'C\(site\)\[T.b\]' is an exact combination of 'site\[T.b\]' and",
        ),
        (
            people(),
            {"formula": "age + skull + I(2*age - skull)"},
            r"'I\(2 \* age - skull\)' is an exact combination of 'age', 'skull' and",
        ),
    ]
    for table, changes, message in cases:
        with pytest.raises(DesignError, match=message) as refusal:
            prepare(table, **{**MODEL, **changes})
        assert "\n" not in str(refusal.value)


@given(scale=st.sampled_from([1e-9, 1e-3, 1.0, 1e6]), shift=st.sampled_from([0.0, 1e3, -1e4]))
def test_units_do_not_decide_what_is_collinear(scale, shift):
    table = people()
    skull = table["skull"].astype(float)
    table["other"] = (skull * scale + shift * scale).map(repr)
    with pytest.raises(DesignError, match="'other' is an exact combination of 'skull'"):
        prepare(table, outcome="volume", formula="dx + skull + other")
    rng = np.random.default_rng(1)
    table["other"] = ((skull + 1e-5 * rng.normal(size=40)) * scale).map(repr)
    with pytest.raises(DesignError, match="'other' is an exact combination of 'skull'"):
        prepare(table, outcome="volume", formula="dx + skull + other")
    table["other"] = ((skull + 1e-3 * rng.normal(size=40)) * scale).map(repr)
    assert "other" in prepare(table, outcome="volume", formula="dx + skull + other").X


def test_a_hostile_formula_is_a_formula_error_here_too():
    with pytest.raises(FormulaError):
        prepare(people(), outcome="volume", formula="I(__import__('os').getcwd())")
    with pytest.raises(FormulaError):
        prepare(
            people(), outcome="volume", formula="dx", confounds=["I(__import__('os').getcwd())"]
        )


def test_levels_that_may_be_nothing_or_numbers_are_warned_of():
    rate = [f"{i % 12} %" for i in range(40)]
    group = ["N/A" if i < 4 else "ab"[i % 2] for i in range(40)]
    told = prepare(broken(rate=rate, site=group), outcome="volume", formula="rate + site").warnings
    assert "rate is text of 12 levels (0 %, 1 %, ...), each compared with the first" in told[0]
    assert told[1] == (
        "site = N/A counts as a level like the others; if it means not known, state participants: missing: ['N/A']"
    )
    few = [f"{i % 9}A" for i in range(40)]
    assert not prepare(broken(rate=few), outcome="volume", formula="rate").warnings


def test_the_table_is_left_as_it_was():
    table = visits()
    before = table.copy(deep=True)
    prepare(table, **MODEL, one_scan_per="mean", where="age > 61")
    pd.testing.assert_frame_equal(table, before)
