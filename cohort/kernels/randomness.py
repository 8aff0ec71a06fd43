"""Random numbers that belong to a voxel: from a seed, a stream and the voxel's place alone, whoever asks for them.

The generator is Philox 4x64-10 [Salmon et al. 2011, doi:10.1145/2063384.2063405], of which `numpy.random.Philox` gives the same words.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit, uint64

_M0, _M1 = uint64(0xD2E7470EE14C6C93), uint64(0xCA5A826395121157)
_W0, _W1 = uint64(0x9E3779B97F4A7C15), uint64(0xBB67AE8584CAA73B)
_LOW, _HALF = uint64(0xFFFFFFFF), uint64(32)
_UNIT = 2.0**-53


def normal(size: Sequence[int], *, start: Sequence[int], seed: int, stream: int) -> np.ndarray:
    """Independent standard normal numbers of a block.

    Parameters
    ----------
    size, start : one to three ints
        Voxels along each axis, and the first; voxels may lie outside of the image, at negative places too.
    seed, stream : int, 0 to 2**64 - 1
        Key of the generator: numbers of another seed or stream have nothing to do with these.

    Returns
    -------
    float64 array of `size`
        By Box and Muller's transform of two uniform numbers of 53 bits.
    """
    three = (1,) * (3 - len(size)) + tuple(size)
    first = np.array((0,) * (3 - len(size)) + tuple(start), np.int64)
    out = np.empty(three)
    _normal(first, np.uint64(seed), np.uint64(stream), out)
    return out.reshape(tuple(size))


@njit(cache=True, nogil=True, inline="always")
def _product(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """High and low word of a product of two words."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF), a * b


@njit(cache=True, nogil=True)
def words(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Four random words of a counter of four words and a key of two."""
    for _ in range(10):
        high0, low0 = _product(_M0, c0)
        high1, low1 = _product(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _normal(first, seed, stream, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                a, b, _, _ = words(
                    uint64(first[2] + k),
                    uint64(first[1] + j),
                    uint64(first[0] + i),
                    uint64(0),
                    seed,
                    stream,
                )
                # (0, 1], of which the logarithm is finite, and [0, 1).
                u = (float(a >> uint64(11)) + 1.0) * _UNIT
                v = float(b >> uint64(11)) * _UNIT
                out[i, j, k] = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
