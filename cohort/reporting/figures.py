"""Figures: each a function from data to a matplotlib Figure, for a notebook as for the report.

Figures are made without pyplot, so nothing global is touched and nothing has to be closed. Slices come from
`slices`: turned to the radiological convention, pixels at the aspect of the voxels, only what is shown is read.
The plots of numbers are those of `plots`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting import slices
from cohort.reporting.plots import (
    FAINT,
    INK,
    added_variable,
    blank,
    box_by_group,
    distribution,
    forest,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "added_variable",
    "box_by_group",
    "contact_sheet",
    "distribution",
    "forest",
    "montage",
    "planes",
]


def planes(
    image: xr.DataArray,
    *,
    at_mm: Mapping[str, float] | None = None,
    mask: xr.DataArray | None = None,
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

    Returns
    -------
    Figure
        Only the chunks of the three slices have been read.

    Raises
    ------
    GridError
        If a position lies outside the scan, a coordinate is missing, or the mask has another grid.
    """
    positions = dict(at_mm or {})
    if unknown := [dim for dim in positions if dim not in grid.SPACE]:
        raise grid.GridError(f"at_mm has no dim {unknown[0]!r}; it takes z, y and x")
    dims = slices.axes_of(image)
    cuts = []
    for plane, (across, _, _) in slices.VIEWS.items():
        normal = next(dim for dim, code in dims.items() if code in across)
        cuts.append(slices.take(image, plane=plane, at_mm=positions.get(normal), mask=mask))
    widths = [cut.pixels.shape[1] * cut.column_mm for cut in cuts]
    heights = [cut.pixels.shape[0] * cut.row_mm for cut in cuts]
    inches = 9.0 / sum(widths)
    figure = blank(9.0, min(8.0, max(1.6, max(heights) * inches) + 0.7))
    low_high = slices.window(*(cut.pixels for cut in cuts))
    for axes, plane, cut in zip(
        figure.subplots(1, 3, width_ratios=widths), slices.VIEWS, cuts, strict=True
    ):
        _draw_slice(axes, cut, low_high)
        axes.set_title(f"{plane}, {cut.dim} = {cut.position_mm:.1f} mm", fontsize=9, color=INK)
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure


def montage(
    image: xr.DataArray,
    *,
    n: int = 12,
    plane: str = "axial",
    columns: int = 4,
    mask: xr.DataArray | None = None,
) -> "Figure":
    """`n` slices of one scan, evenly spaced from end to end, in one grey window.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    n : int, > 0
        Fewer are drawn if the scan has fewer slices.
    plane : {"axial", "coronal", "sagittal"}
    columns : int, > 0
    mask : DataArray, bool or labels

    Returns
    -------
    Figure
    """
    dims = slices.axes_of(image)
    middle = slices.take(image, plane=plane)
    coordinate = np.asarray(image.coords[middle.dim].values, float)
    count = min(n, coordinate.size)
    # The middles of `count` equal parts: never the two outermost slices, which often hold nothing.
    picks = ((np.arange(count) + 0.5) * coordinate.size / count).astype(int)
    if dims[middle.dim] in "SAR":
        picks = picks[::-1]
    cuts = [slices.take(image, plane=plane, at_mm=float(coordinate[i]), mask=mask) for i in picks]
    titles = [f"{cut.dim} = {cut.position_mm:.1f} mm" for cut in cuts]
    return _sheet(cuts, titles, columns, [slices.window(*(cut.pixels for cut in cuts))] * len(cuts))


def contact_sheet(
    items: Iterable[tuple[str, xr.DataArray, xr.DataArray | None]],
    *,
    plane: str = "axial",
    columns: int = 6,
) -> "Figure":
    """One slice of each of many scans.

    Parameters
    ----------
    items : iterable of (caption, image, mask or None)
        A scan with a mask is cut where it shows most of the mask, else in the middle. Each has its own grey window.
    plane : {"axial", "coronal", "sagittal"}
    columns : int, > 0

    Returns
    -------
    Figure
    """
    cuts, captions = [], []
    for caption, image, mask in items:
        at_mm = None if mask is None else slices.busiest_mm(mask, plane=plane)
        cuts.append(slices.take(image, plane=plane, at_mm=at_mm, mask=mask))
        captions.append(caption)
    return _sheet(cuts, captions, columns, [slices.window(cut.pixels) for cut in cuts])


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
    figure = blank(cell * columns, rows * (cell * min(tallest, 3.0) + 0.25) + 0.3)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid_of_axes[len(cuts) :]:
        axes.set_axis_off()
    for axes, cut, title, low_high in zip(grid_of_axes, cuts, titles, windows, strict=False):
        _draw_slice(axes, cut, low_high)
        axes.set_title(title, fontsize=7, color=INK, parse_math=False)
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure


def _draw_slice(axes: "Axes", cut: slices.Slice, low_high: tuple[float, float]) -> None:
    low, high = low_high
    axes.imshow(
        cut.pixels, cmap="gray", vmin=low, vmax=high, aspect=cut.aspect, interpolation="nearest"
    )
    if cut.mask is not None and cut.mask.any():
        # A border of background closes outlines that reach the edge of the picture.
        rows, columns = cut.mask.shape
        at = (np.arange(-1, columns + 1), np.arange(-1, rows + 1))
        amber = tuple(c / 255 for c in slices.OUTLINE_RGB)
        axes.contour(
            *at, np.pad(cut.mask, 1).astype(float), levels=[0.5], colors=[amber], linewidths=1.2
        )
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set(xticks=[], yticks=[])
    for x, y, letter in (
        (0.02, 0.5, cut.left),
        (0.98, 0.5, cut.right),
        (0.5, 0.98, cut.top),
        (0.5, 0.02, cut.bottom),
    ):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=7,
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.98: "top", 0.02: "bottom"}.get(y, "center"),
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 0.8, "linewidth": 0},
        )
