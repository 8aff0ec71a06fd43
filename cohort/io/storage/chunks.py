"""The files of an array as they lie in a store: which of them are chunks, and the numbers of one."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

CODECS = frozenset(("bytes", "zstd", "sharding_indexed", "crc32c"))
"""Codecs with which this package writes; none of them runs what it reads."""

FORMAT_2 = (".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Metadata of Zarr's format 2, whose filters may unpickle."""


def is_chunk(name: str) -> bool:
    """Whether a file of a store is a chunk or a shard."""
    return ".zarr/" in name and PurePosixPath(name).name not in ("zarr.json", *FORMAT_2)


def array_of(name: str) -> tuple[str, str]:
    """Array and key of a chunk: ``scans/a.zarr/image/c/0/0/0`` -> ``scans/a.zarr/image``, ``c/0/0/0``.

    The array may lie in a group of its own, and be called as it likes.

    >>> array_of("derivatives/r/a.zarr/c/c/c/0/0/0")
    ('derivatives/r/a.zarr/c/c', 'c/0/0/0')
    """
    array, found, key = name.rpartition("/c/")
    return (array, f"c/{key}") if found else (name, "")


def decoded(metadata: Mapping[str, Any], key: str, chunk: bytes) -> bytes:
    """The numbers of one chunk or shard as they lie in memory."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore, StorePath

    if any(codec["name"] not in CODECS for codec in all_codecs(metadata["codecs"])):
        return chunk  # found already; nothing here runs what it does not know
    buffer = default_buffer_prototype().buffer.from_bytes(chunk)
    array = zarr.Array.from_dict(StorePath(MemoryStore({key: buffer})), dict(metadata))
    steps = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    corner = [int(i) for i in key.split("/")[1:]]
    place = tuple(slice(i * s, (i + 1) * s) for i, s in zip(corner, steps, strict=True))
    return np.ascontiguousarray(array[place]).tobytes()


def all_codecs(codecs: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Codecs of an array, those within shards too."""
    for codec in codecs:
        yield codec
        inner = codec.get("configuration") or {}
        for part in ("codecs", "index_codecs"):
            yield from all_codecs(inner.get(part, ()))
