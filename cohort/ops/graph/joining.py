"""Connected components across blocks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import around, blocks, starts
from cohort.ops.graph.inputs import Graph, Inputs, array_of, lead_blocks, name_of
from cohort.ops.graph.storage import current


def join_faces(
    arrays: Mapping[str, xr.DataArray],
    *,
    connectivity: int,
    rule: Callable[..., np.ndarray],
    dtype: np.dtype | type,
    params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Label the connected components of one mask and give each voxel what a rule says of its component.

    Five tasks a block: label it, survey its faces, find what touches below, look up its numbers, relabel. Components that
    touch across faces (edges, corners) are joined by union-find in one merge, and numbered by first voxel in raster
    order: the numbers of `scipy.ndimage.label` for any chunking. The labels of blocks wait for the merge, in
    scratch storage inside `scratch`.

    Parameters
    ----------
    rule : callable
        ``rule(components, **params)``, an array of `dtype` with an entry for the background and for each component.
    """
    given = Inputs.of(arrays)
    n_lead, params = given.n_lead, dict(params or {})
    if not given.is_lazy:
        return given.like(tasks.label_whole(rule, params, connectivity, n_lead, given.data[0]))
    folder = current()
    name = name_of(rule, given, connectivity, params, dtype, folder)
    shape, firsts = given.shape[n_lead:], starts(given.chunks)[n_lead:]
    numblocks = [len(sizes) for sizes in given.chunks[n_lead:]]
    spatial = list(blocks(given.chunks[n_lead:]))
    rank = {space: i for i, space in enumerate(spatial)}
    dsk: Graph = {}
    for lead, _ in lead_blocks(given.chunks, n_lead):
        joints = []
        for space in spatial:
            at = (*lead, *space)
            origin = tuple(s[i] for s, i in zip(firsts, space, strict=True))
            label = partial(tasks.label_block, connectivity, n_lead, origin, shape, folder)
            dsk[(f"block-{name}", *at)] = (label, *given.keys(at))
            dsk[(f"survey-{name}", *at)] = (tasks.survey, (f"block-{name}", *at))
            # Half of the neighbours: each pair of blocks is looked at once, from the later one.
            below = [
                (offset, other)
                for offset, other in around(space, numblocks, (1,) * len(shape))
                if next(step for step in offset if step) == -1
                and np.count_nonzero(offset) <= connectivity
            ]
            edges = tuple((i == 0, i == n - 1) for i, n in zip(space, numblocks, strict=True))
            others = tuple((offset, rank[other]) for offset, other in below)
            dsk[(f"joint-{name}", *at)] = (
                partial(tasks.joint, connectivity, edges, others),
                (f"survey-{name}", *at),
                *((f"survey-{name}", *lead, *other) for _, other in below),
            )
            joints.append((f"joint-{name}", *at))
        dsk[(f"merge-{name}", *lead)] = (partial(tasks.merge, rule, params), joints)
        for space in spatial:
            at = (*lead, *space)
            dsk[(f"numbers-{name}", *at)] = (
                partial(tasks.numbers, rank[space]),
                (f"merge-{name}", *lead),
            )
            dsk[(name, *at)] = (tasks.relabel, (f"block-{name}", *at), (f"numbers-{name}", *at))
    return given.like(array_of(name, dsk, given.chunks, dtype, given.sources))
