"""One test for each row of the table of capabilities: what the tutorials show, and what is promised in its place.

Rows are numbered as there; each test holds the row's statement and its published numbers against the public interface. What is proved
at length elsewhere is short here. Numbers that need the tutorials' own files are looked for in the folder that COHORT_SEED_DATA names:
hand-xray.jpg, T1_mask.nii, b0_mask.nii, heart.npy and heart-labels.npy, brain-fixed.npy and brain-moved.npy.
"""

import math
import os
import shutil
from fractions import Fraction
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import xarray as xr
from scipy import ndimage as ndi
from scipy import stats
from strategies import nothing_computed, scan

import cohort
from cohort import compare, filters, grid, intensity, labels, masks, measure, motion, space
from cohort.api import Options
from cohort.reporting import figures, plots, slices

CATALOGS = Path(__file__).resolve().parents[1] / "catalogs/cohorts"


def seed_file(name):
    """A file of the tutorials."""
    folder = os.environ.get("COHORT_SEED_DATA")
    if not folder or not (path := Path(folder) / name).exists():
        pytest.skip(f"COHORT_SEED_DATA names no folder with {name}, a file of the tutorials")
    return path


def image(values, **spacing):
    """An array on a grid of these steps; 1 mm where none is given."""
    values = np.asarray(values)
    dims = ("time", "z", "y", "x")[4 - values.ndim :]
    coords = {"z": ((), 0.0, {"units": "mm", "spacing_mm": 1.0})}  # of a plane
    coords |= {
        d: ((d,), mm * np.arange(n), {"units": "mm", "spacing_mm": mm})
        for d, n in zip(dims, values.shape, strict=True)
        if d != "time" and (mm := spacing.get(d, 1.0))
    }
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"units": "1"}, name="image")


def noise(*shape, seed=0, std=1.0):
    return np.random.default_rng(seed).normal(100, 30 * std, shape)


def pieces(array, n=5):
    """The same in uneven chunks."""
    return array.chunk(dict.fromkeys(array.dims, n))


def catalog_of(folder, text):
    path = folder / "catalog.yaml"
    path.write_text(f"cohort: c\nstore: store\nids: keep\n{text}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Keys and caches of what the module ingests once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(tmp_path_factory.mktemp(name.lower())))
        yield tmp_path_factory


@pytest.fixture(scope="module")
def ingested(home, shared):
    """A cohort of real scans, by its name in catalogs/."""

    def ingest(name):
        options = Options(store=home.mktemp(name), workers=0)
        assert not cohort.ingest(CATALOGS / f"{name}.yaml", options=options).problems
        return cohort.open(options.store)

    return ingest


@pytest.fixture(scope="module")
def chest(ingested):
    return ingested("chest-ct")


@pytest.fixture(scope="module")
def heart(ingested):
    return ingested("sunnybrook")


def only_scan(study):
    (scan_id,) = study.scans["scan_id"]
    return study.scan(scan_id)


# 1.1 Loading, metadata, geometry.


def test_row_01_metadata_is_a_typed_table_without_the_person(chest):
    (row,) = chest.scans.to_dict("records")
    assert (row["modality"], row["sex"], row["units"]) == ("CT", "F", "HU")
    assert (row["spacing_x_mm"], row["tube_voltage_kv"]) == (0.976562, 140.0)
    assert "age" not in row or pd.isna(row["age"])  # the birth date is empty: no age, no error
    text = chest.scans.to_csv() + str(only_scan(chest).attrs)
    assert not any(private in text for private in ("STS_007", "STS", "2004", "1.3.6.1.4", "82.0"))


def test_row_02_slices_are_ordered_by_position_and_gaps_are_reported(shared, chest, tmp_path):
    image = only_scan(chest)["image"]
    assert image.shape == (5, 512, 512)
    assert grid.spacing_mm(image)["z"] == pytest.approx(3.27, abs=1e-9)
    folder = tmp_path / "scans"
    folder.mkdir()
    files = sorted((shared / "tcia-chest-ct").glob("*.dcm"))
    for number, file in enumerate(files[::2] + files[1::2]):
        shutil.copy(file, folder / f"{number}.dcm")
    raw = {
        float(d.ImagePositionPatient[2]): d.pixel_array - 1024.0
        for d in map(pydicom.dcmread, folder.glob("*.dcm"))
    }
    expected = np.stack([raw[z] for z in sorted(raw)])[:, ::-1, ::-1]  # LPS files, RAS image
    np.testing.assert_array_equal(image, expected)
    (folder / "4.dcm").unlink()  # 224, of what looks like 220 to 225 without 223
    catalog = catalog_of(tmp_path, "sources: [scans]\n")
    (problem,) = cohort.ingest(catalog, options=Options(workers=0)).problems
    assert "DCM-GAP" in problem.text
    assert "6.540" in problem.text


def test_row_03_field_of_view_is_shape_times_spacing():
    voxels = {"z": 3.27, "y": 0.976562, "x": 0.976562}
    found = measure.field_of_view_mm(image(np.zeros((5, 512, 512)), **voxels))
    assert found.values.tolist() == [5 * 3.27, 499.999744, 499.999744]
    assert found.values == pytest.approx([16.35, 500, 500], abs=0.0003)
    assert found.attrs == {"units": "mm"}


def test_row_04_a_nifti_header_gives_its_own_affine_to_the_bit(tmp_path):
    affine = np.diag([-2, 2, 2.2, 1.0])
    affine[:3, 3] = 125.5061, -109.38977, -86.742615
    file = nib.Nifti1Image(np.arange(896, dtype=np.int16).reshape(16, 8, 7), affine)
    file.set_sform(affine, "scanner")
    file.set_qform(affine, "scanner")
    file.header.set_xyzt_units("mm", "sec")
    assert (file.header["pixdim"][0], file.header["xyzt_units"]) == (-1, 10)
    nib.save(file, tmp_path / "T1_mask.nii")
    written = nib.load(tmp_path / "T1_mask.nii")
    assert nib.aff2axcodes(written.affine) == ("L", "A", "S")
    assert np.isnan(written.header["scl_slope"])
    catalog = catalog_of(tmp_path, "sources: [T1_mask.nii]\n")
    assert not cohort.ingest(catalog, options=Options(workers=0)).problems
    study = cohort.open(catalog)
    back = space.reorient(only_scan(study)["image"], axcodes="LAS")
    np.testing.assert_array_equal(grid.affine_of(back), written.affine)
    np.testing.assert_array_equal(back.values.T, np.asarray(written.dataobj))
    assert grid.voxel_volume_mm3(back) == pytest.approx(8.8, rel=1e-6)
    assert study.scans["orientation_from"].tolist() == ["sform"]


def test_row_05_integers_stay_integers_and_size_counts_elements(tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (480, 320, 1), np.uint8)
    assert (values.size, values.astype(np.uint64).size) == (153600, 153600)  # not bytes: erratum
    assert values.astype(np.uint64).nbytes == 1_228_800
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "one.nii.gz")
    catalog = catalog_of(tmp_path, "sources: [one.nii.gz]\naccept: [NII-UNITS]\n")
    assert not cohort.ingest(catalog, options=Options(workers=0)).problems
    study = cohort.open(catalog)
    assert study.scans["dtype"].tolist() == ["uint8"]
    assert study.store.record(study.scans["scan_id"][0])["variables"]["image"]["dtype"] == "uint8"
    found = only_scan(study)["image"].transpose("x", "y", "z")
    np.testing.assert_array_equal(found, values)
    assert int((found + found).max()) == 2 * int(values.max())  # decoded: no uint8 that wraps


def test_row_06_a_series_over_time_has_named_dims_and_times_of_its_own(heart):
    image = only_scan(heart)["image"]
    assert dict(image.sizes) == {"time": 20, "z": 11, "y": 256, "x": 256}
    assert np.all(np.diff(image["time"]) > 0)
    assert image["time"].attrs["units"] == "s"
    voxel = math.prod(grid.spacing_mm(image).values())  # whatever else stands in the header
    assert voxel == pytest.approx(10 * 1.367188**2, rel=1e-5)
    assert voxel == pytest.approx(grid.voxel_volume_mm3(image), rel=1e-9)


# 1.2 Exploration and intensity.


def test_row_07_slices_are_drawn_at_true_aspect_and_only_they_are_read():
    whole = scan(noise(8, 10, 12))
    read = []
    lazy = pieces(whole).copy()
    lazy.data = lazy.data.map_blocks(lambda b: (read.append(b.shape), b)[1], meta=np.zeros(0))
    spacing = grid.spacing_mm(whole)
    for plane, (down, across) in {"axial": "yx", "coronal": "zx", "sagittal": "zy"}.items():
        cut = slices.take(lazy, plane=plane)
        assert cut.aspect == spacing[down] / spacing[across]
    assert len(read) < 3 * lazy.data.npartitions
    at = float(whole.z[1])
    np.testing.assert_array_equal(
        np.sort(slices.take(lazy, at_mm=at).pixels, axis=None), np.sort(whole[1], axis=None)
    )
    read.clear()
    shown = figures.show(lazy, at_mm=at, window=(-1.5, 1.5))
    assert len(read) <= lazy.data.npartitions / lazy.data.numblocks[0] + 1  # one and the dtype's
    axes = shown.axes[0]
    assert axes.get_images()[0].get_clim() == (-1.5, 1.5)
    assert axes.get_aspect() == spacing["y"] / spacing["x"]
    assert f"z = {at:.1f} mm" in axes.get_title()
    coarse = space.resample(whole, spacing_mm={"y": 2 * spacing["y"], "x": 2 * spacing["x"]})
    level = figures.show(coarse, at_mm=at).axes[0].get_images()[0].get_array()
    assert level.shape == coarse.shape[1:]
    assert len(figures.planes(whole).axes) == 3
    sheet = figures.contact_sheet([(f"scan {i}", whole, None) for i in range(4)])
    assert len([a for a in sheet.axes if a.get_images()]) == 4


def test_row_08_histograms_are_those_of_scipy_for_any_chunks_and_labels():
    values = np.random.default_rng(0).integers(3, 225, (9, 10, 11), np.uint8)
    found = intensity.histogram(pieces(image(values)), bins=256, range=(0, 255))
    np.testing.assert_array_equal(found, ndi.histogram(values, 0, 255, 256))
    np.testing.assert_allclose(
        intensity.cdf(image(values), bins=256, range=(0, 255)), found.values.cumsum() / values.size
    )
    numbers = (values // 60).astype(np.int32)
    each = intensity.histogram(
        pieces(image(values)), bins=256, range=(0, 255), labels=pieces(image(numbers), 3), index=[1, 3]
    )  # fmt: skip
    expected = ndi.histogram(values, 0, 255, 256, numbers, [1, 3])
    np.testing.assert_array_equal(each, np.stack(expected))
    halves = [
        intensity.histogram(image(v), bins=256, range=(0, 255)) for v in np.split(values, [4])
    ]
    np.testing.assert_array_equal(
        sum(halves), found
    )  # counts of parts add up to those of the whole


def test_row_08_of_the_hand():
    from PIL import Image

    hand = image(np.asarray(Image.open(seed_file("hand-xray.jpg"))))
    assert (hand.dtype, int(hand.min()), int(hand.max())) == (np.uint8, 3, 224)


def test_row_09_equalising_puts_each_value_where_the_cumulated_histogram_says():
    from skimage.exposure import match_histograms

    values = np.random.default_rng(1).integers(0, 256, (8, 9, 10), np.uint8)
    values.flat[:2] = 0, 255
    cumulated = np.bincount(values.ravel(), minlength=256).cumsum() / values.size
    found = intensity.equalize(pieces(image(values)))
    np.testing.assert_allclose(found, cumulated[values] * 255, rtol=1e-6)
    inside = image(values > 99)
    part = intensity.equalize(image(values), mask=inside)
    np.testing.assert_array_equal(part.where(~inside), image(values).where(~inside))
    # To a reference: the value at the same quantile.
    reference = image(np.random.default_rng(3).integers(40, 90, (8, 9, 10), np.uint8))
    matched = intensity.match(pieces(image(values)), reference)
    np.testing.assert_allclose(matched, match_histograms(values, reference.values), rtol=1e-6)


def test_row_10_what_is_excluded_from_equalising_keeps_its_bits():
    values = np.random.default_rng(2).choice([0, 255, *range(40, 90)], (8, 9, 10)).astype(np.uint8)
    found = intensity.equalize(pieces(image(values)), exclude=[0, 255])
    left = (values == 0) | (values == 255)
    np.testing.assert_array_equal(found.values[left], values[left].astype(np.float32))
    kept = values[~left]
    cumulated = np.bincount(kept, minlength=256).cumsum() / kept.size  # over the full range
    np.testing.assert_allclose(found.values[~left], 255 * cumulated[kept], rtol=1e-6)


def test_row_11_a_gaussian_stretch_is_the_normal_distribution_under_the_mask():
    values = noise(6, 7, 8)
    inside = image(values > 80)
    found = intensity.gaussian_stretch(pieces(image(values)), width=2.0, mask=inside)
    counted = values[values > 80]
    expected = stats.norm(counted.mean(), 2 * counted.std()).cdf(counted)
    np.testing.assert_allclose(found.values[values > 80], expected, rtol=1e-12)
    np.testing.assert_array_equal(found.values[values <= 80], values[values <= 80])


def test_row_12_standardising_has_its_parameters_and_keeps_a_constant_at_zero():
    whole = image(noise(6, 7, 8))
    mean, std = measure.mean_in(whole), measure.std_in(whole)
    found = intensity.standardize(pieces(whole))
    np.testing.assert_allclose(found, (whole - mean) / std, rtol=1e-12)
    assert float(np.square(found / math.sqrt(found.size)).sum()) == pytest.approx(1)  # L2 = 1
    assert not intensity.standardize(xr.full_like(whole, 7.0)).any()


def test_row_13_whitened_contrasts_have_the_identity_as_covariance():
    mixed = np.array([[30, 0, 0], [20, 9, 0], [-7, 4, 25]]) @ noise(3, 900)
    features = xr.concat([image(v.reshape(9, 10, 10)) for v in mixed], dim="feature")
    found = intensity.whiten(pieces(features, 4).chunk(feature=1)).values.reshape(3, -1)
    np.testing.assert_allclose(np.cov(found), np.eye(3), atol=1e-6)  # features, not images: erratum
    # ZCA: of all whitenings the one that changes the (centred) contrasts least, a symmetric matrix.
    centred = mixed - mixed.mean(axis=1, keepdims=True)
    matrix = found @ np.linalg.pinv(centred)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)


def test_row_14_smoothing_is_by_dim_and_in_mm_and_never_over_time():
    series = scan(noise(3, 6, 7, 8), lead=("time",))
    width = {"z": 0, "y": 2.0, "x": 2.0}
    found = filters.gaussian(pieces(series), sigma_mm=width)
    expected = ndi.gaussian_filter(series.values, (0, 0, 2.0 / 1.0, 2.0 / 1.5))
    np.testing.assert_array_equal(found, expected)
    fwhm = {d: mm * 2 * math.sqrt(2 * math.log(2)) for d, mm in width.items()}
    np.testing.assert_allclose(filters.gaussian(series, fwhm_mm=fwhm), expected, rtol=1e-12)
    over_time = filters.gaussian(series, sigma={"time": 1.0})  # named, and nothing else
    np.testing.assert_array_equal(over_time, ndi.gaussian_filter(series.values, (1, 0, 0, 0)))
    np.testing.assert_array_equal(
        filters.gaussian(series, sigma=1), ndi.gaussian_filter(series.values, (0, 1, 1, 1))
    )


def test_row_15_a_joint_histogram_counts_the_common_support():
    a, b = image(noise(6, 7, 8)), image(noise(6, 7, 8, seed=1))
    both = (a > 80) & (b > 90)
    found = intensity.joint_histogram(pieces(a), pieces(b, 3), bins=50, mask=both)
    expected, _, _ = np.histogram2d(a.values[both], b.values[both], bins=50)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(grid.GridError):
        intensity.joint_histogram(a, b.assign_coords(x=b.x + 1), bins=50)


def test_row_15_of_the_head():
    t1, b0 = (np.asarray(nib.load(seed_file(f"{n}_mask.nii")).dataobj) for n in ("T1", "b0"))
    assert np.count_nonzero(t1[:, :, 30] == 0) == 12_374
    assert int(masks.intersect(image(t1[:, :, 30] > 0), image(b0[:, :, 30] > 0)).sum()) == 4009


# 1.3 Masks, filters, edges.


def test_row_16_masks_are_lazy_algebra_with_fixed_or_found_thresholds():
    from skimage.filters import threshold_otsu

    values = np.random.default_rng(0).integers(0, 200, (6, 7, 8), np.uint8)
    lazy = pieces(image(values))
    with nothing_computed():
        skin = masks.intersect(masks.threshold(lazy, above=44), masks.threshold(lazy, below=145))
        ring = masks.subtract(masks.threshold(lazy, above=32), masks.threshold(lazy, above=64))
        shown = masks.apply(lazy, skin)
    np.testing.assert_array_equal(skin, (values >= 45) & (values < 145))
    np.testing.assert_array_equal(ring, (values > 32) & ~(values > 64))
    np.testing.assert_array_equal(shown, np.where((values >= 45) & (values < 145), values, 0))
    assert float(masks.otsu(lazy)) == threshold_otsu(values)


def test_row_17_morphology_is_that_of_scipy_beyond_the_chunk_and_in_mm():
    mask = ndi.gaussian_filter(noise(20, 21, 22), 2) > 101
    for ours, theirs in (
        (masks.dilate, ndi.binary_dilation), (masks.erode, ndi.binary_erosion),
        (masks.open, ndi.binary_opening), (masks.close, ndi.binary_closing),
    ):  # fmt: skip
        found = ours(pieces(image(mask), 4), iterations=5)
        np.testing.assert_array_equal(found, theirs(mask, iterations=5))
    point = scan(np.zeros((9, 15, 15), bool))
    point[4, 7, 7] = True
    ball = masks.dilate(point, radius_mm=4.5)
    z, y, x = (mm * np.arange(-(n // 2), n // 2 + 1) for mm, n in ((3, 9), (1, 15), (1.5, 15)))
    away = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    np.testing.assert_array_equal(ball, away <= 4.5**2)


def test_row_18_integers_do_not_wrap_in_a_convolution():
    constant = image(np.full((8, 8), 200, np.uint8))
    mean = filters.convolve(constant, weights=np.full((3, 3), 0.11))
    np.testing.assert_allclose(mean, 0.99 * 200, rtol=1e-6)
    values = np.full((7, 7), 10, np.uint8)
    values[:, 4:] = 0
    edge = np.array([[1, 0, -1]] * 3)
    found = filters.convolve(image(values), weights=edge)
    assert ndi.convolve(values, edge)[3, 3] == 226  # what the tutorial's call gives
    assert float(found[3, 3]) == -30
    assert float(filters.uniform(constant, size=3).min()) == 200


def test_row_19_rank_and_linear_filters_have_all_modes_and_know_masks():
    values = noise(8, 9, 10)
    for mode in ("reflect", "nearest", "mirror", "constant", "wrap"):
        lazy = pieces(image(values), 3)
        for ours, theirs in (
            (filters.median, ndi.median_filter),
            (filters.maximum, ndi.maximum_filter),
        ):
            found = ours(lazy, size=3, mode=mode)
            np.testing.assert_array_equal(found, theirs(values, 3, mode=mode))
        found = filters.gaussian(lazy, sigma=1, mode=mode)
        np.testing.assert_array_equal(found, ndi.gaussian_filter(values, 1, mode=mode))
        found = filters.percentile(lazy, size=3, percentile=30, mode=mode)
        np.testing.assert_array_equal(found, ndi.percentile_filter(values, 30, 3, mode=mode))
    inside = values > 80
    flat = filters.gaussian(image(np.where(inside, 5.0, 900.0)), sigma=2, mask=image(inside))
    np.testing.assert_allclose(flat.values[inside], 5.0, rtol=1e-12)


def test_row_20_edges_are_those_of_scipy_in_two_and_three_dims():
    for values in (noise(9, 10), noise(6, 7, 8)):
        parts = [ndi.sobel(values, axis) for axis in range(values.ndim)]
        lazy = pieces(image(values), 4)
        for dim, expected in zip(lazy.dims, parts, strict=True):
            np.testing.assert_array_equal(filters.sobel(lazy, dim=dim), expected)
        found = filters.gradient_magnitude(lazy)
        np.testing.assert_allclose(found, np.sqrt(np.square(parts).sum(axis=0)), rtol=1e-12)
        np.testing.assert_allclose(filters.laplace(lazy), ndi.laplace(values), atol=1e-10)


# 1.4 Labels, objects, measurements, time.


@pytest.fixture(scope="module")
def slice_117(shared):
    """The tutorial's slice of the heart, and its objects as the tutorial finds them."""
    file = shared / "sunnybrook-cine/SCD2001_006/SCD2001_MR_117.dcm"
    values = image(pydicom.dcmread(file).pixel_array, y=1.367188, x=1.367188)
    bright = masks.threshold(filters.median(values, size=3), above=60)
    return values, labels.label(masks.close(bright))


def test_row_21_the_tutorials_slice_has_26_objects_with_scipys_numbers(slice_117):
    values, found = slice_117
    closed = ndi.binary_closing(ndi.median_filter(values.values, 3) > 60)
    np.testing.assert_array_equal(found, ndi.label(closed)[0])
    assert int(labels.count(found)) == 26
    lazy = labels.label(image(closed, y=1.367188, x=1.367188).chunk(y=50, x=70))
    np.testing.assert_array_equal(lazy, found)


def test_row_22_the_left_ventricle_is_the_object_at_a_point_whatever_its_number(slice_117):
    _, found = slice_117
    at = {"x": 128 * 1.367188, "y": 128 * 1.367188, "z": 0.0}
    ventricle = labels.select(found, at_mm=at)
    np.testing.assert_array_equal(ventricle, found == 5)
    np.testing.assert_array_equal(labels.select(found, nearest_mm=at), ventricle)
    renumbered = labels.label(found > 0).where(found == 0, 27 - found).astype(np.int32)
    np.testing.assert_array_equal(labels.select(renumbered, at_mm=at), ventricle)


def test_row_23_the_ventricle_has_the_published_box(slice_117):
    values, found = slice_117
    boxes = labels.bounding_boxes(found, index=[5])
    assert boxes["bounding_box"].values.tolist() == [[[107, 149], [116, 162]]]
    y = boxes["bounding_box_mm"].sel(label=5, dim="y").values
    np.testing.assert_allclose(y, (np.array([107, 149]) - 0.5) * 1.367188)
    part = labels.crop(values, boxes.sel(label=5))
    np.testing.assert_array_equal(part, values[107:149, 116:162])


def test_row_24_one_table_of_all_statistics_equals_scipy(slice_117):
    values, found = slice_117
    table = measure.regions(values, found)
    index = np.arange(1, 27)
    for name in ("mean", "median", "variance", "minimum", "maximum", "sum"):
        expected = getattr(ndi, {"sum": "sum_labels"}.get(name, name))(values, found, index)
        np.testing.assert_allclose(table[name], expected, rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(table["n_voxels"], np.bincount(found.values.ravel())[1:])


def test_row_24_of_the_heart():
    values, numbers = (image(np.load(seed_file(f"heart{n}.npy"))) for n in ("", "-labels"))
    everything = xr.ones_like(numbers, dtype=np.int32)
    published = {840.4457526156154: everything, 2166.5887761076724: (numbers > 0).astype(np.int32)}
    for variance, chosen in published.items():
        found = measure.regions(values, chosen, index=[1], quantities=["variance"])["variance"]
        assert float(found[0]) == pytest.approx(variance, rel=1e-12)
    found = measure.regions(values, numbers.astype(np.int32), quantities=["variance"])["variance"]
    for variance in (1123.4641972021984, 1972.7151849347783):
        assert np.isclose(found, variance, rtol=1e-12).any()


def test_row_25_a_volume_is_voxels_times_the_volume_of_one():
    heart = {"z": 10.0, "y": 1.367188, "x": 1.367188}
    mask = image((np.arange(30 * 30 * 8) < 6459).reshape(8, 30, 30), **heart)
    assert int(measure.n_voxels(mask)) == 6459
    assert grid.voxel_volume_mm3(mask) == pytest.approx(18.692030273440004, rel=1e-15)
    found = measure.volume_ml(mask)
    assert float(found) * 1000 == pytest.approx(120731.82353614898, rel=1e-15)
    assert found.attrs["units"] == "ml"
    assert round(828113.017 / 6459, 4) == 128.2107  # printed as this voxel's: erratum


def test_row_26_the_distance_is_exact_and_gives_the_largest_ball_inside():
    mask = ndi.gaussian_filter(noise(10, 20, 20), 2) > 100
    steps = {"z": 3.0, "y": 1.0, "x": 1.5}
    found = measure.distance_mm(pieces(image(mask, **steps), 6))
    exact = ndi.distance_transform_edt(mask, sampling=(3.0, 1.0, 1.5))
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    one = image(mask.astype(np.int32), **steps)
    table = measure.regions(one, one, quantities=["inscribed_radius_mm", "inscribed_center_mm"])
    assert float(table["inscribed_radius_mm"][0]) == exact.max()
    at = np.unravel_index(exact.argmax(), exact.shape)
    world = [mm * i for mm, i in zip((1.5, 1.0, 3.0), at[::-1], strict=True)]
    np.testing.assert_allclose(table["inscribed_center_mm"][0], world)


def test_row_27_centres_of_mass_are_named_by_their_axes_in_world_mm():
    values = scan(np.abs(noise(5, 6, 7)))
    numbers = scan(np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.int32))
    found = measure.regions(values, numbers, index=[1, 2], quantities=["center_of_mass_mm"])
    assert found["axis"].values.tolist() == ["x", "y", "z"]
    voxels = np.array(ndi.center_of_mass(values.values, numbers.values, [1, 2]))[:, ::-1]
    expected = nib.affines.apply_affine(grid.affine_of(values), voxels)
    np.testing.assert_allclose(found["center_of_mass_mm"], expected)
    horseshoe = np.zeros((9, 9), np.int32)
    horseshoe[1:8, 1] = horseshoe[1, 1:8] = horseshoe[7, 1:8] = 1
    horseshoe[4, 4] = 2  # what lies where its centre is
    both = scan(np.stack([0 * horseshoe, horseshoe, 0 * horseshoe]))
    for each in (both, pieces(both)):
        table = measure.regions(each, each, quantities=["centroid_mm", "centroid_outside"])
        assert table["centroid_outside"].values.tolist() == [1.0, 0.0]


def test_row_28_the_ejection_fraction_and_its_frames_have_their_right_names():
    counts = np.full(20, 500)
    counts[18], counts[5] = 584, 584 - 187
    frames = (np.arange(1600) < counts[:, None]).reshape(20, 1, 40, 40)
    voxel = {"z": 10.0, "y": 31268.00536236538 / 1870, "x": 1.0}  # the curve's own, not row 25's
    curve = motion.volume_curve_ml(image(frames, **voxel))
    found = motion.ejection_fraction(curve, heart_rate_bpm=60)
    assert float(found.ejection_fraction) == pytest.approx(0.3202054794520548, rel=1e-14)
    assert (found.end_diastole_frame, found.end_systole_frame) == (18, 5)  # largest first: erratum
    assert float(found.edv_ml) * 1000 == pytest.approx(97649.8135, abs=5e-5)
    assert float(found.stroke_volume_ml) * 1000 == pytest.approx(31268.00536236538, rel=1e-13)
    assert float(found.cardiac_output_l_min) == pytest.approx(31.268 * 60 / 1000, rel=1e-4)
    tiny = motion.ejection_fraction(image([100.0, 95], time=1.0).rename(x="time").drop_vars("time"))
    assert tiny.implausible == 1


# 1.5 Space, comparison, synthesis.


def blob(*shape, at=None, width=3.0, **steps):
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    middle = np.reshape(at or [n / 2 - 0.5 for n in shape], (-1, *[1] * len(shape)))
    return image(np.exp(-np.square(where - middle).sum(axis=0) / (2 * width**2)), **steps)


def test_row_29_moves_compose_by_axes_with_names_and_interpolate_once():
    off = blob(40, 40, at=[12, 25], y=2.0, x=2.0)
    moved = ndi.center_of_mass(space.center(off, order=3).values)
    assert moved == pytest.approx((19.5, 19.5), abs=0.01)
    np.testing.assert_array_equal(
        space.shift(off, mm={"y": -20, "x": 6}), ndi.shift(off.values, (-10, 3), order=1)
    )
    for degrees in (-35, -30, -15, 15):
        found = space.rotate(off, degrees=degrees, plane=("y", "x"), order=1)
        expected = ndi.rotate(off.values, degrees, reshape=False, order=1)
        np.testing.assert_allclose(found, expected, atol=1e-10)
    turn = space.rotation(off, degrees=30, plane=("y", "x"))
    push = space.translation(off, mm={"x": 8})
    once = space.affine(off, turn @ push, order=3)
    twice = space.rotate(space.shift(off, mm={"x": 8}), degrees=30, plane=("y", "x"), order=3)
    assert float(abs(once - twice).max()) < 0.02
    other = space.affine(off, push @ turn, order=3)
    assert float(abs(once - other).max()) > 0.2


def test_row_30_a_matrix_that_scales_up_makes_the_object_larger():
    square = np.zeros((101, 101), bool)
    square[40:61, 40:61] = True
    assert square.sum() == 441
    pulled = ndi.affine_transform(square.astype(float), np.diag([1.5, 1.5]), (-25, -25), order=0)
    assert pulled.sum() == 196  # output -> input: what the tutorial calls scale 1.5 shrinks
    matrix = np.diag([1.5, 1.5, 1, 1.0])
    matrix[:2, 3] = -25
    found = space.affine(image(square), matrix)
    assert int(found.sum()) == pytest.approx(1.5**2 * 441, rel=0.05)
    both = np.array([[0.8, -0.4], [0.4, 0.8]])
    np.testing.assert_allclose(both.T @ both, 0.8 * np.eye(2), atol=1e-15)  # no shear: erratum


def test_row_31_half_the_resolution_is_an_eighth_of_the_memory_and_the_same_view():
    fine = scan(noise(16, 16, 16))
    steps = grid.spacing_mm(fine)
    coarse = space.resample(pieces(fine, 6), spacing_mm={d: 2 * mm for d, mm in steps.items()})
    assert coarse.shape == (8, 8, 8)
    assert coarse.astype(fine.dtype).nbytes * 8 == fine.nbytes  # not half: erratum
    np.testing.assert_allclose(measure.field_of_view_mm(coarse), measure.field_of_view_mm(fine))
    numbers = scan(np.random.default_rng(0).choice([0, 3, 7], (16, 16, 16)).astype(np.int32))
    for factor in (0.25, 2.0, 4.0):
        spacing = {d: factor * mm for d, mm in steps.items()}
        found = space.resample(numbers, spacing_mm=spacing)
        assert set(np.unique(found)) <= {0, 3, 7}
    small = space.resample(fine, like=coarse.compute())
    np.testing.assert_array_equal(grid.affine_of(small), grid.affine_of(coarse))


def test_row_32_errors_are_means_over_voxels_and_need_one_grid():
    a = image(np.zeros((256, 256)))
    b = image(np.append(np.full(65535, 9.0), 606920 - 65535 * 9.0).reshape(256, 256))
    found = compare.mae(a.chunk(y=100), b.chunk(x=90))
    assert float(found) == 9.2608642578125 == 606920 / 65536
    assert float(compare.mse(a, a + 3)) == 9
    assert float(compare.ncc(b, 2 * b + 1)) == pytest.approx(1)
    textured = image(noise(32, 32))
    assert float(compare.ssim(textured, textured)) == pytest.approx(1)
    assert compare.mutual_information(textured, textured) > 1
    for function in (compare.mae, compare.mse, compare.ncc, compare.mutual_information):
        with pytest.raises(grid.GridError):
            function(a, b.assign_coords(x=b.x * 1.01))


def test_row_32_of_the_brain():
    fixed, moved = (image(np.load(seed_file(f"brain-{n}.npy"))) for n in ("fixed", "moved"))
    assert float(compare.mae(fixed, moved)) == pytest.approx(29.8570, abs=5e-5)


RATIOS = {
    0.7171385659453746: Fraction(12892, 17977),
    0.8913414634146342: Fraction(7309, 8200),
    0.6069298200114114: Fraction(11701, 19279),
    0.5206319611402777: Fraction(10611, 20381),
    0.7081703487411162: Fraction(12854, 18151),
}
"""Published overlaps, as what they are: voxels of both over voxels of either."""


def test_row_33_overlaps_are_ratios_of_counts_and_the_four_tries_are_one_search():
    places = np.arange(150 * 150).reshape(150, 150)
    for published, ratio in RATIOS.items():
        union, both = ratio.denominator, ratio.numerator
        only = (union - both) // 2
        a, b = image(places < both + only), image((places >= only) & (places < union))
        assert float(compare.iou(a, b)) == published
        assert float(compare.dice(a, b)) == pytest.approx(2 * published / (1 + published))
        assert compare.hausdorff_mm(a, b) > 0
    fixed = blob(24, 26, 28, width=4.0) + 0.7 * blob(24, 26, 28, at=[8, 16, 12], width=3.0)
    for step in ((-2, 3, 1), (3, 0, -2)):
        moving = space.shift(fixed, mm=dict(zip("zyx", map(float, step), strict=True)), order=3)
        found = cohort.register.register(moving, fixed, metric="correlation")
        np.testing.assert_allclose(found.checked()[:3, 3], np.negative(step[::-1]), atol=0.3)
        again = space.affine(moving, found.matrix, like=fixed)
        assert compare.iou(again > 0.3, fixed > 0.3) > 0.95 > max(RATIOS)


def test_row_34_correlated_voxels_are_not_so_many_draws():
    smooth = ndi.gaussian_filter(noise(2, 48, 48), (0, 4, 4), mode="wrap")
    a, b = (image(v) for v in smooth)
    found = compare.correlation(a, b)
    r, n = float(found.r), 48 * 48
    assert r == pytest.approx(np.corrcoef(smooth.reshape(2, -1))[0, 1])
    ends = np.tanh(math.atanh(r) + np.array([-1, 1]) * stats.norm.ppf(0.975) / math.sqrt(n - 3))
    np.testing.assert_allclose([found.naive_low, found.naive_high], ends)
    assert found.n_effective < n / 10
    assert found.low < found.naive_low < found.naive_high < found.high
    assert found.low < 0 < found.high  # they are independent
    stack = ndi.gaussian_filter(noise(40, 12, 12), (3, 0, 0))
    lags = compare.lag_correlation(image(stack, z=2.0), dim="z")
    assert lags["lag_mm"].values[:3].tolist() == [0, 2, 4]
    assert float(lags[0]) == pytest.approx(1)
    assert lags.sel(lag_mm=4) > 0.5 > abs(lags.sel(lag_mm=30)) + 0.1
    assert compare.ncc(a, a.copy(data=a.values[:, ::-1])) < 0.5  # flips decorrelate


def test_row_35_elastic_deformations_have_a_seed_and_a_known_truth():
    lines = scan((np.indices((12, 20, 20)).sum(axis=0) % 10 == 0).astype(np.float32))
    bend = {"alpha_mm": 1.5, "sigma_mm": 6.0, "seed": 3}
    found = cohort.synthesis.elastic(lines, **bend)
    np.testing.assert_array_equal(cohort.synthesis.elastic(pieces(lines, 7), **bend), found)
    assert float(abs(found - lines).max()) > 0.2
    assert (cohort.synthesis.elastic(lines, **{**bend, "seed": 4}) != found).any()
    moves = cohort.synthesis.displacement_mm(lines, **bend)
    steps = [grid.spacing_mm(lines)[d] for d in "zyx"]
    by_dim = [moves.sel(axis=d).values / mm for d, mm in zip("zyx", steps, strict=True)]
    expected = ndi.map_coordinates(lines.values, np.indices(lines.shape) + by_dim, order=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_row_36_correlated_noise_has_the_covariance_that_was_asked_for():
    like = image(np.zeros((160, 160, 96), np.float32), x=1.0)
    found = cohort.synthesis.noise(like, std=2.0, correlation_mm=math.sqrt(50), seed=1).values
    assert found.std() == pytest.approx(2.0, rel=0.05)
    for lag in (5, 7, 10):
        wanted = math.exp(-(lag**2) / (2 * 50))
        pairs = [np.corrcoef(np.take(found, range(160 - lag), a).ravel(), np.take(found, range(lag, 160), a).ravel())[0, 1] for a in (0, 1)]  # fmt: skip
        assert np.mean(pairs) == pytest.approx(wanted, abs=0.03)  # 0.779 at 5, not 0.881: erratum


def test_row_37_a_weighted_stack_moves_by_the_shifts_that_are_found():
    fixed = blob(32, 36, y=2.0, x=1.5)
    steps = [{"y": 0.0, "x": 0.0}, {"y": 3.7, "x": -2.2}, {"y": -5.2, "x": 4.4}]
    takes = [space.shift(fixed, mm=step, order=3) for step in steps]
    shifts = [cohort.register.phase_shift_mm(take, fixed) for take in takes]
    for found, step in zip(shifts, steps, strict=True):
        assert found == pytest.approx({d: -mm for d, mm in step.items()}, abs=0.05 * 2)
    stacked = space.stack(takes, shifts_mm=shifts, weights=[1, 2, 3], order=3)
    assert float(stacked["weight"].max()) == 6
    assert float(abs(stacked["mean"] - fixed)[8:24, 8:28].max()) < 0.03


def test_row_38_mixtures_are_fitted_over_scans_and_ordered_by_their_mean():
    rng = np.random.default_rng(12345)
    truth = rng.choice([0, 1, 2, 3], p=[0.1, 0.2, 0.3, 0.4], size=(14, 15, 16))
    levels = np.array([[0, 0], [30, 90], [60, 50], [90, 20]])
    t1, b0 = (image(levels[truth, c] + rng.normal(0, 4, truth.shape)) for c in (0, 1))
    mask = image(truth > 0)
    model = cohort.tissue.gmm([t1, b0], mask=mask, n_components=3, seed=12345)
    np.testing.assert_allclose(model.means, levels[1:], atol=1)  # whichever cluster came first
    found = cohort.tissue.classify([t1, b0], model, mask=mask)
    assert float((found.labels.values == truth)[truth > 0].mean()) > 0.99
    assert not found.labels.values[truth == 0].any()
    np.testing.assert_allclose(found.posteriors.sum("component"), mask, atol=1e-6)
    halves = [{d: slice(*z)} for d, z in zip("zz", ((0, 7), (7, 14)), strict=True)]
    parts = [([t1[h], b0[h]], mask[h]) for h in halves]
    together = cohort.tissue.gmm_over(parts, n_components=3, seed=12345)
    np.testing.assert_allclose(together.means, model.means, atol=0.2)


# 1.6 Statistics.


def test_row_39_the_table_is_joined_and_knows_who_was_there_twice(ingested, shared, tmp_path):
    table = ingested("oasis-table").participants
    assert len(table) == 425
    assert (table["alzheimers"] == "True").sum() == 93
    assert {"age", "sex", "brain_vol", "skull_vol", "subject", "session"} <= {*table}
    assert table["subject"].nunique() == 406
    catalog = catalog_of(
        tmp_path,
        f"""\
sources: []
subject: 'OAS1_(?P<subject>\\d{{4}})_MR(?P<session>\\d)'
participants:
  table: {shared / "oasis/oasis_all_volumes.csv"}
  id: ID
  derive: {{dx: alzheimers == True}}
models:
  strict: {{outcome: brain_vol, formula: dx, one_scan_per: error}}
  first: {{outcome: brain_vol, formula: dx, one_scan_per: first}}
""",
    )
    cohort.ingest(catalog, options=Options(workers=0))
    study = cohort.open(catalog)
    with pytest.raises(ValueError, match="19 of 406 subjects have several scans"):
        study.fit("strict")
    fit = study.fit("first")
    assert len(fit.screen.repeats) == 19
    assert int(fit.glance["n"].iloc[0]) == 406


CORRELATIONS = {
    ("brain", "skull"): 0.654829346585,
    ("brain", "age"): -0.719210581515,
    ("brain", "ad"): -0.446770932343,
    ("age", "ad"): 0.542463111786,
    ("age", "skull"): -0.141576423892,
    ("ad", "skull"): 0.014222458010,
}
PUBLISHED = (0.654829, -0.719211, -0.446771, 0.542463, -0.141576, 0.014222)
T_BRAIN, T_RATIO = -10.27076306169677, -15.311391823926579
SIZES = {"age": (55, 12), "skull": (1550, 130), "brain": (1080, 90), "share": (0.7, 0.05)}


def exactly_correlated():
    """425 rows, 93 of them of the group, whose sample correlations are the published ones; `share` has the ratio's with the group."""
    names = ["ad", *SIZES]
    group = np.repeat([0.0, 1.0], [332, 93])
    free = np.column_stack([group, np.random.default_rng(0).normal(size=(425, 4))])
    white, triangle = np.linalg.qr(free - free.mean(axis=0))
    white *= np.sign(np.diag(triangle))
    r = pd.DataFrame(np.eye(5), names, names)
    for (a, b), value in CORRELATIONS.items():
        r.loc[a, b] = r.loc[b, a] = value
    r.loc["share", "ad"] = r.loc["ad", "share"] = T_RATIO / math.sqrt(T_RATIO**2 + 423)
    r.loc["share", ["age", "skull", "brain"]] = (
        r.loc["share", "ad"] * r.loc["ad", ["age", "skull", "brain"]]
    )
    r.loc[["age", "skull", "brain"], "share"] = r.loc["share", ["age", "skull", "brain"]]
    unit = white @ np.linalg.cholesky(r.to_numpy()).T * math.sqrt(425)
    columns = {n: mean + sd * unit[:, i + 1] for i, (n, (mean, sd)) in enumerate(SIZES.items())}
    ids = [f"P{i:03d}" for i in range(425)]
    return pd.DataFrame({"ID": ids, "ad": group.astype(int), **columns})


@pytest.fixture(scope="module")
def study(home):
    """A cohort that is only that table."""
    folder = home.mktemp("correlated")
    exactly_correlated().to_csv(folder / "people.csv", index=False)
    models = {
        "crude": "outcome: brain, formula: ad, head: skull",
        "share": "outcome: share, formula: ad",
        "adjusted": "outcome: brain, formula: ad + age + skull, confounds: [age, skull], head: skull",
        "age-only": "outcome: brain, formula: ad + age, confounds: [age]",
        "skull-only": "outcome: brain, formula: ad + skull, confounds: [skull]",
    }
    lines = [f"  {n}: {{{m}, one_scan_per: all, group: ad}}" for n, m in models.items()]
    catalog = catalog_of(
        folder,
        "sources: []\nparticipants: {table: people.csv, id: ID}\nmodels:\n" + "\n".join(lines),
    )
    cohort.ingest(catalog, options=Options(workers=0))
    opened = cohort.open(catalog)
    return {name: opened.fit(name) for name in models}


def term(fit, name):
    return fit.tidy.set_index("term").loc[name]


def test_row_40_confounds_are_screened_before_any_p(study):
    fit = study["adjusted"]
    found = fit.screen.correlations.set_index("covariate")
    for (a, b), published in zip(CORRELATIONS, PUBLISHED, strict=True):
        if a == "brain":
            assert found.loc[b, "r_outcome"] == pytest.approx(published, abs=1e-6)
        elif "ad" in (a, b):
            other = b if a == "ad" else a
            assert found.loc[other, "r_group"] == pytest.approx(published, abs=1e-6)
        else:
            assert exactly_correlated()[[a, b]].corr().iloc[0, 1] == pytest.approx(
                published, abs=1e-6
            )
    assert found["vif"].round(2).to_dict() == {"ad": 1.43, "age": 1.46, "skull": 1.03}
    assert set(fit.screen.balance["covariate"]) >= {"age", "skull"}


def test_row_41_students_t_is_the_published_one_and_rejects(study):
    found = term(study["crude"], "ad")
    assert found["statistic"] == pytest.approx(T_BRAIN, rel=1e-10)
    assert found["p"] == pytest.approx(3.043550344658516e-22, rel=1e-6)
    assert (found["p"] < 0.05, found["df"]) == (True, 423)  # the text's "p > .05": erratum
    r = -0.446771
    assert r * math.sqrt(423 / (1 - r * r)) == pytest.approx(-10.27077, abs=5e-6)
    table = exactly_correlated()
    sick, well = (table.loc[table["ad"] == g, "brain"] for g in (1, 0))
    tests = study["crude"].comparison.tests.set_index("test")["statistic"]
    assert tests["student"] == pytest.approx(stats.ttest_ind(sick, well).statistic)
    assert tests["welch"] == pytest.approx(stats.ttest_ind(sick, well, equal_var=False).statistic)


def test_row_42_the_ratio_has_the_published_t_and_stands_beside_other_adjustments(study):
    found = term(study["share"], "ad")
    assert found["statistic"] == pytest.approx(T_RATIO, rel=1e-9)
    assert found["p"] == pytest.approx(2.019286086120867e-42, rel=1e-6)
    strategies = study["crude"].tables["adjustments"]["strategy"].tolist()
    assert {"raw", "ratio", "residual_all", "covariate", "power"} <= {*strategies}


def test_row_43_the_regression_with_skull_and_age_has_every_derived_number(study):
    fit = study["adjusted"]
    found = fit.tidy.set_index("term")["statistic"]
    assert found["ad"] == pytest.approx(-6.763, abs=5e-4)
    assert found["age"] == pytest.approx(-23.919, abs=1e-3)
    assert found["skull"] == pytest.approx(29.779, abs=1e-3)
    assert term(fit, "ad")["p"] == pytest.approx(4.5e-11, rel=0.02)
    table = exactly_correlated()
    beta = term(fit, "ad")["estimate"] * table["ad"].std() / table["brain"].std()
    assert beta == pytest.approx(-0.155, abs=5e-4)
    glance = fit.glance.iloc[0]
    assert (round(glance["r2"], 4), glance["df_resid"]) == (0.8461, 421)
    assert term(study["age-only"], "ad")["statistic"] == pytest.approx(-2.002, abs=5e-4)
    assert term(study["age-only"], "ad")["p"] == pytest.approx(0.046, abs=5e-4)
    assert term(study["skull-only"], "ad")["statistic"] == pytest.approx(-15.549, abs=1e-3)
    groups = table["ad"].map({0: "no", 1: "yes"})
    figure = plots.box_by_group(table["brain"], groups=groups, label="brain", unit="cm3")
    assert figure.axes


def test_every_row_has_its_test():
    names = [n for n in globals() if n.startswith("test_row_")]
    assert {int(n[9:11]) for n in names} == set(range(1, 44))
