"""The models of maps of a catalog: make the cube, fit what is stale, and write ``models/<model>/``."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

import cohort
from cohort import provenance
from cohort.io import cube as cubes
from cohort.io import kept
from cohort.io import maps as stored
from cohort.io.catalog import Catalog
from cohort.io.cube import Cube
from cohort.io.store import Store
from cohort.kernels import glm
from cohort.stats import voxelwise
from cohort.stats.columns import DesignError
from cohort.stats.exchanges.scheme import Permutations
from cohort.stats.voxels.asked import Asked, Judge, account, mask_of, resolve
from cohort.stats.voxels.streaming import fit_sums
from cohort.stats.voxels.wording import sentences, warnings

LEVEL = 0.05

PREPARED = 2
"""Raised when scans are brought into the cube otherwise than before: it is made anew."""

NARROW = (
    "q",
    "F_q",
    "partial_r",
    "d",
    "p_permuted",
    "fwe_p",
    "support",
    "support_p",
    "hc3_p",
    "sigma",
    "mean",
)
"""Maps that are stored as float32."""


@dataclass(frozen=True)
class Mapped:
    """What a fit of maps says on a terminal.

    Attributes
    ----------
    record : dict
        ``maps.json``.
    peaks : DataFrame
    """

    record: dict[str, Any]
    peaks: pd.DataFrame
    warnings: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """What was found, in sentences."""
        return [str(line) for line in self.record["reading"]]


def fit_maps(
    catalog: Catalog,
    name: str,
    store: Store,
    recipes: Sequence[str],
    *,
    judge: Judge,
    accept_versions: bool = False,
    workers: int | None = None,
    client: Any = None,
    tile_bytes: int = cubes.TILE_BYTES,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Mapped | None:
    """Fit one model of maps and write it, unless the same was fitted to the same scans before.

    Parameters
    ----------
    judge : callable
        Says of what a recipe kept of a scan whether it is what the recipe makes of it now.
    accept_versions : bool
        As for `model_table`.
    workers : int, optional
        Threads; one a processor, at most 4, by default: each holds a piece of the cube.
    client : distributed.Client, optional
        Whose workers see the store; threads of this process otherwise, and for sums in any case.

    Returns
    -------
    Mapped or None
        None if the maps in the store are fresh; of rows that are left out their record tells what is so now.

    Raises
    ------
    ValueError
        In one line, if the model cannot be fitted.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    asked = resolve(catalog, name, store, recipes, judge, accept_versions=accept_versions)
    model, wanted = asked.model, asked.model.voxelwise
    assert wanted is not None
    asked.check_grids()
    mask, mask_digest = mask_of(catalog, asked)
    _, affine, voxel_mm3 = asked.grid()
    inputs = {
        "design": provenance.digest(
            {"columns": list(map(str, asked.design.X.columns)), "X": asked.X.tolist()}
        ),
        "scans": provenance.digest(asked.scans),
        "blocks": provenance.digest(None if asked.blocks is None else asked.blocks.tolist()),
        "mask": str(mask_digest),
    }
    if asked.instead:
        inputs["instead"] = provenance.digest(list(asked.instead))
    params = model.model_dump(mode="json")
    stamp = provenance.Stamp(inputs, "voxelwise", params, voxelwise.REVISION).digest
    before = stored.record(store, name)
    if before is not None and before["stamp"] == stamp:
        # Of rows that are left out no map is made, but the record says how many there are and why.
        now = {"rows": account(asked), "warnings": _doubts(before, asked)}
        if any(before[key] != said for key, said in now.items()):
            store.write_json(f"models/{name}/{stored.RECORD}", {**before, **now})
        return None
    permutations = None
    if wanted.permutations is not None:
        said = wanted.permutations
        permutations = Permutations(
            said.seed, said.n, said.scheme, asked.blocks, said.exchange, said.tail
        )
    try:
        # Before what is kept makes room for what a model needs that cannot be fitted.
        glm.factor(asked.X, np.stack(list(asked.contrasts.values())), tuple(asked.joint.values()))
        if permutations is not None:
            for key, weights in asked.contrasts.items():
                permutations.of(asked.X, weights, rows=np.arange(len(asked.X)), name=key)
    except glm.DependentColumns as error:
        raise DesignError(f"the design of the maps: {error}") from error
    about: dict[str, Any] = {"scans": asked.scans, "stamp": stamp, "inputs": inputs}
    if wanted.form == "streaming":
        found, read = fit_sums(store, name, asked, mask, workers=workers, progress=progress)
        return _written(store, name, asked, found, affine, {"sums": read, **about})

    def fitted() -> voxelwise.Maps:
        cube = prepared_cube(store, name, asked, workers=workers, tile_bytes=tile_bytes)
        return voxelwise.fit(
            cube,
            asked.X,
            asked.contrasts,
            joint=asked.joint,
            mask=mask,
            above=wanted.mask.above,
            share=wanted.mask.share,
            permutations=permutations,
            threshold=wanted.cluster_threshold,
            tfce=wanted.tfce,
            neighbours=wanted.neighbours,
            voxel_mm3=voxel_mm3,
            workers=workers,
            client=client,
            progress=progress,
        )

    again = ""
    try:
        found = fitted()
    except cubes.Damaged as error:
        again = f"{error}; the cube was made anew from all scans"
    if again:  # out of the handler, which holds what was read
        kept.forget(store, name, stored.CUBE)
        found = fitted()
    made = _written(store, name, asked, found, affine, about)
    return replace(made, warnings=(again, *made.warnings)) if again else made


def _written(
    store: Store,
    name: str,
    asked: Asked,
    found: voxelwise.Maps,
    affine: np.ndarray,
    about: dict[str, Any],
) -> Mapped:
    """Write maps, their tables and their record."""
    from cohort.stats.models import declared

    model, peaks = asked.model, found.peaks(affine)
    scans = list(asked.scans)
    record = {
        "model": name,
        **about,
        "revision": voxelwise.REVISION,
        "outcome": model.outcome,
        "formula": model.formula,
        "fitted": f"{model.outcome} ~ {asked.design.formula}",
        "confounds": model.confounds,
        "where": model.where,
        "group": model.group,
        "columns": [str(c) for c in asked.design.X.columns],
        "contrasts": {key: weights.tolist() for key, weights in asked.contrasts.items()},
        "joint": {key: weights.tolist() for key, weights in asked.joint.items()},
        "declared": model.model_dump(mode="json", exclude_defaults=True),
        "rows": account(asked),
        "shape": list(found.shape),
        "affine": affine.ravel().tolist(),
        "voxels": {
            "grid": found.n_grid,
            "mask": found.n_mask,
            "fitted": len(found.voxels),
            "left_out": found.left_out,
            "complete": int((found.by_voxel["n"] == len(scans) - len(found.empty)).sum()),
        },
        "empty": [scans[row] for row in found.empty],
        "threshold": found.threshold,
        "permutations": {
            key: {
                "n": one.count,
                "critical_t": one.critical(LEVEL) if np.isfinite(one.critical(LEVEL)) else None,
                "smallest_p": one.smallest,
                "exhaustive": one.exhaustive,
                "doubts": list(one.doubts),
                "tails": {what: asdict(tail) for what, tail in one.tails.items()},
            }
            for key, one in found.arranged.items()
        },
        "versions": {"cohort": cohort.__version__, "numpy": np.__version__},
    }
    record["reading"] = sentences(record, found, peaks)
    record["warnings"] = _doubts(record, asked)
    design = asked.design.X.loc[scans].rename_axis("scan_id").reset_index()
    tables = {"peaks": peaks, "design": design}
    if found.arranged:
        tables["maximum"] = pd.concat(
            [
                pd.DataFrame(one.maximum)
                .assign(contrast=key)
                .rename_axis("arrangement")
                .reset_index()
                for key, one in found.arranged.items()
            ],
            ignore_index=True,
        )
    dataset = stored.as_dataset(_volumes(found), affine)
    keep = "sums" if "sums" in about else stored.CUBE
    stored.write(store, name, dataset, tables, record, declared=declared(name, model), keep=keep)
    return Mapped(record, peaks, tuple(record["warnings"]))


def _doubts(record: Mapping[str, Any], asked: Asked) -> list[str]:
    """What to know before the maps of a record."""
    told = [*asked.design.warnings, *asked.instead]
    wanted, design = asked.model.voxelwise, asked.design
    moved = None if wanted is None else wanted.permutations
    repeated = design.one_scan_per == "all" and design.n_repeated > 0
    if repeated and moved is not None and moved.blocks is None:
        told.append(
            "permutations: scans of one subject change places one by one, as if they were of several, so p may be far too small;"
            " state blocks: subject, with exchange: whole for what differs between subjects"
        )
    return warnings(record, told)


def maps_of(store: Store, name: str) -> Mapped | None:
    """What a fit of maps said when it was made, or None."""
    record = stored.record(store, name)
    if record is None:
        return None
    return Mapped(record, stored.peaks(store, name), tuple(record["warnings"]))


def preparation(asked: Asked) -> str:
    """Digest of what is done to a scan before it enters the cube."""
    wanted = asked.model.voxelwise
    assert wanted is not None
    said = {
        "recipe": asked.model.recipe,
        "variable": wanted.variable,
        "smooth_fwhm_mm": wanted.smooth_fwhm_mm,
        "revision": PREPARED,
    }
    return provenance.digest(said)


def prepared_cube(store: Store, name: str, asked: Asked, *, workers: int, tile_bytes: int) -> Cube:
    """The cube of these scans: that in the store if it holds just them, else a new one that takes from it what it can.

    Raises `cubes.Damaged` if what is there cannot be read.
    """
    old, how = None, preparation(asked)
    said = kept.record(store, name, stored.CUBE)
    if said is not None and said["preparation"] == how:
        old = stored.cube_of(store, name)
    if old is not None and list(old.scans.items()) == list(asked.scans.items()):
        kept.sweep(store, name, stored.CUBE)  # of a call that was killed
        return old
    with store.stage() as folder:
        metadata = cubes.write(
            folder / stored.CUBE,
            asked.scans,
            asked.load,
            before=old,
            tile_bytes=tile_bytes,
            workers=workers,
        )
        record = {"preparation": how, "scans": asked.scans, "metadata": metadata}
        return stored.publish_cube(store, name, folder / stored.CUBE, record)


def _volumes(found: voxelwise.Maps) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    out: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for dim, several in (("contrast", found.by_contrast), ("test", found.by_group)):
        for key, rows in several.items():
            wide = np.float32 if key in NARROW else np.float64
            laid = [found.volume(row.astype(wide)) for row in rows]
            out[key] = ((dim,), np.stack(laid))
    for key, values in found.by_voxel.items():
        whole = values.dtype.kind == "i"
        kept = values if whole else values.astype(np.float32)
        out[key] = ((), found.volume(kept, 0 if whole else np.nan))
    return out
