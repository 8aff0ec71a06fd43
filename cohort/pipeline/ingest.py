"""Sources -> scans in the store, or a reason in quarantine. Every series that is found ends in one of them."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from cohort import grid
from cohort.io import deidentify, dicom, nifti
from cohort.io.catalog import Catalog
from cohort.io.discover import Discovery, Series, discover
from cohort.io.participants import Participants, join, read_participants
from cohort.io.refusal import Refused
from cohort.io.store import Store
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.window import Connect, Failure, each
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
        # Nothing from a header is a path: letters and digits only.
        return re.sub(r"[^A-Za-z0-9]+", "", text)[:64] or "x"

    def session(self, text: str | None) -> str:
        """Name of a visit. A number of up to three digits says nothing about anybody and keeps visits in order."""
        text = text or "1"
        return text if re.fullmatch(r"[0-9]{1,3}", text) else self.of("session", text)

    def file(self, path: Path) -> str:
        """Name of a file in a message that may be shared."""
        return (
            path.name if self._tokens is None else f"file {self._tokens.token('file', str(path))}"
        )


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
        progress=lambda n: ledger.event("found", stage="discover", done=n),
    )
    result = Ingested()
    _without_attachments(catalog, found)
    result.units, collisions = _units(catalog, found.series, names)
    result.orphans = (
        catalog.orphan_attachments([f for s in found.series for f in s.files])
        if catalog.attach
        else []
    )
    counts: Counter[str] = Counter()
    known = {entry["series"]: entry for entry in store.quarantine()}
    seen: set[str] = set()
    for series, refusal in [*found.refused, *collisions]:
        name = names.of("series", series.name) if series else f"unreadable{len(seen)}"
        stamp = series.digest if series else ""
        seen.add(name)
        _refuse(store, ledger, names, name, series, refusal, stamp, known.get(name), result, counts)
    todo = []
    for unit in result.units:
        record, entry = store.record(unit.scan_id), known.get(unit.scan_id)
        if record is not None and record["stamp"] == unit.stamp:
            counts["fresh"] += 1
            ledger.state(unit.scan_id, "fresh", worked=False)
        elif entry is not None and entry["stamp"] == unit.stamp:
            seen.add(unit.scan_id)
            counts[entry["state"]] += 1
            if entry["state"] == "quarantined":
                ledger.state(unit.scan_id, "quarantined", worked=False)
            result.problems.append(
                Problem(
                    unit.scan_id,
                    entry["state"],
                    entry["code"],
                    entry["reason"],
                    entry["reason"],
                    new=False,
                )
            )
        else:
            todo.append(_Job(store.root, unit, catalog.prefer))
    ledger.event("stage", stage="ingest", total=len(todo), fresh=counts["fresh"])
    client = connect() if todo else None
    for number, (job, outcome) in enumerate(
        each(read_and_write, todo, client=client, name="ingest"), 1
    ):
        unit = job.unit
        if isinstance(outcome, Failure):
            outcome = _unexpected(outcome, unit)
        if isinstance(outcome, Refused):
            seen.add(unit.scan_id)
            store.remove_scan(unit.scan_id)
            _refuse(
                store,
                ledger,
                names,
                unit.scan_id,
                unit.series,
                outcome,
                unit.stamp,
                None,
                result,
                counts,
            )
        else:
            counts["done"] += 1
            store.clear_quarantine(unit.scan_id)
            ledger.state(unit.scan_id, "done", worked=True)
        ledger.event("ingested", stage="ingest", scan_id=unit.scan_id, done=number, total=len(todo))
    for name in known.keys() - seen:
        store.clear_quarantine(name)
    _tables(store, result, participants, names)
    wanted = {u.scan_id for u in result.units}
    ledger.manifest |= {
        "found": {
            "files": found.n_files,
            "series": len(found.series) + len(found.refused),
            "skipped": {reason: len(files) for reason, files in found.skipped.items()},
            "absent": [s for s in store.scan_ids() if s not in wanted],
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
    }
    ledger.stages["ingest"] = {
        **{s: counts[s] for s in ("fresh", "done", "quarantined", "skipped")},
        "seconds": round(time.perf_counter() - started, 3),
    }
    return result


def _without_attachments(catalog: Catalog, found: Discovery) -> None:
    """Masks and labels that lie among the scans are not scans."""
    if not catalog.attach:
        return
    scans = set(catalog.only_scans([f for s in found.series for f in s.files]))
    found.series = [s for s in found.series if any(f in scans for f in s.files)]


def _units(
    catalog: Catalog, found: Sequence[Series], names: Names
) -> tuple[list[Unit], list[tuple[Series, Refused]]]:
    units: dict[str, list[Unit]] = {}
    for series in found:
        subject = names.of("subject", series.subject_id or series.name)
        session = names.session(series.session_id)
        label = series.label if names.keep else names.of("series", series.name)
        scan_id = f"sub-{subject}_ses-{session}_{label}"
        attachments = catalog.attachments(series.files[0])
        attached = {
            name: file_digest(path) if path.is_file() else "missing"
            for name, path in attachments.items()
        }
        stamp = Stamp(
            {"series": series.digest, **attached},
            "ingest",
            {"ids": catalog.ids, "prefer": catalog.prefer},
            REVISION,
        ).digest
        unit = Unit(series, scan_id, subject, session, label, attachments, stamp)
        units.setdefault(scan_id, []).append(unit)
    clashes = [
        (unit.series, _collision(scan_id, same))
        for scan_id, same in units.items()
        for unit in same
        if len(same) > 1
    ]
    return [same[0] for same in units.values() if len(same) == 1], clashes


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
        fix="check the file with the program that wrote it, or export it again",
        files=unit.series.files[:1],
    )


def _refuse(
    store: Store,
    ledger: Ledger,
    names: Names,
    name: str,
    series: Series | None,
    refusal: Refused,
    stamp: str,
    before: Mapping[str, Any] | None,
    result: Ingested,
    counts: Counter[str],
) -> None:
    public, private = refusal.text(names.file), refusal.text(str)
    new = before is None or before["stamp"] != stamp or before["code"] != refusal.code
    counts[refusal.state] += 1
    if refusal.state == "quarantined":
        ledger.state(name, "quarantined", worked=new)
    if new:
        subject = names.of("subject", series.subject_id) if series and series.subject_id else None
        session = names.session(series.session_id) if series else None
        store.write_quarantine(
            name,
            {
                "subject": subject,
                "session": session,
                "state": refusal.state,
                "code": refusal.code,
                "reason": public,
                "n_files": len(series.files) if series else 0,
                "stamp": stamp,
            },
        )
        ledger.event(refusal.state, stage="ingest", series=name, code=refusal.code, reason=public)
    result.problems.append(Problem(name, refusal.state, refusal.code, private, public, new))


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
    store: Store, result: Ingested, participants: Participants | None, names: Names
) -> None:
    scans = scan_rows(store, [u.scan_id for u in result.units])
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
        scans["participant"] = pd.array([who.get(s) for s in scans["scan_id"]], dtype="str")
        result.rows_without_scan = [public[p] for p in joined.rows_without_scan]
        result.scans_without_row = joined.scans_without_row
        store.write_table("participants", shown.table, participants.units)
    store.write_table("scans", scans)
