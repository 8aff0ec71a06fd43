"""Count, sum and squares of one region, tile by tile: the quick way to a mean and a standard deviation."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.blocks import TILE, origin_of, volume
from cohort.kernels.regions import COLUMNS, LABEL, SQUARES, SUM, TILE_NUMBER, N


def rows(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    squares: bool,
) -> np.ndarray:
    """Measure the mask, or everything, in each tile of a block.

    Parameters
    ----------
    image : block of one to three axes, any real dtype
    mask : bool, of the same shape, optional
    origin, shape
        Of the block's first voxel (a multiple of `TILE` along every axis), and of the whole array.
    squares : bool
        Whether to take a second look at each tile for squares about its mean.

    Returns
    -------
    (n_tiles, COLUMNS) float64 array
        Rows as `regions.merge` takes them, in which count, sum and squares are filled.
    """
    inside = np.ones(image.shape, np.bool_) if mask is None else mask
    whole = (1,) * (3 - len(shape)) + tuple(int(n) for n in shape)
    found = _rows(volume(image), volume(inside), origin_of(tuple(origin)), whole, int(squares))
    table = np.zeros((found.shape[0], COLUMNS))
    table[:, TILE_NUMBER], table[:, LABEL] = found[:, 0], 1
    table[:, N], table[:, SUM], table[:, SQUARES] = found[:, 1], found[:, 2], found[:, 3]
    return table[table[:, N] > 0]


@njit(cache=True, nogil=True)
def _rows(image, mask, origin, whole, squares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Tile number, count, sum and squares of each tile.

    A tile has a lane for each x: lanes are independent, so they are added up side by side, and always in the same order.
    """
    nz, ny, nx = image.shape
    across, down = (whole[2] + TILE - 1) // TILE, (whole[1] + TILE - 1) // TILE
    shape = ((nz + TILE - 1) // TILE, (ny + TILE - 1) // TILE, (nx + TILE - 1) // TILE)
    out = np.zeros((shape[0] * shape[1] * shape[2], 4))
    lanes = np.zeros(TILE)
    counts = np.zeros(TILE, np.int64)
    k = 0
    for z0 in range(0, nz, TILE):
        for y0 in range(0, ny, TILE):
            for x0 in range(0, nx, TILE):
                width = min(nx, x0 + TILE) - x0
                lanes[:], counts[:] = 0.0, 0
                for z in range(z0, min(nz, z0 + TILE)):
                    for y in range(y0, min(ny, y0 + TILE)):
                        values, inside = image[z, y, x0 : x0 + width], mask[z, y, x0 : x0 + width]
                        for i in range(width):
                            counts[i] += inside[i]
                            lanes[i] += float(values[i]) if inside[i] else 0.0
                place = ((origin[0] + z0) // TILE * down + (origin[1] + y0) // TILE) * across
                out[k, 0] = place + (origin[2] + x0) // TILE
                out[k, 1], out[k, 2] = counts.sum(), _added(lanes)
                if squares and out[k, 1] > 0:
                    mean = out[k, 2] / out[k, 1]
                    lanes[:] = 0.0
                    for z in range(z0, min(nz, z0 + TILE)):
                        for y in range(y0, min(ny, y0 + TILE)):
                            values, inside = (
                                image[z, y, x0 : x0 + width],
                                mask[z, y, x0 : x0 + width],
                            )
                            for i in range(width):
                                off = float(values[i]) - mean if inside[i] else 0.0
                                lanes[i] += off * off
                    out[k, 3] = _added(lanes)
                k += 1
    return out


@njit(cache=True, nogil=True)
def _added(lanes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    total = 0.0
    for value in lanes:
        total += value
    return total
