"""The participants table: covariates as the researcher wrote them, joined with scans by subject and session.

Every cell is read as text. A column becomes numbers only if each of its known cells is written as a plain
number: ``007`` and ``90+`` stay text, and nothing but what the catalog lists as `missing` is missing.
"""

import csv
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cohort import expression
from cohort.io.catalog import ParticipantsTable
from cohort.io.fields import did_you_mean

MISSING = ("", "n/a", "N/A")
"""Cells that mean "not known" in every table."""

KEYS = ("participant", "subject", "session")
"""The first columns of the result."""

RESERVED = (*KEYS, "scan_id", "state", "reason", "label")
"""Names that the tables of this package use themselves."""

AGE_LIMIT = 89.0
"""Years; a higher age tells who somebody is."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_AGE_COLUMNS = ("age", "age_years")
_Rows = dict[str, dict[str, str]]


class ParticipantsError(ValueError):
    """A participants table that cannot be used."""


@dataclass(frozen=True)
class Participants:
    """Covariates, one row a participant or visit."""

    table: pd.DataFrame
    """participant (the id as written), subject, session (missing when the id has none), then the columns of
    the table, float64 or text, and the derived ones, float64."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Column -> unit, where the catalog states one."""
    unjoined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """File name of the second and each further table -> its ids that the first table lacks."""

    def with_tokens(
        self, subject: Callable[[str], str], session: Callable[[str], str] = str
    ) -> "Participants":
        """Replace ids: subject and session by what the two make of them, participant by both, joined by "_"."""
        subjects = self.table["subject"].map(subject).astype("str")
        sessions = self.table["session"].map(session, na_action="ignore").astype("str")
        shown = subjects.where(sessions.isna(), subjects + "_" + sessions.fillna(""))
        return replace(
            self, table=self.table.assign(participant=shown, subject=subjects, session=sessions)
        )


@dataclass(frozen=True)
class Joined:
    """Which scan belongs to which row, and what is left on both sides."""

    scans: pd.DataFrame
    """The scans with the column `participant`, missing where no row belongs to the scan."""
    rows_without_scan: list[str]
    """Ids of rows, in the order of the table."""
    scans_without_row: list[str]
    """scan_ids, in the order of the scans."""


def read_participants(
    spec: ParticipantsTable, folder: Path, *, subject_pattern: str | None = None
) -> Participants:
    """Read, join and derive the covariates of a cohort.

    Parameters
    ----------
    spec : ParticipantsTable
        The catalog's `participants`.
    folder : Path
        To which its paths are relative.
    subject_pattern : str
        The catalog's `subject`. Where it matches an id, its groups are subject and session; elsewhere the
        whole id is the subject.

    Raises
    ------
    ParticipantsError
        If a table is missing, no UTF-8, ragged, or has a column twice; if the id column is not there, an
        id is empty or twice; if two tables contradict each other; if a derived column cannot be computed.
    """
    missing = {*MISSING, *spec.missing}
    first, *others = [_read(folder / path, spec, missing) for path in spec.table]
    rows, columns = dict(first.rows), list(first.columns)
    unjoined = {}
    for other in others:
        unjoined[other.name] = tuple(identity for identity in other.rows if identity not in rows)
        rows = _join_rows(rows, first.name, other, missing)
        columns += [column for column in other.columns if column not in columns]
    for new, old in spec.rename.items():
        if new not in (*columns, spec.id):
            raise ParticipantsError(
                f"{first.name}: rename: no column {old!r}; columns are {', '.join(columns)}"
                f"{did_you_mean(old, columns)}"
            )
    table = _keys(list(rows), subject_pattern, first.name)
    for column in columns:
        cells = [row.get(column, "") for row in rows.values()]
        table[column] = _typed(cells, missing)
    if spec.cap_ages:
        table = _cap_ages(table, first.name)
    table = _derive(table, spec.derive, first.name)
    for column in spec.units:
        if column not in table:
            raise ParticipantsError(
                f"{first.name}: units: no column {column!r}{did_you_mean(column, map(str, table.columns))}"
            )
    return Participants(table, spec.units, unjoined)


@dataclass(frozen=True)
class _Table:
    name: str
    columns: list[str]
    rows: _Rows
    """id -> column -> cell."""


def _clean(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


def _read(path: Path, spec: ParticipantsTable, missing: set[str]) -> _Table:
    """One file, all text, by id."""
    name = path.name
    header, lines = _lines(path)
    renamed = {_clean(old): new for new, old in spec.rename.items()}
    header = [
        renamed.get(cell, cell) or f"unnamed_{i}" for i, cell in enumerate(map(_clean, header), 1)
    ]
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise ParticipantsError(
            f"{name}: expected every column once, found {_some(twice)} more than once; rename one of each"
        )
    if spec.id not in header:
        raise ParticipantsError(
            f"{name}: no column {spec.id!r} for the ids; columns are {', '.join(header)}"
            f"{did_you_mean(spec.id, header)}"
        )
    if taken := sorted(set(header) & set(RESERVED) - {spec.id}):
        raise ParticipantsError(
            f"{name}: the column {taken[0]!r} has a name that results use themselves; "
            f"rename it in the catalog: participants: rename: {{{taken[0]}_given: {taken[0]}}}"
        )
    at = header.index(spec.id)
    rows: _Rows = {}
    repeated: list[str] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise ParticipantsError(
                f"{name}: line {number} has {len(cells)} cells, the header has {len(header)}"
            )
        identity = _clean(cells[at])
        if identity in missing:
            raise ParticipantsError(f"{name}: line {number} has no id (column {spec.id!r})")
        if identity in rows:
            repeated.append(identity)
        rows[identity] = {
            column: _clean(cell)
            for column, cell in zip(header, cells, strict=True)
            if column != spec.id
        }
    if repeated:
        raise ParticipantsError(
            f"{name}: expected every {spec.id} once, found {_some(list(dict.fromkeys(repeated)))} "
            f"more than once ({len(repeated)} rows too many); keep one row of each"
        )
    if not rows:
        raise ParticipantsError(f"{name}: expected rows below the header, found none")
    return _Table(name, [column for column in header if column != spec.id], rows)


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and numbered rows of a file; empty lines are left out."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise ParticipantsError(
            f"{path.name}: expected a .csv or .tsv file, found {path.suffix or 'no ending'!r}"
        )
    try:
        # "utf-8-sig" also takes the mark with which spreadsheets begin a UTF-8 file.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
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


def _join_rows(rows: _Rows, name: str, other: _Table, missing: set[str]) -> _Rows:
    """Add the columns of `other`; a column that both have must agree wherever both know it."""
    joined = {}
    for identity, row in rows.items():
        more = other.rows.get(identity, {})
        for column in row.keys() & more.keys():
            mine, yours = row[column], more[column]
            if mine not in missing and yours not in missing and mine != yours:
                raise ParticipantsError(
                    f"{name} and {other.name} both have a column {column!r} and differ for {identity}: "
                    f"{mine!r} and {yours!r}; rename or remove one"
                )
        joined[identity] = more | {
            c: cell for c, cell in row.items() if cell not in missing or c not in more
        }
    return joined


def _keys(ids: Sequence[str], pattern: str | None, name: str) -> pd.DataFrame:
    """Participant, subject, session of each id, each pair once."""
    found: dict[tuple[str, str | None], str] = {}
    for identity in ids:
        match = re.search(pattern, identity) if pattern else None
        groups = match.groupdict() if match else {"subject": identity}
        key = (groups["subject"], groups.get("session"))
        if key in found:
            raise ParticipantsError(
                f"{name}: {found[key]!r} and {identity!r} are the same subject and session "
                f"({key[0]}, {key[1] or 'none'}) to the catalog's subject pattern"
            )
        found[key] = identity
    without = {subject for subject, session in found if session is None}
    if mixed := [
        subject for subject, session in found if session is not None and subject in without
    ]:
        raise ParticipantsError(
            f"{name}: subject {mixed[0]!r} has a row with a session and one without; "
            "expected either a row for each session or one for all"
        )
    subjects, sessions = zip(*found, strict=True)
    return pd.DataFrame(
        {
            "participant": pd.array(list(found.values()), dtype="str"),
            "subject": pd.array(subjects, dtype="str"),
            "session": pd.array(sessions, dtype="str"),
        }
    )


def _typed(
    cells: Sequence[str], missing: set[str]
) -> pd.api.extensions.ExtensionArray | np.ndarray:
    """Numbers where every known cell is one, else text; missing cells are NaN."""
    known = [cell for cell in cells if cell not in missing]
    if all(_NUMBER.fullmatch(cell) for cell in known):
        return np.array([np.nan if cell in missing else float(cell) for cell in cells])
    return pd.array([None if cell in missing else cell for cell in cells], dtype="str")


def _cap_ages(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Ages over 89, and "90+", become 90; `age_capped` is 1 there."""
    column = next((str(c) for c in table.columns if str(c).casefold() in _AGE_COLUMNS), None)
    if column is None:
        raise ParticipantsError(
            f"{name}: cap_ages: true, but no column is called {' or '.join(_AGE_COLUMNS)}; rename it so"
        )
    texts = (
        table[column]
        .astype("object")
        .map(lambda v: re.sub(r"^(\d+)\+$", r"\1", v) if isinstance(v, str) else v)
    )
    ages = pd.to_numeric(texts, errors="coerce")
    if (bad := ages.isna() & table[column].notna()).any():
        raise ParticipantsError(
            f"{name}: column {column!r} holds {table[column][bad].iloc[0]!r}; expected a number of years"
        )
    capped = ages > AGE_LIMIT
    return table.assign(
        **{
            column: ages.mask(capped, AGE_LIMIT + 1).astype(float),
            "age_capped": capped.astype(float),
        }
    )


def _derive(table: pd.DataFrame, derive: Mapping[str, str], name: str) -> pd.DataFrame:
    """Add derived columns in order; every problem is listed."""
    problems = []
    for column, text in derive.items():
        if column in table or column in RESERVED:
            problems.append(
                f"{name}: derive: {column}: the table has that column already; choose another name"
            )
            continue
        try:
            table = table.assign(
                **{column: expression.column(table.drop(columns=list(KEYS)), text)}
            )
        except expression.ExpressionError as error:
            problems.append(f"{name}: derive: {column}: {error}")
    if problems:
        raise ParticipantsError("\n".join(problems))
    return table


def join(scans: pd.DataFrame, participants: Participants) -> Joined:
    """Give every scan its row.

    A row belongs to the scans of its subject and session; a row without a session to all scans of its
    subject.

    Parameters
    ----------
    scans : DataFrame
        Columns scan_id, subject, session (text).
    """
    table = participants.table
    by_key = {
        (subject, None if pd.isna(session) else session): participant
        for participant, subject, session in table[list(KEYS)].itertuples(index=False)
    }
    matched: list[str | None] = []
    for subject, session in scans[["subject", "session"]].itertuples(index=False):
        who = None if pd.isna(subject) else _clean(str(subject))
        when = None if pd.isna(session) else _clean(str(session))
        matched.append(by_key.get((who, when), by_key.get((who, None))))
    used = set(matched)
    found = scans.assign(participant=pd.array(matched, dtype="str"))
    return Joined(
        scans=found,
        rows_without_scan=[p for p in table["participant"] if p not in used],
        scans_without_row=found.loc[found["participant"].isna(), "scan_id"].tolist(),
    )


def _some(names: Sequence[str]) -> str:
    """Up to three names and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
