"""Images as a registration takes them: checked, and at each level coarser if they are finer."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from cohort import grid
from cohort.ops import space
from cohort.ops.layout import check_image, check_mask, layout_of

LEAST_SIZE = 8
"""Voxels along an axis that no level goes below, if the image has them."""
VOXELS = 20_000
"""Of the first level; each further one has eight times as many."""
LEVELS = 3
SMALLEST = 4
"""Voxels along each axis that an image has to have."""


class RegistrationError(ValueError):
    """Images that cannot be registered, or a result that is not to be trusted."""


@dataclass(frozen=True)
class Level:
    """Values, (z, y, x) float32; which voxels count, (z, y, x) bool; voxel indices (x, y, z) -> world."""

    values: np.ndarray
    inside: np.ndarray
    affine: np.ndarray

    def points(self) -> np.ndarray:
        """World positions of the voxels that count, (n, 3)."""
        index = np.stack(np.nonzero(self.inside)[::-1], axis=-1)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Whether each world position, (n, 3), lies in a voxel that counts."""
        voxels = np.linalg.inv(self.affine)
        index = np.rint(points @ voxels[:3, :3].T + voxels[:3, 3])[:, ::-1]
        within = ((index >= 0) & (index < self.inside.shape)).all(axis=1)
        within[within] = self.inside[tuple(index[within].astype(int).T)]
        return within

    @property
    def volume(self) -> float:
        """Of the voxels that count, mm3."""
        return float(self.inside.sum() * abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def centre(self) -> np.ndarray:
        """World position of the middle of the box around the voxels that count."""
        points = self.points()
        return (points.min(axis=0) + points.max(axis=0)) / 2

    @property
    def mass_centre(self) -> np.ndarray:
        """World position of the centre of mass of what is brighter than the mean."""
        values = self.values[self.inside].astype(np.float64)
        weights = np.where(values > values.mean(), values - values.min(), 0.0)
        return weights @ self.points() / weights.sum()


def loaded(
    name: str, image: xr.DataArray, mask: xr.DataArray | None
) -> tuple[xr.DataArray, xr.DataArray]:
    """An image and its mask, checked and in memory."""
    check_image(name, image)
    layout = layout_of(name, image)
    if layout.space != grid.SPACE or layout.lead:
        first = f": {name}.isel({layout.lead[0]}=0)" if layout.lead else ""
        raise RegistrationError(
            f"{name} has dims {image.dims}, expected ('z', 'y', 'x'); register one image of three dims{first}"
        )
    if min(image.shape) < SMALLEST:
        raise RegistrationError(
            f"{name} is {' x '.join(str(n) for n in image.shape)} voxels (z, y, x), expected at least {SMALLEST} along each"
        )
    if mask is None:
        mask = xr.ones_like(image, dtype=np.bool_)
    else:
        check_mask(f"the mask of {name}", mask)
        grid.check_same_grid(**{name: image, f"the mask of {name}": mask})
    image, mask = image.astype(np.float32).compute(), mask.compute()
    check_values(name, image.values, mask.values)
    return image, mask


def check_values(name: str, values: np.ndarray, inside: np.ndarray) -> None:
    """Raise RegistrationError unless all values are finite and those inside differ."""
    if strays := int((~np.isfinite(values)).sum()):
        raise RegistrationError(
            f"{name} has {strays} voxels that are not finite; replace them, as with {name}.fillna(0)"
        )
    if not inside.any():
        raise RegistrationError(f"the mask of {name} is empty")
    if not np.ptp(values[inside]) > 0:
        raise RegistrationError(
            f"{name} is {values[inside][0]:g} in all of its {int(inside.sum())} voxels: there is nothing to bring together"
        )


def spacings_mm(image: xr.DataArray, mask: xr.DataArray, *, finest: float) -> list[float]:
    """Voxels of the levels by default, mm, the coarsest first; the last is the first that is no coarser than `finest`."""
    volume = float(mask.sum()) * abs(np.linalg.det(grid.affine_of(image)[:3, :3]))
    spacings = [float(np.cbrt(volume / (VOXELS * 8**i))) for i in range(LEVELS)]
    return [mm for i, mm in enumerate(spacings) if not i or spacings[i - 1] > finest]


def level_of(image: xr.DataArray, mask: xr.DataArray, spacing_mm: float) -> Level:
    """An image (z, y, x) in memory, brought to voxels of `spacing_mm` where it is finer.

    Axes are turned to the closest canonical ones first, so that flipped and transposed images give the same bits.
    """
    image, mask = (space.reorient(array) for array in (image, mask))
    own = grid.spacing_mm(image)
    wanted = {str(d): _step(spacing_mm, float(mm), image.sizes[str(d)]) for d, mm in own.items()}
    image = space.resample(image, spacing_mm=wanted)
    mask = space.resample(mask, like=image)
    box = {d: _extent(mask.any(dim=[o for o in grid.SPACE if o != d]).values) for d in grid.SPACE}
    image, mask = image.isel(box), mask.isel(box)
    return Level(
        np.asarray(image.values, np.float32), np.asarray(mask.values), grid.affine_of(image)
    )


def _step(wanted: float, own: float, size: int) -> float:
    """Spacing along an axis of `size` voxels: as wanted, if it is coarser and leaves enough voxels."""
    return max(own, min(wanted, own * size / LEAST_SIZE))


def _extent(there: np.ndarray) -> slice:
    found = np.flatnonzero(there)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, there.size)
