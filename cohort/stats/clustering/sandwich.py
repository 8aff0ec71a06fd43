"""The covariance of estimates whose rows go together, and the degrees of freedom of any sum of them."""

from dataclasses import dataclass

import numpy as np

KINDS = ("CR1", "CR2")

ENOUGH_DF = 40.0
"""Satterthwaite's degrees of freedom of every term from which on CR1 does: its t then differs little from the normal."""

_DECIDED = 1e-9


@dataclass(frozen=True)
class Sandwich:
    """What a design and its clusters give to the errors of any outcome on it.

    With W the weights of the rows in the estimates and H = QQ', cluster g contributes ``u_g' e_g`` with
    ``u_g = A_g W_g``; A_g is the identity in CR1, ``(I - H_gg)^-1/2`` in CR2.

    Attributes
    ----------
    kind : {"CR1", "CR2"}
    sizes : (G,) int array
        Rows of each cluster.
    decided : (p,) bool array
        Estimates that one cluster decides alone.
    satterthwaite : (p,) float64 array
        Degrees of freedom of each estimate in CR2, NaN for `decided`; computed whatever the kind.
    order : (n,) int array
        Rows, those of a cluster together.
    parts : (n, p) float64 array
        The u of each row, in that order.
    squares, within : (G, p, p) float64 arrays
        ``u_g' u_g`` and ``Q_g' u_g`` of CR2.
    """

    kind: str
    sizes: np.ndarray
    decided: np.ndarray
    satterthwaite: np.ndarray
    order: np.ndarray
    parts: np.ndarray
    squares: np.ndarray
    within: np.ndarray

    def covariance(self, residual: np.ndarray) -> np.ndarray:
        """Of the estimates of an outcome, shape (p, p), from its residuals, shape (n,); NaN for `decided`."""
        n, p = self.parts.shape
        starts = np.cumsum(self.sizes) - self.sizes
        scores = np.add.reduceat(self.parts * residual[self.order, None], starts, axis=0)
        found = np.asarray(scores.T @ scores)
        if self.kind == "CR1":
            many = len(self.sizes)
            found *= many / (many - 1) * (n - 1) / (n - p)
        found[self.decided, :] = found[:, self.decided] = np.nan
        return found

    def df(self, L: np.ndarray) -> np.ndarray:
        """Degrees of freedom of sums of estimates with weights, shape (k, p); NaN where a decided one has a weight."""
        found = _satterthwaite(self.squares, self.within, L)
        if self.kind == "CR1":
            found = np.full(len(L), len(self.sizes) - 1.0)
        found[(L[:, self.decided] != 0).any(axis=1)] = np.nan
        return found


def sandwich(X: np.ndarray, codes: np.ndarray, *, kind: str | None = None) -> Sandwich:
    """Prepare the errors of a design whose rows go together.

    Parameters
    ----------
    X : (n, p) float64 array
        The first column is the intercept.
    codes : (n,) int array
        Number of each row's cluster, from 0.
    kind : {"CR1", "CR2"}, optional
        Without it CR1 where every term has at least `ENOUGH_DF` Satterthwaite degrees of freedom, else CR2.

    Notes
    -----
    The degrees of freedom are ``tr(M)^2 / tr(M^2)`` for M_gh = u_g' (I - H)_gh u_h. M is a diagonal less a product TT'
    of rank p, so that neither a G x G nor an n x n matrix is built.
    """
    n, p = X.shape
    length = np.sqrt((X**2).sum(axis=0))
    basis, triangle = np.linalg.qr(X / length)
    weight = basis @ np.linalg.inv(triangle).T / length
    sizes = np.bincount(codes)
    order = np.argsort(codes, kind="stable")
    corrected = np.empty((n, p))
    squares, within = np.empty((2, len(sizes), p, p))
    decided = np.zeros(p, bool)
    lengths = np.sqrt((weight**2).sum(axis=0))
    for g, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        Q, W = basis[rows], weight[rows]
        across, size, _ = np.linalg.svd(Q, full_matrices=False)
        free = 1 - size**2  # eigenvalues of I - H_gg along `across`; 1 elsewhere
        full = free < _DECIDED  # there the residuals of the cluster are zero whatever its outcomes
        along = across.T @ W
        decided |= (np.abs(along[full]) > 1e-6 * lengths).any(axis=0)
        root = np.where(full, 0.0, 1 / np.sqrt(np.where(full, 1.0, free)))
        u = corrected[rows] = W + across @ ((root - 1)[:, None] * along)
        squares[g], within[g] = u.T @ u, Q.T @ u
    df = _satterthwaite(squares, within, np.eye(p))
    df[decided] = np.nan
    if kind is None:
        terms = df[1:] if p > 1 else df
        enough = bool((terms[~np.isnan(terms)] >= ENOUGH_DF).all())
        kind = "CR1" if enough and len(sizes) > ENOUGH_DF else "CR2"
    parts = (corrected if kind == "CR2" else weight)[order]
    return Sandwich(kind, sizes, decided, df, order, parts, squares, within)


def _satterthwaite(squares: np.ndarray, within: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Degrees of freedom of each row of `L`; shape (k,)."""
    df = np.full(len(L), np.nan)
    for j, weights in enumerate(L):
        D, T = np.einsum("gpq,p,q->g", squares, weights, weights), within @ weights
        crossed = (T**2).sum(axis=1)
        trace = D.sum() - crossed.sum()
        squared = (D**2).sum() - 2 * (D * crossed).sum() + ((T.T @ T) ** 2).sum()
        if squared > 0:
            df[j] = trace**2 / squared
    return df
