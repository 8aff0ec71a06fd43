"""Pictures of maps against the numbers they show."""

import numpy as np
import pytest
import xarray as xr

from cohort import grid
from cohort.reporting import mapsplots, slices

SHAPE = (7, 9, 8)
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = (8, -9, -5)


@pytest.fixture
def t():
    values = np.random.default_rng(0).normal(size=SHAPE)
    values[2, 5, 1] = -9.0
    values[5, 3, 6] = 6.0
    values[0] = np.nan
    return grid.with_affine(xr.DataArray(values, dims=grid.SPACE), AFFINE)


def world(z, y, x):
    return tuple(float(v) for v in (AFFINE @ [x, y, z, 1])[:3])


def pictures(figure):
    """Arrays that the axes show, the coloured one of each."""
    return [np.ma.filled(a.get_images()[-1].get_array(), np.nan) for a in figure.axes[:3]]


def test_slices_go_through_the_place_and_show_what_is_beyond_the_floor(t):
    figure = mapsplots.overlay(t * 0 + 1, t, at_mm=world(2, 5, 1), floor=2.0)
    for shown, plane in zip(pictures(figure), slices.VIEWS, strict=True):
        assert np.nanmin(shown) == -9.0
        known = shown[np.isfinite(shown)]
        assert (np.abs(known) >= 2.0).all()
        at = mapsplots.coordinates_at(t, world(2, 5, 1))
        dim = slices.take(t, plane=plane).dim
        beyond = np.abs(t.sel({dim: at[dim]}).to_numpy()) >= 2.0
        assert len(known) == beyond.sum()


def test_the_cross_lies_on_the_place(t):
    figure = mapsplots.overlay(t * 0 + 1, t, at_mm=world(5, 3, 6), floor=2.0)
    for axes, shown in zip(figure.axes[:3], pictures(figure), strict=True):
        across, up = axes.get_lines()
        assert shown[int(across.get_ydata()[0]), int(up.get_xdata()[0])] == 6.0


def test_projections_show_the_most_extreme_of_each_line_of_sight(t):
    figure = mapsplots.projections(t, floor=1.5)
    values = np.nan_to_num(t.to_numpy())
    for shown, axis in zip(pictures(figure), (0, 1, 2), strict=True):
        most = np.abs(values).max(axis=axis)
        expected = np.sort(most[most >= 1.5])
        np.testing.assert_allclose(np.sort(np.abs(shown[np.isfinite(shown)])), expected)


def test_projections_by_another_rule_show_the_voxels_that_it_names(t):
    judged = (t < -2) | (t > 5)
    figure = mapsplots.projections(t, floor=0.0, judged=judged, rule="chosen")
    values = np.where(judged, np.nan_to_num(t.to_numpy()), 0)
    for shown, axis in zip(pictures(figure), (0, 1, 2), strict=True):
        most = np.abs(values).max(axis=axis)
        known = np.abs(shown[np.isfinite(shown)])
        np.testing.assert_allclose(np.sort(known), np.sort(most[most > 0]))
    assert figure.axes[-1].get_ylabel() == "most extreme t, where chosen"
    nowhere = mapsplots.projections(t, floor=0.0, judged=t > 99, rule="chosen")
    assert not any(np.isfinite(shown).any() for shown in pictures(nowhere))


def test_an_empty_map_is_drawn(t):
    figure = mapsplots.projections(t * np.nan, floor=3.0)
    assert not any(np.isfinite(shown).any() for shown in pictures(figure))
