"""Plot of agreement: differences of two measurements against their mean."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cohort.reporting.plots import FILL, INK, LINE, MARK, blank, empty_axes, legend, with_unit
from cohort.stats.agreement import bland_altman

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def agreement(
    measured: Any,
    expert: Any,
    *,
    label: str,
    unit: str = "",
    names: tuple[str, str] = ("measured", "expert"),
) -> "Figure":
    """Difference of each pair against its mean, with bias, limits of agreement and their intervals.

    Parameters
    ----------
    measured, expert : (n,) array-like of float, in one unit
        As `cohort.stats.agreement.bland_altman` takes them.
    label, unit : str
        What was measured, in which unit.
    names : pair of str
        What the two are called.

    Returns
    -------
    Figure

    Raises
    ------
    DesignError
        As `bland_altman`.
    """
    lines = bland_altman(measured, expert).to_dict()
    a, b = np.asarray(measured, np.float64), np.asarray(expert, np.float64)
    figure = blank(4.6, 3.4)
    axes = empty_axes(figure)
    said = {"bias": "bias", "upper_limit": "95 % of differences"}
    for term, colour, style in (
        ("bias", MARK, "-"),
        ("lower_limit", LINE, "--"),
        ("upper_limit", LINE, "--"),
    ):
        at, low, high = (float(lines[column][term]) for column in ("estimate", "ci_low", "ci_high"))
        axes.axhspan(low, high, color=FILL, alpha=0.5, linewidth=0, zorder=0)
        axes.axhline(at, color=colour, linestyle=style, linewidth=1.5, label=said.get(term))
    axes.plot((a + b) / 2, a - b, "o", markersize=3.5, color=INK, alpha=0.6, markeredgewidth=0)
    axes.set_xlabel(with_unit(f"{label}, mean of both", unit), parse_math=False)
    axes.set_ylabel(with_unit(f"{names[0]} - {names[1]}", unit), parse_math=False)
    legend(axes)
    return figure
