"""Filters against SciPy on the whole array: any shape, chunks, mode and dtype, to the bit."""

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
    masks,
    nothing_computed,
    scan,
    tasks_per_block,
)

from cohort.grid import GridError
from cohort.kernels import rankfilters, stencils
from cohort.kernels.halo import MODES
from cohort.ops import filters, graph, windows

modes = st.sampled_from(sorted(MODES))
WEIGHTS = np.random.default_rng(5).normal(size=(3, 2, 5)).round(2)


def sharpened(data, mode):
    weights = np.full((3,) * data.ndim, -1.0)
    weights[(1,) * data.ndim] = 3.0**data.ndim
    return ndi.convolve(data, weights, mode=mode)


LINEAR = {
    "gaussian": (
        lambda image, mode: filters.gaussian(image, sigma_mm=2.3, mode=mode),
        lambda data, mode: ndi.gaussian_filter(data, [2.3 / mm for mm in SPACING.values()], mode=mode),
    ),
    "gaussian of one dim": (
        lambda image, mode: filters.gaussian(image, sigma={"y": 1.2}, truncate=3.0, mode=mode),
        lambda data, mode: ndi.gaussian_filter(data, 1.2, truncate=3.0, mode=mode, axes=1),
    ),
    "convolve": (
        lambda image, mode: filters.convolve(image, weights=WEIGHTS.tolist(), mode=mode),
        lambda data, mode: ndi.convolve(data, WEIGHTS, mode=mode),
    ),
    "sobel": (
        lambda image, mode: filters.sobel(image, dim="y", mode=mode),
        lambda data, mode: ndi.sobel(data, 1, mode=mode),
    ),
    "gradient_magnitude": (
        lambda image, mode: filters.gradient_magnitude(image, mode=mode),
        lambda data, mode: ndi.generic_gradient_magnitude(data, ndi.sobel, mode=mode),
    ),
    "laplace": (
        lambda image, mode: filters.laplace(image, mode=mode),
        lambda data, mode: ndi.laplace(data, mode=mode),
    ),
    "sharpen": (lambda image, mode: filters.sharpen(image, mode=mode), sharpened),
}  # fmt: skip
RANK = {
    "median": (
        lambda image, mode: filters.median(image, size=3, mode=mode),
        lambda data, mode: ndi.median_filter(data, 3, mode=mode),
    ),
    "median of a box of even size": (
        lambda image, mode: filters.median(image, size={"z": 4, "x": 2}, mode=mode),
        lambda data, mode: ndi.median_filter(data, (4, 1, 2), mode=mode),
    ),
    "minimum": (
        lambda image, mode: filters.minimum(image, size=4, mode=mode),
        lambda data, mode: ndi.minimum_filter(data, 4, mode=mode),
    ),
    "maximum": (
        lambda image, mode: filters.maximum(image, size={"y": 7, "x": 3}, mode=mode),
        lambda data, mode: ndi.maximum_filter(data, (1, 7, 3), mode=mode),
    ),
    "percentile": (
        lambda image, mode: filters.percentile(image, size={"z": 3, "y": 2, "x": 3}, percentile=70.0, mode=mode),
        lambda data, mode: ndi.percentile_filter(data, 70.0, (3, 2, 3), mode=mode),
    ),
}  # fmt: skip
ALL = {
    **LINEAR,
    **RANK,
    "uniform": (
        lambda image, mode: filters.uniform(image, size={"z": 2, "y": 5, "x": 3}, mode=mode),
        lambda data, mode: ndi.uniform_filter(data, (2, 5, 3), mode=mode),
    ),
}


def promoted(image):
    return image.to_numpy().astype(stencils.promoted(image.dtype))


# The oracle.


@pytest.mark.parametrize("name", LINEAR)
@given(data=st.data(), image=images(), mode=modes)
def test_a_linear_filter_has_the_bits_of_scipy_for_every_chunking(name, data, image, mode):
    ours, oracle = LINEAR[name]
    expected = oracle(promoted(image), mode)
    (lazy,) = data.draw(chunked(image))
    for source in (image, lazy):
        actual = ours(source, mode)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, source)


@pytest.mark.parametrize("name", RANK)
@given(data=st.data(), image=images(), mode=modes)
def test_a_rank_filter_equals_scipy_for_every_chunking(name, data, image, mode):
    ours, oracle = RANK[name]
    expected = oracle(image.to_numpy(), mode)
    (lazy,) = data.draw(chunked(image))
    for source in (image, lazy):
        actual = ours(source, mode)
        assert actual.dtype == image.dtype
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, source)


@given(data=st.data(), image=images(), size=st.integers(1, 9), mode=modes)
def test_uniform_equals_scipy_and_has_the_same_bits_for_every_chunking(data, image, size, mode):
    whole = filters.uniform(image, size=size, mode=mode)
    expected = ndi.uniform_filter(promoted(image), size, mode=mode)
    tolerance = 1e-12 if whole.dtype == np.float64 else 1e-5
    scale = float(np.abs(image.to_numpy().astype(float)).max())
    np.testing.assert_allclose(whole, expected, rtol=tolerance, atol=tolerance * scale)
    (lazy,) = data.draw(chunked(image))
    np.testing.assert_array_equal(filters.uniform(lazy, size=size, mode=mode), whole)
    assert_kept(filters.uniform(lazy, size=size, mode=mode), lazy)


@given(data=st.data(), image=images(ndim=2, high=20), mode=modes)
def test_a_plane_is_filtered_as_a_plane(data, image, mode):
    (lazy,) = data.draw(chunked(image))
    values = promoted(image)
    pairs = [
        (filters.gaussian(lazy, sigma=1.3, mode=mode), ndi.gaussian_filter(values, 1.3, mode=mode)),
        (filters.sobel(lazy, dim="x", mode=mode), ndi.sobel(values, 1, mode=mode)),
        (filters.laplace(lazy, mode=mode), ndi.laplace(values, mode=mode)),
        (filters.sharpen(lazy, mode=mode), sharpened(values, mode)),
        (filters.median(lazy, size=3, mode=mode), ndi.median_filter(image.to_numpy(), 3, mode=mode)),
    ]  # fmt: skip
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)


# Widths.


def test_a_width_in_mm_is_isotropic_in_mm_and_fwhm_is_a_width_too():
    image = scan(np.random.default_rng(0).normal(size=(9, 17, 13)))
    in_mm = filters.gaussian(image, sigma_mm=2.0)
    in_voxels = {d: 2.0 / mm for d, mm in SPACING.items()}
    np.testing.assert_array_equal(in_mm, filters.gaussian(image, sigma=in_voxels))
    wide = filters.gaussian(image, fwhm_mm=2.0 * math.sqrt(8 * math.log(2)))
    np.testing.assert_allclose(wide, in_mm, rtol=1e-12, atol=1e-15)
    one = filters.gaussian(image, sigma_mm={"x": 2.0})
    np.testing.assert_array_equal(one, ndi.gaussian_filter1d(image.to_numpy(), 2.0 / 1.5, axis=2))


def test_a_ball_of_light_spreads_as_far_in_mm_along_every_dim():
    """The second moment of a smoothed point is the variance of the kernel, in mm2."""
    point = np.zeros((31, 61, 51))
    point[15, 30, 25] = 1
    image = filters.gaussian(scan(point), sigma_mm=4.0, truncate=6.0)
    for dim in "zyx":
        along = image.sum([d for d in image.dims if d != dim])
        away = along[dim] - along[dim][along.sizes[dim] // 2]
        assert float((along * away**2).sum()) == pytest.approx(16.0, rel=1e-3)


def test_zero_smooths_nothing():
    image = scan(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)).chunk(2)
    same = filters.gaussian(image, sigma_mm=0)
    np.testing.assert_array_equal(same, image)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(filters.median(image, size=1), image)


# Leading dims.


@pytest.mark.parametrize("name", ALL)
def test_frames_and_echoes_are_looped_over(name):
    ours, _ = ALL[name]
    data = np.random.default_rng(0).integers(0, 99, (3, 2, 5, 6, 7)).astype(np.int16)
    image = scan(data, lead=("time", "echo"))
    for source in (image, image.chunk({"time": 1, "z": 2, "x": 3})):
        actual = ours(source, "reflect")
        assert_kept(actual, source)
        for t in range(3):
            for e in range(2):
                one = ours(image.isel(time=t, echo=e), "reflect")
                np.testing.assert_array_equal(actual.isel(time=t, echo=e), one)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_time_is_filtered_along_when_it_is_named(mode):
    data = np.random.default_rng(0).integers(0, 99, (7, 5, 6, 4)).astype(np.int16)
    image = scan(data, lead=("time",)).assign_coords(time=0.04 * np.arange(7))
    single = data.astype(np.float32)
    for source in (image, image.chunk({"time": 3, "z": 1, "y": 4})):
        pairs = [
            (
                filters.gaussian(source, sigma={"time": 1.5, "x": 0.8}, mode=mode),
                ndi.gaussian_filter(single, (1.5, 0, 0, 0.8), mode=mode),
            ),
            (
                filters.maximum(source, size={"time": 3, "z": 2, "y": 3, "x": 2}, mode=mode),
                ndi.maximum_filter(data, (3, 2, 3, 2), mode=mode),
            ),
            (
                filters.median(source, size={"time": 3}, mode=mode),
                ndi.median_filter(data, (3, 1, 1, 1), mode=mode),
            ),
            (
                filters.median(source, size={"time": 3, "z": 3, "x": 2}, mode=mode),
                ndi.median_filter(data, (3, 3, 1, 2), mode=mode),
            ),
        ]
        for actual, expected in pairs:
            np.testing.assert_array_equal(actual, expected)
            assert_kept(actual, source)


# Dtypes.


def test_small_integers_never_wrap():
    image = scan(np.full((4, 5, 6), 200, np.uint8))
    mean = filters.convolve(image, weights=np.full((1, 3, 3), 0.11))
    np.testing.assert_allclose(mean, 198.0, rtol=1e-6)
    image[1, 2, 3] = 170
    edge = filters.convolve(image, weights=[[[0, 0, 0], [-1, 1, 0], [0, 0, 0]]])
    assert float(edge[1, 2, 2]) == 30.0
    assert float(edge[1, 2, 3]) == -30.0
    np.testing.assert_allclose(filters.uniform(image, size=3)[3], 200.0)


def test_sharpening_is_the_tutorials_example_and_leaves_a_constant_alone():
    plane = scan(np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], np.uint8))
    assert float(filters.sharpen(plane)[1, 1]) == 6.0
    flat = scan(np.full((3, 4, 5), 7, np.int16))
    np.testing.assert_array_equal(filters.sharpen(flat), 7.0)


def test_a_ramp_has_the_slope_that_the_docstring_states():
    ramp = scan(np.broadcast_to(np.arange(9.0), (5, 6, 9)).copy())
    assert float(filters.sobel(ramp, dim="x")[2, 3, 4]) == 32.0
    assert float(filters.gradient_magnitude(ramp)[2, 3, 4]) == 32.0
    assert float(filters.sobel(ramp.isel(z=0, drop=True), dim="x")[3, 4]) == 8.0
    assert float(filters.laplace(ramp**2)[2, 3, 4]) == 2.0


# Masks.


def inside(image, mask, sigma, mode):
    """Normalised convolution, whole, by SciPy."""
    smooth = {"sigma": sigma, "mode": mode}
    total = ndi.gaussian_filter(np.where(mask, image, 0.0).astype(np.float64), **smooth)
    share = ndi.gaussian_filter(mask.astype(np.float64), **smooth)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mask, total / share, image)


@given(data=st.data(), image=images(), mode=modes)
def test_inside_a_mask_only_what_is_inside_counts(data, image, mode):
    mask = data.draw(masks(shape=image.shape))
    sigma = (0.6, 1.5, 1.1)
    expected = inside(promoted(image), mask.to_numpy(), sigma, mode)
    lazy, lazy_mask = data.draw(chunked(image, mask))
    by_dim = dict(zip("zyx", sigma, strict=True))
    for source, where in ((image, mask), (lazy, lazy_mask)):
        actual = filters.gaussian(source, sigma=by_dim, mode=mode, mask=where)
        np.testing.assert_array_equal(actual, expected.astype(actual.dtype))
        assert_kept(actual, source)
        np.testing.assert_array_equal(actual.where(~mask, 0), promoted(image) * ~mask.values)


@given(data=st.data(), mask=masks(), mode=modes, dtype=st.sampled_from([np.uint8, np.float64]))
def test_a_constant_stays_constant_up_to_the_edge_of_the_mask(data, mask, mode, dtype):
    # Outside are numbers that must not leak in, and nothing at all.
    outside = np.array(255 if dtype is np.uint8 else np.nan, dtype)
    image = mask.copy(data=np.where(mask, np.array(201, dtype), outside))
    image, mask = data.draw(chunked(image, mask))
    smooth = filters.gaussian(image, sigma_mm=3.0, mode=mode, mask=mask).to_numpy()
    np.testing.assert_allclose(smooth[mask.values], 201.0, rtol=1e-12)
    np.testing.assert_array_equal(smooth[~mask.values], outside)


def test_a_mask_may_have_fewer_leading_dims():
    image = scan(np.random.default_rng(0).normal(size=(3, 4, 5, 6)), lead=("time",))
    mask = image[0] > 0
    actual = filters.gaussian(image, sigma=1.0, mask=mask)
    for t in range(3):
        one = filters.gaussian(image[t], sigma=1.0, mask=mask)
        np.testing.assert_array_equal(actual[t], one)


# The tests bite.


@pytest.mark.parametrize("name", ["gaussian", "gaussian of one dim"])
def test_a_kernel_whose_radius_is_one_less_is_found_out(name, monkeypatch):
    image = scan(np.random.default_rng(0).normal(size=(9, 17, 13)))
    ours, oracle = ALL[name]
    radius = stencils.gaussian_radius
    np.testing.assert_array_equal(ours(image, "reflect"), oracle(image.to_numpy(), "reflect"))
    monkeypatch.setattr(stencils, "gaussian_radius", lambda *given: max(0, radius(*given) - 1))
    assert (ours(image, "reflect").to_numpy() != oracle(image.to_numpy(), "reflect")).mean() > 0.9


@pytest.mark.parametrize("name", ALL)
def test_a_halo_that_is_one_voxel_short_is_found_out(name, monkeypatch):
    image = scan(np.random.default_rng(0).normal(size=(12, 15, 12))).chunk(4)
    ours, _ = ALL[name]
    whole = ours(image.compute(), "wrap").to_numpy()
    np.testing.assert_array_equal(ours(image, "wrap"), whole)
    full = graph.map_stencil

    def short(kernel, arrays, *, halo_voxels, **rest):
        return full(kernel, arrays, halo_voxels={d: max(0, n - 1) for d, n in halo_voxels.items()}, **rest)  # fmt: skip

    monkeypatch.setattr(windows.graph, "map_stencil", short)
    assert (ours(image, "wrap").to_numpy() != whole).any()


# Lazy, frugal, harmless.


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_computed_until_asked_and_the_input_stays(name):
    image = scan(np.random.default_rng(0).integers(0, 99, (8, 12, 10)).astype(np.float32))
    before = image.copy(deep=True)
    ours, _ = ALL[name]
    with nothing_computed():
        lazy = ours(image.chunk({"z": 3, "x": 4}), "reflect")
    assert lazy.chunks == image.chunk({"z": 3, "x": 4}).chunks
    np.testing.assert_array_equal(lazy, ours(image, "reflect"))
    xr.testing.assert_identical(image, before)
    assert not np.shares_memory(ours(image, "reflect").values, image.values)


@pytest.mark.parametrize("name", ALL)
def test_few_tasks_a_block(name):
    image = scan(np.zeros((32, 32, 32), np.float32)).chunk(8)
    assert tasks_per_block(ALL[name][0](image, "reflect"), image) <= 4


# Refusals.


def test_widths_that_mean_nothing_are_refused():
    image = scan(np.zeros((4, 5, 6), np.float32))
    for message, params in {
        "exactly one of sigma_mm, fwhm_mm, sigma; found none": {},
        r"exactly one of .*; found sigma_mm=2.0 and sigma=1.0": {"sigma_mm": 2.0, "sigma": 1.0},
        "sigma is -1.5 along y": {"sigma": {"y": -1.5}},
        "fwhm_mm is nan along z": {"fwhm_mm": math.nan},
        "sigma names 'time', but the dims of the image are": {"sigma": {"time": 1.0}},
        "truncate is 0, expected a positive": {"sigma": 1.0, "truncate": 0},
        "mode is 'mirrored', expected one of reflect, mirror, nearest, constant, wrap": {
            "sigma": 1.0,
            "mode": "mirrored",
        },
    }.items():
        with pytest.raises(ValueError, match=message):
            filters.gaussian(image, **params)
    frames = scan(np.zeros((2, 4, 5, 6), np.float32), lead=("time",))
    with pytest.raises(ValueError, match="sigma_mm names 'time', which is not in mm"):
        filters.gaussian(frames, sigma_mm={"time": 1.0})
    with pytest.raises(
        ValueError, match=r"only spatial dims are smoothed, but sigma is 2.0 along 'time'"
    ):
        filters.gaussian(frames, sigma={"time": 2.0}, mask=frames > 0)
    with pytest.raises(ValueError, match="mask is float32, expected bool"):
        filters.gaussian(image, sigma=1.0, mask=image)


def test_a_width_in_mm_needs_a_spacing_and_one_in_voxels_does_not():
    bare = xr.DataArray(np.ones((4, 5, 6), np.float32), dims=list("zyx"))
    np.testing.assert_allclose(filters.gaussian(bare, sigma=1.0), 1.0, rtol=1e-6)
    with pytest.raises(GridError, match="dimension 'z' has no coordinate in mm"):
        filters.gaussian(bare, sigma_mm=1.0)
    uneven = scan(np.ones((4, 5, 6))).assign_coords(z=[0.0, 3.0, 7.0, 10.0])
    with pytest.raises(GridError, match="'z' is not regular: step 1->2 is 4 mm"):
        filters.gaussian(uneven, fwhm_mm=5.0)
    filters.gaussian(uneven, fwhm_mm={"x": 5.0})
    with pytest.raises(GridError, match=r"4 x 5 x 6.*3 x 5 x 6"):
        filters.gaussian(scan(np.ones((4, 5, 6))), sigma=1.0, mask=scan(np.ones((3, 5, 6), bool)))


def test_boxes_that_mean_nothing_are_refused():
    image = scan(np.zeros((2, 4, 5, 6), np.float32), lead=("time",))
    for function in (filters.uniform, filters.minimum, filters.maximum, filters.median):
        for size, message in {
            0: "size is 0 along z",
            2.5: "size is 2.5 along z",
            True: "size is True along z",
        }.items():
            with pytest.raises(
                ValueError, match=f"{message}, expected a whole number of at least 1"
            ):
                function(image, size=size)
        with pytest.raises(ValueError, match="size names 'echo', but the dims of the image are"):
            function(image, size={"echo": 3})
        with pytest.raises(ValueError, match="mode is 'edge'"):
            function(image, size=3, mode="edge")
    with pytest.raises(ValueError, match=r"the box covers the 4 dims .*, expected at most three"):
        filters.median(image, size={"time": 2, "z": 3, "y": 3, "x": 3})
    with pytest.raises(ValueError, match=r"percentile is 101.0, expected a number from 0 to 100"):
        filters.percentile(image, size=3, percentile=101.0)


def test_weights_and_dims_that_mean_nothing_are_refused():
    image = scan(np.zeros((4, 5, 6), np.float32))
    with pytest.raises(ValueError, match=r"weights have shape \(3, 3\), expected 3 axes"):
        filters.convolve(image, weights=np.ones((3, 3)))
    with pytest.raises(ValueError, match="weights hold 1 that are not finite"):
        filters.convolve(image, weights=[[[1.0, math.inf]]])
    with pytest.raises(ValueError, match="dim is 'time', expected one of the spatial dims z, y, x"):
        filters.sobel(image, dim="time")
    with pytest.raises(ValueError, match="expected real numbers"):
        filters.laplace(image.astype(np.complex64))


@pytest.mark.parametrize("name", RANK)
def test_nan_has_no_rank_and_shows_when_computed(name):
    image = scan(np.ones((6, 7, 8), np.float32))
    image[3, 2, 1] = np.nan
    ours, _ = RANK[name]
    with pytest.raises(ValueError, match=r"1 voxels are NaN.* \(3, 2, 1\) of a block of 6 x 7 x 8"):
        ours(image, "reflect")
    lazy = ours(image.chunk(4), "reflect")
    with pytest.raises(ValueError, match="voxels are NaN, which has no rank; the first is at"):
        lazy.compute()


def test_the_network_of_a_median_is_made_once():
    rankfilters.selection.cache_clear()
    image = scan(np.zeros((4, 4, 4), np.float32)).chunk(2)
    filters.median(image, size=3).compute()
    assert rankfilters.selection.cache_info().misses == 1
