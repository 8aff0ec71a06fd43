"""Which rows of a table a model uses, and the reason of each that it does not."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from cohort import expression
from cohort.stats import columns as cells
from cohort.stats.columns import DesignError

RULES = ("first", "last", "mean", "error", "all")
"""What to do with a subject of several usable scans."""


def row_ids(table: pd.DataFrame, row_id: str) -> pd.Index:
    """Name each row: by `row_id`, else the participant (if those differ), else the index."""
    ids = [cells.label(i) for i in table.index]
    for name in ("participant", row_id):
        if name not in table.columns:
            continue
        column = cells.take(table, name, row_id)
        filled = zip(ids, cells.missing(column), column.tolist(), strict=True)
        named = [old if empty else cells.label(cell) for old, empty, cell in filled]
        doubled = pd.Index(named)[pd.Index(named).duplicated()]
        if len(doubled) and name == row_id:
            raise DesignError(f"{row_id} {doubled[0]!r} stands in several rows of the table")
        ids = ids if len(doubled) else named
    return pd.Index(ids, name=row_id, dtype="str")


class Account:
    """Rows of a table, whether each is kept, and the reason of each that is not.

    Attributes
    ----------
    kept : (rows,) bool array
    dropped : list of dict
        ``row_id``, ``reason``, and ``detail`` where there is more to say.
    n_subjects : int
        Subjects among the usable rows.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.ids = [str(row) for row in table.index]
        self.kept = np.ones(len(table), bool)
        self.dropped: list[dict[str, str]] = []
        self.n_subjects = len(table)

    def drop(self, mask: np.ndarray, reason: str) -> None:
        """Leave out the rows of `mask` that are still kept."""
        for position in np.flatnonzero(mask & self.kept):
            self._drop(int(position), {"reason": reason})

    def _drop(self, position: int, why: Mapping[str, str]) -> None:
        self.kept[position] = False
        self.dropped.append({"row_id": self.ids[position], **why})

    def keep_usable(self, row_id: str, where: str | None, used: Sequence[str]) -> None:
        """Leave out rows without a scan, outside `where`, or with a missing cell in a column of `used`."""
        if row_id in self.table.columns:
            nameless = cells.missing(self.table[row_id])
            if not nameless.all():
                self.drop(nameless, "no scan")
        if where:
            # Blank text is a missing cell here as everywhere; only columns that `where` may name are looked at.
            named = [c for c in self.table.columns if c in where]
            filled = {c: self.table[c].mask(cells.missing(self.table[c])) for c in named}
            try:
                holds = expression.column(self.table.assign(**filled), where).to_numpy()
            except expression.ExpressionError as error:
                raise DesignError(f"where {error}") from error
            self.drop(holds == 0, f"where {where!r} is false")
            self.drop(np.isnan(holds), f"where {where!r} meets a missing value")
        for name in dict.fromkeys(used):
            self.drop(cells.missing(cells.take(self.table, name, "model")), f"missing {name}")

    def keep_one_per_subject(
        self, rule: str, subject: str, order: Sequence[str]
    ) -> dict[str, list[int]]:
        """Apply a rule of `RULES`; return the usable rows, in order, of each subject that has several."""
        if subject not in self.table.columns:
            if rule == "all":
                return {}
            names = list(self.table.columns)
            message = cells.unknown_column(subject, names, "one scan per subject")
            raise DesignError(f"{message}; one_scan_per 'all' takes each row for a person")
        people = self.table[subject]
        if rule != "all":
            self.drop(cells.missing(people), f"missing {subject}")
        rows: dict[str, list[int]] = {}
        who = people.tolist()
        for position in map(int, np.flatnonzero(self.kept & ~cells.missing(people))):
            rows.setdefault(cells.label(who[position]), []).append(position)
        self.n_subjects = len(rows)
        repeats = {person: found for person, found in rows.items() if len(found) > 1}
        if not repeats or rule == "all":
            return repeats
        if rule == "error":
            person, found = next(iter(repeats.items()))
            raise DesignError(
                f"{len(repeats)} of {len(rows)} subjects have several scans, the first is {person!r} "
                f"({', '.join(self.ids[position] for position in found)}); one_scan_per takes first, last, mean or all"
            )
        keys = [cells.take(self.table, name, "order of scans").tolist() for name in order]
        for person, found in repeats.items():
            found.sort(key=lambda position: [cells.natural_key(key[position]) for key in keys])
            chosen = found[-1] if rule == "last" else found[0]
            used = f"{self.ids[chosen]} of subject {person} is used"
            if rule == "mean":
                used = f"the mean of the scans of subject {person} is used, as {self.ids[chosen]}"
            for position in found:
                if position != chosen:
                    self._drop(position, {"reason": "repeated subject", "detail": used})
        return repeats


def passed_over(
    table: pd.DataFrame,
    used: Collection[str],
    why: Mapping[str, str],
    rule: str,
    *,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> list[str]:
    """Say whose first (or last) scan cannot be used, so that another one stands for the subject.

    Parameters
    ----------
    table : DataFrame
        All rows, those that cannot be used, too.
    used : collection of str
        Rows that are fitted.
    why : mapping
        Row -> reason, of those that are not. What `where` leaves out is left out on purpose, and nothing to be told.
    rule : str
        One of `RULES`; none but ``first`` and ``last`` prefer a scan.

    Returns
    -------
    list of str
        One line, with the first such subject's rows as an example; none where there is none.
    """
    if rule not in ("first", "last") or subject not in table.columns:
        return []
    ids = row_ids(table, row_id).tolist()
    keys = [cells.take(table, name, "order of scans").tolist() for name in order]
    rows: dict[str, list[int]] = {}
    people = table[subject]
    for at, (who, nobody) in enumerate(zip(people, cells.missing(people), strict=True)):
        if not nobody:
            rows.setdefault(cells.label(who), []).append(at)
    found, n = [], 0
    for theirs in rows.values():
        theirs.sort(key=lambda at: [cells.natural_key(key[at]) for key in keys])
        named = [ids[at] for at in (theirs if rule == "first" else reversed(theirs))]
        chosen = next((i for i, row in enumerate(named) if row in used), None)
        n += chosen is not None
        lost = [row for row in named[:chosen] if not _on_purpose(why.get(row))]
        if lost and chosen is not None:
            found.append(f"{named[chosen]} instead of {lost[0]} ({why[lost[0]]})")
    if not found:
        return []
    other = {"first": "a later", "last": "an earlier"}[rule]
    more = ", the first of them" if len(found) > 1 else ""
    whom = f"{len(found)} of {counted(n, 'subject')}: {other} scan is fitted"
    why_not = f"because the {rule} cannot be used (one_scan_per: {rule})"
    return [f"{whom}, {why_not}; {found[0]}{more}"]


def _on_purpose(reason: str | None) -> bool:
    """Whether a row is fitted, or left out as the model says."""
    return reason is None or (reason.startswith("where ") and reason.endswith(" is false"))


def averaged(
    table: pd.DataFrame,
    repeats: Mapping[str, Sequence[int]],
    used: Sequence[str],
    categories: Collection[str],
) -> pd.DataFrame:
    """Put the mean over each subject's rows into the first of them, which is the one that is kept.

    Raises
    ------
    DesignError
        If a category, or a column of 0 and 1, differs between the rows of a subject.
    """
    table = table.copy()
    for name in dict.fromkeys(used):
        is_category = name in categories or cells.is_text(table[name])
        if is_category:
            values = cells.categories(table[name]).codes.astype(np.float64)
        else:
            values = cells.numbers(table[name]).copy()  # may be a view of the table
        states = is_category or bool(np.isin(values, (0.0, 1.0)).all(where=~np.isnan(values)))
        for person, rows in repeats.items():
            if states and np.ptp(values[rows]) != 0:
                raise DesignError(
                    f"{name!r} differs between the scans of subject {person!r} and has no mean; use first or last"
                )
            values[rows[0]] = values[rows].mean()
        if not is_category:
            table[name] = values
    return table


def count(dropped: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Count rows that are left out by reason."""
    return dict(Counter(entry["reason"] for entry in dropped))


def counted(n: int, noun: str = "row") -> str:
    """A number and its noun.

    Examples
    --------
    >>> counted(1), counted(2, "term")
    ('1 row', '2 terms')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def told(n_table: int, dropped: Sequence[Mapping[str, str]]) -> str:
    """Say how many rows are left out, and why."""
    reasons = "; ".join(f"{n} {reason}" for reason, n in count(dropped).items())
    found = f"{counted(n_table)} in the table, {len(dropped)} left out"
    return f"{found} ({reasons})" if reasons else found
