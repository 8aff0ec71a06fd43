"""The command that looks ahead, and what a call may be limited by: time, scans, and a trial on the first of them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cohort.console import errors, say

if TYPE_CHECKING:
    from cohort.outlook import Explained, Outlook
    from cohort.pipeline.canary import Canary
    from cohort.pipeline.forecast import Forecast
    from cohort.pipeline.plan import Plan

Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Begin no new scan after so long, e.g. 6h or 90min; the rest is left for the next call. New scans and changed "
        "inputs come first, then changed recipes, then other library versions; within each a fixed shuffle, so that what "
        "is done is a fair sample",
    ),
]
MaxScans = Annotated[
    int | None,
    typer.Option("--max-scans", min=1, help="Work on so many scans, in the order of --budget"),
]
AcceptVersions = Annotated[
    bool,
    typer.Option(
        "--accept-versions",
        help="Take results of other library versions for fresh, and let models mix them",
    ),
]
Trial = Annotated[
    int,
    typer.Option(
        "--canary",
        min=0,
        help="Run so many scans with earlier numbers first and compare. If numbers moved or scans fail that did not: stop with "
        "exit 1 and leave tables, models and report as they are (on a terminal: ask). The next call with --canary stops "
        "the same way at once; one without it goes on",
    ),
]
TrialTolerance = Annotated[
    float,
    typer.Option("--canary-tolerance", min=0.0, help="Largest relative change that counts as none"),
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: cohort plan catalogs/cohorts/oasis1.yaml --explain sub-0001")(plan)


def plan(
    catalog: Annotated[
        Path,
        typer.Argument(
            metavar="CATALOG", help="The cohort's YAML, e.g. catalogs/cohorts/oasis1.yaml"
        ),
    ],
    scan: Annotated[
        str | None, typer.Argument(help="Explain this scan, or those with this in their names")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Say of each scan what changed: input, recipe step, revision, library version",
        ),
    ] = False,
    store: Annotated[
        str | None, typer.Option("--store", help="Instead of the catalog's store")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Workers that would share the work")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory a worker may use, e.g. 2GiB")
    ] = None,
    grain: Annotated[
        Literal["auto", "scan", "block"],
        typer.Option("--grain", help="Whole scans in memory, blocks of a scan, or whichever fits"),
    ] = "auto",
    budget: Annotated[
        str | None, typer.Option("--budget", help="Say how many scans fit, e.g. in 6h or 90min")
    ] = None,
    max_scans: Annotated[
        int | None, typer.Option("--max-scans", min=1, help="Say what so many scans take")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="As if what failed on the same inputs ran again")
    ] = False,
    accept_versions: AcceptVersions = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a recipe")] = False,
) -> None:
    """Say what `run` would do, why, and what it would take; change nothing.

    Hours come from what earlier runs of the recipe took; without one, none are given.
    """
    from cohort import api
    from cohort.options import parse_seconds
    from cohort.pipeline.cluster import parse_bytes

    with errors():
        options = api.Options(
            store=store,
            workers=workers,
            memory=None if memory is None else parse_bytes(memory),
            grain=grain,
            retry=retry,
            accept_versions=accept_versions,
            budget_seconds=None if budget is None else parse_seconds(budget),
            max_scans=max_scans,
        )
        if explain or scan is not None:
            for found in api.explain(catalog, scan, options=options):
                print(json.dumps(asdict(found)) if as_json else _explained(found))
            return
        outlooks = api.forecast(catalog, options=options)
    if not outlooks and not as_json:
        print(f"nothing to plan: {catalog} names no recipes (recipes: [brain-volume], for example)")
    for outlook in outlooks:
        if as_json:
            print(json.dumps(_json(outlook)))
        else:
            print("\n".join([*_planned(outlook.plan), *_foreseen(outlook.forecast)]))


def ask(found: "Canary") -> bool:
    """Show on a terminal how far numbers moved and ask whether to go on; without a terminal, no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    for line in found.lines():
        say(line)
    return typer.confirm("Go on with all scans?", default=False, err=True)


def _planned(plan: "Plan") -> list[str]:
    lines = [
        f"{plan.recipe}: {len(plan.fresh)} fresh, {len(plan.tasks)} stale, {len(plan.failed)} failed before",
        *(f"  {n} scans: {reason}" for reason, n in plan.reasons().items()),
    ]
    if plan.tasks:
        lines.append(f"  steps: {', '.join(plan.stale_steps())}")
        peak = max(t.peak_bytes for t in plan.tasks)
        lines.append(f"  peak memory of one scan: {peak / 2**20:.0f} MiB")
    return lines


def _foreseen(found: "Forecast") -> list[str]:
    if not found.scans:
        return []
    lines = [
        f"  forecast: {found.scans} scans in {found.tasks} tasks, reads {_size(found.read_bytes)},"
        + f" writes at most {_size(found.write_bytes)}, at most {_size(found.peak_bytes)} a worker"
    ]
    known = found.experience
    if known is None or found.hours is None or found.worker_hours is None:
        return [
            *lines,
            "  hours: unknown, no run of this recipe says what a scan takes; `cohort run --max-scans 20` would",
        ]
    lines.append(
        f"  hours: {found.hours:.2f} with {found.workers} workers, {found.worker_hours:.2f} of one"
        f" ({1000 * known.seconds / known.scans:.0f} ms a scan in the last runs, {known.scans} scans"
        f"{'' if known.is_same else ', partly of an earlier recipe'}; most memory {_size(known.peak_rss_bytes)})"
    )
    if found.fits is not None:
        lines.append(f"  budget: {found.fits} scans fit, {found.scans - found.fits} are left")
    return lines


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def _json(outlook: "Outlook") -> dict[str, Any]:
    plan = outlook.plan
    return {
        "recipe": plan.recipe,
        "fresh": len(plan.fresh),
        "failed": list(plan.failed),
        "stale": [
            {
                "scan_id": t.scan_id,
                "reason": t.reason,
                "kind": t.kind,
                "steps": list(t.stale),
                "grain": t.grain,
                "peak_bytes": t.peak_bytes,
            }
            for t in plan.tasks
        ],
        "forecast": asdict(outlook.forecast),
    }


def _explained(found: "Explained") -> str:
    head = f"{found.scan_id}  {found.recipe}  {found.state}"
    if found.state == "failed":
        return f"{head}: on these very inputs; `cohort why` says how, --retry runs it again"
    return "\n".join(
        [
            f"{head}: runs {', '.join(found.steps)}" if found.steps else head,
            *(f"  {cause.kind}: {cause.text}" for cause in found.causes),
        ]
    )
