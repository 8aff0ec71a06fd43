"""Models of a catalog as they lie in the store: what is written, what is fresh, what goes when nobody asks for it."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from cohort import api, provenance
from cohort.fitted import KINDS
from cohort.io.covariates import Model
from cohort.io.store import Store
from cohort.io.verify import verify
from cohort.io.yamlfile import parse_yaml
from cohort.stats.models import REVISION

ROWS = 60


def write(folder, model=None, **keys):
    """A cohort that is only a table; the last six people are in it twice."""
    rng = np.random.default_rng(np.random.Philox(key=2))
    n = ROWS
    names = [f"{min(i, i - 6 if i >= n - 6 else i):03d}_{1 + (i >= n - 6)}" for i in range(n)]
    table = pd.DataFrame({"ID": names, "dx": np.arange(n) % 2, "age": rng.uniform(60, 80, n)})
    table["site"] = np.array(["north", "south"])[np.arange(n) // 2 % 2]
    table["head"] = rng.normal(1500, 100, n)
    table["brain"] = 0.6 * table["head"] - 30 * table["dx"] + rng.normal(0, 30, n)
    table.to_csv(folder / "people.csv", index=False)
    content = {
        "cohort": "few",
        "sources": [],
        "store": "store",
        "ids": "keep",
        "subject": r"(?P<subject>\d{3})_(?P<session>\d)",
        "participants": {"table": "people.csv", "id": "ID", "units": {"brain": "ml", "head": "ml"}},
        "models": {
            "m": {
                "outcome": "brain",
                "formula": "dx + age + head",
                "confounds": ["age", "head"],
                "group": "dx",
                **(model or {}),
            }
        },
        **keys,
    }
    path = folder / "cohort.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def update(path):
    result = api.update(path, options=api.Options(workers=0))
    assert not result.newly_bad, result.fits
    return result, Store(path.parent / "store")


def test_a_model_is_written_whole(tmp_path):
    keys = {"head": "head", "site": "site", "contrasts": {"ten": "10 * age"},
            "equivalence": {"age": {"bound": 3}}}  # fmt: skip
    result, store = update(write(tmp_path, keys))
    (analysis,) = result.fits.values()
    written = {p.stem for p in (tmp_path / "store/models/m").glob("*.parquet")}
    beside = {"contrasts", "means", "slopes", "ladder", "equivalence", "per_site", "adjustments"}
    assert written == {"tidy", "glance", "augment", "design", *beside}
    for name in beside:
        pd.testing.assert_frame_equal(store.model_table("m", name), analysis.tables[name])
    tidy = store.model_table("m", "tidy")
    assert {"q_bh", "q_by", "p_holm", "p_bonferroni", "family_n", "detectable"} <= {*tidy.columns}
    design = store.model_table("m", "design").set_index("scan_id")
    augment = store.model_table("m", "augment").set_index("scan_id")
    assert design.index.tolist() == augment.index.tolist()
    estimate = tidy.set_index("term")["estimate"]
    fitted = (design[estimate.index] * estimate).sum(axis=1)
    np.testing.assert_allclose(fitted, augment["fitted"], rtol=1e-10)
    assert list(verify(store)) == []


def test_model_json_has_the_screen_all_warnings_and_the_versions(tmp_path):
    result, store = update(write(tmp_path, {"one_scan_per": "all", "head": "head"}))
    said = store.model("m")
    (analysis,) = result.fits.values()
    assert said["screen"] == json.loads(json.dumps(analysis.screen.to_json()))
    assert said["warnings"][: len(said["screen"]["warnings"])] == said["screen"]["warnings"]
    assert any("6 of 54 subjects are scanned twice" in text for text in said["warnings"])
    assert {"cohort", "python", "numpy", "scipy", "statsmodels"} <= said["versions"].keys()
    assert said["declared"]["head"] == "head"
    assert said["revision"] == REVISION
    assert said["influence"] == analysis.influence["scan_id"].tolist()
    tidy = store.model_table("m", "tidy")
    assert tidy["cluster_se"].notna().all()
    listed = said["files"]["tidy.parquet"][0]
    content = (tmp_path / "store/models/m/tidy.parquet").read_bytes()
    assert listed == hashlib.sha256(content).hexdigest()


def test_the_declared_model_is_a_file_that_a_catalog_takes_and_its_digest_is_logged_before_the_fit(
    tmp_path,
):
    keys = {"contrasts": {"ten": "10 * age"}, "family": {"terms": ["dx", "ten"]},
            "permutation": {"seed": 5, "n": 100, "terms": ["dx"]}}  # fmt: skip
    result, store = update(write(tmp_path, keys))
    text = (tmp_path / "store/models/m/model.yaml").read_text()
    read = parse_yaml(text, name="model.yaml")["models"]["m"]
    assert Model.model_validate(read) == result.catalog.models["m"]
    said = store.model("m")
    assert said["declared_digest"] == provenance.digest(text)
    assert said["seeds"] == {"permutation": 5}
    assert said["generator"].startswith("Philox")
    assert said["correction"][0] == "Benjamini-Hochberg"
    events = [json.loads(line) for line in store.events(store.runs()[-1])]
    of_model = [e for e in events if e.get("model") == "m"]
    assert [e["event"] for e in of_model] == ["declared", "fitted"]
    assert of_model[0]["digest"] == said["declared_digest"]


def test_what_a_fit_cost_and_which_code_ran_stand_in_the_manifest_alone(tmp_path):
    result, store = update(write(tmp_path))
    manifest = result.manifest
    assert manifest["models"]["m"]["seconds"] > 0
    assert manifest["models"]["m"]["peak_rss_bytes"] > 1e7
    assert "code" in manifest
    said = store.model("m")
    assert re.fullmatch(r"\S+( \d+(\.\d+){0,2})?", said["versions"]["BLAS"])
    assert {"table", "units"} == said["inputs"].keys()
    assert not {"seconds", "peak_rss_bytes", "code"} & said.keys()
    again, _ = update(tmp_path / "cohort.yaml")
    assert again.manifest["models"] == {}


def test_rows_that_arrive_later_are_harmonised_by_what_was_kept(tmp_path):
    keys = {"harmonize": {"site": "site", "columns": ["brain", "head"]}}
    path = write(tmp_path, keys)
    people = pd.read_csv(tmp_path / "people.csv")
    people.iloc[:44].to_csv(tmp_path / "people.csv", index=False)
    _, store = update(path)
    before = store.model_table("m", "augment").set_index("scan_id")["observed"]
    kept = store.model("m")["harmonization"]
    people.iloc[:54].to_csv(tmp_path / "people.csv", index=False)
    _, store = update(path)
    after, said = store.model_table("m", "augment").set_index("scan_id"), store.model("m")
    assert len(after) == 54
    pd.testing.assert_series_equal(after.loc[before.index, "observed"], before)
    assert said["harmonization"]["combat"] == kept["combat"]
    assert said["harmonization"]["newcomers"] == people["ID"].iloc[44:54].tolist()
    pd.testing.assert_frame_equal(
        api.open(path).fit("m").augment, store.model_table("m", "augment")
    )
    shown = api.fit(path, "m", options=api.Options(workers=0)).fits["m"]
    pd.testing.assert_frame_equal(shown.augment, store.model_table("m", "augment"))
    update(write(tmp_path, {"harmonize": {**keys["harmonize"], "refit": True}}))
    assert store.model("m")["harmonization"]["combat"] != kept["combat"]
    assert list(verify(store)) == []


def test_what_is_no_longer_asked_for_goes_and_an_equal_model_is_fresh(tmp_path):
    _, store = update(write(tmp_path, {"site": "site"}))
    again, _ = update(tmp_path / "cohort.yaml")
    assert again.fits == {"m": None}
    update(write(tmp_path))
    assert not (tmp_path / "store/models/m/per_site.parquet").exists()
    assert list(verify(store)) == []


def test_a_model_that_is_asked_for_by_name_is_shown_though_it_is_fresh(tmp_path):
    update(write(tmp_path))
    before = (tmp_path / "store/models/m/model.json").read_bytes()
    result = api.fit(tmp_path / "cohort.yaml", "m", options=api.Options(workers=0))
    assert result.fits["m"].tidy["term"].tolist() == ["Intercept", "dx", "age", "head"]
    assert result.manifest["stages"]["fit"] == {"m": "fresh"}
    assert (tmp_path / "store/models/m/model.json").read_bytes() == before


def test_the_same_table_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        update(write(tmp_path / name, {"head": "head", "site": "site"}))
        files = sorted((tmp_path / name / "store/models/m").iterdir())
        written.append([(p.name, p.read_bytes()) for p in files])
    assert written[0] == written[1]


def test_a_changed_coefficient_of_another_outcome_is_told_apart(tmp_path):
    path = write(tmp_path, {"outcomes": ["brain", "age"], "formula": "dx", "confounds": []})
    update(path)
    _, store = update(write(tmp_path, {"outcomes": ["brain", "head"], "formula": "dx", "confounds": []}))  # fmt: skip
    baseline = store.read_json("baseline/models.json")
    assert baseline["term"] == ["Intercept", "dx", "head: Intercept", "head: dx"]


def test_checks_and_reliability_are_written_once_a_cohort_and_go_with_their_keys(tmp_path):
    keys = {
        "checks": {"size": {"holds": "brain < head"}, "grown": {"holds": "age >= 70"}},
        "reliability": ["brain"],
    }
    path = write(tmp_path, **keys)
    result, store = update(path)
    people = pd.read_csv(tmp_path / "people.csv")
    strays = store.table("participants.strays")
    assert set(strays["participant"]) == set(people.loc[people["age"] < 70, "ID"])
    (warning,) = result.manifest["checks"]
    assert "grown" in warning
    assert set(store.table("participants.checks")["check"]) == {"size", "grown"}
    assert store.table("participants.reliability")["n"].tolist() == [6]
    assert api.open(path).recipes == []
    assert list(verify(store)) == []
    update(write(tmp_path))
    assert [n for n in store.tables() if n.startswith("participants.")] == []
    assert list(verify(store)) == []


def test_what_cannot_be_examined_is_a_line_and_stops_no_model(tmp_path):
    path = write(tmp_path, reliability=["site"])
    result, _ = update(path)
    (line,) = result.manifest["checks"]
    assert line.startswith("checks and reliability: ")
    assert result.fits["m"] is not None


def test_a_notebook_holds_the_fit_with_its_figures(tmp_path):
    path = write(tmp_path, {"head": "head"})
    update(path)
    fitted = api.open(path).fit("m")
    for name in ("tidy", "glance", "augment", "influence"):
        assert isinstance(getattr(fitted, name), pd.DataFrame)
    assert fitted.rows["n_used"] == 54
    assert fitted.screen.group == "dx"
    assert fitted.adjustments.head == "head"
    for kind in KINDS:
        assert fitted.figure(kind).axes, kind
    with pytest.raises(ValueError, match="no figure 'forrest'; did you mean 'forest'"):
        fitted.figure("forrest")
    with pytest.raises(ValueError, match="no column 'aeg'; did you mean 'age'"):
        fitted.figure("added_variable", term="aeg")


def test_a_figure_that_a_model_has_not_says_why(tmp_path):
    path = write(tmp_path)
    update(path)
    with pytest.raises(ValueError, match="figure 'adjustments': the model has no such table"):
        api.open(path).fit("m").figure("adjustments")


def test_comparing_adjustments_needs_a_head(tmp_path):
    path = write(tmp_path)
    update(path)
    with pytest.raises(
        ValueError, match="--compare adjustments needs a model that states its head"
    ):
        api.fit(path, options=api.Options(workers=0, compare="adjustments"))
