"""Intensities of a whole cohort: how often which values occur, in all and label by label, and the scale learnt from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort import grid
from cohort.io.store import Store
from cohort.kernels.tally import labels_present
from cohort.ops.histograms import histogram as count
from cohort.ops.histograms import whole_bins
from cohort.ops.landmarks import PERCENTILES, Landmarks, fit_landmarks, percentiles
from cohort.ops.layout import check_image, check_labels, unit_of
from cohort.pipeline.pools.pool import Tally, pooled, read

if TYPE_CHECKING:
    from distributed import Client

MOST_VALUES = 1 << 16
"""Whole numbers that get a bin each."""

BINS = 4096
"""Bins for values that are further apart, or not whole."""


@dataclass(frozen=True)
class _Extent:
    low: float
    high: float
    whole: bool
    """Whether all values are whole numbers."""


@dataclass(frozen=True)
class _Extents(Tally[_Extent, _Extent]):
    """Between which values all images lie."""

    variable: str

    def of(self, store: Store, scan_id: str) -> _Extent | None:
        image = read(store, scan_id, self.variable)
        if image is None:
            return None
        check_image(scan_id, image)
        values = image.values[np.isfinite(image.values)]
        if not values.size:
            return _Extent(math.inf, -math.inf, whole=True)
        whole = values.dtype.kind in "biu" or bool((values == np.rint(values)).all())
        return _Extent(float(values.min()), float(values.max()), whole)

    def added(self, part: _Extent | None, item: _Extent) -> _Extent:
        return item if part is None else self.merged(part, item)

    def merged(self, part: _Extent, later: _Extent) -> _Extent:
        low, high = min(part.low, later.low), max(part.high, later.high)
        return _Extent(low, high, part.whole and later.whole)


@dataclass
class _Counts:
    everywhere: np.ndarray
    by_label: dict[int, np.ndarray]
    units: str
    scan_id: str
    """Whose unit it is."""


@dataclass(frozen=True)
class _Counting(Tally[_Counts, _Counts]):
    """How often which values occur. Whole numbers: they add up in any order."""

    variable: str
    labels: str | None
    bins: int
    range: tuple[float, float]

    def of(self, store: Store, scan_id: str) -> _Counts | None:
        image = read(store, scan_id, self.variable)
        labels = None if self.labels is None else read(store, scan_id, self.labels)
        if image is None or (labels is None and self.labels is not None):
            return None
        found = count(image, bins=self.bins, range=self.range)
        leading = [d for d in found.dims if d != "bin"]
        by_label: dict[int, np.ndarray] = {}
        if labels is not None:
            if labels.dtype == np.bool_:
                labels = labels.astype(np.uint8)
            check_labels(scan_id, labels)
            there = labels_present(labels.values, origin=(), shape=()).tolist()
            if there:
                each = count(image, bins=self.bins, range=self.range, labels=labels, index=there)
                rows = each.sum([d for d in each.dims if d not in ("label", "bin")])
                by_label = dict(zip(there, rows.transpose("label", "bin").values, strict=True))
        return _Counts(found.sum(leading).values, by_label, unit_of(image), scan_id)

    def added(self, part: _Counts | None, item: _Counts) -> _Counts:
        return item if part is None else self.merged(part, item)

    def merged(self, part: _Counts, later: _Counts) -> _Counts:
        if part.units != later.units:
            raise ValueError(
                f"{part.scan_id} is in {part.units!r} but {later.scan_id} in {later.units!r}: expected one unit"
            )
        by_label = dict(part.by_label)
        for label, counts in later.by_label.items():
            by_label[label] = by_label[label] + counts if label in by_label else counts
        return replace(part, everywhere=part.everywhere + later.everywhere, by_label=by_label)


def histogram(
    store: Store,
    scan_ids: Sequence[str],
    *,
    variable: str = "image",
    labels: str | None = None,
    bins: int | None = None,
    range: tuple[float, float] | None = None,
    client: "Client | None" = None,
) -> xr.Dataset:
    """`Cohort.histogram` of some scans of a store."""
    if bins is not None:
        whole_bins(bins)
    if range is not None and (
        np.shape(range) != (2,) or not np.isfinite(range).all() or range[0] > range[1]
    ):
        raise ValueError(f"range is {range}, expected two finite numbers, the lower first")
    if range is None or bins is None:
        ends = pooled(_Extents(variable), store, scan_ids, what=repr(variable), client=client).part
        bins, range = _agreed(ends, bins, range)
    what = repr(variable) if labels is None else f"{variable!r} and {labels!r}"
    tally = _Counting(variable, labels, bins, range)
    found = pooled(tally, store, scan_ids, what=what, client=client)
    part = found.part
    # An image of nothing, for the names, units and edges of the bins.
    bin_of = count(
        xr.DataArray([np.nan], dims="x", attrs={"units": part.units}), bins=bins, range=range
    )["bin"]
    counts = {"counts": xr.DataArray(part.everywhere, dims="bin", attrs={"units": "voxel"})}
    if labels is not None:
        names = sorted(part.by_label)
        rows = [part.by_label[name] for name in names]
        table = np.array(rows, np.int64).reshape(len(names), bins)
        counts["by_label"] = xr.DataArray(
            table, dims=("label", "bin"), coords={"label": names}, attrs={"units": "voxel"}
        )
    attrs = {"variable": variable, **({} if labels is None else {"labels": labels})}
    return xr.Dataset(counts, attrs={**attrs, **found.attrs()}).assign_coords(bin=bin_of)


def _agreed(
    ends: _Extent, bins: int | None, range: tuple[float, float] | None
) -> tuple[int, tuple[float, float]]:
    """Bins for all scans: one a whole number, if there are only such, or of equal width between the extremes."""
    low, high = (ends.low, ends.high) if range is None else range
    if not low <= high:
        raise ValueError("no voxel of any scan is finite, so there is nothing to put into bins")
    if bins is None and ends.whole and high - low < MOST_VALUES:
        first, last = math.ceil(low), math.floor(high)
        if last < first:
            raise ValueError(f"there is no whole number from {low:g} to {high:g}: give bins")
        return last - first + 1, (first - 0.5, last + 0.5)
    return (BINS if bins is None else bins), (low, high)


@dataclass(frozen=True)
class _Percentiles(Tally[np.ndarray, list[np.ndarray]]):
    """Percentiles of each image, in a mask."""

    variable: str
    mask: str | None
    at: tuple[float, ...]

    def of(self, store: Store, scan_id: str) -> np.ndarray | None:
        image = read(store, scan_id, self.variable)
        mask = None if self.mask is None else read(store, scan_id, self.mask)
        if image is None or (mask is None and self.mask is not None):
            return None
        if set(image.dims) != set(grid.SPACE):
            raise ValueError(f"{scan_id}: {self.variable} has dims {image.dims}, expected z, y, x")
        if mask is not None and mask.dtype.kind in "iu":
            mask = mask > 0
        row = percentiles(image, at=self.at, mask=mask).values
        return row if row[0] < row[-1] else None

    def added(self, part: list[np.ndarray] | None, item: np.ndarray) -> list[np.ndarray]:
        return [*(part or []), item]

    def merged(self, part: list[np.ndarray], later: list[np.ndarray]) -> list[np.ndarray]:
        return part + later


def landmarks(
    store: Store,
    scan_ids: Sequence[str],
    *,
    variable: str = "image",
    mask: str | None = None,
    at: Sequence[float] = PERCENTILES,
    scale: tuple[float, float] = (0.0, 100.0),
    client: "Client | None" = None,
) -> Landmarks:
    """`Cohort.landmarks` of some scans of a store."""
    what = (
        repr(variable) if mask is None else f"{variable!r}, {mask!r} and more than one value there"
    )
    tally = _Percentiles(variable, mask, tuple(at))
    found = pooled(tally, store, scan_ids, what=what, client=client)
    learnt = fit_landmarks(found.part, at=at, scale=scale)
    return replace(learnt, left_out=tuple(found.left_out))
