"""Ages as tables give them: by their form and in a stated unit, never guessed; and whether headers agree with them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cohort.io.deidentify import AGE_CAP, parse_age
from cohort.io.texttable import ParticipantsError
from cohort.io.visits import DAYS_PER_YEAR

if TYPE_CHECKING:
    import pandas as pd

OLDEST_YEARS = 130.0
"""Nobody is older: the unit is another one, or the cell means "not known"."""

YEARS: Mapping[str, float] = {
    "years": 1.0,
    "months": 1 / 12,
    "weeks": 7 / DAYS_PER_YEAR,
    "days": 1 / DAYS_PER_YEAR,
}
"""Unit of an age -> years."""

CONFLICT_YEARS = 1.0
"""A header's age is in whole years: only a larger difference is one."""

_COLUMN = re.compile(rf"age(?:[_ ]?({'|'.join(YEARS)}))?", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_UNIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("month", "mo", "mos"), "months"),
    **dict.fromkeys(("week", "wk", "wks"), "weeks"),
    **dict.fromkeys(("day",), "days"),
    **{unit: unit for unit in YEARS},
}
"""Words of a column's name that state a unit. One letter does not: ``age_m`` may be the mother's."""

_NO_AGES = frozenset(
    [
        "group",
        "groups",
        "class",
        "bin",
        "band",
        "category",
        "cat",
        "range",
        "quartile",
        "decile",
        "percentile",
        "gap",
        "delta",
        "diff",
        "difference",
        "capped",
    ]
)
"""Beside these words ``age`` is the name of something else."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_OLD = re.compile(r"([0-9]{1,3})\+|(?:>=?|≥) ?([0-9]{1,3})")


def age_columns(columns: Iterable[str], *, every: bool = False) -> list[str]:
    """Columns that hold ages by their names: ``age``, ``Age``, ``age_years``, ``age_months``, ...

    Parameters
    ----------
    columns : iterable of str
    every : bool
        Also those with the word among others: ``age_at_scan``, ``Age_y``, ``ScanAge``.

    Examples
    --------
    >>> columns = ["ID", "Age", "age_group", "age_months", "stage", "AgeAtScan", "age_y", "MRI age"]
    >>> age_columns(columns)
    ['Age', 'age_months']
    >>> age_columns(columns, every=True)
    ['Age', 'age_months', 'AgeAtScan', 'age_y', 'MRI age']
    """
    return [c for c in columns if _COLUMN.fullmatch(c) or (every and _has_age(_words(c)))]


def _words(column: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(column)]


def _has_age(words: Collection[str]) -> bool:
    return not {"age", "ages"}.isdisjoint(words) and _NO_AGES.isdisjoint(words)


def age_unit(column: str, units: Mapping[str, str]) -> str:
    """Unit of a column of ages: the one stated, else the one in its name, else years.

    Raises
    ------
    ParticipantsError
        If the one stated is no unit of an age.
    """
    match = _COLUMN.fullmatch(column)
    stated = [_UNIT_WORDS[word] for word in _words(column) if word in _UNIT_WORDS]
    named = (match[1] or "years").lower() if match else stated[0] if stated else "years"
    unit = units.get(column, named)
    if unit not in YEARS:
        raise ParticipantsError(
            f"units: {column}: expected one of {', '.join(YEARS)} for ages, found {unit!r}"
        )
    return unit


def read_ages(
    cells: Sequence[str],
    missing: Collection[str],
    *,
    unit: str,
    cap: bool,
    table: str,
    column: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Ages from cells: plain numbers in `unit`, or DICOM's ``065Y``, ``018M``, ``012W``, ``003D``.

    Parameters
    ----------
    cells : sequence of str
    missing : collection of str
        Cells that mean "not known".
    unit : str
        Key of `YEARS`.
    cap : bool
        Ages over 89 years become 90 years, and so do ``90+``, ``89+``, ``>89`` and ``>=90``, which are refused otherwise.
    table, column : str
        For messages.

    Returns
    -------
    ages : (cells,) float64 array
        In `unit`; NaN for missing ones.
    capped : (cells,) bool array

    Raises
    ------
    ParticipantsError
        For a range, a negative age, one over 130 years, and any other cell; if most are over 130 years, for the column.
    """
    where = f"{table}: column {column!r}"
    _check_unit([c for c in cells if c not in missing], unit, column, where)
    ages = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell not in missing:
            ages[i] = _age(cell, unit, cap=cap, where=where)
    capped = np.zeros(len(cells), bool)
    if cap:
        capped = ages * YEARS[unit] > AGE_CAP
        ages[capped] = round((AGE_CAP + 1) / YEARS[unit])
    return ages, capped


def _check_unit(known: Sequence[str], unit: str, column: str, where: str) -> None:
    """Refuse a column that as a whole is in another unit: by its median, which a code for "not known" does not move."""
    numbers = [float(cell) for cell in known if _NUMBER.fullmatch(cell)]
    middle = float(np.median(numbers)) if numbers else 0.0
    fitting = [u for u, years in YEARS.items() if middle * years <= OLDEST_YEARS]
    if unit in fitting or not fitting:
        return
    others = f" (or {' or '.join(fitting[1:])})" if fitting[1:] else ""
    raise ParticipantsError(
        f"{where} holds {min(numbers):g} to {max(numbers):g}, median {middle:g}, which cannot be {unit}; declare in the "
        f"catalog, under participants, units: {{{column}: {fitting[0]}}}{others}, or rename the column"
    )


def _age(cell: str, unit: str, *, cap: bool, where: str) -> float:
    if _NUMBER.fullmatch(cell):
        age = float(cell)
        if age * YEARS[unit] <= OLDEST_YEARS:
            return age
        raise ParticipantsError(
            f"{where} holds {cell}, which in {unit} is over {OLDEST_YEARS:.0f} years; state the unit in the catalog "
            "(participants: units), list the cell under `missing`, or rename the column"
        )
    years = parse_age(cell)
    if years is not None:
        return years / YEARS[unit]
    old = _OLD.fullmatch(cell)
    if old and int(old[1] or old[2]) >= AGE_CAP and unit == "years":
        if cap:
            return AGE_CAP + 1.0
        raise ParticipantsError(
            f"{where} holds {cell!r}; state cap_ages: true, which takes it for {AGE_CAP + 1}, or give the age"
        )
    raise ParticipantsError(
        f"{where} holds {cell!r}; expected a number of {unit} or DICOM's form (065Y, 018M): a range or any other text is "
        "no age. Give the age, list the cell under `missing`, or rename the column"
    )


def age_conflicts(
    scans: "pd.DataFrame", participants: "pd.DataFrame", units: Mapping[str, str] | None = None
) -> list[str]:
    """Scans whose header gives another age than the participants table, by more than a year.

    Parameters
    ----------
    scans : DataFrame
        Columns scan_id, participant and, if a header gave one, age_years.
    participants : DataFrame
        Columns participant and ages; of several the first counts.
    units : mapping of column -> unit, optional

    Returns
    -------
    list of scan_id
        In the order of the scans. A scan or a row without an age conflicts with nothing; over 89 all are 90.
    """
    import pandas as pd

    columns = age_columns(map(str, participants.columns))
    if not columns or "age_years" not in scans or "participant" not in scans:
        return []
    years = YEARS[age_unit(columns[0], units or {})]
    told = pd.to_numeric(participants[columns[0]], errors="coerce").to_numpy(float) * years
    ages = pd.Series(told, index=participants["participant"].astype("object"))
    here = scans["participant"].astype("object").map(ages).to_numpy(float)
    header = pd.to_numeric(scans["age_years"], errors="coerce").to_numpy(float)
    apart = np.abs(np.minimum(header, AGE_CAP + 1) - np.minimum(here, AGE_CAP + 1))
    return scans["scan_id"][apart > CONFLICT_YEARS].astype(str).tolist()
