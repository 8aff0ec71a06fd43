import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import (
    SPACING,
    assert_kept,
    chunked,
    images,
    nothing_computed,
    scan,
    tasks_per_block,
)
from strategies import masks as mask_arrays

from cohort.grid import GridError
from cohort.kernels import morphology
from cohort.ops import masks, measure

MORPHOLOGY = {
    masks.erode: ndi.binary_erosion,
    masks.dilate: ndi.binary_dilation,
    masks.open: ndi.binary_opening,
    masks.close: ndi.binary_closing,
}
ON_MASK = {
    **{op.__name__: op for op in MORPHOLOGY},
    "ball": lambda mask: masks.dilate(mask, radius_mm=3.1),
    "invert": masks.invert,
    "fill_holes": masks.fill_holes,
    "largest_component": masks.largest_component,
    "remove_small": lambda mask: masks.remove_small(mask, min_ml=0.02),
    "intersect": lambda mask: masks.intersect(mask, mask),
    "unite": lambda mask: masks.unite(mask, mask),
    "subtract": lambda mask: masks.subtract(mask, mask),
}


def full(connectivity=1):
    return ndi.generate_binary_structure(3, connectivity)


def blob(shape=(9, 11, 13), seed=3):
    noise = ndi.gaussian_filter(np.random.default_rng(seed).random(shape), 1.0)
    return scan(noise > np.quantile(noise, 0.6))


# Thresholds.


@given(data=st.data(), image=images(), above=st.floats(-50, 200), width=st.floats(0, 200))
def test_threshold_equals_the_comparison_in_float64(data, image, above, width):
    bounds = data.draw(
        st.sampled_from(
            [{"above": above}, {"below": above}, {"above": above, "below": above + width}]
        )
    )
    exact = image.to_numpy().astype(float)
    expected = (exact > bounds.get("above", -np.inf)) & (exact < bounds.get("below", np.inf))
    (lazy,) = data.draw(chunked(image))
    for given_image in (image, lazy):
        actual = masks.threshold(given_image, **bounds)
        assert actual.dtype == bool
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, given_image)


def test_threshold_takes_a_number_that_is_not_known_yet():
    image = scan(np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)).chunk(3)
    with nothing_computed():
        level = measure.median_in(image)
        dark = masks.threshold(image, below=0.9 * level)
    expected = image.to_numpy() < 0.9 * np.median(image.to_numpy().astype(float))
    np.testing.assert_array_equal(dark, expected)
    # Also of an image in memory: the result is as lazy as the number.
    np.testing.assert_array_equal(masks.threshold(image.compute(), below=0.9 * level), expected)


def test_threshold_takes_a_number_for_each_frame():
    frames = scan(np.random.default_rng(0).random((3, 4, 5, 6)), lead=("time",))
    level = measure.mean_in(frames)
    expected = frames.to_numpy() > frames.to_numpy().mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_array_equal(masks.threshold(frames, above=level), expected)
    lazy = frames.chunk(time=2, y=3)
    np.testing.assert_array_equal(masks.threshold(lazy, above=measure.mean_in(lazy)), expected)


def test_nan_is_neither_above_nor_below():
    image = scan(np.array([[[np.nan, 1.0]]]))
    assert not masks.threshold(image, above=-np.inf).to_numpy()[0, 0, 0]
    assert not masks.threshold(image, below=np.inf).to_numpy()[0, 0, 0]


@pytest.mark.parametrize("bounds", [{}, {"above": math.nan}, {"below": np.float32("nan")}])
def test_threshold_refuses_no_bound_and_nan(bounds):
    with pytest.raises(ValueError, match=r"needs above|is nan"):
        masks.threshold(scan(np.zeros((2, 2, 2))), **bounds)


def test_a_lazy_threshold_that_turns_out_to_be_nan_is_refused_when_computed():
    image = scan(np.zeros((2, 2, 2))).chunk(1)
    level = measure.mean_in(image, mask=masks.threshold(image, above=1))
    lazy = masks.threshold(image, above=level)
    with pytest.raises(ValueError, match="above is NaN"):
        lazy.compute()


def test_a_number_with_spatial_dims_is_refused():
    image = scan(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"above has dims .*but not z"):
        masks.threshold(image, above=image.isel(y=0, x=0))


# Algebra.


@given(data=st.data(), one=mask_arrays(high=6))
def test_algebra_equals_numpy_for_any_two_chunkings(data, one):
    other = data.draw(mask_arrays(shape=one.shape))
    a, b = one.to_numpy(), other.to_numpy()
    lazy, lazy_other = data.draw(chunked(one, other))
    for m, o in ((one, other), (lazy, lazy_other), (lazy, other), (one, lazy_other)):
        np.testing.assert_array_equal(masks.intersect(m, o), a & b)
        np.testing.assert_array_equal(masks.unite(m, o), a | b)
        np.testing.assert_array_equal(masks.subtract(m, o), a & ~b)
        np.testing.assert_array_equal(masks.invert(m), ~a)


@given(data=st.data(), image=images(high=6))
def test_apply_equals_where_and_keeps_the_dtype(data, image):
    mask = data.draw(mask_arrays(shape=image.shape))
    lazy, lazy_mask = data.draw(chunked(image, mask))
    for i, m in ((image, mask), (lazy, lazy_mask), (lazy, mask)):
        actual = masks.apply(i, m, fill=3)
        assert actual.dtype == image.dtype
        np.testing.assert_array_equal(actual, np.where(mask, image, image.dtype.type(3)))
        assert_kept(actual, i)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [(np.uint8, -1), (np.uint8, 256), (np.int16, 0.5), (np.uint16, np.nan), (bool, 2)],
)
def test_apply_refuses_a_fill_that_the_image_cannot_hold(dtype, fill):
    image = scan(np.zeros((2, 2, 2), dtype))
    with pytest.raises(ValueError, match=f"fill is {fill}, but the image is {np.dtype(dtype)}"):
        masks.apply(image, scan(np.ones((2, 2, 2), bool)), fill=fill)


def test_a_mask_of_one_frame_serves_all_frames():
    frames = scan(np.random.default_rng(0).random((3, 4, 5, 6)), lead=("time",))
    mask = frames.isel(time=0) > 0.4
    expected = np.where(mask, frames, 0)
    np.testing.assert_array_equal(masks.apply(frames, mask), expected)
    np.testing.assert_array_equal(masks.apply(frames.chunk(time=1, x=4), mask.chunk(z=3)), expected)


# Morphology.


@given(
    data=st.data(),
    mask=mask_arrays(),
    op=st.sampled_from(list(MORPHOLOGY)),
    iterations=st.integers(1, 4),
    connectivity=st.integers(1, 3),
)
def test_morphology_equals_scipy_for_every_chunking(data, mask, op, iterations, connectivity):
    (lazy,) = data.draw(chunked(mask))
    expected = MORPHOLOGY[op](mask.to_numpy(), full(connectivity), iterations)
    for m in (mask, lazy):
        actual = op(m, iterations=iterations, connectivity=connectivity)
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, m)


@given(
    data=st.data(),
    mask=mask_arrays(),
    op=st.sampled_from(list(MORPHOLOGY)),
    radius=st.sampled_from([0.0, 1.0, 1.5, 2.9, 3.0, 4.4]),
)
def test_a_radius_is_a_ball_in_mm_for_every_chunking(data, mask, op, radius):
    reach = [int(radius / mm) for mm in SPACING.values()]
    offsets = np.meshgrid(
        *(mm * np.arange(-n, n + 1) for n, mm in zip(reach, SPACING.values(), strict=True)),
        indexing="ij",
    )
    structure = sum(o**2 for o in offsets) <= radius**2
    (lazy,) = data.draw(chunked(mask))
    expected = MORPHOLOGY[op](mask.to_numpy(), structure)
    for m in (mask, lazy):
        np.testing.assert_array_equal(op(m, radius_mm=radius), expected)


@pytest.mark.parametrize("op", list(MORPHOLOGY), ids=lambda op: op.__name__)
@pytest.mark.parametrize("ndim", [1, 2])
def test_planes_and_lines_have_no_border_across(op, ndim):
    mask = np.random.default_rng(ndim).random((15, 17)[:ndim]) < 0.8
    expected = MORPHOLOGY[op](mask, ndi.generate_binary_structure(ndim, 1), 2)
    for m in (scan(mask), scan(mask).chunk(4)):
        np.testing.assert_array_equal(op(m, iterations=2), expected)


@pytest.mark.parametrize("op", list(MORPHOLOGY), ids=lambda op: op.__name__)
@pytest.mark.parametrize("choice", [{"iterations": 3}, {"radius_mm": 4.0}])
def test_the_halo_is_tight(monkeypatch, op, choice):
    """One voxel less along any axis gives another result, so the tests above would see it."""
    exact = morphology.extent
    noise = np.random.default_rng(0).random((24, 24, 24))
    for axis in range(3):
        monkeypatch.setattr(
            morphology,
            "extent",
            lambda e, axis=axis: tuple(n - (a == axis) for a, n in enumerate(exact(e))),
        )
        differs = False
        for share in (0.001, 0.02, 0.1, 0.3, 0.9, 0.98, 0.999):
            mask = scan(noise < share)
            differs = (
                differs
                or (op(mask.chunk(8), **choice).to_numpy() != op(mask, **choice).to_numpy()).any()
            )
        assert differs


def test_frames_are_eroded_one_by_one():
    frames = np.random.default_rng(0).random((3, 6, 7, 8)) < 0.9
    expected = np.stack([ndi.binary_erosion(f, iterations=2) for f in frames])
    mask = scan(frames, lead=("time",))
    for m in (mask, mask.chunk(time=2, z=3, y=4, x=5), mask.chunk(time=1)):
        np.testing.assert_array_equal(masks.erode(m, iterations=2), expected)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"iterations": 0}, r"iterations is 0"),
        ({"iterations": 1.5}, r"iterations is 1\.5"),
        ({"radius_mm": -1.0}, r"radius_mm is -1\.0"),
        ({"radius_mm": math.nan}, r"radius_mm is nan"),
        ({"radius_mm": 2.0, "iterations": 3}, r"radius_mm is 2\.0, so iterations \(3\)"),
        ({"connectivity": 4}, r"connectivity is 4"),
    ],
)
@pytest.mark.parametrize("op", list(MORPHOLOGY), ids=lambda op: op.__name__)
def test_morphology_refuses_what_it_cannot_do(op, choice, message):
    with pytest.raises(ValueError, match=message):
        op(blob(), **choice)


def test_a_radius_needs_coordinates():
    bare = blob().drop_vars("y")
    assert masks.erode(bare).shape == bare.shape
    with pytest.raises(GridError, match="'y' has no coordinate in mm"):
        masks.erode(bare, radius_mm=2.0)


# Holes and components.


@given(data=st.data(), mask=mask_arrays(), ndim=st.integers(1, 3))
def test_fill_holes_equals_scipy_for_every_chunking(data, mask, ndim):
    mask = mask.isel(dict.fromkeys("zyx"[: 3 - ndim], 0), drop=True)
    (lazy,) = data.draw(chunked(mask))
    expected = ndi.binary_fill_holes(mask.to_numpy())
    for m in (mask, lazy):
        actual = masks.fill_holes(m)
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, m)


def test_a_hole_across_many_blocks_is_filled():
    shell = np.zeros((11, 12, 13), bool)
    shell[1:-1, 1:-1, 1:-1] = True
    shell[3:-3, 3:-3, 3:-3] = False
    solid = ndi.binary_fill_holes(shell)
    assert solid.sum() > shell.sum()
    np.testing.assert_array_equal(masks.fill_holes(scan(shell).chunk(4)), solid)


@given(data=st.data(), mask=mask_arrays(), connectivity=st.integers(1, 3))
def test_largest_component_equals_scipy_for_every_chunking(data, mask, connectivity):
    labels, n = ndi.label(mask.to_numpy(), full(connectivity))
    expected = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if n else labels > 0
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        actual = masks.largest_component(m, connectivity=connectivity)
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, m)


def test_of_two_equal_components_the_first_stays():
    mask = np.zeros((1, 3, 9), bool)
    mask[0, 2, 0:2] = mask[0, 0, 7:9] = True
    for m in (scan(mask), scan(mask).chunk(x=3)):
        kept = masks.largest_component(m).to_numpy()
        assert np.argwhere(kept).tolist() == [[0, 0, 7], [0, 0, 8]]


@given(data=st.data(), mask=mask_arrays(), voxels=st.integers(0, 9), connectivity=st.integers(1, 3))
def test_remove_small_keeps_components_of_just_the_volume(data, mask, voxels, connectivity):
    labels, _ = ndi.label(mask.to_numpy(), full(connectivity))
    expected = (np.bincount(labels.ravel()) >= voxels)[labels] & mask.to_numpy()
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        actual = masks.remove_small(m, min_ml=voxels * 0.0045, connectivity=connectivity)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("min_ml", [-0.1, math.nan])
def test_remove_small_refuses_a_volume_that_is_none(min_ml):
    with pytest.raises(ValueError, match=f"min_ml is {min_ml}"):
        masks.remove_small(blob(), min_ml=min_ml)


# What holds for all.


@pytest.mark.parametrize("op", ON_MASK.values(), ids=list(ON_MASK))
def test_nothing_is_computed_until_asked(op):
    with nothing_computed():
        lazy = op(blob().chunk(4))
    assert lazy.dtype == bool
    np.testing.assert_array_equal(lazy, op(blob()))


@pytest.mark.parametrize("op", ON_MASK.values(), ids=list(ON_MASK))
def test_the_mask_is_not_modified_and_may_be_read_only(op):
    mask = blob()
    kept = mask.copy(deep=True)
    mask.data.flags.writeable = False
    result = op(mask)
    result.data[...] = True
    xr.testing.assert_identical(mask, kept)


@pytest.mark.parametrize("op", ON_MASK.values(), ids=list(ON_MASK))
def test_a_mask_is_bool(op):
    with pytest.raises(ValueError, match=r"mask is int64, expected bool"):
        op(blob().astype(np.int64))


@pytest.mark.parametrize("op", ON_MASK.values(), ids=list(ON_MASK))
def test_a_block_takes_few_tasks(op):
    mask = scan(np.random.default_rng(0).random((24, 24, 24)) < 0.5).chunk(6)
    assert tasks_per_block(op(mask), mask) <= 8


@pytest.mark.parametrize(
    "op", [masks.intersect, masks.unite, masks.subtract, masks.apply], ids=lambda op: op.__name__
)
def test_two_grids_are_refused_with_both_shapes(op):
    with pytest.raises(GridError, match=r"9 x 11 x 13 .* 9 x 11 x 12"):
        op(blob(), blob((9, 11, 12)))
    moved = blob().assign_coords(z=blob().z + 0.5)
    with pytest.raises(GridError, match=r"lie up to 0\.5 mm apart"):
        op(blob(), moved)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("z", "time", "x"), "leading dims come first"),
        (("a", "b", "c"), "expected .*'z', 'y', 'x'"),
    ],
)
def test_dims_that_are_none_are_refused(dims, message):
    with pytest.raises(ValueError, match=message):
        masks.invert(xr.DataArray(np.zeros((2, 2, 2), bool), dims=dims))


def test_an_array_that_is_no_dataarray_is_refused():
    with pytest.raises(TypeError, match=r"mask is a ndarray, expected an xarray\.DataArray"):
        masks.erode(np.zeros((2, 2, 2), bool))
