"""What a plan will take: tasks, bytes, memory, and hours from what earlier runs took.

Bytes and memory follow from the records of the scans. Hours do not follow from anything but experience: without a run of the
recipe whose manifest holds its cost, none are given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cohort.io.store import Store
from cohort.pipeline.plan import BLOCK_BYTES, WORKER_BASE_BYTES, Plan, Task
from cohort.pipeline.recipe import Recipe

RUNS = 50
"""Runs that are looked through, from the last one, for what scans took."""

ENOUGH = 100
"""Scans after which no older run is asked."""


@dataclass(frozen=True)
class Experience:
    """What earlier runs of a recipe took."""

    scans: int
    seconds: float
    """Of a worker, all scans together."""
    cpu_seconds: float
    read_bytes: int
    peak_rss_bytes: int
    """Most that any scan took, interpreter and libraries included."""
    is_same: bool
    """Whether the recipe was this very one in all of these runs."""


@dataclass(frozen=True)
class Forecast:
    """What a plan will take."""

    recipe: str
    scans: int
    tasks: int
    """Of the scheduler: one a scan, in block grain one a block and step."""
    read_bytes: int
    write_bytes: int
    """At most: masks and labels compress well."""
    peak_bytes: int
    """Of one worker, interpreter and libraries included."""
    workers: int
    worker_hours: float | None
    hours: float | None
    """With all `workers` at work; None without experience."""
    experience: Experience | None
    fits: int | None = None
    """Scans, the first of the plan, that fit in the budget that was asked about; None without one, or without experience."""


def experience(store: Store, recipe: Recipe) -> Experience | None:
    """What the last runs of a recipe took, up to `ENOUGH` scans; None if no manifest says."""
    found: list[dict[str, float]] = []
    same = True
    for run_id in reversed(store.runs()[-RUNS:]):
        manifest = store.manifest(run_id)
        cost = manifest.get("stages", {}).get(f"run:{recipe.name}", {}).get("cost")
        if not cost or not cost["scans"]:
            continue
        found.append(cost)
        said = manifest.get("recipes", {}).get(recipe.name, {})
        same = same and said.get("digest") == recipe.digest
        if sum(c["scans"] for c in found) >= ENOUGH:
            break
    if not found:
        return None
    return Experience(
        int(sum(c["scans"] for c in found)),
        float(sum(c["seconds"] for c in found)),
        float(sum(c["cpu_seconds"] for c in found)),
        int(sum(c["read_bytes"] for c in found)),
        int(max(c["peak_rss_bytes"] for c in found)),
        same,
    )


def forecast(
    plan: Plan,
    recipe: Recipe,
    known: Experience | None,
    *,
    workers: int,
    budget_seconds: float | None = None,
    max_scans: int | None = None,
) -> Forecast:
    """Say what a plan will take.

    Parameters
    ----------
    known : Experience, optional
        What earlier runs took. A scan is taken to cost what they cost on average.
    workers : int
        That work at once.
    budget_seconds : float, optional
        Time that the run may take.
    max_scans : int, optional
        Scans that the run may take; the forecast is of these.
    """
    tasks = plan.tasks if max_scans is None else plan.tasks[:max_scans]
    worker_hours = hours = fits = None
    if known is not None:
        each = known.seconds / known.scans / 3600
        worker_hours = each * len(tasks)
        # The last round leaves workers without work: whole rounds, not a share of one.
        hours = each * math.ceil(len(tasks) / max(1, workers))
        if budget_seconds is not None:
            rounds = math.inf if each == 0 else math.floor(budget_seconds / 3600 / each + 1e-9)
            fits = int(min(len(tasks), rounds * max(1, workers)))
    return Forecast(
        plan.recipe,
        len(tasks),
        sum(_tasks(task) for task in tasks),
        sum(task.read_bytes for task in tasks),
        sum(task.write_bytes for task in tasks),
        _peak(tasks),
        workers,
        worker_hours,
        hours,
        known,
        fits,
    )


def _tasks(task: Task) -> int:
    return task.n_blocks * len(task.stale) if task.grain == "block" else 1


def _peak(tasks: Sequence[Task]) -> int:
    """Most that a worker holds: the largest scan that it takes whole, or a block."""
    held = (
        t.peak_bytes if t.grain == "scan" else max(t.block_bytes, BLOCK_BYTES * t.block**3)
        for t in tasks
    )
    return WORKER_BASE_BYTES + max(held) if tasks else 0
