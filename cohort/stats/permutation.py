"""Tests that lean on exchanging rows instead of on a distribution, corrected for all outcomes by the largest t."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.exchanges.exchange import EXCHANGES
from cohort.stats.exchanges.maximum import (
    Tally,
    after,
    beside,
    critical,
    probabilities,
    tally,
    working_bytes,
)
from cohort.stats.exchanges.scheme import ALTERNATIVES, METHODS, Scheme, scheme
from cohort.stats.table import records
from cohort.stats.wording import reading

__all__ = [
    "ALTERNATIVES",
    "EXCHANGES",
    "METHODS",
    "DesignError",
    "Permuted",
    "Scheme",
    "Tally",
    "after",
    "beside",
    "permute",
    "probabilities",
    "scheme",
    "tally",
    "working_bytes",
]

COARSE = 0.05
"""If the smallest p that is possible is above this, a warning."""


@dataclass(frozen=True)
class Permuted:
    """A permutation test of one term (or contrast) on one or more outcomes.

    Attributes
    ----------
    tidy : DataFrame, one row an outcome
        outcome, term, estimate, se, df, statistic (the t of least squares), p (of the outcome by itself), p_se (its
        Monte-Carlo error; 0 if all arrangements were looked at), p_fwe (corrected for all outcomes), p_parametric
        (by the t distribution, for comparison), n, n_permutations.
    maximum : (n_permutations,) float64
        Most extreme t over the outcomes under each arrangement; the first is the table as it is.
    warnings, reading : tuple of str
    model : dict
        method, alternative, exchange, seed, and whether all arrangements were looked at.
    """

    tidy: pd.DataFrame
    maximum: np.ndarray
    warnings: tuple[str, ...]
    reading: tuple[str, ...]
    model: dict[str, Any]

    def critical(self, level: float = 0.05) -> float:
        """Value of t (in the direction of the alternative) from which ``p_fwe <= level``; infinite if none has it."""
        return critical(self.maximum, level, int(self.tidy["df"].iloc[0]))

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold (NaN as None)."""
        return {
            **self.model,
            "results": records.plain(self.tidy),
            "critical_t": self.critical() if np.isfinite(self.critical()) else None,
            "warnings": list(self.warnings),
            "reading": list(self.reading),
            "versions": {"numpy": metadata.version("numpy")},
        }


def permute(
    design: Design | pd.DataFrame | np.ndarray,
    y: pd.DataFrame | pd.Series | np.ndarray | None = None,
    *,
    term: str | int | None = None,
    contrast: Sequence[float] | np.ndarray | None = None,
    n_permutations: int = 10_000,
    seed: int,
    blocks: str | Sequence[Any] | np.ndarray | None = None,
    exchange: str = "within",
    method: str = "freedman-lane",
    alternative: str = "two-sided",
) -> Permuted:
    """Test a term of a linear model by exchanging rows.

    Parameters
    ----------
    design : Design, or X of shape (n, p)
        Of a `Design` the rows are put into the order of their ids first, so that p does not depend on the order of
        the table. An X is taken as it stands.
    y : (n,) or (n, m), optional
        Outcomes, complete; a table or series with the index of X is brought to its order. Default: the outcome of
        the Design.
    term : str or int, optional
        Column of X that is tested.
    contrast : (p,) numbers, optional
        Instead of `term`: the combination of estimates that is tested.
    n_permutations : int
        Arrangements, the table as it is included. If all that are possible are no more, all are looked at.
    seed : int
        With the number of an arrangement the key of its random numbers.
    blocks : str or (n,) labels, optional
        Rows that go together; of a Design also the name of an identity column (``subject``).
    exchange : {"within", "whole"}
        Rows change places within their block only, or blocks of one size change places as a whole.
    method : {"freedman-lane", "huh-jhun", "sign-flip"}
        Huh-Jhun is faster, does without blocks and holds n x n numbers. Sign flips take errors as symmetric, not as alike: the test of
        one sample (``term="Intercept"``).
    alternative : {"two-sided", "greater", "less"}

    Returns
    -------
    Permuted

    Raises
    ------
    DesignError
        In one line: a term that is none, neither or both of term and contrast, missing cells, columns that depend on
        each other, an outcome that the other terms explain, a term that no exchange changes.

    Notes
    -----
    Freedman and Lane 1983 (doi:10.1080/07350015.1983.10509354) with the maximum of Westfall and Young; Huh and Jhun
    2001 (doi:10.1111/j.0006-341X.2001.01211.x); exchangeability blocks after Winkler 2014
    (doi:10.1016/j.neuroimage.2014.01.060). Philox is keyed by (seed, arrangement), so that p does not depend on how
    the work is divided. Voxelwise: `scheme` once, then `tally` over blocks of outcomes, `beside` and `probabilities`.

    Examples
    --------
    Six people in two groups: all 720 arrangements, 2 x 36 of which separate the groups as strongly.

    >>> X = np.column_stack([np.ones(6), [0, 0, 0, 1, 1, 1]])
    >>> found = permute(X, np.array([1.0, 2, 3, 11, 12, 13]), term=1, n_permutations=1000, seed=1)
    >>> float(found.tidy["p"][0]), found.model["exhaustive"]
    (0.1, True)
    """
    X, Y, labels = _rows(design, y, blocks)
    weights, name = _contrast(X, term, contrast)
    plan = scheme(
        X.to_numpy(),
        weights,
        n_permutations=n_permutations,
        seed=seed,
        blocks=labels,
        exchange=exchange,
        method=method,
        alternative=alternative,
        name=name,
    )
    found = tally(plan, Y.to_numpy())
    if flat := [str(c) for c, t in zip(Y.columns, found.t, strict=True) if np.isnan(t)]:
        raise DesignError(f"the outcome {flat[0]!r} is an exact combination of the other terms")
    return _permuted(X.to_numpy(), Y, weights, name, plan, found, method, exchange, labels)


def _rows(
    design: Design | pd.DataFrame | np.ndarray,
    y: pd.DataFrame | pd.Series | np.ndarray | None,
    blocks: str | Sequence[Any] | np.ndarray | None,
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray | None]:
    """Design matrix, outcomes and labels of blocks, in the same rows; of a Design in the order of its ids."""
    X = design.X if isinstance(design, Design) else pd.DataFrame(design)
    if y is None:
        if not isinstance(design, Design):
            raise DesignError("no outcome: give y, or a Design that holds one")
        y = design.y
    if isinstance(y, pd.Series | pd.DataFrame) and not isinstance(design, np.ndarray):
        Y = pd.DataFrame(y)
        if lacking := X.index.difference(Y.index).tolist():
            raise DesignError(
                f"y lacks {len(lacking)} rows of the design, the first is {lacking[0]}"
            )
        Y = Y.loc[X.index]
    else:
        Y = pd.DataFrame(np.asarray(y))
    if len(Y) != len(X):
        raise DesignError(f"{len(Y)} rows of outcomes for {len(X)} rows of the design")
    Y = pd.DataFrame({str(c): cells.numbers(cells.take(Y, str(c), "y")) for c in Y}, index=X.index)
    for column in Y:
        if empty := int(Y[column].isna().sum()):
            raise DesignError(
                f"the outcome {column!r} is missing in {empty} of {len(Y)} rows: outcomes that are corrected for "
                "together need the same rows"
            )
    if isinstance(blocks, str):
        if not isinstance(design, Design):
            raise DesignError(f"blocks is the text {blocks!r}; it takes a label for each row")
        blocks = cells.take(design.rows, blocks, "blocks").map(cells.label).to_numpy()
    labels = None if blocks is None else np.asarray(blocks)
    if labels is not None and len(labels) != len(X):
        raise DesignError(f"{len(labels)} labels of blocks for {len(X)} rows")
    if isinstance(design, Design):
        order = np.argsort(X.index.to_numpy(str), kind="stable")
        X, Y = X.iloc[order], Y.iloc[order]
        labels = None if labels is None else labels[order]
    return X, Y, labels


def _contrast(
    X: pd.DataFrame, term: str | int | None, contrast: Sequence[float] | np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Weights of the estimates, and what they are called."""
    if (term is None) == (contrast is None):
        raise DesignError("give either term or contrast")
    names = [str(c) for c in X.columns]
    if contrast is not None:
        weights = np.asarray(contrast, np.float64)
        if weights.shape != (len(names),):
            raise DesignError(f"the contrast has {weights.size} numbers for {len(names)} columns")
        parts = [f"{w:g} {c}" for w, c in zip(weights, names, strict=True) if w]
        return weights, " + ".join(parts) or "the contrast"
    if str(term) not in names:
        raise DesignError(cells.unknown_column(str(term), names, "term"))
    return np.array([float(c == str(term)) for c in names]), str(term)


def _permuted(
    X: np.ndarray,
    Y: pd.DataFrame,
    contrast: np.ndarray,
    name: str,
    plan: Scheme,
    found: Tally,
    method: str,
    exchange: str,
    labels: np.ndarray | None,
) -> Permuted:
    from scipy import special

    count, exhaustive = plan.exchange.n_permutations, plan.exchange.exhaustive
    p, p_fwe = probabilities(found, plan.alternative)
    scale = np.sqrt(np.square(X).sum(axis=0))
    b = np.linalg.lstsq(X / scale, Y.to_numpy(), rcond=None)[0]
    estimate = contrast / scale @ b
    sigma = np.sqrt(np.square(Y.to_numpy() - X / scale @ b).sum(axis=0) / plan.df)
    R = np.linalg.qr(X / scale)[1]
    se = sigma * np.linalg.norm(np.linalg.solve(R.T, contrast / scale))
    two = 2 * special.stdtr(plan.df, -np.abs(found.t))
    one = special.stdtr(plan.df, found.t if plan.alternative == "less" else -found.t)
    tidy = pd.DataFrame(
        {
            "outcome": list(Y.columns),
            "term": name,
            "estimate": estimate,
            "se": se,
            "df": float(plan.df),
            "statistic": found.t,
            "p": p,
            "p_se": 0.0 if exhaustive else np.sqrt(p * (1 - p) / count),
            "p_fwe": p_fwe,
            "p_parametric": two if plan.alternative == "two-sided" else one,
            "n": len(Y),
            "n_permutations": count,
        }
    )
    moved = "signs of rows" if method == "sign-flip" else "rows"
    if labels is not None:
        moved = (
            f"{moved} within blocks"
            if exchange == "within"
            else "signs of whole blocks"
            if method == "sign-flip"
            else "whole blocks"
        )
    warnings = (
        [f"only {count} arrangements are possible, so p cannot be below {1 / count:.2g}"]
        if exhaustive and 1 / count > COARSE
        else []
    )
    warnings += plan.exchange.doubts()
    how = f"all {count} arrangements" if exhaustive else f"{count} arrangements"
    together = f"; {len(Y.columns)} outcomes together {{}}" if len(Y.columns) > 1 else "{}"
    sentences = [
        f"{row.term} on {row.outcome}: t = {reading.number(row.statistic)}, {reading.probability(row.p)} by {how} of "
        f"{moved}{together.format(reading.probability(row.p_fwe) if len(Y.columns) > 1 else '')}."
        for row in _records(tidy)
    ]
    return Permuted(
        tidy=tidy,
        maximum=found.maximum,
        warnings=tuple(warnings),
        reading=tuple(sentences),
        model={
            "method": method,
            "alternative": plan.alternative,
            "term": name,
            "exchanged": moved,
            "blocks": None if labels is None else len(np.unique(labels)),
            "seed": plan.exchange.seed,
            "n_permutations": count,
            "exhaustive": exhaustive,
        },
    )


def _records(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples(index=False))
