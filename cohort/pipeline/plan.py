"""What is stale and why, in which order and grain each scan runs. Pure: records in, a plan out, nothing read or written."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cohort import markup
from cohort.pipeline.memory import block_bytes, made, peak_bytes, whole_bytes
from cohort.pipeline.recipe import Recipe
from cohort.pipeline.staleness import URGENT, Kind, Stale, staleness

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
    kind: Kind = "new"
    n_blocks: int = 1
    """In block grain: how many there are."""
    block_bytes: int = 0
    """In block grain: what a worker takes at its peak, for a block or for a step that cannot be cut into blocks."""
    read_bytes: int = 0
    """Of the store, compressed as they lie there."""
    write_bytes: int = 0
    """Of the variables to be kept: as many as were written before, or uncompressed, which is the most there can be."""
    is_measured: bool = False
    """Whether there are earlier numbers of this very input, with which new ones can be compared."""


@dataclass(frozen=True)
class Plan:
    """What one recipe would do to a cohort."""

    recipe: str
    fresh: tuple[str, ...]
    tasks: tuple[Task, ...]
    """In the order in which they are to run, see `order`."""
    failed: tuple[str, ...]
    """Scans that failed on these very inputs and steps before, and would again."""

    def __repr__(self) -> str:
        """Counts, however many scans there are."""
        why = ", ".join(f"{n} {reason}" for reason, n in self.reasons().items())
        total = len(self.tasks) + len(self.fresh) + len(self.failed)
        return (
            f"<Plan {self.recipe!r}: {len(self.tasks)} of {total} scans to do{f' ({why})' if why else ''}; "
            f"{len(self.fresh)} fresh, {len(self.failed)} failed before>"
        )

    def _repr_html_(self) -> str:
        """The same with reasons and steps, for a notebook."""
        return markup.block(
            f"Plan {self.recipe}",
            markup.paragraph(
                f"{len(self.tasks):,} scans to do, {len(self.fresh):,} fresh, {len(self.failed):,} failed before"
            ),
            markup.table(["because", "scans"], self.reasons().items()),
            markup.table(["step", "stale for scans"], self.stale_steps().items()),
        )

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
    scans: Iterable[tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    *,
    versions: Mapping[str, str],
    grain: Literal["auto", "scan", "block"] = "auto",
    worker_bytes: int | Callable[[], int] = 2 << 30,
    retry: bool = False,
    accept_versions: bool = False,
    whole: Callable[[str], Mapping[str, Any] | None] | None = None,
) -> Plan:
    """Decide what a recipe has to do.

    Parameters
    ----------
    recipe : Recipe
    scans : iterable of (record, record or None)
        Of each scan and of what the recipe left of it. Read once; none is kept, so that memory grows by some 500 bytes a
        stale scan.
    versions : mapping
        Libraries on which numbers depend -> version (`versions.numeric`).
    grain : {"auto", "scan", "block"}
        ``auto`` decides scan by scan from `worker_bytes`.
    worker_bytes : int or callable
        Memory a worker may use, or what says how much that is, asked when the first scan is stale.
    retry : bool
        Also run scans that failed before on the same inputs.
    accept_versions : bool
        Results of other versions of the libraries count as fresh.
    whole : callable, optional
        Reads the record of a scan that is stale, where `scans` gives no more of it than ``scan_id`` and ``contents``; one
        that has none any more is passed over.

    Raises
    ------
    PlanError
        If a scan fits in no worker, neither whole nor in the smallest blocks.
    """
    fresh: list[str] = []
    failed: list[str] = []
    tasks: list[Task] = []
    room: float | None = None
    alike: dict[Stale, Stale] = {}  # thousands of scans are stale for one reason
    peaks: dict[tuple[Any, ...], int] = {}  # and have one shape
    for scan, found in scans:
        scan_id = scan["scan_id"]
        stale = staleness(
            recipe, scan["contents"], found, versions=versions, accept_versions=accept_versions
        )
        if not stale.names and found is not None:
            if found["state"] != "failed":
                fresh.append(scan_id)
                continue
            if found.get("lasting", True) and not retry:
                failed.append(scan_id)
                continue
            stale = Stale(tuple(recipe.keys), "failed", "failed before")
        if whole is not None and "shape" not in scan:
            if (read := whole(scan_id)) is None:
                continue
            scan = read
        if room is None:
            most = worker_bytes() if callable(worker_bytes) else worker_bytes
            room = WORKER_SHARE * most - WORKER_BASE_BYTES
        stale = alike.setdefault(stale, stale)
        form = (
            *((n, v["dtype"], *v["shape"]) for n, v in scan["variables"].items()),
            *scan["spacing_mm"].values(),
            scan["axcodes"],
        )
        if (peak := peaks.get(form)) is None:
            peak = peaks[form] = peak_bytes(recipe, scan)
        chosen: Grain = ("scan" if peak <= room else "block") if grain == "auto" else grain
        if chosen == "scan" and peak > room:
            raise PlanError(
                f"{recipe.name}: {scan_id} takes {_mib(peak + WORKER_BASE_BYTES)} in memory, a worker may fill "
                f"{_mib(room + WORKER_BASE_BYTES)}; give more --memory, or --grain block, which runs it in "
                f"blocks of {_block(recipe, scan, room)[0]} voxels a side"
            )
        block, block_bytes = BLOCKS[0], 0
        if chosen == "block":
            block, block_bytes = _block(recipe, scan, room)
        tasks.append(
            Task(
                scan_id,
                stale.reason,
                stale.names,
                chosen,
                peak,
                block,
                stale.kind or "new",
                math.prod(-(-n // block) for n in scan["shape"][-3:]) if chosen == "block" else 1,
                block_bytes,
                _read_bytes(recipe, scan),
                _write_bytes(recipe, scan, found),
                found is not None and found["state"] == "done" and stale.kind != "input",
            )
        )
    return Plan(recipe.name, tuple(fresh), order(tasks), tuple(failed))


def order(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Tasks in the order in which they run: urgent ones first (`staleness.URGENT`), within a kind a shuffle by their ids.

    Where a budget ends, what was done is then a fair sample of what there was to do, not the first hospital by name; and
    the order is the same in every call, on every machine.
    """
    rank = {kind: i for i, kind in enumerate(URGENT)}
    return tuple(sorted(tasks, key=lambda t: (rank[t.kind], _shuffled(t.scan_id))))


def _shuffled(scan_id: str) -> bytes:
    return hashlib.sha256(scan_id.encode("utf-8", "surrogatepass")).digest()


def _read_bytes(recipe: Recipe, scan: Mapping[str, Any]) -> int:
    """Bytes of the files of the variables that a recipe reads."""
    chunks = scan.get("chunks", {})
    return sum(
        int(size)
        for name, (_, size) in chunks.items()
        if name.partition("/")[0] in recipe.variables
    )


def _write_bytes(recipe: Recipe, scan: Mapping[str, Any], found: Mapping[str, Any] | None) -> int:
    """Bytes of the variables that a recipe keeps: those of the last time, or as many as there can be."""
    if not recipe.keep:
        return 0
    if found is not None and found.get("chunks") and list(recipe.keep) == found.get("kept"):
        return sum(int(size) for _, size in found["chunks"].values())
    extent = made(recipe, scan)
    return sum(extent[name].nbytes for name in recipe.keep)


def _block(recipe: Recipe, scan: Mapping[str, Any], room: float) -> tuple[int, int]:
    """Largest block of which a worker can hold what a step needs, and the bytes that it takes then."""
    whole = whole_bytes(recipe, scan)
    if whole > max(room, 0.0):
        names = ", ".join(s.name for s in recipe.steps if s.operation.whole)
        raise PlanError(
            f"{recipe.name}: {scan['scan_id']} takes {_mib(whole + WORKER_BASE_BYTES)} in memory even in blocks, as steps "
            f"cannot be cut ({names}); a worker may fill {_mib(room + WORKER_BASE_BYTES)}; give more --memory"
        )
    for block in BLOCKS:
        most = max(BLOCK_BYTES * block**3, block_bytes(recipe, scan, block))
        if most <= room:
            return block, max(whole, most)
    needed = (WORKER_BASE_BYTES + most) / WORKER_SHARE
    raise PlanError(
        f"{recipe.name}: even in blocks of {BLOCKS[-1]} voxels a side a worker needs {_mib(needed)}; "
        f"give more --memory"
    )


def _mib(n: float) -> str:
    return f"{n / 2**20:.0f} MiB"
