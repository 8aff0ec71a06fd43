"""The report: one HTML page that opens offline, loads nothing, and can be printed.

The page is a pure function of the store and the arguments: no clock, so the same store gives the same bytes. What
a page may hold and run is `page`'s; here stands which sections there are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort.reporting import (
    acquisition,
    effects,
    expertparts,
    mapspage,
    measured,
    modelpage,
    modeltables,
    origins,
    plots,
    resemblance,
    sections,
    slices,
)
from cohort.reporting.contact import MAX_CELLS, contact_sheet, of_people
from cohort.reporting.distributions import drawing
from cohort.reporting.facts import Facts, Source, gather
from cohort.reporting.methods import paragraphs
from cohort.reporting.news import PREVIOUS, News, news, summary, words
from cohort.reporting.page import Section, assemble, own_scripts
from cohort.reporting.scanpage import links
from cohort.reporting.unfitted import Unfitted
from cohort.reporting.wording import count, number
from cohort.stats.outlying import OUTLIER_Z

if TYPE_CHECKING:
    from cohort.io.store import Store


def write_report(
    store: "Store",
    *,
    title: str,
    groups: Mapping[str, str | None] | None = None,
    acknowledgements: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    unfitted: Sequence[Unfitted] = (),
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
    unfitted : sequence of Unfitted
        Declared models without a fit, as `unfitted.unfitted` finds them.

    Returns
    -------
    Path or str
        Of the page; a URL in an object store. One scan is held in memory at a time; at most 400 are drawn.
    """
    recipes = dict(recipes or {})
    facts = gather(store, recipes)
    found = news(store, facts)
    page = _page(store, facts, found, title, groups or {}, acknowledgements, recipes, unfitted)
    # The page first: killed in between, the next call compares with the same state, and says the same again.
    place = store.write_report(page)
    if found.kept is not None:
        store.write_json(PREVIOUS, found.kept)
    return place


def render(
    store: Source,
    *,
    title: str,
    groups: Mapping[str, str | None] | None = None,
    acknowledgements: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    unfitted: Sequence[Unfitted] = (),
) -> str:
    """The page as text, of the store as it is; see `write_report`."""
    recipes = dict(recipes or {})
    facts = gather(store, recipes)
    found = news(store, facts)
    return _page(store, facts, found, title, groups or {}, acknowledgements, recipes, unfitted)


def _page(
    store: Source,
    facts: Facts,
    found: News,
    title: str,
    groups: Mapping[str, str | None],
    acknowledgements: str,
    recipes: Mapping[str, Mapping[str, Any]],
    unfitted: Sequence[Unfitted],
) -> str:
    flagged = measured.flags(facts)
    keep = {name: [str(k) for k in recipe.get("keep") or []] for name, recipe in recipes.items()}
    influential = {i for m in facts.models.values() for i in m.get("influence") or []}
    contact = contact_sheet(store, facts, flagged, keep, influential, links(store))
    anchors = {cell["id"]: cell["anchor"] for cell in contact["cells"]}
    models = [
        modelpage.context(
            store, facts, name, groups.get(name), anchor=f"model-{i}", anchors=anchors
        )
        for i, name in enumerate(facts.models, start=1)
    ]
    maps = mapspage.contexts(store)
    said = sections.summary(facts, flagged, maps, unfitted)
    said["sentences"] += [line for model in models if (line := effects.truth_in_words(model))]
    tiles, sentences = summary(found)
    said["tiles"] = [*tiles, *said["tiles"]]
    said["sentences"] = [*sentences, *said["sentences"]]
    thanks = [part.strip() for part in acknowledgements.split("\n\n") if part.strip()]
    parts: list[Section | None] = [
        Section("summary", "Summary", "summary.html.j2", {"summary": said}),
        Section(
            "flow",
            "Flow of scans",
            "flow.html.j2",
            {"flow": sections.flow(facts, maps, unfitted)},
        ),
        Section(
            "changes",
            "What changed",
            "changes.html.j2",
            {**words(found, facts), "anchors": anchors},
        ),
        _pictures(facts, contact),
        _resemblance(store, facts, anchors),
        _measurements(facts, flagged, anchors),
        _checks(store, title, of_people(facts, anchors)),
        _agreement(store, title),
        *_models(models, maps, unfitted),
        Section(
            "methods", "Methods", "methods.html.j2", {"paragraphs": paragraphs(facts, recipes)}
        ),
        _provenance(store, facts, recipes),
        Section(
            "acknowledgements",
            "Acknowledgements",
            "acknowledgements.html.j2",
            {"acknowledgements": thanks},
        ),
    ]
    return assemble(title, [part for part in parts if part is not None], scripts=own_scripts())


# -- sections ----------------------------------------------------------------------------------------


def _pictures(facts: Facts, contact: Mapping[str, Any]) -> Section:
    says = {
        "contact": contact,
        "convention": slices.CONVENTION,
        "grids": acquisition.grids(facts),
        "protocols": acquisition.protocols(facts),
    }
    return Section("pictures", "Pictures", "pictures.html.j2", says)


def _resemblance(store: Source, facts: Facts, anchors: Mapping[str, str]) -> Section | None:
    found = resemblance.context(store, facts.scans, anchors)
    title, says = "Scans that resemble each other", {"resemblance": found}
    return Section("resemblance", title, "resemblance.html.j2", says) if found["n"] > 1 else None


def _measurements(facts: Facts, flagged: measured.Flags, anchors: Mapping[str, str]) -> Section:
    says = {
        "measured": [_measured(facts, recipe, flagged, anchors) for recipe in facts.measured],
        "outlier_z": OUTLIER_Z,
        "anchors": anchors,
    }
    return Section("measurements", "Measurements", "measurements.html.j2", says)


def _checks(store: Source, title: str, anchors: Mapping[str, str]) -> Section | None:
    checks = modeltables.of_cohort(store, anchors)
    says = {"checks": checks, "title": title}
    return Section("checks", "Checks and reliability", "checks.html.j2", says) if checks else None


def _agreement(store: Source, title: str) -> Section | None:
    found = expertparts.of_cohort(store)
    says = {"agreement": found, "title": title}
    return (
        Section("agreement", "Agreement with an expert", "agreement.html.j2", says)
        if found
        else None
    )


def _models(
    models: Sequence[Mapping[str, Any]],
    mapped: Sequence[Mapping[str, Any]],
    unfitted: Sequence[Unfitted],
) -> list[Section]:
    if not models and not mapped and not unfitted:
        return [Section("models", "Models", "nomodel.html.j2", {})]
    tables = [
        Section(str(m["anchor"]), "Model", "model.html.j2", {"model": m}, name=str(m["name"]))
        for m in models
    ]
    maps = [
        Section(str(m["anchor"]), "Maps", "maps.html.j2", {"maps": m}, name=str(m["name"]))
        for m in mapped
    ]
    without = [
        Section(f"unfitted-{i}", "Model", "unfitted.html.j2", {"model": m}, name=m.name)
        for i, m in enumerate(unfitted, 1)
    ]
    return tables + maps + without


def _provenance(store: Source, facts: Facts, recipes: Mapping[str, Mapping[str, Any]]) -> Section:
    says = {
        "run": _run(facts.manifest),
        "versions": sorted(
            (str(k), str(v)) for k, v in (facts.manifest.get("versions") or {}).items()
        ),
        "recipes": [origins.recipe_steps(facts, name, recipe) for name, recipe in recipes.items()],
        "contents": origins.contents_digest(store, facts, most=MAX_CELLS),
    }
    return Section("provenance", "Provenance", "provenance.html.j2", {"provenance": says})


def _run(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which run the page describes. The command is not shown: it may hold paths."""
    lines = [("Run", manifest.get("run_id")), ("Started", manifest.get("started"))]
    if manifest.get("seconds") is not None:
        lines.append(("Took", f"{number(manifest['seconds'], digits=3).text} s"))
    if manifest.get("processed") is not None:
        lines.append(("Processed", count(int(manifest["processed"]), "scan")))
    return [(label, str(value)) for label, value in lines if value is not None]


def _measured(
    facts: Facts, recipe: str, flagged: measured.Flags, anchors: Mapping[str, str]
) -> dict[str, Any]:
    lines = measured.measurements(facts, recipe)
    drawn = [line for line in lines if line["n"]][: plots.MAX_FIGURES]
    pictures = [
        {
            "name": line["name"],
            "unit": line["unit"],
            **drawing(line["values"], line["scans"], line["far"], anchors),
            "alt": f"Distribution of {line['name']}: {count(line['n'], 'value')}, median {line['median'].text} {line['unit']}, "
            f"{count(len(line['outliers']), 'outlier')}.",
        }
        for line in drawn
    ]
    return {
        "recipe": recipe,
        "lines": lines,
        "pictures": pictures,
        "undrawn": sum(1 for line in lines if line["n"]) - len(drawn),
        "rows": measured.rows(facts, recipe, flagged, most=MAX_CELLS),
    }
