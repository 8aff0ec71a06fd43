"""Models that are declared and have no fit: the page names each of them, with the reason, for as long as it is so."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cohort import api
from cohort.call import Call
from cohort.io.store import Store
from cohort.reporting.unfitted import GONE, NOT_YET, unfitted

HERE = api.Options(workers=0)
MASK = "/data/DOE JANE/brain.nii"
MODELS = {
    "dose": {"outcome": "score", "formula": "dose"},
    "nobody": {"outcome": "score", "formula": "dose", "where": "dose > 1000"},
    "map": {"outcome": "m", "formula": "dose", "voxelwise": {"mask": {"image": MASK}}},
}
REASONS = {
    "nobody": "no rows to fit: 9 rows in the table, 9 left out (9 where 'dose > 1000' is false)",
    "map": "maps need scans; this cohort is only a table",
}


def write(folder: Path, models: dict = MODELS, *, factor: int = 1) -> Path:
    """A cohort that is only a table, so that nothing has to be measured."""
    rows = {"ID": [f"p{n}" for n in range(9)], "dose": [factor * n for n in range(9)]}
    rows["score"] = [2.0 * n + (0.5, -0.5, 0)[n % 3] for n in range(9)]
    pd.DataFrame(rows).to_csv(folder / "people.csv", index=False)
    said = {"cohort": "c", "sources": [], "store": "store", "ids": "keep", "models": models}
    said["participants"] = {"table": "people.csv", "id": "ID"}
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump(said), encoding="utf-8")
    return catalog


def reported(catalog: Path) -> str:
    """What a reader sees after `cohort report` alone."""
    page = Call(catalog, None, HERE).work("report", ["report"]).report
    return words(Path(page).read_text(encoding="utf-8"))


def words(source: str) -> str:
    source = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", source).replace("&#39;", "'").replace("&gt;", ">")
    return " ".join(text.split())


def test_the_page_names_every_model_without_a_fit_and_why(tmp_path):
    result = api.update(write(tmp_path), options=HERE)
    text = words(Path(result.report).read_text(encoding="utf-8"))
    head, contents = text.partition("Nothing vanishes")[0], text.partition("Summary scans in")[0]
    assert "models fitted 1 models without a fit 2" in head
    for name, reason in REASONS.items():
        assert f"Model {name} could not be fitted: {reason}." in head
        assert f"Used by model {name} 0 rows 1 model failed {reason}" in text
        assert f"Model {name} The fit failed {reason}" in text
        assert f"Model {name}" in contents
    assert "Used by model dose 9 rows" in text
    assert "Model dose The fit failed" not in text
    assert str(tmp_path) not in text
    assert reported(tmp_path / "catalog.yaml") == text


def test_a_model_that_was_never_fitted_is_named_and_the_page_is_made_anew_when_it_fails(tmp_path):
    catalog = write(tmp_path)
    text = reported(catalog)
    for name in MODELS:
        assert f"Model {name} has no fit: {NOT_YET}." in text
        assert f"Used by model {name} 0 rows 1 model without a fit {NOT_YET}" in text
    assert "models fitted 0 models without a fit 3" in text
    assert "No model was fitted." not in text
    api.fit(catalog, model="nobody", options=HERE)  # leaves no table, no model: only a manifest
    text = reported(catalog)
    assert f"Model nobody could not be fitted: {REASONS['nobody']}." in text
    assert f"Model map has no fit: {NOT_YET}." in text


def test_what_the_newest_run_says_of_a_model_counts_until_there_is_a_fit(tmp_path):
    catalog = write(tmp_path)
    api.fit(catalog, options=HERE)
    api.fit(catalog, model="dose", options=HERE)  # says nothing of the others
    assert f"Model map could not be fitted: {REASONS['map']}." in reported(catalog)
    write(tmp_path, factor=1000)
    api.fit(catalog, options=HERE)
    text = reported(catalog)
    assert "Model nobody could not" not in text
    assert "models fitted 2 models without a fit 1" in text
    write(tmp_path, {"dose": MODELS["dose"]})
    text = reported(catalog)
    assert "without a fit" not in text
    assert "Model map" not in text


def test_a_fit_that_went_is_said_to_have_gone(tmp_path):
    catalog = write(tmp_path)
    api.fit(catalog, options=HERE)
    store = Store(tmp_path / "store")
    store.remove_model("dose")  # as a withdrawal does
    found = {model.name: model for model in unfitted(store, MODELS)}
    assert found["dose"] == ("dose", GONE, False)
    assert [name for name, model in found.items() if model.failed] == ["nobody", "map"]
    assert f"Model dose has no fit: {GONE}." in reported(catalog)


@pytest.mark.parametrize(
    "said", ["{url}: models/x is damaged", "no file '{place}/DOE JANE/brain.nii'", "{place}/a/b"]
)
def test_no_reason_says_where_something_lies(tmp_path, said):
    store = Store(tmp_path / "store")
    text = said.format(url=store.url, place=tmp_path)
    store.write_json("runs/r/manifest.json", {"stages": {"fit": {"m": f"failed: {text}"}}})
    (found,) = unfitted(store, ["m"])
    assert found.failed
    for secret in (str(tmp_path), "DOE", "brain.nii"):
        assert secret not in found.reason
