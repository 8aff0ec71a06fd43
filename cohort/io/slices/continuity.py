"""Groups of one series whose slices continue each other: one volume that a tag sets apart, not several images.

A volume of which the last slice has one word more in its ImageType looks as if it lacked nothing, and that slice like a series
of its own. Slices at the same places (magnitude and phase, echoes, what was derived from them) are several images; slices
where the others would go on, or between them, are parts of one.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_group import KEY_PARTS, SAME_SPACING, WOBBLE, apart_by, mix, within
from cohort.io.slices.dicom_header import Header
from cohort.io.slices.stack import DRIFT_VOXELS, FAR_MM, GAP_MM, GAP_RELATIVE, levels_of

Place = tuple[float, ...]
"""Where slices lie, mm, as ImagePositionPatient says: one position, or the first, the last and how many, evenly; () if unknown."""

Key = tuple[Any, ...]

_PATIENT, _STUDY, _MATRIX, _SPACING, _DIRECTION = map(
    KEY_PARTS.index, ("patient", "study", "matrix", "PixelSpacing", "orientation")
)
_LONGEST = 2.0
"""Numbers of a direction that are larger, or a product of two that is smaller than the inverse, are no directions."""

_FARTHEST = 4
"""Slices that lie this many steps apart, and no more, may be parts of one volume of which others are lost or elsewhere."""


FEWEST = 3
"""Places of a group that may be a scan; a slice or two of a series are what a tag set apart, or a scout."""


def place_of(headers: Sequence[Header]) -> Place:
    """Where the slices of a file lie that belong to one group; nowhere if they cannot make a volume, as their reader will say."""
    positions = [header["position"] for header in headers]
    normal = _normal(headers[0]["orientation"])
    if normal is None or any(p is None or max(map(abs, p)) > FAR_MM for p in positions):
        return ()
    if len(positions) == 1:  # as of most files, of which there may be millions
        return tuple(positions[0] or ())
    points = np.unique(np.array(positions, float), axis=0)
    levels = levels_of(points @ normal)
    found = points[[level[0] for level in levels]]
    if len(found) == 1:
        return tuple(found[0].tolist())
    off = np.linalg.norm(found - np.linspace(found[0], found[-1], len(found)), axis=1).max()
    step = float(np.linalg.norm(found[-1] - found[0])) / (len(found) - 1)
    if off > max(DRIFT_VOXELS * step, GAP_MM):
        return ()
    return (*found[0].tolist(), *found[-1].tolist(), float(len(found)))


def _normal(orientation: Sequence[float] | None) -> tuple[float, float, float] | None:
    """Unit vector across the slices, None if their rows and columns have no directions."""
    if orientation is None or max(map(abs, orientation)) > _LONGEST:
        return None
    a, b, c, d, e, f = orientation
    normal = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(*normal)
    return (
        (normal[0] / length, normal[1] / length, normal[2] / length)
        if length > 1 / _LONGEST
        else None
    )


@dataclass(frozen=True)
class Part:
    """A group of slices of one series.

    Parameters
    ----------
    key : tuple
        As `dicom_group.group_key`.
    places : sequence of Place
        Of its files, in any order.
    """

    key: Key
    places: Sequence[Place]

    @property
    def size(self) -> int:
        """Positions that it has."""
        return sum(int(place[6]) if len(place) == 7 else 1 for place in self.places)


class Beside(NamedTuple):
    """What continues a part of a volume.

    Parameters
    ----------
    other : int
        Number of the other part.
    step_mm : float
        From slice to slice of both together.
    sizes : (int, int)
        At how many places the part has slices, and the other.
    shared : int
        At how many of them both have.
    """

    other: int
    step_mm: float
    sizes: tuple[int, int]
    shared: int = 0


@dataclass(frozen=True)
class Continuity:
    """What the grids of the parts of one series tell of each other.

    Parameters
    ----------
    torn : dict of int -> Beside
        Parts that are no volume by themselves, and what continues them.
    short : set of int
        Parts that end where another, at the same places, goes on, or some slices before another.
    together : list of lists of int
        Parts, two or more each, that lie at the same places.
    """

    torn: dict[int, Beside]
    short: set[int]
    together: list[list[int]]


def compare(parts: Sequence[Part]) -> Continuity:
    """Hold the groups of one series, of one matrix, against each other.

    Returns
    -------
    Continuity
        By numbers of `parts`. Those of which a slice has no place, and those of other spacings and orientations, say nothing of each
        other.
    """
    torn: dict[int, Beside] = {}
    short: set[int] = set()
    together: list[list[int]] = []
    for stack in _stacks(parts):
        # Echoes, or magnitude and phase, are many and lie at the same places: those are compared once.
        alike: defaultdict[tuple[Key, frozenset[int]], list[int]] = defaultdict(list)
        for number, places in stack.places.items():
            alike[parts[number].key[: _STUDY + 1], frozenset(places)].append(number)
        for ones, others in combinations(alike.values(), 2):
            step = stack.step_together(ones[0], others[0])
            if step is not None and stack.are_apart(ones[0], others[0], step):
                short.update([*ones, *others])
            elif step is not None:
                shared = len(stack.places[ones[0]].keys() & stack.places[others[0]].keys())
                for own, beside in ((ones, others[0]), (others, ones[0])):
                    sizes = len(stack.places[own[0]]), len(stack.places[beside])
                    for number in own:
                        torn.setdefault(number, Beside(beside, step, sizes, shared))
            elif stack.goes_on(ones[0], others[0]):
                short.update(ones)
            elif stack.goes_on(others[0], ones[0]):
                short.update(others)
        for number, next_to in stack.slice_by_slice().items():
            torn.setdefault(number, next_to)
        together += [own for own in alike.values() if len(own) > 1]
    return Continuity(torn, short - torn.keys(), together)


def _stacks(parts: Sequence[Part]) -> Iterator["_Stack"]:
    """Parts of one spacing and orientation, two or more."""
    left = [n for n, part in enumerate(parts) if _is_placed(part)]
    while left:
        first = parts[left[0]].key
        near = [n for n in left if _parallel(first, parts[n].key)]
        left = [n for n in left if n not in near]
        if len(near) > 1:
            yield _Stack.of({n: parts[n] for n in near})


def _is_placed(part: Part) -> bool:
    known = part.key[_SPACING] is not None and _normal(part.key[_DIRECTION]) is not None
    return known and bool(part.places) and all(part.places)


def _parallel(one: Key, other: Key) -> bool:
    return within(one[_SPACING], other[_SPACING], SAME_SPACING) and within(
        one[_DIRECTION], other[_DIRECTION], WOBBLE
    )


@dataclass(frozen=True)
class _Stack:
    """Parts of one orientation, and where each has slices."""

    parts: dict[int, Part]
    places: dict[int, dict[int, np.ndarray]]
    """Of each part: level, counted from the lowest of all -> position there."""
    depth: np.ndarray
    """Of each level along the normal, mm."""
    normal: np.ndarray

    @classmethod
    def of(cls, parts: dict[int, Part]) -> "_Stack":
        normal = _normal(next(iter(parts.values())).key[_DIRECTION])
        assert normal is not None  # what has a place has a direction
        points = [(n, p) for n, part in parts.items() for p in _points(part.places)]
        depth = np.array([p for _, p in points]) @ normal
        places: dict[int, dict[int, np.ndarray]] = {n: {} for n in parts}
        levels = levels_of(depth)
        for level, numbers in enumerate(levels):
            for i in numbers:
                number, point = points[i]
                places[number].setdefault(level, point)
        return cls(parts, places, np.array([depth[level[0]] for level in levels]), np.array(normal))

    def step_together(self, one: int, other: int) -> float | None:
        """Distance of the slices of a volume whose parts two groups are, mm; None if they are none."""
        mine, yours = self.places[one], self.places[other]
        same_study = self.parts[one].key[: _STUDY + 1] == self.parts[other].key[: _STUDY + 1]
        common = mine.keys() & yours.keys()
        both = sorted(mine.keys() | yours.keys())
        # Two studies in which one table moved by whole millimetres share places by chance.
        if len(common) in (len(mine), len(yours)) or (common and not same_study):
            return None
        return self._step(one, both, [*mine.values(), *yours.values()])

    def are_apart(self, one: int, other: int, step_mm: float) -> bool:
        """Whether two groups that may be scans lie behind each other with room between: two stacks, or a torn one that lacks more."""
        lower, upper = sorted(
            (sorted(self.places[n]) for n in (one, other)), key=lambda own: own[0]
        )
        if min(len(lower), len(upper)) < FEWEST or lower[-1] >= upper[0]:
            return False
        return bool(self.depth[upper[0]] - self.depth[lower[-1]] > 1.5 * step_mm)

    def slice_by_slice(self) -> dict[int, Beside]:
        """Parts of one place each that together are a volume, for example where every slice has an echo time of its own."""
        studies: defaultdict[Key, dict[int, list[int]]] = defaultdict(dict)
        for number, places in self.places.items():
            if len(places) == 1:
                own = studies[self.parts[number].key[: _STUDY + 1]]
                own.setdefault(next(iter(places)), []).append(number)
        found: dict[int, Beside] = {}
        for levels in studies.values():
            order = sorted(levels)
            points = [self.places[levels[level][0]][level] for level in order]
            step = self._step(levels[order[0]][0], order, points)
            if step is None:
                continue
            for level, beside in zip(order, [*order[1:], order[-2]], strict=True):
                sizes = 1, len(order) - 1
                found |= {n: Beside(levels[beside][0], step, sizes) for n in levels[level]}
        return found

    def _step(self, one: int, levels: Sequence[int], points: Sequence[np.ndarray]) -> float | None:
        """Distance of slices that are those of one volume, but for some that are lost, mm; None if they are none."""
        if len(levels) < 3:
            return None
        gaps = np.diff(self.depth[levels])
        step = median_low([gap for gap in gaps.tolist() if gap < 1.5 * gaps.min()])
        times = np.rint(gaps / step)
        tolerance = max(GAP_MM, GAP_RELATIVE * step) * times
        if times.max() > _FARTHEST or (np.abs(gaps - times * step) > tolerance).any():
            return None
        return float(step) if self._is_line(one, points) else None

    def goes_on(self, one: int, other: int) -> bool:
        """Whether a group holds all places of another and one more where that would go on."""
        mine, yours = self.places[one], self.places[other]
        if len(mine) < 2 or not mine.keys() < yours.keys():
            return False
        if self.parts[one].key[: _STUDY + 1] != self.parts[other].key[: _STUDY + 1]:
            return False
        own = self.depth[sorted(mine)]
        step = median_low(np.diff(own).tolist())
        tolerance = max(GAP_MM, GAP_RELATIVE * step)
        more = [
            yours[level]
            for level in yours.keys() - mine.keys()
            if min(abs(own[0] - self.depth[level] - step), abs(self.depth[level] - own[-1] - step))
            <= tolerance
        ]
        return bool(more) and self._is_line(one, [*mine.values(), *more])

    def _is_line(self, one: int, points: Sequence[np.ndarray]) -> bool:
        """Whether slices lie behind each other, and not beside."""
        positions = np.array(points)
        along = positions @ self.normal
        first, last = positions[np.argmin(along)], positions[np.argmax(along)]
        share = (along - along.min()) / np.ptp(along)
        off = np.linalg.norm(positions - first - share[:, None] * (last - first), axis=1)
        pixel_mm = min(self.parts[one].key[_SPACING])
        return bool(off.max() <= max(DRIFT_VOXELS * pixel_mm, GAP_MM))


def lacks(scan: Part, stray: Part) -> bool:
    """Whether a group of slices ends where a stray slice of its series, of any grid, goes on.

    Parameters
    ----------
    scan, stray : Part
        One or two places, or slices without a place, are stray: those may be of any stack of the same matrix.

    Returns
    -------
    bool
        Of less than `FEWEST` places a scan lacks nothing, nor do such as are no line.
    """
    normal = _normal(scan.key[_DIRECTION])
    if scan.size < FEWEST or normal is None or not _is_placed(scan):
        return False
    if not stray.places or not all(stray.places):
        return bool(scan.key[_MATRIX] == stray.key[_MATRIX])
    if stray.size >= FEWEST:
        return False
    points = _points(scan.places)
    levels = levels_of(points @ np.array(normal))
    n = len(levels)
    found = _points(stray.places)
    if n < FEWEST:
        return False
    first, last = points[levels[0][0]], points[levels[-1][0]]
    step = (last - first) / (n - 1)
    length = float(np.linalg.norm(step))
    along = (found - first) @ step / length**2
    off = np.linalg.norm(found - first - along[:, None] * step, axis=1)
    steps = np.rint(along)
    beyond = np.maximum(-steps, steps - (n - 1))
    tolerance = max(GAP_MM, GAP_RELATIVE * length) * beyond
    on_grid = np.abs(along - steps) * length <= tolerance
    on_line = off <= max(DRIFT_VOXELS * min(scan.key[_SPACING]), GAP_MM)
    return bool(((beyond > 0) & on_grid & on_line).any())


def _points(places: Sequence[Place]) -> np.ndarray:
    """Positions of slices, (slices, 3), that `place_of` has packed."""
    several = [
        np.linspace(place[:3], place[3:6], int(place[6])) for place in places if len(place) == 7
    ]
    return np.concatenate([np.reshape([p for p in places if len(p) == 3], (-1, 3)), *several])


def refusal(one: Key, other: Key, beside: Beside, files: Sequence[Path]) -> Refused:
    """Say that two groups of files are parts of one volume.

    Parameters
    ----------
    one, other : tuple
        Their keys.
    beside : Beside
        How the other continues the one.
    files : sequence of Path
        One of each.
    """
    if one[_PATIENT] != other[_PATIENT]:
        return mix(_PATIENT, one, other, files)
    tags = apart_by(one, other)
    mine, yours = (f"{n} place{'s' if n > 1 else ''}" for n in beside.sizes)
    what = (
        f"slices of one series that continue each other every {beside.step_mm:.3f} mm are set apart by their {tags}: those at {mine}, "
        f"such as {{0}}, would be a volume that lacks those at {yours}, such as {{1}}"
    )
    fix = f"if they are one volume, give its slices one {tags}, for example with dcmodify"
    if beside.shared:  # then they are not: one tag would put two slices in one place
        what += f", and both have slices at {beside.shared} of them"
        fix = "copy the slices that either lacks and the other has"
    return Refused(
        "DCM-TORN",
        what,
        fix=f"{fix}; if they are scans of their own, state split: true in the catalog.",
        files=files,
    )
