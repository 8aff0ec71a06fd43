"""Model formulas: the boundary between what somebody wrote and what patsy may evaluate.

A formula engine evaluates whatever Python a formula holds. So a formula is tokenised only, its size is bounded
from the parse tree, and every factor is rewritten against an allow-list (`cohort.stats.terms.allowlist`). Patsy then
evaluates the rewritten text alone, in an environment that holds the allowed functions and nothing else.
Whatever is not understood is refused before anything is evaluated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.terms.allowlist import (
    ALLOWED,
    BASES,
    CONTRASTS,
    MATH,
    MAX_DF,
    TRANSFORMS,
    Factor,
    FormulaError,
    Rewriter,
    shorten,
)

__all__ = [
    "DesignError",
    "Formula",
    "FormulaError",
    "Matrix",
    "Term",
    "build",
    "check_formula",
    "design_matrix",
    "parse",
]

MAX_LENGTH = 2000
MAX_TERMS = 500
MAX_COLUMNS = 2000
MAX_LEVELS = 200
MAX_ORDER = 4


@dataclass(frozen=True)
class Term:
    """One term: a factor, or an interaction of several."""

    factors: tuple[Factor, ...]

    @property
    def name(self) -> str:
        """The term as it was written; the name of its row where it has one column."""
        return ":".join(factor.shown for factor in self.factors)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that the term reads, each once."""
        return tuple(dict.fromkeys(c for factor in self.factors for c in factor.columns))

    @property
    def key(self) -> frozenset[str]:
        """Equal for terms that mean the same, however they were written."""
        return frozenset(factor.code for factor in self.factors)


@dataclass(frozen=True)
class Formula:
    """A checked formula. The intercept is always there and not listed."""

    text: str
    outcome: str | None
    terms: tuple[Term, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the right-hand side reads, in order of appearance."""
        return tuple(dict.fromkeys(c for term in self.terms for c in term.columns))

    def with_terms(self, terms: Sequence[Term]) -> "Formula":
        """Add those of `terms` that the formula lacks."""
        joined: dict[frozenset[str], Term] = {}
        for term in (*self.terms, *terms):
            joined.setdefault(term.key, term)
        return replace(self, terms=tuple(joined.values()))

    def __str__(self) -> str:
        """Write the right-hand side as it is fitted."""
        return " + ".join(term.name for term in self.terms) or "1"


@dataclass(frozen=True)
class Matrix:
    """A design matrix and what its columns mean.

    Attributes
    ----------
    X : DataFrame, shape (rows, columns), float64
        ``Intercept`` first; index of the table.
    terms : tuple of Term or None
        The term of each column, None for the intercept.
    coding : dict
        For each category its ``levels``, and the ``reference`` that they are compared with (None if the
        contrast has none).
    """

    X: pd.DataFrame
    terms: tuple[Term | None, ...]
    coding: dict[str, dict[str, Any]]


def check_formula(formula: str, columns: Sequence[str]) -> None:
    """Raise `FormulaError` unless `formula` is allowed over `columns`; nothing is evaluated."""
    parse(formula, columns)


def parse(formula: str, columns: Sequence[str]) -> Formula:
    """Check a formula and rewrite it; nothing of it is evaluated.

    Parameters
    ----------
    formula : str
        Right-hand side (``ad + Age + eTIV``), or ``outcome ~ right-hand side`` where the outcome is a column.
    columns : sequence of str
        Names that it may use. Formulas parsed over the same sequence can be joined (`Formula.with_terms`).

    Returns
    -------
    Formula

    Raises
    ------
    FormulaError
        One line: what was found and what is allowed, with the nearest column for a name that is none.

    Examples
    --------
    >>> [term.name for term in parse("ad * Age + C(site)", ["ad", "Age", "site"]).terms]
    ['ad', 'Age', 'ad:Age', 'C(site)']
    >>> parse("Age**2", ["Age"])
    Traceback (most recent call last):
    cohort.stats.terms.allowlist.FormulaError: formula 'Age**2': Age**2 stands for interactions of Age with itself, which is Age; for a power write I(Age**2)
    """
    if not isinstance(formula, str):
        raise FormulaError(f"a formula is text, not {type(formula).__name__}")
    if len(formula) > MAX_LENGTH:
        raise FormulaError(
            f"a formula of {len(formula)} characters; at most {MAX_LENGTH} are allowed"
        )
    where = _place(formula)
    if not formula.strip():
        raise FormulaError(f"{where} is empty; write 1 for the intercept alone")
    left, right = _terms(formula, where)
    rewriter = Rewriter([str(c) for c in columns], where)
    outcome = None
    if left:
        outcome = rewriter.column(left[0][0]) if len(left) == len(left[0]) == 1 else None
        if outcome is None:
            raise FormulaError(f"{where}: the left side of ~ must be one column")
    terms = [Term(tuple(map(rewriter.factor, codes))) for codes in right]
    return Formula(formula, outcome, ()).with_terms(terms)


def _place(formula: str) -> str:
    return f"formula {shorten(formula, 120)}"


def _terms(formula: str, where: str) -> tuple[list[list[str]], list[list[str]]]:
    """Left and right terms as lists of factors, by patsy's parser, which tokenises only."""
    from patsy import ModelDesc, PatsyError
    from patsy.parse_formula import parse_formula

    try:
        tree = parse_formula(formula)
        _count(tree, where)
        described = ModelDesc.from_formula(tree)
    except FormulaError:
        raise
    except PatsyError as error:
        raise FormulaError(f"{where}: {' '.join(error.message.split())}; {ALLOWED}") from None
    # The tokenizer fails in many ways (unclosed quotes, NUL, depth), and each of them is a refusal.
    except Exception as error:  # noqa: BLE001
        raise FormulaError(f"{where} cannot be read ({type(error).__name__}); {ALLOWED}") from None
    left, right = (
        [[factor.code for factor in term.factors] for term in terms]
        for terms in (described.lhs_termlist, described.rhs_termlist)
    )
    if [] not in right:
        raise FormulaError(f"{where} removes the intercept, which every model here has")
    return left, [codes for codes in right if codes]


def _count(tree: Any, where: str) -> int:
    """Upper bound of the number of terms: ``a*b*...*z`` and ``(a + ... + z)**26`` expand to millions."""
    inner = [_count(arg, where) for arg in tree.args]
    match tree.type, inner:
        case "*" | "/", [left, right]:
            count = left + right + left * right
        case ":", [left, right]:
            count = left * right
        case "**", [left, _]:
            count = sum(left**k for k in range(1, _order(tree, where) + 1))
        case _:
            count = sum(inner) or 1
    if count > MAX_TERMS:
        raise FormulaError(f"{where} may expand to {count} terms; at most {MAX_TERMS} are allowed")
    return count


def _order(tree: Any, where: str) -> int:
    """Order of ``(a + b)**order``; a power of one factor is refused, because it would silently be that factor."""
    base, exponent = tree.args
    if base.type == "PYTHON_EXPR":
        name = base.token.extra
        raise FormulaError(
            f"{where}: {name}**{exponent.token.extra} stands for interactions of {name} with itself, which is {name}; "
            f"for a power write I({name}**2)"
        )
    digits = exponent.token.extra if exponent.type in ("ONE", "NUMBER") else None
    orders = {str(k): k for k in range(1, MAX_ORDER + 1)}
    if digits not in orders or base.type == "**":
        raise FormulaError(f"{where}: (a + b)**n takes one n, a whole number from 1 to {MAX_ORDER}")
    return orders[digits]


def design_matrix(formula: str, table: pd.DataFrame) -> pd.DataFrame:
    """Design matrix of a formula: ``Intercept`` first, one row per row of `table`.

    Raises
    ------
    FormulaError
        If the formula is not allowed.
    DesignError
        If a column that it reads has a missing cell, text where a number is needed, or gives no finite number.

    Examples
    --------
    >>> table = pd.DataFrame({"dx": [True, False, True], "Age": ["70", "65", "81"]})
    >>> design_matrix("dx + Age", table).to_numpy().tolist()
    [[1.0, 1.0, 70.0], [1.0, 0.0, 65.0], [1.0, 1.0, 81.0]]
    """
    return build(parse(formula, [str(c) for c in table.columns]), table).X


def build(formula: Formula, table: pd.DataFrame) -> Matrix:
    """Evaluate a checked formula over `table`, whose columns are those that it was parsed over."""
    import patsy
    from patsy.desc import Term as PatsyTerm

    where = _place(formula.text)
    if "Intercept" in (term.name for term in formula.terms):
        raise DesignError(f"{where}: a column of the table is called 'Intercept'; rename it")
    data = _values(formula, table, where)
    factor_class = _factor_class()
    terms = [
        PatsyTerm([factor_class(f.code, f.shown) for f in term.factors]) for term in formula.terms
    ]
    try:
        with np.errstate(all="ignore"):  # log(0) is refused below, with its row
            matrix = patsy.dmatrix(
                patsy.ModelDesc([], [PatsyTerm([]), *terms]),
                pd.DataFrame(data, index=pd.RangeIndex(len(table))),
                eval_env=patsy.EvalEnvironment([_functions()]),
                NA_action=patsy.NAAction(NA_types=[]),
            )
    except (patsy.PatsyError, ValueError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())
        raise DesignError(f"{where} cannot be evaluated: {reason}") from error
    info, values = matrix.design_info, np.asarray(matrix, np.float64)
    names = list(info.column_names)
    for row, column in np.argwhere(~np.isfinite(values))[:1]:
        raise DesignError(
            f"{where}: {names[column]} is {values[row, column]} in row {table.index[row]}"
        )
    owners: list[Term | None] = []
    by_key = {term.key: term for term in formula.terms}
    for term, columns in info.term_slices.items():
        owner = by_key.get(frozenset(factor.code for factor in term.factors))
        owners += [owner] * (columns.stop - columns.start)
    return Matrix(
        pd.DataFrame(values, index=table.index, columns=names), tuple(owners), _coding(info)
    )


def _values(formula: Formula, table: pd.DataFrame, where: str) -> dict[str, Any]:
    """Columns under their identifiers: ``v<i>`` numbers (or bare text), ``c<i>`` categories."""
    position = {str(name): i for i, name in enumerate(table.columns)}
    factors = [factor for term in formula.terms for factor in term.factors]
    arithmetic = {
        name for factor in factors if factor.kind == "expression" for name in factor.columns
    }
    data: dict[str, Any] = {}
    widths: dict[str, int] = {}
    for factor in factors:
        widths[factor.code] = MAX_DF if any(f"{name}(" in factor.code for name in BASES) else 1
        for name in factor.columns:
            column = cells.take(table, name, where)
            if empty := int(cells.missing(column).sum()):
                raise DesignError(
                    f"{where}: column {name!r} is missing in {empty} of {len(table)} rows"
                )
            prefix = "c" if factor.kind == "category" else "v"
            if bare := prefix == "v" and name not in arithmetic and cells.is_text(column):
                cells.check_text(column, where)
            if prefix == "c" or bare:
                value = data[f"{prefix}{position[name]}"] = cells.categories(column)
                widths[factor.code] = len(value.categories)
                if len(value.categories) > MAX_LEVELS:
                    raise DesignError(
                        f"{where}: {name!r} has {len(value.categories)} categories; at most {MAX_LEVELS} are allowed"
                    )
            else:
                data[f"{prefix}{position[name]}"] = cells.numbers(column)
    width = sum(math.prod(widths[factor.code] for factor in term.factors) for term in formula.terms)
    if width > MAX_COLUMNS:
        raise DesignError(
            f"{where}: up to {width} columns of design; at most {MAX_COLUMNS} are allowed"
        )
    return data


def _factor_class() -> Any:
    from patsy import EvalFactor

    class ShownFactor(EvalFactor):  # type: ignore[misc]
        """Evaluates our code and is called what the user wrote."""

        def __init__(self, code: str, shown: str) -> None:
            super().__init__(code)
            self.shown = shown

        def name(self) -> str:
            return self.shown

    return ShownFactor


def _functions() -> dict[str, Any]:
    """All that a formula can call."""
    from patsy import builtins

    functions = {
        name: getattr(builtins, name) for name in ("C", "bs", "cr", *TRANSFORMS, *CONTRASTS)
    }
    return functions | {name: getattr(np, name) for name in MATH} | {"poly": _poly}


def _poly(x: np.ndarray, degree: int = 1) -> np.ndarray:
    """Orthonormal polynomials of degree 1 to `degree`, each orthogonal to a constant (R's ``poly``, up to sign)."""
    values = np.asarray(x, np.float64)
    if len(np.unique(values)) <= degree:
        raise ValueError(f"poly of degree {degree} needs more than {degree} different values")
    values = values - values.mean()
    powers = np.vander(values / np.abs(values).max(), degree + 1, increasing=True)
    q, r = np.linalg.qr(powers)
    return (q * np.sign(np.diag(r)))[:, 1:]


def _coding(info: Any) -> dict[str, dict[str, Any]]:
    """Levels of each category and, under treatment coding, the one that the others are compared with."""
    coding: dict[str, dict[str, Any]] = {}
    for subterms in info.term_codings.values():
        for subterm in subterms:
            for factor, contrast in subterm.contrast_matrices.items():
                levels = [str(level) for level in info.factor_infos[factor].categories]
                matrix = np.asarray(contrast.matrix)
                zero = np.flatnonzero(~matrix.any(axis=1))
                treatment = (
                    len(zero) == 1
                    and np.isin(matrix, (0, 1)).all()
                    and (matrix.sum(axis=0) == 1).all()
                )
                reference = levels[zero[0]] if treatment else None
                coding.setdefault(factor.name(), {"levels": levels, "reference": reference})
    return coding
