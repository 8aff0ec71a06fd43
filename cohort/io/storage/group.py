"""One Dataset as one Zarr v3 group: chunked and sharded, checksummed, every chunk written, read back lazily."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from dask.base import is_dask_collection
from numcodecs import Zstd
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.storage import MemoryStore, StorePath

from cohort import grid, schema
from cohort.io.storage.backend import AWAY, Files, StoreError
from cohort.io.storage.metadata import (
    LEVEL,
    array_metadata,
    chunking,
    group_metadata,
    parsed_metadata,
)


class _Stored(BackendArray):
    """A Zarr array read on demand, decoded block by block to the numbers it stands for.

    Holds the place and the metadata, not the array: nothing is opened before the first read, and it travels light.
    """

    def __init__(
        self, files: Files, place: str, metadata: Mapping[str, Any], *, decoded: bool
    ) -> None:
        self.files, self.place, self.metadata = files, place, metadata
        self.stored = np.dtype(metadata["data_type"])
        self.shape = tuple(metadata["shape"])
        attrs = metadata["attributes"]
        self.scale = float(attrs.get("scale_factor", 1.0))
        self.offset = float(attrs.get("add_offset", 0.0))
        self.decoded = decoded
        self.is_one_chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]) == (
            self.shape
        ) and [c["name"] for c in metadata["codecs"]] == ["bytes", "zstd"]
        wide = np.float64 if self.stored == np.float64 else np.float32
        self.dtype = np.dtype(wide) if decoded else self.stored

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            stored = self._stored(key)
        except AWAY:
            raise  # says nothing against the chunk
        except (RuntimeError, ValueError, OSError) as error:
            folder, _, name = self.place.rpartition("/")
            raise StoreError(
                f"{name} of {folder.rpartition('/')[2]}: a chunk is damaged or cannot be read "
                f"({error}); {_again(self.place)}"
            ) from error
        if not self.decoded:
            return stored
        return schema.decode_array(stored, scale=self.scale, offset=self.offset)

    def _stored(self, key: tuple[Any, ...]) -> np.ndarray:
        if self.is_one_chunk:
            stored = self._chunk()
            for axis in reversed(range(len(key))):
                stored = stored[(*(slice(None),) * axis, key[axis])]
            return stored
        array = zarr.Array.from_dict(self.files.zarr_path(self.place), dict(self.metadata))
        by_place = any(isinstance(k, np.ndarray) for k in key)
        return np.asarray(array.oindex[key] if by_place else array[key])

    def _chunk(self) -> np.ndarray:
        """The one chunk there is, its checksum verified. Raises RuntimeError if it is damaged."""
        chunk = np.empty(self.shape, self.stored.newbyteorder("<"))
        Zstd().decode(self.files.read(f"{self.place}/{_only_key(self.shape)}"), out=chunk)
        return chunk


def _only_key(shape: tuple[int, ...]) -> str:
    return "/".join(["c", *("0" for _ in shape)])


def encode_group(dataset: xr.Dataset) -> dict[str, bytes]:
    """Encode a Dataset in memory as a Zarr v3 group with checksums, every chunk written.

    Masks stay bool, labels integers. The scalar coordinate ``grid`` holds nothing but its attribute, so it has no chunk.

    Returns
    -------
    dict of path -> content
        The files of the group, sorted.
    """
    files = {"zarr.json": group_metadata(dataset.attrs)}
    for name, variable in _canonical(dataset).items():
        metadata = array_metadata(name, variable)
        files[f"{name}/zarr.json"] = metadata
        if name != "grid":
            files |= {f"{name}/{key}": chunk for key, chunk in _chunks(variable, metadata).items()}
    return dict(sorted(files.items()))


def encode_groups(groups: Mapping[str, xr.Dataset]) -> dict[str, bytes]:
    """`encode_group` of Datasets on grids of their own, by the place of each below a root (``""``), which is there in any case."""
    files = {} if "" in groups else {"zarr.json": group_metadata({})}
    for place, dataset in groups.items():
        before = f"{place}/" if place else ""
        files |= {f"{before}{name}": content for name, content in encode_group(dataset).items()}
    return dict(sorted(files.items()))


def write_groups(path: Path, groups: Mapping[str, xr.Dataset]) -> None:
    """`write_blocks` of Datasets on grids of their own; the files are those of `encode_groups`."""
    if "" not in groups:
        path.mkdir(parents=True)
        (path / "zarr.json").write_bytes(group_metadata({}))
    for place, dataset in groups.items():
        write_blocks(path / place, dataset)


def write_blocks(path: Path, dataset: xr.Dataset) -> None:
    """Write a Dataset backed by Dask as a group on disk, a shard at a time, never held whole.

    Computed in this process, block after block, so that it holds one shard and one block: a shard gathered by a worker
    would be there several times over, which a small one does not survive.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "zarr.json").write_bytes(group_metadata(dataset.attrs))
    for name, variable in _canonical(dataset).items():
        (path / name).mkdir()
        (path / name / "zarr.json").write_bytes(array_metadata(name, variable))
        if name == "grid":
            continue
        target = zarr.open_array(path / name, mode="r+")
        steps = target.shards or target.chunks
        corners = itertools.product(
            *(range(0, n, s) for n, s in zip(variable.shape, steps, strict=True))
        )
        for corner in corners:
            place = tuple(slice(c, c + s) for c, s in zip(corner, steps, strict=True))
            target[place] = _gathered(variable[place])


def _gathered(variable: xr.Variable) -> np.ndarray:
    """The values of a part of an array, in C order, whatever the blocks are that it consists of."""
    if not is_dask_collection(variable.data):
        return np.ascontiguousarray(variable.values)
    out = np.empty(variable.shape, variable.dtype)
    ends = [np.cumsum(sizes) for sizes in variable.data.chunks]
    for block in np.ndindex(*variable.data.numblocks):
        place = tuple(
            slice(int(e[i]) - sizes[i], int(e[i]))
            for e, sizes, i in zip(ends, variable.data.chunks, block, strict=True)
        )
        out[place] = variable.data.blocks[block].compute(scheduler="synchronous")
    return out


def _canonical(dataset: xr.Dataset) -> dict[str, xr.Variable]:
    """Variables as they are stored: coordinates follow from the affine to the bit, and data say where they lie."""
    affine, shape = _geometry(dataset)
    found: dict[str, xr.Variable] = {str(n): v for n, v in dataset.variables.items()}
    for name in {str(n) for n in dataset.data_vars} - {"affine"}:
        found[name] = found[name].copy(deep=False)
        found[name].attrs["coordinates"] = "grid"
    return {**found, **grid.coordinates(affine, shape)}


def _chunks(variable: xr.Variable, metadata: bytes) -> dict[str, bytes]:
    """Encoded chunks of an array in memory, by key."""
    values = np.ascontiguousarray(variable.values, variable.dtype.newbyteorder("<"))
    if chunking(values.shape, values.dtype.itemsize)[1] is None:
        # One chunk, two codecs (little-endian bytes, zstd): not worth the three milliseconds of zarr's pipeline.
        return {_only_key(values.shape): bytes(Zstd(level=LEVEL, checksum=True).encode(values))}
    store = MemoryStore()
    array = zarr.Array.from_dict(StorePath(store), json.loads(metadata))
    array[...] = values
    return {path: content.to_bytes() for path, content in store._store_dict.items()}


def _geometry(dataset: xr.Dataset) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape (z, y, x); from them the coordinates follow to the bit, as `open_group` gives them back."""
    affine = grid.affine_of(dataset)
    shape = tuple(dataset.sizes[d] for d in grid.SPACE)
    for d, variable in grid.coordinates(affine, shape).items():
        off = 0.0 if d == "grid" else np.abs(variable.values - dataset[d].values).max()
        if off > grid.SAME_GRID_MM:
            raise grid.GridError(
                f"coordinate {d!r} does not follow the affine: up to {off:.3g} mm off; "
                "set both with grid.with_affine(image, affine)"
            )
    return affine, shape


def open_group(
    files: Files, place: str, chunks: Mapping[str, Sequence[Any]], *, decoded: bool = True
) -> xr.Dataset:
    """Open a group lazily; integers of ``image`` with CF attributes come back as float32.

    Several times as fast as ``xarray.open_zarr`` on a small scan, because only metadata is read, and float32 where that
    gives float64 for an offset.

    Parameters
    ----------
    files, place
        The group lies at `place` among `files`.
    chunks : mapping of name -> (SHA-256, bytes)
        The files of the group, from its record; others are not looked at.

    Raises
    ------
    StoreError
        If metadata are not those of the record, or not what `encode_group` writes.
    """
    names = [name for name in chunks if name.endswith("zarr.json")]
    found: dict[str, dict[str, Any]] = {}
    for name, content in zip(names, _metadata(files, place, names), strict=True):
        if hashlib.sha256(content).hexdigest() != chunks[name][0]:
            raise StoreError(f"{place}: {name} is damaged; {_again(place)}")
        found[name.rpartition("/")[0]] = parsed_metadata(content, f"{place}/{name}")
    attrs = found.pop("", {}).get("attributes", {})
    try:
        affine = np.array(found["grid"]["attributes"]["affine"], float).reshape(4, 4)
        shape = [found[d]["shape"][0] for d in grid.SPACE]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise StoreError(f"{place} does not say where its voxels lie ({error!r})") from error
    coords: dict[str, xr.Variable] = grid.coordinates(affine, shape)
    data: dict[str, xr.Variable] = {}
    for name, metadata in found.items():
        dims = tuple(metadata.get("dimension_names") or ())
        if name in coords:
            coords[name].attrs = metadata["attributes"]
        elif name == "affine":
            data[name] = xr.Variable(dims, affine, metadata["attributes"])
        elif dims == (name,):
            stored = _Stored(files, f"{place}/{name}", metadata, decoded=False)
            values = stored[indexing.BasicIndexer((slice(None),))]
            coords[name] = xr.Variable(dims, values, metadata["attributes"])
        else:
            data[name] = _lazy(files, f"{place}/{name}", metadata, decoded=decoded)
    return xr.Dataset(data, coords=coords, attrs=attrs)


def _metadata(files: Files, place: str, names: Sequence[str]) -> list[bytes]:
    try:
        return list(files.each(lambda name: files.read(f"{place}/{name}"), names))
    except FileNotFoundError as error:
        raise StoreError(f"{place}: metadata are missing; {_again(place)}") from error


def _again(place: str) -> str:
    """What to do about a group that is damaged: of a scan, or of the maps of a model."""
    if place.startswith("models/"):
        return "call `cohort verify --repair`, then `cohort fit`"
    return "ingest the scan again"


def _lazy(files: Files, place: str, metadata: Mapping[str, Any], *, decoded: bool) -> xr.Variable:
    is_image = place.rpartition("/")[2] == "image"
    stored = _Stored(files, place, metadata, decoded=decoded and is_image)
    hidden = ("coordinates", *(("scale_factor", "add_offset") if decoded else ()))
    attrs = {k: v for k, v in metadata["attributes"].items() if k not in hidden}
    dims = tuple(metadata["dimension_names"])
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(stored), attrs)
    shards = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    variable.encoding = {"preferred_chunks": dict(zip(dims, shards, strict=True))}
    return variable
