"""Exact medians, however many chunks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import ranks
from cohort.ops import graph
from cohort.ops.layout import unit_of


def medians(
    image: xr.DataArray, arrays: Mapping[str, xr.DataArray], names: np.ndarray | None = None
) -> xr.DataArray:
    """Median of an image everywhere, in a mask, or of each of the labels `names`.

    Parameters
    ----------
    arrays : name -> DataArray
        The image, and the mask or the labels if there are some.
    names : (n,) ints, optional
        Given if there are labels; the result has them along ``label``.
    """
    dtype = np.dtype(np.float32) if image.dtype == np.float16 else image.dtype.newbyteorder("=")
    n = 1 if names is None else names.size
    digits = ranks.rounds(dtype, n)
    pick: Any = ranks.pick
    finish: Any = partial(ranks.median, dtype=dtype)
    if names is not None:
        rising = np.sort(names)
        pick = partial(ranks.pick, numbers=rising)
        finish = partial(ranks.medians, dtype=dtype, order=np.searchsorted(rising, names))
    return graph.reduce_rounds(
        pick,
        ranks.count,
        arrays,
        start=ranks.begin(n),
        rounds=[{"digit": digit, "first": i == 0} for i, digit in enumerate(digits)],
        narrow=ranks.narrow,
        finish=finish,
        units=unit_of(image),
        sizes={} if names is None else {"label": n},
    )
