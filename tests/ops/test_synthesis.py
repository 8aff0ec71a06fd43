"""Noise of the asked-for covariance, the same bits however it is made."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy import stats

from cohort.kernels import fields, randomness
from cohort.ops import synthesis


@given(st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_random_words_are_those_of_numpys_philox(given_):
    *counter, k0, k1 = given_
    generator = np.random.Philox(
        counter=np.array(counter, np.uint64), key=np.array([k0, k1], np.uint64)
    )
    number = sum(c << 64 * i for i, c in enumerate(counter)) + 1  # NumPy counts first
    after = [np.uint64(number >> 64 * i & 2**64 - 1) for i in range(4)]
    found = randomness.words(*after, np.uint64(k0), np.uint64(k1))
    assert [int(w) for w in found] == generator.random_raw(4).tolist()


def test_numbers_of_voxels_are_independent_and_normal():
    found = randomness.normal((60, 60, 60), start=(-30, 0, 7), seed=3, stream=0)
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    for other in (
        randomness.normal((60, 60, 60), start=(-30, 0, 7), seed=4, stream=0),
        randomness.normal((60, 60, 60), start=(-30, 0, 7), seed=3, stream=1),
        randomness.normal((60, 60, 60), start=(-30, 0, 8), seed=3, stream=0),
        found[::-1],
    ):
        assert abs(np.corrcoef(found.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(found.size)


@given(st.floats(0.05, fields.LONGEST))
def test_the_kernel_is_the_root_of_the_covariance(correlation):
    weights = fields.taps(correlation)
    covariance = np.convolve(weights, weights[::-1])
    lags = np.arange(weights.size)
    expected = np.exp(-0.5 * (lags / correlation) ** 2)
    np.testing.assert_allclose(covariance[weights.size - 1 :][: weights.size], expected, atol=1e-5)
    assert weights.size < 12 * correlation + 40


def test_row_36_asked_for_correlations_and_unit_variance():
    """exp(-d2 / (2 * 50)): .779 at 5 mm, where the tutorial's kernel, convolved with itself, gives .881."""
    shape, spacing = (80, 160, 160), {"z": 5.0, "y": 1.0, "x": 2.5}
    like = xr.DataArray(
        np.zeros(shape, np.float32),
        coords={d: spacing[d] * np.arange(n) for d, n in zip("zyx", shape, strict=True)},
        dims=list("zyx"),
    )
    sums, n = np.zeros((4, 3)), 6
    for seed in range(n):
        found = synthesis.noise(like, std=1.0, correlation_mm=np.sqrt(50), seed=seed).values.astype(
            float
        )
        moments = [(found**2).mean(), (found**2).mean(), (found**2).mean()]
        sums[0] += moments
        sums[1] += [
            (found[1:] * found[:-1]).mean(),
            (found[:, 5:] * found[:, :-5]).mean(),
            (found[..., 2:] * found[..., :-2]).mean(),
        ]
        sums[2] += [
            (found[2:] * found[:-2]).mean(),
            (found[:, 7:] * found[:, :-7]).mean(),
            (found[..., 4:] * found[..., :-4]).mean(),
        ]
        sums[3] += [0.0, (found[:, 10:] * found[:, :-10]).mean(), 0.0]
    variance, near, farther, far = sums / n
    np.testing.assert_allclose(variance, 1.0, rtol=0.02)
    at = {d: np.exp(-d * d / 100) for d in (5, 7, 10)}
    np.testing.assert_allclose(near, [at[5], at[5], at[5]], atol=0.02)
    np.testing.assert_allclose(farther, [at[10], at[7], at[10]], atol=0.02)
    assert far[1] == pytest.approx(at[10], abs=0.02)


@given(st.data(), st.sampled_from([None, 4.0, {"z": 2.0, "x": 0.5}]))
@settings(max_examples=25)
def test_noise_has_the_same_bits_for_every_chunking(data, correlation):
    like = data.draw(strategies.images(high=9))
    whole = synthesis.noise(like, std=2.0, correlation_mm=correlation, seed=5)
    (lazy,) = data.draw(strategies.chunked(like))
    with strategies.nothing_computed():
        later = synthesis.noise(lazy, std=2.0, correlation_mm=correlation, seed=5)
    assert later.chunks == lazy.chunks
    np.testing.assert_array_equal(later, whole)
    assert whole.dtype == (np.float64 if like.dtype == np.float64 else np.float32)
    assert whole.attrs == {"units": "HU"}
    part = synthesis.noise(like[1:], std=2.0, seed=5) if like.sizes["z"] > 1 else None
    assert part is None or part.shape == like[1:].shape


def test_positions_along_leading_dims_have_noise_of_their_own():
    like = strategies.scan(np.zeros((3, 20, 20, 20), np.float32), lead=("time",))
    found = synthesis.noise(like, std=1.0, correlation_mm=3.0, seed=1)
    assert found.dims == like.dims
    assert abs(np.corrcoef(found.values.reshape(3, -1))[np.triu_indices(3, 1)]).max() < 0.2
    np.testing.assert_array_equal(
        synthesis.noise(like.chunk({"time": 2, "y": 7}), std=1.0, correlation_mm=3.0, seed=1), found
    )


def test_the_magnitude_of_noise_is_rayleighs_where_nothing_is_and_rices_elsewhere():
    image = strategies.scan(np.zeros((40, 40, 40), np.float32))
    image[20:] = 6.0
    found = synthesis.rician(image, std=2.0, seed=9)
    assert float(found.min()) >= 0
    assert stats.kstest(found[:20].values.ravel(), stats.rayleigh(scale=2.0).cdf).pvalue > 1e-3
    assert stats.kstest(found[20:].values.ravel(), stats.rice(3.0, scale=2.0).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(
        synthesis.rician(image.chunk({"z": 7, "x": 11}), std=2.0, seed=9), found
    )


@given(st.data(), st.sampled_from([0, 1, 3]))
@settings(max_examples=8)
def test_a_deformation_has_the_same_bits_for_every_chunking(data, order):
    image = data.draw(strategies.images(low=3, high=6))
    more = {"alpha_mm": 1.5, "sigma_mm": 4.0, "seed": 2}
    whole = synthesis.elastic(image, order=order, **more)
    (lazy,) = data.draw(strategies.chunked(image))
    with strategies.nothing_computed():
        later = synthesis.elastic(lazy, order=order, **more)
        moves = synthesis.displacement_mm(lazy, **more)
    np.testing.assert_array_equal(later, whole)
    strategies.assert_kept(later, lazy)
    # The image at every voxel's place and its displacement, as SciPy interpolates it.
    moves = moves.compute()
    np.testing.assert_array_equal(moves, synthesis.displacement_mm(image, **more))
    step = np.array([strategies.SPACING[d] for d in "zyx"]).reshape(3, 1, 1, 1)
    places = np.indices(image.shape) + moves.values / step
    expected = ndi.map_coordinates(image.values.astype(float), places, order=order)
    if order:
        most = max(1.0, float(np.abs(image.values.astype(float)).max()))
        np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-6 * most)
    else:
        np.testing.assert_array_equal(whole, expected)


def test_displacements_have_the_asked_for_size_and_smoothness():
    image = strategies.scan(np.zeros((40, 120, 80), np.float32))
    moves = synthesis.displacement_mm(image, alpha_mm=1.0, sigma_mm=8.0, seed=4).values
    assert moves.std() == pytest.approx(1.0, rel=0.15)
    near = (moves[:, :, 8:] * moves[:, :, :-8]).mean() / (moves**2).mean()
    assert near == pytest.approx(np.exp(-64 / (4 * 64)), abs=0.05)
    assert abs(np.corrcoef(moves.reshape(3, -1))[np.triu_indices(3, 1)]).max() < 0.2


@pytest.mark.parametrize("least", [0.2, 0.6])
def test_no_voxel_folds_or_shrinks_below_what_is_allowed(least):
    image = strategies.scan(np.zeros((30, 60, 50), np.float32))
    wild = {"alpha_mm": 6.0, "sigma_mm": 4.0, "seed": 1}
    moves = synthesis.displacement_mm(image, **wild, min_jacobian=least).values
    step = [strategies.SPACING[d] for d in "zyx"]
    slopes = np.moveaxis([np.gradient(m, *step) for m in moves], (0, 1), (-2, -1))
    volumes = np.linalg.det(np.eye(3) + slopes)[1:-1, 1:-1, 1:-1]
    assert least - 1e-9 <= volumes.min() < least + 0.1
    gentle = {"alpha_mm": 0.5, "sigma_mm": 10.0, "seed": 1}
    assert synthesis.displacement_mm(image, **gentle).values.std() == pytest.approx(0.5, rel=0.3)


def test_labels_that_are_deformed_get_no_new_value_and_frames_move_alike():
    labels = strategies.scan(np.random.default_rng(0).integers(0, 4, (12, 14, 13)).astype(np.int32))
    found = synthesis.elastic(labels, alpha_mm=2.0, sigma_mm=5.0, seed=3)
    assert found.dtype == np.int32
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    frames = xr.concat([labels, labels], dim="time")
    both = synthesis.elastic(frames.chunk({"time": 1, "z": 5}), alpha_mm=2.0, sigma_mm=5.0, seed=3)
    np.testing.assert_array_equal(both[0], found)
    np.testing.assert_array_equal(both[1], found)
    with pytest.raises(ValueError, match=r"fill is 0\.5, expected a value that int32 can hold"):
        synthesis.elastic(labels, alpha_mm=2.0, sigma_mm=5.0, seed=3, fill=0.5)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"alpha_mm": -1.0}, r"alpha_mm is -1\.0, expected a finite number of at least 0"),
        ({"sigma_mm": 0.0}, r"sigma_mm is 0\.0, expected a positive number"),
        ({"min_jacobian": 1.0}, r"min_jacobian is 1\.0, expected 0 to less than 1"),
        ({"sigma_mm": 50.0}, "expected at most 14.1421: make it on a coarser grid"),
        ({"order": 9}, "order is 9, expected a whole number from 0"),
    ],
)
def test_what_cannot_be_deformed_is_said(more, says):
    with pytest.raises(ValueError, match=says):
        synthesis.elastic(
            strategies.scan(np.zeros((3, 3, 3))),
            **{"alpha_mm": 1.0, "sigma_mm": 3.0, "seed": 0, **more},
        )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"std": -1.0}, r"std is -1\.0, expected a finite number of at least 0"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
        ({"seed": 0.5}, r"seed is 0\.5, expected a whole number"),
        ({"stream": 2**31}, "stream is 2147483648, expected a whole number from 0"),
        ({"correlation_mm": {"t": 1.0}}, "correlation_mm names 't'"),
        (
            {"correlation_mm": 61.0},
            "which is 20.33 voxels, expected at most 20: make it on a coarser",
        ),
        ({"correlation_mm": np.inf}, "correlation_mm along 'z' is inf"),
    ],
)
def test_what_cannot_be_made_is_said(more, says):
    with pytest.raises(ValueError, match=says):
        synthesis.noise(strategies.scan(np.zeros((3, 3, 3))), **{"std": 1.0, "seed": 0, **more})
