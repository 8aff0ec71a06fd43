"""Groups of arrays that are there only with their record: published, looked over, removed.

A record holds digest and size of every file of its group, and is written after them and removed before them; see
`cohort.io.store`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from cohort import provenance
from cohort.io.storage import jsonfile
from cohort.io.storage.backend import Locked, StoreError
from cohort.io.storage.contents import digests_of
from cohort.io.storage.group import encode_group, write_blocks
from cohort.io.storage.papers import Papers


class Recorded(Papers):
    """What a store does alike with the group of a scan and with that of a derivative."""

    def _publish(
        self, dataset: xr.Dataset, place: str, *, durable: bool
    ) -> dict[str, tuple[str, int]]:
        """Write a group; digest and size of each file.

        `durable` ones are on the disk when this returns. What can be made again from a scan is not: thirty syncs are a
        fifth of a small scan's time, and what a power cut takes is seen by its size (`Store.derivative`) or checksum,
        and made again.
        """
        if is_lazy(dataset):
            with self.files.staging() as folder:
                write_blocks(folder, dataset)
                return self._publish_folder(folder, place, durable=durable)
        files = encode_group(dataset)
        self.files.publish(place, files, durable=durable)
        return digests_of(files)

    def _publish_folder(
        self, folder: Path, place: str, *, durable: bool
    ) -> dict[str, tuple[str, int]]:
        """`_publish` for a group that was written block by block into a staging folder."""
        paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        digests = {
            name: (provenance.file_digest(path), path.stat().st_size)
            for name, path in sorted(paths.items())
        }
        self.files.publish_folder(place, folder, durable=durable)
        return digests

    def _commit(self, name: str, record: Mapping[str, Any], *, settled: bool = True) -> None:
        self._create(name, jsonfile.encode(record), settled=settled)

    def _create(self, name: str, content: bytes, *, settled: bool) -> None:
        try:
            self.files.create(name, content, settled=settled)
        except FileExistsError as error:
            raise Locked(f"{self.url}: somebody else wrote {name} just now; call again") from error

    def _remove(self, place: str) -> None:
        self.files.remove(f"{place}.json")
        self.files.remove_tree(f"{place}.zarr")

    def _lost(self, place: str, record: Mapping[str, Any]) -> list[str]:
        """What is wrong with the files of a group. Zarr takes a missing chunk, and a shard without bytes, for background."""
        lost, sizes = [], self.files.sizes(place, record["chunks"])
        for chunk, (_, size) in record["chunks"].items():
            if chunk not in sizes:
                lost.append(f"{chunk} is missing from the store")
            elif sizes[chunk] != size:
                lost.append(f"{chunk} has {sizes[chunk]} bytes, expected {size}")
        return lost

    def _check_whole(self, place: str, record: Mapping[str, Any] | None, name: str) -> None:
        """Raise `StoreError` unless there is a record, and every chunk of it."""
        if record is None:
            raise StoreError(f"no {name} in {self.url}; `cohort status` lists what there is")
        if lost := self._lost(place, record):
            raise StoreError(f"{name}: {'; '.join(lost[:3])}; ingest the scan again")


def is_lazy(dataset: xr.Dataset) -> bool:
    """Whether some of a Dataset is backed by Dask."""
    return any(v.chunks is not None for v in dataset.variables.values())
