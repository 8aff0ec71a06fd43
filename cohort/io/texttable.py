"""A table as text: every cell as it is written, blanks around it gone, each id once however it is spelled."""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cohort.io.fields import did_you_mean
from cohort.io.patience import patiently

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SAID = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
"""Those before a number."""


class ParticipantsError(ValueError):
    """A participants table that cannot be used."""


@dataclass(frozen=True)
class TextTable:
    """One file: its name, its columns but that of the ids, and id -> column -> cell."""

    name: str
    columns: list[str]
    rows: dict[str, dict[str, str]]


def clean(cell: str) -> str:
    """Composed letters, no blanks around: the form in which cells and ids are compared."""
    return unicodedata.normalize("NFC", cell).strip()


def colliding(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in nothing but case, invisible characters, blanks around or how letters are composed.

    Returns
    -------
    list of tuple
        Each group of two or more different names, in the order in which the first of them comes.

    Examples
    --------
    >>> colliding(["s1", "S1", "s2", "s1", "s1 "])
    [('s1', 'S1', 's1 ')]
    """
    groups: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        groups[_folded(name)][name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def zero_padded(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in nothing but the zeros before their numbers, grouped as `colliding` does.

    Examples
    --------
    >>> zero_padded(["001", "1", "s02", "s2", "10", "100"])
    [('001', '1'), ('s02', 's2')]
    """
    groups: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        groups[_ZEROS.sub("", name)][name] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _folded(name: str) -> str:
    visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return clean(clean(visible).casefold())


def read_table(
    path: Path,
    *,
    identity: str,
    missing: Collection[str],
    rename: Mapping[str, str] | None = None,
    reserved: Collection[str] = (),
) -> TextTable:
    """Read a .csv or .tsv file whose rows have an id.

    Parameters
    ----------
    path : Path
    identity : str
        Column of the ids, after renaming.
    missing : collection of str
        Cells that mean "not known".
    rename : mapping of new name -> old name
    reserved : collection of str
        Names that no other column may have.

    Raises
    ------
    ParticipantsError
        If the file is missing, no UTF-8 or ragged, has a column twice or a reserved one, or no column of ids; if an id is
        empty, there twice, or differs from another in nothing that can be seen.
    """
    name = path.name
    header, lines = _lines(path)
    renamed = {clean(old): new for new, old in (rename or {}).items()}
    header = [
        renamed.get(cell, cell) or f"unnamed_{i}" for i, cell in enumerate(map(clean, header), 1)
    ]
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise ParticipantsError(
            f"{name}: expected every column once, found {some(twice)} more than once; rename one of each"
        )
    if identity not in header:
        if other := _other_delimiter(header):
            raise ParticipantsError(
                f"{name}: its cells are parted by {other}, expected {_SAID[_DELIMITERS[path.suffix.lower()]]} "
                f"in a {path.suffix.lower()} file; save it with that, or name it by what it is"
            )
        raise ParticipantsError(
            f"{name}: no column {identity!r} for the ids; columns are {', '.join(header)}"
            f"{did_you_mean(identity, header)}"
        )
    if taken := sorted(set(header) & set(reserved) - {identity}):
        raise ParticipantsError(
            f"{name}: the column {taken[0]!r} has a name that results use themselves; "
            f"rename it in the catalog: participants: rename: {{{taken[0]}_given: {taken[0]}}}"
        )
    at = header.index(identity)
    rows: dict[str, dict[str, str]] = {}
    repeated: list[str] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise ParticipantsError(
                f"{name}: line {number} has {len(cells)} cells, the header has {len(header)}"
            )
        row = dict(zip(header, map(clean, cells), strict=True))
        if row[identity] in missing:
            raise ParticipantsError(f"{name}: line {number} has no id (column {identity!r})")
        if row[identity] in rows:
            repeated.append(row[identity])
        rows[row.pop(identity)] = row
    if repeated:
        raise ParticipantsError(
            f"{name}: expected every {identity} once, found {some(list(dict.fromkeys(repeated)))} "
            f"more than once ({len(repeated)} rows too many); keep one row of each"
        )
    if alike := colliding(rows):
        raise ParticipantsError(
            f"{name}: {identity} {' and '.join(map(repr, alike[0][:2]))} differ in case or invisible characters alone "
            f"({len(alike)} such); write each id in one way"
        )
    if not rows:
        raise ParticipantsError(f"{name}: expected rows below the header, found none")
    return TextTable(name, header[:at] + header[at + 1 :], rows)


def _other_delimiter(header: Sequence[str]) -> str | None:
    """In words, what parts the cells of a header that came as one cell; None if nothing does."""
    return next(
        (said for mark, said in _SAID.items() if len(header) == 1 and mark in header[0]), None
    )


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and numbered rows of a file; empty lines are left out."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise ParticipantsError(
            f"{path.name}: expected a .csv or .tsv file, found {path.suffix or 'no ending'!r}"
        )
    try:
        # "utf-8-sig" also takes the mark with which spreadsheets begin a UTF-8 file.
        text = patiently(path.read_bytes).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except OSError as error:
        raise ParticipantsError(
            f"{path}: cannot be read ({error.strerror}); expected a table"
        ) from error
    except UnicodeDecodeError as error:
        raise ParticipantsError(
            f"{path.name}: byte {error.start} is not UTF-8; save the table as UTF-8"
        ) from error
    except csv.Error as error:
        raise ParticipantsError(f"{path.name}: line {reader.line_num}: {error}") from error
    if not lines:
        raise ParticipantsError(f"{path.name}: expected a header, found an empty file")
    return lines[0][1], lines[1:]


def some(names: Sequence[str]) -> str:
    """Up to three names and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
