"""What a DICOM node can do that a source needs: tried out on the smallest of the series that it lists first. Nothing is written there."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cohort.io import scratch
from cohort.io.doctor import Check, Trial
from cohort.io.sources.dicomweb import address, listing
from cohort.io.sources.dicomweb.address import below_root, step
from cohort.io.sources.dicomweb.listing import Instance
from cohort.io.sources.dicomweb.node import Found, Node
from cohort.io.sources.dicomweb.retrieve import fetch
from cohort.io.sources.places import from_url

_FIRST = 20
"""Series among which the smallest is looked for."""


def probe(url: str) -> list[Check]:
    """Try out ``dicomweb://host:port/root``, with the credentials that an ingest would use.

    Raises
    ------
    UrlError
        If the URL is none of a node.
    """
    return list(_Node(url).checks())


class _Node:
    """Trials in the order in which a failure explains the next."""

    def __init__(self, url: str) -> None:
        self._address = address.of(from_url(url))
        self._found: list[Found] = []
        self._series, self._count = Path(), ""
        self._instances: list[Instance] = []
        self._digests: dict[str, str] = {}

    def checks(self) -> Iterator[Check]:
        first = Trial("answers", self._answers, "nothing works: look at host, port, root, credentials and certificate").check()  # fmt: skip
        yield first
        if not first.passed:
            return
        listed = Trial(
            "lists series",
            self._lists,
            "series are listed study by study, a request for each study on every call",
            needed=False,
        ).check()
        yield listed
        if not self._found:
            yield Check(
                "something to try",
                passed=False,
                found="no series" if listed.passed else "not tried",
                otherwise="store a series there that the filters let through, and call again",
                needed=False,
            )
            return
        for trial in (
            Trial("filters", self._filters, "the node is asked for everything, and filtered here", needed=False),
            Trial("pages", self._pages, f"a node of more than {listing.PAGE} series cannot be read"),
            Trial("counts instances", self._counts, "the instances of every series are listed on every call", needed=False),
            Trial("lists instances", self._lists_instances, "nobody knows whether a series came whole"),
            Trial("headers alone", self._headers, "reports and plans are fetched whole, to see that they hold no pixels", needed=False),
            Trial("sends a series", self._sends, "no scan can be read"),
            Trial("the same bytes twice", self._repeats, "a series that is fetched again looks changed", needed=False),
        ):  # fmt: skip
            check = trial.check()
            yield check
            if check.needed and not check.passed:
                return

    def _node(self) -> Node:
        return Node(self._address)

    def _answers(self) -> tuple[bool, str]:
        self._node().ping()
        safe = (
            "over TLS"
            if self._address.is_secure
            else "without TLS: what it sends can be read on the way"
        )
        return True, f"a search for studies, {safe}"

    def _lists(self) -> tuple[bool, str]:
        self._found = self._page(_FIRST, 0)
        return True, f"{len(self._found)} of the first {_FIRST} asked for"

    def _page(self, limit: int, offset: int) -> list[Found]:
        query = [*self._address.filters, ("includefield", listing.COUNT)]
        return self._node().listed(
            "series", [*query, ("limit", f"{limit}"), ("offset", f"{offset}")]
        )

    def _filters(self) -> tuple[bool, str]:
        filters = self._address.filters
        wrong = sum(not listing.passes(one, filters) for one in self._found)
        if not filters:
            return True, "none asked for"
        return not wrong, f"{wrong} of {len(self._found)} are not what was asked for"

    def _pages(self) -> tuple[bool, str]:
        if len(self._found) == 1:
            return True, "not tried: it lists one series"
        uids = [listing.value(one, listing.SERIES) for one in self._found]
        second = [listing.value(one, listing.SERIES) for one in self._page(1, 1)]
        return second == uids[1:2], f"{len(second)} series from the second on, one asked for"

    def _counts(self) -> tuple[bool, str]:
        counts = [listing.value(one, listing.COUNT) for one in self._found]
        told = [int(count) for count in counts if count is not None]
        smallest = counts.index(min(told)) if told else 0
        one = self._found[smallest]
        study, series = (str(listing.value(one, tag)) for tag in (listing.STUDY, listing.SERIES))
        self._series, self._count = self._address.series_path(study, series), f"{counts[smallest]}"
        return len(told) == len(counts), f"for {len(told)} of {len(counts)} series"

    def _lists_instances(self) -> tuple[bool, str]:
        self._instances = listing.instances(self._node(), self._series)
        n, told = len(self._instances), self._count
        return n > 0 and told in ("None", f"{n}"), f"{n} in one series, counted {told}"

    def _headers(self) -> tuple[bool, str]:
        n = len(self._node().metadata(*below_root(self._series)))
        return n == len(self._instances), f"{n} of {len(self._instances)}"

    def _sends(self) -> tuple[bool, str]:
        size, self._digests = self._fetched()
        return (
            True,
            f"{len(self._digests)} instances, {size / 1e6:.1f} MB, to the closing delimiter",
        )

    def _repeats(self) -> tuple[bool, str]:
        _, again = self._fetched()
        same = sum(self._digests[name] == digest for name, digest in again.items())
        return same == len(again), f"{same} of {len(again)} instances"

    def _fetched(self) -> tuple[int, dict[str, str]]:
        with scratch.folder() as folder:
            names = [step(one.uid) for one in self._instances]
            copies = {name: folder / f"{n}" for n, name in enumerate(names)}
            fetch(self._node(), self._series, copies, besides=())
            size, digests = 0, {}
            for name, copy in copies.items():
                size += copy.stat().st_size
                with copy.open("rb") as stream:
                    digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return size, digests
