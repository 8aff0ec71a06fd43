"""The tables of a cohort's scans and participants, matched by the sources' own ids and shown by public names."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from cohort import grid
from cohort.io.ages import age_conflicts
from cohort.io.deidentify import days_since_first_scan
from cohort.io.participants import Participants, join
from cohort.io.store import Store
from cohort.pipeline.likeness import looks_like_one_series
from cohort.pipeline.protocols import mixed, protocols
from cohort.pipeline.units import Names

if TYPE_CHECKING:
    from cohort.pipeline.ingest import Ingested


def scan_rows(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a record of the store: keys, geometry and what the header said, for ``tables/scans.parquet``."""
    keys = (
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
    rows = []
    for record in records:
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


def write_tables(
    store: Store,
    result: "Ingested",
    participants: Participants | None,
    names: Names,
    before: pd.DataFrame | None,
    held: Sequence[str],
) -> list[str]:
    """Write the tables: the scans of the sources, and those `held` from the table before.

    Returns
    -------
    list of str
        What is odd about the cohort as a whole, one line each: scans that stray from their protocol, units that do not mix.
    """
    ids = [*(u.scan_id for u in result.units), *held]
    records = [r for r in store.records(ids) if r is not None]
    scans = scan_rows(records)
    days = days_since_first_scan(
        {u.scan_id: (u.subject, u.series.acquisition_date) for u in result.units}
    )
    if days:
        scans["days_since_first_scan"] = pd.array([days.get(s) for s in scans["scan_id"]], "Int64")
    flags: defaultdict[str, set[str]] = defaultdict(set)
    for unit in result.units:
        flags[unit.scan_id].update(unit.series.flags)
    for pair in looks_like_one_series(records):
        for scan_id in pair:
            flags[scan_id].add("looks_like_one_series")
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
    return warnings


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
