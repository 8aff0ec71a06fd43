"""The maps of a model in a store: ``models/<model>/maps.zarr``, tables beside it, and the record that says what they are.

The record, ``maps.json``, is written last and lists the files of maps and tables with size and SHA-256: without it the maps are
not there. It names the scans, so that who withdraws takes the maps along. What they were made from, a cube or running sums, is
kept for the next fit under records of its own (`cohort.io.kept`), and stays when a fit fails.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort import grid, provenance
from cohort.io import kept
from cohort.io.cube import Cube
from cohort.io.storage import parquet
from cohort.io.storage.backend import StoreError
from cohort.io.storage.group import encode_group, open_group

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from cohort.io.store import Store

RECORD, CUBE, MAPS = "maps.json", "cube", "maps.zarr"

SAID = {
    "beta": "estimate",
    "se": "standard error",
    "t": "t of least squares",
    "p": "p of t, two-sided, of the voxel by itself",
    "q": "false discovery rate over the fitted voxels (Benjamini-Hochberg)",
    "hc3_t": "t with errors robust to unequal variance (HC3)",
    "hc3_p": "p of hc3_t, two-sided",
    "partial_r": "partial correlation",
    "d": "estimate in residual standard deviations",
    "p_permuted": "p by arrangements of the scans, of the voxel by itself",
    "fwe_p": "p by arrangements of the scans, corrected for all voxels by the largest t",
    "support": "threshold-free cluster enhancement, E 0.5, H 2, volumes in mm3, with the sign of t",
    "support_p": "p of support by arrangements of the scans, corrected for all voxels",
    "F": "F of several contrasts together",
    "F_p": "p of F",
    "F_q": "false discovery rate of F over the fitted voxels (Benjamini-Hochberg)",
    "mean": "mean of the scans that have the voxel",
    "sigma": "residual standard deviation",
    "n": "scans that have the voxel; 0 where nothing was fitted",
    "dof": "degrees of freedom; 0 where nothing was fitted",
}
"""What each map is."""


def record(store: "Store", model: str) -> dict[str, Any] | None:
    """What is known of the maps of a model, or None."""
    return store.read_json(f"models/{model}/{RECORD}")


def cube_of(store: "Store", model: str) -> Cube | None:
    """The cube that a model keeps, or None; of one that lacks a file, too: it is made again."""
    said = kept.record(store, model, CUBE)
    if said is None or not kept.is_whole(store, model, said):
        return None
    return Cube(store.files, f"models/{model}/{said['place']}", said["metadata"], said["scans"])


def publish_cube(store: "Store", model: str, folder: Path, said: Mapping[str, Any]) -> Cube:
    """Replace the cube of a model by the one in a staging folder.

    Parameters
    ----------
    said : mapping
        Its record: ``scans`` with their digests, in the order of the rows, ``preparation``, and ``metadata`` of the array.
    """

    def publish(place: str) -> kept.Listed:
        listed = _listed(folder)
        store.files.publish_folder(place, folder, durable=False)
        return listed

    place = kept.replace(store, model, CUBE, said, publish)
    return Cube(store.files, place, said["metadata"], said["scans"])


def write(
    store: "Store",
    model: str,
    dataset: "xr.Dataset",
    tables: Mapping[str, "pd.DataFrame"],
    said: Mapping[str, Any],
    *,
    declared: str,
    keep: str,
) -> None:
    """Replace the maps of a model, tables, and last the record.

    Parameters
    ----------
    dataset : Dataset, (..., z, y, x)
    tables : mapping of name -> DataFrame
        Written as Parquet, and as CSV too.
    said : mapping
        The record.
    declared : str
        The model as the catalog states it, YAML.
    keep : {"cube", "sums"}
        What they were made from; anything else that was kept goes.
    """
    place = f"models/{model}"
    forget(store, model, keep=(keep,))
    encoded = encode_group(dataset)
    store.files.publish(f"{place}/{MAPS}", encoded, durable=False)
    listed = {f"{MAPS}/{key}": (_sha(content), len(content)) for key, content in encoded.items()}
    del encoded
    contents = {"model.yaml": declared.encode()}
    for name, table in tables.items():
        contents[f"{name}.parquet"] = table.to_parquet(None, index=False)
        contents[f"{name}.csv"] = table.to_csv(index=False).encode()
    for name, content in contents.items():
        store.files.write(f"{place}/{name}", content)
        listed[name] = (_sha(content), len(content))
    store.write_json(f"{place}/{RECORD}", {**said, "files": listed})


def forget(store: "Store", model: str, *, keep: tuple[str, ...] = kept.STEMS) -> None:
    """Remove what was fitted, maps or tables, the record first; what maps were made from is kept for the next fit.

    Parameters
    ----------
    keep : of {"cube", "sums"}
        What stays of it.
    """
    place = f"models/{model}"
    for name in (RECORD, "model.json"):
        store.files.remove(f"{place}/{name}")
    for stem in kept.STEMS:
        if stem not in keep:
            kept.forget(store, model, stem)
    mine = tuple(f"{stem}{end}" for stem in keep for end in ("-", ".json"))
    for name in store.files.names(place):
        if name.startswith(mine):
            continue
        if name.endswith(".zarr"):
            store.files.remove_tree(f"{place}/{name}")
        else:
            store.files.remove(f"{place}/{name}")
    if not store.files.names(place):
        store.files.remove_tree(place)


def open_maps(store: "Store", model: str) -> "xr.Dataset":
    """Open the maps of a model, lazily.

    Returns
    -------
    Dataset
        Dims contrast (its name), z, y, x in mm; NaN where nothing was fitted; ``F``, ``F_p`` and ``F_q`` over ``test``.

    Raises
    ------
    StoreError
        If there are none, or a file of theirs is missing.
    """
    said = record(store, model)
    if said is None:
        there = ", ".join(store.mapped()) or "none"
        raise StoreError(f"no maps of {model!r}; there are {there}; call `cohort fit`")
    place = f"models/{model}"
    chunks = {
        name.removeprefix(f"{MAPS}/"): listed
        for name, listed in said["files"].items()
        if name.startswith(f"{MAPS}/")
    }
    sizes = store.files.sizes(f"{place}/{MAPS}", chunks)
    if lost := sorted(n for n, (_, size) in chunks.items() if sizes.get(n) != size):
        raise StoreError(f"maps of {model}: {lost[0]} is missing or cut; call `cohort fit`")
    found = open_group(store.files, f"{place}/{MAPS}", chunks)
    names = {"contrast": list(said["contrasts"]), "test": list(said["joint"])}
    for name, variable in found.data_vars.items():
        variable.attrs.update({"long_name": SAID[str(name)]} if name in SAID else {})
    return found.assign_coords({d: v for d, v in names.items() if d in found.dims})


def peaks(store: "Store", model: str) -> "pd.DataFrame":
    """Clusters and peaks of a model's maps, as `cohort.stats.voxels.peaks.table` lists them. Raises `StoreError`."""
    said, place = record(store, model), f"models/{model}/peaks.parquet"
    if said is None:
        raise StoreError(f"no maps of {model!r}; call `cohort fit`")
    content = store.files.read(place)
    if _sha(content) != said["files"]["peaks.parquet"][0]:
        raise StoreError(
            f"{store.url}: {place} is damaged; remove {RECORD} beside it, call `cohort fit`"
        )
    return parquet.frame(content)


def _listed(folder: Path) -> dict[str, tuple[str, int]]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): (provenance.file_digest(p), p.stat().st_size)
        for p in paths
    }


def _sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def as_dataset(
    volumes: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    affine: np.ndarray,
) -> "xr.Dataset":
    """Maps as a Dataset with physical coordinates: name -> (leading dims, (..., z, y, x) array)."""
    import xarray as xr

    shape = next(iter(volumes.values()))[1].shape[-3:]
    coords = grid.coordinates(affine, shape)
    data = {
        name: xr.Variable((*lead, *grid.SPACE), values) for name, (lead, values) in volumes.items()
    }
    sizes = {d: values.shape[i] for lead, values in volumes.values() for i, d in enumerate(lead)}
    numbers = {d: xr.Variable((d,), np.arange(n, dtype=np.int32)) for d, n in sizes.items()}
    matrix = xr.Variable(("affine_row", "affine_column"), np.asarray(affine, float))
    return xr.Dataset({**data, "affine": matrix}, coords={**coords, **numbers})
