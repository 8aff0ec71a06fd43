import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import DTYPES, chunked, images, masks, nothing_computed, scan

from cohort import grid
from cohort.grid import GridError
from cohort.kernels.blocks import TILE
from cohort.ops import graph, measure

STATISTICS = {
    measure.mean_in: np.mean,
    measure.std_in: np.std,
    measure.minimum_in: np.min,
    measure.maximum_in: np.max,
    measure.median_in: np.median,
}
EXACT = (measure.minimum_in, measure.maximum_in, measure.median_in)
OBLIQUE = np.array(
    [[1.4, 0.3, 0.0, -20.0], [-0.3, 1.4, 0.0, 11.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1.0]]
)


def wide(dtype=np.float32, shape=(3, TILE + 9, 2 * TILE + 3)):
    """Image and labels that take several canonical tiles."""
    rng = np.random.default_rng(0)
    image = scan((rng.random(shape) * 200).astype(dtype))
    return image, scan(rng.integers(0, 4, shape).astype(np.int32))


def same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Numbers in a mask.


@given(data=st.data(), image=images(), op=st.sampled_from(list(STATISTICS)))
def test_numbers_in_a_mask_equal_numpy_for_every_chunking(data, image, op):
    mask = data.draw(masks(shape=image.shape))
    values = image.to_numpy()[mask.to_numpy()].astype(float)
    expected = STATISTICS[op](values) if values.size else np.nan
    lazy, lazy_mask = data.draw(chunked(image, mask))
    number = op(image, mask=mask)
    assert number.ndim == 0
    assert number.dtype == np.float64
    assert number.attrs == {"units": "HU"}
    np.testing.assert_allclose(
        number, expected, rtol=0 if op in EXACT else 1e-12, atol=0 if op in EXACT else 1e-11
    )
    same_bits(op(lazy, mask=lazy_mask), number)
    same_bits(op(lazy, mask=mask), number)
    same_bits(op(image, mask=lazy_mask), number)


@pytest.mark.parametrize("op", list(STATISTICS), ids=lambda op: op.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_have_the_same_bits_whatever_the_chunks_are_to_the_tiles(op, dtype):
    image, labels = wide(dtype)
    mask = labels > 1
    number = op(image, mask=mask)
    exact = image.to_numpy()[mask.to_numpy()].astype(float)
    np.testing.assert_allclose(number, STATISTICS[op](exact), rtol=1e-12)
    for chunks in (
        {"y": TILE, "x": TILE},
        {"z": 1, "y": 50, "x": 50},
        {"x": 1},
        {"y": 65, "x": 127},
    ):
        same_bits(op(image.chunk(chunks), mask=mask.chunk(chunks)), number)


@pytest.mark.parametrize("op", list(STATISTICS), ids=lambda op: op.__name__)
def test_without_a_mask_every_voxel_counts(op):
    image, _ = wide()
    np.testing.assert_allclose(
        op(image), STATISTICS[op](image.to_numpy().astype(float)), rtol=1e-12
    )
    same_bits(op(image.chunk(y=40)), op(image))


@pytest.mark.parametrize("op", list(STATISTICS), ids=lambda op: op.__name__)
def test_nan_counts_inside_and_not_outside(op):
    image = scan(np.array([[[1.0, np.nan, 3.0, 5.0]]]))
    with_nan, without = (scan(np.array([[m]], bool)) for m in ([1, 1, 1, 0], [1, 0, 1, 1]))
    for i in (image, image.chunk(x=2)):
        assert np.isnan(op(i, mask=with_nan).values)
        np.testing.assert_allclose(op(i, mask=without), STATISTICS[op]([1.0, 3.0, 5.0]))


@pytest.mark.parametrize("op", list(STATISTICS), ids=lambda op: op.__name__)
def test_frames_are_measured_one_by_one(op):
    frames = np.random.default_rng(0).random((4, 3, 5, 6)).astype(np.float32)
    image = scan(frames, lead=("time",)).assign_coords(time=[0.0, 0.5, 1.0, 1.5])
    mask = image.isel(time=1, drop=True) > 0.3
    expected = [STATISTICS[op](f[mask.to_numpy()].astype(float)) for f in frames]
    for i in (image, image.chunk(time=3, z=2), image.chunk(time=1)):
        numbers = op(i, mask=mask)
        assert numbers.dims == ("time",)
        assert numbers.time.values.tolist() == [0.0, 0.5, 1.0, 1.5]
        np.testing.assert_allclose(numbers, expected, rtol=1e-12)


@given(data=st.data(), mask=masks())
def test_counts_and_volumes_are_exact(data, mask):
    (lazy,) = data.draw(chunked(mask))
    n = int(mask.to_numpy().sum())
    for m in (mask, lazy):
        count, volume = measure.n_voxels(m), measure.volume_ml(m)
        assert count.dtype == np.int64
        assert count.values == n
        assert volume.values == n * 0.0045
        assert volume.attrs == {"units": "ml"}
        assert count.attrs == {"units": "voxel"}


@given(data=st.data(), mask=masks())
def test_the_centroid_is_that_of_scipy_in_the_world(data, mask):
    mask = grid.with_affine(mask, OBLIQUE)
    (lazy,) = data.draw(chunked(mask))
    if mask.any():
        expected = (OBLIQUE @ [*ndi.center_of_mass(mask.to_numpy())[::-1], 1])[:3]
    else:
        expected = [np.nan] * 3
    centre = measure.centroid_mm(mask)
    assert centre.axis.values.tolist() == ["x", "y", "z"]
    assert centre.attrs == {"units": "mm"}
    np.testing.assert_allclose(centre, expected, rtol=1e-12, atol=1e-12)
    same_bits(measure.centroid_mm(lazy), centre)


def test_the_field_of_view_is_voxels_times_spacing_and_looks_at_no_voxel():
    image = scan(np.zeros((4, 5, 6)))
    with nothing_computed():
        extent = measure.field_of_view_mm(image.chunk(2))
    assert extent.axis.values.tolist() == ["z", "y", "x"]
    assert extent.values.tolist() == [12.0, 5.0, 9.0]
    assert extent.attrs == {"units": "mm"}


# Regions.


def everything(image, labels, **options):
    table = measure.regions(image, labels, **options)
    return {name: table[name].to_numpy() for name in table.variables}


@given(data=st.data(), image=images(high=8), seed=st.integers(0, 99))
def test_regions_equal_scipy_for_every_chunking(data, image, seed):
    labels = scan(np.random.default_rng(seed).integers(0, 4, image.shape) * 7)
    values, numbers = image.to_numpy().astype(float), labels.to_numpy()
    index = np.setdiff1d(numbers, [0])
    lazy, lazy_labels = data.draw(chunked(image, labels))
    table = everything(image, labels)
    for name, found in everything(lazy, lazy_labels).items():
        same_bits(found, table[name])
    assert table["label"].tolist() == index.tolist()
    assert table["n_voxels"].dtype == np.int64
    for i, label in enumerate(index):
        own = values[numbers == label]
        assert table["n_voxels"][i] == own.size
        assert table["volume_ml"][i] == own.size * 0.0045
        tolerance = 1e-12 * (np.abs(own).sum() + 1)
        for name, oracle in {
            "sum": np.sum,
            "mean": np.mean,
            "variance": np.var,
            "std": np.std,
        }.items():
            np.testing.assert_allclose(table[name][i], oracle(own), rtol=1e-12, atol=tolerance)
        for name, oracle in {"minimum": np.min, "maximum": np.max, "median": np.median}.items():
            assert table[name][i] == oracle(own)
        box = ndi.find_objects((numbers == label).astype(int))[0]
        assert table["bounding_box"][i].tolist() == [[s.start, s.stop] for s in box]
        centre = ndi.center_of_mass(numbers == label)
        np.testing.assert_allclose(
            table["centroid_mm"][i],
            (grid.affine_of(image) @ [*centre[::-1], 1])[:3],
            rtol=1e-12,
            atol=1e-12,
        )
        for name, pick, away in (
            ("minimum_position", np.argmin, np.inf),
            ("maximum_position", np.argmax, -np.inf),
        ):
            first = np.unravel_index(pick(np.where(numbers == label, values, away)), values.shape)
            assert table[name][i].tolist() == list(first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_regions_have_the_same_bits_whatever_the_chunks_are_to_the_tiles(dtype):
    image, labels = wide(dtype)
    whole = everything(image, labels)
    for chunks in ({"y": TILE, "x": TILE}, {"z": 1, "y": 50, "x": 50}, {"y": 65, "x": 127}):
        for name, found in everything(image.chunk(chunks), labels.chunk(chunks)).items():
            same_bits(found, whole[name])


def test_the_center_of_mass_is_weighted_by_the_image():
    image, labels = wide()
    expected = [
        (grid.affine_of(image) @ [*c[::-1], 1])[:3]
        for c in ndi.center_of_mass(image.to_numpy().astype(float), labels.to_numpy(), [1, 2, 3])
    ]
    table = measure.regions(image, labels, quantities=["center_of_mass_mm"])
    assert list(table.data_vars) == ["center_of_mass_mm"]
    np.testing.assert_allclose(table.center_of_mass_mm, expected, rtol=1e-12)


def test_a_label_that_is_not_there_measures_as_nothing():
    image, labels = wide()
    for i, m in ((image, labels), (image.chunk(y=40), labels.chunk(y=40))):
        table = measure.regions(i, m, index=[3, 99, 1]).compute()
        assert table.label.values.tolist() == [3, 99, 1]
        gone = table.sel(label=99)
        assert gone.n_voxels == gone.volume_ml == gone["sum"] == 0
        rest = gone.drop_vars(["n_voxels", "volume_ml", "sum"])
        assert all(np.isnan(v).all() for v in rest.data_vars.values())
        xr.testing.assert_identical(table.sel(label=[1]), measure.regions(image, labels, index=[1]))


def test_without_labels_the_table_is_empty():
    image, labels = wide()
    for nothing in (labels * 0, (labels * 0).chunk(y=40)):
        table = measure.regions(image, nothing).compute()
        assert table.sizes["label"] == 0
        assert set(table.data_vars) == set(measure.QUANTITIES)


def test_regions_of_each_frame():
    frames, labels = wide(shape=(4, 5, 6))
    image = xr.concat([frames, frames * 2], dim="time")
    for i in (image, image.chunk(time=1, y=2)):
        table = measure.regions(i, labels)
        assert table["mean"].dims == ("time", "label")
        np.testing.assert_allclose(
            table["mean"].isel(time=1), 2 * table["mean"].isel(time=0), rtol=1e-12
        )
        same_bits(table["median"].isel(time=0), measure.regions(frames, labels)["median"])


def test_units_are_those_of_the_image_or_of_space():
    image, labels = wide(shape=(3, 4, 5))
    units = {n: v.attrs["units"] for n, v in measure.regions(image, labels).data_vars.items()}
    assert units["mean"] == units["median"] == units["maximum"] == "HU"
    assert units["volume_ml"] == "ml"
    assert units["centroid_mm"] == "mm"
    assert units["variance"] == "(HU)2"


# Graphs.

LAZY = {
    **{op.__name__: lambda i, m, op=op: op(i, mask=m) for op in STATISTICS},
    "n_voxels": lambda i, m: measure.n_voxels(m),
    "volume_ml": lambda i, m: measure.volume_ml(m),
    "centroid_mm": lambda i, m: measure.centroid_mm(m),
    "regions": lambda i, m: measure.regions(i, m.astype(int), index=[1])["mean"],
}


@pytest.mark.parametrize("op", LAZY.values(), ids=list(LAZY))
def test_nothing_is_computed_until_asked_and_inputs_stay_as_they_are(op):
    image, labels = wide(shape=(6, 7, 8))
    mask = labels > 1
    kept = image.copy(deep=True), mask.copy(deep=True)
    image.data.flags.writeable = mask.data.flags.writeable = False
    with nothing_computed():
        lazy = op(image.chunk(3), mask.chunk(3))
    same_bits(lazy, op(image, mask))
    xr.testing.assert_identical(image, kept[0])
    xr.testing.assert_identical(mask, kept[1])


@pytest.mark.parametrize(
    ("op", "most"), [(measure.mean_in, 1.2), (measure.std_in, 1.2), (measure.median_in, 3.5)]
)
def test_a_block_takes_few_tasks(op, most):
    image = scan(np.zeros((256, 256, 256), np.float32)).chunk(64)
    mask = scan(np.zeros((256, 256, 256), bool)).chunk(64)
    both = len(dict(image.data.dask)) + len(dict(mask.data.dask))
    found = op(image, mask=mask)
    assert (len(dict(found.data.dask)) - both) / image.data.npartitions <= most


def test_regions_take_the_same_tasks_for_any_number_of_labels():
    image = scan(np.zeros((256, 256, 256), np.int16)).chunk(64)
    labels = scan(np.zeros((256, 256, 256), np.int32)).chunk(64)
    sources = len(dict(image.data.dask)) + len(dict(labels.data.dask))
    quantities = [q for q in measure.QUANTITIES if q != "median"]
    for n in (1, 1000):
        table = measure.regions(image, labels, index=range(1, n + 1), quantities=quantities)
        tasks = dict(table["mean"].data.dask)
        for name in quantities:
            tasks |= dict(table[name].data.dask)
        assert (len(tasks) - sources) / image.data.npartitions <= 3


@given(data=st.data(), image=images(high=9))
def test_in_scratch_storage_the_median_is_the_same_and_every_file_is_freed(
    data, image, tmp_path_factory
):
    (lazy,) = data.draw(chunked(image))
    with graph.scratch(tmp_path_factory.mktemp("scratch")) as folder:
        actual = measure.median_in(lazy)
        assert not any(str(folder) in str(key) for key in dict(actual.data.dask))
        same_bits(actual, measure.median_in(image))
        assert list(folder.iterdir()) == []


# Refusals.


def test_two_grids_are_refused_with_both_shapes():
    image, labels = wide(shape=(4, 5, 6))
    with pytest.raises(GridError, match=r"image is 4 x 5 x 6 .* mask is 4 x 5 x 5"):
        measure.mean_in(image, mask=(labels > 0).isel(x=slice(5)))
    with pytest.raises(GridError, match=r"image and labels .* lie up to 2 mm apart"):
        measure.regions(image, labels.assign_coords(y=labels.y + 2))


@pytest.mark.parametrize(
    "op",
    [measure.volume_ml, measure.centroid_mm, measure.field_of_view_mm],
    ids=lambda op: op.__name__,
)
def test_a_measure_in_mm_needs_coordinates(op):
    with pytest.raises(GridError, match=r"'y'.* has no coordinate in mm"):
        op((wide(shape=(3, 4, 5))[1] > 0).drop_vars("y"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantities": ["mean", "mode"]}, "no quantity 'mode'; it knows n_voxels"),
        ({"index": [1, 0]}, "index holds 0"),
        ({"index": [3, 1, 3]}, "index holds 3 more than once"),
        ({"index": [1.5]}, r"index is \[1\.5\]"),
    ],
)
def test_regions_refuse_what_they_cannot_measure(options, message):
    with pytest.raises(ValueError, match=message):
        measure.regions(*wide(shape=(3, 4, 5)), **options)


def test_labels_and_masks_are_not_images_and_not_each_other():
    image, labels = wide(shape=(3, 4, 5))
    with pytest.raises(ValueError, match="mask is int32, expected bool"):
        measure.mean_in(image, mask=labels)
    with pytest.raises(ValueError, match="labels is float32, expected integers"):
        measure.regions(image, image)
    with pytest.raises(ValueError, match="image is complex128, expected real numbers"):
        measure.mean_in(image.astype(complex))
    with pytest.raises(ValueError, match="the labels hold -1"):
        measure.regions(image, labels - 1)


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match="image is empty"):
        measure.mean_in(scan(np.zeros((0, 2, 3))))


def test_volume_of_a_ball_is_that_of_geometry():
    z, y, x = np.meshgrid(
        *(mm * (np.arange(n) - n / 2) for mm, n in ((3, 30), (1, 80), (1.5, 60))), indexing="ij"
    )
    ball = scan(z**2 + y**2 + x**2 < 30.0**2)
    assert float(measure.volume_ml(ball)) == pytest.approx(4 / 3 * math.pi * 3.0**3, rel=1e-2)
