"""Why a series was not taken: a code, the numbers, the files and what to do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal


class Refused(ValueError):
    """A series that cannot be ingested as it is.

    Parameters
    ----------
    code : str
        Stable short code, such as ``DCM-GAP``.
    what : str
        What was found and what was expected, with numbers and units. ``{0}``, ``{1}`` stand for `files`:
        the operator sees their names, everything that can be shared sees tokens.
    fix : str
        One sentence: what to do.
    files : sequence of Path
        The files at fault.
    state : {"quarantined", "skipped"}
        Quarantined: a scan that should be here and is not. Skipped: not something to measure (a localizer, a report).
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        fix: str,
        files: Sequence[Path] = (),
        state: Literal["quarantined", "skipped"] = "quarantined",
    ) -> None:
        self.code, self.what, self.fix, self.files, self.state = (
            code,
            what,
            fix,
            tuple(files),
            state,
        )
        super().__init__(code, what, fix, self.files, state)

    def __reduce__(self) -> tuple[Callable[..., "Refused"], tuple[object, ...]]:
        """Survive the way back from a worker."""
        return _rebuild, (self.code, self.what, self.fix, self.files, self.state)

    def text(self, name: Callable[[Path], str]) -> str:
        """The message, each file written as `name` says."""
        shown = self.what.format(*(name(file) for file in self.files))
        return f"{self.code}  {shown}. Fix: {self.fix}"

    def __str__(self) -> str:
        """Shareable form: files are numbered, not named."""
        order = {file: f"file {i}" for i, file in enumerate(self.files, 1)}
        return self.text(lambda file: order[file])


def _rebuild(
    code: str,
    what: str,
    fix: str,
    files: tuple[Path, ...],
    state: Literal["quarantined", "skipped"],
) -> Refused:
    return Refused(code, what, fix=fix, files=files, state=state)
