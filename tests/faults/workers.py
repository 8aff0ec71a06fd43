"""Faults of the processes and machines that work: workers, scheduler, client killed, told to go, or all gone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cohort.io.store import Store
from faults.driver import PATIENCE_S, Driver, Hung, call, environment, gone
from faults.ground import MEMORY, Ground, judge, store_of
from faults.line import Line

WORKERS = ("--workers", "2", "--memory", MEMORY)

ALONE = ("--workers", "0")

IN_FLIGHT = 2 * 3 * 32
"""Scans that two workers may have been sent, at most: what may have to be done again."""

RESUME = "resume with: cohort"


def killed_worker(ground: Ground, line: Line) -> None:
    """A worker is killed when 20, 50 and 80 % of the scans are done."""
    scans = ground.of(20, 30, 60)
    truth = ground.truth(scans)
    for _ in range(ground.of(1, 1, 5)):
        catalog = ground.ingested(scans)
        with Driver("run", catalog, *WORKERS, plant={"marks": [0.2, 0]}) as driver:
            for share in ground_shares(ground):
                driver.at(share)
                killed = driver.workers()[:1]
                line.expect(killed, f"no worker to kill at {share:.0%}")
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
                    line.injected += 1
                started = time.monotonic()
                ended = not driver.until(lambda old=killed: _complete(driver, old))
                if not ended:
                    line.recovered(time.monotonic() - started)
            code = driver.end()
            line.expect(code == 0, f"exit code {code}: {driver.said[-300:]}")
            line.expect(len(driver.done()) <= scans + IN_FLIGHT, "more was repeated than in flight")
        judge(line, store_of(catalog), truth)


def ground_shares(ground: Ground) -> tuple[float, ...]:
    """When workers are killed."""
    return (0.5,) if ground.scale == "short" else (0.2, 0.5, 0.8)


def _complete(driver: Driver, without: list[int]) -> bool:
    """Whether two workers work: each runs its scans in a process of its own."""
    return sum(bool(_family(pid)) for pid in set(driver.workers()) - set(without)) >= 2


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and two workers as processes of their own; the scheduler's address and process."""
    dask = [sys.executable, "-m", "dask"]
    file = folder / "scheduler.json"
    loopback = ["--host", "127.0.0.1"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", *loopback, "--port", "0", "--no-dashboard", "--scheduler-file", file],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    end = time.monotonic() + 60
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    plant = environment({"marks": [0.2, 0]})
    workers = [
        subprocess.Popen(
            [*dask, "worker", "--scheduler-file", file, *loopback, "--nthreads", "1", "--no-dashboard",
             "--memory-limit", MEMORY, "--local-directory", folder / f"worker{n}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=plant,
        )
        for n in range(2)
    ]  # fmt: skip
    try:
        yield json.loads(file.read_text())["address"], scheduler
    finally:
        family = [p for w in workers for p in _family(w.pid)]
        for process in (scheduler, *workers):
            process.kill()
            process.wait()
        left = gone(family, 0.0)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def killed_scheduler(ground: Ground, line: Line) -> None:
    """The scheduler is killed when half is done; the driver stops, and the next call has its own."""
    scans = ground.of(20, 30, 60)
    truth = ground.truth(scans)
    for _ in range(ground.of(1, 1, 3)):
        catalog = ground.ingested(scans)
        store = store_of(catalog)
        with (
            cluster(ground.new("cluster")) as (address, scheduler),
            Driver("run", catalog, "--on", address) as driver,
        ):
            line.injected += driver.at(0.5)
            scheduler.kill()
            started = time.monotonic()
            code = driver.end()
            line.recovered(time.monotonic() - started)
        line.expect(line.recovery_s < 30, f"stopped after {line.recovery_s:.0f} s, not 30")
        line.expect(code == 75, f"exit code {code}, expected 75")
        line.expect(RESUME in driver.said, f"says {driver.said[-300:]}")
        line.expect("Traceback" not in driver.said, "a traceback beside the line")
        _resume(ground, line, catalog, before=set(_measured(store)), scans=scans)
        judge(line, store, truth)


def _measured(store: Store) -> list[str]:
    return store.derivative_ids("ball")


def _resume(ground: Ground, line: Line, catalog: Path, *, before: set[str], scans: int) -> None:
    """Call again: what was committed is not done again, the rest is."""
    code, driver = call("run", catalog, *(ALONE if ground.scale == "short" else WORKERS))
    line.expect(code == 0, f"resumed with {code}: {driver.said[-300:]}")
    again = before & set(driver.done())
    why = {e.get("reason") for e in driver.events if e.get("scan_id") in again} - {None}
    line.expect(not again, f"{len(again)} committed scans were measured again: {sorted(why)}")
    line.expect(len(before) + len(driver.done()) == scans, "not every scan was measured")


def killed_client(ground: Ground, line: Line) -> None:
    """The process of the caller is killed: a driver that was submitted goes on, any other is resumed."""
    scans = ground.of(16, 24, 60)
    truth = ground.truth(scans)
    catalog = ground.ingested(scans)
    store = store_of(catalog)
    with Driver("run", catalog, *WORKERS, plant={"marks": [0.2, 0]}) as driver:
        driver.at(0.3)
        family = driver.family()
        driver.signal(signal.SIGKILL)
        line.injected += 1
        started = time.monotonic()
        left = gone([p for p in family if p.pid != driver.pid], 60)
        line.recovered(time.monotonic() - started)
        line.expect(not left, f"{len(left)} workers outlive their driver")
    _resume(ground, line, catalog, before=set(_measured(store)), scans=scans)
    judge(line, store, truth)
    _submitted(ground, line, scans)


def _submitted(ground: Ground, line: Line, scans: int) -> None:
    """Who submitted is killed, with all of its session; the driver does not notice."""
    catalog = ground.ingested(scans)
    store = store_of(catalog)
    truth = ground.truth(scans)
    with Driver(
        "submit", catalog, "--on", "local", *WORKERS, "--wait", plant={"marks": [0.2, 0]}
    ) as client:
        _until(store, lambda: len(_measured(store)) >= scans // 4)
        begun = len(_measured(store))
        line.expect(0 < begun < scans, f"{begun} of {scans} scans when the client was to be killed")
        for process in client.family():
            process.kill()
        line.injected += 0 < begun < scans
    _until(store, lambda: len(_measured(store)) >= scans)
    _until(store, lambda: store.manifest().get("command") == "update")
    counts = store.manifest().get("counts", {})
    line.expect(counts.get("done", 0) + counts.get("fresh", 0) == scans, f"its counts are {counts}")
    judge(line, store, truth)


def _until(store: Store, happened: Callable[[], bool]) -> None:
    """Wait until something is the case, as long as scans go on being measured. Raises `Hung`."""
    measured, changed = -1, time.monotonic()
    while not happened():
        if (now := len(_measured(store))) != measured:
            measured, changed = now, time.monotonic()
        if time.monotonic() > changed + PATIENCE_S:
            raise Hung(f"nothing was measured for {PATIENCE_S:.0f} s, {measured} scans are")
        time.sleep(0.1)


def all_workers_gone(ground: Ground, line: Line) -> None:
    """Every worker goes and none comes back; the next call has its own."""
    scans = ground.of(16, 24, 60)
    truth = ground.truth(scans)
    catalog = ground.ingested(scans)
    store = store_of(catalog)
    patience = {"short": "5s", "usual": "8s", "full": "100s"}[ground.scale]
    code = _SCALED.format(patience=patience, catalog=str(catalog))
    said = ground.new("gone") / "said"
    with said.open("wb") as stream:
        driver = subprocess.Popen(
            [sys.executable, "-c", code], stdout=stream, stderr=stream,
            env=environment({"marks": [0.3, 0]}), start_new_session=True,
        )  # fmt: skip
        with driver:
            started = _when(said, b"GONE", driver)
            line.injected += started is not None
            try:
                ended = driver.wait(150)
            except subprocess.TimeoutExpired:
                driver.kill()
                line.hung += 1
                return
    if started is not None:
        line.recovered(time.monotonic() - started)
    text = said.read_text()
    line.expect(line.recovery_s < 120, f"stopped after {line.recovery_s:.0f} s, not 120")
    line.expect(ended == 75, f"exit code {ended}, expected 75")
    line.expect("no worker" in text, f"names no reason: {text[-300:]}")
    line.expect(RESUME in text, f"says {text[-300:]}")
    _resume(ground, line, catalog, before=set(_measured(store)), scans=scans)
    judge(line, store, truth)


# A notebook that holds a cluster and scales it to nothing when a third is done; its end is that of the command line.
_SCALED = """
import dask, sys
if __name__ == "__main__":
    dask.config.set({{"distributed.scheduler.no-workers-timeout": "{patience}"}})
    from distributed import Client, LocalCluster
    from cohort import api
    from cohort.console import RESUMABLE, errors, show_stop
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                      memory_limit="1GiB", silence_logs=50) as cluster, Client(cluster) as client:
        def listen(event):
            if event["event"] == "done" and event["done"] == event["total"] // 3:
                cluster.scale(0)
                print("GONE", flush=True)
        with errors():
            result = api.run({catalog!r}, client=client, options=api.Options(listen=listen))
        sys.exit(RESUMABLE if show_stop(result.manifest) else 0)
"""


def _when(said: Path, word: bytes, driver: "subprocess.Popen[bytes]") -> float | None:
    """Wait until a process has said a word; the time, or None if it never does."""
    end = time.monotonic() + 120
    while time.monotonic() < end and driver.poll() is None:
        if word in said.read_bytes():
            return time.monotonic()
        time.sleep(0.05)
    return None


def told_to_go(ground: Ground, line: Line) -> None:
    """SIGTERM, as a batch system sends it before it takes a node back: to the driver, or to a worker."""
    scans = ground.of(20, 30, 60)
    truth = ground.truth(scans)
    for share in (0.2,) if ground.scale == "short" else (0.1, 0.6):
        catalog = ground.ingested(scans)
        store = store_of(catalog)
        with Driver("run", catalog, *WORKERS, plant={"marks": [0.3, 0]}) as driver:
            driver.at(share)
            driver.signal(signal.SIGTERM)
            line.injected += 1
            started = time.monotonic()
            code = driver.end()
            seconds = time.monotonic() - started
            line.recovered(seconds)
            line.expect(seconds < 30, f"stopped after {seconds:.0f} s, not 30")
            line.expect(code == 75, f"exit code {code}, expected 75")
            line.expect(RESUME in driver.said, f"says {driver.said[-300:]}")
        manifest = store.manifest()
        line.expect(manifest.get("stopped") == "signal", f"stopped: {manifest.get('stopped')!r}")
        left = scans - len(_measured(store))
        line.expect(manifest.get("left") == left, f"left: {manifest.get('left')}, are {left}")
        _resume(ground, line, catalog, before=set(_measured(store)), scans=scans)
        judge(line, store, truth)
    catalog = ground.ingested(scans)
    with Driver("run", catalog, *WORKERS, plant={"marks": [0.2, 0]}) as driver:
        driver.at(0.3)
        for pid in driver.workers()[:1]:
            os.kill(pid, signal.SIGTERM)
            line.injected += 1
        code = driver.end()
        line.expect(code == 0, f"a worker was told to go, exit code {code}: {driver.said[-300:]}")
    judge(line, store_of(catalog), truth)
