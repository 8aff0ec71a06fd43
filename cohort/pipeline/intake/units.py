"""A series and the names under which it is known here: ids kept or turned into tokens, attachments, the stamp."""

import hashlib
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cohort.io import deidentify, patience, private
from cohort.io.catalog import Catalog
from cohort.io.discover import Series
from cohort.io.participants import Participants
from cohort.io.policy import DEFAULT, Policy
from cohort.io.refusal import Refused
from cohort.io.sources.content import digest
from cohort.io.sources.filecache import FileCache
from cohort.io.sources.places import is_node
from cohort.io.texttable import colliding
from cohort.provenance import Stamp

REVISION = 4
"""Raised when the readers give other voxels, coordinates or attributes for the same bytes."""


@dataclass(frozen=True)
class Unit:
    """A series and the names under which it is known here."""

    series: Series
    scan_id: str
    subject: str
    session: str
    name: str
    attachments: Mapping[str, Path]
    stamp: str
    policy: Policy = DEFAULT
    acquisition: str | None = None
    """Name of what its echoes, or its parts of another geometry, were acquired with."""
    blocked: Refused | None = None
    """Why it cannot be read now, if that is known without reading it."""
    images: frozenset[str] = frozenset()
    """Attachments that are images."""


class Names:
    """Public names of subjects, sessions, series and files: kept as they are, or keyed tokens."""

    def __init__(self, catalog: Catalog, participants: Participants | None = None) -> None:
        self.keep = catalog.ids == "keep"
        self._participants = participants
        self._tokens = (
            None if self.keep else deidentify.Tokens(deidentify.load_key(catalog.key_path()))
        )
        self._given: dict[tuple[private.Kind, str], private.Row] = {}

    def key_of(self, series: Series) -> tuple[str | None, str | None]:
        """Subject and session of a series, by the catalog's map where it has one: what a hospital calls them stays inside."""
        found = series.subject_id, series.session_id
        if self._participants is None or found[0] is None:
            return found
        return self._participants.key_of(*found) or found

    def given(self) -> list[private.Row]:
        """Every name that was given, and what it stands for: private."""
        return list(self._given.values())

    def _note(self, kind: private.Kind, name: str, original: str) -> str:
        self._given[kind, name] = private.Row(name, kind, original)
        return name

    def of(self, kind: Literal["subject", "session", "series"], text: str) -> str:
        """Name of a subject, session or series that may be a file's name and may be shown."""
        if self._tokens is not None:
            return self._note(kind, self._tokens.token(kind, text), text)
        # Nothing from a header is a path: letters and digits only. What was lost still tells people apart.
        plain = re.sub(r"[^A-Za-z0-9]+", "", text)[:64]
        return plain if plain == text and plain else f"{plain}x{_hex(text)[:6]}"

    def session(self, text: str | None) -> str:
        """Name of a visit. A number of up to three digits says nothing about anybody and keeps visits in order."""
        text = text or "1"
        return text if re.fullmatch(r"[0-9]{1,3}", text) else self.of("session", text)

    def path(self, *files: Path) -> str:
        """Name of an entry for files that make no series."""
        text = "\n".join(map(str, files))
        token = _hex(text)[:16] if self._tokens is None else self._tokens.token("file", text)
        return self._note("file", f"file{token}", text)

    def file(self, path: Path) -> str:
        """Name of a file in a message that may be shared."""
        if self._tokens is None:
            # What lies on a node is called by its UID, which is nobody's pseudonym.
            return self.path(path) if is_node(path) else path.name
        return f"file {self._note('file', self._tokens.token('file', str(path)), str(path))}"


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def identity(series: Series, names: Names) -> tuple[str, str, str, str]:
    """Scan id, subject, session and label of a series."""
    subject_id, session_id = names.key_of(series)
    subject = names.of("subject", subject_id or series.name)
    session = names.session(session_id)
    label = series.label if names.keep else names.of("series", series.name)
    return f"sub-{subject}_ses-{session}_{label}", subject, session, label


def policy_of(catalog: Catalog, series: Series, names: Names) -> Policy:
    """What the catalog has decided about a series, found by its path below its source or its scan id."""
    return catalog.policy(series.relative, identity(series, names)[0])


def name_units(
    catalog: Catalog, found: Sequence[Series], names: Names, cached: FileCache
) -> tuple[list[Unit], list[tuple[Series, Refused]]]:
    """Name every series; those that would be one scan are refused, all of them."""
    units: dict[str, list[Unit]] = {}
    images = catalog.attached_images
    for series in found:
        scan_id, subject, session, label = identity(series, names)
        policy = catalog.policy(series.relative, scan_id)
        attachments = catalog.attachments(series.first) if catalog.attach else {}
        attached: dict[str, str] = {}
        blocked = None
        for name, path in attachments.items():
            try:
                kind = "image:" if name in images else ""
                attached[name] = kind + _attached_digest(path, cached)
            except OSError as error:
                attached[name] = "unreadable"
                blocked = Refused(
                    "ATT-UNREADABLE",
                    f"{name} of {{0}} cannot be read ({error.strerror}): {{1}}",
                    fix="allow reading the file, or look after the disk",
                    files=(series.files[0], path),
                )
        stamp = Stamp(
            {"series": series.digest, **attached},
            "ingest",
            {"ids": catalog.ids, **policy.as_stamp()},
            REVISION,
        ).digest
        uid = series.acquisition_uid
        acquisition = names.of("series", uid) if uid else None
        unit = Unit(
            series,
            scan_id,
            subject,
            session,
            label,
            attachments,
            stamp,
            policy,
            acquisition,
            blocked,
            images,
        )
        units.setdefault(scan_id, []).append(unit)
    clashes = [
        (unit.series, _collision(scan_id, same))
        for scan_id, same in units.items()
        for unit in same
        if len(same) > 1
    ]
    alike = _alike_ids(found)
    clashes += [
        (unit.series, alike[i])
        for same in units.values()
        if len(same) == 1
        for unit in same
        if (i := unit.series.subject_id) in alike
    ]
    return [
        same[0]
        for same in units.values()
        if len(same) == 1 and same[0].series.subject_id not in alike
    ], clashes


def _alike_ids(found: Sequence[Series]) -> dict[str | None, Refused]:
    """Refusals of subjects whose ids differ in nothing that people write with care: case, blanks, the form of an accent."""
    one_each = {series.subject_id: series for series in found if series.subject_id}
    refused: dict[str | None, Refused] = {}
    for group in colliding(sorted(one_each)):
        files = [one_each[group[0]].first, one_each[group[1]].first]
        refusal = Refused(
            "ID-ALIKE",
            f"{len(group)} subjects whose ids differ only in case, blanks or accents, for example of {{0}} and {{1}}",
            fix="give one person one id, or tell two people apart by more, with the catalog's `subject` pattern",
            files=files,
        )
        refused |= dict.fromkeys(group, refusal)
    return refused


def _attached_digest(path: Path, cached: FileCache) -> str:
    """Digest of an attached file, from the cache if it did not change; ``missing`` if there is none."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if not path.is_file():
        return "missing"
    known = cached.get(path, state) if stat.S_ISREG(state.st_mode) else None
    if known is not None and known.digest:
        return known.digest
    with patience.opened(path) as stream:
        return digest(stream)


def _collision(scan_id: str, units: Sequence[Unit]) -> Refused:
    """Two series that would be one scan: none of them is taken, because nothing says which it should be."""
    return Refused(
        "ID-COLLISION",
        f"{len(units)} series would all be {scan_id}, two of them {{0}} and {{1}}",
        fix="let the catalog's `subject` pattern tell them apart, or rename one",
        files=(units[0].series.files[0], units[1].series.files[0]),
    )
