"""Tables as TSV, and what their columns are in JSON beside them, in the manner of BIDS."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort.io.storage.spreadsheets import as_text
from cohort.io.store import Store, StoreError

if TYPE_CHECKING:
    import pandas as pd

MISSING = "n/a"

KEYS = {
    "scan_id": "Name of the scan in the store: subject, session, series",
    "participant": "Row of the participants table: a person, or a person's visit",
    "subject": "Person",
    "session": "Visit",
    "state": "What became of the scan: done, failed, or stale (a number of an earlier version)",
    "reason": "Why a scan is not done",
    "label": "Number of the object in the label image",
    "series": "Series as it was delivered",
    "acquisition": "Acquisition within its series",
    "kind": "Form in which the scan was delivered",
    "n_files": "Files of which the scan was made",
    "units": "Unit of the voxels",
    "axcodes": "Anatomical direction to which the axes x, y, z point",
    "dtype": "Type of the voxels as stored",
    "protocol": "Number of the acquisition protocol, see the table protocols",
}


def columns(store: Store, name: str) -> dict[str, dict[str, Any]]:
    """Describe the columns of a table, as far as the store knows.

    Returns
    -------
    dict
        Column -> ``Description`` and ``Units`` (of what has one), as a sidecar of BIDS has them.
    """
    table = store.table(name)
    if table is None:
        there = ", ".join(store.tables()) or "none"
        raise StoreError(f"no table {name!r} in {store.url}; there are {there}")
    units = store.units(name)
    calls = measured(store, name)
    found: dict[str, dict[str, Any]] = {}
    for column in map(str, table):
        said: dict[str, Any] = {}
        if column in KEYS and column not in units:
            said["Description"] = KEYS[column]
        elif column.startswith("shape_"):
            said = {"Description": f"Voxels along {column[-1]}"}
        elif column.startswith("spacing_") and column.endswith("_mm"):
            said = {"Description": f"Distance of voxels along {column[8]}", "Units": "mm"}
        elif column in calls:
            said["Description"] = calls[column]
        if column in units:
            said["Units"] = units[column]
        found[column] = said or {"Description": column}
    return found


def measured(store: Store, name: str) -> dict[str, str]:
    """How each column of a recipe's table came about: the call of its recipe, as text; empty for other tables."""
    recipe, _, part = name.partition(".")
    if recipe not in store.recipes():
        return {}
    said: Mapping[str, Any] = {}
    for scan_id in store.derivative_ids(recipe):
        found = store.derivative(recipe, scan_id) or {}
        if "recipe_digest" in found and (said := store.recipe(found["recipe_digest"])):
            break
    measures: Mapping[str, Any] = said.get("measure", {})
    if part:
        text = f"{call_text(measures[part])} of {recipe}" if part in measures else ""
        return {c: f"{c}: {text}" for c in store.units(name)} if text else {}
    calls: dict[str, str] = {}
    for column in store.units(name):
        of = measure_of(column, measures)
        if of is not None:
            calls[column] = f"{call_text(measures[of])} of recipe {recipe}"
    return calls


def measure_of(column: str, measures: Mapping[str, Any]) -> str | None:
    """The measurement of a recipe that gave a column: it is called so, or begins with its name (``where_x`` of ``where``)."""
    named = [m for m in measures if f"{column}_".startswith(f"{m}_")]
    return max(named, key=len, default=None)


def call_text(said: Mapping[str, Any]) -> str:
    """A step or measurement of a recipe as one reads it.

    >>> call_text({"call": "volume_ml", "mask": "head"})
    'volume_ml(mask=head)'
    >>> call_text({"value": "a / b", "unit": "1"})
    'a / b'
    """
    if "call" not in said:
        return str(said.get("value"))
    given = ", ".join(f"{k}={v}" for k, v in said.items() if k != "call")
    return f"{said['call']}({given})"


def write_tsv(
    table: "pd.DataFrame", path: Path, described: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a table as UTF-8 TSV, and `described` as JSON beside it. What is missing becomes ``n/a``.

    Numbers are written so that they read back as the same. Text loses tabs and line breaks, and gets an apostrophe in front
    where a spreadsheet would take it for a formula.
    """
    shown = table.apply(lambda column: column.map(_cell)) if len(table) else table
    shown = shown.rename(columns=lambda name: as_text(str(name)))
    shown.to_csv(path, sep="\t", index=False, encoding="utf-8", lineterminator="\n")
    write_json(path.with_suffix(".json"), {c: dict(described[c]) for c in described if c in table})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for people: UTF-8, indented."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return MISSING
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if not isinstance(value, str):
        return str(value)
    return as_text(value) or MISSING


def write_tables(store: Store, names: list[str], folder: Path) -> list[str]:
    """Write tables of a store into a folder that is there, each as ``<name>.tsv`` and ``<name>.json``.

    Parameters
    ----------
    names : list of str
        All there are, if empty.

    Returns
    -------
    list of str
        Those that were written.

    Raises
    ------
    StoreError
        If there is no such table, or one is damaged.
    """
    import pandas as pd

    wanted = names or store.tables()
    if not wanted:
        raise StoreError(f"no tables in {store.url} yet; `cohort update` makes them")
    for name in wanted:
        described = columns(store, name)
        table = store.table(name)
        write_tsv(pd.DataFrame() if table is None else table, folder / f"{name}.tsv", described)
    return wanted
