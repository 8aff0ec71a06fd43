"""Histograms: how often values occur, in one image, label by label, or in two images at once. Counts are exact."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import histograms, tally
from cohort.ops import graph
from cohort.ops.layout import check_image, check_labels, check_mask, layout_of, unit_of

_MOST_COUNTERS = 1 << 24
"""Of a joint histogram: 128 MiB a partial."""


def histogram(
    image: xr.DataArray,
    *,
    bins: int,
    range: tuple[float, float],
    labels: xr.DataArray | None = None,
    index: int | Sequence[int] | None = None,
) -> xr.DataArray:
    """Count the voxels in bins of equal width.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    bins : int, >= 1
    range : (low, high), in the image's unit
        Lower edge of the first bin and upper edge of the last; both belong to a bin.
    labels : DataArray, integer or bool, optional
        On the grid of `image`. Count only where it is not 0. None: everywhere.
    index : int or ints, optional
        Labels to count apart, in this order. None: all together.

    Returns
    -------
    DataArray, shape (..., bin), or (..., label, bin) for several labels, int64, unit voxel
        The coordinate ``bin`` holds the centres, its attribute `edges` the edges of the bins. Lazy if image or labels are.
        Histograms of equal bins may be added, also those of different scans.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If there is less than one bin, the range is reversed or not finite, the labels are not integer, a label is asked
        for twice or below 1; and, when computed, if a label is negative.

    Notes
    -----
    Equals ``scipy.ndimage.histogram(image, *range, bins, labels, index)``. NaN and what lies outside the range is in no
    bin. A label that does not occur counts 0 (SciPy gives None).

    Examples
    --------
    >>> image = xr.DataArray([[0, 1, 1], [2, 3, 4]], dims=("y", "x"))
    >>> counts = histogram(image, bins=2, range=(0, 4))
    >>> counts.values.tolist(), counts["bin"].values.tolist()
    ([3, 3], [1.0, 3.0])
    """
    check_image("image", image)
    edges = _edges(whole_bins(bins), range)
    arrays = {"image": image}
    sizes = {"bin": edges.size - 1}
    names = rising = order = None
    if labels is not None:
        layout_of("labels", labels)
        (check_mask if labels.dtype == np.bool_ else check_labels)("labels", labels)
        arrays["labels"] = labels
    if index is not None:
        if labels is None or labels.dtype == np.bool_:
            raise ValueError(f"index is {index!r}, but there are no numbered labels to count apart")
        names = _index(index)
        rising = np.sort(np.atleast_1d(names))
        if names.ndim:
            order = np.searchsorted(rising, names)
            sizes = {"label": names.size, **sizes}
    counts = graph.reduce_partials(
        histograms.counts,
        arrays,
        gather=tally.total,
        finish=histograms.in_order,
        units="voxel",
        dtype=np.int64,
        sizes=sizes,
        params={"edges": edges, "numbers": rising},
        finish_params={"order": order},
    )
    centres = (edges[:-1] + edges[1:]) / 2
    attrs = {"units": unit_of(image), "edges": edges.tolist()}
    counts = counts.assign_coords(bin=("bin", centres, attrs))
    return counts if names is None else counts.assign_coords(label=(["label"][: names.ndim], names))


def cdf(
    image: xr.DataArray,
    *,
    bins: int | None = None,
    range: tuple[float, float] | None = None,
    labels: xr.DataArray | None = None,
    index: int | Sequence[int] | None = None,
) -> xr.DataArray:
    """Share of the counted voxels up to and with each bin.

    Parameters
    ----------
    image : DataArray
        An image, or the result of `histogram`, which needs no further parameters.
    bins, range, labels, index
        As of `histogram`.

    Returns
    -------
    DataArray, shape (..., bin) or (..., label, bin), float64, unit 1
        Rises to 1; NaN where nothing was counted. Lazy if the image is.

    Raises
    ------
    ValueError
        If the image is no histogram and bins or range are missing, or it is one and they are given; as `histogram`.

    Notes
    -----
    Equals ``counts.cumsum() / counts.sum()``.

    Examples
    --------
    >>> image = xr.DataArray([[0, 1, 1], [2, 3, 4]], dims=("y", "x"))
    >>> cdf(histogram(image, bins=2, range=(0, 4))).values.tolist()
    [0.5, 1.0]
    """
    if "bin" not in image.dims:
        if bins is None or range is None:
            raise ValueError(
                f"cdf() of an image needs bins and range; bins is {bins}, range is {range}"
            )
        counts = histogram(image, bins=bins, range=range, labels=labels, index=index)
    elif any(given is not None for given in (bins, range, labels, index)):
        raise ValueError(
            f"cdf() of a histogram takes no bins, range, labels or index: it has {image.sizes['bin']} bins"
        )
    else:
        counts = image
    total = counts.sum("bin")
    shares = counts.cumsum("bin") / total.where(total > 0)
    return shares.assign_coords(bin=counts["bin"]).assign_attrs(units="1")


def quantile(counts: xr.DataArray, q: float | Sequence[float]) -> xr.DataArray:
    """Values below which a share of the counted voxels lies, from a histogram alone: of one scan, or of hundreds added up.

    Parameters
    ----------
    counts : DataArray, shape (..., bin)
        As `histogram` gives it.
    q : float or floats, 0 to 1

    Returns
    -------
    DataArray, shape (...) or (..., quantile), float64, the image's unit
        The centre of the bin that holds the value; NaN where nothing was counted. Computed at once. Its attribute ``error`` is
        the most by which a value can be wrong: half the width of a bin.

    Raises
    ------
    ValueError
        If `counts` is no histogram, or a `q` is not between 0 and 1.

    Notes
    -----
    Within ``error`` of ``numpy.quantile(values, q, method="inverted_cdf")`` of the voxels that were counted. Exact where each
    bin holds one value, at its centre: whole numbers in bins of 1 from ``low - 0.5`` to ``high + 0.5``.

    Examples
    --------
    >>> image = xr.DataArray([[0, 1, 1], [2, 3, 4]], dims=("y", "x"))
    >>> found = quantile(histogram(image, bins=5, range=(-0.5, 4.5)), [0.5, 0.9])
    >>> found.values.tolist(), found.attrs["error"]
    ([1.0, 4.0], 0.5)
    """
    if "bin" not in counts.dims or "edges" not in counts["bin"].attrs:
        raise ValueError(f"counts has dims {counts.dims}, expected what histogram() gives")
    shares = np.asarray(q, np.float64)
    if shares.ndim > 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"q is {q!r}, expected shares between 0 and 1")
    counts = counts.transpose(..., "bin")
    up_to = counts.values.cumsum(axis=-1)
    total = up_to[..., -1, None]
    rank = np.maximum(np.ceil(shares.reshape(-1) * total), 1)
    place = (up_to[..., None, :] < rank[..., None]).sum(axis=-1)
    centres = np.append(counts["bin"].values, np.nan)  # beyond the last: of nothing
    bins = counts["bin"].attrs
    found = counts.isel(bin=0, drop=True).astype(np.float64)
    named = xr.DataArray(
        centres[place],
        dims=(*found.dims, "quantile"),
        coords={**found.coords, "quantile": shares.reshape(-1)},
        attrs={
            "units": bins.get("units", "1"),
            "error": float(np.diff(bins["edges"]).max()) / 2,
        },
    )
    return named if shares.ndim else named.isel(quantile=0)


def joint_histogram(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    bins: int | tuple[int, int],
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Count the voxels by their values in two images at once.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        On one grid.
    bins : int or two, >= 1
        Bins between the extremes of `a`, and of `b`.
    mask : DataArray, bool, optional
        On the same grid. None: everywhere.

    Returns
    -------
    DataArray, shape (..., bin_a, bin_b), int64, unit voxel
        The coordinates ``a`` (along ``bin_a``) and ``b`` hold the centres of the bins; NaN if nothing counts. Lazy if
        an image or the mask is.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, there is less than one bin, or more than 16,777,216 pairs of bins.

    Notes
    -----
    Equals ``numpy.histogram2d`` of the values as float64, over the voxels in the mask where both images are finite.
    """
    check_image("a", a)
    check_image("b", b)
    arrays = {"a": a, "b": b}
    if mask is not None:
        check_mask("mask", mask)
        arrays["mask"] = mask
    pair = bins if isinstance(bins, Sequence) else (bins, bins)
    if len(pair) != 2:
        raise ValueError(f"bins is {bins!r}, expected one number or two")
    n_a, n_b = whole_bins(pair[0]), whole_bins(pair[1])
    if n_a * n_b > _MOST_COUNTERS:
        raise ValueError(
            f"bins is {n_a} x {n_b}, which is {n_a * n_b:,} counters; at most {_MOST_COUNTERS:,} are kept"
        )
    ends = graph.reduce_partials(
        histograms.joint_extent,
        arrays,
        gather=histograms.wider,
        finish=histograms.bounds,
        units="1",
        sizes={"bound": 4},
    )
    low_a, high_a, low_b, high_b = (ends.isel(bound=i) for i in range(4))
    numbers = graph.map_points(
        histograms.joint_numbers,
        arrays,
        dtype=np.int32,
        numbers={"low_a": low_a, "high_a": high_a, "low_b": low_b, "high_b": high_b},
        params={"bins": (n_a, n_b)},
    )
    counts = graph.reduce_partials(
        histograms.joint_counts,
        {"numbers": numbers},
        gather=tally.total,
        finish=np.asarray,
        units="voxel",
        dtype=np.int64,
        sizes={"bin_a": n_a, "bin_b": n_b},
        params={"bins": (n_a, n_b)},
    )
    return counts.assign_coords(
        a=_centres(low_a, high_a, "bin_a", n_a, unit_of(a)),
        b=_centres(low_b, high_b, "bin_b", n_b, unit_of(b)),
    )


def whole_bins(bins: Any) -> int:
    """Number of bins, checked."""
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"bins is {bins!r}, expected a whole number of at least 1")
    return int(bins)


def _edges(bins: int, ends: tuple[float, float]) -> np.ndarray:
    low, high = (float(end) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"range is ({low}, {high}), expected two finite numbers")
    if low > high:
        raise ValueError(
            f"range is ({low}, {high}): {low} is above {high}, the lower bound comes first"
        )
    return np.linspace(low, high, bins + 1)


def _index(index: int | Sequence[int]) -> np.ndarray:
    """Labels to count apart: () or (n,) int64."""
    names = np.asarray(index)
    if names.ndim > 1 or names.dtype.kind not in "iu" or names.size == 0:
        raise ValueError(f"index is {index!r}, expected a label or a list of labels")
    if (names <= 0).any():
        raise ValueError(f"index holds {names.min()}; objects are numbered from 1, 0 is background")
    several, often = np.unique(names, return_counts=True)
    if (often > 1).any():
        raise ValueError(f"index holds {several[often > 1][0]} more than once")
    return names.astype(np.int64)


def _centres(
    low: xr.DataArray, high: xr.DataArray, dim: str, bins: int, units: str
) -> xr.DataArray:
    """Centres of the bins between two lazy numbers; equal ones are 1 apart, as in `histograms.edges_between`."""
    apart = (low == high) * 0.5
    low, high = low - apart, high + apart
    share = xr.DataArray((np.arange(bins) + 0.5) / bins, dims=dim)
    return (low + (high - low) * share).transpose(..., dim).assign_attrs(units=units)
