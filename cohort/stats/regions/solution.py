"""Least squares of many outcomes on one design: arrays in, arrays out."""

from dataclasses import dataclass

import numpy as np

from cohort.stats import diagnostics

WIDTH = 256
"""Outcomes that are worked on at a time, always as many, so that an outcome's bits do not depend on its neighbours."""


@dataclass(frozen=True)
class Solution:
    """Least squares of m outcomes on p columns.

    Attributes
    ----------
    estimate, se, hc3_se : (p, m) float64 arrays
        HC3 is NaN for a term that one row alone decides.
    ssr, tss : (m,) float64 arrays
        Sums of squares: of the residuals, and about the mean.
    df_resid : float
    """

    estimate: np.ndarray
    se: np.ndarray
    hc3_se: np.ndarray
    ssr: np.ndarray
    tss: np.ndarray
    df_resid: float


def solve(X: np.ndarray, Y: np.ndarray) -> Solution:
    """Fit every column of `Y` on `X`, with classical and HC3 errors, by one QR decomposition.

    Parameters
    ----------
    X : (n, p) float64 array
        Of full rank, the first column 1 (the intercept), n > p.
    Y : (n, m) float64 array
        Without NaN.

    Returns
    -------
    Solution

    Notes
    -----
    Equals statsmodels' ``OLS`` and ``HC3_se``.

    Examples
    --------
    >>> X = np.column_stack([np.ones(4), [0.0, 0, 1, 1]])
    >>> solve(X, np.array([[1.0, 2], [3, 2], [5, 4], [7, 8]])).estimate.round(6).tolist()
    [[2.0, 2.0], [4.0, 4.0]]
    """
    (n, p), m = X.shape, Y.shape[1]
    _, exponents = np.frexp(np.abs(X).max(axis=0))
    scale = np.ldexp(1.0, exponents)  # powers of two: no bit of a column changes
    Q, R = np.linalg.qr(X / scale)
    Q = np.ascontiguousarray(Q)
    weight = np.ascontiguousarray(np.linalg.solve(R, Q.T) / scale[:, None])  # of rows in estimates
    leverage = (Q**2).sum(axis=1)
    full = leverage >= diagnostics.LEVERAGE_FULL
    robust = (weight / np.where(full, np.inf, 1 - leverage)) ** 2
    lengths = np.sqrt((weight**2).sum(axis=1))
    decided = (np.abs(weight[:, full]) > 1e-6 * lengths[:, None]).any(axis=1)
    estimate, hc3 = np.empty((p, m)), np.empty((p, m))
    ssr, tss = np.empty(m), np.empty(m)
    # Sums of one shape are added in one order, which BLAS does not promise for several threads.
    residual = np.empty((n, WIDTH))
    for start in range(0, m, WIDTH):
        block = slice(start, min(start + WIDTH, m))
        used = slice(block.stop - start)
        residual[:, used] = Y[:, block]
        residual[:, used.stop :] = 0.0
        mean = np.einsum("nm->m", residual) / n
        residual -= mean  # an offset of the outcome costs no digits
        tss[block] = np.einsum("nm,nm->m", residual, residual)[used]
        estimate[:, block] = np.einsum("pn,nm->pm", weight, residual)[:, used]
        estimate[0, block] += mean[used]
        for q, z in zip(Q.T, np.einsum("np,nm->pm", Q, residual), strict=True):
            residual -= q[:, None] * z
        np.square(residual, out=residual)
        ssr[block] = np.einsum("nm->m", residual)[used]
        hc3[:, block] = np.einsum("pn,nm->pm", robust, residual)[:, used]
    hc3[decided] = np.nan
    se = lengths[:, None] * np.sqrt(ssr / (n - p))
    return Solution(estimate, se, np.sqrt(hc3), ssr, tss, float(n - p))
