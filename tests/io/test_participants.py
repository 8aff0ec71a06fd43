"""Participants: nothing is guessed from a cell, no row is lost on the way to a scan."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.ages import YEARS, age_columns
from cohort.io.catalog import read_catalog
from cohort.io.covariates import IdMap, ParticipantsTable
from cohort.io.participants import (
    ParticipantsError,
    age_conflicts,
    colliding,
    join,
    read_participants,
)

PATTERN = r"OAS1_(?P<subject>\d{4})_MR(?P<session>\d)"


def read(folder, *texts, pattern=None, suffix=".csv", **spec):
    names = [f"t{i}{suffix}" for i in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_participants(
        ParticipantsTable(table=names, **{"id": "ID", **spec}), folder, subject_pattern=pattern
    )


def scans_of(*keys):
    rows = [(f"scan-{i}", subject, session) for i, (subject, session) in enumerate(keys)]
    return pd.DataFrame(rows, columns=["scan_id", "subject", "session"], dtype="str")


def test_ids_keep_their_zeros_and_columns_of_plain_numbers_become_numbers(tmp_path):
    table = read(tmp_path, "ID,age,site,code,sex\n001,70.5,1e1,007,F\n0x2,n/a,-3,012,\n").table
    assert table["participant"].tolist() == table["subject"].tolist() == ["001", "0x2"]
    assert table["session"].isna().all()
    np.testing.assert_array_equal(table["age"], [70.5, np.nan])
    assert table["site"].tolist() == [10.0, -3.0]
    assert table["code"].tolist() == ["007", "012"]
    assert table["sex"].tolist()[0] == "F"
    assert table["sex"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    "cell",
    ["90+", "18-38", "1_000", "NaN", "inf", "1e999", "0x1f", "1,5", "NA", "-", "None", "05", "1/2"],
)
def test_a_cell_that_is_no_plain_number_keeps_its_column_text(tmp_path, cell):
    values = read(tmp_path, f"ID\tv\na\t{cell}\nb\t1\n", suffix=".tsv").table["v"]
    assert values.tolist() == [cell, "1"]


def test_only_the_listed_marks_are_missing(tmp_path):
    table = read(tmp_path, "ID,v\na,-99\nb,NA\nc,N/A\nd,3\n", missing=["-99", "NA"]).table
    np.testing.assert_array_equal(table["v"], [np.nan, np.nan, np.nan, 3.0])


def test_spreadsheet_files_composed_letters_and_spaces_are_read_alike(tmp_path):
    plain = read(tmp_path, "ID,größe\nJosé,3\n").table
    odd = read(
        tmp_path, b"\xef\xbb\xbf" + "ID , gro\u0308ße\r\n Jose\u0301 ,3\r\n\r\n".encode()
    ).table
    pd.testing.assert_frame_equal(plain, odd)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6).filter(lambda s: s != "n/a" and s != "N/A"),
        min_size=1, max_size=8,
    ).filter(lambda ids: not colliding(ids) and len(set(ids)) == len(ids)    )
)  # fmt: skip
def test_every_row_comes_back_whatever_its_id_holds(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("people")
    path = folder / "p.csv"
    pd.DataFrame({"ID": ids, "n": range(len(ids))}).to_csv(path, index=False)
    found = read_participants(ParticipantsTable(table=["p.csv"], id="ID"), folder)
    joined = join(scans_of(*((i, "1") for i in ids)), found)
    assert found.table["n"].tolist() == list(range(len(ids)))
    assert (joined.rows_without_scan, joined.scans_without_row) == ([], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,a\nx,1\ny,2\nx,3\nz,4\nz,4\n", r"t0.csv: expected every ID once, found x, z more than once \(2 rows too many\)"),
        ("ID\na\na\nb\nb\nc\nc\nd\nd\n", "found a, b, c and 1 more more than once"),
        ("ID,a,b,a\nx,1,2,3\n", "expected every column once, found a more than once"),
        ("Id,a\nx,1\n", "no column 'ID' for the ids; columns are Id, a; did you mean 'Id'"),
        ("ID,a\nx,1,2\n", "line 2 has 3 cells, the header has 2"),
        ("ID,a\nx\n", "line 2 has 1 cells, the header has 2"),
        ("ID,a\nx,1\n ,2\n", r"line 3 has no id \(column 'ID'\)"),
        ("ID,a\nn/a,1\n", "line 2 has no id"),
        ("ID,a\nsub-1,1\nSUB-1,2\n", "ID 'sub-1' and 'SUB-1' differ in case or invisible characters alone .1 such"),
        ("ID,a\nx,1\nx\u200b,2\n", "differ in case or invisible characters alone"),
        ("ID,a\nJose\u0301,1\nJosé,2\n", "found José more than once"),
        ("ID,a\nx,1\n x ,2\n", "found x more than once"),
        ("ID,session\nx,1\n", "the column 'session' has a name that results use.*rename: {session_given: session}"),
        ("ID,a\n", "expected rows below the header, found none"),
        ("", "expected a header, found an empty file"),
        ('ID,a\nx,"1\n', "line 2: unexpected end of data"),
        ("ID,größe\nx,1\n".encode("latin-1"), "byte 5 is not UTF-8; save the table as UTF-8"),
        ("ID,a\nx,1\n".encode("utf-16"), "is not UTF-8"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_sound_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ParticipantsError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_another_format_are_refused(tmp_path):
    for name, message in (
        ("none.csv", "cannot be read"),
        ("people.xlsx", "expected a .csv or .tsv file, found '.xlsx'"),
    ):
        with pytest.raises(ParticipantsError, match=message):
            read_participants(ParticipantsTable(table=[name], id="ID"), tmp_path)


def test_the_pattern_makes_subject_and_session_of_an_id(tmp_path):
    table = read(tmp_path, "ID\nOAS1_0001_MR1\nOAS1_0001_MR2\nother\n", pattern=PATTERN).table
    assert table["participant"].tolist() == ["OAS1_0001_MR1", "OAS1_0001_MR2", "other"]
    assert table["subject"].tolist() == ["0001", "0001", "other"]
    assert table["session"].fillna("none").tolist() == ["1", "2", "none"]


def test_two_ids_of_one_subject_and_session_are_refused(tmp_path):
    with pytest.raises(
        ParticipantsError, match=r"'OAS1_0001_MR1' and 'x_OAS1_0001_MR1' are the same .*\(0001, 1\)"
    ):
        read(tmp_path, "ID\nOAS1_0001_MR1\nx_OAS1_0001_MR1\n", pattern=PATTERN)
    with pytest.raises(
        ParticipantsError, match="subject '0001' has a row with a session and one without"
    ):
        read(tmp_path, "ID\nOAS1_0001_MR1\n0001\n", pattern=PATTERN)


def test_further_tables_add_columns_and_their_own_rows_are_counted(tmp_path):
    found = read(tmp_path, "ID,age\na,1\nb,2\n", "ID,mmse,age\nb,30,\nc,29,5\n")
    np.testing.assert_array_equal(found.table[["age", "mmse"]], [[1, np.nan], [2, 30]])
    assert dict(found.unjoined) == {"t1.csv": ("c",)}


def test_a_later_table_fills_what_the_first_does_not_know_and_may_not_contradict_it(tmp_path):
    assert read(tmp_path, "ID,age\na,\nb,2\n", "ID,age\na,1\nb,2\n").table["age"].tolist() == [1, 2]
    with pytest.raises(
        ParticipantsError,
        match=r"t0.csv and t1.csv both have a column 'age' and differ for b: '2' and '3'",
    ):
        read(tmp_path, "ID,age\nb,2\n", "ID,age\nb,3\n")


def test_columns_are_renamed_before_anything_else(tmp_path):
    spec = {"rename": {"sex": "M/F", "ID": "MRI ID"}, "derive": {"male": "sex == M"}}
    table = read(tmp_path, "MRI ID,M/F\na,M\nb,F\n", **spec).table
    assert table["male"].tolist() == [1.0, 0.0]
    with pytest.raises(
        ParticipantsError, match="rename: no column 'M/f'; columns are M/F; did you mean 'M/F'"
    ):
        read(tmp_path, "ID,M/F\na,M\n", rename={"sex": "M/f"})


def test_units_belong_to_columns_of_the_table(tmp_path):
    spec = {"derive": {"ratio": "brain / skull"}, "units": {"brain": "cm3", "ratio": "1"}}
    assert read(tmp_path, "ID,brain,skull\na,1,2\n", **spec).units == {"brain": "cm3", "ratio": "1"}
    with pytest.raises(ParticipantsError, match="units: no column 'brian'; did you mean 'brain'"):
        read(tmp_path, "ID,brain\na,1\n", units={"brian": "cm3"})


def test_dropped_columns_are_derived_from_and_are_gone(tmp_path):
    text = "ID,Date of birth,age_months,scanner\na,1950-03-01,24,x\nb,1944-12-24,,y\n"
    spec = {
        "derive": {"age": "age_months / 12"},
        "units": {"age_months": "months", "age": "years"},
        "drop": ["Date of birth", "age_months"],
    }
    found = read(tmp_path, text, **spec)
    assert list(found.table) == ["participant", "subject", "session", "scanner", "age"]
    np.testing.assert_array_equal(found.table["age"], [2, np.nan])
    assert found.units == {"age": "years"}
    with pytest.raises(
        ParticipantsError, match="drop: no column 'Scanner'; did you mean 'scanner'"
    ):
        read(tmp_path, text, drop=["Scanner"])
    for key in ("ID", "subject"):  # whose row it is
        with pytest.raises(ParticipantsError, match=f"drop: no column '{key}'"):
            read(tmp_path, text, drop=[key])


def test_derived_columns_follow_one_another_and_every_problem_is_listed(tmp_path):
    text = "ID,cdr,brain,skull\na,0,1,2\nb,,3,4\nc,0.5,,4\n"
    table = read(
        tmp_path,
        text,
        derive={"ad": "cdr > 0, missing false", "ratio": "brain / skull", "both": "ad + ratio"},
    ).table
    np.testing.assert_array_equal(table["ad"], [0, 0, 1])
    np.testing.assert_array_equal(table["both"], [0.5, 0.75, np.nan])
    with pytest.raises(ParticipantsError) as caught:
        read(tmp_path, text, derive={"x": "cdrr > 0", "brain": "cdr", "y": "skul"})
    first, second, third = str(caught.value).split("\n")
    assert first.startswith("t0.csv: derive: x: ")
    assert first.endswith("did you mean 'cdr'?")
    assert second == "t0.csv: derive: brain: the table has that column already; choose another name"
    assert third.endswith("did you mean 'skull'?")


def test_ages_are_capped_only_when_the_catalog_says_so(tmp_path):
    text = "ID,Age\na,89\nb,89.5\nc,101\nd,\n"
    assert read(tmp_path, text).table["Age"].tolist()[:3] == [89, 89.5, 101]
    capped = read(tmp_path, text, cap_ages=True, derive={"old": "Age >= 90"}).table
    np.testing.assert_array_equal(capped["Age"], [89, 90, 90, np.nan])
    assert capped["age_capped"].tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(capped["old"], [0, 1, 1, np.nan])
    with pytest.raises(ParticipantsError, match="no column is called age"):
        read(tmp_path, "ID,v\na,1\n", cap_ages=True)


@pytest.mark.parametrize("cell", ["90+", "89+", "95+", ">89", "> 89", ">=90", "≥90"])
def test_an_age_cut_off_at_ninety_is_ninety_only_where_ages_are_capped(cell, tmp_path):
    text = f"ID,age\na,{cell}\nb,3\n"
    table = read(tmp_path, text, cap_ages=True).table
    assert (table["age"].tolist(), table["age_capped"].tolist()) == ([90, 3], [1, 0])
    with pytest.raises(
        ParticipantsError, match=r"t0.csv: column 'age' holds .*state cap_ages: true"
    ):
        read(tmp_path, text)


def test_an_age_cut_off_in_another_unit_is_a_range(tmp_path):
    with pytest.raises(ParticipantsError, match=r"holds '90\+'; expected a number of months"):
        read(tmp_path, "ID,age\na,90+\n", units={"age": "months"}, cap_ages=True)


@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize(
    "cell",
    ["18-38", "18\u201338", "18 to 38", "60+", ">60", "<18", "-1", "000Y", "65y", "065Y3", "~40", "4O", "3,5", "1e1", "NaN"],
)  # fmt: skip
def test_a_range_and_any_other_text_is_no_age(cell, cap, tmp_path):
    with pytest.raises(ParticipantsError, match=r"column 'age' holds .* is\s+no age") as caught:
        read(tmp_path, f"ID\tage\na\t3\nb\t{cell}\n", suffix=".tsv", cap_ages=cap)
    assert "\n" not in str(caught.value)
    table = read(tmp_path, f"ID\tage\na\t3\nb\t{cell}\n", suffix=".tsv", missing=[cell]).table
    np.testing.assert_array_equal(table["age"], [3, np.nan])


def test_ages_have_a_unit_and_dicoms_forms_are_turned_into_it(tmp_path):
    text = "ID,age\na,065Y\nb,018M\nc,012W\nd,003D\ne,7.5\nf,n/a\n"
    years = [65, 1.5, 12 * 7 / 365.25, 3 / 365.25]
    for unit in YEARS:
        found = read(tmp_path, text, units={"age": unit})
        np.testing.assert_allclose(found.table["age"][:4], np.array(years) / YEARS[unit])
        assert found.table["age"].tolist()[4] == 7.5
        assert dict(found.units) == {"age": unit}
    plain = read(tmp_path, "ID,Age,age_months\na,3,40\n")
    assert dict(plain.units) == {"Age": "years", "age_months": "months"}
    with pytest.raises(
        ParticipantsError, match=r"t0.csv: units: age: expected one of years, months, weeks, days"
    ):
        read(tmp_path, text, units={"age": "cm3"})


def test_ages_beyond_any_life_are_in_another_unit(tmp_path):
    text = "ID,age\na,431\nb,1068\nc,1069\n"
    with pytest.raises(ParticipantsError, match="median 1068, which cannot be years"):
        read(tmp_path, text)
    table = read(tmp_path, text, units={"age": "months"}, cap_ages=True).table
    assert table["age"].tolist() == [431, 1068, 1080]
    assert table["age_capped"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("cap", [False, True])
@given(
    years=st.lists(st.floats(18, 88), min_size=1, max_size=9),
    column=st.sampled_from(["age", "Age"]),
    true=st.sampled_from(["months", "weeks", "days"]),
)
def test_a_column_that_cannot_be_years_names_what_to_declare(
    tmp_path_factory, years, column, true, cap
):
    folder = tmp_path_factory.mktemp("ages")
    ages = [round(y / YEARS[true], 1) for y in years]
    rows = "".join(f"p{i},{age}\n" for i, age in enumerate(ages))
    text = f"ID,{column}\n{rows}z,n/a\n"
    with pytest.raises(ParticipantsError) as caught:
        read(folder, text, cap_ages=cap)
    said = str(caught.value)
    middle = np.median(ages)
    assert said.startswith(
        f"t0.csv: column {column!r} holds {min(ages):g} to {max(ages):g}, median {middle:g}, "
    )
    assert "which cannot be years; " in said
    assert "\n" not in said
    near = next(unit for unit in YEARS if middle * YEARS[unit] <= 130)
    assert f"units: {{{column}: {near}}}" in said
    assert true in said
    found = read(folder, text, units={column: true}, cap_ages=cap)
    np.testing.assert_allclose(found.table[column][: len(ages)], ages)
    # In years, the same people are nothing to talk about; one cell too high is a matter of that cell.
    rows = "".join(f"p{i},{y:.1f}\n" for i, y in enumerate([*years, *years]))
    assert read(folder, f"ID,{column}\n{rows}", cap_ages=cap).units[column] == "years"
    with pytest.raises(ParticipantsError, match="holds 999, which in years is over 130 years"):
        read(folder, f"ID,{column}\n{rows}z,999\n", cap_ages=cap)


def test_every_column_of_ages_is_capped(tmp_path):
    table = read(tmp_path, "ID,Age,age_days\na,70,40000\nb,95,3\n", cap_ages=True).table
    assert table["Age"].tolist() == [70, 90]
    assert table["age_days"].tolist() == [round(90 * 365.25), 3]
    assert table["age_capped"].tolist() == [1, 1]


def test_words_for_ages_are_words(tmp_path):
    assert read(tmp_path, "ID,age\na,young\nb,old\n").table["age"].tolist() == ["young", "old"]
    assert age_columns(["Age", "age_group", "agenda", "age_at_scan", "AGE_YEARS"]) == [
        "Age",
        "AGE_YEARS",
    ]


@given(
    st.lists(st.tuples(st.floats(0, 120), st.floats(0, 120)), min_size=1, max_size=30),
    st.sampled_from(sorted(YEARS)),
)
def test_a_header_and_a_table_that_are_more_than_a_year_apart_conflict(pairs, unit):
    scans = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(len(pairs))],
            "participant": [f"p{i}" for i in range(len(pairs))],
            "age_years": [header for header, _ in pairs],
        }
    )
    people = pd.DataFrame(
        {
            "participant": [f"p{i}" for i in range(len(pairs))][::-1],
            "age": [t / YEARS[unit] for _, t in pairs][::-1],
        }
    )
    found = set(age_conflicts(scans, people, {"age": unit}))
    for i, (header, told) in enumerate(pairs):
        apart = abs(min(header, 90) - min(told, 90))
        if abs(apart - 1) > 1e-6:
            assert (f"s{i}" in found) == (apart > 1)


def test_nothing_conflicts_with_what_is_not_known():
    scans = pd.DataFrame(
        {
            "scan_id": ["a", "b", "c"],
            "participant": ["x", None, "z"],
            "age_years": [3.0, 4.0, np.nan],
        }
    )
    people = pd.DataFrame({"participant": ["x", "z"], "age": [np.nan, 9.0]})
    assert age_conflicts(scans, people) == []
    assert age_conflicts(scans.drop(columns="age_years"), people) == []
    assert age_conflicts(scans, people.drop(columns="age")) == []
    assert age_conflicts(scans.assign(participant="z"), people) == ["a", "b"]


# --- the map -------------------------------------------------------------------------------------------------------


def mapped(folder, text, people="ID,age\nsub-01,1\nsub-02,2\nsub-03,3\n", *, pattern=None):
    (folder / "key.csv").write_text(text)
    spec = IdMap(table="key.csv", subject="PatientID", id="ID")
    return read(folder, people, pattern=pattern, map=spec)


def test_a_map_says_who_is_who_and_both_sides_of_a_mismatch_are_listed(tmp_path):
    text = (
        "ID,PatientID,site\nsub-01,0007,1\nsub-02,X-9,2\nsub-99,Q,1\nsub-01,0008,2\nsub-03,gone,1\n"
    )
    people = mapped(tmp_path, text)
    scans = scans_of(
        ("0007", "1"), (" X-9", "2"), ("0008", None), ("sub-02", "1"), ("7", "1"), ("Q", "1")
    )
    joined = join(scans, people)
    assert joined.scans["participant"].fillna("-").tolist() == [
        "sub-01",
        "sub-02",
        "sub-01",
        "-",
        "-",
        "-",
    ]
    assert joined.scans_without_row == ["scan-3", "scan-4", "scan-5"]
    assert joined.rows_without_scan == ["sub-03"]
    assert joined.mapped_without_scan == ["gone"]
    assert people.map_without_row == ("Q",)
    assert people.key_of("0007", "2") == ("sub-01", "2")
    assert people.key_of("sub-02", "1") is None
    shown = people.with_tokens(str.upper)
    assert (shown.map_without_row, shown.keys) == (("Q",), None)


def test_a_map_may_name_the_visit(tmp_path):
    text = "PatientID,ID\nA,OAS1_0001_MR1\nB,OAS1_0001_MR2\nC,0002\nD,OAS1_0001_MR7\n"
    rows = "ID,age\nOAS1_0001_MR1,1\nOAS1_0001_MR2,2\nOAS1_0002_MR1,3\n"
    people = mapped(tmp_path, text, rows, pattern=PATTERN)
    joined = join(scans_of(("A", "5"), ("B", None), ("C", "1"), ("C", "2"), ("D", "1")), people)
    assert joined.scans["participant"].fillna("-").tolist() == [
        "OAS1_0001_MR1", "OAS1_0001_MR2", "OAS1_0002_MR1", "-", "-",
    ]  # fmt: skip
    assert people.map_without_row == ("D",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PatientID,ID\nA,sub-01\nA,sub-02\n", "key.csv: expected every PatientID once, found A more than once"),
        ("PatientID,ID\nA,sub-01\na,sub-02\n", "key.csv: PatientID 'A' and 'a' differ in case"),
        ("PatientID,ID\nA,\n", "key.csv: 'A' has no participant"),
        ("PatientID,ID\n,sub-01\n", "key.csv: line 2 has no id"),
        ("PatientID,id\nA,sub-01\n", "key.csv: no column 'ID' for the participants; .* did you mean 'id'"),
        ("patientid,ID\nA,sub-01\n", "key.csv: no column 'PatientID' for the ids"),
    ],
)  # fmt: skip
def test_a_map_that_is_not_sound_is_refused(text, message, tmp_path):
    with pytest.raises(ParticipantsError, match=message):
        mapped(tmp_path, text)


@given(st.lists(st.sampled_from(["a", "A", "á", "A\u0301", "b", " b", "b\u200d"]), max_size=9))
def test_names_collide_if_nothing_that_can_be_seen_tells_them_apart(names):
    person = {"a": 0, "A": 0, "á": 1, "A\u0301": 1, "b": 2, " b": 2, "b\u200d": 2}
    groups = colliding(names)
    assert all(len({person[name] for name in group}) == 1 for group in groups)
    assert {n for g in groups for n in g} == {
        n for n in names if len({o for o in names if person[o] == person[n]}) > 1
    }


def test_a_row_with_a_session_matches_that_visit_and_one_without_matches_all(tmp_path):
    people = read(
        tmp_path,
        "ID,age\nOAS1_0001_MR1,1\nOAS1_0002_MR1,2\nOAS1_0003_MR2,3\nall,4\n",
        pattern=PATTERN,
    )
    scans = scans_of(
        ("0003", "2"), ("all", "1"), ("0001", "2"), ("all", "2"), ("nobody", "1"), ("0001", "1")
    )
    joined = join(scans, people)
    assert joined.scans["participant"].fillna("-").tolist() == [
        "OAS1_0003_MR2",
        "all",
        "-",
        "all",
        "-",
        "OAS1_0001_MR1",
    ]
    assert joined.rows_without_scan == ["OAS1_0002_MR1"]
    assert joined.scans_without_row == ["scan-2", "scan-4"]
    pd.testing.assert_frame_equal(joined.scans[["scan_id", "subject", "session"]], scans)


def test_without_scans_every_row_is_left_over(tmp_path):
    joined = join(scans_of(), read(tmp_path, "ID\na\nb\n"))
    assert (joined.rows_without_scan, joined.scans_without_row) == (["a", "b"], [])


def test_tokens_replace_every_id(tmp_path):
    people = read(tmp_path, "ID\nOAS1_0001_MR1\nzoe\n", pattern=PATTERN)
    shown = people.with_tokens(
        lambda subject: f"t{len(subject)}", lambda session: f"v{session}"
    ).table
    assert shown["participant"].tolist() == ["t4_v1", "t3"]
    assert shown["subject"].tolist() == ["t4", "t3"]
    assert shown["session"].fillna("none").tolist() == ["v1", "none"]
    assert people.table["subject"].tolist() == ["0001", "zoe"]
    nobody = read(tmp_path, "ID\na\nb\n").with_tokens(str.upper).table
    assert nobody["participant"].tolist() == ["A", "B"]


def test_oasis_rows_and_scans_meet_as_published(shared, request):
    catalog = read_catalog(request.config.rootpath / "catalogs/cohorts/oasis1.yaml")
    people = read_participants(
        catalog.participants, catalog.folder, subject_pattern=catalog.subject
    )
    ids = pd.read_csv(shared / "oasis1-mni2mm/measures_reference.csv", dtype=str)["ID"]
    scans = ids.str.extract(PATTERN).assign(scan_id=ids)
    joined = join(scans, people)
    assert joined.scans["participant"].tolist() == ids.tolist()
    assert (len(people.table), len(joined.rows_without_scan), joined.scans_without_row) == (
        436,
        269,
        [],
    )
    first = joined.scans[joined.scans["session"] == "1"].merge(people.table, on="participant")
    assert (len(first), first["ad"].sum()) == (158, 33)
    missing = {
        c: int(people.table[c].isna().sum())
        for c in ("Educ", "MMSE", "CDR", "SES", "Delay", "ad", "male")
    }
    assert missing == {
        "Educ": 201,
        "MMSE": 201,
        "CDR": 201,
        "SES": 220,
        "Delay": 416,
        "ad": 0,
        "male": 0,
    }


def test_a_column_with_age_among_its_words_is_capped_too(tmp_path):
    text = "ID,age_at_scan,Age_y,ScanAge,age_mo,age_group,stage\na,95,90+,70,1100,old,95\nb,40,90,101,30,5,2\n"
    found = read(tmp_path, text, cap_ages=True)
    ages = {
        name: found.table[name].tolist() for name in ("age_at_scan", "Age_y", "ScanAge", "age_mo")
    }
    assert ages == {
        "age_at_scan": [90, 40], "Age_y": [90, 90], "ScanAge": [70, 90], "age_mo": [1080, 30]
    }  # fmt: skip
    assert found.capped == {"age_at_scan": 1, "Age_y": 2, "ScanAge": 1, "age_mo": 1}
    assert found.table["stage"].tolist() == [95, 2]
    assert found.table["age_group"].tolist() == ["old", "5"]
    assert found.table["age_capped"].tolist() == [1, 1]
    plain = read(tmp_path, "ID,age_at_scan\na,95\n")
    assert (plain.table["age_at_scan"].tolist(), plain.capped) == ([95], {})
