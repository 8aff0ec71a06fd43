"""What one task of a graph does with blocks that are in memory.

Blocks have the leading axes of the array and then its spatial ones; kernels see spatial blocks only, so the functions here
loop over the leading positions. What they hand on is a list with an entry for each position.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cohort.kernels import components, halo
from cohort.ops.graph import storage
from cohort.ops.graph.chunking import Place

Params = Mapping[str, Any]


def _positions(block: np.ndarray, n_lead: int) -> np.ndarray:
    """Block with its leading axes made one."""
    return block.reshape(-1, *block.shape[n_lead:])


def _joined(found: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Results of the leading positions as one array."""
    return (found[0] if len(found) == 1 else np.stack(found)).reshape(tuple(shape))


def assemble(shape: Sequence[int], places: Sequence[Place], *found: np.ndarray) -> np.ndarray:
    """Put a block together from parts of others."""
    out = np.empty(shape, found[0].dtype)
    for (to, part), piece in zip(places, found, strict=True):
        out[to] = piece[part]
    return out


def each(
    kernel: Callable[..., np.ndarray],
    n_lead: int,
    n_arrays: int,
    names: Sequence[str],
    params: Params,
    *values: np.ndarray,
) -> np.ndarray:
    """Apply a kernel to blocks and to numbers that are one each for every leading position."""
    arrays, numbers = values[:n_arrays], values[n_arrays:]
    if n_lead == 0:
        return kernel(
            *arrays, **{n: v.item() for n, v in zip(names, numbers, strict=True)}, **params
        )
    flat = [_positions(a, n_lead) for a in arrays]
    found = [
        kernel(
            *blocks,
            **{n: v.item(i) for n, v in zip(names, numbers, strict=True)},
            **params,
        )
        for i, blocks in enumerate(zip(*flat, strict=True))
    ]
    return _joined(found, arrays[0].shape)


# Stencils.


def rims(width: Sequence[int], n_lead: int, blocks: Sequence[np.ndarray]) -> list[list[halo.Rim]]:
    """Outermost voxels of each block, for its neighbours: by leading position, then by array."""
    flat = [_positions(b, n_lead) for b in blocks]
    return [[halo.rim(b, width) for b in at] for at in zip(*flat, strict=True)]


def stencil(
    kernel: Callable[..., np.ndarray],
    n_lead: int,
    border: halo.Border,
    params: Params,
    offsets: Sequence[halo.Offset],
    blocks: Sequence[np.ndarray],
    *around: list[list[halo.Rim]],
) -> np.ndarray:
    """Apply a kernel to blocks with their surroundings."""
    flat = [_positions(b, n_lead) for b in blocks]
    found = [
        halo.stencil(
            kernel,
            at,
            {o: r[i] for o, r in zip(offsets, around, strict=True)},
            border=border,
            params=params,
        )
        for i, at in enumerate(zip(*flat, strict=True))
    ]
    return _joined(found, blocks[0].shape)


# Parts.


def on_part(
    kernel: Callable[..., np.ndarray],
    n_lead: int,
    names: Sequence[str],
    shape: Sequence[int],
    params: Params,
    places: Sequence[Place],
    *values: np.ndarray,
) -> np.ndarray:
    """Put the part of an array that a block of the result needs together, and apply a kernel; leading axes of `shape` first."""
    numbers, found = values[: len(names)], values[len(names) :]
    if not found:
        blocks: list[np.ndarray | None] = [None] * int(np.prod(shape[:n_lead]))
    else:
        part = found[0][places[0][1]] if len(found) == 1 else assemble(shape, places, *found)
        blocks = list(_positions(part, n_lead))
    made = [
        kernel(block, **{n: v.item(i) for n, v in zip(names, numbers, strict=True)}, **params)
        for i, block in enumerate(blocks)
    ]
    return _joined(made, (*shape[:n_lead], *made[0].shape))


# Reductions.


def partials(
    kernel: Callable[..., np.ndarray],
    n_lead: int,
    origin: Sequence[int],
    shape: Sequence[int],
    params: Params,
    *blocks: np.ndarray,
) -> list[np.ndarray]:
    """Partial of a block."""
    flat = [_positions(b, n_lead) for b in blocks]
    return [
        kernel(*at, origin=tuple(origin), shape=tuple(shape), **params)
        for at in zip(*flat, strict=True)
    ]


def gather(
    join: Callable[[Sequence[np.ndarray]], np.ndarray], found: Sequence[list[np.ndarray]]
) -> list[np.ndarray]:
    """Several partials to one."""
    return [join(parts) for parts in zip(*found, strict=True)]


def add(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of partials, in order."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def finish(
    end: Callable[..., np.ndarray],
    params: Params,
    join: Callable[[Sequence[np.ndarray]], np.ndarray],
    lead_shape: Sequence[int],
    found: Sequence[list[np.ndarray]],
) -> np.ndarray:
    """Partials of all blocks to the result."""
    ends = [np.asarray(end(total, **params)) for total in gather(join, found)]
    return _joined(ends, (*lead_shape, *ends[0].shape))


# Reductions in rounds.


def prepare(
    pick: Callable[..., tuple[np.ndarray, ...]],
    n_lead: int,
    folder: str | None,
    *blocks: np.ndarray,
) -> Any:
    """What all rounds need of a block: (how many leading positions, arrays or where they lie)."""
    flat = [_positions(b, n_lead) for b in blocks]
    found = [array for at in zip(*flat, strict=True) for array in pick(*at)]
    return len(flat[0]), found if folder is None else storage.store(found, folder)


def begin(start: np.ndarray, lead_shape: Sequence[int]) -> list[np.ndarray]:
    """State before the first round."""
    return [start] * int(np.prod(lead_shape))


def count(
    kernel: Callable[..., np.ndarray],
    params: Params,
    prepared: Any,
    states: list[np.ndarray],
    *,
    free: bool,
) -> list[np.ndarray]:
    """One round on a block."""
    n, held = prepared
    arrays = storage.load(held, free=free) if isinstance(held, storage.Stored) else held
    each_has = len(arrays) // n
    return [
        kernel(*arrays[i * each_has : (i + 1) * each_has], states[i], **params) for i in range(n)
    ]


def narrow(
    step: Callable[..., np.ndarray],
    params: Params,
    states: list[np.ndarray],
    found: Sequence[list[np.ndarray]],
) -> list[np.ndarray]:
    """State after a round."""
    return [step(s, total, **params) for s, total in zip(states, gather(add, found), strict=True)]


def conclude(
    end: Callable[[np.ndarray], np.ndarray], lead_shape: Sequence[int], states: list[np.ndarray]
) -> np.ndarray:
    """State after the last round to the result."""
    ends = [end(s) for s in states]
    return _joined(ends, (*lead_shape, *ends[0].shape))


# Components.


def label_whole(
    rule: Callable[..., np.ndarray],
    params: Params,
    connectivity: int,
    n_lead: int,
    mask: np.ndarray,
) -> np.ndarray:
    """Components of a whole array, under a rule."""
    found = []
    for block in _positions(mask, n_lead):
        labels, n = components.label(block, connectivity=connectivity)
        if rule is not components.every:
            known = components.Components(
                components.sizes(labels, n), components.on_border(labels, n)
            )
            labels = components.relabel(labels, rule(known, **params))
        found.append(labels)
    return _joined(found, mask.shape)


def label_block(
    connectivity: int,
    n_lead: int,
    origin: Sequence[int],
    shape: Sequence[int],
    folder: str | None,
    mask: np.ndarray,
) -> Any:
    """Components of a block, or where they lie, and their survey: (shape, labels, surveys or how to make them)."""
    found = [
        components.label(block, connectivity=connectivity)[0] for block in _positions(mask, n_lead)
    ]
    known = [components.survey(labels, origin=origin, shape=shape) for labels in found]
    return mask.shape, found if folder is None else storage.store(found, folder), known


def joint(
    connectivity: int,
    edges: Sequence[tuple[bool, bool]],
    others: Sequence[tuple[halo.Offset, int]],
    mine: list[components.Survey],
    *around: list[components.Survey],
) -> list[components.Joint]:
    """What of a block touches what of its lower neighbours."""
    return [
        components.joint(
            own,
            {
                offset: (number, found[i])
                for (offset, number), found in zip(others, around, strict=True)
            },
            edges=edges,
            connectivity=connectivity,
        )
        for i, own in enumerate(mine)
    ]


def survey(labelled: Any) -> list[components.Survey]:
    """The small part of what `label_block` gives."""
    return labelled[2]


def merge(
    rule: Callable[..., np.ndarray], params: Params, joints: Sequence[list[components.Joint]]
) -> list[list[np.ndarray]]:
    """What becomes of the components of each block: by leading position, then by block."""
    found = []
    for at in zip(*joints, strict=True):
        merged = components.merge(at)
        table = rule(merged.components, **params)
        found.append([table[part] for part in np.split(merged.numbers, merged.starts[1:-1])])
    return found


def numbers(block: int, merged: list[list[np.ndarray]]) -> list[np.ndarray]:
    """One block's share of `merge`."""
    return [tables[block] for tables in merged]


def relabel(labelled: Any, tables: list[np.ndarray]) -> np.ndarray:
    """Give each voxel of a block what its component became."""
    shape, held, _ = labelled
    labels = storage.load(held, free=True) if isinstance(held, storage.Stored) else held
    return _joined([components.relabel(a, t) for a, t in zip(labels, tables, strict=True)], shape)


# Lines.


def along(
    kernel: Callable[..., Sequence[np.ndarray]],
    n_lead: int,
    axes: Sequence[int],
    arrays: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Let a kernel walk along one spatial axis after the other."""
    found = []
    for at in zip(*(_positions(a, n_lead) for a in arrays), strict=True):
        state: Sequence[np.ndarray] = at
        for axis in axes:
            state = kernel(*state, axis=axis)
        found.append(state)
    return [_joined(of_all, arrays[0].shape) for of_all in zip(*found, strict=True)]


def stage(
    kernel: Callable[..., Sequence[np.ndarray]],
    n_lead: int,
    axes: Sequence[int],
    parts: Sequence[tuple[slice, ...]] | None,
    folder: str | None,
    shape: Sequence[int] | None,
    takes: Sequence[tuple[int, tuple[slice, ...]]],
    *found: Any,
) -> list[Any]:
    """Put arrays together from parts that the stage before cut, walk along some axes, and cut for the next stage.

    Without `shape`, `found` are the arrays; without `parts`, the result is.
    """
    arrays: Sequence[np.ndarray] = found if shape is None else _taken(shape, takes, found)
    if axes:
        arrays = along(kernel, n_lead, axes, arrays)
    if parts is None:
        return list(arrays)
    cut = [[a[part] for a in arrays] for part in parts]
    return cut if folder is None else [storage.store(part, folder) for part in cut]


def _taken(
    shape: Sequence[int], takes: Sequence[tuple[int, tuple[slice, ...]]], found: Sequence[Any]
) -> list[np.ndarray]:
    """New arrays from parts of what several blocks were cut into, in memory or in files, which are freed."""
    out: list[np.ndarray] = []
    for (number, to), parts in zip(takes, found, strict=True):
        held = parts[number]
        arrays = storage.load(held, free=True) if isinstance(held, storage.Stored) else held
        out = out or [np.empty(shape, a.dtype) for a in arrays]
        for whole, array in zip(out, arrays, strict=True):
            whole[to] = array
    return out


def pick(number: int, found: Sequence[np.ndarray]) -> np.ndarray:
    """One of several arrays."""
    return found[number]


# Scratch storage.


def keep(folder: str, block: np.ndarray) -> np.ndarray:
    """Write a block; an array of one object that says where it lies."""
    out = np.empty((1,) * block.ndim, object)
    out.flat[0] = storage.store([block], folder)
    return out


def read(stored: storage.Stored) -> np.ndarray:
    """Read a block back."""
    return storage.load(stored)[0]
