"""The models of a catalog: screen and fit what is stale, and write ``models/<model>/``."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cohort
from cohort import provenance
from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.store import Store
from cohort.io.yamlfile import write_yaml
from cohort.stats.asked.modeltable import ModelError, model_table

if TYPE_CHECKING:
    import pandas as pd

    from cohort.stats.analysis import Analysis

__all__ = ["REVISION", "ModelError", "declared", "fit_model", "fit_table", "model_table"]

REVISION = 7
"""Raised when the same table and model give other numbers or other outputs."""

GENERATOR = "Philox 4x64-10 (NumPy), key: the seed and the number of the arrangement or draw"
"""Of every random number of a model."""

CORRECTIONS = ("Benjamini-Hochberg", "Benjamini-Yekutieli", "Holm", "Bonferroni")
"""Of every family, side by side."""


def fit_model(
    catalog: Catalog,
    name: str,
    store: Store,
    recipes: Sequence[str],
    *,
    accept_versions: bool = False,
) -> "Analysis | None":
    """Fit one model of a catalog and write it, unless the same was fitted to the same table before.

    Returns
    -------
    Analysis or None
        None if the model on the disk is fresh.

    Raises
    ------
    ValueError
        In one line, if the model cannot be fitted.
    """
    model = catalog.models[name]
    table, units = model_table(store, catalog, model, recipes, accept_versions=accept_versions)
    inputs = _inputs(table, units)
    stamp = provenance.Stamp(inputs, "fit", model.model_dump(mode="json"), REVISION).digest
    before = store.model(name)
    if before is not None and before.get("stamp") == stamp:
        return None
    asked = declared(name, model)
    analysis = fit_table(table, model, units, saved=(before or {}).get("harmonization"))
    said = _model_json(name, model, analysis)
    said |= {
        "declared_digest": provenance.digest(asked),
        "inputs": inputs,
        "revision": REVISION,
        "stamp": stamp,
    }
    store.write_model(name, tables(analysis), said, declared=asked)
    return analysis


def fit_table(
    table: "pd.DataFrame",
    model: Model,
    units: Mapping[str, str],
    *,
    saved: Mapping[str, Any] | None = None,
) -> "Analysis":
    """Screen and fit the usable rows of a model's table (`model_table`). Raises `ValueError`, in one line.

    The others are in the account of the rows, with their reasons. `saved` is what ``model.json`` keeps as ``harmonization``.
    """
    from cohort.stats.analysis import analyse
    from cohort.stats.table.rows import passed_over

    usable = table["unusable"].isna()
    if not usable.any():
        why = table["unusable"].value_counts()
        counted = ", ".join(f"{n}: {reason}" for reason, n in why.items())
        raise ModelError(f"no rows to fit: {len(table)} in the table, all left out ({counted})")
    lost = [
        {"row_id": str(row), "reason": str(why)}
        for row, why in table.loc[~usable, ["scan_id", "unusable"]].itertuples(index=False)
    ]
    here = table[usable].drop(columns="unusable")
    found = analyse(here, model, units, saved=saved, lost=lost)
    design = found.design
    reasons = {entry["row_id"]: entry["reason"] for entry in design.dropped}
    told = passed_over(table, frozenset(design.X.index), reasons, design.one_scan_per)
    return replace(found, warnings=(*found.warnings, *told))


def tables(analysis: "Analysis") -> "dict[str, pd.DataFrame]":
    """Tables of a fitted model, by the name of their file."""
    design = analysis.design
    return {
        "tidy": analysis.tidy,
        "glance": analysis.glance,
        "augment": analysis.augment,
        "design": design.X.rename_axis(design.rows.columns[0]).reset_index(),
        **analysis.tables,
    }


def declared(name: str, model: Model) -> str:
    """A model as a catalog states it, in YAML, with what it leaves to the defaults."""
    whole = model.model_dump(mode="json", exclude_none=True)
    stated = {key: value for key, value in whole.items() if value not in ([], {})}
    return write_yaml({"models": {name: stated}})


def _inputs(table: "pd.DataFrame", units: Mapping[str, str]) -> dict[str, str]:
    import pandas as pd

    content = {
        str(c): [None if pd.isna(v) else v for v in table[c].tolist()] for c in table.columns
    }
    return {"table": provenance.digest(content), "units": provenance.digest(dict(units))}


def _model_json(name: str, model: Model, analysis: "Analysis") -> dict[str, Any]:
    resolved = analysis.to_json()
    rows = resolved["rows"]
    seeds = {
        key: part.seed
        for key, part in (("permutation", model.permutation), ("impute", model.impute))
        if part is not None
    }
    return {
        **resolved,
        "model": name,
        "outcome": model.outcome,
        "outcomes": list(model.all_outcomes),
        "formula": model.formula,
        "confounds": model.confounds,
        "where": model.where,
        "one_scan_per": "all" if model.random else model.one_scan_per,
        "recipe": model.recipe,
        "group": model.group,
        "truth": model.truth or None,
        "declared": model.model_dump(mode="json", exclude_defaults=True),
        "correction": list(CORRECTIONS) if "q_bh" in analysis.tidy else [],
        "rows": {
            **rows,
            "dropped": [{"row": d["row_id"], "reason": d["reason"]} for d in rows["dropped"]],
        },
        "added_variable": _added_variable(analysis),
        "versions": {
            "cohort": cohort.__version__,
            "python": platform.python_version(),
            **resolved["versions"],
            "BLAS": blas(),
        },
        "seeds": seeds,
        "generator": GENERATOR if seeds else None,
    }


def blas() -> str:
    """Name and version of the library that NumPy multiplies matrices by."""
    import numpy as np

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    # Its release; with the packager's numbers behind it a version has the shape of a UID, for which stores are searched.
    release = ".".join(str(found.get("version", "")).split(".")[:3])
    return f"{found.get('name', 'unknown')} {release}".strip()


def _added_variable(analysis: "Analysis") -> dict[str, dict[str, list[float]]]:
    """Points of the added-variable plot of each term; none of a mixed model."""
    from cohort.stats import regression

    fit = analysis.fit
    if not isinstance(fit, regression.Fit):
        return {}
    return {
        term: {"x": frame["x_resid"].tolist(), "y": frame["y_resid"].tolist()}
        for term in fit.tidy["term"]
        if term != "Intercept"
        for frame in [regression.added_variable(fit, term)]
    }
