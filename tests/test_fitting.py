"""`cohort ingest` and `cohort fit` on the OASIS tables: the published numbers, read from what was written."""

import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import cohort
from cohort import cli
from cohort.io.store import Store

CATALOGS = Path(__file__).resolve().parents[1] / "catalogs/cohorts"

REGIONS = ["brain_vol", "gray_matter_vol", "white_matter_vol", "csf_vol"]
TERM = {"b": "estimate", "se": "se", "t": "statistic", "p": "p", "lo": "ci_low", "hi": "ci_high"}
HC3 = {"se": "hc3_se", "t": "hc3_statistic", "p": "hc3_p"}
WHOLE = {"rsq": "r2", "sigma": "sigma", "df": "df_resid", "F": "f", "aic": "aic"}
STRATEGIES = {"ratio": "ratio", "resid_all": "residual_all", "resid_ctl": "residual_controls", "pcp": "power"}  # fmt: skip
ADJUSTED = {"formula": "dx + age + male + skull_vol", "group": "dx"}
NWBV = {"outcome": "nWBV", "formula": "dx + Age + eTIV + male", "group": "dx"}


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def fitted(catalog, store, *sources):
    given = [word for source in sources for word in ("--source", source)]
    ingested = call("ingest", catalog, "--store", store, "--workers", 0, *given)
    assert ingested.exit_code == 0, ingested.output
    said = call("fit", catalog, "--store", store)
    assert said.exit_code == 0, said.output
    return said


def check(found, key, reference):
    expected = float(reference[key])
    rel = 1e-9 if key.rpartition(".")[2] in ("p", "fdr_bh", "fdr_by", "holm", "bonferroni", "hc3_p") else 1e-10  # fmt: skip
    assert found == pytest.approx(expected, rel=rel), key


def check_model(store, model, key, reference):
    """Everything that the reference says of a model, against tidy and glance; how many numbers that were."""
    tidy = store.model_table(model, "tidy").set_index("term")
    whole = store.model_table(model, "glance").iloc[0]
    n = 0
    for term, row in tidy.iterrows():
        for kind, columns in (("ols", TERM), ("hc3", HC3)):
            for name, column in columns.items():
                if (place := f"{key}.{kind}.{term}.{name}") in reference:
                    check(row[column], place, reference)
                    n += 1
    for name, column in WHOLE.items():
        if (place := f"{key}.{name}") in reference:
            check(whole[column], place, reference)
            n += 1
    for name in ("partial_r", "partial_eta2", "d_adj"):
        if (place := f"{key}.{name}.dx") in reference:
            check(tidy.loc["dx", name], place, reference)
            n += 1
    return n


@pytest.fixture(scope="module")
def reference(shared):
    return pd.read_csv(shared / "oasis/reference_stats.csv").set_index("key")["statsmodels"]


@pytest.fixture(scope="module")
def volumes(shared, tmp_path_factory):
    """The catalog of the 425 volumes, and what the terminal said."""
    root = tmp_path_factory.mktemp("volumes")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(root / name.lower()))
        # A cohort that is only a table has nothing to ingest first.
        said = call("fit", CATALOGS / "oasis-table.yaml", "--store", root / "store")
    assert said.exit_code == 0, said.output
    return Store(root / "store"), said


def test_the_plain_comparisons_are_those_that_were_published(volumes, reference):
    store, _ = volumes
    for model, key in (("brain-by-dx", "V.seed.brain"), ("ratio-by-dx", "V.seed.ratio")):
        found = store.model(model)["comparison"]
        assert [group["n"] for group in found["groups"]] == [332, 93]
        for test in found["tests"]:
            for name in ("t", "p", "df"):
                column = {"t": "statistic"}.get(name, name)
                check(test[column], f"{key}.{test['test']}.{name}", reference)
        check(found["cohen_d"][0], f"{key}.cohen_d", reference)
        dx = store.model_table(model, "tidy").set_index("term").loc["dx"]
        check(dx["statistic"], f"{key}.student.t", reference)
        check(dx["ci_low"], f"{key}.student.ci_low", reference)
    screen = pd.DataFrame(store.model("brain-by-dx")["screen"]["correlations"])
    r = screen.set_index("covariate")
    assert r.loc["age", "r_group"] == pytest.approx(0.542463111786, rel=1e-10)
    assert r.loc["age", "r_outcome"] == pytest.approx(-0.719210581515, rel=1e-10)
    assert r.loc["skull_vol", "r_outcome"] == pytest.approx(0.654829346585, rel=1e-10)
    assert r.loc["skull_vol", "r_group"] == pytest.approx(0.014222458010, rel=1e-9)
    assert r.loc["dx", "r_outcome"] == pytest.approx(-0.446770932343, rel=1e-10)


def test_a_plain_comparison_of_the_sexes_is_a_model_of_one_term(tmp_path, shared, reference):
    models = {
        "brain": {"outcome": "brain_vol", "formula": "sex", "group": "sex", "one_scan_per": "all"},
        "ratio": {"outcome": "ratio", "formula": "sex", "group": "sex", "one_scan_per": "all",
                  "equivalence": {"sex[T.M]": {"bound": 0.02}}},
    }  # fmt: skip
    catalog = _catalog(tmp_path, "sexes", shared / "oasis/oasis_all_volumes.csv", models,
                       {"ratio": "brain_vol / skull_vol"})  # fmt: skip
    fitted(catalog, tmp_path / "sexes")
    store = Store(tmp_path / "sexes")
    for model in models:
        found = store.model(model)["comparison"]
        assert [group["n"] for group in found["groups"]] == [262, 163]
        for test in found["tests"]:
            for name in ("t", "p", "df", "ci_low", "ci_high"):
                key = f"V.sex.{model}.{test['test']}.{name}"
                if key in reference:
                    check(test[{"t": "statistic"}.get(name, name)], key, reference)
        check(found["cohen_d"][0], f"V.sex.{model}.cohen_d", reference)
    assert bool(store.model_table("ratio", "equivalence").iloc[0]["equivalent"])


def test_the_adjusted_models_are_the_reference_to_ten_digits(volumes, reference):
    store, _ = volumes
    assert check_model(store, "brain-adjusted", "U.ancova", reference) > 30
    assert check_model(store, "elderly-crude", "E.crude", reference) > 10
    assert check_model(store, "elderly-adjusted", "E.ancova", reference) > 30
    dx = store.model_table("elderly-adjusted", "tidy").set_index("term").loc["dx"]
    interval = (-1.183993070, -0.573910639)
    assert (dx["d_adj_low"], dx["d_adj_high"]) == pytest.approx(interval, abs=1e-9)
    means = store.model_table("elderly-adjusted", "means")
    assert means["estimate"].tolist() == pytest.approx([910.954455359953, 862.184046080013])
    assert means["se"].tolist() == pytest.approx([5.718271976580, 5.811797511821])
    slopes = store.model_table("elderly-adjusted", "slopes").iloc[0]
    assert (slopes["f"], slopes["p"]) == pytest.approx((1.1160, 0.344), abs=5e-4)
    whole = store.model_table("brain-adjusted", "glance").iloc[0]
    assert whole["bp_lm"] == pytest.approx(2.775645058259, rel=1e-10)
    assert whole["max_leverage"] == pytest.approx(0.044855939712, rel=1e-10)
    said = store.model("brain-adjusted")
    assert said["vif"]["dx"] == pytest.approx(1.424188281543, rel=1e-10)
    assert (len(said["influence"]), said["influence"][0]) == (28, "OAS1_0065_MR1")
    rows = store.model_table("brain-adjusted", "augment")
    assert len(rows) == rows["scan_id"].nunique() == 406


def test_head_size_in_six_ways_is_the_reference(volumes, reference):
    store, _ = volumes
    table = store.model_table("elderly-adjusted", "adjustments").set_index("strategy")
    for key, strategy in STRATEGIES.items():
        for kind, columns in (("ols", TERM), ("hc3", HC3)):
            for name, column in columns.items():
                check(table.loc[strategy, column], f"E.{key}.{kind}.dx.{name}", reference)
    assert table.loc["ratio", "r_head"] == pytest.approx(-0.447731851833, rel=1e-10)
    assert table.loc["power", "coefficient"] == pytest.approx(0.615491784598, rel=1e-10)


def test_the_family_of_four_volumes_is_the_reference(volumes, reference):
    store, _ = volumes
    tidy = store.model_table("elderly-volumes", "tidy").query("term == 'dx'").set_index("outcome")
    names = {"t": "statistic", "p": "p", "hc3_p": "hc3_p", "fdr_bh": "q_bh", "fdr_by": "q_by",
             "holm": "p_holm", "bonferroni": "p_bonferroni"}  # fmt: skip
    assert set(tidy["family_n"]) == {4}
    for region in REGIONS:
        for name, column in names.items():
            check(tidy.loc[region, column], f"E.region.{region}.{name}", reference)


def test_the_product_warns_unasked(volumes):
    store, said = volumes
    for text in (
        "brain-by-dx: 19 of 406 subjects are scanned twice and all 425 rows are used",
        "brain-by-dx: age, which is not in the model, barely overlaps between the groups",
        "ratio-by-dx: ratio is brain_vol / skull_vol and still correlates with skull_vol (r = -0.157)",
    ):
        assert f"warning {text}" in said.stderr
    assert "welch" in said.stdout
    for model in store.models():
        found = store.model(model)
        assert found["warnings"][: len(found["screen"]["warnings"])] == found["screen"]["warnings"]


def test_comparing_adjustments_shows_six_rows_and_their_sentences(volumes, tmp_path):
    store, _ = volumes
    catalog = CATALOGS / "oasis-table.yaml"
    said = call("fit", catalog, "elderly-adjusted", "--compare", "adjustments", "--store", store.root)  # fmt: skip
    assert said.exit_code == 0, said.output
    found = store.model("elderly-adjusted")["adjustments"]
    assert all(sentence in said.stdout for sentence in found["sentences"])
    assert all(row["strategy"] in said.stdout for row in found["table"])
    other = call("fit", catalog, "elderly-crude", "--compare", "adjustments", "--store", store.root)
    assert other.exit_code == 2
    assert "needs a model that states its head" in other.stderr


def test_scans_of_the_same_people_tell_how_well_a_volume_repeats(volumes):
    store, _ = volumes
    found = store.table("participants.reliability").set_index("measurement")
    assert set(found.index) == {*REGIONS, "skull_vol"}
    assert set(found["n"]) == {19}
    assert (found["icc21"] > 0.5).all()


def test_every_other_reference_model_from_a_catalog_of_its_own(tmp_path, shared, reference):
    models = {
        "V.ancova": {"outcome": "brain_vol", **ADJUSTED, "one_scan_per": "all"},
        "U.age2": {"outcome": "brain_vol", **ADJUSTED},
    }
    models["U.age2"]["formula"] += " + I(age**2)"
    volumes = _catalog(tmp_path, "volumes", shared / "oasis/oasis_all_volumes.csv", models,
                       {"dx": "alzheimers == True", "male": "sex == M"})  # fmt: skip
    fitted(volumes, tmp_path / "volumes")
    store = Store(tmp_path / "volumes")
    for key in models:
        assert check_model(store, key, key, reference) > 8
    dx = store.model_table("V.ancova", "tidy").set_index("term").loc["dx"]
    check(dx["cluster_se"], "V.ancova.cr1.dx.se", reference)
    check(dx["cluster_statistic"], "V.ancova.cr1.dx.t", reference)


def test_the_check_on_the_table_of_oasis_1_names_the_row_that_strays(tmp_path, shared, reference):
    told = {**NWBV, "where": "CDR >= 0"}
    models = {
        "C.ancova": NWBV,
        "CE.ancova": told,
        "CE.ses": {**told, "formula": told["formula"] + " + Educ + SES"},
    }
    catalog = _catalog(tmp_path, "heads", shared / "oasis/oasis1_cross_sectional.csv", models,
                       {"dx": "CDR > 0, missing false", "male": "sex == M"}, rename={"sex": "M/F"})  # fmt: skip
    content = yaml.safe_load(catalog.read_text())
    shipped = yaml.safe_load((CATALOGS / "oasis1.yaml").read_text())
    content |= {key: shipped[key] for key in ("checks", "reliability")}
    catalog.write_text(yaml.safe_dump(content))
    said = fitted(catalog, tmp_path / "heads")
    (line,) = [text for text in said.stderr.splitlines() if "scaling" in text]
    assert "OAS1_0061" in line
    store = Store(tmp_path / "heads")
    assert store.table("participants.strays")["participant"].tolist() == ["OAS1_0061_MR1"]
    for key in models:
        assert check_model(store, key, key, reference) > 8
    again = store.table("participants.reliability").iloc[0]
    assert (again["n"], again["icc21"]) == (20, pytest.approx(0.975031133679, rel=1e-10))
    assert again["sd_difference"] == pytest.approx(0.005256324511, rel=1e-9)
    manifest = json.loads(
        (tmp_path / "heads/runs" / store.runs()[-1] / "manifest.json").read_text()
    )
    assert any("OAS1_0061" in text for text in manifest["checks"])


def test_the_shipped_catalog_of_oasis_1_names_it_too(tmp_path, shared):
    scan = shared / "oasis1-mni2mm/uint8/OAS1_0001_MR1.nii.gz"
    ingested = call("ingest", CATALOGS / "oasis1.yaml", "--store", tmp_path, "--source", scan,
                    "--workers", 0)  # fmt: skip
    assert ingested.exit_code == 0, ingested.output
    said = call("fit", CATALOGS / "oasis1.yaml", "--store", tmp_path)
    assert said.exit_code == 1  # one scan is no model
    assert any("scaling" in line and "OAS1_0061" in line for line in said.stderr.splitlines())


def _catalog(folder, name, table, models, derive, rename=None):
    path = folder / f"{name}.yaml"
    content = {
        "cohort": name,
        "sources": [],
        "store": name,
        "ids": "keep",
        "subject": r"OAS1_(?P<subject>\d{4})_MR(?P<session>\d)",
        "participants": {
            "table": str(table), "id": "ID", "rename": rename or {}, "derive": derive
        },
        "models": {key: dict(model) for key, model in models.items()},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_page_shows_the_family_head_size_and_methods(volumes, tmp_path):
    store, _ = volumes
    said = call("report", CATALOGS / "oasis-table.yaml", "--store", store.root)
    assert said.exit_code == 0, said.output
    page = unescape(Path(said.stdout.strip().splitlines()[-1]).read_text(encoding="utf-8"))
    for text in (
        "Head size in six ways",
        "4 tests corrected together",
        "From crude to adjusted",
        "Methods, as a paper would say it",
        "OAS1_0065_MR1",
        *store.model("elderly-adjusted")["adjustments"]["sentences"][1:2],
    ):
        assert text in page, text


def test_a_cohort_that_is_only_a_table_is_fitted_as_the_table_is_now(tmp_path):
    table = tmp_path / "people.csv"
    rows = pd.DataFrame({"ID": [f"p{n}" for n in range(9)], "dose": range(9)})
    catalog = tmp_path / "catalog.yaml"
    model = {"outcome": "score", "formula": "dose"}
    said = {"table": "people.csv", "id": "ID"}
    content = {"cohort": "c", "sources": [], "store": "store", "ids": "keep"}
    content |= {"participants": said, "models": {"dose": model}}
    catalog.write_text(yaml.safe_dump(content), encoding="utf-8")
    for slope in (2.0, 3.0):
        rows.assign(score=slope * rows["dose"] + [0.5, -0.5, 0] * 3).to_csv(table, index=False)
        assert (done := call("fit", catalog, "dose")).exit_code == 0, done.output
        tidy = Store(tmp_path / "store").model_table("dose", "tidy").set_index("term")
        assert tidy.loc["dose", "estimate"] == pytest.approx(slope, abs=0.1)
        assert "fit c: a table without scans, in" in done.output
        assert not re.search(r"to do|fresh|have no scan", done.output), "there are no scans to miss"


@pytest.mark.parametrize("key", ["derive", "rename"])
def test_a_column_that_waits_for_an_ingest_says_so(tmp_path, key):
    people = pd.DataFrame({"ID": [f"P{i:02d}" for i in range(20)]})
    people = people.assign(age=range(50, 70), y=[(i * 7) % 11 for i in range(20)])
    people.to_csv(tmp_path / "people.csv", index=False)
    content = {
        "cohort": "small",
        "sources": [],
        "ids": "keep",
        "store": "store",
        "participants": {"table": "people.csv", "id": "ID"},
        "models": {"m": {"outcome": "y", "formula": "age"}},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    fitted(path, tmp_path / "store")
    content["participants"][key] = {"double": "age * 2" if key == "derive" else "age"}
    content["models"]["m"]["formula"] = "double"
    path.write_text(yaml.safe_dump(content))
    how = {"derive": "derives it", "rename": "renames one to it"}[key]
    said = f"no column 'double' in the store's table of participants yet, though the catalog {how}; run `cohort ingest` first"
    with pytest.raises(ValueError, match=f"^{said}$"):
        cohort.open(path).fit("m")
    fitted(path, tmp_path / "store")
    assert "double" in cohort.open(path).fit("m").tidy["term"].tolist()
    # What is in no table and made by nobody is named with the columns there are.
    content["models"]["m"]["formula"] = "treble"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"no column 'treble'.*columns: .*'double'"):
        cohort.open(path).fit("m")


def test_a_dropped_column_is_nowhere_in_the_store_and_models_are_told(tmp_path):
    people = pd.DataFrame({"ID": [f"P{i:02d}" for i in range(20)]})
    people = people.assign(
        born=[f"1950-03-{i + 1:02d}" for i in range(20)], y=[(i * 7) % 11 for i in range(20)]
    )
    people = people.assign(dose=range(20))
    people.to_csv(tmp_path / "people.csv", index=False)
    spec = {"table": "people.csv", "id": "ID"}
    content = {"cohort": "small", "sources": [], "ids": "keep", "store": "store"}
    content |= {"participants": spec, "models": {"m": {"outcome": "y", "formula": "dose"}}}
    path = tmp_path / "small.yaml"

    def update(place: dict, formula: str):
        content["participants"], content["models"]["m"]["formula"] = place, formula
        path.write_text(yaml.safe_dump(content))
        return call("update", path)

    def holding() -> list[Path]:
        tables = [
            p for p in (tmp_path / "store").rglob("*.parquet") if "born" in pd.read_parquet(p)
        ]
        files = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
        return tables + [p for p in files if b"1950-03" in p.read_bytes()]

    assert update(spec, "dose").exit_code == 0
    assert holding()
    assert call("audit", path).exit_code == 1
    assert update({**spec, "drop": ["born"]}, "dose").exit_code == 0
    assert holding() == []
    said = call("audit", path)
    assert said.exit_code == 0, said.output
    said = update({**spec, "drop": ["born"]}, "dose + born")
    assert said.exit_code == 2
    assert "no column 'born'" in said.stderr
    assert said.stderr.strip().endswith("; participants.drop lists 'born'")
    content |= {"checks": {"c": {"constant": "born"}}, "reliability": ["born"]}
    said = update({**spec, "drop": ["born"]}, "dose")
    told = said.stderr.strip().splitlines()
    assert len(told) == 2
    assert all(line.endswith("; participants.drop lists 'born'") for line in told)
