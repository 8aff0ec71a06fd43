"""What a notebook and the command line call: the five stages, and the Cohort that a notebook holds.

Every stage is safe to repeat: it does what is stale and nothing else.
"""

import builtins
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort import overview, schema
from cohort.call import STAGES, Call, tokens_file
from cohort.grid import GridError
from cohort.io.catalog import Catalog, CatalogError, read_catalog
from cohort.io.store import Store, StoreError
from cohort.options import Options, Result
from cohort.outlook import explain, forecast
from cohort.pipeline.ledger import Listener, silent
from cohort.upkeep import cancel, collect, readmit, withdraw

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    import xarray as xr
    from distributed import Client

    from cohort.io.accounts import Problem
    from cohort.io.audit import Finding
    from cohort.io.private import Row
    from cohort.pipeline.plan import Plan
    from cohort.stats.regression import Fit

__all__ = [
    "Cohort",
    "Options",
    "Result",
    "audit",
    "cancel",
    "collect",
    "diff",
    "explain",
    "fit",
    "forecast",
    "ingest",
    "open",
    "plan",
    "readmit",
    "report",
    "run",
    "status",
    "update",
    "verify",
    "which",
    "why",
    "withdraw",
]


def ingest(
    catalog: str | Path | Catalog, *, client: "Client | None" = None, options: Options | None = None
) -> Result:
    """Bring new and changed scans into the store."""
    return Call(catalog, client, options or Options()).work("ingest", ["ingest"])


def run(
    catalog: str | Path | Catalog,
    recipe: str | None = None,
    *,
    client: "Client | None" = None,
    options: Options | None = None,
) -> Result:
    """Run a recipe, or all of the catalog, on the scans for which it is stale."""
    return Call(catalog, client, options or Options()).work("run", ["run"], recipe=recipe)


def fit(
    catalog: str | Path | Catalog, model: str | None = None, *, options: Options | None = None
) -> Result:
    """Fit a model, or all of the catalog, whose table or definition changed."""
    return Call(catalog, None, options or Options()).work("fit", ["fit"], model=model)


def report(catalog: str | Path | Catalog, *, options: Options | None = None) -> Result:
    """Write ``report/index.html``."""
    return Call(catalog, None, options or Options()).work("report", ["report"])


def update(
    catalog: str | Path | Catalog, *, client: "Client | None" = None, options: Options | None = None
) -> Result:
    """All stages, and only what is stale: what a timer calls."""
    return Call(catalog, client, options or Options()).work("update", STAGES)


def plan(
    catalog: str | Path | Catalog, recipe: str | None = None, *, options: Options | None = None
) -> "list[Plan]":
    """What `run` would do and why; nothing is written."""
    return Call(catalog, None, options or Options()).plan(recipe)


def open(url_or_catalog: str | Path) -> "Cohort":
    """Open a cohort for looking and querying.

    Parameters
    ----------
    url_or_catalog : path or URL
        A catalog (``.yaml``), the folder of a store, or ``s3://bucket/prefix``.

    Raises
    ------
    CatalogError, StoreError
        If there is neither.
    """
    path = Path(url_or_catalog)
    if path.suffix in (".yaml", ".yml"):
        catalog = read_catalog(path)
        return Cohort(Store(catalog.store_root()), catalog)
    store = Store(url_or_catalog)
    if not store.info():
        raise StoreError(
            f"{store.url} is no cohort: expected a catalog (.yaml) or a store with a cohort.json"
        )
    return Cohort(store)


class Cohort:
    """A cohort as a notebook holds it: tables at once, images lazily.

    Parameters
    ----------
    store : Store
    catalog : Catalog, optional
        Needed for `fit` only.
    """

    def __init__(self, store: Store, catalog: Catalog | None = None) -> None:
        self.store, self.catalog = store, catalog

    def __repr__(self) -> str:
        """Name, scans, recipes and models."""
        info = self.store.info()
        recipes = ", ".join(self.recipes) or "none"
        return f"<Cohort {info.get('cohort', '?')!r}: {len(self.scans)} scans; recipes: {recipes}; models: {', '.join(self.store.models()) or 'none'}>"

    @property
    def scans(self) -> "pd.DataFrame":
        """One row a scan: keys, geometry, what the header said."""
        import pandas as pd

        table = self.store.table("scans")
        return (
            pd.DataFrame(columns=["scan_id", "participant", "subject", "session", "state"])
            if table is None
            else table
        )

    @property
    def participants(self) -> "pd.DataFrame | None":
        """The covariates, one row a participant or visit."""
        return self.store.table("participants")

    @property
    def recipes(self) -> list[str]:
        """Recipes with a table of measurements."""
        return [
            name
            for name in self.store.tables()
            if name not in schema.COHORT_TABLES and "." not in name
        ]

    def scan(self, scan_id: str) -> "xr.Dataset":
        """One scan, lazily; the cost does not depend on how many there are. Raises `StoreError`."""
        return self.store.open_scan(scan_id)

    def measurements(self, recipe: str) -> "pd.DataFrame":
        """One row a scan, one column a measurement; units in ``.attrs["units"]``. Raises `StoreError`."""
        table = self.store.table(recipe)
        if table is None:
            raise StoreError(
                f"no measurements of {recipe!r}; there are {', '.join(self.recipes) or 'none'}"
            )
        table.attrs["units"] = self.store.units(recipe)
        return table

    def stack(self, variable: str = "image") -> "xr.DataArray":
        """All scans along a new dimension ``scan``, lazily.

        Raises
        ------
        GridError
            If two scans lie on different grids, with both.
        """
        import xarray as xr

        from cohort.grid import check_same_grid

        ids = [str(s) for s in self.scans["scan_id"]]
        if not ids:
            raise GridError("there are no scans to stack")
        arrays = [self.scan(s)[variable].chunk() for s in ids]
        for scan_id, array in zip(ids[1:], arrays[1:], strict=True):
            check_same_grid(**{ids[0]: arrays[0], scan_id: array})
        first = arrays[0]
        aligned = [a.assign_coords(first.coords) for a in arrays]
        return xr.concat(
            aligned,
            dim=xr.Variable(("scan",), ids),
            coords="minimal",
            compat="override",
            join="override",
        )

    def tree(self) -> "xr.DataTree":
        """All scans as the children of a DataTree, lazily."""
        import xarray as xr

        return xr.DataTree.from_dict({str(s): self.scan(str(s)) for s in self.scans["scan_id"]})

    def sql(self, query: str) -> "pd.DataFrame":
        """Query the tables with DuckDB; every table of the store is a view of its name (``"oasis-csf"`` in double quotes).

        Examples
        --------
        ``cohort.sql('select session, avg(csf_ml) from "oasis-csf" group by session')``
        """
        import duckdb

        with duckdb.connect(config={"enable_external_access": False}) as connection:
            for name in self.store.tables():
                connection.register(name, self.store.table(name))
            return connection.sql(query).df()

    def fit(self, model: str) -> "Fit":
        """Fit a model of the catalog to the tables as they are; nothing is written. Raises `CatalogError`, `ModelError`."""
        from cohort.checking import read_recipes
        from cohort.stats.models import fit_table, model_table

        if self.catalog is None or model not in self.catalog.models:
            known = (
                ", ".join(self.catalog.models)
                if self.catalog
                else "none: open the catalog, not the store"
            )
            raise CatalogError([f"no model {model!r}; there are {known}"])
        spec = self.catalog.models[model]
        recipes = [r.name for r in read_recipes(self.catalog)]
        table, units = model_table(self.store, self.catalog, spec, recipes)
        return fit_table(table, spec, units)

    def explain(self, scan_id: str, quantity: str) -> dict[str, Any]:
        """Where a number comes from: value, unit, recipe, its steps as they were run, inputs and their digests.

        Raises
        ------
        StoreError
            If no recipe measured `quantity` on the scan.
        """
        for recipe in self.recipes:
            found = self.store.derivative(recipe, scan_id)
            if found is None or quantity not in found.get("measurements", {}):
                continue
            scan = self.store.record(scan_id) or {}
            said = self.store.recipe(found["recipe_digest"])
            return {
                "scan_id": scan_id,
                "quantity": quantity,
                "value": found["measurements"][quantity],
                "unit": found["units"].get(quantity, "1"),
                "recipe": recipe,
                "steps": said.get("steps"),
                "measure": said.get("measure"),
                "keys": found["keys"],
                "inputs": found["contents"],
                "source": scan.get("source"),
                "chunks": scan.get("chunks"),
            }
        raise StoreError(f"no recipe measured {quantity!r} on {scan_id}; see .measurements(recipe)")


def status(cohort: Cohort) -> dict[str, Any]:
    """Scans by state, the last run, the one that goes on, what waits in quarantine; see `overview.status`."""
    return overview.status(cohort.store)


def diff(cohort: Cohort, since: str) -> dict[str, Any]:
    """What changed after a run, or since a day: scans, coefficients, alarms; see `overview.diff`. Raises `StoreError`."""
    return overview.diff(cohort.store, since)


def verify(
    cohort: Cohort, *, repair: bool = False, listen: Listener = silent
) -> "builtins.list[Problem]":
    """Account for every file and byte of a store; see `io.verify.verify`.

    Parameters
    ----------
    repair : bool
        Remove what is damaged, so that the next `update` makes it again.

    Raises
    ------
    Locked
        If somebody is writing to the store.
    """
    from cohort.io.verify import discard
    from cohort.io.verify import verify as problems_of

    store = cohort.store
    with store.lock():
        found = list(problems_of(store, progress=_progress(store, "verify", listen)))
        if repair:
            discard(store, found)
    return found


def audit(cohort: Cohort, *, listen: Listener = silent) -> "tuple[builtins.list[Finding], bool]":
    """Search a store for what should not be there; see `io.audit.audit`.

    Returns
    -------
    findings : list
    known : bool
        Whether this machine has the table of originals, so that each of them was searched for.
    """
    from cohort.io.audit import audit as findings_of

    store, table = cohort.store, tokens_file(cohort.store)
    ids = None if cohort.catalog is None else cohort.catalog.ids
    # Where ids are kept, the originals are what the store shows: only what looks like an identity is searched for.
    known = table.is_file() and ids != "keep"
    progress = _progress(store, "audit", listen)
    found = findings_of(store, private=table if known else None, ids=ids, progress=progress)
    return list(found), known


def which(cohort: Cohort, token: str) -> "builtins.list[Row]":
    """What a name of the store stands for: ids and paths, on the machine that ingested.

    Raises
    ------
    PrivateError
        If this machine did not ingest.
    StoreError
        If nothing is known by that name.
    """
    from cohort.io import private

    rows = private.which(tokens_file(cohort.store), token)
    if not rows:
        raise StoreError(f"nothing known of {token!r}; it may come from another store or key")
    return rows


def _progress(store: Store, stage: str, listen: Listener) -> "Callable[[int], None]":
    """Tell who listens how many of the store's bytes are done."""
    total = sum(size for _, size in store.files.listing())
    done = 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        listen({"event": "found", "stage": stage, "done": done, "total": total})

    return tell


def why(cohort: Cohort, unit: str) -> builtins.list[dict[str, Any]]:
    """Everything known about why a scan, series or subject is in its state.

    Parameters
    ----------
    unit : str
        A scan_id, the name of a quarantined series, or a part of either.

    Raises
    ------
    StoreError
        If nothing is known by that name.
    """
    found: builtins.list[dict[str, Any]] = [
        {
            "unit": e["series"],
            "state": e["state"],
            "stage": "ingest",
            "code": e["code"],
            "reason": e["reason"],
        }
        for e in cohort.store.quarantine()
        if unit in e["series"] or unit == e.get("subject")
    ]
    for scan_id in cohort.scans["scan_id"]:
        if unit not in str(scan_id):
            continue
        record = cohort.store.record(str(scan_id)) or {}
        found.append(
            {
                "unit": scan_id,
                "state": "done",
                "stage": "ingest",
                "reason": f"{record.get('n_files')} files, {record.get('kind')}, stamp {str(record.get('stamp'))[:12]}",
            }
        )
        for recipe in cohort.recipes:
            derivative = cohort.store.derivative(recipe, str(scan_id))
            if derivative is None:
                found.append(
                    {
                        "unit": scan_id,
                        "state": "stale",
                        "stage": f"run:{recipe}",
                        "reason": "not measured yet",
                    }
                )
            elif derivative["state"] == "failed":
                found.append(
                    {
                        "unit": scan_id,
                        "state": "failed",
                        "stage": f"run:{recipe}",
                        "code": derivative["type"],
                        "reason": derivative["reason"],
                    }
                )
            else:
                found.append(
                    {
                        "unit": scan_id,
                        "state": "done",
                        "stage": f"run:{recipe}",
                        "reason": f"{len(derivative['measurements'])} measurements",
                    }
                )
    if not found:
        raise StoreError(
            f"nothing known of {unit!r}; `cohort status` lists scans and quarantined series"
        )
    return found
