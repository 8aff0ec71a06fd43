"""Gaussian mixtures of several images over the voxels of a mask: expectation and maximisation from sums over tiles.

With the features 1, z_i and z_i z_j (i <= j) of a voxel's values z, the logarithm of a component's density is linear in them, and
all that maximisation needs are their sums weighted by responsibility. Those add up over tiles, blocks and scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from cohort.kernels.blocks import TILE, origin_of, volume
from cohort.kernels.lanes import LANES, relative, shares

_TINY = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Components:
    """Gaussians: weights (k,), means (k, c), covariances (k, c, c)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def taken(self, order: np.ndarray) -> "Components":
        """The same in another order."""
        return Components(self.weights[order], self.means[order], self.covariances[order])


class EmptyComponentError(ValueError):
    """A component lost its voxels, or its covariance is singular."""

    def __init__(self, number: int, voxels: float) -> None:
        super().__init__(
            f"component {number + 1} is left with {voxels:.3g} voxels, of no spread of their own: ask for "
            f"fewer components, or for a larger regularisation"
        )


def pick(
    mask: np.ndarray,
    *images: np.ndarray,
    origin: Sequence[int],
    shape: Sequence[int],
    places: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values in a mask, tile by tile, so that no round has to look at the rest.

    Parameters
    ----------
    mask : bool block of one to three axes
    images : blocks of the same shape, any real dtype
    origin, shape
        Of the block's first voxel (a multiple of `TILE` along every axis), and of the whole array.
    places : bool
        Whether to add the voxels' indices along z, y and x as further rows.

    Returns
    -------
    tiles : (t,) int64
        Numbers of the tiles that hold voxels, in raster order of the whole array.
    starts : (t + 1,) int64
        First voxel of each, and the end.
    values : (images, voxels) float64
    """
    blocks, inside = [volume(image) for image in images], volume(mask).view(np.bool_)
    whole = (1,) * (3 - len(shape)) + tuple(shape)
    per_axis = [-(-n // TILE) for n in whole]
    first = origin_of(tuple(origin))
    tiles, cuts, sizes = [], [], [0]
    for index in np.ndindex(*(-(-n // TILE) for n in inside.shape)):
        cut = tuple(slice(TILE * i, TILE * (i + 1)) for i in index)
        if size := int(np.count_nonzero(inside[cut])):
            number = [o // TILE + i for o, i in zip(first, index, strict=True)]
            tiles.append(int(np.ravel_multi_index(number, per_axis)))
            cuts.append((index, cut))
            sizes.append(size)
    starts = np.cumsum(sizes)
    # Filled tile by tile: parts put together at the end would be there twice.
    values = np.empty((len(blocks) + 3 * places, int(starts[-1])))
    for (index, cut), start, stop in zip(cuts, starts[:-1], starts[1:], strict=True):
        where = np.nonzero(inside[cut])
        rows = [block[cut][where] for block in blocks]
        if places:
            rows += [w + (o + TILE * i) for w, o, i in zip(where, first, index, strict=True)]
        for row, found in zip(values, rows, strict=True):
            row[start:stop] = found
    return np.array(tiles, np.int64), starts, values


# How the values lie: for standard scores, and for a start.


def moments(tiles: np.ndarray, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each tile: its number, voxels, voxels of each image that are not finite, means, squares about those: (t, 2 + 3c)."""
    out = np.zeros((tiles.size, 2 + 3 * len(values)))
    out[:, 0], out[:, 1] = tiles, np.diff(starts)
    _moments(starts, values, out)
    return out


@njit(cache=True, nogil=True)
def _moments(starts, values, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    c = values.shape[0]
    for t in range(out.shape[0]):
        n = starts[t + 1] - starts[t]
        for i in range(c):
            total, bad = 0.0, 0
            for v in range(starts[t], starts[t + 1]):
                total += values[i, v]
                bad += not np.isfinite(values[i, v])
            mean = total / n
            squares = 0.0
            for v in range(starts[t], starts[t + 1]):
                squares += (values[i, v] - mean) ** 2
            out[t, 2 + i], out[t, 2 + c + i], out[t, 2 + 2 * c + i] = bad, mean, squares


def merged(rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels, those that are not finite, mean and standard deviation (over n), as Chan, Golub and LeVeque merge them."""
    c = (rows.shape[1] - 2) // 3
    n, mean, squares = 0.0, np.zeros(c), np.zeros(c)
    # Squares that are beyond a float are infinite, and refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        for row in rows:
            total = n + row[1]
            delta = row[2 + c : 2 + 2 * c] - mean
            squares += row[2 + 2 * c :] + delta**2 * (n * row[1] / total)
            mean = mean + delta * (row[1] / total)
            n = total
    return int(n), rows[:, 2 : 2 + c].sum(axis=0).astype(int), mean, np.sqrt(squares / max(n, 1))


def sample(
    tiles: np.ndarray,
    starts: np.ndarray,
    values: np.ndarray,
    *,
    seed: int,
    share: float,
    stream: int = 0,
) -> np.ndarray:
    """Tile number and values of voxels that a random number picked, which belongs to seed, stream, tile and voxel: (n, 1 + c)."""
    rows = [np.empty((0, 1 + len(values)))]
    for tile, start, stop in zip(tiles, starts[:-1], starts[1:], strict=True):
        key = np.array([seed, (stream << 40) + int(tile)], np.uint64)
        drawn = np.random.Generator(np.random.Philox(key=key)).random(stop - start)
        chosen = values[:, start:stop][:, drawn < share].T
        rows.append(np.concatenate([np.full((len(chosen), 1), float(tile)), chosen], axis=1))
    return np.concatenate(rows)


def begin(points: np.ndarray, *, n_components: int, seed: int, floor: float) -> Components:
    """Components to start from: the best of several k-means of some points (n, c), each begun by k-means++.

    `floor` is added to variances. There are at least as many different points as components.
    """
    random = np.random.default_rng(seed)
    best, labels = np.inf, np.zeros(len(points), int)
    for _ in range(8):
        inertia, found = _k_means(points, n_components, random)
        if inertia < best:
            best, labels = inertia, found
    portions = np.bincount(labels, minlength=n_components) / len(points)
    groups = [points[labels == k] for k in range(n_components)]
    means = np.stack([group.mean(axis=0) for group in groups])
    off = [group - mean for group, mean in zip(groups, means, strict=True)]
    spread = [np.einsum("ni,nj->ij", o, o) / len(o) + floor * np.eye(o.shape[1]) for o in off]
    return Components(portions, means, np.stack(spread))


def _k_means(points: np.ndarray, k: int, random: np.random.Generator) -> tuple[float, np.ndarray]:
    """Inertia, and the number of each point's centre; every centre keeps a point."""
    centres = [points[random.integers(len(points))]]
    for _ in range(1, k):
        nearest = np.min([((points - c) ** 2).sum(axis=1) for c in centres], axis=0)
        centres.append(points[random.choice(len(points), p=nearest / nearest.sum())])
    places, labels = np.stack(centres), np.zeros(len(points), int)
    for _ in range(100):
        squared = np.stack([((points - c) ** 2).sum(axis=1) for c in places])
        found = squared.argmin(axis=0)
        if np.bincount(found, minlength=k).min() == 0:  # the centres before it had all a point
            break
        same = np.array_equal(found, labels)
        labels = found
        if same:
            break
        places = np.stack([points[labels == i].mean(axis=0) for i in range(k)])
    return float(((points - places[labels]) ** 2).sum()), labels


# Expectation and maximisation.


def coefficients(components: Components) -> np.ndarray:
    """Of each feature in the logarithm of weight x density: (k, 1 + c + c (c + 1) / 2)."""
    k, c = components.means.shape
    rows = []
    for number in range(k):
        mean, covariance = components.means[number], components.covariances[number]
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            raise EmptyComponentError(number, 0.0) from None
        half = np.linalg.solve(lower, np.eye(c))
        precision = half.T @ half
        linear = precision @ mean
        constant = np.log(components.weights[number]) - np.log(np.diag(lower)).sum()
        constant -= 0.5 * (c * np.log(2 * np.pi) + mean @ linear)
        squares = [
            -0.5 * precision[i, i] if i == j else -precision[i, j]
            for i in range(c)
            for j in range(i, c)
        ]
        rows.append([constant, *linear, *squares])
    return np.array(rows)


def sums(
    tiles: np.ndarray,
    starts: np.ndarray,
    values: np.ndarray,
    *,
    coefficients: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Of each tile: its number, log-likelihood, and each feature's sum weighted by each component: (t, 2 + k f)."""
    k, f = coefficients.shape
    out = np.zeros((tiles.size, 2 + k * f))
    out[:, 0] = tiles
    _sums(starts, values, coefficients, mean, scale, out[:, 1], out[:, 2:].reshape(-1, k, f))
    return out


@njit(cache=True, nogil=True)
def _features(values, start, n, mean, scale, into):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Features of some voxels, a lane each."""
    c = values.shape[0]
    for v in range(n):
        into[0, v] = 1.0
    for i in range(c):
        for v in range(n):
            into[1 + i, v] = (values[i, start + v] - mean[i]) * scale[i]
    f = 1 + c
    for i in range(c):
        for j in range(i, c):
            for v in range(n):
                into[f, v] = into[1 + i, v] * into[1 + j, v]
            f += 1


@njit(cache=True, nogil=True)
def _responsibilities(features, n, coefficients, into, top, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Responsibilities of the components for some voxels; log-likelihoods, in `top`."""
    k_all, f_all = coefficients.shape
    for k in range(k_all):
        weight = coefficients[k, 0]
        for v in range(n):
            into[k, v] = weight
        for f in range(1, f_all):
            weight = coefficients[k, f]
            for v in range(n):
                into[k, v] += weight * features[f, v]
    relative(into, n, top, total)
    shares(into, n, top, total)


@njit(cache=True, nogil=True)
def _sums(starts, values, coefficients, mean, scale, likelihood, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    k_all, f_all = coefficients.shape
    features, weights = np.zeros((f_all, LANES)), np.zeros((k_all, LANES))
    top, total = np.zeros(LANES), np.zeros(LANES)
    added = np.zeros((k_all, f_all, LANES))
    of_tile = np.zeros(LANES)
    for t in range(starts.size - 1):
        added[:], of_tile[:] = 0.0, 0.0
        for start in range(starts[t], starts[t + 1], LANES):
            n = min(LANES, starts[t + 1] - start)
            _features(values, start, n, mean, scale, features)
            _responsibilities(features, n, coefficients, weights, top, total)
            for v in range(n):
                of_tile[v] += top[v]
            for k in range(k_all):
                for f in range(f_all):
                    for v in range(n):
                        added[k, f, v] += weights[k, v] * features[f, v]
        likelihood[t] = of_tile.sum()
        for k in range(k_all):
            for f in range(f_all):
                out[t, k, f] = added[k, f].sum()


def maximised(total: np.ndarray, *, floor: float) -> Components:
    """Components from the sums of features (k, f) of all voxels; `floor` is added to variances."""
    k, f = total.shape
    c = int(np.sqrt(2 * f + 0.25) - 1.5)
    n = total[:, 0] + _TINY
    means = total[:, 1 : 1 + c] / n[:, None]
    covariances = np.empty((k, c, c))
    squares = iter(range(1 + c, f))
    for i in range(c):
        for j in range(i, c):
            own = total[:, next(squares)] / n - means[:, i] * means[:, j]
            covariances[:, i, j] = covariances[:, j, i] = own + floor * (i == j)
    if n.min() < 1e-3:
        raise EmptyComponentError(int(n.argmin()), float(n.min()))
    return Components(n / n.sum(), means, covariances)


def posteriors(
    *images: np.ndarray,
    origin: Sequence[int],
    coefficients: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    masked: bool,
) -> np.ndarray:
    """Share of each component in each voxel, (k, ...) float32; 0 where a value is not finite.

    The first of `images` is a mask if there is one (`masked`), and the share is 0 outside of it.
    """
    del origin
    blocks = [volume(image).reshape(-1) for image in images]
    inside = blocks.pop(0).view(np.bool_) if masked else np.ones(blocks[0].size, np.bool_)
    for block in blocks:
        inside = inside & np.isfinite(block)
    out = np.zeros((len(coefficients), inside.size), np.float32)
    for start in range(0, inside.size, 1 << 18):
        where = start + np.flatnonzero(inside[start : start + (1 << 18)])
        values = np.stack([block[where] for block in blocks]).astype(np.float64)
        out[:, where] = _posteriors(values, coefficients, mean, scale)
    return out.reshape(len(coefficients), *images[0].shape)


@njit(cache=True, nogil=True)
def _posteriors(values, coefficients, mean, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    k_all, f_all = coefficients.shape
    out = np.empty((k_all, values.shape[1]), np.float32)
    features, weights = np.zeros((f_all, LANES)), np.zeros((k_all, LANES))
    top, total = np.zeros(LANES), np.zeros(LANES)
    for start in range(0, values.shape[1], LANES):
        n = min(LANES, values.shape[1] - start)
        _features(values, start, n, mean, scale, features)
        _responsibilities(features, n, coefficients, weights, top, total)
        for k in range(k_all):
            for v in range(n):
                out[k, start + v] = weights[k, v]
    return out


def likeliest(*parts: np.ndarray) -> np.ndarray:
    """Number, from 1, of the largest of several shares, of equals the first; 0 where all are 0: uint8."""
    best, labels = np.zeros(parts[0].shape, np.float32), np.zeros(parts[0].shape, np.uint8)
    for number, share in enumerate(parts, 1):
        larger = share > best
        labels[larger], best[larger] = number, share[larger]
    return labels
