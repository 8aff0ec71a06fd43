"""Commands that watch a cohort: how it stands, what changed, rounds of updates, a call that is to be stopped or repeated."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohort.arguments import CatalogPath, Memory, On, Place, Sources, StorePath, Workers
from cohort.console import (
    KEPT,
    RESUMABLE,
    alarm_text,
    errors,
    listener,
    open_cohort,
    say,
    show_result,
    show_stop,
)

if TYPE_CHECKING:
    from cohort.api import Options

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout")]
Settle = Annotated[
    str | None,
    typer.Option(
        "--settle",
        help="Leave series with a file that arrived less than this ago, e.g. 5m, for later",
    ),
]

SHOWN = 20
"""Lines of a list on a terminal."""


def add_to(
    app: typer.Typer, *, stage: Callable[..., None], options: Callable[..., "Options"]
) -> None:
    """Add the commands of this module.

    Parameters
    ----------
    stage : callable
        Runs stages as a command and exits.
    options : callable
        Makes the options of a call of the values of a command's, refusing those that cannot be.
    """

    def retry(
        catalog: CatalogPath,
        failed: Annotated[
            bool, typer.Option("--failed", help="What failed on the same inputs and recipes")
        ] = False,
        on: On = "local",
        workers: Workers = None,
        memory: Memory = None,
        store: StorePath = None,
        as_json: Json = False,
    ) -> None:
        """Run again what failed, with more memory if you give it; what is stale runs along, what is fresh does not."""
        from cohort import api

        if not failed:
            say("error: expected what to retry: --failed, for the scans on which a recipe failed")
            raise typer.Exit(2)
        stage(
            lambda given: api.run(catalog, options=given),
            retry=True,
            on=on,
            workers=workers,
            memory=memory,
            store=store,
            as_json=as_json,
        )

    def watch(
        catalog: CatalogPath,
        every: Annotated[
            str, typer.Option("--every", help="From one update to the next, e.g. 10m or 1h")
        ] = "10m",
        settle: Annotated[
            str, typer.Option("--settle", help="Take a series once its files lie still for so long")
        ] = "5m",
        budget: Annotated[
            str | None, typer.Option("--budget", help="Longest update: begin no new scan after it")
        ] = None,
        until: Annotated[
            str | None,
            typer.Option("--until", help="06:30, 2026-11-22T06:30, or idle: nothing left to do"),
        ] = None,
        on: On = "local",
        workers: Workers = None,
        memory: Memory = None,
        store: StorePath = None,
        source: Sources = None,
        as_json: Json = False,
    ) -> None:
        """Update again and again: new scans are taken once they have settled, and only what is stale is done.

        Goes on when the store is locked or a source is away, waiting longer each time. Exit 75 after SIGTERM or Ctrl-C; 1 if a
        scan newly failed in one of the updates, or a model could not be fitted in the last; if none went well, as its last.
        """
        from cohort import api
        from cohort.call import STAGES, Call
        from cohort.options import parse_seconds
        from cohort.rounds import deadline, rounds

        with errors(KEPT), listener(as_json=as_json) as listen:
            given = options(
                listen=listen, budget=budget, settle=settle, on=on, workers=workers, memory=memory,
                store=store, source=source,
            )  # fmt: skip
            every_seconds = parse_seconds(every)
            now = datetime.now().astimezone()
            end = None if until in (None, "idle") else deadline(str(until), now=now)
            Call(catalog, None, given).check(STAGES)
            last: dict[str, Any] = {}
            away: list[Exception] = []

            def is_over(pause: float) -> bool:
                if until == "idle":
                    quiet = ("settling", "left", "processed")
                    return bool(last) and not any(last.get(key) for key in quiet)
                left = None if end is None else (end - datetime.now().astimezone()).total_seconds()
                return left is not None and left <= pause

            def failed(error: Exception, pause: float) -> None:
                away[:] = [error]
                last.clear()
                text = str(error).splitlines() or [type(error).__name__]
                say(f"waiting {pause:.0f} s: {text[0]}")

            bad, unfitted, n_updates = False, dict[str, str](), 0
            for result in rounds(
                lambda: api.update(catalog, options=given),
                every_seconds=every_seconds,
                is_over=is_over,
                failed=failed,
            ):
                n_updates += 1
                last.clear()
                last.update(result.manifest)
                # A model that lacks scans today may be fitted tomorrow; what became of a scan stays so.
                is_bad = replace(result, fits={}).newly_bad
                bad |= is_bad
                before = unfitted
                unfitted = {m: f for m, f in result.fits.items() if isinstance(f, str)}
                if is_bad or last["processed"] or last.get("settling") or unfitted != before:
                    show_result(result, as_json=as_json)
                if show_stop(result.manifest):
                    raise typer.Exit(RESUMABLE)
            if not n_updates and away:
                raise away[0]
        raise typer.Exit(1 if bad or unfitted else 0)

    app.command(epilog="Example: cohort status catalogs/cohorts/oasis1.yaml --follow")(status)
    app.command(epilog="Example: cohort diff catalogs/cohorts/oasis1.yaml --since 2026-11-01")(diff)
    app.command(
        epilog="Example: cohort watch catalogs/cohorts/oasis1.yaml --every 10m --until 06:30"
    )(watch)
    app.command(epilog="Example: cohort retry catalogs/cohorts/oasis1.yaml --failed --memory 8GiB")(
        retry
    )
    app.command(epilog="Example: cohort cancel catalogs/cohorts/oasis1.yaml")(cancel)


def status(
    catalog: Place,
    store: StorePath = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Show the run that goes on, wherever it runs, to its end"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show scans by state, what waits in quarantine, what the last run did and what runs now."""
    from cohort import overview

    with errors():
        papers = overview.opened(catalog, store)
        if follow:
            _follow(papers, as_json=as_json)
        found = overview.status(papers)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show_status(found)


def _follow(papers: Any, *, as_json: bool) -> None:
    from cohort import overview

    try:
        now = _begun(papers)
        if now is None:
            say("nothing is running")
            return
        say(f"following {now.run_id}, {now.by}; Ctrl-C leaves it running")
        with listener(as_json=as_json) as listen:
            ended = overview.follow(papers, listen)
    except KeyboardInterrupt:
        raise typer.Exit from None
    if ended and ended.get("error") and not ended.get("stopped"):
        say(f"error: {now.run_id} {_broke_off(ended)}")
        raise typer.Exit(1)
    if ended is None:
        say(f"error: {now.run_id} was killed; what was finished is kept, `cohort update` goes on")
        raise typer.Exit(1)


def _begun(papers: Any) -> Any:
    """The run that goes on; if one was submitted and has not begun, the one that it begins. None if there is neither."""
    from cohort import overview

    said = ""
    while (now := overview.running(papers)) is None:
        drivers = overview.submitted(papers)
        if drivers is None or not drivers["jobs"]:
            return None
        if (line := "; ".join(drivers["jobs"])) != said:
            say(f"submitted: {line}; Ctrl-C leaves it so")
            said = line
        time.sleep(overview.LOOK_SECONDS)
    return now


def _broke_off(run: Mapping[str, Any]) -> str:
    return f"broke off with {run['error']}; `cohort update` says why, and goes on from there"


def _show_status(found: Mapping[str, Any]) -> None:
    print(f"{found['cohort']}: {found['scans']} scans")
    for recipe, states in found["recipes"].items():
        counts = ", ".join(f"{n} {state}" for state, n in states.items())
        print(f"  {recipe}: {counts or 'nothing measured'}")
    if found["models"]:
        print(f"  models: {', '.join(found['models'])}")
    if found["flags"]:
        print(f"  flagged: {', '.join(f'{n} {flag}' for flag, n in found['flags'].items())}")
    for entry in found["quarantine"][:SHOWN]:
        print(f"  {entry['state']} {entry['series']}: {entry['reason']}")
    if (more := found["n_quarantine"] - SHOWN) > 0:
        print(f"  and {more} more in quarantine; `cohort why` explains each")
    if rows := (found["unmatched"] or {}).get("rows_without_scan"):
        print(f"  {len(rows)} rows of the participants table have no scan")
    if scans := (found["unmatched"] or {}).get("scans_without_row"):
        print(f"  {len(scans)} scans have no row in the participants table")
    for reason, n in found["skipped"].items():
        print(f"  {n} files skipped: {reason}")
    if found["skipped"]:
        print("  `cohort skipped` names them")
    if last := found["last_run"]:
        counts = ", ".join(f"{n} {state}" for state, n in last["counts"].items())
        print(
            f"  last: {last['command']} {last['started']}, {last['seconds']} s, processed {last['processed']}: {counts}"
        )
        if last["error"] and not last["stopped"]:
            print(f"  it {_broke_off(last)}")
        if last["stopped"]:
            print(f"  it stopped ({last['stopped']}) with {last['left']} scans left")
        if last["settling"]:
            print(f"  {last['settling']} series were still arriving")
    if found["alarms"]:
        print(f"  ALARM: {found['alarms']} numbers of unchanged scans moved; see `cohort diff`")
    if drivers := found["submitted"]:
        for line in (*drivers["jobs"], *([drivers["queue"]] if drivers["queue"] else [])):
            print(f"  submitted: {line}")
        if drivers["code"] not in (None, 0):
            print(
                f"  what was submitted ended with exit code {drivers['code']}; it said why in {drivers['console']}"
            )
    if now := found["running"]:
        far = (
            f": {now['stage']} {now.get('done', 0)} of {now.get('total', '?')}"
            if "stage" in now
            else ""
        )
        print(f"  running: {now['by']}{far}")
    elif found["killed"]:
        print(f"  {found['killed']} was killed; `cohort update` goes on from there")


def diff(
    catalog: Place,
    since: Annotated[
        str, typer.Option("--since", help="A run id, or its beginning; or a day, YYYY-MM-DD (UTC)")
    ],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show what changed since a run or a day: scans, coefficients, and numbers that should not have moved (exit 1)."""
    from cohort import overview

    with errors():
        found = overview.diff(overview.opened(catalog, store), since)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show_diff(found)
    raise typer.Exit(1 if found["n_alarms"] else 0)


def _show_diff(found: Mapping[str, Any]) -> None:
    counts = {how: len(ids) for how, ids in found["scans"].items()}
    counts["withdrawn for good (subjects)"] = found["subjects_withdrawn"]
    print(
        f"{len(found['runs'])} runs: {', '.join(f'{n} {how}' for how, n in counts.items() if n) or 'no scan changed'}"
    )
    for how, ids in found["scans"].items():
        for scan_id in ids:
            print(f"  {how} {scan_id}")
    for moved in found["coefficients"]:
        print(f"  {moved['model']}: {moved['term']} {_moved(moved)}")
    if found["coefficients_withheld"]:
        from cohort.pipeline.baseline import NOT_COMPARED

        print(f"  {NOT_COMPARED}")
    for alarm in found["alarms"]:
        print(f"  ALARM {alarm_text(alarm)}")


def _moved(coefficient: Mapping[str, Any]) -> str:
    before, after = coefficient["before"], coefficient["after"]
    if before is None or after is None:
        here = after or before
        return f"{'is new' if before is None else 'is gone'}: {here['estimate']:.6g} (se {here['se']:.3g}, n {here['n']:.0f})"
    errors_moved = coefficient["standard_errors"]
    far = "" if errors_moved is None else f", {errors_moved:+.2f} standard errors"
    return f"{before['estimate']:.6g} -> {after['estimate']:.6g}{far} (n {before['n']:.0f} -> {after['n']:.0f})"


def cancel(catalog: Place, store: StorePath = None, as_json: Json = False) -> None:
    """Stop the call that is at work, wherever it runs; what it finished is kept, and `cohort update` goes on from there."""
    from cohort import api

    with errors():
        found = api.cancel(open_cohort(catalog, store))
    if as_json:
        print(json.dumps(found.__dict__))
        return
    if found.jobs:
        print(f"{found.jobs} jobs of the queue taken back")
    if found.by:
        how = "told to stop" if found.was_signalled else "asked to stop, within a minute"
        print(
            f"{found.run_id or 'a call'}, {found.by}: {how}; `cohort status --follow` shows its end"
        )
    elif not found.jobs:
        print("nothing is running")
