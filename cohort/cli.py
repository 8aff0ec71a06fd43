"""The command line: parses, calls `cohort.api`, prints, exits.

Results go to stdout, diagnostics and progress to stderr. Exit 0: every scan is accounted for and none newly
failed; 1: some failed or were quarantined in this call; 2: the call itself is wrong; 75: somebody else holds
the store, call again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cohort import deploying, exporting, keeping, planning, querying, submitting, watching
from cohort.arguments import CatalogPath, Memory, On, Sources, StorePath, Workers
from cohort.console import (
    KEPT,
    RESUMABLE,
    Commands,
    errors,
    listener,
    open_cohort,
    say,
    show_result,
    show_stop,
)

if TYPE_CHECKING:
    from cohort.api import Options, Result

app = typer.Typer(
    name="cohort",
    cls=Commands,
    help="From hundreds of scans to an effect: ingest, measure, model, report.",
    epilog="Start with: cohort demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Grain = Annotated[
    Literal["auto", "scan", "block"],
    typer.Option("--grain", help="Whole scans in memory, blocks of a scan, or whichever fits"),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Exit 1 also for old failures, old refusals and scans without a row"
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON line an event on stdout, no progress bars")
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash", help="Digest every source file again, whatever its size and times say"
    ),
]
TimeLimit = Annotated[
    str | None, typer.Option("--time-limit", help="For one scan, e.g. 10min (default 1h)")
]
Retry = Annotated[bool, typer.Option("--retry", help="Run again what failed on the same inputs")]


def main() -> None:
    """Entry point of the ``cohort`` command."""
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    if version:
        from cohort import __version__

        print(f"cohort {__version__}")
        raise typer.Exit


@app.command(epilog="Example: cohort demo /tmp/demo --scans 12")
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to put scans, store and report")
    ] = Path("cohort-demo"),
    scans: Annotated[
        int, typer.Option("--scans", min=6, help="Good scans; three damaged ones come on top")
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other people")] = 0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Make a synthetic cohort with known truth and take it all the way to a report.

    Exits 0 when exactly the three series that were damaged on purpose were refused.
    """
    from cohort import api
    from cohort.demo import make_demo

    with errors(KEPT), listener(as_json=as_json) as listen:
        options = api.Options(workers=workers, listen=listen)
        result, problems = make_demo(folder, scans=scans, seed=seed, options=options)
    show_result(result, as_json=as_json)
    for problem in problems:
        say(f"error: {problem}")
    raise typer.Exit(1 if problems else 0)


@app.command(epilog="Example: cohort ingest catalogs/cohorts/oasis1.yaml --workers 4")
def ingest(
    catalog: CatalogPath,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    store: StorePath = None,
    source: Sources = None,
    settle: watching.Settle = None,
    rehash: Rehash = False,
    time_limit: TimeLimit = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Bring new and changed scans into the store; refuse what is damaged, with the reason."""
    from cohort import api

    _stage(
        lambda options: api.ingest(catalog, options=options),
        on=on,
        workers=workers,
        memory=memory,
        store=store,
        source=source,
        settle=settle,
        rehash=rehash,
        time_limit=time_limit,
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort run catalogs/cohorts/oasis1.yaml oasis-csf")
def run(
    catalog: CatalogPath,
    recipe: Annotated[str | None, typer.Argument(help="One recipe; all by default")] = None,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    grain: Grain = "auto",
    store: StorePath = None,
    retry: Retry = False,
    time_limit: TimeLimit = None,
    budget: planning.Budget = None,
    max_scans: planning.MaxScans = None,
    canary: planning.Trial = 0,
    canary_tolerance: planning.TrialTolerance = 1e-6,
    accept_versions: planning.AcceptVersions = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Measure: run recipes on the scans for which they are stale."""
    from cohort import api

    _stage(
        lambda options: api.run(catalog, recipe, options=options),
        on=on,
        workers=workers,
        memory=memory,
        grain=grain,
        store=store,
        retry=retry,
        time_limit=time_limit,
        budget=budget,
        max_scans=max_scans,
        canary=canary,
        canary_tolerance=canary_tolerance,
        accept_versions=accept_versions,
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort fit catalogs/cohorts/oasis1.yaml dark-frac")
def fit(
    catalog: CatalogPath,
    model: Annotated[str | None, typer.Argument(help="One model; all by default")] = None,
    compare: Annotated[
        Literal["adjustments"] | None,
        typer.Option("--compare", help="Also show head size taken into account in six ways"),
    ] = None,
    store: StorePath = None,
    accept_versions: planning.AcceptVersions = False,
    as_json: Json = False,
) -> None:
    """Fit the models of the catalog to the measurements and the participants table."""
    from cohort import api

    _stage(
        lambda options: api.fit(catalog, model, options=options),
        compare=compare,
        store=store,
        accept_versions=accept_versions,
        as_json=as_json,
    )


@app.command(
    epilog="Examples: cohort report catalogs/cohorts/oasis1.yaml;"
    " cohort report catalogs/cohorts/oasis1.yaml --scan sub-0001 --flagged"
)
def report(
    catalog: CatalogPath,
    scan: Annotated[
        list[str] | None,
        typer.Option(
            "--scan", help="Also a page of this scan, or of scans with this in their name"
        ),
    ] = None,
    flagged: Annotated[
        bool,
        typer.Option(
            "--flagged",
            help="Also a page of each scan that failed, stands out or moves a model, up to 50",
        ),
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Write the report, one HTML file that opens offline, and print its path; then those of pages of single scans."""
    from cohort import api

    _stage(
        lambda options: api.report(catalog, scans=scan or (), flagged=flagged, options=options),
        store=store,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort update catalogs/cohorts/oasis1.yaml --workers 4")
def update(
    catalog: CatalogPath,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    grain: Grain = "auto",
    store: StorePath = None,
    source: Sources = None,
    settle: watching.Settle = None,
    rehash: Rehash = False,
    retry: Retry = False,
    time_limit: TimeLimit = None,
    budget: planning.Budget = None,
    max_scans: planning.MaxScans = None,
    canary: planning.Trial = 0,
    canary_tolerance: planning.TrialTolerance = 1e-6,
    accept_versions: planning.AcceptVersions = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Ingest, run, fit and report, and only what is stale: what a timer calls."""
    from cohort import api

    _stage(
        lambda options: api.update(catalog, options=options),
        on=on,
        workers=workers,
        memory=memory,
        grain=grain,
        store=store,
        source=source,
        settle=settle,
        rehash=rehash,
        retry=retry,
        time_limit=time_limit,
        budget=budget,
        max_scans=max_scans,
        canary=canary,
        canary_tolerance=canary_tolerance,
        accept_versions=accept_versions,
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort why catalogs/cohorts/oasis1.yaml sub-0001")
def why(
    catalog: CatalogPath,
    scan: Annotated[
        str, typer.Argument(help="A scan, a quarantined series, or a part of its name")
    ],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Explain the state of a scan or a refused series."""
    from cohort import api

    with errors():
        found = api.why(open_cohort(catalog, store), scan)
    for entry in found:
        if as_json:
            print(json.dumps(entry, ensure_ascii=False))
        else:
            print(f"{entry['unit']}  {entry['stage']}  {entry['state']}: {entry['reason']}")


@app.command(epilog="Example: cohort skipped catalogs/cohorts/oasis1.yaml")
def skipped(catalog: CatalogPath, store: StorePath = None, as_json: Json = False) -> None:
    """Name the files in the sources that are passed over, and why: for the operator, on this terminal only."""
    from cohort import overview

    with errors():
        for reason, path in overview.skipped(catalog, store):
            found = {"reason": reason, "path": str(path)}
            print(json.dumps(found, ensure_ascii=False) if as_json else f"{reason}: {path}")


def _options(**given: Any) -> "Options":
    from cohort import api
    from cohort.options import parse_seconds
    from cohort.pipeline.cluster import parse_bytes

    memory, budget = given.pop("memory", None), given.pop("budget", None)
    settle = given.pop("settle", None)
    if (limit := given.pop("time_limit", None)) is not None:
        if given.get("workers") == 0:
            raise ValueError(
                "--time-limit with --workers 0: expected workers, whose scans can be ended; without any, all runs in this"
                " process; leave out one of both, or give --workers 1"
            )
        given["time_limit_seconds"] = parse_seconds(limit)
    sources = given.pop("source", None)
    return api.Options(
        **{k: v for k, v in given.items() if v is not None},
        memory=None if memory is None else parse_bytes(memory),
        budget_seconds=None if budget is None else parse_seconds(budget),
        settle_seconds=0.0 if settle is None else parse_seconds(settle, may_be_zero=True),
        sources=sources or None,
    )


def _stage(
    call: "Callable[[Options], Result]", *, as_json: bool, strict: bool = False, **given: Any
) -> None:
    with errors(KEPT), listener(as_json=as_json) as listen:
        result = call(_options(listen=listen, confirm=planning.ask, **given))
    show_result(result, as_json=as_json)
    unmatched = result.manifest.get("unmatched", {}).get("scans_without_row")
    bad = result.newly_bad or (strict and bool(result.problems or result.failed or unmatched))
    raise typer.Exit(RESUMABLE if show_stop(result.manifest) else 1 if bad else 0)


# `--help` lists them in this order: first what everybody uses.
planning.add_to(app)
watching.add_to(app, stage=_stage, options=_options)
submitting.add_to(app, update=update, options=_options)
deploying.add_to(app)
keeping.add_to(app)
querying.add_to(app)
exporting.add_to(app)


if __name__ == "__main__":
    main()
