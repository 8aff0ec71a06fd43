"""The report: one HTML page that opens offline, loads nothing, runs nothing, and can be printed.

The page is a pure function of the store and the arguments: no clock, so the same store gives the same bytes.
Whatever comes from data is text: autoescaping is on and nothing is ever marked safe; a content-security policy
admits inline styles and embedded pictures alone.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cohort.reporting import acquisition, effects, modelparts, modelplots, plots, sections, slices
from cohort.reporting.facts import Facts, Source, gather
from cohort.reporting.wording import clean, count, number

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

    from cohort.io.store import Store

MAX_CELLS = 400
"""Scans drawn on the contact sheet, and rows of the table of single scans: what one page can hold."""

CELL = 160
"""Longer side of a picture on the contact sheet, pixels."""

MAX_FIGURES = 24
"""Measurements of a recipe, and terms of a model, that get a picture of their own; all are in the tables."""


def write_report(
    store: "Store",
    *,
    title: str,
    groups: Mapping[str, str | None] | None = None,
    acknowledgements: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path | str:
    """Write ``report/index.html`` into the store, atomically.

    Parameters
    ----------
    store : Store
        Scans, tables and models are read, nothing else is written.
    title : str
        Heading of the page.
    groups : mapping of model -> column
        Column by which a model's outcome is drawn; by default the model's own, else its first 0/1 or categorical term.
    acknowledgements : str
        Whom the data owe to; paragraphs are separated by empty lines.
    recipes : mapping of recipe -> its YAML
        Steps to list under provenance. Recipes that a model or the last run names are reported without.

    Returns
    -------
    Path or str
        Of the page; a URL in an object store. One scan is held in memory at a time; at most 400 are drawn.
    """
    page = render(
        store, title=title, groups=groups, acknowledgements=acknowledgements, recipes=recipes
    )
    return store.write_report(page)


def render(
    store: Source,
    *,
    title: str,
    groups: Mapping[str, str | None] | None = None,
    acknowledgements: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as text; see `write_report`."""
    recipes = dict(recipes or {})
    facts = gather(store, recipes)
    flagged = sections.outliers(facts)
    keep = {name: [str(k) for k in recipe.get("keep") or []] for name, recipe in recipes.items()}
    contact = _contact(store, facts, flagged, keep)
    anchors = {cell["id"]: cell["anchor"] for cell in contact["cells"]}
    models = [
        _model(store, facts, name, (groups or {}).get(name), anchor=f"model-{i}", anchors=anchors)
        for i, name in enumerate(facts.models, start=1)
    ]
    summary = sections.summary(facts, len(flagged))
    summary["sentences"] += [line for model in models if (line := effects.truth_in_words(model))]
    context = {
        "title": title,
        "summary": summary,
        "flow": sections.flow(facts),
        "contact": contact,
        "convention": slices.CONVENTION,
        "grids": acquisition.grids(facts),
        "protocols": acquisition.protocols(facts),
        "measured": [_measured(facts, recipe) for recipe in facts.measured],
        "outlier_z": plots.OUTLIER_Z,
        "models": models,
        "provenance": {
            "run": _run(facts.manifest),
            "versions": sorted(
                (str(k), str(v)) for k, v in (facts.manifest.get("versions") or {}).items()
            ),
            "recipes": [
                sections.recipe_steps(facts, name, recipe) for name, recipe in recipes.items()
            ],
            "contents": sections.contents_digest(store, facts, most=MAX_CELLS),
        },
        "acknowledgements": [
            part.strip() for part in acknowledgements.split("\n\n") if part.strip()
        ],
    }
    return _environment().get_template("report.html.j2").render(context)


def _environment() -> "jinja2.Environment":
    import jinja2
    from markupsafe import Markup

    def printable(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("cohort.reporting"),
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _run(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which run the page describes. The command is not shown: it may hold paths."""
    lines = [("Run", manifest.get("run_id")), ("Started", manifest.get("started"))]
    if manifest.get("seconds") is not None:
        lines.append(("Took", f"{number(manifest['seconds'], digits=3).text} s"))
    if manifest.get("processed") is not None:
        lines.append(("Processed", count(int(manifest["processed"]), "scan")))
    return [(label, str(value)) for label, value in lines if value is not None]


# -- pictures ----------------------------------------------------------------------------------------


def _contact(
    store: Source,
    facts: Facts,
    flagged: Mapping[str, list[str]],
    keep: Mapping[str, list[str]],
) -> dict[str, Any]:
    """One small picture a scan; those that failed or stand out come first."""
    failed: dict[str, list[str]] = {}
    for recipe in facts.measured:
        for row in facts.failed(recipe).to_dict("records"):
            failed.setdefault(str(row.get("scan_id")), []).append(
                f"{recipe} failed: {row.get('reason') or 'no reason given'}"
            )
    ids = [str(i) for i in facts.scans["scan_id"]] if "scan_id" in facts.scans else []
    ids.sort(key=lambda i: (i not in failed, i not in flagged, i))
    measured = {
        recipe: set(facts.done(recipe).get("scan_id", pd.Series(dtype=str)).astype(str))
        for recipe in facts.measured
    }
    cells: list[dict[str, Any]] = []
    outlined: dict[str, None] = {}
    for scan_id in ids[:MAX_CELLS]:
        kept = {
            recipe: keep.get(recipe, []) for recipe, done in measured.items() if scan_id in done
        }
        picture, source = _picture(store, scan_id, kept)
        outlined.update({source: None} if source else {})
        cells.append(
            {
                "id": scan_id,
                "anchor": f"scan-{len(cells) + 1}",
                **picture,
                "failed": failed.get(scan_id, []),
                "flags": flagged.get(scan_id, []),
            }
        )
    return {"cells": cells, "more": max(0, len(ids) - MAX_CELLS), "outlined": list(outlined)}


def _picture(
    store: Source, scan_id: str, recipes: Mapping[str, list[str]]
) -> tuple[dict[str, Any], str | None]:
    """Axial slice of a scan with the outline of the first mask a recipe kept, and what is outlined."""
    try:
        image = store.open_scan(scan_id)["image"]
        mask, source = _mask(store, scan_id, recipes)
        if mask is not None and mask.size <= slices.SEARCH_VOXELS:
            mask = mask.load()  # read once, to be searched and then cut
        at_mm = None if mask is None else slices.busiest_mm(mask)
        cut = slices.take(image, at_mm=at_mm, mask=mask)
        picture = slices.tile(cut, size=CELL)
    except Exception as error:  # noqa: BLE001 - one scan that cannot be drawn never costs the page
        # The message may hold a path, which a page that is passed on must not.
        return {"uri": None, "problem": f"cannot be drawn ({type(error).__name__})"}, None
    return {
        "uri": slices.jpeg_uri(picture),
        "problem": None,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "left": cut.left,
        "where": f"{cut.dim} = {number(cut.position_mm, decimals=1).text} mm",
    }, source


def _mask(
    store: Source, scan_id: str, recipes: Mapping[str, list[str]]
) -> tuple[xr.DataArray | None, str | None]:
    """The first mask, else label image, in the order in which a recipe keeps them: the same one in every scan."""
    for recipe, keep in recipes.items():
        kept = store.open_derivative(recipe, scan_id)
        rank = {name: place for place, name in enumerate(keep)}
        names = [name for name in kept.data_vars if {"z", "y", "x"} <= {*kept[name].dims}]
        names.sort(key=lambda n: (kept[n].dtype.kind != "b", rank.get(str(n), len(rank)), str(n)))
        if names and kept[names[0]].dtype.kind in "biu":
            return kept[names[0]], f"{names[0]} ({recipe})"
    return None, None


def _png(figure: "Figure") -> dict[str, Any]:
    """A figure as a data URI, at one and a half pixels a CSS pixel, and its size in CSS pixels."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the plotting font lacks are drawn as boxes; the page itself has them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="png", dpi=144, metadata={"Software": None})
    width, height = figure.get_size_inches()
    uri = slices.data_uri(stream.getvalue(), "image/png")
    return {"uri": uri, "width": round(96 * width), "height": round(96 * height)}


def _measured(facts: Facts, recipe: str) -> dict[str, Any]:
    lines = sections.measurements(facts, recipe)
    drawn = [line for line in lines if line["n"]][:MAX_FIGURES]
    pictures = [
        {
            "name": line["name"],
            **_png(plots.distribution(line["values"], label=line["name"], unit=line["unit"])),
            "alt": f"Distribution of {line['name']}: {line['n']} values, median {line['median'].text} {line['unit']}, "
            f"{count(len(line['outliers']), 'outlier')}.",
        }
        for line in drawn
    ]
    return {
        "recipe": recipe,
        "lines": lines,
        "pictures": pictures,
        "undrawn": sum(1 for line in lines if line["n"]) - len(drawn),
        "rows": sections.rows(facts, recipe, most=MAX_CELLS),
    }


def _model(
    store: Source,
    facts: Facts,
    name: str,
    asked: str | None,
    *,
    anchor: str,
    anchors: Mapping[str, str],
) -> dict[str, Any]:
    model = facts.models[name]
    tested, augment = store.model_table(name, "tidy"), store.model_table(name, "augment")
    tidy = modelparts.own(model, tested)
    beside = {
        kind: store.model_table(name, kind)
        for kind in modelplots.DRAWN
        if f"{kind}.parquet" in (model.get("files") or {})
    }
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
        "truth": effects.truth(model, tidy),
        "balance": modelparts.balance(model),
        "comparison": modelparts.comparison(model),
        "family": modelparts.family(tested),
        "adjustments": modelparts.adjustments(model),
        "influential": modelparts.influential(model, augment, anchors),
        "methods": modelparts.methods(model),
        "glance": effects.glance(store.model_table(name, "glance")),
        "dropped": len((model.get("rows") or {}).get("dropped") or []),
        "n_used": (model.get("rows") or {}).get("n_used"),
        "pictures": [
            *_model_pictures(facts, model, tidy, augment, asked, unit=unit),
            *(
                {**_png(draw(beside[k])), "caption": said}
                for k, (draw, said) in modelplots.DRAWN.items()
                if k in beside
            ),
        ],
    }


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
        pictures.append({**_png(figure), "caption": caption})
    if len(modelplots.partial(tidy, outcome=outcome)):
        figure = modelplots.forest(tidy, outcome=outcome)
        caption = (
            "Every term on one scale without a unit: the correlation with the outcome that is left when all other terms "
            "are held equal, with its 95% interval. A line that crosses 0 is no clear relation."
        )
        pictures.append({**_png(figure), "caption": caption})
    confounds = model.get("confounds") or []
    points = {str(k): v for k, v in (model.get("added_variable") or {}).items()}
    for term in sorted(points, key=lambda term: term in confounds)[:MAX_FIGURES]:
        x, y = (np.asarray(points[term][axis], np.float64) for axis in "xy")
        figure = plots.added_variable(x, y, term=term, outcome=outcome, unit=unit)
        caption = f"{outcome} against {term} after both were freed from all other terms; the slope is the coefficient of {term}."
        pictures.append({**_png(figure), "caption": caption})
    return pictures
