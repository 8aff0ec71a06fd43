"""Random fields of a stated covariance, block by block: random numbers of each voxel, filtered along the axes."""

import functools
from collections.abc import Sequence

import numpy as np

from cohort.kernels import randomness
from cohort.kernels.stencils import correlate

_LINE = 1 << 10
"""Places along the line on which a kernel is found, many times as long as the kernel."""
_NEGLIGIBLE = 1e-6
"""Of a kernel's largest weight."""
_ALIASES = 16
LONGEST = 20.0
"""Voxels; a block of 64 is then made from one of 220, and what is longer is better made on a coarser grid."""


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
