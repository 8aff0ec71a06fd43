"""Arithmetic of chunks: tuples of ints in, tuples of ints out. Knows nothing of arrays or graphs."""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from cohort.grid import SPACE
from cohort.kernels.blocks import TILE

Sizes = tuple[int, ...]
"""Chunk sizes along one axis."""
Chunks = tuple[Sizes, ...]
Block = tuple[int, ...]
"""Number of a block along each axis."""
Place = tuple[tuple[slice, ...], tuple[slice, ...]]
"""Where a piece goes, and which part of it."""


def blocks(chunks: Chunks) -> Iterator[Block]:
    """All blocks in raster order."""
    return itertools.product(*(range(len(sizes)) for sizes in chunks))


def cut(sizes: Mapping[Hashable, int], block: int) -> Chunks:
    """Chunks of `block` voxels along each spatial dim, half of that where there are no more; one along leading dims.

    >>> cut({"time": 2, "z": 300, "y": 100}, 128)
    ((1, 1), (128, 128, 44), (64, 36))
    """
    along = [
        1 if d not in SPACE else block if n > block else max(1, min(n, block // 2))
        for d, n in sizes.items()
    ]
    return tuple(
        tuple(min(most, n - first) for first in range(0, n, most))
        for n, most in zip(sizes.values(), along, strict=True)
    )


def starts(chunks: Chunks) -> Chunks:
    """First voxel of each chunk along each axis."""
    return tuple(tuple(itertools.accumulate(sizes, initial=0))[:-1] for sizes in chunks)


def at_least(sizes: Sizes, need: int) -> Sizes:
    """Merge neighbours until no chunk is thinner than `need`, or one is left.

    >>> at_least((1, 1, 5, 2, 1), 3)
    (7, 3)
    """
    merged: list[int] = []
    for n in sizes:
        if merged and merged[-1] < need:
            merged[-1] += n
        else:
            merged.append(n)
    if len(merged) > 1 and merged[-1] < need:
        last = merged.pop()
        merged[-1] += last
    return tuple(merged)


def on_tiles(sizes: Sizes, tile: int = TILE) -> Sizes:
    """Move the cuts down to multiples of `tile`; what falls together is merged.

    >>> on_tiles((60, 60, 60, 20), tile=64), on_tiles((1,) * 130, tile=64), on_tiles((64, 36), tile=64)
    ((64, 64, 72), (64, 64, 2), (64, 36))
    """
    total = sum(sizes)
    cuts = {cut // tile * tile for cut in itertools.accumulate(sizes) if cut < total} | {0}
    edges = [*sorted(cuts), total]
    return tuple(b - a for a, b in itertools.pairwise(edges))


def pieces(old: Chunks, new: Chunks, block: Block) -> list[tuple[Block, Place]]:
    """Blocks of an `old` chunking that a block of a `new` one is put together from, and how.

    >>> pieces(((3, 3),), ((4, 2),), (0,))
    [((0,), ((slice(0, 3, None),), (slice(0, 3, None),))), ((1,), ((slice(3, 4, None),), (slice(0, 1, None),)))]
    """
    along = []
    for before, after, i in zip(old, new, block, strict=True):
        first = sum(after[:i])
        last = first + after[i]
        found = []
        start = 0
        for j, n in enumerate(before):
            low, high = max(first, start), min(last, start + n)
            if low < high:
                found.append(
                    (j, slice(low - first, high - first), slice(low - start, high - start))
                )
            start += n
        along.append(found)
    return [
        (
            tuple(j for j, _, _ in piece),
            (tuple(to for _, to, _ in piece), tuple(part for _, _, part in piece)),
        )
        for piece in itertools.product(*along)
    ]


def around(
    block: Block, numblocks: Sequence[int], reach: Sequence[int], *, periodic: bool = False
) -> list[tuple[Block, Block]]:
    """Neighbours of a block along the axes with some `reach`: (offset, block) pairs, without the block itself.

    >>> around((0, 1), (2, 2), (1, 1))
    [((0, -1), (0, 0)), ((1, -1), (1, 0)), ((1, 0), (1, 1))]
    """
    found = []
    for offset in itertools.product(*((-1, 0, 1) if r else (0,) for r in reach)):
        other = tuple(i + step for i, step in zip(block, offset, strict=True))
        if periodic:
            other = tuple(i % n for i, n in zip(other, numblocks, strict=True))
        if any(offset) and all(0 <= i < n for i, n in zip(other, numblocks, strict=True)):
            found.append((offset, other))
    return found


def line_stages(chunks: Chunks, n_lead: int) -> list[tuple[Chunks, tuple[int, ...]]]:
    """Chunkings to go through so that a pass along each spatial axis sees whole lines: (chunks, spatial axes to walk along).

    Neighbouring passes are cut along the same axis, so that a block of one meets few of the next; that is not possible
    for all, so the last axis starts and ends at the chunks as they were. Passes that want equal chunks share a stage.

    >>> for stage in line_stages(((2, 2), (2, 2)), 0): print(stage)
    (((4,), (1, 1, 1, 1)), (0,))
    (((2, 2), (2, 2)), ())
    (((1, 1, 1, 1), (4,)), (1,))
    (((2, 2), (2, 2)), ())
    """
    first, last = n_lead, len(chunks) - 1
    wanted: list[tuple[Chunks, tuple[int, ...]]] = [
        (_lines(chunks, axis, range(last, first - 1, -1)), (axis - n_lead,))
        for axis in range(first, last)
    ]
    if wanted:
        wanted.append((chunks, ()))
    wanted += [(_lines(chunks, last, range(first, last + 1)), (last - n_lead,)), (chunks, ())]
    stages = wanted[:1]
    for then, axes in wanted[1:]:
        if then == stages[-1][0]:
            stages[-1] = (then, stages[-1][1] + axes)
        else:
            stages.append((then, axes))
    return stages


def _lines(chunks: Chunks, axis: int, order: Iterable[int]) -> Chunks:
    """Chunks with whole lines along an axis, cut along the others in that order until they are hardly larger than before.

    At most twice as large, unless there is nothing left to cut.

    >>> _lines(((4, 4, 4), (4, 4), (5,)), 0, (2, 1, 0))
    ((12,), (4, 4), (2, 2, 1))
    """
    found = list(chunks)
    found[axis] = (sum(chunks[axis]),)
    longer = -(-found[axis][0] // max(chunks[axis]))
    for other in order:
        if other != axis and longer > 1:
            thick = -(-max(chunks[other]) // longer)
            found[other] = tuple(
                min(thick, n - start) for n in chunks[other] for start in range(0, n, thick)
            )
            longer = longer * thick // max(chunks[other])
    return tuple(found)
