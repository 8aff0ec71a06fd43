"""Participants: nothing is guessed from a cell, no row is lost on the way to a scan."""

from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.catalog import ParticipantsTable, read_catalog
from cohort.io.participants import ParticipantsError, join, read_participants

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
    "cell", ["90+", "18-38", "1_000", "NaN", "inf", "0x1f", "1,5", "NA", "-", "None", "05"]
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
        min_size=1, max_size=8, unique_by=lambda s: normalize("NFC", s),
    )
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
    assert read(tmp_path, "ID,age\na,90+\nb,3\n", cap_ages=True).table["age"].tolist() == [90, 3]
    for text, message in (
        ("ID,age\na,18-38\n", "holds '18-38'; expected a number of years"),
        ("ID,v\na,1\n", "no column is called age"),
    ):
        with pytest.raises(ParticipantsError, match=message):
            read(tmp_path, text, cap_ages=True)


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
