"""One scale of intensity for many scanners: percentiles, what is learnt from them, and images brought onto it."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_kept, chunked, images, masks, nothing_computed, scan

from cohort.grid import GridError
from cohort.ops import intensity
from cohort.ops.landmarks import PERCENTILES, Landmarks

AT, VALUES = (2.0, 30.0, 75.0, 98.0), (0.0, 20.0, 70.0, 100.0)
SCALE = {"percentiles": AT, "values": VALUES}


def expected_of(values, own, becomes=VALUES):
    """NumPy's interpolation, and the first and last line going on."""
    own, becomes = np.asarray(own), np.asarray(becomes)
    found = np.interp(values, own, becomes)
    first, last = (np.diff(becomes) / np.diff(own))[[0, -1]]
    found = np.where(values < own[0], becomes[0] + (values - own[0]) * first, found)
    return np.where(values > own[-1], becomes[-1] + (values - own[-1]) * last, found)


def wide(data, dtype=None):
    """An image of many values, so that no landmarks fall together."""
    image = data.draw(images(dtype=dtype, low=6, high=12))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    return image.copy(data=rng.normal(120, 35, image.shape).clip(0, 255).astype(image.dtype))


@given(st.data(), st.booleans())
@settings(max_examples=25)
def test_percentiles_are_those_of_numpy_for_every_chunking(data, masked):
    image = data.draw(images())
    mask = data.draw(masks(shape=image.shape))
    lazy, lazy_mask = data.draw(chunked(image, mask))
    with nothing_computed():
        later = intensity.percentiles(lazy, at=AT, mask=lazy_mask if masked else None)
    found = intensity.percentiles(image, at=AT, mask=mask if masked else None)
    np.testing.assert_array_equal(later, found)
    assert found["percentile"].values.tolist() == list(AT)
    assert found.attrs == {"units": "HU"}
    inside = image.values[mask.values] if masked else image.values.ravel()
    if not inside.size:
        assert np.isnan(found).all()
        return
    exact = image.dtype.kind in "iu"
    tolerance = 1e-12 * 65536 if exact else float(np.ptp(inside)) * 2**-16 + 1e-9
    np.testing.assert_allclose(
        found, np.percentile(inside.astype(float), AT), rtol=1e-12, atol=tolerance
    )


@given(st.data(), st.booleans())
@settings(max_examples=25)
def test_an_image_is_moved_as_numpy_interpolates_for_every_chunking(data, masked):
    image = wide(data)
    mask = scan(np.random.default_rng(1).random(image.shape) < 0.8)
    given_mask = mask if masked else None
    found = intensity.normalize(image, **SCALE, mask=given_mask)
    lazy, lazy_mask = data.draw(chunked(image, mask))
    with nothing_computed():
        later = intensity.normalize(lazy, **SCALE, mask=lazy_mask if masked else None)
    assert_kept(later.assign_attrs(units="HU"), lazy)
    xr.testing.assert_identical(later.compute(), found)
    assert found.attrs["units"] == "1"
    inside = mask.values if masked else np.ones(image.shape, bool)
    own = intensity.percentiles(image, at=AT, mask=given_mask)
    values = image.values.astype(float)
    expected = np.where(inside, expected_of(values, own), values)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


@given(st.data(), st.floats(0.2, 5), st.floats(-100, 100))
def test_gain_and_offset_of_a_scanner_go_away(data, gain, offset):
    image = wide(data, np.float64)
    other = image.copy(data=gain * image.values + offset)
    a, b = (intensity.normalize(i, **SCALE) for i in (image, other))
    np.testing.assert_allclose(a, b, atol=0.02)  # levels are 2**-16 of the range


def test_larger_stays_larger_also_where_landmarks_fall_together():
    values = np.r_[np.zeros(60), np.arange(1, 41)].reshape(4, 5, 5).astype(np.int16)
    found = intensity.normalize(scan(values), percentiles=[1, 20, 50, 90], values=[0, 5, 10, 60])
    assert (np.diff(found.values.ravel()[60:]) > 0).all()
    # Three landmarks are 0: it goes to the mean of what they stand for.
    assert set(found.values.ravel()[:60]) == {5.0}


def test_the_scale_is_the_mean_of_stretched_percentiles():
    rng = np.random.default_rng(4)
    rows = np.sort(rng.normal(300, 90, (7, len(PERCENTILES))) * rng.uniform(1, 9, (7, 1)), axis=1)
    found = intensity.fit_landmarks(rows, scale=(0, 4000))
    stretched = [np.interp(row, row[[0, -1]], [0, 4000]) for row in rows]
    np.testing.assert_allclose(found.values, np.mean(stretched, axis=0), rtol=1e-12)
    assert (found.percentiles, found.n_scans) == (PERCENTILES, 7)
    assert Landmarks.from_json(found.to_json()) == found
    image = scan(rng.normal(size=(6, 7, 8)))
    assert intensity.normalize(image, **found.parameters()).dtype == np.float64


def test_what_is_not_finite_or_outside_is_neither_counted_nor_changed():
    image = scan(np.random.default_rng(0).normal(300, 90, (6, 7, 8)).astype(np.float32))
    expected = intensity.normalize(image[1:], **SCALE)
    image[0] = np.array([np.nan, np.inf, -np.inf, 0.0])[:, None].repeat(14, 1).reshape(7, 8)
    mask = scan(np.ones(image.shape, bool))
    mask[0] = ~np.isfinite(image[0])
    found = intensity.normalize(image, **SCALE, mask=mask)
    np.testing.assert_array_equal(found[1:], expected)
    np.testing.assert_array_equal(found[0], image[0])
    nothing = xr.zeros_like(mask)
    np.testing.assert_array_equal(intensity.normalize(image, **SCALE, mask=nothing), image)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda i: intensity.percentiles(i, at=[]), r"at is \[\], expected at least 1 rising"),
        (lambda i: intensity.percentiles(i, at=[5, 5]), "at is .*, expected at least 1 rising"),
        (lambda i: intensity.percentiles(i, at=[5, 101]), "expected percentiles from 0 to 100"),
        (lambda i: intensity.percentiles(i, mask=i), "mask is float64, expected bool"),
        (
            lambda i: intensity.normalize(i, percentiles=[1, 99], values=[0, 50, 100]),
            "there are 2 percentiles but 3 values",
        ),
        (
            lambda i: intensity.normalize(i, percentiles=[1, 99], values=[50, 50]),
            r"values is \[50\.0, 50\.0\], expected at least 2 rising",
        ),
        (lambda i: intensity.normalize(0 * i, **SCALE), "the image is 0 at every landmark"),
        (lambda i: intensity.fit_landmarks([]), "no image to learn landmarks from"),
        (lambda i: intensity.fit_landmarks([[3, 3]], at=[1, 99]), r"row 0 is \[3\.0, 3\.0\]"),
        (
            lambda i: intensity.fit_landmarks([[0, 0, 3], [1, 1, 2]], at=[1, 5, 99]),
            "percentiles 1 and 5 are one value in all of 2 images: give a mask",
        ),
        (lambda i: Landmarks.from_json("[1]"), "no landmarks: it holds list"),
        (
            lambda i: Landmarks.from_json(
                '{"percentiles": [1, 99], "values": [9, 1], "n_scans": 2, "left_out": []}'
            ),
            r"values is \[9\.0, 1\.0\]",
        ),
    ],
)
def test_what_makes_no_scale_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(scan(np.random.default_rng(0).normal(300, 90, (6, 7, 8))))


def test_another_grid_is_refused():
    image = scan(np.zeros((6, 7, 8)))
    with pytest.raises(GridError, match="6 x 7 x 8"):
        intensity.normalize(image, **SCALE, mask=scan(np.ones((5, 7, 8), bool)))
