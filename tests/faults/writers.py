"""Faults of whoever writes: two at once, and one that is killed again and again."""

import random
import signal
import time

from cohort import api
from cohort.io.store import Store
from faults.bucket import Server, served
from faults.driver import Driver, call, gone
from faults.ground import MEMORY, Ground, judge, store_of, truth_of
from faults.line import Line
from faults.stores import unsound

WORKERS = ("--workers", "2", "--memory", MEMORY)
ALONE = ("--workers", "0")


def two_runs(ground: Ground, line: Line) -> None:
    """A second call begins while a first one works; the first is killed; in a bucket, the first is taken for dead."""
    scans = ground.of(12, 20, 40)
    truth = ground.truth(scans)
    for _ in range(ground.of(1, 1, 5)):
        catalog = ground.ingested(scans)
        workers = ALONE if ground.scale == "short" else WORKERS
        with Driver("run", catalog, *workers, plant={"marks": [0.3, 0]}) as first:
            first.at(0.1)
            # Held in the middle of its work, however slow this machine is to begin a second call.
            first.signal(signal.SIGSTOP)
            _refused(line, first, "run", catalog)
            first.signal(signal.SIGKILL)
            line.injected += 1
            started = time.monotonic()
            code, second = call("run", catalog, "--workers", "0")
            line.recovered(time.monotonic() - started)
            line.expect(code == 0, f"after a kill the store is not free: {second.said[-300:]}")
        judge(line, store_of(catalog), truth)
    with served() as server:
        _taken_over(ground, line, server, scans)


def _refused(line: Line, first: Driver, *arguments: object, **more: str) -> None:
    """A second call ends at once and says who holds the store."""
    line.injected += 1
    started = time.monotonic()
    code, second = call(*arguments, "--workers", "0", **more)
    line.expect(time.monotonic() - started < 60, "the second call waited")
    line.expect(code == 75, f"the second call ended with {code}, expected 75")
    holder = f"locked by process {first.pid} on "
    line.expect(holder in second.said, f"says {second.said[-300:]!r}, expected {holder!r}")
    line.expect(" since " in second.said, "does not say since when")
    line.expect(not second.count("done"), "the second call worked")


def _taken_over(ground: Ground, line: Line, server: Server, scans: int) -> None:
    """In a bucket: the holder is stopped, its claim is followed by another's, and it wakes again."""
    catalog = ground.cohort(scans)
    url, environment = server.bucket(), server.environment
    with Driver(
        "update",
        catalog,
        "--store",
        url,
        "--workers",
        "0",
        plant={"marks": [0.1, 0]},
        **environment,
    ) as first:
        first.at(0.3)
        first.signal(signal.SIGSTOP)
        _refused(line, first, "update", catalog, "--store", url, **environment)
        with server.here():
            store = Store(url)
            (number,) = [int(n) for n in store.files.names(".lock") if n.isdecimal()]
            # What a claimant on another machine does once the holder's term is over.
            store.files.write(f".lock/{number + 1:08d}", b'{"released": true}')
            before = dict(store.files.listing())
        line.injected += 1
        first.signal(signal.SIGCONT)
        code = first.end()
        line.expect(code == 75, f"who was taken for dead ended with {code}, expected 75")
        line.expect("taken over" in first.said, f"says {first.said[-300:]}")
    with server.here():
        after = dict(store.files.listing())
        late = {n for n in after.keys() - before.keys() if n.endswith(".json") and "runs/" not in n}
        line.expect(not late, f"committed after it was taken for dead: {sorted(late)[:3]}")
        code, again = call("update", catalog, "--store", url, "--workers", "0", **environment)
        line.expect(code == 0, f"resumed with {code}: {again.said[-300:]}")
        whole = ground.cohort(scans)
        api.update(whole, options=api.Options(workers=0))
        judge(line, store, truth_of(store_of(whole)))


def interrupted_ingest(ground: Ground, line: Line) -> None:
    """An ingest is killed at random points and called again, until it comes to its end."""
    scans, kills = ground.of(20, 30, 60), ground.of(4, 6, 10)
    calm = ground.cohort(scans)
    api.update(calm, options=api.Options(workers=0))
    truth = truth_of(store_of(calm))
    catalog = ground.cohort(scans)
    store = store_of(catalog)
    rng = random.Random(14)
    for n in range(kills):
        # From before anything is there until almost all is: each call has less left to do.
        workers = ("--workers", "2") if n == kills // 2 else ("--workers", "0")
        with Driver("ingest", catalog, *workers) as driver:
            begun = driver.until(lambda driver=driver: driver.count("stage") > 0)
            if n % 3:
                driver.at(rng.uniform(0.05, 0.5), "ingest")
            time.sleep(rng.uniform(0.0, 0.05))
            family = driver.family()
            line.injected += begun and not driver.count("end")
            driver.signal(signal.SIGKILL)
            left = gone([p for p in family if p.pid != driver.pid], 30)
            line.expect(not left, f"{len(left)} processes outlive their driver")
        line.broken += [f"an interrupted ingest left {p}" for p in unsound(store)]
    started = time.monotonic()
    code, driver = call("ingest", catalog, "--workers", "0")
    line.recovered(time.monotonic() - started)
    line.expect(code == 0, f"resumed with {code}: {driver.said[-300:]}")
    ids = list(api.open(catalog).scans["scan_id"])
    line.expect(len(ids) == len(set(ids)) == scans, f"{len(ids)} rows for {scans} scans")
    api.run(catalog, options=api.Options(workers=0))
    judge(line, store, truth)
