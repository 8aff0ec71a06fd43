"""The report: one HTML page that opens offline, loads nothing, runs nothing, and can be printed.

The page is a pure function of the store and the arguments: no clock, so the same store gives the same bytes.
Whatever comes from data is text: autoescaping is on and nothing is ever marked safe; a content-security policy
admits inline styles and embedded pictures alone.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from cohort.reporting import (
    acquisition,
    effects,
    expertparts,
    modelpage,
    modeltables,
    plots,
    sections,
    slices,
)
from cohort.reporting.facts import Facts, Source, gather
from cohort.reporting.wording import clean, count, number

if TYPE_CHECKING:
    import jinja2

    from cohort.io.store import Store

MAX_CELLS = 400
"""Scans drawn on the contact sheet, and rows of the table of single scans: what one page can hold."""

CELL = 160
"""Longer side of a picture on the contact sheet, pixels."""


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
    influential = {i for m in facts.models.values() for i in m.get("influence") or []}
    contact = _contact(store, facts, flagged, keep, influential)
    anchors = {cell["id"]: cell["anchor"] for cell in contact["cells"]}
    models = [
        modelpage.context(
            store, facts, name, (groups or {}).get(name), anchor=f"model-{i}", anchors=anchors
        )
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
        "checks": modeltables.of_cohort(store, _of_people(facts, anchors)),
        "agreement": expertparts.of_cohort(store),
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
    influential: AbstractSet[str],
) -> dict[str, Any]:
    """One small picture a scan; those that failed, stand out or move a model come first."""
    failed: dict[str, list[str]] = {}
    for recipe in facts.measured:
        for row in facts.failed(recipe).to_dict("records"):
            failed.setdefault(str(row.get("scan_id")), []).append(
                f"{recipe} failed: {row.get('reason') or 'no reason given'}"
            )
    ids = [str(i) for i in facts.scans["scan_id"]] if "scan_id" in facts.scans else []
    ids.sort(key=lambda i: (i not in failed, i not in flagged, i not in influential, i))
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


def _of_people(facts: Facts, anchors: Mapping[str, str]) -> dict[str, str]:
    """Where the pictures of scans stand, by scan and by participant (the first scan of each)."""
    found: dict[str, str] = {}
    if {"scan_id", "participant"} <= {*facts.scans}:
        for scan_id, person in facts.scans[["scan_id", "participant"]].itertuples(index=False):
            if str(scan_id) in anchors and not pd.isna(person):
                found.setdefault(str(person), anchors[str(scan_id)])
    return {**found, **anchors}


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


def _measured(facts: Facts, recipe: str) -> dict[str, Any]:
    lines = sections.measurements(facts, recipe)
    drawn = [line for line in lines if line["n"]][: plots.MAX_FIGURES]
    pictures = [
        {
            "name": line["name"],
            **plots.embedded(
                plots.distribution(line["values"], label=line["name"], unit=line["unit"])
            ),
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
