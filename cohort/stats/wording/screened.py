"""The screen as lines for a terminal: how alike the groups are, and what goes with group and outcome."""

from typing import Any

import pandas as pd

from cohort.stats.screen import Screen
from cohort.stats.wording import reading

INDENT = "  "
MAX_LINES = 20
"""Covariates that are listed; the others are in ``model.json``."""


def lines(found: Screen) -> list[str]:
    """Covariates side by side in the levels of the group, their correlations, and sites by group; before any p.

    Returns
    -------
    list of str
        Empty where the model has no covariate.
    """
    told = [line for part in (_covariates(found), _missing(found), _sites(found)) for line in part]
    return ["before any p:", *told] if told else []


def _covariates(found: Screen) -> list[str]:
    table = found.correlations.set_index("covariate")
    if found.group is not None:  # the columns of the group itself have no correlation with it
        table = table[~table["in_model"] | table["r_group"].notna()]
    names = [
        c for c in dict.fromkeys([*found.balance["covariate"], *table.index]) if c != found.group
    ]
    if not names:
        return []
    shown = pd.DataFrame({"covariate": names[:MAX_LINES]})
    if found.group is not None:
        here = found.balance.set_index(["covariate", "level"])
        spread = {
            key: f"{reading.number(row['mean'])} ({reading.number(row['sd'])})"
            for key, row in zip(here.index, here.to_dict("records"), strict=True)
            if row["n"]
        }
        for level in dict.fromkeys(found.balance["level"]):
            shown[f"{found.group} = {level}"] = [
                spread.get((c, level), "") for c in shown["covariate"]
            ]
        furthest = found.balance.dropna(subset="std_difference").sort_values(
            "std_difference", key=lambda apart: apart.abs(), kind="stable"
        )
        apart = furthest.groupby("covariate")["std_difference"].last()
        shown["apart (sd)"] = [_two(apart.get(c, float("nan"))) for c in shown["covariate"]]
    for column, name in (
        ("r_group", f"r with {found.group}"),
        ("r_outcome", "r with outcome"),
        ("vif", "VIF"),
    ):
        if table[column].notna().any():
            values = table[column]
            shown[name] = [_two(values.get(c, float("nan"))) for c in shown["covariate"]]
    shown["in model"] = [
        "yes" if c in table.index and bool(table.loc[c, "in_model"]) else ""
        for c in shown["covariate"]
    ]
    more = len(names) - MAX_LINES
    return [*_frame(shown), *([f"{INDENT}and {more} more in model.json"] if more > 0 else [])]


def _missing(found: Screen) -> list[str]:
    """Columns that lack cells."""
    whole = found.missing[(found.missing["level"] == "") & (found.missing["missing"] > 0)]
    return [
        f"{INDENT}missing: {row['column']} in {row['missing']} of {row['n']} rows"
        for row in whole.to_dict("records")
    ]


def _sites(found: Screen) -> list[str]:
    if found.site is None or found.sites.empty:
        return []
    counts = found.sites.pivot_table(index="site", columns="level", values="n", sort=False)
    heads = counts.columns if found.group is None else [f"{found.group} = {x}" for x in counts]
    shown = counts.set_axis(list(heads), axis=1).astype(int).rename_axis(found.site).reset_index()
    return _frame(shown.head(MAX_LINES))


def _two(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _frame(shown: pd.DataFrame) -> list[str]:
    return [INDENT + line for line in shown.to_string(index=False).splitlines()]
