"""The measurements of a cohort as they come by, one record after the other, and the tables that are made of them.

What is held of a scan is its row: some hundred bytes, whatever its record holds beside.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cohort.io.store import Store
from cohort.pipeline import quantities
from cohort.pipeline.plan import Task
from cohort.pipeline.recipe import Recipe
from cohort.pipeline.staleness import LIBRARY
from cohort.pipeline.versions import changes

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("scan_id", "participant", "subject", "session")
"""Columns of the scans table that say whose a row is."""


class Rows:
    """Rows for ``tables/<recipe>.parquet`` and its per-label tables.

    A row is ``done``, ``failed`` or ``stale``. What a recipe or an input has outdated is left out of a stale row, so that
    no table holds numbers of two recipes; of a result that only has other versions of the libraries all numbers stay, and
    ``reason`` names them (``library: scipy 1.17.1 -> 1.18.0``).

    Parameters
    ----------
    recipe : Recipe
    versions : mapping
        Libraries on which numbers depend -> version (`versions.numeric`).
    """

    def __init__(self, recipe: Recipe, versions: Mapping[str, str]) -> None:
        self.recipe, self.versions = recipe, versions
        self.failed: dict[str, tuple[str, str]] = {}
        """Scans on which the recipe failed: kind of the failure, its message."""
        self._columns, self._digest = recipe.columns(), recipe.digest
        self._rows: dict[str, tuple[Any, ...]] = {}
        self._units: dict[str, str] = {}
        self._labelled: dict[str, dict[str, Mapping[str, Any]]] = {t: {} for t in recipe.tables()}

    def take(self, scan_id: str, found: Mapping[str, Any] | None) -> None:
        """Take the record of a scan, in place of an earlier one; without a record there is no row."""
        self.failed.pop(scan_id, None)
        self._rows.pop(scan_id, None)
        for table in self._labelled.values():
            table.pop(scan_id, None)
        if found is None:
            return
        state, reason = found["state"], found.get("reason")
        if state == "failed":
            self.failed[scan_id] = (found["type"], found["reason"])
        elif libraries := changes(found.get("versions"), self.versions):
            state, reason = "stale", LIBRARY + ", ".join(libraries)
        measured = found.get("measurements", {})
        self._rows[scan_id] = (state, reason, *(measured.get(c) for c in self._columns))
        for name, tables in self._labelled.items():
            if name in found.get("tables", {}):
                tables[scan_id] = found["tables"][name]
        # Of tables of labels, whose columns only a scan knows; those of the recipe's own table it states itself.
        units = found.get("units", {})
        if found.get("recipe_digest") == self._digest:
            self._units |= units
        else:
            self._units = {**units, **self._units}

    def outdate(self, task: Task) -> None:
        """Mark the row of a scan that a plan wanted to run and nobody did: what is stale of it is left out."""
        row = self._rows.get(task.scan_id)
        if row is None or task.kind in ("library", "failed"):
            return
        self.failed.pop(task.scan_id, None)
        stale = set(task.stale)
        values = (
            None if step in stale else value
            for step, value in zip(self._columns.values(), row[2:], strict=True)
        )
        self._rows[task.scan_id] = ("stale", task.reason, *values)
        for name in stale & self._labelled.keys():
            self._labelled[name].pop(task.scan_id, None)

    def write(self, store: Store, scans: "pd.DataFrame") -> None:
        """Replace the tables, if they changed.

        Parameters
        ----------
        scans : DataFrame
            `KEYS` of every scan of the cohort, and ``units`` of its image; there is a row for those that were taken, in this order.
        """
        import pandas as pd

        ids = [s for s in scans["scan_id"] if s in self._rows]
        named = ["state", "reason", *self._columns]
        columns = list(zip(*(self._rows[s] for s in ids), strict=True)) or [()] * len(named)
        kinds = ["string", "string", *("float64" for _ in self._columns)]
        measured = {
            name: pd.Series(values, dtype=kind)
            for name, values, kind in zip(named, columns, kinds, strict=True)
        }
        keys = scans.loc[scans["scan_id"].isin(self._rows), list(KEYS)].astype("string")
        table = keys.reset_index(drop=True).assign(**measured)
        image = quantities.of_images(scans.get("units", ()))
        store.write_table(self.recipe.name, table, quantities.units(self.recipe, image=image))
        for name, found in self._labelled.items():
            store.write_table(f"{self.recipe.name}.{name}", _joined(found, ids), self._of(name))
        store.remove_tables(self.recipe.name, self.recipe.tables())

    def _of(self, name: str) -> dict[str, str]:
        """Units of the columns of a per-label table."""
        return {
            column.partition(".")[2]: unit
            for column, unit in self._units.items()
            if column.startswith(f"{name}.")
        }


def _joined(found: Mapping[str, Mapping[str, Any]], ids: list[str]) -> "pd.DataFrame":
    """Tables of many scans below each other, one row a scan and label."""
    import pandas as pd

    columns: dict[str, list[Any]] = {"scan_id": [], "label": []}
    for scan_id in ids:
        if scan_id not in found:
            continue
        table, above = found[scan_id], len(columns["scan_id"])
        n = len(table["label"])
        columns |= {name: [None] * above for name in table if name not in columns}
        for name, values in columns.items():
            values += [scan_id] * n if name == "scan_id" else table.get(name, [None] * n)
    joined = pd.DataFrame(columns)
    # Where no scan has a label, or no label a value, pandas knows no type, and a query could not join such columns.
    kinds = {"scan_id": "string", "label": "int64"}
    untold = [name for name in columns if not joined[name].notna().any()]
    return joined.astype({name: kinds.get(name, "float64") for name in untold})
