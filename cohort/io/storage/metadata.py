"""What stands in a ``zarr.json``: how an array is cut and encoded. Made here, and looked at here before any of it is used."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from cohort.io.storage.backend import StoreError
from cohort.provenance import canonical_json

WHOLE_BYTES = 8 << 20
"""An array up to this size is one chunk."""

CHUNK = 128
"""Voxels along each spatial axis of an inner chunk of larger arrays: two canonical tiles."""

LEVEL = 1
"""Of zstd: 2 takes a third more time, 3 twice as much, for 4 to 8 % less space on scans."""

SHARD_BYTES = 256 << 20
"""A shard, the unit that one task writes and one file holds, stays below this size."""

DATA_TYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
)
"""Of stored arrays, by their names in Zarr v3: numbers, nothing that would be unpickled."""

CODECS = (("bytes", "zstd"), ("sharding_indexed",))
"""Of stored arrays. A name that is not here might be a plug-in, which runs what it likes."""


def chunking(shape: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunks and shards of an array of `shape` (..., z, y, x).

    Returns
    -------
    chunks : tuple of int
    shards : tuple of int, or None
        None where one chunk holds all. Otherwise whole multiples of `chunks`, as large as `SHARD_BYTES` allows, so
        that a scan of ordinary size is one file.

    Examples
    --------
    >>> chunking((91, 109, 91), 1)
    ((91, 109, 91), None)
    >>> chunking((256, 256, 256), 2)
    ((128, 128, 128), (256, 256, 256))
    """
    shape = tuple(int(n) for n in shape)
    if np.prod(shape, dtype=np.int64) * itemsize <= WHOLE_BYTES or len(shape) < 3:
        return shape, None
    chunks = (*(1 for _ in shape[:-3]), *(min(CHUNK, n) for n in shape[-3:]))
    shards = list(chunks)
    for axis in (len(shape) - 1, len(shape) - 2, len(shape) - 3, *range(len(shape) - 4, -1, -1)):
        others = np.prod([s for i, s in enumerate(shards) if i != axis], dtype=np.int64) * itemsize
        most = max(1, int(SHARD_BYTES // (others * chunks[axis])))
        shards[axis] = chunks[axis] * min(most, -(-shape[axis] // chunks[axis]))
    return chunks, tuple(shards)


def array_metadata(name: str, variable: xr.Variable) -> bytes:
    """``zarr.json`` of an array, byte for byte as zarr writes it."""
    dims = tuple(str(d) for d in variable.dims)
    attrs = canonical_json(named(variable.attrs))
    return _made_array(name, dims, variable.shape, variable.dtype.str, attrs)


# Scans of a cohort resemble each other: what zarr writes of an array beside its chunks is asked for once.
@functools.lru_cache(maxsize=256)
def _made_array(
    name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, attrs: str
) -> bytes:
    store = MemoryStore()
    chunks, shards = chunking(shape, np.dtype(dtype).itemsize)
    zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=LEVEL, checksum=True),
        fill_value=0,
        dimension_names=dims,
        attributes=json.loads(attrs),
        config={"write_empty_chunks": True},
    )
    return store._store_dict[f"{name}/zarr.json"].to_bytes()


def group_metadata(attrs: Mapping[Any, Any]) -> bytes:
    """``zarr.json`` of a group."""
    return _made_group(canonical_json(named(attrs)))


@functools.lru_cache(maxsize=256)
def _made_group(attrs: str) -> bytes:
    store = MemoryStore()
    zarr.create_group(store, zarr_format=3, attributes=json.loads(attrs))
    return store._store_dict["zarr.json"].to_bytes()


def named(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes by names that are text."""
    return {str(k): v for k, v in attrs.items()}


def json_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON holds them: plain numbers, text and lists."""
    return json.loads(canonical_json(named(attrs)))


def parsed_metadata(content: bytes, name: str) -> dict[str, Any]:
    """Metadata of an array or a group. Raises `StoreError` before anything of theirs is used."""
    if problem := _problem(content):
        raise StoreError(
            f"{name}: {problem}; this is no group that cohort wrote, nothing of it was read"
        )
    return json.loads(content)


# Scans of a cohort resemble each other: the same metadata are looked at once.
@functools.lru_cache(maxsize=256)
def _problem(content: bytes) -> str:
    """What is wrong with metadata, or nothing."""
    try:
        said = json.loads(content)
        if said["zarr_format"] != 3:
            return f"Zarr format {said['zarr_format']}, expected 3"
        if not isinstance(said["attributes"], dict):
            return "attributes that are no mapping"
        if said["node_type"] == "group":
            return ""
        if not isinstance(said["data_type"], str) or said["data_type"] not in DATA_TYPES:
            return (
                f"data type {said['data_type']!r}, expected one of {', '.join(sorted(DATA_TYPES))}"
            )
        if problem := _codec_problem(said["codecs"]):
            return problem
        if said.get("storage_transformers"):
            return "storage transformers, expected none"
        if (
            said["chunk_grid"]["name"] != "regular"
            or said["chunk_key_encoding"]["name"] != "default"
        ):
            return "expected a regular grid of chunks with default keys"
        sizes = [*said["shape"], *said["chunk_grid"]["configuration"]["chunk_shape"]]
        if any(type(n) is not int or n < 0 for n in sizes):
            return f"shape and chunks {sizes}, expected whole numbers"
        if len(said.get("dimension_names") or ()) != len(said["shape"]):
            return f"dims {said.get('dimension_names')} for the shape {said['shape']}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"metadata that cannot be read ({error!r})"
    return ""


def _codec_problem(codecs: Sequence[Mapping[str, Any]]) -> str:
    names = tuple(codec["name"] for codec in codecs)
    if names not in CODECS:
        return f"codecs {', '.join(map(str, names))}; expected bytes, zstd or sharding_indexed"
    own = codecs[0].get("configuration") or {}
    if names == ("sharding_indexed",):
        inner = tuple(codec["name"] for codec in own["codecs"])
        index = tuple(codec["name"] for codec in own["index_codecs"])
        if inner != ("bytes", "zstd") or index != ("bytes", "crc32c"):
            return f"codecs {inner} and {index} in a shard; expected bytes, zstd and bytes, crc32c"
        own = own["codecs"][0].get("configuration") or {}
    return "" if own.get("endian", "little") == "little" else "bytes in big-endian order"
