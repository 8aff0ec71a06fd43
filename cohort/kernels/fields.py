"""Random fields of a stated covariance, block by block: random numbers of each voxel, filtered along the axes."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from cohort.kernels import randomness, sampling
from cohort.kernels.stencils import correlate

_LINE = 1 << 10
"""Places along the line on which a kernel is found, many times as long as the kernel."""
_NEGLIGIBLE = 1e-6
"""Of a kernel's largest weight."""
_ALIASES = 16
LONGEST = 20.0
"""Voxels; a block of 64 is then made from one of 220, and what is longer is better made on a coarser grid."""

_FARTHEST = 6.0
"""Standard deviations beyond which displacements are cut off: one voxel in 500 million has one, and a block knows what it needs."""
_DEFORMATION = 1 << 31
"""First stream of displacements; those of noise are below."""
_STEPS = 16
"""Shares at which it is looked whether a volume has become too small."""


@functools.lru_cache(maxsize=32)
def taps(correlation: float) -> np.ndarray:
    """Weights (2 radius + 1,) that give white noise the correlation ``exp(-d**2 / (2 correlation**2))`` at whole distances d.

    Parameters
    ----------
    correlation : float, 0 to `LONGEST`, voxels
        0 leaves white noise as it is.

    Returns
    -------
    float64 array
        Symmetric; the sum of its squares is 1, so variances stay. It is the square root of the covariance, not the
        covariance, which would be one of twice the width.
    """
    if not correlation:
        return np.ones(1)
    # The spectrum of a Gaussian at whole places is the sum of its aliases, which are all positive.
    frequency = 2 * np.pi * (np.fft.fftfreq(_LINE)[:, None] + np.arange(-_ALIASES, _ALIASES + 1))
    spectrum = np.exp(-0.5 * (correlation * frequency) ** 2).sum(axis=1)
    weights = np.fft.ifft(np.sqrt(spectrum)).real
    far = np.flatnonzero(np.abs(weights[: _LINE // 2]) > _NEGLIGIBLE * weights[0])
    radius = int(far[-1])
    both = np.concatenate([weights[radius:0:-1], weights[: radius + 1]])
    return both / np.sqrt((both**2).sum())


def noise(
    part: None,
    *,
    origin: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    std: float,
    correlation: Sequence[float],
    seed: int,
    stream: int,
    dtype: np.dtype,
) -> np.ndarray:
    """Gaussian noise of a block that begins at voxel `start`, `correlation` in voxels along each axis.

    The numbers of voxels around the block, beyond the image too, are made again in each block that needs them.
    """
    del part, origin
    weights = [taps(float(c)) for c in correlation]
    reach = [w.size // 2 for w in weights]
    wide = randomness.normal(
        [n + 2 * r for n, r in zip(size, reach, strict=True)],
        start=[s - r for s, r in zip(start, reach, strict=True)],
        seed=seed,
        stream=stream,
    )
    for axis, (line, r) in enumerate(zip(weights, reach, strict=True)):
        if r:
            # What the border makes up reaches no voxel that is kept.
            correlate(wide, line, axis, "nearest")
            kept = [slice(None)] * wide.ndim
            kept[axis] = slice(r, -r)
            wide = np.ascontiguousarray(wide[tuple(kept)])
    return (wide * std).astype(dtype, copy=False)


def rician(image: np.ndarray, real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """Magnitude of a complex number whose true value is the image's."""
    return np.hypot(image + real, imaginary)


@dataclass(frozen=True)
class Deformation:
    """A smooth random displacement of every voxel.

    Parameters
    ----------
    amplitude_mm : float
        Standard deviation of each component, along each axis.
    smoothness : floats, voxels
        Standard deviation, along each axis, of the Gaussian with which white noise was smoothed.
    spacing_mm : floats
        Along each axis.
    seed : int
    """

    amplitude_mm: float
    smoothness: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    seed: int

    @property
    def reach(self) -> tuple[int, ...]:
        """Voxels along each axis by which nothing is displaced further."""
        return tuple(math.ceil(_FARTHEST * self.amplitude_mm / s) for s in self.spacing_mm)

    def component(self, axis: int, *, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Displacement along one axis, mm: float64 array of `size`."""
        found = noise(
            None,
            origin=start,
            start=start,
            size=size,
            std=self.amplitude_mm,
            correlation=tuple(math.sqrt(2) * s for s in self.smoothness),
            seed=self.seed,
            stream=_DEFORMATION + axis,
            dtype=np.dtype(np.float64),
        )
        most = _FARTHEST * self.amplitude_mm
        return np.clip(found, -most, most, out=found)


def largest_share(
    part: None,
    *,
    origin: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    deformation: Deformation,
    least: float,
) -> np.ndarray:
    """Share of a deformation, 0 to 1, up to which no voxel's volume falls below `least` of what it was: float64 array of `size`.

    The volume is the determinant of the Jacobian, from central differences; of ``identity + share * gradient`` it is a cubic.
    """
    del part, origin
    n = len(size)
    three = 3 - n
    wide = np.zeros((3, *(3,) * three, *(m + 2 for m in size)))
    for a in range(n):
        first = [s - 1 for s in start]
        wide[three + a] = deformation.component(a, start=first, size=wide.shape[1 + three :])
    twice_mm = np.full(3, np.inf)
    twice_mm[three:] = 2 * np.array(deformation.spacing_mm)
    out = np.empty((*(1,) * three, *size))
    _shares(wide, twice_mm, least, out)
    return out.reshape(tuple(size))


@njit(cache=True, nogil=True)
def _shares(moves, twice, least, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    g = np.empty((3, 3))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for a in range(3):
                    u = moves[a]
                    g[a, 0] = (u[i + 2, j + 1, k + 1] - u[i, j + 1, k + 1]) / twice[0]
                    g[a, 1] = (u[i + 1, j + 2, k + 1] - u[i + 1, j, k + 1]) / twice[1]
                    g[a, 2] = (u[i + 1, j + 1, k + 2] - u[i + 1, j + 1, k]) / twice[2]
                one = g[0, 0] + g[1, 1] + g[2, 2]
                minor = g[1, 1] * g[2, 2] - g[1, 2] * g[2, 1]
                two = minor + g[0, 0] * g[2, 2] - g[0, 2] * g[2, 0]
                two += g[0, 0] * g[1, 1] - g[0, 1] * g[1, 0]
                three = g[0, 0] * minor - g[0, 1] * (g[1, 0] * g[2, 2] - g[1, 2] * g[2, 0])
                three += g[0, 2] * (g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0])
                out[i, j, k] = _crossing(one, two, three, least)


@njit(cache=True, nogil=True)
def _crossing(one, two, three, least):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Smallest share in (0, 1] at which the cubic ``1 + one s + two s2 + three s3`` falls to `least`, or 1."""
    low = 0.0
    for step in range(1, _STEPS + 1):
        high = step / _STEPS
        if 1 + high * (one + high * (two + high * three)) < least:
            for _ in range(40):
                middle = (low + high) / 2
                if 1 + middle * (one + middle * (two + middle * three)) < least:
                    high = middle
                else:
                    low = middle
            return low
        low = high
    return 1.0


def deformed(
    part: np.ndarray | None,
    *,
    origin: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    deformation: Deformation,
    share: float,
    **sampled: Any,
) -> np.ndarray:
    """Block of an image of which each voxel takes the value at its own place and its displacement; see `sampling.sample`."""
    n = len(size)
    moves = np.stack(
        [
            share / mm * deformation.component(a, start=start, size=size)
            for a, mm in enumerate(deformation.spacing_mm)
        ]
    )
    return sampling.sample(
        part,
        origin=origin,
        start=start,
        size=size,
        matrix=np.eye(n, n + 1),
        to_edge=False,
        moves=moves,
        **sampled,
    )


def needed(
    deformation: Deformation,
    shape: Sequence[int],
    order: int,
    start: Sequence[int],
    size: Sequence[int],
) -> tuple[slice, ...]:
    """Part of an image of `shape` that `deformed` looks at for a block."""
    reach = [r + order // 2 + 2 for r in deformation.reach]
    return tuple(
        slice(max(0, s - r), min(n, s + m + r))
        for s, m, r, n in zip(start, size, reach, shape, strict=True)
    )


def displaced(
    part: None,
    *,
    origin: Sequence[int],
    start: Sequence[int],
    size: Sequence[int],
    deformation: Deformation,
    axis: int,
    share: float,
) -> np.ndarray:
    """Component of a deformation, mm, as much of it as is allowed."""
    del part, origin
    return share * deformation.component(axis, start=start, size=size)
