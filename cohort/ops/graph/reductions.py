"""Arrays to a few numbers: partials of blocks, gathered in a tree."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import Block, blocks, on_tiles, starts
from cohort.ops.graph.inputs import Graph, Inputs, array_of, lead_blocks, name_of
from cohort.ops.graph.storage import current
from cohort.ops.layout import number

_FAN_IN = 16
"""Partials that one task gathers."""


def reduce_partials(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    gather: Callable[[Sequence[np.ndarray]], np.ndarray],
    finish: Callable[..., np.ndarray],
    units: str,
    dtype: np.dtype | type = np.float64,
    sizes: Mapping[str, int] | None = None,
    tiled: bool = False,
    params: Mapping[str, Any] | None = None,
    finish_params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Reduce an array to a few numbers. At most two tasks a block, and one in sixteen to gather.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, origin=, shape=, **params)`` gives the partial of a block; `origin` and `shape` are in
        voxels, of the block's first voxel and of the whole array.
    gather : callable
        Partials, in raster order of their blocks, to one partial. Has to be associative.
    finish : callable
        ``finish(total, **finish_params)`` gives an array of `dtype` and `sizes`.
    tiled : bool
        Cut blocks at multiples of the canonical tile, so that a kernel can keep one partial a tile and `finish` can
        add those in raster order: the same bits for any chunking.
    """
    given = Inputs.of(arrays)
    n_lead, sizes = given.n_lead, dict(sizes or {})
    params, finish_params = dict(params or {}), dict(finish_params or {})
    shape = given.shape[n_lead:]
    end = partial(tasks.finish, finish, finish_params, gather)
    data: Any
    if not given.is_lazy:
        found = tasks.partials(kernel, n_lead, (0,) * len(shape), shape, params, *given.data)
        data = end(given.shape[:n_lead], [found])
    else:
        if tiled:
            aligned = (on_tiles(c) if i >= n_lead else c for i, c in enumerate(given.chunks))
            given = given.rechunked(tuple(aligned))
        name = name_of(kernel, given, params, finish, finish_params, gather, sizes, dtype)
        firsts = starts(given.chunks)[n_lead:]
        dsk: Graph = {}
        for lead, lead_shape in lead_blocks(given.chunks, n_lead):
            keys = []
            for space in blocks(given.chunks[n_lead:]):
                origin = tuple(s[i] for s, i in zip(firsts, space, strict=True))
                keys.append((f"partial-{name}", *lead, *space))
                dsk[keys[-1]] = (
                    partial(tasks.partials, kernel, n_lead, origin, shape, params),
                    *given.keys(lead + space),
                )
            keys = gathered(dsk, f"gather-{name}", lead, keys, gather)
            dsk[(name, *lead, *(0 for _ in sizes))] = (partial(end, lead_shape), keys)
        chunks = (*given.chunks[:n_lead], *((n,) for n in sizes.values()))
        data = array_of(name, dsk, chunks, dtype, given.sources)
    return number(given.layout, given.arrays, data, units=units, dims=tuple(sizes))


def reduce_rounds(
    prepare: Callable[..., tuple[np.ndarray, ...]],
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    start: np.ndarray,
    rounds: Sequence[Mapping[str, Any]],
    narrow: Callable[..., np.ndarray],
    finish: Callable[[np.ndarray], np.ndarray],
    units: str,
    sizes: Mapping[str, int],
) -> xr.DataArray:
    """Reduce in rounds, each of which counts something that the last one asked for. A task a block and round, and one more.

    What ``prepare(*blocks)`` gives is kept for all rounds, in scratch storage inside `scratch`. A round adds up
    ``kernel(prepared, state, **round)`` over all blocks, and ``narrow(state, total, **round)`` is the next state.
    ``finish(state)`` is a float64 array of `sizes`. Additions have to be exact: they come in any order.
    """
    given = Inputs.of(arrays)
    n_lead, last = given.n_lead, len(rounds) - 1
    data: Any
    if not given.is_lazy:
        prepared = tasks.prepare(prepare, n_lead, None, *given.data)
        states = tasks.begin(start, given.shape[:n_lead])
        for i, step in enumerate(rounds):
            counted = tasks.count(kernel, step, prepared, states, free=i == last)
            states = tasks.narrow(narrow, step, states, [counted])
        data = tasks.conclude(finish, given.shape[:n_lead], states)
    else:
        folder = current()
        name = name_of(kernel, given, prepare, start, list(rounds), narrow, finish, folder)
        dsk: Graph = {}
        for lead, lead_shape in lead_blocks(given.chunks, n_lead):
            spatial = list(blocks(given.chunks[n_lead:]))
            for space in spatial:
                dsk[(f"prepare-{name}", *lead, *space)] = (
                    partial(tasks.prepare, prepare, n_lead, folder),
                    *given.keys(lead + space),
                )
            state: tuple[Any, ...] = (f"state-{name}", *lead)
            dsk[state] = (tasks.begin, start, lead_shape)
            for i, step in enumerate(rounds):
                call = partial(tasks.count, kernel, step, free=i == last)
                keys: list[Any] = [(f"count{i}-{name}", *lead, *space) for space in spatial]
                for space, key in zip(spatial, keys, strict=True):
                    dsk[key] = (call, (f"prepare-{name}", *lead, *space), state)
                keys = gathered(dsk, f"gather{i}-{name}", lead, keys, tasks.add)
                known, state = state, (f"state{i}-{name}", *lead)
                dsk[state] = (partial(tasks.narrow, narrow, step), known, keys)
            dsk[(name, *lead, *(0 for _ in sizes))] = (
                partial(tasks.conclude, finish, lead_shape),
                state,
            )
        chunks = (*given.chunks[:n_lead], *((n,) for n in sizes.values()))
        data = array_of(name, dsk, chunks, np.float64, given.sources)
    return number(given.layout, given.arrays, data, units=units, dims=tuple(sizes))


def gathered(
    dsk: Graph, name: str, lead: Block, keys: list[Any], join: Callable[..., Any]
) -> list[Any]:
    """Add tasks that gather partials in a tree until few are left; the keys of those."""
    level = 0
    while len(keys) > _FAN_IN:
        groups = [keys[i : i + _FAN_IN] for i in range(0, len(keys), _FAN_IN)]
        keys = [(f"{level}-{name}", *lead, i) for i in range(len(groups))]
        for key, group in zip(keys, groups, strict=True):
            dsk[key] = (partial(tasks.gather, join), group)
        level += 1
    return keys
