"""Threshold-free cluster enhancement without a step: the integral over all thresholds, from the tree of components.

A component of the voxels above a threshold keeps its size between two heights of its voxels, so that the integral of
``size^E h^H`` over the threshold is a sum of one term a voxel of the tree.
"""

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume


def enhance(
    heights: np.ndarray,
    *,
    connectivity: int = 1,
    extent_power: float = 0.5,
    height_power: float = 2.0,
    voxel_volume: float = 1.0,
) -> np.ndarray:
    """Enhance a map by the support of each voxel.

    Parameters
    ----------
    heights : (z, y, x) float
        Only what is above 0 counts; NaN is outside.
    connectivity : {1, 2, 3}
        Neighbours share a face, an edge, or a corner.
    extent_power, height_power : float
        E and H of Smith and Nichols 2009, doi:10.1016/j.neuroimage.2008.03.061.
    voxel_volume : float
        Size of a voxel: with mm3 maps of different resolutions can be compared.

    Returns
    -------
    (z, y, x) float64 array
        0 where nothing was above 0. For H = 2, ``enhance(2 t) = 8 enhance(t)``.

    Notes
    -----
    Exact, unlike sums over steps of the threshold (0.2 % off at the peak for a hundredth of the maximum, up to 35 % where
    the map is low). The tree is Berger's (2007, doi:10.1109/ICIP.2007.4379949): voxels join from the highest down, each the
    parent of the components that it touches; equal heights join in raster order and contribute nothing between them.

    Examples
    --------
    A voxel of height 3 beside one of height 1: below 1 both are one component.

    >>> enhance(np.array([[[3.0, 1.0, 0.0]]]), extent_power=1.0, height_power=0.0).tolist()
    [[[4.0, 2.0, 0.0]]]
    """
    block = volume(heights)
    values = np.where(block > 0, block, 0).astype(np.float64)
    flat = values.reshape(-1)
    above = np.flatnonzero(flat)
    order = above[np.argsort(-flat[above], kind="stable")]
    place = np.full(flat.size, -1, np.int64)
    place[order] = np.arange(len(order))
    out = np.zeros(flat.size)
    if len(order):
        out[order] = _tree(
            flat[order],
            order,
            place,
            np.array(values.shape, np.int64),
            offsets(connectivity),
            float(extent_power),
            float(height_power),
            float(voxel_volume),
        )
    return out.reshape(heights.shape)


def offsets(connectivity: int) -> np.ndarray:
    """Steps (z, y, x) to the neighbours of a voxel: 6, 18 or 26."""
    steps = np.array(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij")).reshape(3, -1).T
    axes = np.abs(steps).sum(axis=1)
    return np.ascontiguousarray(steps[(axes > 0) & (axes <= connectivity)].astype(np.int64))


@njit(cache=True, nogil=True)
def _tree(heights, voxels, place, shape, steps, power, rise, unit):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Scores of voxels in falling order of height; all indices but `voxels` are ranks in that order."""
    n = len(heights)
    parent, root = np.arange(n), np.arange(n)
    size = np.ones(n)
    nz, ny, nx = shape
    for rank in range(n):
        flat = voxels[rank]
        x, y, z = flat % nx, flat // nx % ny, flat // (nx * ny)
        for step in range(len(steps)):
            a, b, c = z + steps[step, 0], y + steps[step, 1], x + steps[step, 2]
            if a < 0 or a >= nz or b < 0 or b >= ny or c < 0 or c >= nx:
                continue
            other = place[(a * ny + b) * nx + c]
            if other < 0 or other >= rank:
                continue
            top = other
            while root[top] != top:
                root[top] = root[root[top]]
                top = root[top]
            if top != rank:
                parent[top] = rank
                root[top] = rank
                size[rank] += size[top]
    score = np.empty(n)
    for rank in range(n - 1, -1, -1):
        up = heights[rank] ** (rise + 1)
        before, down = 0.0, 0.0
        if parent[rank] != rank:
            before = score[parent[rank]]
            down = heights[parent[rank]] ** (rise + 1)
        score[rank] = before + (size[rank] * unit) ** power * (up - down) / (rise + 1)
    return score
