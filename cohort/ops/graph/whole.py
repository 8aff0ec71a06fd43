"""Operations that cannot be cut into blocks: all they are given in one task, what they give in blocks again."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute

from cohort.grid import SPACE
from cohort.ops.graph import storage, tasks
from cohort.ops.graph.chunking import blocks, cut, starts
from cohort.ops.graph.inputs import Graph, array_of, rechunk
from cohort.ops.graph.settling import files_of, reading


@dataclass(frozen=True)
class Shell:
    """An array without its values: small enough to travel."""

    dims: tuple[Hashable, ...]
    coords: xr.Dataset
    attrs: dict[Any, Any]
    name: Hashable

    @classmethod
    def of(cls, array: xr.DataArray) -> "Shell":
        """What an array is but for its values."""
        return cls(array.dims, array.coords.to_dataset(), dict(array.attrs), array.name)

    def around(self, data: Any) -> xr.DataArray:
        """The array with these values."""
        return xr.DataArray(data, self.coords.coords, self.dims, self.name, self.attrs)


@dataclass(frozen=True)
class _Written:
    """An array whose blocks lie in files."""

    shell: Shell
    dtype: np.dtype
    chunks: tuple[tuple[int, ...], ...]
    files: np.ndarray


def in_one_task(
    function: Callable[..., Any],
    arrays: Mapping[str, xr.DataArray],
    params: Mapping[str, Any],
    *,
    folder: str | Path,
    block: int,
) -> Any:
    """Call a function on whole arrays in memory, in one task of their own, and wait for it.

    Parameters
    ----------
    function : callable
        ``function(**arrays, **params)``.
    arrays : mapping
        Backed by Dask or NumPy; those by Dask are read in the task's worker, those that `settle` gave from their files.
    folder : Path
        Where the blocks of an array that comes back are written, as by `settle`.
    block : int
        Voxels along each spatial axis of these.

    Returns
    -------
    DataArray or Dataset
        What the function gave; an array with spatial dims reads its files when it is computed, all else is in memory.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = f"whole-{uuid4().hex}"
    dsk: Graph = {}
    keys: list[Any] = []
    sources, shells, given = [], {}, dict(params)
    for key, array in arrays.items():
        if not isinstance(array.data, da.Array):
            given[key] = array
            continue
        shells[key] = Shell.of(array)
        if (stored := files_of(array)) is not None:
            place = f"{name}-{key}"
            corners = starts(array.data.chunks)
            dsk[place] = (partial(_read, stored, corners, array.shape, array.dtype),)
            keys.append(place)
        else:
            one = rechunk(array.data, tuple((n,) for n in array.shape))
            sources.append(one)
            keys.append((one.name, *(0,) * array.ndim))
    dsk[(name, 0)] = (partial(_call, function, shells, given, str(folder), block), *keys)
    (found,) = compute(array_of(name, dsk, ((1,),), object, sources))
    result = found[0]
    if not isinstance(result, _Written):
        return result
    return result.shell.around(reading(result.files, result.chunks, result.dtype))


def _read(
    stored: Any,
    corners: Sequence[Sequence[int]],
    shape: Sequence[int],
    dtype: np.dtype,
) -> np.ndarray:
    """An array from the files of its blocks, one at a time."""
    out = np.empty(tuple(shape), dtype)
    for block in np.ndindex(*stored.shape):
        part = tasks.read(stored[block])
        first = [c[i] for c, i in zip(corners, block, strict=True)]
        out[tuple(slice(f, f + n) for f, n in zip(first, part.shape, strict=True))] = part
    return out


def _call(
    function: Callable[..., Any],
    shells: Mapping[str, Shell],
    given: Mapping[str, Any],
    folder: str,
    block: int,
    *values: np.ndarray,
) -> np.ndarray:
    """The call; an array of one object, so that Dask takes what is in it for nothing of its own."""
    arrays = {k: s.around(v) for (k, s), v in zip(shells.items(), values, strict=True)}
    result = function(**arrays, **given)
    out = np.empty(1, object)
    if isinstance(result, xr.DataArray) and set(SPACE) & set(result.dims):
        chunks = cut(result.sizes, block)
        files = np.empty(tuple(len(sizes) for sizes in chunks), object)
        first, data = starts(chunks), np.asarray(result.data)
        for one in blocks(chunks):
            place = tuple(
                slice(f[i], f[i] + c[i]) for f, c, i in zip(first, chunks, one, strict=True)
            )
            files[one] = storage.store([data[place]], folder)
        result = _Written(Shell.of(result), data.dtype, chunks, files)
    out[0] = result
    return out
