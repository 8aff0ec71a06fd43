"""Chained equations: each incomplete column drawn from the others, by predictive mean matching, round after round."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cohort.stats.columns import DesignError

DONORS = 5
"""Rows among which one gives its value."""

RIDGE = 1e-5
"""Share added to the diagonal of the predictors' cross products, so that collinear ones have an answer."""


BLOCK = 1_000_000
"""Distances that are held at once."""


@dataclass(frozen=True)
class Variable:
    """One column: what it holds, and how it enters a regression.

    Attributes
    ----------
    cells : (n,) array
        Numbers, or labels (object); anything where `missing`.
    codes : (n, q) float64 array
        The numbers, or 0/1 columns of all levels but the first; NaN where `missing`.
    missing : (n,) bool array
    """

    cells: np.ndarray
    codes: np.ndarray
    missing: np.ndarray

    @classmethod
    def of_numbers(cls, values: np.ndarray) -> "Variable":
        """A column of numbers, NaN where missing."""
        return cls(values, values[:, None], np.isnan(values))

    @classmethod
    def of_labels(cls, labels: pd.Categorical) -> "Variable":
        """A category, any number of levels."""
        missing = labels.codes < 0
        codes = (labels.codes[:, None] == np.arange(1, len(labels.categories))).astype(np.float64)
        codes[missing] = np.nan
        return cls(np.asarray(labels, dtype=object), codes, missing)


class Chain:
    """Draws of the missing cells of some columns.

    Parameters
    ----------
    variables : mapping
        Name -> column, all of the same rows.

    Raises
    ------
    DesignError
        If an incomplete column has fewer values than donors, or only one.

    Notes
    -----
    For an incomplete column z and predictors W (the other columns as they stand, standardised, and 1): coefficients b
    by least squares where z is known, sigma from a chi-square draw, b* from the normal around b; a missing cell takes
    the value of one of the five rows whose W b is nearest to its own W b* (predictive mean matching of type 1; van
    Buuren 2018, Flexible Imputation of Missing Data, 2nd ed., 3.4, and R's ``mice.impute.pmm``). So only values that
    occur are drawn. A category is matched on its 0/1 columns together, by Euclidean distance. Columns are visited
    from the least to the most incomplete; the first round starts from values drawn at random.
    """

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        self.variables = dict(variables)
        counts = {name: int(v.missing.sum()) for name, v in self.variables.items()}
        self.visited = sorted((n for n, m in counts.items() if m), key=lambda n: (counts[n], n))
        for name in self.visited:
            variable = self.variables[name]
            if len(variable.missing) - counts[name] < DONORS or variable.codes.shape[1] == 0:
                raise DesignError(
                    f"{name!r} is known in {len(variable.missing) - counts[name]} rows, too few or too alike to draw "
                    f"its {counts[name]} missing cells from"
                )

    def draw(self, seed: int, number: int, iterations: int) -> dict[str, np.ndarray]:
        """Draw every missing cell once.

        Parameters
        ----------
        seed, number : int
            Key of the random numbers: the draw depends on no other.

        Returns
        -------
        dict
            Name of each incomplete column -> (n,) array without a missing cell.
        """
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        donors: dict[str, np.ndarray] = {}
        codes = {name: variable.codes for name, variable in self.variables.items()}
        for name in self.visited:
            known = np.flatnonzero(~self.variables[name].missing)
            holes = int(self.variables[name].missing.sum())
            donors[name] = known[rng.integers(len(known), size=holes)]
            codes[name] = self._filled(name, donors[name])
        for _ in range(iterations):
            for name in self.visited:
                others = [codes[other] for other in self.variables if other != name]
                donors[name] = _match(self.variables[name], np.concatenate(others, axis=1), rng)
                codes[name] = self._filled(name, donors[name])
        found = {}
        for name in self.visited:
            found[name] = self.variables[name].cells.copy()
            found[name][self.variables[name].missing] = found[name][donors[name]]
        return found

    def _filled(self, name: str, donors: np.ndarray) -> np.ndarray:
        codes = self.variables[name].codes.copy()
        codes[self.variables[name].missing] = codes[donors]
        return codes


def _match(variable: Variable, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row that gives its value to each missing cell."""
    spread = others.std(axis=0)
    scaled = (others - others.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    W = np.column_stack([np.ones(len(scaled)), scaled])
    known, holes = np.flatnonzero(~variable.missing), np.flatnonzero(variable.missing)
    Z = W[known]
    cross = Z.T @ Z
    lower = np.linalg.cholesky(cross + RIDGE * np.diag(np.diag(cross)))
    b = np.linalg.solve(lower.T, np.linalg.solve(lower, Z.T @ variable.codes[known]))
    rest = variable.codes[known] - Z @ b
    df = max(len(known) - W.shape[1], 1)
    sigma = np.sqrt(np.square(rest).sum(axis=0) / rng.chisquare(df, size=b.shape[1]))
    drawn = b + np.linalg.solve(lower.T, rng.standard_normal(b.shape)) * sigma
    near = _nearest(Z @ b, W[holes] @ drawn)
    return known[near[np.arange(len(holes)), rng.integers(DONORS, size=len(holes))]]


def _nearest(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of the `DONORS` rows of `given` nearest to each row of `wanted`, the nearest first."""
    found = np.empty((len(wanted), DONORS), np.intp)
    step = max(1, BLOCK // len(given))
    for start in range(0, len(wanted), step):
        part = wanted[start : start + step]
        away = np.zeros((len(part), len(given)))
        for column in range(given.shape[1]):
            away += np.square(given[:, column] - part[:, column, None])
        near = np.sort(np.argpartition(away, DONORS - 1, axis=1)[:, :DONORS], axis=1)
        order = np.argsort(np.take_along_axis(away, near, axis=1), axis=1, kind="stable")
        found[start : start + step] = np.take_along_axis(near, order, axis=1)
    return found
