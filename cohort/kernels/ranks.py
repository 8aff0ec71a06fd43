"""Exact medians by counting: no sort, and any number of blocks.

Every value becomes an unsigned integer that rises with it (its **key**). A round counts, for each group, how many keys
that agree with the digits known so far have each next digit; the digit that holds the wanted rank is then known
too. Two ranks are sought, the two in the middle, which differ when the count is even.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from cohort.kernels.blocks import volume
from cohort.kernels.regions import compact

_SIGNED, _UNSIGNED, _FLOAT = range(3)
_BUDGET = 1 << 20
"""Counters that a round may hold: 8 MB."""


class Picked(NamedTuple):
    """Values of the voxels that belong to a group, and the group of each."""

    keys: np.ndarray
    groups: np.ndarray
    """(n,) int32; empty if there is one group."""
    not_a_number: np.ndarray
    """(n_groups,) int64, how many voxels are NaN (they are not among the keys)."""


@dataclass(frozen=True)
class Round:
    """Which digit a round counts: ``bits`` bits above ``shift``."""

    shift: int
    bits: int


def rounds(dtype: np.dtype, n_groups: int) -> tuple[Round, ...]:
    """Cut a key into the digits that the budget for counters allows, highest first."""
    width = max(8 * dtype.itemsize, 8)
    most = int(np.clip(np.log2(_BUDGET / (2 * max(1, n_groups))), 4, 16))
    n = -(-width // most)
    edges = [width - (width * i) // n for i in range(n + 1)]
    return tuple(Round(low, high - low) for high, low in itertools.pairwise(edges))


def pick(
    image: np.ndarray, groups: np.ndarray | None = None, *, numbers: np.ndarray | None = None
) -> Picked:
    """Take the values that count out of a block.

    Parameters
    ----------
    image : block of one to three axes
    groups : bool block (one group), or labels, or None (one group, every voxel)
    numbers : (n_groups,) int64, rising
        The labels that count, when `groups` are labels.
    """
    values = volume(image).reshape(-1)
    if groups is None:
        groups = np.ones(values.shape, bool)
    if numbers is None:
        labels, table = volume(groups).reshape(-1), np.array([-1, 0], np.int32)
    else:
        found, names = compact(groups)
        labels = volume(found).reshape(-1)
        place = np.searchsorted(numbers, names)
        known = place < numbers.size
        known[known] = numbers[place[known]] == names[known]
        table = np.where(known & (names != 0), place, -1).astype(np.int32)
    n_groups = 1 if numbers is None else numbers.size
    kind = {"i": _SIGNED, "f": _FLOAT}.get(values.dtype.kind, _UNSIGNED)
    raw = values.view(f"u{values.dtype.itemsize}")
    top = raw.dtype.type(1 << (8 * raw.dtype.itemsize - 1))
    infinite = np.array(np.inf, values.dtype).view(raw.dtype)[()] if kind == _FLOAT else top
    return Picked(*_pick(raw, labels, table, kind, top, infinite, n_groups))


@njit(cache=True, nogil=True)
def _pick(raw, labels, table, kind, top, infinite, n_groups):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    n = 0
    for i in range(raw.size):
        n += table[labels[i]] >= 0
    keys = np.empty(n, raw.dtype)
    groups = np.empty(n if n_groups > 1 else 0, np.int32)
    lost = np.zeros(n_groups, np.int64)
    n = 0
    for i in range(raw.size):
        group = table[labels[i]]
        if group >= 0:
            bits = raw[i]
            if kind == _FLOAT:
                if bits & ~top > infinite:
                    lost[group] += 1
                    continue
                # Negative floats fall as their bits rise; positive ones come after them.
                keys[n] = ~bits if bits & top else bits | top
            else:
                keys[n] = bits ^ top if kind == _SIGNED else bits
            if n_groups > 1:
                groups[n] = group
            n += 1
    return keys[:n], groups[:n], lost


def values_of(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Keys back to numbers, as float64."""
    raw = keys.astype(f"u{dtype.itemsize}")
    top = raw.dtype.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "i":
        raw = raw ^ top
    elif dtype.kind == "f":
        raw = np.where(raw & top, raw ^ top, ~raw)
    return raw.view(dtype).astype(np.float64)


def begin(n_groups: int) -> np.ndarray:
    """State before the first round, (5, n_groups) uint64: two prefixes, two ranks left, whether there is a median."""
    return np.zeros((5, n_groups), np.uint64)


def count(
    keys: np.ndarray,
    groups: np.ndarray,
    not_a_number: np.ndarray,
    state: np.ndarray,
    *,
    digit: Round,
    first: bool,
) -> np.ndarray:
    """Count the next digit of the keys (see `Picked`) that agree with the state.

    Returns
    -------
    (1 or 2, n_groups, 2**bits + 1) int64 array
        For both ranks, or once if they still agree; the last column holds the NaN of each group.
    """
    del first
    agree = np.array_equal(state[0], state[1])
    out = np.zeros((1 if agree else 2, state.shape[1], (1 << digit.bits) + 1), np.int64)
    known = np.ascontiguousarray(state[:2])
    _count(_frozen(keys), _frozen(groups), known, digit.shift, digit.bits, out)
    out[:, :, -1] = not_a_number
    return out


def _frozen(array: np.ndarray) -> np.ndarray:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _count(keys, groups, known, shift, bits, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    above, low_bits = np.uint64(min(63, shift + bits)), np.uint64(shift)
    whole = shift + bits > 63
    wanted = np.uint64((1 << bits) - 1)
    for i in range(keys.size):
        g = groups[i] if groups.size else 0
        key = np.uint64(keys[i])
        prefix = np.uint64(0) if whole else key >> above
        digit = np.int64((key >> low_bits) & wanted)
        if prefix == known[0, g]:
            out[0, g, digit] += 1
        elif prefix == known[1, g]:
            out[1, g, digit] += 1


def narrow(state: np.ndarray, counts: np.ndarray, *, digit: Round, first: bool) -> np.ndarray:
    """State after a round: the next digit of both prefixes, and the ranks left below it."""
    low, high, low_rank, high_rank, defined = state
    nan, counts = counts[0, :, -1], counts[:, :, :-1]
    if first:
        n = counts[0].sum(axis=1)
        defined = ((n > 0) & (nan == 0)).astype(np.uint64)
        low_rank, high_rank = (
            ((np.maximum(n, 1) - 1) // 2).astype(np.uint64),
            (n // 2).astype(np.uint64),
        )
    second = (
        counts[0] if len(counts) == 1 else np.where((low == high)[:, None], counts[0], counts[1])
    )
    low, low_rank = _next(low, low_rank, counts[0], digit)
    high, high_rank = _next(high, high_rank, second, digit)
    return np.stack([low, high, low_rank, high_rank, defined])


def _next(
    prefix: np.ndarray, rank: np.ndarray, counts: np.ndarray, digit: Round
) -> tuple[np.ndarray, np.ndarray]:
    total = np.cumsum(counts, axis=1)
    chosen = np.count_nonzero(total <= rank.astype(np.int64)[:, None], axis=1)
    # A group without values has no rank to find; `defined` says so.
    chosen = np.minimum(chosen, counts.shape[1] - 1)
    row = np.arange(chosen.size)
    below = total[row, chosen] - counts[row, chosen]
    return (prefix << np.uint64(digit.bits)) | chosen.astype(np.uint64), rank - below.astype(
        np.uint64
    )


def medians(state: np.ndarray, *, dtype: np.dtype, order: np.ndarray) -> np.ndarray:
    """Median of each group after the last round, groups in `order`: (n,) float64.

    NaN for a group without values, or with a NaN among them.
    """
    low, high = values_of(state[0], dtype), values_of(state[1], dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        middle = (low + high) / 2
        # The sum of two huge numbers is beyond float64, their mean is not.
        middle = np.where(
            np.isfinite(middle) | np.isinf(low) | np.isinf(high), middle, low / 2 + high / 2
        )
    return np.where(state[4] == 1, middle, np.nan)[order]


def median(state: np.ndarray, *, dtype: np.dtype) -> np.ndarray:
    """The median of the only group: () float64."""
    return medians(state, dtype=dtype, order=np.zeros(1, int))[0]
