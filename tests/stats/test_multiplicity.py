"""Corrections against statsmodels, and families that hold what was declared."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from cohort.stats import contrasts, multiplicity
from cohort.stats.regression import DesignError, fit

NAMES = {"bh": "fdr_bh", "by": "fdr_by", "holm": "holm", "bonferroni": "bonferroni"}
PS = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), min_size=1, max_size=40)


@given(p=PS, method=st.sampled_from(sorted(NAMES)))
def test_a_correction_equals_statsmodels(p, method):
    expected = multipletests(p, method=NAMES[method])[1]
    np.testing.assert_allclose(multiplicity.adjust(p, method), expected, rtol=1e-12, atol=1e-300)


@given(p=PS, data=st.data(), method=st.sampled_from(sorted(NAMES)))
def test_what_has_no_p_is_not_in_the_family_and_the_order_plays_no_part(p, data, method):
    with_gaps = data.draw(st.permutations([*p, *[float("nan")] * 3]))
    values = np.array(with_gaps)
    found = multiplicity.adjust(values, method)
    assert np.isnan(found[np.isnan(values)]).all()
    alone = multiplicity.adjust(p, method)
    assert sorted(found[~np.isnan(values)]) == sorted(alone)
    order = np.argsort(values[~np.isnan(values)], kind="stable")
    assert (np.diff(found[~np.isnan(values)][order]) >= 0).all()
    assert (found[~np.isnan(values)] >= values[~np.isnan(values)] * (1 - 1e-15)).all()
    assert np.array_equal(values, with_gaps, equal_nan=True), "the input is as it was"


def test_the_corrections_keep_their_known_order():
    p = np.array([0.001, 0.01, 0.02, 0.04, 0.6])
    bh, by, holm, bonferroni = (multiplicity.adjust(p, m) for m in NAMES)
    assert (bh <= holm).all()
    assert (holm <= bonferroni).all()
    assert (bh <= by).all()
    assert multiplicity.adjust([], "bh").shape == (0,)
    assert np.isnan(multiplicity.adjust([np.nan], "by")).all()


def test_what_is_no_p_or_no_method_is_refused():
    with pytest.raises(DesignError, match=r"p is 1\.5 at position 1; it lies from 0 to 1"):
        multiplicity.adjust([0.2, 1.5], "bh")
    with pytest.raises(DesignError, match="the method is 'fdr'; it takes bh, by, holm, bonferroni"):
        multiplicity.adjust([0.2], "fdr")


def several():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"dx": np.arange(60) % 2, "age": rng.uniform(50, 90, 60)})
    for k in range(5):
        table[f"region{k}"] = rng.normal(0, 1, 60) + 0.2 * k * table["dx"]
    fits = [
        fit(table, outcome=f"region{k}", formula="dx + age", one_scan_per="all") for k in range(5)
    ]
    return fits, pd.concat([result.tidy for result in fits], ignore_index=True)


def test_a_family_is_several_outcomes_and_terms_and_nothing_else():
    _, tidy = several()
    found = multiplicity.family(tidy, "dx")
    member = (tidy["term"] == "dx").to_numpy()
    for prefix in ("", "hc3_"):
        for method, column in multiplicity.COLUMNS.items():
            expected = multipletests(tidy.loc[member, f"{prefix}p"], method=NAMES[method])[1]
            np.testing.assert_allclose(found.loc[member, prefix + column], expected, rtol=1e-12)
            assert found.loc[~member, prefix + column].isna().all()
        assert set(found.loc[member, f"{prefix}family_n"]) == {5.0}
        assert set(found.loc[member, f"{prefix}family_missing"]) == {0.0}
    pd.testing.assert_frame_equal(found[tidy.columns], tidy)
    both = multiplicity.family(tidy, ["dx", "age"], outcomes=["region0", "region3"])
    assert both["q_bh"].notna().sum() == 4
    assert both["family_n"].max() == 4
    np.testing.assert_allclose(
        both["p_bonferroni"].dropna(), np.minimum(4 * tidy["p"][both["q_bh"].notna()], 1)
    )


def test_tests_without_p_are_counted_and_do_not_widen_the_family():
    _, tidy = several()
    tidy.loc[tidy["outcome"] == "region2", ["p", "hc3_p"]] = np.nan
    tidy.loc[tidy["outcome"] == "region3", "hc3_p"] = np.nan
    found = multiplicity.family(tidy, "dx").query("term == 'dx'")
    assert set(found["family_n"]) == {4.0}
    assert set(found["family_missing"]) == {1.0}
    assert set(found["hc3_family_missing"]) == {2.0}
    np.testing.assert_allclose(
        found["p_bonferroni"].dropna(), np.minimum(4 * found["p"].dropna(), 1)
    )
    none = tidy.assign(p=np.nan)
    with pytest.raises(DesignError, match="none of the 5 tests of the family has a p"):
        multiplicity.family(none, "dx")


def test_contrasts_are_a_family_too():
    fits, _ = several()
    table = contrasts.estimates(fits[0], ["dx", "age", "dx + age"])
    found = multiplicity.family(table, ["dx", "dx + age"])
    assert found["p_holm"].notna().tolist() == [True, False, True]


def test_a_family_that_is_not_in_the_table_is_refused_with_the_nearest_name():
    _, tidy = several()
    with pytest.raises(DesignError, match="term of the family: no term 'dxx'; did you mean 'dx'"):
        multiplicity.family(tidy, ["dxx"])
    with pytest.raises(DesignError, match="outcome of the family: no outcome 'region9'"):
        multiplicity.family(tidy, "dx", outcomes=["region9"])
