"""Where faults are injected: cohorts of small scans, ingested once and copied, and what an undisturbed run leaves of them."""

import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cohorts
import pandas as pd

from cohort import api
from cohort.io.store import Store
from faults.line import Line
from faults.plant.sitecustomize import FIRST_MARK, MARKS

Scale = Literal["short", "usual", "full"]

PARTS = ("cohort.json", "scans/", "derivatives/", "tables/", "recipes/", "quarantine/", "models/")
"""Of a store: what its numbers are. Runs and the report say when and how, and may differ."""

MEMORY = "1GiB"
"""Of a worker."""

SLOPE = 0.5
"""Of the scans of `cohorts`."""


class Impossible(Exception):
    """A fault that cannot be injected on this machine."""


@dataclass(frozen=True)
class Truth:
    """What an undisturbed run left.

    Parameters
    ----------
    files : mapping of name -> SHA-256
    tables : mapping of name -> DataFrame
    scans : tuple of str
    """

    files: Mapping[str, str]
    tables: Mapping[str, pd.DataFrame]
    scans: tuple[str, ...]


class Ground:
    """A folder with everything that the faults of one day need.

    Parameters
    ----------
    folder : Path
        Empty; private files of the command line go there too, not to the user's home.
    scale : {"short", "usual", "full"}
        How many rounds and scans; ``full`` are the numbers of the page.
    """

    def __init__(self, folder: Path, scale: Scale = "usual") -> None:
        self.folder, self.scale = folder, scale
        self._number = 0
        self._truths: dict[tuple[int, tuple[tuple[int, str], ...]], Truth] = {}

    def of(self, short: int, usual: int, full: int) -> int:
        """A number for this scale."""
        return {"short": short, "usual": usual, "full": full}[self.scale]

    def cohort(self, scans: int, marks: Mapping[int, str] | None = None) -> Path:
        """Catalog of a new cohort, nothing done yet; `marks`: number of a scan -> what its image asks for."""
        catalog = cohorts.write_cohort(self.new("cohort"), scans)
        for number, kind in (marks or {}).items():
            image = cohorts.ball(number)
            image[9, 10, 8] = int((FIRST_MARK + MARKS.index(kind)) / SLOPE)
            cohorts.write_scan(scan_file(catalog, number), image, slope=SLOPE)
        text = catalog.read_text(encoding="utf-8").partition("models:")[0]
        catalog.write_text(text, encoding="utf-8")
        return catalog

    def ingested(self, scans: int, marks: Mapping[int, str] | None = None) -> Path:
        """Catalog of a new cohort whose scans are in its store, not measured yet."""
        key = f"{scans}-{sorted((marks or {}).items())}"
        kept = self.folder / "ingested" / hashlib.sha256(key.encode()).hexdigest()[:12]
        if not kept.exists():
            catalog = self.cohort(scans, marks)
            api.ingest(catalog, options=api.Options(workers=0))
            kept.parent.mkdir(exist_ok=True)
            catalog.parent.rename(kept)
        place = self.new("copy")
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
        return place / "catalog.yaml"

    def truth(self, scans: int, marks: Mapping[int, str] | None = None) -> Truth:
        """What an undisturbed run in one process leaves of the same cohort, where a mark is a voxel like any other."""
        key = (scans, tuple(sorted((marks or {}).items())))
        if key not in self._truths:
            catalog = self.ingested(scans, marks)
            api.run(catalog, options=api.Options(workers=0))
            self._truths[key] = truth_of(store_of(catalog))
        return self._truths[key]

    def new(self, name: str) -> Path:
        """A new folder."""
        self._number += 1
        folder = self.folder / f"{self._number:03d}-{name}"
        folder.mkdir()
        return folder


def store_of(catalog: Path) -> Store:
    """The store of a cohort of `Ground`."""
    return Store(catalog.parent / "store")


def scan_file(catalog: Path, number: int) -> Path:
    """File of a scan."""
    return catalog.parent / "scans" / f"{number:03d}_v1.nii.gz"


def scan_id(number: int) -> str:
    """How a scan of `cohorts` is called."""
    return f"sub-{number:03d}_ses-1_{number:03d}v1"


def files_of(store: Store) -> dict[str, str]:
    """Digest of every file that counts in a store; what a killed writer left beside its place counts for nobody."""
    listed = [name for name, _ in store.files.listing() if name.startswith(PARTS)]
    names = [name for name in listed if not name.endswith(".tmp")]
    contents = store.files.each(store.files.read, names)
    return {n: hashlib.sha256(c).hexdigest() for n, c in zip(names, contents, strict=True)}


def truth_of(store: Store) -> Truth:
    """A store as it is, as what others should be."""
    tables = {name: found for name in store.tables() if (found := store.table(name)) is not None}
    return Truth(files_of(store), tables, tuple(store.scan_ids()))


def failures(store: Store, recipe: str = "ball") -> list[str]:
    """Scans on which a recipe failed."""
    ids = store.derivative_ids(recipe)
    return [s for s in ids if (store.derivative(recipe, s) or {}).get("state") == "failed"]


def judge(
    line: Line,
    store: Store,
    truth: Truth,
    *,
    targets: Collection[str] = (),
    recipe: str = "ball",
) -> None:
    """Count in `line` what became of every scan, and compare with the truth, bit for bit.

    Parameters
    ----------
    targets : scans
        Those at which the fault was aimed: they may have failed, and have to be named.
    """
    line.scans += len(truth.scans)
    refused = {entry["series"] for entry in store.quarantine()}
    counted = set(targets)
    for scan in truth.scans:
        found = store.derivative(recipe, scan) or {}
        failed = found.get("state") == "failed" or scan in refused
        if found.get("state") != "done" and not failed:
            line.lost += 1
            counted.add(scan)
            line.broken.append(f"lost {scan}")
        elif failed and scan not in targets:
            line.innocents += 1
            counted.add(scan)
            line.broken.append(f"innocent {scan}: {found.get('reason', 'refused')}")
    wrong = _differing(store, truth, counted)
    line.wrong += len(wrong)
    line.broken += [f"wrong {name}" for name in sorted(wrong)]


def _differing(store: Store, truth: Truth, targets: set[str]) -> set[str]:
    """Scans and other files that are not those of the truth."""
    files = files_of(store)
    differing = set()
    for name in files.keys() | truth.files.keys():
        unit = _unit(name)
        if files.get(name) == truth.files.get(name) or unit in targets:
            continue
        if name.startswith("recipes/") and name not in truth.files:
            continue  # what a recipe said before it was edited, by its digest
        if not (targets and name.startswith("tables/")):
            differing.add(unit)
    if targets:
        # Rows of the targets say how they failed; every other row has to be the same.
        for name, table in truth.tables.items():
            found = store.table(name)
            if found is None or not _without(found, targets).equals(_without(table, targets)):
                differing.add(f"table {name}")
    return differing


def _without(table: pd.DataFrame, scans: set[str]) -> pd.DataFrame:
    if "scan_id" not in table:
        return table
    return table[~table["scan_id"].isin(list(scans))].reset_index(drop=True)


def _unit(name: str) -> str:
    """The scan to which a file belongs, or the file itself."""
    first, *rest = name.split("/")
    if first == "scans":
        return rest[0].removesuffix(".json").removesuffix(".zarr")
    if first == "derivatives" and len(rest) > 1:
        return rest[1].removesuffix(".json").removesuffix(".zarr")
    return name


def own_home(folder: Path) -> dict[str, str]:
    """Environment in which keys, caches and logs go to a folder, never to the user's."""
    return {
        "XDG_CONFIG_HOME": os.fspath(folder / "config"),
        "XDG_CACHE_HOME": os.fspath(folder / "cache"),
        "XDG_STATE_HOME": os.fspath(folder / "state"),
    }
