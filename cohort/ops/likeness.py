"""What sets one scan of a cohort apart: its coarse volume on a grid common to all, without position and brightness."""

import numpy as np
import xarray as xr

from cohort import grid

SIDE = 24
"""Points along each axis of the common grid."""

WIDTH = 0.625
"""Standard deviation, in steps of the common grid, of the Gaussian through which a scan is seen.

Wide enough that a copy cut by a voxel, or sampled half a cell off, gives the same values; narrow enough that two persons do not.
"""

FOREGROUND = 0.2
"""Share of the range of a scan above which a cell pulls the centre."""


def extent_mm(coarse: xr.DataArray) -> float:
    """Longest side of a scan, mm."""
    return max(coarse.sizes[d] * mm for d, mm in grid.spacing_mm(coarse).items())


def centred(coarse: xr.DataArray, *, step_mm: float, side: int = SIDE) -> np.ndarray:
    """A scan on the common grid: the same for a copy that was cut, moved, or stored with another scale or type.

    Parameters
    ----------
    coarse : DataArray, (z, y, x)
        Coarse volume of a thumbnail, on canonical axes (x to the right, y to the front, z upwards).
    step_mm : float
        Distance of the points of the common grid.
    side : int
        Points along each axis; the middle one lies on the scan's centre of brightness.

    Returns
    -------
    (side, side, side) float32 array
        Of norm 1; 0 for a scan of one value. Its last axis is left to right, so that ``[..., ::-1]`` is the mirror image.
    """
    codes = dict(zip("xyz", grid.axis_codes(grid.affine_of(coarse)), strict=True))
    spacing = grid.spacing_mm(coarse)
    axes = [next(d for d, c in codes.items() if c in pair) for pair in ("SI", "AP", "RL")]
    turned = tuple(slice(None, None, -1 if codes[d] in "LPI" else 1) for d in axes)
    values = coarse.transpose(*axes).values[turned].astype(np.float64)
    steps = [spacing[d] for d in axes]
    least, most = float(values.min()), float(values.max())
    if not most > least:
        return np.zeros((side, side, side), np.float32)
    values = values - least
    weights = np.clip(values - FOREGROUND * (most - least), 0, None)
    away = (np.arange(side) - (side - 1) / 2) * step_mm
    for axis, step in enumerate(steps):
        others = tuple(a for a in range(3) if a != axis)
        along = weights.sum(axis=others)
        places = np.arange(values.shape[axis]) * step
        centre = float(along @ (np.arange(along.size) * step)) / float(along.sum())
        apart = centre + away[:, None] - places
        sigma = WIDTH * step_mm
        bell = np.exp(-0.5 * (apart / sigma) ** 2)
        # Not BLAS: its threads take longer to meet than this takes.
        values = np.moveaxis(
            np.einsum("ij,j...->i...", bell, np.moveaxis(values, axis, 0)), 0, axis
        )
    norm = float(np.sqrt((values**2).sum()))
    return (values / norm).astype(np.float32) if norm else np.zeros((side,) * 3, np.float32)
