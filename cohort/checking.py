"""A catalog against its recipes and models: every mistake that can be known before a byte of a scan is read."""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from cohort.io.catalog import Catalog, CatalogError
from cohort.io.fields import did_you_mean, listed

if TYPE_CHECKING:
    from cohort.io.covariates import Model
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
    """Check models, checks, reliability and agreement against the columns there will be. Raises `CatalogError`."""
    declared = catalog.models or catalog.checks or catalog.reliability or catalog.agreement
    if not declared and not catalog.participants:
        return
    from cohort import expression
    from cohort.stats.formula import check_formula

    columns: set[str] = {"participant", "subject", "session"} if catalog.sources else set()
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
            check_formula(model.formula, sorted(columns | {*model.all_outcomes}))
            measured = model.all_outcomes
            if model.voxelwise is not None:
                measured = []
                _check_variable(catalog, model, recipes)
            for column in (*measured, *model.confounds):
                expression.check_names(expression.parse(column), columns, column)
            for place, others in model.columns_beside.items():
                for column in others:
                    _check_column(column, columns, place)
            if model.where:
                expression.check_columns(model.where, columns)
            words = set(re.findall(r"\w+", model.formula)) | set(model.confounds)
            for key, named in (
                ("group", [model.group] if model.group else []),
                ("truth", model.truth),
            ):
                for term in named:
                    if term not in words and term != "Intercept":
                        near = did_you_mean(term, sorted(words))
                        raise ValueError(  # noqa: TRY301
                            f"{key}: {term!r} is no term of {model.formula!r}{near}"
                        )
        except ValueError as error:
            problems.append(f"{catalog.path}: models.{name}: {error}")
    for name, check in catalog.checks.items():
        try:
            expression.check_columns(check.constant or check.holds or "", columns)
        except ValueError as error:
            problems.append(f"{catalog.path}: checks.{name}: {error}")
    for column in catalog.reliability or ():
        try:
            _check_column(column, columns, "")
        except ValueError as error:
            problems.append(f"{catalog.path}: reliability: {error}")
    for measured, expert in catalog.agreement.items():
        try:
            _check_agreement(measured, expert, catalog, recipes, columns)
        except ValueError as error:
            problems.append(f"{catalog.path}: agreement: {error}")
    dropped = [] if catalog.participants is None else catalog.participants.drop
    for column in dropped:
        hint = f"; participants.drop lists {column!r}"
        problems = [p + hint if f"{column!r}" in p else p for p in problems]
    if problems:
        raise CatalogError(problems)


def _check_agreement(
    measured: str,
    expert: str,
    catalog: Catalog,
    recipes: "Sequence[Recipe]",
    columns: Collection[str],
) -> None:
    """Both columns are there, and in one unit, as far as that is known before anything is measured. Raises ValueError."""
    from cohort.pipeline.recipe import Value

    for column in (measured, expert):
        _check_column(column, columns, "")
    units = dict(catalog.participants.units) if catalog.participants is not None else {}
    if expert not in units:
        raise ValueError(
            f"{expert!r} has no unit; state that of {measured!r} under participants.units"
        )
    units |= {m.name: m.unit for recipe in recipes for m in recipe.measure if isinstance(m, Value)}
    if (ours := units.get(measured, units[expert])) != units[expert]:
        raise ValueError(
            f"{measured!r} is in {ours} but {expert!r} in {units[expert]}; derive a column in {ours} and name that"
        )


def _check_variable(catalog: Catalog, model: "Model", recipes: "Sequence[Recipe]") -> None:
    """A model of maps names a variable that scans have, or that its recipe keeps."""
    assert model.voxelwise is not None
    known = ["image", *catalog.attach]
    if model.recipe is not None:
        known = [k for r in recipes if r.name == model.recipe for k in r.content.get("keep") or ()]
    if (name := model.voxelwise.variable) not in known:
        where = f"kept by {model.recipe}" if model.recipe else "of the scans"
        raise ValueError(
            f"voxelwise.variable: no {name!r} {where}{did_you_mean(name, known)}; there are {listed(known)}"
        )


def _check_column(name: str, columns: Collection[str], key: str) -> None:
    if name not in columns:
        place = f"{key}: " if key else ""
        raise ValueError(
            f"{place}no column {name!r}{did_you_mean(name, columns)}; known are {listed(columns)}"
        )
