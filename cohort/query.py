"""SQL over the tables of a store: what a statistician asks a cohort without writing a program."""

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cohort.io.store import Store

if TYPE_CHECKING:
    import pandas as pd

_SAFE = {
    "enable_external_access": "false",  # no file, no network, no extension
    "python_enable_replacements": "false",  # no variable of the program
    "lock_configuration": "true",  # and no way back
}


class QueryError(ValueError):
    """A question that cannot be answered, in one line."""


def query(store: Store, text: str) -> "pd.DataFrame":
    """Answer one SELECT over the tables of a store; nothing outside of them can be read, and nothing written.

    Parameters
    ----------
    store : Store
    text : str
        SQL of DuckDB, one statement; ``SHOW TABLES``, ``DESCRIBE`` and ``SUMMARIZE`` are some, too. A name with other signs than
        letters, digits and _ stands in double quotes.

    Returns
    -------
    DataFrame

    Raises
    ------
    QueryError
        If it is not one statement that gives rows, or names what is not there.
    StoreError
        If a table is damaged.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(_line(error)) from None
    if len(statements) != 1:
        raise QueryError(f"expected one statement of SQL, found {len(statements)}")
    if (kind := statements[0].type) != duckdb.StatementType.SELECT:
        raise QueryError(f"expected SELECT, found {kind.name}: the tables are read, not changed")
    makers = views(store)
    shows_all = text.split()[0].casefold() == "show"
    with duckdb.connect() as connection:
        try:
            for name, make in makers.items():
                # Only what it may be about: to read all tables may take longer than to answer.
                if shows_all or name.casefold() in text.casefold():
                    connection.register(name, make())
            for setting, value in _SAFE.items():
                connection.execute(f"SET {setting} = {value}")
            return connection.sql(text).df()
        except duckdb.CatalogException as error:
            raise QueryError(_unknown(error, makers)) from None
        except duckdb.Error as error:
            raise QueryError(_line(error)) from None


def views(store: Store) -> "dict[str, Callable[[], pd.DataFrame]]":
    """Name of everything that a query may read -> what makes it, sorted.

    Every table under its own name; and, unless a table is called so, ``measurements`` (one row a scan, recipe and quantity), ``wide`` (one
    row a scan, with its participant's covariates and everything that was measured), ``outliers`` (one row a scan, recipe and quantity that
    is far from the other scans' or has no value) and ``fits`` (one row a model, outcome and term).
    """
    names = store.tables()
    recipes = store.recipes()
    made: dict[str, Callable[[], pd.DataFrame]] = {
        "measurements": partial(_long, store, recipes),
        "wide": partial(_wide, store, recipes),
        "outliers": partial(_outliers, store, recipes),
        "fits": partial(_fits, store),
    }
    made |= {name: partial(_table, store, name) for name in names}
    return dict(sorted(made.items()))


def _table(store: Store, name: str) -> "pd.DataFrame":
    import pandas as pd

    found = store.table(name)
    return pd.DataFrame() if found is None else found


def _long(store: Store, recipes: Sequence[str]) -> "pd.DataFrame":
    """One row a scan, recipe and quantity."""
    import pandas as pd

    keys = ["scan_id", "participant", "subject", "session", "state"]
    tables = [pd.DataFrame(columns=[*keys, "recipe", "quantity", "value", "unit"])]
    for recipe in recipes:
        table, units = _table(store, recipe), store.units(recipe)
        known = [key for key in keys if key in table]
        quantities = [c for c in table if c in units]
        long = table.melt(known, quantities, var_name="quantity", value_name="value")
        unit = long["quantity"].map(units)
        tables.append(long.assign(recipe=recipe, value=pd.to_numeric(long["value"]), unit=unit))
    found = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(found, ignore_index=True)[list(tables[0].columns)]


def _wide(store: Store, recipes: Sequence[str]) -> "pd.DataFrame":
    """One row a scan: what is known of it, of its participant, and what was measured."""
    wide = _table(store, "scans")
    participants = store.table("participants")
    if participants is not None and "participant" in wide:
        own = [c for c in participants if c == "participant" or c not in wide]
        wide = wide.merge(participants[own], how="left", on="participant", validate="many_to_one")
    for recipe in recipes:
        table, units = _table(store, recipe), store.units(recipe)
        quantities = [c for c in table if c in units]
        # Two recipes may measure under one name: the second one's says whose it is.
        named = {q: f"{recipe}.{q}" if q in wide else q for q in quantities}
        wide = wide.merge(
            table[["scan_id", *quantities]].rename(columns=named), how="left", on="scan_id"
        )
    return wide


def _outliers(store: Store, recipes: Sequence[str]) -> "pd.DataFrame":
    """One row a scan, recipe and quantity that is far from those of the other scans, or has no value."""
    import pandas as pd

    from cohort.stats.outlying import outlying

    tables = []
    for recipe in recipes:
        table, units = _table(store, recipe), store.units(recipe)
        far = outlying(table, [str(c) for c in table if c in units])
        tables.append(far.assign(recipe=recipe, unit=far["quantity"].map(units)))
    found = (
        [table for table in tables if len(table)] or tables[:1] or [outlying(pd.DataFrame(), [])]
    )
    return pd.concat(found, ignore_index=True)


def _fits(store: Store) -> "pd.DataFrame":
    """One row a model, outcome and term."""
    import pandas as pd

    tables = [store.model_table(name, "tidy").assign(model=name) for name in store.models()]
    if not tables:
        return pd.DataFrame({"model": [], "outcome": [], "term": [], "estimate": []})
    found = pd.concat(tables, ignore_index=True)
    return found[["model", *(c for c in found if c != "model")]]


def _unknown(error: Exception, names: Collection[str]) -> str:
    """What to say of a name that is not there: which are."""
    asked = re.search(r"Table with name (.+?) does not exist", str(error))
    if asked is None:
        return _line(error)
    near = difflib.get_close_matches(asked[1], names, n=1)
    hint = f", did you mean {near[0]!r}" if near else ""
    return f"no table {asked[1]!r}{hint}; there are {', '.join(names)}"


def _line(error: Exception) -> str:
    """First line of what DuckDB says, without the picture below it."""
    return str(error).split("\n\n")[0].replace("\n", " ")
