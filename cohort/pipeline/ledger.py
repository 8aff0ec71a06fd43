"""The record of one call: events as they happen, a manifest at the end.

Every call leaves ``runs/<run_id>/events.jsonl`` and ``manifest.json``, also when nothing ran. What is shown while work goes on
(a progress bar, JSON lines) listens to the same events.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from cohort.io.storage.backend import Log
from cohort.io.store import Store
from cohort.pipeline.versions import checkout, versions

Listener = Callable[[Mapping[str, Any]], None]
STATES = ("fresh", "done", "failed", "quarantined")


def silent(event: Mapping[str, Any]) -> None:
    """Listen to nothing."""


def telling(listen: Listener, whose: str) -> Callable[[str, int, int], None]:
    """Say how far a part of a stage is: heard by who waits, and in no log, because nothing is finished by it."""

    def tell(what: str, done: int, total: int) -> None:
        listen({"event": "found", "stage": f"{whose}: {what}", "done": done, "total": total})

    return tell


class Ledger:
    """What one call did.

    Use as a context manager around the work; the manifest is written on the way out, also after an error.

    Parameters
    ----------
    store : Store
    command : str
        ``ingest``, ``run``, ``update``, ...
    listen : callable
        Called with every event, a flat mapping with the key ``event``.
    """

    def __init__(self, store: Store, command: str, *, listen: Listener = silent) -> None:
        self.store, self.command, self.listen = store, command, listen
        # Names, not identity: the clock orders the folders for people, nothing is compared by it.
        # Microseconds, because two short runs may begin in one second and the last one has to sort last.
        began = datetime.now(UTC)
        self.run_id = f"{began:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:6]}"
        self.states: dict[str, str] = {}
        self.stages: dict[str, Any] = {}
        self.manifest: dict[str, Any] = {}
        self._worked: set[str] = set()
        self._events: Log | None = None
        self._clock = 0.0

    def __enter__(self) -> Self:
        self._events = self.store.log(self.run_id)
        self._code = checkout()
        self._clock = time.perf_counter()
        self._started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.event("start", command=self.command)
        return self

    def event(self, kind: str, **fields: Any) -> None:
        """Write one event and tell the listener."""
        event = {"event": kind, "run": self.run_id, **fields}
        assert self._events is not None
        self._events.write(json.dumps(event, ensure_ascii=False) + "\n")
        # To where somebody who follows the run sees it; a log in a bucket waits until a few seconds are over.
        self._events.flush()
        self.listen(event)

    def state(self, unit: str, state: str, *, worked: bool) -> None:
        """Note the state in which a scan (or a refused series) stands; a later stage may make it worse, never better."""
        before = self.states.get(unit)
        if before is None or STATES.index(state) > STATES.index(before):
            self.states[unit] = state
        if worked:
            self._worked.add(unit)

    def counts(self) -> dict[str, int]:
        """Scans by state; every scan is in exactly one."""
        found = list(self.states.values())
        return {state: found.count(state) for state in STATES}

    @property
    def processed(self) -> int:
        """Scans for which any stage worked."""
        return len(self._worked)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = round(time.perf_counter() - self._clock, 3)
        self.manifest = {
            "run_id": self.run_id,
            "command": self.command,
            "started": self._started,
            "seconds": seconds,
            "counts": self.counts(),
            "processed": self.processed,
            **self.manifest,
            "stages": self.stages,
            "error": f"{kind.__name__}" if kind else None,
            "versions": versions(),
            "code": self._code,
            "platform": sys.platform,
        }
        self.event("end", counts=self.counts(), processed=self.processed, seconds=seconds)
        assert self._events is not None
        self._events.close()
        self.store.write_manifest(self.run_id, self.manifest)
