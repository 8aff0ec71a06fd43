import numpy as np
import pytest

from cohort.reporting.agreementplots import agreement
from cohort.reporting.plots import embedded
from cohort.stats.agreement import bland_altman
from cohort.stats.columns import DesignError

EXPERT = np.array([90.0, 120, 150, 148, 200, np.nan])
MEASURED = np.array([88.0, 117, 155, 131, 190, 100])


def test_points_and_lines_are_the_differences_and_the_table():
    (axes,) = agreement(MEASURED, EXPERT, label="EDV $", unit="ml").axes
    *lines, points = axes.lines
    table = bland_altman(MEASURED, EXPERT)
    levels = [line.get_ydata()[0] for line in lines]
    assert levels == table.loc[["bias", "lower_limit", "upper_limit"], "estimate"].tolist()
    np.testing.assert_array_equal(points.get_ydata(), MEASURED - EXPERT)
    np.testing.assert_array_equal(points.get_xdata(), (MEASURED + EXPERT) / 2)
    assert axes.get_xlabel() == "EDV $, mean of both [ml]"
    assert axes.get_ylabel() == "measured - expert [ml]"


def test_it_can_be_embedded_in_a_page_and_needs_pairs():
    picture = embedded(agreement(MEASURED, EXPERT, label="EDV", names=("rule", "reader")))
    assert picture["uri"].startswith("data:image/png;base64,")
    with pytest.raises(DesignError, match="2 pairs hold two numbers"):
        agreement(MEASURED[:2], EXPERT[:2], label="EDV")
