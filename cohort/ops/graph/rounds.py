"""What is picked of each block once, and looked at in as many rounds as it takes: each asks for what the last one found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from cohort.ops.graph import storage
from cohort.ops.graph.chunking import Chunks, blocks, on_tiles, starts
from cohort.ops.graph.inputs import Graph, Inputs, array_of, name_of
from cohort.ops.graph.reductions import gathered

Pick = Callable[..., tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Kept:
    """What a kernel picked of each block: in memory, or on the workers, or inside `scratch` in files."""

    held: Any
    """Arrays of the only block, or a Dask array with one object a block."""

    def rows(self, kernel: Callable[..., np.ndarray], **params: Any) -> np.ndarray:
        """Let a kernel look at all that is kept, now. A task a block, and one in sixteen to gather.

        ``kernel(*picked, **params)`` gives rows of numbers, the first of which is the tile's: (n, columns). Rows come
        back in the order of tiles, whatever the blocks.
        """
        if not isinstance(self.held, da.Array):
            found = kernel(*self.held, **params)
        else:
            source = self.held
            name = f"{kernel.__name__}-{tokenize(kernel.__module__, source.name, params)}"
            dsk: Graph = {}
            keys: list[Any] = []
            for block in blocks(source.chunks):
                keys.append((f"rows-{name}", *block))
                dsk[keys[-1]] = (partial(_look, kernel, params), (source.name, *block))
            keys = gathered(dsk, f"gather-{name}", (), keys, np.concatenate)
            dsk[(name, 0)] = (_all, keys)
            found = array_of(name, dsk, ((1,),), object, [source]).compute()[0]
        return found[np.argsort(found[:, 0], kind="stable")]


def keep(
    pick: Pick, arrays: Mapping[str, xr.DataArray], *, params: Mapping[str, Any] | None = None
) -> Kept:
    """Pick what rounds need of each block, now; blocks are cut at multiples of the canonical tile.

    ``pick(*blocks, origin=, shape=, **params)`` gives some arrays of a block without leading dims; `origin` and `shape` are
    in voxels, of the block's first voxel and of the whole array.
    """
    given = Inputs.of(arrays)
    params = dict(params or {})
    if not given.is_lazy:
        origin = (0,) * len(given.shape)
        return Kept(pick(*given.data, origin=origin, shape=given.shape, **params))
    given = given.rechunked(tuple(on_tiles(c) for c in given.chunks))
    folder = storage.current()
    name = name_of(pick, given, params, folder)
    firsts = starts(given.chunks)
    dsk: Graph = {}
    for block in blocks(given.chunks):
        origin = tuple(s[i] for s, i in zip(firsts, block, strict=True))
        call = partial(_pick, pick, origin, given.shape, params, folder)
        dsk[(name, *block)] = (call, *given.keys(block))
    one_each: Chunks = tuple((1,) * len(sizes) for sizes in given.chunks)
    return Kept(array_of(name, dsk, one_each, object, given.sources).persist())


def _pick(
    pick: Pick,
    origin: tuple[int, ...],
    shape: tuple[int, ...],
    params: Mapping[str, Any],
    folder: str | None,
    *arrays: np.ndarray,
) -> np.ndarray:
    """What is kept of a block, or where it lies, as an array of one object."""
    found = pick(*arrays, origin=origin, shape=shape, **params)
    out = np.empty((1,) * len(origin), object)
    out.flat[0] = found if folder is None else storage.store(found, folder)
    return out


def _look(
    kernel: Callable[..., np.ndarray], params: Mapping[str, Any], held: np.ndarray
) -> list[np.ndarray]:
    kept = held.flat[0]
    arrays = storage.load(kept) if isinstance(kept, storage.Stored) else kept
    return [kernel(*arrays, **params)]


def _all(found: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of all blocks, as an array of one object."""
    out = np.empty(1, object)
    out[0] = np.concatenate([rows for part in found for rows in part])
    return out
