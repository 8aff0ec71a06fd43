"""Kernels that look at whole lines, one axis after the other."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import Block, Chunks, Place, blocks, line_stages, pieces
from cohort.ops.graph.inputs import Graph, Inputs, array_of, name_of
from cohort.ops.graph.storage import current


def map_lines(
    kernel: Callable[..., Sequence[np.ndarray]],
    arrays: Mapping[str, xr.DataArray],
    *,
    dtypes: Sequence[np.dtype | type],
    params: Mapping[str, Any] | None = None,
) -> list[xr.DataArray]:
    """Apply a kernel to whole lines along z, then y, then x. At most eight tasks a block.

    Every pass is cut so that its blocks hold whole lines and hardly more voxels than the largest chunk, so the result has
    the same bits for any chunking and memory holds no more than a few blocks. What one pass leaves for the next waits in
    scratch storage inside `scratch`, each piece until it is used. The arrays themselves are looked at in the first
    pass only: what later passes need of them, the kernel hands on.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, axis=, **params)``, `axis` counted among the spatial ones, gives arrays of the blocks' shape:
        what the next pass gets as blocks, and may overwrite. The blocks of axis 0 are those of `arrays`.
    dtypes : one for each array that the last pass gives

    Returns
    -------
    list of DataArray
        Each with the chunks, coordinates and attributes of the first array.
    """
    given = Inputs.of(arrays)
    n_lead = given.n_lead
    call = partial(kernel, **(params or {}))
    if not given.is_lazy:
        axes = tuple(range(len(given.layout.space)))
        return [given.like(a) for a in tasks.along(call, n_lead, axes, given.data)]
    original, folder = given.chunks, current()
    stages = line_stages(original, n_lead)
    name = name_of(kernel, given, params, list(dtypes), folder)
    given = given.rechunked(stages[0][0])
    dsk: Graph = {}
    into: dict[Block, list[tuple[Block, int, tuple[slice, ...]]]] = {}
    for i, (chunks, axes) in enumerate(stages):
        after = stages[i + 1][0] if i + 1 < len(stages) else None
        parts, onwards = _exchange(chunks, after)
        for block in blocks(chunks):
            work = partial(tasks.stage, call, n_lead, axes, parts.get(block), folder)
            key = (f"stage{i}-{name}", *block)
            if i == 0:
                dsk[key] = (partial(work, None, ()), *given.keys(block))
                continue
            shape = tuple(c[j] for c, j in zip(chunks, block, strict=True))
            takes = [(number, to) for _, number, to in into[block]]
            sources = ((f"stage{i - 1}-{name}", *source) for source, _, _ in into[block])
            dsk[key] = (partial(work, shape, takes), *sources)
        into = onwards
    # Blocks of the last stage are lists of arrays; what is given back picks one each.
    last = array_of(f"stage{len(stages) - 1}-{name}", dsk, original, object, given.sources)
    found = []
    for i, dtype in enumerate(dtypes):
        one: Graph = {
            (f"{i}-{name}", *block): (partial(tasks.pick, i), (last.name, *block))
            for block in blocks(original)
        }
        found.append(given.like(array_of(f"{i}-{name}", one, original, dtype, [last])))
    return found


def _exchange(
    before: Chunks, after: Chunks | None
) -> tuple[
    dict[Block, list[tuple[slice, ...]]], dict[Block, list[tuple[Block, int, tuple[slice, ...]]]]
]:
    """Parts that each block is cut into; and of each block of the next chunking: source, number of its part, place."""
    parts: dict[Block, list[tuple[slice, ...]]] = {}
    into: dict[Block, list[tuple[Block, int, tuple[slice, ...]]]] = {}
    if after is not None:
        for block in blocks(after):
            into[block] = []
            place: Place
            for source, place in pieces(before, after, block):
                to, part = place
                given = parts.setdefault(source, [])
                into[block].append((source, len(given), to))
                given.append(part)
    return parts, into
