"""What `regions` says of the shape of objects; its statistics are tested with `measure`."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import SPACING, chunked, nothing_computed, scan

from cohort import grid
from cohort.grid import GridError
from cohort.kernels import surface
from cohort.ops import graph, measure

OUTSIDE = ["centroid_outside", "center_of_mass_outside"]
SHAPE = [q for q in measure.SHAPE_QUANTITIES if q not in OUTSIDE]
OBLIQUE = np.array(
    [[1.4, 0.3, 0.0, -20.0], [-0.3, 1.4, 0.0, 11.0], [0.0, 0.0, 3.0, 5.0], [0, 0, 0, 1.0]]
)


def objects(shape=(9, 11, 13), seed=0):
    """Blobs that touch each other, with gaps in their numbers."""
    noise = ndi.gaussian_filter(np.random.default_rng(seed).random(shape), 1.0)
    labels, _ = ndi.label(noise > np.quantile(noise, 0.6))
    labels[:, ::5] += (labels[:, ::5] > 0) * 3
    return scan(labels.astype(np.int32))


def measured(labels, **options):
    table = measure.regions(labels, labels, quantities=SHAPE, **options)
    return {name: table[name].to_numpy() for name in table.variables}


def ellipsoid(radii, spacing, shift=(0.3, -0.2, 0.4)):
    """An ellipsoid off the centre of its grid, and the signed field of which it is the inside."""
    n = [math.ceil(r / mm) + 4 for r, mm in zip(radii, spacing, strict=True)]
    axes = [(np.arange(-k, k + 1) + o) * mm for k, mm, o in zip(n, spacing, shift, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    field = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2) - 1
    coords = dict(zip("zyx", axes, strict=True))
    return xr.DataArray((field < 0).astype(np.int32), dims=list("zyx"), coords=coords), field


@given(data=st.data(), seed=st.integers(0, 99))
def test_the_inscribed_ball_is_the_deepest_point_of_scipy_for_every_chunking(data, seed):
    labels = grid.with_affine(objects(seed=seed).drop_attrs(), OBLIQUE)
    spacing = list(grid.spacing_mm(labels).values())
    (lazy,) = data.draw(chunked(labels))
    table = measured(labels)
    for name, found in measured(lazy).items():
        np.testing.assert_array_equal(found, table[name])
    for i, label in enumerate(table["label"]):
        away = ndi.distance_transform_edt(labels.to_numpy() == label, sampling=spacing)
        assert table["inscribed_radius_mm"][i] == away.max()
        first = np.unravel_index(np.argmax(away), away.shape)
        world = grid.affine_of(labels) @ [*first[::-1], 1]
        np.testing.assert_allclose(table["inscribed_center_mm"][i], world[:3], rtol=1e-12)


@given(data=st.data(), seed=st.integers(0, 99))
def test_the_surface_of_many_objects_is_that_of_each_alone(data, seed):
    labels = objects(seed=seed)
    (lazy,) = data.draw(chunked(labels))
    table, blocks = measured(labels), measured(lazy)
    steps, areas = surface.crofton(list(SPACING.values()))
    for name in ("surface_mm2", "sphericity"):
        np.testing.assert_array_equal(blocks[name], table[name])
    for i, label in enumerate(table["label"]):
        # Counted the long way round: every step there and back, beyond the border is nothing.
        own = np.pad(labels.to_numpy() == label, 8)
        crossed = [np.count_nonzero(own != np.roll(own, step, (0, 1, 2))) for step in steps]
        assert table["surface_mm2"][i] == pytest.approx(areas @ crossed, rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_halo_that_is_one_voxel_short_shows(axis):
    labels = objects().chunk(4)
    steps, areas = surface.crofton(list(SPACING.values()))
    width = np.abs(steps).max(axis=0)

    def crossings(width):
        return graph.map_stencil(
            surface.crossings,
            {"labels": labels},
            halo_voxels=dict(zip("zyx", width.tolist(), strict=True)),
            dtype=np.float64,
            mode="constant",
            params={"steps": steps, "areas": areas},
        ).to_numpy()

    short = width - (np.arange(3) == axis)
    assert (crossings(width) != crossings(short)).any()
    np.testing.assert_array_equal(crossings(width), crossings(width + 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.5)])
def test_a_ball_of_20_mm_measures_as_in_geometry(spacing):
    ball, _ = ellipsoid((20.0,) * 3, spacing)
    table = measure.regions(ball, ball, quantities=SHAPE).isel(label=0)
    assert float(table.surface_mm2) == pytest.approx(4 * math.pi * 400, rel=0.01)
    assert float(table.sphericity) == pytest.approx(1, abs=0.01)
    assert float(table.inscribed_radius_mm) == pytest.approx(20, abs=max(spacing) / 2)
    np.testing.assert_allclose(table.inscribed_center_mm, 0, atol=max(spacing))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.5), (1.0, 2.5, 0.8)])
@pytest.mark.parametrize("radii", [(24.0, 16.0, 30.0), (20.0, 30.0, 14.0)])
def test_the_surface_of_an_ellipsoid_is_that_of_its_mesh(radii, spacing):
    """Marching cubes on the smooth field find the surface; on the mask they are far off, always above."""
    from skimage.measure import marching_cubes, mesh_surface_area

    def mesh(volume, level):
        corners, faces, _, _ = marching_cubes(volume, level, spacing=spacing)
        return mesh_surface_area(corners, faces)

    labels, field = ellipsoid(radii, spacing)
    table = measure.regions(labels, labels, quantities=["surface_mm2"])
    assert float(table.surface_mm2[0]) == pytest.approx(mesh(field, 0.0), rel=0.025)
    assert 1.06 < mesh(labels.to_numpy().astype(float), 0.5) / float(table.surface_mm2[0]) < 1.25


def test_a_cube_is_less_round_than_a_ball():
    """Faces along the axes are the worst case: up to ten percent too small."""
    cube = scan(np.zeros((24, 60, 44), np.int32))
    cube[4:18, 8:50, 8:36] = 1  # 42 mm each way
    table = measure.regions(cube, cube, quantities=SHAPE).isel(label=0)
    assert 0.9 < float(table.surface_mm2) / (6 * 42**2) < 1
    assert 1 < float(table.sphericity) / (math.pi / 6) ** (1 / 3) < 1.12
    assert float(table.inscribed_radius_mm) == 21.0


def test_the_border_closes_a_surface_but_is_no_outside():
    full = scan(np.ones((4, 5, 6), np.int32))
    padded = scan(np.pad(full.to_numpy(), 4))
    for labels in (full, full.chunk(2)):
        table = measure.regions(labels, labels, quantities=SHAPE)
        assert np.isposinf(table.inscribed_radius_mm).all()
        inside = measure.regions(padded, padded, quantities=SHAPE)
        np.testing.assert_allclose(table.surface_mm2, inside.surface_mm2, rtol=1e-12)


def test_shapes_are_measured_only_when_they_are_asked_for():
    labels = objects((4, 5, 6))
    assert not set(measure.regions(labels, labels).data_vars) & set(SHAPE)
    table = measure.regions(labels, labels, quantities=["sphericity", "mean"])
    assert list(table.data_vars) == ["sphericity", "mean"]
    units = {name: part.attrs["units"] for name, part in measured_table(labels).data_vars.items()}
    assert units == {
        "inscribed_radius_mm": "mm",
        "inscribed_center_mm": "mm",
        "surface_mm2": "mm2",
        "sphericity": "1",
    }


def measured_table(labels):
    return measure.regions(labels, labels, quantities=SHAPE)


def test_a_label_that_is_not_there_has_no_shape():
    labels = objects((4, 5, 6))
    table = measured_table(labels)
    some = measure.regions(labels, labels, index=[99, 1], quantities=SHAPE)
    assert all(np.isnan(part.sel(label=99)).all() for part in some.data_vars.values())
    xr.testing.assert_identical(some.sel(label=[1]), table.sel(label=[1]))


def test_frames_have_their_own_shapes():
    one = objects((4, 5, 6))
    frames = xr.concat([one, one * (one.x < one.x[3])], dim="time")
    for f in (frames, frames.chunk(time=1, y=3)):
        table = measured_table(f)
        assert table.surface_mm2.dims == ("time", "label")
        assert table.inscribed_center_mm.dims == ("time", "label", "axis")
        for name, part in measured_table(one).data_vars.items():
            np.testing.assert_array_equal(table[name].isel(time=0), part)


def test_in_a_plane_there_is_a_disc_but_no_surface():
    plane = objects((4, 9, 11)).isel(z=1, drop=True).assign_coords(z=0.0)
    expected = ndi.distance_transform_edt(plane.to_numpy() == 1, sampling=[1.0, 1.5]).max()
    radius = measure.regions(plane, plane, index=[1], quantities=["inscribed_radius_mm"])
    assert float(radius.inscribed_radius_mm[0]) == expected
    with pytest.raises(ValueError, match="a surface needs dims z, y and x; labels have y, x"):
        measure.regions(plane, plane, quantities=["surface_mm2"])


def test_nothing_is_computed_until_asked_and_inputs_stay_as_they_are(tmp_path):
    labels = objects()
    kept = labels.copy(deep=True)
    labels.data.flags.writeable = False
    index = [1, 4]
    whole = measure.regions(labels, labels, index=index, quantities=SHAPE)
    with graph.scratch(tmp_path) as folder:
        lazy = labels.chunk(4)
        with nothing_computed():
            table = measure.regions(lazy, lazy, index=index, quantities=SHAPE)
        xr.testing.assert_identical(table.compute(), whole)
        assert list(folder.iterdir()) == []
    xr.testing.assert_identical(labels, kept)


def test_unequal_grids_and_missing_coordinates_are_refused():
    labels = objects((4, 5, 6))
    with pytest.raises(GridError, match=r"image is 4 x 5 x 5 .* labels is 4 x 5 x 6"):
        measure.regions(labels.isel(x=slice(5)), labels, quantities=["sphericity"])
    with pytest.raises(GridError, match="'y' has no coordinate in mm"):
        measured(labels.drop_vars("y"))
    with pytest.raises(ValueError, match="no quantity 'roundness'; it knows n_voxels"):
        measure.regions(labels, labels, quantities=["roundness"])
    negative = (labels - 1).chunk(3)
    lazy = measure.regions(negative, negative, index=[1], quantities=["surface_mm2"])
    with pytest.raises(ValueError, match="the labels hold -1"):
        lazy.compute()


def lies_outside(labels: np.ndarray, label: int, weights: np.ndarray) -> float:
    """Whether the centre of an object lies in none of its voxels: in fractions, so that a border is one."""
    where = np.argwhere(labels == label)
    heavy = [int(weights[tuple(p)]) for p in where]
    if not sum(heavy):
        return math.nan
    centre = [
        Fraction(sum(int(i) * w for i, w in zip(axis, heavy, strict=True)), sum(heavy))
        for axis in where.T
    ]
    half = Fraction(1, 2)
    touched = [
        [i for i in range(n) if i - half <= c <= i + half]
        for c, n in zip(centre, labels.shape, strict=True)
    ]
    return float(all(labels[place] != label for place in itertools.product(*touched)))


@given(data=st.data(), seed=st.integers(0, 99), lead=st.booleans())
def test_a_centre_that_lies_outside_of_its_object_is_said_so_for_every_chunking(data, seed, lead):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 8, 3))
    frames = [rng.integers(0, 4, shape).astype(np.int32) for _ in range(1 + lead)]
    weights = [rng.integers(-1, 5, shape).astype(np.int16) for _ in frames]
    labels, image = (
        scan(np.stack(each), lead=("time",)) if lead else scan(each[0])
        for each in (frames, weights)
    )
    index = [3, 1, 7, 2]
    lazy, lazy_image = data.draw(chunked(labels, image))
    for array, values in ((labels, image), (lazy, lazy_image)):
        found = measure.regions(values, array, index=index, quantities=OUTSIDE)
        for name, by in zip(OUTSIDE, (np.ones(shape, int), None), strict=True):
            expected = [
                [lies_outside(f, k, w if by is None else by) for k in index]
                for f, w in zip(frames, weights, strict=True)
            ]
            told = found[name].to_numpy()
            np.testing.assert_array_equal(told, expected if lead else expected[0])
            assert found[name].attrs == {"units": "1"}


def test_of_labels_only_the_chunks_that_hold_a_centre_are_read_again():
    numbers = np.zeros((64, 64, 64), np.int32)
    numbers[2:5, 2:30, 2:5] = 1
    labels = scan(numbers)
    read = []
    lazy = labels.chunk(dict.fromkeys("zyx", 16))
    lazy = lazy.copy(
        data=lazy.data.map_blocks(lambda b: (read.append(b.shape), b)[1], dtype=np.int32, meta=np.zeros((0, 0, 0), np.int32))
    )  # fmt: skip
    found = measure.regions(lazy, lazy, index=[1], quantities=["centroid_outside"])
    once = len(read)
    assert found["centroid_outside"].values.tolist() == [0.0]
    assert len(read) - once <= 8  # one place, looked at from each side
