"""Plots that look for what a model of least squares takes for granted, and its design matrix as a picture."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cohort.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 3.0
"""Studentised residuals beyond this are marked."""

MAX_ROWS = 1200
"""Rows that a picture of a design matrix can show; of more, every k-th is drawn."""


def residuals(augment: pd.DataFrame) -> "Figure":
    """Three looks at studentised residuals: along the fitted values, against the normal distribution, along the leverage.

    Parameters
    ----------
    augment : DataFrame
        With ``fitted``, ``leverage``, ``rstudent`` and ``cook`` of the rows of a fit.

    Returns
    -------
    Figure
        Three axes. Rows of a Cook's distance above 4/n are rings in the third.
    """
    from scipy import special

    rows = augment[np.isfinite(augment["rstudent"].to_numpy(np.float64))]
    values = rows["rstudent"].to_numpy(np.float64)
    far = np.abs(values) > FAR
    figure = plots.blank(9.6, 3.2)
    along, normal, lever = (_axes(figure, place) for place in (1, 2, 3))
    _points(along, rows["fitted"].to_numpy(np.float64), values, far)
    along.axhline(0, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    along.set(xlabel="fitted value", ylabel="studentised residual")
    order = np.argsort(values, kind="stable")
    expected = special.ndtri((np.arange(len(values)) + 0.5) / max(1, len(values)))
    normal.axline((0, 0), slope=1, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    _points(normal, expected, values[order], far[order])
    normal.set(xlabel="expected of a normal distribution", ylabel="studentised residual")
    leverage = rows["leverage"].to_numpy(np.float64)
    _points(lever, leverage, values, far)
    high = rows["cook"].to_numpy(np.float64) > 4 / len(augment)
    lever.plot(
        leverage[high], values[high], "o", markersize=9, markerfacecolor="none", markeredgecolor=plots.MARK,
        label="Cook's distance above 4/n",
    )  # fmt: skip
    lever.axhline(0, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    lever.set(xlabel="leverage", ylabel="studentised residual")
    if high.any():
        plots.legend(lever)
    return figure


def design(matrix: pd.DataFrame) -> "Figure":
    """Design matrix as a picture: a row a scan, a column a term, each on a scale of its own.

    Parameters
    ----------
    matrix : DataFrame, n rows
        Numbers are drawn, other columns (ids) are not. Rows are sorted by the columns from the left, so that groups
        stand together.

    Returns
    -------
    Figure
    """
    X = matrix.select_dtypes("number")
    X = X.sort_values(list(X.columns), kind="stable")
    X = X.iloc[:: -(-len(X) // MAX_ROWS)]
    low, high = X.min(), X.max()
    shown = (X - low) / (high - low).where(high > low, 1.0)
    shown.loc[:, high <= low] = 1.0
    figure = plots.blank(max(3.2, 1.2 + 0.55 * X.shape[1]), 3.6)
    axes = plots.empty_axes(figure)
    axes.imshow(
        shown.to_numpy(), cmap="cividis", aspect="auto", interpolation="nearest", vmin=0, vmax=1
    )
    axes.set_xticks(
        range(X.shape[1]), [str(c) for c in X.columns], rotation=60, ha="right", parse_math=False
    )
    axes.set_ylabel(f"{len(matrix)} rows")
    axes.set_yticks([])
    return figure


def _axes(figure: "Figure", place: int) -> "Axes":
    axes = figure.add_subplot(1, 3, place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(plots.FAINT)
    axes.tick_params(colors=plots.INK, labelsize=8)
    return axes


def _points(axes: "Axes", x: np.ndarray, y: np.ndarray, far: np.ndarray) -> None:
    axes.plot(x[~far], y[~far], ".", color=plots.LINE, markersize=4, alpha=0.7)
    axes.plot(x[far], y[far], "^", color=plots.MARK, markersize=5)
