"""The cohort on disk: one Zarr v3 store a scan, a record beside it, tables, quarantine, runs, models.

What makes a scan be there is its **record**, ``scans/<scan_id>.json``: it holds the stamp and the digest of
every chunk, and it is written last, after the chunks are on the disk. A store without a record is the
remains of an interrupted write; readers do not see it and the next writer removes it. A chunk that the
record lists and the disk lacks is an error, never background.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import xarray as xr

from cohort import grid, provenance, schema
from cohort.io.disk import entries, lost_files, move_into_place, replace, stems
from cohort.io.group import StoreError, encode_group, json_attrs, open_group, write_blocks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Locked", "Store", "StoreError"]


_SLAB_BYTES = 64 << 20
"""Voxels are digested in slabs of about this size."""


class Locked(RuntimeError):
    """Somebody else is writing to this store."""


class Store:
    """A cohort's folder.

    Parameters
    ----------
    root : Path
        Need not exist yet; nothing is made until something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- scans and derivatives ---------------------------------------------------------------------

    def scan_ids(self) -> list[str]:
        """Scans that have a record, sorted."""
        return stems(self.root / "scans", ".json")

    def record(self, scan_id: str) -> dict[str, Any] | None:
        """Record of a scan, or None; a damaged one counts as none, so that the scan is made again."""
        return self._readable(self._scan(scan_id, ".json"))

    def missing_chunks(self, scan_id: str) -> list[str]:
        """Chunks of a scan's record that the disk lacks or holds in another size."""
        record = self.record(scan_id)
        return [] if record is None else lost_files(self._scan(scan_id, ".zarr"), record)

    def write_scan(
        self, scan_id: str, dataset: xr.Dataset, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write an encoded scan Dataset whole, then its record. One backed by Dask is written a shard at a time.

        Parameters
        ----------
        dataset : Dataset
            As `io.dicom` and `io.nifti` give it: stored integers with CF attributes.
        record : mapping
            What the record shall hold beside the digests (stamp, subject, ...).

        Returns
        -------
        dict
            The record as written.
        """
        schema.check(dataset)
        self.remove_scan(scan_id)
        final = self._scan(scan_id, ".zarr")
        digests = self._publish(dataset, final)
        # Read back where the voxels are not in memory: what Dask would have to compute again lies on the disk now.
        lazy = any(v.chunks is not None for v in dataset.variables.values())
        stored = open_group(final, decoded=False) if lazy else dataset
        image = dataset["image"]
        full = {
            "format": schema.FORMAT_VERSION,
            "scan_id": scan_id,
            **record,
            "contents": {
                str(name): _content(stored, dataset, str(name))
                for name in dataset.data_vars
                if name != "affine"
            },
            "attrs": json_attrs(dataset.attrs),
            "dims": [str(d) for d in image.dims],
            "shape": list(image.shape),
            "spacing_mm": {str(d): mm for d, mm in grid.spacing_mm(dataset).items()},
            "axcodes": "".join(grid.axis_codes(grid.affine_of(image))),
            "variables": {
                str(n): {"dtype": str(v.dtype), "shape": list(v.shape)}
                for n, v in dataset.data_vars.items()
            },
            "chunks": digests,
        }
        self.write_json(self._scan(scan_id, ".json"), full)
        return full

    def remove_scan(self, scan_id: str) -> None:
        """Remove a scan, record first; nothing happens if it is not there."""
        self._remove(self._scan(scan_id, ".json"), self._scan(scan_id, ".zarr"))

    def open_scan(self, scan_id: str) -> xr.Dataset:
        """Open one scan lazily: float32 numbers (float64 for float64 sources), nothing read yet.

        Raises
        ------
        StoreError
            If there is no such scan, or a chunk of its record is missing.
        """
        return self._open(self._scan(scan_id, ".zarr"), self.record(scan_id), scan_id)

    def open_derivative(self, recipe: str, scan_id: str) -> xr.Dataset:
        """Open the variables a recipe kept of one scan, lazily. Raises `StoreError` as `open_scan`."""
        path = self._derivative(recipe, scan_id, ".zarr")
        return self._open(path, self.derivative(recipe, scan_id), f"{recipe} of {scan_id}")

    def derivative(self, recipe: str, scan_id: str) -> dict[str, Any] | None:
        """What a recipe measured on a scan, or how it failed: the record of the derivative, or None.

        If a chunk of its kept variables is gone or cut, the record says that nothing is kept.
        """
        found = self._readable(self._derivative(recipe, scan_id, ".json"))
        if (
            found
            and found["chunks"]
            and lost_files(self._derivative(recipe, scan_id, ".zarr"), found)
        ):
            return {**found, "kept": []}
        return found

    def derivative_ids(self, recipe: str) -> list[str]:
        """Scans for which a recipe has a record."""
        return stems(self.root / "derivatives" / recipe, ".json")

    def write_derivative(
        self, recipe: str, scan_id: str, kept: xr.Dataset | Path | None, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write what a recipe leaves of a scan; the record last.

        Parameters
        ----------
        kept : Dataset, Path or None
            Variables to keep; or the folder of a Zarr group already written on this file system (`stage`); or nothing.
        """
        final = self._derivative(recipe, scan_id, ".zarr")
        self._remove(self._derivative(recipe, scan_id, ".json"), final)
        chunks: dict[str, tuple[str, int]] = {}
        if isinstance(kept, Path):
            chunks = self._publish_folder(kept, final, durable=False)
        elif kept is not None and kept.data_vars:
            chunks = self._publish(kept, final, durable=False)
        full = {
            "format": schema.FORMAT_VERSION,
            "scan_id": scan_id,
            "recipe": recipe,
            **record,
            "chunks": chunks,
        }
        self.write_json(self._derivative(recipe, scan_id, ".json"), full)
        return full

    def stage(self) -> Path:
        """A new empty folder on the store's file system, for something that is renamed into place later."""
        folder = self.root / "_staging" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    def sweep(self) -> int:
        """Remove what interrupted writers left: staging folders and stores without a record. Call under the lock."""
        swept = 0
        for entry in entries(self.root / "_staging"):
            shutil.rmtree(entry.path, ignore_errors=True)
            swept += 1
        folders = [
            self.root / "scans",
            *(Path(e.path) for e in entries(self.root / "derivatives")),
        ]
        for folder in folders:
            names = {e.name for e in entries(folder)}
            for name in sorted(names):
                partial = name.endswith(".tmp")
                unrecorded = (
                    name.endswith(".zarr") and f"{name.removesuffix('.zarr')}.json" not in names
                )
                if partial or unrecorded:
                    target = folder / name
                    shutil.rmtree(target) if target.is_dir() else target.unlink()
                    swept += 1
        return swept

    # -- tables, quarantine, runs, models ----------------------------------------------------------

    def table(self, name: str) -> "pd.DataFrame | None":
        """Table ``tables/<name>.parquet``, or None."""
        path = self.root / "tables" / f"{name}.parquet"
        if not path.exists():
            return None
        import pandas as pd

        return pd.read_parquet(path)

    def tables(self) -> list[str]:
        """Names of all tables, sorted."""
        return stems(self.root / "tables", ".parquet")

    def write_table(
        self, name: str, table: "pd.DataFrame", units: Mapping[str, str] | None = None
    ) -> None:
        """Replace a table, atomically, if it changed; `units` go to ``tables/<name>.units.json``."""
        path = self.root / "tables" / f"{name}.parquet"
        before = self.table(name)
        if before is None or not before.equals(table):
            replace(path, lambda temporary: table.to_parquet(temporary, index=False))
        if units is not None and self.units(name) != dict(units):
            self.write_json(path.with_name(f"{name}.units.json"), dict(units))

    def remove_tables(self, prefix: str, keep: Iterable[str]) -> None:
        """Remove per-label tables ``<prefix>.<name>`` other than those in `keep`."""
        wanted = {f"{prefix}.{name}.parquet" for name in keep}
        for entry in entries(self.root / "tables"):
            own = entry.name.startswith(f"{prefix}.") and entry.name.count(".") == 2
            if own and entry.name.endswith(".parquet") and entry.name not in wanted:
                Path(entry.path).unlink()

    def units(self, name: str) -> dict[str, str]:
        """Unit of each measurement of a recipe."""
        return self.read_json(self.root / "tables" / f"{name}.units.json") or {}

    def quarantine(self) -> list[dict[str, Any]]:
        """Refused and skipped series with their reasons, sorted by series."""
        folder = self.root / "quarantine"
        return [
            entry
            for stem in stems(folder, ".json")
            if (entry := self.read_json(folder / f"{stem}.json"))
        ]

    def write_quarantine(self, series: str, entry: Mapping[str, Any]) -> None:
        """Note why a series was refused."""
        self.write_json(self.root / "quarantine" / f"{series}.json", {"series": series, **entry})

    def clear_quarantine(self, series: str) -> None:
        """Forget a refusal: the series is taken now, or gone."""
        (self.root / "quarantine" / f"{series}.json").unlink(missing_ok=True)

    def runs(self) -> list[str]:
        """Ids of runs with a manifest, oldest first."""
        folder = self.root / "runs"
        return sorted(
            e.name for e in entries(folder) if (folder / e.name / "manifest.json").exists()
        )

    def manifest(self, run_id: str | None = None) -> dict[str, Any]:
        """Manifest of a run (the latest by default); empty when there is none."""
        if run_id is None:
            runs = self.runs()
            if not runs:
                return {}
            run_id = runs[-1]
        return self.read_json(self.root / "runs" / run_id / "manifest.json") or {}

    def models(self) -> list[str]:
        """Models that were fitted."""
        folder = self.root / "models"
        return sorted(e.name for e in entries(folder) if (folder / e.name / "model.json").exists())

    def model(self, name: str) -> dict[str, Any] | None:
        """Resolved model (``model.json``), or None."""
        return self.read_json(self.root / "models" / name / "model.json")

    def model_table(self, name: str, table: str) -> "pd.DataFrame":
        """Table ``tidy``, ``glance`` or ``augment`` of a model."""
        import pandas as pd

        return pd.read_parquet(self.root / "models" / name / f"{table}.parquet")

    def write_model(
        self, name: str, tables: Mapping[str, "pd.DataFrame"], model: Mapping[str, Any]
    ) -> None:
        """Replace a model: its tables, then ``model.json``, without which it does not count as fitted."""
        folder = self.root / "models" / name
        (folder / "model.json").unlink(missing_ok=True)
        for key, table in tables.items():
            replace(folder / f"{key}.parquet", partial(table.to_parquet, index=False))
        replace(folder / "tidy.csv", partial(tables["tidy"].to_csv, index=False))
        self.write_json(folder / "model.json", model)

    def remove_model(self, name: str) -> None:
        """Forget a model."""
        shutil.rmtree(self.root / "models" / name, ignore_errors=True)

    def write_recipe(self, digest: str, content: Mapping[str, Any]) -> None:
        """Keep what a recipe said, by its digest, which the records of derivatives name."""
        path = self.root / "recipes" / f"{digest}.json"
        if not path.exists():
            self.write_json(path, content)

    def recipe(self, digest: str) -> dict[str, Any]:
        """What a recipe said; empty if nobody kept it."""
        return self._readable(self.root / "recipes" / f"{digest}.json") or {}

    def info(self) -> dict[str, Any]:
        """``cohort.json``: format version and digest of the catalog; empty for a store not yet written to."""
        return self.read_json(self.root / "cohort.json") or {}

    def write_info(self, *, cohort: str, catalog: str) -> None:
        """Write ``cohort.json`` if it would change.

        Raises
        ------
        StoreError
            If the store belongs to another cohort, or was written in a later format.
        """
        found = self.info()
        if found and found["cohort"] != cohort:
            raise StoreError(
                f"the store {self.root} holds the cohort {found['cohort']!r}, expected {cohort!r}; give each cohort a store of its own"
            )
        if found.get("format", 0) > schema.FORMAT_VERSION:
            raise StoreError(
                f"the store {self.root} has format {found['format']}, this version reads up to {schema.FORMAT_VERSION}; upgrade cohort"
            )
        wanted = {"format": schema.FORMAT_VERSION, "cohort": cohort, "catalog": catalog}
        if found != wanted:
            self.write_json(self.root / "cohort.json", wanted)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing; the operating system frees it if the process dies.

        Raises
        ------
        Locked
            With who holds it, where and since when.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                stream.seek(0)
                raise Locked(
                    f"the store {self.root} is locked by {stream.read().strip() or 'another process'}"
                ) from error
            stream.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            stream.write(f"process {os.getpid()} on {socket.gethostname()} since {since} UTC\n")
            stream.flush()
            yield

    # -- bytes ---------------------------------------------------------------------------------------

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace a JSON file atomically and durably."""
        # No indent: with one, Python's slow encoder is used, and records are written by the thousand.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        replace(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """Content of a JSON file of the store, or None. Raises `StoreError` if it is damaged."""
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}); remove it and run again") from error

    def _readable(self, path: Path) -> dict[str, Any] | None:
        try:
            return self.read_json(path)
        except StoreError:
            return None

    def _scan(self, scan_id: str, suffix: str) -> Path:
        return self.root / "scans" / f"{scan_id}{suffix}"

    def _derivative(self, recipe: str, scan_id: str, suffix: str) -> Path:
        return self.root / "derivatives" / recipe / f"{scan_id}{suffix}"

    def _publish(
        self, dataset: xr.Dataset, final: Path, *, durable: bool = True
    ) -> dict[str, tuple[str, int]]:
        """Write a group beside its place, then rename it there; digest and size of each file.

        `durable` ones are synced first. What can be made again from a scan is not: thirty syncs are a fifth of a small
        scan's time, and what a power cut takes is seen by its size (`Store.derivative`) or checksum, and made again.
        """
        staged = self.stage()
        if any(v.chunks is not None for v in dataset.variables.values()):
            write_blocks(staged, dataset)
            return self._publish_folder(staged, final, durable=durable)
        files = encode_group(dataset)
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        for folder in sorted(folders - {"."}):
            (staged / folder).mkdir()
        digests = {}
        for name, content in files.items():
            (staged / name).write_bytes(content)
            digests[name] = (hashlib.sha256(content).hexdigest(), len(content))
        move_into_place(staged, final, durable=durable)
        return digests

    def _publish_folder(
        self, staged: Path, final: Path, *, durable: bool
    ) -> dict[str, tuple[str, int]]:
        """`_publish` for a group that was written block by block into a staging folder."""
        digests = {}
        for path in sorted(p for p in staged.rglob("*") if p.is_file()):
            name = path.relative_to(staged).as_posix()
            digests[name] = (provenance.file_digest(path), path.stat().st_size)
        move_into_place(staged, final, durable=durable)
        return dict(sorted(digests.items()))

    def _remove(self, record: Path, folder: Path) -> None:
        record.unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)

    def _open(self, path: Path, record: Mapping[str, Any] | None, name: str) -> xr.Dataset:
        if record is None:
            raise StoreError(f"no {name} in {self.root}; `cohort status` lists what there is")
        if lost := lost_files(path, record):
            raise StoreError(f"{name}: {'; '.join(lost[:3])}; ingest the scan again")
        if not record["chunks"]:
            return xr.Dataset()
        return open_group(path)


def _content(stored: xr.Dataset, dataset: xr.Dataset, name: str) -> str:
    """What a variable says, whatever the header around it: voxels, scaling, unit, dims and where they lie."""
    variable, said = stored[name], dataset[name]
    leading = {
        str(d): dataset[d].values for d in said.dims if d not in grid.SPACE and d in dataset.coords
    }
    thick = max(1, int(_SLAB_BYTES * said.shape[0] // max(1, said.nbytes)))
    slabs = (variable[i : i + thick].values for i in range(0, said.shape[0], thick))
    return provenance.digest(
        {
            "voxels": provenance.array_digest(said.dtype, said.shape, slabs),
            "dims": [str(d) for d in said.dims],
            "affine": dataset["affine"].values,
            "leading": leading,
            "attrs": {k: said.attrs.get(k) for k in ("scale_factor", "add_offset", "units")},
        }
    )
