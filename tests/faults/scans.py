"""Faults of a scan: one that crashes, hangs, or wants more memory than there is, wherever it runs."""

import re
from pathlib import Path

from faults.driver import Driver, notes
from faults.ground import MEMORY, Ground, judge, scan_id, store_of
from faults.line import Line

WORKERS = ("--workers", "2", "--memory", MEMORY)

WORDS = {
    "segfault": r"SIGSEGV",
    "abort": r"SIGABRT",
    "exit": r"exit|ends the process",
    "sleep": r"time limit of 4 s",
    "hold": r"time limit of 4 s",
    "creep": r"OOM, peak [\d.]+ [MG]iB, limit [\d.]+ [MG]iB",
    "bomb": r"OOM, peak [\d.]+ [MG]iB, limit [\d.]+ [MG]iB",
}
"""What the reason of a failure has to say."""


def poison(ground: Ground, line: Line) -> None:
    """Three scans among 83 end the process in which they run: by a segmentation fault, abort() and sys.exit()."""
    scans = ground.of(23, 83, 83)
    marks = {3: "segfault", scans // 2: "abort", scans - 2: "exit"}
    for _ in range(ground.of(1, 1, 20)):
        _run(ground, line, scans, marks)


def hanging(ground: Ground, line: Line) -> None:
    """One scan sleeps for an hour, another does so in C and holds the interpreter's lock."""
    scans = ground.of(10, 20, 40)
    _run(ground, line, scans, {2: "sleep", scans // 2: "hold"}, "--time-limit", "4s")


def out_of_memory(ground: Ground, line: Line) -> None:
    """One scan fills the memory of its worker bit by bit, another asks for 8 GB at once."""
    scans = ground.of(10, 20, 40)
    before = _killed_by_the_machine()
    _run(ground, line, scans, {2: "creep", scans // 2: "bomb"})
    line.expect(_killed_by_the_machine() == before, "the machine itself had to end a process")


def _run(ground: Ground, line: Line, scans: int, marks: dict[int, str], *options: str) -> None:
    truth = ground.truth(scans, marks)
    targets = {scan_id(n) for n in marks}
    catalog = ground.ingested(scans, marks)
    store = store_of(catalog)
    plant = {"marks": [0.02, 1 << 30]}
    noted = ground.new("notes") / "noted"
    with Driver(
        "run", catalog, *WORKERS, *options, plant=plant, COHORT_FAULT_NOTES=str(noted)
    ) as driver:
        code = driver.end()
    line.expect(code == 1, f"exit code {code}, expected 1 as some scans failed")
    met = notes(noted)
    named = {e["scan_id"]: e["heard"] for e in driver.events if e["event"] == "failed"}
    for number, kind in marks.items():
        times = [at for word, at in met if word == kind]
        line.injected += bool(times)
        line.expect(1 <= len(times) <= 3, f"{kind} was tried {len(times)} times")
        if times and scan_id(number) in named:
            line.recovered(named[scan_id(number)] - times[0])
        found = store.derivative("ball", scan_id(number)) or {}
        said = f"{found.get('type')}: {found.get('reason')}"
        line.expect(found.get("state") == "failed", f"{kind}: {found.get('state')}")
        line.expect(re.search(WORDS[kind], said), f"{kind}: said {said!r}")
        line.expect(scan_id(number) in driver.said, f"{kind} is not named to the operator")
    judge(line, store, truth, targets=targets)


def _killed_by_the_machine() -> int:
    """Processes that the kernel has ended for want of memory since it started."""
    found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
