"""How a filter walks along an axis: lines side by side, and which voxel stands for one beyond the border."""

import numpy as np
from numba import njit

LANES = 128
"""Lines that a pass filters at once: enough for vector instructions, few enough to stay in the cache."""


def window(size: int) -> tuple[int, int]:
    """Voxels before and after the centre in a window of `size`, as SciPy has them: an even one looks back further."""
    return size // 2, size - 1 - size // 2


def beyond(n: int, before: int, after: int, mode: str) -> np.ndarray:
    """Index of the voxel that stands at each position from ``-before`` to ``n + after - 1``; -1 stands for 0.

    >>> [beyond(3, 2, 2, m).tolist() for m in ("reflect", "mirror", "constant")]
    [[1, 0, 0, 1, 2, 2, 1], [2, 1, 0, 1, 2, 1, 0], [-1, -1, 0, 1, 2, -1, -1]]
    """
    place = np.arange(-before, n + after)
    if mode == "reflect":
        place %= 2 * n
        return np.where(place < n, place, 2 * n - 1 - place)
    if mode == "mirror":
        around = max(1, 2 * n - 2)
        place %= around
        return np.where(place < n, place, around - place)
    if mode == "nearest":
        return place.clip(0, n - 1)
    if mode == "wrap":
        return place % n
    place[(place < 0) | (place >= n)] = -1
    return place


def lines(block: np.ndarray, axis: int) -> np.ndarray:
    """View (outer, n, lanes) of a C-contiguous block, n along `axis`: what a pass along that axis works on, in place."""
    n = block.shape[axis]
    if axis == block.ndim - 1:
        return block.reshape(-1, n).T[np.newaxis]
    return block.reshape(int(np.prod(block.shape[:axis])), n, -1)


@njit(cache=True, nogil=True)
def row(block, at, place, before, first, out) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Take as many voxels as `out` holds from row `at` (z, y) of a block, from position `first` of `place` on.

    The voxels of the row itself stand from position `before` on.
    """
    z, y = at
    zero = block.dtype.type(0)  # of uint64 and a plain 0 compiled code would make float64
    if z < 0 or y < 0:
        out[:] = 0
        return
    low = min(out.size, max(0, before - first))
    high = max(low, min(out.size, before + block.shape[2] - first))
    for i in range(low):
        x = place[first + i]
        out[i] = block[z, y, x] if x >= 0 else zero
    own, into = block[z, y, low + first - before :], out[low:high]
    for i in range(into.size):
        into[i] = own[i]
    for i in range(high, out.size):
        x = place[first + i]
        out[i] = block[z, y, x] if x >= 0 else zero
