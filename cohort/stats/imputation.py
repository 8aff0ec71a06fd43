"""Multiple imputation of the covariates of a model: drawn many times, fitted each time, pooled by Rubin's rules."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import regression
from cohort.stats.columns import DesignError
from cohort.stats.draws.chained import Chain, Variable
from cohort.stats.draws.pooling import pool
from cohort.stats.formula import Formula
from cohort.stats.regression import Fit
from cohort.stats.table import records
from cohort.stats.table.rows import Account, row_ids
from cohort.stats.terms.allowlist import BASES, TRANSFORMS

MIN_DRAWS = 20

MANY = 0.3
"""Share of missing cells in one column above which matching has too few donors for honest intervals."""

_COMPARED = ("estimate", "se", "df", "statistic", "p", "ci_low", "ci_high", "hc3_se", "hc3_p", "n")


@dataclass(frozen=True)
class Imputed:
    """A model fitted to its complete rows, and to all rows with the missing cells drawn.

    Attributes
    ----------
    tidy : DataFrame, one row a column of the design
        outcome, term, estimate, se, df (Barnard-Rubin), statistic, p, ci_low, ci_high, the same for HC3, ``between``
        (variance between the draws), ``fmi`` (fraction of missing information), ``relative_increase`` (of the
        variance), n.
    table : DataFrame, two rows a column of the design
        ``method`` ("complete case", "imputed"), term and the columns that both have, beside each other.
    draws : DataFrame, one row a draw and column of the design
        draw, term, estimate, se, hc3_se.
    missing : DataFrame, one row a column with missing cells
        column, n (rows), missing, share.
    complete : Fit
        Of the complete rows.
    seed, n_draws, iterations : int
        The draws are a function of the table, the seed and the number of iterations.
    warnings : tuple of str
    """

    tidy: pd.DataFrame
    table: pd.DataFrame
    draws: pd.DataFrame
    missing: pd.DataFrame
    complete: Fit
    seed: int
    n_draws: int
    iterations: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN as None)."""
        return {
            "method": "chained equations, predictive mean matching; Rubin's rules, Barnard-Rubin degrees of freedom",
            "seed": self.seed,
            "n_draws": self.n_draws,
            "iterations": self.iterations,
            "tidy": records.plain(self.tidy),
            "table": records.plain(self.table),
            "missing": records.plain(self.missing),
            "warnings": list(self.warnings),
        }


def impute(
    table: pd.DataFrame,
    *,
    seed: int,
    outcome: str | None = None,
    formula: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    draws: int = MIN_DRAWS,
    iterations: int = 10,
    auxiliary: Sequence[str] = (),
    group: str | None = None,
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Imputed:
    """Fit a model with the missing cells of its covariates drawn from the rows that have them.

    The rows are those that have an outcome: a missing outcome is left out, never drawn. Each draw is a chain of its
    own that starts anew, so the first twenty of forty draws are those of twenty.

    Parameters
    ----------
    seed : int
        From 0. The same table and seed give the same bits, whatever the order of the rows.
    draws : int
        At least twenty.
    iterations : int
        Rounds through the incomplete columns before a draw is taken.
    auxiliary : sequence of str
        Further columns that help to predict, and are not in the model.
    group : str, optional
        What the model compares; without it every term with the role of a group.
    table, outcome, formula, confounds, where, one_scan_per, units, row_id, subject, order
        See `cohort.stats.regression.fit`; ``one_scan_per`` may be ``first``, ``last`` or ``error``, and ``all`` where
        each row is a person.

    Returns
    -------
    Imputed

    Raises
    ------
    DesignError
        What `cohort.stats.regression.fit` raises on the complete rows; nothing is missing; too few draws; a basis
        (`bs`, `cr`, `poly`, `center`, `standardize`) of an incomplete column, which would differ from draw to draw.

    Notes
    -----
    Every other column of the model, the outcome among them (Moons et al. 2006, doi:10.1016/j.jclinepi.2006.01.009),
    predicts an incomplete one; see `cohort.stats.draws.chained`. statsmodels' ``MICEData`` is not used: before 0.15 it
    draws from NumPy's global state and cannot be seeded apart, it evaluates formulas of its own, takes no categories,
    and keeps one chain, so that a draw depends on those before it. White, Royston and Wood 2011,
    doi:10.1002/sim.4067, on practice: as many draws as the percentage of incomplete rows. Matching shares donors, so
    intervals are somewhat narrow where much is missing: simulated with 150 rows, those of 95 % hold the truth in
    94 % of cases with a fifth of a column missing, and in 90 % with two fifths, of which a warning tells.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"dx": np.arange(60) % 2, "age": rng.uniform(60, 90, 60)})
    >>> people["volume"] = 900 - 40 * people["dx"] - 3 * people["age"] + rng.normal(0, 20, 60)
    >>> people.loc[::7, "age"] = np.nan
    >>> found = impute(people, formula="volume ~ dx + age", one_scan_per="all", seed=1)
    >>> found.table.loc[found.table["term"] == "dx", ["method", "n"]].to_numpy().tolist()
    [['complete case', 51], ['imputed', 60]]
    """
    _check_options(seed, draws, iterations)
    names = [str(c) for c in table.columns]
    model: dict[str, Any] = {
        "outcome": outcome,
        "formula": formula,
        "confounds": confounds,
        "units": units,
        "row_id": row_id,
    }
    complete = regression.fit(
        table, where=where, one_scan_per=one_scan_per, subject=subject, order=order, **model
    )
    checked, explained = complete.design.formula, str(complete.design.y.name)
    table = table.set_axis(names, axis=1).set_axis(row_ids(table, row_id), axis=0)
    for name in auxiliary:
        cells.take(table, name, "auxiliary")
    used = _rows(table, explained, where, one_scan_per, row_id, subject, order)
    known = list(dict.fromkeys((explained, *checked.columns, *auxiliary)))
    incomplete = [c for c in known if cells.missing(cells.take(used, c, "imputation")).any()]
    if not set(incomplete) & set(checked.columns):
        raise DesignError(
            f"nothing is missing in {', '.join(checked.columns)}: there is nothing to impute"
        )
    _check_bases(checked, incomplete)
    categories = {f.columns[0] for t in checked.terms for f in t.factors if f.kind == "category"}
    variables = {c: _variable(used, c, categories) for c in known}
    chain = Chain(variables)
    fits = []
    for draw in range(draws):
        filled = used[known].assign(**chain.draw(seed, draw, iterations))
        fits.append(_fit(filled, model))
    tidy = _pooled(fits)
    missing = pd.DataFrame(
        [
            {"column": c, "n": len(used), "missing": int(m), "share": float(m) / len(used)}
            for c in incomplete
            for m in [cells.missing(used[c]).sum()]
        ]
    )
    methods = (("complete case", complete.tidy), ("imputed", tidy))
    beside = [
        fit.set_index("term")[list(_COMPARED)]
        .reindex(tidy["term"])
        .reset_index()
        .assign(method=name)
        for name, fit in methods
    ]
    return Imputed(
        tidy=tidy,
        table=pd.concat(beside)
        .sort_index(kind="stable")
        .reset_index(drop=True)[["method", "term", *_COMPARED]],
        draws=pd.concat(
            [
                f.tidy[["term", "estimate", "se", "hc3_se"]].assign(draw=i)
                for i, f in enumerate(fits)
            ],
            ignore_index=True,
        )[["draw", "term", "estimate", "se", "hc3_se"]],
        missing=missing,
        complete=complete,
        seed=seed,
        n_draws=draws,
        iterations=iterations,
        warnings=tuple(_warnings(complete, checked, incomplete, used, draws, group)),
    )


def _check_options(seed: int, draws: int, iterations: int) -> None:
    if draws < MIN_DRAWS:
        raise DesignError(f"{draws} draws; multiple imputation takes at least {MIN_DRAWS}")
    if iterations < 1:
        raise DesignError(f"{iterations} iterations; imputation takes at least 1")
    if not 0 <= seed < 2**64:
        raise DesignError(f"seed is {seed}; it takes a whole number from 0 to 2**64 - 1")


def _rows(
    table: pd.DataFrame,
    outcome: str,
    where: str | None,
    one_scan_per: str,
    row_id: str,
    subject: str,
    order: Sequence[str],
) -> pd.DataFrame:
    """Rows that have an outcome, one of each subject, in the order of their names."""
    if one_scan_per == "mean":
        raise DesignError(
            "imputation takes one scan of each subject: one_scan_per first, last or error, not mean"
        )
    account = Account(table)
    account.keep_usable(row_id, where, (outcome,))
    account.keep_one_per_subject(one_scan_per, subject, order)
    used = table[account.kept]
    return used.iloc[sorted(range(len(used)), key=lambda i: cells.natural_key(used.index[i]))]


def _check_bases(checked: Formula, incomplete: Sequence[str]) -> None:
    moving = (*BASES, *(name for name in TRANSFORMS if name != "I"))
    for term in checked.terms:
        for factor in term.factors:
            hit = sorted(set(factor.columns) & set(incomplete))
            if hit and any(f"{name}(" in factor.code for name in moving):
                raise DesignError(
                    f"{factor.shown} depends on all values of {hit[0]!r}, which is incomplete: it would be another term "
                    "in each draw; write a fixed function of it"
                )


def _variable(used: pd.DataFrame, name: str, categories: Collection[str]) -> Variable:
    column = cells.take(used, name, "imputation")
    if name in categories or cells.is_text(column):
        return Variable.of_labels(cells.categories(column))
    return Variable.of_numbers(cells.numbers(column))


def _fit(filled: pd.DataFrame, model: Mapping[str, Any]) -> Fit:
    """Fit one completed table; each of its rows is already the one of its subject."""
    filled = filled.rename_axis(index=None)
    return regression.fit(filled, one_scan_per="all", subject="", **{**model, "row_id": ""})


def _pooled(fits: Sequence[Fit]) -> pd.DataFrame:
    first = fits[0].tidy
    estimates = np.stack([f.tidy["estimate"].to_numpy() for f in fits])
    df = float(first["df"].iloc[0])
    classical = pool(estimates, np.stack([f.tidy["se"].to_numpy() for f in fits]), df)
    robust = pool(estimates, np.stack([f.tidy["hc3_se"].to_numpy() for f in fits]), df)
    shown = ("se", "df", "statistic", "p", "ci_low", "ci_high")
    return pd.concat(
        [
            first[["outcome", "term", "role", "unit"]],
            classical[["estimate", *shown]],
            robust[list(shown)].add_prefix("hc3_"),
            classical[["between", "fmi", "relative_increase"]],
            first[["n"]],
        ],
        axis=1,
    )


def _warnings(
    complete: Fit,
    checked: Formula,
    incomplete: Sequence[str],
    used: pd.DataFrame,
    draws: int,
    group: str | None,
) -> list[str]:
    found = []
    model = [c for c in incomplete if c in checked.columns]
    holes = np.zeros(len(used), bool)
    for name in model:
        holes |= cells.missing(used[name])
    share = 100 * holes.mean()
    if share > draws:
        found.append(
            f"{share:.0f} % of the rows are incomplete: take at least {share:.0f} draws, not {draws}"
        )
    for name in model:
        gone = float(cells.missing(used[name]).mean())
        if gone > MANY:
            found.append(
                f"{name} is missing in {100 * gone:.0f} % of the rows: few rows give their value to many, and intervals "
                "come out too narrow"
            )
    groups = {
        term.columns[0]
        for name, term in zip(complete.design.X.columns, complete.design.terms, strict=True)
        if term is not None and complete.design.roles[name] == "group" and len(term.columns) == 1
    }
    found += [
        f"{name} itself is drawn in {int(cells.missing(used[name]).sum())} rows: the comparison leans on the imputation"
        for name in model
        if name in (groups if group is None else {group})
    ]
    for term in checked.terms:
        curved = len(term.factors) > 1 or any(f.kind == "expression" for f in term.factors)
        if curved and set(term.columns) & set(model):
            found.append(
                f"{term.name} is computed from drawn cells whose relation was drawn as linear: its estimate shrinks"
            )
    return found
