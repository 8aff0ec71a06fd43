"""Rows of a model's table whose scan cannot be used: the glance, the sentences, model.json and the page count the same rows."""

import html
import re
from pathlib import Path

import cohorts
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort import api
from cohort.io.covariates import Model
from cohort.io.store import Store
from cohort.stats.models import fit_table

HERE = api.Options(workers=0)
FAILED, ALONE = "ball failed on it", "no row in the participants table"
KINDS = {
    "least squares": {"group": "dx", "head": "head"},
    "several outcomes": {"outcomes": ["brain", "grey"]},
    "harmonised": {"harmonize": {"site": "site", "columns": ["brain", "grey"]}},
    "mixed": {"random": {}},
}


def table(unusable: dict[int, str], absent: set[int]) -> pd.DataFrame:
    """Two scans of each of 30 people, some without an age, some that cannot be used."""
    rng = np.random.default_rng(np.random.Philox(key=5))
    n = 60
    found = pd.DataFrame({"scan_id": [f"s{i:02d}" for i in range(n)]})
    found["subject"] = found["participant"] = [f"p{i // 2:02d}" for i in range(n)]
    found["session"] = [str(1 + i % 2) for i in range(n)]
    found["site"] = np.array(["north", "south"])[np.arange(n) // 2 % 2]
    found["dx"] = np.arange(n) // 4 % 2
    found["age"] = rng.uniform(60, 80, n)
    found["head"] = rng.normal(1500, 100, n)
    found["brain"] = 0.6 * found["head"] - 30 * found["dx"] + rng.normal(0, 30, n)
    found["grey"] = 0.5 * found["brain"] + rng.normal(0, 9, n)
    found.loc[sorted(absent), "age"] = np.nan
    return found.assign(unusable=pd.array([unusable.get(i) for i in range(n)], dtype="str"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(
    unusable=st.dictionaries(st.integers(0, 59), st.sampled_from((FAILED, ALONE)), max_size=12),
    absent=st.sets(st.integers(0, 59), max_size=6),
)
def test_rows_that_cannot_be_used_are_rows_of_the_table(kind, unusable, absent):
    model = Model.model_validate(
        {"outcome": "brain", "formula": "dx + age", "confounds": ["age"], **KINDS[kind]}
    )
    whole = table(unusable, absent)
    found = fit_table(whole, model, {})
    rows = found.rows
    assert rows["n_table"] == 60
    assert rows["n_used"] + len(rows["dropped"]) == 60
    assert sum(rows["reasons"].values()) == len(rows["dropped"])
    why = {entry["row_id"]: entry["reason"] for entry in rows["dropped"]}
    assert unusable == {i: why[f"s{i:02d}"] for i in unusable}
    assert {s for s, said in why.items() if said in (FAILED, ALONE)} == {f"s{i:02d}" for i in unusable}  # fmt: skip
    line = found.fit.layout()[1]
    assert line.startswith(f"{rows['n_used']} of 60 rows")
    for reason in set(unusable.values()):
        assert f"{list(unusable.values()).count(reason)} {reason}" in line
    assert found.to_json()["rows"] == rows
    for glance in (found.glance, found.fit.glance):
        if "n_table" in glance:  # a mixed model has it in the rows alone
            first = glance.iloc[0]
            assert (first["n_table"], first["n_dropped"]) == (60, len(rows["dropped"]))
    # They change no number.
    bare = fit_table(whole[whole["unusable"].isna()], model, {})
    pd.testing.assert_frame_equal(found.tidy, bare.tidy)
    said = [
        [line for line in fit.warnings if "cannot be used" not in line] for fit in (found, bare)
    ]
    assert said[0] == said[1]
    assert found.reading == bare.reading


@pytest.mark.parametrize("rule", ["first", "last"])
@settings(max_examples=25, deadline=None)
@given(
    unusable=st.dictionaries(st.integers(0, 59), st.sampled_from((FAILED, ALONE)), max_size=8),
    absent=st.sets(st.integers(0, 59), max_size=4),
    outside=st.sets(st.integers(0, 59), max_size=4),
    order=st.permutations(range(60)),
)
def test_a_scan_that_stands_for_another_is_told(rule, unusable, absent, outside, order):
    whole = table(unusable, absent).assign(kept=1)
    whole["session"] = [("2", "10")[i % 2] for i in range(60)]  # as numbers, not as text
    whole.loc[sorted(outside), "kept"] = 0
    model = Model.model_validate(
        {"outcome": "brain", "formula": "dx + age", "where": "kept == 1", "one_scan_per": rule}
    )
    found = fit_table(whole.iloc[list(order)], model, {})
    expected = {}
    for person in range(30):
        wanted, other = (2 * person, 2 * person + 1)[:: 1 if rule == "first" else -1]
        good = [i for i in (wanted, other) if i not in unusable and i not in absent | outside]
        on_purpose = wanted in outside and wanted not in unusable
        if good == [other] and not on_purpose:
            expected[f"s{other:02d}"] = (f"s{wanted:02d}", unusable.get(wanted, "missing age"))
    told = [line for line in found.warnings if "cannot be used" in line]
    assert len(told) == bool(expected)
    if expected:
        which = {"first": "a later", "last": "an earlier"}[rule]
        start = f"{len(expected)} of {found.rows['n_used']} subjects: {which} scan is fitted, "
        assert told[0].startswith(
            f"{start}because the {rule} cannot be used (one_scan_per: {rule}); "
        )
        examples = [f"{a} instead of {b} ({why})" for a, (b, why) in expected.items()]
        assert any(example in told[0] for example in examples)


def write(folder: Path, model: dict) -> Path:
    """Nine people of two scans each: on one first scan the recipe fails, another has no row."""
    catalog = cohorts.write_cohort(folder, scans=0)
    lines = ["ID,age,weight"]
    for n in range(18):
        person, visit = n // 2, 1 + n % 2
        name = f"{person:03d}_v{visit}"
        # No head in an empty image: there is no median of it.
        data = cohorts.ball(n) * (n != 4)
        cohorts.write_scan(folder / "scans" / f"{name}.nii.gz", data)
        if n != 8:
            lines.append(f"{name},{(30, 70)[person % 2] + n % 7},{60 + (7 * n) % 11}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = re.sub(r"models:.*", "", catalog.read_text(encoding="utf-8"), flags=re.DOTALL)
    said = ", ".join(f"{key}: {value}" for key, value in model.items())
    catalog.write_text(f"{text}models:\n  size: {{{said}}}\n", encoding="utf-8")
    return catalog


@pytest.mark.parametrize("more", [{}, {"random": "{}"}], ids=["least squares", "mixed"])
def test_the_page_the_file_and_the_terminal_count_the_same_rows(tmp_path, more):
    model = {"outcome": "head_ml", "formula": '"old + weight"', **more}
    result = api.update(write(tmp_path, model), options=HERE)
    (found,) = result.fits.values()
    said = Store(tmp_path / "store").model("size")["rows"]
    assert said["n_table"] == 18
    reasons = {entry["row"]: entry["reason"] for entry in said["dropped"]}
    assert reasons["sub-002_ses-1_002v1"] == FAILED
    assert reasons["sub-004_ses-1_004v1"] == ALONE
    assert {k: v for k, v in said.items() if k != "dropped"} == {
        k: v for k, v in found.rows.items() if k != "dropped"
    }
    used = said["n_used"]
    assert f"{used} of 18 rows" in found.summary()
    page = html.unescape(re.sub(r"<[^>]*>", " ", Path(result.report).read_text(encoding="utf-8")))
    page = " ".join(page.split())
    assert "Of 18 rows of its table." in page
    assert "(of 18 rows in the table)" in page
    assert re.search(rf"Used by model size {used} rows", page)
    told = (
        "2 of 9 subjects: a later scan is fitted, because the first cannot be used (one_scan_per: first);"
        f" sub-002_ses-2_002v2 instead of sub-002_ses-1_002v1 ({FAILED}), the first of them"
    )
    for place in (found.summary(), page, *Store(tmp_path / "store").model("size")["warnings"][-1:]):
        assert (told in place) == (not more)
    if not more:
        assert re.search(r"rows of the table 18\b", page)
        assert re.search(rf"rows left out {18 - used}\b", page)
