"""Plots of a model's tables: all terms on one scale, adjusted means, one more term a step, head size in six ways."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort.reporting import plots
from cohort.reporting.wording import p_value
from cohort.stats.clustering.headline import headline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def forest(tidy: pd.DataFrame, *, outcome: str) -> "Figure":
    """Partial correlations with their intervals; what was corrected in a family has its q beside its name.

    Parameters
    ----------
    tidy : DataFrame
        Effects of a model; terms of the other outcomes of a family are drawn too, without the terms that are not
        tested there.
    outcome : str
        The one that figures show.

    Returns
    -------
    Figure
    """
    return plots.forest(partial(tidy, outcome=outcome), label=f"partial correlation with {outcome}")


def partial(tidy: pd.DataFrame, *, outcome: str) -> pd.DataFrame:
    """Lines of `forest`: partial_r as ``estimate`` with its interval, indexed by what a line is called."""
    columns = {"partial_r": "estimate", "partial_r_low": "ci_low", "partial_r_high": "ci_high"}
    if not {*columns} <= {*tidy.columns}:
        return pd.DataFrame(columns=list(columns.values()))
    tidy = headline(tidy)
    own = tidy["outcome"] == outcome if "outcome" in tidy else pd.Series(True, tidy.index)  # noqa: FBT003
    rows = tidy[own & tidy["partial_r"].notna()]
    n = rows["family_n"].max() if "family_n" in rows else np.nan
    names = [
        f"{row['term']}  (q {_equal(p_value(row['q_bh']).text)})"
        if n > 1 and pd.notna(row.get("q_bh"))
        else str(row["term"])
        for row in rows.to_dict("records")
    ]
    return rows.set_axis(names, axis=0)[list(columns)].rename(columns=columns).dropna()


def means(table: pd.DataFrame) -> "Figure":
    """Adjusted mean of each group with its interval, and the plain mean beside it.

    Parameters
    ----------
    table : DataFrame
        Of `cohort.stats.means.adjusted_means`; of several outcomes the first is drawn.

    Returns
    -------
    Figure
    """
    table = table[table["outcome"] == table["outcome"].iloc[0]]
    figure = plots.blank(min(9.0, 2.6 + 0.9 * max(2, len(table))), 3.6)
    axes = plots.empty_axes(figure)
    places = np.arange(len(table))
    estimate = table["estimate"].to_numpy(np.float64)
    axes.vlines(places, table["ci_low"], table["ci_high"], color=plots.INK, linewidth=1.8)
    axes.plot(places, estimate, "s", color=plots.INK, markersize=7, label="adjusted, 95% interval")
    axes.plot(
        places + 0.12,
        table["observed"],
        "o",
        markersize=7,
        markerfacecolor="none",
        markeredgecolor=plots.LINE,
        label="as measured",
    )
    ticks = [f"{r['level']}\nn = {r['n']}" for r in table.to_dict("records")]
    axes.set_xticks(places, ticks, parse_math=False)
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_xlabel(str(table["group"].iloc[0]), parse_math=False)
    axes.set_ylabel(
        plots.with_unit(str(table["outcome"].iloc[0]), str(table["unit"].iloc[0])), parse_math=False
    )
    plots.legend(axes)
    return figure


def ladder(table: pd.DataFrame) -> "Figure":
    """The group's effect alone, then with one more term a step, in the unit of the outcome.

    Parameters
    ----------
    table : DataFrame
        Of `cohort.stats.ladder.ladder`.

    Returns
    -------
    Figure
    """
    several = len(set(table["term"])) > 1
    rows = table.set_axis([_step(row, several=several) for row in table.to_dict("records")], axis=0)
    return plots.forest(rows, label=_effect(table))


def sites(table: pd.DataFrame) -> "Figure":
    """The group's effect in each site by itself and in all together, in the unit of the outcome.

    Parameters
    ----------
    table : DataFrame
        Of `cohort.stats.persite.per_site`, terms of the group only, then the model's own.

    Returns
    -------
    Figure
    """
    several = len(set(table["term"])) > 1
    names = [
        f"{r['site']}{', ' + str(r['term']) if several else ''}  (n = {r['n']:.0f})"
        for r in table.to_dict("records")
    ]
    return plots.forest(table.set_axis(names, axis=0), label=_effect(table))


def adjustments(table: pd.DataFrame) -> "Figure":
    """The group's effect under every way to account for head size: partial correlations, since units differ.

    Parameters
    ----------
    table : DataFrame
        Of `cohort.stats.adjust.Adjustments`.

    Returns
    -------
    Figure
    """
    several = len(set(table["level"])) > 1
    names = [
        f"{r['strategy'].replace('_', ', ')}{' ' + str(r['level']) if several else ''}"
        for r in table.to_dict("records")
    ]
    columns = {"partial_r": "estimate", "partial_r_low": "ci_low", "partial_r_high": "ci_high"}
    rows = table.set_axis(names, axis=0)[list(columns)].rename(columns=columns).dropna()
    outcome, term = table["outcome"].iloc[0], table["term"].iloc[0]
    return plots.forest(rows, label=f"partial correlation of {term} with {outcome}")


def _equal(text: str) -> str:
    return text if text[:1] in "<>" else f"= {text}"


def _step(row: dict[Any, Any], *, several: bool) -> str:
    said = f"+ {row['added']}" if row["added"] else "alone"
    return f"{row['term']} {said}" if several else said


def _effect(table: pd.DataFrame) -> str:
    terms = ", ".join(dict.fromkeys(table["term"].astype(str)))
    return plots.with_unit(f"{terms} on {table['outcome'].iloc[0]}", str(table["unit"].iloc[0]))


DRAWN: dict[str, tuple[Callable[[pd.DataFrame], "Figure"], str]] = {
    "means": (
        means,
        (
            "What the model expects of each group if all else is equal (squares, with 95% intervals), beside the plain means "
            "(circles). The distance between the two is what the other terms account for."
        ),
    ),
    "ladder": (
        ladder,
        (
            "From crude to adjusted: the group's effect alone, then with one more term a step, always on the same rows. A "
            "step that moves the estimate shows what a term carried, or hid."
        ),
    ),
    "per_site": (
        sites,
        "The group's effect in each site by itself, fitted without the others, and below them in the model of all sites.",
    ),
    "adjustments": (
        adjustments,
        "The group's effect under every way to account for head size, on one scale without a unit, with 95% intervals.",
    ),
}
"""Table of a model -> how it is drawn, and what a reader is told."""
