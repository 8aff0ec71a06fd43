"""An expert's values in the participants table against what a recipe measured: tables, figure, refusals."""

import re

import cohorts
import numpy as np
import pandas as pd
import pytest

from cohort import api
from cohort.io.catalog import CatalogError
from cohort.io.verify import verify
from cohort.reporting.wording import number
from cohort.stats.agreement import bland_altman
from cohort.stats.asked import experts
from cohort.stats.reliability import intraclass

SCANS = 6
KEYS = "agreement: {head_ml: by_hand}\n"
VOXEL_ML = 2 * 2 * 3 / 1000


def ml(seed):
    """Volume of a ball, as the recipe measures it."""
    return np.count_nonzero(cohorts.ball(seed)) * VOXEL_ML


def written(folder, *, units="{by_hand: ml}", keys=KEYS, differences=None):
    """A cohort in which somebody measured by hand; the person 000 came twice."""
    catalog = cohorts.write_cohort(folder, scans=SCANS)
    cohorts.write_scan(folder / "scans/000_v2.nii.gz", cohorts.ball(20))
    if differences is None:
        differences = np.random.default_rng(0).normal(0.2, 0.1, SCANS)
    rows = (folder / "people.csv").read_text().splitlines()
    rows[0] += ",by_hand"
    rows[1:] = [
        row + (f",{float(ml(n) - differences[n])!r}" if n < SCANS else ",")
        for n, row in enumerate(rows[1:])
    ]
    rows[3] = rows[3].rsplit(",", 1)[0] + ","  # 002 has no value
    rows.append(f"000_v2,31,70.0,{float(ml(20) - 9)!r}")
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    text = catalog.read_text().replace("  derive:", f"  units: {units}\n  derive:") + keys
    catalog.write_text(text)
    return catalog


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    catalog = written(folder)
    result = api.update(catalog, options=api.Options(workers=0))
    return cohorts.store_of(catalog), result, catalog


def test_bias_limits_and_icc_are_of_the_first_scan_of_each_who_has_both(compared):
    store, result, _ = compared
    assert result.manifest["checks"] == []
    pairs = store.table("scans.agreement_pairs")
    measured = store.table("ball").set_index("scan_id")
    assert len(pairs) == SCANS - 1  # all but 002, and 000 once
    assert measured.loc[pairs["scan_id"], "participant"].tolist() == [
        f"{n:03d}_v1" for n in (0, 1, 3, 4, 5)
    ]
    assert measured.loc[pairs["scan_id"], "head_ml"].tolist() == pairs["measured"].tolist()
    by_hand = (
        np.array([ml(n) for n in (0, 1, 3, 4, 5)])
        - np.random.default_rng(0).normal(0.2, 0.1, SCANS)[[0, 1, 3, 4, 5]]
    )
    np.testing.assert_allclose(pairs["expert_value"], by_hand, rtol=1e-12)
    found = store.table("scans.agreement").set_index("term")
    assert set(found["measurement"]) == {"head_ml"}
    assert set(found["expert"]) == {"by_hand"}
    assert set(found["unit"]) == {"ml"}
    expected = bland_altman(pairs["measured"], pairs["expert_value"])
    pd.testing.assert_frame_equal(found.loc[expected.index, [*expected]], expected)
    icc = intraclass(pairs[["measured", "expert_value"]].to_numpy(), "agreement")
    assert found.loc["icc", ["estimate", "ci_low", "ci_high"]].tolist() == list(icc)
    assert 0.1 < found.loc["bias", "estimate"] < 0.3


def test_the_page_shows_table_and_figure_and_nothing_without_the_key(compared):
    store, _, catalog = compared
    page = (store.root / "report/index.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="agreement".*?</section>', page, flags=re.DOTALL)[0]
    assert '<a href="#agreement">' in page
    assert section.count("<img src=") == 1
    assert "Differences of head_ml from by_hand" in section
    for said in ("bias (measured - expert)", "upper limit of agreement", "ICC(2,1)"):
        assert said in section
    bias = store.table("scans.agreement").set_index("term").loc["bias", "estimate"]
    assert f'title="{number(bias).exact}"' in section
    assert list(verify(store)) == []
    assert api.open(catalog).recipes == ["ball"]
    catalog.write_text(catalog.read_text().replace(KEYS, ""))
    api.update(catalog, options=api.Options(workers=0))
    assert not [name for name in store.tables() if name.startswith("scans.")]
    assert 'id="agreement"' not in (store.root / "report/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": "agreement: {head_ml: by_hnad}\n"}, "agreement: no column 'by_hnad'; did you mean 'by_hand'"),
        ({"keys": "agreement: {haed_ml: by_hand}\n"}, "agreement: no column 'haed_ml'; did you mean 'head_ml'"),
        ({"units": "{weight: kg}"}, "agreement: 'by_hand' has no unit; state that of 'head_ml' under participants.units"),
        ({"keys": "agreement: {share: by_hand}\n"}, "agreement: 'share' is in 1 but 'by_hand' in ml; derive a column in 1 and name that"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_unit_is_one_line_before_anything_is_read(tmp_path, change, said):
    catalog = written(tmp_path, **change)
    with pytest.raises(CatalogError) as caught:
        api.update(catalog, options=api.Options(workers=0))
    (problem,) = caught.value.problems
    assert said in problem
    assert "\n" not in problem
    assert not (tmp_path / "store/scans").exists()


def test_what_is_known_only_once_it_is_measured_is_told_in_one_line(tmp_path):
    catalog = written(tmp_path, units="{by_hand: l, weight: kg}")
    result = api.update(catalog, options=api.Options(workers=0))
    (line,) = result.manifest["checks"]
    assert line.startswith("agreement of head_ml with by_hand: head_ml is in ml but by_hand in l; ")
    store = cohorts.store_of(catalog)
    assert store.table("scans.agreement") is None
    # Two values are too few; another column is compared all the same.
    people = tmp_path / "people.csv"
    rows = pd.read_csv(people, dtype=str)
    rows["rarely"] = rows["by_hand"].where(rows.index < 2)
    rows.to_csv(people, index=False)
    text = catalog.read_text().replace("{by_hand: l, weight: kg}", "{by_hand: ml, rarely: ml}")
    catalog.write_text(text.replace(KEYS, "agreement: {head_ml: rarely}\n"))
    result = api.update(catalog, options=api.Options(workers=0))
    (line,) = result.manifest["checks"]
    assert "2 pairs hold two numbers, expected at least 3" in line


def test_the_first_session_is_the_one_that_comes_first_when_counted():
    table = pd.DataFrame(
        {
            "scan_id": ["a", "b", "c"],
            "subject": ["p", "p", "q"],
            "session": ["10", "9", None],
            "unusable": [None, None, None],
            "ours": [1.0, 2.0, 3.0],
            "theirs": [1.0, 2.0, 3.0],
        }
    )
    assert experts._first_of_each(table, "ours", "theirs")["scan_id"].tolist() == ["b", "c"]
