"""Slices are turned and stretched as the affine says; figures draw the numbers they are given."""

import itertools
import subprocess
import sys
import warnings

import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import statsmodels.api as sm
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.patches import PathPatch

from cohort import grid, schema
from cohort.reporting import figures, sliceaxes, sliceplots, slices
from cohort.stats.outlying import is_outlying

SHAPE, SPACING_XYZ = (7, 9, 11), (1.5, 2.0, 3.0)
ORIENTATIONS = [
    nib.orientations.axcodes2ornt("".join(code))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*axes)
]


def scan(voxels=None, spacing_xyz=SPACING_XYZ, origin=(-8.0, -7.0, -9.0)) -> xr.DataArray:
    """RAS+ image, every voxel different unless given: no flip or transpose goes unseen."""
    if voxels is None:
        voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    affine = np.diag([*spacing_xyz, 1.0])
    affine[:3, 3] = origin
    return schema.make_scan(voxels, affine)["image"]


def turned(image: xr.DataArray, orientation: np.ndarray) -> xr.DataArray:
    """The same voxels in another axis order, by nibabel."""
    source = nib.Nifti1Image(image.to_numpy().T, grid.affine_of(image))
    other = source.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
    )
    return schema.make_scan(np.asarray(other.dataobj).T, other.affine)["image"]


def drawn(figure) -> None:
    """Draw it: only then do bad text and collapsed axes show."""
    figure.draw_without_rendering()


# -- slices ------------------------------------------------------------------------------------------


def test_patients_right_is_left_in_the_picture_and_front_and_head_are_on_top():
    image = scan()
    voxels = image.to_numpy()
    np.testing.assert_array_equal(slices.take(image, plane="axial").pixels, voxels[3][::-1, ::-1])
    np.testing.assert_array_equal(
        slices.take(image, plane="coronal").pixels, voxels[:, 4][::-1, ::-1]
    )
    np.testing.assert_array_equal(
        slices.take(image, plane="sagittal").pixels, voxels[:, :, 5][::-1, ::-1]
    )
    axial = slices.take(image, plane="axial")
    assert (axial.left, axial.right, axial.top, axial.bottom) == ("R", "L", "A", "P")


@pytest.mark.parametrize("plane", slices.VIEWS)
def test_every_one_of_the_48_axis_orders_gives_the_same_picture(plane):
    image = scan()
    mask = image % 5 == 0
    expected = slices.take(image, plane=plane, mask=mask)
    assert len(ORIENTATIONS) == 48
    for orientation in ORIENTATIONS:
        other = turned(image, orientation)
        actual = slices.take(other, plane=plane, mask=turned(mask.astype(np.uint8), orientation))
        np.testing.assert_array_equal(actual.pixels, expected.pixels)
        np.testing.assert_array_equal(actual.mask, expected.mask)
        assert (actual.left, actual.top) == (expected.left, expected.top)
        assert actual.aspect == pytest.approx(expected.aspect)


@given(spacing=st.tuples(*[st.sampled_from([0.5, 0.9375, 1.0, 3.27, 8.0])] * 3))
def test_aspect_is_the_ratio_of_spacings_in_all_three_planes(spacing):
    dx, dy, dz = spacing
    axes = figures.planes(scan(spacing_xyz=spacing)).axes
    assert [a.get_aspect() for a in axes] == pytest.approx([dy / dx, dz / dx, dz / dy])


def test_a_position_in_mm_takes_the_nearest_slice():
    image = scan()
    cut = slices.take(image, plane="axial", at_mm=-9 + 2 * 3.0 + 1.4)
    assert cut.position_mm == -3.0
    np.testing.assert_array_equal(cut.pixels, image.to_numpy()[2][::-1, ::-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda i: slices.take(i, at_mm=99.0),
            "z = 99 mm lies outside the scan, which reaches from -9 to 9 mm",
        ),
        (
            lambda i: slices.take(i, mask=scan(origin=(0.0, 0.0, 0.0)) > 3),
            "image and mask .* lie up to 9 mm apart",
        ),
        (lambda i: slices.take(i.drop_vars("y")), "dimension 'y' has no coordinate in mm"),
        (lambda i: slices.take(i[0].drop_vars("z")), "this array has \\('y', 'x'\\)"),
        (lambda i: figures.planes(i, at_mm={"t": 1.0}), "no dim 't'; it takes z, y and x"),
    ],
)
def test_slices_refuse_what_has_no_place(make, message):
    with pytest.raises(grid.GridError, match=message):
        make(scan())


def test_an_unknown_plane_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no plane 'oblique'; there are axial, coronal, sagittal"):
        slices.take(scan(), plane="oblique")


class Counting:
    """An array that remembers how many voxels were asked of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.ndim, self.read = (
            values,
            values.shape,
            values.dtype,
            values.ndim,
            0,
        )

    def __getitem__(self, key):
        part = self.values[key]
        self.read += part.size
        return part


def test_three_planes_read_only_what_they_show():
    source = Counting(np.random.default_rng(0).random((40, 40, 40)).astype(np.float32))
    lazy = scan(np.zeros((40, 40, 40), np.float32)).copy(data=da.from_array(source, chunks=10))
    figures.planes(lazy)
    assert source.read == 3 * 40**2


def test_of_a_scan_with_time_the_first_frame_is_shown():
    frames = np.stack([np.full(SHAPE, 7.0), np.full(SHAPE, 9.0)]).astype(np.float32)
    time = xr.Variable("time", [0.0, 0.1], {"units": "s"})
    image = schema.make_scan(frames, np.diag([1.0, 1, 1, 1]), leading={"time": time})["image"]
    assert set(slices.take(image).pixels.ravel()) == {7.0}


@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_outline_is_the_mask_without_its_erosion(mask):
    np.testing.assert_array_equal(slices.outline(mask), mask & ~ndi.binary_erosion(mask))


@given(spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3), size=st.integers(40, 160))
def test_a_tile_has_the_proportions_of_the_slice_in_mm(spacing, size):
    rows, columns, _ = slices.tile(slices.take(scan(spacing_xyz=spacing)), size=size).shape
    height, width = 9 * spacing[1], 11 * spacing[0]
    assert max(rows, columns) == size
    assert rows == pytest.approx(size * height / max(height, width), abs=0.5)
    assert columns == pytest.approx(size * width / max(height, width), abs=0.5)


def test_a_tile_is_grey_but_for_the_outline_of_the_mask():
    image = scan()
    inside = (image.x > 0) & (image.y > -3) & (image.z > -99)
    mask = inside.transpose("z", "y", "x")
    with_mask = slices.tile(slices.take(image, mask=mask), size=110)
    without = slices.tile(slices.take(image), size=110)
    assert (without[..., 0] == without[..., 2]).all()
    amber = (with_mask == slices.OUTLINE_RGB).all(axis=2)
    assert amber.any()
    # x > 0 is the patient's right: the left half of the picture.
    assert np.flatnonzero(amber.any(axis=0)).max() < 55
    changed = (with_mask != without).any(axis=2)
    assert not (changed & ~ndi.binary_dilation(amber)).any()


@given(data=st.data())
def test_tiles_of_any_numbers_are_drawn(data):
    values = data.draw(arrays(np.float32, (2, 3, 4), elements=st.floats(width=32)))
    assert slices.tile(slices.take(scan(values)), size=12).dtype == np.uint8


def test_the_busiest_slice_shows_most_of_the_mask():
    mask = xr.zeros_like(scan(), dtype=bool)
    mask[5, 2:4, 2:8] = True
    mask[1, 2:4, 2:4] = True
    assert slices.busiest_mm(mask) == float(mask.z[5])
    assert slices.busiest_mm(xr.zeros_like(mask)) is None


def test_the_grey_window_ignores_what_is_not_finite():
    values = np.r_[np.linspace(0, 1000, 1001), np.nan, np.inf, -np.inf]
    assert slices.window(values) == pytest.approx((10.0, 995.0))
    assert slices.window(np.full(3, np.nan)) == (0.0, 1.0)
    assert slices.window(np.full(3, 5.0)) == (5.0, 6.0)


def test_montage_runs_from_head_to_foot_without_repeating_a_slice():
    figure = figures.montage(scan(), n=12, mask=scan() > 300)
    drawn(figure)
    titles = [a.get_title() for a in figure.axes if a.get_title()]
    heights = [float(t.split("=")[1].split("mm")[0]) for t in titles]
    assert len(heights) == SHAPE[0]
    assert heights == sorted(set(heights), reverse=True)


def test_a_contact_sheet_cuts_each_scan_where_its_mask_is():
    image, mask = scan(), xr.zeros_like(scan(), dtype=bool)
    mask[6, 1:4, 1:4] = True
    figure = figures.contact_sheet([("with $mask_{", image, mask), ("病人", image, None)])
    pictures = [a.images[0].get_array() for a in figure.axes]
    np.testing.assert_array_equal(pictures[0], image.to_numpy()[6][::-1, ::-1])
    np.testing.assert_array_equal(pictures[1], image.to_numpy()[3][::-1, ::-1])


@given(
    spacing=st.tuples(*[st.sampled_from([0.5, 0.9375, 1.0, 3.27, 8.0])] * 3),
    order=st.sampled_from(range(48)),
)
@settings(max_examples=15)
def test_planes_have_pixels_of_true_aspect_in_any_axis_order(spacing, order):
    dx, dy, dz = spacing
    expected = (
        (9, 11, dy / dx, "RLAP"),
        (7, 11, dz / dx, "RLSI"),
        (7, 9, dz / dy, "APSI"),
    )
    figure = figures.planes(turned(scan(spacing_xyz=spacing), ORIENTATIONS[order]))
    for axes, (rows, columns, ratio, letters) in zip(figure.axes, expected, strict=True):
        assert axes.images[0].get_array().shape == (rows, columns)
        axes.apply_aspect()
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(rows * ratio / columns, rel=1e-6)
        assert [t.get_text() for t in axes.texts] == list(letters)


def test_labels_have_their_colours_outside_them_nothing_is_there():
    image = scan()
    labels = xr.zeros_like(image, dtype=np.int32)
    labels[3, 2:5, 1:4] = 1
    labels[3, 5:8, 6:9] = 9
    figure = figures.overlay(image, labels, alpha=0.25)
    (grey, colours) = figure.axes[0].images
    np.testing.assert_array_equal(grey.get_array(), image.to_numpy()[3][::-1, ::-1])
    picture = np.asarray(colours.get_array())
    turned_round = labels.to_numpy()[3][::-1, ::-1]
    assert (picture[turned_round == 0] == 0).all()
    for label in (1, 9):
        expected = to_rgba(sliceaxes.LABEL_COLOURS[(label - 1) % 7], 0.25)
        assert (picture[turned_round == label] == expected).all()
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["1", "9"]
    assert len(figures.overlay(image, labels, style="contours").axes[0].images) == 1
    assert len(figures.overlay(image, labels, style="both").axes[0].collections) == 2
    assert not figures.overlay(image, labels, style="translucent").axes[0].collections
    drawn(figures.overlay(image, labels > 0, plane="coronal"))
    drawn(figures.overlay(image, xr.zeros_like(labels)))


@given(values=arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32)))
@settings(max_examples=8)
def test_differences_are_drawn_around_zero(values):
    a, b = scan(values), scan(np.full(SHAPE, 3.0, np.float32))
    figure = figures.difference(a, b)
    axial, coronal, sagittal = (axes.images[0] for axes in figure.axes[:3])
    expected = values.astype(np.float64) - 3.0
    np.testing.assert_array_equal(axial.get_array(), expected[3][::-1, ::-1])
    np.testing.assert_array_equal(coronal.get_array(), expected[:, 4][::-1, ::-1])
    np.testing.assert_array_equal(sagittal.get_array(), expected[:, :, 5][::-1, ::-1])
    shown = [np.abs(expected[3]), np.abs(expected[:, 4]), np.abs(expected[:, :, 5])]
    limit = max(each.max() for each in shown) or 1.0
    for picture in (axial, coronal, sagittal):
        assert picture.get_clim() == pytest.approx((-limit, limit))
        red, green, blue, _ = picture.cmap(picture.norm(0.0))
        assert min(red, green, blue) > 0.95  # zero is white


def test_distances_have_their_unit_on_the_bar_and_end_where_they_are_told_to():
    distance = scan(np.linspace(-9, 30, np.prod(SHAPE)).reshape(SHAPE).astype(np.float32))
    distance.attrs["units"] = "mm"
    figure = figures.distance_map(distance, limit=12.0, at_mm={"z": 0.0})
    assert figure.axes[0].images[0].get_clim() == (-12.0, 12.0)
    assert figure.axes[3].get_ylabel() == "distance [mm]"
    drawn(figure)
    with pytest.raises(ValueError, match="limit is -1, expected a number above 0"):
        figures.distance_map(distance, limit=-1)
    with pytest.raises(grid.GridError, match="a and b"):
        figures.difference(distance, scan(origin=(0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("draw", "voxels"),
    [
        (lambda image, _: figures.planes(image, labels=None), 3 * 40**2),
        (lambda image, mask: figures.planes(image, mask=mask), 3 * 40**2),
        (lambda image, _: figures.montage(image, n=4), 4 * 40**2),
        (lambda image, _: figures.montage(image, every=20), 2 * 40**2),
        (lambda image, mask: figures.overlay(image, mask, at_mm=-9.0), 40**2),
        (lambda image, mask: figures.difference(image, mask), 3 * 40**2),
        (lambda image, _: figures.distance_map(image), 3 * 40**2),
        (lambda image, _: figures.contact_sheet([("a", image, None)]), 40**2),
    ],
    ids=["planes", "mask", "montage", "every", "overlay", "difference", "distance", "sheet"],
)
def test_figures_of_slices_read_the_voxels_they_show_and_no_other(draw, voxels):
    source = Counting(np.random.default_rng(0).random((40, 40, 40)).astype(np.float32))
    like = scan(np.zeros((40, 40, 40), np.float32))
    lazy = like.copy(data=da.from_array(source, chunks=10))
    draw(lazy, (like > 0).astype(np.uint8))
    assert source.read == voxels


def test_of_a_store_only_the_chunks_that_are_shown_are_read(tmp_path):
    values = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
    array = zarr.create_array(tmp_path, data=values, chunks=(10, 10, 10))
    image = scan(np.zeros((40, 40, 40), np.float32)).copy(data=da.from_array(array, chunks=10))
    at_mm = {"z": -9.0, "y": -7.0, "x": -8.0}
    # What is not shown is rubbish on the disk: whoever reads it fails.
    for z, y, x in itertools.product(range(1, 4), repeat=3):
        (tmp_path / f"c/{z}/{y}/{x}").write_bytes(b"rubbish")
    axial = figures.planes(image, at_mm=at_mm).axes[0]
    np.testing.assert_array_equal(axial.images[0].get_array(), values[0][::-1, ::-1])
    with pytest.raises(RuntimeError, match=r"(?i)zstd|decompress"):
        figures.planes(image)


def test_a_montage_shows_every_so_many_slices():
    titles = [a.get_title() for a in figures.montage(scan(), every=3).axes if a.get_title()]
    assert titles == ["z = 9.0 mm", "z = 0.0 mm", "z = -9.0 mm"]
    for bad in ({"n": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            figures.montage(scan(), **bad)


@given(values=st.dictionaries(st.sampled_from("abcde"), st.floats(), max_size=5))
@settings(max_examples=10)
def test_a_contact_sheet_is_sorted_by_what_was_measured_and_marks_what_is_flagged(values):
    images = {name: scan(np.full(SHAPE, i, np.float32)) for i, name in enumerate("abcde")}
    items = [(name, image, None) for name, image in images.items()]
    figure = figures.contact_sheet(items, values=values, label="csf", unit="ml", flagged={"b"})
    titles = [a.get_title().splitlines()[0] for a in figure.axes if a.images]
    order = sorted(
        "abcde",
        key=lambda n: (
            not np.isfinite(values.get(n, np.nan)),
            values.get(n) if np.isfinite(values.get(n, np.nan)) else 0.0,
        ),
    )
    assert titles == [f"{sliceplots.FLAG} b" if name == "b" else name for name in order]
    for axes, name in zip(figure.axes, order, strict=False):
        assert (axes.images[0].get_array() == images[name].to_numpy()[0, 0, 0]).all()
        assert (axes.spines["left"].get_linewidth() == 3) == (name == "b")
    assert figure.get_suptitle() == "sorted by csf [ml]"


def test_an_empty_contact_sheet_is_a_figure():
    drawn(figures.contact_sheet([]))


# -- what is no picture, or has nothing to show --------------------------------------------------------


def holed(share=0.3, value=np.nan) -> xr.DataArray:
    rng = np.random.default_rng(4)
    voxels = rng.uniform(-5, 900, SHAPE).astype(np.float32)
    voxels[rng.random(SHAPE) < share] = value
    return scan(voxels)


PICTURES = {
    "show": figures.show,
    "planes": figures.planes,
    "montage": figures.montage,
    "difference": lambda image: figures.difference(image, image / 2),
    "contact_sheet": lambda image: figures.contact_sheet([("a", image, None)]),
}


def rendered(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_has_a_colour_and_a_hatch_that_no_grey_is(draw, value):
    image = holed(value=value)
    figure = draw(image)
    rgb = rendered(figure)
    nothing = np.array(slices.NOTHING_RGB)
    assert (np.abs(rgb - nothing).max(axis=-1) < 3).mean() > 0.02
    for axes in figure.axes:
        for picture in axes.images:
            finite = picture.get_array().compressed()
            low, high = picture.get_clim()
            assert np.isfinite([low, high]).all()
            assert np.abs([low, high]).max() <= max(np.abs(finite).max(), 900.0)
    whole = rendered(draw(scan(np.nan_to_num(image.to_numpy(), posinf=5, neginf=5))))
    assert not (np.abs(whole - nothing).max(axis=-1) < 3).any()


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_an_image_without_a_finite_voxel_says_so_and_has_no_bar(draw):
    figure = draw(holed(share=1.1))
    words = [t.get_text() for axes in figure.axes for t in axes.texts]
    pictures = [axes for axes in figure.axes if axes.images]
    assert words.count("no finite voxel") == len(pictures)
    assert not [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    drawn(figure)


def test_histograms_without_a_finite_voxel_say_so():
    image = holed(share=1.1)
    for figure in (figures.histogram(image), figures.joint_histogram(image, image)):
        assert [t.get_text() for t in figure.axes[0].texts] == ["no finite voxel"]
    assert not figures.histogram(holed()).axes[0].texts


def test_a_tile_stripes_what_is_no_number_and_its_place_says_when_nothing_is():
    voxels = np.full(SHAPE, 7.0, np.float32)
    voxels[:, :, :5] = np.nan
    cut = slices.take(scan(voxels, spacing_xyz=(1.0, 1.0, 1.0), origin=(0.0, 0.0, -3.0)))
    picture = slices.tile(cut, size=110)
    lacking = np.repeat(~np.isfinite(cut.pixels[0]), 10)
    row = picture[picture.shape[0] // 2]
    coloured = (row == slices.NOTHING_RGB).all(axis=-1)
    assert coloured[lacking].any()
    assert (row[lacking] == 255).all(axis=-1).any()
    assert not coloured[~lacking].any()
    assert slices.place_of(cut) == "z = 0.0 mm"
    blank = slices.take(scan(np.full(SHAPE, np.nan, np.float32)))
    assert slices.place_of(blank) == "z = 0.0 mm, no finite voxel"


@pytest.mark.parametrize(
    ("draw", "kind", "words"),
    [
        (lambda i: figures.show(i.to_numpy()), TypeError, "expected a DataArray .*found ndarray"),
        (lambda i: figures.overlay(i, i.to_numpy() > 3), TypeError, "found ndarray"),
        (lambda i: figures.planes(i, mask=i.to_numpy() > 3), TypeError, "found ndarray"),
        (lambda i: figures.difference(i.to_numpy(), i), TypeError, "found ndarray"),
        (lambda i: figures.histogram(i.to_numpy()), TypeError, "found ndarray"),
        (lambda i: figures.show(i.isel(z=3)), grid.GridError, r"isel\(z=\[3\]\).*expand_dims\('z'\)"),
        (lambda i: figures.show(i.isel(z=slice(0))), ValueError, "one voxel .*found z 0, y 9, x 11"),
        (lambda i: figures.montage(i.isel(y=slice(0))), ValueError, "found z 7, y 0, x 11"),
        (lambda i: figures.histogram(i.isel(x=slice(0))), ValueError, "found z 7, y 9, x 0"),
        (lambda i: figures.show(i * 1j), ValueError, "expected real numbers, found complex"),
        (lambda i: figures.histogram(i * 1j), ValueError, "expected real numbers, found complex"),
        (lambda i: figures.overlay(i, i > 3, style="x"), ValueError, "style is 'x', expected one of 'contours'"),
        (lambda _: figures.box_by_group([1.0, 2.0], groups=["a"], label="v"), ValueError, "found 2 values and 1 groups"),
        (lambda _: figures.distribution(["a", "b"], label="v"), ValueError, "expected numbers, .*'a'"),
    ],
    ids=iter("abcdefghijklmn"),
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(draw, kind, words):
    with pytest.raises(kind, match=words) as refused:
        draw(scan())
    assert "\n" not in str(refused.value)


def test_one_slice_of_a_scan_is_drawn_as_the_refusal_says():
    image = scan()
    drawn(figures.show(image.isel(z=[3])))
    drawn(figures.show(image.isel(z=3).expand_dims("z")))


def test_a_legend_names_the_first_labels_and_counts_the_others():
    labels = scan(np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE))
    (axes,) = figures.overlay(labels, labels, style="translucent", at_mm=-9.0).axes
    said = [t.get_text() for t in axes.get_legend().get_texts()]
    assert said == [*map(str, range(1, 13)), "and 86 more"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(axes.figure)


# -- numbers -----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.sampled_from(["a", "b", None])), min_size=1, max_size=30
    )
)
def test_boxes_and_points_are_those_of_the_groups(pairs):
    values, groups = [v for v, _ in pairs], [g for _, g in pairs]
    (axes,) = figures.box_by_group(
        [*values, np.nan], groups=[*groups, "a"], label="volume", unit="mL"
    ).axes
    wanted = {g: [v for v, other in pairs if other == g] for g in sorted({g for g in groups if g})}
    ticks = [t.get_text() for t in axes.get_xticklabels()] if wanted else []
    assert ticks == [f"{g}\nn = {len(v)}" for g, v in wanted.items()]
    assert len([p for p in axes.patches if isinstance(p, PathPatch)]) == len(wanted)
    points = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
    for line, expected in zip(points, wanted.values(), strict=True):
        np.testing.assert_array_equal(line, expected)
    assert axes.get_ylabel() == "volume [mL]"


def test_of_many_groups_the_twelve_largest_are_drawn():
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    (axes,) = figures.box_by_group(np.arange(groups.size), groups=groups, label="v").axes
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        f"{g}\nn = {g + 1}" for g in range(8, 20)
    ]


def test_the_line_of_an_added_variable_plot_has_the_slope_of_the_whole_model():
    rng = np.random.default_rng(2)
    design = sm.add_constant(
        rng.normal(size=(60, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    )
    outcome = design @ [1, 2, -3, 0.5] + rng.normal(size=60)
    others = design[:, [0, 1, 3]]
    x, y = (sm.OLS(v, others).fit().resid for v in (design[:, 2], outcome))
    (axes,) = figures.added_variable(x, y, term="b", outcome="volume").axes
    (line,) = [one for one in axes.lines if one.get_label() == "slope = coefficient"]
    slope = np.diff(line.get_ydata())[0] / np.diff(line.get_xdata())[0]
    assert slope == pytest.approx(sm.OLS(outcome, design).fit().params[2], rel=1e-9)


def test_a_term_without_spread_has_no_line():
    (axes,) = figures.added_variable([0.0, 0.0], [1.0, 2.0], term="a", outcome="b").axes
    assert not [one for one in axes.lines if one.get_label() == "slope = coefficient"]


@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(np.nan)), max_size=60))
def test_a_distribution_counts_every_value_and_marks_exactly_the_outliers(values):
    (axes,) = figures.distribution(values, label="volume").axes
    finite = np.array([v for v in values if np.isfinite(v)])
    assert sum(bar.get_height() for bar in axes.patches) == finite.size
    marked = [line.get_xdata() for line in axes.lines if line.get_marker() == "^"]
    expected = finite[is_outlying(finite)]
    np.testing.assert_array_equal(marked[0] if marked else [], expected)


def test_a_distribution_with_one_absurd_value_is_drawn_in_few_bins():
    (axes,) = figures.distribution(
        np.r_[np.random.default_rng(0).normal(size=200), 1e12], label="v"
    ).axes
    assert len(axes.patches) == 60


def test_forest_draws_estimates_intervals_and_truth():
    table = pd.DataFrame(
        {"estimate": [0.2, -0.4], "ci_low": [0.1, -0.6], "ci_high": [0.3, -0.2]}, index=["a", "b$"]
    )
    figure = figures.forest(table, label="r", truth=[0.25, np.nan])
    drawn(figure)
    (axes,) = figure.axes
    squares, diamonds = (next(o for o in axes.lines if o.get_marker() == m) for m in "sD")
    np.testing.assert_array_equal(squares.get_xdata(), [0.2, -0.4])
    np.testing.assert_array_equal(diamonds.get_xdata(), [0.25, np.nan])
    spans = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert spans == [[0.1, 0.3], [-0.6, -0.2]]
    drawn(figures.forest(table.iloc[:0], label="r"))


def test_dollars_and_backslashes_in_names_are_text():
    name = r"$\frac{ <b>_^"
    for figure in (
        figures.box_by_group(
            [1.0, 2.0], groups=[name, name], label=name, unit=name, group_label=name
        ),
        figures.distribution([1.0, 2.0], label=name, unit=name),
        figures.added_variable([1.0, 2.0], [1.0, 2.0], term=name, outcome=name),
    ):
        drawn(figure)


def test_figures_touch_neither_pyplot_nor_matplotlib_until_they_draw():
    code = (
        "import sys; from cohort.reporting import figures, html; assert 'matplotlib' not in sys.modules; "
        "assert 'jinja2' not in sys.modules; figures.distribution([1.0], label='a'); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- images as numbers, hearts, flows ----------------------------------------------------------------


@given(
    values=arrays(np.float32, SHAPE, elements=st.floats(-1e3, 1e3, width=32)),
    bins=st.integers(1, 40),
)
@settings(max_examples=15)
def test_a_histogram_and_its_cdf_are_numpys(values, bins):
    image = scan(values)
    mask = scan(np.arange(np.prod(SHAPE)).reshape(SHAPE)) % 3 == 0
    figure = figures.histogram(image, bins=bins, mask=mask)
    counted, cumulated = figure.axes
    low, high = float(values.min()), float(values.max())
    inside = values[mask.to_numpy()].astype(np.float64)
    expected, edges = np.histogram(inside, bins=bins, range=(low, high if high > low else low + 1))
    heights, shown, _ = counted.patches[0].get_data()
    np.testing.assert_array_equal(heights, expected)
    np.testing.assert_allclose(shown, edges)
    x, y = cumulated.lines[0].get_data()
    np.testing.assert_allclose(y, np.r_[0, np.cumsum(expected) / expected.sum()])
    np.testing.assert_allclose(x, edges)


def test_a_histogram_of_nothing_is_a_figure_and_one_with_a_unit_says_it():
    empty = scan(np.full(SHAPE, np.nan, np.float32))
    empty.attrs["units"] = "HU"
    figure = figures.histogram(empty)
    assert figure.axes[0].get_xlabel() == "value [HU]"
    drawn(figure)
    drawn(figures.joint_histogram(empty, empty))


def test_a_joint_histogram_is_numpys():
    rng = np.random.default_rng(1)
    a, b = (scan(rng.normal(size=SHAPE).astype(np.float32)) for _ in range(2))
    figure = figures.joint_histogram(a, b, bins=9, names=("T1", "T2"))
    expected, *_ = np.histogram2d(
        a.values.ravel().astype(float), b.values.ravel().astype(float), bins=9
    )
    shown = figure.axes[0].collections[0].get_array().reshape(9, 9)
    np.testing.assert_array_equal(shown.filled(0).T, expected)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("T1", "T2")
    drawn(figure)


@given(
    volumes=st.lists(st.floats(10, 200), min_size=2, max_size=30),
    start=st.floats(0, 1),
)
@settings(max_examples=15)
def test_end_diastole_and_end_systole_stand_at_the_extremes_of_the_curve(volumes, start):
    times = start + 0.03 * np.arange(len(volumes))
    time = xr.Variable("time", times, {"units": "s"})
    curve = xr.DataArray(volumes, dims="time", coords={"time": time}, attrs={"units": "ml"})
    axes = figures.volume_curve(curve).axes[0]
    line, diastole, systole = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), volumes)
    assert float(diastole.get_ydata()[0]) == max(volumes)
    assert float(systole.get_ydata()[0]) == min(volumes)
    assert float(diastole.get_xdata()[0]) == times[int(np.argmax(volumes))]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time [s]", "volume [ml]")


def test_a_flow_says_every_stage_its_number_and_each_loss():
    losses = [
        {"n": 2, "kind": "failed", "reason": "no $head_{ found"},
        {"n": 1, "kind": "stale", "reason": "x " * 90},
    ]
    stages = [
        {"title": "Found", "n": 1234, "noun": "series", "losses": [], "joins": False},
        {"title": "Measured by <b>", "n": 1231, "noun": "scans", "losses": losses, "joins": True},
    ]
    figure = figures.flow(stages)
    drawn(figure)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "Found\n1,234 series" in texts
    assert "Measured by <b>\n1,231 scans" in texts
    assert "none lost" in texts
    (said,) = [" ".join(t.split()) for t in texts if t.startswith("2 failed")]
    assert said.startswith("2 failed: no $head_{ found 1 stale: x x")
    assert said.count("x") == 90
    drawn(figures.flow([]))


def test_single_looks_at_residuals_draw_what_the_three_together_draw():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.random(30) for name in ("fitted", "leverage", "cook")})
    rows["rstudent"] = np.r_[rng.normal(size=28), 5.0, np.nan]
    three = figures.residuals(rows).axes
    for figure, expected in ((figures.qq(rows), three[1]), (figures.leverage(rows), three[2])):
        (axes,) = figure.axes
        assert axes.get_xlabel() == expected.get_xlabel()
        assert len(axes.lines) == len(expected.lines) > 1
        for line, other in zip(axes.lines, expected.lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), other.get_ydata())
        drawn(figure)


def test_the_menu_of_figures_is_whole():
    assert sorted(figures.__all__) == figures.__all__
    assert all(callable(getattr(figures, name)) for name in figures.__all__)
