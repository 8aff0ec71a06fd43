"""Linear filters of a block: passes along axes, with the additions in SciPy's order, so that the bits are SciPy's.

SciPy adds in float64 and rounds to the output's dtype after each axis. So do these; and they work in place on one copy of
the block, some lines at a time, which the cache holds.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from cohort.kernels.lines import LANES, beyond, lines, row, window

_DERIVATIVE = np.array([-1.0, 0.0, 1.0])
_SMOOTHING = np.array([1.0, 2.0, 1.0])
_CURVATURE = np.array([1.0, -2.0, 1.0])


def promoted(dtype: np.dtype) -> np.dtype:
    """What linear filters compute in: float32 where it holds every value (at most 16 bits, and float32), else float64."""
    most = 4 if dtype.kind == "f" else 2
    return np.dtype(np.float32 if dtype.itemsize <= most else np.float64)


def _copied(block: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    return np.array(block, dtype=dtype or promoted(block.dtype), order="C")


def gaussian_radius(sigma: float, truncate: float) -> int:
    """Voxels on each side of a Gaussian kernel's centre."""
    return int(truncate * sigma + 0.5)


def gaussian_weights(sigma: float, radius: int) -> np.ndarray:
    """Gaussian of `sigma` voxels at whole voxels, its sum 1: (2 radius + 1,) float64, to the bit as SciPy computes it."""
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return weights / weights.sum()


def gaussian(
    block: np.ndarray, *, sigma: Sequence[float], truncate: float, mode: str
) -> np.ndarray:
    """Smooth by a Gaussian of `sigma` voxels along each axis."""
    return _smooth(_copied(block), sigma, truncate, mode)


def _smooth(out: np.ndarray, sigma: Sequence[float], truncate: float, mode: str) -> np.ndarray:
    for axis, width in enumerate(sigma):
        radius = gaussian_radius(width, truncate)
        if radius:
            correlate(out, gaussian_weights(width, radius), axis, mode)
    return out


def gaussian_inside(
    block: np.ndarray, mask: np.ndarray, *, sigma: Sequence[float], truncate: float, mode: str
) -> np.ndarray:
    """Smooth inside a mask by what lies inside it (normalised convolution); outside, the block as it was."""
    # In float64, or a constant would not stay one.
    total = _copied(np.where(mask, block, block.dtype.type(0)), np.dtype(np.float64))
    _smooth(total, sigma, truncate, mode)
    share = _smooth(_copied(mask, np.dtype(np.float64)), sigma, truncate, mode)
    np.divide(total, share, out=total, where=mask)
    del share
    out = _copied(block)
    np.copyto(out, total, where=mask, casting="same_kind")
    return out


def uniform(block: np.ndarray, *, size: Sequence[int], mode: str) -> np.ndarray:
    """Mean over a box of `size` voxels along each axis."""
    out = _copied(block)
    for axis, n in enumerate(size):
        if n > 1:
            _mean(lines(out, axis), beyond(out.shape[axis], *window(n), mode), n)
    return out


def sobel(block: np.ndarray, *, axis: int, mode: str) -> np.ndarray:
    """Difference of the two neighbours along `axis`, smoothed by 1, 2, 1 along the others."""
    out = _copied(block)
    correlate(out, _DERIVATIVE, axis, mode, odd=True)
    for other in range(block.ndim):
        if other != axis:
            correlate(out, _SMOOTHING, other, mode)
    return out


def gradient_magnitude(block: np.ndarray, *, mode: str) -> np.ndarray:
    """Square root of the sum of squares of `sobel` along all axes."""
    out = _squared(sobel(block, axis=0, mode=mode))
    for axis in range(1, block.ndim):
        out += _squared(sobel(block, axis=axis, mode=mode))
    return np.sqrt(out, out=out)


def _squared(values: np.ndarray) -> np.ndarray:
    return np.multiply(values, values, out=values)


def laplace(block: np.ndarray, *, mode: str) -> np.ndarray:
    """Sum of the second differences along all axes."""
    out = correlate(_copied(block), _CURVATURE, 0, mode)
    for axis in range(1, block.ndim):
        out += correlate(_copied(block), _CURVATURE, axis, mode)
    return out


def sharpening(ndim: int) -> np.ndarray:
    """Weights that subtract every neighbour and leave a constant as it is: 9 amid -1 in a plane, 27 amid -1 in space."""
    weights = np.full((3,) * ndim, -1.0)
    weights[(1,) * ndim] = 3.0**ndim
    return weights


def convolve(block: np.ndarray, *, weights: np.ndarray, mode: str) -> np.ndarray:
    """Convolve with `weights` of as many axes as the block."""
    source = np.ascontiguousarray(block, promoted(block.dtype))
    three = (1,) * (3 - block.ndim)
    mirrored = weights[(slice(None, None, -1),) * weights.ndim].reshape(three + weights.shape)
    place_z, place_y, place_x = (
        # The window of a mirrored kernel of even size is mirrored too: it looks forward further.
        beyond(n, *window(size)[::-1], mode)
        for n, size in zip(three + block.shape, mirrored.shape, strict=True)
    )
    used = np.argwhere(np.abs(mirrored) > np.finfo(np.float64).eps)
    out = np.empty(three + block.shape, source.dtype)
    view = source.reshape(out.shape).view()
    view.flags.writeable = False
    _convolve(view, place_z, place_y, place_x, used, mirrored[tuple(used.T)], out)
    return out.reshape(block.shape)


def correlate(
    block: np.ndarray, weights: np.ndarray, axis: int, mode: str, *, odd: bool = False
) -> np.ndarray:
    """Correlate a C-contiguous float block, in place, with an even (symmetric) or odd kernel of odd length."""
    radius = weights.size // 2
    place = beyond(block.shape[axis], radius, radius, mode)
    _correlate(lines(block, axis), place, weights, odd)
    return block


@njit(cache=True, nogil=True)
def _take(lines, place, outer, first, width, near):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Some lines with what lies beyond their ends."""
    for i in range(place.size):
        at = place[i]
        for lane in range(width):
            near[i, lane] = lines[outer, at, first + lane] if at >= 0 else 0


@njit(cache=True, nogil=True)
def _correlate(lines, place, weights, odd):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    radius = weights.size // 2
    near = np.empty((place.size, LANES), np.float64)
    total = np.empty(LANES, np.float64)
    for outer in range(lines.shape[0]):
        for first in range(0, lines.shape[2], LANES):
            width = min(LANES, lines.shape[2] - first)
            _take(lines, place, outer, first, width, near)
            for i in range(lines.shape[1]):
                for lane in range(width):
                    total[lane] = near[i + radius, lane] * weights[radius]
                for k in range(radius):
                    weight, low, high = weights[k], near[i + k], near[i + 2 * radius - k]
                    if odd:
                        for lane in range(width):
                            total[lane] += (low[lane] - high[lane]) * weight
                    else:
                        for lane in range(width):
                            total[lane] += (low[lane] + high[lane]) * weight
                for lane in range(width):
                    lines[outer, i, first + lane] = total[lane]


@njit(cache=True, nogil=True)
def _mean(lines, place, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mean of `size` neighbours: sums of 1, 2, 4... of them, always added alike, wherever a block begins."""
    n = lines.shape[1]
    near = np.empty((place.size, LANES), np.float64)
    total = np.empty((n, LANES), np.float64)
    for outer in range(lines.shape[0]):
        for first in range(0, lines.shape[2], LANES):
            width = min(LANES, lines.shape[2] - first)
            _take(lines, place, outer, first, width, near)
            total[:] = 0
            done, summed = 0, 1
            while True:
                if size & summed:
                    for i in range(n):
                        for lane in range(width):
                            total[i, lane] += near[i + done, lane]
                    done += summed
                if done == size:
                    break
                for i in range(place.size - summed):
                    for lane in range(width):
                        near[i, lane] += near[i + summed, lane]
                summed *= 2
            for i in range(n):
                for lane in range(width):
                    lines[outer, i, first + lane] = total[i, lane] / size


@njit(cache=True, nogil=True)
def _convolve(block, place_z, place_y, place_x, offsets, weights, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    nz, ny, nx = out.shape
    near = np.empty(place_x.size, np.float64)
    total = np.empty(nx, np.float64)
    before = (place_x.size - nx) // 2  # of a mirrored window
    for z in range(nz):
        for y in range(ny):
            total[:] = 0
            for k in range(weights.size):
                dz, dy, dx = offsets[k, 0], offsets[k, 1], offsets[k, 2]
                if k == 0 or dz != offsets[k - 1, 0] or dy != offsets[k - 1, 1]:
                    row(block, (place_z[z + dz], place_y[y + dy]), place_x, before, 0, near)
                weight, shifted = weights[k], near[dx:]
                for x in range(nx):
                    total[x] += weight * shifted[x]
            for x in range(nx):
                out[z, y, x] = total[x]
