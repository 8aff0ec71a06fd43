"""Everything a cohort holds of one subject: its files in the store, its names, and what is private about it."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Self

from cohort import provenance
from cohort.io import private, thumbnail
from cohort.io.leaving.redact import Subject
from cohort.io.storage import scanpages
from cohort.io.store import Store
from cohort.io.traces import SHORTEST


@dataclass(frozen=True)
class Inventory:
    """What there is of one subject. Private: it names everything."""

    subject: str
    """Public name."""
    scans: tuple[str, ...] = ()
    """Its own, and those under other names that were made of the same bytes."""
    aliases: tuple[str, ...] = ()
    """Other public names of which the store holds nothing else, as before the pattern for subjects was mended."""
    refused: tuple[str, ...] = ()
    """Names of its series in quarantine."""
    participants: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    """Tokens of its series, acquisitions and files, where the store has tokens."""
    contents: tuple[str, ...] = ()
    """Digest of each of its series, as the sources hold it."""
    paths: tuple[str, ...] = ()
    """Its files in the sources."""
    originals: tuple[str, ...] = ()
    """Ids, UIDs, paths and parts of paths that are nobody else's."""
    rows: tuple[private.Row, ...] = ()
    """Of the token table."""
    removed: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Name in the store -> SHA-256 and bytes, of every file that goes."""

    def names(self) -> Subject:
        """All names, ready to be looked for."""
        called = [self.subject, *self.aliases]
        return Subject(
            [*(f"sub-{name}" for name in called), *self.scans, *self.refused, *self.series],
            exact=[*called, *self.participants],
            originals=self.originals,
        )

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        rows = tuple(private.Row(**{**r, "files": tuple(r["files"])}) for r in value["rows"])
        lists = {k: tuple(v) for k, v in value.items() if isinstance(v, list) and k != "rows"}
        return cls(value["subject"], **lists, rows=rows, removed=value["removed"])


def subjects(store: Store) -> set[str]:
    """Public names of all subjects of whom the store holds anything.

    Scans, derivatives, refusals and rows of the participants table count.
    """
    found = {s for scan_id in _units(store) if (s := _subject_of(scan_id))}
    found |= {str(e["subject"]) for e in store.quarantine() if e.get("subject")}
    people = store.table("participants")
    return found if people is None else found | {str(s) for s in people["subject"]}


def take(
    store: Store, subject: str, *, tokens: Path, owns: Callable[[str], bool] = lambda path: False
) -> Inventory:
    """List everything that there is of a subject.

    Parameters
    ----------
    store : Store
        Locked by the caller.
    subject : str
        Public name.
    tokens : Path
        The token table; need not exist.
    owns : callable
        Whether the catalog's pattern finds the subject in a path of the sources.
    """
    units = _units(store)
    scans = tuple(s for s in units if _subject_of(s) == subject)
    records = [r for r in store.records(scans) if r is not None]
    contents = {str(r["source"]) for r in records}
    # The register keeps the same bytes out under any name; what is there of them under another name goes, too.
    others = [s for s in units if _subject_of(s) != subject]
    same = [r for r in store.records(others) if r is not None and str(r["source"]) in contents]
    records += same
    scans += tuple(str(r["scan_id"]) for r in same)
    people = store.table("participants")
    apart = {_subject_of(s) for s in units if s not in scans} | {
        *([] if people is None else people["subject"])
    }
    aliases = tuple(
        sorted({s for scan in scans if (s := _subject_of(scan))} - {subject, *map(str, apart)})
    )
    refused = tuple(
        e["series"]
        for e in store.quarantine()
        if not {e.get("subject"), _subject_of(e["series"])}.isdisjoint({subject, *aliases})
    )
    found = Inventory(
        subject,
        scans=scans,
        aliases=aliases,
        refused=refused,
        participants=_participants(store, subject),
    )
    acquisitions = {str(r["acquisition"]) for r in records if r.get("acquisition")}
    found = replace(
        found,
        contents=tuple(sorted(contents)),
        series=tuple(sorted(acquisitions)),
    )
    found = _with_private(found, tokens, owns, set(units))
    return replace(found, removed=dict(_files_of(store, found)))


def _units(store: Store) -> list[str]:
    """Scan ids of every record or group, of scans and derivatives, whole or not."""
    folders = ["scans", *(f"derivatives/{n}" for n in store.files.names("derivatives"))]
    names = {n for folder in folders for n in store.files.names(folder)}
    return sorted(
        {re.sub(r"\.(json|zarr|thumbnail)$", "", n) for n in names if n.startswith("sub-")}
    )


def _subject_of(scan_id: str) -> str | None:
    found = re.match(r"sub-([^_]+)_ses-", scan_id)
    return found[1] if found else None


def _participants(store: Store, subject: str) -> tuple[str, ...]:
    found: set[str] = set()
    for name in ("participants", "scans"):
        table = store.table(name)
        if table is not None and "participant" in table:
            mine = table.loc[table["subject"] == subject, "participant"].dropna()
            found |= {str(p) for p in mine}
    return tuple(sorted(found))


def _with_private(
    found: Inventory, tokens: Path, owns: Callable[[str], bool], units: Collection[str]
) -> Inventory:
    """Add what the token table knows: rows, paths, and what of them is nobody else's."""
    if not tokens.is_file():
        return found
    table = list(private.everything(tokens))
    called: set[str | None] = {found.subject, *found.aliases}
    mine = [r for r in table if r.kind == "scan" and _subject_of(r.token) in called]
    named = {path for row in mine for path in row.files}
    # A series that was refused under an earlier name has left no record, only files that are known by now.
    mine += [
        r
        for r in table
        if r.kind == "scan" and r.files and r.token not in units and named.issuperset(r.files)
        if r not in mine
    ]
    earlier = {r.token for r in mine}
    mine += [r for r in table if r.kind == "scan" and r.token in found.scans and r not in mine]
    others = [r for r in table if r.kind == "scan" and r not in mine]
    called |= {_subject_of(token) for token in earlier} - {_subject_of(r.token) for r in others}
    paths = {path for row in mine for path in row.files}
    given = {*found.series, *(name.partition("x")[0] for name in found.refused)}
    given |= {part.removeprefix("ses-") for row in mine for part in row.token.split("_")[1:]}
    given -= {part.removeprefix("ses-") for row in others for part in row.token.split("_")[1:]}
    rows = list(mine)
    for row in table:
        lines = row.original.split("\n")
        if (
            (row.kind == "subject" and row.token in called)
            or (row.kind in ("series", "session") and row.token in given)
            or (row.kind == "file" and any(p in paths or owns(p) for p in lines))
        ):
            rows.append(row)
    files = {line for row in rows if row.kind == "file" for line in row.original.split("\n")}
    public = {
        *found.refused,
        *(earlier - {*found.scans}),
        *(f"file{r.token.removeprefix('file')}" for r in rows if r.kind == "file"),
    }
    ids = {r.original for r in rows if r.kind in ("subject", "series", "session")}
    own = _own_parts(named | files, (path for row in others for path in row.files))
    return replace(
        found,
        rows=tuple(rows),
        paths=tuple(sorted(paths | files)),
        refused=tuple(sorted(public)),
        series=tuple(sorted({*found.series, *_tokens(rows)})),
        originals=tuple(sorted({*named, *files, *ids, *own})),
    )


def _tokens(rows: Iterable[private.Row]) -> Iterator[str]:
    """Tokens of series and files, as messages show them."""
    for row in rows:
        if row.kind in ("series", "file"):
            yield row.token.removeprefix("file")


def _own_parts(paths: Iterable[str], others: Iterable[str]) -> set[str]:
    """Names of folders and files, with and without their ending, that no other scan's path has."""
    parts: defaultdict[str, bool] = defaultdict(bool)
    for path in paths:
        for part in PurePath(path).parts:
            parts[part] = True
    for path in others:
        for part in PurePath(path).parts:
            parts.pop(part, None)
    own = {
        re.sub(r"(\.(dcm|ima|nii|hdr|img))?(\.gz)?$", "", part, flags=re.IGNORECASE)
        for part in parts
    }
    return {part for part in own | set(parts) if len(part) >= SHORTEST and not part.isalpha()}


def _files_of(store: Store, found: Inventory) -> Iterator[tuple[str, tuple[str, int]]]:
    """Every file of the store that is the subject's own, with SHA-256 and bytes."""
    for place in places(store, found):
        names = [n for n, _ in store.files.listing(f"{place}.zarr")]
        for name in (*names, f"{place}{thumbnail.SUFFIX}", f"{place}.json"):
            size = store.files.size(name)
            if size is not None:
                yield name, (_digest(store, name), size)
    for name in (n for scan in found.scans for n in scanpages.files_of(scan)):
        if (size := store.files.size(name)) is not None:
            yield name, (_digest(store, name), size)


def places(store: Store, found: Inventory) -> list[str]:
    """Where a subject's records lie, without their ending; a group has the same name. Derivatives first."""
    recipes = store.files.names("derivatives")
    return [
        *(f"derivatives/{recipe}/{scan}" for recipe in recipes for scan in found.scans),
        *(f"quarantine/{name}" for name in found.refused),
        *(f"scans/{scan}" for scan in found.scans),
    ]


def _digest(store: Store, name: str) -> str:
    place = store.files.place(name)
    if isinstance(place, Path):
        return provenance.file_digest(place)
    return hashlib.sha256(store.files.read(name)).hexdigest()
