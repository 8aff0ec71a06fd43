"""One line of the table: what a fault was, and what it cost."""

from dataclasses import dataclass, field

TITLES = (
    "fault",
    "injected",
    "scans",
    "lost",
    "wrong",
    "innocents failed",
    "hung",
    "recovery seconds",
)
WIDTHS = (34, 8, 6, 4, 5, 16, 4, 16)


@dataclass
class Line:
    """Counts of one fault, summed over its rounds.

    Parameters
    ----------
    fault : str
        Its number on the page, ``F1``.
    title : str
    """

    fault: str
    title: str
    injected: int = 0
    scans: int = 0
    lost: int = 0
    wrong: int = 0
    innocents: int = 0
    hung: int = 0
    recovery_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    """What was promised beside the counts and not kept, or what a count above zero consists of."""

    @property
    def is_good(self) -> bool:
        """Whether the fault came to pass and cost nothing."""
        counts = (self.lost, self.wrong, self.innocents, self.hung)
        return self.injected > 0 and self.scans > 0 and not any(counts) and not self.broken

    def expect(self, kept: object, promise: str) -> None:
        """Note a promise unless it was kept."""
        if not kept:
            self.broken.append(promise)

    def recovered(self, seconds: float) -> None:
        """Note how long it took; the longest time stands."""
        self.recovery_s = max(self.recovery_s, seconds)

    def __str__(self) -> str:
        """The line of the table."""
        name = f"{self.fault} {self.title}"
        counts = (self.injected, self.scans, self.lost, self.wrong, self.innocents, self.hung)
        cells = (name, *counts, f"{self.recovery_s:.1f}")
        return _row(cells)


def head() -> str:
    """Titles of the columns."""
    return _row(TITLES)


def _row(cells: tuple[object, ...]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return ", ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)])
