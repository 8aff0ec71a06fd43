"""Limits of agreement: the published example, statsmodels, and coverage of simulated truth."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cohort.stats.agreement import bland_altman
from cohort.stats.columns import DesignError


def test_blood_pressures_of_bland_and_altman():
    # 1999, sections 2 and 2.2, to the published digits: 85 subjects, differences of mean -16.29 and standard deviation 19.61 mmHg.
    drawn = np.random.default_rng(0).normal(size=85)
    difference = -16.29 + 19.61 * stats.zscore(drawn, ddof=1)
    expert = np.linspace(80, 220, 85)
    found = bland_altman(expert + difference, expert)
    assert found["n"].tolist() == [85] * 4
    np.testing.assert_allclose(
        found.loc[["lower_limit", "upper_limit"], "estimate"], [-54.7, 22.1], atol=0.06
    )
    np.testing.assert_allclose(found.loc["lower_limit", ["ci_low", "ci_high"]].to_numpy(float), [-61.9, -47.5], atol=0.15)  # fmt: skip
    np.testing.assert_allclose(found.loc["upper_limit", ["ci_low", "ci_high"]].to_numpy(float), [14.9, 29.3], atol=0.15)  # fmt: skip


def test_peak_flows_of_bland_and_altman():
    # 1986, doi:10.1016/S0140-6736(86)90837-8: 17 people, differences of mean -2.1 and standard deviation 38.8 l/min. Limits are printed for
    # 2 standard deviations, -79.7 and 75.5, and the error of a limit for n instead of n - 1, 16.3.
    drawn = np.random.default_rng(1).normal(size=17)
    difference = -2.1 + 38.8 * stats.zscore(drawn, ddof=1)
    expert = np.linspace(170, 660, 17)
    found = bland_altman(expert + difference, expert)
    assert found.loc["bias", "se"] == pytest.approx(9.4, abs=0.05)
    np.testing.assert_allclose(found.loc["bias", ["ci_low", "ci_high"]].to_numpy(float), [-22.0, 17.8], atol=0.1)  # fmt: skip
    half = (found.loc["upper_limit", "estimate"] - found.loc["lower_limit", "estimate"]) / 2
    assert -2.1 - half * 2 / 1.959964 == pytest.approx(-79.7, abs=0.05)
    assert -2.1 + half * 2 / 1.959964 == pytest.approx(75.5, abs=0.05)
    assert found.loc["lower_limit", "se"] == pytest.approx(16.3, rel=0.03)


@given(seed=st.integers(0, 999), n=st.integers(3, 40))
def test_bias_is_a_t_interval_and_the_slope_is_that_of_least_squares(seed, n):
    rng = np.random.default_rng(seed)
    expert = rng.normal(140, 30, n)
    measured = 0.9 * expert + rng.normal(2, 8, n)
    found = bland_altman(measured, expert)
    one = stats.ttest_1samp(measured - expert, 0)
    interval = one.confidence_interval()
    np.testing.assert_allclose(
        found.loc["bias", ["ci_low", "ci_high"]].to_numpy(float), [interval.low, interval.high]
    )
    fit = sm.OLS(measured - expert, sm.add_constant((measured + expert) / 2)).fit()
    np.testing.assert_allclose(
        found.loc["slope", ["estimate", "se", "ci_low", "ci_high"]].to_numpy(float),
        [fit.params[1], fit.bse[1], *fit.conf_int()[1]],
        rtol=1e-7,
    )


def test_intervals_of_the_limits_cover_the_truth():
    rng = np.random.default_rng(1)
    truth, covered = 5 - 1.959964 * 10, 0
    for _ in range(500):
        expert = rng.normal(100, 20, 20)
        low, high = bland_altman(expert + rng.normal(5, 10, 20), expert).loc[
            "lower_limit", ["ci_low", "ci_high"]
        ]
        covered += low < truth < high
    assert covered / 500 == pytest.approx(0.95, abs=0.03)


def test_a_pair_that_lacks_a_number_takes_no_part():
    whole = bland_altman([1.0, 2, 4, 5], [1.5, 2, 3, 6])
    lacking = bland_altman([1.0, 2, np.nan, 4, 5, 9], [1.5, 2, 7, 3, 6, None])
    pd.testing.assert_frame_equal(lacking, whole)


def test_a_slope_on_means_that_do_not_vary_is_no_number():
    found = bland_altman([5.0, 6, 4], [5.0, 4, 6])
    assert found.loc["slope"].drop("n").isna().all()
    assert found.loc["bias", "estimate"] == 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DesignError, match="measured has 2 values and expert 3"):
        bland_altman([1, 2], [1, 2, 3])
    with pytest.raises(DesignError, match="2 pairs hold two numbers, expected at least 3"):
        bland_altman([1, 2, np.nan], [1, 2, 3])
    with pytest.raises(DesignError, match=r"expert has shape \(3,\) and 1 infinite values"):
        bland_altman([1, 2, 3], [1, np.inf, 3])
    with pytest.raises(DesignError, match="measured does not hold numbers: could not convert"):
        bland_altman(["a", 2, 3], [1, 2, 3])
