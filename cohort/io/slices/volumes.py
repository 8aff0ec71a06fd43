"""Slices that share their positions: whether they make whole volumes, which belongs to which, and when each was taken."""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median_low

import numpy as np
import xarray as xr

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_header import Header, named


def check_repeats(
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
        names, own = named(crowded, headers, files)
        raise Refused(
            "DCM-DUP-POS",
            f"{most} slices with different pixels at {depth[crowded[0]]:.3f} mm along the normal: "
            + " and ".join(names),
            fix="remove the slice that does not belong to the series.",
            files=own,
        )
    short = [level for level in levels if len(level) < most]
    lacking = ", ".join(_lacking(level, depth, most, crowded, headers) for level in short[:5])
    raise Refused(
        "DCM-4D-INCOMPLETE",
        f"{len(short)} of {len(levels)} positions lack slices of the {most} volumes: {lacking}"
        + (", ..." if len(short) > 5 else "")
        + "; there is {0}",
        fix="copy the missing files, or remove the incomplete volume.",
        files=list(dict.fromkeys(files[i] for level in short for i in level)),
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


def times(
    levels: Sequence[np.ndarray], headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, xr.Variable | None]:
    """Rank the slices of each position in time, by the first tag that tells them apart at every position.

    Trigger times differ from slice to slice when the heart rate does, so they are ranked within each.
    """
    if len(levels[0]) == 1:
        return np.array([[level[0] for level in levels]]), None
    for tag, moments in _moments(headers):
        values = [[moments[i] for i in level] for level in levels]
        if any(None in row or len(set(row)) < len(row) for row in values):
            continue
        table = np.array(values, float)
        rank = np.argsort(table, axis=1)
        ordered = np.take_along_axis(table, rank, axis=1)
        if tag == "TemporalPositionIdentifier" and (ordered != ordered[0]).any():
            raise Refused(
                "DCM-4D-INCOMPLETE",
                "positions hold different volumes: "
                + " and ".join(
                    str(sorted({int(v) for v in row})) for row in np.unique(ordered, axis=0)[:2]
                )
                + "; the first is {0}",
                fix="copy the missing files, or remove the incomplete volume.",
                files=list(dict.fromkeys(files)),
            )
        order = np.array([level[r] for level, r in zip(levels, rank, strict=True)]).T
        return order, _time_axis(tag, ordered, order, headers)
    (one, other), own = named(levels[0][:2], headers, files)
    raise Refused(
        "DCM-DUP-POS",
        f"every position holds {len(levels[0])} slices and neither time nor InstanceNumber tells them apart, "
        f"for example {one} and {other}",
        fix="separate the volumes into series of their own.",
        files=own,
    )


def _moments(headers: Sequence[Header]) -> Iterator[tuple[str, list[float | None]]]:
    """What may tell the volumes of a series apart, slice by slice, the best tag first."""
    yield "TriggerTime", [h["trigger_time"] for h in headers]
    yield "TemporalPositionIdentifier", [h["temporal_position"] for h in headers]
    yield "AcquisitionTime", _acquired(headers)
    yield "DimensionIndexValues", [h["volume"] for h in headers]
    yield "InstanceNumber", [_numbered(h) for h in headers]


_DAY = 86_400.0

INFERRED = ("DimensionIndexValues", "InstanceNumber")
"""Tags that tell volumes apart and say nothing of time."""


def _acquired(headers: Sequence[Header]) -> list[float | None]:
    """Seconds at which slices were taken, since the first midnight.

    No series lasts half a day: where the hours say so and no date does, midnight has passed.
    """
    days = [_day(h["acquisition_date"]) for h in headers]
    clocks = [h["acquisition_time"] for h in headers]
    known = [seconds for seconds in clocks if seconds is not None]
    passed = len(set(days)) == 1 and known and max(known) - min(known) > _DAY / 2
    first = min(days)
    return [
        None
        if seconds is None
        else seconds + _DAY * (day - first + bool(passed and seconds < _DAY / 2))
        for day, seconds in zip(days, clocks, strict=True)
    ]


def _day(text: str) -> int:
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        return 0


def _numbered(header: Header) -> float | None:
    """Where a slice stands in its series, by the number of its instance and of the frame within."""
    instance, frame = header["instance"], header["frame"]
    if instance is None and frame is None:
        return None
    return (instance or 0) * 2.0**24 + (frame or 0)


def _time_axis(
    tag: str, ordered: np.ndarray, order: np.ndarray, headers: Sequence[Header]
) -> xr.Variable:
    """Time of each volume: seconds if a tag tells, else frames, and marked so."""
    middle = np.median(ordered, axis=0)
    resolution = headers[0]["temporal_resolution"]
    if tag == "TriggerTime":
        return _seconds(middle / 1000, tag)
    if tag == "TemporalPositionIdentifier" and resolution:
        return _seconds((middle - middle[0]) * resolution / 1000, tag)
    times = np.array(_acquired(headers), float)[order]
    since = np.median(times - times[0], axis=1)
    if (np.diff(since) > 0).all():
        return _seconds(since, "AcquisitionTime")
    return xr.Variable(
        "time", np.arange(middle.size, dtype=float), {"units": "frame", "basis": tag}
    )


def _seconds(values: np.ndarray, basis: str) -> xr.Variable:
    return xr.Variable("time", values, {"units": "s", "basis": basis})
