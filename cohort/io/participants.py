"""The participants table: covariates as the researcher wrote them, joined with scans by subject and session.

Every cell is read as text. A column becomes numbers only if each of its known cells is written as a plain
number: ``007`` and ``90+`` stay text, and nothing but what the catalog lists as `missing` is missing.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cohort import expression
from cohort.io.ages import age_columns, age_conflicts, age_unit, read_ages
from cohort.io.covariates import IdMap, ParticipantsTable
from cohort.io.fields import at_home, did_you_mean
from cohort.io.texttable import (
    ParticipantsError,
    TextTable,
    clean,
    colliding,
    read_table,
    zero_padded,
)

__all__ = [
    "Joined",
    "Participants",
    "ParticipantsError",
    "age_conflicts",
    "colliding",
    "join",
    "read_participants",
]

MISSING = ("", "n/a", "N/A")
"""Cells that mean "not known" in every table."""

KEYS = ("participant", "subject", "session")
"""The first columns of the result."""

RESERVED = (*KEYS, "scan_id", "state", "reason", "label")
"""Names that the tables of this package use themselves."""

_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"([0-9]+)(?:\.0+)?")

_Key = tuple[str, str | None]
"""Subject and session; None: all sessions."""


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
    keys: Mapping[str, _Key] | None = None
    """Subject as the scans name it -> subject and session as the table does, where the catalog has a map."""
    map_without_row: tuple[str, ...] = ()
    """Subjects of the map, as the scans name them, whose participant the table lacks."""
    capped: Mapping[str, int] = field(default_factory=dict)
    """Column of ages -> how many were over the cap, where the catalog caps ages."""
    n_zero_padded: int = 0
    """Groups of ids that differ in the zeros before a number alone: most likely one person each."""

    def key_of(self, subject: str | None, session: str | None) -> _Key | None:
        """Subject and session of a scan as the table names them; None if there is a map that lacks the subject."""
        if subject is None or (self.keys is not None and clean(subject) not in self.keys):
            return None
        who, when = (clean(subject), None) if self.keys is None else self.keys[clean(subject)]
        return who, when or (None if session is None else clean(session))

    def with_tokens(
        self, subject: Callable[[str], str], session: Callable[[str], str] = str
    ) -> "Participants":
        """Replace ids: subject and session by what the two make of them, participant by both, joined by "_".

        The map goes: it has done its work in `join`.
        """
        subjects = self.table["subject"].map(subject).astype("str")
        sessions = self.table["session"].map(session, na_action="ignore").astype("str")
        shown = subjects.where(sessions.isna(), subjects + "_" + sessions.fillna(""))
        return replace(
            self,
            table=self.table.assign(participant=shown, subject=subjects, session=sessions),
            keys=None,
            map_without_row=tuple(map(subject, self.map_without_row)),
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
    mapped_without_scan: list[str] = field(default_factory=list)
    """Subjects of the map, as the scans would name them, in the order of the map."""
    n_zeros_apart: int = 0
    """Rows without a scan that would have one if ids were numbers: 7 or 7.0 in the table, 007 in the sources."""


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
        id is empty or twice, also but for case; if two tables contradict each other; if an age is none (see
        `ages.read_ages`); if a derived column cannot be computed.
    """
    missing = {*MISSING, *spec.missing}
    first, *others = [
        read_table(
            folder / at_home(path),
            identity=spec.id,
            missing=missing,
            rename=spec.rename,
            reserved=RESERVED,
        )
        for path in spec.table
    ]
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
    texts = {column: [row.get(column, "") for row in rows.values()] for column in columns}
    ages, units, capped = _ages(texts, spec, missing, first.name)
    table = table.assign(**{c: _typed(cells, missing) for c, cells in texts.items()} | ages)
    table = _derive(table, spec.derive, first.name)
    for key, named in {"units": spec.units, "drop": spec.drop}.items():
        for column in named:
            if column not in table or (key == "drop" and column in KEYS):
                raise ParticipantsError(
                    f"{first.name}: {key}: no column {column!r}{did_you_mean(column, map(str, table.columns))}"
                )
    table = table.drop(columns=spec.drop)
    units = {column: unit for column, unit in units.items() if column in table}
    keys = None if spec.map is None else _read_map(spec.map, folder, missing, subject_pattern)
    return Participants(
        table, units, unjoined, keys, _without_row(keys, table), capped, len(zero_padded(rows))
    )


def _read_map(
    spec: IdMap, folder: Path, missing: Collection[str], pattern: str | None
) -> dict[str, _Key]:
    """Subject as the scans name it -> the table's subject and session. Several may be one person, none two."""
    found = read_table(folder / at_home(spec.table), identity=spec.subject, missing=missing)
    if spec.id not in found.columns:
        raise ParticipantsError(
            f"{found.name}: no column {spec.id!r} for the participants; columns are {', '.join(found.columns)}"
            f"{did_you_mean(spec.id, found.columns)}"
        )
    for subject, row in found.rows.items():
        if row[spec.id] in missing:
            raise ParticipantsError(
                f"{found.name}: {subject!r} has no participant (column {spec.id!r})"
            )
    return {subject: _key(row[spec.id], pattern) for subject, row in found.rows.items()}


def _without_row(keys: Mapping[str, _Key] | None, table: pd.DataFrame) -> tuple[str, ...]:
    subjects = set(table["subject"])
    rows = _by_key(table)
    return tuple(
        scan_subject
        for scan_subject, (who, when) in (keys or {}).items()
        if who not in subjects
        or (when is not None and rows.keys().isdisjoint({(who, when), (who, None)}))
    )


def _join_rows(
    rows: Mapping[str, dict[str, str]], name: str, other: TextTable, missing: Collection[str]
) -> dict[str, dict[str, str]]:
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
    found: dict[_Key, str] = {}
    for identity in ids:
        key = _key(identity, pattern)
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


def _key(identity: str, pattern: str | None) -> _Key:
    """Subject and session in an id; the whole id is the subject where the pattern finds none."""
    match = re.search(pattern, identity) if pattern else None
    groups = match.groupdict() if match else {"subject": identity}
    return groups["subject"], groups.get("session")


def _by_key(table: pd.DataFrame) -> dict[_Key, str]:
    """Subject and session of each row -> participant."""
    return {
        (subject, None if pd.isna(session) else session): participant
        for participant, subject, session in table[list(KEYS)].itertuples(index=False)
    }


def _typed(
    cells: Sequence[str], missing: Collection[str]
) -> pd.api.extensions.ExtensionArray | np.ndarray:
    """Numbers where every known cell is one, else text; missing cells are NaN."""
    known = [cell for cell in cells if cell not in missing]
    if all(_NUMBER.fullmatch(cell) and math.isfinite(float(cell)) for cell in known):
        return np.array([np.nan if cell in missing else float(cell) for cell in cells])
    return pd.array([None if cell in missing else cell for cell in cells], dtype="str")


def _ages(
    texts: Mapping[str, Sequence[str]], spec: ParticipantsTable, missing: Collection[str], name: str
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, int]]:
    """Columns of ages, `age_capped` if the catalog wants them capped, the units of all columns, and what was capped."""
    found: dict[str, np.ndarray] = {}
    n_capped: dict[str, int] = {}
    capped = np.zeros(max(map(len, texts.values()), default=0), bool)
    units = dict(spec.units)
    for column in age_columns(texts, every=spec.cap_ages):
        cells = texts[column]
        if not (spec.cap_ages or any(c.isdigit() for cell in cells for c in cell)):
            continue  # words, such as "young" and "old"
        try:
            units[column] = age_unit(column, spec.units)
        except ParticipantsError as error:
            raise ParticipantsError(f"{name}: {error}") from None
        found[column], over = read_ages(
            cells,
            missing,
            unit=units[column],
            cap=spec.cap_ages,
            table=name,
            column=column,
        )
        capped |= over
        n_capped[column] = int(over.sum())
    if not spec.cap_ages:
        return found, units, {}
    if not found:
        raise ParticipantsError(
            f"{name}: cap_ages: true, but no column is called age, age_years or age_months; rename it so"
        )
    return {**found, "age_capped": capped.astype(float)}, units, n_capped


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
    by_key = _by_key(table)
    matched: list[str | None] = []
    found: set[str] = set()
    for subject, session in scans[["subject", "session"]].itertuples(index=False):
        who = None if pd.isna(subject) else str(subject)
        key = participants.key_of(who, None if pd.isna(session) else str(session))
        if who is not None:
            found.add(clean(who))
        matched.append(None if key is None else by_key.get(key, by_key.get((key[0], None))))
    used = set(matched)
    alone = {_as_number(s) for s, m in zip(scans["subject"], matched, strict=True) if m is None}
    zeros_apart = [
        p
        for p, subject in table[["participant", "subject"]].itertuples(index=False)
        if p not in used and (number := _as_number(subject)) is not None and number in alone
    ]
    joined = scans.assign(participant=pd.array(matched, dtype="str"))
    return Joined(
        scans=joined,
        rows_without_scan=[p for p in table["participant"] if p not in used],
        scans_without_row=joined.loc[joined["participant"].isna(), "scan_id"].tolist(),
        mapped_without_scan=[s for s in participants.keys or {} if s not in found],
        n_zeros_apart=len(zeros_apart),
    )


def _as_number(subject: str | float | None) -> str | None:
    """An id as a spreadsheet leaves it that takes it for a number; None for one that is none."""
    found = None if pd.isna(subject) else _WHOLE.fullmatch(clean(str(subject)))
    return found and (found[1].lstrip("0") or "0")
