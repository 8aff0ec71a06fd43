"""The contact sheet: one small picture a scan, with all that is known against it."""

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort import grid
from cohort.kernels.previews import shrunk
from cohort.reporting import slices
from cohort.reporting.facts import Facts, Source
from cohort.reporting.measured import Flags, measurement_columns, rank
from cohort.reporting.plots import with_unit

MAX_CELLS = 400
"""Scans drawn on the contact sheet, and rows of the table of single scans: what one page can hold."""

SMALL = 2_000_000
"""Voxels of a scan, a chunk or two, that is read in less time than its thumbnail and the record of it."""

WORTH = 0.5
"""Share of its largest section that a mask must show in the middle of a scan, for the scan to be cut there."""

SHARP = 0.8
"""Pixels that a thumbnail must have for each of the picture's: less would show. 160 or fewer voxels are kept as they are."""

CELL = 160
"""Longer side of a picture on the contact sheet, pixels."""

MOVES = "moves a model"
"""What this page itself flags, beside what is measured and the notes of ingest."""


def contact_sheet(
    store: Source,
    facts: Facts,
    flagged: Flags,
    keep: Mapping[str, list[str]],
    influential: AbstractSet[str],
    pages: Mapping[str, str],
) -> dict[str, Any]:
    """One small picture a scan; those that failed, stand out or move a model come first.

    Parameters
    ----------
    flagged : mapping of scan -> flags
        Scans with a value far from the others, or with none.
    keep : mapping of recipe -> names
        Images that a recipe keeps, in its order.
    influential : set of scans
        Those that move a model.
    pages : mapping of scan -> address
        Of scans that have a page of their own.

    Returns
    -------
    {cells, more, outlined, states, recipes, flags, columns}
        The last four are what the sheet can be filtered and sorted by. A cell's ``states`` (recipe -> state), ``kinds``
        (flags) and ``numbers`` (a number or null for each of ``columns``) are JSON, for the script of the page.
    """
    failed: dict[str, list[str]] = {}
    for recipe in facts.measured:
        for row in facts.failed(recipe).to_dict("records"):
            failed.setdefault(str(row.get("scan_id")), []).append(
                f"{recipe} failed: {row.get('reason') or 'no reason given'}"
            )
    ids = [str(i) for i in facts.scans["scan_id"]] if "scan_id" in facts.scans else []
    notes = _notes(facts)
    ids.sort(key=lambda i: (i not in failed, rank(flagged.get(i, [])), i not in influential, i))
    drawn = ids[:MAX_CELLS]
    states = _states(facts, drawn)
    columns, values = _values(facts, drawn)
    cells: list[dict[str, Any]] = []
    outlined: dict[str, None] = {}
    for scan_id in drawn:
        kept = {r: keep.get(r, []) for r, state in states[scan_id].items() if state == "done"}
        picture, source = _picture(store, scan_id, kept)
        outlined.update({source: None} if source else {})
        own = flagged.get(scan_id, [])
        kinds = list(dict.fromkeys(flag.kind for flag in own))
        kinds += [MOVES] if scan_id in influential else []
        cells.append(
            {
                "id": scan_id,
                "anchor": f"scan-{len(cells) + 1}",
                "page": pages.get(scan_id),
                **picture,
                "failed": failed.get(scan_id, []),
                "flags": [flag.text for flag in own],
                "notes": [*([MOVES] if scan_id in influential else []), *notes.get(scan_id, [])],
                "states": json.dumps(states[scan_id]),
                "kinds": json.dumps(kinds + notes.get(scan_id, [])),
                "numbers": json.dumps(values[scan_id]),
            }
        )
    return {
        "cells": cells,
        "more": max(0, len(ids) - MAX_CELLS),
        "outlined": list(outlined),
        "states": sorted({state for each in states.values() for state in each.values()}),
        "recipes": list(facts.measured),
        "flags": sorted({kind for cell in cells for kind in json.loads(cell["kinds"])}),
        "columns": columns,
    }


def _notes(facts: Facts) -> dict[str, list[str]]:
    """What ingest noted about a scan, a word a note."""
    if not {"scan_id", "flags"} <= {*facts.scans}:
        return {}
    pairs = facts.scans[["scan_id", "flags"]].itertuples(index=False)
    return {str(s): f.split() for s, f in pairs if isinstance(f, str) and f.split()}


def _states(facts: Facts, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Scan -> recipe -> how it stands there."""
    found: dict[str, dict[str, str]] = {scan_id: {} for scan_id in ids}
    for recipe, table in facts.measured.items():
        state = table["state"] if "state" in table else pd.Series("done", table.index)
        known = dict(
            zip(table.get("scan_id", pd.Series(dtype=str)).astype(str), state, strict=False)
        )
        for scan_id in ids:
            found[scan_id][recipe] = str(known.get(scan_id, "not measured"))
    return found


def _values(facts: Facts, ids: Sequence[str]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Names of all measurements with their units, and the numbers of each scan in this order."""
    names: list[str] = []
    found: dict[str, list[float | None]] = {scan_id: [] for scan_id in ids}
    for recipe in facts.measured:
        done = facts.done(recipe)
        keys = done["scan_id"].astype(str) if "scan_id" in done else pd.Series("", done.index)
        for column in measurement_columns(done):
            unit = facts.unit(recipe, column)
            names.append(with_unit(f"{recipe}: {column}", unit))
            numbers = done[column].to_numpy(float, na_value=math.nan)
            known = dict(zip(keys, numbers.tolist(), strict=True))
            for scan_id in ids:
                value = known.get(scan_id, math.nan)
                found[scan_id].append(value if math.isfinite(value) else None)
    return names, found


def of_people(facts: Facts, anchors: Mapping[str, str]) -> dict[str, str]:
    """Where the pictures of scans stand, by scan and by participant (the first scan of each)."""
    found: dict[str, str] = {}
    if {"scan_id", "participant"} <= {*facts.scans}:
        for scan_id, person in facts.scans[["scan_id", "participant"]].itertuples(index=False):
            if str(scan_id) in anchors and not pd.isna(person):
                found.setdefault(str(person), anchors[str(scan_id)])
    return {**found, **anchors}


def _picture(
    store: Source, scan_id: str, recipes: Mapping[str, list[str]]
) -> tuple[dict[str, Any], str | None]:
    """Axial slice of a scan with the outline of the first mask a recipe kept, and what is outlined."""
    try:
        image = store.open_scan(scan_id)["image"]  # refuses what is not whole; nothing is read yet
        mask, source = _mask(store, scan_id, recipes)
        if mask is not None and mask.size <= slices.SEARCH_VOXELS:
            mask = mask.load()  # read once, to be searched and then cut
        cut = _of_thumbnail(store, scan_id, image, mask)
        if cut is None:
            at_mm = None if mask is None else slices.busiest_mm(mask)
            cut = slices.take(image, at_mm=at_mm, mask=mask)
        picture = slices.tile(cut, size=CELL)
    except Exception as error:  # noqa: BLE001 - one scan that cannot be drawn never costs the page
        # The message may hold a path, which a page that is passed on must not.
        return {"uri": None, "problem": f"cannot be drawn ({type(error).__name__})"}, None
    return {
        "uri": slices.jpeg_uri(picture),
        "problem": None,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "left": cut.left,
        "where": slices.place_of(cut),
    }, source


def _of_thumbnail(
    store: Source, scan_id: str, image: xr.DataArray, mask: xr.DataArray | None
) -> slices.Slice | None:
    """The mid plane that was kept at ingest: a small file where the scan has many chunks.

    None for a small scan, where there is no thumbnail, where it is less sharp than the picture, and where the mask shows less there
    than `WORTH` of what it shows where it is largest: such a scan is cut there.
    """
    if math.prod(image.sizes[d] for d in grid.SPACE) <= SMALL:
        return None
    if "thumbnail" not in (store.record(scan_id) or {}):
        return None
    kept = store.thumbnail(scan_id)
    normal = slices.normal_of(kept.coarse, "axial")
    plane = kept.planes[normal]
    # As large as the scan: the last pixel of a plane may stand for fewer voxels than the others.
    mm, sides = grid.spacing_mm(image), slices.sides_of(image, "axial")
    height, width = (image.sizes[d] * mm[d] for d in sides)
    for d, length in zip(sides, (height, width), strict=True):
        wanted = min(image.sizes[d], SHARP * CELL * length / max(height, width))
        if plane.sizes[d] < wanted:
            return None
    if mask is None:
        return _sized(slices.take(plane), height, width)
    one = mask.isel({d: 0 for d in mask.dims if d not in grid.SPACE}).transpose(*grid.SPACE)
    middle = one.isel({normal: one.sizes[normal] // 2}).to_numpy() != 0
    if (most := slices.busiest_mm(mask)) is not None:
        largest = np.count_nonzero(one.sel({normal: most}))
        if np.count_nonzero(middle) < WORTH * largest:
            return None
    share, _ = shrunk(middle.astype(np.float32))
    inside = np.expand_dims(share >= 0.5, one.get_axis_num(normal))
    return _sized(slices.take(plane, mask=plane.copy(data=inside)), height, width)


def _sized(cut: slices.Slice, height: float, width: float) -> slices.Slice:
    rows, columns = cut.pixels.shape
    return replace(cut, row_mm=height / rows, column_mm=width / columns)


def _mask(
    store: Source, scan_id: str, recipes: Mapping[str, list[str]]
) -> tuple[xr.DataArray | None, str | None]:
    """The first mask, else label image, in the order in which a recipe keeps them: the same one in every scan."""
    for recipe, keep in recipes.items():
        kept = store.open_derivative(recipe, scan_id)
        rank = {name: place for place, name in enumerate(keep)}
        names = [name for name in kept.data_vars if {"z", "y", "x"} <= {*kept[name].dims}]
        names.sort(key=lambda n: (kept[n].dtype.kind != "b", rank.get(str(n), len(rank)), str(n)))
        if names and kept[names[0]].dtype.kind in "biu":
            return kept[names[0]], f"{names[0]} ({recipe})"
    return None, None
