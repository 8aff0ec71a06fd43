"""Rounds over tissues equal the same sums written with SciPy's densities, voxel by voxel."""

import numpy as np
import pytest
from scipy import stats

from cohort.kernels import lanes, mixture, tissues

SHAPE = (5, 7, 6)


def test_exponentials_are_exact():
    values = np.concatenate([np.linspace(-699, 699, 60), [0.0, -1e-300, -5000.0, -700.0]])
    found, room = values.copy(), np.zeros(64)
    lanes.exponential(found, 64, room)
    np.testing.assert_allclose(found, np.exp(np.maximum(values, -700)), rtol=1e-15)


def known(*, bias, dark):
    """Some tissues."""
    return tissues.Tissues(
        means=np.array([200.0, 500, 800]),
        variances=np.array([900.0, 1600, 2500]),
        weights=np.array([0.1, 0.3, 0.25, 0.1, 0.15, 0.04, 0.06]),
        dark=dark,
        high=1500.0,
        bias=bias,
        middle=np.array([2.0, 3.5, 2.5]),
        reach=np.array([2.0, 3.0, 2.5]),
    )


def by_scipy(image, maps, own):
    """Corrected values, what the atlas expects of each kind, and weighted densities of the kinds: (voxels,), (kinds, voxels) twice."""
    z, y, x = (
        (i - m) / r for i, m, r in zip(np.indices(image.shape), own.middle, own.reach, strict=True)
    )
    field = (
        sum(c * z**i * y**j * x**k for c, (i, j, k) in zip(own.bias, tissues.TERMS, strict=True))
        if own.bias.size
        else 0.0
    )
    value = (image / np.exp(field)).ravel()
    csf, grey, white = (m.ravel() + 0.02 for m in maps) if maps else np.ones((3, value.size))
    groups = [csf, grey, white, np.sqrt(csf * grey), np.sqrt(grey * white), csf, csf]
    total = sum(w * g for w, g in zip(own.weights, groups, strict=True))
    expected = np.array(groups) / total
    density = []
    for (a, b), n in (((0, 0), 0), ((1, 1), 1), ((2, 2), 2), ((0, 1), 3), ((1, 2), 4)):
        for share in [0.0] if a == b else np.arange(1, 8, 2) / 8:
            mean = (1 - share) * own.means[a] + share * own.means[b]
            variance = (1 - share) * own.variances[a] + share * own.variances[b]
            variance += ((own.means[b] - own.means[a]) / 4) ** 2 / 12
            weight = own.weights[n] / (1 if a == b else 4)
            density.append(weight * stats.norm(mean, np.sqrt(variance)).pdf(value))
    density.append(
        own.weights[5] * stats.halfnorm(scale=own.dark).pdf(value) if own.dark else 0 * value
    )
    density.append(own.weights[6] * (value >= own.means[2]) / (own.high - own.means[2]))
    return value, expected, np.array(density) * expected[tissues.GROUPS]


@pytest.mark.parametrize("bias", [np.zeros(0), np.random.default_rng(3).normal(0, 0.03, 20)])
@pytest.mark.parametrize("atlas", [False, True])
@pytest.mark.parametrize("dark", [0.0, 40.0])
def test_sums_and_fractions_equal_densities_of_scipy(bias, atlas, dark):
    random = np.random.default_rng(1)
    image = random.uniform(0, 1400, SHAPE)
    maps = list(random.dirichlet([1, 1, 1], SHAPE).transpose(3, 0, 1, 2)) if atlas else []
    inside = random.random(SHAPE) < 0.8
    own = known(bias=bias, dark=dark)
    value, expected, joint = by_scipy(image, maps, own)
    share = joint / joint.sum(axis=0)
    where = inside.ravel()

    picked = mixture.pick(inside, image, *maps, origin=(0, 0, 0), shape=SHAPE, places=True)
    (row,) = tissues.sums(*picked, tissues=own, atlas=atlas)
    kinds = len(tissues.GROUPS)
    assert row[0] == 0
    np.testing.assert_allclose(row[1], np.log(joint.sum(axis=0))[where].sum(), rtol=1e-12)
    for power in range(3):
        sums = (share * value**power)[:, where].sum(axis=1)
        found = row[2 + power * kinds : 2 + (power + 1) * kinds]
        np.testing.assert_allclose(found, sums, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(row[2 + 3 * kinds :], expected[:, where].sum(axis=1), rtol=1e-12)

    found = tissues.fractions(inside, image, *maps, origin=(0, 0, 0), tissues=own)
    parts = (tissues.COUNTS.T @ share).reshape(3, *SHAPE) * inside
    np.testing.assert_allclose(found, parts, rtol=1e-6, atol=1e-7)


def test_a_round_finds_the_tissues_that_mixed_voxels_were_made_of():
    """Sums of voxels that lie at the kinds' means, as often as weights say."""
    own = known(bias=np.zeros(0), dark=40.0)
    n = 1e6 * (own.weights / np.bincount(tissues.GROUPS))[tissues.GROUPS]
    kinds = own.kinds()
    variance = np.append(-0.5 / kinds[1, :-1], 0)
    first = n * kinds[0]
    second = n * (kinds[0] ** 2 + variance)
    expected = np.full(7, n.sum())
    found = tissues.maximised(own, np.concatenate([n, first, second, expected]))
    np.testing.assert_allclose(found.means, own.means, rtol=1e-9)
    np.testing.assert_allclose(found.weights, own.weights, rtol=1e-6)
    np.testing.assert_allclose(found.dark, 40.0, rtol=1e-9)
    assert (np.abs(found.variances / own.variances - 1) < 0.2).all()


def test_mixed_voxels_are_at_most_half_as_many_as_those_beside_them():
    own = known(bias=np.zeros(0), dark=40.0)
    n = np.full(len(tissues.GROUPS), 1.0)
    n[3:11] = 1e3
    total = np.concatenate([n, n * own.kinds()[0], n * 1e6, np.full(7, n.sum())])
    weights = tissues.maximised(own, total).weights
    np.testing.assert_allclose(weights[3], weights[:2].sum() / 2)
    np.testing.assert_allclose(weights[4], weights[1:3].sum() / 2)


def test_a_bias_of_known_coefficients_is_found_and_has_no_constant_of_its_own():
    random = np.random.default_rng(5)
    shape = (40, 44, 48)
    own = known(bias=np.zeros(0), dark=40.0)
    true = random.normal(0, 0.02, 20)
    places = [
        (i - m) / r
        for i, m, r in zip(np.indices(shape), own.middle * 9, own.reach * 9, strict=True)
    ]
    z, y, x = places
    field = sum(c * z**i * y**j * x**k for c, (i, j, k) in zip(true, tissues.TERMS, strict=True))
    image = own.means[random.integers(0, 3, shape)] * np.exp(field)
    spread = tissues.replace(own, middle=own.middle * 9, reach=own.reach * 9)
    picked = mixture.pick(np.ones(shape, bool), image, origin=(0, 0, 0), shape=shape, places=True)
    for _ in range(6):
        (row,) = tissues.bias_sums(*picked, tissues=spread, atlas=False)
        spread = tissues.rebiased(spread, row[1:])
    np.testing.assert_allclose(spread.bias[1:], true[1:], atol=2e-3)
    fitted = sum(
        c * z**i * y**j * x**k for c, (i, j, k) in zip(spread.bias, tissues.TERMS, strict=True)
    )
    assert abs(fitted.mean()) < 0.01
