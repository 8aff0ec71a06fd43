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

from cohort import keeping
from cohort.console import errors, listener, open_cohort, say, show_result

if TYPE_CHECKING:
    from cohort.api import Options, Result

app = typer.Typer(
    name="cohort",
    help="From hundreds of scans to an effect: ingest, measure, model, report.",
    epilog="Start with: cohort demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CatalogPath = Annotated[
    Path,
    typer.Argument(metavar="CATALOG", help="The cohort's YAML, e.g. catalogs/cohorts/oasis1.yaml"),
]
On = Annotated[
    str,
    typer.Option("--on", help="Where to run: local, or a scheduler such as tcp://127.0.0.1:8786"),
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
Grain = Annotated[
    Literal["auto", "scan", "block"],
    typer.Option("--grain", help="Whole scans in memory, blocks of a scan, or whichever fits"),
]
StorePath = Annotated[str | None, typer.Option("--store", help="Instead of the catalog's store")]
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", help="Instead of the catalog's sources; may be repeated"),
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
Retry = Annotated[bool, typer.Option("--retry", help="Run again what failed on the same inputs")]


keeping.add_to(app)


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

    with errors(), listener(as_json=as_json) as listen:
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
    rehash: Rehash = False,
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
        rehash=rehash,
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort plan catalogs/cohorts/oasis1.yaml")
def plan(
    catalog: CatalogPath,
    store: StorePath = None,
    memory: Memory = None,
    grain: Grain = "auto",
    as_json: Json = False,
) -> None:
    """Say what `run` would do and why; change nothing."""
    from cohort import api

    with errors():
        plans = api.plan(catalog, options=_options(store=store, memory=memory, grain=grain))
    for each in plans:
        if as_json:
            print(
                json.dumps(
                    {
                        "recipe": each.recipe,
                        "fresh": len(each.fresh),
                        "failed": list(each.failed),
                        "stale": [
                            {
                                "scan_id": t.scan_id,
                                "reason": t.reason,
                                "steps": list(t.stale),
                                "grain": t.grain,
                                "peak_bytes": t.peak_bytes,
                            }
                            for t in each.tasks
                        ],
                    }
                )
            )
            continue
        peak = max((t.peak_bytes for t in each.tasks), default=0)
        print(
            f"{each.recipe}: {len(each.fresh)} fresh, {len(each.tasks)} stale, {len(each.failed)} failed before"
        )
        for reason, n in each.reasons().items():
            print(f"  {n} scans: {reason}")
        if each.tasks:
            print(f"  steps: {', '.join(each.stale_steps())}")
            print(f"  peak memory of one scan: {peak / 2**20:.0f} MiB")


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
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort fit catalogs/cohorts/oasis1.yaml dark-frac")
def fit(
    catalog: CatalogPath,
    model: Annotated[str | None, typer.Argument(help="One model; all by default")] = None,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Fit the models of the catalog to the measurements and the participants table."""
    from cohort import api

    _stage(lambda options: api.fit(catalog, model, options=options), store=store, as_json=as_json)


@app.command(epilog="Example: cohort report catalogs/cohorts/oasis1.yaml")
def report(catalog: CatalogPath, store: StorePath = None, as_json: Json = False) -> None:
    """Write the report, one HTML file that opens offline, and print its path."""
    from cohort import api

    _stage(lambda options: api.report(catalog, options=options), store=store, as_json=as_json)


@app.command(epilog="Example: cohort update catalogs/cohorts/oasis1.yaml --workers 4")
def update(
    catalog: CatalogPath,
    on: On = "local",
    workers: Workers = None,
    memory: Memory = None,
    grain: Grain = "auto",
    store: StorePath = None,
    source: Sources = None,
    rehash: Rehash = False,
    retry: Retry = False,
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
        rehash=rehash,
        retry=retry,
        strict=strict,
        as_json=as_json,
    )


@app.command(epilog="Example: cohort status catalogs/cohorts/oasis1.yaml")
def status(catalog: CatalogPath, store: StorePath = None, as_json: Json = False) -> None:
    """Show scans by state, what waits in quarantine and what the last run did."""
    from cohort import api

    with errors():
        found = api.status(open_cohort(catalog, store))
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(f"{found['cohort']}: {found['scans']} scans")
    for recipe, states in found["recipes"].items():
        print(
            f"  {recipe}: {', '.join(f'{n} {state}' for state, n in states.items()) or 'nothing measured'}"
        )
    if found["models"]:
        print(f"  models: {', '.join(found['models'])}")
    for entry in found["quarantine"]:
        print(f"  {entry['state']} {entry['series']}: {entry['reason']}")
    if rows := (found["unmatched"] or {}).get("rows_without_scan"):
        print(f"  {len(rows)} rows of the participants table have no scan")
    if last := found["last_run"]:
        counts = ", ".join(f"{n} {state}" for state, n in last["counts"].items())
        print(
            f"  last: {last['command']} {last['started']}, {last['seconds']} s, processed {last['processed']}: {counts}"
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


def _options(**given: Any) -> "Options":
    from cohort import api
    from cohort.pipeline.cluster import parse_bytes

    memory = given.pop("memory", None)
    sources = given.pop("source", None)
    return api.Options(
        **{k: v for k, v in given.items() if v is not None},
        memory=None if memory is None else parse_bytes(memory),
        sources=sources or None,
    )


def _stage(
    call: "Callable[[Options], Result]", *, as_json: bool, strict: bool = False, **given: Any
) -> None:
    with errors(), listener(as_json=as_json) as listen:
        result = call(_options(listen=listen, **given))
    show_result(result, as_json=as_json)
    unmatched = result.manifest.get("unmatched", {}).get("scans_without_row")
    bad = result.newly_bad or (strict and bool(result.problems or result.failed or unmatched))
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    main()
