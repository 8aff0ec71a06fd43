"""Slices are turned and stretched as the affine says; figures draw the numbers they are given."""

import itertools
import subprocess
import sys

import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import statsmodels.api as sm
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.patches import PathPatch

from cohort import grid, schema
from cohort.reporting import figures, slices
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
    figure.canvas.draw()


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


def test_an_empty_contact_sheet_is_a_figure():
    drawn(figures.contact_sheet([]))


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
