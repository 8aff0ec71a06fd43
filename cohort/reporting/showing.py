"""One slice of one image: the call to look at something."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort.reporting import slices
from cohort.reporting.plots import FAINT, INK, blank, with_unit
from cohort.reporting.sliceaxes import draw_slice

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(
    image: xr.DataArray,
    *,
    plane: str = "axial",
    at_mm: float | None = None,
    mask: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
    window: tuple[float, float] | None = None,
) -> "Figure":
    """One slice, at true aspect, with a bar of its greys; what is no finite number is hatched.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        Lazy or in memory; of leading dims the first entry is shown. A coarser image of the same, such as `space.resample` or a
        thumbnail gives, is shown at the same place.
    plane : {"axial", "coronal", "sagittal"}
    at_mm : float
        Coordinate, mm, along the axis that the plane cuts; the nearest slice is taken. The middle one by default.
    mask : DataArray, bool or labels
        Drawn as an outline.
    labels : DataArray, integer
        Drawn as translucent colours.
    window : (low, high), in the image's unit
        Drawn black and white, such as ``(-200, 200)`` HU; by default the 1st and 99.5th percentile of the slice.

    Returns
    -------
    Figure
        Only the chunks that hold the slice have been read.

    Raises
    ------
    GridError
        If a dim or a coordinate is missing, `at_mm` lies outside the image, or mask or labels have another grid.
    ValueError
        If there is no such plane, or `window` does not rise.
    TypeError
        If the image is no DataArray.
    """
    if window is not None and not window[0] < window[1]:
        raise ValueError(
            f"window is {window[0]:g} to {window[1]:g}, expected a lower and a higher number"
        )
    cut = slices.take(image, plane=plane, at_mm=at_mm, mask=mask, labels=labels)
    height, width = cut.pixels.shape[0] * cut.row_mm, cut.pixels.shape[1] * cut.column_mm
    across = min(5.0, 6.0 * width / height)
    figure = blank(across + 1.2, min(7.0, max(1.2, across * height / width) + 0.8))
    axes = figure.add_subplot()
    picture = draw_slice(axes, cut, window or slices.window(cut.pixels))
    axes.set_title(f"{plane}, {cut.dim} = {cut.position_mm:.1f} mm", fontsize=9, color=INK)
    if np.isfinite(cut.pixels).any():
        bar = figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label(
            with_unit(
                "value" if image.name is None else str(image.name),
                str(image.attrs.get("units", "")),
            ),
            fontsize=8,
            color=INK,
            parse_math=False,
        )
        bar.ax.tick_params(labelsize=8)
    figure.supxlabel(slices.CONVENTION, fontsize=7.5, color=FAINT)
    return figure
