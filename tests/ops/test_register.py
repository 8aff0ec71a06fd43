"""Known poses come back, on any grid, from any start, to the same bits; what cannot be registered says so."""

import math
import re
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import xarray as xr
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation

from cohort import grid
from cohort.ops import compare, masks, space
from cohort.ops.register import Registration, RegistrationError, register
from cohort.phantom import Tissue, head

MM = 4.0
"""Voxels of most heads in here."""


@cache
def subject(index: int, spacing_mm: float = MM) -> xr.DataArray:
    """A synthetic head."""
    image = head(seed=11, index=index).scan["image"].astype(np.float32)
    return space.resample(image, spacing_mm=spacing_mm).compute()


@cache
def skull(index: int) -> xr.DataArray:
    """What lies inside its skull, a mask on its grid."""
    found = head(seed=11, index=index).labels
    inside = (found >= Tissue.CSF) & (found <= Tissue.WHITE)
    return space.affine(inside, np.eye(4), like=subject(index)).compute()


def points() -> np.ndarray:
    """World positions of the voxels of the first head."""
    image = subject(0)
    affine = grid.affine_of(image)
    index = np.argwhere(image.values > float(image.mean()))[:, ::-1]
    return index @ affine[:3, :3].T + affine[:3, 3]


def pose(rng: np.random.Generator, *, scale: float = 0.0) -> np.ndarray:
    """A turn of 5 to 20 degrees and a scale about the head's middle, and a shift of 5 to 20 mm."""
    turn, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    linear = Rotation.from_rotvec(rng.uniform(5, 20) * turn, degrees=True).as_matrix()
    linear *= rng.choice([1 - scale, 1 + scale])
    middle = points().mean(axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ middle + rng.uniform(5, 20) * way
    return matrix


def posed(truth: np.ndarray, *, like: xr.DataArray | None = None, seed: int = 0) -> xr.DataArray:
    """The first head moved, with some noise."""
    image = space.affine(subject(0), truth, order=3, like=like)
    noise = np.random.default_rng(seed).normal(0, 0.01 * float(image.max()), image.shape)
    return image + noise.astype(np.float32)


def apart(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How far apart two transforms are: mean distance over the head, mm, and the turn between them, degrees."""
    gap = points() @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]
    u, _, vt = np.linalg.svd(found[:3, :3] @ np.linalg.inv(truth[:3, :3]))
    turn = Rotation.from_matrix(u @ vt).magnitude()
    return float(np.linalg.norm(gap, axis=1).mean()), float(np.degrees(turn))


def check_near(found: np.ndarray, truth: np.ndarray, *, mm: float) -> None:
    distance, degrees = apart(found, truth)
    assert distance < mm
    assert degrees < 0.5


def check(found: Registration, truth: np.ndarray, *, mm: float = 0.4) -> None:
    """Within a tenth of a voxel, or as said, and half a degree; and trusted."""
    check_near(found.checked(), truth, mm=mm)


def same(one: Registration, other: Registration) -> bool:
    """To the bit."""
    return one.matrix.tobytes() == other.matrix.tobytes() and (
        (one.metric, one.metric_before, one.quality, one.overlap, one.iterations)
        == (other.metric, other.metric_before, other.quality, other.overlap, other.iterations)
    )


# What is found


@pytest.mark.parametrize("seed", range(10))
def test_known_poses_are_recovered(seed):
    rng = np.random.default_rng([2, seed])
    kind = ("rigid", "similarity", "affine")[seed % 3]
    truth = pose(rng, scale=0.0 if kind == "rigid" else 0.15)
    fixed = posed(truth, seed=seed)
    found = register(subject(0), fixed, transform=kind)
    check(found, truth)
    assert found.metric < found.metric_before
    assert found.determinant == pytest.approx(np.linalg.det(truth[:3, :3]), rel=0.01)
    if kind != "affine":
        linear = found.matrix[:3, :3] / np.cbrt(found.determinant)
        np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_known_poses_are_recovered_at_full_resolution(seed):
    rng = np.random.default_rng([3, seed])
    kind = ("rigid", "similarity", "affine")[seed]
    truth = pose(rng, scale=0.0 if kind == "rigid" else 0.15)
    moving = subject(0, 2.0)
    fixed = space.affine(moving, truth, order=3)
    fixed += rng.normal(0, 0.01 * float(moving.max()), moving.shape).astype(np.float32)
    check(register(moving, fixed, transform=kind), truth, mm=0.2)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_an_image_lies_on_itself(kind):
    found = register(subject(0), subject(0), transform=kind)
    check(found, np.eye(4), mm=0.2)
    assert found.quality == pytest.approx(1, abs=0.02)
    assert found.overlap == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_there_and_back_is_where_one_was(kind):
    there = register(subject(0), subject(1), transform=kind)
    back = register(subject(1), subject(0), transform=kind)
    # Two different heads: half a voxel, where the scale of one is up to 10 % that of the other.
    check_near(back.checked() @ there.checked(), np.eye(4), mm=MM / 2)


def test_the_matrix_brings_the_moving_image_onto_the_fixed_one():
    truth = pose(np.random.default_rng(4))
    fixed = posed(truth)
    found = register(subject(0), fixed)
    moved = space.affine(subject(0), found.matrix, like=fixed)
    before, after = (float(compare.ncc(image, fixed)) for image in (subject(0), moved))
    assert before < 0.9
    assert after > 0.98


def test_other_contrasts_are_what_the_metrics_are_for():
    truth = pose(np.random.default_rng(5))
    plain = posed(truth)
    level = plain / plain.max()
    other = np.abs(level - 0.4)
    check(register(subject(0), other.astype(np.float32)), truth, mm=1.0)
    brighter = 3 * plain + 100
    check(register(subject(0), brighter, metric="correlation"), truth, mm=1.0)
    check(register(subject(0), plain, metric="mean_squares"), truth, mm=1.0)


def test_voxels_outside_the_masks_do_not_count():
    truth = pose(np.random.default_rng(6))
    moving, fixed = subject(0).copy(), posed(truth)
    inside = masks.dilate(skull(0), radius_mm=8)
    there = space.affine(inside, truth)
    # Something as large as the head hides all around it, elsewhere in either image.
    rng = np.random.default_rng(7)
    clutter = ndi.gaussian_filter(rng.normal(size=moving.shape), 3)
    clutter *= 3000 / clutter.std()
    moving = moving.where(inside, clutter).astype(np.float32)
    fixed = fixed.where(there, np.roll(clutter, 5, axis=2)).astype(np.float32)
    check(register(moving, fixed, moving_mask=inside, fixed_mask=there), truth, mm=1.0)
    assert apart(register(moving, fixed).matrix, truth)[0] > 4


def test_registered_skulls_overlap_more_than_after_the_four_tries_by_hand():
    truth = pose(np.random.default_rng(8))
    fixed, target = space.affine(subject(1), truth), space.affine(skull(1), truth)

    def overlap(matrix: np.ndarray) -> float:
        return float(compare.iou(space.affine(skull(0), matrix, like=target), target))

    def by_hand(degrees: float, y: float, x: float) -> np.ndarray:
        turn = space.rotation(subject(0), degrees=degrees, plane=("y", "x"))
        return space.translation(subject(0), mm={"y": y, "x": x}) @ turn

    tries = [
        by_hand(0, -10, -10),
        by_hand(-30, -20, -20),
        by_hand(-35, -10, -10),
        by_hand(15, -10, 10),
    ]
    best = max(overlap(matrix) for matrix in (*tries, np.eye(4)))
    rigid, affine = (
        overlap(register(subject(0), fixed, transform=kind).checked())
        for kind in ("rigid", "affine")
    )
    assert best < rigid < affine
    assert affine > 0.88


# Grids


def skewed(step: float, tilt: float) -> np.ndarray:
    """Affine of an oblique grid around the head, sheared by a tilted gantry if told so."""
    turn = Rotation.from_euler("xyz", [9, -12, 20], degrees=True).as_matrix()
    linear = turn @ np.diag([4.0, 3.0, step])
    linear[:, 2] += turn[:, 1] * tilt * step
    affine = np.eye(4)
    affine[:3, :3] = linear
    shape = np.array([56, 80, round(240 / step)])
    affine[:3, 3] = points().mean(axis=0) - linear @ ((shape - 1) / 2)
    return affine


@pytest.mark.parametrize(("step", "tilt"), [(6.5, 0.0), (5.0, 0.36), (4.0, 0.8)])
def test_oblique_anisotropic_and_sheared_grids_give_the_same_world_matrix(step, tilt):
    affine = skewed(step, tilt)
    assert grid.is_sheared(affine) == (tilt > 0)
    empty = xr.DataArray(np.zeros((round(240 / step), 80, 56), np.float32), dims=grid.SPACE)
    like = grid.with_affine(empty, affine)
    truth = pose(np.random.default_rng(9))
    if tilt > 0.5:  # either side may be sheared
        found = register(posed(truth, like=like), subject(0)).checked()
        check_near(np.linalg.inv(found), truth, mm=0.3)
    else:
        check(register(subject(0), posed(truth, like=like)), truth, mm=0.3)


@pytest.mark.parametrize("codes", ["LPS", "SRA", "PIL"])
def test_flipped_and_swapped_axes_give_the_same_matrix(codes):
    truth = pose(np.random.default_rng(10))
    moving, fixed = subject(0), posed(truth)
    expected = register(moving, fixed, levels_mm=[6.0])
    turned = space.reorient(moving, axcodes=codes), space.reorient(fixed, axcodes="PSR")
    found = register(*turned, levels_mm=[6.0])
    np.testing.assert_allclose(found.matrix, expected.matrix, rtol=0, atol=1e-9)
    assert found.iterations == expected.iterations


def test_the_same_bits_for_any_number_of_threads_and_any_chunks():
    truth = pose(np.random.default_rng(12))
    moving, fixed = subject(0), posed(truth)
    kept = moving.copy(deep=True), fixed.copy(deep=True)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(register(moving, fixed, transform="affine", levels_mm=[8.0, 5.0]))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    lazy = moving.chunk({"z": 7, "x": 11}), fixed.chunk({"y": 9})
    found.append(register(*lazy, transform="affine", levels_mm=[8.0, 5.0]))
    assert all(same(found[0], other) for other in found[1:])
    for image, was in zip((moving, fixed), kept, strict=True):
        xr.testing.assert_identical(image, was)


# Starts


def test_a_start_may_be_a_name_a_matrix_or_several():
    truth = pose(np.random.default_rng(13))
    truth[:3, 3] += [0, 70, 0]
    fixed = posed(truth)
    near = truth.copy()
    near[:3, 3] += [6, -4, 5]
    far = np.eye(4)
    far[:3, 3] = [0, 0, -120]
    for start in ("moments", near, [far, "centers", near, near]):
        check(register(subject(0), fixed, start=start, levels_mm=[8.0, 5.0]), truth, mm=1.0)


def test_turns_right_a_head_that_lies_upside_down():
    truth = space.rotation(subject(1), degrees=170, plane=("y", "z"))
    fixed = space.affine(subject(1), truth)
    right = register(subject(0), subject(1)).checked()
    gone = register(subject(0), fixed, least_quality=0.35)
    assert gone.verdict == "rejected"
    assert gone.reason.startswith("the quality is 0.")
    found = register(subject(0), fixed, start="turns", least_quality=0.35)
    distance, _ = apart(found.checked(), truth @ right)
    assert distance < MM / 2


@pytest.mark.parametrize(
    ("degrees", "plane", "kind"),
    [(170, ("y", "z"), "rigid"), (188, ("z", "x"), "rigid"), (175, ("y", "x"), "rigid"), (97, ("z", "x"), "similarity")],
)  # fmt: skip
def test_a_head_the_wrong_way_round_is_not_accepted_by_default(degrees, plane, kind):
    index = 60 + degrees % 7
    fixed = space.rotate(subject(index), degrees=degrees, plane=plane)
    wrong = register(subject(1), fixed, transform=kind, levels_mm=[8.0])
    assert not wrong.accepted
    assert re.match(r"turned by \d+ degrees the images agree better, [\d.]+ times", wrong.reason)
    with pytest.raises(RegistrationError, match="the wrong way round; give start='turns'"):
        wrong.checked()
    right = register(subject(1), fixed, transform=kind, levels_mm=[8.0], start="turns")
    assert right.accepted
    assert right.quality > 1.2 * wrong.quality


def test_whether_it_is_the_wrong_way_round_changes_nothing_but_the_verdict():
    fixed = space.rotate(subject(65), degrees=180, plane=("z", "x"))
    asked, unasked = (
        register(subject(1), fixed, levels_mm=[8.0], check_turns=check) for check in (True, False)
    )
    assert (asked.verdict, unasked.verdict) == ("rejected", "accepted")
    assert same(asked, unasked)


@pytest.mark.parametrize("metric", ["mutual_information", "correlation", "mean_squares"])
def test_two_heads_the_same_way_round_are_accepted_whatever_is_compared(metric):
    fixed = space.rotate(subject(71), degrees=-14, plane=("y", "z"))
    found = register(subject(72), fixed, metric=metric, levels_mm=[8.0])
    assert found.accepted, found.reason
    upside_down = space.rotate(fixed, degrees=180, plane=("z", "x"))
    assert not register(subject(72), upside_down, metric=metric, levels_mm=[8.0]).accepted


# What cannot be


def noise(seed: int) -> xr.DataArray:
    """Of smooth grains."""
    values = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 26, 28)), 1)
    coords = grid.coordinates(np.diag([2.0, 2.0, 2.0, 1.0]), values.shape)
    return xr.DataArray(values.astype(np.float32), dims=grid.SPACE, coords=coords)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
@pytest.mark.parametrize("metric", ["mutual_information", "correlation", "mean_squares"])
def test_images_that_have_nothing_to_do_with_each_other_are_rejected(kind, metric):
    found = register(noise(1), noise(2), transform=kind, metric=metric)
    assert found.verdict == "rejected"
    assert not found.accepted
    assert found.reason
    with pytest.raises(RegistrationError, match="not to be trusted: "):
        found.checked()


def test_a_scale_out_of_range_is_rejected():
    truth = np.diag([1.2, 1.2, 1.2, 1.0])
    fixed = posed(truth)
    narrow = (0.9, 1.1)
    found = register(subject(0), fixed, transform="similarity", scale_range=narrow, levels_mm=[8.0])
    assert re.fullmatch(
        r"it scales by 1\.2\d* to 1\.2\d* \(determinant 1\.7\d\), expected 0\.9 to 1\.1",
        found.reason,
    )
    found = register(subject(0), fixed, transform="similarity", levels_mm=[8.0])
    check(found, truth, mm=1.0)


def test_too_small_an_overlap_is_rejected():
    top = subject(0).isel(z=slice(34, None))
    below = subject(0).isel(z=slice(0, 38))
    found = register(top, below, start="world", levels_mm=[8.0])
    assert found.overlap < 0.25
    assert found.reason.startswith(
        f"the images overlap by {found.overlap:.1%}, expected at least 25%"
    )


def ramp(rise: float = 0.0) -> xr.DataArray:
    values = np.zeros((12, 12, 12), np.float32) + np.arange(12, dtype=np.float32)[:, None, None]
    coords = grid.coordinates(np.eye(4), values.shape)
    return xr.DataArray(values + np.float32(rise), dims=grid.SPACE, coords=coords)


def test_a_search_that_runs_off_gives_no_matrix(capfd):
    start = np.eye(4)
    start[2, 3] = -9.9
    found = register(ramp(), ramp(30), metric="mean_squares", start=start)
    assert found.reason == "the search broke off: No voxel of one image lies within the other."
    assert np.isnan(found.matrix).all()
    assert math.isnan(found.metric)
    assert capfd.readouterr().err == ""
    with pytest.raises(RegistrationError, match="broke off"):
        found.checked()
    with pytest.raises(ValueError, match="finite"):
        space.affine(ramp(), found.matrix)


def test_what_cannot_be_registered_says_why():
    image = ramp()
    none = xr.zeros_like(image, dtype=np.bool_)
    one = none.copy()
    one[5, 5, 5] = True
    still = image.expand_dims(time=[0.0, 1.0])
    cases = [
        (still, image, {}, "moving has dims .*time.*register one image of three dims: moving.isel.time=0"),
        (image, image.isel(x=0), {}, "fixed has dims .*expected .'z', 'y', 'x'"),
        (image.isel(z=slice(3)), image, {}, "moving is 3 x 12 x 12 voxels .z, y, x., expected at least 4"),
        (image, xr.zeros_like(image), {}, "fixed is 0 in all of its 1728 voxels: there is nothing"),
        (image, image.where(image < 11), {}, "fixed has 144 voxels that are not finite"),
        (image, image, {"moving_mask": none}, "the mask of moving is empty"),
        (image, image, {"fixed_mask": one}, "fixed is 5 in all of its 1 voxels"),
        (image, image.assign_coords(z=image.z + 500), {"start": "world"}, "have 0.0% in common at the start"),
    ]  # fmt: skip
    for moving, fixed, options, message in cases:
        with pytest.raises(RegistrationError, match=message):
            register(moving, fixed, **options)


def test_wrong_calls_say_what_was_expected():
    image = ramp()
    cases = [
        ({"transform": "bspline"}, "transform is 'bspline', expected one of rigid, similarity, affine"),
        ({"metric": "mi"}, "metric is 'mi', expected one of mutual_information"),
        ({"start": "corners"}, "start is 'corners', expected 'moments'"),
        ({"start": np.eye(3)}, r"start is \(3, 3\), expected a \(4, 4\)"),
        ({"levels_mm": [4.0, 0.0]}, "levels_mm is .4.0, 0.0., expected positive"),
        ({"levels_mm": []}, "levels_mm is .., expected positive"),
        ({"fixed_mask": image}, "the mask of fixed is float32, expected bool"),
    ]  # fmt: skip
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            register(image, image, **options)
    with pytest.raises(
        grid.GridError, match=r"moving is 12 x 12 x 12 .* but the mask of moving is 9"
    ):
        register(image, image, moving_mask=(image > 3).isel(z=slice(0, 9)))
