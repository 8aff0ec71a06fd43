"""Two images voxel by voxel, in float64 whatever their dtypes, so that no unsigned difference wraps."""

import numpy as np
from scipy.special import xlogy


def absolute_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``|a - b|``."""
    return np.abs(np.subtract(a, b, dtype=np.float64))


def squared_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``(a - b) ** 2``."""
    off = np.subtract(a, b, dtype=np.float64)
    return np.multiply(off, off, out=off)


def product(
    a: np.ndarray, b: np.ndarray, *, mean_a: float = 0.0, mean_b: float = 0.0
) -> np.ndarray:
    """``(a - mean_a) * (b - mean_b)``."""
    off = np.subtract(a, mean_a, dtype=np.float64)
    off *= np.subtract(b, mean_b, dtype=np.float64)
    return off


def centred(image: np.ndarray, *, mean: float) -> np.ndarray:
    """``image - mean``."""
    return np.subtract(image, mean, dtype=np.float64)


def similarity(
    mean_a: np.ndarray,
    mean_b: np.ndarray,
    mean_aa: np.ndarray,
    mean_bb: np.ndarray,
    mean_ab: np.ndarray,
    *,
    span: float,
    n: int,
) -> np.ndarray:
    """Structural similarity of windows of `n` voxels from the means in them [Wang et al. 2004, doi:10.1109/TIP.2003.819861]."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    sample = n / (n - 1) if n > 1 else 1.0
    var_a = sample * (mean_aa - mean_a * mean_a)
    var_b = sample * (mean_bb - mean_b * mean_b)
    both = sample * (mean_ab - mean_a * mean_b)
    above = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    below = (mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2)
    with np.errstate(invalid="ignore"):  # two constants of 0: alike
        return np.where(below == 0, 1.0, above / below)


def information(counts: np.ndarray) -> np.ndarray:
    """Mutual information, in nats, of a joint histogram (..., bins of a, bins of b); NaN if nothing was counted."""
    total = counts.sum(axis=(-2, -1), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / total[..., None, None]
    p_a, p_b = p.sum(axis=-1), p.sum(axis=-2)
    return np.asarray(
        xlogy(p, p).sum(axis=(-2, -1)) - xlogy(p_a, p_a).sum(axis=-1) - xlogy(p_b, p_b).sum(axis=-1)
    )
