"""A cohort as a notebook holds it."""

import difflib
from typing import TYPE_CHECKING, Literal

from cohort.grid import GridError
from cohort.io.catalog import Catalog, CatalogError
from cohort.io.store import Store, StoreError
from cohort.naming import one_named, refuse_failed
from cohort.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from cohort.fitted import Fitted
    from cohort.lineage import Explanation


SHEET = 60
"""Scans on the contact sheet of a notebook."""


class Cohort(Pooled):
    """Tables at once, images lazily.

    Parameters
    ----------
    store : Store
    catalog : Catalog, optional
        Needed for `fit` only.
    """

    def __init__(self, store: Store, catalog: Catalog | None = None) -> None:
        self.store, self.catalog = store, catalog

    def __repr__(self) -> str:
        """Name, scans, recipes and models."""
        info = self.store.info()
        recipes = ", ".join(self.recipes) or "none"
        return f"<Cohort {info.get('cohort', '?')!r}: {len(self.scans)} scans; recipes: {recipes}; models: {', '.join([*self.store.models(), *self.store.mapped()]) or 'none'}>"

    def _repr_html_(self) -> str:
        """The same with a table of recipes, for a notebook."""
        from cohort import markup

        scans = self.scans
        states = scans["state"].value_counts()
        counts = ", ".join(f"{n:,} {state}" for state, n in states.items()) or "none"
        rows = []
        for recipe in self.recipes:
            table, units = self.measurements(recipe), self.store.units(recipe)
            named = [f"{q} [{u}]" if u != "1" else q for q, u in units.items()]
            rows.append([recipe, int((table["state"] == "done").sum()), ", ".join(named)])
        return markup.block(
            f"Cohort {self.store.info().get('cohort', '?')}",
            markup.paragraph(f"Scans: {counts}"),
            markup.table(["recipe", "scans measured", "measurements"], rows),
            markup.paragraph(f"Models: {', '.join(self.store.models()) or 'none'}"),
        )

    @property
    def ids(self) -> Literal["token", "keep"]:
        """Whether the sources' own ids stand in the store on purpose (keep): as the catalog says, else the last call."""
        return self.catalog.ids if self.catalog else self.store.ids

    @property
    def participants(self) -> "pd.DataFrame | None":
        """The covariates, one row a participant or visit."""
        return self.store.table("participants")

    @property
    def recipes(self) -> list[str]:
        """Recipes with a table of measurements."""
        return self.store.recipes()

    def scan_id(self, part: str) -> str:
        """The scan that is called so, or the only one whose name holds `part`.

        Raises
        ------
        StoreError
            If there is none, naming those that are called alike, or if there are several.
        """
        if not isinstance(part, str):
            raise StoreError(
                f"expected the name of a scan or a part of it, as text; found {part!r}; `.scans` lists all"
            )
        if self.store.record(part) is not None:
            return part
        ids = [str(s) for s in self.scans["scan_id"]]
        return one_named(part, ids, what="scan", where=f"{self.store.url}; `.scans` lists all")

    def scan(self, part: str) -> "xr.Dataset":
        """One scan, by its name or a part of it that no other has, lazily.

        By its whole name, the cost does not depend on how many there are. Raises `StoreError`.
        """
        return self.store.open_scan(self.scan_id(part))

    def show(
        self,
        scan: str | None = None,
        *,
        variable: str = "image",
        plane: Literal["axial", "coronal", "sagittal"] = "axial",
        at_mm: float | None = None,
        mask: str | None = None,
        window: tuple[float, float] | None = None,
    ) -> "Figure":
        """Look at one slice of a scan; without a scan, at the contact sheet of the cohort.

        Parameters
        ----------
        scan : str, optional
            A scan, or a part of its name that no other has.
        variable, mask : str
            Of the scan, such as ``image``, or what a recipe keeps, as ``<recipe>/<name>``. A mask is drawn as an outline.
        plane, at_mm, window
            As of `reporting.figures.show`.

        Returns
        -------
        Figure
            Of a scan, only the chunks that hold the slice have been read. The contact sheet is made of thumbnails, at most
            `SHEET` of them: scans that `outliers` names are marked and come first.

        Raises
        ------
        StoreError
            If there is no such scan or variable, the recipe failed on it, or there is no scan at all.
        GridError
            If `at_mm` lies outside the scan, or the mask has another grid.
        ValueError
            If there is no such plane, or something else than the plane is asked of the contact sheet.
        """
        from cohort.reporting import figures

        if scan is None:
            if at_mm is not None or mask is not None or window is not None or variable != "image":
                raise ValueError(
                    "show() without a scan draws the contact sheet, which takes nothing but a plane; name a scan as well"
                )
            return self._sheet(plane)
        scan_id = self.scan_id(scan)
        return figures.show(
            self._variable(scan_id, variable),
            plane=plane,
            at_mm=at_mm,
            mask=None if mask is None else self._variable(scan_id, mask),
            window=window,
        )

    def _variable(self, scan_id: str, name: str) -> "xr.DataArray":
        """A variable of a scan, or what a recipe kept of it, as ``<recipe>/<name>``."""
        recipe, _, kept = name.rpartition("/")
        if recipe:
            refuse_failed(self.store, recipe, scan_id)
        found = (
            self.store.open_derivative(recipe, scan_id, variable=kept)
            if recipe
            else self.store.open_scan(scan_id)
        )
        if kept not in found:
            there = ", ".join(str(v) for v in found.data_vars if v != "affine") or "none"
            raise StoreError(
                f"{scan_id} has no variable {kept!r}{f' of {recipe}' if recipe else ''}; there are {there}"
            )
        return found[kept]

    def _sheet(self, plane: str) -> "Figure":
        from cohort.reporting import figures, slices

        ids = self._ids(None)
        if not ids:
            raise StoreError(f"there is no scan in {self.store.url}; `cohort update` brings them")
        stray = {str(s) for recipe in self.recipes for s in self.outliers(recipe)["scan_id"]}
        chosen = sorted(ids, key=lambda scan_id: scan_id not in stray)[:SHEET]
        pictures = ((s, self.store.thumbnail(s)) for s in chosen)
        cells = ((s, t.planes[slices.normal_of(t.coarse, plane)], None) for s, t in pictures)
        return figures.contact_sheet(cells, plane=plane, flagged=stray)

    def measurements(self, recipe: str) -> "pd.DataFrame":
        """One row a scan, one column a measurement; units in ``.attrs["units"]``. Raises `StoreError`."""
        table = self.store.table(recipe)
        if table is None:
            near = difflib.get_close_matches(recipe, self.recipes, n=1)
            hint = f", did you mean {near[0]}" if near else ""
            there = ", ".join(self.recipes) or "none"
            raise StoreError(f"no measurements of {recipe!r}{hint}; there are {there}")
        table.attrs["units"] = self.store.units(recipe)
        return table

    def outliers(self, recipe: str) -> "pd.DataFrame":
        """Scans with a measurement far from that of the others, or without a value: worth a look before they enter a model.

        Returns
        -------
        DataFrame
            One row a scan and quantity: scan_id, quantity, value, median (of all scans that are done), robust_z
            (``(value - median) / (1.4826 MAD)``, beyond `stats.outlying.OUTLIER_Z`), reason (in words), unit.

        Raises
        ------
        StoreError
            If nothing was measured by `recipe`.
        """
        from cohort.stats.outlying import outlying

        table = self.measurements(recipe)
        units = table.attrs["units"]
        found = outlying(table, [str(c) for c in table if c in units])
        return found.assign(unit=found["quantity"].map(units))

    def stack(self, variable: str = "image") -> "xr.DataArray":
        """All scans along a new dimension ``scan``, lazily.

        Parameters
        ----------
        variable : str
            Of the scans, such as ``image``, or what a recipe keeps, as ``<recipe>/<name>``.

        Raises
        ------
        GridError
            If two scans lie on different grids, with both.
        StoreError
            If a scan has no such variable, with those there are, or the recipe failed on it, with the reason.
        """
        import xarray as xr

        from cohort.grid import check_same_grid

        ids = self._ids(None)
        if not ids:
            raise GridError("there are no scans to stack")
        arrays = [self._variable(s, variable).chunk() for s in ids]
        for scan_id, array in zip(ids[1:], arrays[1:], strict=True):
            check_same_grid(**{ids[0]: arrays[0], scan_id: array})
        first = arrays[0]
        aligned = [a.assign_coords(first.coords) for a in arrays]
        return xr.concat(
            aligned,
            dim=xr.Variable(("scan",), ids),
            coords="minimal",
            compat="override",
            join="override",
        )

    def tree(self) -> "xr.DataTree":
        """All scans as the children of a DataTree, lazily."""
        import xarray as xr

        return xr.DataTree.from_dict({str(s): self.scan(str(s)) for s in self.scans["scan_id"]})

    def similar(self) -> "pd.DataFrame":
        """Scans that resemble each other more than those of different persons do, found by their thumbnails.

        Returns
        -------
        DataFrame
            One row a finding: ``kind`` (``duplicate``: one image twice; ``flipped``: left and right exchanged; ``swapped``: the
            labels of two subjects exchanged; ``one_person``: one person under two names), ``scan_id``, ``other``, ``r``,
            ``expected`` and ``reason`` in words. Scans that cannot be read are listed in ``.attrs["unread"]``. Where the scans could
            not be compared ``.attrs["reason"]`` says why, and a warning does: an empty table would look like a clean one.
        """
        import warnings

        from cohort.reporting.resemblance import similar

        found = similar(self.store, self.scans)
        if reason := found.attrs["reason"]:
            warnings.warn(f"nothing was compared: {reason}", stacklevel=2)
        return found

    def sql(self, query: str) -> "pd.DataFrame":
        """Query the tables with DuckDB, read-only; which there are is said in `cohort.query.views`.

        A name with other signs than letters, digits and _ stands in double quotes.

        Raises
        ------
        QueryError
            In one line.

        Examples
        --------
        ``cohort.sql('select session, avg(csf_ml) from "oasis-csf" group by session')``
        """
        from cohort.query import query as ask

        return ask(self.store, query)

    def fit(self, model: str) -> "Fitted":
        """Screen and fit a model of the catalog on the tables as they are; nothing is written.

        Returns
        -------
        Fitted
            ``.summary()`` for the eye; ``.tidy``, ``.glance``, ``.augment``, ``.rows``, ``.influence``, ``.screen``,
            ``.adjustments``, ``.tables`` for the notebook; ``.figure(kind)``.

        Raises
        ------
        CatalogError, ModelError, DesignError
            In one line.
        """
        from cohort.checking import read_recipes
        from cohort.fitted import Fitted
        from cohort.stats.models import fit_table, model_table

        if (
            self.catalog is not None
            and model in self.catalog.models
            and self.catalog.models[model].voxelwise
        ):
            raise CatalogError([f"{model!r} is a model of maps: see .voxelwise({model!r})"])
        if self.catalog is None or model not in self.catalog.models:
            known = (
                ", ".join(self.catalog.models)
                if self.catalog
                else "none: open the catalog, not the store"
            )
            raise CatalogError([f"no model {model!r}; there are {known}"])
        spec = self.catalog.models[model]
        recipes = [r.name for r in read_recipes(self.catalog)]
        table, units = model_table(self.store, self.catalog, spec, recipes)
        saved = (self.store.model(model) or {}).get("harmonization")
        return Fitted(**vars(fit_table(table, spec, units, saved=saved)))

    def voxelwise(self, model: str) -> "xr.Dataset":
        """Maps of a model that `cohort fit` fitted in every voxel, lazily.

        Returns
        -------
        Dataset
            Over contrast, z, y, x (mm): beta, se, t, p, q, hc3_t (not of ``form: streaming``), partial_r, d, with permutations
            fwe_p (and support_p); over test, z, y, x: F, F_p, F_q of ``joint``; n and dof a voxel. ``.attrs`` has ``reading``, ``warnings``, and ``peaks``, a table of clusters and peaks in mm.

        Raises
        ------
        StoreError
            If there are none.
        """
        from cohort.io import maps

        found = maps.open_maps(self.store, model)
        said = maps.record(self.store, model) or {}
        about = {key: list(said.get(key) or ()) for key in ("reading", "warnings")}
        return found.assign_attrs(about, peaks=maps.peaks(self.store, model))

    def explain(self, scan: str, quantity: str) -> "Explanation":
        """Follow a number back: value, unit, recipe, the calls it depends on and their revisions, inputs, digests, versions.

        Parameters
        ----------
        scan : str
            A scan, or a part of its name that no other has.
        quantity : str
            A column of `measurements`; ``recipe.quantity`` where two recipes measure under one name.

        Returns
        -------
        Explanation
            A mapping that shows itself line by line; its keys are said there.

        Raises
        ------
        StoreError
            If no recipe measured `quantity` on the scan; if one failed on it, with the reason.
        """
        from cohort.lineage import explain

        return explain(self.store, self.scan_id(scan), quantity)
