"""Plots of measurements and fitted models: boxes, distributions, added variables, forests.

`figures` offers them together with the pictures of scans. Text from data is drawn as it is: a dollar sign in a
name does not start a formula.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort.reporting.slices import data_uri
from cohort.stats.outlying import is_outlying

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2430"
FAINT = "#8a919e"
FILL = "#c9d3df"
LINE = "#1d4e89"
MARK = "#a3320b"

MAX_GROUPS = 12
"""Groups that one box plot holds."""

MAX_FIGURES = 24
"""Measurements of a recipe, and terms of a model, that get a picture of their own; all are in the tables."""


def box_by_group(
    values: Any, *, groups: Any, label: str, unit: str = "", group_label: str = ""
) -> "Figure":
    """Box plot of a measurement by group, every value drawn as a point.

    Parameters
    ----------
    values : (n,) array-like of float
        Values that are not finite are left out of box and count.
    groups : (n,) array-like
        Group of each value; missing groups are left out. At most 12 groups, the largest, are drawn.
    label, unit, group_label : str
        What the axes say.

    Returns
    -------
    Figure
        Boxes span the quartiles, the line is the median, whiskers reach 1.5 interquartile ranges.

    Raises
    ------
    ValueError
        If values are no numbers, or there are more or fewer than groups.
    """
    import pandas as pd

    numbers, names_of = _numbers(values), list(groups)
    if len(numbers) != len(names_of):
        raise ValueError(
            f"expected a group for each value, found {len(numbers)} values and {len(names_of)} groups"
        )
    frame = pd.DataFrame({"value": numbers, "group": pd.Series(names_of, dtype=object)})
    frame = frame[np.isfinite(frame["value"].to_numpy()) & frame["group"].notna().to_numpy()]
    largest = frame["group"].value_counts().index[:MAX_GROUPS]
    names = sorted(largest, key=lambda name: (isinstance(name, str), name))
    figure = blank(min(9.0, 2.6 + 0.9 * max(2, len(names))), 3.6)
    axes = empty_axes(figure)
    samples = [frame.loc[frame["group"] == name, "value"].to_numpy() for name in names]
    if samples:
        axes.boxplot(
            samples,
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": FILL, "edgecolor": INK},
            medianprops={"color": INK, "linewidth": 2},
            whiskerprops={"color": INK},
            capprops={"color": INK},
        )
    for place, sample in enumerate(samples, start=1):
        # Steps of the golden ratio spread neighbours apart without chance.
        aside = (np.arange(sample.size) * 0.6180339887 % 1 - 0.5) * 0.4
        axes.plot(
            place + aside, sample, "o", markersize=3.5, color=LINE, alpha=0.65, markeredgewidth=0
        )
    ticks = [
        f"{_group_name(name)}\nn = {sample.size}"
        for name, sample in zip(names, samples, strict=True)
    ]
    axes.set_xticks(range(1, len(names) + 1), ticks, parse_math=False)
    axes.set_xlabel(group_label, parse_math=False)
    axes.set_ylabel(with_unit(label, unit), parse_math=False)
    if not samples:
        say_nothing(axes)
    return figure


def added_variable(x: Any, y: Any, *, term: str, outcome: str, unit: str = "") -> "Figure":
    """Outcome against one term, both freed from all other terms.

    Parameters
    ----------
    x, y : (n,) array-like of float
        Residuals of the term, and of the outcome, on all other terms.
    term, outcome, unit : str

    Returns
    -------
    Figure
        The line goes through the origin; its slope, ``sum(xy) / sum(xx)``, is the coefficient of `term` in the
        whole model [Frisch-Waugh-Lovell].
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    figure = blank(4.6, 3.4)
    axes = empty_axes(figure)
    finite = np.isfinite(across) & np.isfinite(up)
    across, up = across[finite], up[finite]
    axes.axhline(0, color=FILL, linewidth=1, zorder=0)
    axes.plot(across, up, "o", markersize=3.5, color=INK, alpha=0.6, markeredgewidth=0)
    square = float(across @ across)
    if square > 0:
        ends = np.array([across.min(), across.max()])
        axes.plot(
            ends,
            ends * float(across @ up) / square,
            color=MARK,
            linewidth=2,
            label="slope = coefficient",
        )
        legend(axes)
    else:
        say_nothing(axes)
    axes.set_xlabel(f"{term}, other terms removed", parse_math=False)
    axes.set_ylabel(f"{with_unit(outcome, unit)}, other terms removed", parse_math=False)
    return figure


def distribution(values: Any, *, label: str, unit: str = "") -> "Figure":
    """Histogram of one measurement, its median, and a triangle on every outlier.

    Parameters
    ----------
    values : (n,) array-like of float
        Values that are not finite are left out.
    label, unit : str

    Returns
    -------
    Figure
        Outliers are those of `stats.outlying`.

    Raises
    ------
    ValueError
        If values are no numbers.
    """
    numbers = _numbers(values)
    figure = blank(3.6, 2.1)
    axes = empty_axes(figure)
    finite = numbers[np.isfinite(numbers)]
    axes.set_xlabel(with_unit(label, unit), parse_math=False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if not finite.size:
        say_nothing(axes)
        return figure
    bins = bins_of(finite)
    counts, _, _ = axes.hist(finite, bins=bins, color=FILL, edgecolor="white", linewidth=0.5)
    axes.axvline(float(np.median(finite)), color=INK, linewidth=1.5, label="median")
    out = finite[is_outlying(finite)]
    low = -0.06 * float(np.max(counts))
    axes.plot(finite, np.full(finite.size, low), "|", color=FAINT, markersize=5)
    if out.size:
        axes.plot(out, np.full(out.size, low), "^", color=MARK, markersize=7, label="outlier")
    legend(axes)
    return figure


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers, found a value that is none: {error}") from None


def bins_of(finite: np.ndarray) -> int:
    """Bins for a histogram of finite numbers: of Freedman and Diaconis' width, from 6 to 60.

    That width looks at the middle half alone, so one far value does not flatten the rest.
    """
    unit = float(np.abs(finite).max()) or 1.0
    scaled = finite / unit
    width = 2 * float(np.subtract(*np.percentile(scaled, (75, 25)))) / np.cbrt(finite.size)
    span = float(np.ptp(scaled))
    if width <= 0:
        return 6
    return 60 if span >= 60 * width else max(6, int(np.ceil(span / width)))


def forest(
    effects: "pd.DataFrame", *, label: str, truth: Sequence[float] | None = None
) -> "Figure":
    """Estimates with their intervals, one line each, against zero.

    Parameters
    ----------
    effects : DataFrame
        Columns ``estimate``, ``ci_low``, ``ci_high``; the index names the lines. All share one unit.
    label : str
        What the common axis means.
    truth : sequence of float
        A stated value for each line, drawn as a diamond; NaN for none.

    Returns
    -------
    Figure
    """
    figure = blank(4.6, 1.0 + 0.34 * max(1, len(effects)))
    axes = empty_axes(figure)
    places = np.arange(len(effects))[::-1]
    estimate, low, high = (
        effects[c].to_numpy(np.float64) for c in ("estimate", "ci_low", "ci_high")
    )
    axes.axvline(0, color=FAINT, linewidth=1, linestyle="--", zorder=0)
    axes.hlines(places, low, high, color=INK, linewidth=1.8)
    axes.plot(estimate, places, "s", color=INK, markersize=6, label="estimate, 95% interval")
    if truth is not None:
        stated = np.asarray(truth, np.float64)
        axes.plot(
            stated,
            places,
            "D",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=MARK,
            label="stated truth",
        )
        legend(axes)
    axes.set_yticks(places, [str(name) for name in effects.index], parse_math=False)
    axes.set_ylim(-0.6, max(0.6, len(effects) - 0.4))
    axes.set_xlabel(label, parse_math=False)
    if not len(effects):
        say_nothing(axes)
    return figure


def blank(width: float, height: float) -> "Figure":
    """An empty figure of `width` x `height` inches that no global state knows."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def empty_axes(figure: "Figure") -> "Axes":
    """Axes in the colours of this page, with nothing in them."""
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    return axes


def legend(axes: "Axes") -> None:
    """Above the plot, where it hides no value."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=7.5, borderpad=0
    )


def say_nothing(axes: "Axes", words: str = "no value to draw") -> None:
    """Words in the middle of axes that have nothing else."""
    axes.text(
        0.5,
        0.5,
        words,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=FAINT,
    )


def with_unit(label: str, unit: str) -> str:
    """What an axis says; a pure number has no unit."""
    return f"{label} [{unit}]" if unit and unit != "1" else label


def _group_name(name: Any) -> str:
    """1.0 from a column of numbers is shown as 1."""
    return (
        f"{name:g}"
        if isinstance(name, int | float | np.number) and not isinstance(name, bool)
        else str(name)
    )


def embedded(figure: "Figure") -> dict[str, Any]:
    """A figure as a data URI, at one and a half pixels a CSS pixel, and its size in CSS pixels."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the plotting font lacks are drawn as boxes; the page itself has them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="png", dpi=144, metadata={"Software": None})
    width, height = figure.get_size_inches()
    uri = data_uri(stream.getvalue(), "image/png")
    return {"uri": uri, "width": round(96 * width), "height": round(96 * height)}
