"""Faults of what a run stands on: clocks, recipes, libraries and source files that change, or cannot be read at times."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import cohorts
import nibabel as nib
import numpy as np
import pandas as pd

from cohort import api
from cohort.io.store import Store
from faults.bucket import served
from faults.driver import Driver, call, notes
from faults.ground import MEMORY, Ground, Truth, judge, scan_file, scan_id, store_of, truth_of
from faults.line import Line

WORKERS = ("--workers", "2", "--memory", MEMORY)
HERE = api.Options(workers=0)

DAYS = {"1970": 0, "2099": 4_070_908_800}
"""Days of the epoch and long after, in seconds."""


def clocks(ground: Ground, line: Line) -> None:
    """Files from 1970 and 2099, clocks of processes a day apart, a clock that goes back an hour in the middle of a run."""
    scans = ground.of(8, 12, 40)
    truth = _updated(ground, scans)
    catalog = ground.cohort(scans)
    store = store_of(catalog)
    for kind in ("apart", "back"):
        noted = ground.new("notes") / "noted"
        plant = {"clock": [kind], "marks": [0.02, 0]}
        for number in range(scans):
            os.utime(scan_file(catalog, number), (list(DAYS.values())[number % 2],) * 2)
        started = time.monotonic()
        code, driver = call("update", catalog, *WORKERS, plant=plant, COHORT_FAULT_NOTES=noted)
        line.recovered(time.monotonic() - started)
        line.injected += len(notes(noted))
        line.expect(code == 0, f"clocks {kind}: exit code {code}: {driver.said[-300:]}")
        judge(line, store, truth)
        _no_work(line, store, driver, scans if kind == "apart" else 0)
    for day, seconds in DAYS.items():
        for path in (p for p in catalog.parent.rglob("*") if p.is_file()):
            os.utime(path, (seconds, seconds))
        line.injected += 1
        result = api.update(catalog, options=HERE)
        processed = result.manifest["processed"]
        line.expect(processed == 0, f"all files are of {day}: {processed} scans were done again")
    judge(line, store, truth)
    with served() as server:
        _lease_of_a_skewed_clock(ground, line, server.bucket(), server.environment)


def _no_work(line: Line, store: Store, driver: Driver, expected: int) -> None:
    n = store.manifest()["processed"]
    line.expect(n == expected, f"{n} scans were worked on, expected {expected}")
    line.expect(len(driver.done()) == expected, f"{len(driver.done())} were measured")


def _lease_of_a_skewed_clock(
    ground: Ground, line: Line, url: str, environment: Mapping[str, str]
) -> None:
    """In a bucket no clock of ours decides who holds the store: one that is a day off takes no lock."""
    catalog = ground.cohort(8)
    with Driver(
        "update",
        catalog,
        "--store",
        url,
        "--workers",
        "0",
        plant={"marks": [0.2, 0]},
        **environment,
    ) as first:
        first.at(0.2)
        # Held in the middle of its work, for less than its claim lasts.
        first.signal(signal.SIGSTOP)
        code, second = call(
            "update",
            catalog,
            "--store",
            url,
            "--workers",
            "0",
            plant={"clock": ["ahead"]},
            **environment,
        )
        first.signal(signal.SIGCONT)
        line.injected += 1
        line.expect(
            code == 75, f"a clock that is ahead takes the lock: {code} {second.said[-200:]}"
        )
        code = first.end()
        line.expect(code == 0, f"the holder ended with {code}: {first.said[-300:]}")


def _updated(ground: Ground, scans: int) -> Truth:
    catalog = ground.cohort(scans)
    api.update(catalog, options=HERE)
    return truth_of(store_of(catalog))


def upgraded_library(ground: Ground, line: Line) -> None:
    """Half of the numbers were made by an older scipy: they stay readable, are marked, and no model mixes them."""
    scans = ground.of(8, 12, 24)
    clean = cohorts.write_cohort(ground.new("clean"), scans)
    api.update(clean, options=HERE)
    truth = truth_of(store_of(clean))
    catalog = cohorts.write_cohort(ground.new("cohort"), scans)
    store = store_of(catalog)
    noted = ground.new("notes") / "noted"
    old = {"version": ["scipy", "1.0.0"]}
    code, driver = call("update", catalog, *WORKERS, plant=old, COHORT_FAULT_NOTES=noted)
    line.injected += bool(notes(noted))
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    before = store.table("ball")
    (plan,) = api.plan(catalog)
    reasons = plan.reasons()
    line.expect(len(plan.tasks) == scans, f"{len(plan.tasks)} of {scans} results are stale")
    line.expect(all("scipy 1.0.0 -> " in r for r in reasons), f"stale because of {reasons}")
    readable = api.open(catalog).measurements("ball")
    line.expect(before is not None and readable.equals(before), "old results are not readable")
    # Half of it anew: the table says which rows are old, and no model is made of both.
    result = api.update(catalog, options=api.Options(workers=0, max_scans=scans // 2))
    states = readable_states(store)
    line.expect(states == {"done": scans // 2, "stale": scans - scans // 2}, f"states {states}")
    said = result.fits.get("size")
    line.expect(isinstance(said, str) and "--accept-versions" in said, f"a mixed model: {said!r}")
    line.expect("size" not in store.models(), "a model of mixed numbers stands")
    accepted = api.fit(catalog, options=api.Options(workers=0, accept_versions=True))
    line.expect(not isinstance(accepted.fits.get("size"), str), f"{accepted.fits.get('size')}")
    started = time.monotonic()
    code, driver = call("update", catalog, "--workers", "0")
    line.recovered(time.monotonic() - started)
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    line.expect(len(driver.done()) == scans - scans // 2, f"{len(driver.done())} were done again")
    judge(line, store, truth)


def readable_states(store: Store) -> dict[str, int]:
    """How many rows of the table are in which state."""
    table = store.table("ball")
    found = pd.Series(dtype=str) if table is None else table["state"]
    return {str(state): int(n) for state, n in found.value_counts().items()}


def edited_recipe(ground: Ground, line: Line) -> None:
    """The recipe's file is edited while it runs: the run ends with what it began with, the next one does what changed."""
    scans = ground.of(12, 20, 40)
    truth = ground.truth(scans)
    catalog = ground.ingested(scans)
    store = store_of(catalog)
    with Driver("run", catalog, *WORKERS, plant={"marks": [0.1, 0]}) as driver:
        driver.at(0.3)
        _edit(catalog)
        line.injected += 1
        code = driver.end()
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    judge(line, store, truth)
    clean = ground.ingested(scans)
    _edit(clean)
    api.run(clean, options=HERE)
    # A part of it anew: what the old recipe said is not in the table beside what the new one says.
    api.run(catalog, options=api.Options(workers=0, max_scans=scans // 3))
    _no_mixture(line, store, store_of(clean), scans)
    started = time.monotonic()
    result = api.run(catalog, options=HERE)
    line.recovered(time.monotonic() - started)
    stage = result.manifest["stages"]["run:ball"]
    line.expect(stage["done"] == scans - scans // 3, f"{stage['done']} scans were done again")
    untouched = {"level", "mean_head", "n_head", "head_ml"} & set(stage["steps"])
    line.expect(not untouched, f"steps that did not change ran again: {untouched}")
    judge(line, store, truth_of(store_of(clean)))


def _edit(catalog: Path) -> None:
    recipe = catalog.parent / "recipes" / "ball.yaml"
    text = recipe.read_text(encoding="utf-8")
    edited = text.replace("0.9 * level", "0.8 * level")
    assert edited != text
    recipe.write_text(edited, encoding="utf-8")


def _no_mixture(line: Line, store: Store, clean: Store, scans: int) -> None:
    """Rows that are done hold what the new recipe says, all others nothing that it would say otherwise."""
    found, new = store.table("ball"), clean.table("ball")
    assert found is not None
    assert new is not None
    done = found["state"] == "done"
    line.expect(int(done.sum()) == scans // 3, f"{int(done.sum())} rows are done, not {scans // 3}")
    line.expect(found[done].equals(new[done]), "a row that is done is not of the new recipe")
    mixed = int(found.loc[~done, ["n_spots", "n_big", "share"]].notna().any(axis=1).sum())
    line.wrong += mixed
    if mixed:
        line.broken.append(f"{mixed} rows of the old recipe stand in the table of the new one")


def changed_input(ground: Ground, line: Line) -> None:
    """A source file gets other voxels, the same size and the same time: between two calls, and while one reads it."""
    scans = ground.of(6, 10, 20)
    catalog = ground.cohort(scans)
    for number in range(scans):  # not compressed, so that other voxels have the same size
        path = scan_file(catalog, number)
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    api.update(catalog, options=HERE)
    store = store_of(catalog)
    victims = [1, scans - 2]
    for number in victims:
        _other_voxels(scan_file(catalog, number).with_suffix(""))
        line.injected += 1
    started = time.monotonic()
    code, driver = call("update", catalog, *WORKERS)
    line.recovered(time.monotonic() - started)
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    redone = set(driver.done())
    line.expect(redone == {scan_id(n) for n in victims}, f"{sorted(redone)} were done again")
    truth = _truth_of_copy(ground, catalog)
    judge(line, store, truth)
    # Other voxels for the time of one reading: between the look at the file and the reading of it.
    path = scan_file(catalog, 3).with_suffix("")
    _other_voxels(path)
    truth = _truth_of_copy(ground, catalog)
    whole = path.read_bytes()

    def listen(event: Mapping[str, object]) -> None:
        if event["event"] == "stage" and event.get("stage") == "ingest":
            _other_voxels(path)
            line.injected += 1

    api.update(catalog, options=api.Options(workers=0, listen=listen))
    _put(path, whole)
    started = time.monotonic()
    api.update(catalog, options=HERE)
    line.recovered(time.monotonic() - started)
    judge(line, store, truth)


def _truth_of_copy(ground: Ground, catalog: Path) -> Truth:
    """What an undisturbed run makes of the sources as they are."""
    copy = cohorts.write_cohort(
        ground.new("copy"), 0, rows=len(list(catalog.parent.rglob("*.nii"))) + 2
    )
    copy.write_text(catalog.read_text(encoding="utf-8"), encoding="utf-8")
    (copy.parent / "scans").mkdir()
    for path in catalog.parent.glob("scans/*.nii"):
        (copy.parent / "scans" / path.name).write_bytes(path.read_bytes())
    api.update(copy, options=HERE)
    return truth_of(store_of(copy))


def _other_voxels(path: Path) -> None:
    content = bytearray(path.read_bytes())
    voxels = np.frombuffer(content, np.int16, offset=352)
    inside = np.flatnonzero(voxels > 60)
    voxels[inside[:5]] -= 7
    _put(path, bytes(content))


def _put(path: Path, content: bytes) -> None:
    """Write a file in place: the same size, the same time."""
    before = path.stat()
    assert before.st_size == len(content)
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def failing_reads(ground: Ground, line: Line) -> None:
    """One read in twenty fails with EIO, of sources and of the store; then every read of one file does."""
    scans = ground.of(12, 20, 40)
    truth = _updated(ground, scans)
    catalog = ground.cohort(scans)
    store = store_of(catalog)
    noted = ground.new("notes") / "noted"
    flaky = {"flaky": [str(catalog.parent), 0.05, 20]}
    started = time.monotonic()
    code, driver = call("update", catalog, *WORKERS, plant=flaky, COHORT_FAULT_NOTES=noted)
    line.recovered(time.monotonic() - started)
    line.injected += len(notes(noted))
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    judge(line, store, truth)
    # For good: the file is refused by name, and taken once it can be read again.
    path = scan_file(catalog, 4)
    data = cohorts.ball(4)
    data[9, 10, 8] += 1
    cohorts.write_scan(path, data)
    dead = {"flaky": [str(path), 1.0, 20]}
    code, driver = call("update", catalog, *WORKERS, plant=dead)
    line.expect(code == 1, f"a file that cannot be read, and the exit code is {code}")
    line.expect(path.name in driver.said, f"does not name the file: {driver.said[-300:]}")
    line.expect(scan_id(4) in store.scan_ids(), "the scan that was there is gone")
    code, driver = call("update", catalog, *WORKERS)
    line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
    clean = ground.cohort(scans)
    cohorts.write_scan(scan_file(clean, 4), data)
    api.update(clean, options=HERE)
    judge(line, store, truth_of(store_of(clean)))
