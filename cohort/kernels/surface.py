"""Surface of labelled objects by Crofton's formula: how often straight lines through voxel centres enter or leave them.

Lines in a direction with one through every voxel lie ``voxel volume / step`` apart (an area), so each crossing stands for
that much of the surface as seen from the direction; the mean over all directions is half the surface. Each of a few
directions speaks for the part of the sphere that is nearest to it (Ohser and Mücklich 2000; Legland, Kiêu and Devaux 2007).
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.regions import SUM, N, compact, merge

_FARTHEST = 8
"""Voxels along an axis that a step spans at most."""


def crofton(spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Directions between voxels, one of each opposite pair, and the area that a crossing along each stands for.

    To the 13 of neighbouring voxels come those with steps along the finer axes as long as the coarsest voxel: without
    them, thick slices would leave a gap between the directions in the slice and those across.

    Parameters
    ----------
    spacing : (3,) floats
        In mm, along z, y, x.

    Returns
    -------
    steps : (n, 3) int64
        Voxels along z, y, x.
    areas : (n,) float64
        In mm2.
    """
    from scipy.spatial import SphericalVoronoi

    coarsest = max(spacing)
    longer = [min(_FARTHEST, max(1, round(coarsest / s))) for s in spacing]
    found = set()
    for step in itertools.product((-1, 0, 1), repeat=3):
        if step > (0, 0, 0):
            far = np.array(step) * longer
            found |= {step, tuple(int(n) for n in far // np.gcd.reduce(far))}
    steps = np.array(sorted(found), np.int64)
    vectors = steps * np.asarray(spacing, float)
    lengths = np.sqrt((vectors**2).sum(axis=1))
    unit = vectors / lengths[:, None]
    sphere = SphericalVoronoi(np.concatenate([unit, -unit]))
    shares = sphere.calculate_areas().reshape(2, -1).sum(axis=0)
    shares /= shares.sum()
    return steps, 2 * shares * np.prod(np.asarray(spacing, float)) / lengths


def crossings(labels: np.ndarray, *, steps: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Surface of each labelled voxel, in mm2: the areas of all steps, there and back, that lead to another label or none."""
    numbers = volume(compact(labels)[0])
    out = np.zeros(numbers.shape)
    both = np.concatenate([steps, -steps])
    _crossings(numbers, both, np.concatenate([areas, areas]), out)
    return out.reshape(labels.shape)


@njit(cache=True, nogil=True)
def _crossings(labels, steps, areas, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            own, into = labels[z, y], out[z, y]
            first, last = 0, nx
            while first < nx and own[first] == 0:
                first += 1
            while last > first and own[last - 1] == 0:
                last -= 1
            for k in range(steps.shape[0]):
                there_z, there_y, dx = z + steps[k, 0], y + steps[k, 1], steps[k, 2]
                if 0 <= there_z < nz and 0 <= there_y < ny:
                    other, area = labels[there_z, there_y], areas[k]
                    for x in range(max(first, -dx), min(last, nx - dx)):
                        into[x] += area if own[x] != other[x + dx] else 0.0
            for x in range(first, last):
                if own[x] == 0:
                    into[x] = 0.0


def areas(
    found: np.ndarray, *, index: np.ndarray, order: np.ndarray, voxel_mm3: float
) -> np.ndarray:
    """Surface in mm2, and sphericity, of each label from the `regions.rows` of `crossings`: (n, 2) float64."""
    merged = merge(found, index=index)
    surface = np.where(merged[:, N] > 0, merged[:, SUM], np.nan)
    # The surface of a ball of the same volume, as a share of this one.
    ball = np.pi ** (1 / 3) * (6 * voxel_mm3 * merged[:, N]) ** (2 / 3)
    return np.stack([surface, ball / surface], axis=1)[order]
