"""Slices that share their positions: whether they make whole volumes, which belongs to which, and when each was taken."""

from collections.abc import Sequence
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
            f"{most} slices that are no copies of each other, by pixels and numbers, at {depth[crowded[0]]:.3f} mm along the normal: "
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


CONFLICT = "volume_order_conflict"
"""Flag of volumes that tags tell apart in one way and other tags, or InstanceNumber, in another way."""

_CONTRASTS = {
    "DiffusionBValue": "b_value",
    "InversionTime": "inversion_time",
    "FlipAngle": "flip_angle",
}
"""What is one number throughout a volume, or at least of one rank at every position -> field."""

_SAME_TR = 0.01
"""Repetition times that differ by no more than this share are one."""

Order = tuple[str, np.ndarray, np.ndarray]
"""Tag, its values (positions, volumes) in order, and the slices (volumes, positions)."""


def times(
    levels: Sequence[np.ndarray], headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, xr.Variable | None, frozenset[str]]:
    """Rank the slices of each position in time, by the first tag that tells them apart at every position.

    Trigger times differ from slice to slice when the heart rate does, so they are ranked within each.

    Returns
    -------
    order, time, flags
        Slices (volumes, positions); the axis, None for one volume; `CONFLICT` if tags disagree.
    """
    if len(levels[0]) == 1:
        return np.array([[level[0] for level in levels]]), None, frozenset()
    _check_repetition(levels, headers, files)
    tag, ordered, order = _first_order(levels, headers, files)
    conflict = False
    if tag == "TemporalPositionIdentifier" and (timed := _order_by("TriggerTime", levels, headers)):
        conflict = not np.array_equal(timed[2], order)
        uneven = bool((ordered != ordered[0]).any())
        if uneven or not conflict:
            tag, ordered, order = timed
            conflict = uneven
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
    sorted_order, by = _by_contrast(tag, order, headers, files)
    if by:
        axis = xr.Variable(
            "time", np.arange(len(order), dtype=float), {"units": "frame", "basis": by}
        )
        return sorted_order, axis, frozenset({CONFLICT})
    flags = {CONFLICT} if conflict or _instances_conflict(order, headers) else set()
    return order, _time_axis(tag, ordered, order, headers), frozenset(flags)


def _first_order(
    levels: Sequence[np.ndarray], headers: Sequence[Header], files: Sequence[Path]
) -> Order:
    for tag in ("TemporalPositionIdentifier", "TriggerTime", "AcquisitionTime", *INFERRED[:2]):
        if found := _order_by(tag, levels, headers):
            return found
    (one, other), own = named(levels[0][:2], headers, files)
    raise Refused(
        "DCM-DUP-POS",
        f"every position holds {len(levels[0])} slices and neither time nor InstanceNumber tells them apart, "
        f"for example {one} and {other}",
        fix="separate the volumes into series of their own.",
        files=own,
    )


def _order_by(tag: str, levels: Sequence[np.ndarray], headers: Sequence[Header]) -> Order | None:
    """Order by one tag, None unless it tells the slices of every position apart."""
    moments = _moments(tag, headers)
    values = [[moments[i] for i in level] for level in levels]
    if any(None in row or len(set(row)) < len(row) for row in values):
        return None
    table = np.array(values, float)
    rank = np.argsort(table, axis=1)
    order = np.array([level[r] for level, r in zip(levels, rank, strict=True)]).T
    return tag, np.take_along_axis(table, rank, axis=1), order


def _moments(tag: str, headers: Sequence[Header]) -> list[float | None]:
    """What may tell the volumes of a series apart, slice by slice."""
    if tag == "TriggerTime":
        return [h["trigger_time"] for h in headers]
    if tag == "TemporalPositionIdentifier":
        return [h["temporal_position"] for h in headers]
    if tag == "AcquisitionTime":
        return _acquired(headers)
    if tag == "DimensionIndexValues":
        return [h["volume"] for h in headers]
    return [_numbered(h) for h in headers]


def _check_repetition(
    levels: Sequence[np.ndarray], headers: Sequence[Header], files: Sequence[Path]
) -> None:
    """Refuse volumes of different repetition times: one heart's may differ from slice to slice, not at each of them."""
    for level in levels:
        found = [ms for i in level if (ms := headers[i]["repetition_time"]) is not None]
        if not found or max(found) - min(found) <= _SAME_TR * max(found):
            return
    raise Refused(
        "DCM-MIXED",
        f"slices of each position have repetition times of {min(found):g} to {max(found):g} ms: they are no volumes of "
        "one scan; the first is {0}",
        fix="separate the volumes into series of their own.",
        files=list(dict.fromkeys(files))[:1],
    )


def _by_contrast(
    tag: str, order: np.ndarray, headers: Sequence[Header], files: Sequence[Path]
) -> tuple[np.ndarray, str]:
    """Order volumes by what their contrast says where the order found mixes it; "" if it does not, and the same order.

    Raises
    ------
    Refused
        ``DCM-MIXED`` if contrasts do not make volumes either.
    """
    for name, field in _CONTRASTS.items():
        # What has no b-value was taken without diffusion.
        said: list[float] = [h[field] or 0.0 for h in headers]  # type: ignore[literal-required]
        values = np.array(said)[order]
        ranks = np.array([np.unique(row, return_inverse=True)[1] for row in values.T]).T
        if (ranks == ranks[:, :1]).all():
            continue
        sets = np.sort(ranks, axis=0)
        if (sets != sets[:, :1]).any() or tag in ("TemporalPositionIdentifier", "TriggerTime"):
            raise Refused(
                "DCM-MIXED",
                f"volumes by {tag} hold slices of different {name}: {{0}}, ...",
                fix="separate the volumes into series of their own.",
                files=list(dict.fromkeys(files))[:1],
            )
        return np.take_along_axis(order, np.argsort(ranks, axis=0, kind="stable"), axis=0), name
    return order, ""


def _instances_conflict(order: np.ndarray, headers: Sequence[Header]) -> bool:
    """Whether InstanceNumber puts the slices of some positions in one order of time and those of others in another."""
    numbers = [h["instance"] for h in headers]
    # The order of the frames of one file says nothing.
    if None in numbers or any(h["frame"] is not None for h in headers):
        return False
    table = np.array(numbers, float)[order]
    if any(len(set(row)) < len(row) for row in table.T.tolist()):
        return False
    ranks = np.argsort(table, axis=0)
    return bool((ranks != ranks[:, :1]).any())


_DAY = 86_400.0

INFERRED = ("DimensionIndexValues", "InstanceNumber", *_CONTRASTS)
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
