"""What a recipe takes in memory on one scan: arithmetic on the scan's record, nothing is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohort.pipeline.extents import Extent, extents
from cohort.pipeline.recipe import Recipe, Step


@dataclass(frozen=True)
class _AtWork:
    """One step of a recipe, in the middle of it."""

    step: Step
    live: float
    """Bytes of all arrays that are there, without what the step makes."""
    work: float
    """Bytes that the step takes on top of them at its peak, its result included."""


def peak_bytes(recipe: Recipe, scan: Mapping[str, Any]) -> int:
    """Bytes that the recipe takes at its peak on one scan held in memory: live arrays plus the step at work."""
    reading = max((bytes_ for _, bytes_ in _reading(recipe, scan)), default=0.0)
    return int(max([reading, *(at.live + at.work for at in _walk(recipe, scan))]))


def block_bytes(recipe: Recipe, scan: Mapping[str, Any], block: int) -> int:
    """Bytes for the hungriest step on a block of so many voxels along each spatial axis, with what it is given there."""
    extent = {
        name: replace(e, lead=1, sizes=tuple(min(n, block) for n in e.sizes))
        for name, e in made(recipe, scan).items()
    }
    steps = [step for step in _steps(recipe) if not step.operation.whole]
    held = (sum(e.nbytes for e in _given(step, extent).values()) for step in steps)
    return int(max((h + _work(s, extent) for h, s in zip(held, steps, strict=True)), default=0))


def whole_bytes(recipe: Recipe, scan: Mapping[str, Any]) -> int:
    """Bytes for the hungriest step that cannot be cut into blocks: all it is given, and what it takes; 0 without such a step."""
    extent, found = made(recipe, scan), [0.0]
    stored = {name: np.dtype(v["dtype"]).itemsize for name, v in scan["variables"].items()}
    for step in _steps(recipe):
        if step.operation.whole:
            given = {name: extent[name] for name in step.arrays.values() if name in extent}
            held = sum(e.nbytes for e in given.values())
            reading = max((e.voxels * stored.get(n, 0) for n, e in given.items()), default=0)
            found.append(held + max(reading, _work(step, extent)))
    return int(max(found))


def made(recipe: Recipe, scan: Mapping[str, Any]) -> dict[str, Extent]:
    """Extent of each array of a scan and of the steps of a recipe."""
    found = _variables(recipe, scan)
    for step in _steps(recipe):
        if step.operation.gives == "array":
            found[step.name] = _result(step, found)
    return found


def _steps(recipe: Recipe) -> list[Step]:
    return [step for step in (*recipe.steps, *recipe.measure) if isinstance(step, Step)]


def _variables(recipe: Recipe, scan: Mapping[str, Any]) -> dict[str, Extent]:
    """Extents of what a recipe reads; what a scan lacks, which it is refused for later, counts as an image."""
    found = extents(scan)
    return {n: found.get(n, replace(found["image"], name=n)) for n in sorted(recipe.variables)}


def _reading(recipe: Recipe, scan: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Bytes while each variable is read: those before it, itself, and as it is stored."""
    before = 0.0
    for name, extent in _variables(recipe, scan).items():
        before += extent.nbytes
        stored = scan["variables"].get(name, {"dtype": "float32"})["dtype"]
        yield name, before + extent.voxels * np.dtype(stored).itemsize


def _walk(recipe: Recipe, scan: Mapping[str, Any]) -> Iterator[_AtWork]:
    """Every step in turn, with what is in memory then."""
    extent, steps = made(recipe, scan), _steps(recipe)
    last = {source: i for i, step in enumerate(steps) for source in step.arrays.values()}
    last |= dict.fromkeys(recipe.keep, len(steps))
    # Name -> name of the array whose memory it is: a view has none of its own.
    held = {name: name for name in _variables(recipe, scan)}
    for i, step in enumerate(steps):
        live = float(sum(extent[owner].nbytes for owner in set(held.values())))
        yield _AtWork(step, live, _work(step, extent))
        if step.operation.gives == "array":
            shared = step.operation.is_view
            held[step.name] = held[step.arrays["image"]] if shared else step.name
        for name in [n for n in held if last.get(n, -1) <= i]:
            del held[name]


def _result(step: Step, extent: Mapping[str, Extent]) -> Extent:
    operation = step.operation
    given = _given(step, extent)
    if operation.shape is not None:
        return operation.shape(given, step.params)
    image = given.get("image", _largest(step, extent))
    wide = operation.result_bytes == 8 or image.dtype == np.float64
    dtype = "bool" if operation.result_bytes == 1 else "float64" if wide else "float32"
    return replace(_largest(step, extent), dtype=np.dtype(dtype), name=image.name)


def _work(step: Step, extent: Mapping[str, Extent]) -> float:
    operation = step.operation
    if operation.work is not None:
        return operation.work(_given(step, extent), step.params, extent[step.name])
    bytes_ = operation.peak_bytes
    if operation.masked_bytes is not None and "mask" in step.arrays:
        bytes_ = operation.masked_bytes
    image = step.arrays.get("image")
    grows = 2 if image is not None and extent[image].dtype == np.float64 else 1
    return grows * bytes_ * _largest(step, extent).voxels


def _largest(step: Step, extent: Mapping[str, Extent]) -> Extent:
    """Of the arrays on the grid of the step, the one with the most voxels: an image over time is more than its mask."""
    elsewhere = step.operation.elsewhere
    given = _given(step, extent)
    here = [e for key, e in given.items() if key not in elsewhere]
    return max(here or given.values(), key=lambda e: e.voxels)


def _given(step: Step, extent: Mapping[str, Extent]) -> dict[str, Extent]:
    """Arrays that a step is given; a pose is none."""
    return {key: extent[name] for key, name in step.arrays.items() if name in extent}
