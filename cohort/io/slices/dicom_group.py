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

SAME_SPACING = 1e-4
"""Pixel spacings, mm, that differ by no more are one spacing."""


def group_key(header: "Header") -> tuple[Any, ...]:
    """Give what slices of one scan share; `KEY_PARTS` names the parts."""
    spacing, orientation = header["pixel_spacing"], header["orientation"]
    return (
        header["patient_id"],
        header["study_uid"],
        header["series_uid"],
        header["sop_class"],
        tuple(header["image_type"]),
        None if header["echo_time"] is None else round(header["echo_time"], 2),
        header["echo_number"],
        (header["rows"], header["columns"]),
        None if spacing is None else tuple(round(mm, 4) + 0.0 for mm in spacing),
        None if orientation is None else tuple(round(cosine, 3) + 0.0 for cosine in orientation),
    )


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


def group(keys: Sequence[tuple[Any, ...]]) -> list[list[int]]:
    """Collect files by `group_key`; keys that rounding set apart come together again.

    Parameters
    ----------
    keys : sequence of tuple
        As `group_key` gives them, one a file.

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
    # A slice without orientation comes last, and to others that are there: it must not be lost beside them.
    for key in sorted(by_key, key=lambda key: (key[-1] is None, repr(key))):
        near = next((head for head in heads[key[:-2]] if _near(head, key)), None)
        if near is None:
            heads[key[:-2]].append(key)
            groups[key] = by_key[key]
        else:
            groups[near] = sorted(groups[near] + by_key[key])
    return sorted(groups.values())


def _near(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two keys that agree in all but spacing and orientation differ by no more than rounding."""
    for part, tolerance in ((-2, SAME_SPACING), (-1, SAME_DIRECTION)):
        a, b = one[part], other[part]
        if a is None or b is None:
            if a != b and part == -2:
                return False
        # Half a unit of rounding on either side comes on top of the tolerance.
        elif max(abs(p - q) for p, q in zip(a, b, strict=True)) > 1.001 * tolerance:
            return False
    return True


def key_digest(key: tuple[Any, ...]) -> str:
    """Sixteen hexadecimal digits that tell apart the groups of one series."""
    return hashlib.sha256(repr(key[3:]).encode()).hexdigest()[:16]


def mix(
    part: int, first: tuple[Any, ...], other: tuple[Any, ...], files: Sequence[Path]
) -> Refused:
    """Say that two groups of files, which differ in one part of their keys, may not be one series."""
    code = {0: "DCM-UID-COLLISION", 7: "DCM-MATRIX-MIX", 8: "DCM-SPACING-MIX"}.get(
        part, "DCM-MIXED"
    )
    # Identities are not repeated in messages; sizes are.
    values = f" ({first[part]} and {other[part]})" if part >= 5 else ""
    return Refused(
        code,
        f"two values of {KEY_PARTS[part]}{values} in one series: {{0}} and {{1}}",
        fix="separate them into series of their own"
        + (", or state split: true in the catalog." if part in (7, 8) else "."),
        files=files,
    )
