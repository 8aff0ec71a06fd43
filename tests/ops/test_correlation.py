"""Correlation of images and within one: NumPy, sums written out, and smoothed noise of which the truth is known."""

import itertools

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy.stats import norm

from cohort.kernels import lags
from cohort.ops import compare
from cohort.ops.compare import correlation, lag_correlation


def noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Smooth noise, stationary up to its borders."""
    return ndi.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")


def variance_of_r(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    """Clifford's sum, pair of voxels by pair of voxels."""
    n = inside.sum()
    a, b = (np.where(inside, x - x[inside].mean(), 0.0) for x in (a, b))
    total = 0.0
    for lag in itertools.product(*(range(-(s // 4), s // 4 + 1) for s in a.shape)):
        here = tuple(slice(max(0, -k), min(s, s - k)) for k, s in zip(lag, a.shape, strict=True))
        there = tuple(slice(max(0, k), min(s, s + k)) for k, s in zip(lag, a.shape, strict=True))
        pairs = (inside[here] & inside[there]).sum()
        if pairs:
            rho = [(x[here] * x[there]).sum() / pairs / ((x * x).sum() / n) for x in (a, b)]
            total += pairs * rho[0] * rho[1]
    return float(total / n**2)


@given(st.data(), strategies.shapes(low=3, high=7), st.integers(0, 2**32 - 1), st.booleans())
def test_the_effective_number_is_cliffords_sum(data, shape, seed, masked):
    rng = np.random.default_rng(seed)
    a, b = noise(rng, shape, 1.0), noise(rng, shape, 0.7) + 5.0
    inside = rng.random(shape) < 0.8 if masked else np.ones(shape, bool)
    inside[0, 0, :3] = True
    first, second, mask = (strategies.scan(x) for x in (a, b, inside))
    variance = variance_of_r(a, b, inside)
    expected = np.clip(1 + 1 / variance, 2, inside.sum()) if variance > 0 else inside.sum()
    given_ = (first, second, mask if masked else None)
    found = correlation(*given_[:2], mask=given_[2])
    np.testing.assert_allclose(found.n_effective, expected, rtol=1e-8)
    assert found.n == inside.sum()
    np.testing.assert_allclose(found.r, np.corrcoef(a[inside], b[inside])[0, 1], atol=1e-12)
    for n, low, high in (("n_effective", "low", "high"), ("n", "naive_low", "naive_high")):
        if found[n] > 3:
            width = norm.ppf(0.975) / np.sqrt(float(found[n]) - 3)
            ends = np.tanh(np.arctanh(float(found.r)) + width * np.array([-1, 1]))
            np.testing.assert_allclose([found[low], found[high]], ends, rtol=1e-9)
        else:
            assert (found[low], found[high]) == (-1, 1)
    # All bits, however it is cut.
    cut = data.draw(strategies.chunked(first, second, mask))
    with strategies.nothing_computed():
        again = correlation(cut[0], cut[1], mask=cut[2] if masked else None)
    xr.testing.assert_identical(again.compute(), found)


@pytest.mark.parametrize(
    ("sigma", "naive", "median"), [(1, 0.45, 2681), (2, 0.70, 699), (4, 0.82, 187), (8, 0.91, 58)]
)
def test_smooth_images_that_have_nothing_to_do_with_each_other_are_seldom_called_alike(
    sigma, naive, median
):
    # statistics.md 5: 128 x 128, 300 runs; at a nominal 5 % the naive test rejects 45 to 91 %.
    rng = np.random.default_rng(sigma)
    inside = np.ones((128, 128), bool)
    wrong, n_effective = {"low": 0, "naive_low": 0}, []
    for _ in range(300):
        a, b = (noise(rng, inside.shape, sigma) for _ in range(2))
        r = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        n_effective.append(lags.effective(a, b, inside))
        for name, n in (("low", n_effective[-1]), ("naive_low", float(inside.size))):
            low, high = lags.interval(np.array(r), np.array(n), confidence=0.95)
            wrong[name] += not low <= 0 <= high
    assert 0.017 <= wrong["low"] / 300 <= 0.083, "the binomial 99 % band of 300 draws"
    assert abs(wrong["naive_low"] / 300 - naive) < 0.08
    assert abs(np.median(n_effective) / median - 1) < 0.12


@given(
    st.data(),
    strategies.shapes(low=1, high=9),
    st.sampled_from("zyx"),
    st.booleans(),
    st.sampled_from(strategies.DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_every_lag_is_the_correlation_of_the_image_with_itself_moved(
    data, shape, dim, masked, dtype, seed
):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, shape).astype(dtype)
    inside = rng.random(shape) < 0.7 if masked else np.ones(shape, bool)
    image, mask = strategies.scan(values), strategies.scan(inside)
    found = lag_correlation(image, dim=dim, mask=mask if masked else None)
    axis = "zyx".index(dim)
    np.testing.assert_allclose(found.lag_mm, strategies.SPACING[dim] * np.arange(shape[axis]))
    lines, kept = np.moveaxis(values.astype(float), axis, 0), np.moveaxis(inside, axis, 0)
    for k in range(shape[axis]):
        both = kept[: len(kept) - k] & kept[k:]
        one, other = lines[: len(lines) - k][both], lines[k:][both]
        assert found.n[k] == both.sum()
        if len(one) > 1 and one.std() and other.std():
            np.testing.assert_allclose(found[k], np.corrcoef(one, other)[0, 1], atol=1e-9)
        else:
            assert np.isnan(found[k])
    cut = data.draw(strategies.chunked(image, mask))
    again = lag_correlation(cut[0], dim=dim, mask=cut[1] if masked else None)
    assert again.chunks is not None
    xr.testing.assert_identical(again.compute(), found)


def test_lines_longer_than_a_tile_and_frames_each_for_itself():
    rng = np.random.default_rng(1)
    frames = xr.concat(
        [strategies.scan(noise(rng, (5, 70, 130), s)) for s in (0.5, 3.0)], dim="time"
    )
    found = lag_correlation(frames, dim="x")
    assert found.dims == ("time", "lag_mm")
    for t in range(2):
        xr.testing.assert_identical(
            found.isel(time=t).drop_attrs(), lag_correlation(frames[t], dim="x").drop_attrs()
        )
        one = frames[t].values
        np.testing.assert_allclose(
            found[t, 7], np.corrcoef(one[..., :-7].ravel(), one[..., 7:].ravel())[0, 1], atol=1e-9
        )
    cut = lag_correlation(frames.chunk({"time": 1, "z": 2, "y": 33, "x": 17}), dim="x")
    xr.testing.assert_identical(cut.compute(), found)


def test_row_34_a_flip_decorrelates_and_noise_attenuates():
    rng = np.random.default_rng(0)
    image = strategies.scan(noise(rng, (40, 64, 64), 3.0))
    image = (image - image.mean()) / image.std()
    curve = lag_correlation(image, dim="z")
    assert curve[0] == pytest.approx(1.0)
    assert (np.diff(curve[:8]) < 0).all()
    flipped = correlation(image, image.copy(data=image.values[:, :, ::-1]))
    assert abs(flipped.r) < 0.25
    assert flipped.low < flipped.naive_low < flipped.naive_high < flipped.high
    for m in (1, 2, 4):
        noisy = image + m * rng.normal(size=image.shape)
        assert float(compare.ncc(image, noisy)) == pytest.approx(1 / np.sqrt(1 + m**2), abs=0.01)


def test_what_does_not_vary_or_is_not_known_has_no_correlation():
    image = strategies.scan(np.arange(60.0).reshape(3, 4, 5))
    same = xr.ones_like(image)
    assert np.isnan(
        correlation(image, same)[["r", "low", "high", "n_effective", "naive_low"]].to_array()
    ).all()
    assert correlation(image, same).n == 60
    hole = image.copy()
    hole[1, 1, 1] = np.nan
    assert np.isnan(correlation(hole, image).r)
    assert np.isnan(lag_correlation(same, dim="x")).all()
    itself = correlation(image, image)
    assert (itself.r, itself.naive_low, itself.naive_high) == (1, 1, 1)


def test_what_cannot_be_correlated_is_said():
    image = strategies.scan(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match=r"confidence is 95, expected a number between 0 and 1"):
        correlation(image, image, confidence=95)
    with pytest.raises(ValueError, match="dim is 't', expected one of"):
        lag_correlation(image, dim="t")
    with pytest.raises(ValueError, match="mask is float64, expected bool"):
        correlation(image, image, mask=image)
