"""Everything small that the report is made of, read from the store once: tables and records, no voxels."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import xarray as xr

from cohort.io.storage.backend import StoreError
from cohort.io.thumbnail import Thumbnail


class Source(Protocol):
    """What the report reads of a `cohort.io.store.Store`."""

    def read_json(self, name: str, /) -> dict[str, Any] | None: ...  # noqa: D102
    def table(self, name: str, /) -> pd.DataFrame | None: ...  # noqa: D102
    def units(self, name: str, /) -> dict[str, str]: ...  # noqa: D102
    def record(self, scan_id: str, /) -> dict[str, Any] | None: ...  # noqa: D102
    def open_scan(self, scan_id: str, /) -> xr.Dataset: ...  # noqa: D102
    def open_derivative(self, recipe: str, scan_id: str, /) -> xr.Dataset: ...  # noqa: D102
    def thumbnail(self, scan_id: str, /) -> Thumbnail: ...  # noqa: D102
    def scan_pages(self) -> list[str]: ...  # noqa: D102
    def quarantine(self) -> list[dict[str, Any]]: ...  # noqa: D102
    def runs(self) -> list[str]: ...  # noqa: D102
    def manifest(self, run_id: str | None = None, /) -> dict[str, Any]: ...  # noqa: D102
    def models(self) -> list[str]: ...  # noqa: D102
    def model(self, name: str, /) -> dict[str, Any] | None: ...  # noqa: D102
    def model_table(self, name: str, table: str, /) -> pd.DataFrame: ...  # noqa: D102


@dataclass(frozen=True)
class Facts:
    """Everything small that a page is made of: tables and records, no voxels."""

    scans: pd.DataFrame
    protocols: pd.DataFrame
    """One row a group of scans that were acquired alike, the largest first."""
    participants: pd.DataFrame
    measured: Mapping[str, pd.DataFrame]
    """Recipe -> its table, scans done and failed."""
    units: Mapping[str, Mapping[str, str]]
    models: Mapping[str, Mapping[str, Any]]
    refused: list[dict[str, Any]]
    manifest: Mapping[str, Any]
    """Of the latest run."""
    ingest: Mapping[str, Any]
    """Manifest of the latest run that looked at the sources; empty when none did."""
    n_withdrawn: int = 0
    """Subjects who withdrew since then."""

    @property
    def has_sources(self) -> bool:
        """Whether the catalog states where scans lie, as far as a run noted it; without, the cohort is a table."""
        return bool(self.ingest.get("n_sources"))

    def done(self, recipe: str) -> pd.DataFrame:
        """Scans that a recipe measured."""
        table = self.measured[recipe]
        return table[table["state"] == "done"] if "state" in table else table

    def failed(self, recipe: str) -> pd.DataFrame:
        """Scans on which a recipe failed."""
        table = self.measured[recipe]
        return table[table["state"] == "failed"] if "state" in table else table.iloc[:0]

    def stale(self, recipe: str) -> pd.DataFrame:
        """Scans whose numbers are of another recipe, input or library, and were not made again yet."""
        table = self.measured[recipe]
        return table[table["state"] == "stale"] if "state" in table else table.iloc[:0]

    def unit(self, recipe: str | None, column: str) -> str:
        """Unit of a measurement, empty where none is known."""
        return str(self.units.get(recipe or "", {}).get(column, ""))

    def recipe_of(self, model: Mapping[str, Any]) -> str | None:
        """Recipe that measured a model's outcome; None for a column of the participants table."""
        named, outcome = model.get("recipe"), model.get("outcome")
        return named or next((r for r, table in self.measured.items() if outcome in table), None)


def gather(store: Source, recipes: Iterable[str]) -> Facts:
    """Read the tables once. Recipes that a model or the last run names are found without being told."""
    models = {name: model for name in store.models() if (model := store.model(name)) is not None}
    manifest = store.manifest()
    ran = [
        stage.removeprefix("run:")
        for stage in manifest.get("stages") or {}
        if stage.startswith("run:")
    ]
    names = dict.fromkeys(
        [*recipes, *(str(m["recipe"]) for m in models.values() if m.get("recipe")), *ran]
    )
    tables = {name: table for name in names if (table := store.table(name)) is not None}
    ingest, n_withdrawn = last_look(store)
    return Facts(
        scans=_table(store, "scans"),
        protocols=_table(store, "protocols"),
        participants=_table(store, "participants"),
        measured=tables,
        units={name: store.units(name) for name in tables},
        models=models,
        refused=store.quarantine(),
        manifest=manifest,
        ingest=ingest,
        n_withdrawn=n_withdrawn,
    )


def last_look(store: Source) -> tuple[dict[str, Any], int]:
    """Manifest of the latest run that looked at the sources, and how many subjects withdrew since; what it counts is no longer so.

    Empty when no run did.
    """
    n = 0
    for run in reversed(store.runs()):
        if "found" in (manifest := store.manifest(run)):
            return manifest, n
        with suppress(StoreError):  # damaged: `cohort verify` says so
            n += (store.read_json(f"runs/{run}/changes.json") or {}).get("subjects_withdrawn", 0)
    return {}, n


def _table(store: Source, name: str) -> pd.DataFrame:
    table = store.table(name)
    return pd.DataFrame() if table is None else table
