"""An empty volume on canonical axes, and the same memory seen in the order in which a file stores it.

Readers write each slice straight to where it will stay: no second copy of a volume is made to flip or transpose it.
"""

from collections.abc import Sequence

import nibabel as nib
import numpy as np

from cohort import grid


def canvas(
    shape: Sequence[int], affine: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Allocate a canonical volume for voxels that come in stored order.

    Parameters
    ----------
    shape : sequence of int
        Stored order, (..., z, y, x); leading axes stay where they are.
    affine : (4, 4) array
        Stored voxel indices (x, y, z) -> world RAS+ mm.
    dtype : dtype
        Of the voxels, native byte order.

    Returns
    -------
    stored : (..., z, y, x) view
        What is written here in stored order ...
    canonical : (..., z, y, x) array, C-contiguous
        ... is found here on canonical axes; uninitialised until then.
    affine : (4, 4) float64 array
        Of `canonical`. Both equal what ``grid.canonical`` gives for the same voxels.

    Raises
    ------
    GridError
        If the affine is singular.

    Examples
    --------
    >>> stored, canonical, affine = canvas((1, 1, 3), np.diag([-2.0, 1.0, 1.0, 1.0]), np.dtype(int))
    >>> stored[...] = [1, 2, 3]
    >>> canonical.tolist(), affine[0].tolist()
    ([[[3, 2, 1]]], [2.0, 0.0, 0.0, -4.0])
    """
    probe, new_affine = grid.canonical(np.broadcast_to(np.uint8(0), shape), affine)
    result = np.empty(probe.shape, dtype)
    lead = result.ndim - 3
    orientation: np.ndarray = nib.io_orientation(np.asarray(affine, float))
    stored = result
    # Axis k of the file (x, y, z) is axis target[k] of the result; arrays hold z, y, x.
    target = orientation[:, 0].astype(int)
    stored = stored.transpose([*range(lead), *(lead + 2 - int(target[k]) for k in (2, 1, 0))])
    for axis in range(3):
        if orientation[axis, 1] < 0:
            stored = np.flip(stored, axis=lead + 2 - axis)
    return stored, result, new_affine
