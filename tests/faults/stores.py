"""Faults of the place where a store lies: full, read-only, damaged, shared by two, and failing at times."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cohort import api
from cohort.io.storage import metadata
from cohort.io.storage.backend import Unwritable
from cohort.io.store import Store, StoreError
from cohort.io.verify import Problem, verify
from faults.driver import Driver, call
from faults.ground import (
    MEMORY,
    Ground,
    Impossible,
    failures,
    files_of,
    judge,
    scan_id,
    store_of,
    truth_of,
)
from faults.line import Line

WORKERS = ("--workers", "2", "--memory", MEMORY)
HERE = api.Options(workers=0)


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[Callable[..., None]]:
    """Mount something at a folder; gives a function that mounts it again in another way."""
    place.mkdir(parents=True, exist_ok=True)

    def mount(*how: str) -> None:
        done = subprocess.run(["mount", *how], check=False, capture_output=True, text=True)
        if done.returncode:
            raise Impossible(f"mount {' '.join(how)}: {done.stderr.strip()}")

    mount(*how, str(place))
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def unsound(store: Store) -> list[Problem]:
    """What is damaged or missing in a store, remains of writers apart."""
    return [p for p in verify(store) if p.is_error]


def full_disk(ground: Ground, line: Line) -> None:
    """The file system of the store fills in the middle of the measuring, and gets room again."""
    scans = ground.of(20, 30, 60)
    truth = ground.truth(scans)
    for _ in range(ground.of(1, 1, 3)):
        catalog = ground.ingested(scans)
        store = store_of(catalog)
        filled = ground.new("tmpfs")
        shutil.copytree(store.root, filled / "kept", symlinks=True)
        room = _blocks(filled / "kept") + _blocks_of_half_a_run(ground, scans)
        shutil.rmtree(store.root)
        with mounted(store.root, "-t", "tmpfs", "-o", f"size={room}", "none") as mount:
            shutil.copytree(filled / "kept", store.root, symlinks=True, dirs_exist_ok=True)
            code, driver = call("run", catalog, *WORKERS, plant={"marks": [0.02, 0]})
            full = shutil.disk_usage(store.root).free < 64 << 10
            line.injected += full
            line.expect(full, "the disk was to be full")
            line.expect(code not in (0, 1), f"a full disk is an error, the exit code was {code}")
            said = driver.said
            line.expect(str(store.root) in said, f"the message names no path: {said[-300:]}")
            line.expect("bytes" in said and "resume with" in said, f"what to do? {said[-300:]}")
            line.expect("Traceback" not in said, "a traceback instead of a line")
            half = unsound(Store(store.root))
            line.wrong += len(half)
            line.broken += [f"half written: {p}" for p in half]
            line.innocents += len(failures(store))
            mount("-o", "remount,size=256m", str(store.root))
            started = time.monotonic()
            code, driver = call("run", catalog, *WORKERS)
            line.recovered(time.monotonic() - started)
            line.expect(
                code == 0, f"with room again the exit code was {code}: {driver.said[-300:]}"
            )
            judge(line, store, truth)


def _blocks(folder: Path) -> int:
    """Bytes that a folder takes on a file system of pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    return sum(-(-size // page) * page for size in sizes)


def _blocks_of_half_a_run(ground: Ground, scans: int) -> int:
    catalog = ground.ingested(scans)
    before = _blocks(store_of(catalog).root)
    api.run(catalog, options=HERE)
    return (_blocks(store_of(catalog).root) - before) // 2


def read_only(ground: Ground, line: Line) -> None:
    """The file system of the store can be read and not written to, for each stage of a call."""
    scans = ground.of(6, 6, 12)
    truth = ground.truth(scans)
    catalog = ground.ingested(scans)
    store = store_of(catalog)
    with mounted(store.root, "--bind", str(store.root)) as mount:
        mount("-o", "remount,bind,ro", str(store.root))
        before = files_of(store)
        for stage in (api.ingest, api.run, api.update):
            events: list[object] = []
            started = time.monotonic()
            with pytest.raises(Unwritable, match="read-only") as raised:
                stage(catalog, options=api.Options(workers=0, listen=events.append))
            line.recovered(time.monotonic() - started)
            line.injected += 1
            line.expect(str(store.root) in str(raised.value), "the message names no store")
            line.expect(not events, f"work before the refusal: {events[:3]}")
        line.expect(line.recovery_s < 2, f"refused after {line.recovery_s:.1f} s, not 2")
        code, driver = call("update", catalog, *WORKERS)
        line.expect(code == 2, f"exit code {code}, expected 2")
        line.expect("read-only" in driver.said, f"says {driver.said[-200:]}")
        line.expect(not driver.events, f"work before the refusal: {driver.events[:3]}")
        line.expect(files_of(store) == before, "something was written")
    code, driver = call("run", catalog, "--workers", "0")
    line.expect(code == 0, f"writable again, exit code {code}: {driver.said[-300:]}")
    judge(line, store, truth)


@contextmanager
def small_shards() -> Iterator[None]:
    """Small arrays are stored as large ones are: in shards of several chunks."""
    before = metadata.WHOLE_BYTES, metadata.CHUNK, metadata.SHARD_BYTES
    metadata.WHOLE_BYTES, metadata.CHUNK, metadata.SHARD_BYTES = 0, 8, 4000
    metadata._made_array.cache_clear()
    try:
        yield
    finally:
        metadata.WHOLE_BYTES, metadata.CHUNK, metadata.SHARD_BYTES = before
        metadata._made_array.cache_clear()


KINDS = ("scans data", "scans metadata", "scans record", "derivatives data", "derivatives record")


def flipped_bits(ground: Ground, line: Line) -> None:
    """One bit flips in voxels, metadata or a record, in plain chunks and in shards."""
    scans, seeds = ground.of(4, 6, 6), ground.of(40, 100, 200)
    plain = ground.ingested(scans)
    with small_shards():
        sharded = ground.cohort(scans)
        api.ingest(sharded, options=HERE)
        api.run(sharded, options=HERE)
    api.run(plain, options=HERE)
    for catalog in (plain, sharded):
        store = store_of(catalog)
        truth = truth_of(store)
        for seed in range(seeds):
            _flip(line, catalog, seed)
        started = time.monotonic()
        judge(line, store, truth)
        line.recovered(time.monotonic() - started)


def _flip(line: Line, catalog: Path, seed: int) -> None:
    store, rng = store_of(catalog), np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    name = str(rng.choice(sorted(n for n in _names(store) if _kind(n) == kind)))
    path = store.root / name
    scan = next(s for s in (scan_id(n) for n in range(100)) if s in name)
    sound = _opened(store, name, scan).load()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(damaged))
    line.injected += 1
    told = [p for p in verify(store) if p.file == name]
    if not told:
        line.wrong += 1
        line.broken.append(f"seed {seed}: verify passes over {name}")
    elif not (scan in told[0].unit and told[0].kind == "damaged"):
        line.broken.append(f"seed {seed}: {told[0]} does not name {scan}")
    said = _read(store, name, scan, sound)
    if said is None:
        line.wrong += 1
        line.broken.append(f"seed {seed}: read silently, and other than it was: {name}")
    elif "/image/c/" in name or "/big/c/" in name:
        array = name.partition(".zarr/")[2].split("/")[0]
        line.expect(array in said and "chunk" in said, f"seed {seed}: names no chunk: {said}")
    path.write_bytes(whole)


def _names(store: Store) -> list[str]:
    return [name for name, _ in store.files.listing()]


def _kind(name: str) -> str:
    first, inner = name.split("/")[0], name.partition(".zarr/")[2]
    if not inner:
        return f"{first} record" if name.endswith(".json") else ""
    return f"{first} {'metadata' if name.endswith('zarr.json') else 'data'}"


def _opened(store: Store, name: str, scan: str) -> xr.Dataset:
    if name.startswith("scans/"):
        return store.open_scan(scan)
    return store.open_derivative("ball", scan)


def _read(store: Store, name: str, scan: str, sound: xr.Dataset | None = None) -> str | None:
    """What reading says of damage; None if it says nothing and what it gives is not `sound`.

    Coordinates follow from the affine, which stands in the metadata: nobody reads the chunks that hold them.
    """
    is_scan = name.startswith("scans/")
    # A damaged record counts as none, so that what it stood for is made again: it is never believed.
    if (store.record(scan) if is_scan else store.derivative("ball", scan)) is None:
        return "no record"
    try:
        found = _opened(store, name, scan).load()
    except StoreError as error:
        return str(error)
    return (
        "nothing, for it does not read it" if sound is not None and found.identical(sound) else None
    )


def missing_chunks(ground: Ground, line: Line) -> None:
    """Chunks go, are cut, or are left half-written by a killed writer; the next call repairs what is hurt, no more."""
    scans = ground.of(6, 10, 20)
    catalog = ground.ingested(scans)
    api.run(catalog, options=HERE)
    store = store_of(catalog)
    truth = truth_of(store)
    chunks = sorted(n for n in truth.files if n.startswith("scans/") and "/image/c/" in n)
    kept = sorted(n for n in truth.files if n.startswith("derivatives/") and "/big/c/" in n)
    rng = random.Random(8)
    for name in (*rng.sample(chunks, ground.of(2, 3, 6)), *rng.sample(kept, 2)):
        for hurt in (_gone, _emptied, _cut):
            hurt(store.root / name)
            line.injected += 1
            (scan,) = {scan_id(n) for n in range(scans) if scan_id(n) in name}
            kinds = {p.kind for p in verify(store) if p.file == name}
            line.expect(
                kinds & {"missing", "damaged"}, f"verify passes over {name} {hurt.__name__}"
            )
            said = _read(store, name, scan)
            if name.startswith("scans/"):
                line.expect(said and "image/c" in said, f"{hurt.__name__} {name} reads as {said}")
            _repair(line, catalog, {scan})
    for left in ("_staging/1f/image/c/0", "scans/x.zarr/image/c/0.partial", "tables/.a.1f.tmp"):
        path = store.root / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        line.injected += 1
    _repair(line, catalog, set())
    line.expect(not [p for p in verify(store) if p.kind == "leftover"], "leftovers stay")
    judge(line, store, truth)
    for _ in range(ground.of(1, 2, 5)):
        catalog = ground.ingested(scans)
        store = store_of(catalog)
        with Driver("run", catalog, "--workers", "0", plant={"marks": [0.05, 0]}) as driver:
            line.injected += driver.at(rng.uniform(0.2, 0.8))
            driver.signal(signal.SIGKILL)
        line.broken += [f"a killed writer left {p}" for p in unsound(store)]
        _repair(line, catalog, None)
        judge(line, store, truth)


def _gone(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _repair(line: Line, catalog: Path, hurt: set[str] | None) -> None:
    """Call again: exactly the scans that were hurt are worked on."""
    started = time.monotonic()
    results = [stage(catalog, options=HERE) for stage in (api.ingest, api.run)]
    line.recovered(time.monotonic() - started)
    line.expect(not any(r.newly_bad for r in results), f"failed: {results[1].failed}")
    if hurt is not None:
        n = sum(r.manifest["processed"] for r in results)
        line.expect(n == len(hurt), f"{n} scans were repaired, {len(hurt)} were hurt")
