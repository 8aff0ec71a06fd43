"""Running sums of a model of maps in a store, ``sums`` of what `cohort.io.kept` keeps.

The record says which scans are in, with their digests and their rows of the design.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort.io import kept, maps
from cohort.io.storage.backend import AWAY
from cohort.io.storage.group import encode_group, open_group
from cohort.kernels.sums import Sums

if TYPE_CHECKING:
    from cohort.io.store import Store

STEM = "sums"

NAMES = {"origin": "origin", "Xy": "Xy", "y": "sum", "yy": "squares", "lacking": "lacking", "above": "above"}  # fmt: skip
"""Attribute of `Sums` -> array of the group; x, y and z are its axes."""


def record(store: "Store", model: str) -> dict[str, Any] | None:
    """What is known of the sums of a model, or None; of damaged ones, too: they are made again."""
    return kept.record(store, model, STEM)


def read(store: "Store", model: str, said: Mapping[str, Any]) -> Sums | None:
    """The sums that a record names, or None if a file is missing or damaged."""
    if not kept.is_whole(store, model, said):
        return None
    place = f"models/{model}/{said['place']}"
    chunks = {n.partition("/")[2]: listed for n, listed in said["files"].items()}
    try:
        found = open_group(store.files, place, chunks).load()
    except AWAY:
        raise  # says nothing against the sums
    except (OSError, RuntimeError, ValueError, LookupError, TypeError):
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
    shape = tuple(said["shape"])
    volumes = {
        key: (("column",) if name == "Xy" else (), getattr(sums, name).reshape(-1, *shape))
        for name, key in NAMES.items()
    }
    volumes = {k: (lead, v if lead else v[0]) for k, (lead, v) in volumes.items()}
    encoded = encode_group(maps.as_dataset(volumes, np.reshape(said["affine"], (4, 4))))

    def publish(place: str) -> kept.Listed:
        store.files.publish(place, encoded, durable=False)
        return {n: (hashlib.sha256(c).hexdigest(), len(c)) for n, c in encoded.items()}

    kept.replace(store, model, STEM, said, publish)
