"""Sources -> scans in the store, or a reason in quarantine. Every series that is found ends in one of them."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cohort.io import private
from cohort.io.catalog import Catalog
from cohort.io.discover import Discovery, Series, discover
from cohort.io.participants import read_participants
from cohort.io.policy import Notes
from cohort.io.refusal import Refused
from cohort.io.sources.filecache import FileCache
from cohort.io.store import Store
from cohort.pipeline.dispatch.cost import Spent
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.window import TIME_LIMIT_SECONDS, Connect, Failure, each
from cohort.pipeline.intake import doubt
from cohort.pipeline.intake.arrivals import Settling, leave_out
from cohort.pipeline.intake.book import Book, Problem
from cohort.pipeline.intake.likeness import image_twice, twins
from cohort.pipeline.intake.reading import CHANGED, Job, read_and_write, steady, unexpected
from cohort.pipeline.intake.roster import Roster, write_tables
from cohort.pipeline.intake.units import Names, Unit, identity, name_units, policy_of
from cohort.pipeline.ledger import Ledger

REMEMBERED = 500
"""Scans whose paths are written down at a time."""

PROGRESS_SECONDS = 0.2
"""Least time between two words about the files found so far."""


@dataclass
class Ingested:
    """What ingest found and did."""

    units: list[Unit] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    rows_without_scan: list[str] = field(default_factory=list)
    rows_refused: dict[str, list[str]] = field(default_factory=dict)
    """Of these rows, those whose series were refused -> the names of the series in quarantine."""
    rows_waiting: list[str] = field(default_factory=list)
    """Of these rows, those whose series were found and left for the next call."""
    scans_without_row: list[str] = field(default_factory=list)
    mapped_without_scan: list[str] = field(default_factory=list)
    """Subjects of the catalog's map of ids without a scan."""
    map_without_row: list[str] = field(default_factory=list)
    """Ids that the map leads to and the participants table lacks."""
    arriving: list[Series] = field(default_factory=list)
    """Series of which a part may still be on its way."""
    absent: list[str] = field(default_factory=list)
    """Scans of the last table whose series is no longer in the sources."""
    contents: dict[str, str] = field(default_factory=dict)
    """Scan of the table -> digest of the content it was made from."""
    variables: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Scan of the table -> digest of what each of its variables says, as its record has it."""


def ingest(
    catalog: Catalog,
    store: Store,
    ledger: Ledger,
    connect: Connect,
    *,
    cache: Path | None = None,
    tokens: Path | None = None,
    rehash: bool = False,
    settle_seconds: float = 0.0,
    stop: Stop | None = None,
    seconds: float = TIME_LIMIT_SECONDS,
    problems: list[Problem] | None = None,
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
    tokens : Path, optional
        Private table, outside the store, of what every name in the store stands for (`io.private`).
    rehash : bool
        Do not trust `cache`: digest every file again.
    settle_seconds : float
        A new or changed series with a file that arrived less than this ago is left for the next call.
    stop : Stop, optional
        Asked at every series; hears of those that were left.
    seconds : float
        Limit of time for a series.
    problems : list, optional
        Gets every series that is refused, at once: it is known of a call that is interrupted, too.
    """
    started = time.perf_counter()
    stop = Stop() if stop is None else stop
    participants = None
    if catalog.participants is not None:
        participants = read_participants(
            catalog.participants, catalog.folder, subject_pattern=catalog.subject
        )
    names = Names(catalog, participants)
    found = discover(
        catalog.source_paths(),
        subject=catalog.subject,
        cache=cache,
        rehash=rehash,
        progress=_progress(ledger),
        policy=lambda series: policy_of(catalog, series, names),
    )
    _expect_series(catalog, store, found)
    _without_attachments(catalog, found)
    left, participants = leave_out(catalog, store, found, participants, names)
    if left.n_series or left.files:
        names = Names(catalog, participants)  # what was left out has been named by the old one
        with FileCache(cache) as cached:
            cached.forget(left.files)
    settling = Settling(settle_seconds)
    arriving = settling.keep_back(found)
    with FileCache(None if rehash else cache) as cached:
        units, collisions = name_units(catalog, found.series, names, cached)
    orphans = catalog.orphan_attachments(s.files[0] for s in found.series) if catalog.attach else []
    orphans = [path for path in orphans if path not in left.files]
    book = Book(store, ledger, names, problems)
    result = Ingested(problems=book.problems, orphans=orphans)
    book.warn(catalog, found, participants)
    told = {path for series, refusal in found.refused if series is None for path in refusal.files}
    for path in found.unreadable:
        if path not in told:
            book.refuse(names.path(path), None, doubt.unreadable(path), "", lasting=False)
    for series, refusal in [*found.refused, *collisions]:
        book.refuse_found(series, refusal)
    roster = Roster()
    todo, whole = _to_read(found, units, store, book, settling, roster)
    ledger.event("stage", stage="ingest", total=len(todo), fresh=len(whole))
    client = connect() if todo else None
    read: list[Unit] = []
    admitted = stop.admit(job.unit.scan_id for job in todo)
    unread = {job.unit.scan_id for job in todo}
    stop.leave(unread)
    spent = Spent()
    results = each(
        read_and_write,
        (job for job in todo if job.unit.scan_id in admitted),
        client=client,
        name="ingest",
        stop=stop,
        seconds=seconds,
    )
    for number, (job, outcome, cost) in enumerate(steady(results, cache), 1):
        unit, lasting = job.unit, getattr(outcome, "code", "") != CHANGED
        unread.discard(unit.scan_id)
        stop.come_to(unit.scan_id)
        spent.add(cost)
        if isinstance(outcome, Failure):
            lasting = outcome.lasting
            outcome = unexpected(outcome, unit)
        if isinstance(outcome, Refused):
            # An error of the machine says nothing against the scan that is there, if it is whole.
            if lasting or store.missing_chunks(unit.scan_id):
                store.remove_scan(unit.scan_id)
            book.refuse(
                unit.scan_id, unit.series, outcome, unit.stamp, lasting=lasting, worked=True
            )
        else:
            read.append(unit)
        ledger.event(
            "ingested",
            stage="ingest",
            scan_id=unit.scan_id,
            **cost.fields(),
            done=number,
            total=len(todo),
        )
    known = {unit.scan_id for unit in whole}
    for record in store.records(unit.scan_id for unit in units if unit.scan_id not in known):
        if record is not None:
            roster.add(record)
    twice = _refuse_twins([*whole, *read], roster, book)
    for unit in whole:
        if unit.scan_id not in twice:
            book.fresh(unit)
    for unit in read:
        if unit.scan_id not in twice:
            book.done(unit)
    units = [unit for unit in units if unit.scan_id not in twice]
    for name in book.known.keys() - book.seen:
        store.clear_quarantine(name)
    there = (
        {u.scan_id for u in units}
        | twice
        | {identity(s, names)[0] for s, _ in [*found.refused, *collisions] if s is not None}
        | {identity(s, names)[0] for s in arriving}
    )
    gone = [s for s in store.scan_ids() if s not in there]
    before = store.table("scans")
    listed = set() if before is None else set(before["scan_id"])
    went = [s for s in gone if s in listed]
    renamed = roster.renamed(store.records(went), known=listed)
    # What cannot be read may be where these scans lie: they have not gone until that is known, or they have another name.
    unsure = bool(found.unreadable) or settling.of_nobody
    held = [s for s in went if s not in renamed] if unsure else []
    result.absent = [s for s in went if s not in held]
    held += [s for s in sorted({identity(a, names)[0] for a in arriving}) if s in listed]
    for scan_id in result.absent:
        ledger.event("absent", stage="ingest", scan_id=scan_id)
    for scan_id in held:
        book.counts["fresh"] += 1
        ledger.state(scan_id, "fresh", worked=False)
    result.units, result.arriving = units, arriving
    book.warnings += write_tables(store, result, roster, participants, names, before, held)
    _remember(tokens, names, units)
    ledger.manifest |= {
        "n_sources": len(catalog.sources),
        "found": {
            "files": found.n_files - left.n_found,
            "series": len(found.series) + len(found.refused),
            "skipped": {reason: len(files) for reason, files in found.skipped.items()},
            "absent": [s for s in gone if s not in held],
            "renamed": list(renamed.items()),
            "withdrawn": left.n_series,
        },
        "settling": settling.n_series,
        "quarantined": [
            {"series": p.series, "code": p.code, "reason": p.public}
            for p in book.problems
            if p.state == "quarantined"
        ],
        "unmatched": {
            "rows_without_scan": result.rows_without_scan,
            "rows_refused": result.rows_refused,
            "rows_waiting": result.rows_waiting,
            "scans_without_row": result.scans_without_row,
            "mapped_without_scan": result.mapped_without_scan,
            "map_without_row": result.map_without_row,
            "attachments_without_scan": [names.file(p) for p in result.orphans],
        },
        "ages_capped": dict(participants.capped) if participants is not None else {},
        "warnings": book.warnings,
    }
    ledger.stages["ingest"] = {
        **{s: book.counts[s] for s in ("fresh", "done", "quarantined", "skipped")},
        "left": len(unread),
        "cost": spent.fields(),
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


def _to_read(
    found: Discovery,
    units: Sequence[Unit],
    store: Store,
    book: Book,
    settling: Settling,
    roster: Roster,
) -> tuple[list[Job], list[Unit]]:
    """Units that are new, changed or damaged in the store, and those that are there as they should be.

    The records of the latter are taken into the roster, as they come by.
    """
    blind = {path.parent for path in found.unreadable}
    # A damaged slice belongs to a series that its header does not name any more: to one beside it, most likely.
    torn = {path.parent: path for path in found.damaged}
    todo, whole = [], []
    standing = store.standing(unit.scan_id for unit in units)
    for unit, (record, lost) in zip(units, standing, strict=True):
        entry = book.known.get(unit.scan_id)
        is_whole = record is not None and not lost
        folders = {path.parent for path in unit.series.files} if blind or torn else set()
        # Beside what cannot be read, or shorter than it was while something cannot: a part may be missing. What is a file
        # by itself, or names the other, lacks none.
        n_files = len(unit.series.parts.paths)
        doubtful = unit.series.kind == "dicom" and (
            not folders.isdisjoint(blind)
            or (bool(blind) and record is not None and n_files < record.get("n_files", 0))
        )
        damaged = next((torn[f] for f in folders if f in torn), None)
        if is_whole and record is not None and record["stamp"] == unit.stamp:
            whole.append(unit)
        elif settling.of(unit.series, unit.attachments.values()):
            # Left for the next call as it is: the scan that is there, or the refusal.
            book.seen.add(unit.scan_id)
            if is_whole:
                whole.append(unit)
        elif unit.blocked is not None:
            book.refuse(unit.scan_id, unit.series, unit.blocked, unit.stamp, lasting=False)
        elif doubtful and is_whole:
            whole.append(unit)
        elif doubtful:
            refusal = doubt.doubtful(unit, found.unreadable)
            book.refuse(unit.scan_id, unit.series, refusal, unit.stamp, lasting=False)
        elif unit.series.kind == "dicom" and damaged is not None:
            store.remove_scan(unit.scan_id)
            refusal = doubt.beside_damage(unit, damaged)
            book.refuse(unit.scan_id, unit.series, refusal, unit.stamp, lasting=False)
        elif entry is not None and entry["stamp"] == unit.stamp and entry.get("lasting", True):
            book.again(unit, entry)
        else:
            todo.append(Job(store, unit))
        if record is not None and whole and whole[-1] is unit:
            roster.add(record)
    return todo, whole


def _refuse_twins(units: Sequence[Unit], roster: Roster, book: Book) -> set[str]:
    """Keep out of the tables what stands under several subjects; it stays in the store until somebody decides."""
    by_id = {unit.scan_id: unit for unit in units}
    twice: set[str] = set()
    for group in twins(roster.images(by_id)):
        subjects = len({by_id[scan_id].subject for scan_id in group})
        for scan_id in group:
            unit = by_id[scan_id]
            other = next(u for s in group if (u := by_id[s]).subject != unit.subject)
            try:
                Notes(unit.policy).refuse(
                    image_twice([unit.series.files[0], other.series.files[0]], subjects=subjects)
                )
            except Refused as refusal:
                book.refuse(scan_id, unit.series, refusal, unit.stamp, lasting=False)
                twice.add(scan_id)
    return twice


def _remember(tokens: Path | None, names: Names, units: Sequence[Unit]) -> None:
    """Write down for the operator what every name stands for, a bounded number of paths at a time."""
    if tokens is None:
        return
    private.remember(tokens, names.given())
    for start in range(0, len(units), REMEMBERED):
        private.remember(
            tokens,
            [
                private.Row(u.scan_id, "scan", u.series.name, tuple(u.series.parts.paths.texts()))
                for u in units[start : start + REMEMBERED]
            ],
        )


def _without_attachments(catalog: Catalog, found: Discovery) -> None:
    """Masks and labels that lie among the scans are not scans."""
    if not catalog.attach:
        return
    # An attached file that cannot be read is refused with its scan and makes no other scan shorter.
    found.unreadable = catalog.only_scans(found.unreadable)
    # File by file: a list of them all would grow with their number.
    attached = catalog.attached_in({f.parent for s in found.series for f in s.files})
    found.series = [
        s for s in found.series if any(Path(os.path.normpath(f)) not in attached for f in s.files)
    ]
