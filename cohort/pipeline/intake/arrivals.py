"""Which of the series that were found take part in an ingest: not those of people who withdrew, nor those still arriving."""

import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from cohort.io.catalog import Catalog
from cohort.io.discover import Discovery, Series
from cohort.io.leaving.register import Register
from cohort.io.participants import Participants
from cohort.io.sources import buckets
from cohort.io.sources.buckets import is_object
from cohort.io.store import Store
from cohort.pipeline.intake.units import Names


@dataclass
class LeftOut:
    """Series of people who withdrew, of which nothing may be noted."""

    n_series: int = 0
    files: set[Path] = field(default_factory=set)
    """Every file of theirs that was found, attached ones too."""
    n_found: int = 0
    """How many of these the sources hold: what is attached may lie elsewhere."""


def leave_out(
    catalog: Catalog,
    store: Store,
    found: Discovery,
    participants: Participants | None,
    names: Names,
) -> tuple[LeftOut, Participants | None]:
    """Take everybody who withdrew out of what was found.

    Parameters
    ----------
    found : Discovery
        Changed: their series, refusals and files go.
    names : Names
        Throw it away afterwards: it has named them.

    Returns
    -------
    LeftOut
    participants
        Without their rows.

    Raises
    ------
    StoreError
        If nobody knows who withdrew, because the register is damaged.
    """
    register, left = Register(store), LeftOut()
    if not len(register):
        return left, participants

    def withdrew(series: Series) -> bool:
        who = names.key_of(series)[0] or series.name
        return register.has_subject(names.of("subject", who)) or register.has_content(series.digest)

    def belongs(path: Path) -> bool:
        who = subject_in(catalog, path)
        return who is not None and register.has_subject(names.of("subject", who))

    attached: set[Path] = set()
    for series in [*found.series, *(s for s, _ in found.refused if s is not None)]:
        if withdrew(series):
            left.n_series += 1
            left.files |= {*series.files}
            attached |= {*catalog.attachments(series.files[0]).values()}
    theirs = [path for _, refused in found.refused for path in refused.files if belongs(path)]
    left.files |= {*theirs, *filter(belongs, (*found.unreadable, *found.damaged))}
    places = {Path(os.path.normpath(source)) for source in catalog.source_paths()}
    beside = {Path(os.path.normpath(path)) for path in attached} - left.files
    left.n_found = len(left.files) + sum(not places.isdisjoint((p, *p.parents)) for p in beside)
    left.files |= attached
    found.series = [s for s in found.series if left.files.isdisjoint(s.files)]
    found.refused = [
        (series, refused)
        for series, refused in found.refused
        if left.files.isdisjoint(series.files if series is not None else refused.files)
    ]
    found.unreadable = [path for path in found.unreadable if path not in left.files]
    found.damaged = [path for path in found.damaged if path not in left.files]
    return left, _without_rows(participants, register, names)


def subject_in(catalog: Catalog, path: Path) -> str | None:
    """Subject that the catalog's pattern finds in a path."""
    match = re.search(catalog.subject, path.as_posix()) if catalog.subject else None
    return match.groupdict().get("subject") if match else None


def _without_rows(
    participants: Participants | None, register: Register, names: Names
) -> Participants | None:
    if participants is None:
        return None

    def stays(subject: str) -> bool:
        return not register.has_subject(names.of("subject", subject))

    table = participants.table
    mine = [stays(str(subject)) for subject in table["subject"]]
    keys = participants.keys
    if keys is not None:
        keys = {scan: key for scan, key in keys.items() if stays(scan) and stays(key[0])}
    return replace(
        participants,
        table=table.loc[mine].reset_index(drop=True),
        keys=keys,
        map_without_row=tuple(s for s in participants.map_without_row if stays(s)),
    )


class Settling:
    """Whether files are still arriving: one that changed a short while ago may be followed by more.

    Parameters
    ----------
    seconds : float
        Age from which on a file counts; 0: every file does.

    Notes
    -----
    The time at which a file came to be where it is counts (``ctime``), not the one that it was given by who copied it. A
    file from the future, of a clock that is wrong, has settled.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._now = seconds, time.time()
        self._folders: set[Path] = set()
        self.n_series = 0
        self.of_nobody = False
        """Whether a file is arriving of which nobody knows yet what scan it belongs to."""

    def of(self, series: Series, attached: Iterable[Path] = ()) -> bool:
        """Whether a series, or what is attached to it, is still arriving; counted."""
        files = (*series.files, *attached)
        young = self._folders.intersection(path.parent for path in series.files)
        if not young and not self._any(files):
            return False
        self.n_series += 1
        return True

    def keep_back(self, found: Discovery) -> list[Series]:
        """Take out what is refused only because it is still arriving, and say which series that are.

        A slice of which half is there is damaged, and may belong to any series beside it: these wait, too.
        """
        back = [
            (series, refused)
            for series, refused in found.refused
            if self._any(refused.files if series is None else series.files)
        ]
        found.refused = [each for each in found.refused if each not in back]
        young = {path for _, refused in back for path in refused.files}
        self._folders |= {path.parent for path in found.damaged if path in young}
        found.damaged = [path for path in found.damaged if path not in young]
        self.of_nobody = any(series is None for series, _ in back)
        self.n_series += len(back)
        return [series for series, _ in back if series is not None]

    def _any(self, files: Iterable[Path]) -> bool:
        return self._seconds > 0 and any(map(self._is_young, files))

    def _is_young(self, path: Path) -> bool:
        when = arrived(path)
        return when is not None and abs(self._now - when) < self._seconds


def arrived(path: Path) -> float | None:
    """When a file, or the archive that holds it, came to be where it is, in seconds of the clock; None if nobody knows."""
    if is_object(path):
        found = buckets.Bucket(path).head(buckets.key_of(path))
        if found is None:
            return None if len(path.parts) <= 3 else arrived(path.parent)
        return datetime.fromisoformat(found.state.rpartition(" ")[2]).timestamp()
    for place in (path, *path.parents):
        try:
            state = place.stat()
        except OSError:
            continue
        # The folder that should hold a file which is gone, or which lies on a DICOM node, says nothing.
        return None if stat.S_ISDIR(state.st_mode) else state.st_ctime
    return None
