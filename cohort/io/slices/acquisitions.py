"""Slices of several acquisitions that lie between each other: each is a stack of its own, together they are none."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median_low

import numpy as np

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_header import Header

_SAME_SHARE = 0.05
"""A tag that differs from the distance of the slices by no more than this share of it tells that distance."""


def check_not_interleaved(
    numbers: Sequence[int], depth: np.ndarray, headers: Sequence[Header], files: Sequence[Path]
) -> None:
    """Raise `Refused`, ``DCM-MIXED``, where volumes of one series lie between each other's slices.

    Parameters
    ----------
    numbers : sequence of int
        Of the slices in spatial order, one a position.
    depth : array
        Of every slice along the normal, mm.

    Notes
    -----
    Volumes at different times are never one. Acquisitions may be, since scanners take odd and even slices one after the other:
    unless the tags say that slices lie as far apart as those of one acquisition do.
    """
    for name, field in (
        ("TemporalPositionIdentifier", "temporal_position"),
        ("AcquisitionNumber", "acquisition_number"),
    ):
        said = [headers[i][field] for i in numbers]  # type: ignore[literal-required]
        changes = sum(a != b for a, b in pairwise(said))
        if None in said or changes < len(set(said)) or len(set(said)) < 2:
            continue
        if field == "acquisition_number" and not _is_own(said, numbers, depth, headers):
            continue
        other = next(i for i, value in zip(numbers, said, strict=True) if value != said[0])
        raise Refused(
            "DCM-MIXED",
            f"slices with {len(set(said))} values of {name} lie between each other, for example {{0}} and {{1}}",
            fix="separate the volumes into series of their own.",
            files=[files[numbers[0]], files[other]],
        )


def check_not_halved(
    numbers: Sequence[int], depth: np.ndarray, headers: Sequence[Header], files: Sequence[Path]
) -> None:
    """Raise `Refused`, ``DCM-GAP``, where SpacingBetweenSlices and InstanceNumber both say that slices lie between these.

    Lost on the way, or set apart by a word that comes and goes in a tag: an even stack of every second slice seems to lack nothing.

    Parameters
    ----------
    numbers, depth
        As in `check_not_interleaved`.
    """
    tag = headers[numbers[0]]["slice_spacing"]
    instances = [n for i in numbers if (n := headers[i]["instance"]) is not None]
    if not tag or len(instances) < max(len(numbers), 3):
        return
    skips = set(np.abs(np.diff(instances)).tolist())
    every = skips.pop()
    step = (depth[numbers[-1]] - depth[numbers[0]]) / (len(numbers) - 1)
    if skips or every < 2 or abs(abs(tag) * every - step) > _SAME_SHARE * step:
        return
    raise Refused(
        "DCM-GAP",
        f"gap {step:.3f} mm, expected {abs(tag):.3f}, between any two slices, such as {{0}} and {{1}}: SpacingBetweenSlices says "
        f"so, and InstanceNumber goes up by {every}",
        fix="export the series again; if they are there, find out which tag sets them apart (ImageType, EchoNumbers, ...).",
        files=[files[numbers[0]], files[numbers[1]]],
    )


def _is_own(
    said: Sequence[int], numbers: Sequence[int], depth: np.ndarray, headers: Sequence[Header]
) -> bool:
    """Whether the tags give the distance within each acquisition, and not that of all slices."""
    tag = headers[numbers[0]]["slice_spacing"] or headers[numbers[0]]["slice_thickness"]
    places = depth[list(numbers)]
    gaps = [
        gap for value in set(said) for gap in np.diff(places[[s == value for s in said]]).tolist()
    ]
    if not tag or not gaps:
        return False
    within, together = median_low(gaps), median_low(np.diff(places).tolist())
    return (
        abs(abs(tag) - within) <= _SAME_SHARE * within
        and abs(abs(tag) - together) > _SAME_SHARE * together
    )
