"""The t of every outcome under every arrangement, and the largest of each: plain arrays, block by block.

Outcomes come in blocks of columns, arrangements in ranges; `Tally` holds what is left of both and joins. A row of
weights and a column of outcomes always stand in products of one fixed shape, filled up with zeros, so that a number
does not depend on which others were asked for beside it, to the last bit on one machine. Between machines products
may differ in that bit, and counts do not, because t that differ by less than `TIE` are equal.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohort.stats.columns import DesignError
from cohort.stats.exchanges.scheme import Scheme

ARRANGEMENTS = 64
"""Arrangements that one product holds; ranges of them are cut at multiples of it."""

TILE = 64
"""Outcomes that one product holds."""

TIE = 1e-12
"""Relative difference of two t below which they are equal."""

FLAT = 1e-24
"""Share of an outcome's sum of squares below which what the nuisance terms leave is rounding."""


@dataclass(frozen=True)
class Tally:
    """Counts over arrangements ``start`` to ``stop - 1`` of a block of outcomes.

    Attributes
    ----------
    t : (v,) float64
        Of the table as it is; NaN for an outcome that the nuisance terms explain.
    exceeded : (v,) int64
        Arrangements whose t is as extreme (the first included, if it is in the range).
    maximum : (stop - start,) float64
        Most extreme t over the block: of ``|t|``, t or -t by the alternative; -inf over no outcome.
    start, stop : int
    """

    t: np.ndarray
    exceeded: np.ndarray
    maximum: np.ndarray
    start: int
    stop: int


def working_bytes(scheme: Scheme, outcomes: int) -> int:
    """Memory that `tally` takes for a block of so many outcomes, at most, whatever the number of arrangements."""
    r, m = scheme.weights.shape
    filled = -(-outcomes // TILE) * TILE
    products = ARRANGEMENTS * (2 * r * m + (r + 5) * TILE)
    return 8 * (filled * (m + 4) + products + 5 * len(scheme.nuisance) * TILE) + 2**16


def tally(
    scheme: Scheme,
    Y: np.ndarray,
    *,
    start: int = 0,
    stop: int | None = None,
    out: np.ndarray | None = None,
) -> Tally:
    """Compute t of each outcome under a range of arrangements, and keep counts and maxima.

    Parameters
    ----------
    scheme : Scheme
    Y : (n, v) float, finite
        A block of outcomes.
    start, stop : int
        Range of arrangements; all of them by default.
    out : (stop - start, v) float array, optional
        Takes every t, for what is larger than an outcome (clusters of voxels); 0 where the nuisance terms explain it.

    Returns
    -------
    Tally

    Notes
    -----
    Memory: `working_bytes`, and `out`. Work: ``2 r m v`` floating-point operations
    an arrangement, in matrix products. For the arranged outcome ``P y`` with ``y`` free of nuisance and of unit
    length, ``g = M'Py`` and ``t = g_1 sqrt(df / (1 - |g|^2))`` (Freedman and Lane 1983,
    doi:10.1080/07350015.1983.10509354; Winkler 2014, doi:10.1016/j.neuroimage.2014.01.060).
    """
    stop = scheme.exchange.n_permutations if stop is None else stop
    if not 0 <= start < stop <= scheme.exchange.n_permutations:
        raise DesignError(
            f"arrangements {start} to {stop} are asked of {scheme.exchange.n_permutations}"
        )
    v = Y.shape[1]
    tiles, flat = _tiles(scheme, Y)
    observed = np.empty((len(tiles), TILE))
    exceeded = np.zeros((len(tiles), TILE), np.int64)
    maximum = np.full(stop - start, -np.inf)
    ignored = np.ones((len(tiles), TILE), bool)
    ignored.reshape(-1)[:v] = flat
    batches = range(start // ARRANGEMENTS, -(-stop // ARRANGEMENTS))
    # The table as it is stands in batch 0; t is compared with it in every range.
    for batch in dict.fromkeys([0, *batches]):
        weights = _weights(scheme, batch)
        first = max(start, batch * ARRANGEMENTS)
        last = min(stop, (batch + 1) * ARRANGEMENTS)
        rows = slice(first - batch * ARRANGEMENTS, max(last - batch * ARRANGEMENTS, 0))
        for i, tile in enumerate(tiles):
            squares = _signed_squares(weights, tile)
            if batch == 0:
                observed[i] = squares[0]
            if last > first:
                extreme = _oriented(squares[rows], scheme.alternative)
                bar = _oriented(observed[i], scheme.alternative)
                # Twice the tie of t, because these are squares of it.
                exceeded[i] += (extreme >= bar - 2 * TIE * np.abs(bar)).sum(axis=0)
                extreme[:, ignored[i]] = -np.inf
                if out is not None:
                    wide = min(TILE, v - i * TILE)
                    kept = np.where(ignored[i, :wide], 0, squares[rows, :wide])
                    part = slice(i * TILE, i * TILE + wide)
                    out[first - start : last - start, part] = _root(kept, scheme.df)
                best = maximum[first - start : last - start]
                np.maximum(best, extreme.max(axis=1), out=best)
    return Tally(
        t=np.where(flat, np.nan, _root(observed.reshape(-1)[:v], scheme.df)),
        exceeded=exceeded.reshape(-1)[:v],
        maximum=_root(maximum, scheme.df),
        start=start,
        stop=stop,
    )


def beside(tallies: Sequence[Tally]) -> Tally:
    """Join blocks of outcomes, in the order that is given, over one range of arrangements."""
    if len({(part.start, part.stop) for part in tallies}) != 1:
        raise DesignError("blocks of outcomes can be joined over one range of arrangements only")
    return Tally(
        t=np.concatenate([part.t for part in tallies]),
        exceeded=np.concatenate([part.exceeded for part in tallies]),
        maximum=np.max([part.maximum for part in tallies], axis=0),
        start=tallies[0].start,
        stop=tallies[0].stop,
    )


def after(tallies: Sequence[Tally]) -> Tally:
    """Join ranges of arrangements, in any order but without a gap, of one block of outcomes."""
    parts = sorted(tallies, key=lambda part: part.start)
    if any(a.stop != b.start for a, b in itertools.pairwise(parts)):
        raise DesignError("ranges of arrangements can be joined without gap or overlap only")
    return Tally(
        t=parts[0].t,
        exceeded=np.sum([part.exceeded for part in parts], axis=0),
        maximum=np.concatenate([part.maximum for part in parts]),
        start=parts[0].start,
        stop=parts[-1].stop,
    )


def probabilities(whole: Tally, alternative: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of each outcome by itself, and corrected for all by the largest t of each arrangement; (v,) each.

    ``#(>=) / K``, the table as it is counted as the first of K arrangements; NaN where t is.
    """
    known = ~np.isnan(whole.t)
    return (
        np.where(known, whole.exceeded / (whole.stop - whole.start), np.nan),
        np.where(known, share(whole.maximum, _oriented(whole.t, alternative)), np.nan),
    )


def share(maximum: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the arrangements whose most extreme is as large as each value, ``#(>=) / K``; ties within `TIE` are equal."""
    bar = values - TIE * np.abs(values)
    return (len(maximum) - np.searchsorted(np.sort(maximum), bar, side="left")) / len(maximum)


def _tiles(scheme: Scheme, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes free of nuisance and of unit length, (tiles, m, TILE), and which are rounding alone, (v,)."""
    (n, v), m = Y.shape, scheme.weights.shape[1]
    tiles = np.zeros((-(-v // TILE), m, TILE))
    flat = np.zeros(v, bool)
    for tile, first in zip(tiles, range(0, v, TILE), strict=True):
        part = Y[:, first : first + TILE]
        padded = np.zeros((n, TILE))
        padded[:, : part.shape[1]] = part
        total = np.square(padded).sum(axis=0)
        for _ in range(2 if scheme.nuisance.shape[1] else 0):  # the second sweep removes rounding
            padded -= scheme.nuisance @ (scheme.nuisance.T @ padded)
        rest = padded if scheme.basis is None else scheme.basis.T @ padded
        squares = np.square(rest).sum(axis=0)
        empty = squares <= FLAT * total
        tile[:] = np.where(empty, 0, rest / np.sqrt(np.where(empty, 1, squares)))
        flat[first : first + TILE] = empty[: part.shape[1]]
    return tiles, flat


def _weights(scheme: Scheme, batch: int) -> np.ndarray:
    """Weights under the arrangements of a batch, (r * ARRANGEMENTS, m); zero past the last arrangement."""
    r, m = scheme.weights.shape
    stacked = np.zeros((r, ARRANGEMENTS, m))
    for place in range(ARRANGEMENTS):
        number = batch * ARRANGEMENTS + place
        if number < scheme.exchange.n_permutations:
            stacked[:, place] = scheme.exchange.apply(scheme.weights, number)
    return stacked.reshape(-1, m)


def _signed_squares(weights: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """``t |t| / df`` of the outcomes of a tile under the arrangements of a batch, (ARRANGEMENTS, TILE)."""
    tested, *others = (weights @ tile).reshape(-1, ARRANGEMENTS, TILE)
    size = np.abs(tested)
    left = 1 - np.square(tested)
    for other in others:
        left -= np.square(other)
    return (
        tested * size / np.maximum(left, 1e-30)
    )  # an outcome that the terms explain has a huge t, not an infinite


def _oriented(values: np.ndarray, alternative: str) -> np.ndarray:
    """Larger is more extreme."""
    if alternative == "two-sided":
        return np.abs(values)
    return -values if alternative == "less" else values.copy()


def _root(signed: np.ndarray, df: int) -> np.ndarray:
    return np.sign(signed) * np.sqrt(np.abs(signed) * df)
