"""What a notebook gathers over all scans of a cohort: a template, counts of values, a scale of intensity."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr
    from distributed import Client

    from cohort.io.store import Store
    from cohort.ops.landmarks import Landmarks


class Pooled:
    """The part of `cohort.Cohort` that looks at every scan once; memory does not grow with their number."""

    store: "Store"

    @property
    def scans(self) -> "pd.DataFrame":
        """One row a scan: keys, geometry, what the header said."""
        import pandas as pd

        table = self.store.table("scans")
        return (
            pd.DataFrame(columns=["scan_id", "participant", "subject", "session", "state"])
            if table is None
            else table
        )

    def template(
        self,
        variable: str = "image",
        *,
        scans: Iterable[str] | None = None,
        like: "xr.DataArray | str | None" = None,
        poses: "Mapping[str, xr.DataArray | np.ndarray] | None" = None,
        order: int = 1,
        client: "Client | None" = None,
    ) -> "xr.Dataset":
        """Average a variable over scans, voxel by voxel. Computed now, scan after scan: nothing is written.

        Parameters
        ----------
        variable : str
            Of the scans, such as ``image``, or what a recipe keeps, as ``<recipe>/<name>``: a mask becomes the share of scans
            in which a voxel is inside. A voxel that is NaN does not count.
        scans : iterable of str, optional
            Their ids; all by default.
        like : DataArray or str, optional
            The grid to bring every scan onto, or the scan that lies on it. A scan's voxels count as far as it reaches.
        poses : mapping of scan_id -> (4, 4) array, optional
            World -> world, mm: where each scan is moved first, such as `ops.register.register` finds. Interpolated once,
            without the blur that `space.resample` gives to what becomes coarser.
        order : 0 to 5
            Of the interpolation.
        client : distributed.Client, optional
            Sixteen scans a task; the same bits as without, for any number of workers.

        Returns
        -------
        Dataset
            ``mean`` and ``std`` (over n - 1; both float64, in the variable's unit, NaN where too few count) and ``weight`` (int32, scans
            that count there), with coordinates and ``grid``. Attributes: ``n_scans``, and ``left_out``: scans without the variable.

        Raises
        ------
        GridError
            If two scans lie on different grids, with both, or are in different units.
        ValueError
            If a scan has no pose, or as `space.affine`.
        StoreError
            If there is no scan, none has the variable, or one cannot be read.

        Notes
        -----
        In memory are three such maps for each group of scans under way, and one scan: as much for 30 scans as for 30,000.
        """
        from cohort.pipeline.pools.template import template

        return template(
            self.store,
            self._ids(scans),
            variable=variable,
            like=like,
            poses=poses,
            order=order,
            client=client,
        )

    def histogram(
        self,
        variable: str = "image",
        *,
        labels: str | None = None,
        bins: int | None = None,
        range: tuple[float, float] | None = None,
        scans: Iterable[str] | None = None,
        client: "Client | None" = None,
    ) -> "xr.Dataset":
        """Count the values of a variable over scans, in all and label by label, in one pass. Computed now; nothing is written.

        Parameters
        ----------
        variable, labels : str
            Of the scans, or what a recipe keeps, as ``<recipe>/<name>``. Labels lie on the variable's grid; a mask is the label 1.
        bins, range
            As of `ops.intensity.histogram`, the same for all scans. Without a range it goes from the smallest value of any scan to
            the largest, found in a pass of its own; without bins, each whole number from there to there has one (4,096
            where values are not whole, or over 65,536).
        scans, client
            As of `template`. Counts are exact: the same for any number of workers.

        Returns
        -------
        Dataset
            ``counts`` (bin) and, with labels, ``by_label`` (label, bin): int64, voxels. `ops.intensity.quantile` gives quantiles of
            either, within half a bin; such histograms of equal bins may be added. Attributes as of `template`.

        Raises
        ------
        GridError
            If labels and variable lie on different grids.
        ValueError
            If bins or range make no sense, no voxel is finite, labels are not integer, or two scans are in different units.
        StoreError
            As of `template`.
        """
        from cohort.pipeline.pools.intensities import histogram

        return histogram(
            self.store,
            self._ids(scans),
            variable=variable,
            labels=labels,
            bins=bins,
            range=range,
            client=client,
        )

    def landmarks(
        self,
        variable: str = "image",
        *,
        mask: str | None = None,
        at: Sequence[float] | None = None,
        scale: tuple[float, float] = (0.0, 100.0),
        scans: Iterable[str] | None = None,
        client: "Client | None" = None,
    ) -> "Landmarks":
        """Learn a scale of intensity from scans, for `ops.intensity.normalize` and the step of that name.

        Parameters
        ----------
        variable, mask : str
            Of the scans, or what a recipe keeps, as ``<recipe>/<name>``.
        at : floats, optional
            Percentiles; 1, 10, 20, ... 90, 99 by default.
        scale : (low, high)
            Where the first and the last of them lie.
        scans, client
            As of `template`.

        Returns
        -------
        Landmarks
            Small: ``.to_json()`` keeps it, ``.parameters()`` is what a step `normalize` takes. Written into a recipe it stays as
            it is when scans arrive, and so do the numbers of those that were there.

        Raises
        ------
        GridError, ValueError, StoreError
            As `histogram` and `ops.landmarks.fit_landmarks`.
        """
        from cohort.ops.landmarks import PERCENTILES
        from cohort.pipeline.pools.intensities import landmarks

        return landmarks(
            self.store,
            self._ids(scans),
            variable=variable,
            mask=mask,
            at=PERCENTILES if at is None else at,
            scale=scale,
            client=client,
        )

    def _ids(self, scans: Iterable[str] | None) -> list[str]:
        if isinstance(scans, str):
            return [scans]
        return [str(s) for s in (self.scans["scan_id"] if scans is None else scans)]
