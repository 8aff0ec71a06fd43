"""Geometry: coordinates and affine agree with nibabel, survive selection, and refuse rather than guess."""

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.grid import GridError
from cohort.ops import measure

ALL_48 = [
    "".join(codes)
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for signs in np.ndindex(2, 2, 2)
    for codes in [[("LR", "PA", "IS")[axis][sign] for axis, sign in zip(order, signs, strict=True)]]
]


def oblique(angles=(0.2, -0.1, 0.3), zooms=(1.5, 2.0, 3.0), origin=(-30.0, 12.0, 7.0)):
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ np.diag(zooms)
    affine[:3, 3] = origin
    return affine


def image_of(affine, shape=(4, 5, 6)):
    return schema.make_scan(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)[
        "image"
    ]


@pytest.mark.parametrize("codes", ALL_48)
def test_canonical_equals_nibabel_for_all_48_axis_orders(codes):
    data = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    ras = nib.Nifti1Image(data, oblique())
    to = nib.orientations.axcodes2ornt(codes)
    image = ras.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to)
    )
    voxels, affine = grid.canonical(np.asarray(image.dataobj).T, image.affine)
    expected = nib.as_closest_canonical(image)
    np.testing.assert_array_equal(voxels.T, np.asarray(expected.dataobj))
    np.testing.assert_allclose(affine, expected.affine, atol=1e-12)
    assert grid.axis_codes(affine) == ("R", "A", "S")


@given(data=st.data(), angles=st.tuples(*[st.floats(-0.7, 0.7)] * 3), sheared=st.booleans())
def test_the_affine_follows_any_selection(data, angles, sheared):
    affine = oblique(angles)
    if sheared:
        affine[:3, 2] += 0.3 * affine[:3, 1]
    image = image_of(affine)
    index = {}
    for d, n in image.sizes.items():
        start = data.draw(st.integers(0, n - 1), label=d)
        stop = data.draw(st.integers(start + 1, n), label=d)
        kept = np.arange(n)[start : stop : data.draw(st.integers(1, 3))]
        index[d] = kept[::-1] if data.draw(st.booleans()) and len(kept) > 1 else kept
    part = image.isel(index)
    new = grid.affine_of(part)
    for corner in np.ndindex(2, 2, 2):
        at = dict(zip("zyx", corner, strict=True))
        position = [-at[d] * (1 - len(index[d])) for d in "xyz"]
        before = [index[d][-1 if at[d] else 0] for d in "xyz"]
        np.testing.assert_allclose(new @ [*position, 1], affine @ [*before, 1], atol=1e-9)


def test_a_product_of_spacings_is_the_voxel_volume_of_a_tilted_scan():
    affine = oblique()
    affine[:3, 2] += 0.25 * affine[:3, 1]
    assert grid.voxel_volume_mm3(image_of(affine)) == pytest.approx(
        abs(np.linalg.det(affine[:3, :3])), rel=1e-12
    )


def test_on_an_axis_aligned_grid_coordinates_are_world_positions():
    affine = np.diag([2.0, 2.0, 2.2, 1.0])
    affine[:3, 3] = (-125.5061, -109.38977, -86.742615)
    image = image_of(affine)
    for axis, d in enumerate("xyz"):
        np.testing.assert_array_equal(
            image[d], affine[axis, 3] + affine[axis, axis] * np.arange(image.sizes[d])
        )
    assert grid.spacing_mm(image) == {"z": 2.2, "y": 2.0, "x": 2.0}


def test_a_plain_array_with_regular_coordinates_is_enough():
    plain = xr.DataArray(
        np.zeros((3, 4, 5)),
        dims=grid.SPACE,
        coords={"z": [0, 3, 6], "y": np.arange(4) * 2.0 + 1, "x": np.arange(5) - 9.0},
    )
    np.testing.assert_array_equal(
        grid.affine_of(plain), [[1, 0, 0, -9], [0, 2, 0, 1], [0, 0, 3, 0], [0, 0, 0, 1]]
    )


def test_missing_irregular_and_single_coordinates_are_refused_with_numbers():
    plain = xr.DataArray(np.zeros((4, 2)), dims=("z", "y"))
    with pytest.raises(GridError, match="'z' has no coordinate in mm"):
        grid.spacing_mm(plain, ("z",))
    gap = plain.assign_coords(z=[0.0, 2.0, 6.0, 8.0])
    with pytest.raises(
        GridError,
        match=r"step 1->2 is 4 mm, mean step is 2.667 mm|step 1->2 is 4 mm, mean step is 2\.66667 mm",
    ):
        grid.spacing_mm(gap, ("z",))
    with pytest.raises(GridError, match="one voxel"):
        grid.spacing_mm(gap.isel(z=[1]), ("z",))
    with pytest.raises(GridError, match="singular"):
        grid.coordinates(np.zeros((4, 4)), (2, 2, 2))


@pytest.mark.parametrize("dim", grid.SPACE)
@pytest.mark.parametrize("unit", ["cm", "m", "um", "pixel", "s"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_coordinate_that_says_it_is_not_in_mm_is_refused_and_never_taken_for_mm(
    dim, unit, turned
):
    coords = {"z": 2.0 * np.arange(3), "y": 2.0 * np.arange(4), "x": 2.0 * np.arange(5)}
    plain = xr.DataArray(np.ones((3, 4, 5), bool), dims=grid.SPACE, coords=coords)
    image = grid.with_affine(plain, np.diag([2.0, 3, 4, 1])) if turned else plain
    for known in ("mm", "Millimeters", "millimetre", ""):
        image[dim].attrs["units"] = known
        assert grid.voxel_volume_mm3(image) == (24.0 if turned else 8.0)
    image[dim].attrs["units"] = unit
    for ask in (grid.spacing_mm, grid.voxel_volume_mm3, grid.affine_of, measure.volume_ml):
        with pytest.raises(GridError, match=f"coordinate '{dim}' is in {unit}, expected mm"):
            ask(image)
    one = image.isel({dim: 1})
    with pytest.raises(GridError, match=f"coordinate '{dim}' is in {unit}"):
        grid.affine_of(one)


def test_a_coordinate_of_text_is_refused():
    image = xr.DataArray(np.ones(3), dims="x", coords={"x": ["0", "1", "2"]})
    with pytest.raises(GridError, match=r"coordinate 'x' is .*, expected numbers in mm"):
        grid.spacing_mm(image, ["x"])


def test_two_grids_are_told_apart_with_both_shapes_or_the_distance():
    image = image_of(np.diag([2.0, 2.0, 2.0, 1.0]))
    with pytest.raises(
        GridError, match=r"image is 4 x 5 x 6 voxels of 2 x 2 x 2 mm .* but mask is 4 x 5 x 5"
    ):
        grid.check_same_grid(image=image, mask=image.isel(x=slice(5)))
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[0, 3] = 0.5
    with pytest.raises(GridError, match=r"up to 0\.5 mm apart"):
        grid.check_same_grid(image=image, mask=image_of(moved))
    moved[0, 3] = 0.0005
    grid.check_same_grid(image=image, mask=image_of(moved))
