"""Scans of a cohort that resemble each other more than they should: found by their thumbnails, shown side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from cohort.kernels import traits
from cohort.ops import likeness
from cohort.reporting import slices
from cohort.reporting.wording import number
from cohort.stats import resemblance

if TYPE_CHECKING:
    from cohort.io.thumbnail import Thumbnail

MAX_SCANS = 20_000
"""Scans that a report compares: some minutes. `Cohort.similar` compares any number."""

MAX_ROWS = 20
"""Findings that a report shows."""

CELL = 160
"""Longer side of a picture, pixels."""

KINDS: Mapping[str, str] = {
    "duplicate": "One image twice",
    "flipped": "Left and right exchanged",
    "swapped": "Labels exchanged",
    "one_person": "One person under two names",
}
"""What is found, in words."""


class Pictures(Protocol):
    """What is read of a `cohort.io.store.Store`."""

    def thumbnail(self, scan_id: str, /) -> "Thumbnail": ...  # noqa: D102


def similar(store: Pictures, scans: pd.DataFrame) -> pd.DataFrame:
    """Scans that resemble each other more than those of different persons do.

    Parameters
    ----------
    store : Store
        One thumbnail is read of each scan, about 25 kB.
    scans : DataFrame
        Columns ``scan_id`` and ``subject``, one row a scan.

    Returns
    -------
    DataFrame
        As `cohort.stats.resemblance.resemblances`, with its ``attrs["reason"]``. ``attrs["unread"]`` lists scans whose thumbnail
        cannot be had.
    """
    ids = [str(s) for s in scans["scan_id"]] if "scan_id" in scans else []
    # A scan of nobody known is somebody of its own.
    names = scans["subject"] if "subject" in scans else [None] * len(ids)
    who = [f"scan {i}" if pd.isna(s) else f"subject {s}" for i, s in zip(ids, names, strict=True)]
    step = _step_mm(store, ids)
    volumes = traits.room((len(ids), *(likeness.SIDE,) * 3), np.float16)
    kept: list[int] = []
    unread: list[str] = []
    for i, scan_id in enumerate(ids):
        try:
            coarse = store.thumbnail(scan_id).coarse
            volumes[len(kept)] = likeness.centred(coarse, step_mm=step)
        except Exception:  # noqa: BLE001 - one scan that cannot be read never costs the table
            unread.append(scan_id)
        else:
            kept.append(i)
    found = resemblance.resemblances(
        volumes[: len(kept)], [ids[i] for i in kept], [who[i] for i in kept]
    )
    found.attrs["unread"] = unread
    return found


def _step_mm(store: Pictures, ids: Sequence[str]) -> float:
    """Step of the common grid: the median over some of the scans of their longest side fits into it."""
    some = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(len(ids), 100)).astype(int))]
    sides = []
    for scan_id in some:
        try:
            sides.append(likeness.extent_mm(store.thumbnail(scan_id).coarse))
        except Exception:  # noqa: BLE001, S112 - told by `similar`
            continue
    return float(np.median(sides)) / likeness.SIDE if sides else 1.0


def context(
    store: Pictures, scans: pd.DataFrame, anchors: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``resemblance.html.j2`` shows.

    Parameters
    ----------
    anchors : mapping of scan_id -> str
        Where a scan is drawn on the page.
    """
    n = len(scans)
    if n > MAX_SCANS:
        return {"n": n, "rows": [], "more": 0, "unread": 0, "many": True, "reason": ""}
    if n < resemblance.FEWEST:
        reason = resemblance.too_few(n, n)
        return {"n": n, "rows": [], "more": 0, "unread": 0, "many": False, "reason": reason}
    found = similar(store, scans)
    rows = [
        {
            "kind": KINDS[row["kind"]],
            "reason": row["reason"],
            "scan_id": row["scan_id"],
            "r": number(row["r"], decimals=3),
            "expected": number(row["expected"], decimals=3),
            "pictures": [
                {"id": s, "anchor": (anchors or {}).get(s), **_picture(store, s)}
                for s in (row["scan_id"], row["other"])
            ],
        }
        for row in found.head(MAX_ROWS).to_dict("records")
    ]
    return {
        "n": n,
        "rows": rows,
        "more": max(0, len(found) - MAX_ROWS),
        "unread": len(found.attrs["unread"]),
        "many": False,
        "reason": found.attrs["reason"],
    }


def _picture(store: Pictures, scan_id: str) -> dict[str, Any]:
    """Axial mid plane of a scan."""
    cut = mid_plane(store.thumbnail(scan_id))
    picture = slices.tile(cut, size=CELL)
    return {
        "uri": slices.jpeg_uri(picture),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "left": cut.left,
    }


def mid_plane(thumbnail: "Thumbnail", *, plane: str = "axial") -> slices.Slice:
    """A mid plane of a scan as it is looked at: axial, coronal or sagittal."""
    dims = slices.axes_of(thumbnail.coarse)
    normal = next(d for d, code in dims.items() if code in slices.VIEWS[plane][0])
    return slices.take(thumbnail.planes[normal], plane=plane)
