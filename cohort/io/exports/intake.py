"""A catalog with which intake 2 opens a cohort: its tables, and any of its scans by name."""

import os
from pathlib import Path
from typing import Any

import cohort
from cohort.io.exports.place import ExportError
from cohort.io.store import Store, StoreError

_READERS = "intake.readers"
SCAN = "scan"
"""Entry for the scans, however many there are: its parameter ``scan_id`` says which."""


def intake_catalog(store: Store, folder: Path) -> dict[str, Any]:
    """What stands in a version 2 catalog of intake that will lie in `folder`.

    Parameters
    ----------
    folder : Path
        A store on this machine is named relative to it, so that both can be moved together.

    Returns
    -------
    dict
        Entries for every table, by its name; ``scan``; and ``<recipe>.kept`` for the variables that a recipe kept: those two take
        the parameter ``scan_id`` (``catalog(scan_id=...).scan``).

    Raises
    ------
    StoreError
        If there is nothing in the store yet.
    ExportError
        If the store's place holds a brace, which stands for a parameter there.

    Notes
    -----
    The YAML is written out, not saved by intake's own means, which name entries by their hashes. ``consolidated: false``
    keeps xarray from warning at every scan that there is no consolidated metadata; ``chunks: auto`` gives chunks of some 100
    MiB, where none would give thousands of tasks.
    """
    tables = store.tables()
    if not tables:
        raise StoreError(f"no tables in {store.url} yet; `cohort update` makes them")
    root = store.url
    if store.is_local:
        relative = os.path.relpath(store.root.resolve(), folder.resolve())
        root = f"{{CATALOG_DIR}}/{Path(relative).as_posix()}"
    if {"{", "}"} & set(root.removeprefix("{CATALOG_DIR}")):
        raise ExportError(
            f"{store.url}: a brace in a path is a parameter to intake; move the store"
        )
    found: dict[str, Any] = {
        "version": 2,
        "metadata": {
            "description": f"Cohort {store.info().get('cohort', '?')}",
            "generated_by": f"cohort {cohort.__version__}",
        },
        "user_parameters": {},
        "aliases": {},
        "data": {},
        "entries": {},
    }
    for name in tables:
        table, url = store.table(name), f"{root}/tables/{name}.parquet"
        metadata = {"rows": 0 if table is None else len(table), "units": store.units(name)}
        _add(found, name, "Parquet", url, "PandasParquet", "pandas:DataFrame", metadata, {})
    scans = store.scan_ids()
    if scans:
        found["user_parameters"]["scan_id"] = {
            "description": f"One of {len(scans)} scans, see the table scans",
            "dtype": "builtins:str",
            "default": scans[0],
        }
        groups = {SCAN: "scans"} | {
            f"{recipe}.kept": f"derivatives/{recipe}"
            for recipe in store.recipes()
            if (store.derivative(recipe, scans[0]) or {}).get("kept")
        }
        opened = {"consolidated": False, "chunks": "auto"}
        for name, place in groups.items():
            url = f"{root}/{place}/{{scan_id}}.zarr"
            _add(found, name, "Zarr", url, "XArrayDatasetReader", "xarray:Dataset", {}, opened)
    return found


def _add(
    catalog: dict[str, Any],
    name: str,
    kind: str,
    url: str,
    reader: str,
    output: str,
    metadata: dict[str, Any],
    options: dict[str, Any],
) -> None:
    if name in catalog["entries"]:
        raise ExportError(f"{name!r} is a table and an entry for scans; rename the recipe")
    inside: dict[str, Any] = {"url": url, "storage_options": None}
    if kind == "Zarr":
        inside["root"] = ""
    # A dot in a template would be looked up within what stands before it.
    data = f"data_{len(catalog['data'])}"
    catalog["data"][data] = {
        "datatype": f"{_READERS}.datatypes:{kind}",
        "metadata": {},
        "user_parameters": {},
        "kwargs": inside,
    }
    catalog["entries"][name] = {
        "reader": f"{_READERS}.readers:{reader}",
        "output_instance": output,
        "metadata": metadata,
        "user_parameters": {},
        "kwargs": {"data": f"{{data({data})}}", **options},
    }


def write_intake(store: Store, path: Path, *, folder: Path) -> None:
    """Write `intake_catalog` as YAML into `path`, for a file that will lie in `folder`."""
    import yaml

    text = yaml.safe_dump(intake_catalog(store, folder), sort_keys=False, allow_unicode=True)
    path.write_text(f"# Read with intake.open_catalog; scans: catalog(scan_id=...).scan\n{text}")
