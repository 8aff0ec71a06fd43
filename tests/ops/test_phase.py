"""Shifts of less than a voxel, found again on any grid."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort import grid
from cohort.ops import space
from cohort.ops.register import RegistrationError, phase_shift_mm


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Band-limited, and as it goes out on one side it comes in on the other."""
    return ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5, mode="wrap")


def shifted(values: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Without interpolation: by the phases of its waves."""
    return np.fft.ifftn(ndi.fourier_shift(np.fft.fftn(values), voxels)).real


@given(st.data(), st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_shifts_of_band_limited_images_are_found_to_a_twentieth_of_a_voxel(data, ndim, seed):
    shape = data.draw(strategies.shapes(low=17, high=30, ndim=ndim))
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(-6, 6, ndim)
    values = smooth(shape, seed)
    moving = strategies.scan(values.astype(np.float32))
    fixed = strategies.scan(shifted(values, voxels))
    found = phase_shift_mm(moving.chunk(), fixed)
    steps = np.array([strategies.SPACING[d] for d in moving.dims])
    assert list(found) == list(moving.dims)
    assert np.abs(np.array(list(found.values())) / steps - voxels).max() < 0.05


def test_the_shift_is_what_shift_and_stack_take_also_on_flipped_and_oblique_grids():
    z, y, x = np.ogrid[:24, :26, :28]
    blob = np.exp(-((z - 12) ** 2 / 9 + (y - 11) ** 2 / 16 + (x - 14) ** 2 / 12))
    blob += 0.5 * np.exp(-((z - 8) ** 2 + (y - 15) ** 2 + (x - 11) ** 2) / 6)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    oblique = np.eye(4)
    oblique[:3, :3] = turn * [1.0, 2.0, 3.0]
    image = xr.DataArray(blob, dims=grid.SPACE, coords=grid.coordinates(oblique, blob.shape))
    for fixed in (image, image[:, ::-1], image.drop_vars("grid")[::-1, :, ::-1]):
        wanted = {"z": 2.4, "y": -1.5, "x": 0.8}
        moving = space.shift(fixed, mm={d: -mm for d, mm in wanted.items()}, order=5)
        found = phase_shift_mm(moving, fixed)
        assert found == pytest.approx(wanted, abs=0.03)
        back = space.shift(moving, mm=found, order=5)
        assert np.abs(back - fixed)[4:-4, 4:-4, 4:-4].max() < 0.02
        mean = space.stack([fixed, moving], shifts_mm=[dict.fromkeys("zyx", 0.0), found], order=5)
        assert np.abs(mean["mean"] - fixed)[4:-4, 4:-4, 4:-4].max() < 0.02


def test_a_little_noise_costs_a_tenth_of_a_voxel():
    y, x = np.ogrid[:60, :80]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        voxels = rng.uniform(-3, 3, 2)
        views = (
            1 / (1 + np.exp(8 * (np.hypot((y - 30 - dy) / 15, (x - 40 - dx) / 20) - 1)))
            for dy, dx in ((0, 0), voxels)
        )
        a, b = (v + rng.normal(0, 0.03, v.shape) for v in views)
        found = phase_shift_mm(strategies.scan(a), strategies.scan(b))
        errors = found["y"] / 1.0 - voxels[0], found["x"] / 1.5 - voxels[1]
        assert np.abs(errors).max() < 0.1


def test_what_has_no_shift_says_why():
    image = strategies.scan(smooth((12, 13, 14), 0))
    cases = [
        (image, image.expand_dims("time"), "fixed has dims .*compare one position along 'time'"),
        (xr.ones_like(image), image, "moving is 1 in all of its 2184 voxels: there is nothing"),
        (image, image.where(image > 0), "fixed has .* voxels that are not finite"),
    ]
    for moving, fixed, message in cases:
        with pytest.raises(RegistrationError, match=message):
            phase_shift_mm(moving, fixed)
    for other in (
        image[1:],
        image.assign_coords(z=image.z + 1),
        image.transpose("x", "y", "z")[:12],
    ):
        with pytest.raises(grid.GridError):
            phase_shift_mm(image, other)
    with pytest.raises(grid.GridError, match="has no coordinate in mm"):
        phase_shift_mm(*[image.drop_vars("y")] * 2)
