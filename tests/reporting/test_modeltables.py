"""Tables of a page: every number is that of the store's table, and a link leads to a picture that is there."""

import html
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from cohort import api
from cohort.io.store import Store
from cohort.reporting import modelparts, modeltables, tableparts

MODELS = {
    "all": {
        "outcomes": ["brain", "grey"],
        "formula": "dx + age",
        "confounds": ["age"],
        "group": "dx",
        "site": "scanner",
        "contrasts": {"ten": "10 * age"},
        "equivalence": {"age": {"bound": 5}},
        "permutation": {"seed": 2, "n": 100},
        "harmonize": {"site": "scanner"},
    },
    "repeats": {"outcome": "brain", "formula": "dx + age", "one_scan_per": "all", "group": "dx"},
    "gaps": {"outcome": "brain", "formula": "dx + school", "group": "dx", "impute": {"seed": 1}},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Sixty people, six of them twice, one who learned for 99 years and two cells that are empty."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(np.random.Philox(key=12))
    n = 66
    people = pd.DataFrame({"ID": [f"{i % 60:03d}_{1 + i // 60}" for i in range(n)]})
    people["dx"] = np.arange(n) % 2
    people["scanner"] = np.array(["a", "b", "c"])[np.arange(n) // 2 % 3]
    people["age"] = rng.uniform(50, 80, n)
    people["school"] = np.where(np.arange(n) < 2, np.nan, rng.uniform(8, 20, n))
    people["brain"] = 1000 - 3 * people["age"] - 30 * people["dx"] + rng.normal(0, 30, n)
    people["grey"] = 0.6 * people["brain"] + rng.normal(0, 20, n)
    people.loc[7, "school"] = 99
    people.to_csv(folder / "people.csv", index=False)
    content = {
        "cohort": "tables",
        "sources": [],
        "store": "store",
        "ids": "keep",
        "subject": r"(?P<subject>\d{3})_(?P<session>\d)",
        "participants": {"table": "people.csv", "id": "ID", "units": {"brain": "ml"}},
        "models": MODELS,
        "checks": {"school": {"holds": "school < 30"}},
        "reliability": ["brain"],
    }
    (folder / "cohort.yaml").write_text(yaml.safe_dump(content))
    result = api.update(folder / "cohort.yaml", options=api.Options(workers=0))
    assert not any(isinstance(fit, str) for fit in result.fits.values()), result.fits
    return Store(folder / "store")


@pytest.fixture(scope="module")
def page(cohort):
    return (cohort.root / "report/index.html").read_text(encoding="utf-8")


def exact(part, column):
    """Exact values of a column of numbers, a list a line."""
    place = [c["name"] for c in part["columns"]].index(column)
    return [
        [float(n.exact.removeprefix("p = ")) for n in x[place]["numbers"]] for x in part["lines"]
    ]


@pytest.mark.parametrize(
    ("kind", "column", "of"),
    [
        ("contrasts", "95% interval", ["ci_low", "ci_high"]),
        ("contrasts", "HC3 p", ["hc3_p"]),
        ("equivalence", "Bounds", ["bound_low", "bound_high"]),
        ("equivalence", "p", ["p"]),
        ("permutation", "corrected p", ["p_fwe"]),
        ("per_site", "SE", ["se"]),
        ("harmonize", "Shift", ["shift"]),
    ],
)
def test_numbers_are_those_of_the_stored_table(cohort, kind, column, of):
    table = cohort.model_table("all", kind)
    part = modeltables.TABLES[kind](table)
    assert exact(part, column) == table[of].to_numpy().tolist()


def test_complete_rows_and_drawn_covariates_stand_side_by_side(cohort):
    table = cohort.model_table("gaps", "imputed")
    part = modeltables.TABLES["imputed"](table)
    assert [line[1]["text"] for line in part["lines"]] == ["complete case", "imputed"] * 3
    assert exact(part, "n") == table[["n"]].to_numpy().tolist()
    for column, of in (("Estimate", ["estimate"]), ("p", ["p"])):
        assert exact(part, column) == table[of].to_numpy().tolist()


def test_everything_that_a_model_declares_stands_on_the_page(page):
    said = html.unescape(page)
    for title in (
        "Effect sizes",
        "Contrasts",
        "Too small to matter?",
        "Tests by exchanging rows",
        "Each site by itself",
        "What was taken out of each site",
        "With the missing covariates drawn",
        "Errors that allow for rows that go together",
        "Missing cells",
        "What goes with group and outcome",
        "Checks of the table",
        "Rows that stray",
        "How well measurements repeat",
        "Studentised residuals",
        "The design matrix",
        "harmonised over the sites of scanner by ComBat",
        "100 arrangements of rows (Freedman-Lane, seed 2)",
        "doi:10.1093/biostatistics/kxj037",
    ):
        assert title in said, title


def test_reliability_and_strays_are_the_stored_ones(cohort):
    checks, strays, repeated = modeltables.of_cohort(cohort, {"007_1": "scan-3"})
    assert exact(checks, "Stray") == [[1.0]]
    (cell,) = [c for c in strays["lines"][0] if c.get("text") == "007_1"]
    assert cell["anchor"] == "scan-3"
    table = cohort.table("participants.reliability")
    assert exact(repeated, "ICC(2,1)") == table[["icc21"]].to_numpy().tolist()


def test_each_site_shows_the_group_alone_and_the_picture_ends_with_all_sites(cohort):
    model = cohort.model("all")
    tidy = modelparts.own(model, cohort.model_table("all", "tidy"))
    terms = modelparts.group_terms(model)
    assert terms == ["dx"]
    listed, drawn = modelparts.sites(cohort.model_table("all", "per_site"), tidy, terms)
    assert listed["site"].tolist() == ["a", "b", "c"]
    assert set(listed["term"]) == {"dx"}
    whole = tidy.set_index("term").loc["dx"]
    assert drawn["site"].tolist() == ["a", "b", "c", "all together"]
    assert drawn["estimate"].iloc[-1] == whole["estimate"]


def test_effects_of_clusters_and_missing_cells_come_from_the_model(cohort):
    tidy = cohort.model_table("repeats", "tidy")
    found = modelparts.derived(cohort.model("repeats"), tidy)
    part = modeltables.clustered(found["clustered"])
    assert exact(part, "SE") == tidy[["cluster_se"]].to_numpy().tolist()
    gaps = modelparts.derived(cohort.model("gaps"), cohort.model_table("gaps", "tidy"))["missing"]
    assert set(gaps["column"]) == {"school"}
    assert gaps.set_index("level").loc["", "missing"] == 2


def test_a_long_table_is_cut_and_says_so():
    table = pd.DataFrame(
        {"site": "a", "n": 1, "column": "x", "shift": 1.0, "sd_ratio": 1.0}, range(99)
    )
    part = modeltables.harmonized(table)
    assert (len(part["lines"]), part["more"]) == (tableparts.MAX_LINES, 99 - tableparts.MAX_LINES)


def test_every_link_of_the_page_leads_somewhere(page):
    targets = set(re.findall(r'id="([^"]+)"', page))
    links = re.findall(r'href="#([^"]+)"', page)
    assert links
    assert set(links) <= targets
