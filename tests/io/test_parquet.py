"""Parquet by one thread is Parquet as pandas reads it."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.storage import parquet

COLUMNS = {
    "text": lambda rng, n: pd.Series(rng.choice(["a", "bc", None], n), dtype="str"),
    "number": lambda rng, n: np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
    "whole": lambda rng, n: rng.integers(0, 9, n),
    "lacking": lambda rng, n: pd.array(rng.choice([1, None], n), dtype="Int64"),
    "flag": lambda rng, n: rng.random(n) < 0.5,
    "class": lambda rng, n: pd.Categorical(rng.choice(["u", "v"], n)),
    "day": lambda rng, n: pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 9, n), "D"),
}


@given(
    names=st.lists(st.sampled_from(list(COLUMNS)), unique=True, min_size=1),
    n=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_rows_are_those_that_pandas_reads(names, n, seed):
    rng = np.random.default_rng(seed)
    made = pd.DataFrame({name: COLUMNS[name](rng, n) for name in names})
    made.attrs = {"units": {"number": "ml"}}
    content = made.to_parquet(None, index=False)
    found, expected = parquet.frame(content), pd.read_parquet(io.BytesIO(content))
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs == expected.attrs
    assert parquet.table(content).column_names == names


def test_a_damaged_file_is_an_error_of_value_or_of_reading():
    content = pd.DataFrame({"a": [1]}).to_parquet(None)
    for damaged in (b"", b"PAR1", content[:-9], content[:4] + b"\xff" * 40 + content[44:]):
        with pytest.raises((ValueError, OSError)):
            parquet.frame(damaged)


def test_no_dataset_is_made_whose_threads_outlive_the_process():
    code = (
        "import sys; from cohort.io.storage import parquet; parquet.frame(sys.stdin.buffer.read());"
        "print('pyarrow.dataset' in sys.modules)"
    )
    content = pd.DataFrame({"a": ["x"], "b": [1.0]}).to_parquet(None)
    done = subprocess.run(
        [sys.executable, "-c", code], input=content, check=True, capture_output=True
    )
    assert done.stdout.strip() == b"False"
