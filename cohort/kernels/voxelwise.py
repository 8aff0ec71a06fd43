"""Mean and spread of many images, voxel by voxel: one image after the other, and groups of them merged.

Updates are Welford's, merges those of Chan, Golub and LeVeque [doi:10.1080/00031305.1983.10483115], in float64. The numbers
depend on the order of the images alone, never on who adds them.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume


@dataclass
class Maps:
    """What is known of the images so far; 20 bytes a voxel."""

    n: np.ndarray
    """Images that count: all but those that are NaN there. int32, flat."""
    mean: np.ndarray
    """float64, flat; 0 where none counts."""
    squares: np.ndarray
    """Sum of squares about the mean: float64, flat."""

    @classmethod
    def empty(cls, voxels: int) -> "Maps":
        """Of no image."""
        return cls(np.zeros(voxels, np.int32), np.zeros(voxels), np.zeros(voxels))

    def add(self, image: np.ndarray) -> None:
        """Count one image more, of any real dtype; a voxel that is NaN does not count."""
        values = volume(image.reshape(-1)).reshape(-1)
        _add(values, self.n, self.mean, self.squares)

    def merge(self, later: "Maps") -> None:
        """Count the images of others, that come behind these."""
        _merge(self.n, self.mean, self.squares, later.n, later.mean, later.squares)

    def average(self) -> np.ndarray:
        """Mean: (voxels,) float64, NaN where none counts."""
        return np.where(self.n > 0, self.mean, np.nan)

    def std(self) -> np.ndarray:
        """Standard deviation over n - 1: (voxels,) float64, NaN where less than two count."""
        return np.sqrt(np.where(self.n > 1, self.squares, np.nan) / np.maximum(self.n - 1, 1))


@njit(cache=True, nogil=True)
def _add(values, n, mean, squares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(values.size):
        v = np.float64(values[i])
        if not np.isnan(v):
            n[i] += 1
            off = v - mean[i]
            mean[i] += off / n[i]
            squares[i] += off * (v - mean[i])


@njit(cache=True, nogil=True)
def _merge(n, mean, squares, n_later, mean_later, squares_later):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(n.size):
        if n_later[i] > 0:
            total = n[i] + n_later[i]
            off = mean_later[i] - mean[i]
            squares[i] += squares_later[i] + off * off * n[i] * n_later[i] / total
            mean[i] += off * n_later[i] / total
            n[i] = total
