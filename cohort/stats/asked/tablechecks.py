"""What a catalog declares of its table as a whole, once a cohort: checks of every row, scan-rescan reliability, an expert's values."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.store import Store
from cohort.stats.asked import experts
from cohort.stats.asked.modeltable import ModelError, model_table
from cohort.stats.columns import DesignError

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("checks", "strays", "reliability", "pairs")
"""What is written, as ``tables/participants.<name>.parquet``, or ``scans.<name>`` where a column is measured."""


def examine(store: Store, catalog: Catalog, recipes: Sequence[str]) -> tuple[str, ...]:
    """Check the table of a cohort, tell how well its columns repeat and agree with an expert's, and write all; what was not declared goes.

    Columns of the participants table are looked at in all its rows, with a scan or without. If a declared column is
    measured, the rows are the scans.

    Returns
    -------
    tuple of str
        One line a check that fails, naming rows, or what could not be done and why.
    """
    from cohort.stats import consistency, reliability

    written: dict[str, pd.DataFrame] = {}
    told: tuple[str, ...] = ()
    home = "participants"
    if catalog.checks or catalog.reliability:
        try:
            home, table, units = _table(store, catalog, recipes)
            if catalog.checks:
                declared = {name: check.declared() for name, check in catalog.checks.items()}
                found = consistency.check(table, declared)
                row = "participant" if home == "participants" else "scan_id"
                written["checks"] = found.checks
                written["strays"] = found.strays.rename(columns={"row_id": row})
                told = found.warnings
            if catalog.reliability:
                repeated = reliability.reliability(table, columns=catalog.reliability, units=units)
                written |= {"reliability": repeated.table, "pairs": repeated.pairs}
        except (DesignError, ModelError) as error:
            told = (*told, f"checks and reliability: {error}")
    compared, why = experts.agree(store, catalog, recipes)
    homes: dict[str, dict[str, pd.DataFrame]] = {"participants": {}, "scans": dict(compared)}
    homes[home] |= written
    for prefix, tables in homes.items():
        store.remove_tables(prefix, tables)
        for name, table in tables.items():
            store.write_table(f"{prefix}.{name}", table)
    return (*told, *why)


def _table(
    store: Store, catalog: Catalog, recipes: Sequence[str]
) -> "tuple[str, pd.DataFrame, dict[str, str]]":
    """The participants table if it has all that is named, else measurements and covariates of the scans."""
    texts = [check.constant or check.holds or "" for check in catalog.checks.values()]
    texts += catalog.reliability or ()
    people = store.table("participants")
    if people is not None:
        measured: set[str] = set()
        for recipe in recipes:
            table = store.table(recipe)
            measured |= set() if table is None else set(table.columns) - set(people.columns)
        if not measured & set(re.findall(r"\w+", " ".join(texts))):
            return "participants", people, store.units("participants")
    # Where two recipes measure the same name a model says which; here the first one counts, as listed.
    asked = Model(outcome="scan_id", formula=" + ".join(texts))
    table, units = model_table(store, catalog, asked, recipes, accept_versions=True)
    return "scans", table.drop(columns="unusable"), units
