"""Which rows may change places (or signs) if there is no effect, and the arrangement of each number.

Arrangement 0 is the table as it is. Each other one follows from (seed, its number) alone, so that they can be
evaluated in any order, in any pieces and anywhere.
"""

import math
from dataclasses import dataclass

import numpy as np

from cohort.stats.columns import DesignError

EXCHANGES = ("within", "whole")
"""Rows change places within their block, or whole blocks of one size do."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """Arrangements of n rows.

    Attributes
    ----------
    n : int
        Rows.
    units : tuple of (int arrays, size by 1)
        Rows of each unit that moves as one: one row, or a block.
    classes : (units,) int array
        Units of one class change places with each other.
    flips : bool
        Units change sign instead of place.
    seed, n_permutations : int
        How many arrangements are looked at, the first included.
    exhaustive : bool
        They are all that there are, each once.
    """

    n: int
    units: tuple[np.ndarray, ...]
    classes: np.ndarray
    flips: bool
    seed: int
    n_permutations: int
    exhaustive: bool

    @property
    def still(self) -> int:
        """Units that have nobody to change places with, and so never move."""
        if self.flips:
            return 0
        _, place, sizes = np.unique(self.classes, return_inverse=True, return_counts=True)
        return int((sizes[place] == 1).sum())

    def doubts(self) -> list[str]:
        """What to know of a test by these arrangements: rows that take no part in it."""
        if not self.still:
            return []
        whole = len(self.units) < self.n
        alone = "blocks have a size" if whole else "rows have a block"
        return [
            f"{self.still} of {len(self.units)} {alone} of their own and never change places: the test is of the others"
        ]

    def moved(self, weights: np.ndarray, moves: np.ndarray) -> np.ndarray:
        """Weights, (r, n), as each of some `moves`, (k, n), gives them to the rows; (r, k, n)."""
        return weights[:, None] * moves if self.flips else weights[:, moves]

    def moves(self, start: int, stop: int) -> np.ndarray:
        """What arrangements `start` to ``stop - 1`` do to the rows: (stop - start, n).

        The row whose weight each row gets, int32; or the sign that it gets, float64.
        """
        found = np.empty((stop - start, self.n), np.float64 if self.flips else np.int32)
        for number, by_row in zip(range(start, stop), found, strict=True):
            if number == 0:
                by_row[:] = 1 if self.flips else np.arange(self.n)
                continue
            moved = self._signs(number) if self.flips else self._places(number)
            if len(self.units) == self.n:
                by_row[:] = moved
                continue
            for i, unit in enumerate(self.units):
                by_row[unit] = moved[i] if self.flips else self.units[moved[i]]
        return found

    def _generator(self, number: int) -> np.random.Generator:
        key = np.array([self.seed, number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _signs(self, number: int) -> np.ndarray:
        if self.exhaustive:
            return np.array([1.0 - 2 * (number >> i & 1) for i in range(len(self.units))])
        return 1.0 - 2 * self._generator(number).integers(0, 2, len(self.units))

    def _places(self, number: int) -> np.ndarray:
        """For each unit, the unit whose weights it gets."""
        places = np.empty(len(self.units), np.intp)
        if not self.exhaustive:
            home = np.argsort(self.classes, kind="stable")
            places[home] = np.lexsort((self._generator(number).random(len(home)), self.classes))
            return places
        for which in np.unique(self.classes):
            members = np.flatnonzero(self.classes == which)
            number, mine = divmod(number, math.factorial(len(members)))
            left = members.tolist()
            for member in members:
                i, mine = divmod(mine, math.factorial(len(left) - 1))
                places[member] = left.pop(i)
        return places


def arrange(
    n: int,
    *,
    n_permutations: int,
    seed: int,
    blocks: np.ndarray | None = None,
    exchange: str = "within",
    flips: bool = False,
) -> Exchange:
    """Decide which units change places, and whether all arrangements are few enough to be looked at.

    Parameters
    ----------
    n : int
        Rows.
    n_permutations : int, at least 1
        Arrangements to draw, the table as it is included. All there are, if they are no more than that.
    seed : int
    blocks : (n,) array, optional
        Label of the block of each row. Without, each row may take every place.
    exchange : {"within", "whole"}
        What blocks mean: rows stay in them, or they move as a whole (with blocks of their size).
    flips : bool
        Change signs: of rows, or of whole blocks.

    Raises
    ------
    DesignError
        If an argument is out of range, or blocks move as a whole and no two are of one size.

    Examples
    --------
    >>> found = arrange(4, n_permutations=100, seed=1, blocks=np.array([0, 0, 1, 1]))
    >>> found.n_permutations, found.exhaustive
    (4, True)
    >>> found.moved(np.arange(4)[None], found.moves(0, 4))[0].tolist()
    [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2], [1, 0, 3, 2]]
    """
    if exchange not in EXCHANGES:
        raise DesignError(f"exchange is {exchange!r}; it takes {', '.join(EXCHANGES)}")
    if n_permutations < 1:
        raise DesignError(f"n_permutations is {n_permutations}; at least 1 is needed")
    if not 0 <= seed < 2**64:
        raise DesignError(f"the seed is {seed}; it takes a whole number from 0 to 2**64 - 1")
    if blocks is not None and len(blocks) != n:
        raise DesignError(f"{len(blocks)} labels of blocks for {n} rows")
    codes = np.zeros(n, int) if blocks is None else np.unique(blocks, return_inverse=True)[1]
    if exchange == "whole":
        if blocks is None:
            raise DesignError("exchange 'whole' needs blocks")
        units = tuple(np.flatnonzero(codes == block) for block in range(codes.max() + 1))
        classes = np.array([len(unit) for unit in units])
        if not flips and len(np.unique(classes)) == len(units):
            raise DesignError(
                f"no two of the {len(units)} blocks are of one size, so none can change places as a whole"
            )
    else:
        units, classes = tuple(np.arange(n)[:, None]), codes
    if flips:
        possible = 2 ** len(units)
    else:
        possible = math.prod(math.factorial(int(size)) for size in np.bincount(classes))
    exhaustive = possible <= n_permutations
    return Exchange(
        n=n,
        units=units,
        classes=classes,
        flips=flips,
        seed=seed,
        n_permutations=possible if exhaustive else n_permutations,
        exhaustive=exhaustive,
    )
