"""What is stale and why, and in which grain each scan runs. Pure: tables in, a plan out, nothing read or written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cohort.pipeline.recipe import Recipe, Step

Grain = Literal["scan", "block"]

WORKER_BASE_BYTES = 300 << 20
"""A worker with our libraries loaded and nothing to do."""

WORKER_SHARE = 0.75
"""Of a worker's limit, what a scan may fill; above it Dask starts to pause the worker."""


BLOCKS = (128, 64, 32)
"""Voxels along each spatial axis of a block: the largest of these of which a worker can hold what a step needs."""

BLOCK_BYTES = 64
"""Bytes per voxel of a block that a step in block grain takes at its peak: its inputs with their rims, double-precision
intermediates, the result, and the next block on its way."""


class PlanError(ValueError):
    """A recipe that cannot run in the memory there is."""


@dataclass(frozen=True)
class Task:
    """One scan on which a recipe has work to do."""

    scan_id: str
    reason: str
    stale: tuple[str, ...]
    """Steps and measurements whose numbers are not there yet, in the recipe's order."""
    grain: Grain
    peak_bytes: int
    """Forecast of what running the whole recipe in memory takes at its peak."""
    block: int = BLOCKS[0]
    """In block grain: voxels along each spatial axis of a block."""


@dataclass(frozen=True)
class Plan:
    """What one recipe would do to a cohort."""

    recipe: str
    fresh: tuple[str, ...]
    tasks: tuple[Task, ...]
    failed: tuple[str, ...]
    """Scans that failed on these very inputs and steps before, and would again."""

    def reasons(self) -> dict[str, int]:
        """How many scans are stale for which reason."""
        found: dict[str, int] = {}
        for task in self.tasks:
            found[task.reason] = found.get(task.reason, 0) + 1
        return found

    def stale_steps(self) -> dict[str, int]:
        """Step or measurement -> scans for which it is stale."""
        found: dict[str, int] = {}
        for task in self.tasks:
            for name in task.stale:
                found[name] = found.get(name, 0) + 1
        return found


def make_plan(
    recipe: Recipe,
    scans: Sequence[Mapping[str, Any]],
    derivatives: Mapping[str, Mapping[str, Any]],
    *,
    grain: Literal["auto", "scan", "block"] = "auto",
    worker_bytes: int = 2 << 30,
    retry: bool = False,
) -> Plan:
    """Decide what a recipe has to do.

    Parameters
    ----------
    recipe : Recipe
    scans : sequence of scan records
    derivatives : mapping of scan_id -> derivative record found
    grain : {"auto", "scan", "block"}
        ``auto`` decides scan by scan from `worker_bytes`.
    worker_bytes : int
        Memory a worker may use.
    retry : bool
        Also run scans that failed before on the same inputs.
    """
    fresh: list[str] = []
    failed: list[str] = []
    tasks: list[Task] = []
    room = WORKER_SHARE * worker_bytes - WORKER_BASE_BYTES
    for scan in scans:
        scan_id = scan["scan_id"]
        found = derivatives.get(scan_id)
        stale, reason = staleness(recipe, scan["contents"], found)
        if not stale:
            if (
                found is not None
                and found["state"] == "failed"
                and not (retry or not found.get("lasting", True))
            ):
                failed.append(scan_id)
                continue
            if found is not None and found["state"] != "failed":
                fresh.append(scan_id)
                continue
            stale, reason = tuple(recipe.keys), "failed before"
        peak = peak_bytes(recipe, scan)
        chosen: Grain = ("scan" if peak <= room else "block") if grain == "auto" else grain
        if chosen == "scan" and peak > room:
            raise PlanError(
                f"{recipe.name}: {scan_id} takes {_mib(peak + WORKER_BASE_BYTES)} in memory, a worker may fill "
                f"{_mib(room + WORKER_BASE_BYTES)}; give more --memory, or --grain block, which runs it in "
                f"blocks of {_block(recipe, room)} voxels a side"
            )
        block = _block(recipe, room) if chosen == "block" else BLOCKS[0]
        tasks.append(Task(scan_id, reason, stale, chosen, peak, block))
    return Plan(recipe.name, tuple(fresh), tuple(tasks), tuple(failed))


def _block(recipe: Recipe, room: float) -> int:
    """Largest block of which a worker can hold what a step needs."""
    for block in BLOCKS:
        if BLOCK_BYTES * block**3 <= room:
            return block
    needed = (WORKER_BASE_BYTES + BLOCK_BYTES * BLOCKS[-1] ** 3) / WORKER_SHARE
    raise PlanError(
        f"{recipe.name}: even in blocks of {BLOCKS[-1]} voxels a side a worker needs {_mib(needed)}; "
        f"give more --memory"
    )


def _mib(n: float) -> str:
    return f"{n / 2**20:.0f} MiB"


def staleness(
    recipe: Recipe, contents: Mapping[str, str], found: Mapping[str, Any] | None
) -> tuple[tuple[str, ...], str]:
    """Steps and measurements of a recipe that a derivative record does not answer for, and why in a few words."""
    if found is None:
        return tuple(recipe.keys), "new"
    keys, before = found["keys"], found["contents"]
    changed = {name for name in recipe.variables if contents.get(name) != before.get(name)}
    stale = tuple(
        name
        for name, key in recipe.keys.items()
        if keys.get(name) != key or recipe.uses[name] & changed
    )
    if stale and found["state"] == "failed":
        stale = tuple(recipe.keys)  # nothing is there to be used again
    if changed:
        return stale, f"{', '.join(sorted(changed))} changed"
    missing = (
        [name for name in recipe.keep if name not in found.get("kept", ())]
        if found["state"] == "done"
        else []
    )
    first = next((n for n in stale if all(need not in stale for need in recipe.needs[n])), None)
    if first is not None:
        return stale, f"{'new' if first not in keys else 'changed'} in the recipe: {first}"
    if missing:
        return tuple(missing), f"not kept before: {', '.join(missing)}"
    columns = recipe.columns()
    if new := [c for c in columns if c not in found.get("measurements", columns)]:
        return tuple(
            dict.fromkeys(columns[c] for c in new)
        ), f"not measured before: {', '.join(new)}"
    return (), ""


def peak_bytes(recipe: Recipe, scan: Mapping[str, Any]) -> int:
    """Bytes that the recipe takes at its peak on one scan held in memory: live arrays plus the step at work."""
    voxels = math.prod(int(n) for n in scan["shape"])
    stored = {name: np.dtype(v["dtype"]).itemsize for name, v in scan["variables"].items()}
    wide = 2 if scan["variables"]["image"]["dtype"] == "float64" else 1
    live: dict[str, float] = {}
    peak = 0.0
    for name in sorted(recipe.variables):
        decoded = 4.0 * wide if name == "image" else float(stored.get(name, 4))
        live[name] = decoded
        peak = max(peak, sum(live.values()) + stored.get(name, 4))  # while it is decoded
    steps = [step for step in (*recipe.steps, *recipe.measure) if isinstance(step, Step)]
    last = {source: i for i, step in enumerate(steps) for source in step.arrays.values()}
    last |= dict.fromkeys(recipe.keep, len(steps))
    for i, step in enumerate(steps):
        operation = step.operation
        work = operation.peak_bytes
        if operation.masked_bytes is not None and "mask" in step.arrays:
            work = operation.masked_bytes
        grows = wide if "image" in step.arrays else 1
        peak = max(peak, sum(live.values()) + grows * work)
        if operation.gives == "array":
            live[step.name] = operation.result_bytes * (grows if operation.result_bytes == 4 else 1)
        for name in [n for n in live if last.get(n, -1) <= i]:
            del live[name]
    return int(peak * voxels)
