"""Whether what a recipe left of a scan still answers for it, and if not, why: from content alone, never from a clock."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cohort.pipeline.recipe import Recipe, Step
from cohort.pipeline.versions import changes, numeric

Kind = Literal["new", "input", "failed", "recipe", "revision", "library", "missing"]
"""What made a result stale: there is none, a variable of the scan changed, it failed for a reason that may pass, the recipe
or an operation changed, a library was exchanged, or something it should hold is not in it."""

URGENT: tuple[Kind, ...] = (
    "new",
    "input",
    "failed",
    "recipe",
    "revision",
    "missing",
    "library",
)
"""Which scans come first where not all can: those without a valid number, then those whose numbers are of another making."""

LIBRARY = "library: "
"""How the reason of a result begins that only other versions made stale."""


class Stale(NamedTuple):
    """What of a recipe has to be made again for a scan; nothing, where `names` is empty."""

    names: tuple[str, ...]
    """Steps and measurements, in the recipe's order."""
    kind: Kind | None = None
    reason: str = ""
    """In a few words, without a name of a scan: the same for all scans that it holds for."""


@dataclass(frozen=True)
class Cause:
    """One thing that makes a result stale, in full."""

    kind: Kind
    text: str


def staleness(
    recipe: Recipe,
    contents: Mapping[str, str],
    found: Mapping[str, Any] | None,
    *,
    versions: Mapping[str, str],
    accept_versions: bool = False,
) -> Stale:
    """Hold the record of a derivative against a recipe, a scan and the libraries.

    Parameters
    ----------
    recipe : Recipe
    contents : mapping
        Variable of the scan -> digest of what it says.
    found : mapping, optional
        The record; None if there is none.
    versions : mapping
        Libraries on which numbers depend -> version here (`versions.numeric`).
    accept_versions : bool
        A result of other versions is as good. Where something else of it is stale, all of it is made again, so that
        the numbers of one scan are always of the same versions.
    """
    everything = tuple(recipe.keys)
    if found is None:
        return Stale(everything, "new", "new")
    keys, before = found["keys"], found["contents"]
    libraries = changes(found.get("versions"), versions)
    changed = {name for name in recipe.variables if contents.get(name) != before.get(name)}
    stale = tuple(
        name
        for name, key in recipe.keys.items()
        if keys.get(name) != key or recipe.uses[name] & changed
    )
    if stale and (libraries or found["state"] == "failed"):
        stale = everything  # nothing is there to be used again
    if changed:
        return Stale(stale, "input", f"{', '.join(sorted(changed))} changed")
    if stale:
        first = next(n for n, key in recipe.keys.items() if keys.get(n) != key)
        how = "new" if first not in keys else "changed"
        return Stale(stale, "recipe", f"{how} in the recipe: {first}")
    if libraries and not accept_versions:
        return Stale(everything, "library", LIBRARY + ", ".join(libraries))
    if missing := _missing(recipe, found):
        names, reason = missing
        return Stale(everything if libraries else names, "missing", reason)
    return Stale(())


def of_kept(
    recipes: Mapping[str, Recipe],
    name: str,
    variable: str,
    contents: Mapping[str, str],
    found: Mapping[str, Any],
) -> tuple[str, str, bool]:
    """State and reason of a derivative, as its row of the recipe's table has them, with regard to one array that it kept.

    Parameters
    ----------
    recipes : mapping
        Name -> recipe as it reads now.
    name, variable : str
        The recipe, and what it keeps.
    contents, found : mapping
        As for `staleness`.

    Returns
    -------
    tuple
        ``done``, ``failed`` or ``stale``; the reason, or nothing; and whether the array is what the recipe makes of the scan now,
        with whatever versions of the libraries.
    """
    now = numeric()
    stale = staleness(recipes[name], contents, found, versions=now, accept_versions=True)
    if variable in stale.names:
        return "stale", stale.reason, False
    if found["state"] == "failed":
        return "failed", found["reason"], False
    libraries = changes(found.get("versions"), now)
    return ("stale", LIBRARY + ", ".join(libraries), True) if libraries else ("done", "", True)


def _missing(recipe: Recipe, found: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """What a record of the same calls does not hold, because it was not asked for."""
    if found["state"] == "done":
        kept = found.get("kept", ())
        if lost := [name for name in recipe.keep if name not in kept]:
            return tuple(lost), f"not kept before: {', '.join(lost)}"
    columns = recipe.columns()
    measured = found.get("measurements", columns)
    if new := [c for c in columns if c not in measured]:
        return tuple(
            dict.fromkeys(columns[c] for c in new)
        ), f"not measured before: {', '.join(new)}"
    return None


def causes(
    recipe: Recipe,
    contents: Mapping[str, str],
    found: Mapping[str, Any] | None,
    *,
    said: Mapping[str, Any],
    versions: Mapping[str, str],
) -> list[Cause]:
    """Everything that makes a result stale: which input, which step and what of it, which revision, which library.

    Parameters
    ----------
    said : mapping
        What the recipe said when the record was made (`Store.recipe`); empty if nobody kept it.
    """
    if found is None:
        return [Cause("new", "nothing was measured on this scan yet")]
    result = [*_inputs(recipe, contents, found), *_steps(recipe, found["keys"], said)]
    result += [Cause("library", text) for text in changes(found.get("versions"), versions)]
    if not result:
        if missing := _missing(recipe, found):
            result.append(Cause("missing", missing[1]))
        elif found["state"] == "failed":
            result.append(Cause("failed", f"failed before: {found['type']}"))
    return result


def _inputs(
    recipe: Recipe, contents: Mapping[str, str], found: Mapping[str, Any]
) -> Iterator[Cause]:
    for name in sorted(recipe.variables):
        before, now = found["contents"].get(name), contents.get(name)
        if before != now:
            yield Cause("input", f"{name}: content {_short(before)} -> {_short(now)}")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _steps(recipe: Recipe, keys: Mapping[str, str], said: Mapping[str, Any]) -> Iterator[Cause]:
    """Calls that are not what they were, without those that only stand on one of them."""
    changed = {name for name, key in recipe.keys.items() if keys.get(name) != key}
    steps = {s.name: s for s in (*recipe.steps, *recipe.measure)}
    before, now = _calls(said), _calls(recipe.content)
    for name in recipe.keys:
        if name not in changed or changed.intersection(recipe.needs[name]):
            continue
        step = steps[name]
        if name not in keys:
            yield Cause("recipe", f"{name}: new")
        elif not said:
            yield Cause("recipe", f"{name}: not the call it was; what the recipe said was not kept")
        elif differences := _differences(before.get(name, {}), now.get(name, {})):
            yield Cause("recipe", f"{name}: {', '.join(differences)}")
        elif isinstance(step, Step):
            old = said.get("revisions", {}).get(name, "an earlier one")
            new = step.operation.revision
            yield Cause("revision", f"{name}: revision of {step.call} {old} -> {new}")
        else:
            yield Cause("recipe", f"{name}: not the value it was")


def _calls(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Call of each step and measurement as it was written."""
    found = {**(content.get("steps") or {}), **(content.get("measure") or {})}
    return {n: spec if isinstance(spec, Mapping) else {"value": spec} for n, spec in found.items()}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {before.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
