"""Kernels that look at a part of an array that lies elsewhere than the block they give."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import Chunks, Place, blocks, pieces, starts
from cohort.ops.graph.inputs import Graph, Inputs, Number, array_of, name_of

Needed = Callable[[Sequence[int], Sequence[int]], tuple[slice, ...] | None]


def map_parts(
    kernel: Callable[..., np.ndarray],
    array: xr.DataArray,
    *,
    chunks: Chunks,
    needed: Needed,
    dtype: np.dtype | type,
    numbers: Mapping[str, Number] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Any:
    """Apply a kernel to the part of an array that each block of the result needs. One task a block.

    Parameters
    ----------
    kernel : callable
        ``kernel(part, origin=, start=, size=, **params)`` gives the spatial block of `size` voxels that begins at voxel `start` of the
        result; `part` begins at voxel `origin` of the array and is None if nothing of it is needed.
    chunks : chunk sizes along each spatial dim of the result
        With arrays in memory the result is one block.
    numbers : name -> float or DataArray
        Numbers of their own, one for all; lazy ones too.
    needed : callable
        ``needed(start, size)``: the part, as a slice along each spatial dim, or None.

    Returns
    -------
    NumPy or Dask array
        Leading dims of `array`, and the spatial ones of `chunks`. The caller knows the coordinates.
    """
    given = Inputs.of({"array": array}, **(numbers or {}))
    n_lead, params = given.n_lead, {**(params or {}), **given.constants}
    lead_shape = given.shape[:n_lead]

    def work(start: Sequence[int], size: Sequence[int], part: tuple[slice, ...] | None) -> Any:
        origin = tuple(0 for _ in start) if part is None else tuple(s.start for s in part)
        fixed = {"origin": origin, "start": tuple(start), "size": tuple(size), **params}
        wide = () if part is None else tuple(s.stop - s.start for s in part)
        return partial(tasks.on_part, kernel, n_lead, tuple(given.numbers)), wide, fixed

    if not given.is_lazy:
        size = tuple(sum(sizes) for sizes in chunks)
        part = needed((0,) * len(size), size)
        call, wide, fixed = work((0,) * len(size), size, part)
        if part is None:
            return call(lead_shape, fixed, (), *given.numbers.values())
        everything = tuple(slice(None) for _ in lead_shape)
        place: Place = (everything, (*everything, *part))
        return call((*lead_shape, *wide), fixed, (place,), *given.numbers.values(), *given.data)
    lead_chunks, old = given.chunks[:n_lead], given.chunks[n_lead:]
    name = name_of(kernel, given, params, chunks, dtype)
    first = starts(chunks)
    dsk: Graph = {}
    for space in blocks(chunks):
        start = tuple(f[i] for f, i in zip(first, space, strict=True))
        size = tuple(c[i] for c, i in zip(chunks, space, strict=True))
        part = needed(start, size)
        call, wide, fixed = work(start, size, part)
        found = []
        if part is not None:
            cut = tuple((s.start, s.stop - s.start) for s in part)
            found = pieces(old, cut, (1,) * len(cut))
        for lead in blocks(lead_chunks):
            shape = tuple(c[i] for c, i in zip(lead_chunks, lead, strict=True))
            whole = tuple(slice(0, n) for n in shape)
            places = [((*whole, *to), (*whole, *source)) for _, (to, source) in found]
            keys = ((given.data[0].name, *lead, *block) for block, _ in found)
            dsk[(name, *lead, *space)] = (
                partial(call, (*shape, *wide), fixed, places),
                *given.number_keys(lead),
                *keys,
            )
    return array_of(name, dsk, (*lead_chunks, *chunks), dtype, given.sources)
