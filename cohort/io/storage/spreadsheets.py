"""Text in files that a spreadsheet opens, which computes whatever begins as a formula does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@")
"""How text begins that a spreadsheet would compute."""


def as_text(cell: str) -> str:
    r"""A text in one line and without tabs; an apostrophe in front keeps a formula from being one.

    Examples
    --------
    >>> as_text("=1+1"), as_text("a\tb\nc"), as_text("a - b")
    ("'=1+1", 'a b c', 'a - b')
    """
    line = " ".join(cell.replace("\t", " ").splitlines())
    return f"'{line}" if line.lstrip().startswith(FORMULA) else line


def guarded(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table with the texts of its cells and the names of its columns as `as_text` gives them; numbers stay numbers."""
    import pandas as pd

    columns = [
        column.map(lambda cell: as_text(cell) if isinstance(cell, str) else cell)
        if column.dtype.kind == "O"
        else column
        for _, column in table.items()
    ]
    names = [as_text(str(name)) for name in table]
    return pd.concat(columns, axis="columns").set_axis(names, axis="columns") if names else table
