"""The command that asks the tables of a cohort a question in SQL."""

import json
import math
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cohort.arguments import Place, StorePath
from cohort.console import errors, open_cohort, say

if TYPE_CHECKING:
    import pandas as pd

    from cohort.io.store import Store

SHOWN = 50
"""Rows that are shown on a terminal."""

Form = Literal["table", "csv", "json", "jsonl", "parquet"]

EXAMPLES = """\
Example: cohort query catalogs/cohorts/oasis1.yaml "SELECT ad, count(*), avg(dark_frac) FROM wide GROUP BY ad"

Everything that was measured, with units, into a file: cohort query CATALOG "FROM measurements" --output all.parquet

For another program: cohort query CATALOG "SELECT term, estimate, p FROM fits" --format json
"""


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=EXAMPLES)(query)


def query(
    catalog: Place,
    sql: Annotated[
        str | None,
        typer.Argument(help="One SELECT of DuckDB's SQL; without it, what there is to ask"),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format",
            help="By default that of --output's name, else table; json and jsonl are a line a row",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="A new file")] = None,
    store: StorePath = None,
) -> None:
    """Ask the tables of a cohort a question in SQL; nothing can be changed by it."""
    with errors():
        chosen = _form(form, output)
        opened = open_cohort(catalog, store)
        found = _there_is(opened.store) if sql is None else opened.sql(sql)
        if output is not None:
            from cohort.reporting.wording import count

            _write_new(output, _encoded(found, chosen))
            say(f"{count(len(found), 'row')} in {output}")
        elif chosen == "table":
            _show(found)
        else:
            sys.stdout.buffer.write(_encoded(found, chosen))


def _form(form: Form | None, output: Path | None) -> Form:
    endings: dict[str, Form] = {
        ".csv": "csv",
        ".json": "json",
        ".jsonl": "jsonl",
        ".parquet": "parquet",
    }
    if form is not None:
        if form == "parquet" and output is None and sys.stdout.isatty():
            raise ValueError(
                "--format parquet: expected --output FILE, or a pipe; a terminal shows text"
            )
        return form
    if output is None:
        return "table"
    if output.suffix not in endings:
        raise ValueError(
            f"--output {output}: expected a name that ends in {', '.join(endings)}, or --format"
        )
    return endings[output.suffix]


def _there_is(store: "Store") -> "pd.DataFrame":
    """Every table, its rows, and its columns with their units."""
    import pandas as pd

    from cohort.query import views

    rows = []
    for name, make in views(store).items():
        table, units = make(), store.units(name)
        columns = (f"{c} [{units[c]}]" if units.get(c, "1") != "1" else c for c in map(str, table))
        rows.append({"table": name, "rows": len(table), "columns": ", ".join(columns)})
    return pd.DataFrame(rows)


def _encoded(table: "pd.DataFrame", form: Form) -> bytes:
    if form == "parquet":
        return table.to_parquet(None, index=False)
    if form == "csv":
        from cohort.io.storage.spreadsheets import guarded

        return guarded(table).to_csv(index=False).encode()
    if form in ("json", "jsonl"):
        rows = (dict(zip(table, map(_plain, row), strict=True)) for row in table.to_numpy(object))
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    return f"{table.to_string(index=False)}\n".encode()


def _write_new(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise ValueError(
            f"--output {path}: there is no folder {path.parent}; make it first, or choose another place"
        )
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        raise ValueError(f"--output {path}: expected a new file, and it is there already") from None


def _plain(value: Any) -> Any:
    """A value as JSON has it: nothing for what is not known and for what is no number, bytes as hexadecimal digits."""
    import numpy as np
    import pandas as pd

    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if hasattr(value, "tolist") and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.tolist()
    if isinstance(value, Decimal):
        value = float(value)
    if pd.isna(value) or value in (math.inf, -math.inf):
        return None
    return value if isinstance(value, str | bool | int | float) else str(value)


def _show(table: "pd.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name, column in table.items():
        is_number = column.dtype.kind in "iuf"
        shown.add_column(str(name), justify="right" if is_number else "left", overflow="fold")
    for row in table.head(SHOWN).itertuples(index=False):
        shown.add_row(*(_cell(value) for value in row))
    # Piped on, a table is as wide as it has to be.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, highlight=False, markup=False, emoji=False).print(shown)
    if len(table) > SHOWN:
        say(f"the first {SHOWN} of {len(table):,} rows; --output FILE writes all")


def _cell(value: Any) -> str:
    known = _plain(value)
    if isinstance(known, list | dict):
        return json.dumps(known, ensure_ascii=False)
    return "" if known is None else f"{known:.6g}" if isinstance(known, float) else str(known)
