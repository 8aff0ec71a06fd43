"""Plots of the numbers in images: histogram with its CDF, joint histogram of two, volumes over a heart beat."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting import slices
from cohort.reporting.plots import (
    FILL,
    INK,
    LINE,
    MARK,
    blank,
    empty_axes,
    legend,
    say_nothing,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_VOXEL = "no finite voxel"
"""Said where an image, or what of it was asked for, has nothing to count."""


def histogram(
    image: xr.DataArray,
    *,
    bins: int = 128,
    range: tuple[float, float] | None = None,
    mask: xr.DataArray | None = None,
) -> "Figure":
    """How often values occur, and beside it the share of voxels up to each value (CDF).

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        All frames together. On Dask chunk by chunk.
    bins : int, >= 1
    range : (low, high), in the image's unit
        By default from the lowest to the highest finite value, for which the image is read once more.
    mask : DataArray, bool or integer
        Count only where it is not 0.

    Returns
    -------
    Figure
        Two axes: counts on the left one, the CDF on the right one.

    Raises
    ------
    GridError, ValueError
        As `ops.histograms.histogram`; if there is no voxel, or they are complex.
    TypeError
        If the image is no DataArray.
    """
    from cohort.ops import histograms  # brings Dask, which takes long to load

    slices.checked(image)
    low, high = _extent(image) if range is None else range
    counts = histograms.histogram(image, bins=bins, range=(low, high), labels=mask)
    counts = counts.sum([d for d in counts.dims if d != "bin"], keep_attrs=True).compute()
    edges = np.linspace(low, high, bins + 1)
    figure = blank(4.6, 3.0)
    axes = empty_axes(figure)
    axes.stairs(counts.to_numpy(), edges, fill=True, color=FILL, edgecolor=INK, linewidth=0.6)
    axes.set_xlabel(with_unit("value", str(image.attrs.get("units", ""))), parse_math=False)
    axes.set_ylabel("voxels")
    right = axes.twinx()
    share = np.cumsum(counts.to_numpy()) / max(1, int(counts.sum()))
    right.plot(edges, np.r_[0.0, share], color=MARK, linewidth=1.8)
    right.set(ylim=(0, 1.02), ylabel="share of voxels up to here")
    right.yaxis.label.set(color=MARK, fontsize=9)
    right.tick_params(colors=MARK, labelsize=8)
    right.spines[["top"]].set_visible(False)
    if not counts.any():
        say_nothing(axes, NO_VOXEL)
    return figure


def joint_histogram(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    bins: int = 64,
    mask: xr.DataArray | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> "Figure":
    """How often pairs of values occur in two images of one grid, on a logarithmic scale of colours.

    Parameters
    ----------
    a, b : DataArray, shape (..., z, y, x), any real dtype
        Of leading dims (time, echo) the first entry counts.
    bins : int, >= 1
        Along each axis.
    mask : DataArray, bool
    names : pair of str
        What the two are called.

    Returns
    -------
    Figure

    Raises
    ------
    GridError, ValueError
        As `ops.histograms.joint_histogram`.
    """
    from matplotlib.colors import LogNorm

    from cohort.ops import histograms

    slices.checked(a, b)
    first, other = (x.isel({d: 0 for d in x.dims if d not in grid.SPACE}) for x in (a, b))
    counts = histograms.joint_histogram(first, other, bins=bins, mask=mask).compute()
    shown = np.ma.masked_equal(counts.transpose("bin_b", "bin_a").to_numpy(), 0)
    figure = blank(4.6, 3.8)
    axes = empty_axes(figure)
    if shown.count():
        norm = LogNorm(1, max(2, int(shown.max())))
        at = (counts["a"].to_numpy(), counts["b"].to_numpy())
        picture = axes.pcolormesh(*at, shown, cmap="cividis", norm=norm, shading="nearest")
        figure.colorbar(picture, ax=axes).set_label("voxels", fontsize=8, color=INK)
    else:
        say_nothing(axes, NO_VOXEL)
    units = [str(x.attrs.get("units", "")) for x in (a, b)]
    axes.set_xlabel(with_unit(names[0], units[0]), parse_math=False)
    axes.set_ylabel(with_unit(names[1], units[1]), parse_math=False)
    return figure


def volume_curve(curve: xr.DataArray, *, smooth: int = 1) -> "Figure":
    """Volume over one heart beat, with end-diastole and end-systole marked.

    Parameters
    ----------
    curve : DataArray, shape (time,), ml
        As `ops.motion.volume_curve_ml` gives it.
    smooth : int, odd
        Frames over which the curve is averaged to choose the two frames; see `ops.motion.ejection_fraction`.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        As `ops.motion.ejection_fraction`.
    """
    from cohort.ops import motion

    found = motion.ejection_fraction(curve, smooth=smooth)
    volumes = np.asarray(curve.values, np.float64)
    has_times = "time" in curve.coords
    times = curve["time"].to_numpy() if has_times else np.arange(volumes.size)
    unit = str(curve["time"].attrs.get("units", "")) if has_times else "frame"
    figure = blank(4.6, 3.2)
    axes = empty_axes(figure)
    axes.plot(times, volumes, "-o", color=INK, markersize=3.5, linewidth=1.2)
    for name, frame, marker, colour in (
        ("end-diastole", int(found["end_diastole_frame"]), "^", LINE),
        ("end-systole", int(found["end_systole_frame"]), "v", MARK),
    ):
        said = f"{name}, {volumes[frame]:.0f} ml"
        axes.plot(times[frame], volumes[frame], marker, color=colour, markersize=10, label=said)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(with_unit("time", unit), parse_math=False)
    axes.set_ylabel(f"volume [{curve.attrs.get('units', 'ml')}]", parse_math=False)
    axes.set_title(
        f"ejection fraction {100 * float(found['ejection_fraction']):.0f} %",
        fontsize=9, color=INK, loc="right",
    )  # fmt: skip
    legend(axes)
    return figure


def _extent(image: xr.DataArray) -> tuple[float, float]:
    """Lowest and highest finite value; (0, 1) without any."""
    finite = image.where(np.isfinite(image)) if image.dtype.kind == "f" else image
    low, high = (float(x) for x in (finite.min(), finite.max()))
    if not np.isfinite(low):
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)
