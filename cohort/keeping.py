"""Commands that look after a store: is it sound, is it clean, where does a name come from, can it be kept there at all."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cohort.console import errors, listener, open_cohort

Place = Annotated[
    Path,
    typer.Argument(metavar="CATALOG", help="The cohort's YAML, or the folder or URL of a store"),
]
StorePath = Annotated[str | None, typer.Option("--store", help="Instead of the catalog's store")]
Json = Annotated[bool, typer.Option("--json", help="One JSON line a finding on stdout")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: cohort verify catalogs/cohorts/oasis1.yaml")(verify)
    app.command(epilog="Example: cohort audit stores/oasis1")(audit)
    app.command(epilog="Example: cohort which catalogs/cohorts/oasis1.yaml e6v4jwhc2tmtz3wm")(which)
    app.command(epilog="Example: cohort doctor s3://my-bucket/stores")(doctor)


def verify(
    catalog: Place,
    store: StorePath = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Remove what is damaged, so that `cohort update` makes it again"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find every flipped bit, missing chunk and foreign file of a store; exit 1 if there is one."""
    from cohort import api

    with errors(), listener(as_json=as_json) as listen:
        found = api.verify(open_cohort(catalog, store), repair=repair, listen=listen)
    for problem in found:
        _tell(problem.__dict__ if as_json else f"{problem}", as_json=as_json)
    wrong = sum(problem.is_error for problem in found)
    if not as_json:
        print(f"{wrong} problems" if wrong else "sound: every file is accounted for")
    raise typer.Exit(1 if wrong else 0)


def audit(catalog: Place, store: StorePath = None, as_json: Json = False) -> None:
    """Search a finished store for names, dates, ids and paths that should not be there; exit 1 if there is one.

    On the machine that ingested, every original id, UID and path is searched for; elsewhere what looks like one.
    """
    from cohort import api

    with errors(), listener(as_json=as_json) as listen:
        found, known = api.audit(open_cohort(catalog, store), listen=listen)
    for finding in found:
        _tell(finding.__dict__ if as_json else f"{finding}", as_json=as_json)
    if not as_json:
        how = "originals and shapes" if known else "shapes only: this machine did not ingest it"
        print(f"{len(found)} findings ({how})")
    raise typer.Exit(1 if found else 0)


def which(
    catalog: Place,
    token: Annotated[str, typer.Argument(help="A scan, or the token of a subject, series or file")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Say whose files a name of the store stands for: for the operator, on the machine that ingested."""
    from cohort import api

    with errors():
        rows = api.which(open_cohort(catalog, store), token)
    for row in rows:
        plain = {"token": row.token, "kind": row.kind, "original": row.original, "files": row.files}
        _tell(plain if as_json else f"{row.kind} {row.token}: {row.original}", as_json=as_json)
        if not as_json:
            for file in row.files:
                print(f"  {file}")


def doctor(
    url: Annotated[str, typer.Argument(help="A folder or s3://bucket/prefix, there or not yet")],
    as_json: Json = False,
) -> None:
    """Try out whether a store can be kept at a place, and say what would not work; exit 1 if something would not."""
    from cohort.io import doctor as trial

    with errors():
        checks = trial.probe(url)
    if as_json:
        for check in checks:
            _tell(check.__dict__, as_json=True)
    else:
        print(trial.render(checks))
    raise typer.Exit(0 if trial.is_fit(checks) else 1)


def _tell(found: Any, *, as_json: bool) -> None:
    print(json.dumps(found, ensure_ascii=False, default=str) if as_json else found)
