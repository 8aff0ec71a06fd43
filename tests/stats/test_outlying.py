"""What is far from the others: one rule for the table of a cohort, its queries and the page."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cohort.cohort import Cohort
from cohort.io.store import Store
from cohort.query import query
from cohort.stats.outlying import COLUMNS, NO_VALUE, OUTLIER_Z, is_outlying, outlying, robust_z


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6)))
def test_robust_z_is_scipys_median_absolute_deviation(values):
    spread = scipy.stats.median_abs_deviation(values, scale="normal")
    z = robust_z(values)
    assert np.isfinite(z).all()
    if spread > 1e-6 * np.abs(values).max():
        expected = (values - np.median(values)) / spread
        np.testing.assert_allclose(z, expected, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([0.3] * 99 + [0.1 + 0.2], []),  # one number, but for rounding
        ([1e308, 1.7e308, -1.7e308, 1.2e308], [2]),
        ([0.0, 5e-324, 1e-323, 1.5e-323, 1.0] * 3, []),
        ([1e-310 * k for k in (1, 2, 3, 4, 500)], [4]),
        ([5.0] * 20 + [6.0], [20]),
    ],
)
def test_neither_rounding_nor_the_ends_of_floats_make_an_outlier(values, far):
    assert np.isfinite(robust_z(values)).all()
    assert np.flatnonzero(is_outlying(values)).tolist() == far


def test_robust_z_of_mostly_equal_values_still_finds_the_one_that_is_far():
    values = np.r_[np.full(30, 5.0), 6.0, np.nan]
    z = robust_z(values)
    assert z[30] > OUTLIER_Z
    assert (z[:30] == 0).all()
    assert np.isnan(z[31])
    assert is_outlying(values).tolist() == [False] * 30 + [True, False]
    assert (robust_z([4.0, 4.0, 4.0]) == 0).all()
    assert np.isnan(robust_z([np.nan, np.inf])).all()


@given(
    values=arrays(np.float64, st.integers(8, 30), elements=st.floats(-10, 10)),
    away=st.sampled_from([-1e4, 1e4]),
    data=st.data(),
)
def test_a_scan_is_named_with_how_far_it_is_and_others_are_not(values, away, data):
    place = data.draw(st.integers(0, values.size - 1))
    state = np.full(values.size, "done", object)
    if place > 0:
        state[0], values[0] = "failed", np.nan
    values[place] = away
    table = pd.DataFrame(
        {"scan_id": [f"s{i}" for i in range(values.size)], "state": state, "ml": values, "n": 1}
    )
    found = outlying(table, ["ml", "n"])
    assert tuple(found.columns) == COLUMNS
    assert set(found.reason) <= {"far above the others", "far below the others"}
    there = found[found.scan_id == f"s{place}"]
    assert list(there.quantity) == ["ml"]
    assert there.value.item() == away
    done = values[state == "done"]
    assert there["median"].item() == np.median(done)
    assert np.sign(there.robust_z.item()) == np.sign(away)
    assert set(found.scan_id) == {
        f"s{i}" for i in np.flatnonzero(np.abs(robust_z(np.where(state == "done", values, np.nan))) > 4)
    }  # fmt: skip


@pytest.mark.parametrize("values", [[], [3.0] * 9])
def test_where_nothing_is_far_the_table_is_empty_and_has_its_columns(values):
    table = pd.DataFrame({"scan_id": [str(i) for i in range(len(values))], "ml": values})
    found = outlying(table.astype({"ml": float}), ["ml"])
    assert found.empty
    assert tuple(found.columns) == COLUMNS
    assert found.robust_z.dtype == float


@given(
    values=arrays(
        np.float64, st.integers(0, 30), elements=st.floats(-10, 10) | st.sampled_from([np.nan, np.inf, -np.inf])
    ),
    data=st.data(),
)  # fmt: skip
def test_a_scan_that_was_measured_and_has_no_value_is_named_for_it(values, data):
    done = data.draw(arrays(np.bool_, values.size))
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(values.size)],
            "state": np.where(done, "done", "failed"),
            "ml": values,
        }
    )
    found = outlying(table, ["ml"])
    none = found[found.reason == NO_VALUE]
    assert list(none.scan_id) == [f"s{i}" for i in np.flatnonzero(done & ~np.isfinite(values))]
    assert none.robust_z.isna().all()
    finite = values[done & np.isfinite(values)]
    assert np.array_equal(
        none["median"], np.full(len(none), np.median(finite) if finite.size else np.nan), equal_nan=True
    )  # fmt: skip
    far = found[found.reason != NO_VALUE]
    assert (np.abs(far.robust_z) > OUTLIER_Z).all()
    assert np.isfinite(far.value).all()


def test_a_cohort_and_its_queries_name_the_same_scans(tmp_path):
    store = Store(tmp_path / "store")
    n = 20
    keys = {
        "scan_id": [f"sub-{i:02d}_ses-1_a" for i in range(n)],
        "participant": [f"{i:02d}" for i in range(n)],
        "subject": [f"{i:02d}" for i in range(n)],
        "session": "1",
        "state": "done",
    }
    snr = np.random.default_rng(0).normal(20, 1, n)
    snr[7], snr[9], border = 60.0, np.nan, np.zeros(n, int)
    border[3] = 12
    table = pd.DataFrame({**keys, "snr": snr, "border_voxels": border})
    store.write_table("quality", table, {"snr": "1", "border_voxels": "voxel"})
    store.write_table("calm", table.drop(columns="border_voxels").assign(snr=20.0), {"snr": "1"})
    study = Cohort(store)
    found = study.outliers("quality")
    assert list(zip(found.scan_id, found.quantity, found.unit, strict=True)) == [
        ("sub-07_ses-1_a", "snr", "1"),
        ("sub-09_ses-1_a", "snr", "1"),
        ("sub-03_ses-1_a", "border_voxels", "voxel"),
    ]
    assert np.array_equal(found.value, [60, np.nan, 12], equal_nan=True)
    above = "far above the others"
    assert found.reason.tolist() == [above, "no value", above]
    assert study.outliers("calm").empty
    asked = query(store, "SELECT recipe, scan_id, quantity, robust_z, reason FROM outliers")
    assert list(asked.recipe) == ["quality"] * 3
    assert list(asked.scan_id) == list(found.scan_id)
    assert list(asked.reason) == list(found.reason)
    assert np.array_equal(asked.robust_z, found.robust_z, equal_nan=True)
    assert query(Store(tmp_path / "none"), "FROM outliers").empty
