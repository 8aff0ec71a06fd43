"""How every compiled kernel receives an array, so that each is compiled once a dtype and not once a layout."""

import numpy as np

TILE = 64
"""Edge in voxels of the canonical tiles over which floating-point partials are kept and merged."""


def volume(block: np.ndarray) -> np.ndarray:
    """Block of one to three axes as a read-only C-contiguous native (z, y, x) array; bool becomes uint8.

    Missing axes are put in front with one voxel. Half floats become float32, which compiled code knows.
    """
    dtype = np.dtype(np.float32) if block.dtype == np.float16 else block.dtype.newbyteorder("=")
    plain = np.ascontiguousarray(block, dtype=dtype)
    if plain.dtype == np.bool_:
        plain = plain.view(np.uint8)
    plain = plain.reshape((1,) * (3 - block.ndim) + block.shape)
    # A compiled function has one signature for writable and another for read-only arrays: only ever use one.
    view = plain.view()
    view.flags.writeable = False
    return view


def origin_of(origin: tuple[int, ...]) -> tuple[int, int, int]:
    """Origin of a block of one to three axes as that of its `volume`."""
    z, y, x = (0,) * (3 - len(origin)) + tuple(origin)
    return z, y, x
