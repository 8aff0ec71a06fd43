"""The commands that take results elsewhere: whole files or none, nothing replaced unasked, one line for what is wrong."""

import json
import re

import cohorts
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io.store import Store

SCAN = "sub-001_ses-1_001v1"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    catalog = cohorts.write_cohort(tmp_path_factory.mktemp("leaving"), 3)
    api.update(catalog, options=api.Options(workers=0))
    return catalog


@pytest.fixture(scope="module")
def store(catalog):
    return Store(catalog.parent / "store")


def export(*arguments: object):
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


def test_a_scan_leaves_as_it_came(catalog, tmp_path):
    done = export("nifti", catalog, "001", "-o", tmp_path / "there/scan.nii.gz")
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "there/scan.nii.gz"))
    out = nib.as_closest_canonical(nib.load(tmp_path / "there/scan.nii.gz"))
    source = nib.as_closest_canonical(nib.load(catalog.parent / "scans/001_v1.nii.gz"))
    np.testing.assert_array_equal(out.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(out.dataobj), np.asarray(source.dataobj))
    again, header = nib.load(tmp_path / "there/scan.nii.gz"), source.header
    assert again.dataobj.slope == nib.load(catalog.parent / "scans/001_v1.nii.gz").dataobj.slope
    assert again.get_data_dtype() == header.get_data_dtype() == np.int16
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["scan.nii.gz"]


def test_what_a_recipe_kept_leaves_by_its_name(catalog, store, tmp_path):
    out = tmp_path / "big.nii"
    assert export("nifti", catalog, SCAN, "--recipe", "ball", "-o", out).exit_code == 0
    big = nib.as_closest_canonical(nib.load(out))
    assert big.get_data_dtype() == np.uint8
    assert np.asarray(big.dataobj).sum() == store.derivative("ball", SCAN)["measurements"]["n_big"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["00"], "3 scans are called '00': sub-000_ses-1_000v1, "),
        (
            ["sub-001_ses-2_001v1"],
            "no scan 'sub-001_ses-2_001v1' in .*did you mean sub-001_ses-1_001v1",
        ),
        ([SCAN, "--variable", "mask"], "has no variable 'mask'; there are image"),
        ([SCAN, "--recipe", "bal"], "no measurements of 'bal', did you mean ball"),
        ([SCAN, "--recipe", "ball", "--variable", "head"], "'head' was not kept; kept was big"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(catalog, tmp_path, arguments, says):
    done = export("nifti", catalog, *arguments, "-o", tmp_path / "x.nii")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert re.search(says, done.stderr), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["nifti", SCAN, "-o", "x.nii"],
        ["tables", "-o", "x"],
        ["bids", "ball", "-o", "x"],
        ["intake", "-o", "x.yaml"],
    ],
    ids=lambda c: c[0],
)
def test_nothing_is_replaced_unless_it_is_said_so(catalog, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind, *rest = command
    assert export(kind, catalog, *rest).exit_code == 0
    before = sorted(p.name for p in tmp_path.rglob("*"))
    refused = export(kind, catalog, *rest)
    assert refused.exit_code == 2
    assert "is there already; choose another name, or replace it with --force" in refused.stderr
    assert export(kind, catalog, *rest, "--force").exit_code == 0
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [["tables", "-o", "mine"], ["bids", "ball", "-o", "mine"]])
def test_a_folder_of_somebody_else_is_never_replaced(catalog, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    refused = export(command[0], catalog, *command[1:], "--force")
    assert refused.exit_code == 2
    assert "holds something else" in refused.stderr
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_an_export_that_fails_leaves_what_was_there(catalog, store, tmp_path, monkeypatch):
    out = tmp_path / "x.nii"
    assert export("nifti", catalog, SCAN, "-o", out).exit_code == 0
    before = out.read_bytes()

    def broken(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr("cohort.io.exports.nifti._write", broken)
    done = export("nifti", catalog, SCAN, "-o", out, "--force")
    assert (done.exit_code, done.stderr) == (2, "error: the disk is full\n")
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_tables_are_tsv_with_units_and_descriptions_beside_them(catalog, store, tmp_path):
    out = tmp_path / "tables"
    assert export("tables", catalog, "-o", out).exit_code == 0
    names = {p.stem for p in out.glob("*.tsv")}
    assert names == set(store.tables())
    for name in names:
        said = json.loads((out / f"{name}.json").read_text())
        read = pd.read_csv(out / f"{name}.tsv", sep="\t", na_values="n/a", keep_default_na=False)
        table = store.table(name)
        assert list(read) == list(table) == list(said)
        for column in table.select_dtypes("number"):
            np.testing.assert_array_equal(read[column], table[column].to_numpy(float))
        assert {
            c: d["Units"] for c, d in said.items() if "Units" in d and c in store.units(name)
        } == (store.units(name))
    ball = json.loads((out / "ball.json").read_text())
    assert ball["head_ml"] == {"Description": "volume_ml(mask=head) of recipe ball", "Units": "ml"}
    assert ball["where_x"]["Description"].startswith("centroid_mm(mask=big)")
    assert json.loads((out / "participants.json").read_text())["age"]["Units"] == "years"


def test_some_tables_by_name(catalog, tmp_path):
    assert export("tables", catalog, "ball", "-o", tmp_path / "one").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "ball.json",
        "ball.tsv",
        "tables.json",
    ]
    done = export("tables", catalog, "bal", "-o", tmp_path / "none")
    assert "no table 'bal'" in done.stderr
    assert not (tmp_path / "none").exists()


def test_text_in_tables_is_text_and_what_is_missing_says_so(tmp_path):
    from cohort.io.exports.tables import write_tsv

    table = pd.DataFrame(
        {
            "a": ["=1+1", "b\tc\nd", None, "ü"],
            "b": [0.1 + 0.2, np.nan, 1e300, 5.0],
            "c": [True, False, True, True],
            "d": pd.array([1, None, 3, 4], "Int64"),
        }
    )
    write_tsv(table, tmp_path / "t.tsv", {"a": {"Description": "x"}, "gone": {}})
    assert (tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines() == [
        "a\tb\tc\td",
        "'=1+1\t0.30000000000000004\ttrue\t1",
        "b c d\tn/a\tfalse\tn/a",
        "n/a\t1e+300\ttrue\t3",
        "ü\t5\ttrue\t4",
    ]
    assert json.loads((tmp_path / "t.json").read_text()) == {"a": {"Description": "x"}}


def test_every_command_shows_an_example():
    for name in ("nifti", "ome-zarr", "tables", "bids", "intake"):
        assert f"Example: cohort export {name}" in export(name, "--help").stdout
