"""Sources -> scans in the store, or a reason in quarantine. Every series that is found ends in one of them."""

import hashlib
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from cohort import grid
from cohort.io import deidentify, dicom, nifti
from cohort.io.catalog import Catalog
from cohort.io.discover import Discovery, Series, discover
from cohort.io.filecache import FileCache
from cohort.io.participants import Participants, join, read_participants
from cohort.io.refusal import Refused
from cohort.io.store import Store
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.window import Connect, Failure, each
from cohort.provenance import Stamp, digest, file_digest

REVISION = 1
"""Raised when the readers give other voxels, coordinates or attributes for the same bytes."""

PROGRESS_SECONDS = 0.2
"""Least time between two words about the files found so far."""


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


@dataclass(frozen=True)
class _Job:
    root: Path
    unit: Unit
    prefer: Literal["sform", "qform"] | None


@dataclass
class Problem:
    """A series that was refused, for people: `text` names files, `public` does not."""

    series: str
    state: str
    code: str
    text: str
    public: str
    new: bool


@dataclass
class Ingested:
    """What ingest found and did."""

    units: list[Unit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    rows_without_scan: list[str] = field(default_factory=list)
    scans_without_row: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Scans of the last table whose series is no longer in the sources."""


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


def ingest(
    catalog: Catalog,
    store: Store,
    ledger: Ledger,
    connect: Connect,
    *,
    cache: Path | None = None,
    rehash: bool = False,
) -> Ingested:
    """Find the scans of a catalog and bring what is new or changed into the store.

    Parameters
    ----------
    catalog : Catalog
    store : Store
        Locked by the caller.
    ledger : Ledger
        Hears of every series.
    connect : callable
        Gives the client; called only if there is something to read.
    cache : Path, optional
        Private file, outside the store, that spares reading the headers of files that did not change.
    rehash : bool
        Do not trust `cache`: digest every file again.
    """
    started = time.perf_counter()
    names = Names(catalog)
    participants = None
    if catalog.participants is not None:
        participants = read_participants(
            catalog.participants, catalog.folder, subject_pattern=catalog.subject
        )
    found = discover(
        catalog.source_paths(),
        subject=catalog.subject,
        cache=cache,
        rehash=rehash,
        progress=_progress(ledger),
    )
    _expect_series(catalog, store, found)
    _without_attachments(catalog, found)
    with FileCache(None if rehash else cache) as cached:
        units, collisions = _units(catalog, found.series, names, cached)
    result = Ingested(units=units)
    result.orphans = (
        catalog.orphan_attachments([f for s in found.series for f in s.files])
        if catalog.attach
        else []
    )
    book = _Book(store, ledger, names, result)
    book.warn(catalog, found)
    for path in found.unreadable:
        book.refuse(names.path(path), None, _unreadable(path), "", lasting=False)
    for series, refusal in [*found.refused, *collisions]:
        book.refuse_found(series, refusal)
    todo = _to_read(catalog, found, store, book)
    ledger.event("stage", stage="ingest", total=len(todo), fresh=book.counts["fresh"])
    client = connect() if todo else None
    for number, (job, outcome) in enumerate(
        each(read_and_write, todo, client=client, name="ingest"), 1
    ):
        unit, lasting = job.unit, True
        if isinstance(outcome, Failure):
            lasting = outcome.lasting
            outcome = _unexpected(outcome, unit)
        if isinstance(outcome, Refused):
            # An error of the machine says nothing against the scan that is there, if it is whole.
            if lasting or store.missing_chunks(unit.scan_id):
                store.remove_scan(unit.scan_id)
            book.refuse(
                unit.scan_id, unit.series, outcome, unit.stamp, lasting=lasting, worked=True
            )
        else:
            book.counts["done"] += 1
            store.clear_quarantine(unit.scan_id)
            ledger.state(unit.scan_id, "done", worked=True)
        ledger.event("ingested", stage="ingest", scan_id=unit.scan_id, done=number, total=len(todo))
    for name in book.known.keys() - book.seen:
        store.clear_quarantine(name)
    there = {u.scan_id for u in units} | {
        _identity(s, names)[0] for s, _ in [*found.refused, *collisions] if s is not None
    }
    gone = [s for s in store.scan_ids() if s not in there]
    before = store.table("scans")
    listed = set() if before is None else set(before["scan_id"])
    went = [s for s in gone if s in listed]
    # What cannot be read may be where these scans lie: they have not gone until that is known.
    held, result.absent = (went, []) if found.unreadable else ([], went)
    for scan_id in result.absent:
        ledger.event("absent", stage="ingest", scan_id=scan_id)
    for scan_id in held:
        book.counts["fresh"] += 1
        ledger.state(scan_id, "fresh", worked=False)
    _tables(store, result, participants, names, before, held)
    ledger.manifest |= {
        "found": {
            "files": found.n_files,
            "series": len(found.series) + len(found.refused),
            "skipped": {reason: len(files) for reason, files in found.skipped.items()},
            "absent": [s for s in gone if s not in held],
        },
        "quarantined": [
            {"series": p.series, "code": p.code, "reason": p.public}
            for p in result.problems
            if p.state == "quarantined"
        ],
        "unmatched": {
            "rows_without_scan": result.rows_without_scan,
            "scans_without_row": result.scans_without_row,
            "attachments_without_scan": [names.file(p) for p in result.orphans],
        },
        "warnings": book.warnings,
    }
    ledger.stages["ingest"] = {
        **{s: book.counts[s] for s in ("fresh", "done", "quarantined", "skipped")},
        "seconds": round(time.perf_counter() - started, 3),
    }
    return result


class NothingFound(ValueError):
    """Sources without any scan, for a store that holds some."""


def _expect_series(catalog: Catalog, store: Store, found: Discovery) -> None:
    """Empty sources are more often a disk that is not mounted than a cohort that went away."""
    if found.series or found.refused or found.unreadable:
        return
    if held := len(store.scan_ids()):
        raise NothingFound(
            f"{catalog.path}: expected scans in {', '.join(catalog.sources)}, found none; the store holds {held};"
            " is a disk not mounted? Nothing was changed"
        )


def _progress(ledger: Ledger) -> Callable[[int], None]:
    """Tell who listens how many files are done, a few times a second; progress is no part of the record."""
    last = 0.0

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            ledger.listen(
                {"event": "found", "run": ledger.run_id, "stage": "discover", "done": done}
            )

    return tell


def _to_read(catalog: Catalog, found: Discovery, store: Store, book: "_Book") -> list[_Job]:
    """Units that are new, changed or damaged in the store; what is known of the others goes into the book."""
    blind = {path.parent for path in found.unreadable}
    todo = []
    for unit in book.result.units:
        record, entry = store.record(unit.scan_id), book.known.get(unit.scan_id)
        whole = record is not None and not store.missing_chunks(unit.scan_id)
        # Beside what cannot be read, or shorter than it was while something cannot: a part may be missing.
        doubtful = any(f.parent in blind for f in unit.series.files) or (
            bool(blind) and record is not None and len(unit.series.files) < record.get("n_files", 0)
        )
        if record is not None and whole and record["stamp"] == unit.stamp:
            book.fresh(unit)
        elif unit.blocked is not None:
            book.refuse(unit.scan_id, unit.series, unit.blocked, unit.stamp, lasting=False)
        elif doubtful and whole:
            book.fresh(unit)
        elif doubtful:
            refusal = _doubtful(unit, found.unreadable)
            book.refuse(unit.scan_id, unit.series, refusal, unit.stamp, lasting=False)
        elif entry is not None and entry["stamp"] == unit.stamp and entry.get("lasting", True):
            book.again(unit, entry)
        else:
            todo.append(_Job(store.root, unit, catalog.prefer))
    return todo


def _unreadable(path: Path) -> Refused:
    return Refused(
        "SRC-UNREADABLE",
        "{0} cannot be read; scans beside it stay as they are",
        fix="allow reading it, look after the disk, or move it out of the sources",
        files=[path],
    )


def _doubtful(unit: Unit, unreadable: Sequence[Path]) -> Refused:
    folders = {f.parent for f in unit.series.files}
    path = next((p for p in unreadable if p.parent in folders), unreadable[0])
    return Refused(
        "SRC-UNREADABLE",
        "{0} may lack a part: {1} cannot be read",
        fix="allow reading it, look after the disk, or move it out of the sources",
        files=[unit.series.files[0], path],
    )


def _without_attachments(catalog: Catalog, found: Discovery) -> None:
    """Masks and labels that lie among the scans are not scans."""
    if not catalog.attach:
        return
    # An attached file that cannot be read is refused with its scan and makes no other scan shorter.
    found.unreadable = catalog.only_scans(found.unreadable)
    scans = set(catalog.only_scans([f for s in found.series for f in s.files]))
    found.series = [s for s in found.series if any(f in scans for f in s.files)]


def _identity(series: Series, names: Names) -> tuple[str, str, str, str]:
    """Scan id, subject, session and label of a series."""
    subject = names.of("subject", series.subject_id or series.name)
    session = names.session(series.session_id)
    label = series.label if names.keep else names.of("series", series.name)
    return f"sub-{subject}_ses-{session}_{label}", subject, session, label


def _units(
    catalog: Catalog, found: Sequence[Series], names: Names, cached: FileCache
) -> tuple[list[Unit], list[tuple[Series, Refused]]]:
    units: dict[str, list[Unit]] = {}
    for series in found:
        scan_id, subject, session, label = _identity(series, names)
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


def read_and_write(job: _Job) -> dict[str, Any] | Refused:
    """Read one series and write its scan. Called on a worker.

    Returns
    -------
    dict or Refused
        The record, or why there is none.
    """
    unit, series = job.unit, job.unit.series
    try:
        dataset = (
            dicom.read_series(series.files)
            if series.kind == "dicom"
            else nifti.read_image(series.files[0], prefer=job.prefer)
        )
        for name, path in unit.attachments.items():
            dataset[name] = _attached(name, path, dataset["image"], series.files[0], job.prefer)
    except Refused as refusal:
        return refusal
    return Store(job.root).write_scan(
        unit.scan_id,
        dataset,
        {
            "subject": unit.subject,
            "session": unit.session,
            "series": unit.name,
            "kind": series.kind,
            "n_files": len(series.files),
            "source": series.digest,
            "stamp": unit.stamp,
        },
    )


def _attached(
    name: str, path: Path, image: xr.DataArray, scan: Path, prefer: Literal["sform", "qform"] | None
) -> xr.DataArray:
    """Mask or labels that belong to a scan, on its grid."""
    if not path.is_file():
        raise Refused(
            "ATT-MISSING",
            f"no {name} for {{0}}: expected a file {{1}}",
            fix=f"put the file there, or take {name!r} out of `attach`",
            files=(scan, path),
        )
    attached = nifti.read_labels(path, name=name, prefer=prefer)
    try:
        grid.check_same_grid(**{"image": image, name: attached})
    except grid.GridError as error:
        raise Refused(
            "ATT-GRID",
            f"{name} in {{1}} does not lie on the grid of {{0}}: {error}",
            fix="resample it onto the scan's grid (order 0) and put that file there",
            files=(scan, path),
        ) from error
    # The same grid within a micrometre: from here on to the bit.
    return attached.assign_coords({d: image.coords[d] for d in (*grid.SPACE, "grid")})


def _unexpected(failure: Failure, unit: Unit) -> Refused:
    """An error nobody foresaw: named with its type; the text may hold paths, so it stays with the operator."""
    message = failure.message.replace("{", "(").replace("}", ")")
    for file in unit.series.files:
        message = message.replace(
            str(file), file.name if len(unit.series.files) == 1 else "one of its files"
        )
    where = (
        "{0}"
        if len(unit.series.files) == 1
        else f"one of {len(unit.series.files)} files beside {{0}}"
    )
    return Refused(
        f"READ-{failure.kind.upper()}",
        f"{where} cannot be read: {message}",
        fix=_what_to_do(failure),
        files=unit.series.files[:1],
    )


def _what_to_do(failure: Failure) -> str:
    if failure.kind in ("KilledWorker", "MemoryError"):
        return "give workers more --memory, or look whether the file makes a library crash"
    if not failure.lasting:
        return "look after the disk and the rights; the next call tries again"
    return "check the file with the program that wrote it, or export it again"


class _Book:
    """What becomes of each series: in quarantine, in the ledger, in the counts, and for people."""

    def __init__(self, store: Store, ledger: Ledger, names: Names, result: Ingested) -> None:
        self.store, self.ledger, self.names, self.result = store, ledger, names, result
        self.known = {entry["series"]: entry for entry in store.quarantine()}
        self.seen: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []

    def warn(self, catalog: Catalog, found: Discovery) -> None:
        """Say that the pattern for subjects fits no file: a mistake in it, not a property of the files."""
        if catalog.subject and found.n_images and not found.n_matched:
            text = f"the subject pattern matched 0 of {found.n_images} files"
            self.warnings.append(text)
            self.ledger.event("warning", stage="ingest", text=text)

    def fresh(self, unit: Unit) -> None:
        """Leave a scan as it is."""
        self.counts["fresh"] += 1
        self.ledger.state(unit.scan_id, "fresh", worked=False)

    def again(self, unit: Unit, entry: Mapping[str, Any]) -> None:
        """Repeat a refusal of the same bytes without reading them."""
        self.seen.add(unit.scan_id)
        state, code, reason = entry["state"], entry["code"], entry["reason"]
        self.counts[state] += 1
        if state == "quarantined":
            self.ledger.state(unit.scan_id, "quarantined", worked=False)
        self.result.problems.append(Problem(unit.scan_id, state, code, reason, reason, new=False))

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
                    "n_files": len(series.files) if series else 0,
                    "stamp": stamp,
                    "lasting": lasting,
                },
            )
            self.ledger.event(
                refusal.state, stage="ingest", series=name, code=refusal.code, reason=public
            )
        self.result.problems.append(
            Problem(name, refusal.state, refusal.code, private, public, new)
        )


def _content_of(files: Sequence[Path]) -> str:
    """Digest of the bytes of refused files, as far as they can be read."""
    digests = []
    for path in files:
        try:
            digests.append(file_digest(path))
        except OSError:
            digests.append("unreadable")
    return digest(digests)


def scan_rows(store: Store, scan_ids: Sequence[str]) -> pd.DataFrame:
    """One row a scan of the store: keys, geometry and what the header said, for ``tables/scans.parquet``."""
    keys = ("scan_id", "participant", "subject", "session", "state", "series", "kind", "n_files")
    rows = []
    for scan_id in scan_ids:
        record = store.record(scan_id)
        if record is None:
            continue
        sizes = dict(zip(record["dims"], record["shape"], strict=True))
        rows.append(
            {
                **{key: record.get(key) for key in keys},
                "state": "done",
                **{f"shape_{d}": sizes[d] for d in grid.SPACE},
                **{f"n_{d}": n for d, n in sizes.items() if d not in grid.SPACE},
                **{f"spacing_{d}_mm": record["spacing_mm"][d] for d in grid.SPACE},
                "axcodes": record["axcodes"],
                "dtype": record["variables"]["image"]["dtype"],
                **{
                    k: v
                    for k, v in record["attrs"].items()
                    if isinstance(v, str | int | float | bool)
                },
            }
        )
    return pd.DataFrame(rows, columns=list(keys) if not rows else None)


def _tables(
    store: Store,
    result: Ingested,
    participants: Participants | None,
    names: Names,
    before: pd.DataFrame | None,
    held: Sequence[str],
) -> None:
    """Write the tables: the scans of the sources, and those `held` from the table before."""
    scans = scan_rows(store, [*(u.scan_id for u in result.units), *held])
    if participants is not None:
        # Matched by the sources' own ids, shown by public names.
        there = set(scans["scan_id"])
        raw = pd.DataFrame(
            [
                (u.scan_id, u.series.subject_id or u.series.name, u.series.session_id)
                for u in result.units
                if u.scan_id in there
            ],
            columns=["scan_id", "subject", "session"],
        )
        if not names.keep:
            shown = participants.with_tokens(lambda text: names.of("subject", text), names.session)
            public = dict(
                zip(participants.table["participant"], shown.table["participant"], strict=True)
            )
        else:
            shown, public = participants, {p: p for p in participants.table["participant"]}
        joined = join(raw, participants)
        who = {
            scan_id: public.get(p)
            for scan_id, p in zip(joined.scans["scan_id"], joined.scans["participant"], strict=True)
        }
        if before is not None and held:
            kept = before[before["scan_id"].isin(held)]
            who |= {
                s: p
                for s, p in zip(kept["scan_id"], kept["participant"], strict=True)
                if pd.notna(p)
            }
        scans["participant"] = pd.array([who.get(s) for s in scans["scan_id"]], dtype="str")
        matched = set(who.values())
        result.rows_without_scan = [
            shown_as for p in joined.rows_without_scan if (shown_as := public[p]) not in matched
        ]
        result.scans_without_row = joined.scans_without_row
        store.write_table("participants", shown.table, participants.units)
    store.write_table("scans", scans)
