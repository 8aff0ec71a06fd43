"""Clusters of a map above a height: how large, how heavy, and where their peaks are."""

from dataclasses import dataclass

import numpy as np

from cohort.kernels import components


@dataclass(frozen=True)
class Clusters:
    """Components of a map above a height, numbered from 1 in raster order.

    Attributes
    ----------
    labels : (z, y, x) int32
    size : (n,) int64
        Voxels of each.
    mass : (n,) float64
        Sum of what its voxels rise above the height.
    peak : (n,) int64
        Flat index of its highest voxel, the first of several.
    """

    labels: np.ndarray
    size: np.ndarray
    mass: np.ndarray
    peak: np.ndarray


def clusters(heights: np.ndarray, *, above: float, connectivity: int = 1) -> Clusters:
    """Find the clusters of a map; NaN is outside.

    Examples
    --------
    >>> found = clusters(np.array([[[4.0, 5.0, 0.0, 6.0]]]), above=3.0)
    >>> found.size.tolist(), found.mass.tolist(), found.peak.tolist()
    ([2, 1], [3.0, 3.0], [1, 3])
    """
    mask = heights > above
    labels, n = components.label(mask, connectivity=connectivity)
    inside = np.flatnonzero(mask)
    member, values = labels.reshape(-1)[inside], heights.reshape(-1)[inside].astype(np.float64)
    mass = np.bincount(member, values - above, n + 1)[1:]
    order = np.lexsort((inside, -values, member))
    first = np.searchsorted(member[order], np.arange(1, n + 1))
    return Clusters(
        labels=labels,
        size=np.bincount(member, minlength=n + 1)[1:],
        mass=mass,
        peak=inside[order][first] if n else np.empty(0, np.int64),
    )


def largest(heights: np.ndarray, *, above: float, connectivity: int = 1) -> tuple[int, float]:
    """Size of the largest and mass of the heaviest cluster; 0 without any."""
    mask = heights > above
    labels, n = components.label(mask, connectivity=connectivity)
    if not n:
        return 0, 0.0
    inside = np.flatnonzero(mask)
    member = labels.reshape(-1)[inside]
    rises = heights.reshape(-1)[inside].astype(np.float64) - above
    return int(np.bincount(member).max()), float(np.bincount(member, rises).max())


def peaks(heights: np.ndarray, *, above: float, reach: int = 1) -> np.ndarray:
    """Flat indices of the voxels that are the highest within `reach` voxels of each axis, highest first."""
    from scipy import ndimage as ndi

    filled = np.where(np.isnan(heights), -np.inf, heights)
    best = ndi.maximum_filter(filled, size=2 * reach + 1, mode="constant", cval=-np.inf)
    found = np.flatnonzero((filled == best) & (filled > above))
    return found[np.lexsort((found, -filled.reshape(-1)[found]))]
