"""Files and folders that are whole or not there: written beside their place, brought to the disk, renamed."""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def lost_files(path: Path, record: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files of a group. Zarr takes a missing chunk, and a shard without bytes, for background."""
    lost = []
    for chunk, (_, size) in record["chunks"].items():
        try:
            found = (path / chunk).stat().st_size
        except OSError:
            lost.append(f"{chunk} is missing from the store")
            continue
        if found != size:
            lost.append(f"{chunk} has {found} bytes, expected {size}")
    return lost


def move_into_place(staged: Path, final: Path, *, durable: bool) -> None:
    """Sync every file and folder of a staged group that has to last, then rename it: what has its place is whole."""
    for folder, _, files in os.walk(staged) if durable else ():
        for file in files:
            sync(Path(folder) / file)
        sync(Path(folder))
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    if durable:
        sync(final.parent)


def entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What lies in a folder, by name; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda e: e.name)
    except FileNotFoundError:
        return []


def stems(folder: Path, suffix: str) -> list[str]:
    """Names in a folder that end in `suffix`, without it, sorted."""
    return [e.name.removesuffix(suffix) for e in entries(folder) if e.name.endswith(suffix)]


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside, sync, rename, sync the folder: readers see the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
