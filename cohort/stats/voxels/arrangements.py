"""Maps under arrangements of the scans: what is the most extreme of each, and how often it reaches what was found."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cohort.io.cube import Cube, Tile, in_order
from cohort.kernels import clusters, tfce
from cohort.stats.columns import DesignError
from cohort.stats.exchanges.maximum import ARRANGEMENTS, Tally, after, beside, probabilities
from cohort.stats.exchanges.scheme import Scheme
from cohort.stats.exchanges.tail import Tail, corrected, critical, fit_tail
from cohort.stats.voxels.pieces import Question, each, tally_piece

MAP_BYTES = 64 << 20
"""Of t that is held for clusters and support, over all arrangements that are looked at together."""

MOVES_BYTES = 16 << 20
"""Of what arrangements that are looked at together do to the rows."""

CONNECTIVITY = {6: 1, 18: 2, 26: 3}
"""Neighbours of a voxel -> axes in which they may differ."""


@dataclass(frozen=True)
class Asked:
    """What is kept of each arrangement beside the largest t.

    Attributes
    ----------
    threshold : float or None
        Value of t above which voxels form clusters.
    tfce : bool
    neighbours : {6, 18, 26}
    voxel_mm3 : float
    tail : bool
        Small corrected p come from a tail that is fitted to the most extreme.
    """

    threshold: float | None = None
    tfce: bool = False
    neighbours: int = 6
    voxel_mm3: float = 1.0
    tail: bool = False

    @property
    def maps(self) -> bool:
        """Whether whole maps are needed."""
        return self.tfce or self.threshold is not None


@dataclass(frozen=True)
class Arranged:
    """One contrast under all arrangements, two-sided.

    Attributes
    ----------
    t : (v,) float64
        Of the table as it is.
    p, fwe_p : (v,) float64
        Of a voxel by itself; corrected for all by the largest t.
    support, support_p : (v,) float64 or None
        Threshold-free enhancement, with the sign of t, and its p corrected for all voxels.
    maximum : dict of name -> (K,) float64
        The most extreme of each arrangement: ``t``, ``extent`` (voxels), ``mass``, ``support``.
    tails : dict of name -> Tail
        Of those of `maximum` to which a tail was asked for and fits; the others are counted.
    exhaustive : bool
        Whether these are all arrangements that are possible.
    df : int
    doubts : tuple of str
        What to know of a test by these arrangements.
    """

    t: np.ndarray
    p: np.ndarray
    fwe_p: np.ndarray
    support: np.ndarray | None = None
    support_p: np.ndarray | None = None
    maximum: dict[str, np.ndarray] = field(default_factory=dict)
    tails: dict[str, Tail] = field(default_factory=dict)
    exhaustive: bool = False
    df: int = 0
    doubts: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Arrangements, the table as it is included."""
        return len(self.maximum["t"])

    def corrected(self, name: str, values: np.ndarray) -> np.ndarray:
        """Probability of each value, corrected for all: of counts, small ones of the tail; see `exchanges.tail`."""
        df = self.df if name == "t" else None
        return corrected(self.maximum[name], values, self.tails.get(name), df)

    @property
    def smallest(self) -> float:
        """Corrected p of the most extreme t that any arrangement has: no voxel can have a smaller one."""
        return float(self.corrected("t", self.maximum["t"].max(keepdims=True))[0])

    def critical(self, level: float = 0.05) -> float:
        """Value of t from which ``fwe_p <= level``; infinite if none has it."""
        return critical(self.maximum["t"], level, self.tails.get("t"), self.df)


def arranged(
    cube: Cube,
    question: Question,
    scheme: Scheme,
    voxels: np.ndarray,
    asked: Asked,
    *,
    workers: int = 2,
    client: Any = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Arranged:
    """Compare a contrast with what arrangements of the scans give.

    Parameters
    ----------
    scheme : Scheme
        Of the contrast.
    voxels : (v,) int64
        Flat indices, rising, of the voxels that every scan has.
    progress : callable
        Called with arrangements done, and all.

    Raises
    ------
    DesignError
        Without a voxel.

    Notes
    -----
    The cube is read once for as many arrangements as `MOVES_BYTES` and, for clusters and support, `MAP_BYTES` hold.
    """
    if not len(voxels):
        raise DesignError(
            "permutations: expected voxels that every scan has, found none; leave out scans that lack many"
        )
    total = scheme.exchange.n_permutations
    fits = MOVES_BYTES // ((8 if scheme.exchange.flips else 4) * scheme.exchange.n)
    if asked.maps:
        fits = min(fits, MAP_BYTES // (4 * len(voxels)))
    together = min(total, max(ARRANGEMENTS, fits // ARRANGEMENTS * ARRANGEMENTS))
    places = list(_items(cube, voxels))
    ends = np.cumsum([0, *(len(own) for _, own in places)])
    volume = _Volume(cube.shape, voxels)
    # One memory for every range: t of the range before would still be held while the first of the next come.
    whole = np.empty((together, len(voxels) if asked.maps else 0), np.float32)
    tallied: Tally | None = None
    others: list[dict[str, float]] = []
    support: np.ndarray | None = None
    for start in range(0, total, together):
        stop = min(total, start + together)
        job = partial(tally_piece, cube, question, scheme, (start, stop), asked.maps)
        held = whole[: stop - start]
        columns = [held[:, a:b] for a, b in itertools.pairwise(ends)]
        # Threads put t into its place; what another process computes has to be sent.
        shared = columns if asked.maps and client is None else [None] * len(places)
        items = [(*place, into) for place, into in zip(places, shared, strict=True)]
        parts = []
        for into, (found, t) in zip(
            columns, each(job, items, workers=workers, client=client), strict=True
        ):
            if found is not None:
                parts.append(found)
            if t is not None:
                into[:] = t
        # Ranges are joined as they come: each holds numbers of every voxel.
        new = beside(parts)
        tallied = new if tallied is None else after([tallied, new])
        if asked.maps:
            if start == 0 and asked.tfce:
                support = volume.support(held[0], asked)
            others += in_order(partial(volume.extremes, asked=asked), held, workers=workers)
        progress(stop, total)
    assert tallied is not None
    p, fwe_p = probabilities(tallied, scheme.alternative)
    maximum = {"t": tallied.maximum}
    for name in others[0] if others else ():
        maximum[name] = np.array([one[name] for one in others])
    tails = {}
    if asked.tail and not scheme.exchange.exhaustive:  # counts of all arrangements are exact
        fitted = {name: fit_tail(values) for name, values in maximum.items()}
        tails = {name: one for name, one in fitted.items() if one is not None}
    if "t" in tails:
        fwe_p = corrected(maximum["t"], np.abs(tallied.t), tails["t"], scheme.df)
    return Arranged(
        t=tallied.t,
        p=p,
        fwe_p=fwe_p,
        support=support,
        support_p=None
        if support is None
        else corrected(maximum["support"], np.abs(support), tails.get("support")),
        maximum=maximum,
        tails=tails,
        exhaustive=scheme.exchange.exhaustive,
        df=scheme.df,
        doubts=tuple(scheme.exchange.doubts()),
    )


class _Volume:
    """The box around the voxels of a mask: maps of them, laid out in space."""

    def __init__(self, shape: tuple[int, int, int], voxels: np.ndarray) -> None:
        places = np.array(np.unravel_index(voxels, shape))
        low = places.min(axis=1)
        self.shape = tuple(int(n) for n in places.max(axis=1) - low + 1)
        self.place = np.ravel_multi_index(tuple(places - low[:, None]), self.shape)

    def laid(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(self.shape, np.float32)
        out.reshape(-1)[self.place] = values
        return out

    def support(self, t: np.ndarray, asked: Asked) -> np.ndarray:
        """Support of each voxel, with the sign of its t; positive and negative voxels do not support each other."""
        found = np.zeros(len(t))
        for sign in (1, -1):
            enhanced = tfce.enhance(
                self.laid(sign * t),
                connectivity=CONNECTIVITY[asked.neighbours],
                voxel_volume=asked.voxel_mm3,
            )
            found += sign * enhanced.reshape(-1)[self.place]
        return found

    def extremes(self, t: np.ndarray, asked: Asked) -> dict[str, float]:
        found: dict[str, float] = {}
        if asked.threshold is not None:
            both = [
                clusters.largest(
                    self.laid(sign * t),
                    above=asked.threshold,
                    connectivity=CONNECTIVITY[asked.neighbours],
                )
                for sign in (1, -1)
            ]
            found["extent"] = float(max(size for size, _ in both))
            found["mass"] = max(mass for _, mass in both)
        if asked.tfce:
            found["support"] = float(np.abs(self.support(t, asked)).max())
        return found


def _items(cube: Cube, voxels: np.ndarray) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each piece with the voxels in it, as flat indices of the piece.

    Pieces follow each other in raster order, and so do voxels: results stand side by side in the order of `voxels`.
    """
    places = np.unravel_index(voxels, cube.shape)
    for tile in cube.tiles():
        inside = np.ones(len(voxels), bool)
        for place, part in zip(places, tile, strict=True):
            inside &= (place >= part.start) & (place < part.stop)
        own = [p[inside] - part.start for p, part in zip(places, tile, strict=True)]
        sizes = tuple(part.stop - part.start for part in tile)
        yield tile, np.ravel_multi_index(tuple(own), sizes).astype(np.int64)
