"""Groups of one series at the same places whose volumes follow each other in time: one time series that a tag sets apart.

Of six volumes every second of which has one word more in its ImageType, either half looks like a scan of twice the repetition
time. Magnitude and phase, or the echoes, of one moment share their times; what was derived has times of its own, which say nothing.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_group import KEY_PARTS, apart_by
from cohort.io.slices.dicom_header import Header

Moment = tuple[int | None, float | None, float | None]
"""When a slice was taken: TemporalPositionIdentifier, TriggerTime in ms, and AcquisitionTime in seconds since a day long ago."""

Key = tuple[Any, ...]

_KIND, _ECHO, _ECHO_NUMBER = map(KEY_PARTS.index, ("ImageType", "EchoTime", "EchoNumbers"))

_SAME_CONTRAST = 0.01
"""Echo times that differ by no more than this share are meant to be one; others are echoes."""

_WOBBLE = 0.1
"""Volumes come evenly if none is off by more than this share of their distance."""

_FARTHEST = 4
"""Volumes that lie this many steps apart, and no more, may be of one series of which others are lost."""

_DAY = 86_400.0


def moments_of(headers: Sequence[Header]) -> tuple[Moment, ...]:
    """When the slices of a file were taken that belong to one group and lie where the first does; () if nothing tells."""
    here = [h for h in headers if h["position"] == headers[0]["position"]]
    moments = [(h["temporal_position"], h["trigger_time"], _seconds(h)) for h in here]
    return tuple(moments) if any(value is not None for m in moments for value in m) else ()


def _seconds(header: Header) -> float | None:
    clock, day = header["acquisition_time"], header["acquisition_date"]
    if clock is None:
        return None
    try:
        return clock + _DAY * date.fromisoformat(day).toordinal()
    except ValueError:
        return clock


def may_be_one(one: Key, other: Key) -> Literal["", "possibly", "surely"]:
    """Say whether groups whose volumes follow each other are one time series by their keys.

    Surely, if one has only words more in its ImageType than the other; possibly, if they have different words, which may name two
    kinds of image; not, if they are different echoes, or either is derived.
    """
    times = one[_ECHO], other[_ECHO]
    numbers = one[_ECHO_NUMBER], other[_ECHO_NUMBER]
    if None not in times and not math.isclose(*times, rel_tol=_SAME_CONTRAST):
        return ""
    if (None not in numbers and numbers[0] != numbers[1]) or "DERIVED" in one[_KIND] + other[_KIND]:
        return ""
    words = set(one[_KIND]), set(other[_KIND])
    return "surely" if words[0] <= words[1] or words[1] <= words[0] else "possibly"


def follow(
    one: Mapping[str, Sequence[Moment]], other: Mapping[str, Sequence[Moment]]
) -> tuple[int, int] | None:
    """Compare two groups by when their slices were taken.

    Parameters
    ----------
    one, other : mapping of str -> sequence of Moment
        Of each place, in any notation, all slices there.

    Returns
    -------
    (int, int), optional
        Volumes of either, if at every place they follow each other or alternate, evenly but for those that are lost; by the first
        tag that tells the volumes of each apart.
    """
    if one.keys() != other.keys():
        return None
    for tag in range(3):
        mine, yours = _told(tag, one), _told(tag, other)
        if mine is None or yours is None:
            continue
        if not all(_is_even(a, b) for a, b in zip(mine, yours, strict=True)):
            return None
        return len(mine[0]), len(yours[0])
    return None


def _told(tag: int, slices: Mapping[str, Sequence[Moment]]) -> list[list[float]] | None:
    """What a tag says at every place, in one order; None unless it tells the volumes apart."""
    found = []
    for place in sorted(slices):
        values = [value for moment in slices[place] if (value := moment[tag]) is not None]
        if not values or len(set(values)) < len(slices[place]):
            return None
        found.append([float(value) for value in values])
    return found or None


def _is_even(one: Sequence[float], other: Sequence[float]) -> bool:
    both = sorted([*one, *other])
    gaps = [later - earlier for earlier, later in pairwise(both)]
    if len(both) < 3 or not min(gaps):
        return False
    step = median_low([gap for gap in gaps if gap < 1.5 * min(gaps)])
    times = [round(gap / step) for gap in gaps]
    return max(times) <= _FARTHEST and all(
        abs(gap - n * step) <= _WOBBLE * step for gap, n in zip(gaps, times, strict=True)
    )


def refusal(one: Key, other: Key, sizes: tuple[int, int], files: Sequence[Path]) -> Refused:
    """Say that two groups of files are parts of one time series.

    Parameters
    ----------
    one, other : tuple
        Their keys.
    sizes : (int, int)
        Volumes of either, as `follow` gives them.
    files : sequence of Path
        One of each.
    """
    tags = apart_by(one, other)
    mine, yours = (f"{n} volume{'s' if n > 1 else ''}" for n in sizes)
    return Refused(
        "DCM-TORN",
        f"volumes of one series at the same places that follow each other in time are set apart by their {tags}: {mine}, such as in "
        f"{{0}}, and {yours}, such as in {{1}}",
        fix=f"if they are one scan, give its slices one {tags}, for example with dcmodify; if they are scans of their own, state "
        "split: true in the catalog.",
        files=files,
    )
