"""The token table: every token leads back to what it stands for, nobody else can read it, and it never lies in the store."""

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io import private
from cohort.io.deidentify import Tokens
from cohort.io.private import PrivateError, Row

TOKENS = Tokens(bytes(range(32)))
SUBJECT, SERIES = TOKENS.token("subject", "MRN 4711"), TOKENS.token("series", "1.2.3.4.5")
FILE = TOKENS.token("file", "/data/DOE^JANE/im1.dcm")
SCAN = f"sub-{SUBJECT}_ses-1_{SERIES}"
ROWS = [
    Row(SCAN, "scan", "1.2.3.4.5", ("/data/DOE^JANE/im1.dcm", "/data/DOE^JANE/im2.dcm")),
    Row(SUBJECT, "subject", "MRN 4711"),
    Row(SERIES, "series", "1.2.3.4.5"),
    Row(FILE, "file", "/data/DOE^JANE/im1.dcm"),
    Row(TOKENS.token("subject", "another"), "subject", "another"),
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "state" / "cohort" / "a.tokens"
    private.remember(path, ROWS)
    return path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (SCAN, ROWS[:1]),
        (SCAN[:9], ROWS[:2]),
        (SUBJECT, ROWS[:2]),
        (f"sub-{SUBJECT}", ROWS[:2]),
        (SUBJECT[:5], ROWS[:2]),
        (SERIES, [ROWS[0], ROWS[2]]),
        (FILE, ROWS[3:4]),
        (f"file {FILE}", ROWS[3:4]),
        (f"file{FILE}", ROWS[3:4]),
        (SUBJECT[1:], []),
        ("nobody", []),
        ("%", []),
        ("", []),
    ],
)
def test_a_token_or_its_beginning_leads_to_ids_and_paths(table, asked, found):
    assert private.which(table, asked) == found


def test_only_its_owner_can_read_it(table):
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    assert stat.S_IMODE(table.parent.stat().st_mode) == 0o700
    assert [p.name for p in table.parent.iterdir()] == [table.name]


def test_a_token_has_what_was_said_of_it_last_and_the_others_stay(table):
    moved = Row(SCAN, "scan", "1.2.3.4.5", ("/elsewhere/im1.dcm",))
    private.remember(table, [moved])
    assert private.which(table, SCAN) == [moved]
    assert set(private.everything(table)) == {moved, *ROWS[1:]}


def test_two_files_of_one_public_name_are_both_found(table):
    rows = [Row("a.nii", "file", f"/data/{n}/a.nii") for n in (1, 2)]
    private.remember(table, rows)
    assert private.which(table, "a.nii") == rows


def test_remembering_again_writes_nothing(table):
    before = table.read_bytes()
    private.remember(table, ROWS)
    assert table.read_bytes() == before


@given(st.lists(st.tuples(st.text(), st.text(), st.lists(st.text())), unique_by=lambda r: r[0]))
def test_any_text_comes_back_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "table"
    expected = [Row(token, "file", original, tuple(files)) for token, original, files in rows]
    private.remember(path, expected)
    assert sorted(private.everything(path), key=repr) == sorted(expected, key=repr)


def test_names_that_are_no_text_to_the_system_come_back(tmp_path):
    row = Row("t", "scan", "\0 \u202e \U0001f9e0", (os.fsdecode(b"/data/\xff\xfe.dcm"),))
    private.remember(tmp_path / "table", [row])
    assert private.which(tmp_path / "table", "t") == [row]


def test_two_that_write_at_once_lose_nothing(tmp_path):
    path, start = tmp_path / "table", threading.Barrier(4)

    def write(n):
        start.wait()
        private.remember(path, [Row(f"{n}-{i}", "file", str(i)) for i in range(50)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(private.everything(path))) == 200


def test_without_a_table_or_with_a_damaged_one_it_says_what_to_do(tmp_path):
    with pytest.raises(PrivateError, match=r"no token table .*cohort ingest"):
        private.which(tmp_path / "none", "x")
    assert not (tmp_path / "none").exists()
    (tmp_path / "bad").write_bytes(b"not a database, and long enough to be looked at" * 30)
    for call in (lambda p: private.which(p, "x"), lambda p: private.remember(p, ROWS)):
        with pytest.raises(PrivateError, match=r"cannot use the token table .*bad \(file is not"):
            call(tmp_path / "bad")


def test_a_private_file_in_the_store_is_told(tmp_path):
    store, outside = tmp_path / "store", tmp_path / "config"
    (store / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(store / "deep")
    places = {
        "key": tmp_path / "link" / "key",  # through a link
        "token table": Path(os.path.relpath(store / "a.tokens")),
        "other": outside / "key",
        "beside": tmp_path / "store.tokens",
    }
    said = private.misplaced(store, places)
    assert [line.split(":")[0] for line in said] == ["key", "token table"]
    assert all(str(store) in line for line in said)
    assert private.misplaced(tmp_path / "link" / "..", {"key": store / "key"}) != []
    assert private.misplaced("s3://bucket/store", places) == []
