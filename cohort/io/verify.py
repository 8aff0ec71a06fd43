"""Check that a store is what was written: every file accounted for, every byte as its record says.

Who reads a number has to know that nothing under it rotted, went missing or was put there by somebody else. Each record
lists the files of its group with size and SHA-256 and carries a digest of itself; tables, models, the report and the runs
have theirs (see `io.papers`). Reading on notices damage to what it reads; this notices it anywhere.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cohort.io.accounts import Accounts, Problem, differs, foreign, leftover, unreadable
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


_OF_A_RUN = re.compile(r"events(-\d+)?\.jsonl|failures/[^/]+\.txt")

_KEYS = {"scan_id", "participant", "subject", "session", "state", "reason", "label"}
"""Columns that have no unit."""


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
                for record in ("model.json", "maps.json"):
                    removed[f"models/{rest.partition('/')[0]}/{record}"] = None
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
    return there


class _Check(Accounts):
    def __init__(self, store: "Store", progress: Callable[[int], None]) -> None:
        super().__init__(store, progress)
        self.recipes: dict[str, str] = {}
        """File of each recipe that a derivative names -> that it does."""

    def problems(self) -> Iterator[Problem]:
        yield from self.groups("scans", self.files.listing("scans"), self.ids("scans"))
        known = {name for name in self.files.names("tables") if name.count(".") == 1}
        recipes = {name.removesuffix(".parquet") for name in known if name.endswith(".parquet")}
        recipes -= set(OF_ALL)
        for recipe, listed in groupby(self.files.listing("derivatives"), _folder):
            if recipe:
                yield from self.groups(f"derivatives/{recipe}", listed, self.ids(recipe))
                recipes.discard(recipe)
            else:
                yield from _strays("derivatives", listed)
        for recipe in sorted(recipes):  # a table, and nothing that it was made from
            yield from self.groups(f"derivatives/{recipe}", (), self.ids(recipe))
        yield from self.tables()
        yield from self.plain("recipes", "recipe", self.recipes)
        yield from self.plain("quarantine", "refusal", self.refusals())
        yield from self.plain("baseline", "baseline", self.baselines())
        for name, listed in groupby(self.files.listing("models"), _folder):
            yield from self.model(name, dict(listed))
        for name, listed in groupby(self.files.listing("runs"), _folder):
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
        for stem, listed in groupby(listing, lambda item: _stem(item[0], folder)):
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

    # -- tables, models, runs, the report ----------------------------------------------------------------

    def tables(self) -> Iterator[Problem]:
        there = dict(self.files.listing("tables"))
        list_name = "tables/checksums.json"
        noted: dict[str, Any] | None = None
        if list_name in there:
            noted = yield from self.json("table list", list_name, there.pop(list_name))
        elif any(name.endswith(".parquet") for name in there):
            text = "without it no table can be checked; call `cohort update`"
            yield Problem("missing", "table list", list_name, text)
        parquet = {n: size for n, size in there.items() if n.endswith(".parquet")}
        for name, found in self.digests(parquet) if noted is not None else ():
            unit, said = f"table {_stem(name, 'tables')}", (noted or {}).get(name.partition("/")[2])
            if not isinstance(found, str):
                yield unreadable(unit, name, found)
            elif said is None:
                yield foreign(unit, name, parquet[name])
            elif found not in said:
                text = differs(found, said[0], "remove it and call `cohort update`")
                yield Problem("damaged", unit, name, text)
        for name in sorted({f"tables/{n}" for n in noted or ()} - there.keys()):
            text = f"{list_name} lists it, and it is not there; call `cohort update`"
            yield Problem("missing", f"table {_stem(name, 'tables')}", name, text)
        yield from self.units(there, frozenset(parquet) | {f"tables/{n}" for n in noted or ()})

    def units(self, there: Mapping[str, int], parquet: frozenset[str]) -> Iterator[Problem]:
        """The units beside the tables, and what else lies there."""
        for name in sorted(there.keys() - parquet):
            unit = f"table {_stem(name, 'tables')}"
            if name.endswith(".tmp"):
                yield leftover(unit, name, there[name])
            elif name.endswith(".units.json") and f"{name[:-11]}.parquet" in parquet:
                yield from self.json(unit, name, there[name])
            else:
                yield foreign(unit, name, there[name])
        recipes = set(self.files.names("derivatives"))
        for name in sorted(parquet & there.keys()):
            stem = _stem(name, "tables")
            if stem.partition(".")[0] in recipes and f"tables/{stem}.units.json" not in there:
                with suppress(StoreError, OSError, ValueError):
                    table = self.store.table(stem)
                    if table is not None and set(table.columns) - _KEYS:
                        text = "numbers without units are no results; call `cohort update`"
                        yield Problem("missing", f"table {stem}", f"tables/{stem}.units.json", text)

    def plain(self, folder: str, what: str, expected: Mapping[str, str]) -> Iterator[Problem]:
        """A folder of JSON files with digests of their own; `expected`: name -> why it has to be there."""
        there = dict(self.files.listing(folder))
        for name, size in there.items():
            unit = f"{what} {_stem(name, folder)}"
            if name.endswith(".tmp"):
                yield leftover(unit, name, size)
            elif not name.endswith(".json") or name.count("/") != 1:
                yield foreign(unit, name, size)
            else:
                yield from self.json(unit, name, size)
        for file, why in sorted(expected.items()):
            if f"{folder}/{file}" not in there:
                text = f"{why}; call `cohort update`"
                yield Problem("missing", f"{what} {Path(file).stem}", f"{folder}/{file}", text)

    def refusals(self) -> dict[str, str]:
        """Files of the series that the last ingest refused -> that it did."""
        return {
            f"{entry['series']}.json": f"runs/{run}/manifest.json names it"
            for run, manifest in self.last("quarantined")
            for entry in manifest["quarantined"]
        }

    def baselines(self) -> dict[str, str]:
        """What calls that came to their end left of each stage, to compare the next one with -> which did."""
        # Of a recipe without a table nothing is compared any more, and `cohort gc` takes its baseline.
        wanted = {f"run:{name}": f"recipe.{name}.json" for name in self.store.tables()}
        wanted |= {"ingest": "scans.json", "fit": "models.json"}
        found = {}
        for run in reversed(self.files.names("runs")):
            with suppress(StoreError, OSError):
                manifest = self.store.manifest(run)
                if manifest.get("error") is None:
                    for stage in wanted.keys() & manifest.get("stages", {}).keys():
                        why = f"runs/{run} left it, and without it nobody can say what changes"
                        found[wanted.pop(stage)] = why
        return found

    def last(self, key: str) -> list[tuple[str, dict[str, Any]]]:
        """The latest manifest that can be read and has `key`, with its run; or nothing."""
        for run in reversed(self.files.names("runs")):
            with suppress(StoreError, OSError):
                manifest = self.store.manifest(run)
                if key in manifest or key in manifest.get("stages", {}):
                    return [(run, manifest)]
        return []

    def model(self, name: str, there: dict[str, int]) -> Iterator[Problem]:
        unit, place = f"model {name}", f"models/{name}"
        for left in [n for n in there if n.endswith(".tmp")]:
            yield leftover(unit, left, there.pop(left))
        record = f"{place}/maps.json" if f"{place}/maps.json" in there else f"{place}/model.json"
        if record not in there:
            states = [m["stages"]["fit"] for _, m in self.last("fit")]
            if any(state.get(name) in ("fresh", "done") for state in states):
                text = "its tables are there and it is not; call `cohort fit`"
                yield Problem("missing", unit, f"{place}/model.json", text)
            elif name:
                yield leftover(unit, place, sum(there.values()))
            else:
                yield from _strays("models", there.items())
            return
        model = yield from self.json(unit, record, there.pop(record))
        if model is not None:
            listed = {f"{place}/{file}": said for file, said in model.get("files", {}).items()}
            yield from self.listed(unit, listed, there, record=record)

    def run(self, run: str, there: dict[str, int]) -> Iterator[Problem]:
        """The manifest of a run and, by its list, the log and the traces of failures."""
        unit, place = f"run {run}", f"runs/{run}"
        if f"{place}/manifest.json" not in there:
            if self.ended(there):
                text = "the run came to its end and has no manifest; nothing can make it again"
                yield Problem("missing", unit, f"{place}/manifest.json", text)
            elif run:
                text = f"{sum(there.values())} bytes of a run that did not come to its end"
                yield Problem("leftover", unit, place, text)
            else:
                yield from _strays("runs", there.items())
            return
        name = f"{place}/manifest.json"
        manifest = yield from self.json(unit, name, there.pop(name))
        if manifest is None:
            return
        listed = {f"{place}/{file}": said for file, said in manifest.get("files", {}).items()}
        if "files" not in manifest:  # of a version that did not list them
            there = {
                n: size for n, size in there.items() if not _OF_A_RUN.fullmatch(n[len(place) + 1 :])
            }
        yield from self.listed(unit, listed, there, record=name)

    def ended(self, there: Iterable[str]) -> bool:
        """Whether the log of a run, or the last part of it, says that the run ended."""
        logs = sorted(name for name in there if re.search(r"/events(-\d+)?\.jsonl$", name))
        try:
            last = self.files.read(logs[-1]).splitlines()[-1]
            return json.loads(last)["event"] == "end"
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def report(self) -> Iterator[Problem]:
        there = dict(self.files.listing("report"))
        previous = "report/previous.json"
        if (size := there.pop(previous, None)) is not None:
            yield from self.json("report", previous, size)
        yield from self.page("report", "report/index.html", "report/stamp.json", there)
        scans = {PurePosixPath(name).stem for name in there if PAGE_OF_A_SCAN.fullmatch(name)}
        for scan_id in sorted(scans):
            yield from self.page(f"page of {scan_id}", *page_files(scan_id), there)
        for name in sorted(there):
            make = leftover if name.endswith(".tmp") else foreign
            yield make("report", name, there[name])

    def page(self, unit: str, page: str, stamp: str, there: dict[str, int]) -> Iterator[Problem]:
        """A page and what was noted when it was written; both go from `there`."""
        page_size, stamp_size = there.pop(page, None), there.pop(stamp, None)
        if page_size is not None and stamp_size is None:
            text = "nothing says what the page should be; call `cohort report`"
            yield Problem("missing", unit, stamp, text)
        said = None if stamp_size is None else (yield from self.json(unit, stamp, stamp_size))
        if page_size is None and stamp_size is not None:
            yield Problem("missing", unit, page, "call `cohort report`")
        elif page_size is not None and said is not None:
            for name, found in self.digests({page: page_size}):
                if not isinstance(found, str):
                    yield unreadable(unit, name, found)
                elif found != said.get("page"):
                    text = differs(found, str(said.get("page")), "call `cohort report`")
                    yield Problem("damaged", unit, name, text)

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


def _strays(section: str, listed: Iterable[tuple[str, int]]) -> Iterator[Problem]:
    """Files that lie where only folders should."""
    for name, size in listed:
        yield (
            leftover(section, name, size) if name.endswith(".tmp") else foreign(section, name, size)
        )


def _folder(item: tuple[str, int]) -> str:
    """Second part of a name, ``runs/<this>/manifest.json``; empty for a file without a folder of its own."""
    parts = item[0].split("/")
    return parts[1] if len(parts) > 2 else ""


def _stem(name: str, folder: str) -> str:
    """First part of a name below a folder, without the ending: ``scans/a.zarr/x/c/0`` -> ``a``."""
    first = name[len(folder) + 1 :].partition("/")[0]
    if folder == "tables":
        return first.removesuffix(".parquet").removesuffix(".units.json")
    if folder == "baseline":
        return first.removesuffix(".json")
    return first.partition(".")[0]
