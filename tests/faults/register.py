"""The faults by their numbers on the page, and the one way to run one."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import inputs, scans, servers, stores, workers, writers
from faults.driver import Hung
from faults.ground import Ground, Impossible, Scale
from faults.line import Line


@dataclass(frozen=True)
class Fault:
    """A fault: what it is called in the table, and what injects it."""

    title: str
    inject: Callable[[Ground, Line], None]


FAULTS = {
    "F1": Fault("kill -9 worker", workers.killed_worker),
    "F2": Fault("kill -9 scheduler", workers.killed_scheduler),
    "F3": Fault("kill -9 client", workers.killed_client),
    "F4": Fault("worker out of memory", scans.out_of_memory),
    "F5": Fault("full disk", stores.full_disk),
    "F6": Fault("read-only store", stores.read_only),
    "F7": Fault("corrupt chunk", stores.flipped_bits),
    "F8": Fault("missing or partial chunk", stores.missing_chunks),
    "F9": Fault("two runs, one store", writers.two_runs),
    "F10": Fault("poison scan", scans.poison),
    "F11": Fault("scan that hangs", scans.hanging),
    "F12": Fault("object store drops", servers.away),
    "F13": Fault("clock skew", inputs.clocks),
    "F14": Fault("interrupted ingest", writers.interrupted_ingest),
    "F15": Fault("library upgraded", inputs.upgraded_library),
    "F16": Fault("recipe changed midway", inputs.edited_recipe),
    "F17": Fault("input changed under us", inputs.changed_input),
    "F18": Fault("all workers gone", workers.all_workers_gone),
    "F19": Fault("SIGTERM", workers.told_to_go),
    "F20": Fault("EIO, flaky read", inputs.failing_reads),
}
"""In the order of the page."""

SHORT = ("F1", "F3", "F7", "F8", "F9", "F10", "F16")
"""Those that are injected, in a short form, on each change."""


def run(number: str, folder: Path, scale: Scale) -> Line:
    """Inject a fault in an empty folder; its line.

    Raises
    ------
    Impossible
        If this machine does not let it happen.
    """
    line = Line(number, FAULTS[number].title)
    try:
        FAULTS[number].inject(Ground(folder, scale), line)
    except Hung as hung:
        line.hung += 1
        line.broken.append(f"hung: {hung}")
    except Impossible:
        raise
    except Exception:  # noqa: BLE001 - the table goes on, this line is red
        line.broken.append(traceback.format_exc())
    return line
