"""What a scan Dataset holds: its variables, their dims, units and kinds of dtype.

One frozen spec a variable serves validation and documentation alike. A Dataset as read from a file holds the
scanner's own integers with the CF attributes ``scale_factor`` and ``add_offset`` (`encoded`); a Dataset as
`io.store.open_scan` gives it holds the numbers themselves, float32 (`decode`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from cohort import grid

FORMAT_VERSION = 1
"""Version of the layout of scans on disk; raised when an old reader could misread a new store."""


@dataclass(frozen=True)
class Variable:
    """One variable of a scan Dataset."""

    name: str
    kinds: str
    """Allowed kinds of dtype, as in ``numpy.dtype.kind``."""
    meaning: str


VARIABLES: Mapping[str, Variable] = {
    v.name: v
    for v in (
        Variable("image", "iuf", "Intensities on the scan's grid; attribute `units` (HU, 1, ...)."),
        Variable("mask", "b", "True where something is."),
        Variable("labels", "iu", "Numbered objects; 0 is background."),
        Variable(
            "affine",
            "f",
            "Voxel indices (x, y, z) -> world RAS+ mm; dims (affine_row, affine_column).",
        ),
    )
}
AFFINE_DIMS = ("affine_row", "affine_column")
LEADING_DIMS = ("time", "echo")
"""Dims that may stand before z, y, x."""


class SchemaError(ValueError):
    """A Dataset that is no scan; the message lists every problem."""


def make_scan(
    image: np.ndarray,
    affine: np.ndarray,
    *,
    leading: Mapping[str, xr.Variable] | None = None,
    image_attrs: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Assemble a scan Dataset.

    Parameters
    ----------
    image : (..., z, y, x) array
        Leading axes are named by `leading`, in order.
    affine : (4, 4) array
        Voxel indices (x, y, z) -> world RAS+ mm.
    leading : mapping of dim -> Variable
        Coordinates of leading axes, for example ``{"time": Variable("time", seconds, {"units": "s"})}``.
    image_attrs, attrs : mapping
        Attributes of ``image`` (``units``, ``scale_factor``, ``add_offset``) and of the Dataset.

    Returns
    -------
    Dataset
        With ``image``, ``affine`` and the coordinates z, y, x, grid (and the leading ones).
    """
    leading = dict(leading or {})
    dims = (*leading, *grid.SPACE)
    coords = {**leading, **grid.coordinates(affine, image.shape[-3:])}
    return xr.Dataset(
        {
            "image": (dims, image, dict(image_attrs or {})),
            "affine": (AFFINE_DIMS, np.asarray(affine, float)),
        },
        coords=coords,
        attrs=dict(attrs or {}),
    )


def decode(variable: xr.DataArray) -> xr.DataArray:
    """Stored integers to numbers: float32, float64 for float64 sources; masks and labels pass unchanged."""
    if variable.name in ("labels", "mask") or variable.dtype.kind == "b":
        return variable
    attrs = dict(variable.attrs)
    scale, offset = float(attrs.pop("scale_factor", 1.0)), float(attrs.pop("add_offset", 0.0))
    decoded = variable.copy(
        data=decode_array(np.asarray(variable.values), scale=scale, offset=offset)
    )
    decoded.attrs = attrs
    return decoded


def decode_array(stored: np.ndarray, *, scale: float, offset: float) -> np.ndarray:
    """``stored * scale + offset``, computed in float64 and rounded once to float32 (float64 for float64)."""
    if stored.dtype == np.float64:
        return stored * scale + offset if (scale, offset) != (1.0, 0.0) else stored
    if (scale, offset) == (1.0, 0.0):
        return stored.astype(np.float32, copy=False)
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and stored.size > 1 << 16:
        # Every value there can be, once: a table of at most 65,536 numbers beats arithmetic on the volume.
        bits = 8 * stored.dtype.itemsize
        every = np.arange(1 << bits, dtype=f"u{stored.dtype.itemsize}")
        table = (every.view(stored.dtype).astype(np.float64) * scale + offset).astype(np.float32)
        native = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
        return table[native.view(every.dtype)]
    return (stored.astype(np.float64) * scale + offset).astype(np.float32)


def check(dataset: xr.Dataset) -> None:
    """Raise `SchemaError` that lists every way in which `dataset` is not a scan Dataset."""
    problems: list[str] = []
    if "image" not in dataset:
        problems.append("no variable 'image'")
    for name, variable in dataset.data_vars.items():
        spec = VARIABLES.get(str(name))
        if spec and variable.dtype.kind not in spec.kinds:
            problems.append(f"{name} is {variable.dtype}, expected one of kind {spec.kinds!r}")
        if name == "affine":
            if variable.dims != AFFINE_DIMS or variable.shape != (4, 4):
                problems.append(
                    f"affine has dims {variable.dims} and shape {variable.shape}, expected (4, 4)"
                )
            continue
        lead = variable.dims[:-3]
        if variable.dims[-3:] != grid.SPACE:
            problems.append(f"{name} has dims {variable.dims}, expected (..., 'z', 'y', 'x')")
        elif unknown := [d for d in lead if d not in LEADING_DIMS]:
            problems.append(f"{name} has leading dims {unknown}, known are {list(LEADING_DIMS)}")
        if 0 in variable.shape:
            problems.append(f"{name} is empty: shape {variable.shape}")
    for dim in grid.SPACE:
        try:
            grid.spacing_mm(dataset, (dim,))
        except grid.GridError as error:
            problems.append(str(error))
    if "grid" not in dataset.coords:
        problems.append("no scalar coordinate 'grid' with the affine")
    if problems:
        raise SchemaError("not a scan: " + "; ".join(problems))
