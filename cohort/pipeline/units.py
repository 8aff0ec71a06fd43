"""A series and the names under which it is known here: ids kept or turned into tokens, attachments, the stamp."""

import hashlib
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cohort.io import deidentify
from cohort.io.catalog import Catalog
from cohort.io.discover import Series
from cohort.io.filecache import FileCache
from cohort.io.refusal import Refused
from cohort.provenance import Stamp, file_digest

REVISION = 1
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
    blocked: Refused | None = None
    """Why it cannot be read now, if that is known without reading it."""


class Names:
    """Public names of subjects, sessions, series and files: kept as they are, or keyed tokens."""

    def __init__(self, catalog: Catalog) -> None:
        self.keep = catalog.ids == "keep"
        self._tokens = (
            None if self.keep else deidentify.Tokens(deidentify.load_key(catalog.key_path()))
        )

    def of(self, kind: Literal["subject", "session", "series"], text: str) -> str:
        """Name of a subject, session or series that may be a file's name and may be shown."""
        if self._tokens is not None:
            return self._tokens.token(kind, text)
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
        return f"file{token}"

    def file(self, path: Path) -> str:
        """Name of a file in a message that may be shared."""
        return (
            path.name if self._tokens is None else f"file {self._tokens.token('file', str(path))}"
        )


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def identity(series: Series, names: Names) -> tuple[str, str, str, str]:
    """Scan id, subject, session and label of a series."""
    subject = names.of("subject", series.subject_id or series.name)
    session = names.session(series.session_id)
    label = series.label if names.keep else names.of("series", series.name)
    return f"sub-{subject}_ses-{session}_{label}", subject, session, label


def name_units(
    catalog: Catalog, found: Sequence[Series], names: Names, cached: FileCache
) -> tuple[list[Unit], list[tuple[Series, Refused]]]:
    """Name every series; those that would be one scan are refused, all of them."""
    units: dict[str, list[Unit]] = {}
    for series in found:
        scan_id, subject, session, label = identity(series, names)
        attachments = catalog.attachments(series.files[0])
        attached: dict[str, str] = {}
        blocked = None
        for name, path in attachments.items():
            try:
                attached[name] = _attached_digest(path, cached)
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
            {"ids": catalog.ids, "prefer": catalog.prefer},
            REVISION,
        ).digest
        unit = Unit(series, scan_id, subject, session, label, attachments, stamp, blocked)
        units.setdefault(scan_id, []).append(unit)
    clashes = [
        (unit.series, _collision(scan_id, same))
        for scan_id, same in units.items()
        for unit in same
        if len(same) > 1
    ]
    return [same[0] for same in units.values() if len(same) == 1], clashes


def _attached_digest(path: Path, cached: FileCache) -> str:
    """Digest of an attached file, from the cache if it did not change; ``missing`` if there is none."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if not path.is_file():
        return "missing"
    known = cached.get(path, state) if stat.S_ISREG(state.st_mode) else None
    return known.digest if known is not None and known.digest else file_digest(path)


def _collision(scan_id: str, units: Sequence[Unit]) -> Refused:
    """Two series that would be one scan: none of them is taken, because nothing says which it should be."""
    return Refused(
        "ID-COLLISION",
        f"{len(units)} series would all be {scan_id}, two of them {{0}} and {{1}}",
        fix="let the catalog's `subject` pattern tell them apart, or rename one",
        files=(units[0].series.files[0], units[1].series.files[0]),
    )
