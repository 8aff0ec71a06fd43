"""Rules of the left ventricle one by one, on discs."""

import numpy as np
import pytest

from cohort.kernels import ventricle
from cohort.kernels.ventricle import NoVentricleError, Rules
from cohort.phantom.hearts import Heart

PIXEL = (1.0, 1.0)


def disc(radius, *, y=40, x=30, shape=(80, 90)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - y, columns - x) <= radius


def stack(*radii, frames=(1.0, 0.6)):
    """Discs of a radius a slice that shrink from frame to frame: (time, z, y, x)."""
    return np.stack([np.stack([disc(r * f) if r else disc(-1) for r in radii]) for f in frames])


def kept(*radii, first, frames=(1.0, 1.0, 0.6, 0.6)):
    return ventricle.belonging(stack(*radii, frames=frames), first, PIXEL, Rules()).tolist()


def test_a_narrow_passage_cuts_two_pools_and_a_wide_one_does_not():
    both = disc(12) | disc(12, x=56)
    narrow, wide = both.copy(), both.copy()
    narrow[37:44, 30:56] = wide[30:51, 30:56] = True
    cut = ventricle.split(narrow, PIXEL, 0.7)
    assert len(np.unique(cut[narrow])) == 2
    assert cut[40, 30] != cut[40, 56]
    assert len(np.unique(ventricle.split(wide, PIXEL, 0.7)[wide])) == 1
    assert not ventricle.split(disc(2), PIXEL, 0.7).any()


def test_what_is_nearer_to_another_pool_of_the_neighbour_is_left_to_it():
    left, right = disc(14), disc(14, x=62)
    merged = left | right
    merged[36:45, 30:62] = True
    apart, joined = left + 2 * right, merged.astype(int)
    pools = np.stack([np.stack([apart, joined])] * 3)
    found = ventricle.track(pools, (0, 40, 30), PIXEL, Rules())
    np.testing.assert_array_equal(found[:, 0], [left] * 3)
    assert (found[:, 1] & left).sum() == 3 * left.sum()
    assert not (found[:, 1] & right).any()


def test_a_pool_reaches_no_further_than_it_may_drift():
    pools = np.stack([np.stack([disc(8), disc(30)]).astype(int)] * 3)
    found = ventricle.track(pools, (0, 40, 30), PIXEL, Rules(drift_mm=5))
    np.testing.assert_array_equal(found[:, 1], [ventricle.distance_mm(disc(8), PIXEL) <= 5] * 3)


def test_slices_end_at_the_apex_and_at_a_base_that_narrows_or_widens_at_once():
    assert kept(2, 8, 14, 20, 24, 25, first=3) == [False, True, True, True, True, True]
    assert kept(8, 14, 20, 24, 25, 18, first=2) == [True] * 5 + [False]
    assert kept(8, 14, 20, 24, 25, 38, first=2) == [True] * 5 + [False]
    assert kept(18, 25, 24, 20, 14, 8, first=3) == [False] + [True] * 5


def test_a_slice_that_does_not_contract_with_the_middle_is_none_of_it():
    beating = stack(10, 20, 24, 24, frames=(1.0, 1.0, 0.6, 0.6))
    beating[:, 3] = disc(24)
    assert ventricle.belonging(beating, 1, PIXEL, Rules()).tolist() == [True, True, True, False]
    beating[:, 1] = disc(20)
    with pytest.raises(NoVentricleError, match=r"loses 0\.0% of its area in a beat"):
        ventricle.belonging(beating, 1, PIXEL, Rules())


def test_a_threshold_of_one_slice_is_held_to_that_of_the_others():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.15, (2, 5, 80, 90)) + stack(20, 20, 20, 20, 0, frames=(1, 1))
    # The last slice holds noise alone.
    edges = ventricle.thresholds(values, disc(40))
    assert edges[4] == pytest.approx(0.75 * np.median(edges))
    assert 0.4 < edges[0] < 0.6


def test_the_edge_lies_where_the_level_says():
    away = np.hypot(*np.ogrid[-40:40, -30:60])
    values = 0.2 + 0.8 * np.clip((25 - away) / 10, 0, 1)  # blood to 15 mm, muscle from 25 mm
    cine = np.stack([values] * 3)[:, None]
    core = cine > 0.6
    for level in (0.2, 0.4):
        found = ventricle.cavity(cine, core, core.astype(int), PIXEL, Rules(level=level))
        radius = np.sqrt(found[0].sum() / np.pi)
        # The muscle is measured 3 to 6 mm outside, on the slope itself.
        blood, muscle = np.median(cine[core]), np.median(values[(away > 23) & (away <= 26)])
        edge = muscle + level * (blood - muscle)
        assert radius == pytest.approx(25 - 10 * (edge - 0.2) / 0.8, abs=0.6)


def test_the_seed_lies_in_a_ventricle_that_hardly_contracts():
    # What moves is the wall between both ventricles; the seed has to be in the blood.
    heart = Heart(shape=(8, 120, 118), spacing=(8.25, 1.6, 1.6), radius_mm=30, length_mm=60, ejection_fraction=0.2, centre_mm=(12, 0), tilt=0, towards_rv=4.963, trabeculae_mm=0, diastole=11, noise=0.035)  # fmt: skip
    found = ventricle.left_ventricle(
        heart.cine().values, spacing=heart.spacing, seed=None, rules=Rules()
    )
    assert (found & heart.truth()).sum() > 0.98 * heart.truth().sum()
