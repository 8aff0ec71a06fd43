"""A known field of a coil is found and divided out, to the same bits; what has none says so."""

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import xarray as xr

from cohort import grid
from cohort.ops import masks, space
from cohort.ops.register import bias_field, correct_bias
from cohort.phantom import Tissue, head
from cohort.phantom.heads import smooth_field

SHINE = {Tissue.CSF: 300, Tissue.GREY: 620, Tissue.WHITE: 1000, Tissue.BONE: 60, Tissue.MARROW: 350}


@cache
def scan() -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """A head (without its scalp) as a coil sees it, the field of the coil, and the tissue of each voxel."""
    made = head(seed=21, index=0)
    like = made.scan["image"]
    tissue = space.affine(made.labels.astype(np.int32), np.eye(4), like=like).compute()
    shine = np.zeros(len(Tissue) + 1, np.float32)
    for label, value in SHINE.items():
        shine[label] = value
    sharp = made.labels.copy(data=shine[made.labels.values]).assign_attrs(units="1")
    image = space.resample(sharp, like=like).compute()
    rng = np.random.default_rng(1)
    texture = 1 + 0.04 * rng.standard_normal(image.shape)
    field = np.exp(0.15 * smooth_field(rng, image.shape, knots_mm=70.0))
    values = (image.values * texture * field).astype(np.float32)
    return image.copy(data=values), image.copy(data=field), tissue


def spread(image: xr.DataArray, tissue: xr.DataArray, label: int) -> float:
    """Coefficient of variation within a tissue."""
    values = image.values[tissue.values == label]
    return float(values.std() / values.mean())


def test_a_known_field_is_found_and_divided_out():
    image, field, tissue = scan()
    found = bias_field(image)
    fixed = correct_bias(image)
    brain = ((tissue == Tissue.GREY) | (tissue == Tissue.WHITE)).values
    together = np.corrcoef(np.log(found.values[brain]), np.log(field.values[brain]))[0, 1]
    assert together > 0.95
    plain = image / field
    # Partial volumes and texture are left of it at best.
    before, after = (spread(i, tissue, Tissue.WHITE) for i in (image, fixed))
    assert before > 1.6 * after
    assert after < 1.05 * spread(plain, tissue, Tissue.WHITE)
    assert spread(fixed, tissue, Tissue.GREY) < spread(image, tissue, Tissue.GREY)


def test_what_is_promised_of_a_corrected_image():
    image, _, _ = scan()
    image = image.assign_attrs(modality="MR").rename("t1")
    kept = image.copy(deep=True)
    where = masks.threshold(image, above=100)
    found, field = correct_bias(image, where), bias_field(image, where)
    xr.testing.assert_identical(image, kept)
    assert found.dtype == field.dtype == np.float32
    assert found.attrs == image.attrs
    assert (found.name, field.name, field.attrs) == ("t1", "bias_field", {"units": "1"})
    for name in ("z", "y", "x", "grid"):
        xr.testing.assert_identical(found[name].variable, image[name].variable)
    assert float(field.min()) > 0
    np.testing.assert_array_equal(found > 0, image > 0)
    np.testing.assert_array_equal(found == 0, image == 0)
    counted = where.values
    np.testing.assert_allclose(np.log(field.values[counted]).mean(dtype=float), 0, atol=1e-5)
    gains = (np.log(i.values[counted]).mean(dtype=float) for i in (image, found))
    assert next(gains) == pytest.approx(next(gains), abs=1e-5)
    np.testing.assert_allclose(found * field, image, rtol=1e-5)
    doubled = correct_bias(2 * image, where)
    np.testing.assert_allclose(doubled, 2 * found, rtol=0.01)


def test_the_same_bits_for_any_number_of_threads_and_any_chunks():
    image, _, _ = scan()
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        found = []
        for threads in (1, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(bias_field(image, shrink=6))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    found.append(bias_field(image.chunk({"z": 31, "x": 50}), shrink=6))
    assert found[0].values.tobytes() == found[1].values.tobytes() == found[2].values.tobytes()


def test_leading_dims_have_fields_of_their_own_and_slices_have_one_too():
    image, field, _ = scan()
    both = xr.concat([image, image / field], dim="echo")
    found = bias_field(both, shrink=8)
    assert found.dims == both.dims
    for echo in range(2):
        np.testing.assert_array_equal(found[echo], bias_field(both[echo], shrink=8))
    plane = image.isel(z=60, drop=True)
    one = bias_field(plane, shrink=2)
    assert one.dims == ("y", "x")
    assert float(one.std()) > 0.02
    # How a grid lies in the world is nothing to a field along its axes.
    sheared = np.diag([2.0, 2.0, 2.0, 1.0])
    sheared[1, 2] = 0.6
    sheared[:3, 2] *= 2 / np.sqrt(0.6**2 + 4) * np.sqrt(1 + 0.09)
    tilted = grid.with_affine(image, sheared)
    assert tilted.z.attrs["spacing_mm"] == pytest.approx(2.0)
    np.testing.assert_allclose(bias_field(tilted, shrink=8), found[0], rtol=1e-4)


def test_what_has_no_field_says_why():
    image, _, _ = scan()
    small = image.isel(z=slice(40, 52), y=slice(40, 52), x=slice(40, 52))
    none = xr.zeros_like(small, dtype=np.bool_)
    cases = [
        (small, none, {}, "image has 0 positive voxels in its mask, 0 of them among every 3 x 3 x 3-th"),
        (-small, ~none, {}, "image has 0 positive voxels"),
        (xr.ones_like(small), ~none, {}, "image is 1 all over its mask: there is no field"),
        (small.where(small > 700), None, {}, "image has .* voxels that are not finite"),
        (small, small, {}, "mask is float32, expected bool"),
        (small.isel(z=0, y=0, drop=True), None, {}, "image has the spatial dims .'x',., expected two or three"),
        (small.isel(y=[3]), None, {}, "image has 1 voxel along y, expected at least 2 .* image.isel.y=0, drop=True"),
        (small, None, {"shrink": 0}, "shrink is 0, expected a whole number"),
        (small, None, {"iterations": 1.5}, "iterations is 1.5, expected a whole number"),
        (small, None, {"knots_mm": 0.0}, "knots_mm is 0.0, expected a positive number"),
    ]  # fmt: skip
    for given, where, options, message in cases:
        for call in (bias_field, correct_bias):
            with pytest.raises(ValueError, match=message):
                call(given, where, **options)
    with pytest.raises(grid.GridError, match="resample one onto the other"):
        bias_field(small, ~none[1:])
