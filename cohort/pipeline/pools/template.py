"""A cohort's template: how its images are on average, voxel by voxel, and how they spread about that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cohort.io.store import Store, StoreError
from cohort.kernels.voxelwise import Maps
from cohort.ops import space
from cohort.pipeline.pools.pool import Frame, Tally, opened, pooled, read

if TYPE_CHECKING:
    from distributed import Client


@dataclass
class _Mean:
    frame: Frame
    maps: Maps


@dataclass(frozen=True)
class _Averaging(Tally[tuple[Frame, np.ndarray], _Mean]):
    """Images of one grid, each moved first if it is said where to."""

    variable: str
    like: Frame | None
    poses: Mapping[str, np.ndarray]
    order: int

    def among(self, scan_ids: Sequence[str]) -> "_Averaging":
        return replace(self, poses={s: self.poses[s] for s in scan_ids if s in self.poses})

    def of(self, store: Store, scan_id: str) -> tuple[Frame, np.ndarray] | None:
        image = read(store, scan_id, self.variable)
        if image is None:
            return None
        if self.like is not None or scan_id in self.poses:
            # Floats hold shares of a voxel and what is outside, which does not count.
            wide = image.dtype.kind in "iu" and image.dtype.itemsize > 2
            image = image.astype(np.float64 if wide or image.dtype == np.float64 else np.float32)
            image = self._moved(scan_id, image)
        return Frame.of(scan_id, image), image.to_numpy()

    def _moved(self, scan_id: str, image: xr.DataArray) -> xr.DataArray:
        like = None if self.like is None else self.like.array()
        if (pose := self.poses.get(scan_id)) is not None:
            return space.affine(image, pose, like=like, order=self.order, fill=np.nan)
        return space.resample(image, like=like, order=self.order, fill=np.nan)

    def added(self, part: _Mean | None, item: tuple[Frame, np.ndarray]) -> _Mean:
        frame, values = item
        if part is None:
            part = _Mean(frame, Maps.empty(values.size))
        part.frame.check(frame)
        part.maps.add(values)
        return part

    def merged(self, part: _Mean, later: _Mean) -> _Mean:
        part.frame.check(later.frame)
        part.maps.merge(later.maps)
        return part


def template(
    store: Store,
    scan_ids: Sequence[str],
    *,
    variable: str = "image",
    like: xr.DataArray | str | None = None,
    poses: Mapping[str, xr.DataArray | np.ndarray] | None = None,
    order: int = 1,
    client: "Client | None" = None,
) -> xr.Dataset:
    """`Cohort.template` of some scans of a store."""
    matrices = {s: np.asarray(m, np.float64) for s, m in (poses or {}).items()}
    if poses is not None and (without := sorted(set(scan_ids) - set(matrices))):
        more = ", ..." if len(without) > 3 else ""
        raise ValueError(
            f"{len(without)} of {len(set(scan_ids))} scans have no pose: {', '.join(without[:3])}{more}; "
            "name the others with scans="
        )
    target = None if like is None else _target(store, variable, like)
    tally = _Averaging(variable, target, matrices, order)
    found = pooled(tally, store, scan_ids, what=repr(variable), client=client)
    frame, maps = found.part.frame, found.part.maps
    here = frame.array()

    def laid_out(values: np.ndarray, units: str) -> xr.DataArray:
        return here.copy(data=values.reshape(frame.shape)).assign_attrs(units=units)

    return xr.Dataset(
        {
            "mean": laid_out(maps.average(), frame.units),
            "std": laid_out(maps.std(), frame.units),
            "weight": laid_out(maps.n, "1"),
        },
        attrs={"variable": variable, **found.attrs()},
    )


def _target(store: Store, variable: str, like: xr.DataArray | str) -> Frame:
    """The grid that is asked for, by an array or by the name of a scan."""
    if not isinstance(like, str):
        return Frame.of("like", like)
    image = opened(store, like, variable)
    if image is None:
        raise StoreError(f"like is {like!r}, a scan without {variable!r}: its grid is not known")
    return Frame.of(like, image)
