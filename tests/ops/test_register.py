"""Known poses come back, on any grid and from any start; what cannot be registered says so."""

from functools import cache

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from cohort import grid
from cohort.ops import space
from cohort.ops.register import Registration, register
from cohort.phantom import head


@cache
def anatomy() -> xr.DataArray:
    """A synthetic head at 3 mm."""
    image = head(seed=11, index=0).scan["image"].astype(np.float32)
    return space.resample(image, spacing_mm=3.0).compute()


def points(image: xr.DataArray) -> np.ndarray:
    """World positions of the head's voxels."""
    affine = grid.affine_of(image)
    index = np.argwhere(image.values > float(image.mean()))[:, ::-1]
    return index @ affine[:3, :3].T + affine[:3, 3]


def pose(rng: np.random.Generator, *, scale: float = 0.0) -> np.ndarray:
    """A turn of up to 20 degrees and a scale about the head's middle, and a shift of up to 20 mm."""
    turn, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    linear = Rotation.from_rotvec(rng.uniform(5, 20) * turn, degrees=True).as_matrix()
    linear *= rng.uniform(1 - scale, 1 + scale)
    middle = points(anatomy()).mean(axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ middle + rng.uniform(5, 20) * way
    return matrix


def apart(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How far apart two transforms are: mean distance over the head, mm, and the turn between them, degrees."""
    where = points(anatomy())
    gap = where @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]
    u, _, vt = np.linalg.svd(found[:3, :3] @ np.linalg.inv(truth[:3, :3]))
    turn = Rotation.from_matrix(u @ vt).magnitude()
    return float(np.linalg.norm(gap, axis=1).mean()), float(np.degrees(turn))


def check(found: Registration, truth: np.ndarray) -> None:
    """Within half a voxel of 3 mm and half a degree, and trusted."""
    mm, degrees = apart(found.matrix, truth)
    assert (mm < 1.5, degrees < 0.5, found.verdict, found.reason) == (True, True, "accepted", "")


@pytest.mark.parametrize("seed", range(10))
def test_known_poses_are_recovered(seed):
    rng = np.random.default_rng([2, seed])
    kind = ("rigid", "similarity", "affine")[seed % 3]
    truth = pose(rng, scale=0.0 if kind == "rigid" else 0.15)
    fixed = space.affine(anatomy(), truth, order=3)
    fixed = fixed + rng.normal(0, 0.02 * float(fixed.max()), fixed.shape).astype(np.float32)
    found = register(anatomy(), fixed, transform=kind)
    check(found, truth)
    assert found.metric < found.metric_before
