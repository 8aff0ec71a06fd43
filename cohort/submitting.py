"""The command `submit`: a driver that goes on when its terminal closes."""

import inspect
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohort.console import errors, say

if TYPE_CHECKING:
    from cohort.api import Options
    from cohort.io.store import Store
    from cohort.pipeline.clusters.submit import Submission

On = Annotated[
    str,
    typer.Option(
        "--on", help="Where to run: the YAML of a cluster, the address of a scheduler, or local"
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Stay until it has ended, and exit as it does; it goes on without"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="What was submitted as one JSON line on stdout")]


def add_to(
    app: typer.Typer, *, update: Callable[..., None], options: Callable[..., "Options"]
) -> None:
    """Add `submit`, which takes what `update` takes and hands it on.

    Parameters
    ----------
    update : callable
        The command that a driver runs.
    options : callable
        Makes the options of a call of the values of a command's, refusing those that cannot be.
    """
    parameters = inspect.signature(update).parameters

    def submit(catalog: Path, on: str, wait: bool, as_json: bool, **given: Any) -> None:
        _submit(
            catalog,
            on=on,
            wait=wait,
            as_json=as_json,
            options=lambda: options(on=on, **{k: v for k, v in given.items() if k != "strict"}),
            handed=arguments(parameters, given),
        )

    own = {"on": (On, inspect.Parameter.empty), "wait": (Wait, False), "as_json": (Json, False)}
    kept = [p.replace(kind=p.KEYWORD_ONLY) for n, p in parameters.items() if n not in own]
    submit.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *kept,
            *(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
                )
                for name, (annotation, default) in own.items()
            ),
        ]
    )
    submit.__doc__ = _HELP
    app.command(epilog="Example: cohort submit catalogs/cohorts/oasis1.yaml --on slurm.yaml")(
        submit
    )


_HELP = """Run `update` on a cluster, and go home: the driver is a job there, or a process without a terminal here.

On SLURM a driver whose time is over, or whose node is lost, goes on in another job until nothing is stale. Elsewhere it
is a process on this machine that outlives the terminal.
"""


def arguments(parameters: Any, given: dict[str, Any]) -> list[str]:
    """Options of a command, as somebody would type them."""
    typed = []
    for name, value in given.items():
        if value == parameters[name].default:
            continue
        (option,) = (
            m for m in parameters[name].annotation.__metadata__ if hasattr(m, "param_decls")
        )
        # Typer keeps the first name of an option that is annotated as its default.
        flag = option.default.partition("/")[0]
        typed += [flag] if value is True else [t for v in _each(value) for t in (flag, str(v))]
    return typed


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _submit(
    catalog: Path,
    *,
    on: str,
    wait: bool,
    as_json: bool,
    options: "Callable[[], Options]",
    handed: list[str],
) -> None:
    from cohort.call import STAGES, Call
    from cohort.pipeline.cluster import where
    from cohort.pipeline.clusters import submit

    with errors():
        call = Call(catalog, None, options())
        call.check(STAGES)
        file = str(Path(on).absolute()) if on.endswith((".yaml", ".yml")) else on
        update = ["update", str(catalog.absolute()), "--on", file, *handed]
        made = submit.submit(call.catalog.cohort, call.store, where(on), update)
    show_submission(made, catalog, as_json=as_json)
    if wait:
        with errors():
            raise typer.Exit(_wait(call.store, made))


def _wait(store: "Store", made: "Submission") -> int:
    """Exit code of the driver; Ctrl-C leaves it running."""
    from cohort.pipeline.clusters import submit

    try:
        code = submit.wait(store, made, tell=say)
    except KeyboardInterrupt:
        say("the driver goes on without this terminal")
        return 0
    if code:
        said = made.console.read_text(errors="replace") if made.console.exists() else ""
        last = said.strip().rpartition("\n")[2]
        # A call that came to its end says last where its page is: no reason for its code.
        last = last if last.startswith(("error: ", "stopped: ")) else ""
        say(f"ended with exit code {code}{last and ': '}{last}; its log: {made.console}")
    return code


def show_submission(made: "Submission", catalog: Path, *, as_json: bool) -> None:
    """What was submitted, how to follow and how to stop it."""
    named = shlex.quote(str(catalog))
    if as_json:
        print(
            json.dumps(
                {
                    "kind": made.kind,
                    "id": made.id,
                    "unit": made.unit,
                    "log": str(made.log),
                    "console": str(made.console),
                }
            )
        )
        return
    what = f"job {made.id}" if made.kind == "slurm" else f"process {made.id} on {made.host}"
    print(f"submitted as {what}, {made.unit}")
    print(f"  follow  cohort status {named} --follow")
    print(f"  stop    cohort cancel {named}")
    print(f"  log     {made.log}")
