"""One pass over the scans of a cohort, in this process or on workers, and what it adds up to.

Scans are taken in the order of their ids, `GROUP` at a time: a task adds up one group, scan after scan, and the driver merges
groups in their order. So the sum has the same bits for any number of workers, and no more is in memory than a part for each
group under way, however many scans there are.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import xarray as xr

from cohort.grid import GridError, check_same_grid
from cohort.io.store import Store, StoreError
from cohort.ops.layout import unit_of
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.window import Failure, each

if TYPE_CHECKING:
    from distributed import Client

GROUP = 16
"""Scans that one task adds up. Part of the order of sums: another number, other last bits."""

IN_THIS_PROCESS = 4
"""Groups that are begun before all of them have to be merged; with workers, `A_THREAD` for each of their threads."""

A_THREAD = 2

Item = TypeVar("Item")
Part = TypeVar("Part")


class Tally(Protocol[Item, Part]):
    """What to gather. Small and picklable."""

    def among(self, scan_ids: Sequence[str]) -> "Tally[Item, Part]":
        """As these scans need it: whole, or less to send."""
        del scan_ids
        return self

    def of(self, store: Store, scan_id: str) -> Item | None:
        """What one scan has to add; None if it does not have what is asked for. Raises ValueError if it cannot be added."""

    def added(self, part: Part | None, item: Item) -> Part:
        """A part and one scan more, or the part of a first scan; `part` may be changed for it."""

    def merged(self, part: Part, later: Part) -> Part:
        """Two parts as one, in their order; `part` may be changed for it."""


@dataclass
class Pool(Generic[Part]):
    """What was gathered."""

    part: Part
    n_scans: int = 1
    """That are in it."""
    left_out: list[str] = field(default_factory=list)
    """Scans that do not have what was asked for."""

    def attrs(self) -> dict[str, Any]:
        """As attributes, which a Zarr store takes."""
        return {"n_scans": self.n_scans, "left_out": list(self.left_out)}


@dataclass(frozen=True)
class _Group:
    number: int
    store: Store
    tally: Tally[Any, Any]
    scan_ids: tuple[str, ...]


def pooled(
    tally: Tally[Any, Part],
    store: Store,
    scan_ids: Sequence[str],
    *,
    what: str,
    client: "Client | None" = None,
) -> Pool[Part]:
    """Gather something from scans.

    Parameters
    ----------
    tally : Tally
    store : Store
    scan_ids : sequence of str
        Taken in sorted order, each once.
    what : str
        What the tally looks for, for the message if no scan has it.
    client : Client, optional
        None: one group after the other, here; the bits are the same.

    Raises
    ------
    GridError, ValueError
        As the tally does, of the first group that it refuses.
    StoreError
        If there is no scan, none has what is asked for, a scan cannot be read, or the pass was interrupted.
    """
    ids = sorted(set(scan_ids))
    if not ids:
        raise StoreError(
            f"no scan to take {what} of; there are none in {store.url}, or none were named"
        )
    some = [tuple(ids[first : first + GROUP]) for first in range(0, len(ids), GROUP)]
    groups = [_Group(n, store, tally.among(group), group) for n, group in enumerate(some)]
    left_out: list[str] = []
    total: Part | None = None
    n_scans = 0
    for part, n, without in _in_order(groups, client):
        left_out += without
        if n:
            total = part if total is None else tally.merged(total, part)
            n_scans += n
    if total is None:
        raise StoreError(
            f"none of {len(ids)} scans has {what}; .scan(scan_id) shows what a scan holds, and what a recipe keeps goes by "
            "'<recipe>/<name>'"
        )
    return Pool(total, n_scans, left_out)


def _in_order(
    groups: Sequence[_Group], client: "Client | None"
) -> Iterator[tuple[Any, int, list[str]]]:
    """What each group comes to, in order. A bounded number is under way or waits, so that memory is, too."""
    n = IN_THIS_PROCESS if client is None else max(1, A_THREAD * sum(client.nthreads().values()))
    stop = Stop()
    for first in range(0, len(groups), n):
        waiting: dict[int, Any] = {}
        due = first
        some = groups[first : first + n]
        for group, found, _ in each(_add_up, some, client=client, name="pool", stop=stop):
            if isinstance(found, Failure):
                raise _raised(found)
            waiting[group.number] = found
            while due in waiting:
                yield waiting.pop(due)
                due += 1
        if due < first + len(some):
            raise StoreError(
                f"stopped after {due} of {len(groups)} groups of scans: {stop.reason()}"
            )


def _raised(failure: Failure) -> Exception:
    """What a task failed with, as an error of the caller's."""
    known: Mapping[str, Callable[[str], Exception]] = {
        "GridError": GridError,
        "ValueError": ValueError,
    }
    return known.get(failure.kind, StoreError)(failure.message or failure.kind)


def _add_up(group: _Group) -> tuple[Any, int, list[str]]:
    """Part of a group, scans in it, and those left out. Called on a worker."""
    total, n, left_out = None, 0, []
    for scan_id in group.scan_ids:
        item = group.tally.of(group.store, scan_id)
        if item is None:
            left_out.append(scan_id)
        else:
            total = group.tally.added(total, item)
            n += 1
    return total, n, left_out


def opened(store: Store, scan_id: str, name: str) -> xr.DataArray | None:
    """A variable of a scan, lazily, or what a recipe kept of it, as ``<recipe>/<variable>``; None if it has no such.

    Raises
    ------
    StoreError
        If there is no such scan, or it is damaged.
    """
    recipe, _, variable = name.rpartition("/")
    if not recipe:
        return store.open_scan(scan_id).get(variable)
    record = store.derivative(recipe, scan_id)
    if record is None or variable not in record.get("kept", ()):
        return None
    return store.open_derivative(recipe, scan_id, variable=variable)[variable]


def read(store: Store, scan_id: str, name: str) -> xr.DataArray | None:
    """`opened`, in memory."""
    found = opened(store, scan_id, name)
    return None if found is None else found.compute()


@dataclass(frozen=True)
class Frame:
    """An array without its voxels: what other arrays are compared with, or brought onto. Small."""

    name: str
    """Under which an error names it."""
    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    coords: xr.Dataset
    units: str

    @classmethod
    def of(cls, name: str, image: xr.DataArray) -> "Frame":
        """That of an array."""
        return cls(name, image.dims, image.shape, image.coords.to_dataset(), unit_of(image))

    def array(self) -> xr.DataArray:
        """As an array of nothing, that takes no memory."""
        nothing = np.broadcast_to(np.int8(0), self.shape)
        return xr.DataArray(nothing, dims=self.dims, coords=self.coords.coords)

    def check(self, other: "Frame") -> None:
        """Raise GridError, with both, unless another array lies on this grid, in the same unit."""
        check_same_grid(**{self.name: self.array(), other.name: other.array()})
        if (self.dims, self.shape) != (other.dims, other.shape):
            mine, yours = (dict(zip(f.dims, f.shape, strict=True)) for f in (self, other))
            raise GridError(
                f"{self.name} is {mine} but {other.name} is {yours}: expected the same dims"
            )
        if self.units != other.units:
            raise GridError(
                f"{self.name} is in {self.units!r} but {other.name} in {other.units!r}: expected one unit"
            )
