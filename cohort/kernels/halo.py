"""A block and what it needs of its neighbours: cut, joined, padded at the border of the array, trimmed after."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MODES = {
    "reflect": "symmetric",
    "mirror": "reflect",
    "nearest": "edge",
    "constant": "constant",
    "wrap": "wrap",
}
"""What lies beyond the border: SciPy's names, and NumPy's for the same."""

Offset = tuple[int, ...]
Rim = dict[tuple[int, int], np.ndarray]
"""(axis, side) -> the outermost voxels of a block on that side; side is -1 or 1."""


@dataclass(frozen=True)
class Border:
    """What a stencil needs around a block.

    ``width`` voxels along each axis. ``mode`` of None adds nothing beyond the border of the array: the kernel
    sees where the array ends and has its own rule. ``padded`` says for each axis whether the array ends below
    and above the block, so that something has to be made up.
    """

    width: tuple[int, ...]
    mode: str | None
    fill: float
    padded: tuple[tuple[bool, bool], ...]


def rim(block: np.ndarray, width: Sequence[int]) -> Rim:
    """Copies of the outermost `width` voxels of a block on both sides of each axis where that is not 0."""
    found: Rim = {}
    for axis, n in enumerate(width):
        if n:
            before = (slice(None),) * axis
            found[axis, -1] = block[(*before, slice(0, n))].copy()
            found[axis, 1] = block[(*before, slice(-n, None))].copy()
    return found


def _from_rim(other: Rim, offset: Offset, width: Sequence[int]) -> np.ndarray:
    """The part of a neighbour at `offset` that lies within `width` of this block."""
    axis = next(a for a, step in enumerate(offset) if step)
    # A neighbour above shows its low side, one below its high side.
    part = other[axis, -offset[axis]]
    cut = [
        slice(None) if step == 0 or a == axis else slice(0, n) if step > 0 else slice(-n, None)
        for a, (step, n) in enumerate(zip(offset, width, strict=True))
    ]
    return part[tuple(cut)]


def extended(
    block: np.ndarray, rims: Mapping[Offset, Rim], border: Border
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """The block with its neighbours' voxels and padding around it, and where in that it lies."""
    below = [any(o[a] < 0 for o in rims) for a in range(block.ndim)]
    above = [any(o[a] > 0 for o in rims) for a in range(block.ndim)]
    low = [w if b else 0 for w, b in zip(border.width, below, strict=True)]
    high = [w if b else 0 for w, b in zip(border.width, above, strict=True)]
    if any(low) or any(high):
        whole = np.empty(
            [n + a + b for n, a, b in zip(block.shape, low, high, strict=True)], block.dtype
        )
        for offset in itertools.product((-1, 0, 1), repeat=block.ndim):
            place = tuple(
                slice(0, a)
                if step < 0
                else slice(a, a + n)
                if step == 0
                else slice(a + n, a + n + b)
                for step, n, a, b in zip(offset, block.shape, low, high, strict=True)
            )
            if any(s.start == s.stop for s in place):
                continue
            whole[place] = (
                block if not any(offset) else _from_rim(rims[offset], offset, border.width)
            )
    else:
        whole = block
    if border.mode is not None:
        pad = [
            (w if at_low else 0, w if at_high else 0)
            for w, (at_low, at_high) in zip(border.width, border.padded, strict=True)
        ]
        if any(p != (0, 0) for p in pad):
            extra = {"constant_values": border.fill} if border.mode == "constant" else {}
            whole = np.pad(whole, pad, mode=MODES[border.mode], **extra)  # type: ignore[call-overload]
            low = [a + p[0] for a, p in zip(low, pad, strict=True)]
    return whole, tuple(slice(a, a + n) for a, n in zip(low, block.shape, strict=True))


def stencil(
    kernel: Callable[..., np.ndarray],
    blocks: Sequence[np.ndarray],
    rims: Mapping[Offset, Sequence[Rim]],
    *,
    border: Border,
    params: Mapping[str, Any],
) -> np.ndarray:
    """Run a kernel on blocks and their surroundings, and give back the part that is the blocks' own."""
    around = [
        extended(block, {offset: found[i] for offset, found in rims.items()}, border)
        for i, block in enumerate(blocks)
    ]
    return kernel(*(whole for whole, _ in around), **params)[around[0][1]]
