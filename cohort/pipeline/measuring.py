"""One recipe on a cohort: planned, tried on a few scans if asked to, run, and gathered into its tables."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cohort.io.store import Store
from cohort.pipeline import canary, versions
from cohort.pipeline.canary import Canary
from cohort.pipeline.gathering import Rows
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.plan import Plan, Task, make_plan
from cohort.pipeline.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

Taker = Callable[[str, Mapping[str, Any] | None], None]
"""Called with a scan_id and the record of its derivative; with another one for the same scan if that changed."""


@dataclass(frozen=True)
class Wishes:
    """What a plan is made by."""

    worker_bytes: Callable[[], int]
    """Memory a worker may use; asked for when something has to run."""
    grain: Literal["auto", "scan", "block"] = "auto"
    retry: bool = False
    accept_versions: bool = False
    known: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Scan -> digest of what each of its variables says, where the same call has just read its record: of a scan for which
    nothing is stale, a plan needs no more."""


@dataclass(frozen=True)
class Trial:
    """Whether some scans are tried first, and what is done if their numbers moved."""

    scans: int = 0
    tolerance: float = 0.0
    """Largest relative change of a number that counts as none."""
    confirm: Callable[[Canary], bool] = field(default=lambda found: False)
    """Asked whether to go on although numbers moved."""


@dataclass(frozen=True)
class Measured:
    """What became of a recipe."""

    failed: tuple[tuple[str, str, str, bool], ...] = ()
    """Scans on which it failed: scan_id, kind, message, and whether that is new."""
    canary: Canary | None = None
    stopped: bool = False
    """Whether the canary ended it: tables and what follows from them stay as they are."""


def plan_recipe(
    store: Store,
    recipe: Recipe,
    scan_ids: Iterable[str],
    wishes: Wishes,
    *,
    takers: Collection[Taker] = (),
) -> Plan:
    """Plan a recipe for the scans of a store, reading each record once.

    Parameters
    ----------
    takers : collection of callable
        Called with each scan_id and the record of its derivative, as they come by.
    """
    ids = [str(s) for s in scan_ids]

    def records() -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
        known = wishes.known
        read = store.records(s for s in ids if s not in known)
        for scan_id, found in zip(ids, store.derivatives(recipe.name, ids), strict=True):
            for take in takers:
                take(scan_id, found)
            contents = known.get(scan_id)
            record: Mapping[str, Any] | None
            record = next(read) if contents is None else {"scan_id": scan_id, "contents": contents}
            if record is not None:
                yield record, found

    return make_plan(
        recipe,
        records(),
        versions=versions.numeric(),
        grain=wishes.grain,
        worker_bytes=wishes.worker_bytes,
        retry=wishes.retry,
        accept_versions=wishes.accept_versions,
        whole=store.record,
    )


def measure(
    store: Store,
    recipe: Recipe,
    scans: "pd.DataFrame",
    ledger: Ledger,
    wishes: Wishes,
    trial: Trial,
    run: Callable[[Plan], None],
    *,
    takers: Collection[Taker] = (),
) -> Measured:
    """Do what is stale of a recipe and bring its tables up to date.

    Parameters
    ----------
    scans : DataFrame
        The scans table.
    run : callable
        Runs a plan; called twice if some scans are tried first.
    takers : collection of callable
        See `plan_recipe`; called again for each scan that was to run.
    """
    rows = Rows(recipe, versions.numeric())
    takers = (rows.take, *takers)
    plan = plan_recipe(store, recipe, scans["scan_id"], wishes, takers=takers)
    verdict: Canary | None = None
    left = plan
    if tried := canary.choose(plan, trial.scans):
        verdict = _try_first(store, recipe, plan, tried, ledger, trial, run)
        ends = not verdict.is_calm and not trial.confirm(verdict)
        found = {**verdict.to_json(), "stopped": ends}
        ledger.manifest.setdefault("canary", {})[recipe.name] = found
        if ends:
            return Measured(canary=verdict, stopped=True)
        left = plan if verdict.again else canary.without(plan, tried)
    stage = f"run:{recipe.name}"
    before = ledger.stages.pop(stage, None)
    if left.tasks or before is None:
        run(left)
    if before is not None:
        after = ledger.stages.get(stage)
        ledger.stages[stage] = before if after is None else _joined(before, after, plan)
    if plan.tasks:
        again = [task.scan_id for task in plan.tasks]
        now = replace(wishes, known={})  # a run removes the record of a scan that it finds damaged
        for task in plan_recipe(store, recipe, again, now, takers=takers).tasks:
            rows.outdate(task)
    rows.write(store, scans)
    failed_before = set(plan.failed)
    return Measured(
        tuple((s, kind, said, s not in failed_before) for s, (kind, said) in rows.failed.items()),
        verdict,
    )


def _try_first(
    store: Store,
    recipe: Recipe,
    plan: Plan,
    tried: tuple[Task, ...],
    ledger: Ledger,
    trial: Trial,
    run: Callable[[Plan], None],
) -> Canary:
    now = versions.numeric()
    before = canary.standing(store, recipe, now, tolerance=trial.tolerance)
    if before is not None and not before.is_calm:
        for scan_id in plan.fresh:
            ledger.state(scan_id, "fresh", worked=False)
        return before
    ids = [task.scan_id for task in tried]
    old = {s: d for s, d in zip(ids, store.derivatives(recipe.name, ids), strict=True) if d}
    run(replace(plan, tasks=tried))
    new = dict(zip(ids, store.derivatives(recipe.name, ids), strict=True))
    return canary.compare(recipe, now, old, new, tolerance=trial.tolerance)


def _joined(first: Mapping[str, Any], second: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Account of a stage that ran in two parts."""
    return {
        **_added(first, second),
        "fresh": len(plan.fresh),
        "failed": first["failed"] + second["failed"] - len(plan.failed),
    }


def _added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of what both count; of a peak the larger one."""
    found = {**first, **second}
    for key in first.keys() & second.keys():
        one, other = first[key], second[key]
        if isinstance(one, Mapping):
            found[key] = _added(one, other)
        elif isinstance(one, int | float):
            found[key] = max(one, other) if key.startswith("peak_") else round(one + other, 4)
    return found
