"""What becomes of each series of an ingest: in quarantine, in the ledger, in the counts, and in words for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohort.io.catalog import Catalog
from cohort.io.discover import Discovery, Series
from cohort.io.participants import Participants
from cohort.io.refusal import Refused
from cohort.io.sources import content, places
from cohort.io.store import Store
from cohort.pipeline.intake.units import Names, Unit
from cohort.pipeline.ledger import Ledger
from cohort.provenance import digest


@dataclass
class Problem:
    """A series that was refused, for people: `text` names files, `public` does not."""

    series: str
    state: str
    code: str
    text: str
    public: str
    new: bool
    whose: tuple[str, str | None] | None = None
    """Subject and session as the sources name them; None of files that make no series."""


class Book:
    """What becomes of each series: in quarantine, in the ledger, in the counts, and for people."""

    def __init__(
        self, store: Store, ledger: Ledger, names: Names, problems: list[Problem] | None = None
    ) -> None:
        self.store, self.ledger, self.names = store, ledger, names
        self.problems: list[Problem] = [] if problems is None else problems
        self.known = {entry["series"]: entry for entry in store.quarantine()}
        self.seen: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []

    def warn(
        self, catalog: Catalog, found: Discovery, participants: Participants | None = None
    ) -> None:
        """Say that the pattern for subjects fits no file, or that there is no scan at all: a mistake in the catalog most likely."""
        if catalog.subject and found.n_images and not found.n_matched:
            self._warn(f"the subject pattern matched 0 of {found.n_images} files")
        if catalog.sources and not (found.n_images or found.refused or found.unreadable):
            self._warn(
                f"no scan in {len(catalog.sources)} sources, which hold {found.n_files} files"
            )

        if participants is not None and participants.n_zero_padded:
            self._warn(
                "ids of the participants table that differ in leading zeros alone, such as 7 and 007, count as different "
                f"people: {participants.n_zero_padded} such"
            )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.ledger.event("warning", stage="ingest", text=text)

    def fresh(self, unit: Unit) -> None:
        """Leave a scan as it is."""
        self.counts["fresh"] += 1
        self.ledger.state(unit.scan_id, "fresh", worked=False)

    def done(self, unit: Unit) -> None:
        """Take a scan that was read."""
        self.counts["done"] += 1
        self.store.clear_quarantine(unit.scan_id)
        self.ledger.state(unit.scan_id, "done", worked=True)

    def again(self, unit: Unit, entry: Mapping[str, Any]) -> None:
        """Repeat a refusal of the same bytes without reading them."""
        self.seen.add(unit.scan_id)
        state, code, reason = entry["state"], entry["code"], entry["reason"]
        self.counts[state] += 1
        if state == "quarantined":
            self.ledger.state(unit.scan_id, "quarantined", worked=False)
        self.problems.append(
            Problem(unit.scan_id, state, code, reason, reason, new=False, whose=whose(unit.series))
        )

    def refuse_found(self, series: Series | None, refusal: Refused) -> None:
        """Refuse what never became a unit: files without a series, or series that share what they must not."""
        if series is None:
            name, stamp = self.names.path(*refusal.files), _content_of(refusal.files)
        else:
            stamp = series.digest
            name = f"{self.names.of('series', series.name)}x{stamp[:8]}"
            if name in self.seen:  # the same bytes under the same name, from two sources
                name += self.names.path(*series.files)
        self.refuse(name, series, refusal, stamp)

    def refuse(
        self,
        name: str,
        series: Series | None,
        refusal: Refused,
        stamp: str,
        *,
        lasting: bool = True,
        worked: bool = False,
    ) -> None:
        """Write a refusal down; `lasting`: the same bytes will be refused again."""
        public, private = refusal.text(self.names.file), refusal.text(str)
        before = self.known.get(name)
        new = before is None or before["stamp"] != stamp or before["code"] != refusal.code
        self.seen.add(name)
        self.counts[refusal.state] += 1
        if refusal.state == "quarantined":
            self.ledger.state(name, "quarantined", worked=new or worked)
        if new:
            self.store.write_quarantine(
                name,
                {
                    "subject": self.names.of("subject", series.subject_id)
                    if series is not None and series.subject_id
                    else None,
                    "session": self.names.session(series.session_id) if series else None,
                    "state": refusal.state,
                    "code": refusal.code,
                    "reason": public,
                    "n_files": len(series.parts.paths if series else refusal.files),
                    "stamp": stamp,
                    "lasting": lasting,
                },
            )
            self.ledger.event(
                refusal.state, stage="ingest", series=name, code=refusal.code, reason=public
            )
        owner = None if series is None else whose(series)
        self.problems.append(
            Problem(name, refusal.state, refusal.code, private, public, new, owner)
        )


def whose(series: Series) -> tuple[str, str | None]:
    """Subject and session of a series as the sources name them: by these it finds its row."""
    return series.subject_id or series.name, series.session_id


def _content_of(files: Sequence[Path]) -> str:
    """Digest of the bytes of refused files, as far as they can be read."""
    digests = []
    for path in files:
        try:
            with places.opened(path) as stream:
                digests.append(content.digest(stream))
        except (OSError, Refused):
            digests.append("unreadable")
    return digest(digests)
