"""Slices at uneven distances, interpolated onto an even grid; only where a researcher has asked for it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Even:
    """How each slice of an even grid comes from two of those there are.

    Parameters
    ----------
    lower, upper : (slices,) int arrays
        Numbers of the neighbours.
    weight : (slices,) float64 array
        Of the upper one, 0 to 1.
    step_mm : float
        Along the slice normal.
    """

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    step_mm: float

    def __len__(self) -> int:
        """Slices of the even grid."""
        return self.lower.size


def even(depth: np.ndarray, *, step_mm: float, tolerance_mm: float) -> Even:
    """Plan an even grid from the first slice up, as far as there are slices.

    Parameters
    ----------
    depth : (n,) array, ascending
        Where the slices lie along their normal, mm.
    step_mm : float, > 0
        Of the grid.
    tolerance_mm : float
        A slice that lies no farther from its place on the grid is taken as it is.

    Examples
    --------
    >>> plan = even(np.array([0.0, 2.0, 6.0]), step_mm=2.0, tolerance_mm=0.02)
    >>> plan.lower.tolist(), plan.upper.tolist(), plan.weight.tolist()
    ([0, 1, 1, 2], [0, 1, 2, 2], [0.0, 0.0, 0.5, 0.0])
    """
    n = int((depth[-1] - depth[0] + tolerance_mm) // step_mm) + 1
    wanted = depth[0] + step_mm * np.arange(n)
    upper = np.clip(np.searchsorted(depth, wanted), 1, depth.size - 1)
    lower = upper - 1
    weight = np.clip((wanted - depth[lower]) / (depth[upper] - depth[lower]), 0.0, 1.0)
    for side, exact in ((lower, 0.0), (upper, 1.0)):
        weight[np.abs(wanted - depth[side]) <= tolerance_mm] = exact
    lower, upper = np.where(weight == 1, upper, lower), np.where(weight == 0, lower, upper)
    return Even(lower, upper, np.where(lower == upper, 0.0, weight), step_mm)


def interpolate(volume: np.ndarray, plan: Even, out: np.ndarray) -> None:
    """Fill `out` (..., slices of the grid, y, x) from `volume` (..., slices, y, x), linearly along the slices.

    Oracle: ``numpy.interp`` down each column of voxels.
    """
    for k, (i, j, weight) in enumerate(zip(plan.lower, plan.upper, plan.weight, strict=True)):
        below = volume[..., i, :, :]
        out[..., k, :, :] = (
            below if i == j else (1 - weight) * below + weight * volume[..., j, :, :]
        )
