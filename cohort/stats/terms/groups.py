"""The group of a design: the columns that compare its levels, and the level they are compared with."""

from collections.abc import Sequence

import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design

MAX_VALUES = 6
"""Values of a column that an error lists."""


def group_columns(design: Design, group: str) -> list[str]:
    """Columns of a design that compare the levels of `group` with its reference.

    Raises
    ------
    DesignError
        If it is no term, is part of another term, or is neither 0/1 nor a category under treatment coding.
    """
    found = []
    for name, term in zip(design.X.columns, design.terms, strict=True):
        if term is None or group not in term.columns:
            continue
        if len(term.factors) > 1 or term.columns != (group,):
            raise DesignError(
                f"the group {group!r} is part of the term {term.name}, so no single number compares its levels"
            )
        found.append(name)
    if not found:
        raise DesignError(f"the group {group!r} is not among the terms: {design.formula}")
    if not set(found) <= design.binary:
        raise DesignError(
            f"the group {group!r} has no reference level in {', '.join(found)}: it must be 0 and 1, or a category "
            f"under treatment coding, as C({group})"
        )
    return found


def check_group(design: Design, group: str) -> None:
    """Raise `DesignError` if a declared group is a number that enters as one slope.

    A single 2 among many 0 and 1, a slip of the pen, would turn the comparison of two groups into a line.
    """
    for name, term in zip(design.X.columns, design.terms, strict=True):
        if term is None or term.columns != (group,) or len(term.factors) > 1:
            continue
        if term.factors[0].kind != "column" or term.name in design.coding or name in design.binary:
            continue
        counts = design.X[name].value_counts().sort_index()
        held = ", ".join(f"{value:g} ({n})" for value, n in counts.head(MAX_VALUES).items())
        more = f" and {len(counts) - MAX_VALUES} other values" if len(counts) > MAX_VALUES else ""
        raise DesignError(
            f"group: {group!r} holds {held}{more} (rows of each); expected 0 and 1, or text: as it is, the model fits one "
            f"slope to it. Write C({group}) in the formula to compare its values, or mend the table; for a slope, state no "
            "group"
        )


def levels_of(design: Design, column: pd.Series) -> pd.Categorical:
    """Level of each row of a group's column, the reference of the design first."""
    levels = cells.categories(column)
    for term in design.terms:
        if term is not None and term.columns == (str(column.name),):
            reference = design.coding.get(term.name, {}).get("reference")
            if reference in levels.categories:
                others = [c for c in levels.categories if c != reference]
                levels = levels.reorder_categories([reference, *others])
    return levels


def reference_level(design: Design, terms: Sequence[str], group: str) -> str:
    """Level of the group with which the columns `terms` compare the others; a 0/1 column is compared with 0."""
    term = design.terms[list(design.X.columns).index(terms[0])]
    coded = design.coding.get(term.name if term is not None else group)
    return "0" if coded is None else str(coded["reference"])


def level_of(design: Design, column: str, group: str) -> str:
    """Level of the group that a column of the design compares with the reference; 1 of a 0/1 column.

    Parameters
    ----------
    column : str
        One of `group_columns`.
    """
    term = design.terms[list(design.X.columns).index(column)]
    name = term.name if term is not None else group
    for level in design.coding.get(name, {"levels": []})["levels"]:
        if column == f"{name}[T.{level}]":
            return str(level)
    return "1"
