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
    rows, values, far = _studentised(augment)
    figure = plots.blank(9.6, 3.2)
    along, normal, lever = (_axes(figure, place, 3) for place in (1, 2, 3))
    _points(along, rows["fitted"].to_numpy(np.float64), values, far)
    along.axhline(0, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    along.set(xlabel="fitted value", ylabel="studentised residual")
    _draw_qq(normal, values, far)
    _draw_leverage(lever, rows, values, far, len(augment))
    return figure


def qq(augment: pd.DataFrame) -> "Figure":
    """Studentised residuals against what a normal distribution would give; along the line errors are normal.

    Parameters
    ----------
    augment : DataFrame
        With ``rstudent`` of the rows of a fit.

    Returns
    -------
    Figure
    """
    _, values, far = _studentised(augment)
    figure = plots.blank(3.8, 3.4)
    _draw_qq(_axes(figure, 1, 1), values, far)
    return figure


def leverage(augment: pd.DataFrame) -> "Figure":
    """Studentised residuals along the leverage; rows of a Cook's distance above 4/n are rings.

    Parameters
    ----------
    augment : DataFrame
        With ``leverage``, ``rstudent`` and ``cook`` of the rows of a fit.

    Returns
    -------
    Figure
    """
    rows, values, far = _studentised(augment)
    figure = plots.blank(3.8, 3.4)
    _draw_leverage(_axes(figure, 1, 1), rows, values, far, len(augment))
    return figure


def _studentised(augment: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Rows with a residual, their residuals, and which are marked."""
    rows = augment[np.isfinite(augment["rstudent"].to_numpy(np.float64))]
    values = rows["rstudent"].to_numpy(np.float64)
    return rows, values, np.abs(values) > FAR


def _draw_qq(axes: "Axes", values: np.ndarray, far: np.ndarray) -> None:
    from scipy import special

    order = np.argsort(values, kind="stable")
    expected = special.ndtri((np.arange(len(values)) + 0.5) / max(1, len(values)))
    axes.axline((0, 0), slope=1, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    _points(axes, expected, values[order], far[order])
    axes.set(xlabel="expected of a normal distribution", ylabel="studentised residual")


def _draw_leverage(
    axes: "Axes", rows: pd.DataFrame, values: np.ndarray, far: np.ndarray, n: int
) -> None:
    leverage = rows["leverage"].to_numpy(np.float64)
    _points(axes, leverage, values, far)
    high = rows["cook"].to_numpy(np.float64) > 4 / n if n else np.zeros(0, bool)
    axes.plot(
        leverage[high], values[high], "o", markersize=9, markerfacecolor="none", markeredgecolor=plots.MARK,
        label="Cook's distance above 4/n",
    )  # fmt: skip
    axes.axhline(0, color=plots.FAINT, linewidth=1, linestyle="--", zorder=0)
    axes.set(xlabel="leverage", ylabel="studentised residual")
    if high.any():
        plots.legend(axes)


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


def _axes(figure: "Figure", place: int, of: int) -> "Axes":
    axes = figure.add_subplot(1, of, place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(plots.FAINT)
    axes.tick_params(colors=plots.INK, labelsize=8)
    return axes


def _points(axes: "Axes", x: np.ndarray, y: np.ndarray, far: np.ndarray) -> None:
    axes.plot(x[~far], y[~far], ".", color=plots.LINE, markersize=4, alpha=0.7)
    axes.plot(x[far], y[far], "^", color=plots.MARK, markersize=5)
