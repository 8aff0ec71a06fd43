"""Plan x Client -> derivatives, measurements, failures. One bad scan never stops a cohort and never vanishes."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import xarray as xr

from cohort.io.storage.group import write_blocks
from cohort.io.store import Store, StoreError
from cohort.io.traces import without_paths
from cohort.ops import graph
from cohort.pipeline.execute import Outcome, execute
from cohort.pipeline.ledger import Ledger
from cohort.pipeline.plan import Plan, Task
from cohort.pipeline.recipe import Recipe
from cohort.pipeline.window import Connect, Failure, Sealed, each, guarded

if TYPE_CHECKING:
    import pandas as pd
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

    seconds: float
    ran: tuple[str, ...]
    scratch_bytes: int = 0


def run_recipe(plan: Plan, recipe: Recipe, store: Store, ledger: Ledger, connect: Connect) -> None:
    """Do what a plan says and gather the tables.

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
    """
    stage = f"run:{recipe.name}"
    started = time.perf_counter()
    store.write_recipe(recipe.digest, dict(recipe.content))
    counts = {"fresh": len(plan.fresh), "done": 0, "failed": len(plan.failed)}
    steps: dict[str, int] = {}
    for scan_id in plan.fresh:
        ledger.state(scan_id, "fresh", worked=False)
    for scan_id in plan.failed:
        ledger.state(scan_id, "failed", worked=False)
    total = len(plan.tasks)
    ledger.event("stage", stage=stage, total=total, fresh=len(plan.fresh), stale=plan.stale_steps())
    for number, (task, result) in enumerate(_results(plan, recipe, store, connect), 1):
        if isinstance(result, Failure):
            counts["failed"] += 1
            ledger.state(task.scan_id, "failed", worked=True)
            _record_failure(store, recipe, task, result)
            store.write_failure(
                ledger.run_id,
                f"{recipe.name}.{task.scan_id}",
                without_paths(result.trace or result.message),
            )
            ledger.event(
                "failed",
                stage=stage,
                scan_id=task.scan_id,
                type=result.kind,
                message=without_paths(result.message),
                done=number,
                total=total,
            )
        else:
            counts["done"] += 1
            ledger.state(task.scan_id, "done", worked=True)
            for name in result.ran:
                steps[name] = steps.get(name, 0) + 1
            ledger.event(
                "done",
                stage=stage,
                scan_id=task.scan_id,
                grain=task.grain,
                scratch_bytes=result.scratch_bytes,
                seconds=round(result.seconds, 4),
                ran=list(result.ran),
                reason=task.reason,
                done=number,
                total=total,
            )
    ledger.stages[stage] = {
        **counts,
        "reasons": plan.reasons(),
        "steps": steps,
        "grain": {g: sum(t.grain == g for t in plan.tasks) for g in ("scan", "block")},
        "seconds": round(time.perf_counter() - started, 3),
    }


def _results(
    plan: Plan, recipe: Recipe, store: Store, connect: Connect
) -> Iterator[tuple[Task, Done | Failure]]:
    if not plan.tasks:
        return
    client = connect()
    by_scan = [_Job(store, recipe, task) for task in plan.tasks if task.grain == "scan"]
    for job, result in each(run_scan, by_scan, client=client, name=recipe.name):
        yield job.task, result
    # Block grain: the driver walks the steps, the workers compute the blocks of one scan at a time.
    for task in plan.tasks:
        if task.grain == "block":
            with nullcontext() if client is None else dask.config.set(scheduler=client):
                result = guarded(
                    partial(run_blocks, client=client), Sealed(_Job(store, recipe, task))
                )
            yield task, result


def run_scan(job: _Job) -> Done:
    """Run one scan in memory and write what it leaves. Called on a worker."""
    started, store = time.perf_counter(), job.store
    record, known, scan, kept = _open(store, job)
    outcome = execute(
        job.recipe,
        scan,
        stale=job.task.stale,
        known=known,
        kept={k: v.load() for k, v in kept.items()},
    )
    dataset = _kept_dataset(scan, outcome)
    store.write_derivative(
        job.recipe.name, job.task.scan_id, dataset, _record(job.recipe, record, outcome)
    )
    return Done(time.perf_counter() - started, tuple(outcome.ran))


def run_blocks(job: _Job, *, client: "Client | None" = None) -> Done:
    """Run one scan block by block on whatever computes Dask graphs here, and write what it leaves."""
    started, store = time.perf_counter(), job.store
    record, known, scan, kept = _open(store, job)
    with store.stage() as scratch, graph.scratch(scratch):
        _expect_shared(scratch, client)
        outcome = execute(
            job.recipe,
            scan,
            stale=job.task.stale,
            known=known,
            kept={k: v.chunk() for k, v in kept.items()},
            scratch=scratch,
            block=job.task.block,
        )
        dataset = _kept_dataset(scan, outcome)
        staged: Path | None = None
        if dataset is not None:
            staged = scratch / "kept.zarr"
            write_blocks(staged, dataset)
        store.write_derivative(
            job.recipe.name, job.task.scan_id, staged, _record(job.recipe, record, outcome)
        )
    return Done(time.perf_counter() - started, tuple(outcome.ran), outcome.scratch_bytes)


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
            before = store.open_derivative(recipe.name, scan_id)
            kept = {name: before[name] for name in reusable}
        except StoreError:
            known = {}  # damaged: made again from the scan
    return record, known, store.open_scan(scan_id), kept


def _kept_dataset(scan: xr.Dataset, outcome: Outcome) -> xr.Dataset | None:
    if not outcome.kept:
        return None
    dataset = xr.Dataset({name: array.rename(name) for name, array in outcome.kept.items()})
    dataset["affine"] = scan["affine"]
    return dataset


def _record(recipe: Recipe, scan: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Record of a derivative: no clock, no host, no grain in it, so that equal inputs leave equal bytes."""
    columns = recipe.columns()
    return {
        "state": "done",
        "contents": {name: scan["contents"][name] for name in sorted(recipe.variables)},
        "keys": dict(recipe.keys),
        "measurements": {column: outcome.numbers[column] for column in columns},
        "units": dict(sorted(outcome.units.items())),
        "numbers": dict(sorted(outcome.numbers.items())),
        "tables": {name: outcome.tables[name] for name in recipe.tables()},
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
            "type": failure.kind,
            "reason": failure.message,
            "lasting": failure.lasting,
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


def gather(
    store: Store,
    recipe: Recipe,
    scans: Sequence[Mapping[Any, Any]],
    derivatives: Mapping[str, Mapping[str, Any]],
) -> "pd.DataFrame":
    """Gather the measurements of a cohort into ``tables/<recipe>.parquet`` and its per-label tables.

    Parameters
    ----------
    scans : sequence of mapping
        ``scan_id, participant, subject, session`` of every scan of the cohort.
    derivatives : mapping of scan_id -> record

    Returns
    -------
    DataFrame
        One row a scan: its four keys, ``state``, ``reason`` (failed scans), one float64 column a measurement.
    """
    import pandas as pd

    columns = list(recipe.columns())
    rows: list[dict[str, Any]] = []
    units: dict[str, str] = {}
    labelled: dict[str, list[pd.DataFrame]] = {name: [] for name in recipe.tables()}
    for scan in scans:
        found = derivatives.get(scan["scan_id"])
        if found is None:
            continue
        measured = found.get("measurements", {})
        units |= found.get("units", {})
        rows.append(
            {
                **scan,
                "state": found["state"],
                "reason": found.get("reason"),
                **{c: measured.get(c) for c in columns},
            }
        )
        for name in labelled.keys() & found.get("tables", {}).keys():
            table = found["tables"][name]
            frame = pd.DataFrame(table)
            frame.insert(0, "scan_id", scan["scan_id"])
            labelled[name].append(frame)
    keys = ["scan_id", "participant", "subject", "session", "state", "reason"]
    table = pd.DataFrame(rows, columns=[*keys, *columns])
    table = table.astype({**dict.fromkeys(keys, "string"), **dict.fromkeys(columns, "float64")})
    store.write_table(recipe.name, table, {c: units.get(c, "1") for c in columns})
    for name, frames in labelled.items():
        whole = (
            pd.concat(frames, ignore_index=True)
            if frames
            else pd.DataFrame({"scan_id": [], "label": []})
        )
        own = {c.partition(".")[2]: u for c, u in units.items() if c.startswith(f"{name}.")}
        store.write_table(f"{recipe.name}.{name}", whole, own)
    store.remove_tables(recipe.name, recipe.tables())
    return table
