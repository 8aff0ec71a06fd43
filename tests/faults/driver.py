"""The command line in a process of its own: its events as they come, its workers, its end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

PLANT = Path(__file__).parent / "plant"

PATIENCE_S = 150.0
"""A call of which nothing is heard for as long is hung: between two events of an undisturbed one lies a tenth of it."""

LONGEST_S = 600.0
"""So is one that goes on for as long, whatever it says."""


class Hung(Exception):
    """A call that did not come to an end."""


def environment(plant: Mapping[str, Any] | None = None, **more: str) -> dict[str, str]:
    """The environment of this process, and in it what `sitecustomize` plants."""
    found = {**os.environ, **more, "COHORT_FAULT": json.dumps(plant or {})}
    found["PYTHONPATH"] = os.pathsep.join(
        [str(PLANT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return found


class Driver:
    """One call of ``cohort``, started at once.

    Parameters
    ----------
    arguments : sequence of str
        As on the command line; ``--json`` is added.
    plant : mapping, optional
        What breaks inside it: name of a plant -> its arguments.
    """

    def __init__(
        self, *arguments: object, plant: Mapping[str, Any] | None = None, **more: str
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.said = ""
        """What it wrote to stderr, once it has ended."""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cohort.cli", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(plant, **more), start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._hear, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _hear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line

    def until(self, reached: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
        """Take events until something is the case, or the call has ended; whether it is the case.

        Raises
        ------
        Hung
            If neither happens and no event comes for so many seconds, or events come without an end.
        """
        heard = began = time.monotonic()
        while not reached():
            now = time.monotonic()
            if now > began + LONGEST_S:
                raise Hung(f"no end after {LONGEST_S:.0f} s: {self._last()}")
            try:
                line = self._lines.get(timeout=0.05)
            except queue.Empty:
                if now > heard + seconds:
                    raise Hung(f"nothing for {seconds:.0f} s: {self._last()}") from None
                continue
            heard = now
            if line is None:
                self._lines.put(None)
                return bool(reached())
            if line.startswith("{"):
                self.events.append({**json.loads(line), "heard": time.monotonic()})
        return True

    def _last(self) -> str:
        return str(self.events[-1])[:200] if self.events else "no event"

    def count(self, kind: str, stage: str = "") -> int:
        """Events of a kind so far."""
        return sum(
            e["event"] == kind and str(e.get("stage", "")).startswith(stage) for e in self.events
        )

    def done(self, stage: str = "run") -> list[str]:
        """Scans that were worked on so far."""
        kind = "ingested" if stage == "ingest" else "done"
        return [
            e["scan_id"]
            for e in self.events
            if e["event"] == kind and str(e.get("stage", "")).startswith(stage)
        ]

    def at(self, share: float, stage: str = "run") -> bool:
        """Go on until so much of a stage's work is done; whether it came to that before the end."""

        def reached() -> bool:
            own = [e for e in self.events if str(e.get("stage", "")).startswith(stage)]
            totals = [e["total"] for e in own if e["event"] == "stage"]
            done = [e["done"] for e in own if isinstance(e.get("done"), int)]
            return bool(totals) and max(done, default=0) >= max(1, int(share * totals[-1]))

        return self.until(reached)

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Wait for the end; the exit code. Raises `Hung`."""
        self.until(lambda: False, seconds)
        try:
            code = self._process.wait(max(5.0, seconds / 4))
        except subprocess.TimeoutExpired:
            raise Hung(f"its output ended and it did not: {self._last()}") from None
        for reader in self._readers:
            reader.join(10)
        return code

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the driver alone."""
        os.kill(self.pid, number)

    def workers(self) -> list[int]:
        """Process numbers of its local workers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p.pid for p in psutil.Process(self.pid).children() if _is_worker(p)]
        return []

    def family(self) -> list[psutil.Process]:
        """Every process that came of the call and still runs: the session that it began."""
        return [p for p in psutil.process_iter() if _session(p) == self.pid and _runs(p)]


def call(
    *arguments: object, plant: Mapping[str, Any] | None = None, **more: str
) -> tuple[int, Driver]:
    """Call ``cohort`` and wait for its end. Raises `Hung`."""
    with Driver(*arguments, plant=plant, **more) as driver:
        return driver.end(), driver


def _is_worker(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
        return "spawn_main" in line and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def notes(path: Path) -> list[tuple[str, float]]:
    """What the processes under test noted: a word, and when."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, float(at)) for word, _, at in map(str.split, lines)]


def gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of the processes that still run after a time."""
    end = time.monotonic() + seconds
    left = [p for p in processes if _runs(p)]
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [p for p in left if _runs(p)]
    return left
