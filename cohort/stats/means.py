"""What a fit expects of each group when all else is equal, and whether that difference is the same everywhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import contrasts, diagnostics, effects
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.formula import Term
from cohort.stats.regression import Fit
from cohort.stats.terms.allowlist import Factor

DEPENDENT = 1e-6
"""As `cohort.stats.design.COLLINEAR`, for the columns that the test of slopes adds."""


def adjusted_means(fit: Fit, group: str) -> pd.DataFrame:
    """Mean outcome of each level of a group, were all rows of that level and all else as it is.

    The other columns of the design stay at their means over all rows, those of an interaction with the group follow
    the level: with ``dx * age``, the column ``dx:age`` is the mean age for dx = 1 and zero for dx = 0.

    Parameters
    ----------
    fit : Fit
    group : str
        A column of 0 and 1, or a category under treatment coding, that is a term of the fit.

    Returns
    -------
    DataFrame, one row a level
        outcome, group, level, n, observed (the plain mean), estimate, unit, se, df, ci_low, ci_high, hc3_se,
        hc3_ci_low, hc3_ci_high, and ``errors``: ``classical``, or the kind of the clusters' that se, df and interval are
        of where the fit has such.

    Raises
    ------
    DesignError
        If there is no such group among the terms, or what its interactions hold cannot be told from the design.

    Notes
    -----
    Equals R's ``emmeans`` with covariates at their means and factors weighted by their frequencies; where a covariate
    enters by a curve (``I(age**2)``) it is the mean over the rows, as Stata's ``margins``.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 3, 4, 5, 7], "dx": [0, 1] * 3, "age": [1.0, 2, 3, 4, 5, 6]})
    >>> adjusted_means(fit(table, formula="y ~ dx", one_scan_per="all"), "dx")["estimate"].round(6).tolist()
    [3.0, 4.333333]
    """
    from scipy import stats

    design = fit.design
    found = _group(design, group)
    whole = _Columns(design)
    at = np.array(
        [[whole.mean(j, found, level) for j in range(len(design.terms))] for level in found.levels]
    )
    member = [whole.member(found, level) for level in found.levels]
    y = design.y.to_numpy()
    alone = np.full(len(at), float(fit.glance["df_resid"].iloc[0]))
    first = (fit.covariance, alone, "classical")
    if (clusters := fit.clusters) is not None:
        first = (clusters.covariance, clusters.sandwich.df(at), clusters.kind)
    estimate = at @ fit.tidy["estimate"].to_numpy()
    columns: dict[str, Any] = {
        "outcome": str(design.y.name),
        "group": group,
        "level": list(found.levels),
        "n": [int(rows.sum()) for rows in member],
        "observed": [float(y[rows].mean()) for rows in member],
        "estimate": estimate,
        "unit": fit.model["units"].get(str(design.y.name), ""),
    }
    for prefix, covariance, df in (("", *first[:2]), ("hc3_", fit.hc3_covariance, alone)):
        se = np.sqrt([contrasts.variance(row, covariance.to_numpy()) for row in at])
        half = stats.t.ppf((1 + effects.LEVEL) / 2, df)
        columns[f"{prefix}se"] = se
        if not prefix:
            columns["df"] = df
        columns[f"{prefix}ci_low"] = estimate - half * se
        columns[f"{prefix}ci_high"] = estimate + half * se
    return pd.DataFrame(columns | {"errors": first[2]})


def equal_slopes(fit: Fit, group: str, covariates: Sequence[str] = ()) -> pd.DataFrame:
    """Test whether the slopes of covariates are the same in every level of a group.

    The design gets the interactions of the group with the covariates, all at once, and is fitted again.

    Parameters
    ----------
    group : str
        As for `adjusted_means`.
    covariates : sequence of str, optional
        Columns of the design; without them, every one that is not of the group and not yet interacts with it.

    Returns
    -------
    DataFrame
        One row a covariate (``dx:age``, the others in the model) and, where there are several, one for all together,
        first. outcome, test, df, df_resid, f, p, partial_eta2, hc3_f, hc3_p, n.

    Raises
    ------
    DesignError
        If there is nothing to test, an unknown covariate, or rows too few for the interactions.

    Notes
    -----
    F and p equal statsmodels' ``f_test`` of the interactions in ``OLS``.
    """
    design = fit.design
    found = _group(design, group)
    names = list(design.X.columns)
    own = [j for j, part in enumerate(found.parts) if part]
    for name in covariates:
        if name not in names[1:]:
            raise DesignError(cells.unknown_column(name, names[1:], "covariate of the slopes"))
    alone = {names[j] for j, term in enumerate(design.terms) if term and len(term.factors) == 1}
    chosen = [
        name
        for j, name in enumerate(names)
        if j not in own and (name in covariates if covariates else name in alone)
    ]
    whole = _Columns(design)
    states = [whole.member(found, level) for level in found.levels[1:]]
    added: dict[str, np.ndarray] = {}
    for name in chosen:
        if all(found.rest[j] != name for j in own):
            values = design.X[name].to_numpy()
            # Centred, so that the product does not nearly repeat the group; the test is the same.
            added[name] = np.column_stack([state * (values - values.mean()) for state in states])
    if not added:
        raise DesignError(
            f"no slope to test: the design has no covariate beside {group!r}, or all interact with it already"
        )
    return _test(fit, group, added)


def _test(fit: Fit, group: str, added: dict[str, np.ndarray]) -> pd.DataFrame:
    from statsmodels.regression.linear_model import OLS

    design = fit.design
    values = np.column_stack([design.X.to_numpy(), *added.values()])
    values = values / np.sqrt((values**2).sum(axis=0)).clip(min=np.finfo(float).tiny)
    n, p = values.shape
    asked = ", ".join(f"{group}:{name}" for name in added)
    if n <= p:
        raise DesignError(f"{n} rows for {p} columns with the interactions {asked}")
    if np.linalg.svd(values, compute_uv=False)[-1] < DEPENDENT:
        raise DesignError(
            f"the interactions {asked} cannot be told from each other or from the terms: a covariate does not vary "
            f"within a level of {group!r}, or depends on another there; name the covariates to test"
        )
    results = OLS(design.y.to_numpy(), values).fit()
    place = design.X.shape[1]
    rows: list[tuple[str, np.ndarray]] = []
    for name, block in added.items():
        rows.append((f"{group}:{name}", np.eye(p)[place : place + block.shape[1]]))
        place += block.shape[1]
    if len(rows) > 1:
        rows.insert(0, (asked, np.vstack([L for _, L in rows])))
    hc3 = diagnostics.hc3(results)
    return pd.DataFrame(
        [
            {
                "outcome": str(design.y.name),
                "test": name,
                **contrasts.wald(
                    L, results.params, results.cov_params(), hc3, float(results.df_resid)
                ),
                "n": n,
            }
            for name, L in rows
        ]
    )


@dataclass(frozen=True)
class _Group:
    """A factor that has levels.

    Attributes
    ----------
    factor : Factor
    levels : tuple of str
    parts : tuple of str, p long
        Of each column of the design: the part of its name that is of the group, or empty.
    rest : tuple of str, p long
        The other parts, joined.
    """

    factor: Factor
    levels: tuple[str, ...]
    parts: tuple[str, ...]
    rest: tuple[str, ...]


def _group(design: Design, name: str) -> _Group:
    terms = [term for term in design.terms if term is not None]
    factors = dict.fromkeys(factor for term in terms for factor in term.factors)
    found = [f for f in factors if name in (f.shown, *f.columns) and f.kind != "expression"]
    if len(found) != 1:
        known = list(dict.fromkeys(c for f in factors for c in f.columns))
        if name not in known and not found:
            raise DesignError(cells.unknown_column(name, known, "group"))
        raise DesignError(f"{name!r} does not stand as one term of its own in {design.formula}")
    factor = found[0]
    if any(set(factor.columns) & set(f.columns) for f in factors if f != factor):
        raise DesignError(
            f"{name!r} stands in several terms of {design.formula}: no level is alone"
        )
    if factor.shown in design.coding:
        coding = design.coding[factor.shown]
        if coding["reference"] is None:
            raise DesignError(
                f"{factor.shown} is not treatment coded; write C({name}) for its means"
            )
        levels = tuple(coding["levels"])
    elif factor.shown in design.binary:
        levels = ("0", "1")
    else:
        raise DesignError(f"{name!r} is neither 0 and 1 nor a category among the terms")
    parts, rest = [], []
    for column, term in zip(design.X.columns, design.terms, strict=True):
        by_factor = {} if term is None else _split(column, term)
        parts.append(by_factor.pop(factor, ""))
        rest.append(":".join(by_factor.values()))
    return _Group(factor, levels, tuple(parts), tuple(rest))


def _split(column: str, term: Term) -> dict[Factor, str]:
    """Take the name of a column of a design apart, ``C(site)[T.b]:age`` into that of the site and that of the age."""
    pattern = "".join(rf"(?:(?:^|:)({re.escape(f.shown)}(?:\[.+?\])?))?" for f in term.factors)
    match = re.fullmatch(pattern, column, re.DOTALL)
    if match is None:
        raise DesignError(f"the column {column!r} is not made of {term.name}")
    pairs = zip(term.factors, match.groups(), strict=True)
    return {factor: part for factor, part in pairs if part}


class _Columns:
    """Columns of a design, and those that follow from them."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.values = {str(name): design.X[name].to_numpy() for name in design.X.columns}

    def mean(self, j: int, group: _Group, level: str) -> float:
        """Mean of column `j` of the design, were all rows of a level of the group."""
        if not group.parts[j]:
            return float(self.design.X.iloc[:, j].mean())
        suffix = group.parts[j].removeprefix(group.factor.shown)
        share = float(level) if not suffix else float(suffix in (f"[T.{level}]", f"[{level}]"))
        return share * float(self._product(j, group).mean()) if share else 0.0

    def member(self, group: _Group, level: str) -> np.ndarray:
        """Rows of a level; shape (n,), bool."""
        shown = group.factor.shown
        if shown in self.values:
            return np.equal(self.values[shown], float(level))
        state = self._one(f"{shown}[{level}]")
        if state is None:
            raise DesignError(
                f"{shown} does not stand as a term of its own in {self.design.formula}"
            )
        return state == 1

    def _product(self, j: int, group: _Group) -> np.ndarray:
        """What column `j` holds beside the group, in all rows."""
        rest = group.rest[j]
        if not rest:
            return np.ones(len(self.design.y))
        if (whole := self._one(rest)) is not None:
            return whole
        # Without a column of its own, the rest is the sum over the levels, where each of them has a column.
        shown = group.factor.shown
        beside = {p: i for i, p in enumerate(group.parts) if group.rest[i] == rest}
        wanted = [f"{shown}[{level}]" for level in group.levels]
        if all(part in beside for part in wanted):
            return np.sum([self.design.X.iloc[:, beside[part]] for part in wanted], axis=0)
        term = self.design.terms[j]
        parts = {} if term is None else _split(str(self.design.X.columns[j]), term)
        product = np.ones(len(self.design.y))
        for factor, part in parts.items():
            if factor != group.factor:
                one = self._one(part)
                if one is None:
                    raise DesignError(
                        f"the mean at each level of {group.factor.shown} needs the term {part!r} beside "
                        f"{self.design.X.columns[j]!r}: add it to the formula"
                    )
                product = product * one
        return product

    def _one(self, part: str) -> np.ndarray | None:
        """Find a column by its name, or the indicator of a level that has none."""
        if part in self.values:
            return self.values[part]
        for shown, coding in self.design.coding.items():
            for level in coding["levels"]:
                if part not in (f"{shown}[{level}]", f"{shown}[T.{level}]"):
                    continue
                others = [f"{shown}[T.{v}]" for v in coding["levels"] if v != coding["reference"]]
                if coding["reference"] is None or any(name not in self.values for name in others):
                    return None
                if level == coding["reference"]:
                    return 1.0 - np.sum([self.values[name] for name in others], axis=0)
                return self.values[f"{shown}[T.{level}]"]
        return None
