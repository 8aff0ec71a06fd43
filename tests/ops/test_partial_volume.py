"""Fluid, grey and white matter of synthetic heads come out as they were put in, the same bits for every chunking."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cohort.ops import tissue
from cohort.ops.partial_volume import TISSUES

SHINE = {"csf": 0.27, "grey": 0.62, "white": 1.0}
"""Of T1-weighted heads, as shares of white matter."""


def ball(*, noise, seed, gain=700.0, bias=0.0, size=45, dtype=np.float32):
    """Image, inside and true fractions of a ball of white matter with waves on it, in shells of grey matter and fluid.

    Made on a grid that is three times finer, so that voxels at the borders hold true shares; Rician noise.
    """
    fine = 3
    z, y, x = np.ogrid[tuple(slice(-1, 1, (fine * n) * 1j) for n in (size, size + 6, size - 4))]
    r = np.sqrt(z**2 + y**2 + x**2) + 0.04 * np.sin(13 * z) * np.sin(11 * y) * np.sin(12 * x)
    parts = [(r > 0.78) & (r <= 0.92), (r > 0.55) & (r <= 0.78), r <= 0.55]

    def coarse(part):
        shape = [m for n in part.shape for m in (n // fine, fine)]
        return part.reshape(shape).mean(axis=(1, 3, 5))

    truth = np.stack([coarse(part.astype(float)) for part in parts])
    inside = truth.sum(axis=0) > 1 - 1e-9
    random = np.random.default_rng(seed)
    image = np.tensordot(np.array(list(SHINE.values())), truth, axes=1)
    w, v, u = (
        np.linspace(-1, 1, n).reshape(s)
        for n, s in zip(image.shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    image = image * np.exp(bias * (w - 0.6 * v + 0.5 * u * w - 0.7 * v**2 + 0.4 * u**3))
    real, imaginary = random.normal(0, noise, (2, *image.shape))
    image = gain * np.hypot(image + real, imaginary)
    scan = strategies.scan(image.astype(dtype))
    return scan, scan.copy(data=inside), truth * inside


def errors(found, truth):
    """Of the volumes, as shares of the true ones."""
    return found.sum(["z", "y", "x"], dtype=float).values / truth.sum(axis=(1, 2, 3)) - 1


@pytest.mark.parametrize("noise", [0.02, 0.04, 0.06])
@pytest.mark.parametrize("seed", [1, 2])
def test_volumes_of_known_tissues_are_within_two_percent(noise, seed):
    image, inside, truth = ball(noise=noise, seed=seed)
    found = tissue.head_tissues(image, inside)
    assert np.abs(errors(found, truth)).max() < 0.02
    np.testing.assert_allclose(
        np.array(found.attrs["class_means"]) / 700, list(SHINE.values()), rtol=0.1
    )


@settings(max_examples=6, phases=[Phase.generate])  # a smaller example takes minutes
@given(data=st.data(), atlas=st.booleans(), dtype=st.sampled_from(strategies.DTYPES[1:]))
def test_any_chunks_give_the_same_bits(data, atlas, dtype):
    image, inside, truth = ball(noise=0.03, seed=3, bias=0.1, size=24, dtype=dtype)
    maps = [image.copy(data=t) for t in truth] if atlas else []
    expected = tissue.head_tissues(image, inside, dict(zip(TISSUES, maps, strict=False)) or None)
    image, inside, *maps = data.draw(strategies.chunked(image, inside, *maps))
    found = tissue.head_tissues(image, inside, dict(zip(TISSUES, maps, strict=False)) or None)
    assert found.chunks[1:] == inside.chunks
    xr.testing.assert_identical(found.compute(), expected)


def test_fractions_sum_to_one_inside_and_to_nothing_outside():
    image, inside, _ = ball(noise=0.04, seed=4)
    found = tissue.head_tissues(image, inside)
    assert found.dtype == np.float32
    assert found.tissue.values.tolist() == list(TISSUES)
    np.testing.assert_allclose(found.sum("tissue"), inside, atol=3e-7)
    assert float(found.min()) >= 0
    volumes = tissue.volumes_ml(found)
    voxel_ml = 3.0 * 1.0 * 1.5 / 1000
    np.testing.assert_allclose(
        volumes, found.sum(["z", "y", "x"], dtype=float) * voxel_ml, rtol=1e-12
    )
    assert volumes.attrs["units"] == "ml"


def test_a_strong_bias_of_the_coil_is_fitted_and_spoils_volumes_if_it_is_not():
    image, inside, truth = ball(noise=0.03, seed=5, bias=0.3)
    assert np.abs(errors(tissue.head_tissues(image, inside), truth)).max() < 0.01
    assert np.abs(errors(tissue.head_tissues(image, inside, bias=False), truth)).max() > 0.015
