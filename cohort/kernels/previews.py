"""A few numbers of a volume, gathered block by block: its mid planes, and block means on a coarse grid."""

from collections.abc import Sequence

import numpy as np

CELLS = 32
"""Most cells along an axis of the coarse volume."""

SAMPLES = 4
"""Voxels along each axis from which the mean of a cell is taken, where it has at least as many: 64 in three dimensions.

A cell of 8 voxels a side is known well enough from every second one, and a large volume is read eight times as fast.
"""

PIXELS = 160
"""Most pixels along a side of a plane."""


LARGEST = 3e38
"""What lies beyond has no float32, and is shown as this."""


class Preview:
    """Mid planes and block means of one volume.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels along the three axes.
    dtype : dtype
        Of the blocks: real numbers.

    Notes
    -----
    Blocks may come in any order and of any size, each voxel once. Sums of integers of up to 32 bits are exact, those of other
    numbers are sums of float32 in float64: the same to the last bit of a float32, however the volume is cut.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype) -> None:
        self.shape = tuple(int(n) for n in shape)
        cuts = [cell_of(n) for n in self.shape]
        self.steps = tuple(step for step, _ in cuts)
        """Every how many voxels one is taken, along each axis."""
        self.per_cell = tuple(n for _, n in cuts)
        self.cell = tuple(step * n for step, n in cuts)
        """Voxels of a cell along each axis; the last cell of an axis may have fewer."""
        self._sums = np.zeros(
            [-(-n // c) for n, c in zip(self.shape, self.cell, strict=True)], _wide(dtype)
        )
        self.at = tuple(n // 2 for n in self.shape)
        """Index of the mid plane along each axis."""
        self.planes = tuple(
            np.zeros([n for a, n in enumerate(self.shape) if a != axis], dtype) for axis in range(3)
        )

    def add(self, block: np.ndarray, start: Sequence[int] = (0, 0, 0)) -> None:
        """Take a block whose first voxel has the index `start`; what is not finite counts as 0."""
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        if block.dtype == np.float64:
            block = block.clip(-LARGEST, LARGEST)
        stops = [s + n for s, n in zip(start, block.shape, strict=True)]
        for axis, (plane, at) in enumerate(zip(self.planes, self.at, strict=True)):
            if start[axis] <= at < stops[axis]:
                place = tuple(
                    slice(a, b)
                    for i, (a, b) in enumerate(zip(start, stops, strict=True))
                    if i != axis
                )
                plane[place] = block.take(at - start[axis], axis=axis)
        skip = [-s % step for s, step in zip(start, self.steps, strict=True)]
        part = block[tuple(slice(a, None, s) for a, s in zip(skip, self.steps, strict=True))]
        if not part.size:
            return
        if part.dtype.kind == "f":
            part = part.astype(np.float32, copy=False)
        cells: list[slice] = []
        for axis in range(3):
            first = (start[axis] + skip[axis]) // self.steps[axis]
            # Of bytes, 49 fit into 16 bits: half of the memory is written while most of it is.
            narrow = axis < 2 and block.dtype.itemsize == 1
            kind = np.dtype(np.int16) if narrow else self._sums.dtype
            part, low = _summed(part, axis, first, self.per_cell[axis], kind)
            cells.append(slice(low, low + part.shape[axis]))
        self._sums[tuple(cells)] += part

    def means(self) -> np.ndarray:
        """Mean of each cell: float64 array of at most 32 x 32 x 32."""
        z, y, x = (
            counted(-(-n // step), per)
            for n, step, per in zip(self.shape, self.steps, self.per_cell, strict=True)
        )
        return self._sums / (z[:, None, None] * y[:, None] * x)


def cell_of(n: int) -> tuple[int, int]:
    """Step between samples and samples in a cell, of an axis of `n` voxels.

    Examples
    --------
    >>> cell_of(91), cell_of(256), cell_of(20)
    ((1, 3), (2, 4), (1, 1))
    """
    voxels = -(-n // CELLS)
    step = max(1, voxels // SAMPLES)
    return step, -(-voxels // step)


def counted(n: int, per: int) -> np.ndarray:
    """How many of `n` samples fall into each group of `per`: int64, all but the last full."""
    starts = np.arange(0, n, per)
    return np.minimum(per, n - starts)


def shrunk(plane: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A plane of at most 160 pixels a side, each the mean of a block of voxels, and the voxels of a block along each axis."""
    factors = (-(-plane.shape[0] // PIXELS), -(-plane.shape[1] // PIXELS))
    if factors == (1, 1):
        return plane, factors
    wide = _wide(plane.dtype)
    rows, _ = _summed(plane, 0, 0, factors[0], wide)
    sums, _ = _summed(rows, 1, 0, factors[1], wide)
    counts = [counted(n, f) for n, f in zip(plane.shape, factors, strict=True)]
    return sums / np.outer(*counts), factors


def _summed(
    values: np.ndarray, axis: int, first: int, per: int, dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """Sums over groups of `per` samples along an axis of which the first has the number `first`, and the first group's number."""
    n = values.shape[axis]
    low, high = first // per, (first + n - 1) // per
    if per == 1:
        return values.astype(dtype, copy=False), low
    shape = list(values.shape)
    shape[axis] = high - low + 1
    sums = np.zeros(shape, dtype)
    before = (slice(None),) * axis
    # All that have the same place in their group at once: `per` additions of large arrays, whatever the number of groups.
    for place in range(per):
        skip = (place - first) % per
        part = values[(*before, slice(skip, None, per))]
        if part.shape[axis]:
            group = (first + skip) // per - low
            sums[(*before, slice(group, group + part.shape[axis]))] += part
    return sums, low


def _wide(dtype: np.dtype) -> np.dtype:
    """In which sums are exact, or nearly."""
    if dtype.kind in "iub" and dtype.itemsize <= 2:
        return np.dtype(np.int32)
    return np.dtype(np.int64 if dtype.kind in "iu" and dtype.itemsize <= 4 else np.float64)
