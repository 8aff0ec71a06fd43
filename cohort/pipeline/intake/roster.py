"""The tables of a cohort's scans and participants, matched by the sources' own ids and shown by public names."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort import grid
from cohort.io.ages import age_conflicts
from cohort.io.participants import Participants, join
from cohort.io.sources.relations import ONE_SERIES
from cohort.io.store import Store
from cohort.io.visits import days_since_first_scan
from cohort.pipeline.intake.book import whose
from cohort.pipeline.intake.likeness import TIMING, looks_like_one_series
from cohort.pipeline.intake.protocols import mixed, protocols
from cohort.pipeline.intake.units import Names
from cohort.provenance import digest

if TYPE_CHECKING:
    from cohort.pipeline.ingest import Ingested


_NAMED = 5
"""Scans that a warning names."""

_KEYS = (
    "scan_id",
    "participant",
    "subject",
    "session",
    "state",
    "series",
    "acquisition",
    "kind",
    "n_files",
    "units",
)
_GRID = (
    *(f"shape_{d}" for d in grid.SPACE),
    *(f"spacing_{d}_mm" for d in grid.SPACE),
    "axcodes",
    "dtype",
)


class Roster:
    """What tables and comparisons need of the records of a cohort, column by column: less than 1 kB a scan.

    Each record is read once, as it comes by; a cohort of them does not fit in memory.
    """

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}
        """Scan -> digest of what it was made from (`content_of`)."""
        self.variables: dict[str, Mapping[str, str]] = {}
        """Scan -> digest of what each of its variables says."""
        self._columns: dict[str, list[Any]] = {key: [] for key in (*_KEYS, *_GRID)}
        self._places: dict[str, int] = {}
        self._images: list[str] = []
        self._affines = array("d")

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the record of a scan; a second one of the same scan is passed over."""
        n = len(self._places)
        if record["scan_id"] in self._places:
            return
        self._places[record["scan_id"]] = n
        self.contents[record["scan_id"]] = content_of(record)
        self.variables[record["scan_id"]] = record["contents"]
        self._images.append(record["contents"]["image"])
        self._affines.extend(record.get("affine") or [math.nan] * 16)
        row = _row(record)
        for name in row.keys() - self._columns.keys():
            self._columns[name] = [None] * n
        for name, column in self._columns.items():
            column.append(row.get(name))

    def scans(self, scan_ids: Iterable[str]) -> pd.DataFrame:
        """One row a scan: keys, geometry and what the header said, for ``tables/scans.parquet``; in the order of the ids."""
        places = [self._places[s] for s in scan_ids if s in self._places]
        if not places:
            return pd.DataFrame(columns=list(_KEYS))
        chosen = {name: [column[i] for i in places] for name, column in self._columns.items()}
        told = {name for name, values in chosen.items() if any(v is not None for v in values)}
        # What headers said in the order of the names, not of the records that came by: equal cohorts have equal tables.
        named = [*_KEYS, *_GRID, *sorted(told - {*_KEYS, *_GRID})]
        return pd.DataFrame({name: chosen[name] for name in named})

    def images(self, scan_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Subject and digest of the image of scans, as `likeness.twins` takes them."""
        for scan_id in scan_ids:
            if (i := self._places.get(scan_id)) is not None:
                subject = self._columns["subject"][i]
                yield {
                    "scan_id": scan_id,
                    "subject": subject,
                    "contents": {"image": self._images[i]},
                }

    def renamed(
        self, records: Iterable[Mapping[str, Any] | None], *, known: Collection[str]
    ) -> dict[str, str]:
        """Scans whose image came with this call under another name -> that name: of another pattern, or of a file that was moved.

        A name that is `known` from the table before holds a scan of its own, however alike.
        """
        new = {i: s for s, i in zip(self._places, self._images, strict=True) if s not in known}
        return {
            record["scan_id"]: new[image]
            for record in records
            if record is not None and (image := record["contents"]["image"]) in new
        }

    def places(self, scan_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Where scans of visits with several lie, as `likeness.looks_like_one_series` takes them."""
        affines = np.frombuffer(self._affines).reshape(-1, 16) if self._places else None
        ids = [s for s in scan_ids if s in self._places]
        subjects, sessions = self._columns["subject"], self._columns["session"]
        visits = Counter((subjects[i], sessions[i]) for i in map(self._places.__getitem__, ids))
        for scan_id in ids:
            i = self._places[scan_id]
            if visits[subjects[i], sessions[i]] < 2 or affines is None or np.isnan(affines[i, 0]):
                continue
            yield {
                "scan_id": scan_id,
                "subject": subjects[i],
                "session": sessions[i],
                "shape": [self._columns[f"shape_{d}"][i] for d in grid.SPACE],
                "affine": affines[i],
                "attrs": {k: self._columns[k][i] for k in TIMING if k in self._columns},
            }


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    sizes = dict(zip(record["dims"], record["shape"], strict=True))
    return {
        **{key: record.get(key) for key in _KEYS},
        "state": "done",
        **{f"shape_{d}": sizes[d] for d in grid.SPACE},
        **{f"n_{d}": n for d, n in sizes.items() if d not in grid.SPACE},
        **{f"spacing_{d}_mm": record["spacing_mm"][d] for d in grid.SPACE},
        "axcodes": record["axcodes"],
        "dtype": record["variables"]["image"]["dtype"],
        **{k: v for k, v in record["attrs"].items() if isinstance(v, str | int | float | bool)},
    }


def write_tables(
    store: Store,
    result: "Ingested",
    roster: Roster,
    participants: Participants | None,
    names: Names,
    before: pd.DataFrame | None,
    held: Sequence[str],
) -> list[str]:
    """Write the tables: the scans of the sources, and those `held` from the table before.

    Parameters
    ----------
    roster : Roster
        Of the records of all scans of the sources.

    Returns
    -------
    list of str
        What is odd about the cohort as a whole, one line each: scans that stray from their protocol, units that do not mix.
    """
    ids = [*(u.scan_id for u in result.units), *held]
    for record in store.records(held):
        if record is not None:
            roster.add(record)
    scans = roster.scans(ids)
    result.contents = {s: roster.contents[s] for s in scans["scan_id"]}
    result.variables = {s: roster.variables[s] for s in scans["scan_id"]}
    days = days_since_first_scan(
        {u.scan_id: (u.subject, u.series.acquisition_date) for u in result.units}
    )
    if days:
        scans["days_since_first_scan"] = pd.array([days.get(s) for s in scans["scan_id"]], "Int64")
    told: list[str] = []
    flags: defaultdict[str, set[str]] = defaultdict(set)
    for unit in result.units:
        flags[unit.scan_id].update(unit.series.flags)
    for pair in looks_like_one_series(roster.places(ids)):
        for scan_id in pair:
            flags[scan_id].add(ONE_SERIES)
    if participants is not None:
        # Matched by the sources' own ids, shown by public names.
        there = set(scans["scan_id"])
        raw = pd.DataFrame(
            [(u.scan_id, *whose(u.series)) for u in result.units if u.scan_id in there],
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
        _tell_of_rows(result, participants, public, there)
        result.scans_without_row = joined.scans_without_row
        if joined.n_zeros_apart:
            told.append(
                f"{joined.n_zeros_apart} rows of the participants table would have a scan if leading zeros did not count, as of"
                " 7 and 007: spreadsheets drop them; write the ids as the sources do, or state participants.map"
            )
        result.mapped_without_scan = [
            names.of("subject", s) if not names.keep else s for s in joined.mapped_without_scan
        ]
        result.map_without_row = list(shown.map_without_row)
        for scan_id in age_conflicts(scans, shown.table, participants.units):
            flags[scan_id].add("age_conflict")
        store.write_table("participants", shown.table, participants.units)
    _add_flags(scans, flags)
    warnings = _add_protocols(store, scans)
    store.write_table("scans", scans)
    return [
        *told,
        *_told_apart(scan_id for scan_id in scans["scan_id"] if ONE_SERIES in flags[scan_id]),
        *warnings,
    ]


def _tell_of_rows(
    result: "Ingested",
    participants: Participants,
    public: Mapping[str, str],
    there: Collection[str],
) -> None:
    """Say of rows without a scan which have a series all the same: one that was refused, or one that was not read yet."""
    without = set(result.rows_without_scan)
    refused = [(p.series, *p.whose) for p in result.problems if p.whose is not None]
    known = {name for name, *_ in refused} | {*there}
    waiting = [(u.scan_id, *whose(u.series)) for u in result.units if u.scan_id not in known]
    waiting += [(series.name, *whose(series)) for series in result.arriving]
    rows: list[dict[str, list[str]]] = []
    for series in (refused, waiting):
        found: defaultdict[str, list[str]] = defaultdict(list)
        table = pd.DataFrame(series, columns=["scan_id", "subject", "session"])
        joined = join(table, participants).scans[["scan_id", "participant"]]
        for name, who in joined.itertuples(index=False):
            if pd.notna(who) and public[who] in without:
                found[public[who]].append(str(name))
        rows.append({who: sorted(found[who]) for who in sorted(found)})
    result.rows_refused = rows[0]
    result.rows_waiting = [who for who in rows[1] if who not in rows[0]]


def _told_apart(scan_ids: Iterable[str]) -> list[str]:
    """Say which scans may be parts of one that was exported under several UIDs: each looks as if it lacked nothing."""
    found = sorted(scan_ids)
    if not found:
        return []
    some = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
    looks, are = ("s look", "are") if len(found) > 1 else (" looks", "is")
    text = (
        f"{len(found)} scan{looks} like part of one series under several SeriesInstanceUIDs and {are} kept apart ({ONE_SERIES}): "
        f"{some}; if so, export the series again under one UID"
    )
    return [text]


def content_of(record: Mapping[str, Any]) -> str:
    """Digest of what a scan was made from: the files of its series, and the voxels of what is attached to it."""
    attached = {name: c for name, c in record["contents"].items() if name != "image"}
    return digest([record["source"], attached]) if attached else record["source"]


def _add_flags(scans: pd.DataFrame, more: Mapping[str, set[str]]) -> None:
    """Join what the reader noted of each scan with what only the whole cohort shows."""
    noted = scans["flags"].fillna("") if "flags" in scans else pd.Series("", scans.index)
    found = [
        " ".join(sorted({*words.split(), *more.get(scan_id, ())}))
        for scan_id, words in zip(scans["scan_id"], noted, strict=True)
    ]
    if any(found):
        scans["flags"] = found


def _add_protocols(store: Store, scans: pd.DataFrame) -> list[str]:
    if scans.empty:
        return []
    found = protocols(scans)
    scans["protocol"] = found.scans["protocol"].to_numpy()
    store.write_table("protocols", found.classes)
    return [*found.drifts, *(f"intensities do not mix: {line}" for line in mixed(scans))]
