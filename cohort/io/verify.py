"""Check that a store is what was written: every file accounted for, every byte as its record says.

Who reads a number has to know that nothing under it rotted, went missing or was put there by somebody else. Each record
lists the files of its group with size and SHA-256 and carries a digest of itself; tables, models, the report and the runs
have theirs (see `io.storage.papers`). Reading on notices damage to what it reads; this notices it anywhere.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cohort.io import kept
from cohort.io.accounts import Problem, foreign, leftover
from cohort.io.paperaccounts import PaperAccounts, folder_of, stem_of, strays
from cohort.io.storage.backend import StoreError
from cohort.io.storage.papers import OF_ALL
from cohort.io.storage.scanpages import PAGE_OF_A_SCAN
from cohort.io.storage.scanpages import files_of as page_files
from cohort.io.thumbnail import SUFFIX

if TYPE_CHECKING:
    from cohort.io.store import Store

__all__ = ["Problem", "discard", "verify"]

_KNOWN = (
    *("cohort.json", ".lock", "_staging", "scans", "derivatives", "tables", "quarantine"),
    *("recipes", "models", "runs", "report", "baseline", "withdrawn.json"),
)


def verify(store: "Store", *, progress: Callable[[int], None] | None = None) -> Iterator[Problem]:
    """Account for every file of a store, and for every byte of those that have a digest.

    Parameters
    ----------
    store : Store
        A folder or a bucket; only read. Hold its lock where that is possible: a writer at work looks like damage.
    progress : callable, optional
        Called with the bytes of each file that was digested.

    Yields
    ------
    Problem
        As they are found, scans first; none from a sound store. A store without a file is sound.

    Notes
    -----
    Local files are digested in blocks of 1 MiB; of a bucket, one shard (up to 256 MiB) is in memory, or several objects
    of up to 16 MiB. Names are listed, and records held, one scan at a time.
    """
    yield from _Check(store, progress or (lambda _: None)).problems()


def discard(store: "Store", problems: Iterable[Problem]) -> list[str]:
    """Remove what is damaged or in part missing, so that the next update makes it again; leave everything else.

    A scan without its record is not there, and is ingested again from its sources; derivatives, tables, models and the
    report follow. Foreign files and runs are nobody's to make again: they stay. Call under the store's lock.

    Returns
    -------
    list of str
        The files that were removed: records, and files that are their own record.
    """
    removed: dict[str, None] = {}
    for problem in problems:
        if problem.kind not in ("damaged", "missing"):
            continue
        section, _, rest = problem.file.partition("/")
        match section:
            case "scans" | "derivatives":
                place = problem.file.removesuffix(".json").removesuffix(SUFFIX)
                removed[f"{place.partition('.zarr/')[0]}.json"] = None
            case "models":
                model, _, file = rest.partition("/")
                # What is kept is damaged: it is made again by a fit, and maps that are there are not fitted again.
                for stem in (s for s in kept.STEMS if file.startswith((f"{s}-", f"{s}.json"))):
                    removed[f"models/{model}/{stem}.json"] = None
                removed |= dict.fromkeys(
                    (f"models/{model}/model.json", f"models/{model}/maps.json")
                )
            case "report" if PAGE_OF_A_SCAN.fullmatch(problem.file):
                removed |= dict.fromkeys(page_files(PurePosixPath(rest).stem))
            case "report":
                removed["report/stamp.json"] = None
                if problem.file == "report/previous.json":
                    removed[problem.file] = None
            case "tables" | "quarantine" | "recipes" | "baseline":
                removed[problem.file] = None
    there = [name for name in removed if store.files.size(name) is not None]
    for name in there:
        store.files.remove(name)
    # Voxels that no record lists any more: whose they are nobody would know when somebody withdraws.
    for model in {name.split("/")[1] for name in there if name.startswith("models/")}:
        for group in kept.orphans(store, model):
            store.files.remove_tree(f"models/{model}/{group}")
    return there


class _Check(PaperAccounts):
    def __init__(self, store: "Store", progress: Callable[[int], None]) -> None:
        super().__init__(store, progress)
        self.recipes: dict[str, str] = {}
        """File of each recipe that a derivative names -> that it does."""

    def problems(self) -> Iterator[Problem]:
        yield from self.groups("scans", self.files.listing("scans"), self.ids("scans"))
        known = {name for name in self.files.names("tables") if name.count(".") == 1}
        recipes = {name.removesuffix(".parquet") for name in known if name.endswith(".parquet")}
        recipes -= set(OF_ALL)
        for recipe, listed in groupby(self.files.listing("derivatives"), folder_of):
            if recipe:
                yield from self.groups(f"derivatives/{recipe}", listed, self.ids(recipe))
                recipes.discard(recipe)
            else:
                yield from strays("derivatives", listed)
        for recipe in sorted(recipes):  # a table, and nothing that it was made from
            yield from self.groups(f"derivatives/{recipe}", (), self.ids(recipe))
        yield from self.tables()
        yield from self.plain("recipes", "recipe", self.recipes)
        yield from self.plain("quarantine", "refusal", self.refusals())
        yield from self.plain("baseline", "baseline", self.baselines())
        for name, listed in groupby(self.files.listing("models"), folder_of):
            yield from self.model(name, dict(listed))
        for name, listed in groupby(self.files.listing("runs"), folder_of):
            yield from self.run(name, dict(listed))
        yield from self.report()
        yield from self.top()

    # -- scans and derivatives -------------------------------------------------------------------------

    def ids(self, name: str) -> set[str]:
        """Scans that a table lists; none if it cannot be read, which is told when the tables are checked."""
        try:
            table = self.store.table(name)
        except (StoreError, OSError, ValueError):
            table = None
        return set() if table is None else set(table["scan_id"])

    def groups(
        self, folder: str, listing: Iterable[tuple[str, int]], expected: set[str]
    ) -> Iterator[Problem]:
        """Every record of a folder and the files of its group; `expected` are the ids that a table knows."""
        recipe = folder.partition("/")[2]
        owner = f"{recipe} of" if recipe else "scan"
        for stem, listed in groupby(listing, lambda item: stem_of(item[0], folder)):
            unit = f"{owner} {stem}".rstrip()
            yield from self.group(unit, f"{folder}/{stem}", dict(listed), known=stem in expected)
            expected.discard(stem)
        for stem in sorted(expected):
            text = f"tables/{recipe or 'scans'}.parquet lists it; call `cohort update`"
            yield Problem("missing", f"{owner} {stem}", f"{folder}/{stem}.json", text)

    def group(
        self, unit: str, place: str, there: dict[str, int], *, known: bool
    ) -> Iterator[Problem]:
        for name in [name for name in there if name.endswith(".tmp")]:
            yield leftover(unit, name, there.pop(name))
        if f"{place}.json" not in there:
            mine = [n for n in there if n.startswith((f"{place}.zarr/", f"{place}{SUFFIX}"))]
            for name in sorted(there.keys() - mine):
                yield foreign(unit, name, there[name])
            if mine and known:
                text = "its chunks are there and its record is not; call `cohort update`"
                yield Problem("missing", unit, f"{place}.json", text)
            elif mine:
                yield leftover(unit, f"{place}.zarr", sum(there[name] for name in mine))
            return
        size = there.pop(f"{place}.json")
        record = yield from self.json(unit, f"{place}.json", size)
        if record is None:
            return
        stem = place.rpartition("/")[2]
        if record.get("scan_id") != stem:
            text = "it is the record of another scan; remove it and call `cohort update`"
            yield Problem("damaged", unit, f"{place}.json", text)
            return
        if "recipe_digest" in record:
            self.recipes.setdefault(f"{record['recipe_digest']}.json", f"{unit} names it")
        listed = {f"{place}.zarr/{name}": said for name, said in record["chunks"].items()}
        if (picture := f"{place}{SUFFIX}") in there and "thumbnail" in record:
            listed[picture] = record["thumbnail"]
        elif "thumbnail" in record:
            text = f"until it is made again, pictures cost more; remove {place}.json and call `cohort update`"
            yield Problem("missing", unit, picture, text)
        yield from self.listed(unit, listed, there, record=f"{place}.json")

    def top(self) -> Iterator[Problem]:
        """The store's own file, staging folders, and what does not belong to a store."""
        names = self.files.names("")
        if "cohort.json" in names:
            size = self.files.size("cohort.json") or 0
            yield from self.json("cohort", "cohort.json", size)
        elif set(names) & set(_KNOWN) - {".lock", "_staging"}:
            text = "without it nobody knows whose store this is; call `cohort ingest`"
            yield Problem("missing", "cohort", "cohort.json", text)
        if "withdrawn.json" in names:
            size = self.files.size("withdrawn.json") or 0
            yield from self.json("withdrawals", "withdrawn.json", size)
        for name in self.files.names("_staging"):
            size = sum(n for _, n in self.files.listing(f"_staging/{name}"))
            yield leftover("staging", f"_staging/{name}", size)
        for name in sorted(set(names) - set(_KNOWN)):
            listed = list(self.files.listing(name)) or [(name, self.files.size(name) or 0)]
            for file, size in listed:
                make = leftover if file.endswith(".tmp") else foreign
                yield make("store", file, size)
