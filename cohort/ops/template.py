"""The template of a head: the average T1 of 152 adults in MNI space, inside a skull and a scalp of our own.

The average, and its grey and white matter, come from the wheel of nilearn (MNI ICBM152 2009a, [Fonov et al. 2011,
doi:10.1016/j.neuroimage.2010.07.033]). It shows a brain only; registration needs the skull to tell a small brain in a wide
skull from a small head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr
from scipy import ndimage as ndi

from cohort import grid
from cohort.kernels import skull

STEP_MM = 2.0
CENTER_MM = np.array([0.0, -17.0, 5.0])
"""Middle of the skull (x, y, z)."""

_FIRST_MM = (-112, -154, -112)
_SHAPE = (111, 129, 113)
_FLUID, _BONE, _SCALP = 0.25, 0.08, 0.8
"""As bright as white matter times this, in T1-weighted images."""
_BONE_MM, _SCALP_MM = 7.0, 14.0
"""From the inside of the skull to its outside, and to the skin."""


@dataclass(frozen=True)
class Template:
    """Images (z, y, x), float32, on one grid of 2 mm in MNI space."""

    head: xr.DataArray
    """T1-weighted head; white matter is 1."""
    skull_mm: xr.DataArray
    """Signed distance to the intracranial surface, negative inside."""
    grey: xr.DataArray
    """How likely grey matter is, 0 to 1."""
    white: xr.DataArray
    intracranial_ml: float


def averages(extra: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, ...]]:
    """T1 (0 to 1), grey and white matter, (z, y, x) float32 at 1 mm, and the world position z, y, x of the first voxel.

    Raises
    ------
    ModuleNotFoundError
        Without nilearn; the message names the extra that brings it.
    """
    try:
        from nilearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the template of a head comes with nilearn; install it with: pip install 'cohort[{extra}]'",
            name="nilearn",
        ) from error
    images = [
        load(resolution=1)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
        )
    ]
    t1, grey, white = (np.ascontiguousarray(np.asarray(i.dataobj, np.float32).T) for i in images)
    return t1, grey, white, tuple(images[0].affine[2::-1, 3].tolist())


@cache
def template() -> Template:
    """Prepare the template: some seconds, once a process.

    Raises
    ------
    ModuleNotFoundError
        Without nilearn; the message says what to install.
    """
    t1, grey, white, first = averages("brain")
    brain = _on_grid((t1 > 0).astype(np.float32), first) > 0.5
    z = _FIRST_MM[0] + STEP_MM * np.arange(_SHAPE[0])[:, None, None]
    distance = skull.around_brain(brain, z, step_mm=STEP_MM)
    t1, grey, white = (_on_grid(field, first) for field in (t1, grey, white))
    affine = np.diag([STEP_MM] * 3 + [1.0])
    affine[:3, 3] = _FIRST_MM[::-1]
    coords = grid.coordinates(affine, _SHAPE)
    head = _in_skull(t1 / np.median(t1[white > 0.8]), distance)
    fields = (head, distance, np.clip(grey, 0, 1), np.clip(white, 0, 1))
    images = [xr.DataArray(f, dims=grid.SPACE, coords=coords) for f in fields]
    return Template(
        head=images[0],
        skull_mm=images[1],
        grey=images[2],
        white=images[3],
        intracranial_ml=float((distance < 0).sum() * STEP_MM**3 / 1000),
    )


def _on_grid(field: np.ndarray, first: Sequence[float]) -> np.ndarray:
    """Every second voxel of a field of 1 mm, smoothed a little; 0 around it."""
    field = ndi.gaussian_filter(field, 0.7)
    out = np.zeros(_SHAPE, np.float32)
    take, put = [], []
    for start, origin, size, room in zip(_FIRST_MM, first, field.shape, _SHAPE, strict=True):
        skip = int(origin - start) % 2
        at = (int(origin - start) + skip) // 2
        n = min((size - skip + 1) // 2, room - at)
        take.append(slice(skip, skip + 2 * n, 2))
        put.append(slice(at, at + n))
    out[tuple(put)] = field[tuple(take)]
    return out


def _in_skull(t1: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The T1, fluid around it, and rings of bone and scalp."""

    def within(mm: float) -> np.ndarray:
        return np.clip(0.5 + (mm - distance) / STEP_MM, 0, 1)

    inside, bone, scalp = within(0), within(_BONE_MM), within(_SCALP_MM)
    head = np.maximum(t1, _FLUID) * inside
    head += (1 - inside) * (_BONE * bone + _SCALP * (1 - bone) * scalp)
    return head.astype(np.float32)
