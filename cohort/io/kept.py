"""What a model of maps keeps for its next fit: ``models/<model>/<stem>-<number>.zarr``, and ``<stem>.json``, which names it.

There are two: the ``cube`` of its scans, and the running ``sums`` over them. The record says which scans are in. What is new is
written beside the old and the record is replaced last, so that a kill leaves either whole: what is in is always what the record
lists. A group that no record lists may hold anybody's voxels: it is of a call that was killed, and a withdrawal removes it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cohort.io.storage.backend import StoreError

if TYPE_CHECKING:
    from cohort.io.store import Store

STEMS = ("cube", "sums")

Listed = Mapping[str, tuple[str, int]]
"""Name within a group -> (SHA-256, bytes)."""


def record(store: "Store", model: str, stem: str) -> dict[str, Any] | None:
    """What a model keeps, or None; of a damaged record, too: what it named is made again."""
    try:
        return store.read_json(f"models/{model}/{stem}.json")
    except StoreError:
        return None


def replace(
    store: "Store",
    model: str,
    stem: str,
    said: Mapping[str, Any],
    publish: Callable[[str], Listed],
) -> str:
    """Write a group in place of the one that is kept, and its record last.

    Parameters
    ----------
    said : mapping
        The record, to which the group's place and files are added.
    publish : callable
        Writes the group at a place of the store where nothing is, and lists its files.

    Returns
    -------
    str
        The group's place.
    """
    before = record(store, model, stem)
    number = 1 if before is None else int(before["place"].removeprefix(f"{stem}-")[:-5]) + 1
    place = f"{stem}-{number}.zarr"
    store.files.remove_tree(f"models/{model}/{place}")  # of a call that was killed
    listed = publish(f"models/{model}/{place}")
    files = {f"{place}/{name}": each for name, each in listed.items()}
    store.write_json(f"models/{model}/{stem}.json", {**said, "place": place, "files": files})
    sweep(store, model, stem)
    return f"models/{model}/{place}"


def is_whole(store: "Store", model: str, said: Mapping[str, Any]) -> bool:
    """Whether every file that a record lists is there in its size."""
    listed = {name: size for name, (_, size) in said["files"].items()}
    return store.files.sizes(f"models/{model}", listed) == listed


def sweep(store: "Store", model: str, stem: str) -> None:
    """Remove groups of a kind that no record names."""
    said = record(store, model, stem)
    for name in store.files.names(f"models/{model}"):
        if name.startswith(f"{stem}-") and (said is None or name != said["place"]):
            store.files.remove_tree(f"models/{model}/{name}")


def forget(store: "Store", model: str, stem: str) -> None:
    """Remove what a model keeps of a kind: the record first."""
    store.files.remove(f"models/{model}/{stem}.json")
    sweep(store, model, stem)


def orphans(store: "Store", model: str) -> list[str]:
    """Names of the groups in a model's folder, of whatever kind, that no valid record lists."""
    listed: set[str] = set()
    for each in (*STEMS, "maps"):
        files = (record(store, model, each) or {}).get("files", {})
        listed |= {name.partition("/")[0] for name in files}
    there = store.files.names(f"models/{model}")
    return [name for name in there if name.endswith(".zarr") and name not in listed]
