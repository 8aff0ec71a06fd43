"""Fluid, grey and white matter of synthetic heads come out as they were put in, the same bits for every chunking."""

import numpy as np
import pandas as pd
import pytest
import strategies
import xarray as xr
from scipy import ndimage as ndi

from cohort.grid import GridError
from cohort.io import nifti
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
        np.array(found.attrs["class_means"]) / 700, np.hypot(list(SHINE.values()), noise), rtol=0.08
    )


# Blocks of several tiles, in an order other than that of the tiles; thin ones; and such as differ from input to input.
CHUNKS = (
    ({"x": 65}, {"x": 65}),
    ({"z": 1, "y": 40}, {"x": 64}),
    ({"y": 88}, {"y": (3, 62, 25), "x": 50}),
)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("atlas", [False, True])
def test_any_chunks_give_the_same_bits(chunks, atlas):
    image, inside, truth = ball(noise=0.03, seed=3, bias=0.1, size=24, dtype=np.int16)
    many = (1, 3, 4)  # more than one tile along two axes
    image, inside = (strategies.scan(np.tile(a.values, many)) for a in (image, inside))
    maps = {n: image.copy(data=np.tile(t, many)) for n, t in zip(TISSUES, truth, strict=True)}
    expected = tissue.head_tissues(image, inside, maps if atlas else None)
    lazy, mask = (a.chunk(c) for a, c in zip((image, inside), chunks, strict=True))
    found = tissue.head_tissues(lazy, mask, maps if atlas else None)
    assert found.chunks == ((3,), *mask.chunks)
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


def test_what_is_no_tissue_counts_with_the_fluid_and_moves_no_other():
    image, inside, truth = ball(noise=0.03, seed=6)
    random = np.random.default_rng(6)
    spot = random.random(image.shape)
    junk = inside.values & (spot < 0.07)
    spoiled = image.copy(deep=True)
    spoiled.values[inside.values & (spot < 0.05)] *= 0.03
    spoiled.values[junk & (spot >= 0.05)] = random.uniform(1500, 3000)
    found = tissue.head_tissues(spoiled, inside)
    assert found.sel(tissue="csf").values[junk].mean() > 0.95
    clean = inside.values & ~junk
    true = (truth * clean).sum(axis=(1, 2, 3))
    kept = (found.values * clean).sum(axis=(1, 2, 3), dtype=float)
    assert np.abs(kept / true - 1).max() < 0.02


def test_an_atlas_tells_apart_what_brightness_cannot():
    image, inside, truth = ball(noise=0.12, seed=7)
    maps = {
        name: image.copy(data=np.clip(ndi.gaussian_filter(part, 1.5), 0, 1))
        for name, part in zip(TISSUES, truth, strict=True)
    }
    off = {}
    for name, priors in (("without", None), ("with", maps)):
        found = tissue.head_tissues(image, inside, priors, bias=False)
        off[name] = np.abs(found.values - truth)[:, inside.values].mean()
    assert off["with"] < 0.6 * off["without"]


def test_the_gain_of_the_scanner_does_not_matter():
    image, inside, _ = ball(noise=0.04, seed=8, size=24)
    one, other = (tissue.head_tissues(image * gain, inside) for gain in (1.0, 1 / 4096))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_head_of_known_truth_is_measured_within_two_percent():
    pytest.importorskip("nilearn")
    from cohort.phantom.heads import FINE, head

    made = head(seed=2026, index=1)
    image = made.scan["image"].load()
    labels = made.labels.values
    shape = [m for n in labels.shape for m in (n // FINE, FINE)]
    at = tuple(
        slice(first, first + n)
        for first, n in zip(
            (round(float(made.labels[d][0] - image[d][0]) / 2 + 0.25) for d in "zyx"),
            shape[::2],
            strict=True,
        )
    )
    truth = np.zeros((3, *image.shape))
    for i in range(3):
        truth[(i, *at)] = (labels == i + 1).reshape(shape).mean(axis=(1, 3, 5))
    inside = image.copy(data=truth.sum(axis=0) > 0.5)
    found = tissue.head_tissues(image, inside)
    assert np.abs(errors(found, truth * inside.values)).max() < 0.025
    assert np.abs(found.values - truth)[:, inside.values].mean() < 0.1


@pytest.mark.slow
def test_brains_of_a_real_cohort_lose_tissue_as_others_measured(shared):
    """Grey and white matter as a share of the skull-stripped volume, beside nWBV, which others found in other ways."""
    people = pd.read_csv(shared / "oasis" / "oasis1_cross_sectional.csv").set_index("ID")
    files = sorted((shared / "oasis1-mni2mm" / "uint8").glob("*_MR1.nii.gz"))[::3]
    share = []
    for path in files:
        image = nifti.read_image(path)["image"].load()
        found = tissue.volumes_ml(tissue.head_tissues(image, image > 0))
        share.append(float(1 - found.sel(tissue="csf") / found.sum()))
    known = people.loc[[path.name.removesuffix(".nii.gz") for path in files], "nWBV"]
    assert len(files) > 50
    assert np.corrcoef(share, known)[0, 1] > 0.9


def test_what_has_no_three_tissues_is_refused():
    image, inside, truth = ball(noise=0.02, seed=9, size=16)
    maps = {n: image.copy(data=t) for n, t in zip(TISSUES, truth, strict=True)}
    first = inside & (inside.z == inside.z[8]) & (inside.y == inside.y[11])
    n = int(first.sum())
    dark = image.where(~(inside & (image == image.where(inside).max())))
    for call, error, message in (
        (lambda: tissue.head_tissues(image, first), ValueError,
         f"inside holds {n} voxels, expected at least 100"),
        (lambda: tissue.head_tissues(dark, inside), ValueError, "infinite in 1 voxels inside"),
        (lambda: tissue.head_tissues(image * 0 + 3, inside), ValueError, "image is 3 everywhere"),
        (lambda: tissue.head_tissues((image > 400) * 1.0, inside), ValueError,
         "image has 2 different values inside"),
        (lambda: tissue.head_tissues(image, image), ValueError, "inside is float32, expected bool"),
        (lambda: tissue.head_tissues(image.expand_dims(time=2), inside), ValueError,
         r"take one position along time: image.isel\(time=0\)"),
        (lambda: tissue.head_tissues(image, inside.assign_coords(x=inside.x + 1)), GridError, "x"),
        (lambda: tissue.head_tissues(image, inside, {"csf": image}), ValueError,
         "priors has maps of 'csf'; expected 'csf', 'grey' and 'white'"),
        (lambda: tissue.head_tissues(image, inside, {**maps, "csf": maps["csf"] * 100}), ValueError,
         "priors hold 0 to 100, expected 0 to 1"),
        (lambda: tissue.head_tissues(image, inside, {**maps, "white": maps["white"] * 0}),
         ValueError, "priors see 0 voxels of white inside"),
        (lambda: tissue.head_tissues(800 - image, inside, maps), ValueError,
         "expected csf < grey < white, as in a T1-weighted image"),
    ):  # fmt: skip
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
