"""Arrays that several steps need, computed once into files."""

from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute, tokenize

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import Chunks, blocks
from cohort.ops.graph.inputs import Graph, array_of

_SETTLED = "settled-"


def settle(array: xr.DataArray, folder: str | Path) -> xr.DataArray:
    """Compute a Dask-backed array into compressed files of `folder`, a block at a time; give back one that reads them.

    So what several steps need is computed once and not held in memory. `free` deletes the files. An array backed by NumPy
    is given back as it is.
    """
    if not isinstance(array.data, da.Array):
        return array
    Path(folder).mkdir(parents=True, exist_ok=True)
    source = array.data
    name = f"settle-{tokenize(source.name, str(folder))}"
    dsk: Graph = {
        (name, *block): (partial(tasks.keep, str(folder)), (source.name, *block))
        for block in blocks(source.chunks)
    }
    one_each = tuple((1,) * len(sizes) for sizes in source.chunks)
    (kept,) = compute(array_of(name, dsk, one_each, object, [source]))
    return array.copy(data=reading(kept, source.chunks, source.dtype))


def reading(files: np.ndarray, chunks: Chunks, dtype: np.dtype) -> da.Array:
    """Array that reads its blocks from files: an object array of what `storage.store` gave, one for each block."""
    # Keys hold a digest of the files' names and never the names themselves.
    loaded = f"{_SETTLED}{tokenize([stored.path for stored in files.flat])}"
    read: Graph = {
        (loaded, *block): (partial(tasks.read, files[block]),) for block in blocks(chunks)
    }
    return array_of(loaded, read, chunks, dtype, [])


def files_of(array: xr.DataArray) -> np.ndarray | None:
    """Where the blocks of an array lie that `settle` gave; None for any other."""
    if not isinstance(array.data, da.Array) or not array.data.name.startswith(_SETTLED):
        return None
    files = np.empty(array.data.numblocks, object)
    for (_, *block), (read, *_) in array.data.dask.layers[array.data.name].items():
        files[tuple(block)] = read.args[0]
    return files


def free(array: xr.DataArray) -> None:
    """Delete the files of an array that `settle` gave; it cannot be computed after that."""
    files = files_of(array)
    for stored in () if files is None else files.flat:
        Path(stored.path).unlink(missing_ok=True)
