"""What a scan costs: seconds, CPU seconds, bytes read, peak of resident memory."""

import contextlib
import os
import resource
import time
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Cost:
    """What work took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    read_bytes: int = 0
    """Asked from files, whether they came from a disk or from the system's memory; not what came over a network's sockets."""
    peak_rss_bytes: int = 0
    """Most that was resident, interpreter and libraries included."""

    def __add__(self, other: "Cost") -> "Cost":
        """Cost of both: sums, and the larger peak."""
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.read_bytes + other.read_bytes,
            max(self.peak_rss_bytes, other.peak_rss_bytes),
        )

    def since(self, before: "Cost") -> "Cost":
        """What was taken after `before`, both totals of one process; the peak is this one."""
        return Cost(
            self.seconds - before.seconds,
            self.cpu_seconds - before.cpu_seconds,
            self.read_bytes - before.read_bytes,
            self.peak_rss_bytes,
        )

    def fields(self) -> dict[str, float | int]:
        """As an event and a manifest hold it."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def total() -> Cost:
    """What this process has taken until now; its seconds count from anywhere. CPU seconds hold those of ended children."""
    return replace(_sums(), peak_rss_bytes=_peak())


def begin() -> Cost:
    """`total` without a peak, which begins anew, where the system lets it (``/proc/self/clear_refs``)."""
    with contextlib.suppress(OSError):
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(file, b"5")
        finally:
            os.close(file)
    return _sums()


class Meter:
    """Measures what this process takes from now on, as long as it does one thing at a time."""

    def __init__(self) -> None:
        self._before = begin()

    def cost(self) -> Cost:
        """What was taken since."""
        return total().since(self._before)


def _sums() -> Cost:
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return Cost(time.perf_counter(), cpu, _read_bytes())


def _read_bytes() -> int:
    found = _kernel("io").split(maxsplit=2)
    return int(found[1]) if len(found) > 1 else 0


def _peak() -> int:
    """Peak of this program; `getrusage` would also count the one that started it."""
    found = _kernel("status").partition(b"VmHWM:")[2].split(maxsplit=1)
    return (
        int(found[0]) << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )


def _kernel(name: str) -> bytes:
    """What the system says of this process. Asked for every scan, of which some take a millisecond: no more than three calls."""
    try:
        file = os.open(f"/proc/self/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 13)
    finally:
        os.close(file)


class Spent:
    """What the scans of a stage took together."""

    def __init__(self) -> None:
        self._scans, self._cost = 0, Cost()

    def add(self, cost: Cost) -> None:
        """Count a scan."""
        self._scans += 1
        self._cost += cost

    def fields(self) -> dict[str, float | int]:
        """As a manifest holds it: number of scans, sums, the largest peak."""
        return {"scans": self._scans, **self._cost.fields()}
