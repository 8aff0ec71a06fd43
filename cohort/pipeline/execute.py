"""One recipe on one scan: the same walk over the steps in both grains.

In **scan grain** the variables are NumPy arrays. In **block grain** they are chunked, and each step is done when it is
reached: a number is computed, an array is written to scratch storage, compressed, and deleted after its last reader. So
nothing is computed twice, and no more than a few blocks are in memory.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cohort.expression import evaluate, parse
from cohort.grid import SPACE
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
    ran: list[str] = field(default_factory=list)
    scratch_bytes: int = 0
    """Most that lay in scratch storage after any step."""


def execute(
    recipe: Recipe,
    scan: xr.Dataset,
    *,
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
    stale : names of steps and measurements
        Only those from which a measurement or a kept variable follows are run.
    known : mapping
        Record of an earlier derivative: its ``numbers``, ``units`` and ``tables`` are used where they are not stale.
    kept : mapping of name -> DataArray
        Variables kept earlier and still good.
    scratch : Path, optional
        A folder: run in block grain with scratch storage there. None: scan grain.
    block : int
        Voxels along each spatial axis of a block; half of it where a scan has no more than that.

    Raises
    ------
    RunError, GridError, ValueError
        If the scan lacks a variable, or a step refuses it.
    """
    known = known or {}
    stale = set(stale)
    outcome = Outcome(
        numbers={
            n: v for n, v in known.get("numbers", {}).items() if _source(recipe, n) not in stale
        },
        units={n: u for n, u in known.get("units", {}).items() if _source(recipe, n) not in stale},
        tables={n: t for n, t in known.get("tables", {}).items() if n not in stale},
    )
    arrays = {name: array for name, array in (kept or {}).items() if name not in stale}
    steps = _needed(recipe, stale, outcome, arrays)
    readers = _readers(steps, recipe)
    for name in sorted(
        {a for s in steps if isinstance(s, Step) for a in s.arrays.values()}
        - {s.name for s in recipe.steps}
    ):
        arrays[name] = _variable(scan, name, block=None if scratch is None else block)
    for step in steps:
        if isinstance(step, Value):
            outcome.numbers[step.name] = _number(
                evaluate(_parsed(step.text), _defined(step, outcome))
            )
            outcome.units[step.name] = step.unit
        else:
            _run_step(step, arrays, outcome, scratch=scratch)
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
    array = scan[name]
    if block is None:
        return array.compute()  # not load: the Dataset would hold the voxels until the last step
    chunks = {
        d: 1 if d not in SPACE else block if n > block else max(1, min(n, block // 2))
        for d, n in array.sizes.items()
    }
    return array.chunk(chunks)


def _defined(step: Step | Value, outcome: Outcome) -> dict[str, Any]:
    """Numbers for an expression; an undefined one is NaN."""
    return {n: np.float64(math.nan if v is None else v) for n, v in outcome.numbers.items()}


def _number(value: Any) -> float | int | None:
    """A plain number; NaN and infinity (a ratio to nothing) are not numbers anybody measured."""
    item = np.asarray(value).item()
    if isinstance(item, bool | int):
        return int(item)
    return float(item) if math.isfinite(item) else None


def _run_step(
    step: Step,
    arrays: dict[str, xr.DataArray],
    outcome: Outcome,
    *,
    scratch: Path | None,
) -> None:
    values = _defined(step, outcome)
    numbers = {key: float(evaluate(_parsed(text), values)) for key, text in step.numbers.items()}
    for key, value in numbers.items():
        if math.isnan(value):
            raise RunError(
                f"step {step.name!r}: {key} = {step.numbers[key]} is not a number here, because a number it uses is undefined (a mask without voxels)"
            )
    given = {key: arrays[name] for key, name in step.arrays.items()}
    result = step.operation.function(**given, **numbers, **step.params)
    match step.operation.gives:
        case "array":
            arrays[step.name] = result if scratch is None else graph.settle(result, scratch)
        case "number":
            outcome.numbers[step.name] = _number(result.values)
            outcome.units[step.name] = str(result.attrs.get("units", "1"))
        case "vector":
            for part, value in zip(step.operation.parts, result.values, strict=True):
                outcome.numbers[f"{step.name}_{part}"] = _number(value)
                outcome.units[f"{step.name}_{part}"] = str(result.attrs.get("units", "1"))
        case "table":
            table, units = _columns(result.compute())
            outcome.tables[step.name] = table
            outcome.units |= {f"{step.name}.{column}": unit for column, unit in units.items()}


def _columns(table: xr.Dataset) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """A Dataset over ``label`` as columns of plain numbers; a vector becomes one column a component."""
    columns: dict[str, list[Any]] = {"label": [int(v) for v in table["label"].values]}
    units: dict[str, str] = {}
    for name, variable in table.data_vars.items():
        others = [d for d in variable.dims if d != "label"]
        unit = str(variable.attrs.get("units", "1"))
        flat = variable.transpose("label", *others).values.reshape(table.sizes["label"], -1)
        labels = [""]
        for dim in others:
            values = table[dim].values if dim in table.coords else range(table.sizes[dim])
            labels = [f"{label}_{value}" for label in labels for value in values]
        for i, label in enumerate(labels):
            columns[f"{name}{label}"] = [_number(v) for v in flat[:, i]]
            units[f"{name}{label}"] = unit
    return columns, units
