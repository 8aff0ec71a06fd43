"""The scans of a model as one array (scan, z, y, x), cut so that a piece holds a part of space in every scan.

Scans are stored one by one, models need one voxel of all of them. The cube is written once, from scans that are read once,
and again when scans arrive or leave: what it holds already is taken from it. It is no source: it can always be made again.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cohort.io.storage.backend import AWAY, Files, StoreError
from cohort.io.storage.metadata import LEVEL, parsed_metadata
from cohort.kernels.heap import keep_small
from cohort.provenance import digest

TILE_BYTES = 32 << 20
"""All scans of one piece, before compression, are about this many bytes."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Tile = tuple[slice, slice, slice]


class Damaged(StoreError):
    """A piece of a cube that is missing, or not what was written. The cube can be made again."""


@dataclass(frozen=True)
class Cube:
    """A cube on a disk or in a bucket. Small and picklable; nothing is open.

    Attributes
    ----------
    files, place
        The array lies at `place` among `files`.
    metadata : mapping
        Its ``zarr.json``.
    scans : mapping of scan_id -> digest
        What each of its rows was made from, in their order.
    """

    files: Files
    place: str
    metadata: Mapping[str, Any]
    scans: Mapping[str, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return tuple(self.metadata["shape"][1:])

    @property
    def chunk(self) -> tuple[int, int, int]:
        """Voxels of a piece along z, y, x."""
        return tuple(self.metadata["chunk_grid"]["configuration"]["chunk_shape"][1:])

    def tiles(self) -> list[Tile]:
        """The pieces, in raster order."""
        return tiles(self.shape, self.chunk)

    def read(self, tile: Tile) -> np.ndarray:
        """Read all scans of a part of space, (n, z, y, x); checksums are verified. Raises `Damaged`."""
        try:
            return self._piece(tile) if tile in self.tiles() else self._part(tile)
        except AWAY:
            raise  # says nothing against the piece
        except (RuntimeError, ValueError, OSError) as error:
            said = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise Damaged(
                f"{self.place}/{self._where(tile)}: missing or damaged ({said})"
            ) from error

    def _part(self, tile: Tile) -> np.ndarray:
        """Any part of space."""
        import zarr

        array = zarr.Array.from_dict(self.files.zarr_path(self.place), dict(self.metadata))
        return np.asarray(array[(slice(None), *tile)])

    def _where(self, tile: Tile) -> str:
        """File of a piece; of any other part of space that in which it begins."""
        key = (str(part.start // size) for part, size in zip(tile, self.chunk, strict=True))
        return f"c/0/{'/'.join(key)}"

    def _piece(self, tile: Tile) -> np.ndarray:
        """A whole piece, decoded into its place: zarr would hold it twice."""
        from numcodecs import Zstd

        stored = np.dtype(self.metadata["data_type"]).newbyteorder("<")
        chunk = np.empty((max(1, len(self.scans)), *self.chunk), stored)
        Zstd().decode(self.files.read(f"{self.place}/{self._where(tile)}"), out=chunk)
        inside = tuple(slice(0, part.stop - part.start) for part in tile)
        return chunk[(slice(len(self.scans)), *inside)].astype(stored.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class Loader:
    """Scans for a cube.

    Attributes
    ----------
    load : callable
        ``scan_id -> (z, y, x)`` array.
    dtypes : callable
        ``scan_ids -> dtypes`` that occur among them, from metadata: no voxel is read.
    """

    load: Callable[[str], np.ndarray]
    dtypes: Callable[[Sequence[str]], Iterable[np.dtype]]

    def __call__(self, scan_id: str) -> np.ndarray:
        """Numbers of a scan, (z, y, x)."""
        return self.load(scan_id)


def tiles(shape: Sequence[int], chunk: Sequence[int]) -> list[Tile]:
    """Pieces of a volume, in raster order.

    >>> tiles((2, 3, 4), (1, 3, 4))
    [(slice(0, 1, None), slice(0, 3, None), slice(0, 4, None)), (slice(1, 2, None), slice(0, 3, None), slice(0, 4, None))]
    """
    steps = [range(0, n, step) for n, step in zip(shape, chunk, strict=True)]
    return [
        (
            slice(z, min(z + chunk[0], shape[0])),
            slice(y, min(y + chunk[1], shape[1])),
            slice(x, min(x + chunk[2], shape[2])),
        )
        for z, y, x in itertools.product(*steps)
    ]


def chunk_of(n: int, shape: Sequence[int], itemsize: int, tile_bytes: int) -> tuple[int, int, int]:
    """Piece of space of which `n` scans hold about `tile_bytes`: whole planes, else whole rows, else part of a row.

    >>> chunk_of(158, (91, 109, 91), 4, 64 << 20), chunk_of(40_000, (182, 218, 182), 4, 64 << 20)
    ((10, 109, 91), (1, 2, 182))
    """
    voxels = max(1, tile_bytes // (max(1, n) * itemsize))
    nz, ny, nx = (int(size) for size in shape)
    if voxels >= ny * nx:
        return min(nz, voxels // (ny * nx)), ny, nx
    if voxels >= nx:
        return 1, voxels // nx, nx
    return 1, 1, voxels


def write(
    folder: Path,
    scans: Mapping[str, str],
    load: Loader | Callable[[str], np.ndarray],
    *,
    before: Cube | None = None,
    tile_bytes: int = TILE_BYTES,
    workers: int = 2,
) -> dict[str, Any]:
    """Write a cube into an empty folder.

    Parameters
    ----------
    folder : Path
        Becomes the array; a file beside it, as large as the scans that are read, is removed again.
    scans : mapping of scan_id -> digest
        In the order of the rows.
    load : Loader, or callable
        ``scan_id -> (z, y, x)`` array; called once for each scan that `before` does not hold with the same digest. What is
        infinite becomes NaN. What is no `Loader` gives nothing wider than float32.
    before : Cube, optional
        Of the same variable and preparation.
    workers : int
        Scans that are loaded at a time.

    Returns
    -------
    dict
        The metadata of the array.

    Raises
    ------
    ValueError
        If a scan has another shape than the others, or than those that are taken from `before`, or is wider than `load` said.

    Notes
    -----
    The array is float64 if any of `scans` is, else float32, whatever `before` is: which scans arrived first, or have left,
    does not show in its bytes.
    """
    keep_small()
    kept = {} if before is None else {s: i for i, s in enumerate(before.scans)}
    old = [s for s in scans if before is not None and before.scans.get(s) == scans[s]]
    new = [s for s in scans if s not in set(old)]
    loaded = in_order(load, new, workers=workers)
    first = next(loaded, None)
    dtype = _widest(load.dtypes(list(scans)) if isinstance(load, Loader) else ())
    if first is not None:
        shape = tuple(first.shape)
        if old and before is not None and before.shape != shape:
            raise ValueError(f"{new[0]} has {shape} voxels, those that are kept {before.shape}")
    else:
        assert before is not None
        shape = before.shape
    chunk = chunk_of(len(scans), shape, dtype.itemsize, tile_bytes)
    array = _create(folder, (len(scans), *shape), chunk, dtype)
    pieces = tiles(shape, chunk)
    scratch = folder.with_name(f"{folder.name}.scratch")
    place = {s: i for i, s in enumerate(scans)}
    with scratch.open("w+b") as stream:
        rest = itertools.chain([] if first is None else [first], loaded)
        for row, (scan_id, values) in enumerate(zip(new, rest, strict=True)):
            if tuple(values.shape) != shape:
                raise ValueError(f"{scan_id} has {values.shape} voxels, the others {shape}")
            if _widest([values.dtype]).itemsize > dtype.itemsize:
                raise ValueError(
                    f"{scan_id} holds {values.dtype}, expected nothing wider than {dtype}"
                )
            # What is not finite is no number: one infinite voxel would be the most extreme of all arrangements.
            known = np.where(np.isfinite(values), values, np.nan).astype(dtype)
            _scatter(stream.fileno(), known, pieces, row, len(new))
        start = 0
        for piece in pieces:
            sizes = tuple(s.stop - s.start for s in piece)
            count = int(np.prod(sizes))
            block = np.empty((len(scans), *sizes), dtype)
            if old:
                assert before is not None
                held = before.read(piece)
                for scan_id in old:
                    block[place[scan_id]] = held[kept[scan_id]]
            for row, scan_id in enumerate(new):
                content = os.pread(
                    stream.fileno(), count * dtype.itemsize, start + row * count * dtype.itemsize
                )
                block[place[scan_id]] = np.frombuffer(content, dtype).reshape(sizes)
            array[(slice(None), *piece)] = block
            start += len(new) * count * dtype.itemsize
    scratch.unlink()
    return parsed_metadata((folder / "zarr.json").read_bytes(), str(folder))


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Map by some threads; results in order, no more of them in memory than `workers` and one."""
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def content_of(record: Mapping[str, Any], variable: str) -> str:
    """Digest of one variable of a scan and of where its voxels lie, from the digests of its files."""
    chunks = record["chunks"]
    listed = {n: said[0] for n, said in chunks.items() if n.startswith(f"{variable}/")}
    return digest([listed, grid_of(record, variable)])


def grid_of(record: Mapping[str, Any], variable: str) -> str:
    """Digest of what says of which dims and dtype a variable is, how large, and where its voxels lie; equal ones lie on one grid."""
    chunks = record["chunks"]
    place = f"{variable}/" if f"{variable}/{variable}/zarr.json" in chunks else ""
    named = (f"{place}{name}/zarr.json" for name in ("grid", "z", "y", "x", variable))
    return digest([chunks[name][0] if name in chunks else None for name in named])


def _widest(dtypes: Iterable[np.dtype]) -> np.dtype:
    """Float64 stays, everything else fits float32."""
    return np.dtype(np.float64 if any(d == np.float64 for d in dtypes) else np.float32)


def _scatter(handle: int, values: np.ndarray, pieces: Sequence[Tile], row: int, rows: int) -> None:
    """Put one scan into the scratch file, which holds all scans of a piece together."""
    start = 0
    for piece in pieces:
        content = np.ascontiguousarray(values[piece]).tobytes()
        os.pwrite(handle, content, start + row * len(content))
        start += rows * len(content)


def _create(folder: Path, shape: Sequence[int], chunk: Sequence[int], dtype: np.dtype) -> Any:
    import zarr
    from zarr.codecs import ZstdCodec

    return zarr.create_array(
        folder,
        shape=tuple(shape),
        dtype=dtype,
        chunks=(max(1, shape[0]), *chunk),
        compressors=ZstdCodec(level=LEVEL, checksum=True),
        fill_value=0,
        dimension_names=("scan", "z", "y", "x"),
        config={"write_empty_chunks": True},
    )
