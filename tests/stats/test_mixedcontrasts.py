"""Contrasts of mixed models: equal to the term that means the same in another parametrisation of the model."""

import numpy as np
import pandas as pd
import pytest

from cohort.stats.columns import DesignError
from cohort.stats.mixed import fit_mixed
from cohort.stats.subjects.mixedcontrasts import estimates

SAME = ["estimate", "se", "df", "statistic", "p", "ci_low", "ci_high"]


def visits(seed=2, subjects=40):
    rng = np.random.Generator(np.random.Philox(key=seed))
    who = np.repeat(np.arange(subjects), rng.integers(2, 5, subjects))
    table = pd.DataFrame({"scan_id": [f"s{i:03d}" for i in range(len(who))], "subject": who})
    table["session"] = table.groupby("subject").cumcount()
    table["years"] = table["session"] * 1.5 + rng.uniform(0, 0.5, len(who))
    table["dx"] = who % 2
    table["y"] = 70 - table["years"] * (0.5 + 0.3 * table["dx"]) + rng.normal(0, 3, subjects)[who]
    table["y"] += rng.normal(0, 1, len(who))
    return table


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_the_groups_difference_after_two_years_is_the_term_of_a_clock_that_starts_there(method):
    table = visits()
    fit = fit_mixed(table, formula="y ~ dx * years", method=method)
    found = estimates(fit, ["dx + 2 * dx:years"], names=["after two years"]).iloc[0]
    later = fit_mixed(table, formula="y ~ dx * I(years - 2)", method=method)
    expected = later.tidy.set_index("term").loc["dx"]
    np.testing.assert_allclose(found[SAME].astype(float), expected[SAME].astype(float), rtol=1e-6)


def test_a_contrast_of_one_term_is_that_term_times_its_weight():
    fit = fit_mixed(visits(), formula="y ~ dx * years")
    found = estimates(fit, ["10 * years"], names=["ten"]).iloc[0]
    term = fit.tidy.set_index("term").loc["years"]
    assert found["estimate"] == pytest.approx(10 * term["estimate"], rel=1e-12)
    assert found["df"] == pytest.approx(term["df"], rel=1e-7)
    assert found["p"] == pytest.approx(term["p"], rel=1e-7)


def test_with_random_slopes_a_contrast_is_by_z_as_the_terms_are():
    fit = fit_mixed(visits(), formula="y ~ dx * years", slope="years")
    found = estimates(fit, ["years"], names=["a year"]).iloc[0]
    term = fit.tidy.set_index("term").loc["years"]
    for name in ("estimate", "se", "p", "ci_low", "ci_high"):
        assert found[name] == pytest.approx(term[name], rel=1e-9), name
    assert np.isnan(found["df"])


def test_a_name_that_is_no_term_is_one_line():
    with pytest.raises(DesignError, match="no term 'yaers'; did you mean 'years'"):
        estimates(fit_mixed(visits(), formula="y ~ years"), ["yaers"], names=["a"])
