"""From slices to a volume: where each slice lies, which are missing, and which belong to another time.

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
from cohort.io.dicom_header import Header
from cohort.io.refusal import Refused

GAP_MM = 0.01
"""Distances between slices may differ by this much, or by `GAP_RELATIVE` of their size if that is more."""

GAP_RELATIVE = 0.01

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
        Indices (column, row, slice) -> world RAS+ mm.
    time : Variable, optional
        Along ``time``: seconds, or frames where the series has no usable time; None for one volume.
    """

    order: np.ndarray
    affine: np.ndarray
    time: xr.Variable | None


def stack(headers: Sequence[Header], files: Sequence[Path], *, min_slices: int = 3) -> Stack:
    """Put slices of one orientation, matrix and pixel spacing in order.

    Parameters
    ----------
    headers : sequence of Header
        One a slice, in any order.
    files : sequence of Path
        The file of each, for messages.
    min_slices : int
        Fewer positions are skipped. A series of several volumes needs two.

    Raises
    ------
    Refused
        ``DCM-NO-GEOMETRY``, ``DCM-SPACING-MISSING``, ``DCM-TOO-FEW``, ``DCM-GAP``, ``DCM-UNEVEN``, ``DCM-DUP-POS``
        or ``DCM-4D-INCOMPLETE``, with the numbers in mm and the files.
    """
    _check_present(headers, files)
    row, column, normal = _directions(headers, files)
    row_mm, column_mm = np.median([h["pixel_spacing"] for h in headers], axis=0)
    positions = np.array([h["position"] for h in headers], float)
    levels = _levels(positions @ normal)
    repeats = [len(level) for level in levels]
    minimum = min(min_slices, 2) if min(repeats) > 1 else min_slices
    if len(levels) < minimum:
        raise Refused(
            "DCM-TOO-FEW",
            f"{len(levels)} slice position{'s' if len(levels) > 1 else ''} ({len(files)} files), "
            f"expected at least {minimum}",
            fix="nothing, unless slices were lost on the way.",
            files=files,
            state="skipped",
        )
    _check_one_place(levels, positions, files, tolerance=DRIFT_VOXELS * min(row_mm, column_mm))
    _check_repeats(levels, positions @ normal, headers, files)
    centres = np.array([np.median(positions[level], axis=0) for level in levels])
    step = _step(centres, normal, levels, headers, files, pixel_mm=min(row_mm, column_mm))
    lps = np.eye(4)
    lps[:3] = np.column_stack([row * column_mm, column * row_mm, step, centres[0]])
    order, time = _times(levels, headers, files)
    return Stack(order, grid.to_ras(lps), time)


def _check_present(headers: Sequence[Header], files: Sequence[Path]) -> None:
    without = [
        f for h, f in zip(headers, files, strict=True) if not h["position"] or not h["orientation"]
    ]
    if without:
        raise Refused(
            "DCM-NO-GEOMETRY",
            f"{len(without)} of {len(files)} slices have no position or orientation, the first is {{0}}",
            fix="export the series again with ImagePositionPatient and ImageOrientationPatient.",
            files=without,
        )
    without = [
        f for h, f in zip(headers, files, strict=True) if min(h["pixel_spacing"] or [0]) <= 0
    ]
    if without:
        raise Refused(
            "DCM-SPACING-MISSING",
            f"{len(without)} of {len(files)} slices have no PixelSpacing above 0 mm, the first is {{0}}",
            fix="export the series again with PixelSpacing; a detector's spacing is not the patient's.",
            files=without,
        )


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


def _levels(depth: np.ndarray) -> list[np.ndarray]:
    """Numbers of the slices at each depth along the normal, from the lowest up."""
    order = np.argsort(depth, kind="stable")
    gaps = np.diff(depth[order])
    real = gaps[gaps > GAP_MM]
    same = max(GAP_MM, GAP_RELATIVE * median_low(real.tolist())) if real.size else GAP_MM
    return np.split(order, np.flatnonzero(gaps > same) + 1)


def _check_one_place(
    levels: Sequence[np.ndarray], positions: np.ndarray, files: Sequence[Path], *, tolerance: float
) -> None:
    for level in levels:
        apart = np.linalg.norm(positions[level] - positions[level[0]], axis=1)
        worst = int(np.argmax(apart))
        if apart[worst] > tolerance:
            raise Refused(
                "DCM-UNEVEN",
                f"slices at one depth lie {apart[worst]:.3f} mm apart in their plane, tolerance {tolerance:.3f} mm: "
                "{0} and {1}",
                fix="separate the stacks into series of their own.",
                files=[files[level[0]], files[level[worst]]],
            )


def _check_repeats(
    levels: Sequence[np.ndarray],
    depth: np.ndarray,
    headers: Sequence[Header],
    files: Sequence[Path],
) -> None:
    """Either every position holds as many slices as every other, or the series is no set of volumes."""
    repeats = [len(level) for level in levels]
    most = max(repeats)
    if min(repeats) == most:
        return
    usual = median_low(repeats)
    crowded = levels[repeats.index(most)]
    volumes = {headers[i]["temporal_position"] for i in crowded} - {None}
    if usual == 1 and len(volumes) < most:
        raise Refused(
            "DCM-DUP-POS",
            f"{most} slices with different pixels at {depth[crowded[0]]:.3f} mm along the normal: "
            + " and ".join(f"{{{i}}}" for i in range(most)),
            fix="remove the slice that does not belong to the series.",
            files=[files[i] for i in crowded],
        )
    short = [level for level in levels if len(level) < most]
    lacking = ", ".join(_lacking(level, depth, most, crowded, headers) for level in short[:5])
    raise Refused(
        "DCM-4D-INCOMPLETE",
        f"{len(short)} of {len(levels)} positions lack slices of the {most} volumes: {lacking}"
        + (", ..." if len(short) > 5 else ""),
        fix="copy the missing files, or remove the incomplete volume.",
        files=[files[i] for level in short for i in level],
    )


def _lacking(
    level: np.ndarray,
    depth: np.ndarray,
    most: int,
    crowded: np.ndarray,
    headers: Sequence[Header],
) -> str:
    here = {headers[i]["temporal_position"] for i in level}
    missing = sorted(
        {t for i in crowded if (t := headers[i]["temporal_position"]) is not None} - here
    )
    which = f", without volume {' '.join(map(str, missing))}" if missing else ""
    return f"{depth[level[0]]:.3f} mm holds {len(level)} of {most}{which}"


def _step(
    centres: np.ndarray,
    normal: np.ndarray,
    levels: Sequence[np.ndarray],
    headers: Sequence[Header],
    files: Sequence[Path],
    *,
    pixel_mm: float,
) -> np.ndarray:
    """Vector, LPS mm, from each slice to the next; refuse positions that do not lie on one regular line."""
    if len(centres) == 1:
        thickness = headers[0]["slice_thickness"]
        if not thickness or thickness <= 0:
            raise Refused(
                "DCM-SPACING-MISSING",
                "one slice, and no SliceThickness to say how thick, in {0}",
                fix="export the series again with SliceThickness.",
                files=files[:1],
            )
        return normal * thickness
    gaps = np.diff(centres @ normal)
    expected = median_low(gaps.tolist())
    tolerance = max(GAP_MM, GAP_RELATIVE * expected)
    wrong = np.flatnonzero(np.abs(gaps - expected) > tolerance)
    if wrong.size:
        whole = np.rint(gaps[wrong] / expected)
        missing = (whole >= 2) & (np.abs(gaps[wrong] - whole * expected) <= tolerance * whole)
        first = int(wrong[0])
        more = f" ({wrong.size} such places)" if wrong.size > 1 else ""
        between = [files[levels[first][0]], files[levels[first + 1][0]]]
        if missing.all():
            raise Refused(
                "DCM-GAP",
                f"gap {gaps[first]:.3f} mm, expected {expected:.3f}, between {{0}} and {{1}}{more}",
                fix=f"copy the {int((whole - 1).sum())} missing slice(s) and ingest again.",
                files=between,
            )
        raise Refused(
            "DCM-UNEVEN",
            f"step {gaps[first]:.3f} mm, expected {expected:.3f} (tolerance {tolerance:.3f}), "
            f"between {{0}} and {{1}}{more}",
            fix="resample the series onto an even grid, or leave it out.",
            files=between,
        )
    step: np.ndarray = (centres[-1] - centres[0]) / (len(centres) - 1)
    off = centres - (centres[0] + np.arange(len(centres))[:, None] * step)
    along = np.abs(off @ normal)
    across = np.linalg.norm(off - (off @ normal)[:, None] * normal, axis=1)
    for distance, limit, where in (
        (along, DRIFT_VOXELS * expected, "along the normal"),
        (across, DRIFT_VOXELS * pixel_mm, "in its plane"),
    ):
        worst = int(np.argmax(distance))
        if distance[worst] > max(limit, GAP_MM):
            raise Refused(
                "DCM-UNEVEN",
                f"slice {worst} lies {distance[worst]:.3f} mm {where} from its place on an even grid of "
                f"{expected:.3f} mm, tolerance {max(limit, GAP_MM):.3f}, in {{0}}",
                fix="resample the series onto an even grid, or leave it out.",
                files=[files[levels[worst][0]]],
            )
    return step


def _times(
    levels: Sequence[np.ndarray], headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, xr.Variable | None]:
    """Rank the slices of each position in time, by the first tag that tells them apart at every position.

    Trigger times differ from slice to slice when the heart rate does, so they are ranked within each.
    """
    if len(levels[0]) == 1:
        return np.array([[level[0] for level in levels]]), None
    for tag in ("trigger_time", "temporal_position", "acquisition_time", "instance"):
        values = [[headers[i][tag] for i in level] for level in levels]
        if any(None in row or len(set(row)) < len(row) for row in values):
            continue
        table = np.array(values, float)
        rank = np.argsort(table, axis=1)
        ordered = np.take_along_axis(table, rank, axis=1)
        if tag == "temporal_position" and (ordered != ordered[0]).any():
            raise Refused(
                "DCM-4D-INCOMPLETE",
                "positions hold different volumes: "
                + " and ".join(
                    str(sorted({int(v) for v in row})) for row in np.unique(ordered, axis=0)[:2]
                ),
                fix="copy the missing files, or remove the incomplete volume.",
                files=files,
            )
        order = np.array([level[r] for level, r in zip(levels, rank, strict=True)]).T
        return order, _time_axis(tag, ordered, headers)
    raise Refused(
        "DCM-DUP-POS",
        f"every position holds {len(levels[0])} slices and neither time nor InstanceNumber tells them apart, "
        "for example {0} and {1}",
        fix="separate the volumes into series of their own.",
        files=[files[i] for i in levels[0][:2]],
    )


def _time_axis(tag: str, ordered: np.ndarray, headers: Sequence[Header]) -> xr.Variable:
    """Time of each volume: seconds if the tag tells, else frames, and marked so."""
    middle = np.median(ordered, axis=0)
    resolution = headers[0]["temporal_resolution"]
    if tag == "trigger_time":
        return xr.Variable("time", middle / 1000, {"units": "s", "basis": "TriggerTime"})
    if tag == "temporal_position" and resolution:
        seconds = (middle - middle[0]) * resolution / 1000
        return xr.Variable("time", seconds, {"units": "s", "basis": "TemporalPositionIdentifier"})
    if tag == "acquisition_time":
        seconds = np.median(ordered - ordered[:, :1], axis=0)
        return xr.Variable("time", seconds, {"units": "s", "basis": "AcquisitionTime"})
    basis = "TemporalPositionIdentifier" if tag == "temporal_position" else "InstanceNumber"
    return xr.Variable(
        "time", np.arange(middle.size, dtype=float), {"units": "frame", "basis": basis}
    )
