"""Thresholds from counts, against scikit-image on the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import filters

from cohort.kernels import selectors

OURS = {
    "otsu": filters.threshold_otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
}


@pytest.mark.parametrize("method", OURS)
@given(
    values=st.lists(st.integers(-40, 90), min_size=1, max_size=80),
    scale=st.sampled_from([1, 7, 200]),
)
def test_thresholds_of_integers_are_those_of_scikit_image(method, values, scale):
    image = np.array(values)[:, None] * scale
    rows = np.stack(np.unique(image, return_counts=True), axis=1)
    assert selectors.of_values(rows, method=method) == OURS[method](image.copy())


@pytest.mark.parametrize("method", OURS)
def test_no_values_have_no_threshold(method):
    assert np.isnan(selectors.of_values(np.empty((0, 2), np.int64), method=method))


def test_triangle_takes_the_longer_flank_and_looks_at_empty_bins():
    at = np.array([0, 1, 2, 10])
    assert selectors.triangle(at, np.array([1, 9, 3, 1])) == 3  # right flank: the last empty one
    assert selectors.triangle(-at[::-1], np.array([1, 3, 9, 1])) == -3


def test_of_two_flanks_of_one_length_triangle_takes_the_left_as_scikit_image_does():
    image = np.repeat([10, 11, 12, 13, 14], [1, 2, 90, 60, 5])[:, None]
    rows = np.stack(np.unique(image, return_counts=True), axis=1)
    assert selectors.of_values(rows, method="triangle") == filters.threshold_triangle(image)


def test_otsu_rounds_counts_beyond_float32_as_scikit_image_does():
    often = np.array([2**30, *[3] * 40, 2**30])
    values = np.arange(often.size)
    rows = np.stack([values, often], axis=1)
    assert selectors.of_values(rows, method="otsu") == filters.threshold_otsu(hist=(often, values))


def test_li_stops_when_it_moves_by_less_than_half_a_step_as_scikit_image_does():
    rng = np.random.default_rng(2)
    tissue = np.where(rng.random(300) < 0.5, rng.normal(20, 15, 300), rng.normal(100, 40, 300))
    image = tissue.round()
    values, often = np.unique(image, return_counts=True)
    low, expected = values[0], filters.threshold_li(image.copy())
    assert selectors.li(values, often, low=low, tolerance=0.5) == pytest.approx(expected, rel=1e-9)
    assert selectors.li(values, often, low=low, tolerance=0.0) != pytest.approx(expected, rel=1e-3)
