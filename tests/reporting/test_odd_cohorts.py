"""Cohorts of which somebody would not think, from their files to the page: empty, refused, failed, alone, unmatched, in any script, hostile."""

import re
import shutil
from pathlib import Path

import cohorts
import pytest
import series
from test_flow import adds_up
from test_html import Page

from cohort import api
from cohort.reporting.facts import gather
from cohort.reporting.page import own_scripts

HERE = api.Options(workers=0)
EVIL = "<script>alert(1)</script>"
NOUNS = "scan|subject|row|file|step|column|term|value|measurement|model|number|finding|draw"


def page_of(catalog: Path) -> Page:
    """The page that `cohort update` makes, sound whatever the cohort is."""
    result = api.update(catalog, options=HERE)
    page = Page(Path(result.report))
    assert tuple(page.scripts) == own_scripts()
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    assert str(catalog.parent) not in page.source
    wrong = re.findall(rf"(?<![\d.,])(?:1 (?:{NOUNS})s|0 (?:{NOUNS})) [a-z]+", page.text)
    assert not wrong
    assert not re.search(r"\b(nan|None|NaT)\b", page.text)
    assert not re.search(r"\bn/a\b|\binf\b", page.text)
    store = cohorts.store_of(catalog)
    if store.table("scans") is not None:
        adds_up(gather(store, ["ball"]))
    return page


def without(catalog: Path, *keys: str) -> Path:
    """Take members of the top level out of a catalog."""
    text = catalog.read_text(encoding="utf-8")
    for key in keys:
        text = re.sub(rf"^{key}:.*\n(?:[ ].*\n)*", "", text, flags=re.MULTILINE)
    catalog.write_text(text, encoding="utf-8")
    return catalog


def test_sources_without_a_scan(tmp_path):
    catalog = without(cohorts.write_cohort(tmp_path, scans=0), "participants", "models")
    (tmp_path / "scans").mkdir()
    page = page_of(catalog)
    for text in (
        "The cohort is empty: no scan was ingested and there is no participants table.",
        "The recipe ball measured no scan.",
        "Found 0 series The sources hold no scan.",
        "Measured by ball 0 scans",
        "There is no scan to show.",
        "No model was fitted.",
    ):
        assert text in page.text
    assert "The recipe ball (SHA-256" not in page.text
    assert "canonical axes" not in page.text


@pytest.mark.parametrize("are_there", [False, True])
def test_people_without_a_scan_are_no_cohort_that_is_only_a_table(tmp_path, are_there):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    for path in (tmp_path / "scans").iterdir():
        path.write_bytes(path.read_bytes()[:200])  # refused
    if not are_there:
        shutil.rmtree(tmp_path / "scans")
        (tmp_path / "scans").mkdir()
    page = page_of(catalog)
    assert "The cohort is a table" not in page.text
    assert "Model size could not be fitted: no scans in the store, so nothing to model" in page.text
    if are_there:
        assert "Found 2 series In 2 files. 1 quarantined NII-GZIP" in page.text
        assert "2 series could not be trusted and were put in quarantine" in page.text
        assert "Ingested 0 scans none lost + Participants table" in page.text
    else:
        assert "Found 0 series The sources hold no scan." in page.text


def test_a_recipe_that_fails_on_every_scan(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    recipe = """\
recipe: ball
steps:
  none: {call: threshold, image: image, above: 100000}
  mix:  {call: gmm, image: image, mask: none, n_components: 2}
measure:
  head_ml: {call: component_ml, posteriors: mix, component: 1}
"""
    (tmp_path / "recipes/ball.yaml").write_text(recipe, encoding="utf-8")
    page = page_of(catalog)
    assert "The recipe ball measured no scan and failed on 2; nothing of a failed" in page.text
    assert re.search(
        r"Measured by ball 0 scans 2 failed step 'mix': mask holds no voxels", page.text
    )
    assert "failed on all 2 scans to which it was applied; nothing of it was used" in page.text
    assert "Model size could not be fitted: no rows to fit" in page.text
    assert "robust standard deviations (1.4826" not in page.text


def test_one_scan_of_one_person(tmp_path):
    page = page_of(cohorts.write_cohort(tmp_path, scans=1, rows=1))
    for text in (
        "The cohort holds 1 scan of 1 subject. The recipe ball measured 1 scan.",
        "Found 1 series In 1 file.",
        "Ingested 1 scan none lost",
        "Participants table 1 row none lost",
        "Measured by ball 1 scan none lost",
        "Model size could not be fitted: 1 row for 3 columns (Intercept, old, weight): 1 row in",
        "1 scan of 1 subject was brought to the closest canonical axes",
        "It succeeded on 1 scan.",
        "n_head voxel 1 0 1,037 1,037 to 1,037 1,037 to 1,037 none",
    ):
        assert text in page.text
    assert "1,037.0000" not in page.text
    assert "No value was more than" not in page.text


def test_scans_of_nobody_in_the_table(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    (tmp_path / "people.csv").write_text("ID,age,weight\n901_v1,50,70.0\n", encoding="utf-8")
    page = page_of(catalog)
    assert "2 unmatched no row of the participants table belongs to the scan" in page.text
    assert "Participants table 1 row 1 unmatched" in page.text
    assert "Model size could not be fitted: no rows to fit: 2 in the table" in page.text


def test_a_cohort_without_participants(tmp_path):
    page = page_of(without(cohorts.write_cohort(tmp_path, scans=2), "participants", "models"))
    assert "Participants table" not in page.text
    assert "Measured by ball 2 scans none lost" in page.text
    assert "Model size" not in page.text


def test_people_in_any_script(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=0)
    people = ["Ångström", "病人七", "מטופל", "🧠x", "A\u202eb"]
    for n, name in enumerate(people):
        cohorts.write_scan(tmp_path / "scans" / f"{name}_v1.nii.gz", cohorts.ball(n))
    rows = [f"{name}_v1,{(30, 70)[n % 2] + n},7{n}.5" for n, name in enumerate(people)]
    (tmp_path / "people.csv").write_text("\n".join(["ID,age,weight", *rows]), encoding="utf-8")
    text = catalog.read_text(encoding="utf-8").replace(r"(?P<subject>\\d+)", "(?P<subject>[^/_]+)")
    catalog.write_text(text, encoding="utf-8")
    page = page_of(catalog)
    assert "Measured by ball 5 scans none lost" in page.text
    assert "Used by model size 5 rows" in page.text
    for name in people:
        assert f"{name}_v1".replace("\u202e", "\ufffd") in page.text
    assert "\u202e" not in page.source


def test_a_measurement_without_a_number_anywhere(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=3)
    recipe = cohorts.RECIPE.replace(
        "measure:\n",
        "  none: {call: threshold, image: image, above: 100000}\n"
        "measure:\n  mean_none: {call: mean_in, image: image, mask: none}\n",
    )
    (tmp_path / "recipes/ball.yaml").write_text(recipe, encoding="utf-8")
    with catalog.open("a", encoding="utf-8") as file:
        file.write("  empty: {outcome: mean_none, formula: old}\n")
    page = page_of(catalog)
    assert re.search(r"mean_none \S+ 0 3 \S \S \S no scan has a value", page.text)
    assert "Model empty could not be fitted: no rows to fit: 3 rows in the table" in page.text
    assert "Distribution of mean_none" not in page.source


def test_markup_in_headers_and_columns_is_text(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=0)
    tags = dict.fromkeys(
        ("SeriesDescription", "ProtocolName", "StudyDescription", "Manufacturer"), EVIL
    )
    for n in range(4):
        volume, affine = series.phantom((12, 14, 11), seed=n)
        place = tmp_path / f"scans/00{n}_v1"
        series.write_series(place, volume, affine, PatientID=f"p{n}", Modality="MR", **tags)
    cohorts.write_scan(tmp_path / "scans/004_v1.nii.gz", cohorts.ball(4))
    rows = [f"00{n}_v1,{(30, 70)[n % 2] + n},7{n}.5,{n * n},{EVIL}" for n in range(5)]
    header = f"ID,age,weight,{EVIL},note"
    (tmp_path / "people.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    with catalog.open("a", encoding="utf-8") as file:
        file.write(f"""  evil: {{outcome: head_ml, formula: "old + Q('{EVIL}')"}}\n""")
        file.write(
            f"""  gone: {{outcome: head_ml, formula: "old", where: "note == '{EVIL}?'"}}\n"""
        )
    page = page_of(catalog)
    assert page.text.count(EVIL) > 9
    assert f"left out (5 where \"note == '{EVIL}?'\" is false)" in page.text
    assert EVIL not in page.source
    assert "5 scans of 5 subjects (4 MR, 1 of no stated modality) were brought" in page.text
