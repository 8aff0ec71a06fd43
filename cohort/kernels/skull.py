"""The surface of the intracranial space: where it lies around a brain, and where an image shows it.

A surface is a signed distance in mm, negative inside.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage as ndi

CLOSING_MM = 9.0
"""Sulci and the spaces between lobes that are narrower than twice this belong to the inside."""
FLUID_MM = 1.3
"""Of fluid between the brain, so closed, and the bone."""
FORAMEN_Z_MM = -61.0
"""Height in MNI space at which the cord leaves the skull."""

_ROUNDS = ((4.0, 10.0), (3.0, 8.0), (2.5, 6.0), (2.5, 5.0), (2.5, 5.0), (2.5, 4.0))
"""Half width of the band in which a round looks at voxels, and the sigma within which it sums them up, mm. The inner table of
the skull is about 3 mm thick; behind it lies marrow, as bright as brain."""
_STEP_MM = 1.5
"""That the surface moves at most in a round."""


def around_brain(brain: np.ndarray, z_mm: np.ndarray, *, step_mm: float) -> np.ndarray:
    """Surface around a brain in MNI space: the brain closed, cut at the foramen magnum, and a little fluid around it.

    Parameters
    ----------
    brain : (z, y, x) bool
        Of cubic voxels, far from the border.
    z_mm : array that broadcasts against it
        Height of its voxels.
    step_mm : float
        Size of a voxel.

    Returns
    -------
    (z, y, x) float32 array, mm
    """
    near = ndi.distance_transform_edt(~brain, sampling=step_mm) <= CLOSING_MM
    closed = ndi.distance_transform_edt(near, sampling=step_mm) > CLOSING_MM
    closed &= z_mm > FORAMEN_Z_MM
    core = ndi.distance_transform_edt(closed, sampling=step_mm) > 10
    inside = ndi.distance_transform_edt(~core, sampling=step_mm) <= 10 + FLUID_MM
    outward = ndi.distance_transform_edt(~inside, sampling=step_mm)
    inward = ndi.distance_transform_edt(inside, sampling=step_mm)
    return ndi.gaussian_filter((outward - inward).astype(np.float32), 1.5)


def solid(values: np.ndarray) -> np.ndarray:
    """The largest thing that stands out from the background, (z, y, x) bool: a head."""
    bright = ndi.binary_opening(values > 0.15 * np.percentile(values, 99.5))
    labels, n = ndi.label(bright)
    if not n:
        return np.zeros(values.shape, np.bool_)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()


def intensities(values: np.ndarray, distance: np.ndarray) -> tuple[float, float, float]:
    """Intensity of bone, fluid and white matter of a T1-weighted head, from a surface that lies within some mm.

    Bone is what the dark fifth of a shell around the surface reaches; fluid the darkest of three Gaussians inside of it. NaN
    where there is no voxel to tell.
    """
    within, shell = values[distance < -3], values[(distance > 1) & (distance < 6)]
    within = np.sort(within[within > 0])[:: 1 + within.size // 20_000].astype(np.float64)
    if within.size < 100 or not shell.size:
        return (float("nan"),) * 3
    white = np.percentile(within, 85)
    means, spreads = np.array([0.28, 0.62, 1.0]) * white, np.full(3, 0.08 * white)
    weights = np.full(3, 1 / 3)
    for _ in range(25):
        share = weights / spreads * np.exp(-0.5 * ((within[:, None] - means) / spreads) ** 2)
        share /= share.sum(axis=1, keepdims=True) + 1e-30
        count = share.sum(axis=0) + 1e-9
        means = (share * within[:, None]).sum(axis=0) / count
        off = (within[:, None] - means) ** 2
        spreads = np.sqrt((share * off).sum(axis=0) / count) + 0.01 * white
        weights = count / within.size
    return float(np.percentile(shell, 20)), float(means[0]), float(means[2])


def refined(
    values: np.ndarray,
    distance: np.ndarray,
    reach: np.ndarray,
    *,
    level: float,
    spacing: Sequence[float],
) -> np.ndarray:
    """Surface moved to where an image passes a level, bright inside, dark outside.

    Parameters
    ----------
    values, distance : (z, y, x) arrays
        The image, and the surface to begin from.
    reach : (z, y, x) array, mm
        How far outwards the surface may move: little where no bone holds it.
    level : float
    spacing : three floats, mm

    Returns
    -------
    (z, y, x) float32 array, mm

    Notes
    -----
    In a band around the surface, the share of bright voxels tells by how much it is off: none if half of them are. The shares
    are summed up over a few mm, so that neither noise nor a vessel moves it, and no voxel is the smallest step.
    """
    out = np.full(values.shape, distance.max(), np.float32)
    box = ndi.find_objects((distance < 14).view(np.uint8))[0]
    start = distance[box].astype(np.float32)
    bright, farthest = (values[box] > level).astype(np.float32), reach[box]
    voxel = np.float32(np.cbrt(np.prod(spacing)))
    surface = start.copy()
    for width, sigma in _ROUNDS:
        widths = [sigma / mm for mm in spacing]
        band = np.clip(np.float32(0.5) + (np.float32(width) - np.abs(surface)) / voxel, 0, 1)
        there = ndi.gaussian_filter(band, widths, truncate=3)
        lit = ndi.gaussian_filter(band * bright, widths, truncate=3)
        share = np.where(there > 1e-3, lit / np.maximum(there, np.float32(1e-3)), 0.5)
        move = np.clip((share - 0.5) * 2 * width, -_STEP_MM, _STEP_MM)
        surface = np.clip(surface - move.astype(np.float32), start - farthest, start + 10)
    out[box] = surface
    return out
