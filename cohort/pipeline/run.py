"""Plan x Client -> derivatives, measurements, failures. One bad scan never stops a cohort and never vanishes."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from cohort import grid, schema
from cohort.io.storage.group import write_groups
from cohort.io.store import Store, StoreError
from cohort.io.traces import without_paths
from cohort.ops import graph
from cohort.pipeline import versions
from cohort.pipeline.dispatch.blocks import BlockMeter, on_workers
from cohort.pipeline.dispatch.cost import Cost, Spent
from cohort.pipeline.dispatch.stopping import Dropped, Stop
from cohort.pipeline.dispatch.window import (
    TIME_LIMIT_SECONDS,
    Connect,
    Failure,
    Sealed,
    each,
    guarded,
    raise_away,
)
from cohort.pipeline.execute import Outcome, execute
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.plan import WORKER_BASE_BYTES, Plan, Task
from cohort.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class _Job:
    """All that a worker needs to run one scan."""

    store: Store
    """As the driver holds it: a copy commits nothing once another writer has taken the store over."""
    recipe: Recipe
    task: Task


@dataclass(frozen=True)
class Done:
    """A scan's work, as the driver hears of it: small, the numbers are on the disk."""

    ran: tuple[str, ...]
    scratch_bytes: int = 0


def run_recipe(
    plan: Plan,
    recipe: Recipe,
    store: Store,
    ledger: Ledger,
    connect: Connect,
    *,
    stop: Stop | None = None,
    seconds: float = TIME_LIMIT_SECONDS,
) -> None:
    """Do what a plan says, as far as nobody stops it.

    Parameters
    ----------
    plan : Plan
    recipe : Recipe
    store : Store
        Locked by the caller.
    ledger : Ledger
        Hears of every scan.
    connect : callable
        Gives the client, or None for a plain loop; called only if there is work to do.
    stop : Stop, optional
        Asked at every scan; hears of those that were left.
    seconds : float
        Limit of time for a scan; in block grain, within which some block has to come to an end.
    """
    stop = Stop() if stop is None else stop
    stage = f"run:{recipe.name}"
    started = time.perf_counter()
    store.write_recipe(recipe.digest, {**recipe.content, "revisions": recipe.revisions()})
    counts = {"fresh": len(plan.fresh), "done": 0, "failed": len(plan.failed)}
    for scan_id in plan.fresh:
        ledger.state(scan_id, "fresh", worked=False)
    for scan_id in plan.failed:
        ledger.state(scan_id, "failed", worked=False)
    total = len(plan.tasks)
    ledger.event("stage", stage=stage, total=total, fresh=len(plan.fresh), stale=plan.stale_steps())
    admitted = stop.admit(task.scan_id for task in plan.tasks)
    tasks = [task for task in plan.tasks if task.scan_id in admitted]
    left = {task.scan_id for task in plan.tasks}
    steps: Counter[str] = Counter()
    spent = Spent()
    stop.leave(left)
    try:
        for number, (task, result, cost) in enumerate(
            _results(tasks, recipe, store, connect, stop, seconds), 1
        ):
            left.discard(task.scan_id)
            stop.come_to(task.scan_id)
            spent.add(cost)
            said: dict[str, Any]
            if isinstance(result, Failure):
                state = "failed"
                _record_failure(store, recipe, task, result)
                store.write_failure(
                    ledger.run_id,
                    f"{recipe.name}.{task.scan_id}",
                    without_paths(result.trace or result.message),
                )
                said = {"type": result.kind, "message": without_paths(result.message)}
            else:
                state = "done"
                steps.update(result.ran)
                said = {"ran": list(result.ran), "scratch_bytes": result.scratch_bytes}
            counts[state] += 1
            ledger.state(task.scan_id, state, worked=True)
            ledger.event(
                state,
                stage=stage,
                scan_id=task.scan_id,
                grain=task.grain,
                reason=task.reason,
                **said,
                **cost.fields(),
                done=number,
                total=total,
            )
    finally:
        if tasks:
            # Once for all, and before a table or the manifest counts them.
            store.settle(recipe.name)
    ledger.stages[stage] = {
        **counts,
        "left": len(left),
        "reasons": plan.reasons(),
        "steps": dict(steps),
        "grain": {g: sum(t.grain == g for t in plan.tasks) for g in ("scan", "block")},
        "cost": spent.fields(),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _results(
    tasks: Sequence[Task],
    recipe: Recipe,
    store: Store,
    connect: Connect,
    stop: Stop,
    seconds: float,
) -> Iterator[tuple[Task, Done | Failure, Cost]]:
    if not tasks:
        return
    client = connect()
    by_scan = [_Job(store, recipe, task) for task in tasks if task.grain == "scan"]
    for job, result, cost in each(
        run_scan,
        by_scan,
        client=client,
        name=recipe.name,
        stop=stop,
        seconds=seconds,
        bytes_of=_forecast,
    ):
        yield job.task, result, cost
    # Block grain: the driver walks the steps, the workers compute the blocks of one scan at a time.
    for task in tasks:
        if task.grain != "block":
            continue
        if stop.reason() is not None:
            return
        meter = BlockMeter(client)
        work = partial(run_blocks, client=client)
        try:
            with nullcontext() if client is None else on_workers(client, stop, seconds=seconds):
                done = guarded(work, Sealed(_Job(store, recipe, task)))
        except (Dropped, KeyboardInterrupt):
            if stop.reason() is None:
                raise
            return
        raise_away(done)
        yield task, done, meter.cost()


def _forecast(job: _Job) -> int:
    """Bytes that a worker needs for a scan."""
    return job.task.peak_bytes + WORKER_BASE_BYTES


def run_scan(job: _Job) -> Done:
    """Run one scan in memory and write what it leaves. Called on a worker."""
    store = job.store
    record, known, scan, kept = _open(store, job)
    outcome = execute(
        job.recipe,
        scan,
        scan_id=job.task.scan_id,
        stale=job.task.stale,
        known=known,
        kept=kept,
    )
    store.write_derivative(
        job.recipe.name,
        job.task.scan_id,
        _kept_groups(job.recipe, scan, outcome),
        _record(job.recipe, record, outcome),
    )
    return Done(tuple(outcome.ran))


def run_blocks(job: _Job, *, client: "Client | None" = None) -> Done:
    """Run one scan block by block on whatever computes Dask graphs here, and write what it leaves."""
    store = job.store
    record, known, scan, kept = _open(store, job)
    with store.stage() as scratch, graph.scratch(scratch):
        _expect_shared(scratch, client)
        outcome = execute(
            job.recipe,
            scan,
            scan_id=job.task.scan_id,
            stale=job.task.stale,
            known=known,
            kept=kept,
            scratch=scratch,
            block=job.task.block,
        )
        staged: Path | None = None
        if groups := _kept_groups(job.recipe, scan, outcome):
            staged = scratch / "kept.zarr"
            write_groups(staged, groups)
        store.write_derivative(
            job.recipe.name, job.task.scan_id, staged, _record(job.recipe, record, outcome)
        )
    return Done(tuple(outcome.ran), outcome.scratch_bytes)


def _open(
    store: Store, job: _Job
) -> tuple[dict[str, Any], dict[str, Any], xr.Dataset, dict[str, xr.DataArray]]:
    scan_id, recipe = job.task.scan_id, job.recipe
    record = store.record(scan_id)
    if record is None:
        raise StoreError("the scan went away while the recipe ran; ingest again")
    known = store.derivative(recipe.name, scan_id) or {}
    kept: dict[str, xr.DataArray] = {}
    if known.get("state") != "done":
        known = {}
    elif reusable := [
        k for k in recipe.keep if k in known.get("kept", ()) and k not in job.task.stale
    ]:
        try:
            here = store.open_derivative(recipe.name, scan_id)
            for name in reusable:
                own = name in recipe.apart
                there = store.open_derivative(recipe.name, scan_id, variable=name) if own else here
                kept[name] = there[name]
        except StoreError:
            known, kept = {}, {}  # damaged: made again from the scan
    return record, known, store.open_scan(scan_id), kept


def _kept_groups(recipe: Recipe, scan: xr.Dataset, outcome: Outcome) -> dict[str, xr.Dataset]:
    """What is kept, by the place of its group: all that lies on the scan's grid at the root, each other array under its name."""
    arrays = {name: array.rename(name) for name, array in outcome.kept.items()}
    groups = {}
    if here := {name: array for name, array in arrays.items() if name not in recipe.apart}:
        groups[""] = xr.Dataset(here).assign(affine=scan["affine"])
    for name in recipe.apart:
        affine = xr.Variable(schema.AFFINE_DIMS, grid.affine_of(arrays[name]))
        groups[name] = arrays[name].to_dataset().assign(affine=affine)
    return groups


def _record(recipe: Recipe, scan: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Record of a derivative: no clock, no host, no grain in it, so that equal inputs leave equal bytes."""
    columns = recipe.columns()
    return {
        "state": "done",
        "contents": {name: scan["contents"][name] for name in sorted(recipe.variables)},
        "keys": dict(recipe.keys),
        "versions": dict(versions.numeric()),
        "measurements": {column: outcome.numbers[column] for column in columns},
        "units": dict(sorted(outcome.units.items())),
        "numbers": dict(sorted(outcome.numbers.items())),
        "tables": {name: outcome.tables[name] for name in recipe.tables()},
        **({"poses": {n: outcome.poses[n] for n in sorted(outcome.poses)}} if recipe.poses else {}),
        "recipe_digest": recipe.digest,
        "kept": list(recipe.keep),
    }


def _record_failure(store: Store, recipe: Recipe, task: Task, failure: Failure) -> None:
    scan = store.record(task.scan_id) or {"contents": {}}
    if failure.kind == "StoreError":
        # Damage on the disk: without its record the scan is not there, and the next ingest brings it back.
        store.remove_scan(task.scan_id)
    store.write_derivative(
        recipe.name,
        task.scan_id,
        None,
        {
            "state": "failed",
            "contents": {name: scan["contents"].get(name) for name in sorted(recipe.variables)},
            "keys": dict(recipe.keys),
            "versions": dict(versions.numeric()),
            "type": failure.kind,
            "reason": failure.message,
            "lasting": failure.lasting,
            "recipe_digest": recipe.digest,
        },
    )


def _expect_shared(scratch: Path, client: "Client | None") -> None:
    """Intermediate arrays lie in files: under a store that is a folder, in a temporary folder for one that is a bucket."""
    if client is None:
        return
    if blind := [w for w, sees in client.run(os.path.isdir, str(scratch)).items() if not sees]:
        raise RuntimeError(
            f"{len(blind)} workers do not see the folder for intermediate arrays, which a scan larger than memory needs;"
            " set TMPDIR to a folder that all machines share, use workers of this machine, or give them more --memory"
        )
