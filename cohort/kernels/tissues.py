"""Fluid, grey and white matter in voxels that may hold two of them: expectation and maximisation from sums over tiles.

A voxel is of one tissue, or of two neighbours (fluid and grey, grey and white) in one of a few shares: its mean then lies
between theirs, and so does its variance, so that mixed voxels tell of the pure ones' means too [Santago and Gage 1993,
doi:10.1109/42.241881; Van Leemput et al. 2003, doi:10.1109/TMI.2002.806587].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from cohort.kernels.blocks import origin_of, volume
from cohort.kernels.lanes import LANES, exponential, relative, shares

TISSUES = ("csf", "grey", "white")

STEPS = 4
"""Shares in which two tissues may be mixed: 1/8, 3/8, 5/8 and 7/8 of the second."""

GROUPS = np.array([0, 1, 2] + [3] * STEPS + [4] * STEPS + [5, 6])
"""Of each kind of voxel: 0 to 2 for a tissue alone, 3 for fluid with grey, 4 for grey with white matter, 5 for what gives no signal
(air, bone), 6 for what gives more than any tissue (fat, vessels)."""

_SECOND = (np.arange(STEPS) + 0.5) / STEPS
HOLDS = np.concatenate(
    [
        np.eye(3),
        np.stack([1 - _SECOND, _SECOND, 0 * _SECOND], axis=1),
        np.stack([0 * _SECOND, 1 - _SECOND, _SECOND], axis=1),
    ]
)
"""Share of each tissue in each kind of voxel that holds tissues, (kinds - 2, 3)."""

COUNTS = np.concatenate([HOLDS, np.eye(3)[[0, 0]]])
"""As which tissue each kind counts, (kinds, 3): what is no tissue counts with the fluid."""

MIXED = 0.5
"""Mixed voxels, at most, as a share of those of the two tissues alone."""

_NEVER = -1e4

FLOOR = 0.02
"""Added to the maps of an atlas, so that none rules a tissue out."""

TERMS = np.array(
    [(i, j, n - i - j) for n in range(4) for i in range(n + 1) for j in range(n + 1 - i)]
)
"""Powers of z, y and x in a cubic polynomial: (20, 3), the constant first."""


@dataclass(frozen=True)
class Tissues:
    """What is known of the tissues of a head."""

    means: np.ndarray
    """(3,), of the image divided by its bias."""
    variances: np.ndarray
    """(3,)."""
    weights: np.ndarray
    """(7,) of the groups, beside what the atlas says."""
    dark: float
    """Standard deviation, about 0, of what gives no signal; 0 if the image has negative values, of which 0 says nothing."""
    high: float
    """Largest value of the image."""
    bias: np.ndarray
    """(20,) coefficients of `TERMS` in the logarithm of the bias; none before one was fitted."""
    middle: np.ndarray
    """Voxel indices z, y, x where the arguments of the polynomial are 0."""
    reach: np.ndarray
    """Voxels from there to where they are 1."""

    @property
    def place(self) -> np.ndarray:
        """Middle and reach, (2, 3)."""
        return np.stack([self.middle, self.reach])

    def kinds(self) -> np.ndarray:
        """Of each kind of voxel: mean, -1 / (2 variance), and logarithm of weight x density there: (3, kinds)."""
        variances = _within(self.means) + HOLDS @ self.variances
        portion = np.log(self.weights / np.bincount(GROUPS))[GROUPS]
        out = np.zeros((3, len(GROUPS)))
        out[0, :-2], out[1, :-2] = HOLDS @ self.means, -0.5 / variances
        out[2, :-2] = portion[:-2] - np.log(2 * np.pi * variances) / 2
        if not self.dark:
            out[2, -2] = _NEVER
        else:
            out[1, -2] = -0.5 / self.dark**2
            out[2, -2] = portion[-2] - np.log(np.pi / 2 * self.dark**2) / 2
        # Even between white matter and the largest value.
        white, spread = self.means[2], np.sqrt(self.variances[2])
        out[0, -1], out[2, -1] = white, portion[-1] - np.log(max(self.high - white, spread))
        return out


def _within(means: np.ndarray) -> np.ndarray:
    """Variance within each kind, as far as shares within a step differ: (kinds - 2,)."""
    apart = np.array([0, 0, 0, *np.diff(means)])
    return (apart[GROUPS[:-2]] / STEPS) ** 2 / 12


def under_atlas(tiles: np.ndarray, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each tile: its number, lowest and highest value of the three maps, and sums of 1, x and x squared weighted by each: (t, 12)."""
    out = np.zeros((tiles.size, 12))
    out[:, 0] = tiles
    for row, begin, end in zip(out, starts[:-1], starts[1:], strict=True):
        x, maps = values[0, begin:end], values[1:4, begin:end]
        row[1], row[2] = maps.min(), maps.max()
        row[3:] = [(m * x**power).sum() for power in range(3) for m in maps]
    return out


def begin(means: np.ndarray, variances: np.ndarray, span: np.ndarray) -> Tissues:
    """What is known before the first round; `span` is (2, 4), the lowest and highest value of the image and indices along z, y and x."""
    middle, reach = span.mean(axis=0)[1:], np.maximum(np.ptp(span, axis=0)[1:] / 2, 1.0)
    weights = np.array([0.18] * 5 + [0.05] * 2)
    dark = float(max(means[0], 0.0) / 4 * (span[0, 0] >= 0))
    return Tissues(means, variances, weights, dark, float(span[1, 0]), np.zeros(0), middle, reach)


def spans(tiles: np.ndarray, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each tile: its number, the lowest value and indices along z, y and x, and the highest: (t, 9)."""
    out = np.zeros((tiles.size, 9))
    out[:, 0] = tiles
    for row, start, end in zip(out, starts[:-1], starts[1:], strict=True):
        places = values[[0, -3, -2, -1], start:end]
        row[1:] = [*places.min(axis=1), *places.max(axis=1)]
    return out


def sums(
    tiles: np.ndarray, starts: np.ndarray, values: np.ndarray, *, tissues: Tissues, atlas: bool
) -> np.ndarray:
    """Of each tile: its number, log-likelihood, sums of 1, x and x squared of each kind, and voxels that each group expects by a weight of 1.

    `values` are the image, three maps if there is an `atlas`, and indices along z, y and x: (voxels are the second axis).
    """
    kinds = len(GROUPS)
    out = np.zeros((tiles.size, 2 + 3 * kinds + len(tissues.weights)))
    out[:, 0] = tiles
    _sums(starts, values, atlas, tissues.kinds(), tissues.weights, tissues.bias, tissues.place, out)
    return out


@njit(cache=True, nogil=True)
def _terms(values, begin, n, place, into):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Terms of the polynomial for some voxels; indices are the last three rows of `values`."""
    first = values.shape[0] - 3
    powers = np.ones((3, 4, LANES))
    for axis in range(3):
        for v in range(n):
            powers[axis, 1, v] = (values[first + axis, begin + v] - place[0, axis]) / place[1, axis]
        for i in range(2, 4):
            for v in range(n):
                powers[axis, i, v] = powers[axis, i - 1, v] * powers[axis, 1, v]
    for t in range(TERMS.shape[0]):
        z, y, x = powers[0, TERMS[t, 0]], powers[1, TERMS[t, 1]], powers[2, TERMS[t, 2]]
        for v in range(n):
            into[t, v] = z[v] * y[v] * x[v]


@njit(cache=True, nogil=True)
def _unbiased(values, begin, n, bias, place, x, terms, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Image divided by its bias, for some voxels."""
    for v in range(n):
        x[v] = 0.0
    if bias.size:
        _terms(values, begin, n, place, terms)
        for t in range(bias.size):
            weight = bias[t]
            for v in range(n):
                x[v] -= weight * terms[t, v]
    exponential(x, n, room)
    for v in range(n):
        x[v] *= values[0, begin + v]


@njit(cache=True, nogil=True)
def _prior(values, begin, n, weights, into, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Of each group, what the atlas expects, so that the sum over groups times `weights` is 1."""
    for g in range(3):
        for v in range(n):
            into[g, v] = max(values[1 + g, begin + v], 0.0) + FLOOR
    for v in range(n):
        into[3, v] = np.sqrt(into[0, v] * into[1, v])
        into[4, v] = np.sqrt(into[1, v] * into[2, v])
        into[5, v] = into[0, v]
        into[6, v] = into[0, v]
        total[v] = 0.0
    for g in range(weights.size):
        for v in range(n):
            total[v] += into[g, v] * weights[g]
    for g in range(weights.size):
        for v in range(n):
            into[g, v] /= total[v]


@njit(cache=True, nogil=True)
def _expect(x, n, kinds, prior, into, top, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Shares of the kinds for some voxels; logarithms of likelihood in `top`."""
    for k in range(kinds.shape[1]):
        mean, by, constant = kinds[0, k], kinds[1, k], kinds[2, k]
        for v in range(n):
            into[k, v] = constant + by * (x[v] - mean) ** 2
    # The last kind begins where white matter's mean is.
    last = kinds.shape[1] - 1
    for v in range(n):
        if x[v] < kinds[0, last]:
            into[last, v] = -1e4
    relative(into, n, top, total)
    for k in range(kinds.shape[1]):
        factor = prior[GROUPS[k]]
        for v in range(n):
            into[k, v] *= factor[v]
    shares(into, n, top, total)


@njit(cache=True, nogil=True)
def _sums(starts, values, atlas, kinds, weights, bias, place, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    k_all = kinds.shape[1]
    terms, x, prior = (
        np.zeros((TERMS.shape[0], LANES)),
        np.zeros(LANES),
        np.ones((weights.size, LANES)),
    )
    parts, top, total = np.zeros((k_all, LANES)), np.zeros(LANES), np.zeros(LANES)
    added = np.zeros((1 + 3 * k_all + weights.size, LANES))
    for t in range(starts.size - 1):
        added[:] = 0.0
        for begin in range(starts[t], starts[t + 1], LANES):
            n = min(LANES, starts[t + 1] - begin)
            _unbiased(values, begin, n, bias, place, x, terms, total)
            if atlas:
                _prior(values, begin, n, weights, prior, total)
            _expect(x, n, kinds, prior, parts, top, total)
            for v in range(n):
                added[0, v] += top[v]
            for k in range(k_all):
                for v in range(n):
                    first = parts[k, v] * x[v]
                    added[1 + k, v] += parts[k, v]
                    added[1 + k_all + k, v] += first
                    added[1 + 2 * k_all + k, v] += first * x[v]
            for g in range(weights.size):
                for v in range(n):
                    added[1 + 3 * k_all + g, v] += prior[g, v]
        for i in range(added.shape[0]):
            out[t, 1 + i] = added[i].sum()


def maximised(tissues: Tissues, total: np.ndarray) -> Tissues:
    """What is known after a round, from its sums without tile and log-likelihood."""
    k = len(GROUPS)
    n, first, second, expected = total[:k], total[k : 2 * k], total[2 * k : 3 * k], total[3 * k :]
    weights = (np.bincount(GROUPS, n) + 1e-3) / np.maximum(expected, 1e-3)
    # Brightness varies within a tissue too: were there more mixed voxels than that, they would be these.
    weights[3:5] = np.minimum(weights[3:5], MIXED * (weights[:2] + weights[1:3]))
    dark = np.sqrt(second[-2] / max(n[-2], 1e-3))
    n, first, second = n[:-2], first[:-2], second[:-2]
    # Least squares: each kind's mean is a known mixture of the three.
    precision = -2 * tissues.kinds()[1, :-2]
    normal = np.einsum("k,ki,kj->ij", n * precision, HOLDS, HOLDS)
    normal += 1e-12 * np.trace(normal) * np.eye(3)  # a tissue that is nowhere has no mean
    means = np.linalg.solve(normal, HOLDS.T @ (first * precision))
    own = HOLDS @ means
    squares = second - 2 * own * first + own**2 * n - n * _within(means)
    variances = (HOLDS.T @ squares) / np.maximum(HOLDS.T @ n, 1e-3)
    variances = np.maximum(variances, 1e-6 * np.ptp(means) ** 2)
    # Wider than that it would be fluid.
    dark = min(max(dark, np.sqrt(variances[0]) / 10), max(means[0], 0.0) / 3)
    return replace(
        tissues,
        means=means,
        variances=variances,
        weights=weights / weights.sum(),
        dark=float(dark) if tissues.dark else 0.0,
    )


def bias_sums(
    tiles: np.ndarray, starts: np.ndarray, values: np.ndarray, *, tissues: Tissues, atlas: bool
) -> np.ndarray:
    """Of each tile: its number, and normal equations of what the bias lacks, (t, 1 + 20 * 21)."""
    out = np.zeros((tiles.size, 1 + len(TERMS) * (len(TERMS) + 1)))
    out[:, 0] = tiles
    _bias(starts, values, atlas, tissues.kinds(), tissues.weights, tissues.bias, tissues.place, out)
    return out


@njit(cache=True, nogil=True)
def _bias(starts, values, atlas, kinds, weights, bias, place, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    k_all, t_all = kinds.shape[1], TERMS.shape[0]
    terms, x, prior = np.zeros((t_all, LANES)), np.zeros(LANES), np.ones((weights.size, LANES))
    parts, top, total = np.zeros((k_all, LANES)), np.zeros(LANES), np.zeros(LANES)
    weight, off = np.zeros(LANES), np.zeros(LANES)
    added = np.zeros((t_all * (t_all + 1), LANES))
    for t in range(starts.size - 1):
        added[:] = 0.0
        for begin in range(starts[t], starts[t + 1], LANES):
            n = min(LANES, starts[t + 1] - begin)
            _unbiased(values, begin, n, bias, place, x, terms, total)
            _terms(values, begin, n, place, terms)
            if atlas:
                _prior(values, begin, n, weights, prior, total)
            _expect(x, n, kinds, prior, parts, top, total)
            weight[:], off[:] = 0.0, 0.0
            # A kind's mean times (1 + what is lacking) is what is seen: least squares over kinds.
            for k in range(k_all):
                mean, precision = kinds[0, k], -2.0 * kinds[1, k]
                for v in range(n):
                    seen = parts[k, v] * mean * precision
                    weight[v] += seen * mean
                    off[v] += seen * (x[v] - mean)
            row = 0
            for i in range(t_all):
                for j in range(t_all):
                    if j <= i:
                        for v in range(n):
                            added[row, v] += weight[v] * terms[i, v] * terms[j, v]
                    row += 1
                for v in range(n):
                    added[row, v] += off[v] * terms[i, v]
                row += 1
        for i in range(added.shape[0]):
            out[t, 1 + i] = added[i].sum()


def rebiased(tissues: Tissues, total: np.ndarray) -> Tissues:
    """The bias with what it lacked, from the sums of `bias_sums` without tile; its logarithm has the mean 0."""
    n = len(TERMS)
    table = total.reshape(n, n + 1)
    normal = np.tril(table[:, :n]) + np.tril(table[:, :n], -1).T
    normal += 1e-6 * np.diag(np.diag(normal))
    bias = np.linalg.solve(normal, table[:, n])
    bias += tissues.bias if tissues.bias.size else 0.0
    constant = -(normal[0, 1:] @ bias[1:]) / normal[0, 0]
    gain = np.exp(bias[0] - constant)
    bias[0] = constant
    return replace(
        tissues, bias=bias, means=tissues.means * gain, variances=tissues.variances * gain**2
    )


def fractions(
    inside: np.ndarray,
    image: np.ndarray,
    *maps: np.ndarray,
    origin: Sequence[int],
    tissues: Tissues,
) -> np.ndarray:
    """Share of each tissue in each voxel of a block, (3, ...) float32; 0 outside."""
    mask, blocks = volume(inside).view(np.bool_), [volume(a) for a in (image, *maps)]
    first = origin_of(tuple(origin))
    out = np.zeros((3, *mask.shape), np.float32)
    for z in range(mask.shape[0]):
        where = np.nonzero(mask[z : z + 1])
        place = [w + o for w, o in zip(where, (first[0] + z, *first[1:]), strict=True)]
        values = np.stack([*(block[z : z + 1][where] for block in blocks), *place]).astype(
            np.float64
        )
        found = _fractions(
            values, bool(maps), tissues.kinds(), tissues.weights, tissues.bias, tissues.place
        )
        out[:, z, where[1], where[2]] = found
    return out.reshape(3, *inside.shape)


@njit(cache=True, nogil=True)
def _fractions(values, atlas, kinds, weights, bias, place):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    k_all = kinds.shape[1]
    out = np.zeros((3, values.shape[1]), np.float32)
    terms, x, prior = (
        np.zeros((TERMS.shape[0], LANES)),
        np.zeros(LANES),
        np.ones((weights.size, LANES)),
    )
    parts, top, total = np.zeros((k_all, LANES)), np.zeros(LANES), np.zeros(LANES)
    share = np.zeros(LANES)
    for begin in range(0, values.shape[1], LANES):
        n = min(LANES, values.shape[1] - begin)
        _unbiased(values, begin, n, bias, place, x, terms, total)
        if atlas:
            _prior(values, begin, n, weights, prior, total)
        _expect(x, n, kinds, prior, parts, top, total)
        for tissue in range(3):
            share[:] = 0.0
            for k in range(k_all):
                for v in range(n):
                    share[v] += COUNTS[k, tissue] * parts[k, v]
            for v in range(n):
                out[tissue, begin + v] = share[v]
    return out
