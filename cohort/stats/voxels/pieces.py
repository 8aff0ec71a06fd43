"""A model in every voxel, a piece of space at a time: what a thread or a worker does with one of them.

No number depends on how space is cut or who computes it: voxels do not meet in `kernels.glm`, and matrix products of
arrangements have one fixed shape (`exchanges.maximum`), for which BLAS is held to one thread.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from cohort.io.cube import Cube, Tile, in_order
from cohort.kernels import glm
from cohort.kernels.heap import keep_small
from cohort.stats.exchanges.exchange import Exchange
from cohort.stats.exchanges.maximum import TILE, Tally, beside, tally
from cohort.stats.exchanges.scheme import Scheme

BLOCK_BYTES = 4 << 20
"""Of a piece, so much is held in float64 at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Question:
    """A model of maps, as numbers.

    Attributes
    ----------
    X : (n, p) float64
    rows : (n,) int
        Row of the cube of each row of X.
    contrasts : (k, p) float64
    joint : tuple of (q, p) float64
    above, share
        A voxel counts if so many of the scans exceed this; every voxel without.
    """

    X: np.ndarray
    rows: np.ndarray
    contrasts: np.ndarray
    joint: tuple[np.ndarray, ...] = ()
    above: float | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Piece:
    """The maps of a part of space.

    Attributes
    ----------
    inside : int
        Voxels within the mask.
    counts : (6,) int64
        Of those, by what became of them (`glm.FITTED`, ...).
    voxels : (v,) int64
        Flat indices of the fitted ones in the whole volume, rising.
    fits : glm.Fits
        Of these voxels.
    seen : (n,) int64
        Voxels within the mask in which each scan has a number.
    held : (n,) int64
        The same of voxels where too few scans exceed the bound of the mask, in blocks without any other: told for masks that
        come out empty.
    """

    inside: int
    counts: np.ndarray
    voxels: np.ndarray
    fits: glm.Fits
    seen: np.ndarray
    held: np.ndarray


def fit_piece(cube: Cube, question: Question, item: tuple[Tile, np.ndarray | None]) -> Piece:
    """Fit the voxels of a piece that are in the mask.

    Parameters
    ----------
    item : (tile, mask)
        Where it lies, and which of its voxels count, (z, y, x) bool; None for all.
    """
    tile, mask = item
    block = cube.read(tile)
    shape = block.shape[1:]
    values = block.reshape(len(block), -1)
    counted = np.ones(values.shape[1], bool) if mask is None else mask.reshape(-1).copy()
    parts, fitted = [], []
    seen, held = np.zeros((2, len(question.rows)), np.int64)
    counts, inside = np.zeros(6, np.int64), 0
    whole = (
        question.above is None
        and counted.all()
        and np.array_equal(question.rows, np.arange(len(values)))
    )
    step = values.shape[1] if whole else _voxels_of(len(values))
    for start in range(0, values.shape[1], step):
        here = np.flatnonzero(counted[start : start + step]) + start
        # A piece that is taken whole is not copied.
        Y = values if whole else glm.chosen(values, question.rows, here)
        if question.above is not None:
            above = (question.above < Y).view(np.uint8)
            enough = above.sum(axis=0, dtype=np.int32) >= needed(question.share, len(Y))
            if not enough.any():
                held += np.count_nonzero(~np.isnan(Y), axis=1)
                continue
            if not enough.all():
                here, Y = here[enough], glm.chosen(Y, range(len(Y)), np.flatnonzero(enough))
        if not len(here):
            continue
        found = glm.fit(Y, question.X, question.contrasts, question.joint)
        good = found.state == glm.FITTED
        inside += len(here)
        counts += np.bincount(found.state, minlength=6)
        lacking = found.n < len(Y)
        seen += len(here) - np.count_nonzero(np.isnan(Y[:, lacking]), axis=1)
        fitted.append(here[good])
        parts.append(taken(found, good))
    flat = np.concatenate([np.empty(0, np.int64), *fitted])
    k, m = len(question.contrasts), len(question.joint)
    voxels = _whole(flat, shape, tile, cube.shape)
    return Piece(inside, counts, voxels, joined(parts, k, m), seen, held)


def tally_piece(
    cube: Cube,
    question: Question,
    scheme: Scheme,
    arrangements: tuple[int, int],
    maps: bool,  # noqa: FBT001 - one job, one set of arguments for each piece
    item: tuple[Tile, np.ndarray, np.ndarray | None],
) -> tuple[Tally | None, np.ndarray | None]:
    """Arrange the scans in the voxels of a piece.

    Parameters
    ----------
    arrangements : (start, stop)
    maps : bool
        Whether every t is kept.
    item : (tile, voxels, into)
        Where it lies, flat indices within it of the voxels that are tested, and where their t go, (stop - start, v) float32;
        None to return them.

    Returns
    -------
    tally : Tally or None
        Counts and maxima; None without a voxel.
    t : (stop - start, v) float32, or None
        Every t, if they are kept and went nowhere.
    """
    tile, voxels, into = item
    if not len(voxels):
        return None, None
    block = cube.read(tile)
    values = block.reshape(len(block), -1)
    start, stop = arrangements
    t = into
    if maps and t is None:
        t = np.empty((stop - start, len(voxels)), np.float32)
    moves = _moves(scheme.exchange, start, stop)
    found, step = [], _voxels_of(len(values))
    for first in range(0, len(voxels), step):
        here = slice(first, first + step)
        Y = glm.chosen(values, question.rows, voxels[here])
        out = None if t is None else t[:, here]
        found.append(tally(scheme, Y, start=start, stop=stop, moves=moves, out=out))
    return beside(found), t if into is None else None


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    client: Any = None,
) -> Iterator[Result]:
    """Map over pieces by threads, or by the workers of a `distributed.Client`; results in order, few of them held."""
    if client is None:
        keep_small()
        with one_blas_thread():
            yield from in_order(function, items, workers=workers)
        return
    waiting: deque[Any] = deque()
    most = 2 * max(1, len(client.nthreads()))
    for item in items:
        waiting.append(client.submit(partial(_alone, function), item, pure=False))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _alone(function: Callable[[Item], Result], item: Item) -> Result:
    with one_blas_thread():
        return function(item)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread: the pieces are what runs in parallel, and products keep their bits.

    The number of threads belongs to the process: the first who comes in sets it, and the last who leaves sets it back.
    """
    with _BLAS.lock:
        if not _BLAS.inside:
            _BLAS.limit = _libraries().limit(limits=1, user_api="blas")
        _BLAS.inside += 1
    try:
        yield
    finally:
        with _BLAS.lock:
            _BLAS.inside -= 1
            if not _BLAS.inside:
                _BLAS.limit.restore_original_limits()


@dataclass
class _Blas:
    lock: Any = field(default_factory=Lock)
    inside: int = 0
    limit: Any = None


_BLAS = _Blas()


@lru_cache(maxsize=1)
def _libraries() -> Any:
    """What is loaded, looked for once, which takes milliseconds: NumPy's BLAS, which multiplies here, is there by now."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def needed(share: float, n: int) -> int:
    """Fewest of `n` scans that are this share of them, 0 to 1; 1 at least. As the share is written: of doubles, 0.28 x 25 > 7.

    >>> needed(0.28, 25), needed(0.55, 100), needed(1.0, 25), needed(0.281, 25)
    (7, 55, 25, 8)
    """
    return max(1, math.ceil(round(share * n, 9)))


def taken(fits: glm.Fits, good: np.ndarray) -> glm.Fits:
    """Some voxels of a block; the block itself where that is all of them."""
    if good.all():
        return fits
    return glm.Fits(**{name: values[..., good] for name, values in vars(fits).items()})


def joined(parts: Sequence[glm.Fits], k: int, m: int) -> glm.Fits:
    """Blocks side by side; of none, arrays of no voxel for `k` contrasts and `m` groups of them."""
    empty = glm.Fits.empty(k, m, 0)
    return glm.Fits(
        **{
            name: np.concatenate([getattr(part, name) for part in (empty, *parts)], axis=-1)
            for name in vars(empty)
        }
    )


def _voxels_of(n: int) -> int:
    """Voxels of `n` scans that are held in float64 at a time: whole tiles of products."""
    return max(TILE, BLOCK_BYTES // (8 * n) // TILE * TILE)


@lru_cache(maxsize=1)
def _moves(exchange: Exchange, start: int, stop: int) -> np.ndarray:
    """Drawn once for all pieces, and for each piece that a worker of a cluster is sent."""
    moves = exchange.moves(start, stop)
    moves.flags.writeable = False  # threads share it
    return moves


def _whole(flat: np.ndarray, shape: Sequence[int], tile: Tile, whole: Sequence[int]) -> np.ndarray:
    """Flat indices in a piece -> flat indices in the volume."""
    z, y, x = (part.start + np.arange(size) for part, size in zip(tile, shape, strict=True))
    places = (z[:, None, None] * whole[1] + y[:, None]) * whole[2] + x
    return places.reshape(-1)[flat].astype(np.int64, copy=False)
