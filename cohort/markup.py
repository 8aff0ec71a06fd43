"""Small pieces of HTML for a notebook: text is escaped, there are no scripts and nothing is fetched."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

SHOWN = 20
"""Rows of a table that are shown."""


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as a table, the first `SHOWN` of them; empty if there are none.

    Examples
    --------
    >>> table(["a"], [["<script>"]])
    '<table><tr><th>a</th></tr><tr><td>&lt;script&gt;</td></tr></table>'
    """
    every = list(rows)
    if not every:
        return ""
    top = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text(cell))}</td>' for cell in row)}</tr>"
        for row in every[:SHOWN]
    )
    more = f"<p>and {len(every) - SHOWN:,} more</p>" if len(every) > SHOWN else ""
    return f"<table><tr>{top}</tr>{body}</table>{more}"


def block(title: str, *parts: str) -> str:
    """A title above tables and paragraphs."""
    return f"<div><strong>{escape(title)}</strong>{''.join(parts)}</div>"


def paragraph(said: str) -> str:
    """A line of text; nothing if there is none."""
    return f"<p>{escape(said)}</p>" if said else ""


def text(value: Any) -> str:
    """A value as one reads it: numbers in six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
