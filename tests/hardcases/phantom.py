"""A phantom in closed form: one number for every point of the world, so that any grid can be filled and any result checked.

It is different along every axis and both ways along it: a flip, a swap, or a shift by one voxel changes values.
"""

import nibabel as nib
import numpy as np

SHAPE = (10, 12, 14)
"""Slices, rows, columns."""

SPACING = (1.2, 0.9, 3.0)
"""mm from column to column, from row to row, from slice to slice: never isotropic."""

CENTRE = (-3.0, 12.5, 34.0)
"""World RAS, mm."""

TICK = 60
"""What one unit of time adds."""


def grid(
    codes="LPS", *, shape=SHAPE, spacing=SPACING, centre=CENTRE, turn=(0.0, 0.0, 0.0), tilt=0.0
):
    """Give the affine, indices (column, row, slice) -> RAS mm, of a grid around `centre`.

    Columns, rows and slices run towards `codes` (``LPS``: an axial series), then the whole is turned by the Euler
    angles `turn`; a gantry `tilt`, degrees, moves each slice along its rows' direction.
    """
    axes = np.zeros((3, 3))
    for number, code in enumerate(codes):
        place = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        axes[place, number] = 1 if code in "RAS" else -1
    axes = nib.eulerangles.euler2mat(*turn) @ axes
    axes[:, 2] += np.tan(np.deg2rad(tilt)) * axes[:, 1]
    linear = axes * spacing
    middle = (np.array(shape[::-1]) - 1) / 2
    return nib.affines.from_matvec(linear, np.asarray(centre) - linear @ middle)


def world(affine, shape):
    """Positions, RAS mm, of the voxels of a (slice, row, column) grid: a (slice, row, column, 3) array."""
    return nib.affines.apply_affine(affine, np.indices(shape[::-1]).T)


def exact(points, *, time=0.0, bump=True):
    """Value at each point of (..., 3), a real number between 0 and 4095 within 60 mm of `CENTRE`."""
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    value = 1800 + 9 * x - 5 * y + 14 * z + TICK * time
    if bump:
        value = value + 160 * np.exp(-((x - 1) ** 2 + (y - 10) ** 2 + (z - 41) ** 2) / 72)
    return value


def fill(affine, shape=SHAPE, *, time=0.0, bump=True):
    """Values on a grid, rounded to whole numbers: a (slice, row, column) float64 array."""
    return np.rint(exact(world(affine, shape), time=time, bump=bump))
