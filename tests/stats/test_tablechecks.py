"""Checks and reliability of what a recipe measured: rows are scans, and links on the page lead to their pictures."""

import re

import cohorts
import pytest

from cohort import api
from cohort.io.verify import verify
from cohort.stats.reliability import reliability

KEYS = """\
checks:
  light: {holds: "head_ml < weight / 100"}
  spread: {constant: mean_head, tolerance: 30}
  young: {holds: "age < 130"}
reliability: [head_ml]
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """Five people scanned twice, the second time with another ball; one scan is of another brightness."""
    folder = tmp_path_factory.mktemp("balls")
    catalog = cohorts.write_cohort(folder, scans=5, rows=5)
    for n in range(5):
        slope = 4.0 if n == 3 else 0.5
        cohorts.write_scan(folder / f"scans/{n:03d}_v2.nii.gz", cohorts.ball(20 + n), slope=slope)
    people = (folder / "people.csv").read_text().splitlines()
    again = [line.replace("_v1", "_v2") for line in people[1:]]
    (folder / "people.csv").write_text("\n".join([*people, *again]) + "\n")
    catalog.write_text(catalog.read_text() + KEYS)
    result = api.update(catalog, options=api.Options(workers=0))
    return cohorts.store_of(catalog), result, catalog


def test_rows_that_stray_are_scans(looked_at):
    store, result, _ = looked_at
    measured, people = store.table("ball"), store.table("participants").set_index("participant")
    weight = people.loc[measured["participant"], "weight"].to_numpy()
    heavy = set(measured.loc[measured["head_ml"].to_numpy() >= weight / 100, "scan_id"])
    strays = store.table("scans.strays")
    assert heavy
    assert set(strays.loc[strays["check"] == "light", "scan_id"]) == heavy
    (bright,) = strays.loc[strays["check"] == "spread", "scan_id"]
    assert bright == measured.set_index("scan_id")["mean_head"].idxmax()
    checks = store.table("scans.checks").set_index("check")
    assert checks["n"].to_dict() == {"light": 10, "spread": 10, "young": 10}
    assert checks.loc["young", "strays"] == 0
    told = "\n".join(result.manifest["checks"])
    assert bright in told
    assert "'young'" not in told


def test_reliability_is_of_the_measured_scans(looked_at):
    store, _, _ = looked_at
    found = store.table("scans.reliability").iloc[0]
    expected = reliability(store.table("ball"), columns=["head_ml"]).table.iloc[0]
    assert (found["n"], found["unit"]) == (5, "ml")
    for name in ("icc21", "sd_difference", "repeatability"):
        assert found[name] == expected[name]
    assert len(store.table("scans.pairs")) == 5


def test_the_page_links_a_scan_that_strays_to_its_picture(looked_at):
    store, _, _ = looked_at
    page = (store.root / "report/index.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="checks".*?</section>', page, flags=re.DOTALL)[0]
    strays = store.table("scans.strays")
    for scan_id in strays["scan_id"]:
        (anchor,) = set(re.findall(rf'href="#([^"]+)"><bdi>{scan_id}</bdi>', section))
        assert re.search(rf'<li id="{anchor}" .*?<bdi>{scan_id}</bdi>', page, flags=re.DOTALL)


def test_they_are_no_recipes_and_go_with_their_keys(looked_at):
    store, _, catalog = looked_at
    assert api.open(catalog).recipes == ["ball"]
    assert list(verify(store)) == []
    assert not [name for name in store.tables() if name.startswith("participants.")]
    catalog.write_text(catalog.read_text().replace(KEYS, 'checks: {young: {holds: "age < 130"}}\n'))
    api.update(catalog, options=api.Options(workers=0))
    assert not [name for name in store.tables() if name.startswith("scans.")]
    assert store.table("participants.checks")["n"].tolist() == [10]
