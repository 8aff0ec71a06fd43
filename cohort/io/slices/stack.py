"""From slices to a volume: where each slice lies, and which are missing.

Geometry comes from ImagePositionPatient and ImageOrientationPatient alone; file names, InstanceNumber and
SpacingBetweenSlices prove nothing. No pixel is read here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
import xarray as xr

from cohort import grid
from cohort.io.policy import DEFAULT, Policy
from cohort.io.refusal import Refused
from cohort.io.slices import acquisitions, resample, volumes
from cohort.io.slices.dicom_header import Header, named

GAP_MM = 0.01
"""Distances between slices may differ by this much, or by `GAP_RELATIVE` of their size if that is more."""

GAP_RELATIVE = 0.01

FAR_MM = 1e6
"""No scanner is larger than a kilometre, no pixel than that or smaller than a nanometre."""

DRIFT_VOXELS = 0.1
"""No slice lies farther than this from its place on a regular grid."""


@dataclass(frozen=True)
class Stack:
    """How slices make a volume.

    Parameters
    ----------
    order : (times, slices) int array
        Number of the header that holds each slice of each volume.
    affine : (4, 4) array
        Indices (column, row, slice) -> world RAS+ mm; of the even grid, if there is one.
    time : Variable, optional
        Along ``time``: seconds, or frames where the series has no usable time; None for one volume.
    even : Even, optional
        How to interpolate slices that lie unevenly.
    gaps : tuple of float
        Smallest and largest distance from slice to slice along the normal, mm; both 0 for one slice.
    flags : frozenset of str
        What is doubtful about the order of volumes.
    """

    order: np.ndarray
    affine: np.ndarray
    time: xr.Variable | None
    even: resample.Even | None
    gaps: tuple[float, float]
    flags: frozenset[str] = frozenset()


def stack(headers: Sequence[Header], files: Sequence[Path], *, policy: Policy = DEFAULT) -> Stack:
    """Put slices of one orientation, matrix and pixel spacing in order.

    Parameters
    ----------
    headers : sequence of Header
        One a slice, in any order.
    files : sequence of Path
        The file of each, for messages.
    policy : Policy
        Of it, `min_slices` (fewer positions are skipped; a series of several volumes needs two) and `resample`.

    Raises
    ------
    Refused
        ``DCM-NO-GEOMETRY``, ``DCM-SPACING-MISSING``, ``DCM-TOO-FEW``, ``DCM-GAP``, ``DCM-UNEVEN``, ``DCM-DUP-POS``, ``DCM-MIXED``
        or ``DCM-4D-INCOMPLETE``, with the numbers in mm and the files.
    """
    _check_present(headers, files)
    row, column, normal = _directions(headers, files)
    row_mm, column_mm = np.median([h["pixel_spacing"] for h in headers], axis=0)
    positions = np.array([h["position"] for h in headers], float)
    levels = levels_of(positions @ normal)
    repeats = [len(level) for level in levels]
    minimum = min(policy.min_slices, 2) if min(repeats) > 1 else policy.min_slices
    if len(levels) < minimum:
        raise Refused(
            "DCM-TOO-FEW",
            f"{len(levels)} slice position{'s' if len(levels) > 1 else ''} "
            f"({len(headers)} slice{'s' if len(headers) > 1 else ''}{_spread(positions, normal)}), "
            f"expected at least {minimum}: {{0}}"
            + (", ..." if len(own := list(dict.fromkeys(files))) > 1 else ""),
            fix=f"nothing, unless slices were lost on the way, or state min_slices: {len(levels)} in the catalog.",
            files=own,
            state="skipped",
        )
    pixel_mm = min(row_mm, column_mm)
    _check_one_place(levels, positions, headers, files, tolerance=DRIFT_VOXELS * pixel_mm)
    volumes.check_repeats(levels, positions @ normal, headers, files)
    if max(repeats) == 1:
        single = [int(level[0]) for level in levels]
        acquisitions.check_not_interleaved(single, positions @ normal, headers, files)
        acquisitions.check_not_halved(single, positions @ normal, headers, files)
    if max(repeats) == 1:
        centres = positions[np.concatenate(levels)] + 0.0  # as a median: no negative zero
    else:
        centres = np.array([np.median(positions[level], axis=0) for level in levels])
    slices = _Slices(centres, normal, [int(level[0]) for level in levels], headers, files)
    step, even = slices.even_step(pixel_mm, policy)
    lps = np.eye(4)
    lps[:3] = np.column_stack([row * column_mm, column * row_mm, step, centres[0]])
    order, time, flags = volumes.times(levels, headers, files)
    gaps = np.diff(centres @ normal) if len(centres) > 1 else np.zeros(1)
    return Stack(order, grid.to_ras(lps), time, even, (float(gaps.min()), float(gaps.max())), flags)


def _check_present(headers: Sequence[Header], files: Sequence[Path]) -> None:
    without = [
        f for h, f in zip(headers, files, strict=True) if not h["position"] or not h["orientation"]
    ]
    if without:
        raise Refused(
            "DCM-NO-GEOMETRY",
            f"{len(without)} of {len(files)} slices have no position or orientation, the first is {{0}}",
            fix="export the series again with ImagePositionPatient and ImageOrientationPatient.",
            files=list(dict.fromkeys(without)),
        )
    far = [
        f
        for h, f in zip(headers, files, strict=True)
        if max(map(abs, h["position"] or [0])) > FAR_MM
    ]
    if far:
        raise Refused(
            "DCM-NO-GEOMETRY",
            f"{len(far)} of {len(files)} slices lie more than {FAR_MM:.0f} mm away, the first is {{0}}",
            fix="export the series again from its source.",
            files=list(dict.fromkeys(far)),
        )
    without = [
        f
        for h, f in zip(headers, files, strict=True)
        if not all(map(_is_length, h["pixel_spacing"] or [0]))
    ]
    if without:
        raise Refused(
            "DCM-SPACING-MISSING",
            f"{len(without)} of {len(files)} slices have no PixelSpacing above 0 mm, the first is {{0}}",
            fix="export the series again with PixelSpacing; a detector's spacing is not the patient's.",
            files=list(dict.fromkeys(without)),
        )


def _spread(positions: np.ndarray, normal: np.ndarray) -> str:
    """Say how slices lie that are too close to each other, or too much beside each other, to be one stack."""
    off = positions - positions[0]
    along = np.ptp(off @ normal)
    across = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1).max()
    said = ""
    if along > 0 and across <= GAP_MM:
        said = f" within {along:.4f} mm; those less than {GAP_MM} mm apart count as one position"
    if across > GAP_MM:
        said = f", up to {across:.3f} mm apart in their plane"
    return said


def _is_length(mm: float) -> bool:
    return 1 / FAR_MM < mm < FAR_MM


def _directions(
    headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give unit vectors, LPS, along a row, down a column and across the slices."""
    cosines = np.median([h["orientation"] for h in headers], axis=0)
    lengths = np.linalg.norm(cosines.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > 0.01:
        raise Refused(
            "DCM-NO-GEOMETRY",
            f"the orientation's directions have lengths {lengths[0]:.4f} and {lengths[1]:.4f}, expected 1, in {{0}}",
            fix="export the series again from its source.",
            files=files[:1],
        )
    row, column = cosines[:3] / lengths[0], cosines[3:] / lengths[1]
    if abs(row @ column) > 1e-3:
        raise Refused(
            "DCM-NO-GEOMETRY",
            f"rows and columns stand at {math.degrees(math.acos(row @ column)):.2f} degrees, expected 90, in {{0}}",
            fix="export the series again from its source.",
            files=files[:1],
        )
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def levels_of(depth: np.ndarray) -> list[np.ndarray]:
    """Numbers of the slices at each depth along the normal, from the lowest up."""
    order = np.argsort(depth, kind="stable")
    gaps = np.diff(depth[order])
    real = gaps[gaps > GAP_MM]
    same = max(GAP_MM, GAP_RELATIVE * median_low(real.tolist())) if real.size else GAP_MM
    return np.split(order, np.flatnonzero(gaps > same) + 1)


def _check_one_place(
    levels: Sequence[np.ndarray],
    positions: np.ndarray,
    headers: Sequence[Header],
    files: Sequence[Path],
    *,
    tolerance: float,
) -> None:
    for level in levels:
        if len(level) == 1:
            continue
        apart = np.linalg.norm(positions[level] - positions[level[0]], axis=1)
        worst = int(np.argmax(apart))
        if apart[worst] > tolerance:
            (one, other), own = named((level[0], level[worst]), headers, files)
            raise Refused(
                "DCM-UNEVEN",
                f"slices at one depth lie {apart[worst]:.3f} mm apart in their plane, tolerance {tolerance:.3f} mm: "
                f"{one} and {other}",
                fix="separate the stacks into series of their own.",
                files=own,
            )


@dataclass(frozen=True)
class _Slices:
    """Slice positions from the lowest up: whether they lie on one even, straight line."""

    centres: np.ndarray
    normal: np.ndarray
    numbers: Sequence[int]
    """Of the header of one slice at each position."""
    headers: Sequence[Header]
    files: Sequence[Path]

    def even_step(self, pixel_mm: float, policy: Policy) -> tuple[np.ndarray, resample.Even | None]:
        """Vector, LPS mm, from each slice to the next, and how to interpolate where they are uneven and may be."""
        if len(self.centres) == 1:
            return self.normal * self._thickness(), None
        depth = self.centres @ self.normal
        step_mm = median_low(np.diff(depth).tolist())
        refusal = self._uneven(depth, step_mm)
        line = (self.centres[-1] - self.centres[0]) / (depth[-1] - depth[0])
        if refusal and policy.resample != "uniform":
            raise refusal
        even = None
        if refusal:
            tolerance = max(GAP_MM, GAP_RELATIVE * step_mm)
            even = resample.even(depth, step_mm=step_mm, tolerance_mm=tolerance)
        self._check_straight(depth, line, pixel_mm)
        return (line * step_mm if even else line * (depth[-1] - depth[0]) / (len(depth) - 1)), even

    def _thickness(self) -> float:
        thickness = self.headers[0]["slice_thickness"]
        if thickness is None or not _is_length(thickness):
            raise Refused(
                "DCM-SPACING-MISSING",
                "one slice, and no SliceThickness to say how thick, in {0}",
                fix="export the series again with SliceThickness.",
                files=self.files[:1],
            )
        return thickness

    def _uneven(self, depth: np.ndarray, expected: float) -> Refused | None:
        """Say where the distance from slice to slice is not what it is elsewhere."""
        gaps = np.diff(depth)
        tolerance = max(GAP_MM, GAP_RELATIVE * expected)
        wrong = np.flatnonzero(np.abs(gaps - expected) > tolerance)
        if not wrong.size:
            return self._drifting(depth, expected)
        whole = np.rint(gaps[wrong] / expected)
        missing = (whole >= 2) & (np.abs(gaps[wrong] - whole * expected) <= tolerance * whole)
        first = int(wrong[0])
        pair = self.numbers[first], self.numbers[first + 1]
        names, own = named(pair, self.headers, self.files)
        between = " and ".join(names) + (f" ({wrong.size} such places)" if wrong.size > 1 else "")
        if missing.all():
            return Refused(
                "DCM-GAP",
                f"gap {gaps[first]:.3f} mm, expected {expected:.3f}, between {between}",
                fix=f"copy the {int((whole - 1).sum())} missing slice(s) and ingest again, {_RESAMPLE}",
                files=own,
            )
        return Refused(
            "DCM-UNEVEN",
            f"step {gaps[first]:.3f} mm, expected {expected:.3f} (tolerance {tolerance:.3f}), between {between}",
            fix=f"leave the series out, {_RESAMPLE}",
            files=own,
        )

    def _drifting(self, depth: np.ndarray, expected: float) -> Refused | None:
        """Say where small differences add up."""
        off = np.abs(depth - np.linspace(depth[0], depth[-1], len(depth)))
        limit = max(DRIFT_VOXELS * expected, GAP_MM)
        worst = int(np.argmax(off))
        if off[worst] <= limit:
            return None
        return Refused(
            "DCM-UNEVEN",
            f"slice {worst} lies {off[worst]:.3f} mm along the normal from its place on an even grid of "
            f"{expected:.3f} mm, tolerance {limit:.3f}, in {self._name(worst)}",
            fix=f"leave the series out, {_RESAMPLE}",
            files=[self.files[self.numbers[worst]]],
        )

    def _check_straight(self, depth: np.ndarray, line: np.ndarray, pixel_mm: float) -> None:
        off = self.centres - (self.centres[0] + (depth - depth[0])[:, None] * line)
        across = np.linalg.norm(off, axis=1)
        limit = max(DRIFT_VOXELS * pixel_mm, GAP_MM)
        worst = int(np.argmax(across))
        if across[worst] > limit:
            raise Refused(
                "DCM-UNEVEN",
                f"slice {worst} lies {across[worst]:.3f} mm in its plane from its place on a straight stack, "
                f"tolerance {limit:.3f}, in {self._name(worst)}",
                fix="leave the series out, or export it again from its source.",
                files=[self.files[self.numbers[worst]]],
            )

    def _name(self, place: int) -> str:
        return named([self.numbers[place]], self.headers, self.files)[0][0]


_RESAMPLE = "or state resample: uniform in the catalog."
