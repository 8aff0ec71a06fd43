"""Values against values some voxels away: correlation by lag, and what it leaves of a number of voxels."""

from collections.abc import Sequence

import numpy as np
from scipy import fft
from scipy.special import ndtri

from cohort.kernels.blocks import TILE

_SPECTRA = ("ones", "values", "sums", "squares")


def lines(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    axis: int,
    origin: Sequence[int],
    shape: Sequence[int],
) -> np.ndarray:
    """Spectra of the lines of a block along `axis`, which it holds whole, added up over each tile across them.

    Parameters
    ----------
    image : block of one to three axes, float64, about 0
    mask : bool, of the same shape, optional
    origin, shape
        Of the block's first voxel (a multiple of `TILE` across the lines), and of the whole array.

    Returns
    -------
    (n_tiles, 1 + 4 * f) complex128 array
        Number of the tile, then the f frequencies of what `correlations` needs: auto-spectra of the mask and of the values, and cross-spectra
        of the values and of their squares with the mask.

    Notes
    -----
    A sum over lines of products of spectra is the spectrum of the sum over all pairs of voxels: no line is looked at twice.
    """
    values = np.moveaxis(image, axis, -1)
    inside = (
        np.ones(values.shape, np.bool_) if mask is None else np.moveaxis(mask, axis, -1)
    ).astype(np.float64)
    across = [n for i, n in enumerate(shape) if i != axis]
    first = [o // TILE for i, o in enumerate(origin) if i != axis]
    per_axis = [-(-n // TILE) for n in across]
    length = fft.next_fast_len(2 * shape[axis] - 1, real=True)
    rows = []
    for index in np.ndindex(*(-(-n // TILE) for n in values.shape[:-1])):
        tile = tuple(slice(TILE * i, TILE * (i + 1)) for i in index)
        ones = inside[tile].reshape(-1, shape[axis])
        kept = np.where(ones > 0, values[tile].reshape(ones.shape), 0.0)
        of_ones, of_values, of_squares = (
            fft.rfft(each, length, axis=-1) for each in (ones, kept, kept * kept)
        )
        place = [f + i for f, i in zip(first, index, strict=True)]
        rows.append(
            np.concatenate(
                [
                    [np.ravel_multi_index(place, per_axis) if place else 0],
                    (np.abs(of_ones) ** 2).sum(axis=0),
                    (np.abs(of_values) ** 2).sum(axis=0),
                    (of_values.conj() * of_ones).sum(axis=0),
                    (of_squares.conj() * of_ones).sum(axis=0),
                ]
            )
        )
    return np.stack(rows)


def correlations(table: np.ndarray, *, n: int) -> np.ndarray:
    """Pearson's r, and the number of pairs, of all voxels that lie 0 to `n` - 1 apart along lines: (2, n), from rows of `lines`."""
    length = fft.next_fast_len(2 * n - 1, real=True)
    total = table[np.argsort(table[:, 0].real, kind="stable"), 1:].sum(axis=0)
    pairs, products, sums, squares = fft.irfft(total.reshape(len(_SPECTRA), -1), length, axis=-1)
    lag = np.arange(n)
    count = np.rint(pairs[lag])
    # Of each pair the voxel that comes first lies `lag` before the other: the sums over both stand at lag and at -lag.
    spread = [count * squares[at] - sums[at] ** 2 for at in (lag, -lag)]
    least = 1e-12 * count * squares[0]
    known = (count > 1) & (spread[0] > least) & (spread[1] > least)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (count * products[lag] - sums[lag] * sums[-lag]) / np.sqrt(spread[0] * spread[1])
    return np.stack([np.where(known, np.clip(r, -1.0, 1.0), np.nan), count])


def effective(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Number of independent voxels that would leave r as uncertain as two autocorrelated images do.

    Parameters
    ----------
    a, b : arrays of one to three axes, any real dtype
    mask : bool, of the same shape

    Returns
    -------
    float
        ``1 + 1 / var(r)``, at least 2 and at most the voxels of the mask; NaN of fewer than three, or of a constant.

    Notes
    -----
    ``var(r) = sum over lags h of C(h) rho_a(h) rho_b(h) / N**2`` with C pairs of voxels at h, up to a quarter of each side [Clifford,
    Richardson & Hemon 1989, doi:10.2307/2532039; Dutilleul 1993, doi:10.2307/2532625]. Takes some 80 bytes a voxel.
    """
    n = int(mask.sum())
    if n < 3:
        return float("nan")
    most = [side // 4 for side in mask.shape]
    size = [fft.next_fast_len(s + m, real=True) for s, m in zip(mask.shape, most, strict=True)]
    near = np.ix_(*([*range(m + 1), *range(-m, 0)] for m in most))
    count = np.rint(_products(mask.astype(np.float64), size)[near])
    variance = count / float(n) ** 2
    for image in (a, b):
        values = np.where(mask, image, 0.0)
        values = np.where(mask, values - values.sum() / n, 0.0)
        products = _products(values, size)[near]
        spread = products[(0,) * mask.ndim] / n
        if not spread > 0:
            return float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            variance *= np.where(count > 0, products / count / spread, 0.0)
    found = float(variance.sum())
    return float(np.clip(1.0 + 1.0 / found, 2.0, n)) if found > 0 else float(n)


def interval(r: np.ndarray, n: np.ndarray, *, confidence: float) -> np.ndarray:
    """Ends (..., 2) of the interval of `r` from `n` independent pairs, by Fisher's z; of three or fewer all there is, -1 to 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        width = ndtri((1 + confidence) / 2) / np.sqrt(n - 3)
        z = np.arctanh(r)
        ends = np.tanh(np.stack([z - width, z + width], axis=-1))
    return np.where(np.asarray(n <= 3)[..., None], [-1.0, 1.0], ends)


def _products(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Sum of the products of all values with those at each lag."""
    spectrum = fft.rfftn(values, size)
    return np.asarray(fft.irfftn((spectrum * spectrum.conj()).real, size))
