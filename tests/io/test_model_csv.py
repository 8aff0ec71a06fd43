"""A model's table for spreadsheets computes nothing when it is opened, and is otherwise the table."""

import csv
import io

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.store import Store

TEXT = st.one_of(
    st.sampled_from(["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "\r=1", "", "age"]),
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8),
)


@given(terms=st.lists(TEXT, min_size=1, max_size=6), estimate=st.floats(-9, 9))
def test_no_cell_begins_as_a_formula_and_numbers_stay_numbers(tmp_path, terms, estimate):
    tidy = pd.DataFrame({"outcome": "head_ml", "term": terms, "estimate": estimate})
    store = Store(tmp_path)
    store.write_model("m", {"tidy": tidy}, {})
    text = store.files.read("models/m/tidy.csv").decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["outcome", "term", "estimate"]
    assert [float(row[2]) for row in rows] == [estimate] * len(terms)
    for term, row in zip(terms, rows, strict=True):
        assert not row[1].lstrip().startswith(("=", "+", "-", "@"))
        assert row[1].removeprefix("'").split() == term.removeprefix("'").split()
    pd.testing.assert_frame_equal(store.model_table("m", "tidy"), tidy)
