"""How extreme outcomes are under many arrangements, from products of weights and outcomes of unit length."""

import math

import numpy as np
from numba import njit

TIE = 1e-12
"""Products of unit vectors that differ by less are equal: rounding is some 1e-16 for each square root of their length."""

SIDES = {"two-sided": 0, "greater": 1, "less": -1}
"""Alternative -> what is more extreme: a larger ``|t|``, t or -t."""


# nnan, nsz: there is no NaN, and the sign of a zero is never looked at. Neither changes another bit.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def tally(
    products: np.ndarray,
    first: int,
    last: int,
    bar: np.ndarray,
    ignored: np.ndarray,
    side: int,
    exceeded: np.ndarray,
    maximum: np.ndarray,
) -> None:
    """Count the arrangements that reach a bar, and keep the most extreme outcome of each.

    Parameters
    ----------
    products : (r, k, v) float64
        ``M'Py``: the tested direction first, then the nuisance terms. The first is replaced by ``t |t| / df``.
    first, last : int
        Arrangements that count, of the k.
    bar : (v,) float64
        From where an outcome is as extreme, as a share that is explained (`explained`), turned so that larger is more extreme.
    ignored : (v,) bool
        Outcomes that are no candidates for the most extreme.
    side : int
        One of `SIDES`.
    exceeded : (v,) int64
        Added to.
    maximum : (last - first,) float64
        Raised.

    Notes
    -----
    ``t = g_1 sqrt(df / (1 - |g|^2))``; an outcome that the terms explain has a huge t, not an infinite one. Where the nuisance
    terms leave nothing of an arranged outcome (less than `TIE`) t is 0: there is nothing to explain. Arrangements are held
    against the bar by ``g_1^2 >= bar (1 - |g|^2 + g_1^2)``, whose rounding does not grow with t.
    """
    # Loops of one kind each, over rows: the compiler makes four numbers at a time of them.
    r, _, v = products.shape
    extreme = np.empty(v)
    for k in range(max(first, 0), last):
        tested = products[0, k]
        for i in range(v):
            extreme[i] = 1 - tested[i] * tested[i]
        for term in range(1, r):
            other = products[term, k]
            for i in range(v):
                extreme[i] -= other[i] * other[i]
        for i in range(v):
            square = tested[i] * tested[i]
            whole = extreme[i] + square
            held, scale = (square, whole) if whole > TIE else (0.0, 1.0)
            oriented = held if side == 0 or side * tested[i] > 0 else -held
            exceeded[i] += np.int64(oriented >= bar[i] * scale)
            tested[i] = math.copysign(held, tested[i]) / max(extreme[i], 1e-30)
        for i in range(v):
            extreme[i] = abs(tested[i]) if side == 0 else side * tested[i]
        most = maximum[k - first]
        for i in range(v):
            candidate = -np.inf if ignored[i] else extreme[i]
            most = max(most, candidate)
        maximum[k - first] = most


def explained(t: np.ndarray, df: int) -> np.ndarray:
    """Share of an outcome that the tested direction explains of what the nuisance terms leave, with the sign of t.

    ``t |t| / (df + t^2)``, from -1 to 1: it rises with t, and has the rounding of products of unit vectors, where a t has
    that of a quotient by what is left.
    """
    with np.errstate(divide="ignore"):
        return np.sign(t) / (1 + df / np.square(t))


def bars(shares: np.ndarray) -> np.ndarray:
    """Least share that is as large as each of some; see `TIE`."""
    return shares - TIE * (2 * np.sqrt(np.abs(shares)) + TIE)
