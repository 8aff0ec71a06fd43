"""Likeness: what does not belong to the anatomy does not show, and left is left."""

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort import grid
from cohort.ops import likeness


def head(seed=0, side=40):
    """A lopsided blob with detail in air, (z, y, x) on canonical axes."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:side, :side, :side] - side / 2 + 0.5
    inside = 1 / (1 + np.exp(np.sqrt((z * 1.1) ** 2 + y**2 + ((x - 2) * 1.2) ** 2) - 13))
    detail = ndi.gaussian_filter(rng.normal(size=inside.shape), 2)
    return inside * (1 + 0.3 * detail / detail.std())


def coarse(values, affine=None):
    affine = np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine
    coords = grid.coordinates(affine, values.shape)
    return xr.DataArray(values, dims=grid.SPACE, coords=coords)


def r(a, b):
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    return float(np.corrcoef(a, b)[0, 1])


def seen(values, affine=None):
    return likeness.centred(coarse(values, affine), step_mm=8.0)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 99),
    scale=st.floats(0.01, 1e4),
    offset=st.floats(-1e3, 1e3),
    cut=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3),
    moved=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_scale_place_and_what_was_cut_off_do_not_show(seed, scale, offset, cut, moved):
    values = head(seed)
    place = tuple(slice(a, n - b) for (a, b), n in zip(cut, values.shape, strict=True))
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = moved
    assert r(seen(values), seen(values[place] * scale + offset, affine)) > 0.999
    assert r(seen(values), seen(head(seed + 100))) < 0.99


@settings(max_examples=20)
@given(code=st.permutations("RAS"), flips=st.tuples(*[st.booleans()] * 3))
def test_the_order_of_the_axes_in_the_file_does_not_show(code, flips):
    values = head()
    codes = [
        dict(zip("RAS", "LPI", strict=True))[c] if f else c
        for c, f in zip(code, flips, strict=True)
    ]
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = nib.orientations.apply_orientation(values.T, turn)
    affine = np.diag([5.0, 5, 5, 1]) @ nib.orientations.inv_ornt_aff(turn, values.T.shape)
    np.testing.assert_allclose(seen(turned.T, affine), seen(values), atol=1e-6)


def test_a_mirrored_scan_is_the_mirror_image():
    values = head()
    np.testing.assert_allclose(seen(values[..., ::-1]), seen(values)[..., ::-1], atol=1e-6)
    assert r(seen(values), seen(values[..., ::-1])) < 0.99


def test_norm_and_type_and_a_scan_of_one_value():
    found = seen(head())
    assert found.dtype == np.float32
    assert found.shape == (likeness.SIDE,) * 3
    assert np.sqrt((found.astype(float) ** 2).sum()) == pytest.approx(1)
    assert not seen(np.full((4, 5, 6), 7.0)).any()


def test_extent_is_the_longest_side():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    assert likeness.extent_mm(coarse(np.zeros((5, 20, 6)), affine)) == 60.0
