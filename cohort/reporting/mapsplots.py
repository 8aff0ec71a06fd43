"""Pictures of a map: slices through its peaks over the mean of the scans, and the whole map looked through from three sides."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting import plots, slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "RdBu_r"
"""Red is higher, blue is lower; told apart by all kinds of sight."""


def overlay(
    mean: xr.DataArray, t: xr.DataArray, *, at_mm: tuple[float, float, float], floor: float
) -> "Figure":
    """Three slices through a point: t where it is beyond `floor`, over the mean of the scans.

    Parameters
    ----------
    mean, t : DataArray, (z, y, x)
        NaN outside.
    at_mm : (x, y, z)
        World RAS+ mm, as the table of peaks has it.
    floor : float
        Smallest ``|t|`` that is coloured.

    Returns
    -------
    Figure
        Axial, coronal, sagittal; radiological convention, a cross at the point.
    """
    figure = plots.blank(9.6, 3.4)
    places = coordinates_at(t, at_mm)
    cuts = [(plane, _cut(mean, plane, places), _cut(t, plane, places)) for plane in slices.VIEWS]
    low, high = slices.window(*(background.pixels for _, background, _ in cuts))
    most = _most(t, floor)
    for place, (plane, background, front) in enumerate(cuts, 1):
        axes = _blank(figure, place, f"{plane}, {background.dim} = {background.position_mm:g} mm", background)  # fmt: skip
        axes.imshow(
            background.pixels, cmap="gray", vmin=low, vmax=high, aspect=background.aspect,
            interpolation="nearest",
        )  # fmt: skip
        shown = np.where(np.abs(front.pixels) >= floor, front.pixels, np.nan)
        drawn = axes.imshow(
            shown, cmap=COLOURS, vmin=-most, vmax=most, aspect=background.aspect,
            interpolation="nearest", alpha=0.85,
        )  # fmt: skip
        _cross(axes, t, plane, places)
    bar = figure.colorbar(drawn, ax=figure.axes, shrink=0.7, pad=0.01)
    bar.set_label(f"t, where |t| >= {floor:.2f}", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def projections(
    t: xr.DataArray, *, floor: float, judged: xr.DataArray | None = None, rule: str = ""
) -> "Figure":
    """The map looked through from three sides: of each line of sight the most extreme t, beyond `floor` in colour.

    Parameters
    ----------
    t : DataArray, (z, y, x)
        NaN outside; what is inside gives the outline.
    floor : float
    judged : DataArray of bool, optional
        Voxels that may be coloured, by another rule than the floor, which `rule` tells.
    """
    figure = plots.blank(9.6, 3.4)
    most = _most(t, floor)
    counted = t if judged is None else t.where(judged, 0)
    for place, plane in enumerate(slices.VIEWS, 1):
        seen = _through(counted, plane)
        inside = slices.take(
            _through(t.copy(data=np.isfinite(t.to_numpy()).astype(float)), plane), plane=plane
        )
        cut = slices.take(seen, plane=plane)
        axes = _blank(figure, place, f"{plane}, all slices", cut)
        grey = np.where(inside.pixels > 0, 0.93, 1.0)
        edge = slices.outline(inside.pixels > 0)
        axes.imshow(
            np.where(edge, 0.55, grey), cmap="gray", vmin=0, vmax=1, aspect=cut.aspect,
            interpolation="nearest",
        )  # fmt: skip
        beyond = (np.abs(cut.pixels) >= floor) & (cut.pixels != 0)
        shown = np.where(beyond, cut.pixels, np.nan)
        drawn = axes.imshow(
            shown, cmap=COLOURS, vmin=-most, vmax=most, aspect=cut.aspect, interpolation="nearest"
        )
    bar = figure.colorbar(drawn, ax=figure.axes, shrink=0.7, pad=0.01)
    bar.set_label(f"most extreme t, where {rule or f'|t| >= {floor:.2f}'}", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def coordinates_at(image: xr.DataArray, at_mm: tuple[float, float, float]) -> dict[str, float]:
    """Coordinates along z, y, x of the voxel at a place in the world."""
    index = np.linalg.inv(grid.affine_of(image)) @ [*at_mm, 1.0]
    return {
        d: float(image.coords[d].values[int(np.clip(round(index["xyz".index(d)]), 0, image.sizes[d] - 1))])
        for d in grid.SPACE
    }  # fmt: skip


def _cut(image: xr.DataArray, plane: str, places: dict[str, float]) -> slices.Slice:
    """The slice of a plane through a place."""
    return slices.take(image, plane=plane, at_mm=_along(image, plane, places))


def _along(image: xr.DataArray, plane: str, places: dict[str, float]) -> float:
    return places[slices.take(image, plane=plane).dim]


def _through(t: xr.DataArray, plane: str) -> xr.DataArray:
    """The most extreme value of each line of sight, in the middle slice of an otherwise empty volume."""
    dim = slices.take(t, plane=plane).dim
    values = np.nan_to_num(t.transpose(dim, ...).to_numpy())
    best = np.take_along_axis(values, np.abs(values).argmax(axis=0)[None], axis=0)[0]
    laid = np.zeros_like(values)
    laid[len(values) // 2] = best
    order = [dim, *(d for d in t.dims if d != dim)]
    return t.transpose(*order).copy(data=laid).transpose(*t.dims)


def _most(t: xr.DataArray, floor: float) -> float:
    values = np.abs(t.to_numpy())
    return float(max(np.nanmax(values, initial=0.0), floor * 1.01))


def _blank(figure: "Figure", place: int, title: str, cut: slices.Slice) -> "Axes":
    axes = figure.add_subplot(1, 3, place)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8.5, color=plots.INK)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(cut.left, rotation=0, fontsize=8, color=plots.INK, labelpad=6)
    return axes


def _cross(axes: "Axes", t: xr.DataArray, plane: str, places: dict[str, float]) -> None:
    """Two thin lines that meet at the place."""
    mark = xr.zeros_like(t, dtype=float)
    mark.loc[places] = 1.0
    where = _cut(mark, plane, places).pixels
    row, column = np.argwhere(where == 1)[0]
    axes.axhline(row, color=plots.MARK, linewidth=0.6, alpha=0.7)
    axes.axvline(column, color=plots.MARK, linewidth=0.6, alpha=0.7)
