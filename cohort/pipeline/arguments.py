"""What stands behind the parameters of one call of a recipe: arrays, poses, numbers that are measured, plain values."""

import difflib
import functools
import inspect
import operator
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cohort import expression, provenance
from cohort.io.fields import wrong_value
from cohort.pipeline.steps import Operation


@dataclass
class Arguments:
    """Parameters of a call, sorted by what they are given."""

    arrays: dict[str, str] = field(default_factory=dict)
    """Parameter -> variable of the scan or step that gives an array or a pose."""
    numbers: dict[str, str] = field(default_factory=dict)
    """Parameter -> expression over numbers of earlier steps."""
    params: dict[str, Any] = field(default_factory=dict)
    """Parameter -> value."""
    problems: list[str] = field(default_factory=list)


def sort_arguments(
    operation: Operation,
    given: Mapping[str, Any],
    *,
    arrays: Collection[str],
    poses: Collection[str],
    numbers: Collection[str],
) -> Arguments:
    """Sort what a recipe gives to an operation by the types that its signature states.

    Parameters
    ----------
    given : mapping
        Parameter -> what the recipe says; each is one of the operation's.
    arrays, poses, numbers : collections of str
        Names that can be used at this point.
    """
    found = Arguments()
    hints = typing.get_type_hints(operation.function)
    for key, value in given.items():
        kinds = _alternatives(hints.get(key, Any))
        plain = [k for k in kinds if k not in (xr.DataArray, np.ndarray)]
        is_array, is_pose = xr.DataArray in kinds, np.ndarray in kinds
        if isinstance(value, str) and float in kinds and str not in kinds:
            try:
                expression.check_names(expression.parse(value), numbers, value)
            except expression.ExpressionError as error:
                found.problems.append(f"{key}: {error}")
                continue
            if key in operation.fixed:
                found.problems.append(
                    f"{key}: found {value!r}, expected a number: it decides how much memory the step takes, and that is "
                    "known before a voxel is read"
                )
            found.numbers[key] = value
        elif is_array and float not in kinds and (isinstance(value, str) or set(plain) <= {_NONE}):
            there = poses if is_pose else arrays
            if isinstance(value, str) and value in there:
                found.arrays[key] = value
            elif value is not None:
                kind = "pose" if is_pose else "image"
                found.problems.append(
                    f"{key}: no {kind} {value!r} at this point{near(str(value), there)}; there are {', '.join(there) or 'none'}"
                )
        else:
            hint: Any = functools.reduce(operator.or_, plain)
            try:
                found.params[key] = TypeAdapter(hint, config=_ANYTHING).validate_python(value)
            except ValidationError as error:
                found.problems.append(f"{key}: {wrong_value(error.errors()[0])}")
    return found


def grid_of_result(operation: Operation, given: Arguments, grids: Mapping[str, str]) -> str:
    """Which grid the array of a call lies on: that of an array it is given, or what makes another grid of that, as a digest.

    Parameters
    ----------
    grids : mapping
        Array -> its grid.
    """
    if place := next((given.arrays[p] for p in operation.onto if p in given.arrays), None):
        return grids[place]
    parameters = inspect.signature(operation.function).parameters
    image = next(p for p in parameters if p in given.arrays and p not in operation.elsewhere)
    before = grids[given.arrays[image]]
    values = {p: given.params.get(p, parameters[p].default) for p in operation.onto}
    said = {p: value for p, value in values.items() if value is not None}
    if not said:
        return before
    function = operation.function
    return provenance.digest([f"{function.__module__}.{function.__name__}", said, before])


def near(word: str, known: Collection[str]) -> str:
    """A guess what somebody meant, to end a sentence with; nothing if nothing known is like it."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


_NONE = type(None)
_ANYTHING = ConfigDict(arbitrary_types_allowed=True)
"""A type that no recipe can write, among others that it can, is no mistake of a signature."""


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)
