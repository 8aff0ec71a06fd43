"""What a reader must know of a design before the numbers: rows that go together, levels in doubt, groups apart."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.formula import Formula

OVERLAP = 0.5
"""Below this share of a group inside the range of the other, a warning."""

WIDE = 10
"""Levels of text that all begin with a digit above which they are taken for misspelt numbers."""

_AGE = re.compile(r"age(_?y(ears?)?)?", re.IGNORECASE)


def repeats_kept(n_subjects: int, repeats: Mapping[str, Sequence[int]], n: int) -> str:
    """Say that rows of one person are fitted as if they were of several.

    Parameters
    ----------
    n_subjects, n : int
        People, and rows that are fitted.
    repeats : mapping
        Person -> rows, of those that have several.
    """
    twice = "twice" if all(len(rows) == 2 for rows in repeats.values()) else "more than once"
    return (
        f"{len(repeats)} of {n_subjects} subjects are scanned {twice} and all {n} rows are used: the rows are not "
        "independent, and classical and HC3 intervals too narrow; one_scan_per: first uses one scan of each"
    )


def doubtful(coding: Mapping[str, Mapping[str, Any]], formula: Formula) -> list[str]:
    """Warn of levels that may stand for nothing, and of text that may stand for numbers."""
    found = []
    for name, coded in coding.items():
        levels = coded["levels"]
        nothing = [level for level in levels if cells.means_nothing(level)]
        if nothing:
            found.append(
                f"{name} = {nothing[0]} counts as a level like the others; if it means not known, state "
                f"participants: missing: [{nothing[0]!r}]"
            )
        if (
            len(levels) > WIDE
            and name in formula.columns
            and all(v[:1] in "0123456789+-" for v in levels)
        ):
            found.append(
                f"{name} is text of {len(levels)} levels ({levels[0]}, {levels[1]}, ...), each compared with the first: "
                "if they are numbers, write them as such"
            )
    return found


def separated(
    X: pd.DataFrame, roles: Mapping[str, str], used: pd.DataFrame, formula: Formula
) -> list[str]:
    """Warn of groups whose ages, or another number of the model, barely overlap."""
    compared = {
        c: X[c].to_numpy()
        for c in X
        if c in formula.columns and not cells.is_binary(X[c].to_numpy())
    }
    for name in used.columns:
        if _AGE.fullmatch(name) and name not in formula.columns and cells.is_number(used[name]):
            compared[f"{name}, which is not in the model,"] = cells.numbers(used[name])
    found = []
    for group in (
        name
        for name, role in roles.items()
        if role == "group" and cells.is_binary(X[name].to_numpy())
    ):
        states = X[group].to_numpy()
        for name, values in compared.items():
            shares = []
            for state in (0, 1):
                here, there = (
                    values[(states == state) & ~np.isnan(values)],
                    values[(states != state) & ~np.isnan(values)],
                )
                if min(len(here), len(there)) >= 5:
                    inside = int(((here >= there.min()) & (here <= there.max())).sum())
                    shares.append(
                        (inside / len(here), state, inside, len(here), there.min(), there.max())
                    )
            if shares and min(shares)[0] < OVERLAP:
                _, state, inside, n, low, high = min(shares)
                found.append(
                    f"{name} barely overlaps between the groups: {inside} of {n} rows with {group} = {state} lie in the "
                    f"range of {group} = {1 - state} ({low:g} to {high:g}); comparing them leans on the model's form"
                )
    return found
