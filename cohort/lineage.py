"""From a number back to what it was made of."""

import re
from collections.abc import Mapping
from typing import Any

from cohort import markup
from cohort.io.exports.tables import call_text, measure_of
from cohort.io.store import Store, StoreError
from cohort.naming import one_named, refuse_failed

_DIGITS = 12
"""Of a digest, where people read it; the whole one stands in the mapping."""


class Explanation(dict[str, Any]):
    """Where a number comes from; a mapping to work with, and a page to read.

    Keys: ``scan_id``, ``quantity``, ``value``, ``unit``, ``recipe``; ``lineage`` (calls on which the number depends, in order: name,
    call, revision), ``steps`` and ``measure`` (all of the recipe, as it was run), ``keys``, ``inputs`` (variable -> digest of its content),
    ``source`` (digest of the files), ``chunks`` (file of the scan's store -> SHA-256 and bytes), ``versions`` (of the libraries on which
    numbers depend).
    """

    def __repr__(self) -> str:
        """Line by line, from the number to the bytes."""
        lines = [self._title()]
        lines += [
            f"  {s['name']} = {s['call']}"
            + (f"  (revision {s['revision']})" if s["revision"] else "")
            for s in self["lineage"]
        ]
        lines += [f"  {n}: content {d[:_DIGITS]}" for n, d in self["inputs"].items()]
        lines.append(
            f"  files: {str(self['source'])[:_DIGITS]}; {len(self['chunks'])} in the store"
        )
        lines.append(f"  with {self._libraries()}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return markup.block(
            self._title(),
            markup.table(
                ["step", "call", "revision"],
                ([s["name"], s["call"], s["revision"] or ""] for s in self["lineage"]),
            ),
            markup.table(
                ["input", "SHA-256"],
                [
                    *((n, d[:_DIGITS]) for n, d in self["inputs"].items()),
                    ("files", str(self["source"])[:_DIGITS]),
                    *((n, d[:_DIGITS]) for n, (d, _) in self["chunks"].items() if "/c/" in n),
                ],
            ),
            markup.paragraph(self._libraries()),
        )

    def _title(self) -> str:
        value = markup.text(self["value"])
        unit = "" if self["unit"] == "1" else f" {self['unit']}"
        return f"{self['quantity']} = {value}{unit} of {self['scan_id']}, recipe {self['recipe']}"

    def _libraries(self) -> str:
        return ", ".join(f"{n} {v}" for n, v in self["versions"].items()) or "unknown libraries"


def explain(store: Store, scan_id: str, quantity: str) -> Explanation:
    """Follow a number back.

    Parameters
    ----------
    scan_id : str
        The whole name.
    quantity : str
        A column of a recipe's table; ``recipe.quantity`` where two recipes measure under one name.

    Raises
    ------
    StoreError
        If no recipe measured it on the scan, with names that are spelled alike; if it failed there, with the reason.
    """
    known: list[str] = []
    failed: list[str] = []
    for recipe in store.recipes():
        found = store.derivative(recipe, scan_id)
        if found is None:
            continue
        if found["state"] == "failed":
            failed.append(recipe)
        measured = found.get("measurements", {})
        known += measured
        name = quantity.removeprefix(f"{recipe}.")
        if name in measured:
            return _explained(store, scan_id, recipe, name, found)
    for recipe in failed:
        if quantity.removeprefix(f"{recipe}.") in store.units(recipe):
            refuse_failed(store, recipe, scan_id)
    if quantity not in known and known:
        one_named(quantity, known, what="measurement", where=f"{scan_id}")
    raise StoreError(f"no recipe measured {quantity!r} on {scan_id}; see .measurements(recipe)")


def _explained(
    store: Store, scan_id: str, recipe: str, quantity: str, found: Mapping[str, Any]
) -> Explanation:
    scan = store.record(scan_id) or {}
    said = store.recipe(found["recipe_digest"])
    return Explanation(
        scan_id=scan_id,
        quantity=quantity,
        value=found["measurements"][quantity],
        unit=found["units"].get(quantity, "1"),
        recipe=recipe,
        lineage=lineage(said, quantity),
        steps=said.get("steps"),
        measure=said.get("measure"),
        keys=found["keys"],
        inputs=found["contents"],
        source=scan.get("source"),
        chunks=scan.get("chunks", {}),
        versions=found.get("versions", {}),
    )


def lineage(said: Mapping[str, Any], quantity: str) -> list[dict[str, Any]]:
    """Calls on which a measurement depends, in the order in which they are run.

    Parameters
    ----------
    said : mapping
        ``steps``, ``measure`` and ``revisions`` of a recipe, as the store keeps them.

    Examples
    --------
    >>> said = {
    ...     "steps": {"head": {"call": "threshold", "image": "image", "above": 0}, "other": {"call": "otsu", "image": "image"}},
    ...     "measure": {"ml": {"call": "volume_ml", "mask": "head"}},
    ...     "revisions": {"head": 2, "ml": 1},
    ... }
    >>> [(step["name"], step["call"], step["revision"]) for step in lineage(said, "ml")]
    [('head', 'threshold(image=image, above=0)', 2), ('ml', 'volume_ml(mask=head)', 1)]
    """
    steps, measures = said.get("steps") or {}, said.get("measure") or {}
    calls = {
        n: c if isinstance(c, Mapping) else {"value": c} for n, c in {**steps, **measures}.items()
    }
    asked = measure_of(quantity, measures)
    wanted: set[str] = set()
    ahead = [] if asked is None else [asked]
    while ahead:
        name = ahead.pop()
        if name in wanted:
            continue
        wanted.add(name)
        given = [v for k, v in calls[name].items() if k not in ("call", "unit")]
        words = {w for v in given if isinstance(v, str) for w in re.findall(r"[\w.]+", v)}
        # Of a measurement in an expression, a part such as where_x stands for its call.
        for word in words:
            for n in (word, measure_of(word, measures) or ""):
                if n in calls:
                    ahead.append(n)
                    break
    revisions = said.get("revisions", {})
    return [
        {"name": n, "call": call_text(calls[n]), "revision": revisions.get(n)}
        for n in calls
        if n in wanted
    ]
