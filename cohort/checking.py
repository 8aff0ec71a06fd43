"""A catalog against its recipes and models: every mistake that can be known before a byte of a scan is read."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cohort.io.catalog import Catalog, CatalogError

if TYPE_CHECKING:
    from cohort.pipeline.recipe import Recipe


def read_recipes(catalog: Catalog) -> "list[Recipe]":
    """Read and check every recipe of a catalog, before a byte of a scan is read. Raises `RecipeError`."""
    if not catalog.recipes:
        return []
    from cohort.pipeline.recipe import RecipeError, read_recipe

    recipes, problems = [], []
    for name in catalog.recipes:
        try:
            recipes.append(
                read_recipe(catalog.recipe_path(name), variables=("image", *catalog.attach))
            )
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return recipes


def check_models(catalog: Catalog, recipes: "Sequence[Recipe]") -> None:
    """Check every model against the columns there will be: outcome, formula, confounds, where. Raises `CatalogError`."""
    if not catalog.models and catalog.participants is None:
        return
    from cohort import expression
    from cohort.stats.formula import check_formula

    columns: set[str] = set()
    if catalog.participants is not None:
        from cohort.io.participants import read_participants

        columns |= set(
            read_participants(
                catalog.participants, catalog.folder, subject_pattern=catalog.subject
            ).table.columns
        )
    for recipe in recipes:
        columns |= set(recipe.columns())
    problems = []
    for name, model in catalog.models.items():
        try:
            check_formula(model.formula, sorted(columns | {model.outcome}))
            for column in (model.outcome, *model.confounds):
                expression.check_names(expression.parse(column), columns, column)
            if model.where:
                expression.check_columns(model.where, columns)
            words = set(re.findall(r"\w+", model.formula)) | set(model.confounds)
            for key, named in (
                ("group", [model.group] if model.group else []),
                ("truth", model.truth),
            ):
                for term in named:
                    if term not in words and term != "Intercept":
                        raise ValueError(f"{key}: {term!r} is no term of {model.formula!r}")  # noqa: TRY301
        except ValueError as error:
            problems.append(f"{catalog.path}: models.{name}: {error}")
    if problems:
        raise CatalogError(problems)
