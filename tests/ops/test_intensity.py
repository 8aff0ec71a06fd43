import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy import stats
from skimage import exposure
from strategies import (
    assert_kept,
    chunked,
    images,
    nothing_computed,
    scan,
    tasks_per_block,
)

from cohort.grid import GridError
from cohort.ops import intensity, measure

SHAPE = (9, 14, 11)
REFERENCE = scan(np.random.default_rng(8).normal(300, 20, (5, 6, 7)).round().astype(np.int16))
NEW_SCALE = {
    "equalize": lambda image, mask=None: intensity.equalize(image, exclude=[0], mask=mask),
    "gaussian_stretch": lambda image, mask=None: intensity.gaussian_stretch(image, mask=mask),
    "standardize": lambda image, mask=None: intensity.standardize(image, mask=mask),
}
TRANSFORMS = {
    **NEW_SCALE,
    "match": lambda image: intensity.match(image, REFERENCE.assign_attrs(units=image.units)),
}
COUNTS = {
    "histogram": lambda image: intensity.histogram(image, bins=9, range=(-20, 200)),
    "cdf": lambda image: intensity.cdf(image, bins=9, range=(-20, 200)),
    "joint_histogram": lambda image: intensity.joint_histogram(image, image, bins=(4, 6)),
}


def phantom(dtype=np.float32, shape=SHAPE, seed=5):
    return scan(np.random.default_rng(seed).normal(90, 60, shape).astype(dtype))


def ball(shape=SHAPE):
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return scan(z**2 + (y - 0.2) ** 2 + x**2 < 0.7)


def contrasts(shape=SHAPE, n=3, dtype=np.float32):
    """Features that share most of what is in them, in different units."""
    rng = np.random.default_rng(6)
    mix = rng.normal(size=(n, n)) * 40 + 100 * np.eye(n)
    values = np.tensordot(mix, rng.normal(size=(n, *shape)), axes=1)
    values += np.arange(n).reshape(-1, 1, 1, 1) * 1000
    return xr.concat([scan(v.astype(dtype)) for v in values], dim="feature")


# Histograms.


@given(data=st.data(), image=images(), bins=st.integers(1, 80), low=st.integers(-50, 150))
def test_histogram_equals_scipy_for_every_chunking(data, image, bins, low):
    values = image.to_numpy()
    labels = scan(np.random.default_rng(0).integers(0, 5, values.shape))
    labels[0, 0, 0] = 2  # of a label that does not occur SciPy gives None
    ends = (low, low + data.draw(st.sampled_from([0, 1, 64, 1000])))
    scipys = (values, *ends, bins)
    lazy, lazy_labels = data.draw(chunked(image, labels))
    for a, where in ((image, labels), (lazy, lazy_labels)):
        found = intensity.histogram(a, bins=bins, range=ends)
        np.testing.assert_array_equal(found, ndi.histogram(*scipys))
        found = intensity.histogram(a, bins=bins, range=ends, labels=where)
        np.testing.assert_array_equal(found, ndi.histogram(*scipys, labels.to_numpy()))
        found = intensity.histogram(a, bins=bins, range=ends, labels=where, index=2)
        np.testing.assert_array_equal(found, ndi.histogram(*scipys, labels.to_numpy(), 2))
        found = intensity.histogram(a, bins=bins, range=ends, labels=where, index=[4, 77, 1])
        expected = [
            np.histogram(values[labels == n], np.linspace(*ends, bins + 1))[0] for n in (4, 77, 1)
        ]
        np.testing.assert_array_equal(found, expected)


def test_a_histogram_knows_its_bins_labels_and_units():
    image, labels = phantom(), ball().astype(np.int32)
    found = intensity.histogram(image, bins=4, range=(0, 200), labels=labels, index=[1])
    assert found.dims == ("label", "bin")
    assert found["label"].values.tolist() == [1]
    assert found["bin"].values.tolist() == [25, 75, 125, 175]
    assert found["bin"].attrs == {"units": "HU", "edges": [0, 50, 100, 150, 200]}
    assert found.attrs == {"units": "voxel"}
    assert found.dtype == np.int64
    alone = intensity.histogram(image, bins=4, range=(0, 200), labels=labels, index=1)
    assert alone.dims == ("bin",)
    assert int(alone["label"]) == 1
    masked = intensity.histogram(image, bins=4, range=(0, 200), labels=ball())
    np.testing.assert_array_equal(masked, alone)


def test_histograms_of_parts_add_up_to_that_of_the_whole():
    image = phantom()
    parts = [intensity.histogram(p, bins=30, range=(-80, 300)) for p in (image[:4], image[4:])]
    xr.testing.assert_equal(
        parts[0] + parts[1], intensity.histogram(image, bins=30, range=(-80, 300))
    )


@pytest.mark.parametrize("lazy", [False, True])
def test_cdf_is_the_share_of_voxels_up_to_a_bin(lazy):
    image = phantom().chunk(4) if lazy else phantom()
    with nothing_computed():
        counts = intensity.histogram(image, bins=20, range=(-50, 250))
        found = intensity.cdf(counts)
    expected = np.cumsum(counts.values) / counts.values.sum()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(intensity.cdf(image, bins=20, range=(-50, 250)), expected)
    xr.testing.assert_identical(found["bin"], counts["bin"])
    assert found.attrs == {"units": "1"}
    assert np.isnan(intensity.cdf(image, bins=2, range=(9e3, 9e4))).all()


@given(data=st.data(), a=images(), bins=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_joint_histogram_equals_numpy_on_the_common_support(data, a, bins):
    rng = np.random.default_rng(1)
    values = (a.to_numpy() * rng.random(a.shape)).astype(np.float32)
    values[rng.random(a.shape) < 0.2] = np.nan
    mask = rng.random(a.shape) < 0.8
    there = mask & np.isfinite(values)
    if not there.any():
        there[0, 0, 0] = mask[0, 0, 0] = True
        values[0, 0, 0] = 1
    expected, edges_a, edges_b = np.histogram2d(
        a.to_numpy()[there].astype(float), values[there].astype(float), bins
    )
    b = scan(values).assign_attrs(units="ms")
    for x, y, where in ((a, b, scan(mask)), data.draw(chunked(a, b, scan(mask)))):
        found = intensity.joint_histogram(x, y, bins=bins, mask=where)
        found = found.compute()
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(
            found["a"], (edges_a[:-1] + edges_a[1:]) / 2, rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(
            found["b"], (edges_b[:-1] + edges_b[1:]) / 2, rtol=1e-9, atol=1e-9
        )
        assert (found["a"].attrs["units"], found["b"].attrs["units"]) == ("HU", "ms")
        assert found.dims == ("bin_a", "bin_b")


def test_a_joint_histogram_of_nothing_counts_nothing():
    found = intensity.joint_histogram(
        phantom(), phantom(), bins=3, mask=scan(np.zeros(SHAPE, bool))
    )
    assert found.values.tolist() == np.zeros((3, 3)).tolist()
    assert np.isnan(found["a"]).all()


# Equalization.


@given(data=st.data(), image=images(), bins=st.integers(1, 300), masked=st.booleans())
def test_equalize_is_the_cumulative_share_of_the_range_for_every_chunking(
    data, image, bins, masked
):
    values = image.to_numpy()
    mask = scan(np.random.default_rng(0).random(values.shape) < 0.6)
    inside = mask.to_numpy() if masked else np.ones(values.shape, bool)
    excluded = float(values.flat[0])
    lazy, lazy_mask = data.draw(chunked(image, mask))
    in_memory = intensity.equalize(
        image, bins=bins, exclude=[excluded], mask=mask if masked else None
    )
    out_of_core = intensity.equalize(
        lazy, bins=bins, exclude=[excluded], mask=lazy_mask if masked else None
    )
    np.testing.assert_array_equal(in_memory, out_of_core)
    assert_kept(out_of_core, lazy)
    changed = inside & (values != excluded)
    np.testing.assert_array_equal(in_memory.values[~changed], values[~changed])
    if changed.any():
        edges = np.histogram_bin_edges(values[inside], bins).astype(float)
        exact = values[changed].astype(float)
        at = np.minimum(np.searchsorted(edges, exact, side="right") - 1, bins - 1)
        share = np.cumsum(np.bincount(at, minlength=bins)) / changed.sum()
        low, high = float(values[inside].min()), float(values[inside].max())
        expected = (low + share[at] * (high - low)).astype(in_memory.dtype)
        np.testing.assert_array_equal(in_memory.values[changed], expected)


def test_equalize_of_bytes_is_the_textbook_table_and_keeps_both_extremes():
    image = phantom(np.float32, (12, 40, 41)).clip(0, 255).astype(np.uint8)
    values = image.to_numpy()
    counts = ndi.histogram(values, 0, 255, 256)
    expected = (np.cumsum(counts) / counts.sum())[values] * 255
    np.testing.assert_allclose(intensity.equalize(image), expected, rtol=1e-7)
    counts[[0, 255]] = 0
    expected = (np.cumsum(counts) / counts.sum())[values] * 255
    extreme = (values == 0) | (values == 255)
    assert extreme.any()
    expected[extreme] = values[extreme]
    np.testing.assert_allclose(intensity.equalize(image, exclude=[0, 255]), expected, rtol=1e-7)


# Formulas.


@given(data=st.data(), image=images(), width=st.sampled_from([0.5, 1.0, 3.0]), masked=st.booleans())
def test_gaussian_stretch_equals_the_normal_distribution_for_every_chunking(
    data, image, width, masked
):
    values = image.to_numpy().astype(float)
    mask = scan(np.random.default_rng(0).random(values.shape) < 0.6)
    inside = mask.to_numpy() if masked else np.ones(values.shape, bool)
    lazy, lazy_mask = data.draw(chunked(image, mask))
    found = intensity.gaussian_stretch(image, width=width, mask=mask if masked else None)
    out_of_core = intensity.gaussian_stretch(lazy, width=width, mask=lazy_mask if masked else None)
    np.testing.assert_array_equal(found, out_of_core)
    expected = values.copy()
    if inside.any():
        mean, std = values[inside].mean(), values[inside].std()
        normal = stats.norm(mean, width * std).cdf if std > 0 else lambda v: 0.5 + 0 * v
        expected[inside] = normal(values[inside])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@given(data=st.data(), image=images(), masked=st.booleans())
def test_standardize_equals_its_formula_for_every_chunking(data, image, masked):
    values = image.to_numpy().astype(float)
    mask = scan(np.random.default_rng(0).random(values.shape) < 0.6)
    inside = mask.to_numpy() if masked else np.ones(values.shape, bool)
    lazy, lazy_mask = data.draw(chunked(image, mask))
    found = intensity.standardize(image, mask=mask if masked else None)
    np.testing.assert_array_equal(
        found, intensity.standardize(lazy, mask=lazy_mask if masked else None)
    )
    expected = values.copy()
    if inside.any():
        taken = values[inside]
        expected[inside] = (taken - taken.mean()) / max(taken.std(), 1 / np.sqrt(taken.size))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_standardize_has_the_parameters_that_measure_tells():
    image, mask = phantom(np.float64), ball()
    mean, std = measure.mean_in(image, mask=mask), measure.std_in(image, mask=mask)
    found = intensity.standardize(image, mask=mask).where(mask)
    np.testing.assert_allclose(found * std + mean, image.where(mask), rtol=1e-12)
    assert float(measure.mean_in(intensity.standardize(image, mask=mask), mask=mask)) == (
        pytest.approx(0, abs=1e-12)
    )


def test_sums_have_the_same_bits_however_tiles_are_cut():
    image = phantom(np.float32, (66, 3, 130)) + 1e4
    for chunks in ({"z": 65}, {"z": 1}, {"z": 13, "y": 2, "x": 77}):
        for name, transform in NEW_SCALE.items():
            np.testing.assert_array_equal(
                transform(image.chunk(chunks)), transform(image), err_msg=f"{name} {chunks}"
            )


# Whitening.


def covariance(features):
    return np.cov(features.values.astype(float).reshape(features.sizes["feature"], -1))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("shape", [SHAPE, (66, 5, 70)], ids=["one tile", "four tiles"])
def test_whitened_features_have_covariance_one_and_are_those_of_numpy(dtype, shape):
    features = contrasts(shape, dtype=np.float64)
    features = (features + features["z"]).round().astype(dtype)  # tiles with means of their own
    found = intensity.whiten(features)
    np.testing.assert_allclose(covariance(found), np.eye(3), atol=1e-6)
    flat = features.values.astype(float).reshape(3, -1)
    variances, axes = np.linalg.eigh(np.cov(flat))
    matrix = axes @ np.diag(1 / np.sqrt(variances + 1e-5)) @ axes.T
    expected = matrix @ (flat - flat.mean(axis=1, keepdims=True))
    rtol = 1e-9 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=rtol, atol=rtol)


def test_whitening_has_the_same_bits_for_every_chunking():
    features = contrasts((66, 3, 130), dtype=np.float64)
    expected = intensity.whiten(features)
    # The first gives tiles in another order than that of the whole.
    for chunks in ({"x": (64, 66)}, {"z": 1}, {"feature": 2, "y": 2, "x": (1, 99, 30)}):
        lazy = features.chunk(chunks)
        with nothing_computed():
            found = intensity.whiten(lazy)
        assert found.chunks == lazy.chunks
        np.testing.assert_array_equal(found, expected)


def test_whitening_drops_a_direction_that_holds_nothing():
    one = phantom(np.float64)
    features = xr.concat([one, 2 * one], dim="feature")
    found = intensity.whiten(features, epsilon=0)
    assert np.linalg.eigvalsh(covariance(found)) == pytest.approx([0, 1], abs=1e-9)
    assert (intensity.whiten(0 * features, epsilon=0) == 0).all()
    features[0, 0, 0, 0] = np.nan
    assert np.isnan(intensity.whiten(features)).all()


def test_whitening_keeps_coordinates_and_treats_times_one_by_one():
    features = xr.concat([contrasts(), 2 * contrasts() ** 2], dim="time").transpose("feature", ...)
    features = features.assign_coords(feature=["t1", "t2", "pd"], time=[0.0, 1.0]).assign_attrs(
        units="HU"
    )
    before = features.copy(deep=True)
    found = intensity.whiten(features)
    assert_kept(found.assign_attrs(units="HU"), features)
    assert found.attrs["units"] == "1"
    for t in (0, 1):
        np.testing.assert_array_equal(found.isel(time=t), intensity.whiten(features.isel(time=t)))
    swapped = intensity.whiten(features.transpose("time", ...).chunk(time=1))
    np.testing.assert_array_equal(swapped.transpose(*found.dims), found)
    xr.testing.assert_identical(features, before)


# Matching.


@given(data=st.data(), image=images(), reference=images(), unlike=st.booleans())
def test_match_equals_scikit_image_for_every_chunking(data, image, reference, unlike):
    if unlike and image.dtype.kind == "f":  # no two values alike, all of them levels of their own
        ranks = np.random.default_rng(2).permutation(image.size).reshape(image.shape)
        image = image.copy(data=ranks.astype(image.dtype) * 0.37)
    # scikit-image wants unsigned images to have unsigned references.
    plain = [a.astype(np.int64) if a.dtype.kind in "iu" else a for a in (image, reference)]
    expected = exposure.match_histograms(*(a.to_numpy() for a in plain))
    (lazy,), (lazy_reference,) = data.draw(chunked(image)), data.draw(chunked(reference))
    reference.attrs = {"units": "ms"}
    found = intensity.match(image, reference)
    tolerance = 1e-6 * float(np.ptp(reference.to_numpy())) + 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    if image.dtype.kind in "iu" and reference.dtype.kind in "iu":
        np.testing.assert_array_equal(found, expected.astype(np.float32))
    np.testing.assert_array_equal(intensity.match(lazy, lazy_reference), found)
    assert found.attrs == {"units": "ms"}


def test_match_maps_quantiles_where_there_are_more_values_than_levels():
    rng = np.random.default_rng(0)
    image, reference = scan(rng.normal(size=(30, 60, 60))), scan(rng.gamma(3.0, size=(20, 60, 61)))
    found = intensity.match(image.chunk(17), reference.chunk(15))
    shares = np.linspace(0.001, 0.999, 99)
    np.testing.assert_allclose(
        np.quantile(found, shares), np.quantile(reference, shares), atol=2e-3
    )
    expected = exposure.match_histograms(image.to_numpy(), reference.to_numpy())
    assert np.quantile(np.abs(found - expected), 0.999) < 1e-3 * float(np.ptp(reference.to_numpy()))


# What all of them promise.


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_transform_is_lazy_keeps_what_it_should_and_leaves_its_input_alone(name, dtype):
    image = phantom().clip(0).astype(dtype)
    before = image.copy(deep=True)
    lazy = image.chunk({"z": (4, 1, 4), "y": 14, "x": (3, 8)})
    with nothing_computed():
        found = TRANSFORMS[name](lazy)
    assert_kept(found.assign_attrs(units="HU"), lazy)
    assert found.attrs["units"] == ("HU" if name in ("equalize", "match") else "1")
    assert found.dtype == (np.float64 if dtype in (np.int32, np.float64) else np.float32)
    np.testing.assert_array_equal(found, TRANSFORMS[name](image))
    xr.testing.assert_identical(image, before)
    assert tasks_per_block(found, lazy) < 6


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_lazy_and_leave_their_input_alone(name):
    image = phantom()
    before = image.copy(deep=True)
    lazy = image.chunk({"z": (4, 1, 4), "y": 14, "x": (3, 8)})
    with nothing_computed():
        found = COUNTS[name](lazy)
    np.testing.assert_array_equal(found, COUNTS[name](image))
    xr.testing.assert_identical(image, before)
    assert tasks_per_block(found, lazy) < 6


@pytest.mark.parametrize("name", [*TRANSFORMS, *COUNTS])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_each_position_along_leading_dims_is_treated_by_itself(name, dtype):
    operation = {**TRANSFORMS, **COUNTS}[name]
    image = xr.concat([phantom(), 0.5 * phantom(seed=9) + 30], dim="time").astype(dtype)
    image = image.assign_coords(time=[0.0, 40.0]).assign_attrs(units="HU")
    for whole in (image, image.chunk(time=1, z=4), image.chunk(time=2, y=5)):
        found = operation(whole)
        assert found["time"].values.tolist() == [0.0, 40.0]
        for t in (0, 1):
            np.testing.assert_array_equal(found.isel(time=t), operation(image.isel(time=t)))


@pytest.mark.parametrize("name", NEW_SCALE)
def test_outside_a_mask_nothing_changes_and_an_empty_mask_changes_nothing(name):
    image = phantom(np.int16)
    found = NEW_SCALE[name](image, mask=ball())
    np.testing.assert_array_equal(found.where(~ball()), image.where(~ball()))
    assert (found.where(ball(), 0) != image.where(ball(), 0)).any()
    for nothing in (ball() & ~ball(), (ball() & ~ball()).chunk(5)):
        np.testing.assert_array_equal(NEW_SCALE[name](image, mask=nothing), image)


@pytest.mark.parametrize("name", ["equalize", "match"])
def test_what_is_not_finite_is_neither_counted_nor_changed(name):
    image = phantom().round()
    image[2, 3, :3] = [np.nan, np.inf, -np.inf]
    finite = np.isfinite(image.to_numpy())
    found = TRANSFORMS[name](image).to_numpy()
    np.testing.assert_array_equal(found[~finite], image.to_numpy()[~finite])
    if name == "equalize":
        expected = TRANSFORMS[name](image.where(finite, 0)).to_numpy()[finite]
    else:
        expected = exposure.match_histograms(
            image.to_numpy()[finite], REFERENCE.to_numpy().ravel().astype(np.float32)
        )
    np.testing.assert_allclose(found[finite], expected, rtol=1e-6)
    nowhere = image.where(False)
    np.testing.assert_array_equal(TRANSFORMS[name](nowhere), nowhere)


@pytest.mark.parametrize("name", ["gaussian_stretch", "standardize"])
def test_a_nan_that_counts_makes_all_nan_and_one_outside_the_mask_none(name):
    image = phantom()
    image[0, 0, 0] = np.nan
    assert np.isnan(NEW_SCALE[name](image)).all()
    assert np.isnan(NEW_SCALE[name](image, mask=ball())).sum() == 1
    image[0, 0, 0] = np.inf
    assert not np.isfinite(NEW_SCALE[name](image)).any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_constant_image_has_a_defined_result(name):
    flat = scan(np.full(SHAPE, 7, np.int16))
    found = TRANSFORMS[name](flat)
    expected = {"equalize": 7, "gaussian_stretch": 0.5, "standardize": 0, "match": REFERENCE.max()}
    assert (found == expected[name]).all()


def test_match_to_nothing_is_nothing():
    nowhere = phantom().where(False)
    assert np.isnan(intensity.match(phantom(), nowhere)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: intensity.histogram(i, bins=0, range=(0, 1)), "bins is 0, expected"),
        (lambda i: intensity.histogram(i, bins=2.5, range=(0, 1)), "bins is 2.5, expected"),
        (lambda i: intensity.histogram(i, bins=True, range=(0, 1)), "bins is True, expected"),
        (lambda i: intensity.histogram(i, bins=9, range=(255, 0)), "255.0 is above 0.0"),
        (lambda i: intensity.histogram(i, bins=9, range=(0, np.inf)), "expected two finite"),
        (lambda i: intensity.histogram(i, bins=9, range=(0, 1), index=1), "no numbered labels"),
        (lambda i: intensity.histogram(i, bins=9, range=(0, 1), labels=i), "expected integers"),
        (lambda i: intensity.cdf(i), "range is None"),
        (lambda i: intensity.cdf(COUNTS["histogram"](i), bins=9), "it has 9 bins"),
        (lambda i: intensity.equalize(i, bins=-3), "bins is -3"),
        (lambda i: intensity.equalize(i, exclude=[0, np.nan]), "cannot be excluded"),
        (lambda i: intensity.equalize(i, mask=i), "mask is float32, expected bool"),
        (lambda i: intensity.gaussian_stretch(i, width=0), "width is 0"),
        (lambda i: intensity.gaussian_stretch(i, width=np.nan), "width is nan"),
        (lambda i: intensity.standardize(i.astype(complex)), "image is complex128"),
        (lambda i: intensity.joint_histogram(i, i, bins=(3, 0)), "bins is 0"),
        (lambda i: intensity.joint_histogram(i, i, bins=(1, 2, 3)), "expected one number or two"),
        (lambda i: intensity.joint_histogram(i, i, bins=5000), "25,000,000 counters"),
        (lambda i: intensity.joint_histogram(i, i[1:], bins=5), "9 x 14 x 11"),
        (lambda i: intensity.whiten(i), "expected a leading dim 'feature'"),
        (lambda i: intensity.whiten(i.expand_dims("feature"), epsilon=-1), "epsilon is -1"),
        (lambda i: intensity.match(i, i.expand_dims("time")), "reference has dims"),
        (lambda i: intensity.match(i, i.astype(complex)), "reference is complex128"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_with_its_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(phantom())


@pytest.mark.parametrize("index", [[1, 2, 1], [0], [-3, 1], 0, [], [1.5], [[1]]])
def test_an_index_that_names_no_objects_is_refused(index):
    labels = ball().astype(np.int16)
    with pytest.raises(ValueError, match=r"index (is|holds)"):
        intensity.histogram(phantom(), bins=3, range=(0, 9), labels=labels, index=index)


def test_grids_that_differ_and_negative_labels_are_refused():
    image, labels = phantom(), ball().astype(np.int16)
    with pytest.raises(GridError, match="9 x 14 x 11"):
        intensity.histogram(image, bins=3, range=(0, 9), labels=labels[:, :4])
    with pytest.raises(GridError, match="9 x 14 x 11"):
        intensity.standardize(image, mask=ball()[:4])
    lazy = intensity.histogram(image.chunk(), bins=3, range=(0, 9), labels=-labels)
    with pytest.raises(ValueError, match="hold -1"):
        lazy.compute()


@given(data=st.data(), a=images(low=2), third=st.booleans())
def test_one_whitened_contrast_is_that_feature_of_all_of_them(data, a, third):
    rng = np.random.default_rng(3)
    values = [(a.values + s * rng.normal(size=a.shape)).astype(np.float32) for s in (9, 20)]
    given_ = [a, *map(scan, values[: 1 + third])]
    wide = np.result_type(*given_)
    expected = intensity.whiten(xr.concat([i.astype(wide) for i in given_], dim="feature"))
    lazy = data.draw(chunked(*given_))
    for row, which in enumerate("abc"[: len(given_)]):
        found = intensity.whiten_contrast(*given_, which=which)
        np.testing.assert_array_equal(found, expected[row])
        with nothing_computed():
            later = intensity.whiten_contrast(*lazy, which=which)
        np.testing.assert_array_equal(later, found)
        assert_kept(later.assign_attrs(units="HU"), lazy[0])
        assert found.attrs == {"units": "1"}
    with pytest.raises(ValueError, match="which is 'd', expected one of a, b"):
        intensity.whiten_contrast(*given_, which="d")


@given(st.data(), images(low=3), st.integers(1, 60), st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
def test_quantiles_of_a_histogram_are_within_half_a_bin_of_those_of_the_values(
    data, image, bins, q
):
    values = image.values.astype(float)
    low, high = values.min() - 1, values.max() + data.draw(st.floats(0, 50))
    parts = (image[:1], image[1:])
    counts = sum(intensity.histogram(p, bins=bins, range=(low, high)) for p in parts)
    found = intensity.quantile(counts, [q, 0.5])
    expected = np.quantile(values, [q, 0.5], method="inverted_cdf")
    assert found.attrs["error"] == pytest.approx((high - low) / bins / 2)
    assert np.abs(found - expected).max() <= found.attrs["error"] * (1 + 1e-9)
    assert float(intensity.quantile(counts, q)) == float(found[0])
    if float(np.ptp(values)) < 5000:
        whole = image.copy(data=np.rint(values))
        ends = (np.rint(values).min() - 0.5, np.rint(values).max() + 0.5)
        counts = intensity.histogram(whole, bins=int(ends[1] - ends[0]), range=ends)
        exact = np.quantile(whole.values, [q, 0.5], method="inverted_cdf")
        np.testing.assert_allclose(intensity.quantile(counts, [q, 0.5]), exact, rtol=1e-12)


def test_quantiles_know_their_unit_and_labels_and_nothing_of_nothing():
    image, labels = phantom(), ball().astype(np.int16)
    counts = intensity.histogram(image, bins=50, range=(-80, 300), labels=labels, index=[1, 5])
    found = intensity.quantile(counts, [0.25, 0.75])
    assert found.dims == ("label", "quantile")
    assert found["label"].values.tolist() == [1, 5]
    assert found.attrs == {"units": "HU", "error": pytest.approx(3.8)}
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    with pytest.raises(ValueError, match="expected what histogram"):
        intensity.quantile(image, 0.5)
    with pytest.raises(ValueError, match="q is 50, expected shares between 0 and 1"):
        intensity.quantile(counts, 50)
