"""From a model of a catalog to the scans, the design and the contrasts of its maps."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort.grid import SPACE, GridError, affine_of, check_same_grid, difference, voxel_volume_mm3
from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.cube import Loader, content_of, grid_of
from cohort.io.refusal import Refused
from cohort.io.store import Store
from cohort.stats.asked.modeltable import ModelError, check_makings, model_table, standing
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.table.rows import passed_over
from cohort.stats.terms.groups import check_group, group_columns
from cohort.stats.terms.weights import among

if TYPE_CHECKING:
    import xarray as xr

Judge = Callable[[str, str, Mapping[str, str], Mapping[str, Any]], tuple[str, str, bool]]
"""``(recipe, variable, contents of the scan, record of the derivative)`` -> its state and reason as in the recipe's table, and
whether the variable is what the recipe makes of the scan now; see `cohort.pipeline.staleness.of_kept`."""

NAMED = 3
"""Scans that a message names, of those that lie on another grid."""


@dataclass(frozen=True)
class Asked:
    """What a model of maps comes to in this cohort.

    Attributes
    ----------
    model : Model
    design : Design
        Its rows in the order of their ids; the outcome is a running number, in whose place stand images.
    scans : dict of scan_id -> digest
        Of the images, in the order of the rows.
    contrasts, joint : dict of name -> weights
    blocks : (n,) array or None
    dropped : list of dict
        ``row`` and ``reason`` of each scan that is left out.
    instead : tuple of str
        A line, if the scan of some subject stands for one that cannot be used.
    mask : (z, y, x) bool, or None
    inputs : dict of name -> digest
    """

    model: Model
    design: Design
    scans: dict[str, str]
    contrasts: dict[str, np.ndarray]
    joint: dict[str, np.ndarray]
    blocks: np.ndarray | None
    dropped: list[dict[str, str]]
    instead: tuple[str, ...]
    store: Store

    @property
    def X(self) -> np.ndarray:
        """Design matrix, (n, p), rows as `scans`."""
        return self.design.X.loc[list(self.scans)].to_numpy()

    @property
    def source(self) -> "Source":
        """Where the images come from."""
        voxelwise = self.model.voxelwise
        assert voxelwise is not None
        return Source(self.store, self.model.recipe, voxelwise.variable, voxelwise.smooth_fwhm_mm)

    def image(self, scan_id: str) -> "xr.DataArray":
        """Variable of a scan, lazily. Raises `GridError` if it is no volume."""
        return self.source.image(scan_id)

    @property
    def load(self) -> Loader:
        """Numbers of a scan as they are modelled: smoothed, on the grid that `check_grids` found all to lie on."""
        source = self.source
        return Loader(source.load, source.dtypes)

    def check_grids(self) -> None:
        """Raise `GridError`, naming the scans, unless all images are volumes on one grid. No voxel is read."""
        alike: dict[str, list[str]] = {}
        for scan_id, said in self.source.grids(list(self.scans)).items():
            alike.setdefault(said, []).append(scan_id)
        images = {scans[0]: self.source.any_image(scans[0]) for scans in alike.values()}
        sizes: Counter[object] = Counter()
        for scans in alike.values():
            sizes[_place(images[scans[0]])] += len(scans)
        most = sizes.most_common(1)[0][0]
        usual = next(s for s, image in images.items() if _place(image) == most)
        self.image(usual)
        odd: dict[str, str] = {}
        for first, *others in alike.values():
            if images[first].dims != SPACE:
                said = f"{first} has the dims {', '.join(map(str, images[first].dims))}; expected z, y, x"
            else:
                said = difference(usual, images[usual], first, images[first])
            if said:
                odd |= dict.fromkeys([first, *others], said)
        if odd:
            named = ", ".join(list(odd)[:NAMED]) + (", ..." if len(odd) > NAMED else "")
            raise GridError(
                f"expected all scans on one grid, found {len(odd)} of {len(self.scans)} on another: {named} ({next(iter(odd.values()))});"
                f" leave them out with where:, or model what a recipe keeps of all scans on one grid (resample, register)"
            )

    def grid(self) -> tuple[tuple[int, ...], np.ndarray, float]:
        """Shape (z, y, x), affine, and volume of a voxel in mm3."""
        image = self.image(next(iter(self.scans)))
        return tuple(image.shape), affine_of(image), voxel_volume_mm3(image)


@dataclass(frozen=True)
class Source:
    """Images of a model of maps: a variable of the scans, or one that a recipe kept."""

    store: Store
    recipe: str | None
    variable: str
    smooth_fwhm_mm: float | None

    def image(self, scan_id: str) -> "xr.DataArray":
        """Variable of a scan, lazily. Raises `GridError` if it is no volume."""
        name, image = self.variable, self.any_image(scan_id)
        if image.dims != SPACE:
            raise GridError(
                f"{scan_id}: {name} has the dims {', '.join(map(str, image.dims))}; expected z, y, x: make a recipe keep"
                " one volume of it"
            )
        return image

    def any_image(self, scan_id: str) -> "xr.DataArray":
        """Variable of a scan, lazily, of whatever dims."""
        name = self.variable
        if self.recipe is None:
            return self.store.open_scan(scan_id)[name]
        return self.store.open_derivative(self.recipe, scan_id, variable=name)[name]

    def load(self, scan_id: str) -> np.ndarray:
        """Numbers of a scan, smoothed."""
        image = self.image(scan_id).load()
        if image.dtype.kind in "biu":
            image = image.astype(np.float32)
        if self.smooth_fwhm_mm is not None:
            image = smoothed(image, self.smooth_fwhm_mm)
        return image.to_numpy()

    def dtypes(self, ids: Sequence[str]) -> list[np.dtype]:
        """Those of the images as they are stored; `load` gives no wider ones. What lies on one grid has one dtype."""
        alike = {said: scan_id for scan_id, said in self.grids(ids).items()}
        return [self.any_image(scan_id).dtype for scan_id in alike.values()]

    def contents(self, ids: Sequence[str]) -> dict[str, str]:
        """Digest of the variable of each scan that has it, and of its grid."""
        return {s: content_of(record, self.variable) for s, record in self._records(ids)}

    def grids(self, ids: Sequence[str]) -> dict[str, str]:
        """Digest of what says where the voxels of each scan lie that has the variable."""
        return {s: grid_of(record, self.variable) for s, record in self._records(ids)}

    def _records(self, ids: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        store, inside = self.store, f"{self.variable}/"
        records = store.records(ids) if self.recipe is None else store.derivatives(self.recipe, ids)
        for scan_id, record in zip(ids, records, strict=True):
            if record is not None and any(n.startswith(inside) for n in record["chunks"]):
                yield scan_id, record

    def standing(self, ids: Sequence[str], judge: Judge) -> tuple[dict[str, str], dict[str, int]]:
        """Which scans' images are not what the recipe makes of them now, and of which libraries the others are.

        The scan's own images always are what they are.
        """
        if self.recipe is None:
            return {}, {}
        rows = []
        both = zip(self.store.records(ids), self.store.derivatives(self.recipe, ids), strict=True)
        for scan_id, (scan, found) in zip(ids, both, strict=True):
            if scan is not None and found is not None:
                state, reason, here = judge(self.recipe, self.variable, scan["contents"], found)
                rows.append((scan_id, state, reason, 1.0 if here else np.nan))
        table = pd.DataFrame(rows, columns=["scan_id", "state", "reason", "here"])
        return standing(self.recipe, table, ["here"])


def _place(image: "xr.DataArray") -> object:
    """Dims, shape and affine to a hundredth of a mm: what most scans have in common."""
    return image.dims, image.shape, tuple((np.round(affine_of(image), 2) + 0.0).ravel())


def smoothed(image: "xr.DataArray", fwhm_mm: float) -> "xr.DataArray":
    """Gaussian of a width in mm; voxels without a finite number take no part and have none then."""
    from cohort.ops.filters import gaussian

    known = abs(image) < np.inf  # false of NaN too
    if bool(known.all()):
        return gaussian(image, fwhm_mm=fwhm_mm)
    filled = gaussian(image.where(known, 0), fwhm_mm=fwhm_mm, mask=known)
    return filled.where(known)


def resolve(
    catalog: Catalog,
    name: str,
    store: Store,
    recipes: Sequence[str],
    judge: Judge,
    *,
    accept_versions: bool = False,
) -> Asked:
    """Find the scans of a model of maps and build its design.

    A scan of which the recipe kept something that is not what it makes of it now is left out, by name.

    Raises
    ------
    ModelError, DesignError
        In one line.
    """
    model = catalog.models[name]
    voxelwise = model.voxelwise
    assert voxelwise is not None
    if not catalog.sources:
        raise ModelError("maps need scans; this cohort is only a table")
    table, _ = model_table(store, catalog, model, recipes, accept_versions=accept_versions)
    if model.outcome in table:
        raise ModelError(
            f"the outcome {model.outcome!r} is a column of the table; maps are named anew, as {model.outcome}_map"
        )
    ids = [str(s) for s in table["scan_id"]]
    source = Source(store, model.recipe, voxelwise.variable, voxelwise.smooth_fwhm_mm)
    found = source.contents(ids)
    outdated, makings = source.standing(ids, judge)
    if not accept_versions:
        check_makings(makings)
    unusable = [
        w if pd.notna(w) else outdated.get(s) for s, w in zip(ids, table["unusable"], strict=True)
    ]
    table["unusable"] = pd.array(unusable, dtype="str")
    table[model.outcome] = [float(i) if s in found else np.nan for i, s in enumerate(ids)]
    lost = table[table["unusable"].notna()]
    usable = table[table["unusable"].isna()].drop(columns="unusable")
    if usable.empty:
        raise ModelError(
            f"no scans to fit: {len(table)} in the table, all left out ({lost['unusable'].iloc[0]})"
            + ("; bring them up to date with `cohort run`" if outdated else "")
        )
    design = prepare(
        usable,
        outcome=model.outcome,
        formula=model.formula,
        confounds=model.confounds,
        where=model.where,
        one_scan_per=model.one_scan_per,
    )
    if model.group is not None:
        check_group(design, model.group)
    lacks = f"missing {model.outcome}"
    said = f"no {voxelwise.variable}" + (f" of {model.recipe}" if model.recipe else "")
    left = zip(lost["scan_id"], lost["unusable"], strict=True)
    design = design.after([{"row_id": str(row), "reason": str(why)} for row, why in left], {})
    dropped = [
        {"row": e["row_id"], "reason": said if e["reason"] == lacks else e["reason"]}
        for e in design.dropped
    ]
    rows = sorted(str(i) for i in design.X.index)
    why = {entry["row"]: entry["reason"] for entry in dropped}
    blocks = None
    if voxelwise.permutations is not None and voxelwise.permutations.blocks is not None:
        column = table.set_index("scan_id")[voxelwise.permutations.blocks].loc[rows]
        if column.isna().any():
            raise ModelError(
                f"permutations: expected a block for each of {len(rows)} rows, found {column.name!r} missing in"
                f" {int(column.isna().sum())} (the first is {column.index[column.isna()][0]}); fill it in, or leave them out with where:"
            )
        blocks = column.astype(str).to_numpy()
    return Asked(
        model=model,
        design=design,
        scans={row: found[row] for row in rows},
        contrasts=_contrasts(design, model),
        joint={key: _stacked(design, model, terms) for key, terms in voxelwise.joint.items()},
        blocks=blocks,
        dropped=dropped,
        instead=tuple(passed_over(table, frozenset(rows), why, model.one_scan_per)),
        store=store,
    )


def _contrasts(design: Design, model: Model) -> dict[str, np.ndarray]:
    voxelwise = model.voxelwise
    assert voxelwise is not None
    names = list(voxelwise.contrasts or ())
    if not names:
        names = (
            group_columns(design, model.group)
            if model.group is not None
            else [c for c, role in design.roles.items() if role not in ("intercept", "confound")]
        )
        names += list(model.contrasts)
    if not names:
        raise ModelError(
            f"voxelwise.contrasts: expected a term to test, found none: {model.formula!r} has no term that is no confound; state"
            " contrasts: [Intercept] to test the mean, or name a confound"
        )
    return {name: _weights(design, model.contrasts, name) for name in names}


def _stacked(design: Design, model: Model, terms: Sequence[str]) -> np.ndarray:
    """Weights of contrasts and terms, (q, p); a term of the formula stands for all its columns."""
    rows = []
    for term in terms:
        own = [] if term in model.contrasts else _columns_of(design, term)
        rows += [_weights(design, model.contrasts, name) for name in own or [term]]
    return np.stack(rows)


def _weights(design: Design, named: Mapping[str, str], name: str) -> np.ndarray:
    """Weights of a contrast, of a column, or of a term that has one column, (p,)."""
    terms = [str(c) for c in design.X.columns]
    own = [] if name in named else _columns_of(design, name)
    if len(own) > 1:
        raise DesignError(
            f"contrasts: expected one column, found the term {name!r} with {len(own)} ({', '.join(own)}); name one of them,"
            f" or test them together: joint: {{{name}: [{name}]}}"
        )
    return among(terms, design.coding, own[0] if own else named.get(name, name))


def _columns_of(design: Design, name: str) -> list[str]:
    """Columns of a term of the formula; none of what is no term, or is itself a column."""
    columns = [str(c) for c in design.X.columns]
    if name in columns:
        return []
    pairs = zip(columns, design.terms, strict=True)
    return [column for column, term in pairs if term is not None and term.name == name]


def mask_of(catalog: Catalog, asked: Asked) -> tuple[np.ndarray | None, str | None]:
    """The mask that the model names, (z, y, x) bool, and its digest. Raises `GridError` if its grid differs, `ModelError`."""
    voxelwise = asked.model.voxelwise
    assert voxelwise is not None
    if voxelwise.mask.image is None:
        return None, None
    from cohort.io.nifti import read_labels
    from cohort.provenance import file_digest

    path = catalog.resolve(voxelwise.mask.image)
    if not path.is_file():
        raise ModelError(f"mask: expected an image at {voxelwise.mask.image!r}, found no file")
    try:
        mask = read_labels(path, name="labels")
    except Refused as error:
        if error.code == "NII-LABELS":
            raise ModelError(
                f"mask {voxelwise.mask.image}: expected 0 outside and other whole numbers inside, found that"
                f" {error.what.removesuffix(' in {0}')} (nor is NaN); cut it at a threshold first"
            ) from error
        raise ModelError(f"mask {voxelwise.mask.image}: {error}") from error
    if mask.dims != SPACE:
        raise ModelError(
            f"mask {voxelwise.mask.image}: expected one volume, found {mask.shape[0]} of them; state one as a file of its own"
        )
    first = next(iter(asked.scans))
    check_same_grid(**{first: asked.image(first), "mask": mask})
    return mask.to_numpy() != 0, file_digest(path)


def account(asked: Asked) -> dict[str, Any]:
    """How many rows there were, were used, and were left out for which reason."""
    reasons = pd.Series([entry["reason"] for entry in asked.dropped], dtype=str).value_counts()
    return {
        "n_table": asked.design.n_table,
        "n_used": len(asked.scans),
        "reasons": {str(why): int(n) for why, n in reasons.items()},
        "dropped": asked.dropped,
    }
