"""Which scans of a cohort resemble each other more than those of different persons do.

What sets each scan apart (`cohort.kernels.traits`) has an even and an odd part, left against right, that correlate with those of another
scan: their sum is the correlation r with it, their difference that with its mirror image.

Which r is more than chance is read from the cohort: the upper tail of r (as Fisher's z) between scans of different subjects
falls off exponentially, so its 99th percentile and the median excess above give the value which the largest of all pairs
exceeds by chance in one cohort of a thousand (peaks over a threshold; Pickands 1975, Ann Stat 3:119).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.kernels import traits
from cohort.kernels.traits import Traits

KINDS = ("flipped", "duplicate", "swapped", "one_person")
"""What may be found, in the order in which it is told."""

COLUMNS = ("kind", "scan_id", "other", "r", "expected", "reason")

FEWEST = 10
"""Scans below which nobody knows what they share, and nothing is told."""

BY_CHANCE = 1e-3
"""Probability that a cohort without any such pair shows one."""

TAIL = 0.01
"""Share of the pairs from which the tail is read; of few pairs at least 20."""

COPY = 0.97
"""r of a copy: less than 6 % of what sets it apart is not shared. A person scanned again stays below."""

SAME_VISIT_COPY = 0.995
"""r of a copy within one subject, who may lie still in the scanner: only the noise of storing it again is left."""


def resemblances(
    volumes: np.ndarray, scan_ids: Sequence[str], subjects: Sequence[str]
) -> pd.DataFrame:
    """Scans that resemble each other more than they should.

    Parameters
    ----------
    volumes : (N, Z, Y, X) array
        As `kernels.traits.traits` takes them.
    scan_ids, subjects : sequence of N str

    Returns
    -------
    DataFrame
        One row a finding, by kind, strongest first: ``kind`` (``flipped``, ``duplicate``, ``swapped``, ``one_person``),
        ``scan_id``, ``other``, ``r`` (with the mirror image for a flip), ``expected`` (median r between different subjects) and
        ``reason`` in words. ``attrs["reason"]`` says why nothing could be told, of fewer than 10 scans that show something or
        of scans that are all alike; it is empty where all were compared. N = 100,000 takes N^2 P multiplications and the memory of `kernels.traits`; no N x N array is made.
    """
    # A scan of one value, or of no numbers, resembles nothing; half a cohort of them would be what all share.
    shown = [i for i, v in enumerate(volumes) if v.any() and np.isfinite(v).all()]
    if len(shown) < FEWEST:
        return _table([], reason=too_few(len(shown), len(volumes)))
    if len(shown) < len(volumes):
        volumes = volumes[shown]
    ids = [str(scan_ids[i]) for i in shown]
    who = np.unique([str(subjects[i]) for i in shown], return_inverse=True)[1]
    found = traits.traits(volumes)
    if not found.even.any():
        return _table(
            [], reason=f"all {len(shown)} scans are alike: nothing sets one of them apart"
        )
    level = _levels(found, who)
    pairs = list(_alike(found, level, who))
    rows = list(_flips(pairs, level, found, ids))
    near = {(p.i, p.j) for p in pairs if p.r >= level.r}
    plain = [p for p in pairs if p.r >= level.r and not p.is_flip(level)]
    rows += _copies(plain, level, ids, who)
    across = [p for p in plain if who[p.i] != who[p.j] and p.r < COPY]
    rows += _people(across, near, level, found, ids, who)
    return _table(rows)


@dataclass(frozen=True)
class _Levels:
    """What is more than chance: correlation, that with a mirror image, that of odd parts; and the median."""

    r: float
    mirrored: float
    odd: float
    expected: float


@dataclass(frozen=True)
class _Pair:
    i: int
    j: int
    r: float
    mirrored: float
    odd: float
    """Correlation of the odd parts."""

    def is_flip(self, level: _Levels) -> bool:
        return self.mirrored >= level.mirrored and self.mirrored > self.r and self.odd <= level.odd


def _levels(found: Traits, who: np.ndarray) -> _Levels:
    n = len(who)
    sample = np.unique(np.linspace(0, n - 1, min(n, traits.SAMPLE)).astype(int))
    even, odd = found.even[sample], found.odd[sample]
    first, second = np.triu_indices(len(sample), 1)
    apart = who[sample][first] != who[sample][second]
    e, o = ((part @ part.T)[first, second][apart] for part in (even, odd))
    if not e.size:
        return _Levels(COPY, COPY, -0.5, 0.0)
    length = np.sqrt((odd**2).sum(axis=1))
    lengths = (length[first] * length[second])[apart]
    turned = np.divide(o, lengths, out=np.zeros_like(o), where=lengths > 0)
    pairs = n * (n - 1) / 2
    return _Levels(
        beyond_chance(e + o, pairs),
        beyond_chance(e - o, pairs),
        -beyond_chance(-turned, pairs),
        float(np.median(e + o)),
    )


def beyond_chance(r: np.ndarray, pairs: float) -> float:
    """The correlation which the largest of so many exceeds by chance once in a thousand cohorts; at most that of a copy.

    Parameters
    ----------
    r : (M,) array
        Correlations between scans of different subjects.
    pairs : float
        How many of them there are in all.
    """
    z = np.arctanh(np.clip(r, -0.999999, 0.999999))
    share = max(TAIL, min(0.5, 20 / z.size))
    edge = float(np.quantile(z, 1 - share))
    # The median of an exponential tail is ln 2 of its mean, and does not hear of the few pairs that are looked for.
    excess = float(np.median(z[z >= edge] - edge)) / np.log(2)
    return float(min(COPY, np.tanh(edge + excess * np.log(share * pairs / BY_CHANCE))))


def _alike(found: Traits, level: _Levels, who: np.ndarray) -> Iterator[_Pair]:
    """Pairs above a level, block by block; those of one subject too."""
    n = len(who)
    odd = np.sqrt((found.odd**2).sum(axis=1))
    for top in range(0, n, traits.BLOCK):
        rows = slice(top, min(n, top + traits.BLOCK))
        for left in range(top, n, traits.BLOCK):
            columns = slice(left, min(n, left + traits.BLOCK))
            e = found.even[rows] @ found.even[columns].T
            o = found.odd[rows] @ found.odd[columns].T
            for i, j in np.argwhere((e + o >= level.r) | (e - o >= level.mirrored)):
                if left + j > top + i:
                    lengths = odd[top + i] * odd[left + j]
                    turned = float(o[i, j] / lengths) if lengths else 0.0
                    sums = float(e[i, j] + o[i, j]), float(e[i, j] - o[i, j])
                    yield _Pair(int(top + i), int(left + j), *sums, turned)


def _flips(
    pairs: Sequence[_Pair], level: _Levels, found: Traits, ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for p in pairs:
        if p.is_flip(level):
            # The one that lies the other way round than the cohort does.
            i, j = sorted((p.i, p.j), key=lambda k: found.side[k])
            reason = (
                f"is the mirror image of {ids[j]} (r {p.mirrored:.3f} with it mirrored, {p.r:.3f} as it lies; "
                f"of what differs left and right {p.odd:.2f}): left and right of one of them are exchanged"
            )
            yield _row("flipped", ids[i], ids[j], p.mirrored, level, reason)


def _copies(
    pairs: Sequence[_Pair], level: _Levels, ids: Sequence[str], who: np.ndarray
) -> Iterator[dict[str, Any]]:
    for p in pairs:
        same = who[p.i] == who[p.j]
        if p.r >= (SAME_VISIT_COPY if same else COPY):
            whose = "one subject" if same else "two subjects"
            reason = f"holds the image of {ids[p.j]} once more (r {p.r:.4f}); both count, as scans of {whose}"
            yield _row("duplicate", ids[p.i], ids[p.j], p.r, level, reason)


def _people(
    pairs: Sequence[_Pair],
    near: set[tuple[int, int]],
    level: _Levels,
    found: Traits,
    ids: Sequence[str],
    who: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """One person under two names: exchanged labels where the other scans of a name do not resemble this one."""
    told: dict[tuple[int, int], _Pair] = {}
    strangers: dict[tuple[int, int], dict[int, float]] = {}
    for p in sorted(pairs, key=lambda p: -p.r):
        names = (int(min(who[p.i], who[p.j])), int(max(who[p.i], who[p.j])))
        told.setdefault(names, p)
        for k in (p.i, p.j):
            for other in np.flatnonzero(who == who[k]):
                if other != k and (min(k, other), max(k, other)) not in near:
                    r = float(found.even[k] @ found.even[other] + found.odd[k] @ found.odd[other])
                    strangers.setdefault(names, {})[int(other)] = r
    for names, p in told.items():
        unlike = strangers.get(names, {})
        if unlike:
            others = ", ".join(f"{ids[k]} (r {r:.3f})" for k, r in sorted(unlike.items()))
            reason = (
                f"resembles {ids[p.j]} as one person does (r {p.r:.3f}), and not as its subject's own: {others}; "
                "labels seem to be exchanged"
            )
        else:
            reason = f"resembles {ids[p.j]} as scans of one person do (r {p.r:.3f}), and they are said to be of two subjects"
        kind = "swapped" if unlike else "one_person"
        yield _row(kind, ids[p.i], ids[p.j], p.r, level, reason)


def _row(
    kind: str, scan_id: str, other: str, r: float, level: _Levels, reason: str
) -> dict[str, Any]:
    return dict(zip(COLUMNS, (kind, scan_id, other, r, level.expected, reason), strict=True))


def too_few(shown: int, n: int) -> str:
    """Why so few scans are not compared.

    Examples
    --------
    >>> too_few(7, 7)
    'at least 10 scans are needed to tell what they share; there are 7, so none was compared'
    >>> too_few(7, 12)
    'at least 10 scans are needed to tell what they share; 7 of 12 show anything, so none was compared'
    """
    have = f"{shown} of {n} show anything" if shown < n else f"there are {n}"
    have = "there is 1" if n == shown == 1 else have
    return (
        f"at least {FEWEST} scans are needed to tell what they share; {have}, so none was compared"
    )


def _table(rows: Sequence[dict[str, Any]], *, reason: str = "") -> pd.DataFrame:
    numbers = ("r", "expected")
    types = {name: "float64" if name in numbers else "str" for name in COLUMNS}
    ordered = sorted(rows, key=lambda row: (KINDS.index(row["kind"]), -row["r"]))
    found = pd.DataFrame(ordered, columns=list(COLUMNS)).astype(types)
    found.attrs["reason"] = reason
    return found
