"""The command that writes the files with which a place runs a catalog by itself."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cohort.arguments import CatalogPath
from cohort.console import errors


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog="Example: cohort deploy systemd catalogs/cohorts/oasis1.yaml --schedule 03:00"
    )(deploy)


def deploy(
    kind: Annotated[
        str, typer.Argument(help="slurm, kubernetes, systemd, cron or compose", show_default=False)
    ],
    catalog: CatalogPath,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the files (default: deployed/COHORT/KIND)"),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option("--schedule", help="When: 03:00, 'Mon-Fri 03:00' or 'Sat,Sun 03:00'"),
    ] = "03:00",
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            help="Whose clock, e.g. Europe/Berlin (default: the machine's; Kubernetes: UTC)",
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option("--on", help="Where the work runs, as for `cohort update`: a cluster's YAML"),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes or pods")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", help="Memory of a worker, e.g. 4GiB (default: what the largest scan takes)"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Begin no scan after so long, e.g. 6h; the rest is for later"
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Who runs it: reads scans, writes the store, holds the key"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Container image, e.g. registry.example.org/lab/cohort:1"),
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Of Kubernetes")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Files and commands as JSON")] = False,
) -> None:
    """Write ready files with which a place brings the cohort up to date by itself, and say what to type next."""
    with errors():
        from cohort.deployment import files, site
        from cohort.deployment import schedule as clock

        files.check_kind(kind)
        found = site.survey(
            catalog,
            schedule=clock.parse_schedule(schedule, zone=timezone),
            on=on,
            workers=workers,
            memory=memory,
            budget=budget,
            user=user,
        )
        folder = out or Path("deployed", found.catalog.cohort, kind)
        rendered = files.render(kind, found, folder, files.Wishes(image, namespace, timezone))
        files.write(rendered, force=force)
    if as_json:
        print(json.dumps({"files": [str(f) for f in rendered.files], "next": rendered.next}))
        return
    for path in rendered.files:
        print(path)
    print("next:")
    for line in rendered.next:
        print(f"  {line}")
