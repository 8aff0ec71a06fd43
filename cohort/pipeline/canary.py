"""A few scans first: how far do their numbers move, against those that stand there from an earlier recipe or library.

The canary answers one question before a night is spent: do the numbers of scans that did not change stay what they were?
Its scans are the first of the plan that have earlier numbers of the same input, so they are the same in every call.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cohort.io.store import Store
from cohort.pipeline.plan import Plan, Task
from cohort.pipeline.recipe import Recipe

_RUNS = 100
"""Runs that are looked through, from the last one, for what an earlier canary found."""


@dataclass(frozen=True)
class Moved:
    """How far one column moved."""

    column: str
    compared: int
    """Numbers that were there before or are there now."""
    moved: int
    """Those that moved by more than the tolerance."""
    largest: float
    """Largest relative change, |after - before| / max(|before|, |after|), from 0 to 2; 1 where one of them is not defined."""
    before: float | None
    """Of the number that moved most."""
    after: float | None
    scan_id: str


@dataclass(frozen=True)
class Canary:
    """What the first scans say about the others."""

    recipe: str
    digest: str
    """Of the recipe they ran with."""
    versions: Mapping[str, str]
    tolerance: float
    scans: int
    failed: tuple[str, ...]
    """Scans that had numbers and have none any more."""
    columns: tuple[Moved, ...]
    """Columns of which any number moved at all, the most moved first."""
    again: bool = False
    """Whether this is what an earlier call found, and nothing ran now."""

    @property
    def is_calm(self) -> bool:
        """Whether nothing moved by more than the tolerance."""
        return not self.failed and all(c.largest <= self.tolerance for c in self.columns)

    def lines(self) -> list[str]:
        """For people: one line in general, then one a column."""
        how = "found before" if self.again else "ran first"
        moved = [c for c in self.columns if c.largest > self.tolerance]
        said = f"{len(moved)} columns moved by more than {self.tolerance:g}"
        lines = [
            f"canary {self.recipe}: {self.scans} scans {how}, {said}, {len(self.failed)} failed"
        ]
        lines += [
            f"  {c.column}: {c.moved} of {c.compared} moved, at most by {c.largest:.3g}"
            f" ({_number(c.before)} -> {_number(c.after)}, {c.scan_id})"
            for c in self.columns
        ]
        return [*lines, *(f"  {scan_id}: failed, and did not before" for scan_id in self.failed)]

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {**asdict(self), "columns": [asdict(c) for c in self.columns], "calm": self.is_calm}


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def choose(plan: Plan, n: int) -> tuple[Task, ...]:
    """First `n` tasks of a plan that have earlier numbers to be compared with."""
    return tuple(task for task in plan.tasks if task.is_measured)[:n]


def compare(
    recipe: Recipe,
    versions: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any] | None],
    *,
    tolerance: float,
) -> Canary:
    """Compare the numbers of some scans, measurements and per-label tables, in columns that are in both.

    Parameters
    ----------
    before, after : mapping of scan_id -> record of the derivative
    tolerance : float
        Largest relative change that counts as none.
    """
    pairs: dict[str, list[tuple[float, float | None, float | None, str]]] = {}
    failed = []
    for scan_id, old in before.items():
        new = after.get(scan_id)
        if new is None or new["state"] != "done":
            failed.append(scan_id)
            continue
        one, other = dict(_numbers(old)), dict(_numbers(new))
        columns = {c for c, _ in one} & {c for c, _ in other}
        for column, place in dict.fromkeys([*one, *other]):
            if column in columns:
                a, b = one.get((column, place)), other.get((column, place))
                pairs.setdefault(column, []).append((_change(a, b), a, b, scan_id))
    moved = []
    for column, changes in pairs.items():
        largest, a, b, scan_id = max(changes, key=lambda c: c[0])
        if largest > 0:
            n = sum(c[0] > tolerance for c in changes)
            moved.append(Moved(column, len(changes), n, largest, a, b, scan_id))
    moved.sort(key=lambda c: (-c.largest, c.column))
    return Canary(
        recipe.name,
        recipe.digest,
        dict(versions),
        tolerance,
        len(before),
        tuple(failed),
        tuple(moved),
    )


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, Any], float | None]]:
    """Column and place in it -> number."""
    for column, value in record.get("measurements", {}).items():
        yield (column, None), value
    for name, table in record.get("tables", {}).items():
        for column, values in table.items():
            for label, value in zip(table["label"], values, strict=True):
                yield (f"{name}.{column}", label), value


def _change(a: float | None, b: float | None) -> float:
    if a == b:
        return 0.0
    if a is None or b is None:
        return 1.0
    return abs(b - a) / max(abs(a), abs(b))


def standing(
    store: Store, recipe: Recipe, versions: Mapping[str, str], *, tolerance: float
) -> Canary | None:
    """What a canary of this very recipe and these libraries found, if numbers moved and nobody has gone on since.

    So a timer that calls every night is told the same every night, and does not turn over a few scans more each time.
    """
    stage = f"run:{recipe.name}"
    for run_id in reversed(store.runs()[-_RUNS:]):
        manifest = store.manifest(run_id)
        found = manifest.get("canary", {}).get(recipe.name)
        if found is None:
            if manifest.get("stages", {}).get(stage, {}).get("done"):
                return None  # somebody went on
            continue
        if (found["digest"], found["versions"]) != (recipe.digest, dict(versions)):
            return None
        if not found["stopped"]:
            return None
        columns = tuple(Moved(**c) for c in found["columns"])
        return Canary(
            recipe.name,
            recipe.digest,
            dict(versions),
            tolerance,
            found["scans"],
            tuple(found["failed"]),
            columns,
            again=True,
        )
    return None


def without(plan: Plan, tasks: Sequence[Task]) -> Plan:
    """A plan of the scans that are left after `tasks`."""
    done = {task.scan_id for task in tasks}
    left = tuple(task for task in plan.tasks if task.scan_id not in done)
    return Plan(plan.recipe, plan.fresh, left, plan.failed)
