"""Clusters of a map above a height: how large, how heavy, and where their peaks are."""

import itertools
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


def peaks(heights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Flat indices of the voxels that none beside them (of 26) in their own cluster exceeds, highest first.

    The highest voxel of each cluster is among them, whatever lies beside the cluster.

    Parameters
    ----------
    heights : (z, y, x) float
    labels : (z, y, x) int
        Cluster of each voxel, 0 outside; see `Clusters`.

    Examples
    --------
    >>> heights = np.array([[[4.0, 5.0, 0.0], [0.0, 0.0, 6.0]]])
    >>> peaks(heights, clusters(heights, above=3.0).labels).tolist()
    [5, 1]
    """
    cluster, height = np.pad(labels, 1).reshape(-1), np.pad(heights, 1).reshape(-1)
    padded = tuple(n + 2 for n in labels.shape)
    places = np.flatnonzero(labels)
    own = np.ravel_multi_index(tuple(i + 1 for i in np.unravel_index(places, labels.shape)), padded)
    best = np.ones(len(places), bool)
    for z, y, x in itertools.product((-1, 0, 1), repeat=3):
        beside = own + (z * padded[1] + y) * padded[2] + x
        best &= (cluster[beside] != cluster[own]) | (height[beside] <= height[own])
    found = places[best]
    return found[np.lexsort((found, -heights.reshape(-1)[found]))]
