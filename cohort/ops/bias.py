"""The slow change of brightness over an image that the coils of a scanner leave, found and divided out."""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from cohort import grid
from cohort.ops import itk, levels
from cohort.ops.layout import check_image, check_mask, layout_of

_ORDER = 3
"""Of the B-splines."""
_FITTINGS = 4
"""Times that knots are set, each time half as far apart; less if the image is small."""
_LEAST_SIZE = 4
"""Voxels along an axis that are left of the image at least, if it has them."""


def correct_bias(
    image: xr.DataArray,
    mask: xr.DataArray | None = None,
    *,
    shrink: int = 4,
    knots_mm: float = 30.0,
    iterations: int = 50,
) -> xr.DataArray:
    """Divide an image by its bias field (N4); see `bias_field`.

    Returns
    -------
    DataArray, shape (..., z, y, x), float32 (float64 for float64)
        ``image / bias_field(image, mask, ...)``: positive where the image is, 0 where it is 0. The geometric mean of what the field was found
        from stays what it was. In memory; unit, coordinates and attributes of `image`.

    Raises
    ------
    ValueError
        As `bias_field`.
    GridError
        If a coordinate is missing or irregular, or the mask lies on another grid.
    """
    field = bias_field(image, mask, shrink=shrink, knots_mm=knots_mm, iterations=iterations)
    dtype = np.float64 if image.dtype == np.float64 else np.float32
    return image.copy(deep=False, data=np.asarray(image.values / field.values, dtype))


def bias_field(
    image: xr.DataArray,
    mask: xr.DataArray | None = None,
    *,
    shrink: int = 4,
    knots_mm: float = 30.0,
    iterations: int = 50,
) -> xr.DataArray:
    """Find the smooth factor by which an image is too bright or too dark (N4).

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        Two or three spatial dims; every position along leading dims has a field of its own. Lazy ones are computed.
    mask : DataArray, bool, optional
        Where the field is found; by default where the image is above its Otsu threshold. Voxels that are not positive do not count.
    shrink : int, 1 or more
        Along the axis with the smallest voxels every so many-th is looked at, along the others about as many mm apart.
    knots_mm : float, > 0
        How far apart the knots of the field are in the end: the smaller, the faster it may change.
    iterations : int, 1 or more
        At most, each time that knots are set.

    Returns
    -------
    DataArray, shape of `image`, float32
        Positive everywhere; its geometric mean over the voxels that count is 1. In memory, without a unit.

    Raises
    ------
    ValueError
        If the image has another number of spatial dims, one voxel along one of them or values that are not finite, nothing in it counts, all that counts has one
        value, the mask is not bool, or an option out of its range.
    GridError
        If a coordinate is missing or irregular, or the mask lies on another grid.

    Notes
    -----
    SimpleITK's N4BiasFieldCorrectionImageFilter [Tustison et al. 2010, doi:10.1109/TMI.2010.2046908] on one thread: the same bits on any
    machine of a kind. Only steps along axes count, so oblique and sheared grids are as good as any.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> z, y, x = np.ogrid[:40, :40, :40]
    >>> head = np.where((z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 250, 100.0 + 40 * (z % 8 < 4), 0)
    >>> image = xr.DataArray(head * np.exp((x - 20) / 100), coords={d: 2.0 * np.arange(40) for d in "zyx"}, dims=list("zyx"))
    >>> found = bias_field(image)
    >>> bool(found[20, 20, 34] > 1.1), bool(found[20, 20, 6] < 0.9)
    (True, True)
    """
    check_image("image", image)
    layout = layout_of("image", image)
    if len(layout.space) < 2:
        raise ValueError(f"image has the spatial dims {layout.space}, expected two or three")
    if flat := [str(d) for d in layout.space if image.sizes[d] < 2]:
        raise ValueError(
            f"image has 1 voxel along {', '.join(flat)}, expected at least 2 along each spatial dim; of a single slice the field"
            f" is found with image.isel({flat[0]}=0, drop=True)"
        )
    for name, number in (("shrink", shrink), ("iterations", iterations)):
        if isinstance(number, bool) or number != int(number) or number < 1:
            raise ValueError(f"{name} is {number!r}, expected a whole number of at least 1")
    if not 0 < knots_mm < math.inf:
        raise ValueError(f"knots_mm is {knots_mm}, expected a positive number")
    spacing = [float(mm) for mm in grid.spacing_mm(image, layout.space).values()]
    if mask is not None:
        check_mask("mask", mask)
        grid.check_same_grid(image=image, mask=mask)
        mask = mask.broadcast_like(image).transpose(*image.dims).compute()
    image = image.compute()
    field = np.empty(image.shape, np.float32)
    for index in np.ndindex(*(image.sizes[d] for d in layout.lead)):
        at = dict(zip(layout.lead, index, strict=True))
        one = image.isel(at)
        where = (one > levels.otsu(one)) if mask is None else mask.isel(at)
        field[index] = _field(one.values, where.values, spacing, shrink, knots_mm, iterations)
    found = image.copy(deep=False, data=field)
    found.attrs = {"units": "1"}
    return found.rename("bias_field")


def _field(
    values: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    shrink: int,
    knots_mm: float,
    iterations: int,
) -> np.ndarray:
    """Bias field of one position along leading dims."""
    import SimpleITK as sitk

    values = np.asarray(values, np.float32)
    if strays := int((~np.isfinite(values)).sum()):
        raise ValueError(
            f"image has {strays} voxels that are not finite; replace them, as with image.fillna(0)"
        )
    # Each axis keeps every so many-th voxel, from the middle of the first few.
    steps = [max(1, round(shrink * min(spacing) / mm)) for mm in spacing]
    steps = [min(s, max(1, n // _LEAST_SIZE)) for s, n in zip(steps, values.shape, strict=True)]
    some = tuple(slice(s // 2, None, s) for s in steps)
    counts = mask & (values > 0)
    if not counts[some].any():
        raise ValueError(
            f"image has {int(counts.sum())} positive voxels in its mask, {int(counts[some].sum())} of them among every "
            f"{' x '.join(map(str, steps))}-th: there is no field to be found"
        )
    if np.ptp(values[some][counts[some]]) == 0:
        raise ValueError(
            f"image is {values[counts][0]:g} all over its mask: there is no field to be found"
        )
    size_mm = [n * mm for n, mm in zip(values.shape, spacing, strict=True)][::-1]
    pieces = [max(1.0, mm / knots_mm) for mm in size_mm]
    fittings = min(_FITTINGS, 1 + math.floor(math.log2(max(pieces))))
    controls = [max(1, round(p / 2 ** (fittings - 1))) + _ORDER for p in pieces]
    with itk.one_thread():
        whole = sitk.GetImageFromArray(values)
        whole.SetSpacing(spacing[::-1])
        few, inside = (
            sitk.GetImageFromArray(np.ascontiguousarray(a[some]))
            for a in (values, counts.astype(np.uint8))
        )
        for part in (few, inside):
            part.SetSpacing([s * mm for s, mm in zip(steps, spacing, strict=True)][::-1])
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations([int(iterations)] * fittings)
        n4.SetNumberOfControlPoints(controls)
        n4.SetSplineOrder(_ORDER)
        n4.Execute(few, inside)
        log = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole))
    return np.exp(log - np.float32(log[counts].mean(dtype=np.float64)))
