"""What was done, in sentences that can stand in a paper: scans, recipes, models, software with what to cite."""

from collections.abc import Mapping
from typing import Any

from cohort.reporting import modelparts
from cohort.reporting.facts import Facts
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
        _recipe(facts, name, recipe) for name, recipe in recipes.items() if name in facts.measured
    ]
    if any(len(facts.done(name)) for name in facts.measured):
        said.append(
            f"Values more than {OUTLIER_Z:g} robust standard deviations (1.4826 times the median absolute deviation) from "
            "the median of their measurement were flagged for inspection; none was removed."
        )
    said += [text for model in facts.models.values() if (text := modelparts.methods(model))]
    if versions := facts.manifest.get("versions"):
        said.append(_software(versions))
    return said


def _scans(facts: Facts) -> str:
    people = int(facts.scans["subject"].nunique()) if "subject" in facts.scans else 0
    kinds = (
        set(facts.scans["modality"].dropna().astype(str)) if "modality" in facts.scans else set()
    )
    modalities = ", ".join(sorted(kinds))
    of = f" of {count(people, 'subject')}" if people else ""
    states = [str(entry.get("state", "quarantined")) for entry in facts.refused]
    refused = states.count("quarantined")
    left = (
        f" {count(refused, 'series', 'series')} whose geometry or content could not be trusted "
        f"{'was' if refused == 1 else 'were'} set aside, with the reason."
        if refused
        else ""
    )
    return (
        f"{count(len(facts.scans), 'scan')}{of}{f' ({modalities})' if modalities else ''} were brought to the closest canonical "
        f"axes by flips and transposes, without resampling; all lengths and volumes follow from the spacing in the headers.{left}"
    )


def _recipe(facts: Facts, name: str, recipe: Mapping[str, Any]) -> str:
    steps = recipe_steps(facts, name, recipe)
    calls = [line["call"] for line in steps["lines"] if line["part"] == "steps"]
    units = [
        f"{line['name']} ({line['unit']})" if line["unit"] else line["name"]
        for line in steps["lines"]
        if line["part"] == "measure"
    ]
    done, failed = len(facts.done(name)), len(facts.failed(name))
    through = (
        f" applied {', '.join(dict.fromkeys(calls))} in {count(len(calls), 'step')}, whose order and parameters stand under "
        "provenance,"
        if calls
        else ""
    )
    and_measured = f"{' and' if through else ''} measured {', '.join(units)}" if units else ""
    ended = f" It succeeded on {count(done, 'scan')}"
    ended += f" and failed on {failed:,}, of which nothing was used further." if failed else "."
    return (
        f"The recipe {name} (SHA-256 {steps['digest'][:SHORT]}){through}{and_measured or ' measured nothing'}, scan by scan "
        f"and alike for all.{ended}"
    )


def _software(versions: Mapping[str, Any]) -> str:
    named = []
    for library, version in sorted((str(k), str(v)) for k, v in versions.items()):
        cited = CITED.get(library.lower())
        named.append(f"{library} {version}{f' ({cited})' if cited else ''}")
    return f"Software: {'; '.join(named)}."
