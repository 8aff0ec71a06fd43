"""Registration: which transform brings one image onto another, and whether to believe it; and the bias field of a coil.

Runs whole, at once, on one thread: the same arrays give the same bits, however they are chunked and wherever they run.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from cohort import grid
from cohort.ops import itk, pyramid
from cohort.ops.bias import bias_field, correct_bias
from cohort.ops.phase import phase_shift_mm
from cohort.ops.pyramid import Level, RegistrationError

__all__ = [
    "Registration",
    "RegistrationError",
    "bias_field",
    "correct_bias",
    "phase_shift_mm",
    "register",
]

Start = Literal["moments", "centers", "world", "turns"] | np.ndarray

_TRIED = 3
"""Of more starts, those with the best metric are searched from."""
_COMMON = 0.05
"""A start at which the images have less in common leads nowhere."""
_NO_BETTER = 0.02
"""By which share of itself the metric may be worse than at the start: between voxels it is a little better than on them."""

_TURNED = 2
"""Right-angled turns that are searched from at most to see whether a pose is the wrong way round."""
_WORTH_A_SEARCH = 0.7
"""Of what the images agree by in the pose found: a turn after which they agree by less leads nowhere. Over 27 pairs of synthetic heads
the best turn had 0.84 to 1.5 of it where the pose was wrong, 0.55 to 0.78 where it was right."""
_CLEARLY = 1.1
"""How many times better they have to agree. The same pairs: 1.24 to 2.6 times where the pose was wrong, 0.6 to 0.81 where right."""


@dataclass(frozen=True, eq=False)
class Registration:
    """What `register` found."""

    matrix: np.ndarray
    """(4, 4) float64, moving world -> fixed world, RAS+ mm: ``space.affine(moving, matrix, like=fixed)``. NaN, like metric and quality,
    if the search broke off."""
    metric_before: float
    """At the start, over all voxels of the second level; lower is better, as in SimpleITK: mutual information (nats) and the square of
    the correlation are counted negative."""
    metric: float
    """The same, at the end."""
    quality: float
    """How much of the fixed image the moving one tells, about 0 to 1: its mutual information over that of the fixed image with itself, the
    square of the correlation, or the share of the variance that is explained."""
    overlap: float
    """Share, 0 to 1, of the smaller image (or its mask) that lies within the other."""
    determinant: float
    """Volume of the moved image over that of the moving one."""
    iterations: tuple[int, ...]
    """Of each search: first level, rigid; first level, as asked, unless that is rigid; second; third."""
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
    least_quality: float = 0.03,
    check_turns: bool = True,
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
    start : {"moments", "centers", "world", "turns"}, (4, 4) array, or a sequence of these
        Moving world -> fixed world, from where to search: centre of mass on centre of mass, centre of the grid on centre of the grid,
        no move, centres of mass after each of the 24 right-angled turns (for heads that lie upside down), or a matrix, whose scale and
        shear a rigid search keeps. The three with the best metric are searched from on the first level, and the best goes on.
    levels_mm : sequence of float, optional
        Voxels to which both images are resampled, one level after the other, where they are finer. By default three levels of 20,000
        voxels and 8 and 64 times as many in the box around the fixed image (or mask): 8, 4 and 2 mm for a head.
    scale_range : two floats
        How much any direction may shrink or grow before the result is rejected.
    least_overlap : float, 0 to 1
        Below which `Registration.overlap` it is rejected.
    least_quality : float
        Below which `Registration.quality` it is rejected. By default only what chance would do is; whoever knows what the two images have
        in common should ask for more.
    check_turns : bool
        Whether it is rejected if the images agree clearly better after a right-angled turn of the moving one and a search from there: so a
        head that lies upside down is known, of which the quality alone is a third of what it should be.

    Returns
    -------
    Registration
        Rejected, with the reason, if the search broke off, the scale, overlap or quality is out of range, the metric is worse than at the
        start, or the images agree better when one is turned.

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
    turn by one radian and the root mean square radius of the fixed image are 1. In memory ITK knows sheared grids: they are as good as
    others to 0.1 mm, at 20 and at 39 degrees.

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
    ours, theirs = (
        pyramid.loaded("moving", moving, moving_mask),
        pyramid.loaded("fixed", fixed, fixed_mask),
    )
    finest = min(min(grid.spacing_mm(image).values()) for image, _ in (ours, theirs))
    spacings = (
        pyramid.spacings_mm(*theirs, finest=finest)
        if levels_mm is None
        else [float(mm) for mm in levels_mm]
    )
    if not spacings or not all(0 < mm < math.inf for mm in spacings):
        raise ValueError(f"levels_mm is {levels_mm!r}, expected positive numbers")
    levels = [(pyramid.level_of(*ours, mm), pyramid.level_of(*theirs, mm)) for mm in spacings]
    for mm, sides in zip(spacings, levels, strict=True):
        for name, side in zip(("moving", "fixed"), sides, strict=True):
            if np.unique(side.values[side.inside]).size < 2:
                raise RegistrationError(
                    f"{name} has no two different values in {int(side.inside.sum())} voxels of {mm:.3g} mm: "
                    "there is nothing to bring together"
                )
    starts = [matrix for one in _several(start) for matrix in _matrices(one, *levels[0])]
    shares = [_overlap(matrix, *levels[0]) for matrix in starts]
    if max(shares) < _COMMON:
        raise RegistrationError(
            f"moving and fixed have {max(shares):.1%} in common at the start, expected at least {_COMMON:.0%}: "
            "give start='moments', or a matrix that brings them together"
        )
    starts = [matrix for matrix, share in zip(starts, shares, strict=True) if share >= _COMMON]
    with itk.one_thread():
        begin, found = _search(levels, starts, transform, metric)
        last = found[-1]
        moved, still = levels[min(1, len(levels) - 1)]
        judge = itk.Pair(moved, still, metric)
        before = judge.metric_at(begin)
        after = math.nan if last.broken else judge.metric_at(last.matrix)
        if metric == "mutual_information":
            quality = after / itk.Pair(still, still, metric).metric_at(np.eye(4))
        elif metric == "correlation":
            quality = -after
        else:
            quality = 1 - after / float(still.values[still.inside].var(dtype=np.float64))
    matrix = np.full((4, 4), math.nan) if last.broken else last.matrix
    share = 0.0 if last.broken else _overlap(last.matrix, *levels[0])
    reason = _doubt(last, before, after, quality, share, scale_range, least_overlap, least_quality)
    if check_turns and not reason:
        with itk.one_thread():
            reason = _turned(found[0], levels[0], metric, least_overlap)
    return Registration(
        matrix=matrix,
        metric_before=before,
        metric=after,
        quality=quality,
        overlap=share,
        determinant=math.nan if last.broken else float(np.linalg.det(matrix[:3, :3])),
        iterations=tuple(one.iterations for one in found),
        stop=last.stop,
        verdict="rejected" if reason else "accepted",
        reason=reason,
    )


def _search(
    levels: Sequence[tuple[Level, Level]], starts: Sequence[np.ndarray], transform: str, metric: str
) -> tuple[np.ndarray, list[itk.Found]]:
    """The start that led furthest, and where each search from there ended."""
    first = itk.Pair(*levels[0], metric)
    if len(starts) > _TRIED:
        starts = sorted(starts, key=first.metric_at)[:_TRIED]
    tried = [first.search(matrix, "rigid") for matrix in starts]
    best = min(range(len(tried)), key=lambda i: (tried[i].broken, tried[i].metric))
    found = [tried[best]]
    # Few voxels tell better what to turn than what to stretch, so the first level begins rigid whatever is asked for.
    pairs = [first] if transform != "rigid" else []
    for pair in itertools.chain(pairs, (itk.Pair(*level, metric) for level in levels[1:])):
        if found[-1].broken:
            break
        found.append(pair.search(found[-1].matrix, transform))
    return starts[best], found


def _overlap(matrix: np.ndarray, moving: Level, fixed: Level) -> float:
    """Share of the smaller image that lies within the other when the moving one is moved."""
    back = np.linalg.inv(matrix)
    within = moving.holds(fixed.points() @ back[:3, :3].T + back[:3, 3]).mean()
    smaller = min(1.0, moving.volume * abs(np.linalg.det(matrix[:3, :3])) / fixed.volume)
    return min(1.0, float(within) / smaller)


def _doubt(
    last: itk.Found,
    before: float,
    after: float,
    quality: float,
    overlap: float,
    scale_range: tuple[float, float],
    least_overlap: float,
    least_quality: float,
) -> str:
    """Why a result is not to be trusted; empty if nothing speaks against it."""
    if last.broken:
        return f"the search broke off: {last.stop}"
    low, high = scale_range
    scales = np.linalg.svd(last.matrix[:3, :3], compute_uv=False)
    determinant = float(np.linalg.det(last.matrix[:3, :3]))
    if scales.min() < low or scales.max() > high or determinant <= 0:
        return (
            f"it scales by {scales.min():.3g} to {scales.max():.3g} (determinant {determinant:.3g}), "
            f"expected {low:g} to {high:g}"
        )
    if overlap < least_overlap:
        return f"the images overlap by {overlap:.1%}, expected at least {least_overlap:.0%}"
    if not after <= before + _NO_BETTER * abs(before):
        return f"the metric is {after:.4g}, no better than {before:.4g} at the start"
    if quality < least_quality:
        return f"the quality is {quality:.3g}, expected at least {least_quality:g}: the images have little to do with each other"
    return ""


def _turned(found: itk.Found, level: tuple[Level, Level], metric: str, least_overlap: float) -> str:
    """Why the rigid pose found on the first level is the wrong way round; empty if no right-angled turn of it leads to a better one."""
    moving, fixed = level
    pair, about = itk.Pair(moving, fixed, metric), fixed.mass_centre
    # So that more is better: mean squares are what is left of the variance.
    whole = (
        float(fixed.values[fixed.inside].var(dtype=np.float64)) if metric == "mean_squares" else 0.0
    )
    agreed = max(whole - pair.metric_at(found.matrix), 0.0)
    starts = [_carried(turn, about, about) @ found.matrix for turn in _right_angles()[1:]]
    promise = {i: whole - pair.metric_at(start) for i, start in enumerate(starts)}
    likely = sorted(promise, key=lambda i: -promise[i])[:_TURNED]
    for start in (starts[i] for i in likely if promise[i] > _WORTH_A_SEARCH * agreed):
        other = pair.search(start, "rigid")
        if other.broken or _overlap(other.matrix, moving, fixed) < least_overlap:
            continue
        if (better := whole - pair.metric_at(other.matrix)) > _CLEARLY * agreed:
            linear = (other.matrix @ np.linalg.inv(found.matrix))[:3, :3]
            degrees = np.degrees(Rotation.from_matrix(linear).magnitude())
            return (
                f"turned by {degrees:.0f} degrees the images agree better, {better / max(agreed, 1e-300):.3g} times on the first level: "
                "it may be the wrong way round; give start='turns', or a matrix near the pose"
            )
    return ""


def _right_angles() -> np.ndarray:
    """The 24 right-angled turns, (24, 3, 3), none at all first."""
    turns = Rotation.create_group("O").as_matrix().round()
    return turns[np.argsort([-np.trace(turn) for turn in turns], kind="stable")]


def _several(start: Start | Sequence[Start]) -> Iterable[Start]:
    return [start] if isinstance(start, str | np.ndarray) else start


def _matrices(start: Start, moving: Level, fixed: Level) -> list[np.ndarray]:
    """A start as matrices, moving world -> fixed world."""
    if not isinstance(start, str):
        matrix = np.asarray(start, float)
        if (
            matrix.shape != (4, 4)
            or not np.isfinite(matrix).all()
            or (matrix[3] != (0, 0, 0, 1)).any()
        ):
            raise ValueError(
                f"start is {np.shape(start)}, expected a (4, 4) affine of finite numbers, mm -> mm"
            )
        return [matrix]
    if start == "world":
        return [np.eye(4)]
    if start == "centers":
        return [_carried(np.eye(3), moving.centre, fixed.centre)]
    if start not in ("moments", "turns"):
        raise ValueError(
            f"start is {start!r}, expected 'moments', 'centers', 'world', 'turns' or a (4, 4) matrix"
        )
    turns = _right_angles() if start == "turns" else [np.eye(3)]
    return [_carried(turn, moving.mass_centre, fixed.mass_centre) for turn in turns]


def _carried(turn: np.ndarray, point: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Matrix that turns about a point and brings it somewhere."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, to - turn @ point
    return matrix
