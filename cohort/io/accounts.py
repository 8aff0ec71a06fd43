"""Files of a store against what was noted of them when they were written: the comparison, and how a difference is told."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cohort import provenance
from cohort.io.storage import jsonfile

if TYPE_CHECKING:
    from cohort.io.store import Store

Kind = Literal["damaged", "missing", "foreign", "unreadable", "leftover"]

AT_ONCE = 16 << 20
"""Files up to this size are asked for several at a time where each waits for a network."""


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it was written.

    Parameters
    ----------
    kind : {"damaged", "missing", "foreign", "unreadable", "leftover"}
        ``damaged``: other bytes than were written. ``missing``: listed, and not there. ``foreign``: there, and nobody
        listed it. ``unreadable``: the disk or the server refuses. ``leftover``: what an interrupted writer left; the
        next call removes it, and it is no error.
    unit : str
        Whose file it is: ``scan <id>``, ``<recipe> of <id>``, ``table <name>``, ``model <name>``, ``run <id>``, ...
    file : str
        Name within the store.
    array, chunk : str
        Of a scan or derivative: the variable, and the key of its chunk (``c/0/0/0``, or ``zarr.json``).
    text : str
        What was found, what was expected, and what to do.
    """

    kind: Kind
    unit: str
    file: str
    text: str
    array: str = ""
    chunk: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the store is not sound."""
        return self.kind != "leftover"

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind} {self.unit}: {self.file}: {self.text}"


Steps = Generator[Problem, None, dict[str, Any] | None]
"""Problems on the way to the content of a JSON file; None if it has none that can be believed."""


class Accounts:
    """The files of a store and what is noted of them.

    Parameters
    ----------
    store : Store
    progress : callable
        Called with the bytes of each file that was read.
    """

    def __init__(self, store: "Store", progress: Callable[[int], None]) -> None:
        self.store, self.files, self.progress = store, store.files, progress

    def listed(
        self,
        unit: str,
        listed: Mapping[str, Sequence[Any]],
        there: Mapping[str, int],
        *,
        record: str,
    ) -> Iterator[Problem]:
        """Compare files with a list of name -> (SHA-256, bytes); what is not listed is foreign."""
        whole: dict[str, int] = {}
        for name, (_, size) in listed.items():
            if name not in there:
                text = f"{record} lists it, and it is not there; call `cohort update`"
                yield problem("missing", unit, name, text)
            elif there[name] != size:
                text = f"{there[name]} bytes, expected {size}; call `cohort update`"
                yield problem("damaged", unit, name, text)
            else:
                whole[name] = size
        for name, digest in self.digests(whole):
            if isinstance(digest, str) and digest != listed[name][0]:
                text = differs(digest, listed[name][0], f"remove {record} and call `cohort update`")
                yield problem("damaged", unit, name, text)
            elif not isinstance(digest, str):
                yield unreadable(unit, name, digest)
        for name in sorted(there.keys() - listed.keys()):
            yield foreign(unit, name, there[name])

    def json(self, unit: str, name: str, size: int) -> Steps:
        """Content of a JSON file with its own digest."""
        try:
            content = self.files.read(name)
        except OSError as error:
            yield unreadable(unit, name, error)
            return None
        self.progress(size)
        try:
            if not content.endswith(b"\n"):
                raise ValueError("it has no end")  # noqa: TRY301
            return jsonfile.decode(content, required=True)
        except ValueError as error:
            yield Problem("damaged", unit, name, f"{error}; remove it and call `cohort update`")
            return None

    def digests(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, str | OSError]]:
        """SHA-256 of files, or why there is none; large ones one by one."""
        small = [name for name, size in sizes.items() if size <= AT_ONCE]
        for name, found in zip(small, self.files.each(self.digest, small), strict=True):
            self.progress(sizes[name])
            yield name, found
        for name in sizes.keys() - set(small):
            yield name, self.digest(name)
            self.progress(sizes[name])

    def digest(self, name: str) -> str | OSError:
        """SHA-256 of a file, or why there is none."""
        place = self.files.place(name)
        try:
            if isinstance(place, Path):
                return provenance.file_digest(place)
            return hashlib.sha256(self.files.read(name)).hexdigest()
        except OSError as error:
            return error


def problem(kind: Kind, unit: str, name: str, text: str) -> Problem:
    """A problem of a file that may lie in a group: ``.../a.zarr/image/c/0/0/0`` is chunk c/0/0/0 of image."""
    array, _, chunk = name.partition(".zarr/")[2].partition("/")
    if array == "zarr.json":
        array, chunk = "", "zarr.json"
    return Problem(kind, unit, name, text, array, chunk)


def foreign(unit: str, name: str, size: int) -> Problem:
    """A file that nobody listed."""
    text = f"{size} bytes that nobody listed; look what it is and remove it"
    return problem("foreign", unit, name, text)


def leftover(unit: str, name: str, size: int) -> Problem:
    """What an interrupted writer left."""
    text = f"{size} bytes of an interrupted call; the next removes it"
    return problem("leftover", unit, name, text)


def unreadable(unit: str, name: str, error: OSError) -> Problem:
    """A file that the disk or the server does not give."""
    # Of the error only its name: what a server answers, or a path, is not for everybody.
    what = error.strerror or type(error).__name__
    text = f"{what}; look after the disk, the server and the rights"
    return problem("unreadable", unit, name, text)


def differs(found: str, said: str, fix: str) -> str:
    """What to say of two digests that are not the same."""
    return f"its SHA-256 is {found[:12]}, expected {said[:12]}; {fix}"
