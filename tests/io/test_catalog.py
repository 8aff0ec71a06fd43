"""Catalogs: what they mean, and that every mistake is named with its place."""

import itertools
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cohort.io import covariates
from cohort.io.catalog import Catalog, CatalogError, find_recipe, read_catalog, recipe_name, stem
from cohort.io.participants import read_participants
from cohort.io.policy import DEFAULT, Policy, SeriesPolicy

SMALL = {"cohort": "small", "sources": ["scans"], "store": "store"}
TABLE = {"table": "people.csv", "id": "ID"}


def model(**changes):
    return {"models": {"m": {"outcome": "x", "formula": "y", **changes}}}


def write(folder, **changes):
    path = folder / "cohort.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def problems(folder, **changes):
    path = write(folder, **changes)
    with pytest.raises(CatalogError) as caught:
        read_catalog(path)
    lines = caught.value.problems
    assert str(caught.value).split("\n") == list(lines)
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_three_keys_are_enough_and_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "scans").mkdir()
    monkeypatch.chdir(tmp_path.parent)
    catalog = read_catalog(Path(tmp_path.name) / "cohort.yaml")
    assert catalog.source_paths() == [tmp_path / "scans"]
    assert catalog.store_root() == tmp_path / "store"
    assert (catalog.folder, catalog.ids, catalog.models, catalog.recipes) == (
        tmp_path,
        "token",
        {},
        [],
    )


def test_overrides_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path)
    here = tmp_path / "here"
    (here / "other").mkdir(parents=True)
    monkeypatch.chdir(here)
    catalog = read_catalog(tmp_path / "cohort.yaml", sources=["other"], store="out")
    assert catalog.source_paths() == [here / "other"]
    assert catalog.store_root() == here / "out"


def test_a_tilde_is_the_home_of_whoever_calls(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "scans").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    catalog = read_catalog(write(tmp_path, sources=["~/scans"], store="~/store"))
    assert catalog.source_paths() == [home / "scans"]
    assert catalog.store_root() == home / "store"
    table = covariates.ParticipantsTable(table=["~/people.csv"], id="id")
    (home / "people.csv").write_text("id,age\nA,61\n")
    assert read_participants(table, tmp_path).table["age"].tolist() == [61]
    catalog = read_catalog(write(tmp_path), sources=["~/scans"], store="~root/store")
    assert catalog.source_paths() == [home / "scans"]
    assert catalog.store_root() == Path.cwd() / "~root/store"


def test_every_problem_is_listed_at_once(tmp_path):
    found = problems(
        tmp_path,
        cohort=7,
        stroe="x",
        ids="kep",
        subject="(abc",
        recipes=["no-such-recipe", "mine.yaml"],
        participants={"table": "people.csv", "derive": {"old": "age >"}},
        models={"m": {"outcome": "x", "formula": "y", "one_scan_per": "frist", "wher": "a > 1"}},
    )
    expected = [
        "cohort: expected text, found the number 7; put it in quotes",
        "unknown key 'stroe'; did you mean 'store'?; known are cohort, sources, store",
        "ids: expected one of token, keep; found 'kep'; did you mean 'keep'?",
        "subject: '(abc' is not a regular expression",
        "recipes: expected a recipe, found 'no-such-recipe'",
        "recipes: expected a recipe at 'mine.yaml', found no file",
        "participants.id: expected the column that holds the ids, found no such key",
        "participants.derive.old: 'age >' is not an expression",
        "models.m.one_scan_per: expected one of first, last, mean, error, all; found 'frist'; did you mean 'first'?",
        "models.m: unknown key 'wher'; did you mean 'where'?; known are outcome, formula",
    ]
    assert len(found) == len(expected)
    for start in expected:
        assert sum(line.startswith(start) for line in found) == 1, (start, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": "../up"}, "cohort: expected a name of letters, digits, '.', '_' and '-'"),
        ({"store": "gs://bucket/a"}, "store: expected a local path or a URL s3://bucket/prefix, found gs://"),
        ({"store": "s3://me:word@bucket/a"}, "store: .* found credentials in it"),
        ({"sources": ["https://example.org"]}, "sources.0: expected a local path"),
        ({"sources": 3}, "sources: expected a list, found the number 3"),
        ({"sources": []}, "participants: expected a table, since sources is empty"),
        ({"subject": "sub-(.*)"}, r"subject: expected a pattern with a group \(\?P<subject>"),
        ({"subject": "(?P<subject>a)(?P<visit>b)"}, "subject: group 'visit' has no meaning"),
        ({"attach": {"image": "{stem}.nii"}}, "attach: 'image' is a variable of the scan itself"),
        ({"attach": {"mask": "{stm}.nii"}}, r"attach.mask: '\{stm\}.nii' uses \{stm\}"),
        ({"attach": {"mask": "{stem.__class__}"}}, r"attach.mask: .* uses \{stem.__class__\}"),
        ({"attach": {"mask": "{stem"}}, "attach.mask: '{stem' is not a template"),
        ({"attach": {"mask": "{folder}/{stem}.nii.gz"}}, "attach.mask: .* is the scan itself"),
        ({"attach": {"a mask": "{stem}.nii"}}, "attach.a mask: expected a name of letters, digits and '_'"),
        ({"models": {"a/b": {"outcome": "x", "formula": "y"}}}, "models.a/b: expected a name of letters"),
        ({"models": {"m": {"outcome": "x"}}}, "models.m.formula: expected the right-hand side"),
        ({"models": {"m": {"outcome": "x", "formula": "y", "where": "open('a')"}}}, "models.m.where: .*a call is not allowed"),
        ({"models": {"m": {"outcome": "x", "formula": "y", "recipe": "brain"}}}, r"models.m.recipe: expected one of this catalog's recipes \(none\), found 'brain'"),
        ({"models": {"m": {"outcome": "x", "formula": "y", "truth": {"y": "big"}}}}, "models.m.truth.y: expected a number, found 'big'"),
        (model(outcomes=[]), "models.m.outcomes: expected at least one, found an empty list"),
        (model(outcomes=["a", "a"]), "models.m.outcomes: 'a' is listed twice"),
        (model(ratios={"r": ["a"]}), r"models.m.ratios.r: expected \[numerator, denominator\], found 1 names"),
        (model(contrasts={"a b": "dx"}), "models.m.contrasts.a b: expected a name of letters"),
        (model(contrasts={"a": " "}), "models.m.contrasts.a: expected text, found none"),
        (model(family={"outcomes": ["x"]}), "models.m.family.terms: expected a list of terms or contrasts, found no such key"),
        (model(family={"terms": ["y"], "outcomes": ["z"]}), r"models.m: family.outcomes: 'z' is no outcome of the model \(x\)"),
        (model(equivalence={"y": {"bound": 0}}), "models.m.equivalence.y.bound: expected a number above 0"),
        (model(equivalence={"y": {"bound": [1, 2]}}), "models.m.equivalence.y.bound: .* with 0 between them; found"),
        (model(equivalence={"y": {"bnd": 2}}), "models.m.equivalence.y: unknown key 'bnd'; did you mean 'bound'?"),
        (model(equivalence={"y": {"bound": 2, "scale": "sds"}}), "models.m.equivalence.y.scale: expected one of outcome, sd; found 'sds'; did you mean 'sd'"),
        (model(random={"sloep": "years"}), "models.m.random: unknown key 'sloep'; did you mean 'slope'.; known are subject, slope, method"),
        (model(random={"method": "rml"}), "models.m.random.method: expected one of reml, ml; found 'rml'; did you mean"),
        (model(random={}, head="y"), "models.m: head belongs to least squares; expected it without random"),
        (model(random={}, permutation={"seed": 1}), "models.m: permutation belongs to least squares; expected it without random"),
        (model(permutation={"n": 1000}), "models.m.permutation.seed: expected a whole number from 0, found no such key"),
        (model(permutation={"seed": 1, "n": 99}), "models.m.permutation.n: expected at least 100 arrangements, found 99"),
        (model(permutation={"seed": 1, "block": "x"}), "models.m.permutation: unknown key 'block'; did you mean 'blocks'?"),
        (model(permutation={"seed": 1, "exchange": "whole"}), "models.m.permutation: exchange: whole needs blocks"),
        (model(harmonize={"columns": ["x", "z"]}), "models.m.harmonize.site: expected the column that names the site of each scan"),
        (model(harmonize={"site": "y", "colums": []}), "models.m.harmonize: unknown key 'colums'; did you mean 'columns'?"),
        (model(harmonize={"site": "y"}), "models.m: harmonize: a site is learned from several measurements together, found only 'x'"),
        (model(harmonize={"site": "y", "columns": ["z", "w"]}), "models.m: harmonize.columns: the outcome 'x' is not among them"),
        (model(group="y", outcomes=["x", "z"], harmonize={"site": "y"}), "models.m: harmonize.site: 'y' is what the model compares"),
        (model(outcomes=["x", "z"], harmonize={"site": "y"}, impute={"seed": 1}), "models.m: harmonize takes the covariates as known, impute draws them"),
        (model(random={}, one_scan_per="first"), "models.m: random takes all scans of each subject; found one_scan_per: first"),
        (model(impute={"draws": 20}), "models.m.impute.seed: expected a whole number from 0, found no such key"),
        (model(impute={"seed": -1}), "models.m.impute.seed: expected a whole number from 0, found -1"),
        (model(impute={"seed": 1.5}), "models.m.impute.seed: expected a whole number, found the number 1.5"),
        (model(permutation={"seed": 1, "n": "many"}), "models.m.permutation.n: expected a whole number, found 'many'"),
        (model(voxelwise={"neighbours": 7}), "models.m.voxelwise.neighbours: expected one of 6, 18, 26; found the number 7"),
        (model(voxelwise={"smooth_fwhm_mm": 101}), "models.m.voxelwise.smooth_fwhm_mm: expected a width above 0, up to 100 mm, found"),
        (model(voxelwise={"form": "strem"}), "models.m.voxelwise.form: expected one of cube, streaming; found 'strem'; did you mean 'streaming'"),
        (model(impute={"seed": 1, "draws": 5}), "models.m.impute.draws: expected at least 20 draws, found 5"),
        ({"checks": {"a": {}}}, "checks.a: expected one of constant and holds, each an expression"),
        ({"checks": {"a": {"constant": "x", "holds": "y > 1"}}}, "checks.a: expected one of constant and holds"),
        ({"checks": {"a": {"holds": "x > 1", "sds": 3}}}, "checks.a: sds and tolerance belong to constant"),
        ({"checks": {"a": {"constant": "open('x')"}}}, "checks.a.constant: .*a call is not allowed"),
        ({"checks": {"a": {"constnt": "x"}}}, "checks.a: unknown key 'constnt'; did you mean 'constant'.; known are constant, holds"),
        ({"checks": {"a": {"constant": "x", "sds": 0}}}, "checks.a.sds: expected a number above 0, found 0"),
        ({"reliability": "x"}, "reliability: expected a list, found 'x'"),
        ({"recipes": ["a.yaml", "sub/a.yaml"]}, "recipes: 'a' is listed twice"),
        ({"participants": {**TABLE, "table": []}}, "participants.table: expected at least one, found an empty list"),
        ({"participants": {**TABLE, "derive": {"a": "__import__('os')"}}}, "participants.derive.a: .*a call is not allowed"),
        ({"allow_unmatched": "no"}, "allow_unmatched: expected true or false, found 'no'"),
        ({"accept": ["NII-UNIT"]}, "accept: unknown code 'NII-UNIT'; did you mean 'NII-UNITS'.; those that may be accepted are DCM-"),
        ({"accept": "NII-UNITS"}, "accept: expected a list, found 'NII-UNITS'"),
        ({"min_slices": "2"}, "min_slices: expected a whole number of slices, at least 1, found '2'"),
        ({"resample": "evenly"}, "resample: expected one of uniform; found 'evenly'"),
        ({"prefer": "sfrom"}, "prefer: expected one of sform, qform; found 'sfrom'; did you mean 'sform'"),
        ({"split": "yes"}, "split: expected true or false, found 'yes'"),
        ({"series": {"match": "a"}}, "series: expected a list, found a mapping"),
        ({"series": [{"match": "a"}]}, "series.0: decides nothing for 'a'"),
        ({"series": [{"accept": ["DCM-LUT"]}]}, "series.0.match: expected a regular expression on a series' path, scan id or name in quarantine, found no such key"),
        ({"series": [{"match": "a", "split": True}, {"match": "b", "acept": []}]}, "series.1: unknown key 'acept'; did you mean 'accept'.; known are match, accept"),
        ({"series": [{"match": "a", "accept": ["DCM-GAP"]}]}, "series.0.accept: DCM-GAP cannot be accepted as it is; state resample: uniform instead"),
        ({"series": [{"match": "(", "split": True}]}, r"series.0.match: '\(' is not a regular expression"),
        ({"participants": {**TABLE, "map": {"table": "key.csv", "id": "ID"}}}, "participants.map.subject: expected the column that holds the subjects as the scans name them, found no such key"),
        ({"participants": {**TABLE, "map": {"table": "key.csv", "id": "ID", "subject": "a", "form": "b"}}}, "participants.map: unknown key 'form'; known are table, subject, id"),
        ({"models": None}, r"models: expected a mapping \(key: value\), found nothing"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path, changes, message):
    (tmp_path / "sub").mkdir()
    for path in ("a.yaml", "sub/a.yaml"):
        (tmp_path / path).write_text("recipe: a")
    with pytest.raises(CatalogError, match=message):
        read_catalog(write(tmp_path, **changes))


JUNK = ("zz z", -1, 1.5, True, None, [], ["zz z"], [1, 2], {}, {"zz z": 1})
PARTS = {
    Catalog: lambda at: at,
    SeriesPolicy: lambda at: {"series": [{"match": "a", **at}]},
    covariates.ParticipantsTable: lambda at: {"participants": {**TABLE, **at}},
    covariates.IdMap: lambda at: {"participants": {**TABLE, "map": at}},
    covariates.Check: lambda at: {"checks": {"a": at}},
    covariates.Model: lambda at: model(**at),
    covariates.Family: lambda at: model(family=at),
    covariates.Equivalence: lambda at: model(equivalence={"y": at}),
    covariates.Random: lambda at: model(random=at),
    covariates.Imputation: lambda at: model(impute=at),
    covariates.Harmonize: lambda at: model(harmonize={"site": "s", "columns": ["x", "z"], **at}),
    covariates.Permutation: lambda at: model(permutation={"seed": 1, **at}),
    covariates.Voxelwise: lambda at: model(voxelwise=at),
    covariates.VoxelMask: lambda at: model(voxelwise={"mask": at}),
    covariates.VoxelPermutation: lambda at: model(voxelwise={"permutations": {"seed": 1, **at}}),
}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_no_mistake_is_told_in_the_words_of_pydantic(tmp_path, part):
    said = []
    for key, value in itertools.product(part.model_fields, JUNK):
        path = write(tmp_path, **PARTS[part]({key: value}))
        try:
            read_catalog(path)
        except CatalogError as error:
            said += error.problems
    assert len(said) > 2 * len(part.model_fields)
    assert [line for line in said if re.search(r"Input should|[a-z] error, |required", line)] == []


def test_a_model_of_several_outcomes_shows_the_first_unless_another_is_named(tmp_path):
    models = {
        "m": {"outcomes": ["a", "b"], "formula": "y"},
        "n": {"outcome": "b", "outcomes": ["a", "b"], "formula": "y"},
    }
    read = read_catalog(write(tmp_path, models=models))
    assert [read.models[m].all_outcomes for m in "mn"] == [["a", "b"], ["b", "a"]]


def test_maps_of_which_nothing_more_is_said_are_maps(tmp_path):
    found = read_catalog(write(tmp_path, **model(voxelwise=None)))
    assert found.models["m"].voxelwise == covariates.Voxelwise()


def test_a_bound_is_a_number_or_two_and_keys_of_a_model_stay_as_written(tmp_path):
    bounds = {"dx": {"bound": 2}, "age": {"bound": [-1, 3], "scale": "sd"}}
    read = read_catalog(write(tmp_path, **model(equivalence=bounds, random=None, head="skull")))
    said = read.models["m"]
    assert [said.equivalence[t].bound for t in bounds] == [[-2, 2], [-1, 3]]
    assert (said.head, said.random, said.one_scan_per) == ("skull", None, "first")


def test_what_nobody_states_does_not_change_the_digest_of_a_catalog(tmp_path):
    plain = read_catalog(write(tmp_path, **model())).digest
    stated = model(contrasts={}, site=None) | {"checks": {}, "reliability": None}
    assert read_catalog(write(tmp_path, **stated)).digest == plain
    assert read_catalog(write(tmp_path, **model(site="scanner"))).digest != plain


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(
        CatalogError, match=r"^\S*none.yaml: cannot be read \(No such file or directory\)[^\n]*$"
    ):
        read_catalog(tmp_path / "none.yaml")
    (tmp_path / "twice.yaml").write_text("cohort: a\ncohort: b\n")
    with pytest.raises(
        CatalogError, match=r"twice.yaml: line 2, column 1: the key 'cohort' is there twice"
    ):
        read_catalog(tmp_path / "twice.yaml")


def test_every_missing_source_is_named_when_sources_are_asked_for(tmp_path):
    catalog = read_catalog(write(tmp_path, sources=["here", "gone", "lost"]))
    (tmp_path / "here").mkdir()
    with pytest.raises(CatalogError, match="found nothing at 'gone'") as caught:
        catalog.source_paths()
    assert len(caught.value.problems) == 2


def test_a_source_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "scans").mkdir()
    catalog = read_catalog(write(tmp_path))
    (tmp_path / "scans").chmod(0o000)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(
            CatalogError, match=r"'scans' \(.*\) cannot be read \(Permission denied\)"
        ):
            catalog.source_paths()
    finally:
        if root:
            os.seteuid(0)


def test_the_error_survives_the_way_from_a_worker():
    error = CatalogError(["a: one", "b: two"])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_the_digest_says_what_the_cohort_is_and_not_where(tmp_path):
    one = read_catalog(write(tmp_path)).digest
    assert (
        one == read_catalog(write(tmp_path, sources=["elsewhere"], store="b", ids="token")).digest
    )
    assert one != read_catalog(write(tmp_path, ids="keep")).digest
    assert (
        one != read_catalog(write(tmp_path, models={"m": {"outcome": "x", "formula": "y"}})).digest
    )


def test_decisions_change_the_cohort_and_their_order_does_not(tmp_path):
    one = read_catalog(write(tmp_path)).digest
    assert one == read_catalog(write(tmp_path, accept=[], series=[], min_slices=3)).digest
    codes = ["NII-UNITS", "DCM-LUT"]
    accepting = read_catalog(write(tmp_path, accept=codes)).digest
    assert accepting != one
    assert accepting == read_catalog(write(tmp_path, accept=codes[::-1])).digest


def test_a_decision_for_some_series_replaces_the_general_one_there(tmp_path):
    series = [
        {"match": r"^pilot/", "accept": ["NII-UNITS"], "min_slices": 2},
        {"match": "sub-007_", "accept": [], "prefer": None},
        {"match": "007", "resample": "uniform"},
    ]
    catalog = read_catalog(write(tmp_path, prefer="sform", accept=["DCM-LUT"], series=series))
    general = Policy(accept=frozenset({"DCM-LUT"}), prefer="sform")
    assert catalog.policy() == catalog.policy("new/pilot/im1.dcm", "sub-1_ses-1_a") == general
    pilot = replace(general, accept=frozenset({"NII-UNITS"}), min_slices=2)
    assert catalog.policy("pilot/im1.dcm", "sub-1_ses-1_a") == pilot
    assert catalog.policy("pilot/im1.dcm", "sub-007_ses-1_a") == Policy(
        min_slices=2, resample="uniform"
    )
    assert catalog.policy("a/im1.dcm", "x", "fileab007") == replace(general, resample="uniform")
    assert read_catalog(write(tmp_path)).policy("anything") == DEFAULT


def test_a_table_may_be_one_path_or_several_and_missing_marks_may_be_numbers(tmp_path):
    one = read_catalog(write(tmp_path, participants={**TABLE, "missing": [-1, 999, "unknown"]}))
    assert one.participants.table == ["people.csv"]
    assert one.participants.missing == ["-1", "999", "unknown"]


def test_a_recipe_beside_the_catalog_goes_before_one_that_comes_with_the_package(tmp_path):
    folder = tmp_path / "cohorts"
    folder.mkdir()
    builtin = find_recipe("oasis-csf", folder=folder)
    assert builtin.is_file()
    above = tmp_path / "recipes" / "oasis-csf.yaml"
    above.parent.mkdir()
    above.touch()
    assert find_recipe("oasis-csf", folder=folder) == above
    own = folder / "recipes" / "oasis-csf.yaml"
    own.parent.mkdir()
    own.touch()
    assert read_catalog(write(folder, recipes=["oasis-csf"])).recipe_path("oasis-csf") == own
    assert find_recipe("../recipes/oasis-csf.yaml", folder=folder) == above
    assert recipe_name("../recipes/oasis-csf.yaml") == "oasis-csf"


def test_an_unknown_recipe_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(
        CatalogError,
        match=r"found 'oasis_csf'; did you mean 'oasis-csf'\?; known are .*hippocampus",
    ):
        find_recipe("oasis_csf", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", "a"), ("a.b.nii.gz", "a.b"), ("A.NII.GZ", "A"), ("1.2.840", "1.2.840"), ("IM1.dcm", "IM1"), (".nii", ".nii")],
)  # fmt: skip
def test_the_stem_is_the_name_without_the_ending_of_an_image_format(name, expected):
    assert stem(Path("x.y") / name) == expected


def attached(folder, template, images, others):
    for path in (*images, *others):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    catalog = read_catalog(write(folder, attach={"mask": template}))
    return catalog, [folder / path for path in images], [folder / path for path in others]


@pytest.mark.parametrize(
    ("template", "masks"),
    [
        ("{folder}/../labels/{stem}.nii.gz", ["scans/labels/a.nii.gz", "scans/labels/b.nii.gz"]),
        ("scans/labels/{stem}.nii.gz", ["scans/labels/a.nii.gz", "scans/labels/b.nii.gz"]),
        ("{folder}/{stem}_mask.nii", ["scans/images/a_mask.nii", "scans/images/b_mask.nii"]),
        ("derived/{stem}/mask[1].nii", ["derived/a/mask[1].nii", "derived/b/mask[1].nii"]),
    ],
)
def test_attachments_are_found_kept_apart_and_missed_on_both_sides(tmp_path, template, masks):
    images = ["scans/images/a.nii.gz", "scans/images/b.nii.gz"]
    catalog, scans, others = attached(tmp_path, template, images, masks)
    assert [catalog.attachments(scan) for scan in scans] == [{"mask": mask} for mask in others]
    assert catalog.only_scans([*others, *scans]) == scans
    assert catalog.orphan_attachments(scans) == []
    assert catalog.orphan_attachments(scans[:1]) == others[1:]


def test_one_mask_may_serve_all_scans(tmp_path):
    catalog, scans, (atlas,) = attached(
        tmp_path, "atlas.nii", ["scans/a.nii", "scans/b.nii"], ["atlas.nii"]
    )
    assert all(catalog.attachments(scan) == {"mask": atlas} for scan in scans)
    assert catalog.orphan_attachments(scans) == []


def test_braces_in_a_folder_name_are_just_characters(tmp_path):
    folder = tmp_path / "{stem} {0}"
    catalog, scans, masks = attached(folder, "{folder}/{stem}_m.nii", ["s/a.nii"], ["s/a_m.nii"])
    assert catalog.attachments(scans[0]) == {"mask": masks[0]}


def test_without_attach_every_file_is_a_scan(tmp_path):
    catalog = read_catalog(write(tmp_path))
    assert isinstance(catalog, Catalog)
    assert catalog.only_scans([tmp_path / "a.nii"]) == [tmp_path / "a.nii"]


def test_hippocampus_names_the_image_without_a_label_and_the_label_without_an_image(shared):
    checkout = Path(__file__).parents[2]
    catalog = read_catalog(
        checkout / "catalogs/cohorts/hippocampus.yaml", sources=[shared / "hippocampus-msd/images"]
    )
    scans = sorted(catalog.source_paths()[0].glob("*.nii.gz"))
    without = [s.name for s in scans if not catalog.attachments(s)["labels"].exists()]
    assert (len(scans), without) == (128, ["hippocampus_118.nii.gz"])
    assert [p.name for p in catalog.orphan_attachments(scans)] == ["hippocampus_281.nii.gz"]
