"""The cohort on disk: one Zarr v3 store a scan, a record beside it, tables, quarantine, runs, models.

What makes a scan be there is its **record**, ``scans/<scan_id>.json``: it holds the stamp and the digest of
every chunk, and it is written last, after the chunks are on the disk. A store without a record is the
remains of an interrupted write; readers do not see it and the next writer removes it. A chunk that the
record lists and the disk lacks is an error, never background.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import xarray as xr

from cohort import grid, schema
from cohort.io import scratch, thumbnail
from cohort.io.storage.backend import Locked, StoreError, Unwritable
from cohort.io.storage.contents import contents_of, digests_of
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.group import encode_group, encode_groups, open_group
from cohort.io.storage.metadata import json_attrs
from cohort.io.storage.papers import PAGES
from cohort.io.storage.place import files_of
from cohort.io.storage.recorded import Recorded, is_lazy

__all__ = ["Locked", "Store", "StoreError"]


BESIDE_RECORDS = ("zarr", thumbnail.SUFFIX[1:])
"""Endings of what is there only if there is a record."""


class Store(Recorded):
    """A cohort's folder, or its prefix of a bucket.

    Parameters
    ----------
    root : Path or str
        A folder, or ``s3://bucket/prefix``. Need not exist yet; nothing is made until something is written.

    Notes
    -----
    Small and picklable. A copy made while the store is locked stops committing when another writer takes it over.
    """

    def __init__(self, root: Path | str) -> None:
        super().__init__(files_of(root))

    @property
    def root(self) -> Path:
        """The folder. Raises `StoreError` for a bucket, which has none."""
        if isinstance(self.files, LocalFiles):
            return self.files.root
        raise StoreError(f"{self.url} is no folder on this machine")

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder."""
        return isinstance(self.files, LocalFiles)

    # -- scans and derivatives ---------------------------------------------------------------------

    def scan_ids(self) -> list[str]:
        """Scans that have a record, sorted."""
        return self._stems("scans", ".json")

    def record(self, scan_id: str) -> dict[str, Any] | None:
        """Record of a scan, or None; a damaged one counts as none, so that the scan is made again."""
        return self._readable(f"scans/{scan_id}.json")

    def records(self, scan_ids: Iterable[str]) -> Iterator[dict[str, Any] | None]:
        """`record` of each scan, in order."""
        return self.files.each(self.record, scan_ids)

    def missing_chunks(self, scan_id: str) -> list[str]:
        """Chunks of a scan's record that the store lacks or holds in another size."""
        return self._standing(scan_id)[1]

    def standing(
        self, scan_ids: Iterable[str]
    ) -> Iterator[tuple[dict[str, Any] | None, list[str]]]:
        """`record` and `missing_chunks` of each scan, in order."""
        return self.files.each(self._standing, scan_ids)

    def _standing(self, scan_id: str) -> tuple[dict[str, Any] | None, list[str]]:
        record = self.record(scan_id)
        return record, [] if record is None else self._lost(f"scans/{scan_id}.zarr", record)

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
        place = f"scans/{scan_id}.zarr"
        if is_lazy(dataset):
            digests = self._publish(dataset, place, durable=True)
            # What Dask would have to compute again lies in the store now.
            stored = open_group(self.files, place, digests, decoded=False)
            contents = contents_of(stored, dataset)
            picture = self._write_thumbnail(scan_id, stored, dataset)
        else:
            files = encode_group(dataset)
            with ThreadPoolExecutor(1) as pool:
                # The disk works while the processor digests; nothing refers to the group before both are done.
                published = pool.submit(self.files.publish, place, files, durable=True)
                digests, contents = digests_of(files), contents_of(dataset, dataset)
                picture = self._write_thumbnail(scan_id, dataset, dataset)
                published.result()
        image = dataset["image"]
        full = {
            "format": schema.FORMAT_VERSION,
            "scan_id": scan_id,
            **record,
            "contents": contents,
            "attrs": json_attrs(dataset.attrs),
            "dims": [str(d) for d in image.dims],
            "shape": list(image.shape),
            "spacing_mm": {str(d): mm for d, mm in grid.spacing_mm(dataset).items()},
            "axcodes": "".join(grid.axis_codes(grid.affine_of(image))),
            "variables": {
                str(n): {"dtype": str(v.dtype), "shape": list(v.shape)}
                for n, v in dataset.data_vars.items()
            },
            "thumbnail": picture,
            "chunks": digests,
        }
        self._commit(f"scans/{scan_id}.json", full)
        return full

    def _write_thumbnail(
        self, scan_id: str, stored: xr.Dataset, dataset: xr.Dataset
    ) -> tuple[str, int]:
        content = thumbnail.make(stored, dataset)
        self._create(f"scans/{scan_id}{thumbnail.SUFFIX}", content, settled=False)
        return hashlib.sha256(content).hexdigest(), len(content)

    def thumbnail(self, scan_id: str) -> thumbnail.Thumbnail:
        """Mid planes and coarse volume of a scan, from the file made at ingest; two small files are read.

        A scan without one, or whose is damaged, is read chunk by chunk instead; nothing is written.

        Raises
        ------
        StoreError
            As `open_scan`.
        """
        record = self.record(scan_id)
        if record is not None and "thumbnail" in record:
            with suppress(FileNotFoundError):
                content = self.files.read(f"scans/{scan_id}{thumbnail.SUFFIX}")
                if hashlib.sha256(content).hexdigest() == record["thumbnail"][0]:
                    return thumbnail.read(content)
        scan = self.open_scan(scan_id)
        return thumbnail.read(thumbnail.make(scan, scan))

    def remove_scan(self, scan_id: str) -> None:
        """Remove a scan, record first; nothing happens if it is not there."""
        self._remove(f"scans/{scan_id}")
        self.files.remove(f"scans/{scan_id}{thumbnail.SUFFIX}")

    def open_scan(self, scan_id: str, *, decoded: bool = True) -> xr.Dataset:
        """Open one scan lazily: float32 numbers (float64 for float64 sources), nothing read yet.

        Without `decoded`, stored numbers with ``scale_factor`` and ``add_offset`` among the attributes.

        Raises
        ------
        StoreError
            If there is no such scan, or a chunk of its record is missing.
        """
        place, record = f"scans/{scan_id}.zarr", self.record(scan_id)
        self._check_whole(place, record, scan_id)
        chunks = {} if record is None else record["chunks"]
        return open_group(self.files, place, chunks, decoded=decoded)

    def open_derivative(
        self, recipe: str, scan_id: str, *, variable: str | None = None
    ) -> xr.Dataset:
        """Open what a recipe kept of one scan, lazily.

        Parameters
        ----------
        variable : str, optional
            The Dataset that holds it: of one on another grid than the scan's, such as a resampled image, that is one of its
            own. By default, what lies on the scan's grid.

        Raises
        ------
        StoreError
            As `open_scan`, or if no such variable was kept.
        """
        place, name = f"derivatives/{recipe}/{scan_id}.zarr", f"{recipe} of {scan_id}"
        record = self.derivative(recipe, scan_id)
        self._check_whole(place, record, name)
        chunks: dict[str, Any] = {} if record is None else record["chunks"]
        apart = {
            n for n, _, _ in (c.partition("/") for c in chunks) if f"{n}/{n}/zarr.json" in chunks
        }
        if variable in apart:
            mine = f"{variable}/"
            inside = {c.removeprefix(mine): d for c, d in chunks.items() if c.startswith(mine)}
            return open_group(self.files, f"{place}/{variable}", inside)
        here = {c: said for c, said in chunks.items() if c.partition("/")[0] not in apart}
        found = open_group(self.files, place, here) if here.keys() - {"zarr.json"} else xr.Dataset()
        if variable is not None and variable not in found:
            there = ", ".join(sorted({*apart, *map(str, found.data_vars)} - {"affine"}))
            raise StoreError(f"{name}: {variable!r} was not kept; kept was {there or 'nothing'}")
        return found

    def derivative(self, recipe: str, scan_id: str) -> dict[str, Any] | None:
        """What a recipe measured on a scan, or how it failed: the record of the derivative, or None.

        If a chunk of its kept variables is gone or cut, the record says that nothing is kept.
        """
        found = self._readable(f"derivatives/{recipe}/{scan_id}.json")
        if found and found["chunks"] and self._lost(f"derivatives/{recipe}/{scan_id}.zarr", found):
            return {**found, "kept": []}
        return found

    def derivative_ids(self, recipe: str) -> list[str]:
        """Scans for which a recipe has a record."""
        return self._stems(f"derivatives/{recipe}", ".json")

    def derivatives(self, recipe: str, scan_ids: Iterable[str]) -> Iterator[dict[str, Any] | None]:
        """`derivative` of each scan, in order."""
        # Asked for once: most scans of a new recipe have none, and in a bucket every question costs a request.
        there = set(self.derivative_ids(recipe))
        return self.files.each(
            lambda scan_id: self.derivative(recipe, scan_id) if scan_id in there else None, scan_ids
        )

    def write_derivative(
        self,
        recipe: str,
        scan_id: str,
        kept: xr.Dataset | Mapping[str, xr.Dataset] | Path | None,
        record: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write what a recipe leaves of a scan; the record last.

        Parameters
        ----------
        kept : Dataset, mapping, Path or None
            Variables to keep; those on other grids in Datasets of their own, by name, beside the one on the scan's (``""``); or
            Zarr groups already written into a folder from `stage`; or nothing.

        Notes
        -----
        Until `settle`, a power cut may take the record, whole, as if the scan had not been measured yet: to wait for the
        disk twice for each of them would cost more than a small scan does.
        """
        place = f"derivatives/{recipe}/{scan_id}"
        self._remove(place)
        chunks: dict[str, tuple[str, int]] = {}
        if isinstance(kept, Path):
            chunks = self._publish_folder(kept, f"{place}.zarr", durable=False)
        elif isinstance(kept, xr.Dataset) and kept.data_vars:
            chunks = self._publish(kept, f"{place}.zarr", durable=False)
        elif kept is not None and not isinstance(kept, xr.Dataset) and kept:
            files = encode_groups(kept)
            self.files.publish(f"{place}.zarr", files, durable=False)
            chunks = digests_of(files)
        full = {
            "format": schema.FORMAT_VERSION,
            "scan_id": scan_id,
            "recipe": recipe,
            **record,
            "chunks": chunks,
        }
        self._commit(f"{place}.json", full, settled=False)
        return full

    def settle(self, recipe: str) -> None:
        """Bring to the disk that the records of a recipe are there; what stands in them is already."""
        self.files.settle(f"derivatives/{recipe}")

    def stage(self) -> AbstractContextManager[Path]:
        """A new empty local folder for what `write_derivative` takes; removed afterwards."""
        return self.files.staging()

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for writing; free again if the process dies, in a bucket after a minute.

        Raises
        ------
        Locked
            With who holds it, where and since when.
        """
        return self.files.lock()

    @contextmanager
    def still(self) -> Iterator[None]:
        """`lock` for somebody who only looks; a disk that takes nothing is looked at without. Raises `Locked`."""
        with ExitStack() as stack:
            with suppress(Unwritable):
                stack.enter_context(self.lock())
            yield

    def sweep(self) -> int:
        """Remove what interrupted writers left: staging folders and groups without a record. Call under the lock.

        Copies of scans that killed processes left on this machine go, too.
        """
        scratch.sweep()  # not counted: they are not of the store
        swept = self.files.sweep()
        recipes = [f"derivatives/{name}" for name in self.files.names("derivatives")]
        for folder in ("scans", *recipes):
            names = set(self.files.names(folder))
            for name in sorted(names):
                stem, _, ending = name.rpartition(".")
                if ending != "tmp" and (ending not in BESIDE_RECORDS or f"{stem}.json" in names):
                    continue
                if ending == "zarr":
                    self.files.remove_tree(f"{folder}/{name}")
                else:
                    self.files.remove(f"{folder}/{name}")
                swept += 1
        if self.is_local:  # in a bucket nothing is written beside its place
            models = [f"models/{name}" for name in self.files.names("models")]
            for folder in ("", "tables", "quarantine", "recipes", "report", PAGES, *models):
                for name in self.files.names(folder):
                    if name.endswith(".tmp"):
                        self.files.remove(f"{folder}/{name}".lstrip("/"))
                        swept += 1
        return swept
