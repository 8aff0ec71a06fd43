"""How the command line speaks: results on stdout, everything else on stderr, one line for each thing that is wrong."""

import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from cohort.api import Cohort, Result
    from cohort.stats.analysis import Analysis
    from cohort.stats.voxels.fitting import Mapped

SHOWN = 20
"""Alarms that are shown one by one."""

PROGRAM = "cohort"

RESUMABLE = 75
"""Exit code of a call that somebody else's, or the end of it, kept from its work: call again."""


AGAIN = "call again with"
KEPT = "what was finished is kept; resume with"
"""What is said before the command to go on with: of one that only looks, and of one that works scan by scan."""


class Commands(TyperGroup):
    """Commands that tell a wrong value of an option as a catalog tells one."""

    def invoke(self, ctx: Any) -> Any:
        """Call the command that was asked for. Raises `typer.BadParameter`."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            from cohort.io.fields import wrong_value

            # Newer versions of typer check values by pydantic, and pass on its words.
            if isinstance(error.__cause__, ValidationError):
                error.message = wrong_value(error.__cause__.errors()[0])
            raise
        except KeyboardInterrupt:  # before `errors`, while libraries are loaded: nothing was begun
            say(f"stopped: signal; {AGAIN}: {_again()}")
            raise typer.Exit(RESUMABLE) from None


@contextmanager
def errors(after: str = AGAIN) -> Iterator[None]:
    """One line on stderr and the right exit code for everything a user can get wrong.

    Parameters
    ----------
    after : str
        What is left of a command that was interrupted, or whose store went away.
    """
    from cohort.io.storage.backend import AWAY, Locked

    # A batch system that takes the node back sends SIGTERM: leave as after Ctrl-C, with the manifest written.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped: signal; {after}: {_again()}")
        raise typer.Exit(RESUMABLE) from None
    except Locked as error:
        say(f"error: {error}; call again later")
        raise typer.Exit(75) from None
    except AWAY as error:
        say(f"error: {error}; {after}: {_again()}")
        raise typer.Exit(2) from None
    except (ValueError, OSError, ImportError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            say(f"error: {line}")
        raise typer.Exit(2) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def _again() -> str:
    """The command to go on with: this one once more."""
    return shlex.join([PROGRAM, *sys.argv[1:]])


def show_stop(manifest: Mapping[str, Any]) -> bool:
    """Say why a call ended before its work was done; whether it has to be called again to go on."""
    from cohort.pipeline.dispatch.stopping import POLITE

    reason, left = manifest.get("stopped"), manifest.get("left", 0)
    if reason is None:
        return False
    if reason in POLITE:
        what = {"budget": "the budget", "max_scans": "--max-scans"}[reason]
        say(f"stopped at {what}: {left} scans left for the next call")
        return False
    say(f"stopped: {reason}, {left} scans left; resume with: {_again()}")
    return True


def alarm_text(alarm: Mapping[str, Any]) -> str:
    """A number that should not have moved, in one line."""
    return f"{alarm['scan_id']}: {alarm['recipe']}: {alarm['quantity']} {alarm['before']!r} -> {alarm['after']!r}"


def show_result(result: "Result", *, as_json: bool) -> None:
    """Results on stdout, what went wrong on stderr."""
    manifest = result.manifest
    for problem in result.problems:
        if problem.new or problem.state == "quarantined":
            say(
                f"{problem.state}{'' if problem.new else ' before'} {problem.series}: {problem.text}"
            )
    if result.unsaid:
        say(
            f"in calls before this one, which were stopped, {result.unsaid} scans newly failed or were refused, or numbers moved;"
            " `cohort status` lists what is refused"
        )
    for alarm in result.alarms[:SHOWN]:
        say(f"ALARM {alarm_text(alarm)}, and nothing it depends on changed")
    if len(result.alarms) > SHOWN:
        say(f"ALARM and {len(result.alarms) - SHOWN} more numbers moved; `cohort diff` lists them")
    for text in manifest.get("warnings", []):
        say(f"warning: {text}")
    renamed = dict(manifest.get("found", {}).get("renamed", ()))
    for scan_id in result.absent:
        why = "its files are no longer in the sources"
        if scan_id in renamed:
            why = f"the sources hold its image under another name now, {renamed[scan_id]}"
        say(f"absent {scan_id}: in the store, but {why}; it left the tables")
    for orphan in result.orphans:
        say(f"no scan for {orphan}: an attached image without the scan it belongs to")
    for canary in result.canaries:
        for line in canary.lines():
            say(line)
    if result.is_halted:
        say(
            "stopped by the canary: tables, models and report stand as they did; call again without --canary to go on, or undo what moved the numbers"
        )
    for failed in result.failed:
        say(
            f"failed{'' if failed['new'] else ' before'} {failed['scan_id']}: {failed['recipe']}: {failed['type']}: {failed['message']}"
        )
    for text in manifest.get("checks", []):
        say(f"warning: {text}")
    for name, fitted in result.fits.items():
        if isinstance(fitted, str):
            say(f"failed model {name}: {fitted}")
        elif fitted is not None:
            for warning in fitted.warnings:
                say(f"warning {name}: {warning}")
    if as_json:
        return
    counts = ", ".join(f"{n} {state}" for state, n in manifest["counts"].items())
    # A scan that becomes twenty skips has gone although nothing was refused.
    if skipped := Counter(p.code for p in result.problems if p.state == "skipped"):
        each = ", ".join(f"{n} {code}" for code, n in sorted(skipped.items()))
        counts += f", {skipped.total()} series skipped ({each})"
    done = f"{counts}; processed {manifest['processed']} in"
    if not result.catalog.sources:
        done = "a table without scans, in"
    print(f"{manifest['command']} {result.catalog.cohort}: {done} {manifest['seconds']:.1f} s")
    if settling := manifest.get("settling"):
        print(f"  {settling} series are still arriving; left for the next call")
    unmatched = manifest.get("unmatched", {})
    if (rows := unmatched.get("rows_without_scan")) and result.catalog.sources:
        print(f"  {len(rows)} rows of the participants table have no scan")
    if scans := unmatched.get("scans_without_row"):
        print(
            f"  {len(scans)} scans have no row in the participants table: {', '.join(scans[:5])}{' ...' if len(scans) > 5 else ''}"
        )
    for reason, n in manifest.get("found", {}).get("skipped", {}).items():
        print(f"  {n} files skipped: {reason}")
    if manifest.get("found", {}).get("skipped"):
        print(f"  `{PROGRAM} skipped {result.catalog.path}` names them")
    if capped := manifest.get("ages_capped"):
        each = ", ".join(f"{column} ({n})" for column, n in capped.items())
        print(f"  ages over 89 became 90 in the columns {each}")
    for name, fitted in result.fits.items():
        if fitted is not None and not isinstance(fitted, str):
            print(f"\nmodel {name}")
            show_fit(fitted, compare=result.compare)
    if result.report is not None:
        print(result.report)
    for page in result.pages:
        print(page)


def show_fit(fitted: "Analysis | Mapped", *, compare: str | None) -> None:
    """A model on stdout; its warnings went to stderr before."""
    from cohort.stats.voxels.fitting import Mapped

    if isinstance(fitted, Mapped):
        print("\n".join(fitted.lines()))
        return
    from cohort.stats.wording import layout

    print("\n".join(layout.lines(fitted)))
    if compare == "adjustments":
        if fitted.adjustments is not None:
            print("\n" + "\n".join(layout.adjustments(fitted.adjustments)))
        elif "adjustments" not in fitted.left_out:
            print("\nno adjustments: the model states no head")


@contextmanager
def listener(*, as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Progress bars on a terminal, JSON lines with ``--json``, otherwise a line a stage."""
    if as_json:
        yield lambda event: print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    if not sys.stderr.isatty():
        yield _line_a_stage
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # names of terms hold brackets
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars: dict[str, Any] = {}

        def show(event: Mapping[str, Any]) -> None:
            stage = event.get("stage")
            if stage is None:
                return
            if stage not in bars:
                bars[stage] = progress.add_task(str(stage), total=event.get("total"))
            if event.get("total") is not None:
                progress.update(bars[stage], total=event["total"])
            if "done" in event and isinstance(event["done"], int):
                progress.update(bars[stage], completed=event["done"])

        yield show


def _line_a_stage(event: Mapping[str, Any]) -> None:
    if event["event"] == "stage" and (event.get("total") or event.get("fresh")):
        say(f"{event['stage']}: {event['total']} to do, {event.get('fresh', 0)} fresh")


def open_cohort(catalog: Path, store: str | None = None) -> "Cohort":
    """The cohort of a catalog, or of a store's folder or URL. Raises `StoreError` if nothing is in it yet."""
    from cohort import api
    from cohort.io.catalog import read_catalog
    from cohort.io.store import Store, StoreError

    if store is None and catalog.suffix not in (".yaml", ".yml"):
        return api.open(catalog)
    read = read_catalog(catalog, store=store)
    opened = api.Cohort(Store(read.store_root()), read)
    if not opened.store.info():
        raise StoreError(f"nothing in {opened.store.url} yet; run `cohort update {catalog}` first")
    return opened
