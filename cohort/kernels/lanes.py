"""Exponentials of voxels side by side, and shares of their sum: what mixtures spend their time on."""

import numpy as np
from numba import njit

LANES = 64
"""Voxels that are looked at side by side. Each lane adds up its own voxels, so the order of additions never changes."""

_PER_LN2 = 1.0 / np.log(2.0)
# The logarithm of 2 in two parts: the first has so few digits that its multiples are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52
"""Added to a small number, it leaves the nearest whole one in the lowest bits."""


@njit(cache=True, nogil=True)
def exponential(values, n, power):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Turn the first n of `values`, of a size of at most 700, into their exponentials, exact to 1e-15; `power` is room for as many.

    A plain polynomial, that a processor works out for several lanes at once, and that is the same on all of them.
    """
    for v in range(n):
        x = min(max(values[v], -700.0), 700.0)
        shifted = x * _PER_LN2 + _ROUND
        whole = shifted - _ROUND
        r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        values[v] = p * r + 1.0
        power[v] = shifted
    # Times two to the whole number: added to the exponent's bits.
    bits, exponent = values.view(np.int64), power.view(np.int64)
    for v in range(n):
        bits[v] += exponent[v] << 52


@njit(cache=True, nogil=True)
def relative(logs, n, top, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Turn logarithms (k, lanes) into numbers relative to the largest, whose logarithm goes to `top`."""
    for v in range(n):
        top[v] = logs[0, v]
    for k in range(1, logs.shape[0]):
        for v in range(n):
            top[v] = max(top[v], logs[k, v])
    for k in range(logs.shape[0]):
        row = logs[k]
        for v in range(n):
            row[v] -= top[v]
        exponential(row, n, room)


@njit(cache=True, nogil=True)
def shares(parts, n, top, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Divide parts (k, lanes) by their sum, whose logarithm is added to `top`."""
    for v in range(n):
        total[v] = 0.0
    for k in range(parts.shape[0]):
        for v in range(n):
            total[v] += parts[k, v]
    for v in range(n):
        top[v] += np.log(total[v])
        total[v] = 1.0 / total[v]
    for k in range(parts.shape[0]):
        for v in range(n):
            parts[k, v] *= total[v]
