"""How alike two images, or an image and itself some way on, are; and how sure that is where neighbours are alike anyway."""

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import lags, pairs
from cohort.ops import graph, measure
from cohort.ops.layout import check_image, image_and_mask, layout_of


def ncc(a: xr.DataArray, b: xr.DataArray, *, mask: xr.DataArray | None = None) -> xr.DataArray:
    """Normalised cross-correlation: Pearson's r of the values at the same voxels, -1 to 1.

    As `compare.mae`; equals ``numpy.corrcoef`` to 1e-12. NaN where an image is constant. Raises GridError if the grids differ,
    ValueError if an image does not hold real numbers or the mask is not bool.
    """
    check_image("a", a)
    check_image("b", b)
    means = {
        "mean_a": measure.mean_in(a, mask=mask),
        "mean_b": measure.mean_in(b, mask=mask),
    }
    product = graph.map_points(pairs.product, {"a": a, "b": b}, dtype=np.float64, numbers=means)
    spread = measure.std_in(a, mask=mask) * measure.std_in(b, mask=mask)
    found = measure.mean_in(product, mask=mask) / spread.where(spread > 0)
    found = found.clip(-1.0, 1.0)
    found.attrs = {"units": "1"}
    return found.rename(None)


def correlation(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    mask: xr.DataArray | None = None,
    effective: bool = True,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Pearson's r of the values at the same voxels, with an interval that knows that voxels are not independent.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        On one grid.
    mask : DataArray, bool, optional
        On the same grid. None: everywhere.
    effective : bool
        Whether to find out how many independent voxels there are. False: every voxel counts as one, as for images of pure noise.
    confidence : float, 0 to 1
        Of the interval.

    Returns
    -------
    Dataset of float64 over (...)
        ``r``; ``low`` and ``high``, by Fisher's z of `n_effective`; ``n`` voxels; ``n_effective``; ``naive_low`` and ``naive_high``,
        which take all voxels to be independent. NaN if an image is constant in the mask, or has a NaN there.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If an image does not hold real numbers, the mask is not bool, or the confidence is none.

    Notes
    -----
    ``r`` has the same bits for any chunking. ``n_effective`` takes each image whole, in one task, and some 80 bytes a voxel: the variance of r
    from the autocorrelation of both, at lags of up to a quarter of each side [Clifford, Richardson & Hemon 1989,
    doi:10.2307/2532039; Dutilleul 1993, doi:10.2307/2532625]. It presumes that the images are alike all over: edges and brains among
    nothing call for a mask.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    r = ncc(a, b, mask=mask)
    inside = xr.ones_like(a, dtype=np.bool_) if mask is None else mask
    n = measure.n_voxels(inside).astype(np.float64)
    n_effective = n
    if effective:
        n_effective = _of_wholes(lags.effective, a, b, inside).where(r.notnull())
    low, high = _interval(r, n_effective, confidence)
    naive_low, naive_high = _interval(r, n, confidence)
    found = xr.Dataset(
        {"r": r, "low": low, "high": high, "n": n, "n_effective": n_effective}
        | {"naive_low": naive_low, "naive_high": naive_high}
    )
    for one in found.values():
        one.attrs = {"units": "1"}
    return found


def lag_correlation(
    image: xr.DataArray, *, dim: str, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Pearson's r of all pairs of voxels that lie some way apart along one axis: for every lag, in one pass.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    dim : str
        Spatial dim along which to go.
    mask : DataArray, bool, optional
        On the same grid: pairs count both of whose voxels are inside.

    Returns
    -------
    DataArray, shape (..., lag_mm), float64
        Coordinate ``lag_mm``, from 0 to the length of the axis, and ``n`` pairs beside it (..., lag_mm). NaN where there are fewer than two pairs, or
        their values do not vary. Lazy if the image is.

    Raises
    ------
    GridError
        If the grids differ, or a coordinate is missing or irregular.
    ValueError
        If the image does not hold real numbers, the mask is not bool, or there is no such dim.

    Notes
    -----
    Equals ``numpy.corrcoef(image[:-k].ravel(), image[k:].ravel())[0, 1]`` for a lag of k voxels to 1e-9, with the same bits for any chunking:
    sums of the spectra of lines, by tile.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> image = xr.DataArray(np.tile([1.0, 2.0, 3.0, 4.0], 4), coords={"x": 0.5 * np.arange(16)}, dims=["x"])
    >>> float(lag_correlation(image, dim="x").sel(lag_mm=2.0))
    1.0
    """
    check_image("image", image)
    layout = layout_of("image", image)
    if dim not in layout.space:
        raise ValueError(f"dim is {dim!r}, expected one of {layout.space}")
    spacing = grid.spacing_mm(image, (dim,))[dim]
    centred = graph.map_points(
        pairs.centred,
        {"image": image},
        dtype=np.float64,
        numbers={"mean": measure.mean_in(image, mask=mask)},
    )
    given = {
        name: array.chunk({dim: -1}) if array.chunks is not None else array
        for name, array in image_and_mask(centred, mask).items()
    }
    n = image.sizes[dim]
    table = graph.reduce_partials(
        lags.lines,
        given,
        gather=np.concatenate,
        finish=lags.correlations,
        finish_params={"n": n},
        units="1",
        sizes={"what": 2, "lag_mm": n},
        tiled=True,
        params={"axis": layout.space.index(dim)},
    )
    found = table.isel(what=0).assign_coords(
        lag_mm=("lag_mm", spacing * np.arange(n), {"units": "mm"}), n=table.isel(what=1)
    )
    found.attrs = {"units": "1"}
    return found.rename("r")


def _interval(
    r: xr.DataArray, n: xr.DataArray, confidence: float
) -> tuple[xr.DataArray, xr.DataArray]:
    found = xr.apply_ufunc(
        partial(lags.interval, confidence=confidence),
        r,
        n,
        output_core_dims=[["end"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"end": 2}},
        output_dtypes=[np.float64],
    )
    return found.isel(end=0), found.isel(end=1)


def _of_wholes(kernel: Callable[..., float], *arrays: xr.DataArray) -> xr.DataArray:
    """A number that a kernel finds of whole arrays, for every position along leading dims."""
    space = list(layout_of("a", arrays[0]).space)
    return xr.apply_ufunc(
        kernel,
        *arrays,
        input_core_dims=[space] * len(arrays),
        vectorize=True,
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.float64],
    )
