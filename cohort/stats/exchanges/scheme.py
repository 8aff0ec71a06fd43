"""What a permutation test compares: the tested direction of a design, its nuisance, and the arrangements."""

from dataclasses import dataclass

import numpy as np

from cohort.stats.columns import DesignError
from cohort.stats.exchanges.exchange import Exchange, arrange

METHODS = ("freedman-lane", "huh-jhun", "sign-flip")

ALTERNATIVES = ("two-sided", "greater", "less")


@dataclass(frozen=True)
class Scheme:
    """What is tested, and under which arrangements.

    Attributes
    ----------
    weights : (r, m) float64
        Orthonormal rows: the tested direction first, then the nuisance terms that the arranged outcome is fitted to
        again (none for Huh-Jhun). m is the number of rows that change places.
    nuisance : (n, z) float64
        Orthonormal columns that the outcome is freed of.
    basis : (n, m) float64 or None
        Orthonormal complement of the nuisance terms, for Huh-Jhun.
    df : int
    exchange : Exchange
    alternative : str
        One of `ALTERNATIVES`.
    """

    weights: np.ndarray
    nuisance: np.ndarray
    basis: np.ndarray | None
    df: int
    exchange: Exchange
    alternative: str


@dataclass(frozen=True)
class Permutations:
    """How the scans of maps are arranged; see `cohort.stats.permutation.permute`."""

    seed: int
    n: int = 1000
    scheme: str = "freedman-lane"
    blocks: np.ndarray | None = None
    exchange: str = "within"
    tail: bool = False
    """Corrected p below 0.1 come from a generalised Pareto tail; see `cohort.stats.exchanges.tail`."""

    def of(self, X: np.ndarray, contrast: np.ndarray, *, rows: np.ndarray, name: str) -> Scheme:
        """What a contrast is compared with in these `rows` of the table, (n,) int, which X holds. Raises `DesignError`."""
        return scheme(
            X,
            contrast,
            n_permutations=self.n,
            seed=self.seed,
            blocks=None if self.blocks is None else np.asarray(self.blocks)[rows],
            exchange=self.exchange,
            method=self.scheme,
            name=name,
        )


def scheme(
    X: np.ndarray,
    contrast: np.ndarray,
    *,
    n_permutations: int,
    seed: int,
    blocks: np.ndarray | None = None,
    exchange: str = "within",
    method: str = "freedman-lane",
    alternative: str = "two-sided",
    name: str = "the contrast",
) -> Scheme:
    """Split a design into what is tested and what is nuisance, and decide the arrangements.

    Parameters
    ----------
    X : (n, p) float64
    contrast : (p,) float64
    name : str
        What the contrast is called in messages.
    n_permutations, seed, blocks, exchange, method, alternative
        See `permute`.

    Returns
    -------
    Scheme

    Raises
    ------
    DesignError
        See `permute`.
    """
    for value, allowed, what in (
        (method, METHODS, "method"),
        (alternative, ALTERNATIVES, "alternative"),
    ):
        if value not in allowed:
            raise DesignError(f"{what} is {value!r}; it takes {', '.join(allowed)}")
    (n, p), contrast = X.shape, np.asarray(contrast, np.float64)
    if not np.isfinite(X).all() or contrast.shape != (p,) or not contrast.any():
        raise DesignError(f"X must be finite, and the contrast {p} numbers of which one is not 0")
    scale = np.sqrt(np.square(X).sum(axis=0))
    if n <= p or np.linalg.matrix_rank(X / np.where(scale > 0, scale, 1), tol=1e-10) < p:
        raise DesignError(f"{n} rows for {p} columns, or columns that depend on each other")
    Q, R = np.linalg.qr(X / scale)
    # c'b = u'Q'y: the direction u of the column space is tested, its complement is nuisance.
    u = np.linalg.solve(R.T, contrast / scale)
    u /= np.sqrt(u @ u)
    nuisance = Q @ np.linalg.qr(u[:, None], mode="complete")[0][:, 1:]
    tested = Q @ u
    effect, basis = X @ (contrast / (contrast @ contrast)), None
    if method == "huh-jhun":
        if blocks is not None:
            raise DesignError("huh-jhun mixes the rows, so it knows no blocks; use freedman-lane")
        basis = np.linalg.qr(nuisance, mode="complete")[0][:, p - 1 :] if p > 1 else np.eye(n)
        effect = basis.T @ tested
        weights = (effect / np.sqrt(effect @ effect))[None]
    else:
        weights = np.vstack([tested, nuisance.T])
    arrangements = arrange(
        weights.shape[1],
        n_permutations=n_permutations,
        seed=seed,
        blocks=blocks,
        exchange=exchange,
        flips=method == "sign-flip",
    )
    _check_moves(arrangements, effect, name)
    return Scheme(weights, nuisance, basis, n - p, arrangements, alternative)


def _check_moves(arrangements: Exchange, effect: np.ndarray, name: str) -> None:
    """Refuse a term that is the same under every arrangement: its p would be 1 and mean nothing."""
    if arrangements.flips:
        return
    tolerance = 1e-12 * np.abs(effect).max()
    for which in np.unique(arrangements.classes):
        members = [
            effect[unit]
            for unit, own in zip(arrangements.units, arrangements.classes, strict=True)
            if own == which
        ]
        if (np.ptp(members, axis=0) > tolerance).any():
            return
    if len(arrangements.units) < len(effect):
        why = "is the same in all blocks of one size; exchange='within' moves rows within blocks"
    elif len(np.unique(arrangements.classes)) > 1:
        why = "is the same in all rows of each block; exchange='whole' moves blocks as a whole"
    else:
        why = "is the same in all rows; sign-flip tests a mean"
    raise DesignError(f"no exchange of rows changes {name}: it {why}")
