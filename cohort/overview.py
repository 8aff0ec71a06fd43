"""How a cohort stands, without opening a scan: what `status` and `diff` say, and a run that goes on elsewhere as it goes on.

Reads manifests, logs and columns of tables, never the records of scans, and imports nothing that takes long: a look costs the
same in a cohort of ten and of a hundred thousand.
"""

import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cohort.io.storage.backend import AWAY, StoreError
from cohort.io.storage.papers import Papers, damaged
from cohort.io.storage.place import files_of
from cohort.pipeline import changes

LISTED = 200
"""Refused series that are told one by one; all are counted."""

TAIL_BYTES = 1 << 16
"""Of a log, where its last events are."""

LOOK_SECONDS = 1.0
"""How often somebody who follows a run looks for news."""

LOOKS_FOR_INGEST = 50
"""Runs that are asked for what an ingest found, from the latest on."""

LOOKS_FOR_MANIFEST = 30
"""So many looks after its last event, a run that left no manifest was killed."""


@dataclass(frozen=True)
class Running:
    """A call that is at work."""

    run_id: str
    """Empty if it has not begun its log yet."""
    by: str
    """Process, host and since when."""
    event: Mapping[str, Any]
    """The last one that says how far it is, or empty."""

    @property
    def process(self) -> tuple[int, str] | None:
        """Its process and host, if that is known."""
        found = re.match(r"process (\d+) on (\S+)", self.by)
        return (int(found[1]), found[2]) if found else None


def opened(catalog: Path, store: str | None = None) -> Papers:
    """The papers of a catalog's store, or of a store's folder or URL.

    Raises
    ------
    CatalogError, StoreError
        If there is neither, or nothing was ingested yet.
    """
    if store is None and catalog.suffix not in (".yaml", ".yml"):
        papers = Papers(files_of(catalog))
        if not papers.info():
            raise StoreError(
                f"{papers.url} is no cohort: expected a catalog (.yaml) or a store with a cohort.json"
            )
        return papers
    from cohort.io.catalog import read_catalog

    papers = Papers(files_of(read_catalog(catalog, store=store).store_root()))
    if not papers.info():
        raise StoreError(f"nothing in {papers.url} yet; run `cohort update {catalog}` first")
    return papers


def status(store: Papers) -> dict[str, Any]:
    """Scans by state, what waits in quarantine, the last run, and the one that goes on now."""
    manifest = store.manifest()
    names = store.tables()
    recipes = {name: _states(store, name) for name in store.recipes()}
    refused = store.files.names("quarantine")
    now = running(store)
    return {
        "cohort": store.info().get("cohort"),
        "scans": _rows(store, "scans") if "scans" in names else 0,
        "flags": _flags(store) if "scans" in names else {},
        "recipes": recipes,
        "models": store.models(),
        "n_quarantine": len(refused),
        "quarantine": [
            entry for name in refused[:LISTED] if (entry := store.read_json(f"quarantine/{name}"))
        ],
        "last_run": {
            k: manifest.get(k)
            for k in (
                *("run_id", "command", "started", "seconds", "counts", "processed"),
                *("stopped", "left", "settling", "error"),
            )
        }
        if manifest
        else None,
        "alarms": manifest.get("n_alarms", 0),
        "unmatched": manifest.get("unmatched"),
        "skipped": _last_found(store, manifest).get("skipped", {}),
        "killed": _killed(store) if now is None else None,
        "submitted": submitted(store),
        "running": None if now is None else {"run_id": now.run_id, "by": now.by, **now.event},
    }


def submitted(store: Papers) -> dict[str, Any] | None:
    """What this user last submitted for a store: its drivers that wait or run, or how it ended if nobody called since."""
    from cohort.pipeline.clusters import submit
    from cohort.pipeline.clusters.clusterfile import ClusterError

    known = submit.submission_of(store)
    if known is None:
        return None
    found: dict[str, Any] = {"console": str(known.console), "jobs": [], "code": None, "queue": None}
    try:
        jobs = submit.jobs_of(store)
    except ClusterError as error:
        return {**found, "queue": str(error)}
    found["jobs"] = [f"job {job.id} is {job.state} {job.host}".rstrip() for job in jobs]
    if jobs or (code := submit.exit_code(known)) is None:
        return found
    last = store.manifest().get("started")
    is_news = last is None or known.code.stat().st_mtime >= datetime.fromisoformat(last).timestamp()
    return {**found, "code": code} if is_news else None


def _killed(store: Papers) -> str | None:
    """The latest run, if it did not come to its end."""
    runs = store.files.names("runs")
    whole = not runs or store.files.size(f"runs/{runs[-1]}/manifest.json") is not None
    return None if whole else runs[-1]


def _last_found(store: Papers, last: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the latest ingest found, a bounded number of runs back."""
    if "found" in last:
        return last["found"] or {}
    runs = store.files.names("runs")[::-1][:LOOKS_FOR_INGEST]
    return next((m["found"] for run in runs if (m := store.manifest(run)).get("found")), {})


def skipped(catalog: Path, store: str | None = None) -> Iterator[tuple[str, Path]]:
    """Name every file that an ingest passes over now, and why: for the operator, written down nowhere.

    Headers are read only of files that the last ingest did not see.

    Yields
    ------
    reason : str
    path : Path
    """
    from cohort.io.catalog import read_catalog
    from cohort.io.discover import discover
    from cohort.io.store import Store
    from cohort.userfiles import cache_file

    read = read_catalog(catalog, store=store)
    cache = cache_file(Store(read.store_root()))
    found = discover(
        read.source_paths(), subject=read.subject, cache=cache if cache.is_file() else None
    )
    for reason, paths in sorted(found.skipped.items()):
        for path in paths:
            yield reason, path


def running(store: Papers) -> Running | None:
    """The call that holds the store, or None if nobody does."""
    by = store.files.holder()
    if by is None:
        return None
    runs = store.files.names("runs")
    if not runs or store.files.size(f"runs/{runs[-1]}/manifest.json") is not None:
        return Running("", by, {})
    return Running(runs[-1], by, _progress(store, runs[-1]))


def follow(
    store: Papers,
    listen: Callable[[Mapping[str, Any]], None],
    *,
    wait_seconds: float = LOOK_SECONDS,
) -> dict[str, Any] | None:
    """Tell every event of the run that goes on, from its beginning, until it ends.

    Parameters
    ----------
    listen : callable
        Called with each event, as the run itself would call it.
    wait_seconds : float
        Between two looks.

    Returns
    -------
    dict or None
        The run's manifest; empty if nothing is running, None if the run was killed.
    """
    now = running(store)
    while now is not None and not now.run_id:
        time.sleep(wait_seconds)
        now = running(store)
    if now is None:
        return {}
    tail, silent = Tail(store, now.run_id), 0
    while silent < LOOKS_FOR_MANIFEST:
        held = store.files.holder() is not None
        manifest = store.manifest(now.run_id)
        for event in tail.events():
            listen(event)
        if manifest:
            return manifest
        # Free, or held by somebody else: what is still to come was written before.
        gone = not held or store.files.names("runs")[-1] != now.run_id
        silent = silent + 1 if gone else 0
        if gone and silent > 1 and not store.manifest(now.run_id):
            return None
        time.sleep(wait_seconds)
    return None


class Tail:
    """The events of a run, from where one stopped reading.

    Parameters
    ----------
    store : Papers
    run_id : str
    """

    def __init__(self, store: Papers, run_id: str) -> None:
        self._store, self._log = store, f"runs/{run_id}/events.jsonl"
        self._read: dict[str, int] = {}
        self._rest = b""

    def events(self) -> Iterator[dict[str, Any]]:
        """Those that came since the last time; one of which only a part is there waits for the rest."""
        for part in self._store.files.log_parts(self._log):
            content = self._rest + self._more(part)
            *lines, self._rest = content.split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    yield json.loads(line)

    def _more(self, part: str) -> bytes:
        done, place = self._read.get(part, 0), self._store.files.place(part)
        if isinstance(place, Path):
            with place.open("rb") as stream:
                stream.seek(done)
                content = stream.read()
        else:  # an object never changes once it is put
            content = b"" if done else self._store.files.read(part)
        self._read[part] = done + len(content)
        return content


def _progress(store: Papers, run_id: str) -> dict[str, Any]:
    """The last event of a run that says how much is done."""
    parts = store.files.log_parts(f"runs/{run_id}/events.jsonl")
    if not parts:
        return {}
    place = store.files.place(parts[-1])
    if isinstance(place, Path):
        with place.open("rb") as stream:
            stream.seek(max(0, place.stat().st_size - TAIL_BYTES))
            lines = stream.read().splitlines()
    else:
        lines = store.files.read(parts[-1]).splitlines()
    for line in reversed(lines):
        with suppress(ValueError):
            event = json.loads(line)
            if "stage" in event and ("done" in event or "total" in event):
                return {k: event[k] for k in ("stage", "done", "total") if k in event}
    return {}


def _rows(store: Papers, table: str) -> int:
    """Rows of a table, from its footer."""
    import pyarrow.parquet as pq

    with _readable(store, table):
        return int(pq.read_metadata(_source(store, table)).num_rows)


def _states(store: Papers, table: str) -> dict[str, int]:
    """Rows of a table by state, from that column alone."""
    import pyarrow.parquet as pq

    # A file of its own, not a dataset: what those import takes longer than reading.
    with _readable(store, table), pq.ParquetFile(_source(store, table)) as file:
        column = file.read(columns=["state"], use_threads=False).column("state")
    return dict(sorted(Counter(map(str, column.to_pylist())).items()))


def _flags(store: Papers) -> dict[str, int]:
    """How many scans have each flag."""
    import pyarrow.parquet as pq

    with _readable(store, "scans"), pq.ParquetFile(_source(store, "scans")) as file:
        if "flags" not in file.schema_arrow.names:  # nothing is odd about any scan
            return {}
        column = file.read(columns=["flags"], use_threads=False).column("flags")
    words = (word for text in column.to_pylist() for word in (text or "").split())
    return dict(sorted(Counter(words).items()))


@contextmanager
def _readable(store: Papers, table: str) -> Iterator[None]:
    """Name the file of a table that cannot be read: the library's words do not."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if isinstance(error, AWAY) or getattr(error, "errno", None):
            raise  # of the place or the disk: it says nothing against the table
        raise damaged(store.url, f"tables/{table}.parquet", error) from error


def _source(store: Papers, table: str) -> Path | io.BytesIO:
    name = f"tables/{table}.parquet"
    place = store.files.place(name)
    return place if isinstance(place, Path) else io.BytesIO(store.files.read(name))


def diff(store: Papers, since: str) -> dict[str, Any]:
    """What changed after a run, or since a day; see `pipeline.changes.merged`.

    Parameters
    ----------
    since : str
        A run id, or the beginning of one, or a day, YYYY-MM-DD (UTC).

    Raises
    ------
    StoreError
        If there is no such run.
    """
    return changes.merged(store, changes.since(store, since))
