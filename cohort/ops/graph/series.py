"""Kernels that look at a whole time series at once."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.ops.graph.inputs import Graph, Inputs, array_of, name_of, rechunk


def map_series(
    kernel: Callable[..., np.ndarray],
    arrays: Mapping[str, xr.DataArray],
    *,
    dtype: np.dtype | type,
    params: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Apply a kernel to whole arrays, leading dims and all, in one task.

    Parameters
    ----------
    kernel : callable
        ``kernel(*arrays, **params)`` gives an array of `dtype` and of the shape of the first array.

    Returns
    -------
    DataArray
        With the chunks, coordinates and attributes of the first array.
    """
    given = Inputs.of(arrays)
    work = partial(kernel, **(params or {}))
    if not given.is_lazy:
        return given.like(work(*given.data))
    name = name_of(kernel, given, params, dtype)
    whole = given.rechunked(tuple((n,) for n in given.shape))
    block = (0,) * len(given.shape)
    dsk: Graph = {(name, *block): (work, *whole.keys(block))}
    made = array_of(name, dsk, whole.chunks, dtype, whole.sources)
    return given.like(rechunk(made, given.chunks))
