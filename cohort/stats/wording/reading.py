"""Effects in plain sentences. They say what goes with what; never what causes what."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohort.stats.design import Design
from cohort.stats.formula import Term


def number(value: float) -> str:
    """Write a number to three digits; exponents only where zeros would not be read.

    Examples
    --------
    >>> number(-48.7704), number(0.0179), number(123456.7), number(999.6), number(0.0000123)
    ('-48.8', '0.0179', '123457', '1000', '1.23e-05')
    """
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}"


def probability(p: float) -> str:
    """Write p with two digits, and never as zero.

    Examples
    --------
    >>> probability(1.5698e-8), probability(0.0)
    ('p = 1.6e-08', 'p < 1e-300')
    """
    if math.isnan(p):
        return "p unknown"
    return f"p = {p:.2g}" if p > 1e-300 else "p < 1e-300"


def bare_p(p: float) -> str:
    """Write p for a column that is called so.

    Examples
    --------
    >>> bare_p(0.0123), bare_p(0.0), bare_p(float("nan"))
    ('0.012', '<1e-300', '')
    """
    if math.isnan(p):
        return ""
    return f"{p:.2g}" if p > 1e-300 else "<1e-300"


def _one(unit: str | None) -> str:
    """Write the unit of one of something: ``year`` for ``years``, nothing for a pure number."""
    if unit in ("years", "months", "weeks", "days", "hours", "minutes", "seconds"):
        return unit[:-1]
    return "" if unit in (None, "", "1") else str(unit)


def unit_of(term: Term | None, design: Design, units: Mapping[str, str]) -> str:
    """Write the unit of a coefficient, ``ml per year``; empty where the outcome's is unknown.

    Parameters
    ----------
    term : Term or None
        None for the intercept.
    units : mapping
        Column of the table -> unit; "1" or "" for none.
    """
    outcome = units.get(str(design.y.name))
    if outcome is None:
        return ""
    parts = []
    for factor in term.factors if term is not None else ():
        if factor.shown in design.coding or factor.shown in design.binary:
            continue
        known = units.get(factor.shown) if factor.kind == "column" else None
        if known not in ("", "1"):
            parts.append(_one(known) or f"unit of {factor.shown}")
    head = "" if outcome in ("", "1") else outcome
    tail = f"per {' and '.join(parts)}" if parts else ""
    return f"{head} {tail}".strip() or "1"


ORDER = ("group", "interaction", "covariate", "confound")
"""Roles in the order of the sentences: first what was asked, last what was adjusted for."""


def sentences(
    design: Design, tidy: pd.DataFrame, units: Mapping[str, str], *, clusters: str = ""
) -> list[str]:
    """Write one sentence for each column of the design but the intercept, by `ORDER` and then as the formula.

    Parameters
    ----------
    tidy : DataFrame
        Effects, one row a column of the design.
    clusters : str
        What errors of clusters are, where `tidy` has such: they are told then.
    """
    position = {term.key: i for i, term in enumerate(design.formula.terms)}
    found: list[tuple[tuple[int, int, int], str]] = []
    for column, term, row in zip(
        design.X.columns, design.terms, tidy.itertuples(index=False), strict=True
    ):
        if term is not None:
            place = (ORDER.index(design.roles[column]), position[term.key], len(found))
            found.append((place, _sentence(design, column, term, row, units, clusters)))
    return [text for _, text in sorted(found)]


def _sentence(
    design: Design, column: str, term: Term, row: Any, units: Mapping[str, str], clusters: str
) -> str:
    figures = _figures(row, clusters)
    held = _held(design, term)
    change = _change(column, term, design, units)
    if change is None:
        beside = f", {held} held equal" if held else ""
        return (
            f"The term {column} has the estimate {number(row.estimate)} {figures}{beside}; "
            "it is read together with the other terms of its columns."
        )
    subject, reference = change
    unit = units.get(str(design.y.name), "")
    size = f"{number(abs(row.estimate))}{f' {unit}' if unit not in ('', '1') else ''}"
    direction = "higher" if row.estimate >= 0 else "lower"
    opening = f"Holding {held} equal, {subject}" if held else subject
    closing = "" if held else ", nothing else held equal"
    return (
        f"{opening} goes with a {design.y.name} {size} {direction}{reference} {figures}{closing}."
    )


def _figures(row: Any, clusters: str) -> str:
    """Interval and p, of clusters where rows go together."""
    if not clusters:
        return (
            f"(95 % interval {number(row.ci_low)} to {number(row.ci_high)}; "
            f"{probability(row.p)}; HC3 {probability(row.hc3_p)})"
        )
    if math.isnan(row.cluster_p):
        return f"(no error by {clusters}: one of them decides it alone)"
    return (
        f"(95 % interval {number(row.cluster_ci_low)} to {number(row.cluster_ci_high)}; "
        f"{probability(row.cluster_p)}, {clusters})"
    )


def _held(design: Design, term: Term) -> str:
    """Name the other terms."""
    others = list(
        dict.fromkeys(t.name for t in design.terms if t is not None and t.key != term.key)
    )
    return f"{', '.join(others[:-1])} and {others[-1]}" if len(others) > 1 else "".join(others)


def _change(
    column: str, term: Term, design: Design, units: Mapping[str, str]
) -> tuple[str, str] | None:
    """Say what is compared with what; None where a coefficient alone is not a comparison."""
    factor = term.factors[0]
    shared = [
        other
        for other in dict.fromkeys(design.terms)
        if other is not None and other.key != term.key and set(other.columns) & set(term.columns)
    ]
    if len(term.factors) > 1 or shared:
        return None
    if factor.shown in design.coding:
        coding = design.coding[factor.shown]
        levels = [v for v in coding["levels"] if column == f"{factor.shown}[T.{v}]"]
        if not levels or coding["reference"] is None:
            return None
        name = factor.columns[0]
        return f"{name} = {levels[0]}", f" than {name} = {coding['reference']}"
    if design.terms.count(term) > 1:
        return None
    if factor.shown in design.binary:
        return f"{factor.shown} = 1", ""
    return f"one {_one(units.get(factor.shown)) or 'unit'} more of {factor.shown}", ""
