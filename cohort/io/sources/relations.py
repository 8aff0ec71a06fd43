"""What the groups of slices that one index found are to each other: one series by its UID, or by all but its UID.

Each group by itself looks like a scan that lacks nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

from cohort.io.policy import Policy
from cohort.io.refusal import Refused
from cohort.io.slices import continuity, succession
from cohort.io.slices.continuity import Part
from cohort.io.slices.dicom_group import KEY_PARTS, mix, uid_conflict
from cohort.io.slices.dicom_kind import unmeasured
from cohort.io.sources.filecache import Key
from cohort.io.sources.index import Index
from cohort.io.sources.series import Series

ONE_SERIES = "looks_like_one_series"
"""Flag of series that differ in nothing but their UIDs; they are kept apart."""

SHORT = "possible_truncation"
"""Flag of a series that ends where another image at the same places, such as the phase of a magnitude, goes on; or where a stray
slice does; or of volumes that alternate with those of another kind."""

_PATIENT, _STUDY, _SERIES, _CLASS, _KIND, _MATRIX, _SPACING = map(
    KEY_PARTS.index,
    ("patient", "study", "series", "SOP class", "ImageType", "matrix", "PixelSpacing"),
)
_SCOUT = frozenset({"DCM-LOCALIZER"})
"""Why slices may be no scan that lie on the grid of one."""

_SPLITTABLE = (_MATRIX, _SPACING)
"""Parts of a key that may make series of their own within one, if the catalog says so."""


@dataclass(frozen=True)
class Group:
    """Slices that may make one scan.

    Parameters
    ----------
    series : Series
    key : tuple
        The smallest of their keys.
    keys : sequence of int
        Numbers of all of their keys in the index.
    number : int, optional
        SeriesNumber.
    """

    series: Series
    key: Key
    keys: Sequence[int]
    number: int | None


class Relations:
    """What groups are to each other.

    Parameters
    ----------
    groups : sequence of Group
        All that were found.
    policy : callable
        What the catalog has decided about a series.
    index : Index
        In which their slices are.

    Attributes
    ----------
    mixed, torn, conflicting : dict of int -> Refused
        By number of a group, why it cannot be a scan: one series holds what no series may, parts of one volume, or two images of
        one name.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        policy: Callable[[Series], Policy],
        index: Index,
    ) -> None:
        self._groups, self._policy, self._index = groups, policy, index
        self._flags: defaultdict[int, set[str]] = defaultdict(set)
        self.mixed = self._mixed()
        self.torn = self._torn()
        self.conflicting = self._conflicting()
        for n in self._without_strays():
            self._flags[n].add(SHORT)
        for n in self._of_several_uids():
            self._flags[n].add(ONE_SERIES)

    def flagged(self, number: int) -> Series:
        """Series of a group, with what is worth knowing of it."""
        series = self._groups[number].series
        own = self._flags.get(number)
        return replace(series, flags=tuple(sorted(own))) if own else series

    def _mixed(self) -> dict[int, Refused]:
        """Refuse groups that are one series by its UID and differ in patient, or in matrix or spacing and nothing else."""
        bad: dict[int, Refused] = {}
        rest = [i for i in range(len(KEY_PARTS)) if i not in _SPLITTABLE]
        for part, same in (
            (_PATIENT, [_STUDY, _SERIES]),
            *((part, rest) for part in _SPLITTABLE),
        ):
            for several in self._alike(same):
                one = several[0]
                other = next(
                    (n for n in several if self._key(n)[part] != self._key(one)[part]), None
                )
                if other is None or (part in _SPLITTABLE and self._are_split(several)):
                    continue
                refusal = mix(part, self._key(one), self._key(other), self._files(one, other))
                bad |= {n: refusal for n in several if n not in bad}
        return bad

    def _torn(self) -> dict[int, Refused]:
        """Refuse groups of one series whose slices continue each other; flag those that end where others go on."""
        bad: dict[int, Refused] = {}
        for several in self._alike([_SERIES, _MATRIX]):
            own = [n for n in several if self._is_measured(n)]
            if len(own) < 2:
                continue
            parts = [Part(self._key(n), self._index.places(self._groups[n].keys)) for n in own]
            found = continuity.compare(parts)
            for number, beside in found.torn.items():
                one, other = own[number], own[beside.other]
                same_patient = self._key(one)[_PATIENT] == self._key(other)[_PATIENT]
                if not (same_patient and self._are_split([one, other])):
                    bad[one] = continuity.refusal(
                        self._key(one), self._key(other), beside, self._files(one, other)
                    )
            for number in found.short:
                self._flags[own[number]].add(SHORT)
            for together in found.together:
                for one, other in combinations([own[n] for n in together], 2):
                    if {one, other} <= bad.keys() or not (
                        refusal := self._torn_in_time(one, other)
                    ):
                        continue
                    bad = {one: refusal, other: refusal} | bad
        return bad

    def _torn_in_time(self, one: int, other: int) -> Refused | None:
        """Refuse two groups at the same places that are one time series; flag those that may be."""
        may_be = succession.may_be_one(self._key(one), self._key(other))
        if not may_be or self._are_split([one, other]):
            return None
        sizes = succession.follow(
            *(self._index.moments(self._groups[n].keys) for n in (one, other))
        )
        if sizes is None:
            return None
        if may_be == "surely":
            return succession.refusal(
                self._key(one), self._key(other), sizes, self._files(one, other)
            )
        for n in (one, other):
            self._flags[n].add(SHORT)
        return None

    def _without_strays(self) -> Iterator[int]:
        """Groups that seem to lack nothing and end where a slice or two of their series, which are in no scan, go on."""
        for several in self._alike([_PATIENT, _STUDY, _SERIES]):
            parts = {}
            for n in several:
                kind = self._key(n)[_KIND]
                if "DERIVED" not in kind and unmeasured(self._key(n)[_CLASS], kind) <= _SCOUT:
                    parts[n] = Part(self._key(n), self._index.places(self._groups[n].keys))
            for (n, scan), (m, stray) in permutations(parts.items(), 2):
                if (
                    self._is_measured(n)
                    and not self._are_split([n, m])
                    and continuity.lacks(scan, stray)
                ):
                    yield n

    def _conflicting(self) -> dict[int, Refused]:
        """Refuse groups of one series in which one SOPInstanceUID names two images; a group by itself is left to its reader."""
        bad: dict[int, Refused] = {}
        for several in self._alike([_SERIES]):
            group_of = {key: n for n in several for key in self._groups[n].keys}
            named: defaultdict[str, dict[Path, set[int]]] = defaultdict(dict)
            for uid, key, path in self._index.instances(group_of):
                named[uid].setdefault(path, set()).add(group_of[key])
            for groups_of in named.values():
                (first, own), *others = groups_of.items()
                for path, groups in others:
                    # Two files with slices in one group are compared there, pixel by pixel.
                    if not own & groups:
                        bad |= dict.fromkeys(
                            (own | groups) - bad.keys(), uid_conflict([first, path])
                        )
        return bad

    def _of_several_uids(self) -> Iterator[int]:
        """Groups that agree in everything, their SeriesNumber too, but the series' UID: some scanners give several."""
        alike: defaultdict[Key, list[int]] = defaultdict(list)
        for n, one in enumerate(self._groups):
            if one.number is not None:
                alike[(one.number, *one.key[:_SERIES], *one.key[_SERIES + 1 :])].append(n)
        for numbers in alike.values():
            if len({self._key(n)[_SERIES] for n in numbers}) > 1:
                yield from numbers

    def _alike(self, same: Sequence[int]) -> list[list[int]]:
        """Groups of one series, two or more, whose keys have these parts in common."""
        alike: defaultdict[Key, list[int]] = defaultdict(list)
        for n, one in enumerate(self._groups):
            if one.key[_SERIES]:
                alike[tuple(one.key[i] for i in same)].append(n)
        return [numbers for numbers in alike.values() if len(numbers) > 1]

    def _is_measured(self, number: int) -> bool:
        codes = unmeasured(self._key(number)[_CLASS], self._key(number)[_KIND])
        return not codes or codes <= self._policy(self._groups[number].series).accept

    def _are_split(self, numbers: Sequence[int]) -> bool:
        return all(self._policy(self._groups[n].series).split for n in numbers)

    def _key(self, number: int) -> Key:
        return self._groups[number].key

    def _files(self, one: int, other: int) -> list[Path]:
        return [self._groups[n].series.first for n in (one, other)]
