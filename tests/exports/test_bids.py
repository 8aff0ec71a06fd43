"""A derivative dataset of BIDS, judged by the BIDS validator itself."""

import json
import subprocess
import sys
from pathlib import Path

import cohorts
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import api
from cohort.io.exports.bids import write_bids
from cohort.io.exports.bids_names import labels
from cohort.io.exports.place import ExportError
from cohort.io.store import Store, StoreError

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")

RECIPE = cohorts.RECIPE.replace("keep: [big]", "keep: [big, parts, smooth]").replace(
    "  big: ", "  smooth: {call: gaussian, image: image, sigma_mm: 2}\n  big: "
)


def errors(folder):
    """What the validator holds against a dataset, without a network."""
    done = subprocess.run(
        [VALIDATOR, folder, "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder.parent),
            "https_proxy": "http://127.0.0.1:9",
        },
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["totalFiles"] >= 4
    return [
        f"{i['code']} {i['location']} {i.get('subCode')} {i.get('issueMessage')}"
        for i in found["issues"]["issues"]
        if i["severity"] == "error"
    ]


def tsv(path):
    return pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four scans of two people at two visits; a covariate that changes, and one that BIDS would call wrong."""
    folder = tmp_path_factory.mktemp("bids")
    catalog = cohorts.write_cohort(folder, 2)
    (folder / "recipes/ball.yaml").write_text(RECIPE)
    rows = ["ID,age,weight,handedness,sex"]
    for n in range(2):
        cohorts.write_scan(folder / f"scans/{n:03d}_v2.nii.gz", cohorts.ball(n + 9))
        rows += [f"{n:03d}_v{v},{60 + n + v},{70.5 + n},ambi,patient" for v in (1, 2)]
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    api.update(catalog, options=api.Options(workers=0))
    return Store(folder / "store")


@pytest.fixture(scope="module")
def dataset(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    layout = write_bids(study, "ball", folder, acknowledgement="Thanks to nobody.")
    assert (layout.subjects, layout.images, layout.left_out) == (2, 8, {"smooth": 4})
    return folder


def test_the_validator_accepts_it(dataset):
    assert errors(dataset) == []


def test_the_validator_would_not_accept_anything(dataset, tmp_path):
    """The check bites: a file of no known name, and a table that names nobody."""
    for path in dataset.rglob("*"):
        if path.is_file():
            there = tmp_path / path.relative_to(dataset)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    (tmp_path / "sub-000/ses-1/anat/results.csv").write_text("a,b\n")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-x\n")
    assert {e.split()[0] for e in errors(tmp_path)} >= {"NOT_INCLUDED", "PARTICIPANT_ID_MISMATCH"}


def test_it_says_what_made_it(dataset):
    said = json.loads((dataset / "dataset_description.json").read_text())
    assert said["DatasetType"] == "derivative"
    assert said["GeneratedBy"][0]["Name"] == "cohort"
    assert "Recipe ball" in said["GeneratedBy"][0]["Description"]
    assert said["HowToAcknowledge"] == "Thanks to nobody."


def test_images_are_what_the_store_holds(study, dataset):
    prefix = dataset / "sub-001/ses-2/anat/sub-001_ses-2_acq-001v2_desc-ball"
    for name, ending in (("big", "Big_mask"), ("parts", "Parts_dseg")):
        out = nib.as_closest_canonical(nib.load(f"{prefix}{ending}.nii.gz"))
        kept = study.open_derivative("ball", "sub-001_ses-2_001v2")[name]
        np.testing.assert_array_equal(np.asarray(out.dataobj).T, kept.values)
    sidecar = json.loads(Path(f"{prefix}Big_mask.json").read_text())
    assert sidecar["Description"] == "big: largest_component(mask=spots)"
    assert sidecar["Type"] == "ROI"


def test_tables_hold_every_number_by_bids_own_names(study, dataset):
    read = tsv(dataset / "desc-ball_measurements.tsv")
    table = study.table("ball")
    assert list(read.scan_id) == list(table.scan_id)
    assert list(read.participant_id) == [f"sub-{s}" for s in table.subject]
    assert list(read.session_id) == [f"ses-{s}" for s in table.session]
    np.testing.assert_array_equal(read.head_ml, table.head_ml)
    said = json.loads((dataset / "desc-ball_measurements.json").read_text())
    assert said["head_ml"]["Units"] == "ml"
    people = tsv(dataset / "participants.tsv")
    assert list(people.participant_id) == ["sub-000", "sub-001"]
    assert list(people.weight) == [70.5, 71.5], "what lasts stands with the person"
    assert "age" not in people, "what changes stands with the visit"
    visits = tsv(dataset / "desc-visits_measurements.tsv")
    assert list(visits.age) == [61, 62, 62, 63]
    assert list(people.handedness_given) == ["ambi", "ambi"], (
        "BIDS knows other values of handedness"
    )


def test_a_recipe_that_keeps_nothing_has_a_layout_too(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 2)
    recipe = tmp_path / "recipes/ball.yaml"
    recipe.write_text(recipe.read_text().replace("keep: [big]", "keep: []"))
    api.update(catalog, options=api.Options(workers=0))
    (tmp_path / "out").mkdir()
    layout = write_bids(Store(tmp_path / "store"), "ball", tmp_path / "out")
    assert layout.images == 0
    assert errors(tmp_path / "out") == []


def test_what_has_no_layout_is_refused(study, tmp_path):
    with pytest.raises(StoreError, match=r"no measurements of 'bal' in .*; there are ball"):
        write_bids(study, "bal", tmp_path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a-1", "a_1"], "subject 'a-1' and 'a_1' would both become 'a1'"),
        (["Anna", "anna"], "subject 'Anna' and 'anna' would both become 'anna'"),
        (["ok", "Ж"], "subject 'Ж' has no letter from A to Z"),
    ],
)
def test_names_that_would_become_one_are_refused(names, says):
    with pytest.raises(ExportError, match=says):
        labels(names, what="subject")


@given(st.lists(st.text(min_size=1), unique=True, max_size=6))
def test_names_are_alphanumeric_and_stay_apart_or_are_refused(names):
    try:
        found = labels(names, what="subject")
    except ExportError:
        return
    assert all(short.isalnum() and short.isascii() for short in found.values())
    assert len({short.lower() for short in found.values()}) == len(names)
