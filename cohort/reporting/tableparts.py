"""One table of a page as plain values: its columns, and how each shows what it holds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cohort.reporting.wording import Shown, decimals_for, number, p_value

Part = dict[str, Any]
"""title, caption, columns ({name, is_number}), lines (of cells: {numbers} or {text, anchor}), more (lines that are not shown)."""

MAX_LINES = 60
"""Lines of one table; the others are counted, and are in the store."""


@dataclass(frozen=True)
class Column:
    """One column of a part: what it is called, which columns of the table it shows, and how."""

    name: str
    of: tuple[str, ...]
    show: Callable[[Any, int], Shown] | None = None
    """Value and decimals of the row's standard error -> number; None for text. Two numbers are an interval."""

    def stands_in(self, table: pd.DataFrame) -> bool:
        """Whether a table has what is shown, and says anything in it."""
        if not set(self.of) <= set(table.columns):
            return False
        return not table.empty and not table[list(self.of)].isin(["", None]).to_numpy().all()

    def cell(self, record: Mapping[str, Any], decimals: int, anchors: Mapping[str, str]) -> Any:
        """Show one row of the table; `decimals` are those of its standard error, `anchors` links by their text."""
        if self.show is not None:
            values = [record[column] for column in self.of]
            if pd.isna(values).all():  # no interval: one dash, not two
                values = values[:1]
            return {"numbers": [self.show(value, decimals) for value in values]}
        value = record[self.of[0]]
        shown = "" if pd.isna(value) else str(value)
        return {"text": shown, "anchor": anchors.get(shown)}


def part(
    title: str,
    caption: str,
    table: pd.DataFrame,
    columns: Sequence[Column],
    *,
    anchors: Mapping[str, str] | None = None,
) -> Part:
    """Show a table, at most `MAX_LINES` of it, without the columns in which it says nothing."""
    used = [column for column in columns if column.stands_in(table)]
    lines = []
    for record in table.head(MAX_LINES).to_dict("records"):
        fields = {str(key): value for key, value in record.items()}
        decimals = decimals_for(fields.get("se", math.nan))
        lines.append([column.cell(fields, decimals, anchors or {}) for column in used])
    return {
        "title": title,
        "caption": caption,
        "columns": [{"name": c.name, "is_number": c.show is not None} for c in used],
        "lines": lines,
        "more": len(table) - len(lines),
    }


def text(name: str, column: str) -> Column:
    """Show a column as it is, linked where its text has an anchor."""
    return Column(name, (column,))


def figure(name: str, *columns: str, digits: int = 4, decimals: int | None = None) -> Column:
    """Show a number, or two as an interval, with so many digits or decimals."""
    return Column(name, columns, lambda x, _: number(x, digits=digits, decimals=decimals))


def fine(name: str, *columns: str) -> Column:
    """Show a number, or two as an interval, with as many decimals as the standard error of the row can use."""
    return Column(name, columns, lambda x, decimals: number(x, decimals=decimals))


def probability(name: str, column: str) -> Column:
    """Show a p."""
    return Column(name, (column,), lambda x, _: p_value(x))
