"""Where the numbers come from: recipes step by step, and a digest of what they were measured on."""

from collections.abc import Mapping
from typing import Any

from cohort import provenance
from cohort.reporting.facts import Facts, Source


def recipe_steps(facts: Facts, name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a table: what is called, in order, with what, in which unit; and its digest."""
    lines = []
    for part in ("steps", "measure"):
        for step, body in (recipe.get(part) or {}).items():
            call = dict(body) if isinstance(body, Mapping) else {"value": body}
            unit = call.pop("unit", "")
            what = call.pop("call", None) or call.pop("value", "")
            params = ", ".join(f"{key} = {value}" for key, value in call.items())
            lines.append(
                {
                    "part": part,
                    "name": str(step),
                    "call": str(what),
                    "params": params,
                    "unit": str(unit),
                }
            )
    return {
        "name": name,
        "lines": lines,
        "keep": [str(k) for k in recipe.get("keep") or []],
        "digest": (facts.manifest.get("recipes") or {}).get(name, {}).get("digest")
        or provenance.digest(recipe),
    }


def contents_digest(store: Source, facts: Facts, *, most: int) -> str | None:
    """Digest over the voxels of all scans.

    None for a cohort of more than `most` scans, whose records are not all read, and where a record is missing
    or damaged: a digest over part of a cohort would look like one over all of it.
    """
    if not len(facts.scans) or len(facts.scans) > most or "scan_id" not in facts.scans:
        return None
    contents = {}
    for scan_id in facts.scans["scan_id"].astype(str):
        try:
            record = store.record(scan_id)
        except ValueError:
            return None
        if record is None:
            return None
        contents[scan_id] = record.get("contents") or record.get("content")
    return provenance.digest(contents)
