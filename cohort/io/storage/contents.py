"""What a variable of a scan says, as one digest: voxels, scaling, unit, dims and where they lie, whatever the header around it."""

import hashlib
from collections.abc import Mapping

import xarray as xr

from cohort import grid, provenance

_SLAB_BYTES = 64 << 20
"""Voxels are digested in slabs of about this size."""


def digests_of(files: Mapping[str, bytes]) -> dict[str, tuple[str, int]]:
    """SHA-256 and bytes of each file."""
    return {name: (hashlib.sha256(c).hexdigest(), len(c)) for name, c in files.items()}


def contents_of(stored: xr.Dataset, dataset: xr.Dataset) -> dict[str, str]:
    """Digest of what each variable but the affine says.

    Parameters
    ----------
    stored : Dataset
        Gives the voxels, as they are stored.
    dataset : Dataset
        Gives all else; may be the same.
    """
    names = [str(name) for name in dataset.data_vars if name != "affine"]
    return {name: _content(stored, dataset, name) for name in names}


def _content(stored: xr.Dataset, dataset: xr.Dataset, name: str) -> str:
    variable, said = stored[name], dataset[name]
    leading = {
        str(d): dataset[d].values for d in said.dims if d not in grid.SPACE and d in dataset.coords
    }
    thick = max(1, int(_SLAB_BYTES * said.shape[0] // max(1, said.nbytes)))
    slabs = (variable[i : i + thick].values for i in range(0, said.shape[0], thick))
    return provenance.digest(
        {
            "voxels": provenance.array_digest(said.dtype, said.shape, slabs),
            "dims": [str(d) for d in said.dims],
            "affine": dataset["affine"].values,
            "leading": leading,
            "attrs": {k: said.attrs.get(k) for k in ("scale_factor", "add_offset", "units")},
        }
    )
