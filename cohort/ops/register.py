"""Registration: which rigid or affine transform brings one image onto another, and whether to believe it.

Runs whole, at once, on one thread: the same arrays give the same bits, however they are chunked and wherever they run.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from cohort import grid
from cohort.ops import itk, pyramid
from cohort.ops.layout import check_image, check_mask, layout_of
from cohort.ops.pyramid import Level

Start = Literal["moments", "centers", "world"] | np.ndarray

_FIRST = {"affine": "similarity"}
"""What the first level searches for instead: twelve numbers are too many for its few voxels."""
_COMMON = 0.05
"""A start at which the images have less in common leads nowhere."""
_NO_BETTER = 1e-3
"""By which share of itself the metric may be worse than at the start."""
_LEAST_SIZE = 4
"""Voxels along each axis."""


class RegistrationError(ValueError):
    """Images that cannot be registered, or a result that is not to be trusted."""


@dataclass(frozen=True, eq=False)
class Registration:
    """What `register` found."""

    matrix: np.ndarray
    """(4, 4) float64, moving world -> fixed world, RAS+ mm: ``space.affine(moving, matrix, like=fixed)``. NaN if the
    search broke off."""
    metric_before: float
    """At the start, over all voxels of the last level; lower is better, as in SimpleITK: mutual information is counted negative
    (nats), so is the square of the correlation."""
    metric: float
    """The same, at the end."""
    overlap: float
    """Share, 0 to 1, of the smaller image (or its mask) that lies within the other."""
    determinant: float
    """Volume of the moved image over that of the moving one."""
    iterations: tuple[int, ...]
    """Of each level, the coarsest first."""
    stop: str
    """Why the search ended at the last level, in SimpleITK's words."""
    verdict: Literal["accepted", "rejected"]
    reason: str
    """Why it was rejected; empty if it was not."""

    @property
    def accepted(self) -> bool:
        """Whether the matrix may be used."""
        return self.verdict == "accepted"

    def checked(self) -> np.ndarray:
        """The matrix; raises RegistrationError, with the reason, unless it is accepted."""
        if not self.accepted:
            raise RegistrationError(f"the registration is not to be trusted: {self.reason}")
        return self.matrix


def register(
    moving: xr.DataArray,
    fixed: xr.DataArray,
    *,
    transform: Literal["rigid", "similarity", "affine"] = "rigid",
    metric: Literal["mutual_information", "correlation", "mean_squares"] = "mutual_information",
    moving_mask: xr.DataArray | None = None,
    fixed_mask: xr.DataArray | None = None,
    start: Start | Sequence[Start] = "moments",
    levels_mm: Sequence[float] | None = None,
    scale_range: tuple[float, float] = (0.5, 2.0),
    least_overlap: float = 0.25,
) -> Registration:
    """Find the transform that brings one image onto another.

    Parameters
    ----------
    moving, fixed : DataArray, shape (z, y, x), any real dtype
        Each on its own grid, oblique, flipped, anisotropic or sheared; in memory or lazy, they are computed.
    transform : {"rigid", "similarity", "affine"}
        Turns and shifts; and one scale; and any linear map.
    metric : {"mutual_information", "correlation", "mean_squares"}
        What is compared: for two contrasts (Mattes, 32 bins), for values that agree up to gain and offset, for equal values.
    moving_mask, fixed_mask : DataArray, bool, optional
        On the grid of either image: voxels outside do not count.
    start : {"moments", "centers", "world"}, (4, 4) array, or a sequence of these
        Moving world -> fixed world, from where to search: centre of mass on centre of mass, centre of the grid on centre of the grid,
        no move, or a matrix, whose scale and shear a rigid search keeps. Of several, the one whose first level ends best goes on.
    levels_mm : sequence of float, optional
        Voxels to which both images are resampled, one level after the other, where they are finer. By default three levels of 20,000
        voxels and 8 and 64 times as many in the box around the fixed image (or mask): 8, 4 and 2 mm for a head.
    scale_range : two floats
        How much any direction may shrink or grow before the result is rejected.
    least_overlap : float, 0 to 1
        Below which `Registration.overlap` it is rejected.

    Returns
    -------
    Registration
        Rejected, with the reason, if the metric is no better than at the start (nor was the start the best), the scale or the overlap
        out of range, or the search broke off.

    Raises
    ------
    RegistrationError
        If an image has not three dims, is too small, holds one value only or values that are not finite, a mask is empty, or the images
        have nothing in common at any start.
    ValueError
        If a mask is not bool or an option not one of those above.
    GridError
        If a coordinate is missing or irregular, or a mask lies on another grid than its image.

    Notes
    -----
    SimpleITK's ImageRegistrationMethod, on one thread with fixed seeds; a search by steps of regular length, in units in which a
    turn by one radian and the root mean square radius of the fixed image are 1. A sheared grid, which ITK does not know, is resampled
    to one at right angles.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> z, y, x = np.ogrid[:32, :32, :32]
    >>> ball = np.exp(-((z - 15) ** 2 / 80 + (y - 14) ** 2 / 50 + (x - 16) ** 2 / 30))
    >>> fixed = xr.DataArray(ball, coords={d: 2.0 * np.arange(32) for d in "zyx"}, dims=list("zyx"))
    >>> moving = fixed.assign_coords(x=fixed.x + 5.0)
    >>> found = register(moving, fixed, metric="correlation")
    >>> found.verdict, found.matrix[:3, 3].round(1).tolist()
    ('accepted', [-5.0, 0.0, 0.0])
    """
    if transform not in itk.TRANSFORMS:
        raise ValueError(f"transform is {transform!r}, expected one of {', '.join(itk.TRANSFORMS)}")
    if metric not in itk.METRICS:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(itk.METRICS)}")
    ours, theirs = _loaded("moving", moving, moving_mask), _loaded("fixed", fixed, fixed_mask)
    spacings = pyramid.spacings_mm(*theirs) if levels_mm is None else [float(s) for s in levels_mm]
    if not spacings or not all(0 < mm < math.inf for mm in spacings):
        raise ValueError(f"levels_mm is {levels_mm!r}, expected positive numbers")
    levels = [(pyramid.level_of(*ours, mm), pyramid.level_of(*theirs, mm)) for mm in spacings]
    for name, sides in (("moving", [a for a, _ in levels]), ("fixed", [b for _, b in levels])):
        for mm, side in zip(spacings, sides, strict=True):
            if not np.ptp(side.values[side.inside]) > 0:
                raise RegistrationError(
                    f"{name} has one value only in {int(side.inside.sum())} voxels of {mm:.3g} mm: nothing to bring together"
                )
    starts = [_matrix(one, *levels[0]) for one in _several(start)]
    shares = [overlap_of(matrix, *levels[0]) for matrix in starts]
    if max(shares) < _COMMON:
        raise RegistrationError(
            f"moving and fixed have {max(shares):.1%} in common at the start, expected at least {_COMMON:.0%}: "
            "give start='moments', or a matrix that brings them together"
        )
    starts = [matrix for matrix, share in zip(starts, shares, strict=True) if share >= _COMMON]
    with itk.one_thread():
        pair = itk.Pair(*levels[0], metric)
        tried = [pair.search(matrix, _FIRST.get(transform, transform)) for matrix in starts]
        best = min(range(len(tried)), key=lambda i: (tried[i].broken, tried[i].metric))
        found = [tried[best]]
        for level in levels[1:]:
            if found[-1].broken:
                break
            pair = itk.Pair(*level, metric)
            found.append(pair.search(found[-1].matrix, transform))
        matrix = np.full((4, 4), math.nan) if found[-1].broken else found[-1].matrix
        before = pair.metric_at(starts[best])
        after = math.nan if found[-1].broken else pair.metric_at(matrix)
    share = 0.0 if found[-1].broken else overlap_of(matrix, *levels[0])
    reason = _doubt(found[-1], matrix, before, after, share, scale_range, least_overlap)
    return Registration(
        matrix=matrix,
        metric_before=before,
        metric=after,
        overlap=share,
        determinant=float(np.linalg.det(matrix[:3, :3])),
        iterations=tuple(one.iterations for one in found),
        stop=found[-1].stop,
        verdict="rejected" if reason else "accepted",
        reason=reason,
    )


def overlap_of(matrix: np.ndarray, moving: Level, fixed: Level) -> float:
    """Share of the smaller image that lies within the other when the moving one is moved."""
    back = np.linalg.inv(matrix)
    within = moving.holds(fixed.points() @ back[:3, :3].T + back[:3, 3]).mean()
    smaller = min(1.0, moving.volume * abs(np.linalg.det(matrix[:3, :3])) / fixed.volume)
    return min(1.0, float(within) / smaller)


def _doubt(
    last: itk.Found,
    matrix: np.ndarray,
    before: float,
    after: float,
    overlap: float,
    scale_range: tuple[float, float],
    least_overlap: float,
) -> str:
    """Why a result is not to be trusted; empty if nothing speaks against it."""
    if last.broken:
        return f"the search broke off: {last.stop}"
    if not after <= before + _NO_BETTER * abs(before):
        return f"the metric is {after:.4g}, no better than {before:.4g} at the start"
    low, high = scale_range
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if scales.min() < low or scales.max() > high or np.linalg.det(matrix[:3, :3]) <= 0:
        return (
            f"it scales by {scales.min():.3g} to {scales.max():.3g} (determinant "
            f"{np.linalg.det(matrix[:3, :3]):.3g}), expected {low:g} to {high:g}"
        )
    if overlap < least_overlap:
        return f"the images overlap by {overlap:.1%}, expected at least {least_overlap:.0%}"
    return ""


def _loaded(
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
    if min(image.shape) < _LEAST_SIZE:
        raise RegistrationError(
            f"{name} is {' x '.join(str(n) for n in image.shape)} voxels (z, y, x), expected at least {_LEAST_SIZE} along each"
        )
    if mask is None:
        mask = xr.ones_like(image, dtype=np.bool_)
    else:
        check_mask(f"the mask of {name}", mask)
        grid.check_same_grid(**{name: image, f"the mask of {name}": mask})
    image, mask = image.astype(np.float32).compute(), mask.compute()
    if strays := int((~np.isfinite(image.values)).sum()):
        raise RegistrationError(
            f"{name} has {strays} voxels that are not finite; replace them, as with {name}.fillna(0)"
        )
    if not mask.values.any():
        raise RegistrationError(f"the mask of {name} is empty")
    return image, mask


def _several(start: Start | Sequence[Start]) -> Iterable[Start]:
    return [start] if isinstance(start, str | np.ndarray) else start


def _matrix(start: Start, moving: Level, fixed: Level) -> np.ndarray:
    """A start as a matrix, moving world -> fixed world."""
    matrix = np.eye(4)
    if not isinstance(start, str):
        given = np.asarray(start, float)
        if (
            given.shape != (4, 4)
            or not np.isfinite(given).all()
            or (given[3] != (0, 0, 0, 1)).any()
        ):
            raise ValueError(
                f"start is {np.shape(start)}, expected a (4, 4) affine of finite numbers, mm -> mm"
            )
        return given
    if start == "moments":
        matrix[:3, 3] = fixed.mass_centre - moving.mass_centre
    elif start == "centers":
        matrix[:3, 3] = fixed.centre - moving.centre
    elif start != "world":
        raise ValueError(
            f"start is {start!r}, expected 'moments', 'centers', 'world' or a (4, 4) matrix"
        )
    return matrix
