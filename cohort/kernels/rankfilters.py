"""Filters of a block that pick one of the values in a window: minimum, maximum, median, percentile. No arithmetic.

A median is found by a **network**: a fixed sequence of "put the smaller here, the larger there", the same for every voxel, so
that vector instructions run it for a row of voxels at once. What a window shares with that of the next voxel is
sorted once.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.lines import LANES, beyond, lines, row, window

_SPAN = 256
"""Voxels of a row that a network serves at once."""


def check_numbers(block: np.ndarray) -> None:
    """Raise ValueError, with the place of the first, if the block holds NaN: it has no rank."""
    if block.dtype.kind != "f":
        return
    at = _first_nan(volume(block))
    if at >= 0:
        place = tuple(int(i) for i in np.unravel_index(at, block.shape))
        raise ValueError(
            f"{np.count_nonzero(np.isnan(block))} voxels are NaN, which has no rank; the first is at {place} of a block of "
            f"{' x '.join(str(n) for n in block.shape)}; give them a number first, for example with masks.apply"
        )


def extreme(block: np.ndarray, *, size: Sequence[int], largest: bool, mode: str) -> np.ndarray:
    """Smallest or largest value in a window of `size` voxels along each axis."""
    check_numbers(block)
    out = _plain(block)
    for axis, n in enumerate(size):
        if n > 1:
            _extreme(lines(out, axis), beyond(out.shape[axis], *window(n), mode), n, largest)
    return _as(out, block.dtype)


def select(block: np.ndarray, *, size: Sequence[int], rank: int, mode: str) -> np.ndarray:
    """Value that has `rank` (from 0, upwards) among those in a window of `size` voxels along each axis."""
    n = int(np.prod(size))
    if rank in (0, n - 1):
        return extreme(block, size=size, largest=rank > 0, mode=mode)
    check_numbers(block)
    three = (1,) * (3 - block.ndim)
    values = volume(block)
    nz, ny, nx = (*three, *size)
    place_z, place_y, place_x = (
        beyond(extent, *window(k), mode)
        for extent, k in zip(values.shape, (nz, ny, nx), strict=True)
    )
    network = selection(nz * ny, nx, rank)
    out = np.empty(values.shape, values.dtype)
    row, shift = network.result
    _select(values, place_z, place_y, place_x, ny, network.steps, network.n_rows, row, shift, out)
    return _as(out.reshape(block.shape), block.dtype)


def _plain(block: np.ndarray) -> np.ndarray:
    """Copy as compiled code knows it."""
    return volume(block).reshape(block.shape).copy()


def _as(out: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return out.view(np.bool_) if dtype == np.bool_ else out.astype(dtype, copy=False)


class Network(NamedTuple):
    """A sequence of comparisons on rows.

    ``steps`` is (n, 6) int64: two rows with the shift at which each is read, the row that takes the smaller value and
    the one that takes the larger, -1 if nobody wants it. ``result`` is a row and its shift.
    """

    steps: np.ndarray
    n_rows: int
    result: tuple[int, int]


Wire = tuple[int, int]
"""A value that every voxel of the row has, and how many voxels further on it is read."""


class _Sketch:
    """Comparisons noted in order; one that was noted already, also some voxels aside, is not noted again."""

    def __init__(self, n_inputs: int) -> None:
        self.n_values = n_inputs
        self.noted: dict[tuple[Wire, Wire], tuple[int, int]] = {}

    def compare(self, a: Wire, b: Wire) -> tuple[Wire, Wire]:
        """The smaller and the larger of two."""
        shift = min(a[1], b[1])
        key = (a[0], a[1] - shift), (b[0], b[1] - shift)
        if key not in self.noted:
            self.noted[key] = self.n_values, self.n_values + 1
            self.n_values += 2
        low, high = self.noted[key]
        return (low, shift), (high, shift)

    def merge(self, a: list[Wire], b: list[Wire]) -> list[Wire]:
        """Two sorted lists as one: Batcher's odd-even merge (Knuth, The Art of Computer Programming, 5.3.4)."""
        if not a or not b:
            return a or b
        if len(a) == len(b) == 1:
            return [*self.compare(a[0], b[0])]
        even, odd = self.merge(a[::2], b[::2]), self.merge(a[1::2], b[1::2])
        merged = [even[0]]
        for i, wire in enumerate(odd):
            merged.extend(self.compare(wire, even[i + 1]) if i + 1 < len(even) else [wire])
        return merged + even[len(odd) + 1 :]

    def sort(self, wires: list[Wire]) -> list[Wire]:
        """Sorted list."""
        if len(wires) < 2:
            return wires
        half = 1 << (len(wires) - 1).bit_length() - 1
        return self.merge(self.sort(wires[:half]), self.sort(wires[half:]))

    def spread(self, column: list[Wire], n: int) -> list[Wire]:
        """`n` neighbours of a sorted column as one sorted list."""
        if n == 1:
            return column
        # In parts of 1, 2, 4... columns: the second of two such parts is the first some voxels on, and sorted already.
        half = 1 << (n - 1).bit_length() - 1
        rest = [(value, shift + half) for value, shift in self.spread(column, n - half)]
        return self.merge(self.spread(column, half), rest)


@lru_cache(maxsize=8)
def selection(n_column: int, n: int, rank: int) -> Network:
    """Network that finds the value of a rank among `n` neighbouring columns of `n_column` values each."""
    sketch = _Sketch(n_column)
    column = sketch.sort([(i, 0) for i in range(n_column)])
    value, shift = sketch.spread(column, n)[rank]
    return _placed(sketch, n_column, value, shift)


def _placed(sketch: _Sketch, n_inputs: int, value: int, shift: int) -> Network:
    """Leave out what the value does not stand on, and give the others as few rows as they need at a time."""
    last_use = {value: len(sketch.noted)}
    needed = []
    for at, ((a, b), made) in reversed([*enumerate(sketch.noted.items())]):
        if made[0] in last_use or made[1] in last_use:
            needed.append((at, a, b, made))
            for wire in (a, b):
                last_use.setdefault(wire[0], at)
    rows = {i: i for i in range(n_inputs)}
    free = _Rows(n_inputs)
    steps = []
    for at, a, b, made in reversed(needed):
        # What is read is not overwritten in the same step: rows must not overlap, or nothing runs at once.
        for one in made:
            if one in last_use:
                rows[one] = next(free)
        low, high = (rows[one] if one in last_use else -1 for one in made)
        steps.append((rows[a[0]], a[1], rows[b[0]], b[1], low, high))
        for one in {a[0], b[0]}:
            if last_use[one] == at:
                free.give_back(rows[one])
    table = np.array(steps, np.int64).reshape(-1, 6)
    table.flags.writeable = False
    return Network(table, free.most, (rows[value], shift))


class _Rows(Iterator[int]):
    """Numbers of rows: one given back before a new one."""

    def __init__(self, taken: int) -> None:
        self.most = taken
        self.returned: list[int] = []

    def __next__(self) -> int:
        if self.returned:
            return self.returned.pop()
        self.most += 1
        return self.most - 1

    def give_back(self, row: int) -> None:
        self.returned.append(row)


@njit(cache=True, nogil=True)
def _first_nan(block):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    flat = block.reshape(-1)
    for i in range(flat.size):
        if flat[i] != flat[i]:
            return i
    return -1


@njit(cache=True, nogil=True)
def _extreme(lines, place, size, largest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """In place. Windows of 1, 2, 4... voxels; two of them that overlap make one of `size`."""
    near = np.empty((place.size, LANES), lines.dtype)
    zero = lines.dtype.type(0)  # of uint64 and a plain 0 compiled code would make float64
    for outer in range(lines.shape[0]):
        for first in range(0, lines.shape[2], LANES):
            width = min(LANES, lines.shape[2] - first)
            for i in range(place.size):
                for lane in range(width):
                    at = place[i]
                    near[i, lane] = lines[outer, at, first + lane] if at >= 0 else zero
            covered = 1
            while covered < size:
                step = min(covered, size - covered)
                for i in range(place.size - step):
                    one, other = near[i], near[i + step]
                    if largest:
                        for lane in range(width):
                            one[lane] = max(one[lane], other[lane])
                    else:
                        for lane in range(width):
                            one[lane] = min(one[lane], other[lane])
                covered += step
            for i in range(lines.shape[1]):
                for lane in range(width):
                    lines[outer, i, first + lane] = near[i, lane]


@njit(cache=True, nogil=True)
def _run(steps, rows, n):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for k in range(steps.shape[0]):
        a, b = rows[steps[k, 0], steps[k, 1] :], rows[steps[k, 2], steps[k, 3] :]
        m = n - max(steps[k, 1], steps[k, 3])
        if steps[k, 5] < 0:
            low = rows[steps[k, 4]]
            for i in range(m):
                low[i] = min(a[i], b[i])
        elif steps[k, 4] < 0:
            high = rows[steps[k, 5]]
            for i in range(m):
                high[i] = max(b[i], a[i])
        else:
            low, high = rows[steps[k, 4]], rows[steps[k, 5]]
            for i in range(m):
                one, other = a[i], b[i]
                low[i] = min(one, other)
                high[i] = max(other, one)


@njit(cache=True, nogil=True)
def _select(block, place_z, place_y, place_x, size_y, steps, n_rows, result, shift, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    nz, ny, nx = out.shape
    size_z, reach = place_z.size - nz + 1, place_x.size - nx
    before = (reach + 1) // 2
    rows = np.zeros((n_rows, _SPAN + reach), block.dtype)
    for z in range(nz):
        for y in range(ny):
            for first in range(0, nx, _SPAN):
                width = min(_SPAN, nx - first)
                for k in range(size_z):
                    for j in range(size_y):
                        into = rows[k * size_y + j, : width + reach]
                        row(block, (place_z[z + k], place_y[y + j]), place_x, before, first, into)
                _run(steps, rows, width + reach)
                out[z, y, first : first + width] = rows[result, shift : shift + width]
