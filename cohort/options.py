"""What a call is asked for and what it gives back."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cohort.io.catalog import Catalog
from cohort.io.store import Store, StoreError
from cohort.pipeline.ledger import Listener, silent

if TYPE_CHECKING:
    from cohort.pipeline.canary import Canary
    from cohort.pipeline.dispatch.stopping import Stop
    from cohort.stats.analysis import Analysis
    from cohort.stats.voxels.fitting import Mapped


def _never(found: "Canary") -> bool:
    """Nobody is there to say yes."""
    return False


@dataclass(frozen=True)
class Options:
    """How a stage works; the defaults suit a laptop."""

    store: str | Path | None = None
    """Instead of the catalog's own store."""
    sources: Sequence[str | Path] | None = None
    """Instead of the catalog's own sources."""
    on: str = "local"
    """``local`` or the address of a scheduler."""
    workers: int | None = None
    """Local worker processes; the cores of this machine by default, 0 for none: everything in this process."""
    memory: int | None = None
    """Bytes a worker may use."""
    grain: Literal["auto", "scan", "block"] = "auto"
    rehash: bool = False
    """Digest every source file again instead of trusting size, times and inode."""
    settle_seconds: float = 0.0
    """A new or changed series with a file that arrived less than this ago is left for the next call."""
    time_limit_seconds: float = 3600.0
    """For one scan on a worker."""
    retry: bool = False
    """Also run scans that failed before on the same inputs."""
    budget_seconds: float | None = None
    """No new scan is begun so long after the call began."""
    max_scans: int | None = None
    """Scans on which a call works at most."""
    accept_versions: bool = False
    """Results of other versions of the libraries count as fresh, and a model may mix them."""
    canary: int = 0
    """Scans with earlier numbers to be run first and compared with them, before the others."""
    canary_tolerance: float = 1e-6
    """Largest relative change of a number that counts as none: above what the rounding of another library moves, below what
    means anything."""
    confirm: "Callable[[Canary], bool]" = _never
    """Asked whether to go on although the canary's numbers moved."""
    compare: Literal["adjustments"] | None = None
    """What is laid out side by side besides the fit; a fresh model, too."""
    scan_pages: Sequence[str] = ()
    """Scans of which the report has a page of their own: scan_ids or parts of them."""
    flagged_pages: bool = False
    """Also scans that failed, have an outlying value or none, or move a model."""
    listen: Listener = silent
    """Called with every event."""


@dataclass
class Result:
    """What one call did."""

    catalog: Catalog
    store: Store
    manifest: dict[str, Any] = field(default_factory=dict)
    problems: list[Any] = field(default_factory=list)
    """Refused series (`pipeline.intake.book.Problem`); their `text` names files and is for the operator."""
    orphans: list[Path] = field(default_factory=list)
    """Attached images for which there is no scan."""
    absent: list[str] = field(default_factory=list)
    """Scans of the store whose files are no longer in the sources."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Scans on which a recipe failed: scan_id, recipe, type, message, new."""
    canaries: "list[Canary]" = field(default_factory=list)
    """What the scans that were run first say, a recipe each."""
    is_halted: bool = False
    """Whether a canary ended the call: its recipe's tables, the models and the report stand as they did."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    """Numbers that moved although nothing they depend on did: scan_id, recipe, quantity, before, after."""
    fits: dict[str, "Analysis | Mapped | str | None"] = field(default_factory=dict)
    """Model -> fit, None if it was fresh (and nobody asked for it by name), or in one line why it could not be fitted."""
    compare: str | None = None
    """What is shown side by side besides each fit."""
    report: Path | str | None = None
    """The page: a path, or a URL in an object store."""
    pages: list[Path | str] = field(default_factory=list)
    """Pages of single scans that this call wrote."""
    unsaid: int = 0
    """How much newly failed, was refused or moved in calls before this one that were stopped: their exit code could not say so."""

    @property
    def newly_bad(self) -> bool:
        """Whether anything failed or was quarantined in this call."""
        return (
            self.is_halted
            or self.n_newly_bad > 0
            or any(isinstance(f, str) for f in self.fits.values())
        )

    @property
    def n_newly_bad(self) -> int:
        """Scans and series that newly failed or were refused, and numbers that moved: what no later call would find new."""
        refused = sum(p.new and p.state == "quarantined" for p in self.problems)
        return self.unsaid + len(self.alarms) + refused + sum(f["new"] for f in self.failed)

    @contextmanager
    def saying(self, manifest: dict[str, Any], stop: "Stop") -> Iterator[None]:
        """Within, a call works. One that ends early, with 75 or 2, leaves word for the next, which ends with 1 in its place.

        Parameters
        ----------
        manifest : dict
            Of the call.
        stop : Stop
            What ends it early.
        """
        with suppress(StoreError):  # of a damaged manifest `status` and `verify` tell
            self.unsaid = self.store.manifest().get("unsaid", 0)
        is_over = False
        try:
            yield
            is_over = not stop.is_final
        finally:
            manifest["unsaid"] = 0 if is_over else self.n_newly_bad


MOST_SECONDS = 10 * 365.25 * 86400
"""Longest time that anybody may state."""


def parse_seconds(text: str, *, may_be_zero: bool = False) -> float:
    """``6h``, ``90min``, ``1h30m`` or ``45 s`` -> seconds.

    Raises
    ------
    ValueError
        For anything else, more than ten years included, and zero unless it may be.

    Examples
    --------
    >>> parse_seconds("1h30m"), parse_seconds("0.5 d"), parse_seconds("45s")
    (5400.0, 43200.0, 45.0)
    >>> parse_seconds("0s", may_be_zero=True)
    0.0
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    part = r"([0-9]+(?:\.[0-9]+)?)\s*(d|h|min|m|s)"
    if re.fullmatch(rf"\s*(?:{part}\s*)+", text):
        seconds = sum(float(n) * units[unit[0]] for n, unit in re.findall(part, text))
        if 0 < seconds <= MOST_SECONDS or (may_be_zero and seconds == 0):
            return seconds
        least = "0 s or more" if may_be_zero else "more than 0 s"
        raise ValueError(f"time {text!r}: expected {least} and at most 10 years")
    raise ValueError(f"time {text!r}: expected a number with a unit, such as 6h, 90min or 1h30m")
