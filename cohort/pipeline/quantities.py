"""Units of what a recipe measures, from the recipe alone: known before a byte is read, and where no scan has a value."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cohort.pipeline.recipe import Recipe, Step
from cohort.pipeline.steps import Operation


def units(recipe: Recipe, *, image: str = "1") -> dict[str, str]:
    """Unit of each column of a recipe's table.

    Parameters
    ----------
    recipe : Recipe
    image : str
        Unit of the scans' ``image``; what is attached to a scan is NIfTI, which states none: 1.

    Returns
    -------
    dict of column -> unit
        That of the step where a scan has a value.
    """
    arrays = dict.fromkeys(recipe.variables, "1") | {"image": image}
    found: dict[str, str] = {}
    for item in (*recipe.steps, *recipe.measure):
        if not isinstance(item, Step):
            found[item.name] = item.unit
            continue
        given = {key: arrays.get(name, "1") for key, name in item.arrays.items()}
        columns, told = recipe.columns_of(item), of_call(item.operation, given)
        found |= zip(columns, told, strict=True) if columns else ()
        arrays[item.name] = told[0]
    return {column: found[column] for column in recipe.columns()}


def of_images(units: Iterable[Any]) -> str:
    """The unit of the cohort's images: the most common of those stated, of two the first by name; 1 where none is."""
    counted = Counter(unit for unit in units if isinstance(unit, str) and unit)
    return min(counted, key=lambda unit: (-counted[unit], unit), default="1")


def of_call(operation: Operation, given: Mapping[str, str]) -> list[str]:
    """What is declared, with the units of the arrays it is given; a power of no unit is none."""
    parts = operation.parts or ("",)
    told = operation.unit
    each = (told,) * len(parts) if isinstance(told, str) else told
    bare = {key for key, unit in given.items() if unit == "1"}
    return ["1" if any(f"{{{k}}}" in text for k in bare) else text.format(**given) for text in each]
