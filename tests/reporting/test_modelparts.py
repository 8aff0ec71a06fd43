"""What a model's page says beside its coefficients: every number is the model's own, and pictures are linked."""

import re

import numpy as np
import pandas as pd
import pytest

from cohort.io.covariates import Model
from cohort.reporting import modelparts, modelplots
from cohort.stats.analysis import analyse

KEYS = {
    "outcomes": ["brain", "grey"],
    "formula": "dx + age + skull",
    "confounds": ["age", "skull"],
    "group": "dx",
    "head": "skull",
    "site": "scanner",
    "family": {"terms": ["dx"]},
}


@pytest.fixture(scope="module")
def analysis():
    rng = np.random.default_rng(np.random.Philox(key=6))
    table = pd.DataFrame({"scan_id": [f"s{i:02d}" for i in range(60)], "dx": np.arange(60) % 2})
    table["subject"] = table["scan_id"]
    table["age"], table["skull"] = rng.uniform(50, 80, 60), rng.normal(1500, 100, 60)
    table["scanner"] = np.array(["a", "b"])[np.arange(60) // 2 % 2]
    table["brain"] = 0.5 * table["skull"] - 50 * table["dx"] + rng.normal(0, 30, 60)
    table["grey"] = 0.6 * table["brain"] + rng.normal(0, 30, 60)
    return analyse(table, Model.model_validate(KEYS), {"brain": "ml", "skull": "ml"})


@pytest.fixture(scope="module")
def model(analysis):
    said = analysis.to_json()
    rows = {**said["rows"], "n_table": 60}
    return {**said, "outcome": "brain", "rows": rows, "one_scan_per": "first", "declared": KEYS}


def test_figures_show_the_first_outcome_and_the_family_all(analysis, model):
    own = modelparts.own(model, analysis.tidy)
    assert set(own["outcome"]) == {"brain"}
    found = modelparts.family(analysis.tidy)
    assert [line["outcome"] for line in found["lines"]] == ["brain", "grey"]
    assert found["n"] == 2
    assert modelparts.family(own)["lines"] == []


def test_numbers_are_those_of_the_analysis(analysis, model):
    tests = analysis.comparison.tests
    shown = modelparts.comparison(model)
    assert [line["test"] for line in shown["lines"]] == ["Student", "Welch"]
    assert [float(line["t"].exact) for line in shown["lines"]] == tests["statistic"].tolist()
    lines = modelparts.adjustments(model)["lines"]
    assert [float(x["r_head"].exact) for x in lines] == analysis.adjustments.table[
        "r_head"
    ].tolist()
    assert {line["covariate"] for line in modelparts.balance(model)} >= {"age", "skull"}


def test_an_influential_row_links_to_its_picture_where_there_is_one(analysis, model):
    first, *rest = model["influence"]
    found = modelparts.influential(model, analysis.augment, {first: "scan-7"})
    assert [line["anchor"] for line in found["lines"]] == ["scan-7", *[None] * len(rest)]
    assert found["n"] == len(analysis.influence)


def test_methods_say_rows_families_heads_and_versions(model):
    text = modelparts.methods(model)
    assert "brain ~ dx + age + skull was fitted to 60 rows of 60 subjects" in text
    assert "age, skull were adjusted for as covariates." in text
    assert "60 rows of 60 subjects (of 60 rows in the table)" in text
    assert "age was adjusted for as a covariate." in modelparts.methods(
        {**model, "confounds": ["age"]}
    )
    assert "corrected together" in text
    assert "Head size (skull)" in text
    assert re.search(r"Software: .*statsmodels \d", text)


def test_a_model_of_an_earlier_version_has_none_of_it():
    assert modelparts.balance({}) == []
    assert modelparts.comparison({}) is None
    assert modelparts.adjustments({}) is None
    assert modelparts.influential({}, pd.DataFrame(), {})["lines"] == []
    assert modelparts.methods({}) == ""


def test_every_table_that_is_drawn_says_what_stands_in_it(analysis):
    for name, (draw, caption) in modelplots.DRAWN.items():
        (axes,) = draw(analysis.tables[name]).axes
        assert caption.endswith(".")
        assert axes.get_xlabel(), name
    (axes,) = modelplots.ladder(analysis.tables["ladder"]).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["alone", "+ age", "+ skull"]
    assert axes.get_xlabel() == "dx on brain [ml]"
    (axes,) = modelplots.forest(analysis.tidy, outcome="brain").axes
    assert any(t.get_text().startswith("dx  (q ") for t in axes.get_yticklabels())
