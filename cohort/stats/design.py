"""From a table and a model to the rows that are fitted, their design matrix, and an account of every other row."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.formula import Formula, Term, build, parse
from cohort.stats.table.rows import RULES, Account, averaged, count, counted, row_ids, told
from cohort.stats.terms.doubts import doubtful, repeats_kept, separated

__all__ = ["RULES", "Design", "DesignError", "prepare"]

COLLINEAR = 1e-6
"""Share of a standardised column that the columns before it may leave unexplained and still be called dependent.

A variance inflation of 1e12: rounding of the table's own numbers would decide the estimate.
"""

LARGEST = 1e60
"""Numbers above this, or columns all below its inverse, leave what float64 can hold: their fourth powers are needed."""

LISTED = 6
"""Columns that an error lists."""


@dataclass(frozen=True)
class Design:
    """What is fitted, and what is not and why.

    Attributes
    ----------
    X : DataFrame, shape (n, p), float64
        Design matrix, ``Intercept`` first; index: row ids.
    y : Series, shape (n,), float64
        The outcome; same index.
    formula : Formula
        The right-hand side with the confounds that it did not name.
    terms : tuple of Term or None, p long
        Term of each column of `X`; None for the intercept.
    roles : dict
        Column of `X` -> intercept, group (0/1 or a category), covariate, interaction or confound.
    coding : dict
        Levels and reference of each category.
    rows : DataFrame, n rows
        Row id, and participant, subject and session where the table has them.
    read : DataFrame, n rows; same index
        The columns of the table that the formula reads; under the rule ``mean`` the numbers are averaged.
    n_table, n_subjects, n_repeated : int
        Rows of the table; subjects among the usable rows; those of them with several rows.
    dropped : tuple of dict
        ``row_id`` and ``reason`` of each row that is not fitted; `detail` where there is more to say.
    warnings : tuple of str
        What a reader must know before the numbers.
    one_scan_per : str
        Rule for subjects of several usable scans.
    """

    X: pd.DataFrame
    y: pd.Series
    formula: Formula
    terms: tuple[Term | None, ...]
    roles: dict[str, str]
    coding: dict[str, dict[str, Any]]
    rows: pd.DataFrame
    read: pd.DataFrame
    n_table: int
    n_subjects: int
    n_repeated: int
    dropped: tuple[dict[str, str], ...]
    warnings: tuple[str, ...]
    one_scan_per: str = "first"

    @functools.cached_property
    def binary(self) -> frozenset[str]:
        """Columns of `X` that hold nothing but 0 and 1."""
        return frozenset(c for c in self.X.columns[1:] if cells.is_binary(self.X[c].to_numpy()))

    @property
    def reasons(self) -> dict[str, int]:
        """Rows that are not fitted, counted by reason."""
        return count(self.dropped)

    def after(self, dropped: Sequence[Mapping[str, str]], reasons: Mapping[str, str]) -> "Design":
        """The same design of a table that was changed before.

        Parameters
        ----------
        dropped : sequence of dict
            ``row_id`` and ``reason`` of rows that the table lost.
        reasons : mapping
            Row -> why it had been left out of the table as it was, where it has no outcome now.
        """
        lacks = f"missing {self.y.name}"
        own = (
            e | {"reason": reasons.get(e["row_id"], lacks)} if e["reason"] == lacks else e
            for e in self.dropped
        )
        before = tuple(dict(entry) for entry in dropped)
        return replace(self, n_table=self.n_table + len(before), dropped=(*before, *own))

    @property
    def account(self) -> dict[str, Any]:
        """How many rows there were, were used, and were dropped for which reason."""
        return {
            "n_table": self.n_table,
            "n_used": len(self.y),
            "n_subjects": self.n_subjects,
            "n_repeated_subjects": self.n_repeated,
            "reasons": self.reasons,
            "dropped": [dict(entry) for entry in self.dropped],
        }


def prepare(
    table: pd.DataFrame,
    *,
    outcome: str | None = None,
    formula: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Design:
    """Choose the rows of a model and build its design matrix.

    A row is left out, with its reason, when it has no scan, when `where` does not hold for it, when the outcome or a
    column of the formula is missing, and when another scan of the same subject is used: in this order, so that a
    subject whose first scan failed is represented by the next one.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant); numbers, or text that holds numbers.
    outcome : str, optional
        Column to be explained. May instead stand left of ``~`` in `formula`.
    formula : str
        Terms to fit; see `cohort.stats.formula.parse`. True and false count as 1 and 0.
    confounds : sequence of str
        Columns (or terms) that are adjusted for; added to the formula if it does not name them.
    where : str, optional
        Rows to use, in the grammar of `cohort.expression.column`.
    one_scan_per : {"first", "last", "mean", "error", "all"}
        Rule for subjects of several usable scans. ``mean`` averages the numbers; ``all`` keeps the rows and warns.
    row_id, subject : str
        Columns that name rows and people. Without `row_id`, ``participant`` or the index names the rows.
    order : sequence of str
        Columns that order the scans of a subject, numbers as numbers; then the order of the table.

    Returns
    -------
    Design

    Raises
    ------
    DesignError
        In one line: an unknown column, text in a numeric column, repeated subjects under ``error``, a constant
        column, a group of one, columns that depend on each other, fewer rows than columns.
    """
    if one_scan_per not in RULES:
        raise DesignError(f"one_scan_per is {one_scan_per!r}; it takes {', '.join(RULES)}")
    names = [str(c) for c in table.columns]
    checked, adjusted = _model(names, formula, confounds)
    outcome = _outcome(outcome, checked, names)
    table = table.set_axis(names, axis=1).set_axis(row_ids(table, row_id), axis=0)
    account = Account(table)
    account.keep_usable(row_id, where, (outcome, *checked.columns))
    repeats = account.keep_one_per_subject(one_scan_per, subject, order)
    if one_scan_per == "mean":
        factors = [factor for term in checked.terms for factor in term.factors]
        categories = {c for factor in factors if factor.kind == "category" for c in factor.columns}
        table = averaged(table, repeats, (outcome, *checked.columns), categories)
    used = table[account.kept]
    if used.empty:
        raise DesignError(f"no rows to fit: {told(len(table), account.dropped)}")
    matrix = build(checked, used)
    y = pd.Series(cells.numbers(cells.take(used, outcome, "outcome")), used.index, name=outcome)
    _check(matrix.X, y, told(len(table), account.dropped))
    _check_levels(checked, matrix.coding, used, told(len(table), account.dropped))
    roles = _roles(matrix.X, matrix.terms, matrix.coding, adjusted)
    known = dict.fromkeys(("participant", subject, *order))
    identity = [c for c in known if c in names and c != row_id]
    rows = used[identity].reset_index(drop=True)
    rows.insert(0, row_id, used.index)
    warnings = (
        [repeats_kept(account.n_subjects, repeats, len(used))]
        if repeats and one_scan_per == "all"
        else []
    )
    warnings += doubtful(matrix.coding, checked)
    warnings += separated(matrix.X, roles, used, checked)
    return Design(
        X=matrix.X,
        y=y,
        formula=checked,
        terms=matrix.terms,
        roles=roles,
        coding=matrix.coding,
        rows=rows,
        read=used[list(checked.columns)],
        n_table=len(table),
        n_subjects=account.n_subjects,
        n_repeated=len(repeats),
        dropped=tuple(account.dropped),
        warnings=tuple(warnings),
        one_scan_per=one_scan_per,
    )


def _model(
    names: list[str], formula: str, confounds: Sequence[str]
) -> tuple[Formula, tuple[Term, ...]]:
    """Parse the formula and its confounds (columns or terms), and join them."""
    if isinstance(confounds, str):
        raise DesignError(f"confounds is the text {confounds!r}; it takes a list of columns")
    checked = parse(formula, names)
    terms = [t for c in confounds for t in parse(f"Q({c!r})" if c in names else c, names).terms]
    return checked.with_terms(terms), tuple(terms)


def _outcome(outcome: str | None, checked: Formula, names: list[str]) -> str:
    if outcome is None:
        outcome = checked.outcome
    if outcome is None:
        raise DesignError("no outcome: give it, or write the formula as 'outcome ~ terms'")
    if checked.outcome not in (None, outcome):
        raise DesignError(
            f"the outcome is {outcome!r}, but the formula explains {checked.outcome!r}"
        )
    if outcome not in names:
        raise DesignError(cells.unknown_column(outcome, names, "outcome"))
    if outcome in checked.columns:
        raise DesignError(f"the outcome {outcome!r} is also among the terms: {checked}")
    return outcome


def _check(X: pd.DataFrame, y: pd.Series, told: str) -> None:
    """Raise `DesignError` for a model that has no single answer, naming the columns at fault."""
    n, p = X.shape
    if n <= p:
        more = f" and {p - LISTED} more" if p > LISTED else ""
        raise DesignError(
            f"{counted(n)} for {counted(p, 'column')} ({', '.join(X.columns[:LISTED])}{more}): {told}"
        )
    sizes = {f"the outcome {y.name!r}": np.abs(y.to_numpy()).max()}
    sizes |= dict(zip(map(repr, X.columns), np.abs(X.to_numpy()).max(axis=0), strict=True))
    for name, size in sizes.items():
        if not 1 / LARGEST <= size <= LARGEST and size > 0:
            raise DesignError(
                f"{name} reaches {size:.3g}; from {1 / LARGEST:g} to {LARGEST:g} can be computed with: state it in "
                "another unit"
            )
    if np.ptp(y) == 0:
        raise DesignError(
            f"the outcome {y.name!r} is {y.iloc[0]:g} in all {n} rows that are used: {told}"
        )
    for name in X.columns[1:]:
        values = X[name].to_numpy()
        if np.ptp(values) == 0:
            raise DesignError(f"{name!r} is {values[0]:g} in all {n} rows that are used: {told}")
        for state in (0, 1) if cells.is_binary(values) else ():
            if (values == state).sum() == 1:
                row = X.index[values == state][0]
                raise DesignError(
                    f"{name} = {state} holds for one row only ({row}): a group of one tells nothing"
                )
    if fault := _collinear(X):
        *others, name = fault
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        # The natural splines of patsy sum to 1 unless they are told not to.
        spline = name.startswith("cr(") and "constraints" not in name
        remedy = "write cr(..., constraints='center')" if spline else "drop one of them"
        raise DesignError(
            f"{name!r} is an exact combination of {', '.join(map(repr, others[:LISTED]))}{more} and the intercept: "
            f"{remedy}"
        )


def _check_levels(
    formula: Formula, coding: dict[str, dict[str, Any]], used: pd.DataFrame, told: str
) -> None:
    """Raise `DesignError` for a category of one level, or a level of one row: neither shows in the columns."""
    for factor in dict.fromkeys(f for term in formula.terms for f in term.factors):
        if factor.shown not in coding or len(factor.columns) != 1:
            continue
        levels = cells.categories(used[factor.columns[0]])
        if len(levels.categories) == 1:  # patsy leaves such a term out and says nothing
            raise DesignError(
                f"{factor.shown} is {levels.categories[0]!r} in all {len(used)} rows that are used: {told}"
            )
        counts = np.bincount(levels.codes, minlength=len(levels.categories))
        for code in np.flatnonzero(counts == 1).tolist():
            level, row = levels.categories[code], used.index[int(np.argmax(levels.codes == code))]
            against = level == coding[factor.shown]["reference"]
            alone = ": every effect of it would be against one person" if against else ""
            raise DesignError(
                f"{factor.shown} = {level} holds for one row only ({row}): a group of one tells nothing{alone}"
            )


def _collinear(X: pd.DataFrame) -> list[str]:
    """Columns of the first exact dependence, the dependent one last; standardised, so that units play no part."""
    values = X.to_numpy()[:, 1:]
    values = values - values.mean(axis=0)
    values = values / np.sqrt((values**2).sum(axis=0))
    basis = np.empty_like(values)
    for j in range(values.shape[1]):
        rest = values[:, j].copy()
        for _ in range(2):  # a second sweep removes what rounding left of the first
            rest -= basis[:, :j] @ (basis[:, :j].T @ rest)
        length = np.sqrt((rest**2).sum())
        if length < COLLINEAR:
            weights = np.linalg.lstsq(values[:, :j], values[:, j], rcond=None)[0]
            return [*X.columns[1 : j + 1][np.abs(weights) > 1e-6], X.columns[j + 1]]
        basis[:, j] = rest / length
    return []


def _roles(
    X: pd.DataFrame,
    terms: Sequence[Term | None],
    coding: dict[str, dict[str, Any]],
    confounds: Sequence[Term],
) -> dict[str, str]:
    adjusted = {c for term in confounds for c in term.columns}
    roles = {}
    for name, term in zip(X.columns, terms, strict=True):
        if term is None:
            roles[name] = "intercept"
        elif set(term.columns) <= adjusted:
            roles[name] = "confound"
        elif len(term.factors) > 1:
            roles[name] = "interaction"
        elif term.name in coding or cells.is_binary(X[name].to_numpy()):
            roles[name] = "group"
        else:
            roles[name] = "covariate"
    return roles
