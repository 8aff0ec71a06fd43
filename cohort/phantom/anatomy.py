"""The anatomy all heads are bent from: smooth fields on one grid of 2 mm, prepared once a process.

Brain, grey and white matter come from the averages of 152 heads (MNI152, 1 mm) which the wheel of nilearn
carries. Skull, scalp, face, neck and air are shapes of our own around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage as ndi

from cohort.kernels.skull import around_brain
from cohort.ops.template import averages

STEP_MM = 2.0
FIRST_MM = (-164.0, -156.0, -112.0)
"""World position (z, y, x) of the first voxel of the fields."""
SHAPE = (142, 141, 113)
SCALP_MM = 14.0
"""From the intracranial surface to the skin of the vault, before scaling."""
CAPSULE_MM = (46.0, 68.0, 34.0)
"""A vitamin capsule taped to the right side of the forehead, as at the scanner: it tells right from left."""

_CANAL_MM = 5.5
"""Radius of the canal through which the cord leaves the skull."""


@dataclass(frozen=True)
class Anatomy:
    """Fields of shape `SHAPE` (z, y, x), float32, to be sampled anywhere."""

    skull: np.ndarray
    """Signed distance to the intracranial surface, mm; negative inside."""
    brain: np.ndarray
    """Rank of being brain and not fluid: atrophy takes the voxels that rank lowest."""
    white: np.ndarray
    """Rank of being white and not grey matter."""
    muscle: np.ndarray
    """Share of soft tissue, outside the skull."""
    fat: np.ndarray
    """Share of fat, outside the skull."""
    canal: np.ndarray
    """1 where the cord passes through the skull."""
    intracranial_ml: float


@cache
def anatomy() -> Anatomy:
    """Prepare the fields: two seconds, once a process.

    Raises
    ------
    ModuleNotFoundError
        Without nilearn; the message says what to install.
    """
    t1, grey, white, first = averages("demo")
    tissue = _on_grid(grey + white, first, blur=0.8)
    lobes = _on_grid(grey + white, first, blur=3.0)
    # Grey matter is 0.65 in the template: below, the darker a voxel, the more it lies in a sulcus.
    sulci = _on_grid(np.minimum(t1 / np.float32(0.62), 1), first, blur=0.8)
    brain = _on_grid((t1 > 0).astype(np.float32), first) > 0.5
    skull = around_brain(brain, _positions()[0], step_mm=STEP_MM)
    muscle, fat, canal = _outside(skull)
    return Anatomy(
        skull=skull,
        brain=tissue + np.float32(0.5) * lobes + sulci,
        white=_on_grid(white - grey, first, blur=0.8),
        muscle=muscle,
        fat=fat,
        canal=canal,
        intracranial_ml=float((skull < 0).sum() * STEP_MM**3 / 1000),
    )


def _on_grid(field: np.ndarray, first: Sequence[float], *, blur: float = 0.0) -> np.ndarray:
    """Every second voxel of a field of 1 mm whose first voxel lies at `first`, both z, y, x; 0 around it."""
    if blur:
        field = ndi.gaussian_filter(field, blur)
    out = np.zeros(SHAPE, np.float32)
    take, put = [], []
    for start, origin, size in zip(FIRST_MM, first, field.shape, strict=True):
        offset = int(origin - start)
        skip = offset % 2
        at = (offset + skip) // 2
        take.append(slice(skip, None, 2))
        put.append(slice(at, at + (size - skip + 1) // 2))
    out[tuple(put)] = field[tuple(take)]
    return out


def _positions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World coordinates z, y, x, mm, as open grids."""
    z, y, x = (
        first + STEP_MM * np.arange(n, dtype=np.float32)
        for first, n in zip(FIRST_MM, SHAPE, strict=True)
    )
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _ellipsoid(center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Signed distance, near the surface, to an ellipsoid given in (x, y, z), mm."""
    parts = zip(_positions()[::-1], center, radii, strict=True)
    return (np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in parts)) - 1) * min(radii)


def _outside(skull: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of muscle and of fat around the skull, and the canal of the cord."""
    z, y, x = _positions()
    neck = np.maximum(np.hypot(x / 58, (y + 38) / 64) * 58 - 58, z + 45)
    face = _ellipsoid((0, 38, -66), (56, 50, 62))
    nose = _ellipsoid((0, 88, -58), (11, 16, 18))
    skin = ndi.gaussian_filter(np.minimum.reduce([skull - SCALP_MM, neck, face, nose]), 2.0)
    eyes = np.minimum(
        _ellipsoid((33, 74, -32), (12, 12, 12)), _ellipsoid((-33, 74, -32), (12, 12, 12))
    )
    air = np.minimum.reduce(
        [
            _ellipsoid((0, 60, -60), (7, 28, 20)),
            _ellipsoid((28, 56, -66), (13, 16, 16)),
            _ellipsoid((-28, 56, -66), (13, 16, 16)),
            np.maximum(np.hypot(x, (y - 8) / 1.2) - 9, z + 70),
        ]
    )
    cord = np.hypot(x, y + 44) - _CANAL_MM
    spine = np.maximum(np.hypot(x, y + 36) - 20, z + 72)
    # Skin, 2 mm, shines like muscle; under it lies fat, and behind the eyes.
    fat = _share(skin + 2) * np.maximum(_share(-skin - 5.5), _share(eyes - 5))
    muscle = _share(skin) - fat
    dark = np.maximum.reduce(
        [_share(air), 0.85 * _share(spine) * _share(-cord), 0.6 * _share(eyes)]
    )
    capsule = _share(_ellipsoid(CAPSULE_MM, (7, 7, 7)))
    fat = np.maximum(fat * (1 - dark), capsule)
    muscle = np.minimum(muscle * (1 - dark), 1 - fat)
    canal = np.broadcast_to(_share(np.maximum(cord, z + 40)), SHAPE)
    return muscle.astype(np.float32), fat.astype(np.float32), canal.astype(np.float32)


def _share(distance: np.ndarray) -> np.ndarray:
    """Share of a voxel that lies within a surface at signed `distance`, mm, from its centre."""
    return np.clip(0.5 - distance / STEP_MM, 0, 1)
