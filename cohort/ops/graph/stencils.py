"""Kernels that look at one voxel, or at its neighbours."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import halo
from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import around, at_least, blocks, starts
from cohort.ops.graph.inputs import Graph, Inputs, Number, array_of, name_of, rechunk


def map_points(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    dtype: np.dtype | type,
    numbers: Mapping[str, Number] | None = None,
    params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Apply ``kernel(*blocks, **numbers, **params)``, which looks at one voxel at a time. One task a block.

    Parameters
    ----------
    kernel : callable
        Gives an array of `dtype` and of the blocks' shape.
    arrays : name -> DataArray
        On one grid; the first gives the result its chunks, coordinates and attributes.
    numbers : name -> float or DataArray
        Numbers of their own, or one each for every position along leading dims; lazy ones too.
    """
    given = Inputs.of(arrays, **(numbers or {}))
    fixed = {**(params or {}), **given.constants}
    call = partial(tasks.each, kernel, given.n_lead, len(given.data), tuple(given.numbers), fixed)
    if not given.is_lazy:
        return given.like(call(*given.data, *given.numbers.values()))
    name = name_of(kernel, given, params, dtype)
    dsk: Graph = {
        (name, *block): (call, *given.keys(block), *given.number_keys(block))
        for block in blocks(given.chunks)
    }
    return given.like(array_of(name, dsk, given.chunks, dtype, given.sources))


def map_vectors(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    dim: str,
    names: Sequence[Any],
    dtype: np.dtype | type,
    params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Apply ``kernel(*blocks, origin=, **params)``, which gives several numbers for each voxel. One task a block.

    Arrays have no leading dims. The result has one, `dim`, whose coordinate is `names` and which is one chunk: the kernel
    gives an array of (number of names, *shape of the blocks). `origin` is the block's first voxel.
    """
    given = Inputs.of(arrays)
    params = dict(params or {})
    data: Any
    if not given.is_lazy:
        data = kernel(*given.data, origin=(0,) * len(given.shape), **params)
    else:
        name = name_of(kernel, given, params, dtype, len(names))
        firsts = starts(given.chunks)
        dsk: Graph = {}
        for block in blocks(given.chunks):
            origin = tuple(s[i] for s, i in zip(firsts, block, strict=True))
            call = partial(kernel, origin=origin, **params)
            dsk[(name, 0, *block)] = (call, *given.keys(block))
        data = array_of(name, dsk, ((len(names),), *given.chunks), dtype, given.sources)
    coords = {**given.arrays[0].coords, dim: list(names)}
    # Without a name of its own it would take that of the Dask array.
    return xr.DataArray(data, dims=(dim, *given.layout.dims), coords=coords).rename(None)


def map_stencil(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    halo_voxels: Mapping[str, int],
    dtype: np.dtype | type,
    mode: str | None = None,
    fill: float = 0.0,
    params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Apply a kernel that looks at neighbours. At most four tasks a block.

    Chunks thinner than the halo are merged for the step and restored after it.

    Parameters
    ----------
    kernel : callable
        Takes blocks that are larger by the halo on every side and gives an array of the same shape, of which the
        halo is cut off.
    halo_voxels : dim -> int
        How far the kernel looks.
    mode : reflect, nearest, mirror, constant, wrap or None
        What lies beyond the border of the image, in SciPy's words. None: nothing; blocks end where the image does, and
        the kernel has a rule of its own for that.
    fill : float
        Value beyond the border when `mode` is constant.

    Raises
    ------
    ValueError
        If the mode is unknown.
    """
    if mode is not None and mode not in halo.MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(halo.MODES)}")
    given = Inputs.of(arrays)
    n_lead = given.n_lead
    width = tuple(int(halo_voxels.get(d, 0)) for d in given.layout.space)
    params = dict(params or {})
    if not given.is_lazy:
        border = halo.Border(width, mode, fill, ((True, True),) * len(width))
        return given.like(tasks.stencil(kernel, n_lead, border, params, (), given.data))
    original = given.chunks
    # A mirrored border starts one voxel further in.
    need = [w + (mode == "mirror") if w else 0 for w in width]
    merged = (
        *original[:n_lead],
        *(at_least(sizes, n) for sizes, n in zip(original[n_lead:], need, strict=True)),
    )
    given = given.rechunked(merged)
    name = name_of(kernel, given, params, width, mode, fill, dtype)
    numblocks = [len(sizes) for sizes in merged[n_lead:]]
    reach = tuple(w if n > 1 else 0 for w, n in zip(width, numblocks, strict=True))
    periodic = mode == "wrap"
    dsk: Graph = {}
    for block in blocks(merged):
        lead, space = block[:n_lead], block[n_lead:]
        if any(reach):
            dsk[(f"rim-{name}", *block)] = (
                partial(tasks.rims, reach, n_lead),
                list(given.keys(block)),
            )
        near = around(space, numblocks, reach, periodic=periodic)
        ends = tuple(
            (n == 1 or (i == 0 and not periodic), n == 1 or (i == n - 1 and not periodic))
            for i, n in zip(space, numblocks, strict=True)
        )
        border = halo.Border(width, mode, fill, ends)
        offsets = tuple(offset for offset, _ in near)
        dsk[(name, *block)] = (
            partial(tasks.stencil, kernel, n_lead, border, params, offsets),
            list(given.keys(block)),
            *((f"rim-{name}", *lead, *other) for _, other in near),
        )
    result = array_of(name, dsk, merged, dtype, given.sources)
    return given.like(rechunk(result, original))
