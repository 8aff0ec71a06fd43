"""Arguments and options that several commands take, said once."""

from pathlib import Path
from typing import Annotated

import typer

CatalogPath = Annotated[
    Path,
    typer.Argument(metavar="CATALOG", help="The cohort's YAML, e.g. catalogs/cohorts/oasis1.yaml"),
]
Place = Annotated[
    Path,
    typer.Argument(metavar="CATALOG", help="The cohort's YAML, or the folder or URL of a store"),
]
StorePath = Annotated[str | None, typer.Option("--store", help="Instead of the catalog's store")]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", help="Instead of the catalog's sources; may be repeated"),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where to run: local, a scheduler such as tcp://127.0.0.1:8786, or the YAML of a cluster",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Local worker processes (default: the cores; 0: none, all in this process)",
    ),
]
Memory = Annotated[str | None, typer.Option("--memory", help="Memory a worker may use, e.g. 2GiB")]
