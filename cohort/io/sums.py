"""Running sums of a model of maps in a store: ``models/<model>/sums-<number>.zarr``, and ``sums.json``, which names it.

The record says which scans are in, with their digests and their rows of the design. New sums are written beside the old ones and
the record is replaced last, so that a kill leaves either whole: what is counted in is always what the record lists.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort.io import maps
from cohort.io.storage.backend import StoreError
from cohort.io.storage.group import encode_group, open_group
from cohort.kernels.sums import Sums

if TYPE_CHECKING:
    from cohort.io.store import Store

RECORD, STEM = "sums.json", "sums-"

NAMES = {"origin": "origin", "Xy": "Xy", "y": "sum", "yy": "squares", "lacking": "lacking", "above": "above"}  # fmt: skip
"""Attribute of `Sums` -> array of the group; x, y and z are its axes."""


def record(store: "Store", model: str) -> dict[str, Any] | None:
    """What is known of the sums of a model, or None; of damaged ones, too: they are made again."""
    try:
        return store.read_json(f"models/{model}/{RECORD}")
    except StoreError:
        return None


def read(store: "Store", model: str, said: Mapping[str, Any]) -> Sums | None:
    """The sums that a record names, or None if a file is missing or damaged."""
    place = f"models/{model}/{said['place']}"
    chunks = {n.partition("/")[2]: listed for n, listed in said["files"].items()}
    sizes = store.files.sizes(place, chunks)
    if any(sizes.get(name) != size for name, (_, size) in chunks.items()):
        return None
    try:
        found = open_group(store.files, place, chunks).load()
    except (StoreError, RuntimeError, ValueError):
        return None
    v = int(np.prod(said["shape"]))
    arrays = {name: found[key].to_numpy() for name, key in NAMES.items()}
    flat = {name: a.reshape(*a.shape[:-3], v) for name, a in arrays.items()}
    return Sums(**{name: np.require(a, requirements=["C", "W"]) for name, a in flat.items()})


def write(store: "Store", model: str, sums: Sums, said: Mapping[str, Any]) -> None:
    """Replace the sums of a model, the record last.

    Parameters
    ----------
    said : mapping
        The record, with ``shape`` (z, y, x) and ``affine``.
    """
    before = record(store, model)
    number = 1 if before is None else int(before["place"].removeprefix(STEM).partition(".")[0]) + 1
    place = f"{STEM}{number}.zarr"
    shape = tuple(said["shape"])
    volumes = {
        key: (("column",) if name == "Xy" else (), getattr(sums, name).reshape(-1, *shape))
        for name, key in NAMES.items()
    }
    volumes = {k: (lead, v if lead else v[0]) for k, (lead, v) in volumes.items()}
    encoded = encode_group(maps.as_dataset(volumes, np.reshape(said["affine"], (4, 4))))
    store.files.remove_tree(f"models/{model}/{place}")  # of a call that was killed
    store.files.publish(f"models/{model}/{place}", encoded, durable=False)
    files = {f"{place}/{n}": (hashlib.sha256(c).hexdigest(), len(c)) for n, c in encoded.items()}
    store.write_json(f"models/{model}/{RECORD}", {**said, "place": place, "files": files})
    sweep(store, model, keep=place)


def sweep(store: "Store", model: str, *, keep: str = "") -> None:
    """Remove sums of a model that no record names."""
    for name in store.files.names(f"models/{model}"):
        if name.startswith(STEM) and name != keep:
            store.files.remove_tree(f"models/{model}/{name}")


def forget(store: "Store", model: str) -> None:
    """Remove the sums of a model."""
    store.files.remove(f"models/{model}/{RECORD}")
    sweep(store, model)
