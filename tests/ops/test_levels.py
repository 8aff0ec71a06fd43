"""Thresholds from the image, against scikit-image on the whole image."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from skimage import filters
from strategies import chunked, images, nothing_computed, scan, tasks_per_block

from cohort.grid import GridError
from cohort.ops import levels, masks

OURS = {
    levels.otsu: filters.threshold_otsu,
    levels.li: filters.threshold_li,
    levels.triangle: filters.threshold_triangle,
}
METHODS = pytest.mark.parametrize("method", OURS, ids=lambda f: f.__name__)


def continuous(shape=(9, 14, 11), dtype=np.float32):
    """Two tissues and air, with no two voxels alike."""
    rng = np.random.default_rng(4)
    centre = rng.choice([0.0, 60.0, 180.0], shape, p=[0.5, 0.3, 0.2])
    return scan((centre + rng.normal(0, 12, shape)).astype(dtype))


def within(method, image, expected):
    """To the bit, but for `li` of floating-point values."""
    if method is levels.li and image.dtype.kind == "f":
        return pytest.approx(float(expected), abs=1e-6 * float(np.ptp(image)))
    return float(expected)


@METHODS
@given(data=st.data(), image=images(), masked=st.booleans(), fine=st.booleans())
def test_a_threshold_is_that_of_scikit_image_for_every_chunking(method, data, image, masked, fine):
    values = image.to_numpy()
    if fine and values.dtype.kind == "f":
        values += np.random.default_rng(2).random(values.shape, values.dtype)
    mask = scan(np.random.default_rng(3).random(values.shape) < 0.7)
    taken = values[mask.to_numpy()] if masked else values.ravel()
    assume(taken.size)
    # scikit-image subtracts the minimum in the image's own dtype.
    assume(
        values.dtype != np.int16 or int(taken.max()) - int(taken.min()) <= np.iinfo(np.int16).max
    )
    expected = within(method, taken, OURS[method](taken.copy()))
    lazy, lazy_mask = data.draw(chunked(image, mask))
    in_memory = method(image, mask=mask if masked else None)
    out_of_core = method(lazy, mask=lazy_mask if masked else None)
    assert float(in_memory) == expected
    assert float(out_of_core) == float(in_memory)
    assert in_memory.dtype == np.float64
    assert in_memory.attrs == {"units": "HU"}


@METHODS
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.uint32])
def test_a_threshold_of_a_scan_is_that_of_scikit_image(method, dtype):
    image = continuous(dtype=np.float64)
    image = image.clip(0).astype(dtype)
    expected = OURS[method](image.to_numpy().ravel())
    assert float(method(image.chunk(4))) == within(method, image.to_numpy(), expected)


def test_li_is_as_close_as_a_level_where_no_two_values_are_alike():
    image = continuous((30, 30, 30), np.float64)
    expected = filters.threshold_li(image.to_numpy().ravel())
    assert float(levels.li(image)) == pytest.approx(
        expected, abs=1e-8 * float(np.ptp(image.to_numpy()))
    )


@pytest.mark.parametrize("seed", [1, 3, 19, 40, 50])
def test_li_of_a_few_outliers_and_many_values_close_together_is_that_of_scikit_image(seed):
    image = scan(np.random.default_rng(seed).lognormal(0, 2, (6, 7, 8)))
    assert float(levels.li(image)) == within(
        levels.li, image.to_numpy(), filters.threshold_li(image.to_numpy().ravel())
    )


def test_li_of_whole_floating_point_numbers_stops_where_scikit_image_does():
    rng = np.random.default_rng(2)
    tissue = np.where(rng.random(300) < 0.5, rng.normal(20, 15, 300), rng.normal(100, 40, 300))
    image = scan(tissue.round().reshape(5, 6, 10))
    expected = filters.threshold_li(image.to_numpy().ravel())
    assert float(levels.li(image)) == pytest.approx(expected, rel=1e-7)


@METHODS
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_thresholds_are_lazy_and_masks_take_them_before_they_are_known(method, dtype):
    image = continuous().astype(dtype)
    lazy = image.chunk(z=4, y=5)
    with nothing_computed():
        level = method(lazy, mask=(image > -20).chunk())
        bright = masks.threshold(lazy, above=level)
    np.testing.assert_array_equal(bright, image > float(method(image, mask=image > -20)))
    assert tasks_per_block(method(lazy), lazy) < 4


@METHODS
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_each_position_along_leading_dims_has_a_threshold(method, dtype):
    image = xr.concat([continuous(), 3 * continuous() + 5], dim="time").astype(dtype)
    found = method(image.assign_coords(time=[0.0, 40.0]).chunk(time=1, z=5))
    assert found.dims == ("time",)
    assert found["time"].values.tolist() == [0.0, 40.0]
    assert found.values.tolist() == [float(method(image.isel(time=t))) for t in (0, 1)]


@METHODS
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_value_is_its_own_threshold_and_an_empty_mask_has_none(method, dtype):
    image = scan(np.full((3, 4, 5), 7, dtype))
    assert float(method(image)) == 7
    assert np.isnan(method(image, mask=image > 9))


@METHODS
def test_what_is_not_finite_is_left_out_and_the_image_stays_as_it_is(method):
    image = continuous()
    image[0, :3] = np.nan
    image[1, 0] = np.inf
    image[1, 1] = -np.inf
    before = image.copy()
    finite = image.to_numpy()[np.isfinite(image.to_numpy())]
    assert float(method(image)) == within(method, finite, OURS[method](finite.copy()))
    xr.testing.assert_identical(image, before)
    assert np.isnan(method(image.where(False)))


def test_li_does_not_wrap_around_in_int16():
    wide = scan(np.array([[[-30_000, -29_990, 30_000, 30_010]]], np.int16))
    expected = filters.threshold_li(wide.to_numpy().astype(np.int64))
    assert float(levels.li(wide)) == expected


@METHODS
def test_masks_of_another_kind_or_grid_are_refused(method):
    image = continuous()
    with pytest.raises(ValueError, match="mask is float32, expected bool"):
        method(image, mask=image)
    with pytest.raises(GridError, match="9 x 14 x 11"):
        method(image, mask=(image > 0)[:, :5])
    with pytest.raises(ValueError, match="image is complex64"):
        method(image.astype(np.complex64))
