"""Plots of slices: three planes, montage, overlay, difference, contact sheet.

Slices come from `slices`: turned to the radiological convention, pixels at the aspect of the voxels, and only the
chunks that are shown are read. `figures` offers these functions together with the others.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting import slices
from cohort.reporting.plots import FAINT, INK, MARK, blank, with_unit
from cohort.reporting.sliceaxes import colour_of, draw_slice, outlined
from cohort.reporting.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DIVERGING = "RdBu_r"
"""Blue below zero, white at it, red above: told apart by the colour-blind."""

FLAG = "\N{BLACK UP-POINTING TRIANGLE}"
"""Stands before the caption of a scan that is flagged."""

STYLES = ("contours", "translucent", "both")
"""How `overlay` draws labels."""

MAX_NAMED = 12
"""Labels of a legend; how many more there are is said below them."""

Plane = Literal["axial", "coronal", "sagittal"]


def planes(
    image: xr.DataArray,
    *,
    at_mm: Mapping[str, float] | None = None,
    mask: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
) -> "Figure":
    """Axial, coronal and sagittal slice side by side, at one scale in millimetres and one grey window.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        One scan; of leading dims the first entry is shown.
    at_mm : mapping of dim -> float
        Positions, mm, along z, y and x; the middle of each axis not given.
    mask : DataArray, bool or labels
        Drawn as an outline.
    labels : DataArray, integer
        Drawn as translucent colours.

    Returns
    -------
    Figure
        Only the chunks of the three slices have been read.

    Raises
    ------
    GridError
        If a position lies outside the scan, a coordinate is missing, or the mask has another grid.
    """
    cuts = _three(image, at_mm, mask=mask, labels=labels)
    low_high = slices.window(*(cut.pixels for cut in cuts))
    return _abreast(cuts, lambda axes, cut: draw_slice(axes, cut, low_high))


def difference(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    at_mm: Mapping[str, float] | None = None,
    limit: float | None = None,
) -> "Figure":
    """``a - b`` in three planes, in diverging colours centred at zero.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        On one grid; subtracted as float64.
    at_mm : mapping of dim -> float
        As of `planes`.
    limit : float, > 0, in the image's unit
        At which colours end, above and below zero alike. By default the largest difference shown.

    Returns
    -------
    Figure
        Only the chunks of the three slices have been read.

    Raises
    ------
    GridError
        If the grids differ, or as `planes`.
    ValueError
        If the limit is not positive.
    """
    slices.checked(a, b)
    grid.check_same_grid(a=a, b=b)
    # Cut, then subtracted: a difference of lazy arrays would read whole chunks.
    with np.errstate(invalid="ignore", over="ignore"):  # what comes of infinities is hatched
        cuts = [
            replace(one, pixels=one.pixels - other.pixels)
            for one, other in zip(_three(a, at_mm), _three(b, at_mm), strict=True)
        ]
    return _diverging(cuts, limit, with_unit("difference", str(a.attrs.get("units", ""))))


def distance_map(
    distance: xr.DataArray, *, at_mm: Mapping[str, float] | None = None, limit: float | None = None
) -> "Figure":
    """Signed distances in three planes, in diverging colours centred at zero.

    Parameters
    ----------
    distance : DataArray, shape (..., z, y, x), mm
        For example ``distance_mm(mask) - distance_mm(~mask)``: inside is above zero.
    at_mm, limit
        As of `difference`; the limit in mm.

    Returns
    -------
    Figure

    Raises
    ------
    GridError, ValueError
        As `difference`.
    """
    unit = str(distance.attrs.get("units", "mm"))
    return _diverging(_three(distance, at_mm), limit, with_unit("distance", unit))


def overlay(
    image: xr.DataArray,
    labels: xr.DataArray,
    *,
    plane: Plane = "axial",
    at_mm: float | None = None,
    style: Literal["contours", "translucent", "both"] = "both",
    alpha: float = 0.4,
) -> "Figure":
    """One slice with its labels, each in its colour, and a legend of the numbers of the first `MAX_NAMED`.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    labels : DataArray, bool or integer
        On the grid of `image`, 0 for background; a mask is label 1.
    plane : {"axial", "coronal", "sagittal"}
    at_mm : float
        Of the slice; by default the one that shows most of the labels, for which they are read whole, or the middle one.
    style : {"contours", "translucent", "both"}
    alpha : float
        Of what is translucent: 0 is not there, 1 hides the image.

    Returns
    -------
    Figure

    Raises
    ------
    GridError
        As `planes`.
    ValueError
        If there is no such style or plane.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}, expected one of {', '.join(map(repr, STYLES))}")
    slices.checked(image, labels)
    if at_mm is None:
        at_mm = slices.busiest_mm(labels, plane=plane)
    cut = slices.take(image, plane=plane, at_mm=at_mm, labels=labels)
    ratio = cut.pixels.shape[0] * cut.row_mm / (cut.pixels.shape[1] * cut.column_mm)
    figure = blank(4.6, min(8.0, max(2.0, 4.0 * ratio)) + 0.6)
    axes = figure.subplots()
    draw_slice(axes, cut, slices.window(cut.pixels), alpha=0.0 if style == "contours" else alpha)
    assert cut.labels is not None
    found = [int(n) for n in np.unique(cut.labels) if n]
    for label in found if style != "translucent" else []:
        outlined(axes, cut.labels == label, colour_of(label))
    for label in found[:MAX_NAMED]:
        axes.plot([], [], "s", color=colour_of(label), label=str(label))
    if len(found) > MAX_NAMED:
        axes.plot([], [], " ", label=f"and {len(found) - MAX_NAMED:,} more")
    axes.set_title(f"{plane}, {cut.dim} = {cut.position_mm:.1f} mm", fontsize=9, color=INK)
    if found:
        axes.legend(
            title="label", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8
        )
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure


def montage(
    image: xr.DataArray,
    *,
    n: int = 12,
    every: int | None = None,
    plane: str = "axial",
    columns: int = 4,
    mask: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
) -> "Figure":
    """`n` slices of one scan, evenly spaced from end to end, or every so many, in one grey window.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    n : int, > 0
        Fewer are drawn if the scan has fewer slices.
    every : int, > 0
        Draw every so many slices, from the first of the array on, instead of `n`.
    plane : {"axial", "coronal", "sagittal"}
    columns : int, > 0
    mask : DataArray, bool or labels
        Drawn as an outline.
    labels : DataArray, integer
        Drawn as translucent colours.

    Returns
    -------
    Figure
        Only the chunks of these slices have been read.

    Raises
    ------
    GridError
        As `planes`.
    ValueError
        If `n` or `every` is less than 1.
    """
    if n < 1 or (every is not None and every < 1):
        raise ValueError(f"n is {n} and every is {every}, expected 1 or more")
    dims = slices.axes_of(image)
    dim = slices.normal_of(image, plane)
    coordinate = np.asarray(image.coords[dim].values, float)
    count = min(n, coordinate.size)
    # The middles of `count` equal parts: never the two outermost slices, which often hold nothing.
    picks = ((np.arange(count) + 0.5) * coordinate.size / count).astype(int)
    if every is not None:
        picks = np.arange(0, coordinate.size, every)
    if dims[dim] in "SAR":
        picks = picks[::-1]
    cuts = [
        slices.take(image, plane=plane, at_mm=float(coordinate[i]), mask=mask, labels=labels)
        for i in picks
    ]
    titles = [f"{cut.dim} = {cut.position_mm:.1f} mm" for cut in cuts]
    return _sheet(cuts, titles, columns, [slices.window(*(cut.pixels for cut in cuts))] * len(cuts))


def contact_sheet(
    items: Iterable[tuple[str, xr.DataArray, xr.DataArray | None]],
    *,
    values: Mapping[str, float] | None = None,
    label: str = "",
    unit: str = "",
    flagged: Collection[str] = (),
    plane: str = "axial",
    columns: int = 6,
) -> "Figure":
    """One slice of each of many scans, sorted by a measurement if there is one, flagged ones marked.

    Parameters
    ----------
    items : iterable of (caption, image, mask or None)
        A scan with a mask is cut where it shows most of the mask, else in the middle. Each has its own grey window.
    values : mapping of caption -> float
        Lowest first; those without a finite value come last. Without it the order is that of the items.
    label, unit : str
        What the values are.
    flagged : collection of captions
        Framed, with a triangle before the caption.
    plane : {"axial", "coronal", "sagittal"}
    columns : int, > 0

    Returns
    -------
    Figure
    """
    drawn = []
    for caption, image, mask in items:
        at_mm = None if mask is None else slices.busiest_mm(mask, plane=plane)
        drawn.append((caption, slices.take(image, plane=plane, at_mm=at_mm, mask=mask)))
    if values is not None:
        known = {c: v for c, v in values.items() if np.isfinite(v)}
        drawn.sort(key=lambda each: (each[0] not in known, known.get(each[0], 0.0)))
    titles = [f"{FLAG} {caption}" if caption in flagged else caption for caption, _ in drawn]
    if values is not None:
        shown = (number(values.get(caption)).text for caption, _ in drawn)
        titles = [f"{title}\n{each}" for title, each in zip(titles, shown, strict=True)]
    cuts = [cut for _, cut in drawn]
    figure = _sheet(cuts, titles, columns, [slices.window(cut.pixels) for cut in cuts])
    for axes, (caption, _) in zip(figure.axes, drawn, strict=False):
        if caption in flagged:
            for spine in axes.spines.values():
                spine.set(color=MARK, linewidth=3)
            axes.title.set_color(MARK)
    if values is not None:
        figure.suptitle(
            f"sorted by {with_unit(label or 'value', unit)}", fontsize=9, parse_math=False
        )
    return figure


def _sheet(
    cuts: Sequence[slices.Slice],
    titles: Sequence[str],
    columns: int,
    windows: Sequence[tuple[float, float]],
) -> "Figure":
    columns = max(1, min(columns, len(cuts)))
    rows = max(1, -(-len(cuts) // columns))
    tallest = max(
        [cut.pixels.shape[0] * cut.row_mm / (cut.pixels.shape[1] * cut.column_mm) for cut in cuts]
        or [1.0]
    )
    cell = 9.0 / max(columns, 3)
    lines = max([title.count("\n") + 1 for title in titles] or [1])
    figure = blank(cell * columns, rows * (cell * min(tallest, 3.0) + 0.1 + 0.15 * lines) + 0.3)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid_of_axes[len(cuts) :]:
        axes.set_axis_off()
    for axes, cut, title, low_high in zip(grid_of_axes, cuts, titles, windows, strict=False):
        draw_slice(axes, cut, low_high)
        axes.set_title(title, fontsize=7, color=INK, parse_math=False)
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure


def _three(
    image: xr.DataArray,
    at_mm: Mapping[str, float] | None,
    *,
    mask: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
) -> list[slices.Slice]:
    """Cut the slice of each plane."""
    positions = dict(at_mm or {})
    if unknown := [dim for dim in positions if dim not in grid.SPACE]:
        raise grid.GridError(f"at_mm has no dim {unknown[0]!r}; it takes z, y and x")
    return [
        slices.take(
            image,
            plane=plane,
            at_mm=positions.get(slices.normal_of(image, plane)),
            mask=mask,
            labels=labels,
        )
        for plane in slices.VIEWS
    ]


def _abreast(
    cuts: Sequence[slices.Slice],
    draw: "Callable[[Axes, slices.Slice], AxesImage]",
    bar: str | None = None,
) -> "Figure":
    """Slices of all planes side by side at one scale in mm; `bar` names a bar of the colours of the last."""
    widths = [cut.pixels.shape[1] * cut.column_mm for cut in cuts]
    heights = [cut.pixels.shape[0] * cut.row_mm for cut in cuts]
    inches = 9.0 / sum(widths)
    figure = blank(9.0, min(8.0, max(1.6, max(heights) * inches) + 0.7))
    row = figure.subplots(1, len(cuts), width_ratios=widths)
    for axes, plane, cut in zip(row, slices.VIEWS, cuts, strict=True):
        picture = draw(axes, cut)
        axes.set_title(f"{plane}, {cut.dim} = {cut.position_mm:.1f} mm", fontsize=9, color=INK)
    if bar is not None and any(np.isfinite(cut.pixels).any() for cut in cuts):
        shown = figure.colorbar(picture, ax=list(row), shrink=0.8, pad=0.01)
        shown.set_label(bar, fontsize=8, color=INK, parse_math=False)
        shown.ax.tick_params(labelsize=8)
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure


def _diverging(cuts: Sequence[slices.Slice], limit: float | None, bar: str) -> "Figure":
    if limit is not None and not limit > 0:
        raise ValueError(f"limit is {limit}, expected a number above 0")
    if limit is None:
        every = np.concatenate([np.abs(cut.pixels[np.isfinite(cut.pixels)]) for cut in cuts])
        limit = float(every.max(initial=0.0)) or 1.0
    ends = (-limit, limit)
    return _abreast(cuts, lambda axes, cut: draw_slice(axes, cut, ends, cmap=DIVERGING), bar)
