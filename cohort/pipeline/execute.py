"""One recipe on one scan: the same walk over the steps in both grains.

In **scan grain** the variables are NumPy arrays. In **block grain** they are chunked, and each step is done when it is
reached: a number is computed, an array is written to scratch storage, compressed, and deleted after its last reader. So
nothing is computed twice, and no more than a few blocks are in memory.
"""

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cohort import schema
from cohort.expression import evaluate, parse
from cohort.grid import check_same_grid
from cohort.io.storage.backend import StoreError
from cohort.ops import graph
from cohort.pipeline.recipe import Recipe, Step, Value

_parsed = functools.cache(parse)


class RunError(ValueError):
    """A scan on which a recipe cannot run."""


@dataclass
class Outcome:
    """What a recipe found on one scan."""

    numbers: dict[str, float | int | None] = field(default_factory=dict)
    """Every number of a step or a measurement; None where it is not defined (the mean of nothing)."""
    units: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Measurement -> columns of its table, one row a label."""
    kept: dict[str, xr.DataArray] = field(default_factory=dict)
    poses: dict[str, list[list[float]]] = field(default_factory=dict)
    """Step -> the 4x4 matrix that it found."""
    ran: list[str] = field(default_factory=list)
    scratch_bytes: int = 0
    """Most that lay in scratch storage after any step."""


def execute(
    recipe: Recipe,
    scan: xr.Dataset,
    *,
    scan_id: str,
    stale: Iterable[str],
    known: Mapping[str, Any] | None = None,
    kept: Mapping[str, xr.DataArray] | None = None,
    scratch: Path | None = None,
    block: int = 128,
) -> Outcome:
    """Run what is stale of a recipe, and what it needs, on one scan.

    Parameters
    ----------
    recipe : Recipe
    scan : Dataset
        Lazy, as `io.store.Store.open_scan` gives it.
    scan_id : str
        Random numbers are its own: see `own_seed`.
    stale : names of steps and measurements
        Only those from which a measurement or a kept variable follows are run.
    known : mapping
        Record of an earlier derivative: its ``numbers``, ``units``, ``tables`` and ``poses`` are used where they are not stale.
    kept : mapping of name -> DataArray
        Variables kept earlier and still good; lazy ones in block grain.
    scratch : Path, optional
        A folder: run in block grain with scratch storage there. None: scan grain.
    block : int
        Voxels along each spatial axis of a block; half of it where a scan has no more than that.

    Raises
    ------
    RunError, GridError, ValueError
        If the scan lacks a variable, a step is given arrays on different grids, or refuses the scan.
    """
    known = known or {}
    stale = set(stale)
    outcome = Outcome(
        numbers={
            n: v for n, v in known.get("numbers", {}).items() if _source(recipe, n) not in stale
        },
        units={n: u for n, u in known.get("units", {}).items() if _source(recipe, n) not in stale},
        tables={n: t for n, t in known.get("tables", {}).items() if n not in stale},
        poses={n: p for n, p in known.get("poses", {}).items() if n in recipe.poses - stale},
    )
    arrays = {
        name: _cut(array.rename(recipe.origin(name)), None if scratch is None else block)
        for name, array in (kept or {}).items()
        if name not in stale
    }
    arrays |= {name: _pose(matrix) for name, matrix in outcome.poses.items()}
    steps = _needed(recipe, stale, outcome, arrays)
    readers = _readers(steps, recipe)
    read = {a for s in steps if isinstance(s, Step) for a in s.arrays.values()}
    own = read - {s.name for s in recipe.steps}
    for name in sorted(own):
        arrays[name] = _variable(scan, name, block=None if scratch is None else block)
    for step in steps:
        with _naming(step):
            if isinstance(step, Value):
                outcome.numbers[step.name] = _number(
                    evaluate(_parsed(step.text), _defined(step, outcome))
                )
                outcome.units[step.name] = step.unit
            else:
                _check_grids(recipe, step, arrays)
                given = {key: arrays[name] for key, name in step.arrays.items()}
                if step.operation.whole and scratch is not None:
                    # Read at once, not put together from blocks: a worker would hold it twice.
                    given |= {k: scan[n].chunk() for k, n in step.arrays.items() if n in own}
                made = _called(step, given, outcome, scan_id, scratch=scratch, block=block)
                if made is not None:
                    arrays[step.name] = made
        outcome.ran.append(step.name)
        if scratch is not None:
            used = sum(f.stat().st_size for f in scratch.rglob("*") if f.is_file())
            outcome.scratch_bytes = max(outcome.scratch_bytes, used)
        if isinstance(step, Step):
            for name in set(step.arrays.values()):
                readers[name] -= 1
                if readers[name] == 0 and name not in recipe.keep:
                    graph.free(arrays.pop(name))
    outcome.kept = {name: arrays[name] for name in recipe.keep}
    return outcome


@contextmanager
def _naming(step: Step | Value) -> Iterator[None]:
    """Put the name of a step in front of what it says is wrong; what the store lost, and the machine, is not its fault."""
    try:
        yield
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        if not isinstance(error, StoreError):
            error.args = (f"step {step.name!r}: {error}",)
        raise


def _source(recipe: Recipe, number: str) -> str:
    """Step or measurement that gives a number: ``com_x`` comes from ``com``."""
    return number if number in recipe.keys else number.rpartition("_")[0]


def _needed(
    recipe: Recipe, stale: set[str], outcome: Outcome, arrays: Mapping[str, xr.DataArray]
) -> list[Step | Value]:
    """Steps to run, in order: stale measurements and kept variables, and what they stand on that is not at hand."""
    by_name: dict[str, Step | Value] = {s.name: s for s in (*recipe.steps, *recipe.measure)}
    at_hand = {_source(recipe, n) for n in outcome.numbers} | set(outcome.tables) | set(arrays)
    wanted: set[str] = set()
    todo = [m.name for m in recipe.measure if m.name not in at_hand] + [
        k for k in recipe.keep if k not in at_hand
    ]
    while todo:
        name = todo.pop()
        if name in wanted or name in at_hand:
            continue
        wanted.add(name)
        todo.extend(recipe.needs[name])
    return [step for name, step in by_name.items() if name in wanted]


def _readers(steps: Iterable[Step | Value], recipe: Recipe) -> dict[str, int]:
    """How many of `steps` read each array."""
    count: dict[str, int] = {s.name: 0 for s in (*recipe.steps, *recipe.measure)}
    for step in steps:
        for name in set(step.arrays.values()) if isinstance(step, Step) else ():
            count[name] = count.get(name, 0) + 1
    return count


def _variable(scan: xr.Dataset, name: str, *, block: int | None) -> xr.DataArray:
    if name not in scan:
        there = ", ".join(str(n) for n in scan.data_vars if n != "affine")
        raise RunError(
            f"the recipe reads the variable {name!r}, the scan has {there}; attach it in the catalog (attach: {{{name}: ...}})"
        )
    return _cut(scan[name], block)


def _cut(array: xr.DataArray, block: int | None) -> xr.DataArray:
    """The array in blocks; without a size of these, in memory."""
    if block is None:
        return array.compute()  # not load: the Dataset would hold the voxels until the last step
    return array.chunk(dict(zip(array.dims, graph.cut(array.sizes, block), strict=True)))


def _pose(matrix: Any) -> xr.DataArray:
    return xr.DataArray(np.asarray(matrix, np.float64), dims=schema.AFFINE_DIMS)


def own_seed(seed: int, scan_id: str) -> int:
    """Seed for the random numbers of one scan: every scan has numbers of its own, the same ones in every run.

    Of two scans with equal voxels each has its own, too; a scan that is ingested anew under its name keeps them.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {scan_id}".encode()).digest()[:8], "big")


def _check_grids(recipe: Recipe, step: Step, arrays: Mapping[str, xr.DataArray]) -> None:
    """Raise GridError, by the names that the recipe gave, if a step is given arrays of different grids."""
    names = {
        name: recipe.grid_of(name)
        for key, name in step.arrays.items()
        if key not in step.operation.elsewhere and name not in recipe.poses
    }
    if len(set(names.values())) < 2:
        return
    check_same_grid(**{name: arrays[name] for name in names})


def _defined(step: Step | Value, outcome: Outcome) -> dict[str, Any]:
    """Numbers for an expression; an undefined one is NaN."""
    return {n: np.float64(math.nan if v is None else v) for n, v in outcome.numbers.items()}


def _number(value: Any) -> float | int | None:
    """A plain number; NaN and infinity (a ratio to nothing) are not numbers anybody measured."""
    item = np.asarray(value).item()
    if isinstance(item, bool | int):
        return int(item)
    return float(item) if math.isfinite(item) else None


def _only(result: xr.DataArray) -> Any:
    """The one value of a result. Raises `RunError` if the scan has dimensions besides space, and so several."""
    if result.size != 1:
        sizes = " x ".join(f"{n} ({dim})" for dim, n in result.sizes.items())
        raise RunError(
            f"expected one number of a scan, found {sizes}: it is a series of images; to measure one image, give it as a scan"
            " of its own"
        )
    return result.values


def _called(
    step: Step,
    given: Mapping[str, xr.DataArray],
    outcome: Outcome,
    scan_id: str,
    *,
    scratch: Path | None,
    block: int,
) -> xr.DataArray | None:
    """Call the operation of a step; its array or pose, or None for what went into `outcome`."""
    values = _defined(step, outcome)
    numbers = {key: float(evaluate(_parsed(text), values)) for key, text in step.numbers.items()}
    for key, value in numbers.items():
        if math.isnan(value):
            raise RunError(
                f"{key} = {step.numbers[key]} is not a number here, because a number it uses is undefined (a mask without voxels)"
            )
    operation, params = step.operation, {**numbers, **step.params}
    if operation.seeded:
        params["seed"] = own_seed(params["seed"], scan_id)
    if operation.whole and scratch is not None:
        result = graph.in_one_task(operation.function, given, params, folder=scratch, block=block)
    else:
        result = operation.function(**given, **params)
    match operation.gives:
        case "array":
            return result if scratch is None else graph.settle(result, scratch)
        case "pose":
            outcome.poses[step.name] = np.asarray(result.checked(), np.float64).tolist()
            for part in operation.parts:
                outcome.numbers[f"{step.name}_{part}"] = _number(getattr(result, part))
                outcome.units[f"{step.name}_{part}"] = "1"
            return _pose(outcome.poses[step.name])
        case "number":
            outcome.numbers[step.name] = _number(_only(result))
            outcome.units[step.name] = str(result.attrs.get("units", "1"))
        case "vector":
            made, parts = result.compute(), operation.parts
            each = [made[p] for p in parts] if isinstance(made, xr.Dataset) else list(made.T)
            for part, one in zip(parts, each, strict=True):
                outcome.numbers[f"{step.name}_{part}"] = _number(_only(one))
                outcome.units[f"{step.name}_{part}"] = str(one.attrs.get("units", "1"))
        case "table":
            table, units = _columns(result.compute())
            outcome.tables[step.name] = table
            outcome.units |= {f"{step.name}.{column}": unit for column, unit in units.items()}
    return None


def _columns(table: xr.Dataset) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """A Dataset over ``label`` as columns of plain numbers; a vector becomes one column a component."""
    columns: dict[str, list[Any]] = {"label": [int(v) for v in table["label"].values]}
    units: dict[str, str] = {}
    for name, variable in table.data_vars.items():
        others = [d for d in variable.dims if d != "label"]
        unit = str(variable.attrs.get("units", "1"))
        # Of no labels -1 would be a size that cannot be told.
        parts = math.prod(table.sizes[d] for d in others)
        flat = variable.transpose("label", *others).values.reshape(table.sizes["label"], parts)
        labels = [""]
        for dim in others:
            values = table[dim].values if dim in table.coords else range(table.sizes[dim])
            labels = [f"{label}_{value}" for label in labels for value in values]
        for i, label in enumerate(labels):
            columns[f"{name}{label}"] = [_number(v) for v in flat[:, i]]
            units[f"{name}{label}"] = unit
    return columns, units
