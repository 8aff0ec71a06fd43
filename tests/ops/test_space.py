"""Arrays moved in space: SciPy's numbers for every chunking, exact where nothing is between voxels, lossless where axes turn."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort import grid
from cohort.kernels import sampling
from cohort.ops import space

ORDERS = range(6)


def on_grid(data: np.ndarray, affine: np.ndarray) -> xr.DataArray:
    """Array on an oblique grid."""
    lead = ("time",) * (data.ndim - 3)
    return xr.DataArray(
        data,
        dims=(*lead, *grid.SPACE),
        coords=grid.coordinates(affine, data.shape[-3:]),
        attrs={"units": "HU"},
        name="image",
    )


@st.composite
def affines(draw: st.DrawFn, *, far: float = 6.0) -> np.ndarray:
    """Oblique, anisotropic, flipped or not, some mm from the origin."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.uniform(0.6, 3.0, 3)
    affine[:3, 3] = rng.uniform(-far, far, 3)
    return affine


@st.composite
def moves(draw: st.DrawFn) -> np.ndarray:
    """World transforms that enlarge, shear, turn and shift a little."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = np.eye(4)
    matrix[:3] += np.c_[rng.normal(size=(3, 3)) * 0.2, rng.normal(size=3) * 2]
    return matrix


def reversed_axes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (x, y, z) as SciPy takes it for arrays (z, y, x)."""
    return matrix[2::-1, 2::-1], matrix[2::-1, 3]


def lazily(image: xr.DataArray, chunks: tuple[tuple[int, ...], ...]) -> xr.DataArray:
    """The image in chunks."""
    return image.chunk(dict(zip(image.dims, chunks, strict=True)))


@given(st.data(), moves(), affines(), affines(), st.sampled_from(ORDERS))
@settings(max_examples=60)
def test_affine_equals_scipy_for_every_chunking_and_has_the_same_bits(
    data, matrix, mine, other, order
):
    shape, size = data.draw(strategies.shapes(high=8)), data.draw(strategies.shapes(high=8))
    values = np.random.default_rng(0).normal(size=shape)
    image = on_grid(values, mine)
    like = on_grid(np.zeros(size), other)
    voxels = np.linalg.inv(matrix @ mine) @ other
    linear, offset = reversed_axes(voxels)
    expected = ndi.affine_transform(values, linear, offset, size, order=order)

    whole = space.affine(image, matrix, like=like, order=order)
    np.testing.assert_allclose(whole.values, expected, rtol=0, atol=1e-10)
    assert whole.dtype == np.float64
    for name in ("z", "y", "x", "grid"):
        xr.testing.assert_identical(whole.coords[name].variable, like.coords[name].variable)

    with strategies.nothing_computed():
        lazy = space.affine(
            lazily(image, data.draw(strategies.chunkings(shape))),
            matrix,
            like=lazily(like, data.draw(strategies.chunkings(size))),
            order=order,
        )
    np.testing.assert_array_equal(lazy.values, whole.values)


@given(st.data(), st.sampled_from(ORDERS), st.sampled_from(strategies.DTYPES))
def test_every_dtype_is_promoted_before_arithmetic(data, order, dtype):
    image = data.draw(strategies.images(dtype=dtype, low=2))
    found = space.shift(image, mm={"x": 0.4, "z": -1.1}, order=order)
    if order == 0:
        assert found.dtype == dtype
        assert set(np.unique(found)) <= {*np.unique(image), dtype(0)}
    else:
        assert found.dtype == sampling.promoted(np.dtype(dtype))
    expected = ndi.shift(image.values.astype(float), (-1.1 / 3.0, 0, 0.4 / 1.5), order=order)
    most = max(1.0, float(np.abs(image.values.astype(float)).max()))
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=(1e-6 if found.dtype == np.float32 else 1e-10) * most
    )
    strategies.assert_kept(found, image)


@given(
    st.data(),
    st.sampled_from(ORDERS),
    st.sampled_from(["?", "f2", ">i2", ">u4", ">f4", ">f8"]),
    st.permutations("zyx"),
)
def test_any_layout_of_the_numbers_and_any_order_of_the_dims_moves_alike(data, order, dtype, dims):
    plain = data.draw(strategies.images(dtype=np.uint8, low=2)) // 8
    order = 0 if dtype == "?" else order
    there = strategies.scan(np.zeros(data.draw(strategies.shapes(low=2)))).transpose(*dims)
    image = plain.astype(dtype)
    turned = image.transpose(*dims)
    lazy = lazily(turned, data.draw(strategies.chunkings(turned.shape)))
    for move in (
        lambda a: space.shift(a, mm={"x": 0.4, "z": -1.1}, order=order),
        lambda a: space.rotate(a, degrees=20, plane=("y", "x"), order=order),
        lambda a: space.resample(a, spacing_mm={"y": 1.7}, order=order),
        lambda a: space.resample(a, like=there, order=order),
    ):
        expected = move(image.astype(bool if dtype == "?" else np.float64))
        for found in (move(image), move(turned), move(lazy)):
            assert found.dtype == sampling.sampled_dtype(image.dtype, order)
            np.testing.assert_allclose(
                found.transpose(*expected.dims).astype(float), expected, rtol=0, atol=1e-4
            )
        assert move(turned).dims == move(lazy).dims == turned.dims


@given(st.data(), st.sampled_from(ORDERS), st.integers(-3, 3), st.integers(-3, 3))
def test_identity_and_shifts_by_whole_voxels_are_exact_on_any_grid(data, order, z, x):
    shape = data.draw(strategies.shapes(low=2))
    values = np.random.default_rng(1).normal(size=shape)
    image = on_grid(values, data.draw(affines(far=5000.0)))
    mm = {"z": z * float(image.z.attrs["spacing_mm"]), "x": x * float(image.x.attrs["spacing_mm"])}
    found = space.shift(image, mm=mm, order=order)
    padded = np.pad(values, ((3, 3), (0, 0), (3, 3)))
    expected = padded[3 - z : 3 - z + shape[0], :, 3 - x : 3 - x + shape[2]]
    if order < 2:
        np.testing.assert_array_equal(found, expected)
    else:  # B-splines pass through their values as well as rounding lets them
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * 50)


@given(st.data(), st.integers(-5, 5), st.sampled_from(list(itertools.permutations("zyx", 2))))
def test_quarter_turns_of_a_cubic_grid_are_exact_and_go_the_way_the_docstring_says(
    data, quarters, plane
):
    n, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9))
    values = np.random.default_rng(seed).normal(size=(n, n, n))
    image = on_grid(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    found = space.rotate(image, degrees=90.0 * quarters, plane=plane)
    axes = tuple("zyx".index(d) for d in plane)
    np.testing.assert_array_equal(found, np.rot90(values, quarters, axes))


@pytest.mark.parametrize("degrees", [-30, -35, -15, 15, 117.3])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_row_29_a_plane_turned_as_scipy_turns_it(degrees, order):
    values = np.random.default_rng(2).normal(size=(31, 24))
    image = xr.DataArray(
        values, coords={"y": np.arange(31.0), "x": np.arange(24.0)}, dims=["y", "x"]
    )
    found = space.rotate(image, degrees=degrees, plane=("y", "x"), order=order)
    expected = ndi.rotate(values, degrees, reshape=False, order=order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_row_30_a_scale_of_one_and_a_half_enlarges():
    square = xr.DataArray(
        np.pad(np.ones((21, 21), bool), 30),
        coords={"y": np.arange(81.0), "x": np.arange(81.0)},
        dims=["y", "x"],
    )
    matrix = np.diag([1.5, 1.5, 1, 1])
    matrix[:2, 3] = 40 * (1 - 1.5)
    assert int(square.sum()) == 441
    assert int(space.affine(square, matrix).sum()) == 31**2
    assert int(ndi.affine_transform(square.values, [1.5, 1.5], [-20, -20], order=0).sum()) < 441


@given(st.data())
def test_transforms_composed_are_one_after_the_other(data):
    image = on_grid(np.zeros(data.draw(strategies.shapes(low=2))), data.draw(affines()))
    turn = space.rotation(image, degrees=data.draw(st.floats(-180, 180)), plane=("x", "z"))
    move = space.translation(image, mm={"y": 3.0, "z": -1.0})
    points = np.random.default_rng(0).normal(size=(4, 5))
    points[3] = 1
    np.testing.assert_allclose((move @ turn) @ points, move @ (turn @ points), atol=1e-12)
    np.testing.assert_allclose(turn[:3, :3] @ turn[:3, :3].T, np.eye(3), atol=1e-12)
    back = space.rotation(image, degrees=90.0, plane=("x", "z")) @ space.rotation(
        image, degrees=90.0, plane=("z", "x")
    )
    np.testing.assert_allclose(back, np.eye(4), atol=1e-9)


@given(st.data(), st.sampled_from(ORDERS))
@settings(max_examples=60)
def test_another_spacing_keeps_the_field_of_view_to_half_a_voxel_and_the_centre(data, order):
    shape = data.draw(strategies.shapes(high=16))
    image = on_grid(np.random.default_rng(3).normal(size=shape), data.draw(affines()))
    spacing = {d: data.draw(st.floats(0.4, 7.0)) for d in "zyx"}
    found = space.resample(image, spacing_mm=spacing, order=order, antialias=False)
    before, after = grid.affine_of(image), grid.affine_of(found)
    for dim, n in zip("zyx", shape, strict=True):
        old = float(image[dim].attrs["spacing_mm"])
        assert grid.spacing_mm(found, (dim,))[dim] == pytest.approx(spacing[dim], rel=1e-12)
        assert (
            abs(found.sizes[dim] * spacing[dim] - n * old) <= spacing[dim] / 2 * (1 + 1e-9)
            or found.sizes[dim] == 1
        )
    middle = [[(a.sizes[d] - 1) / 2 for d in "xyz"] for a in (image, found)]
    centres = [m @ (*at, 1.0) for m, at in zip((before, after), middle, strict=True)]
    np.testing.assert_allclose(*centres, atol=1e-9)
    # Within the outermost centres SciPy has these values; around them, at orders 0 and 1, those of the nearest.
    linear, offset = reversed_axes(np.linalg.inv(before) @ after)
    expected = ndi.affine_transform(
        image.values, linear, offset, found.shape, order=order, mode="nearest"
    )
    at = np.indices(found.shape).reshape(3, -1)
    places = (linear @ at + offset[:, None]).reshape(3, *found.shape)
    inside = np.all([(p >= 0) & (p <= n - 1) for p, n in zip(places, shape, strict=True)], axis=0)
    ends = ndi.affine_transform(image.values, linear, offset, found.shape, order=order)
    if order < 2:
        # A tie of the nearest may fall either way where rounding decides.
        clear = np.all(np.abs(places % 1 - 0.5) > 1e-9, axis=0) | (order == 1)
        np.testing.assert_allclose(found.values[clear], expected[clear], rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        found.values[inside & (order > 1)], ends[inside & (order > 1)], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    ("n", "factor", "size"), [(256, 2, 128), (256, 4, 64), (128, 0.25, 512), (128, 0.5, 256)]
)
def test_row_31_sizes_of_the_tutorial(n, factor, size):
    image = on_grid(np.ones((3, n, n), np.float32), np.diag([1.0, 1.0, 4.0, 1.0]))
    found = space.resample(image, spacing_mm={"y": factor, "x": factor})
    assert found.shape == (3, size, size)
    np.testing.assert_allclose(found, 1.0, atol=1e-6)  # no border plane is lost


@given(st.data())
def test_masks_and_labels_get_no_new_value_whatever_the_grid(data):
    mask = data.draw(strategies.masks(low=2))
    spacing = data.draw(st.floats(0.4, 5.0))
    assert space.resample(mask, spacing_mm=spacing).dtype == np.bool_
    labels = (mask * np.int32(1) * np.arange(mask.sizes["x"])).astype(np.int32)
    found = space.rotate(labels, degrees=33.0, plane=("y", "x"))
    assert found.dtype == np.int32
    assert set(np.unique(found)) <= set(np.unique(labels)) | {0}
    with pytest.raises(ValueError, match="order is 1 for a mask, expected 0"):
        space.shift(mask, mm={"x": 1.0}, order=1)


def test_a_coarser_image_is_smoothed_as_if_its_voxels_had_been_larger():
    rng = np.random.default_rng(0)
    image = on_grid(rng.normal(size=(24, 24, 24)), np.eye(4))
    plain = space.resample(image, spacing_mm=4.0, antialias=False)
    found = space.resample(image, spacing_mm=4.0)
    sigma = np.sqrt(4.0**2 - 1) / np.sqrt(8 * np.log(2))
    smooth = ndi.gaussian_filter(image.values, sigma, mode="nearest")
    expected = ndi.affine_transform(smooth, [4.0] * 3, [1.5] * 3, found.shape, order=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert float(found.std()) < 0.3 * float(plain.std())
    np.testing.assert_array_equal(
        space.resample(image, like=plain), space.resample(image, spacing_mm=4.0)
    )
    finer = space.resample(image, spacing_mm=0.5)
    np.testing.assert_array_equal(finer, space.resample(image, spacing_mm=0.5, antialias=False))


CODES = [
    "".join(c) for p in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*p)
]


@given(st.data(), st.sampled_from(CODES))
def test_reorienting_keeps_every_voxel_in_its_place_and_goes_back(data, codes):
    shape = data.draw(strategies.shapes())
    affine = data.draw(affines())
    image = on_grid(np.random.default_rng(4).normal(size=(2, *shape)), affine)
    chunks = ((1, 1), *data.draw(strategies.chunkings(shape)))
    with strategies.nothing_computed():
        found = space.reorient(lazily(image, chunks), axcodes=codes)
    after = grid.affine_of(found)
    assert "".join(nib.aff2axcodes(after)) == codes
    nifti = nib.Nifti1Image(image.values.T, affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    expected = nifti.as_reoriented(turn)
    np.testing.assert_array_equal(found.values.T, np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(after, expected.affine, atol=1e-9)
    back = space.reorient(found, axcodes=nib.aff2axcodes(affine))
    np.testing.assert_array_equal(back, image)
    np.testing.assert_allclose(grid.affine_of(back), affine, atol=1e-9)


def test_an_image_is_centred_where_its_mass_is():
    values = np.zeros((9, 12, 15))
    values[2:4, 3:8, 10:13] = np.random.default_rng(0).uniform(1, 2, (2, 5, 3))
    image = on_grid(values, np.diag([2.0, 1.0, 3.0, 1.0]))
    found = space.center(image, order=1)
    np.testing.assert_allclose(ndi.center_of_mass(found.values), (4.0, 5.5, 7.0), atol=1e-9)
    lazy = space.center(image.chunk({"z": 2, "y": 5, "x": 4}), order=1)
    np.testing.assert_array_equal(lazy, found)
    with pytest.raises(ValueError, match="no centre of mass"):
        space.center(image * 0)


def test_a_block_needs_only_its_part_of_the_image():
    image = on_grid(np.zeros((64, 64, 64), np.float32), np.eye(4)).chunk(dict.fromkeys("zyx", 16))
    found = space.shift(image, mm={"x": 0.5})
    assert strategies.tasks_per_block(found, image) == 1
    corner = found.data.blocks[0, 0, 0]
    read = [
        k for k in corner.dask.cull({corner.__dask_keys__()[0][0][0]}) if k[0] == image.data.name
    ]
    assert len(read) <= 8


def test_leading_dims_are_moved_one_by_one():
    image = on_grid(np.random.default_rng(5).normal(size=(3, 5, 6, 7)), np.eye(4))
    found = space.shift(image.chunk({"time": 2, "x": 3}), mm={"y": 0.3}, order=3)
    for i in range(3):
        np.testing.assert_array_equal(found[i], space.shift(image[i], mm={"y": 0.3}, order=3))


@given(st.data(), st.integers(1, 4), st.booleans())
@settings(max_examples=30)
def test_a_stack_is_the_weighted_mean_of_what_counts(data, n, is_moved):
    shape = data.draw(strategies.shapes(low=2, high=7))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    images = [strategies.scan(rng.normal(50, 9, shape)) for _ in range(n)]
    images[0].values[0] = np.nan
    weights = rng.uniform(0, 2, n) * rng.integers(0, 2, n)
    shifts = [{"x": float(a), "z": float(b)} for a, b in rng.normal(size=(n, 2))]
    more = {"shifts_mm": shifts} if is_moved else {}
    found = space.stack((i for i in images), weights=weights, **more)

    moved = [i.values for i in images]
    if is_moved:
        moved = [
            space.shift(i, mm=mm, fill=np.nan).values for i, mm in zip(images, shifts, strict=True)
        ]
    counts = np.array([w * ~np.isnan(m) for w, m in zip(weights, moved, strict=True)])
    with np.errstate(invalid="ignore"):
        expected = (counts * np.nan_to_num(moved)).sum(axis=0) / counts.sum(axis=0)
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["weight"], counts.sum(axis=0), rtol=1e-12)
    assert (found["mean"].attrs["units"], found["weight"].attrs["units"]) == ("HU", "1")

    lazy = data.draw(strategies.chunked(*images))
    with strategies.nothing_computed():
        later = space.stack(lazy, weights=weights, **more)
    xr.testing.assert_identical(later.compute(), found)


def test_stacking_takes_out_what_moved():
    """Four takes of one object, each a fraction of a voxel off: as sharp as one, and a quarter of the noise's variance."""
    z, y, x = np.mgrid[:20, :24, :22]
    rng = np.random.default_rng(0)
    takes, shifts = [], []
    for off in (0.0, 0.25, 0.5, 0.75):
        blob = 100 * np.exp(-((z - 10) ** 2 + (y - 12) ** 2 + (x - 11 - off) ** 2) / 18)
        takes.append(on_grid(blob + rng.normal(size=blob.shape), np.diag([2.0, 2.0, 2.0, 1.0])))
        shifts.append({"x": -2.0 * off})
    truth = 100 * np.exp(-((z - 10) ** 2 + (y - 12) ** 2 + (x - 11) ** 2) / 18)
    inside = (slice(3, -3),) * 3
    off = (space.stack(takes, shifts_mm=shifts, order=3)["mean"].values - truth)[inside]
    blurred = (space.stack(takes)["mean"].values - truth)[inside]
    assert off.std() < 0.6
    assert np.abs(off).max() < np.abs(blurred).max() / 2


def test_what_cannot_be_stacked_is_said():
    image = on_grid(np.zeros((2, 3, 4)), np.eye(4))
    with pytest.raises(ValueError, match="there is no image to stack"):
        space.stack([])
    with pytest.raises(ValueError, match="weights holds 1, expected one for each image"):
        space.stack([image, image], weights=[1.0])
    with pytest.raises(ValueError, match="shifts_mm holds more than the 1 images"):
        space.stack([image], shifts_mm=[{"x": 0.0}, {"x": 1.0}])
    with pytest.raises(ValueError, match=r"weight 0 is -1\.0, expected a finite number"):
        space.stack([image], weights=[-1])
    with pytest.raises(grid.GridError, match="image 0 is 2 x 3 x 4"):
        space.stack([image, image[:, 1:]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda i: space.shift(i, mm={"t": 1.0}),
            "mm names 't', but the image has the spatial dims",
        ),
        (
            lambda i: space.shift(i, mm={"x": np.nan}),
            "mm is nan along 'x', expected a finite number",
        ),
        (lambda i: space.rotate(i, degrees=3, plane=("x", "x")), "plane is .*, expected two dims"),
        (lambda i: space.affine(i, np.eye(3)), r"matrix is \(3, 3\), expected a \(4, 4\) affine"),
        (lambda i: space.affine(i, np.diag([1, 0, 1, 1])), "matrix squashes space"),
        (
            lambda i: space.affine(i, np.eye(4), order=7),
            "order is 7, expected a whole number from 0",
        ),
        (lambda i: space.resample(i), "takes exactly one of spacing_mm and like"),
        (
            lambda i: space.resample(i, spacing_mm=0),
            "spacing_mm is 0 along 'z', expected a positive",
        ),
        (lambda i: space.reorient(i, axcodes="RAI"[:2]), "axcodes is 'RA', expected one each of"),
        (lambda i: space.reorient(i, axcodes="RLS"), "axcodes is 'RLS', expected one each of"),
        (lambda i: space.reorient(i, axcodes="xyz"), "axcodes is 'xyz', expected one each of"),
        (
            lambda i: space.affine(i.astype(np.uint8), np.eye(4), order=0, fill=-1),
            "fill is -1, expected a value that uint8 can hold",
        ),
        (lambda i: space.rotate(i[0], degrees=20, plane=("z", "x")), "plane names 'z'"),
        (
            lambda i: space.affine(i[0], space.rotation(i, degrees=20, plane=("z", "x"))),
            "the transform leads out of the image",
        ),
    ],
)
def test_what_cannot_be_done_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call(on_grid(np.zeros((3, 4, 5)), np.eye(4)))


def test_a_block_of_a_coarser_result_needs_no_more_of_the_image_than_one_of_its_own():
    image = on_grid(np.zeros((40, 48, 56), np.float32), np.diag([1.0, 2.0, 1.5, 1.0])).chunk(16)
    coarse = space.resample(image, spacing_mm={"x": 4, "y": 4, "z": 1.5}, antialias=False)
    assert [max(coarse.chunksizes[d]) for d in grid.SPACE] == [16, 8, 4]
    fine = space.resample(image, spacing_mm=0.5)
    assert [max(fine.chunksizes[d]) for d in grid.SPACE] == [16, 16, 16]
    # The grid of an array that is lazy brings its chunks along.
    there = space.resample(image, like=coarse)
    assert there.chunksizes == coarse.chunksizes
