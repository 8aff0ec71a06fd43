"""The tables of a cohort's scans and participants, matched by the sources' own ids and shown by public names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cohort import grid
from cohort.io.participants import Participants, join
from cohort.io.store import Store
from cohort.pipeline.units import Names

if TYPE_CHECKING:
    from cohort.pipeline.ingest import Ingested


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


def write_tables(
    store: Store,
    result: "Ingested",
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
