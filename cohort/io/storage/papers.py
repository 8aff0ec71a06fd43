"""What a cohort keeps beside its scans: tables, quarantine, recipes, models, the record of each run.

Every JSON file carries its own digest (`cohort.io.storage.jsonfile`). Of files that cannot, the digest stands beside them:

- ``tables/checksums.json``: name of a file -> SHA-256 of its content, in a list of one. While a table is replaced the
  list has two, the new content's first; so at every moment, and after a crash at any moment, the file is one of those.
- ``models/<model>/model.json`` and ``runs/<run>/manifest.json``, written last: under ``files``, name -> SHA-256 and bytes,
  as in the record of a scan.
- ``report/stamp.json``: under ``page``, the SHA-256 of ``index.html``.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cohort.io.storage import jsonfile, parquet
from cohort.io.storage.backend import Files, Log, StoreError
from cohort.io.storage.spreadsheets import guarded

if TYPE_CHECKING:
    import pandas as pd

OF_ALL = ("participants", "protocols", "scans")
"""Tables of every cohort; any other is a recipe's, or, with a dot, one of its labels."""

CHECKSUMS = "checksums.json"
_PAGE = "report/index.html"
PAGES = "report/scans"
"""Where pages of single scans lie, `io.storage.scanpages`."""


class Papers:
    """Tables, quarantine, recipes, models and runs of one cohort.

    Parameters
    ----------
    files : Files
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    @property
    def url(self) -> str:
        """Where the store lies: the path of its folder, or its URL."""
        return self.files.url

    # -- tables --------------------------------------------------------------------------------------

    def table(self, name: str) -> "pd.DataFrame | None":
        """Table ``tables/<name>.parquet``, or None. Raises `StoreError` if it is damaged."""
        content = self._checked(f"{name}.parquet")
        return None if content is None else self._parquet(f"tables/{name}.parquet", content)

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        return self._stems("tables", ".parquet")

    def recipes(self) -> list[str]:
        """Recipes with a table of measurements, sorted."""
        return [name for name in self.tables() if name not in OF_ALL and "." not in name]

    def write_table(
        self, name: str, table: "pd.DataFrame", units: Mapping[str, str] | None = None
    ) -> None:
        """Replace a table, atomically, if it changed; `units` go to ``tables/<name>.units.json``."""
        try:
            before = self.table(name)
        except StoreError:
            before = None
        if before is None or not before.equals(table) or not self._is_settled(f"{name}.parquet"):
            self._replace(f"{name}.parquet", _parquet(table))
        if units is not None and self.units(name) != dict(units):
            self.write_json(f"tables/{name}.units.json", dict(units))

    def remove_tables(self, prefix: str, keep: Iterable[str]) -> None:
        """Remove per-label tables ``<prefix>.<name>`` other than those in `keep`."""
        wanted = {f"{prefix}.{name}.parquet" for name in keep}
        gone = [
            name
            for name in self.files.names("tables")
            if name.startswith(f"{prefix}.")
            and name.endswith(".parquet")
            and name.count(".") == 2
            and name not in wanted
        ]
        if gone:
            listed = {name: d for name, d in self._listed().items() if name not in gone}
            self.write_json(f"tables/{CHECKSUMS}", listed)
        for name in gone:
            self.files.remove(f"tables/{name}")

    def units(self, name: str) -> dict[str, str]:
        """Unit of each measurement of a recipe."""
        return self.read_json(f"tables/{name}.units.json") or {}

    def _listed(self) -> dict[str, list[str]]:
        """Digests of the tables. What is not in it cannot be checked, and is written again by the next call."""
        return self._readable(f"tables/{CHECKSUMS}") or {}

    def _is_settled(self, file: str) -> bool:
        return len(self._listed().get(file, ())) == 1

    def _replace(self, file: str, content: bytes) -> None:
        listed, digest = self._listed(), hashlib.sha256(content).hexdigest()
        both = [digest, *(d for d in listed.get(file, ()) if d != digest)]
        if listed.get(file) != both:
            self.write_json(f"tables/{CHECKSUMS}", {**listed, file: both})
        self.files.write(f"tables/{file}", content)
        if len(both) > 1:
            self.write_json(f"tables/{CHECKSUMS}", {**listed, file: [digest]})

    def _checked(self, file: str) -> bytes | None:
        """Content of a table, or None; twice if a writer was replacing it just then."""
        for _ in range(2):
            content = self._read(f"tables/{file}")
            if content is None:
                return None
            listed = self._listed().get(file)
            if listed is None or hashlib.sha256(content).hexdigest() in listed:
                return content
        raise damaged(self.url, f"tables/{file}", "its digest is not the one that was noted")

    # -- quarantine ----------------------------------------------------------------------------------

    def quarantine(self) -> list[dict[str, Any]]:
        """Refused and skipped series with their reasons, sorted by series."""
        names = [f"quarantine/{stem}.json" for stem in self._stems("quarantine", ".json")]
        return [entry for entry in self.files.each(self.read_json, names) if entry]

    def write_quarantine(self, series: str, entry: Mapping[str, Any]) -> None:
        """Note why a series was refused."""
        self.write_json(f"quarantine/{series}.json", {"series": series, **entry})

    def clear_quarantine(self, series: str) -> None:
        """Forget a refusal: the series is taken now, or gone."""
        self.files.remove(f"quarantine/{series}.json")

    # -- runs ----------------------------------------------------------------------------------------

    def runs(self) -> list[str]:
        """Ids of runs with a manifest, oldest first."""
        return self._folders_with("runs", "manifest.json")

    def manifest(self, run_id: str | None = None) -> dict[str, Any]:
        """Manifest of a run (by default of the latest that came to its end); empty when there is none."""
        if run_id is None:
            names = reversed(self.files.names("runs"))
            return next((found for name in names if (found := self.manifest(name))), {})
        return self.read_json(f"runs/{run_id}/manifest.json") or {}

    def write_manifest(self, run_id: str, manifest: Mapping[str, Any]) -> None:
        """Write the manifest of a run, with the digests of its log and of its traces: after them."""
        start = len(f"runs/{run_id}/")
        names = [name for name, _ in self.files.listing(f"runs/{run_id}")]
        contents = self.files.each(self.files.read, names)
        listed = {n[start:]: _digest(c) for n, c in zip(names, contents, strict=True)}
        self.write_json(f"runs/{run_id}/manifest.json", {**manifest, "files": listed})

    def log(self, run_id: str) -> Log:
        """Open the log of a run, lines of JSON."""
        return self.files.log(f"runs/{run_id}/events.jsonl")

    def events(self, run_id: str) -> Iterator[str]:
        """Lines of the log of a run, as far as they have been written."""
        for name in self.files.log_parts(f"runs/{run_id}/events.jsonl"):
            yield from self.files.read(name).decode("utf-8", "surrogatepass").splitlines()

    def write_failure(self, run_id: str, name: str, text: str) -> None:
        """Keep the trace of a failure with the run in which it happened."""
        self.files.write(f"runs/{run_id}/failures/{name}.txt", text.encode("utf-8", "replace"))

    # -- models, recipes, the cohort itself ------------------------------------------------------------

    def models(self) -> list[str]:
        """Models that were fitted."""
        return self._folders_with("models", "model.json")

    def mapped(self) -> list[str]:
        """Models that were fitted in every voxel; see `cohort.io.maps`."""
        return self._folders_with("models", "maps.json")

    def model(self, name: str) -> dict[str, Any] | None:
        """Resolved model (``model.json``), or None."""
        return self.read_json(f"models/{name}/model.json")

    def model_table(self, name: str, table: str) -> "pd.DataFrame":
        """Table of a model, such as ``tidy``, ``glance`` or ``augment``. Raises `StoreError` if it is damaged."""
        place = f"models/{name}/{table}.parquet"
        content = self.files.read(place)
        listed = (self.model(name) or {}).get("files", {}).get(f"{table}.parquet")
        if listed is not None and listed[0] != hashlib.sha256(content).hexdigest():
            raise StoreError(
                f"{self.url}: {place} is damaged: its digest is not the one that was noted;"
                f" remove models/{name}/model.json and call `cohort fit`"
            )
        return self._parquet(place, content)

    def write_model(
        self,
        name: str,
        tables: Mapping[str, "pd.DataFrame"],
        model: Mapping[str, Any],
        *,
        declared: str | None = None,
    ) -> None:
        """Replace a model: its tables and `declared` (``model.yaml``), then ``model.json``, without which it does not count."""
        self.files.remove(f"models/{name}/model.json")
        contents = {f"{key}.parquet": _parquet(table) for key, table in tables.items()}
        contents["tidy.csv"] = _csv(tables["tidy"])
        if declared is not None:
            contents["model.yaml"] = declared.encode()
        for file in set(self.files.names(f"models/{name}")) - set(contents):
            if file.endswith(".parquet"):  # of what the model asked for before
                self.files.remove(f"models/{name}/{file}")
        for file, content in contents.items():
            self.files.write(f"models/{name}/{file}", content)
        listed = {file: _digest(content) for file, content in contents.items()}
        self.write_json(f"models/{name}/model.json", {**model, "files": listed})

    def keeping(self) -> list[str]:
        """Models of maps: those that were fitted, and those of which something is kept for a fit; see `cohort.io.kept`."""
        records = ("maps.json", "cube.json", "sums.json")
        return sorted({name for each in records for name in self._folders_with("models", each)})

    def remove_model(self, name: str) -> None:
        """Forget a model."""
        for record in ("model.json", "maps.json", "cube.json", "sums.json"):
            self.files.remove(f"models/{name}/{record}")
        self.files.remove_tree(f"models/{name}")

    def write_recipe(self, digest: str, content: Mapping[str, Any]) -> None:
        """Keep what a recipe said, by its digest, which the records of derivatives name."""
        if not self.recipe(digest):
            self.write_json(f"recipes/{digest}.json", content)

    def recipe(self, digest: str) -> dict[str, Any]:
        """What a recipe said; empty if nobody kept it."""
        return self._readable(f"recipes/{digest}.json") or {}

    def info(self) -> dict[str, Any]:
        """``cohort.json``: format version, digest of the catalog, whether ids are kept; empty for a store not yet written to."""
        content = self._read("cohort.json")
        try:
            # Without a digest, too: a store of an earlier version is brought up to date, not taken for an empty folder.
            return {} if content is None else jsonfile.decode(content, required=False)
        except ValueError as error:
            raise StoreError(f"{self.url}: cohort.json is damaged ({error}); remove it") from error

    @property
    def ids(self) -> Literal["token", "keep"]:
        """Whether the sources' own ids stand here on purpose (keep), as the last call left it."""
        return "keep" if self.info().get("ids") == "keep" else "token"

    def write_info(
        self,
        *,
        cohort: str,
        catalog: str | None = None,
        ids: Literal["token", "keep"] | None = None,
    ) -> None:
        """Write ``cohort.json`` if it would change; of what is not given stays what is there.

        Raises
        ------
        StoreError
            If the store belongs to another cohort, or was written in a later format.
        """
        from cohort import schema

        found = self.info()
        if found and found["cohort"] != cohort:
            raise StoreError(
                f"the store {self.url} holds the cohort {found['cohort']!r}, expected {cohort!r}; give each cohort a store of its own"
            )
        if found.get("format", 0) > schema.FORMAT_VERSION:
            raise StoreError(
                f"the store {self.url} has format {found['format']}, this version reads up to {schema.FORMAT_VERSION}; upgrade cohort"
            )
        wanted = {
            "format": schema.FORMAT_VERSION,
            "cohort": cohort,
            "catalog": found.get("catalog", "") if catalog is None else catalog,
            "ids": ids or self.ids,
        }
        if found != wanted:
            self.write_json("cohort.json", wanted)

    # -- the report ------------------------------------------------------------------------------------

    def place(self, name: str) -> Path | str:
        """Where a file of the store lies, for people: a path or a URL."""
        return self.files.place(name)

    def shown(self) -> dict[str, str]:
        """Digest of every table, refusal and model: of all that a report is made from."""
        names = [f"{f}/{n}" for f in ("tables", "quarantine") for n in self.files.names(f)]
        names += [f"models/{name}/model.json" for name in self.models()]
        names += [f"models/{name}/maps.json" for name in self.mapped()]
        contents = self.files.each(self.files.read, names)
        return {n: hashlib.sha256(c).hexdigest() for n, c in zip(names, contents, strict=True)}

    def write_report(self, page: str) -> Path | str:
        """Replace ``report/index.html``; where it lies."""
        self.files.write(_PAGE, page.encode("utf-8"))
        return self.place(_PAGE)

    def stamp_report(self, inputs: str) -> None:
        """Note from what the page was made, and its digest."""
        page = hashlib.sha256(self.files.read(_PAGE)).hexdigest()
        self.write_json("report/stamp.json", {"inputs": inputs, "page": page})

    def report(self, inputs: str) -> Path | str | None:
        """Where the page lies, if it was made from `inputs` and is whole; else None."""
        stamp, page = self._readable("report/stamp.json"), self._read(_PAGE)
        if stamp is None or page is None:
            return None
        whole = stamp == {"inputs": inputs, "page": hashlib.sha256(page).hexdigest()}
        return self.place(_PAGE) if whole else None

    def scan_pages(self) -> list[str]:
        """Scans that have a page of their own, sorted; see `io.storage.scanpages`."""
        names = set(self.files.names(PAGES))
        return [s for s in self._stems(PAGES, ".json") if f"{s}.html" in names]

    # -- bytes -----------------------------------------------------------------------------------------

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file of the store, atomically, durably, with its digest."""
        self.files.write(name, jsonfile.encode(value))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Content of a JSON file of the store, or None; one without a digest is none of ours.

        Raises
        ------
        StoreError
            If it is not what was written.
        """
        content = self._read(name)
        if content is None or not jsonfile.has_digest(content):
            return None
        try:
            return jsonfile.decode(content)
        except ValueError as error:
            raise damaged(self.url, name, error) from error

    def _parquet(self, name: str, content: bytes) -> "pd.DataFrame":
        try:
            return parquet.frame(content)
        except (ValueError, OSError) as error:
            raise damaged(self.url, name, error) from error

    def _readable(self, name: str) -> dict[str, Any] | None:
        try:
            return self.read_json(name)
        except StoreError:
            return None

    def _read(self, name: str) -> bytes | None:
        try:
            return self.files.read(name)
        except FileNotFoundError:
            return None

    def _stems(self, folder: str, suffix: str) -> list[str]:
        """Names in a folder that end in `suffix`, without it, sorted."""
        return [n.removesuffix(suffix) for n in self.files.names(folder) if n.endswith(suffix)]

    def _folders_with(self, folder: str, file: str) -> list[str]:
        """Folders in `folder` that hold `file`, sorted."""
        names = self.files.names(folder)
        sizes = self.files.each(lambda name: self.files.size(f"{folder}/{name}/{file}"), names)
        return [name for name, size in zip(names, sizes, strict=True) if size is not None]


def damaged(url: str, name: str, why: object) -> StoreError:
    """What to say of a file of a store that is not what was written."""
    said = " ".join(str(why).split())  # one line, whatever a library makes of it
    return StoreError(f"{url}: {name} is damaged ({said}); remove it and call `cohort update`")


def _digest(content: bytes) -> tuple[str, int]:
    """SHA-256 and bytes, as records list them."""
    return hashlib.sha256(content).hexdigest(), len(content)


def _parquet(table: "pd.DataFrame") -> bytes:
    return table.to_parquet(None, index=False)


def _csv(table: "pd.DataFrame") -> bytes:
    """A table for spreadsheets."""
    return guarded(table).to_csv(index=False).encode("utf-8")
