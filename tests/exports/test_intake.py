"""A catalog that intake reads: what it opens is what the store holds."""

import shutil
import warnings

import cohorts
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io.exports.intake import intake_catalog
from cohort.io.exports.place import ExportError
from cohort.io.store import Store, StoreError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A cohort beside its catalog for intake, moved to another place after it was written."""
    folder = tmp_path_factory.mktemp("old") / "study"
    folder.mkdir()
    catalog = cohorts.write_cohort(folder, 3)
    api.update(catalog, options=api.Options(workers=0))
    out = folder / "lab/balls.yaml"
    done = CliRunner().invoke(cli.app, ["export", "intake", str(catalog), "-o", str(out)])
    assert done.exit_code == 0, done.stderr
    moved = tmp_path_factory.mktemp("new") / "study"
    shutil.move(folder, moved)
    return moved


@pytest.fixture
def opened(study):
    with warnings.catch_warnings():
        # Of intake's own dependencies while they are imported, not of what is read.
        warnings.simplefilter("ignore")
        import intake
    return intake.open_catalog(str(study / "lab/balls.yaml"))


def test_every_table_is_an_entry_with_its_units(study, opened):
    store = Store(study / "store")
    assert set(opened.entries) == {*store.tables(), "scan", "ball.kept"}
    for name in store.tables():
        pd.testing.assert_frame_equal(opened[name].read(), store.table(name))
    assert opened.entries["ball"].metadata["units"] == store.units("ball")
    assert opened.entries["scans"].metadata["rows"] == 3


def test_every_scan_opens_lazily_by_its_name(study, opened):
    store = Store(study / "store")
    for scan_id in store.scan_ids():
        read = opened(scan_id=scan_id).scan.read()
        assert read["image"].chunks is not None
        ours = store.open_scan(scan_id)
        np.testing.assert_allclose(read["image"].values, ours["image"].values, rtol=1e-6)
        np.testing.assert_array_equal(read["affine"].values, ours["affine"].values)
        np.testing.assert_array_equal(read["z"].values, ours["z"].values)
        kept = opened(scan_id=scan_id)["ball.kept"].read()
        big = store.open_derivative("ball", scan_id)["big"]
        np.testing.assert_array_equal(kept["big"].values, big.values)


def test_as_many_entries_for_ten_scans_as_for_ten_thousand(study):
    made = intake_catalog(Store(study / "store"), study)
    assert len(made["entries"]) == len(made["data"]) == 7
    assert made["user_parameters"]["scan_id"]["description"].startswith("One of 3 scans")


def test_a_place_that_intake_would_not_understand_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no tables in .* yet; `cohort update` makes them"):
        intake_catalog(Store(tmp_path / "none"), tmp_path)
    store = Store(tmp_path / "a{b}")
    store.write_table("scans", pd.DataFrame({"scan_id": ["x"]}))
    with pytest.raises(ExportError, match="a brace in a path"):
        intake_catalog(store, tmp_path)
