"""Generalised Pareto tails, against SciPy's distribution and maxima whose p has a closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from cohort.stats.exchanges.tail import FEWEST, LARGEST, Tail, corrected, critical, fit_tail

VOXELS = 5000

DRAWN = {
    "exponential": (lambda rng, k: rng.exponential(1, k), lambda p: -np.log(p)),
    "normal": (
        lambda rng, k: special.ndtri(rng.random(k) ** (1 / VOXELS)),
        lambda p: special.ndtri((1 - p) ** (1 / VOXELS)),
    ),
    "t": (
        lambda rng, k: stats.t(30).ppf(rng.random(k) ** (1 / VOXELS)),
        lambda p: stats.t(30).ppf((1 - p) ** (1 / VOXELS)),
    ),
}
"""Maxima of so many numbers: how they are drawn, and the value of each p."""


@given(
    shape=st.floats(-0.8, 0.4).filter(lambda c: c == 0 or abs(c) > 1e-3),
    scale=st.floats(0.1, 10),
    above=st.floats(0, 5),
)
def test_a_tail_is_the_generalised_pareto_distribution(shape, scale, above):
    tail = Tail(3.0, shape, scale, 0.08, 80, 10**9)
    x = 3.0 + above * scale
    expected = 0.08 * stats.genpareto(shape, loc=3.0, scale=scale).sf(x)
    np.testing.assert_allclose(tail.probabilities(np.array([x]))[0], max(expected, 1e-10), rtol=1e-9)  # fmt: skip
    for p in (1e-4, 0.01, 0.079):
        np.testing.assert_allclose(tail.probabilities(np.array([tail.quantile(p)]))[0], p, rtol=1e-6)  # fmt: skip


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_shape_and_scale_are_found_again(shape):
    found = [fit_tail(stats.genpareto(shape, scale=2.0).rvs(4001, random_state=i)) for i in range(40)]  # fmt: skip
    assert all(tail is not None for tail in found)
    # What lies beyond a threshold of such a distribution has the same shape and a scale that grows with the threshold.
    own = np.array([t.scale - t.shape * t.threshold for t in found])
    assert abs(np.median([t.shape for t in found]) - shape) < 0.04
    assert abs(np.median(own) - 2) < 0.1


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("count", [500, 2000])
def test_p_beyond_what_counts_can_tell_is_about_right(name, count):
    draw, value = DRAWN[name]
    rng = np.random.default_rng(5)
    ratios, counted = [], []
    for _ in range(200):
        maximum = draw(rng, count)
        tail = fit_tail(maximum)
        if tail is None:
            continue
        at = np.array([value(p) for p in (0.05, 0.01, 0.5 / count)])
        ratios.append(tail.probabilities(at) / [0.05, 0.01, 0.5 / count])
        counted.append(corrected(maximum, at[1:2])[0] / 0.01)
    assert len(ratios) >= 195
    middle, (_, spread, _) = np.median(ratios, axis=0), np.std(ratios, axis=0)
    assert (np.abs(np.log(middle)) < [0.05, 0.2, 0.7]).all(), middle
    assert spread < 1.05 * np.std(counted), spread


@pytest.mark.parametrize("name", DRAWN)
def test_where_there_is_nothing_p_is_as_small_as_it_should_be(name):
    draw, _ = DRAWN[name]
    rng = np.random.default_rng(6)
    found = []
    for _ in range(1500):
        maximum = draw(rng, 250)
        found.append(corrected(maximum, maximum[:1], fit_tail(maximum))[0])
    for level in (0.01, 0.05, 0.1):
        hits = int((np.array(found) <= level).sum())
        assert stats.binomtest(hits, 1500, level).pvalue > 1e-3, (level, hits)


@given(seed=st.integers(0, 200), count=st.integers(201, 900), name=st.sampled_from(sorted(DRAWN)))
def test_p_falls_as_values_rise_is_never_0_and_is_counted_where_many_are_beyond(seed, count, name):
    maximum = DRAWN[name][0](np.random.default_rng(seed), count)
    tail = fit_tail(maximum)
    values = np.sort(np.concatenate([maximum, np.linspace(maximum.min(), 3 * maximum.max(), 400)]))
    p, counted = corrected(maximum, values, tail), corrected(maximum, values)
    assert (np.diff(p) <= 0).all()
    if tail is None:
        np.testing.assert_array_equal(p, counted)
        return
    assert p.min() == 0.1 / count
    np.testing.assert_array_equal(p[counted > LARGEST], counted[counted > LARGEST])
    for level in (0.001, 0.05, 0.2):
        bar = critical(maximum, level, tail)
        assert (p[values >= bar] <= level).all()
        assert (p[np.isin(values, maximum) & (values < bar)] > level).all()


def test_without_a_tail_that_fits_counts_stay():
    rng = np.random.default_rng(0)
    assert fit_tail(rng.exponential(size=FEWEST * 4)) is None  # too few
    assert fit_tail(np.ones(1000)) is None
    assert fit_tail(rng.integers(0, 4, 1000).astype(float)) is None
    two = np.concatenate([rng.normal(0, 0.1, 960), rng.normal(50, 0.1, 40)])
    assert fit_tail(rng.permutation(two)) is None
    maximum = np.arange(1000.0)[::-1]
    assert corrected(maximum, np.array([999.0, 900.5]))[0] == 0.001


def test_the_table_as_it_is_does_not_shape_the_tail():
    maximum = np.random.default_rng(1).exponential(size=1000)
    tail = fit_tail(maximum)
    maximum[0] = 1e6
    assert fit_tail(maximum) == tail
    assert corrected(maximum, maximum[:1], tail)[0] == 0.1 / 1000


def test_maps_of_few_arrangements_have_the_p_of_many(tmp_path):
    from cohort.io import cube
    from cohort.io.storage.disk import LocalFiles
    from cohort.stats import voxelwise
    from cohort.stats.voxelwise import Permutations

    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(24), np.arange(24) % 2, rng.uniform(50, 90, 24)])
    made = rng.normal(5, 1, (24, 4, 5, 6)).astype(np.float32)
    made[:, 1, 1:4, 1:4] += np.linspace(1, 4, 9).reshape(3, 3) * X[:, 1, None, None]
    scans = {f"s{i:03d}": "" for i in range(24)}
    metadata = cube.write(tmp_path / "cube", scans, lambda s: made[int(s[1:])])
    whole = cube.Cube(LocalFiles(tmp_path), "cube", metadata, scans)
    group = {"group": np.array([0.0, 1, 0])}

    def fitted(workers, **asked):
        return voxelwise.fit(
            whole, X, group, permutations=Permutations(seed=2, **asked),
            threshold=2.5, tfce=True, workers=workers,
        )  # fmt: skip

    few, many = fitted(1, n=500, tail=True), fitted(1, n=10_000)
    one = few.arranged["group"]
    assert {"t", "support"} <= set(one.tails)
    for name in ("t", "support"):
        expected = np.array([0.05, 0.02, 0.01, 0.004, 0.001])
        drawn = many.arranged["group"].maximum[name][1:]
        found = one.corrected(name, np.quantile(drawn, 1 - expected))
        assert np.abs(np.log10(found / expected)).max() < 0.5, (name, found)
    p = few.by_contrast["fwe_p"][0]
    assert p.min() < 1 / 500
    assert few.by_contrast["support_p"].min() < 1 / 500
    np.testing.assert_array_equal(p <= 0.05, np.abs(one.t) >= one.critical())
    # Where many lie beyond, they are counted as without a tail.
    counted = fitted(1, n=500).by_contrast["fwe_p"][0]
    np.testing.assert_array_equal(p[counted > LARGEST], counted[counted > LARGEST])
    again = fitted(2, n=500, tail=True)
    assert again.by_contrast["fwe_p"].tobytes() == few.by_contrast["fwe_p"].tobytes()
    # All arrangements there are: counts are exact, and stay.
    small_X, small_Y = X[:8], made[:8]
    metadata = cube.write(tmp_path / "small", dict.fromkeys(list(scans)[:8], ""), lambda s: small_Y[int(s[1:])])  # fmt: skip
    little = cube.Cube(LocalFiles(tmp_path), "small", metadata, dict(list(scans.items())[:8]))
    every = voxelwise.fit(little, small_X, group, permutations=Permutations(seed=2, n=50_000, tail=True))  # fmt: skip
    assert (every.arranged["group"].exhaustive, every.arranged["group"].tails) == (True, {})
