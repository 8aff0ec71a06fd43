"""What a cohort keeps beside its scans, accounted for: tables, recipes, models, runs, the report; see `cohort.io.verify`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from cohort.io import kept
from cohort.io.accounts import Accounts, Problem, differs, foreign, leftover, unreadable
from cohort.io.storage.backend import StoreError
from cohort.io.storage.scanpages import PAGE_OF_A_SCAN
from cohort.io.storage.scanpages import files_of as page_files

_OF_A_RUN = re.compile(r"events(-\d+)?\.jsonl|failures/[^/]+\.txt")

_KEYS = {"scan_id", "participant", "subject", "session", "state", "reason", "label"}
"""Columns that have no unit."""


class PaperAccounts(Accounts):
    """The accounts of everything that `storage.papers` writes."""

    def tables(self) -> Iterator[Problem]:
        """Tables by their list, and the units beside them."""
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
            unit = f"table {stem_of(name, 'tables')}"
            said = (noted or {}).get(name.partition("/")[2])
            if not isinstance(found, str):
                yield unreadable(unit, name, found)
            elif said is None:
                yield foreign(unit, name, parquet[name])
            elif found not in said:
                text = differs(found, said[0], "remove it and call `cohort update`")
                yield Problem("damaged", unit, name, text)
        for name in sorted({f"tables/{n}" for n in noted or ()} - there.keys()):
            text = f"{list_name} lists it, and it is not there; call `cohort update`"
            yield Problem("missing", f"table {stem_of(name, 'tables')}", name, text)
        yield from self.units(there, frozenset(parquet) | {f"tables/{n}" for n in noted or ()})

    def units(self, there: Mapping[str, int], parquet: frozenset[str]) -> Iterator[Problem]:
        """The units beside the tables, and what else lies there."""
        for name in sorted(there.keys() - parquet):
            unit = f"table {stem_of(name, 'tables')}"
            if name.endswith(".tmp"):
                yield leftover(unit, name, there[name])
            elif name.endswith(".units.json") and f"{name[:-11]}.parquet" in parquet:
                yield from self.json(unit, name, there[name])
            else:
                yield foreign(unit, name, there[name])
        recipes = set(self.files.names("derivatives"))
        for name in sorted(parquet & there.keys()):
            stem = stem_of(name, "tables")
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
            unit = f"{what} {stem_of(name, folder)}"
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
        """The record of a model and, by its list, its tables and maps."""
        unit, place = f"model {name}", f"models/{name}"
        for left in [n for n in there if n.endswith(".tmp")]:
            yield leftover(unit, left, there.pop(left))
        for stem in kept.STEMS:
            yield from self.kept(unit, place, stem, there)
        # Somebody withdrew, or the last fit failed: the next makes maps of what is kept.
        if not there:
            return
        record = f"{place}/maps.json" if f"{place}/maps.json" in there else f"{place}/model.json"
        if record not in there:
            states = [m["stages"]["fit"] for _, m in self.last("fit")]
            if any(state.get(name) in ("fresh", "done") for state in states):
                text = "its tables are there and it is not; call `cohort fit`"
                yield Problem("missing", unit, f"{place}/model.json", text)
            elif name:
                yield leftover(unit, place, sum(there.values()))
            else:
                yield from strays("models", there.items())
            return
        model = yield from self.json(unit, record, there.pop(record))
        if model is not None:
            listed = {f"{place}/{file}": said for file, said in model.get("files", {}).items()}
            yield from self.listed(unit, listed, there, record=record)

    def kept(self, unit: str, place: str, stem: str, there: dict[str, int]) -> Iterator[Problem]:
        """What a model of maps keeps for its next fit; it goes from `there`."""
        record, group = f"{place}/{stem}.json", ""
        own = {n: there.pop(n) for n in list(there) if n.startswith(f"{place}/{stem}-")}
        if record in there:
            said = yield from self.json(unit, record, there.pop(record))
            if said is None:
                return
            group = f"{place}/{said['place']}"
            listed = {f"{place}/{file}": one for file, one in said["files"].items()}
            mine = {n: size for n, size in own.items() if n.startswith(f"{group}/")}
            yield from self.listed(unit, listed, mine, record=record)
        left: dict[str, int] = {}
        for name, size in own.items():
            folder = "/".join(name.split("/")[:3])
            if folder != group:
                left[folder] = left.get(folder, 0) + size
        for folder, size in left.items():
            yield leftover(unit, folder, size)

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
                yield from strays("runs", there.items())
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
        """The page, those of single scans, and what the next page compares with."""
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


def strays(section: str, listed: Iterable[tuple[str, int]]) -> Iterator[Problem]:
    """Files that lie where only folders should."""
    for name, size in listed:
        yield (
            leftover(section, name, size) if name.endswith(".tmp") else foreign(section, name, size)
        )


def folder_of(item: tuple[str, int]) -> str:
    """Second part of a name, ``runs/<this>/manifest.json``; empty for a file without a folder of its own."""
    parts = item[0].split("/")
    return parts[1] if len(parts) > 2 else ""


def stem_of(name: str, folder: str) -> str:
    """First part of a name below a folder, without the ending: ``scans/a.zarr/x/c/0`` -> ``a``."""
    first = name[len(folder) + 1 :].partition("/")[0]
    if folder == "tables":
        return first.removesuffix(".parquet").removesuffix(".units.json")
    if folder == "baseline":
        return first.removesuffix(".json")
    return first.partition(".")[0]
