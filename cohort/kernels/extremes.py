"""How extreme outcomes are under many arrangements, from products of weights and outcomes of unit length."""

import numpy as np
from numba import njit

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
        From where an outcome is as extreme, as ``t |t| / df`` turned so that larger is more extreme.
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
    ``t = g_1 sqrt(df / (1 - |g|^2))``; an outcome that the terms explain has a huge t, not an infinite one.
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
            left = max(extreme[i], 1e-30)
            tested[i] = tested[i] * abs(tested[i]) / left
        for i in range(v):
            extreme[i] = abs(tested[i]) if side == 0 else side * tested[i]
        for i in range(v):
            exceeded[i] += np.int64(extreme[i] >= bar[i])
        most = maximum[k - first]
        for i in range(v):
            candidate = -np.inf if ignored[i] else extreme[i]
            most = max(most, candidate)
        maximum[k - first] = most
