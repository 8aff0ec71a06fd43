"""What was done, in sentences that can stand in a paper: scans, recipes, models, software with what to cite."""

from collections.abc import Mapping
from typing import Any

from cohort.reporting import modelparts
from cohort.reporting.facts import Facts
from cohort.reporting.measured import FAR, flags, measurement_columns
from cohort.reporting.origins import recipe_steps
from cohort.reporting.wording import count
from cohort.stats.outlying import OUTLIER_Z

SHORT = 12
"""Digits of a digest that tell recipes apart in a text."""

CITED = {
    "dask": "Rocklin 2015, doi:10.25080/Majora-7b98e3ed-013",
    "nibabel": "Brett et al., doi:10.5281/zenodo.591597",
    "numba": "Lam et al. 2015, doi:10.1145/2833157.2833162",
    "numpy": "Harris et al. 2020, doi:10.1038/s41586-020-2649-2",
    "pandas": "McKinney 2010, doi:10.25080/Majora-92bf1922-00a",
    "scikit-image": "van der Walt et al. 2014, doi:10.7717/peerj.453",
    "scipy": "Virtanen et al. 2020, doi:10.1038/s41592-019-0686-2",
    "simpleitk": "Lowekamp et al. 2013, doi:10.3389/fninf.2013.00045",
    "statsmodels": "Seabold and Perktold 2010, doi:10.25080/Majora-92bf1922-011",
    "xarray": "Hoyer and Hamman 2017, doi:10.5334/jors.148",
}
"""What the authors of a library ask to be cited, by its name in lower case."""


def paragraphs(facts: Facts, recipes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Methods of the cohort, of each recipe, of each model, and the software.

    Parameters
    ----------
    facts : Facts
    recipes : mapping of recipe -> its YAML

    Returns
    -------
    list of str
        Empty where nothing was done.
    """
    said = [_scans(facts)] if len(facts.scans) else []
    said += [
        text
        for name, recipe in recipes.items()
        if name in facts.measured and (text := _recipe(facts, name, recipe))
    ]
    if text := _outlying(facts):
        said.append(text)
    said += [text for model in facts.models.values() if (text := modelparts.methods(model))]
    if versions := facts.manifest.get("versions"):
        said.append(_software(versions))
    return said


def _scans(facts: Facts) -> str:
    n = len(facts.scans)
    people = int(facts.scans["subject"].nunique()) if "subject" in facts.scans else 0
    of = f" of {count(people, 'subject')}" if people else ""
    kinds = _modalities(facts)
    states = [str(entry.get("state", "quarantined")) for entry in facts.refused]
    refused = states.count("quarantined")
    left = (
        f" {count(refused, 'series', 'series')} whose geometry or content could not be trusted "
        f"{'was' if refused == 1 else 'were'} set aside, with the reason."
        if refused
        else ""
    )
    return (
        f"{count(n, 'scan')}{of}{f' ({kinds})' if kinds else ''} {'was' if n == 1 else 'were'} brought to the closest canonical "
        f"axes by flips and transposes, {_resampling(facts)}; all lengths and volumes follow from the spacing in the headers.{left}"
    )


def _modalities(facts: Facts) -> str:
    """Modalities that the headers state, each with its number of scans unless all have one and the same."""
    if "modality" not in facts.scans:
        return ""
    stated = facts.scans["modality"].fillna("").astype(str)
    found = stated[stated != ""].value_counts().sort_index()
    if not len(found):
        return ""
    if found.iloc[0] == len(stated):
        return str(found.index[0])
    told = [f"{n:,} {kind}" for kind, n in found.items()]
    if silent := len(stated) - int(found.sum()):
        told.append(f"{silent:,} of no stated modality")
    return ", ".join(told)


def _resampling(facts: Facts) -> str:
    """Whether anything was interpolated on the way: slices at uneven distances, where the catalog states it."""
    n = int(facts.scans["resampled"].notna().sum()) if "resampled" in facts.scans else 0
    if not n:
        return "without resampling"
    return f"and {count(n, 'scan')} with uneven slices {'was' if n == 1 else 'were'} resampled to even distances, no other"


def _recipe(facts: Facts, name: str, recipe: Mapping[str, Any]) -> str:
    """What a recipe did; nothing where it was applied to no scan yet."""
    done, failed, stale = (len(those(name)) for those in (facts.done, facts.failed, facts.stale))
    if not done + failed:
        return ""
    steps = recipe_steps(facts, name, recipe)
    calls = [line["call"] for line in steps["lines"] if line["part"] == "steps"]
    units = [
        f"{line['name']} ({line['unit']})" if line["unit"] else line["name"]
        for line in steps["lines"]
        if line["part"] == "measure"
    ]
    called = f"The recipe {name} (SHA-256 {steps['digest'][:SHORT]})"
    if not done:
        every = "the one scan" if failed == 1 else f"all {count(failed, 'scan')}"
        return (
            f"{called} failed on {every} to which it was applied; nothing of it was used further."
        )
    through = (
        f" applied {', '.join(dict.fromkeys(calls))} in {count(len(calls), 'step')}, whose order and parameters stand under "
        "provenance,"
        if calls
        else ""
    )
    and_measured = f"{' and' if through else ''} measured {', '.join(units)}" if units else ""
    ended = f" It succeeded on {count(done, 'scan')}"
    ended += f" and failed on {failed:,}, of which nothing was used further." if failed else "."
    if stale:
        ended += f" Results of {count(stale, 'further scan')} are of an earlier recipe, input or library, and not counted here."
    return (
        f"{called}{through}{and_measured or ' measured nothing'}, scan by scan "
        f"and alike for all.{ended}"
    )


def _outlying(facts: Facts) -> str:
    """What was done about values far from the others; nothing where there is no second value to compare with."""
    rule = f"{OUTLIER_Z:g} robust standard deviations (1.4826 times the median absolute deviation) from the median of "
    values = sum(len(f.quantities) for own in flags(facts).values() for f in own if f.kind == FAR)
    if values:
        return f"Values more than {rule}their measurement were flagged for inspection ({values:,}); none was removed."
    compared = any(
        len(done := facts.done(name)) and (done[measurement_columns(done)].count() > 1).any()
        for name in facts.measured
    )
    return f"No value was more than {rule}its measurement." if compared else ""


def _software(versions: Mapping[str, Any]) -> str:
    named = []
    for library, version in sorted((str(k), str(v)) for k, v in versions.items()):
        cited = CITED.get(library.lower())
        named.append(f"{library} {version}{f' ({cited})' if cited else ''}")
    return f"Software: {'; '.join(named)}."
