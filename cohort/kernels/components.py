"""Connected components of one block, and how those of many blocks become those of the whole.

Components are numbered from 1 in the raster order of their first voxels, as `scipy.ndimage.label` numbers them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numba import njit

from cohort.kernels.blocks import volume

_NEIGHBOURS: dict[int, Any] = {1: 6, 2: 18, 3: 26}
_SMALL = 27
"""Up to here SciPy labels. cc3d 4.1 sets aside a quarter of the voxels (and one) for components of 26 neighbours, which is
too few for the eight corners of a 3 x 3 x 3 block, and for flat blocks, where 18 or 6 neighbours are the same."""


@dataclass(frozen=True)
class Components:
    """What is known of the components of a whole array."""

    sizes: np.ndarray
    """(n + 1,) int64, voxels of each; entry 0 is meaningless."""
    on_border: np.ndarray
    """(n + 1,) bool, whether each touches the border of the array; entry 0 is meaningless."""


def label(mask: np.ndarray, *, connectivity: int) -> tuple[np.ndarray, int]:
    """Number the components of a bool block of one to three axes: int32 labels of its shape, and how many."""
    if mask.size <= _SMALL:
        from scipy import ndimage as ndi

        few, n = ndi.label(mask, ndi.generate_binary_structure(mask.ndim, connectivity))
        return few.astype(np.int32, copy=False), int(n)
    # Neighbours that differ in n axes need n axes that have two voxels.
    connectivity = min(connectivity, sum(n > 1 for n in mask.shape))
    block = np.ascontiguousarray(mask).view(np.uint8).reshape((1,) * (3 - mask.ndim) + mask.shape)
    if not block.flags.writeable:
        block = block.copy()  # cc3d only reads, but refuses what it could not write
    labels, n = cc3d.connected_components(
        block,
        connectivity=_NEIGHBOURS[connectivity],
        return_N=True,
        out_dtype=np.uint32,
        binary_image=True,
    )
    return labels.view(np.int32).reshape(mask.shape), int(n)


def sizes(labels: np.ndarray, n: int) -> np.ndarray:
    """Voxels of each component, (n + 1,) int64; entry 0 is 0."""
    return _sizes(volume(labels).reshape(-1), n)


def on_border(labels: np.ndarray, n: int) -> np.ndarray:
    """Whether each component reaches the border of the array along any of its axes, (n + 1,) bool."""
    touches = np.zeros(n + 1, bool)
    for axis in range(labels.ndim):
        for end in (0, -1):
            touches[labels.take(end, axis)] = True
    return touches


def relabel(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """``table[labels]``, in the table's dtype."""
    out = np.empty(labels.size, np.uint8 if table.dtype == np.bool_ else table.dtype)
    _relabel(volume(labels).reshape(-1), table.view(out.dtype), out)
    return out.view(table.dtype).reshape(labels.shape)


@njit(cache=True, nogil=True)
def _relabel(labels: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    for i in range(labels.size):
        out[i] = table[labels[i]]


@njit(cache=True, nogil=True)
def _sizes(labels: np.ndarray, n: int) -> np.ndarray:
    # Four counters each: neighbours mostly have one label, and adding to one counter has to wait for the last addition.
    count = np.zeros((4, n + 1), np.int64)
    whole = labels.size // 4 * 4
    for i in range(0, whole, 4):
        for j in range(4):
            count[j, labels[i + j]] += 1
    for i in range(whole, labels.size):
        count[0, labels[i]] += 1
    total = count.sum(axis=0)
    total[0] = 0
    return total


@njit(cache=True, nogil=True)
def _survey(labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, and flat index of the first voxel, of each label from 0 to n."""
    count = np.zeros(n + 1, np.int64)
    first = np.full(n + 1, -1, np.int64)
    start = 0
    for i in range(1, labels.size + 1):
        if i == labels.size or labels[i] != labels[start]:
            here = labels[start]
            if here:
                count[here] += i - start
                if first[here] < 0:
                    first[here] = start
            start = i
    return count, first


# Which components stay, as a table that `relabel` takes. Entry 0 is for what belongs to no component.


def every(found: Components) -> np.ndarray:
    """Each component keeps its number: (n + 1,) int32."""
    return np.arange(found.sizes.size, dtype=np.int32)


def largest(found: Components) -> np.ndarray:
    """Only the component with the most voxels; of equals the first. (n + 1,) bool."""
    table = np.zeros(found.sizes.size, bool)
    if table.size > 1:
        table[1 + int(np.argmax(found.sizes[1:]))] = True
    return table


def no_smaller(found: Components, *, voxels: float) -> np.ndarray:
    """Only components of at least so many voxels. (n + 1,) bool."""
    table = found.sizes >= voxels
    table[0] = False
    return table


def enclosed(found: Components) -> np.ndarray:
    """For components of the background: all that does not reach the border belongs to the object. (n + 1,) bool."""
    table = ~found.on_border
    table[0] = True
    return table


# Joining blocks.


@dataclass(frozen=True)
class Survey:
    """What the neighbours of a block and the merge need to know of its labels."""

    sizes: np.ndarray
    """(n + 1,) int64."""
    first: np.ndarray
    """(n,) int64, flat index in the whole array of each component's first voxel."""
    faces: tuple[tuple[np.ndarray, np.ndarray], ...]
    """First and last plane of labels along each axis."""


@dataclass(frozen=True)
class Joint:
    """One block's share in the merge: its components, and which of its neighbours' they touch."""

    sizes: np.ndarray
    first: np.ndarray
    on_border: np.ndarray
    touches: tuple[tuple[int, np.ndarray], ...]
    """(number of a neighbour block, (m, 2) pairs: own label, the neighbour's label)."""


@dataclass(frozen=True)
class Merged:
    """The components of the whole, and where those of each block went."""

    components: Components
    numbers: np.ndarray
    """Number in the whole of each component of each block, blocks one after the other; each block starts with a 0."""
    starts: np.ndarray
    """Where each block starts in `numbers`."""


def survey(labels: np.ndarray, *, origin: Sequence[int], shape: Sequence[int]) -> Survey:
    """Survey a block of labels that starts at voxel `origin` of an array of `shape`."""
    count, first = _survey(volume(labels).reshape(-1), int(labels.max(initial=0)))
    local = np.unravel_index(first[1:], labels.shape)
    whole = np.ravel_multi_index(
        tuple(i + o for i, o in zip(local, origin, strict=True)), tuple(shape)
    )
    faces = tuple(
        (np.asarray(labels.take(0, axis)), np.asarray(labels.take(-1, axis)))
        for axis in range(labels.ndim)
    )
    return Survey(count, np.asarray(whole, np.int64), faces)


def joint(
    mine: Survey,
    neighbours: dict[tuple[int, ...], tuple[int, Survey]],
    *,
    edges: Sequence[tuple[bool, bool]],
    connectivity: int,
) -> Joint:
    """Find which components of lower neighbours touch those of a block.

    Parameters
    ----------
    neighbours : offset -> (block number, survey)
        Offsets are -1, 0 or 1 along each axis. Along every axis on which there is a block below, the planes
        that face each other are compared, wider by the edges and corners that `connectivity` reaches.
    edges : one pair an axis
        Whether the block lies at the low and at the high border of the array.
    """
    border = np.zeros(mine.sizes.size, bool)
    for (low, high), (at_low, at_high) in zip(mine.faces, edges, strict=True):
        for face, at_edge in ((low, at_low), (high, at_high)):
            if at_edge:
                border[face] = True
    border[0] = False
    touches: list[tuple[int, np.ndarray]] = []
    for offset, (number, other) in neighbours.items():
        found = [
            _contacts(
                mine.faces[axis][0],
                other.faces[axis][1],
                offset[:axis] + offset[axis + 1 :],
                connectivity,
            )
            for axis, step in enumerate(offset)
            if step == -1
        ]
        pairs = np.concatenate(found)
        if pairs.size:
            touches.append((number, np.unique(pairs, axis=0)))
    return Joint(mine.sizes, mine.first, border, tuple(touches))


def _contacts(
    upper: np.ndarray, lower: np.ndarray, offset: tuple[int, ...], connectivity: int
) -> np.ndarray:
    """Pairs of labels that touch between a plane and the plane below it of the block at `offset` within the plane."""
    found = [np.empty((0, 2), np.int64)]
    for shift in itertools.product((-1, 0, 1), repeat=upper.ndim):
        # A voxel at i meets i + shift; that lies in the block at `offset` if it leaves this one in that direction.
        if np.count_nonzero(shift) + 1 > connectivity:
            continue
        here, there = [], []
        for step, move, n, m in zip(shift, offset, upper.shape, lower.shape, strict=True):
            if move == 0:
                here.append(slice(max(0, -step), n - max(0, step)))
                there.append(slice(max(0, step), m + min(0, step)))
            elif move == step:
                here.append(slice(n - 1, n) if step > 0 else slice(0, 1))
                there.append(slice(0, 1) if step > 0 else slice(m - 1, m))
            else:
                break
        else:
            a, b = upper[tuple(here)], lower[tuple(there)]
            both = (a != 0) & (b != 0)
            found.append(np.stack([a[both], b[both]], axis=1).astype(np.int64))
    return np.unique(np.concatenate(found), axis=0)


def merge(joints: Sequence[Joint]) -> Merged:
    """Join the components of all blocks and number them by their first voxels."""
    counts = np.array([j.sizes.size for j in joints], np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    roots = np.arange(starts[-1])
    for own, j in zip(starts, joints, strict=False):
        for number, pairs in j.touches:
            _unite(roots, pairs[:, 0] + own, pairs[:, 1] + starts[number])
    _settle(roots)
    never = np.iinfo(np.int64).max
    first = np.concatenate([np.concatenate([[never], j.first]) for j in joints])
    size = np.concatenate([j.sizes for j in joints])
    border = np.concatenate([j.on_border for j in joints])
    ones = first != never
    earliest = np.full(roots.size, never)
    np.minimum.at(earliest, roots[ones], first[ones])
    whole = np.flatnonzero(earliest != never)
    whole = whole[np.argsort(earliest[whole])]
    if whole.size > np.iinfo(np.int32).max:
        raise ValueError(f"{whole.size} components do not fit int32 labels")
    number_of_root = np.zeros(roots.size, np.int32)
    number_of_root[whole] = np.arange(1, whole.size + 1, dtype=np.int32)
    numbers = np.where(ones, number_of_root[roots], 0).astype(np.int32)
    sizes_whole = np.zeros(whole.size + 1, np.int64)
    np.add.at(sizes_whole, numbers[ones], size[ones])
    border_whole = np.zeros(whole.size + 1, bool)
    border_whole[numbers[border & ones]] = True
    return Merged(Components(sizes_whole, border_whole), numbers, starts)


@njit(cache=True, nogil=True)
def _unite(roots: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    for i in range(a.size):
        p, q = a[i], b[i]
        while roots[p] != p:
            roots[p] = roots[roots[p]]
            p = roots[p]
        while roots[q] != q:
            roots[q] = roots[roots[q]]
            q = roots[q]
        if p < q:
            roots[q] = p
        else:
            roots[p] = q


@njit(cache=True, nogil=True)
def _settle(roots: np.ndarray) -> None:
    """Point every entry at its root; a root is never above what points at it."""
    for i in range(roots.size):
        roots[i] = roots[roots[i]]
