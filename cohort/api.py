"""What a notebook and the command line call: the five stages, and questions about a cohort that was opened.

Every stage is safe to repeat: it does what is stale and nothing else.
"""

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort import overview
from cohort.call import STAGES, Call
from cohort.cohort import Cohort
from cohort.io.catalog import Catalog, read_catalog
from cohort.io.store import Store, StoreError
from cohort.options import Options, Result
from cohort.outlook import explain, forecast
from cohort.pipeline.ledger import Listener, silent
from cohort.userfiles import tokens_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from cohort.io.accounts import Problem
    from cohort.io.audit import Finding
    from cohort.io.private import Row
    from cohort.pipeline.plan import Plan
    from cohort.upkeep import cancel, collect, readmit, withdraw

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


_UPKEEP = ("cancel", "collect", "readmit", "withdraw")


def __getattr__(name: str) -> Any:
    """What is done by hand, imported when it is called: it reads file formats, whose libraries take 36 MB."""
    if name in _UPKEEP:
        from cohort import upkeep

        return getattr(upkeep, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


def report(
    catalog: str | Path | Catalog,
    *,
    scans: Sequence[str] = (),
    flagged: bool = False,
    options: Options | None = None,
) -> Result:
    """Write ``report/index.html``, and on request a page a scan, ``report/scans/<scan_id>.html``.

    Parameters
    ----------
    scans : sequence of str
        Scans that get a page of their own: scan_ids or parts of them; see `reporting.scanpage.chosen`.
    flagged : bool
        Also those that failed, have an outlying value or none, or move a model, 50 pages a call at most.
    """
    asked = replace(options or Options(), scan_pages=tuple(scans), flagged_pages=flagged)
    return Call(catalog, None, asked).work("report", ["report"])


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


def open(url_or_catalog: str | Path) -> Cohort:
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
    with store.lock() if repair else store.still():
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
    # Where ids are kept, the originals are what the store shows: only what looks like an identity is searched for.
    known = table.is_file() and cohort.ids != "keep"
    progress = _progress(store, "audit", listen)
    found = findings_of(store, private=table if known else None, ids=cohort.ids, progress=progress)
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
