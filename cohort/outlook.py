"""What a run would do, what it would take, and why each scan is stale; nothing is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cohort.call import Call
from cohort.io.store import StoreError
from cohort.options import Options

if TYPE_CHECKING:
    from cohort.io.catalog import Catalog
    from cohort.pipeline.forecast import Forecast
    from cohort.pipeline.plan import Plan
    from cohort.pipeline.staleness import Cause


@dataclass(frozen=True)
class Outlook:
    """One recipe: what it would do, and what that would take."""

    plan: "Plan"
    forecast: "Forecast"


@dataclass(frozen=True)
class Explained:
    """Why a recipe would run on a scan, or why not."""

    scan_id: str
    recipe: str
    state: str
    """``stale``, ``fresh`` or ``failed`` (on these very inputs, and waiting for a change)."""
    causes: "tuple[Cause, ...]"
    steps: tuple[str, ...]
    """Steps and measurements that would be made again."""


def forecast(
    catalog: "str | Path | Catalog", recipe: str | None = None, *, options: Options | None = None
) -> list[Outlook]:
    """Plan every recipe of a catalog, or one, and say what it would take.

    Parameters
    ----------
    options : Options
        ``workers``, ``memory`` and ``grain`` as for `run`; with ``budget_seconds``, how many scans fit; with ``max_scans``,
        what so many take.

    Raises
    ------
    CatalogError, RecipeError, StoreError, PlanError
        As `run` would.
    """
    from cohort.pipeline import cluster
    from cohort.pipeline.forecast import experience
    from cohort.pipeline.forecast import forecast as foresee

    options = options or Options()
    call = Call(catalog, None, options)
    recipes = {each.name: each for each in call.recipes}
    workers = cluster.worker_count() if options.workers is None else max(1, options.workers)
    return [
        Outlook(
            plan,
            foresee(
                plan,
                recipes[plan.recipe],
                experience(call.store, recipes[plan.recipe]),
                workers=workers,
                budget_seconds=options.budget_seconds,
                max_scans=options.max_scans,
            ),
        )
        for plan in call.plan(recipe)
    ]


def explain(
    catalog: "str | Path | Catalog",
    scan: str | None = None,
    recipe: str | None = None,
    *,
    options: Options | None = None,
) -> Iterator[Explained]:
    """Say of each stale scan what changed: which input, which step and what of it, which revision, which library.

    Parameters
    ----------
    scan : str, optional
        A scan, or a part of its name: what holds for it, also if it is fresh. Without it, all stale scans.

    Raises
    ------
    StoreError
        If no scan has that name.
    """
    from cohort.pipeline import versions
    from cohort.pipeline.staleness import causes

    call = Call(catalog, None, options or Options())
    store, now = call.store, versions.numeric()
    recipes = {each.name: each for each in call.recipes}
    is_known = False
    for plan in call.plan(recipe):
        tasks = {task.scan_id: task for task in plan.tasks}
        failed = set(plan.failed)
        every = (*tasks, *plan.failed, *plan.fresh)
        ids = list(tasks) if scan is None else sorted(s for s in every if scan in s)
        is_known = is_known or bool(ids)
        both = zip(store.records(ids), store.derivatives(plan.recipe, ids), strict=True)
        for scan_id, (record, found) in zip(ids, both, strict=True):
            if record is None:
                continue
            task = tasks.get(scan_id)
            said = (
                store.recipe(found["recipe_digest"]) if found and "recipe_digest" in found else {}
            )
            why = (
                causes(recipes[plan.recipe], record["contents"], found, said=said, versions=now)
                if task is not None
                else ()
            )
            state = "stale" if task is not None else "failed" if scan_id in failed else "fresh"
            yield Explained(
                scan_id, plan.recipe, state, tuple(why), () if task is None else task.stale
            )
    if scan is not None and not is_known:
        raise StoreError(f"no scan {scan!r} in {store.url}; `cohort status` lists what there is")
