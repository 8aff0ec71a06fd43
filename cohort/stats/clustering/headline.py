"""The errors that a reader is shown first: those of clusters where rows are said to go together."""

import pandas as pd

PREFIX = "cluster_"

_KINDS = ("cluster_kind",)
"""Columns that say what the errors are, and replace none."""


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the errors, p, q and intervals of clusters in the place of the classical ones.

    A table without such is returned as it is.

    Examples
    --------
    >>> table = pd.DataFrame({"term": ["dx"], "p": [0.01], "cluster_p": [0.2], "cluster_kind": ["CR2"]})
    >>> headline(table).columns.tolist(), headline(table)["p"].item()
    (['term', 'p', 'cluster_kind'], 0.2)
    """
    if f"{PREFIX}se" not in table and f"{PREFIX}p" not in table:
        return table
    held = [str(c) for c in table if str(c).startswith(PREFIX) and c not in _KINDS]
    return table.drop(columns=held).assign(**{c.removeprefix(PREFIX): table[c] for c in held})
