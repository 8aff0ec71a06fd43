"""What sets each scan of a cohort apart from the others.

Every scan is a volume on a common grid (`cohort.ops.likeness`). What all scans share, their median made symmetric, and the
directions in which most of them differ are taken out; what is left is a person's own, in an even and an odd part, left against right.
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE = 1000
"""Scans from which the cohort's own distribution is read; evenly spaced among all."""

DIRECTIONS = 10
"""Most principal directions that are taken out, and never more than one of 16 scans."""

BLOCK = 1024
"""Scans that are compared with as many others at a time."""

IN_MEMORY = 512 << 20
"""Bytes of an array beyond which it lies in a temporary file, mapped."""


@dataclass(frozen=True)
class Traits:
    """What sets each scan apart.

    Parameters
    ----------
    even, odd : (N, P) float32 arrays
        Parts that a mirror leaves and turns round; the squares of a row of both add up to 1.
    side : (N,) float array
        Correlation of the odd part of a scan, before anything is taken out, with that of the cohort: lowest where left is right.
    """

    even: np.ndarray
    odd: np.ndarray
    side: np.ndarray


def traits(volumes: np.ndarray) -> Traits:
    """What sets each scan of a cohort apart.

    Parameters
    ----------
    volumes : (N, Z, Y, X) array
        On a common grid, X from left to right; may be mapped from a file. Read block by block.
    """
    n = len(volumes)
    sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))
    some = np.asarray(volumes[sample], np.float32)
    shared: np.ndarray = np.median(some, axis=0)
    shared = (shared + shared[..., ::-1]) / 2
    mask = shared > 0.15 * shared.max()
    half = mask.copy()
    half[..., mask.shape[-1] // 2 + mask.shape[-1] % 2 :] = False
    even, odd = _halves(some - shared, half)
    bases = [_directions(part, min(DIRECTIONS, n // 16)) for part in (even, odd)]
    typical = np.median(odd, axis=0)
    parts = room((2, n, int(half.sum())), np.float32)
    side = np.zeros(n)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        own = np.asarray(volumes[rows], np.float32)
        # A scan without anything in it is nobody's copy: what it lacks of the others is not its own.
        own = np.where(own.any(axis=(1, 2, 3), keepdims=True), own - shared, 0)
        block = _halves(own, half)
        lengths = np.sqrt((block[1] ** 2).sum(axis=1)) * np.sqrt((typical**2).sum())
        side[rows] = np.divide(
            block[1] @ typical, lengths, out=np.zeros_like(lengths), where=lengths > 0
        )
        for i, basis in enumerate(bases):
            parts[i, rows] = block[i] - (block[i] @ basis) @ basis.T
        norm = np.sqrt((parts[:, rows] ** 2).sum(axis=(0, 2)))[:, None]
        parts[:, rows] /= np.where(norm > 0, norm, 1)
    return Traits(parts[0], parts[1], side)


def room(shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> np.ndarray:
    """An array to be filled: in memory, or mapped from a temporary file that is gone when the array is."""
    if np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _halves(volumes: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Even part, without its mean, and odd part of volumes, within one half of them."""
    mirrored = volumes[..., ::-1]
    even, odd = (volumes + mirrored)[:, half] / 2, (volumes - mirrored)[:, half] / 2
    return even - even.mean(axis=1, keepdims=True), odd


def _directions(rows: np.ndarray, k: int) -> np.ndarray:
    """The first k principal directions of rows: (P, k) array, orthonormal."""
    if not k:
        return np.zeros((rows.shape[1], 0), np.float32)
    _, vectors = np.linalg.eigh(rows @ rows.T)
    return np.linalg.qr(rows.T @ vectors[:, ::-1][:, :k])[0].astype(np.float32)
