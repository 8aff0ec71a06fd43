"""What is seen of one scan on its page: three planes with the outlines of what was kept, and what the viewer shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting import slices, viewer

if TYPE_CHECKING:
    from cohort.io.store import Store

SIDE = 420
"""Longer side of a plane, pixels."""

CROSS = 320
"""Widths of the viewer's cross along the longest side of a scan: about a pixel, whatever the voxels are."""

MAX_SIDE = 2048
"""Voxels along an axis beyond which every n-th is drawn."""

MAX_OUTLINED = 6
"""Masks and label images that are outlined."""

COLOURS = (
    (255, 190, 11),
    (86, 180, 233),
    (0, 200, 130),
    (240, 100, 40),
    (215, 120, 190),
    (245, 240, 110),
)
"""Amber first; told apart by the colour-blind (after Okabe and Ito), and bright on tissue."""

DASHES = (0, 8, 4, 12, 3, 6)
"""Pixels of a dash, and of the gap after it, so that lines differ in grey too; 0 is a whole line."""


@dataclass(frozen=True)
class Outlined:
    """A mask or label image on the scan's grid.

    Parameters
    ----------
    name : str
    source : str
        The recipe that kept it, or ``attached``.
    array : DataArray, shape (..., z, y, x), bool or integers
    numbers : tuple of int
        What it is painted in: of `COLOURS`, from 1. A label image takes all, in turn.
    """

    name: str
    source: str
    array: xr.DataArray
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """Pictures of a scan, and the contents of its viewer.

    Parameters
    ----------
    planes : list of dict
        ``uri``, ``width``, ``height``, ``plane``, ``where``, ``left`` (anatomical direction).
    legend : list of dict
        ``name``, ``source``, ``colours`` (as CSS), ``dash`` (in words).
    problem : str
        Why there is no picture; else empty.
    program : Program, optional
        Without it there is no viewer, and `no_viewer` says why.
    """

    planes: list[dict[str, Any]] = field(default_factory=list)
    legend: list[dict[str, Any]] = field(default_factory=list)
    more: int = 0
    problem: str = ""
    program: viewer.Program | None = None
    no_viewer: str = ""
    image: str = ""
    labels: str = ""
    setup: dict[str, Any] = field(default_factory=dict)
    shows: str = ""


def look(
    store: "Store",
    scan_id: str,
    derivatives: Mapping[str, Mapping[str, Any]],
    recipes: Mapping[str, Mapping[str, Any]],
) -> Look:
    """Draw a scan, and pack it for the viewer; a scan that cannot be drawn gives a problem instead."""
    try:
        image = store.open_scan(scan_id)["image"]
        outlined, more = _outlined(store, scan_id, derivatives, recipes)
        planes = [drawn(image, outlined, plane) for plane in slices.VIEWS]
    except Exception as error:  # noqa: BLE001 - one that cannot be drawn still has a page; its message may hold a path
        return Look(problem=f"cannot be drawn ({type(error).__name__})")
    legend = [_legend(each) for each in outlined]
    try:
        program = viewer.program()
    except viewer.ViewerError as error:
        return Look(planes, legend, more, no_viewer=str(error))
    itemsize = np.dtype((store.record(scan_id) or {})["variables"]["image"]["dtype"]).itemsize
    sample = viewer.sampling(image.sizes, grid.spacing_mm(image), itemsize)
    affine = sample.affine(grid.affine_of(image))
    values = viewer.block_mean(image, sample)
    labels = ""
    if outlined:
        cut = [viewer.picked(each.array, sample) for each in outlined]
        painted = viewer.painted(cut, [each.numbers for each in outlined])
        labels = viewer.packed(viewer.nifti(painted, affine))
    low, high = slices.window(values[::2, ::2, ::2])
    mm = grid.spacing_mm(image)
    across = max((sample.stop[d] - sample.start[d]) * mm[d] for d in grid.SPACE)
    lut = [0, 0, 0, 0] + [c for rgb in COLOURS for c in (*rgb, 255)]
    return Look(
        planes,
        legend,
        more,
        program=program,
        image=viewer.packed(viewer.nifti(values, affine)),
        labels=labels,
        setup={
            "cal_min": float(f"{low:.6g}"),
            "cal_max": float(f"{high:.6g}"),
            "lut": lut,
            "cross_mm": float(f"{across / CROSS:.3g}"),
        },
        shows=shown(image, sample),
    )


def shown(image: xr.DataArray, sample: viewer.Sampling) -> str:
    """What of the scan is in the viewer, in words."""
    times = " \N{MULTIPLICATION SIGN} "
    lead = [str(d) for d in image.dims if d not in grid.SPACE]
    first = f" of the first {' and '.join(lead)}" if lead else ""
    shape = times.join(str(sample.shape[d]) for d in grid.SPACE)
    if sample.is_crop:
        whole = times.join(str(n) for n in sample.whole.values())
        return f"The scan is too large to be read whole for a page: its middle, {shape} of {whole} voxels{first}, at full resolution."
    if max(sample.factor.values()) == 1:
        return f"All {shape} voxels{first}."
    blocks = times.join(str(f) for f in sample.factor.values())
    return f"{shape} voxels{first}, each the mean of {blocks} (z{times}y{times}x) of the scan; labels at their middles."


def _outlined(
    store: "Store",
    scan_id: str,
    derivatives: Mapping[str, Mapping[str, Any]],
    recipes: Mapping[str, Mapping[str, Any]],
) -> tuple[list[Outlined], int]:
    """What recipes kept of a scan, in their order, then what came with it; and how many more there are than are outlined."""
    found: list[tuple[str, str, xr.DataArray]] = []
    for recipe, record in derivatives.items():
        if record.get("kept"):
            kept = store.open_derivative(recipe, scan_id)
            rank = {str(n): i for i, n in enumerate(recipes.get(recipe, {}).get("keep") or [])}
            names = sorted(map(str, kept.data_vars), key=lambda n: (rank.get(n, len(rank)), n))
            found += [(n, recipe, kept[n]) for n in names]
    scan = store.open_scan(scan_id)
    found += [(str(n), "attached", scan[n]) for n in scan.data_vars if n not in ("image", "affine")]
    found = [f for f in found if f[2].dtype.kind in "biu" and {*grid.SPACE} <= {*f[2].dims}]
    several = tuple(range(1, len(COLOURS) + 1))
    return [
        Outlined(
            name, source, array, (i + 1,) if array.dtype == bool else several[i:] + several[:i]
        )
        for i, (name, source, array) in enumerate(found[:MAX_OUTLINED])
    ], max(0, len(found) - MAX_OUTLINED)


def _legend(each: Outlined) -> dict[str, Any]:
    rgb = [COLOURS[n - 1] for n in each.numbers]
    dash = DASHES[each.numbers[0] - 1]
    return {
        "name": each.name,
        "source": each.source,
        "colours": [f"rgb({r}, {g}, {b})" for r, g, b in rgb],
        "line": "labels in these colours, in turn"
        if len(rgb) > 1
        else "whole line"
        if not dash
        else f"dashes of {dash} pixels",
    }


def drawn(image: xr.DataArray, outlined: list[Outlined], plane: str) -> dict[str, Any]:
    """One plane where most of the first mask is, else in the middle."""
    thin = _thinned(image)
    at_mm = slices.busiest_mm(_thinned(outlined[0].array), plane=plane) if outlined else None
    cut = slices.take(thin, plane=plane, at_mm=at_mm)
    picture = slices.tile(cut, size=SIDE)
    for each in outlined:
        grid.check_same_grid(image=image, mask=each.array)
        labels = slices.take(_thinned(each.array), plane=plane, at_mm=cut.position_mm).pixels
        for i, n in enumerate(each.numbers):
            mine = (labels != 0) & ((labels - 1) % len(each.numbers) == i)
            _draw(picture, mine, n)
    return {
        "uri": slices.jpeg_uri(picture),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "plane": plane,
        "left": cut.left,
        "where": slices.place_of(cut),
    }


def _thinned(array: xr.DataArray) -> xr.DataArray:
    """Every n-th voxel of an axis that has more than a picture can show."""
    return array.isel({d: slice(None, None, -(-array.sizes[d] // MAX_SIDE)) for d in grid.SPACE})


def _draw(picture: np.ndarray, inside: np.ndarray, number: int) -> None:
    """Outline a mask, (rows, columns), on the picture's own pixels, so that lines are one pixel wide at any voxel size."""
    if not inside.any():
        return
    from PIL import Image

    share = Image.fromarray(inside.astype(np.float32))
    target = np.asarray(share.resize(picture.shape[1::-1], Image.Resampling.BOX)) >= 0.5
    edge = slices.outline(target)
    if dash := DASHES[number - 1]:
        rows, columns = np.indices(edge.shape)
        edge &= (rows + columns) // dash % 2 == 0
    picture[edge] = COLOURS[number - 1]
