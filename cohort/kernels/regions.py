"""What is measured of numbered regions: one pass over a block, one row a canonical tile and label.

Rows are merged in raster order of the tiles (`merge`), so that sums have the same bits however the array was
cut, as long as no cut runs through a tile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from cohort.kernels.blocks import TILE, origin_of, volume

TILE_NUMBER, LABEL, N, SUM, SQUARES, MINIMUM, MAXIMUM, MINIMUM_AT, MAXIMUM_AT = range(9)
INDEX_SUMS = slice(9, 12)
"""Sums of the voxels' indices along z, y, x."""
WEIGHTED_SUMS = slice(12, 15)
"""Sums of value times index along z, y, x."""
LOW = slice(15, 18)
HIGH = slice(18, 21)
"""First voxel, and one past the last, along z, y, x."""
COLUMNS = 21

_LARGEST = 2**53
"""Labels stand in a column of float64."""
_FEW = 1 << 16
"""Labels up to here are their own numbers; a table of all of them is small."""


def compact(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as uint8 or int32 from 0 to n, and the label of each number; 0 stays 0.

    Labels that are small anyway stay what they are.
    """
    if labels.dtype in (np.bool_, np.uint8):
        return labels, np.arange(256, dtype=np.int64)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > _LARGEST:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"the labels hold {wrong}; labels are from 0 (background) to {_LARGEST}")
    if highest < _FEW:
        return labels.astype(np.int32, copy=False), np.arange(highest + 1, dtype=np.int64)
    if highest < labels.size:
        found = _present(volume(labels).reshape(-1), highest + 1)
        found[0] = True
        names = np.flatnonzero(found)
        table = np.zeros(found.size, np.int32)
        table[names] = np.arange(names.size)
        return table[labels], names
    names, numbers = np.unique(labels, return_inverse=True)
    if names[0] != 0:
        names, numbers = np.concatenate([[0], names]), numbers + 1
    return numbers.reshape(labels.shape).astype(np.int32), names.astype(np.int64)


def present(labels: np.ndarray) -> np.ndarray:
    """Labels other than 0 of a block, in rising order: (n,) int64."""
    numbers, names = compact(labels)
    found = _present(volume(numbers).reshape(-1), names.size)
    found[0] = False
    return names[found]


@njit(cache=True, nogil=True)
def _present(labels: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(n, np.bool_)
    for i in range(labels.size):
        found[labels[i]] = True
    return found


def rows(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
    squares: bool = True,
) -> np.ndarray:
    """Measure each label of each tile of a block.

    Parameters
    ----------
    image, labels : block of one to three axes
        Any real dtype; integer labels (or a bool mask), 0 is background.
    origin, shape
        Of the block's first voxel (a multiple of `TILE` along every axis), and of the whole array.
    squares : bool
        Whether to take a second look at each tile for squares about its mean.

    Returns
    -------
    (n_rows, COLUMNS) float64 array
    """
    numbers, names = compact(labels)
    whole = (1,) * (3 - len(shape)) + tuple(int(n) for n in shape)
    table = _rows(
        volume(image),
        volume(numbers),
        names.size,
        origin_of(tuple(origin)),
        whole,
        int(squares),
    )
    table[:, LABEL] = names[table[:, LABEL].astype(np.int64)]
    return table


@njit(cache=True, nogil=True)
def _rows(image, labels, n_names, origin, whole, squares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Rows of all tiles. A row of tiles along x is walked line by line, as it lies in memory."""
    nz, ny, nx = labels.shape
    across, down = (whole[2] + TILE - 1) // TILE, (whole[1] + TILE - 1) // TILE
    row_of = np.full(((nx + TILE - 1) // TILE, n_names), -1, np.int32)
    out = np.empty((nx + 64, COLUMNS))
    n_rows = 0
    for z0 in range(0, nz, TILE):
        for y0 in range(0, ny, TILE):
            tile = ((origin[0] + z0) // TILE * down + (origin[1] + y0) // TILE) * across
            tile += origin[2] // TILE
            first_row = n_rows
            for z in range(z0, min(nz, z0 + TILE)):
                for y in range(y0, min(ny, y0 + TILE)):
                    if n_rows + nx > out.shape[0]:
                        grown = np.empty((2 * n_rows + nx, COLUMNS))
                        grown[:n_rows] = out[:n_rows]
                        out = grown
                    n_rows = _add_line(
                        image, labels, z, y, origin, whole, tile, row_of, out, n_rows
                    )
            if squares:
                for z in range(z0, min(nz, z0 + TILE)):
                    for y in range(y0, min(ny, y0 + TILE)):
                        _add_squares(image, labels, z, y, row_of, out)
            for k in range(first_row, n_rows):
                row_of[int(out[k, TILE_NUMBER]) - tile, int(out[k, LABEL])] = -1
    return out[:n_rows].copy()


@njit(cache=True, nogil=True)
def _add_line(image, labels, z, y, origin, whole, tile, row_of, out, n_rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add a line of voxels to the rows of its tiles and labels; how many rows there are then."""
    x = 0
    while x < labels.shape[2]:
        here, start, along = labels[z, y, x], x, x // TILE
        end = min(labels.shape[2], (along + 1) * TILE)
        while x < end and labels[z, y, x] == here:
            x += 1
        if here:
            k = row_of[along, here]
            if k < 0:
                k = n_rows
                n_rows += 1
                row_of[along, here] = k
                out[k] = 0.0
                out[k, TILE_NUMBER], out[k, LABEL] = tile + along, here
            _add_run(out, k, image, (z, y, start, x), origin, whole)
    return n_rows


@njit(cache=True, nogil=True)
def _add_squares(image, labels, z, y, row_of, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add the squares of a line about the means of its tiles and labels."""
    x = 0
    while x < labels.shape[2]:
        here, start, along = labels[z, y, x], x, x // TILE
        end = min(labels.shape[2], (along + 1) * TILE)
        while x < end and labels[z, y, x] == here:
            x += 1
        if here:
            k = row_of[along, here]
            mean, total = out[k, SUM] / out[k, N], 0.0
            for i in range(start, x):
                total += (image[z, y, i] - mean) ** 2
            out[k, SQUARES] += total


@njit(cache=True, nogil=True)
def _add_run(out, k, image, run, origin, whole):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add voxels of one label that follow each other along x, (z, y, start, stop), to row k."""
    z, y, start, stop = run
    total, weighted, low, high = 0.0, 0.0, image[z, y, start], image[z, y, start]
    for i in range(start, stop):
        v = image[z, y, i]
        total += v
        weighted += float(v) * (origin[2] + i)
        low = min(low, v)
        high = max(high, v)
    n = stop - start
    z, y, x = origin[0] + z, origin[1] + y, origin[2] + start
    first = out[k, N] == 0
    # Where an extreme lies is asked only of the few runs that hold a new one. A sum that is NaN tells that there may
    # be a NaN, which is the minimum and the maximum from then on.
    if first or low < out[k, MINIMUM] or high > out[k, MAXIMUM] or np.isnan(total):
        line = (z * whole[1] + y) * whole[2] + x
        new = first
        for i in range(start, stop):
            v = float(image[run[0], run[1], i])
            if new or _better(v, 0, out[k, MINIMUM], 0, 1.0):
                out[k, MINIMUM], out[k, MINIMUM_AT] = v, line + i - start
            if new or _better(v, 0, out[k, MAXIMUM], 0, -1.0):
                out[k, MAXIMUM], out[k, MAXIMUM_AT] = v, line + i - start
            new = False
    if first:
        out[k, 15], out[k, 16], out[k, 17] = z, y, x
    out[k, N] += n
    out[k, SUM] += total
    out[k, 9] += n * z
    out[k, 10] += n * y
    out[k, 11] += n * x + n * (n - 1) // 2
    out[k, 12] += total * z
    out[k, 13] += total * y
    out[k, 14] += weighted
    out[k, 16] = min(out[k, 16], y)
    out[k, 17] = min(out[k, 17], x)
    out[k, 18] = z + 1
    out[k, 19] = max(out[k, 19], y + 1)
    out[k, 20] = max(out[k, 20], x + n)


@njit(cache=True, nogil=True)
def _better(new, new_at, old, old_at, sign):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether an extreme replaces another: NaN before numbers, then the value, then the earlier place."""
    if new != new or old != old:  # noqa: PLR0124
        return new != new and (old == old or new_at < old_at)  # noqa: PLR0124
    return sign * new < sign * old or (new == old and new_at < old_at)


def merge(found: np.ndarray, *, index: np.ndarray) -> np.ndarray:
    """One row a label of `index` (rising) from the rows of all tiles; a label without voxels has N = 0.

    Sums are compensated, squares are merged as Chan, Golub and LeVeque do, and of equal extremes the first in
    raster order counts.

    Returns
    -------
    (index.size, COLUMNS) float64 array
    """
    ordered = found[np.argsort(found[:, TILE_NUMBER], kind="stable")]
    labels = ordered[:, LABEL].astype(np.int64)
    place = np.searchsorted(index, labels)
    known = place < index.size
    known[known] = index[place[known]] == labels[known]
    out = np.zeros((index.size, COLUMNS))
    _merge(np.ascontiguousarray(ordered[known]), place[known], out)
    out[:, LABEL] = index
    return out


@njit(cache=True, nogil=True)
def _merge(rows: np.ndarray, place: np.ndarray, out: np.ndarray) -> None:
    # What rounding took from the sum and the three weighted sums.
    lost = np.zeros((out.shape[0], 4))
    mean = np.zeros(out.shape[0])
    for i in range(rows.shape[0]):
        k = place[i]
        n_old, n_new = out[k, N], rows[i, N]
        if n_old == 0:
            out[k] = rows[i]
            mean[k] = rows[i, SUM] / n_new
            continue
        for j in range(4):
            column = SUM if j == 0 else 11 + j
            a, b = out[k, column], rows[i, column]
            s = a + b
            lost[k, j] += (a - s) + b if abs(a) >= abs(b) else (b - s) + a
            out[k, column] = s
        n = n_old + n_new
        delta = rows[i, SUM] / n_new - mean[k]
        out[k, SQUARES] += rows[i, SQUARES] + delta * delta * (n_old * n_new / n)
        mean[k] += delta * (n_new / n)
        out[k, N] = n
        low, old_low = rows[i, MINIMUM], out[k, MINIMUM]
        if _better(low, rows[i, MINIMUM_AT], old_low, out[k, MINIMUM_AT], 1.0):
            out[k, MINIMUM], out[k, MINIMUM_AT] = low, rows[i, MINIMUM_AT]
        high, old_high = rows[i, MAXIMUM], out[k, MAXIMUM]
        if _better(high, rows[i, MAXIMUM_AT], old_high, out[k, MAXIMUM_AT], -1.0):
            out[k, MAXIMUM], out[k, MAXIMUM_AT] = high, rows[i, MAXIMUM_AT]
        for j in range(9, 12):
            out[k, j] += rows[i, j]
        for j in range(15, 18):
            out[k, j] = min(out[k, j], rows[i, j])
        for j in range(18, 21):
            out[k, j] = max(out[k, j], rows[i, j])
    for k in range(out.shape[0]):
        for j in range(4):
            # An infinite sum has lost nothing that could be given back.
            if np.isfinite(lost[k, j]):
                out[k, SUM if j == 0 else 11 + j] += lost[k, j]


def rows_in(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """`rows` of one region: the mask, or everything."""
    labels = np.ones(image.shape, np.uint8) if mask is None else mask
    return rows(image, labels, origin=origin, shape=shape, squares=False)


def one(found: np.ndarray, *, quantity: str) -> np.ndarray:
    """A statistic of the one region of `rows_in`: () float64."""
    merged = merge(found, index=np.ones(1, np.int64))
    return _statistics(merged)[quantity][0]


def _statistics(merged: np.ndarray) -> dict[str, np.ndarray]:
    n = merged[:, N]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, variance = merged[:, SUM] / n, merged[:, SQUARES] / n
    there = n > 0
    return {
        "n_voxels": n,
        "sum": merged[:, SUM],
        "mean": mean,
        "variance": variance,
        "std": np.sqrt(variance),
        "minimum": np.where(there, merged[:, MINIMUM], np.nan),
        "maximum": np.where(there, merged[:, MAXIMUM], np.nan),
    }


def columns(ndim: int) -> dict[str, Any]:
    """Which column or columns (a slice) of `table` hold a quantity of regions in `ndim` axes."""
    found: dict[str, Any] = {}
    first = 0
    for name in ("n_voxels", "volume_ml", "sum", "mean", "variance", "std", "minimum", "maximum"):
        found[name] = first
        first += 1
    for name, width in (
        ("minimum_position", ndim),
        ("maximum_position", ndim),
        ("centroid_mm", 3),
        ("center_of_mass_mm", 3),
        ("start", ndim),
        ("stop", ndim),
    ):
        found[name] = slice(first, first + width)
        first += width
    return found


def table(
    found: np.ndarray,
    *,
    index: np.ndarray,
    order: np.ndarray,
    shape: Sequence[int],
    world: np.ndarray | None,
    voxel_ml: float,
) -> np.ndarray:
    """Quantities of regions from the rows of all tiles.

    Parameters
    ----------
    index : (n,) int64, rising
        Labels.
    order : (n,) ints
        Which of them comes first, second, ... in the result.
    world : (3, ndim + 1) array, optional
        From voxel indices along the array's axes, and 1, to mm. None: positions in mm are NaN.
    voxel_ml : float
        Volume of one voxel.

    Returns
    -------
    (n, n_columns) float64 array
        See `columns`.
    """
    merged, ndim, at = merge(found, index=index), len(shape), columns(len(shape))
    out = np.full((index.size, at["stop"].stop), np.nan)
    known = _statistics(merged)
    for name, values in known.items():
        out[:, at[name]] = values
    out[:, at["volume_ml"]] = merged[:, N] * voxel_ml
    for name, column in (("minimum_position", MINIMUM_AT), ("maximum_position", MAXIMUM_AT)):
        out[:, at[name]] = np.stack(
            np.unravel_index(merged[:, column].astype(np.int64), tuple(shape)), axis=1
        )
    axes = slice(3 - ndim, 3)
    out[:, at["start"]], out[:, at["stop"]] = merged[:, LOW][:, axes], merged[:, HIGH][:, axes]
    if world is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = merged[:, INDEX_SUMS][:, axes] / merged[:, [N]]
            weighted = merged[:, WEIGHTED_SUMS][:, axes] / merged[:, [SUM]]
            # Weights may sum to 0: no centre, and infinity times 0 is to warn of nothing either.
            out[:, at["centroid_mm"]] = centre @ world[:, :-1].T + world[:, -1]
            out[:, at["center_of_mass_mm"]] = weighted @ world[:, :-1].T + world[:, -1]
    nothing = merged[:, N] == 0
    out[nothing, at["minimum_position"].start :] = np.nan
    return out[order]
