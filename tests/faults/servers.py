"""Faults of the object store: away for a while, failing at times and slow, away for longer than anybody waits."""

import threading
import time

from cohort import api
from cohort.io.store import Store
from faults.bucket import Server, served
from faults.driver import Driver, call
from faults.ground import MEMORY, Ground, Truth, failures, judge, store_of, truth_of
from faults.line import Line

WORKERS = ("--workers", "2", "--memory", MEMORY)


def away(ground: Ground, line: Line) -> None:
    """The server is stopped in the middle of the measuring; fails one request in five; stays away beyond all patience."""
    scans = ground.of(10, 12, 40)
    catalog = ground.cohort(scans)
    api.update(catalog, options=api.Options(workers=0))
    truth = truth_of(store_of(catalog))
    with served() as server:
        _stopped(
            ground, line, server, truth, {"short": 3.0, "usual": 8.0, "full": 20.0}[ground.scale]
        )
        _stormy(ground, line, server, truth)
        _gone(ground, line, server, truth)


def _stopped(ground: Ground, line: Line, server: Server, truth: Truth, seconds: float) -> None:
    catalog, url = ground.cohort(len(truth.scans)), server.bucket()
    plant = {"marks": [0.2, 0]}
    with Driver(
        "update", catalog, "--store", url, *WORKERS, plant=plant, **server.environment
    ) as driver:
        driver.at(0.3)
        server.tell("stop")
        line.injected += 1
        back = threading.Timer(seconds, server.tell, ["start"])
        back.start()
        back.join()
        started, before = time.monotonic(), len(driver.done())
        driver.until(lambda: len(driver.done()) > before + 6)
        line.recovered(time.monotonic() - started)
        code = driver.end()
    line.expect(code == 0, f"away for {seconds:.0f} s: exit code {code}: {driver.said[-300:]}")
    _judge(line, server, url, truth)


def _stormy(ground: Ground, line: Line, server: Server, truth: Truth) -> None:
    catalog, url = ground.cohort(len(truth.scans)), server.bucket()
    # Answers wait up to ten times as long as the server takes by itself, or forty.
    before = server.tell(
        "weather", 0.2, {"short": 0.025, "usual": 0.025, "full": 0.1}[ground.scale]
    )
    code, driver = call("update", catalog, "--store", url, *WORKERS, **server.environment)
    line.injected += server.tell("weather", 0, 0) - before
    line.expect(code == 0, f"one request in five fails: exit code {code}: {driver.said[-300:]}")
    _judge(line, server, url, truth)


def _gone(ground: Ground, line: Line, server: Server, truth: Truth) -> None:
    catalog, url = ground.cohort(len(truth.scans)), server.bucket()
    plant = {"marks": [0.2, 0], "patience": [3.0]}
    with Driver(
        "update", catalog, "--store", url, *WORKERS, plant=plant, **server.environment
    ) as driver:
        driver.at(0.3)
        server.tell("stop")
        line.injected += 1
        started = time.monotonic()
        code = driver.end()
        line.recovered(time.monotonic() - started)
    server.tell("start")
    line.expect(code not in (0, 1), f"the server is gone, and the exit code is {code}")
    line.expect("resume with" in driver.said, f"says {driver.said[-300:]}")
    line.expect("Traceback" not in driver.said, "a traceback instead of a line")
    with server.here():
        line.innocents += len(failures(Store(url))) + len(Store(url).quarantine())
    code, driver = call("update", catalog, "--store", url, *WORKERS, **server.environment)
    line.expect(code == 0, f"resumed with {code}: {driver.said[-300:]}")
    _judge(line, server, url, truth)


def _judge(line: Line, server: Server, url: str, truth: Truth) -> None:
    with server.here():
        judge(line, Store(url), truth)
