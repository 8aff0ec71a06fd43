"""Which DICOM slices make one scan: what they share, within rounding, and what no two of a series may have different."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort.io.refusal import Refused

if TYPE_CHECKING:
    from cohort.io.slices.dicom_header import Header

SAME_DIRECTION = 1e-3
"""Direction cosines that differ by no more are one orientation."""

WOBBLE = 0.035
"""Those that differ by no more, two degrees, are of one stack, whose directions are at odds."""

SAME_ECHO = 0.015
"""Echo times, ms, that differ by less are one echo, as rounded times may by one unit."""

SAME_SPACING = 1e-4
"""Pixel spacings, mm, that differ by no more are one spacing."""


def group_key(header: "Header") -> tuple[Any, ...]:
    """Give what slices of one scan share; `KEY_PARTS` names the parts."""
    spacing, orientation = header["pixel_spacing"], header["orientation"]
    return (
        header["patient_id"],
        header["study_uid"],
        header["series_uid"] or _series_without_uid(header),
        header["sop_class"],
        tuple(header["image_type"]),
        None if header["echo_time"] is None else round(header["echo_time"], 2),
        header["echo_number"],
        (header["rows"], header["columns"]),
        None if spacing is None else tuple(round(mm, 4) + 0.0 for mm in spacing),
        None if orientation is None else tuple(round(cosine, 3) + 0.0 for cosine in orientation),
    )


def _series_without_uid(header: "Header") -> str:
    """Stand in for a series' UID: nobody's name, another one for each study and number; "" without either."""
    if header["series_number"] is None:
        return ""
    known = repr((header["patient_id"], header["study_uid"], header["series_number"]))
    return f"without-uid-{hashlib.sha256(known.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


KEY_PARTS = (
    "patient",
    "study",
    "series",
    "SOP class",
    "ImageType",
    "EchoTime",
    "EchoNumbers",
    "matrix",
    "PixelSpacing",
    "orientation",
)
"""Names of the parts of a `group_key`."""


_PATIENT, _STUDY, _SERIES, _CLASS, _KIND, _ECHO, _ECHO_NUMBER, _MATRIX, _SPACING, _DIRECTION = (
    range(len(KEY_PARTS))
)


def group(keys: Sequence[tuple[Any, ...]], *, clashing: bool = True) -> list[list[int]]:
    """Collect files by `group_key`; keys that rounding set apart come together again.

    Parameters
    ----------
    keys : sequence of tuple
        As `group_key` gives them, one a file.
    clashing : bool
        Slices that are one series by its UID and differ in what no series may have different (the patient with the study,
        the SOP class, an orientation by a degree or two) come together too: `dicom.read_series` refuses them as a whole,
        where each part by itself would look like a scan that lacks nothing.

    Returns
    -------
    list of lists of int
        Numbers of the files of each group, in order.
    """
    by_key: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        by_key[key].append(number)
    heads: defaultdict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for key in sorted(by_key, key=_completest_first):
        alike = heads[key[_SERIES], key[_KIND], key[_MATRIX]]
        near = [head for head in alike if _near(head, key)]
        # A slice without the number of its echo goes where there is but one that it can belong to.
        if len(near) != 1 and any(head[_ECHO_NUMBER] != key[_ECHO_NUMBER] for head in near):
            near = []
        if not near and clashing and key[_SERIES]:
            near = [head for head in alike if _clash(head, key)]
        if near:
            groups[near[0]] = sorted(groups[near[0]] + by_key[key])
        else:
            alike.append(key)
            groups[key] = by_key[key]
    return sorted(groups.values())


def _completest_first(key: tuple[Any, ...]) -> tuple[bool, bool, str]:
    """A slice without orientation, or echo number, comes last, and to others that are there: it must not be lost."""
    return key[_DIRECTION] is None, key[_ECHO_NUMBER] is None, repr(key)


def _near(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two keys of one kind and matrix differ by no more than rounding, or by a part that one does not have."""
    return (
        one[_PATIENT:_KIND] == other[_PATIENT:_KIND]
        and _same_echo(one, other)
        and within(one[_SPACING], other[_SPACING], SAME_SPACING)
        and (
            None in (one[_DIRECTION], other[_DIRECTION])
            or within(one[_DIRECTION], other[_DIRECTION], SAME_DIRECTION)
        )
    )


def _clash(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two keys of one series, kind and matrix are near but for one part that all of a series have in common."""
    if not (_same_echo(one, other) and within(one[_SPACING], other[_SPACING], SAME_SPACING)):
        return False
    people = one[_PATIENT] != other[_PATIENT] and one[_STUDY] != other[_STUDY]
    if not people and one[:_SERIES] != other[:_SERIES]:
        return False
    # What has no place, such as a capture, is no part of a stack.
    return one[_DIRECTION] is not None and within(one[_DIRECTION], other[_DIRECTION], WOBBLE)


def _same_echo(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    time, other_time, number, other_number = (
        one[_ECHO],
        other[_ECHO],
        one[_ECHO_NUMBER],
        other[_ECHO_NUMBER],
    )
    same_time = time == other_time or (
        None not in (time, other_time) and abs(time - other_time) < SAME_ECHO
    )
    return same_time and (number == other_number or None in (number, other_number))


def within(one: Sequence[float] | None, other: Sequence[float] | None, tolerance: float) -> bool:
    """Whether rounded numbers differ by no more than a tolerance; half a unit of rounding on either side comes on top."""
    if one is None or other is None:
        return one == other
    return max(abs(p - q) for p, q in zip(one, other, strict=True)) <= 1.001 * tolerance


def key_digest(key: tuple[Any, ...]) -> str:
    """Sixteen hexadecimal digits that tell apart the groups of one series."""
    return hashlib.sha256(repr(key[3:]).encode()).hexdigest()[:16]


def apart_by(one: tuple[Any, ...], other: tuple[Any, ...]) -> str:
    """Names of the parts by which the keys of slices of one grid differ."""
    return " and ".join(KEY_PARTS[i] for i in range(_MATRIX) if one[i] != other[i])


def uid_conflict(files: Sequence[Path]) -> Refused:
    """Say that two files are different images under one SOPInstanceUID."""
    return Refused(
        "DCM-UID-CONFLICT",
        "one SOPInstanceUID, different images: {0} and {1}",
        fix="find out which is right and remove the other.",
        files=files,
    )


def mix(
    part: int, first: tuple[Any, ...], other: tuple[Any, ...], files: Sequence[Path]
) -> Refused:
    """Say that two groups of files, which differ in one part of their keys, may not be one series."""
    code = {
        0: "DCM-UID-COLLISION",
        1: "DCM-UID-COLLISION",
        7: "DCM-MATRIX-MIX",
        8: "DCM-SPACING-MIX",
    }.get(part, "DCM-MIXED")
    # Identities are not repeated in messages; sizes are.
    values = f" ({first[part]} and {other[part]})" if part >= 5 else ""
    return Refused(
        code,
        f"two values of {KEY_PARTS[part]}{values} in one series: {{0}} and {{1}}",
        fix="separate them into series of their own"
        + (", or state split: true in the catalog." if part in (7, 8) else "."),
        files=files,
    )
