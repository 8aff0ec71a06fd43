"""Columns of a table as a model reads them: numbers, or categories whose labels are text.

Tables are read as text, so a column is a number by its content: numbers, or true and false (1 and 0).
"""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

_COMMA = re.compile(r"[+-]?\d+,\d+")


class DesignError(ValueError):
    """A model that cannot be fitted as it is, in one line."""


def unknown_column(name: str, columns: Sequence[str], where: str) -> str:
    """Say that a name is no column, which one is nearest, and which there are."""
    # Spelled with other capitals first, then as the beginning of a longer name: AGE and Age_years are age, share is not.
    plain = name.casefold()
    near = [c for c in columns if c.casefold() == plain]
    near = near or [c for c in columns if re.match(f"{re.escape(plain)}(_|$)", c.casefold())]
    near = near or difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(repr(c) for c in columns[:20]) or "none"
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    # A look-alike letter would read "no column 'age'" beside a column 'age': show its code point.
    return f"{where}: no column {name!a}{hint} (columns: {shown}{more})"


def take(table: pd.DataFrame, name: str, where: str) -> pd.Series:
    """One column of `table`.

    Raises
    ------
    DesignError
        If there is none of that name, or more than one.
    """
    names = [str(c) for c in table.columns]
    if name not in names:
        raise DesignError(unknown_column(name, names, where))
    if names.count(name) > 1:
        raise DesignError(f"{where}: {names.count(name)} columns are called {name!r}")
    return table.iloc[:, names.index(name)]


def missing(column: pd.Series) -> np.ndarray:
    """Cells that hold nothing: NaN, None, blank text; shape (rows,), bool."""
    empty = column.isna().to_numpy(bool)
    if column.dtype.kind in "iufb":
        return empty
    return empty | np.array(
        [isinstance(cell, str) and not cell.strip() for cell in column.tolist()], bool
    )


def is_number(column: pd.Series) -> bool:
    """Whether no cell holds anything but a number, true or false."""
    return column.dtype.kind in "iufb" or not _not_numbers(column).any()


def is_text(column: pd.Series) -> bool:
    """Whether the column holds something, and none of it is a number, true or false."""
    if column.dtype.kind in "iufb":
        return False
    empty = missing(column)
    return bool(not empty.all() and (_not_numbers(column) | empty).all())


def is_binary(values: np.ndarray) -> bool:
    """Whether numbers are nothing but 0 and 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def check_text(column: pd.Series, where: str) -> None:
    """Raise `DesignError` for text that is numbers with a decimal comma, each of which would be a category."""
    filled = [str(cell).strip() for cell in column[~missing(column)].tolist()]
    if filled and all(map(_COMMA.fullmatch, filled)):
        raise DesignError(
            f"{where}: column {str(column.name)!r} holds {filled[0]!r} and the like in all {len(filled)} rows, which is "
            f"text; write decimals with a point and thousands with nothing, or C({column.name}) if they are categories"
        )


def numbers(column: pd.Series) -> np.ndarray:
    """Cells as numbers; shape (rows,), float64, NaN where there is nothing.

    Raises
    ------
    DesignError
        With the first cell that is no number, and its row (the label of the index).

    Examples
    --------
    >>> numbers(pd.Series(["1.5", "true", None])).tolist()
    [1.5, 1.0, nan]
    """
    if column.dtype.kind in "iufb":
        values = column.to_numpy(np.float64, na_value=np.nan)
    else:
        bad = np.flatnonzero(_not_numbers(column))
        if bad.size:
            raise DesignError(
                f"column {str(column.name)!r} holds {column.iloc[bad[0]]!r} in row {column.index[bad[0]]}, where a "
                f"number is needed ({bad.size} of {len(column)} rows)"
                f"{_remedy(column.iloc[bad[0]])}"
            )
        values = np.array(
            [math.nan if (v := _number(c)) is None else v for c in column.tolist()], np.float64
        )
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise DesignError(
            f"column {str(column.name)!r} is infinite in row {column.index[infinite[0]]}"
        )
    return values


def means_nothing(text: str) -> bool:
    """Whether other programs write this where a value is not known."""
    return text.upper() in ("NA", "N/A", "#N/A", "NAN", "NULL", "NONE", "UNKNOWN", ".", "?")


def _remedy(cell: Any) -> str:
    """What to do about text that other programs write for a number, or for none."""
    text = str(cell).strip()
    if means_nothing(text):
        return f"; if it means not known, state participants: missing: [{text!r}]"
    if _COMMA.fullmatch(text):
        return "; write decimals with a point"
    return ""


def _not_numbers(column: pd.Series) -> np.ndarray:
    text = np.array([_number(cell) is None for cell in column.tolist()], bool)
    return text & ~missing(column)


def _number(cell: Any) -> float | None:
    if isinstance(cell, str):
        text = cell.strip().lower()
        if text in ("true", "false"):
            return float(text == "true")
        if "_" in text:  # Python reads 1_000 as a number; nobody who writes a table does
            return None
    elif cell is None or cell is pd.NA:
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def label(cell: Any) -> str:
    """Write a cell as a category: 2.0 and 2 are both "2".

    Examples
    --------
    >>> label(2.0), label(" b "), label(0.5)
    ('2', 'b', '0.5')
    """
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell))
    if isinstance(cell, int | float | np.number):
        return str(int(cell)) if float(cell).is_integer() else str(float(cell))
    return str(cell).strip()


def categories(column: pd.Series) -> pd.Categorical:
    """Cells as categories, ordered as numbers where all labels are numbers, else as text."""
    labels = [
        None if empty else label(cell)
        for cell, empty in zip(column.tolist(), missing(column), strict=True)
    ]
    return pd.Categorical(
        labels, categories=sorted({c for c in labels if c is not None}, key=natural_key)
    )


def natural_key(cell: Any) -> tuple[int, float, str]:
    """Sort key: numbers by value first, then text; "2" comes before "10"."""
    value = _number(cell)
    if value is None or math.isnan(value):
        return (1, 0.0, str(cell))
    return (0, value, str(cell))
