"""What no record of a store needs any more: listed with its bytes, and removed on demand.

Never touched: scans and what the catalog's recipes measured on them, the catalog's models, refusals, who withdrew, and of the runs
those that a reader looks for: the last one, and the last that says something of each stage.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cohort.io import kept
from cohort.io.sources.filecache import FileCache
from cohort.io.storage.backend import StoreError
from cohort.io.storage.papers import CHECKSUMS
from cohort.io.store import BESIDE_RECORDS, Store


@dataclass(frozen=True)
class Rubbish:
    """Something that may go.

    Parameters
    ----------
    kind : str
        ``staging``, ``derivatives``, ``table``, ``recipe``, ``model``, ``run``, ``cache``.
    what : str
        What it is, for people.
    names : tuple of str
        Files, and folders with a slash at their end, of the store; of the cache, which is not in it, nothing.
    bytes : int
    """

    kind: str
    what: str
    names: tuple[str, ...]
    bytes: int


def rubbish(
    store: Store,
    *,
    recipes: Collection[str],
    frozen: Collection[str],
    models: Collection[str],
    keep_runs: int | None = None,
    cache: Path | None = None,
) -> Iterator[Rubbish]:
    """Find what no record needs; nothing is removed.

    Parameters
    ----------
    store : Store
        Locked by the caller, so that no call is at work.
    recipes, models : collection of str
        Names in the catalog.
    frozen : collection of str
        Digests of the catalog's recipes as they are now.
    keep_runs : int, optional
        Newest run folders to keep; all by default.
    cache : Path, optional
        The private index of the sources.

    Yields
    ------
    Rubbish
        Nothing from a store that holds only what it needs.
    """
    yield from _leftovers(store)
    scans = set(store.scan_ids()) | _listed(store)
    named = set(frozen)
    for recipe in store.files.names("derivatives"):
        if recipe not in recipes:
            yield _of(
                store,
                "derivatives",
                f"{recipe}: no recipe of the catalog",
                [f"derivatives/{recipe}/"],
            )
            continue
        for scan_id in store.derivative_ids(recipe):
            place = f"derivatives/{recipe}/{scan_id}"
            if scan_id not in scans:
                yield _of(
                    store,
                    "derivatives",
                    f"{recipe} of {scan_id}: no such scan",
                    [f"{place}.json", f"{place}.zarr/"],
                )
            elif (digest := _recipe_of(store, place)) is not None:
                named.add(digest)
    yield from _tables(store, recipes)
    for name in store.files.names("recipes"):
        if name.endswith(".json") and name.removesuffix(".json") not in named:
            yield _of(store, "recipe", "a frozen copy that no record names", [f"recipes/{name}"])
    for name in store.files.names("models"):
        if name not in models:
            yield _of(store, "model", f"{name}: no model of the catalog", [f"models/{name}/"])
        elif orphans := [f"models/{name}/{group}/" for group in kept.orphans(store, name)]:
            yield _of(store, "model", f"{name}: of a fit that was interrupted", orphans)
    yield from _runs(store, keep_runs)
    if cache is not None and cache.is_file():
        with FileCache(cache) as known:
            sizes = [size for _, size in known.gone()]
        if sizes:
            yield Rubbish("cache", f"{len(sizes)} entries of files that are gone", (), sum(sizes))


def remove(store: Store, found: Sequence[Rubbish], *, cache: Path | None = None) -> None:
    """Remove what `rubbish` found. Call under the same lock."""
    tables = {n.removeprefix("tables/") for r in found for n in r.names if r.kind == "table"}
    listed = store.read_json(f"tables/{CHECKSUMS}") or {}
    if tables & listed.keys():
        left = {name: digests for name, digests in listed.items() if name not in tables}
        store.write_json(f"tables/{CHECKSUMS}", left)
    for each in found:
        # Records first: a kill leaves a group without a record, which is not there for anybody.
        for name in sorted(each.names, key=lambda n: not n.endswith(".json")):
            if name.endswith("/"):
                store.files.remove_tree(name.rstrip("/"))
            else:
                store.files.remove(name)
    if cache is not None and any(r.kind == "cache" for r in found):
        with FileCache(cache) as known:
            known.forget([path for path, _ in known.gone()])


def _leftovers(store: Store) -> Iterator[Rubbish]:
    """What interrupted writers left, as `Store.sweep` removes it."""
    for name in store.files.names("_staging"):
        yield _of(store, "staging", "an interrupted write", [f"_staging/{name}/"])
    folders = [f"derivatives/{name}" for name in store.files.names("derivatives")]
    for folder in ("scans", *folders):
        names = set(store.files.names(folder))
        for name in sorted(names):
            stem, _, ending = name.rpartition(".")
            if ending == "tmp" or (ending in BESIDE_RECORDS and f"{stem}.json" not in names):
                place = f"{folder}/{name}" + ("/" if ending == "zarr" else "")
                yield _of(store, "staging", "an interrupted write", [place])


def _listed(store: Store) -> set[str]:
    """Scans that the table lists: one whose record was damaged comes back, and its derivatives are used again."""
    table = store.table("scans")
    return set() if table is None else {str(s) for s in table["scan_id"]}


def _recipe_of(store: Store, place: str) -> str | None:
    with suppress(StoreError):
        found = store.read_json(f"{place}.json") or {}
        return found.get("recipe_digest")
    return None


def _tables(store: Store, recipes: Collection[str]) -> Iterator[Rubbish]:
    from cohort.io.storage.papers import OF_ALL

    for name in store.files.names("tables"):
        stem = name.partition(".")[0]
        if stem in recipes or stem in OF_ALL or not name.endswith((".parquet", ".units.json")):
            continue
        yield _of(store, "table", f"of {stem}, no recipe of the catalog", [f"tables/{name}"])
    for name in store.files.names("baseline"):
        stem = name.removesuffix(".json")
        if stem.startswith("recipe.") and stem.removeprefix("recipe.") not in recipes:
            yield _of(store, "table", f"of {stem}, no recipe of the catalog", [f"baseline/{name}"])


def _runs(store: Store, keep: int | None) -> Iterator[Rubbish]:
    """Folders of calls that were killed, and of those older than the newest `keep`.

    A call that was killed after it had said what changed is like one that ended: `cohort diff` reads it.
    """
    names = store.files.names("runs")
    if not names:
        return
    whole = set(store.runs())
    whole |= {n for n in names if store.files.size(f"runs/{n}/changes.json") is not None}
    for name in names[:-1]:
        if name not in whole:
            yield _of(store, "run", "of a call that was killed", [f"runs/{name}/"])
    if keep is None:
        return
    done = [name for name in names if name in whole]
    seen: set[str] = set()
    for age, name in enumerate(reversed(done)):
        manifest = store.manifest(name)
        says = {*manifest.get("stages", {}), *(manifest.keys() & {"found", "quarantined"})}
        if age >= keep and says <= seen and age > 0:
            yield _of(store, "run", "older than those to keep", [f"runs/{name}/"])
        seen |= says


def _of(store: Store, kind: str, what: str, names: Sequence[str]) -> Rubbish:
    size = 0
    for name in names:
        if name.endswith("/"):
            size += sum(n for _, n in store.files.listing(name.rstrip("/")))
        else:
            size += store.files.size(name) or 0
    return Rubbish(kind, what, tuple(names), size)
