"""Distance in mm: from each voxel of a mask to its outside, from each labelled voxel to the outside of its object."""

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import envelopes
from cohort.ops import graph
from cohort.ops.layout import check_labels, check_mask, layout_of


def distance_mm(mask: xr.DataArray) -> xr.DataArray:
    """Distance from each voxel of a mask to the nearest voxel outside, centre to centre.

    Parameters
    ----------
    mask : DataArray, shape (..., z, y, x), bool
        Leading dims are looped over.

    Returns
    -------
    DataArray, shape of `mask`, float64, mm
        0 outside. The border of the image is no outside: a mask without a voxel outside is inf everywhere. Coordinates and
        chunks of `mask`. Nothing is computed if it is lazy.

    Raises
    ------
    ValueError
        If the mask is not bool.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    Equals ``scipy.ndimage.distance_transform_edt(mask, sampling=spacing)`` to the bit, for every chunking (where SciPy is
    built without fused multiplication, as on x86). SciPy gives no distance where there is none.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> mask = xr.DataArray([[False, True, True, True]], dims=["y", "x"])
    >>> distance_mm(mask.assign_coords(y=("y", [0.0], {"spacing_mm": 1.0}), x=np.arange(4) * 2.0)).values.tolist()
    [[0.0, 2.0, 4.0, 6.0]]
    """
    check_mask("mask", mask)
    (found,) = graph.map_lines(
        envelopes.to_outside, {"mask": mask}, dtypes=[np.float64], params=_spacing(mask)
    )
    found.attrs["units"] = "mm"
    return found


def to_other_labels_mm(labels: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Distance from each labelled voxel to the nearest voxel with another label or none, as in `distance_mm`.

    Returns
    -------
    distance : DataArray, shape of `labels`, float64, mm
    labels : DataArray
        The same as came in. With Dask, reading these beside the distance does not keep those that came in from being freed.
    """
    check_labels("labels", labels)
    found, same = graph.map_lines(
        envelopes.to_other_label,
        {"labels": labels},
        dtypes=[np.float64, labels.dtype],
        params=_spacing(labels),
    )
    found.attrs["units"] = "mm"
    return found, same


def _spacing(array: xr.DataArray) -> dict[str, tuple[float, ...]]:
    space = layout_of("mask", array).space
    spacing = grid.spacing_mm(array, space)
    return {"spacing": tuple(spacing[d] for d in space)}
