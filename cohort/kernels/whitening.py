"""Covariance of several images over their voxels, tile by tile, and the transform that removes it (ZCA)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from cohort.kernels.blocks import TILE, origin_of, volume
from cohort.kernels.transfer import boxed, slabs


@dataclass(frozen=True)
class Whitening:
    """``matrix @ (values - mean)`` has covariance 1."""

    mean: np.ndarray
    matrix: np.ndarray


def moments(*features: np.ndarray, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Of each tile: its number, voxels, means, and sums of products about those: (n_tiles, 2 + f + f * f) float64.

    `origin` is a multiple of `TILE` along every axis.
    """
    blocks = [volume(f) for f in features]
    whole = (1,) * (3 - len(shape)) + tuple(shape)
    per_axis = [-(-n // TILE) for n in whole]
    first = [o // TILE for o in origin_of(tuple(origin))]
    n_features = len(blocks)
    rows = []
    for index in np.ndindex(*(-(-n // TILE) for n in blocks[0].shape)):
        tile = tuple(slice(TILE * i, TILE * (i + 1)) for i in index)
        values = np.stack([b[tile].astype(np.float64).reshape(-1) for b in blocks])
        row = np.zeros(2 + n_features + n_features**2)
        row[0] = np.ravel_multi_index([f + i for f, i in zip(first, index, strict=True)], per_axis)
        row[1] = values.shape[1]
        _moments(values, row[2 : 2 + n_features], row[2 + n_features :].reshape(n_features, -1))
        rows.append(row)
    return np.stack(rows)


@njit(cache=True, nogil=True)
def _moments(values, mean, products):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # Sums in a fixed order: those of a linear algebra library depend on its threads.
    n_features, n = values.shape
    for i in range(n_features):
        total = 0.0
        for k in range(n):
            total += values[i, k]
        mean[i] = total / n
    for k in range(n):
        for i in range(n_features):
            off = values[i, k] - mean[i]
            for j in range(i + 1):
                products[i, j] += off * (values[j, k] - mean[j])
    for i in range(n_features):
        for j in range(i):
            products[j, i] = products[i, j]


def whitening(rows: np.ndarray, *, n_features: int, epsilon: float) -> np.ndarray:
    """Boxed `Whitening` from the `moments` of all tiles, merged in raster order as Chan, Golub and LeVeque do."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    n, mean = rows[0, 1], rows[0, 2 : 2 + n_features].copy()
    products = rows[0, 2 + n_features :].reshape(n_features, -1).copy()
    for row in rows[1:]:
        added, total = row[1], n + row[1]
        delta = row[2 : 2 + n_features] - mean
        products += row[2 + n_features :].reshape(n_features, -1)
        products += np.multiply.outer(delta, delta) * (n * added / total)
        mean += delta * (added / total)
        n = total
    if n < 2 or not np.isfinite(products).all():
        return boxed(Whitening(mean, np.full_like(products, np.nan)))
    variances, axes = np.linalg.eigh(products / (n - 1))
    # Below that a variance is what rounding left; dividing by it would make noise of unit size.
    kept = variances > variances[-1] * n_features * np.finfo(np.float64).eps
    weights = np.zeros(n_features)
    weights[kept] = 1 / np.sqrt(variances[kept] + epsilon)
    return boxed(Whitening(mean, (axes * weights) @ axes.T))


def whitened(*features: np.ndarray, transform: Whitening, row: int, dtype: np.dtype) -> np.ndarray:
    """One feature of the transformed ones."""
    flat = [volume(f).reshape(-1) for f in features]
    out = np.empty(flat[0].size, dtype)
    for part in slabs(out.size):
        total = np.zeros(flat[0][part].size)
        for values, mean, weight in zip(flat, transform.mean, transform.matrix[row], strict=True):
            total += (values[part] - mean) * weight
        out[part] = total
    return out.reshape(features[0].shape)
