"""What a node lists: its series with a state that changes when they do, and the instances of one.

**What is promised.** A series that is new, or of which the number of instances, the patient's id, or another of the attributes in
`_STATE` changed, has another state and is fetched again; one that has the same is not: a node on which nothing changed costs one request for each
`PAGE` series, and one more. DICOMweb has no attribute for the time of a change and UIDs are not to be used twice, so that an instance which was
replaced by another under the same UID, or one taken away while another was added, is not seen in a listing; ``--rehash`` fetches everything again.
Where a node does not tell the number of instances, the instances of each series are listed on every call instead.
"""

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cohort.io.sources.dicomweb.address import FILTERS, agrees, step
from cohort.io.sources.dicomweb.node import BadAnswer, Found, Node
from cohort.provenance import digest

Made = TypeVar("Made")

PAGE = 1000
"""Objects a request asks for; a node may give fewer."""

_LISTINGS = 3
"""How often a list is begun anew because something came or went while it was read."""

STUDY, SERIES, INSTANCE, SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"
ROWS, COUNT = "00280010", "00201209"
"""Attributes by their tags: UIDs, rows of an image, instances of a series."""

_STATE = (
    "00080020",  # StudyDate
    "00080060",  # Modality
    "0008103E",  # SeriesDescription
    "00100020",  # PatientID
    "00200011",  # SeriesNumber
    COUNT,
)
"""Attributes of which a series' state is made; those of the study that count other series have no place here."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One series; small, because a node may list hundreds of thousands.

    Parameters
    ----------
    study, series : str
        UIDs.
    state : str
        Changes when the series does, as this module promises.
    """

    study: str
    series: str
    state: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a series.

    Parameters
    ----------
    uid : str
    sop_class : str
        "" if the node does not tell.
    has_rows : bool
        Whether the node lists a number of rows for it.
    """

    uid: str
    sop_class: str
    has_rows: bool


def all_series(node: Node) -> list[Listed]:
    """Series of a node that its filters let through, in its order.

    Raises
    ------
    NodeAway, BadAnswer
        See `Node.listed`. BadAnswer too if the list changes faster than it can be read.
    """
    filters = node.address.filters
    query = [
        *_plain(filters),
        *(("includefield", tag) for tag in sorted({*_STATE, *_tags(filters)})),
    ]

    def make(one: Found) -> Listed | None:
        return _listed(node, one) if passes(one, filters) else None

    try:
        found = _pages(node, "series", query, make, STUDY, SERIES)
    except BadAnswer as error:
        if error.errno != errno.ENOENT:
            raise
        # A node that lists series below their studies only.
        studies = _pages(node, "studies", _of_study(filters), lambda s: _uid(s, STUDY), STUDY)
        found = [
            one
            for study in studies
            for one in _pages(node, f"studies/{step(study)}/series", query, make, SERIES)
        ]
    return [one for one in found if one is not None]


def instances(node: Node, path: Path) -> list[Instance]:
    """Instances of a series. Raises as `all_series`."""
    resource = "/".join((*path.parts[-4:], "instances"))

    def make(one: Found) -> Instance:
        sop_class, rows = value(one, SOP_CLASS), value(one, ROWS)
        return Instance(_uid(one, INSTANCE), str(sop_class or ""), rows is not None)

    return _pages(node, resource, [], make, INSTANCE)


def value(found: Found, tag: str) -> Any:
    """First value of an attribute of DICOM JSON; None if there is none."""
    attribute = found.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _listed(node: Node, one: Found) -> Listed:
    study, series = _uid(one, STUDY), _uid(one, SERIES)
    known = [str(value(one, tag)) for tag in _STATE]
    if value(one, COUNT) is None:
        path = node.address.series_path(study, series)
        known += sorted(instance.uid for instance in instances(node, path))
    return Listed(study, series, digest(known))


def passes(one: Found, filters: Sequence[tuple[str, str]]) -> bool:
    """Whether a series is what was asked for, as far as its node tells: not every one filters by every attribute."""
    for keyword, wanted in filters:
        found = value(one, FILTERS[keyword][0])
        if found is not None and not agrees(wanted, str(found), keyword):
            return False
    return True


def _tags(filters: Sequence[tuple[str, str]]) -> list[str]:
    return [FILTERS[keyword][0] for keyword, _ in filters]


def _of_study(filters: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in _plain(filters) if pair[0].startswith("Study")]


def _plain(filters: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Filters as a node is asked, with ``?``, any character, for whatever a URL writes in another way.

    Some nodes (Orthanc 1.10) do not read it back. What they let through too much, `passes` sees.
    """
    return [(keyword, re.sub(r"[^A-Za-z0-9._*?-]", "?", wanted)) for keyword, wanted in filters]


def _uid(found: Found, tag: str) -> str:
    uid = value(found, tag)
    if not isinstance(uid, str) or not uid.strip() or len(uid) > 64:
        raise BadAnswer(errno.EBADMSG, "a list in which something has no UID")
    return uid.strip()


def _pages(
    node: Node,
    resource: str,
    query: Sequence[tuple[str, str]],
    make: Callable[[Found], Made],
    *keys: str,
) -> list[Made]:
    """What is made of everything that a search finds, a page at a time; `keys` tell its objects apart."""

    def page(offset: int) -> list[Found]:
        return node.listed(resource, [*query, ("limit", f"{PAGE}"), ("offset", f"{offset}")])

    def key(one: Found) -> tuple[str, ...]:
        return tuple(_uid(one, tag) for tag in keys)

    for _ in range(_LISTINGS):
        try:
            return [make(one) for one in _once(page, key)]
        except _MovedError:
            continue
    raise BadAnswer(errno.EAGAIN, f"a list that changed {_LISTINGS} times while it was read")


class _MovedError(Exception):
    """Something came or went while a list was read."""


def _once(
    page: Callable[[int], list[Found]], key: Callable[[Found], tuple[str, ...]]
) -> Iterator[Found]:
    """Objects of all pages. Raises `_MovedError`.

    Each page begins with the last object of the one before: if it is another, something came or went, and one may have been
    passed over. A node that knows no offset gives its first page, which is all it has, once more.
    """
    first: tuple[str, ...] | None = None
    last: tuple[str, ...] | None = None
    seen: set[tuple[str, ...]] = set()
    n = 0
    while True:
        overlap = n > 1  # one alone would be the first page's first, too
        found = page(n - overlap)
        if overlap:
            if found and key(found[0]) == first:
                if n >= PAGE:
                    raise BadAnswer(errno.EMSGSIZE, f"the first {n} objects of a longer list")
                return
            if not found or key(found[0]) != last:
                raise _MovedError
            found = found[1:]
        before = len(seen)
        for one in found:
            if key(one) not in seen:
                seen.add(key(one))
                yield one
        if len(seen) == before:
            return
        n += len(found)
        first, last = first or key(found[0]), key(found[-1])
