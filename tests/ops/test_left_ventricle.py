import functools
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import nothing_computed

from cohort.grid import GridError
from cohort.ops import motion
from cohort.ops.motion import NoVentricleError
from cohort.phantom.hearts import Heart

SMALL = Heart(
    shape=(7, 70, 74),
    spacing=(10.0, 2.2, 2.0),
    length_mm=56.0,
    base_slice=6,
    n_frames=8,
    diastole=6,
)


@functools.cache
def small():
    """A cine that is quick to search, and its ventricle."""
    cine = SMALL.cine()
    return cine, motion.left_ventricle(cine)


def overlap(found, truth, axis=(1, 2, 3)):
    """Dice's coefficient of each frame."""
    return 2 * (found & truth).sum(axis) / (found.sum(axis) + truth.sum(axis))


def check(heart):
    """The right object in every frame, and the volumes that the closed form gives."""
    found = motion.left_ventricle(heart.cine())
    assert overlap(found.values, heart.truth()).min() > 0.93
    result = motion.ejection_fraction(motion.volume_curve_ml(found), smooth=3)
    assert float(result.ejection_fraction) == pytest.approx(heart.ejection_fraction, abs=0.02)
    assert float(result.edv_ml) == pytest.approx(heart.volumes_ml().max(), rel=0.1)
    n = heart.n_frames
    assert abs((int(result.end_diastole_frame) - heart.diastole + n // 2) % n - n // 2) <= 1


def test_a_heart_of_twenty_frames_among_what_it_could_be_mistaken_for():
    check(Heart())


@pytest.mark.parametrize("fraction", [0.12, 0.7])
def test_a_failing_heart_and_a_strong_one(fraction):
    check(Heart(ejection_fraction=fraction, diastole=3))


@st.composite
def hearts(draw):
    pixel, step = draw(st.floats(1.3, 1.9)), draw(st.floats(6.5, 10))
    length = draw(st.floats(60, 85))
    below = int(length / step) + draw(st.integers(0, 1))
    n = int(190 / pixel)
    return Heart(
        shape=(below + draw(st.integers(0, 3)), n + draw(st.integers(0, 8)), n),
        spacing=(step, pixel, pixel),
        radius_mm=draw(st.floats(20, 30)),
        length_mm=length,
        ejection_fraction=draw(st.floats(0.2, 0.65)),
        centre_mm=(draw(st.floats(-12, 12)), draw(st.floats(-12, 12))),
        tilt=draw(st.floats(-0.15, 0.15)),
        towards_rv=draw(st.floats(0, 6.28)),
        diastole=draw(st.integers(0, 19)),
        base_slice=below,
        noise=draw(st.floats(0.01, 0.06)),
        seed=draw(st.integers(0, 99)),
    )


@pytest.mark.slow
@settings(max_examples=10, phases=(Phase.explicit, Phase.generate))  # a minute for each that fails
@given(heart=hearts())
def test_hearts_of_any_size_place_spacing_and_noise(heart):
    check(heart)


# What does not matter.


def flipped(dim):
    return lambda a: a.isel({dim: slice(None, None, -1)})


def transposed(a):
    """The plane transposed: what was y is x."""
    return a.rename(y="x", x="y").transpose("time", "z", "y", "x")


def along_x(a):
    """The slices along x, as ingest gives a stack that is planned so."""
    return a.rename(z="x", x="z").transpose("time", "z", "y", "x")


SAME = {
    "flip y": flipped("y"),
    "flip x": flipped("x"),
    "slices reversed": flipped("z"),
    "transposed": transposed,
    "slices along x": along_x,
    "phases rolled": lambda a: a.roll(time=3),
    "coordinates that fall": lambda a: a.isel(y=slice(None, None, -1)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_voxels_are_found_however_the_series_lies(name):
    cine, mask = small()
    found = motion.left_ventricle(SAME[name](cine))
    np.testing.assert_array_equal(found, SAME[name](mask))


@pytest.mark.parametrize(
    ("dtype", "gain", "offset"), [(np.float32, 1, 0), (np.float64, 3.7, -250), (np.int32, 11, 5)]
)
def test_intensities_may_be_of_any_dtype_and_linear_scale(dtype, gain, offset):
    cine, mask = small()
    found = motion.left_ventricle(cine.astype(dtype) * dtype(gain) + dtype(offset))
    # A threshold on a voxel's very value falls to either side with its last bit.
    assert np.count_nonzero(found != mask) <= 2
    assert found.dtype == bool


def test_a_lazy_series_is_searched_in_one_task_and_gives_the_same_voxels():
    cine, mask = small()
    lazy = cine.chunk({"time": 1, "z": 3, "y": 40, "x": -1})
    with nothing_computed():
        found = motion.left_ventricle(lazy)
    assert found.chunks == lazy.chunks
    keys = [k for k in found.data.dask if str(k[0]).startswith("_on_slices")]
    assert len(keys) == 1
    xr.testing.assert_identical(found.compute(), mask)


def test_coordinates_stay_and_times_need_not_be_regular():
    cine, mask = small()
    cine = cine.assign_coords(time=np.cumsum([0.0, 0.05, 0.2, 0.1, 0.03, 0.07, 0.1, 0.15]))
    before = cine.copy(deep=True)
    found = motion.left_ventricle(cine)
    xr.testing.assert_identical(cine, before)
    np.testing.assert_array_equal(found, mask)
    assert found.coords.equals(cine.coords)


def test_a_point_inside_finds_the_same_ventricle():
    cine, mask = small()
    centre = {"x": 36 * 2.0 + 1, "y": 34 * 2.2 + 1, "z": 40.0}
    found = motion.left_ventricle(cine, seed_mm=centre)
    assert overlap(found.values, mask.values).min() > 0.98


# Refusals.


def test_what_is_no_cine_is_refused():
    cine, _ = small()
    with pytest.raises(ValueError, match=r"cine has dims \('z', 'y', 'x'\), expected \('time', "):
        motion.left_ventricle(cine[0])
    with pytest.raises(ValueError, match=r"cine has dims \('echo', .*, expected \('time', "):
        motion.left_ventricle(cine.rename(time="echo"))
    with pytest.raises(ValueError, match="cine has 1 frames, expected at least 3 of one heart"):
        motion.left_ventricle(cine[:1])
    with pytest.raises(GridError, match="'y' has no coordinate in mm"):
        motion.left_ventricle(cine.drop_vars("y"))
    with pytest.raises(ValueError, match="cine has 1 voxels that are NaN or infinite"):
        motion.left_ventricle(cine.astype(float).where(cine < cine.max()))
    with pytest.raises(ValueError, match=r"seed_mm \(999.0, 0.0, 0.0\) mm is voxel .* along 'x'"):
        motion.left_ventricle(cine, seed_mm=(999, 0, 0))
    for name, value in {"region_mm": 0, "drift_mm": np.inf, "blur_mm": -1, "apex_cm2": -1}.items():
        with pytest.raises(ValueError, match=f"{name} is {value}, expected a finite number"):
            motion.left_ventricle(cine, **{name: value})
    with pytest.raises(ValueError, match=r"level is 1\.5, expected a share from 0 to 1"):
        motion.left_ventricle(cine, level=1.5)


def test_a_series_without_a_ventricle_is_refused():
    cine, _ = small()
    with pytest.raises(NoVentricleError, match="every voxel of the cine is 7: there is nothing"):
        motion.left_ventricle(xr.full_like(cine, 7))
    with pytest.raises(NoVentricleError, match="the 8 frames of the cine are equal: nothing moves"):
        motion.left_ventricle(cine.isel(time=[0] * 8))
    noise = cine.copy(data=np.random.default_rng(0).normal(100, 10, cine.shape))
    with pytest.raises(NoVentricleError, match="is somewhere else in every frame"):
        motion.left_ventricle(noise)
    lamp = cine.copy(
        data=np.where(np.arange(74) == 9, 1 + np.arange(8).reshape(8, 1, 1, 1), 0 * cine)
    )
    with pytest.raises(NoVentricleError, match=r"no bright object of 1\.5 to 40 cm2"):
        motion.left_ventricle(lamp)
    still = replace(SMALL, ejection_fraction=0.0)
    with pytest.raises(NoVentricleError, match=r"loses .*% of its area in a beat, expected .* 5%"):
        motion.left_ventricle(still.cine())
    with pytest.raises(NoVentricleError, match="begins is not bright in any frame"):
        motion.left_ventricle(cine, seed_mm=(1, 1, 40))
