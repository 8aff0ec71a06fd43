"""Scans that are one scan: the same voxels under two names, or a stack that was cut into several series."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohort.io.refusal import Refused

MEETS = 0.05
"""Share of a slice's distance by which the next part of a stack may be off its place."""

SAME_DIRECTION = 1e-3
"""Axes, in units of their voxels, that differ by no more are parallel and of one spacing."""

SAME_TIMING = 0.01
"""Share of a value by which the timing of two parts of one series may differ."""

TIMING = ("modality", "repetition_time_ms", "echo_time_ms", "flip_angle_deg", "echo_number")
"""What the header says alike of the parts of one series."""

_APART_MM = 1e7
"""Farther than any two scans of one session: keeps sessions apart in one search."""


def twins(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Scans of several subjects that hold the same image: one of the subjects is not who the files say.

    Parameters
    ----------
    records : iterable of mapping
        Records of the store: scan_id, subject and ``contents["image"]``, the digest of voxels, scaling, unit and place.

    Returns
    -------
    list of list of scan_id
        Each group sorted, and the groups by their first.

    Examples
    --------
    >>> def scan(name, subject, digest):
    ...     return {"scan_id": name, "subject": subject, "contents": {"image": digest}}
    >>> twins([scan("a", "1", "x"), scan("b", "2", "x"), scan("c", "2", "y"), scan("d", "2", "y")])
    [['a', 'b']]
    """
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    scans: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        digest = record["contents"]["image"]
        subjects[digest].add(record["subject"])
        scans[digest].append(record["scan_id"])
    return sorted(sorted(scans[digest]) for digest, who in subjects.items() if len(who) > 1)


def image_twice(files: Sequence[Path], *, subjects: int) -> Refused:
    """Say that an image stands under several subjects.

    Parameters
    ----------
    files : sequence of Path
        One file of the scan that is refused, then one of another.
    subjects : int
        How many.
    """
    return Refused(
        "IMG-TWICE",
        f"{{0}} holds the same voxels as {{1}}, and they are said to be of {subjects} subjects",
        fix="find out whose scan it is and remove the other",
        files=files,
    )


def looks_like_one_series(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Scans of one visit whose slices continue each other: probably one series under several UIDs.

    Parameters
    ----------
    records : iterable of mapping
        Records of the store: scan_id, subject, session, shape (..., z, y, x), affine (16 numbers, row-major) and attrs.
        One without an affine is left out.

    Returns
    -------
    list of (scan_id, scan_id)
        The first ends one slice before the second begins, along any axis; on the other two both have the same extent. Their
        modality, echo, timing and flip angle agree. Sorted.

    Notes
    -----
    Canon and Siemens XA export such series (dcm2niix issues 495, 599, 655). Nothing is joined: slabs that were
    acquired one after the other look the same.
    """
    from scipy.spatial import cKDTree

    found = [record for record in records if record.get("affine") is not None]
    if len(found) < 2:
        return []
    affines = np.array([record["affine"] for record in found], float).reshape(-1, 4, 4)
    sizes = np.array([record["shape"][-3:] for record in found])[:, ::-1]
    visits: dict[tuple[Any, Any], int] = {}
    visit = np.array(
        [visits.setdefault((r["subject"], r["session"]), len(visits)) for r in found], float
    )
    place = _APART_MM * visit[:, None]
    starts = cKDTree(np.concatenate([affines[:, :3, 3], place], axis=1))
    linear = affines[:, :3, :3]
    lengths = np.linalg.norm(linear, axis=1)
    pairs = set()
    for axis in range(3):
        ends = affines[:, :3, 3] + sizes[:, axis, None] * linear[:, :, axis]
        near = starts.query_ball_point(
            np.concatenate([ends, place], axis=1), MEETS * lengths[:, axis]
        )
        one = np.repeat(np.arange(len(found)), [len(candidates) for candidates in near])
        other = np.array([o for candidates in near for o in candidates], int)
        across = [a for a in range(3) if a != axis]
        fits = (sizes[one][:, across] == sizes[other][:, across]).all(axis=1)
        turned = np.abs(linear[one] - linear[other]) > SAME_DIRECTION * lengths[one][:, None, :]
        for i, j in zip(
            *(n[fits & ~turned.any(axis=(1, 2))].tolist() for n in (one, other)), strict=True
        ):
            if _timed_alike(found[i], found[j]):
                pairs.add((str(found[i]["scan_id"]), str(found[j]["scan_id"])))
    return sorted(pairs)


def _timed_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, yours = one.get("attrs", {}), other.get("attrs", {})
    for name in TIMING:
        a, b = mine.get(name), yours.get(name)
        if a == b:
            continue
        if a is None or b is None or isinstance(a, str) or isinstance(b, str):
            return False
        if abs(a - b) > SAME_TIMING * max(abs(a), abs(b)):
            return False
    return True
