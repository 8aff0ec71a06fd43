"""Every call of a recipe tried out before a byte is read: on scans that exist by their grids alone.

Parameters that no signature shows to be wrong, and masks where images are meant, would else be found scan by scan. The arrays are
lazy and nobody computes them, so what is refused is never the voxels; and what both of two unlike scans are refused for, in the
same words, is not their grid either: it is the recipe.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from cohort import grid, schema
from cohort.expression import evaluate, parse
from cohort.pipeline import extents

if TYPE_CHECKING:
    from cohort.pipeline.recipe import Step

_TRIALS: tuple[tuple[tuple[int, ...], tuple[float, ...], type, float], ...] = (
    ((9, 10, 12), (3.0, 1.3, 0.9), np.bool_, 0.7),
    ((14, 13, 11), (1.1, 2.1, 1.7), np.uint8, 31.0),
)
"""Two scans: voxels and mm along z, y, x; what an attached variable of unknown kind is; what every measured number is."""


class _NeedsVoxels(Exception):
    """An operation wants to know what is in an array."""


def rehearse(
    steps: Sequence["Step"], measured: Sequence["Step"], variables: Collection[str]
) -> list[str]:
    """Call every step, as far as no voxel is needed.

    Parameters
    ----------
    steps, measured : sequences of Step
        Of a recipe, in order.
    variables : collection of str
        Of the scan, that they read.

    Returns
    -------
    list of str
        Each step or measurement that is refused on any scan, and why. What stands on one that could not be tried is not tried.
    """
    calls = [*steps, *measured]
    first = _refusals(calls, variables, *_TRIALS[0])
    second = _refusals(calls, variables, *_TRIALS[1]) if first else {}
    both = {name: text for name, text in first.items() if second.get(name) == text}
    named = {step.name for step in steps}
    return [f"{'step' if n in named else 'measure'} {n!r}: {text}" for n, text in both.items()]


def _refusals(
    steps: Sequence["Step"],
    variables: Collection[str],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    unknown: type,
    number: float,
) -> dict[str, str]:
    coords = grid.coordinates(np.diag([*spacing[::-1], 1.0]), shape)
    arrays = {name: _nothing(name, shape, coords, unknown) for name in variables}
    found: dict[str, str] = {}
    with dask.config.set(scheduler=_refuse):
        for step in steps:
            operation = step.operation
            if operation.gives == "pose":
                arrays[step.name] = xr.DataArray(np.eye(4), dims=schema.AFFINE_DIMS)
                continue
            if operation.whole or not set(step.arrays.values()) <= arrays.keys():
                continue
            try:
                result = _called(operation.function, step, arrays, number)
            except _NeedsVoxels:
                if operation.shape is extents.moved:  # on its own grid, wherever it goes
                    arrays[step.name] = arrays[step.arrays["image"]]
                continue
            except (ValueError, TypeError) as error:
                # A number that was made up may be one that is refused.
                if not step.numbers:
                    found[step.name] = str(error)
                continue
            if operation.gives == "array":
                arrays[step.name] = result
    return found


def _nothing(
    name: str, shape: tuple[int, ...], coords: Mapping[str, Any], unknown: type
) -> xr.DataArray:
    dtype = {"image": np.float32, "mask": np.bool_, "labels": np.uint8}.get(name, unknown)
    data = da.zeros(shape, dtype=dtype, chunks=shape)
    return xr.DataArray(data, dims=grid.SPACE, coords=coords, name=name)


def _called(
    function: Callable[..., Any], step: "Step", arrays: Mapping[str, xr.DataArray], number: float
) -> Any:
    given = {key: arrays[name] for key, name in step.arrays.items()}
    values = dict.fromkeys(step.number_names(), np.float64(number))
    numbers = {key: float(evaluate(parse(text), values)) for key, text in step.numbers.items()}
    return function(**given, **numbers, **step.params)


def _refuse(*_: Any, **__: Any) -> Any:
    """What Dask calls to compute a graph."""
    raise _NeedsVoxels
