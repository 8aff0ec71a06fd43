"""One fitted model as a page shows it: its tables, sentences and pictures, gathered from the store."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohort.reporting import effects, modelparts, modelplots, modeltables, plots, residualplots
from cohort.reporting.facts import Facts, Source


def context(
    store: Source,
    facts: Facts,
    name: str,
    asked: str | None,
    *,
    anchor: str,
    anchors: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that the template of a model shows; `anchor` is where it stands, `anchors` where the pictures of scans do."""
    model = facts.models[name]
    tested, augment = store.model_table(name, "tidy"), store.model_table(name, "augment")
    tidy = modelparts.own(model, tested)
    beside = {
        kind: store.model_table(name, kind)
        for kind in dict.fromkeys([*modelplots.DRAWN, *modeltables.TABLES])
        if f"{kind}.parquet" in (model.get("files") or {})
    }
    drawn = dict(beside)
    if "per_site" in beside:
        terms = modelparts.group_terms(model)
        beside["per_site"], drawn["per_site"] = modelparts.sites(beside["per_site"], tidy, terms)
        if drawn["per_site"].empty:
            del drawn["per_site"]
    outcome = str(model.get("outcome", ""))
    recipe = facts.recipe_of(model)
    unit = str((model.get("units") or {}).get(outcome) or facts.unit(recipe, outcome))
    return {
        "name": name,
        "anchor": anchor,
        "outcome": outcome,
        "unit": unit,
        "formula": str(model.get("fitted") or f"{outcome} ~ {model.get('formula', '')}"),
        "recipe": recipe,
        "confounds": [str(c) for c in model.get("confounds") or []],
        "reading": [str(line) for line in model.get("reading") or []],
        "warnings": [str(line) for line in model.get("warnings") or []],
        "coefficients": effects.coefficients(model, tidy),
        "has_unit": "unit" in tidy and bool(tidy["unit"].astype(bool).any()),
        "has_vif": bool(model.get("vif")),
        "has_hc3": "hc3_se" in tidy,
        "clusters": model.get("clusters"),
        "truth": effects.truth(model, tidy),
        "balance": modelparts.balance(model),
        "comparison": modelparts.comparison(model),
        "family": modelparts.family(tested),
        "adjustments": modelparts.adjustments(model),
        "influential": modelparts.influential(model, augment, anchors),
        "methods": modelparts.methods(model),
        "parts": modeltables.of_model(beside | modelparts.derived(model, tidy)),
        "glance": effects.glance(store.model_table(name, "glance")),
        "dropped": len((model.get("rows") or {}).get("dropped") or []),
        "n_used": (model.get("rows") or {}).get("n_used"),
        "pictures": [
            *_model_pictures(facts, model, tidy, augment, asked, unit=unit),
            *(
                {**plots.embedded(draw(drawn[k])), "caption": said}
                for k, (draw, said) in modelplots.DRAWN.items()
                if k in drawn
            ),
            *_diagnostics(store, model, name, augment),
        ],
    }


def _diagnostics(
    store: Source, model: Mapping[str, Any], name: str, augment: pd.DataFrame
) -> list[dict[str, Any]]:
    """Residuals and design matrix."""
    pictures = []
    if {"fitted", "leverage", "rstudent", "cook"} <= {*augment}:
        said = (
            "Studentised residuals. Left: no pattern and an even width are what the model takes for granted. Middle: along the line "
            "errors are normal. Right: rows that are far out on both axes move the estimates most. Triangles lie beyond 3."
        )
        figure = residualplots.residuals(augment)
        pictures.append({**plots.embedded(figure), "caption": said, "is_broad": True})
    if "design.parquet" in (model.get("files") or {}):
        said = (
            "The design matrix: a row a scan, a column a term, dark is the lowest value of a term and bright its highest. Columns that "
            "look alike say the same."
        )
        matrix = store.model_table(name, "design")
        pictures.append({**plots.embedded(residualplots.design(matrix)), "caption": said})
    return pictures


def _model_pictures(
    facts: Facts,
    model: Mapping[str, Any],
    tidy: pd.DataFrame,
    augment: pd.DataFrame,
    asked: str | None,
    *,
    unit: str,
) -> list[dict[str, Any]]:
    outcome = str(model.get("outcome", ""))
    pictures = []
    group = effects.group_values(model, tidy, augment, facts.participants, asked=asked)
    if group is not None and "observed" in augment:
        name, values = group
        figure = plots.box_by_group(
            augment["observed"], groups=values, label=outcome, unit=unit, group_label=name
        )
        caption = f"{outcome} by {name}, as measured: nothing is adjusted for here. Each point is one row of the model."
        pictures.append({**plots.embedded(figure), "caption": caption})
    if len(modelplots.partial(tidy, outcome=outcome)):
        figure = modelplots.forest(tidy, outcome=outcome)
        caption = (
            "Every term on one scale without a unit: the correlation with the outcome that is left when all other terms "
            "are held equal, with its 95% interval. A line that crosses 0 is no clear relation."
        )
        pictures.append({**plots.embedded(figure), "caption": caption})
    confounds = model.get("confounds") or []
    points = {str(k): v for k, v in (model.get("added_variable") or {}).items()}
    for term in sorted(points, key=lambda term: term in confounds)[: plots.MAX_FIGURES]:
        x, y = (np.asarray(points[term][axis], np.float64) for axis in "xy")
        figure = plots.added_variable(x, y, term=term, outcome=outcome, unit=unit)
        caption = f"{outcome} against {term} after both were freed from all other terms; the slope is the coefficient of {term}."
        pictures.append({**plots.embedded(figure), "caption": caption})
    return pictures
