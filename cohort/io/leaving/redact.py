"""Take somebody out of what a cohort wrote down: whatever names the subject goes, all else stays as it was."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cohort.io.traces import LONG, SHORTEST, SHORTEST_NUMBER, Originals, Trace

if TYPE_CHECKING:
    import pandas as pd

GONE = "(withdrawn)"
"""Stands where a text named somebody who withdrew."""

WITHHELD: dict[str, list[Any]] = {"withheld": [True]}
"""Stands where coefficients were kept to be compared with, in a state in which somebody was who withdrew."""

COLUMNS = ("scan_id", "participant", "subject")
"""Columns of the tables that say whose row it is."""

KEYS = (*COLUMNS, "series", "row", "row_id")
"""Members of JSON objects that do."""


class Subject:
    """All names of one subject, ready to be found in texts, JSON values and tables.

    Parameters
    ----------
    names : collection of str
        Scan ids, the subject's public name, participants, tokens of its series, names of its refused series.
    exact : collection of str
        Names that are too short or too common to be looked for inside a text (``0001``): a value or a cell that is
        nothing but one of them names the subject.
    originals : collection of str
        Private ids and paths: nowhere in a store, or it would not be clean.

    Examples
    --------
    >>> anna = Subject(["sub-anna_ses-1_T1"], exact=["anna"])
    >>> anna.names("failed sub-anna_ses-1_T1: no mask"), anna.names("anna"), anna.names("sub-anna2")
    (True, True, False)
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        exact: Collection[str] = (),
        originals: Collection[str] = (),
    ) -> None:
        self.exact = frozenset(exact)
        texts = sorted({*names, *filter(_distinctive, exact)}, key=len, reverse=True)
        # Digits and letters around it would make it another name: sub-1 is not sub-12.
        parts = "|".join(map(re.escape, texts))
        self._pattern = re.compile(
            rf"(?<![A-Za-z0-9])(?:{parts})(?![A-Za-z0-9])" if parts else "$^"
        )
        long = [text for text in (*texts, *originals) if len(text) >= LONG]
        self._originals = Originals(_rows(originals))
        self._voxels = Originals(_rows(long))
        self._count = len(texts) + len(self._originals)

    def __len__(self) -> int:
        """Number of names that are looked for."""
        return self._count

    def names(self, text: str) -> bool:
        """Whether a text names the subject."""
        return text in self.exact or self._pattern.search(text) is not None

    def in_text(self, text: str) -> Iterator[Trace]:
        """Every name and every original in a text, as `Originals.in_text`."""
        for found in self._pattern.finditer(text):
            yield Trace("original", found.start(), found[0])
        yield from self._originals.in_text(text)

    def in_voxels(self, data: bytes) -> Iterator[Trace]:
        """Every long name among the bytes of an array, as `Originals.in_voxels`."""
        return self._voxels.in_voxels(data)

    def without(self, value: Any) -> tuple[Any, int]:
        """A JSON value without what names the subject, and how much of it went.

        An item of a list, or a member of an object, goes whole if it names the subject itself; a single text becomes
        `GONE`.
        """
        if isinstance(value, str):
            return (GONE, 1) if self._pattern.search(value) else (value, 0)
        if isinstance(value, Mapping):
            kept, gone = {}, 0
            for key, item in value.items():
                if self._pattern.search(key):
                    gone += 1
                    continue
                kept[key], n = self.without(item)
                gone += n
            return kept, gone
        if isinstance(value, list):
            items, gone = [], 0
            for item in value:
                if self._about(item):
                    gone += 1
                    continue
                cleaned, n = self.without(item)
                items.append(cleaned)
                gone += n
            return items, gone
        return value, 0

    def _about(self, item: Any) -> bool:
        if isinstance(item, Mapping):
            # A unit or a session may be called "1", and so may a subject.
            return any(item.get(key) in self.exact for key in KEYS) or any(
                isinstance(v, str) and self._pattern.search(v) for v in item.values()
            )
        return isinstance(item, str) and self.names(item)

    def lines(self, text: str) -> tuple[str, int]:
        """Lines of JSON without those that name the subject, and how many went."""
        kept, gone = [], 0
        for line in text.splitlines():
            if self._pattern.search(line) or self._about(_parsed(line)):
                gone += 1
            else:
                kept.append(line + "\n")
        return "".join(kept), gone

    def rows(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """A table without the subject's rows; the same object if it has none."""
        mine = None
        for column in table.columns.intersection([*COLUMNS]):
            hits = table[column].map(lambda cell: isinstance(cell, str) and self.names(cell))
            hits = hits.astype(bool)  # of a table without rows it would be text
            mine = hits if mine is None else mine | hits
        if mine is None or not mine.any():
            return table
        return table.loc[~mine].reset_index(drop=True)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _distinctive(text: str) -> bool:
    """Whether a name may be looked for inside texts: neither a short number nor a plain word."""
    return not text.isalpha() and len(text) >= (SHORTEST_NUMBER if text.isdecimal() else SHORTEST)


def _rows(texts: Collection[str]) -> Iterator[Any]:
    from cohort.io.private import Row

    if texts:
        yield Row("", "subject", "\n".join(texts))
