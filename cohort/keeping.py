"""Commands that look after a store: is it sound, is it clean, where does a name come from, can it be kept there at all."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cohort.arguments import CatalogPath, Place, StorePath
from cohort.console import AGAIN, errors, listener, open_cohort, say

Json = Annotated[bool, typer.Option("--json", help="One JSON line a finding on stdout")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: cohort verify catalogs/cohorts/oasis1.yaml")(verify)
    app.command(epilog="Example: cohort audit stores/oasis1")(audit)
    app.command(epilog="Example: cohort which catalogs/cohorts/oasis1.yaml e6v4jwhc2tmtz3wm")(which)
    app.command(epilog="Example: cohort doctor s3://my-bucket/stores")(doctor)
    app.command(epilog="Example: cohort gc catalogs/cohorts/oasis1.yaml --dry-run")(gc)
    app.command(
        epilog="Example: cohort withdraw catalogs/cohorts/oasis1.yaml 0042 --proof 0042-proof.json"
    )(withdraw)
    app.command(epilog="Example: cohort readmit catalogs/cohorts/oasis1.yaml 0042")(readmit)


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
        opened = open_cohort(catalog, store)
        found, known = api.audit(opened, listen=listen)
    for finding in found:
        _tell(finding.__dict__ if as_json else f"{finding}", as_json=as_json)
    if not as_json:
        how = "shapes only: this machine did not ingest it"
        if known:
            how = "originals and shapes"
        elif opened.ids == "keep":
            how = "shapes only: with ids: keep the sources' own ids stand in the store on purpose"
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
    url: Annotated[
        str,
        typer.Argument(
            metavar="PLACE",
            help="A catalog: its store and sources; or a folder, s3://bucket/prefix or dicomweb://host:port/root",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Try out whether a store can be kept at a place, or scans be read from a DICOM node, and say what would not work.

    Exit 1 if something would not. Nothing is left behind, and nothing is written on a DICOM node.
    """
    from cohort.io import doctor as trial
    from cohort.io.sources.dicomweb.address import is_url

    with errors():
        if Path(url).suffix in (".yaml", ".yml"):
            from cohort.io.catalog import read_catalog

            read = read_catalog(Path(url))
            store = str(read.store_root())
            found = [(store, "store", trial.probe(store))]
            for source, path in zip(read.sources, read.source_paths(), strict=True):
                found.append((source, "source", trial.probe_source(source, path)))
        elif is_url(url):
            from cohort.io import node_doctor

            found = [(url, "source", node_doctor.probe(url))]
        elif "://" not in url and not Path(url).is_dir():
            raise ValueError(
                f"no folder {url}; make it first, or give the catalog of a store that is still to be made"
            )
        else:
            found = [(url, "store", trial.probe(url))]
    for place, use, checks in found:
        if as_json:
            for check in checks:
                _tell({"place": place, "use": use, **check.__dict__}, as_json=True)
        else:
            print(f"{use} {place}\n" * (len(found) > 1) + trial.render(checks, use=use))
    raise typer.Exit(0 if all(trial.is_fit(checks) for _, _, checks in found) else 1)


def gc(
    catalog: CatalogPath,
    store: StorePath = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and its bytes")
    ] = False,
    keep_runs: Annotated[
        int | None,
        typer.Option("--keep-runs", min=1, help="Newest run folders to keep; all by default"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what no record needs: interrupted writes, results of recipes and models the catalog lacks, old runs, cache entries."""
    from cohort import api

    with errors(AGAIN if dry_run else "what was removed is gone; resume with"):
        found = api.collect(open_cohort(catalog, store), keep_runs=keep_runs, dry_run=dry_run)
    for each in found:
        _tell(
            each.__dict__ if as_json else f"{_size(each.bytes)}  {each.kind}: {each.what}",
            as_json=as_json,
        )
    if not as_json:
        total = sum(each.bytes for each in found)
        print(f"{_size(total)} in {len(found)} things {'would go' if dry_run else 'removed'}")


def withdraw(
    catalog: CatalogPath,
    subject: Annotated[
        str,
        typer.Argument(
            help="The name after sub- in a scan's id, or the id in the sources or the table"
        ),
    ],
    proof: Annotated[
        Path,
        typer.Option(
            "--proof", help="File to write, outside the store: what went, and a search afterwards"
        ),
    ],
    store: StorePath = None,
    voxels: Annotated[
        bool,
        typer.Option(
            "--voxels", help="Search the voxels of all other scans, too: reads the whole store"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a subject out for good: scans, numbers, rows, logs, caches, tokens. It never comes back unless it is readmitted.

    The files in the sources are yours to remove. Exit 1 if the search afterwards found something that names the subject.
    """
    from cohort import api

    with (
        errors("a withdrawal that was begun is carried out by the next call; call again with"),
        listener(as_json=as_json) as listen,
    ):
        said, place = api.withdraw(
            open_cohort(catalog, store), subject, proof=proof, voxels=voxels, listen=listen
        )
    left = said["check"]["found"]
    for line in left:
        say(f"left: {line}")
    if as_json:
        _tell(said, as_json=True)
    else:
        size = sum(entry["bytes"] for entry in said["removed"])
        print(f"{len(said['scans'])} scans, {len(said['removed'])} files, {_size(size)} removed")
        if said["models_to_refit"]:
            print(
                f"  models to fit again: {', '.join(said['models_to_refit'])}; call `cohort update`"
            )
        print(
            f"  {len(left)} traces found afterwards, of {said['check']['names']} names looked for"
        )
        print(place)
    raise typer.Exit(1 if left else 0)


def readmit(
    catalog: CatalogPath,
    subject: Annotated[str, typer.Argument(help="As it was given to `withdraw`")],
    store: StorePath = None,
) -> None:
    """Let a subject that withdrew in again; the next ingest takes its scans, if the sources still have them."""
    from cohort import api

    with errors():
        api.readmit(open_cohort(catalog, store), subject)
    print("readmitted; `cohort update` takes its scans again")


def _size(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def _tell(found: Any, *, as_json: bool) -> None:
    print(json.dumps(found, ensure_ascii=False, default=str) if as_json else found)
