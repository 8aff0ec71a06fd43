import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import assert_kept, chunked, masks, nothing_computed, scan, tasks_per_block

from cohort import grid
from cohort.grid import GridError
from cohort.ops import graph, labels

OBLIQUE = np.array(
    [[1.4, 0.3, 0.0, -20.0], [-0.3, 1.4, 0.0, 11.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1.0]]
)


def numbered(shape=(9, 11, 13), seed=0):
    noise = ndi.gaussian_filter(np.random.default_rng(seed).random(shape), 1.0)
    return scan(ndi.label(noise > np.quantile(noise, 0.8))[0].astype(np.int32))


def world(array, index):
    """World x, y, z of a voxel z, y, x."""
    return tuple((grid.affine_of(array) @ [*index[::-1], 1])[:3])


# Numbers.


@given(data=st.data(), mask=masks(), connectivity=st.integers(1, 3))
def test_labels_are_the_numbers_of_scipy_for_every_chunking(data, mask, connectivity):
    expected, _ = ndi.label(mask.to_numpy(), ndi.generate_binary_structure(3, connectivity))
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        actual = labels.label(m, connectivity=connectivity)
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, expected)
        assert_kept(actual, m)


@given(data=st.data(), mask=masks(ndim=2, high=20), connectivity=st.integers(1, 3))
def test_labels_of_a_plane_are_the_numbers_of_scipy(data, mask, connectivity):
    expected, _ = ndi.label(mask.to_numpy(), ndi.generate_binary_structure(2, connectivity))
    (lazy,) = data.draw(chunked(mask))
    for m in (mask, lazy):
        np.testing.assert_array_equal(labels.label(m, connectivity=connectivity), expected)


@given(data=st.data(), mask=masks(ndim=1, high=40))
def test_labels_of_a_line_are_the_numbers_of_scipy(data, mask):
    (lazy,) = data.draw(chunked(mask))
    np.testing.assert_array_equal(labels.label(lazy), ndi.label(mask.to_numpy())[0])


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_objects_that_touch_at_a_corner_of_four_blocks_only(connectivity):
    """Two voxels on a diagonal, in blocks that share nothing else: the faces of the blocks see none of it."""
    for second in ((1, 2, 2), (2, 1, 2), (2, 2, 1), (2, 2, 2), (1, 1, 2), (1, 2, 1), (2, 1, 1)):
        for flip in (1, -1):
            mask = np.zeros((4, 4, 4), bool)
            mask[1, 1, 1] = mask[second] = True
            mask = mask[:, ::flip]
            expected, _ = ndi.label(mask, ndi.generate_binary_structure(3, connectivity))
            actual = labels.label(scan(mask).chunk(2), connectivity=connectivity)
            np.testing.assert_array_equal(actual, expected)


def test_a_spiral_through_all_blocks_is_one_object():
    mask = np.ones((1, 17, 17), bool)
    mask[0, 1::4, :-1] = mask[0, 3::4, 1:] = False
    actual = labels.label(scan(mask).chunk(4))
    np.testing.assert_array_equal(actual, mask.astype(int))


def test_frames_are_labelled_one_by_one_from_one():
    frames = np.random.default_rng(0).random((4, 5, 6, 7)) < 0.3
    expected = np.stack([ndi.label(f)[0] for f in frames])
    mask = scan(frames, lead=("time",))
    for m in (mask, mask.chunk(time=3, z=2, x=4), mask.chunk(time=1, y=3)):
        np.testing.assert_array_equal(labels.label(m), expected)
        np.testing.assert_array_equal(labels.count(labels.label(m)), expected.max(axis=(1, 2, 3)))


@given(
    data=st.data(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64, np.uint64]),
)
def test_count_is_of_different_labels(data, seed, dtype):
    array = scan((np.random.default_rng(seed).integers(0, 5, (4, 5, 6)) * 25).astype(dtype))
    (lazy,) = data.draw(chunked(array))
    expected = np.setdiff1d(array, [0]).size
    for a in (array, lazy):
        found = labels.count(a)
        assert found.ndim == 0
        assert found.dtype == np.int64
        assert found.values == expected


def test_nothing_has_no_labels():
    assert labels.count(scan(np.zeros((2, 3, 4), np.int32)).chunk(2)).values == 0


# Choosing one.


@given(data=st.data(), seed=st.integers(0, 99))
def test_select_finds_one_object_for_every_chunking(data, seed):
    array = numbered((7, 8, 9), seed)
    values = array.to_numpy()
    index = tuple(np.argwhere(values)[seed % np.count_nonzero(values)])
    (lazy,) = data.draw(chunked(array))
    largest = 1 + np.argmax(np.bincount(values.ravel())[1:])
    for a in (array, lazy):
        np.testing.assert_array_equal(labels.select(a, label=2), values == 2)
        np.testing.assert_array_equal(labels.select(a, largest=True), values == largest)
        for choice in (
            {"at_mm": world(a, index)},
            {"nearest_mm": dict(zip("xyz", world(a, index), strict=True))},
        ):
            actual = labels.select(a, **choice)
            np.testing.assert_array_equal(actual, values == values[index])
            assert_kept(actual, a)


def test_a_point_is_a_place_in_the_world_also_of_an_oblique_scan():
    array = grid.with_affine(numbered().drop_attrs(), OBLIQUE)
    values = array.to_numpy()
    for index in map(tuple, np.argwhere(values)[::17]):
        x, y, z, _ = OBLIQUE @ [*index[::-1], 1]
        near = (x + 0.3, y - 0.3, z + 0.9)
        for a in (array, array.chunk(5)):
            np.testing.assert_array_equal(labels.select(a, at_mm=near), values == values[index])


def test_the_nearest_object_is_near_in_mm_and_not_in_voxels():
    array = scan(np.zeros((5, 9, 3), np.int32))
    array[2, 7, 1] = 2  # three voxels, 3 mm
    array[4, 4, 1] = 1  # two voxels, 6 mm
    for a in (array, array.chunk(2)):
        np.testing.assert_array_equal(labels.select(a, nearest_mm=world(a, (2, 4, 1))), array == 2)


def test_of_two_equally_near_objects_the_lower_label_is_taken():
    array = scan(np.array([[[7, 0, 3]]], np.int32))
    for a in (array, array.chunk(x=1)):
        np.testing.assert_array_equal(labels.select(a, nearest_mm=world(a, (0, 0, 1))), array == 3)


@given(
    data=st.data(),
    dtype=st.sampled_from(["u1", "i1", ">i2", "u4", "i8"]),
    label=st.sampled_from([1, 7, 127, 128, 255, 256, 300, 2**31, 2**40 + 1, 2**53]),
)
def test_select_takes_any_number_for_labels_of_any_dtype(data, dtype, label):
    highest = min(2**53, np.iinfo(dtype).max)
    values = np.array([0, 1, 7, 44, 127, highest, 1], dtype)
    array = scan(values.reshape(1, 1, 7))
    (lazy,) = data.draw(chunked(array))
    expected = [[[n == label for n in values.tolist()]]]
    for a in (array, lazy):
        np.testing.assert_array_equal(labels.select(a, label=label), expected)


@pytest.mark.parametrize("choice", [{"largest": True}, {"nearest_mm": (0, 0, 0)}, {"label": 5}])
def test_where_there_is_no_object_the_mask_is_empty(choice):
    for nothing in (
        scan(np.zeros((3, 4, 5), np.int32)),
        scan(np.zeros((3, 4, 5), np.int32)).chunk(2),
    ):
        assert not labels.select(nothing, **choice).to_numpy().any()


def test_each_frame_has_its_own_largest_object():
    frames = scan(np.array([[[1, 1, 0, 2]], [[1, 0, 2, 2]]], np.int32)[:, None], lead=("time",))
    expected = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], bool)[:, None]
    for f in (frames, frames.chunk(time=1, x=2)):
        np.testing.assert_array_equal(labels.select(f, largest=True), expected)


# Boxes.


@given(
    data=st.data(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64]),
)
def test_boxes_are_those_of_scipy_for_every_chunking(data, seed, dtype):
    array = numbered((7, 8, 9), seed).astype(dtype)
    expected = ndi.find_objects(array.to_numpy().astype(int))
    (lazy,) = data.draw(chunked(array))
    boxes = labels.bounding_boxes(array)
    assert boxes.label.values.tolist() == list(range(1, len(expected) + 1))
    xr.testing.assert_identical(labels.bounding_boxes(lazy).compute(), boxes)
    for a in (array, lazy):
        for label, slices in enumerate(expected, 1):
            box = boxes.sel(label=label)
            assert [tuple(pair) for pair in box.bounding_box.values] == [
                (s.start, s.stop) for s in slices
            ]
            for same in (box, box.bounding_box, slices, dict(zip("zyx", slices, strict=True))):
                part = labels.crop(a, same)
                np.testing.assert_array_equal(part, array.to_numpy()[slices])
            # In mm the box is what selection by coordinates takes.
            low, high = (box.bounding_box_mm.sel(bound=b).values for b in ("start", "stop"))
            between = {d: slice(*ends) for d, *ends in zip("zyx", low, high, strict=True)}
            xr.testing.assert_equal(a.sel(between), part)


def test_boxes_in_mm_follow_a_falling_coordinate():
    array = scan(np.array([[[0, 4, 4, 0]]], np.int32)).isel(x=slice(None, None, -1))
    box = labels.bounding_boxes(array).sel(label=4)
    assert box.bounding_box.sel(dim="x").values.tolist() == [1, 3]
    assert box.bounding_box_mm.sel(dim="x").values.tolist() == [-17.25, -20.25]
    assert box.bounding_box_mm.attrs == {"units": "mm"}


def test_boxes_of_labels_that_are_asked_for_are_lazy():
    array = scan(np.array([[[0, 4, 4, 7]]], np.int32))
    with nothing_computed():
        boxes = labels.bounding_boxes(array.chunk(x=2), index=[7, 5])
    assert boxes.bounding_box.values.tolist() == [[[0, 1], [0, 1], [3, 4]], [[0, 0]] * 3]
    assert np.isnan(boxes.bounding_box_mm.sel(label=5)).all()
    assert not labels.bounding_boxes(array * 0).sizes["label"]


def test_each_frame_has_its_own_boxes():
    frames = scan(np.array([[[1, 1, 0, 2]], [[1, 0, 0, 0]]], np.int32)[:, None], lead=("time",))
    for f in (frames, frames.chunk(time=1, x=3)):
        x = labels.bounding_boxes(f).bounding_box.sel(dim="x")
        assert x.values.tolist() == [[[0, 2], [3, 4]], [[0, 1], [0, 0]]]


@given(data=st.data(), seed=st.integers(0, 99))
def test_a_crop_stays_where_it_is_in_the_world(data, seed):
    array = grid.with_affine(numbered((7, 8, 9), seed).drop_attrs(), OBLIQUE)
    (lazy,) = data.draw(chunked(array))
    start = [data.draw(st.integers(0, n - 1)) for n in array.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, array.shape, strict=True)]
    box = {d: slice(a, b) for d, a, b in zip("zyx", start, stop, strict=True)}
    for a in (array, lazy):
        part = labels.crop(a, box)
        assert part.shape == tuple(b - a for a, b in zip(start, stop, strict=True))
        assert part.attrs == array.attrs
        shifted = grid.affine_of(part) @ [0, 0, 0, 1]
        np.testing.assert_allclose(shifted, OBLIQUE @ [*start[::-1], 1], atol=1e-9)
        np.testing.assert_allclose(grid.affine_of(part)[:, :3], OBLIQUE[:, :3], atol=1e-9)
        grid.check_same_grid(crop=part, image=array.isel(box))


def test_a_crop_of_one_voxel_remembers_its_thickness():
    array = numbered().assign_coords({d: np.arange(n) * 2.0 for d, n in numbered().sizes.items()})
    kept = array.copy(deep=True)
    part = labels.crop(array, {"z": slice(3, 4)})
    assert grid.spacing_mm(part) == {"z": 2.0, "y": 2.0, "x": 2.0}
    xr.testing.assert_identical(array, kept)


def test_a_crop_reads_only_the_chunks_that_it_meets():
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"])
        return np.ones(block_info[None]["chunk-shape"])

    data = da.map_blocks(block, chunks=((4, 4), (4, 4), (4, 4)), dtype=float, meta=np.empty(0))
    image = scan(np.zeros((8, 8, 8))).copy(data=data)
    read.clear()
    part = labels.crop(image, (slice(0, 3), slice(5, 8), slice(2, 6)))
    assert not read
    assert part.to_numpy().shape == (3, 3, 4)
    assert sorted(read) == [(0, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"z": slice(3, 3)}, "box runs from 3 to 3 along 'z', of 9 voxels"),
        ({"z": slice(0, 10)}, "box runs from 0 to 10 along 'z', of 9 voxels"),
        ({"y": slice(-3, None)}, "box runs from -3 to 11 along 'y', of 11 voxels"),
        ({"y": slice(0, 9, 2)}, "a step of 2 along 'y'"),
        ({"time": slice(0, 1)}, "box names 'time', which is no spatial dim"),
        ((slice(0, 1),), "box has 1 slices, but the image has dims z, y, x"),
        ({"x": slice(0.5, 2)}, "box runs from 0.5 to 2 along 'x'"),
    ],
)
def test_a_box_that_is_none_is_refused(box, message):
    with pytest.raises(ValueError, match=message):
        labels.crop(numbered(), box)


def test_a_box_of_many_labels_or_of_none_is_refused():
    array = numbered()
    boxes = labels.bounding_boxes(array, index=[1, 999])
    with pytest.raises(ValueError, match=r"box has dims \('label', 'dim', 'bound'\), expected"):
        labels.crop(array, boxes)
    with pytest.raises(ValueError, match="runs from 0 to 0 along 'z'"):
        labels.crop(array, boxes.sel(label=999))
    with pytest.raises(ValueError, match="runs from nan to nan along 'z'"):
        labels.crop(array, boxes.bounding_box_mm.sel(label=999))
    with pytest.raises(GridError, match="'x' has no coordinate in mm"):
        labels.bounding_boxes(array.drop_vars("x"))
    with pytest.raises(ValueError, match="index holds 0"):
        labels.bounding_boxes(array, index=[0])


# Refusals.


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "none given"),
        ({"label": 1, "largest": True}, "label, largest given"),
        ({"label": 0}, "label is 0"),
        ({"label": 1.5}, "label is 1.5, expected a whole number from 1 to 9007199254740992"),
        ({"label": 2**53 + 1}, "label is 9007199254740993, expected a whole number"),
        ({"label": math.nan}, "label is nan, expected a whole number"),
        ({"label": math.inf}, "label is inf, expected a whole number"),
        ({"at_mm": (1, 2)}, r"at_mm is \(1, 2\), expected three numbers"),
        ({"at_mm": (1, 2, math.nan)}, "nan"),
        ({"nearest_mm": {"x": 1, "y": 2}}, r"nearest_mm has \['x', 'y'\]"),
        ({"at_mm": (999.0, -10.0, -1.0)}, r"voxel 680 along 'x', outside of the 13"),
    ],
)
def test_select_refuses_what_is_no_choice(choice, message):
    with pytest.raises(ValueError, match=message):
        labels.select(numbered(), **choice)


def test_background_at_a_point_is_refused_when_computed():
    array = scan(np.zeros((3, 4, 5), np.int32))
    point = world(array, (1, 2, 3))
    with pytest.raises(ValueError, match=r"no object at \(-16\.5, -12\.0, -4\.0\) mm"):
        labels.select(array, at_mm=point)
    lazy = labels.select(array.chunk(2), at_mm=point)
    with pytest.raises(ValueError, match=r"no object at \(-16\.5"):
        lazy.compute()


def test_a_point_needs_coordinates():
    with pytest.raises(GridError, match="'z' has no coordinate"):
        labels.select(numbered().drop_vars("z"), at_mm=(0, 0, 0))


def test_labels_are_integers_from_zero():
    with pytest.raises(ValueError, match="labels is float64, expected integers"):
        labels.count(scan(np.array([[[1.0, np.nan]]])))
    lazy = labels.count(scan(np.array([[[1, -3]]])).chunk(1))
    with pytest.raises(ValueError, match="the labels hold -3"):
        lazy.compute()


@pytest.mark.parametrize("connectivity", [0, 4, 6])
def test_an_unknown_connectivity_is_refused(connectivity):
    with pytest.raises(ValueError, match=f"connectivity is {connectivity}"):
        labels.label(scan(np.ones((2, 2, 2), bool)), connectivity=connectivity)


# Graphs.


def test_nothing_is_computed_until_asked_and_inputs_stay_as_they_are():
    array = numbered()
    kept = array.copy(deep=True)
    array.data.flags.writeable = False
    lazy = array.chunk(4)
    with nothing_computed():
        results = [
            labels.label(lazy > 0),
            labels.count(lazy),
            labels.select(lazy, largest=True),
            labels.select(lazy, at_mm=world(array, tuple(np.argwhere(array.to_numpy())[0]))),
            labels.select(lazy, nearest_mm=(0, 0, 0)),
        ]
    for result in results:
        assert np.asarray(result).any()
    xr.testing.assert_identical(array, kept)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_a_block_takes_at_most_eight_tasks(connectivity):
    mask = scan(np.random.default_rng(0).random((24, 24, 24)) < 0.5).chunk(4)
    assert tasks_per_block(labels.label(mask, connectivity=connectivity), mask) <= 8
    assert tasks_per_block(labels.count(mask.astype(int)), mask.astype(int)) <= 3


@given(data=st.data(), mask=masks(high=9))
def test_in_scratch_storage_the_numbers_are_the_same_and_every_file_is_freed(
    data, mask, tmp_path_factory
):
    (lazy,) = data.draw(chunked(mask))
    with graph.scratch(tmp_path_factory.mktemp("scratch")) as folder:
        actual = labels.label(lazy).to_numpy()
        assert list(folder.iterdir()) == []
    np.testing.assert_array_equal(actual, ndi.label(mask.to_numpy())[0])
    assert not folder.exists()
