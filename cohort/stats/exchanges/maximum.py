"""The t of every outcome under every arrangement, and the largest of each: plain arrays, block by block.

Outcomes come in blocks of columns, arrangements in ranges; `Tally` holds what is left of both and joins. A row of
weights and a column of outcomes always stand in products of one fixed shape, filled up with zeros, so that a number
does not depend on which others were asked for beside it, to the last bit on one machine. Between machines products
may differ in that bit, and counts do not, because what differs by rounding is equal (`extremes.TIE`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohort.kernels import extremes
from cohort.stats.columns import DesignError
from cohort.stats.exchanges.scheme import Scheme

ARRANGEMENTS = 64
"""Arrangements that one product holds; ranges of them are cut at multiples of it."""

TILE = 64
"""Outcomes that one product holds."""

TOGETHER = 8
"""Tiles that are freed of nuisance in one call; each of them is a product of its own."""

SINGLE_TIE = 1e-6
"""Relative difference of two extents, masses or supports below which they are equal: they are made from float32."""

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
    df : int
    """

    t: np.ndarray
    exceeded: np.ndarray
    maximum: np.ndarray
    start: int
    stop: int
    df: int


def working_bytes(scheme: Scheme, outcomes: int) -> int:
    """Memory that `tally` takes for a block of so many outcomes, at most, whatever the number of arrangements."""
    r, m = scheme.weights.shape
    filled = -(-outcomes // TILE) * TILE
    products = ARRANGEMENTS * (2 * r * m + r * TILE + m + 5 * TILE)
    sweeps = 4 * len(scheme.nuisance) * TOGETHER * TILE
    return 8 * (filled * (m + r + 8) + products + sweeps) + 2**16


def tally(
    scheme: Scheme,
    Y: np.ndarray,
    *,
    start: int = 0,
    stop: int | None = None,
    moves: np.ndarray | None = None,
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
    moves : (stop - start, m), optional
        ``scheme.exchange.moves(start, stop)``, where it serves more than one block.
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
    v, (r, m) = Y.shape[1], scheme.weights.shape
    tiles, flat = _tiles(scheme, Y)
    observed = _observed(scheme, tiles)
    found = _oriented(observed, scheme.alternative)
    # t |t| / df -> t |t| / (df + t^2)
    bars = extremes.bars(found / (1 + np.abs(found)))
    exceeded = np.zeros((len(tiles), TILE), np.int64)
    maximum = np.full(stop - start, -np.inf)
    ignored = np.ones((len(tiles), TILE), bool)
    ignored.reshape(-1)[:v] = flat
    side = extremes.SIDES[scheme.alternative]
    # One memory for all products: to ask for it anew costs as much as half a product.
    products = np.empty((r, ARRANGEMENTS, TILE))
    for batch in range(start // ARRANGEMENTS, -(-stop // ARRANGEMENTS)):
        origin = batch * ARRANGEMENTS
        first, last = max(start, origin), min(stop, origin + ARRANGEMENTS)
        rows, part = slice(first - origin, last - origin), slice(first - start, last - start)
        moved = scheme.exchange.moves(first, last) if moves is None else moves[part]
        weights = np.zeros((r, ARRANGEMENTS, m))
        weights[:, rows] = scheme.exchange.moved(scheme.weights, moved)
        for i, tile in enumerate(tiles):
            np.matmul(weights.reshape(-1, m), tile, out=products.reshape(-1, TILE))
            extremes.tally(
                products, rows.start, rows.stop, bars[i], ignored[i], side, exceeded[i], maximum[part]
            )  # fmt: skip
            if out is not None:
                wide = min(TILE, v - i * TILE)
                kept = np.where(ignored[i, :wide], 0, products[0, rows, :wide])
                out[part, i * TILE : i * TILE + wide] = _root(kept, scheme.df)
    t = _root(observed.reshape(-1)[:v], scheme.df)
    if start == 0:
        # To the last bit those that are returned: products of another shape may differ in it.
        maximum[0] = found[~ignored].max(initial=-np.inf)
        if out is not None:
            out[0] = np.where(flat, 0, t)
    return Tally(
        t=np.where(flat, np.nan, t),
        exceeded=exceeded.reshape(-1)[:v],
        maximum=_root(maximum, scheme.df),
        start=start,
        stop=stop,
        df=scheme.df,
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
        df=tallies[0].df,
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
        df=parts[0].df,
    )


def probabilities(whole: Tally, alternative: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of each outcome by itself, and corrected for all by the largest t of each arrangement; (v,) each.

    ``#(>=) / K``, the table as it is counted as the first of K arrangements; NaN where t is.
    """
    known = ~np.isnan(whole.t)
    return (
        np.where(known, whole.exceeded / (whole.stop - whole.start), np.nan),
        np.where(known, share(whole.maximum, _oriented(whole.t, alternative), whole.df), np.nan),
    )


def share(maximum: np.ndarray, values: np.ndarray, df: int | None = None) -> np.ndarray:
    """Share of the arrangements whose most extreme is as large as each value, ``#(>=) / K``.

    Of t with `df` degrees of freedom ties are told as in `extremes.tally`; without, within `SINGLE_TIE`.
    """
    if df is None:
        held, bar = maximum, values - SINGLE_TIE * np.abs(values)
    else:
        held, bar = extremes.explained(maximum, df), extremes.bars(extremes.explained(values, df))
    return (len(held) - np.searchsorted(np.sort(held), bar, side="left")) / len(held)


def critical(maximum: np.ndarray, level: float, df: int | None = None) -> float:
    """Least of the most extreme whose `share` is at most `level`; infinite if none has it."""
    low_enough = maximum[share(maximum, maximum, df) <= level * (1 + 1e-12)]
    return float(low_enough.min(initial=np.inf))


def _tiles(scheme: Scheme, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes free of nuisance and of unit length, (tiles, m, TILE), and which are rounding alone, (v,)."""
    (n, v), m = Y.shape, scheme.weights.shape[1]
    tiles = np.zeros((-(-v // TILE), m, TILE))
    flat = np.zeros(tiles.shape[::2], bool)
    for low in range(0, len(tiles), TOGETHER):
        own = tiles[low : low + TOGETHER]
        part = Y[:, low * TILE : (low + TOGETHER) * TILE]
        filled = np.zeros((n, len(own) * TILE))
        filled[:, : part.shape[1]] = part
        free = filled.reshape(n, -1, TILE).swapaxes(0, 1).copy()
        total = np.square(free).sum(axis=1)
        for _ in range(2 if scheme.nuisance.shape[1] else 0):  # the second sweep removes rounding
            free -= scheme.nuisance @ (scheme.nuisance.T @ free)
        rest = free if scheme.basis is None else scheme.basis.T @ free
        squares = np.square(rest).sum(axis=1)
        empty = squares <= FLAT * total
        np.divide(rest, np.where(empty, np.inf, np.sqrt(squares))[:, None], out=own)
        flat[low : low + TOGETHER] = empty
    flat = flat.reshape(-1)[:v]
    return tiles, flat


def _observed(scheme: Scheme, tiles: np.ndarray) -> np.ndarray:
    """``t |t| / df`` of the outcomes in the table as it is, (tiles, TILE)."""
    # BLAS multiplies a single row by another routine, with other last bits: a row of zeros keeps it to that of the others.
    weights = np.vstack([scheme.weights, np.zeros(scheme.weights.shape[1])])
    products = (weights @ tiles)[:, :-1, None]
    bar, ignored = np.full(TILE, np.inf), np.ones(TILE, bool)
    exceeded, maximum = np.zeros(TILE, np.int64), np.zeros(1)
    for each in products:
        extremes.tally(each, 0, 1, bar, ignored, 0, exceeded, maximum)
    return products[:, 0, 0]


def _oriented(values: np.ndarray, alternative: str) -> np.ndarray:
    """Larger is more extreme."""
    if alternative == "two-sided":
        return np.abs(values)
    return -values if alternative == "less" else values.copy()


def _root(signed: np.ndarray, df: int) -> np.ndarray:
    return np.sign(signed) * np.sqrt(np.abs(signed) * df)
