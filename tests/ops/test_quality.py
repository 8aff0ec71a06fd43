"""Quality numbers against their definitions, and what spoils an image lowers them."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort.ops import quality

TISSUES = ("csf", "grey", "white")


def head(
    seed: int, noise: float = 4.0, ghost: float = 0.0
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """A box of three slabs in air: image, fractions and the true head."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 30, 28), int)
    labels[5:19, 6:12, 6:22], labels[5:19, 12:18, 6:22], labels[5:19, 18:24, 6:22] = 1, 2, 3
    clean = np.array([0.0, 60.0, 120.0, 180.0])[labels]
    values = np.hypot(
        clean + ghost * np.roll(clean, 12, axis=1) + rng.normal(0, noise, labels.shape),
        rng.normal(0, noise, labels.shape),
    )
    image = strategies.scan(values.astype(np.float32))
    shares = [image.copy(data=(labels == k).astype(np.float32)) for k in (1, 2, 3)]
    tissues = xr.concat(shares, "tissue", coords="minimal", compat="override").assign_coords(
        tissue=list(TISSUES)
    )
    return image, tissues, image.copy(data=labels > 0)


@given(seed=st.integers(0, 1000), noise=st.floats(1.0, 20.0))
def test_snr_and_cnr_are_those_of_mriqc(seed, noise):
    image, tissues, mask = head(seed, noise)
    values = image.values.astype(float)
    parts = [values[tissues.sel(tissue=t).values > 0] for t in TISSUES]
    ratios = [p.mean() / (p.std() * np.sqrt(p.size / (p.size - 1))) for p in parts]
    assert float(quality.snr(image, tissues)) == pytest.approx(np.mean(ratios))
    air = values[~mask.values]
    expected = abs(parts[2].mean() - parts[1].mean()) / np.sqrt(
        air.var() + parts[1].var() + parts[2].var()
    )
    assert float(quality.cnr(image, tissues, head=mask)) == pytest.approx(expected)


@given(seed=st.integers(0, 1000))
def test_efc_and_fber_are_those_of_mriqc(seed):
    image, _, mask = head(seed)
    values = image.values.astype(float)
    n, most = values.size, np.sqrt((values**2).sum())
    top = n / np.sqrt(n) * np.log(1 / np.sqrt(n))
    assert float(quality.efc(image)) == pytest.approx(
        (values / most * np.log((values + 1e-16) / most)).sum() / top
    )
    energy = [np.median(values[part] ** 2) for part in (mask.values, ~mask.values)]
    assert float(quality.fber(image, head=mask)) == pytest.approx(energy[0] / energy[1])


def test_efc_is_0_for_one_voxel_and_1_for_all_alike():
    one = strategies.scan(np.zeros((6, 7, 8), np.float32))
    assert np.isnan(quality.efc(one))
    one[2, 3, 4] = 9
    assert float(quality.efc(one)) == pytest.approx(0, abs=1e-12)
    assert float(quality.efc(xr.full_like(one, 5))) == pytest.approx(1)


def test_the_head_is_found_and_noise_and_ghosts_show():
    image, tissues, mask = head(0)
    found = quality.head_mask(image)
    assert 2 * float((found & mask).sum()) / float(found.sum() + mask.sum()) > 0.97
    noisy, ghosted = head(0, noise=12.0)[0], head(0, ghost=0.3)[0]
    assert quality.snr(noisy, tissues) < 0.5 * quality.snr(image, tissues)
    noisy_cnr, clean_cnr = (quality.cnr(i, tissues, head=mask) for i in (noisy, image))
    assert noisy_cnr < 0.5 * clean_cnr
    assert quality.efc(ghosted) > quality.efc(image)
    assert quality.fber(noisy) < 0.5 * quality.fber(image)


def test_gain_changes_nothing():
    image, tissues, mask = head(3)
    for number in (
        lambda i: quality.snr(i, tissues),
        lambda i: quality.cnr(i, tissues, head=mask),
        quality.efc,
        quality.fber,
    ):
        np.testing.assert_allclose(number(4 * image), number(image), rtol=1e-6)
        np.testing.assert_array_equal(number(image.chunk(9)), number(image))
        assert number(image).attrs == {"units": "1"}


def test_what_is_not_defined_is_nan():
    image, tissues, mask = head(1)
    assert np.isnan(quality.snr(image, tissues.where(tissues.tissue != "grey", 0)))
    assert np.isnan(quality.cnr(image, tissues.where(tissues.tissue != "grey", 0)))
    assert np.isnan(quality.fber(image.where(mask, 0), head=mask))
    assert np.isnan(quality.fber(image, head=xr.ones_like(mask)))
    assert not quality.head_mask(xr.zeros_like(image)).any()


def test_other_dims_and_tissues_are_refused():
    image, tissues, _ = head(2)
    for number in (quality.efc, quality.fber, quality.head_mask):
        with pytest.raises(ValueError, match=r"dims \('time', 'z', 'y', 'x'\)"):
            number(image.expand_dims(time=2))
    with pytest.raises(ValueError, match="tissues has csf, grey, expected csf, grey and white"):
        quality.snr(image, tissues[:2])
    with pytest.raises(ValueError, match=r"grid|voxel|mm"):
        quality.snr(image[1:], tissues)
