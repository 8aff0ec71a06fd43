"""Arrays brought to one chunking, and layers of tasks made arrays."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import dask.array as da
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from cohort.ops.graph import tasks
from cohort.ops.graph.chunking import Block, Chunks, blocks, pieces
from cohort.ops.layout import Layout, like, repeated, together

Number = float | xr.DataArray
Graph = dict[Any, Any]
"""Key -> (function, arguments), keys among the arguments."""


@dataclass(frozen=True)
class Inputs:
    """Arrays of one shape and one chunking, and numbers to go with them."""

    layout: Layout
    arrays: tuple[xr.DataArray, ...]
    """As given."""
    data: tuple[Any, ...]
    """NumPy arrays, or Dask arrays of equal chunks."""
    constants: dict[str, Any]
    """Numbers known now that hold for the whole."""
    numbers: dict[str, Any]
    """Numbers, one for each leading position; NumPy or Dask as `data`."""

    @classmethod
    def of(cls, arrays: Mapping[str, xr.DataArray], **numbers: Number) -> "Inputs":
        """Check that grids are equal, and bring all to the chunks of the first array that has some."""
        layout, variables = together(**arrays)
        data = [v.data if isinstance(v.data, da.Array) else v.values for v in variables]
        lead_shape = variables[0].shape[: len(layout.lead)]
        constants: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, value in numbers.items():
            if not isinstance(value, xr.DataArray):
                constants[name] = value
            elif value.ndim == 0 and not isinstance(value.data, da.Array):
                constants[name] = value.item()
            else:
                found[name] = _by_position(name, value, layout, lead_shape)
        given = [d.chunks for d in (*data, *found.values()) if isinstance(d, da.Array)]
        if given:
            chunks = given[0] if len(given[0]) == len(layout.dims) else None
            chunks = chunks or tuple((n,) for n in variables[0].shape)
            # Chunks without voxels, as slicing and joining leave behind: no kernel has anything to do there.
            chunks = tuple(tuple(n for n in sizes if n) for sizes in chunks)
            data = [rechunk(d, chunks) for d in data]
            found = {n: rechunk(v, chunks[: len(lead_shape)]) for n, v in found.items()}
        return cls(layout, tuple(arrays.values()), tuple(data), constants, found)

    @property
    def is_lazy(self) -> bool:
        """Whether a graph is to be built."""
        return isinstance(self.data[0], da.Array)

    @property
    def n_lead(self) -> int:
        """How many leading dims there are."""
        return len(self.layout.lead)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the arrays."""
        return tuple(self.data[0].shape)

    @property
    def chunks(self) -> Chunks:
        """Of the arrays."""
        return tuple(self.data[0].chunks)

    @property
    def sources(self) -> list[da.Array]:
        """All that a layer on these inputs depends on."""
        return [*self.data, *self.numbers.values()]

    def keys(self, block: Block) -> tuple[Hashable, ...]:
        """Of a block of each array."""
        return tuple((d.name, *block) for d in self.data)

    def number_keys(self, block: Block) -> tuple[Hashable, ...]:
        """Of the numbers that go with a block."""
        return tuple((v.name, *block[: v.ndim]) for v in self.numbers.values())

    def rechunked(self, chunks: Chunks) -> "Inputs":
        """The same arrays in other chunks."""
        return replace(self, data=tuple(rechunk(d, chunks) for d in self.data))

    def like(self, data: Any) -> xr.DataArray:
        """DataArray of `data` with the coordinates and attributes of the first array."""
        return like(self.arrays[0], self.arrays[1:], self.layout, data)


def _by_position(name: str, value: xr.DataArray, layout: Layout, shape: tuple[int, ...]) -> Any:
    """A number as an array over the leading positions."""
    if others := [str(d) for d in value.dims if d not in layout.lead]:
        raise ValueError(
            f"{name} has dims {value.dims}; it may have those over which the image is looped over, "
            f"{layout.lead}, but not {', '.join(others)}"
        )
    lead = dict(zip(layout.lead, shape, strict=True))
    variable = repeated(value.variable, lead).transpose(*layout.lead)
    return variable.data if isinstance(variable.data, da.Array) else variable.values


def rechunk(array: Any, chunks: Chunks) -> da.Array:
    """Array of the same voxels in other chunks, one task a block."""
    if not isinstance(array, da.Array):
        # A name of its own: hashing a volume to find one would take longer than most operations.
        return da.from_array(array, chunks=chunks, name=f"memory-{uuid4().hex}")
    if array.chunks == chunks:
        return array
    name = f"cut-{tokenize(array.name, chunks)}"
    dsk: Graph = {}
    for block in blocks(chunks):
        shape = tuple(c[i] for c, i in zip(chunks, block, strict=True))
        found = pieces(array.chunks, chunks, block)
        keys = ((array.name, *old) for old, _ in found)
        dsk[(name, *block)] = (partial(tasks.assemble, shape, [place for _, place in found]), *keys)
    return array_of(name, dsk, chunks, array.dtype, [array])


def lead_blocks(chunks: Chunks, n_lead: int) -> Iterator[tuple[Block, tuple[int, ...]]]:
    """Every block of the leading dims, with its shape."""
    for lead in blocks(chunks[:n_lead]):
        yield lead, tuple(c[i] for c, i in zip(chunks, lead, strict=False))


def name_of(kernel: Callable[..., Any], inputs: Inputs, *rest: Any) -> str:
    """Name of a layer: the same for the same work on the same inputs.

    Names of Dask arrays say nothing of dims: one array as (z, y, x) and as (time, y, x) is other work.
    """
    sources, work = [d.name for d in inputs.sources], (kernel.__module__, inputs.n_lead)
    token = tokenize(*work, sources, inputs.constants, list(inputs.numbers), *rest)
    return f"{kernel.__name__}-{token}"


def array_of(
    name: str, dsk: Graph, chunks: Chunks, dtype: Any, sources: Sequence[da.Array]
) -> da.Array:
    """Array whose blocks are the tasks called `name`."""
    graph = HighLevelGraph.from_collections(name, dsk, dependencies=sources)  # type: ignore[arg-type]
    return da.Array(graph, name, chunks, dtype=dtype)
