"""What is known of files that have not changed: their digests and the part of their headers that groups them.

The cache is private: it holds paths and patients' ids. It lies outside the store with mode 0600, and can be
deleted at any time.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cohort.io.refusal import Refused
from cohort.io.slices.succession import Moment

_VERSION = 6
"""Raised whenever what is remembered of a file, or how it is derived, changes."""

_AT_ONCE = 256
"""Files of one question."""

_WAIT_SECONDS = 60.0
"""For another process that writes into the same cache; it never holds it for long."""

UNREADABLE = "unreadable"
"""Reason of a file or folder that is there and cannot be read: never remembered, never taken for no image."""

ARCHIVE = "archive"
"""Kind of an archive, whose members have entries of their own."""

Key = tuple[Any, ...]
"""What files of one scan share; see `dicom_header.group_key`."""

Part = tuple[Key, tuple[int, ...] | None, tuple[float, ...], tuple[Moment, ...]]
"""One of `Entry.parts`."""

State = os.stat_result | str
"""What changes whenever a file does."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is in one file: an image (`kind`), nothing to read (`reason`), or something damaged (`refusal`).

    Parameters
    ----------
    kind : {"", "dicom", "nifti", "archive"}
    reason : str, optional
    refusal : (code, what, fix), optional
    member : str
        Label of the member for which an archive was refused, if it was one.
    digest : str
        SHA-256 of an image.
    parts : tuple of (key, frames, place, moments)
        Of a DICOM file: the keys of its slices, which frames each key has (None for all of them), where those lie, as
        `continuity.place_of` packs it, and when they were taken, as `succession.moments_of`.
    uid : str
        Of a DICOM file: sixteen hexadecimal digits that stand for its SOPInstanceUID, "" without one.
    series_number : int, optional
    date : str
        Of the acquisition, YYYYMMDD, "" if unknown.
    pair : bool
        A NIfTI header whose voxels are in a file beside it.
    """

    kind: str = ""
    reason: str | None = None
    refusal: tuple[str, str, str] | None = None
    member: str = ""
    digest: str = ""
    parts: tuple[Part, ...] = ()
    uid: str = ""
    series_number: int | None = None
    date: str = ""
    has_meta: bool = True
    pair: bool = False


_DEFAULTS = {f.name: f.default for f in fields(Entry)}


class CacheError(OSError):
    """The cache cannot be read or written: a full disk, or one without rights."""


class FileCache:
    """Entries by path, valid while the state of the file (size, mtime, ctime, inode; or ETag) stays what it was.

    Parameters
    ----------
    path : Path, optional
        Database; without one nothing is remembered.

    Raises
    ------
    CacheError
        On the way in or out, if the disk does not let it be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Made by us, so that no moment passes in which others could read it.
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = _opened(self._path)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not isinstance(error, sqlite3.Error):
                self.commit()
        except sqlite3.Error as failed:
            error = failed
        finally:
            self._database.close()
        if isinstance(error, sqlite3.Error):
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CacheError:
        return CacheError(
            f"cannot use the cache of file headers {self._path} ({error}); make room or give rights there, or set"
            " XDG_CACHE_HOME to another folder; it can be deleted"
        )

    def commit(self) -> None:
        """Bring what was put to the disk and let other processes write."""
        self._database.commit()

    def get(self, path: Path, state: State) -> Entry | None:
        """Entry of a file, if the file is still the one that was read."""
        if self._path is None:
            return None
        row = self._database.execute(
            "SELECT entry FROM files WHERE path = ? AND state = ?",
            (os.fsencode(path), state_key(state)),
        ).fetchone()
        return _entry(row[0]) if row else None

    def get_all(self, files: Sequence[tuple[Path, State]]) -> list[Entry | None]:
        """`get` of each file."""
        if self._path is None:
            return [None] * len(files)
        names = [os.fsencode(path) for path, _ in files]
        found = {name: (key, text) for name, key, text in self._rows(names)}
        rows = (found.get(name) for name in names)
        return [
            _entry(row[1]) if row and row[0] == state_key(state) else None
            for row, (_, state) in zip(rows, files, strict=True)
        ]

    def digests(self, paths: Sequence[Path]) -> list[tuple[str, str] | None]:
        """State, as `state_key` gives it, in which each file was read, and its digest; None for a file never read."""
        if self._path is None:
            return [None] * len(paths)
        names = [os.fsencode(path) for path in paths]
        rows = self._rows(names)
        found = {name: (key, json.loads(text).get("digest", "")) for name, key, text in rows}
        return [found.get(name) for name in names]

    def _rows(self, names: Sequence[bytes]) -> Iterator[tuple[bytes, str, str]]:
        """Path, state and entry of those files that are remembered; a question for each would lock the database each time."""
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT path, state, entry FROM files WHERE path IN ({marks})"
            yield from self._database.execute(query, some)

    def put(self, path: Path, state: State, entry: Entry) -> None:
        """Remember a file as it was when `state` was taken; a file that changed since then is forgotten."""
        if self._path is None or entry.reason == UNREADABLE:
            return
        if isinstance(state, os.stat_result):
            try:
                if state_key(path.lstat()) != state_key(state):
                    return
            except OSError:
                return
        self._database.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
            (os.fsencode(path), state_key(state), _text(entry)),
        )

    def gone(self) -> Iterator[tuple[Path, int]]:
        """Files of this machine that are remembered and no more there, with the bytes of what is remembered."""
        rows = "SELECT path, length(path) + length(state) + length(entry) FROM files ORDER BY path"
        for name, size in self._database.execute(rows).fetchall():
            path = Path(os.fsdecode(name))
            # A member lies in an archive, which is a file; an object in a bucket is not asked for.
            if path.is_absolute() and not any(p.is_file() for p in (path, *path.parents)):
                yield path, size

    def forget(self, paths: Iterable[Path]) -> int:
        """Take files out for good, so that not even the bytes of the cache hold them; how many there were."""
        gone = 0
        self._database.execute("PRAGMA secure_delete = ON")
        for path in paths:
            query = "DELETE FROM files WHERE path = ?"
            gone += self._database.execute(query, (os.fsencode(path),)).rowcount
        self.commit()
        if gone:
            self._database.execute("VACUUM")
        return gone

    def put_archive(self, path: Path, state: State, members: Iterable[tuple[str, Entry]]) -> Entry:
        """Take the members of an archive, all of them or none.

        Parameters
        ----------
        members : iterable of (label, Entry)
            Read once; may raise `Refused` or OSError when some have been given already.

        Returns
        -------
        Entry
            Of the archive: its kind, or why it was refused. Given to `put` too.
        """
        self.commit()
        # Collected apart: an archive may take long, and no other process should have to wait for the cache.
        collect = self._database.execute
        collect("CREATE TEMP TABLE IF NOT EXISTS members (path BLOB, entry TEXT)")
        collect("DELETE FROM members")
        folder = os.fsencode(path) + b"/"
        try:
            self._database.executemany(
                "INSERT INTO members VALUES (?, ?)",
                ((folder + os.fsencode(label), _text(entry)) for label, entry in members),
            )
            found = Entry(kind=ARCHIVE)
        except Refused as refused:
            collect("DELETE FROM members")
            label = "/".join(refused.files[0].parts[len(path.parts) :])
            found = Entry(refusal=(refused.code, refused.what, refused.fix), member=label)
        collect("DELETE FROM files WHERE path > ? AND path < ?", _below(path))
        collect("INSERT INTO files SELECT path, ?, entry FROM members", (state_key(state),))
        collect("DELETE FROM members")
        self.put(path, state, found)
        self.commit()
        return found

    def members(self, path: Path) -> Iterator[tuple[str, Entry]]:
        """Labels and entries of an archive that `put_archive` took, sorted by label."""
        rows = self._database.execute(
            "SELECT path, entry FROM files WHERE path > ? AND path < ? ORDER BY path", _below(path)
        )
        start = len(os.fsencode(path)) + 1
        for name, text in rows:
            yield os.fsdecode(name[start:]), _entry(text)


def state_key(state: State) -> str:
    """Text of a state: size, mtime, ctime and inode of a local file."""
    if isinstance(state, str):
        return state
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def _below(path: Path) -> tuple[bytes, bytes]:
    """Bounds of the paths below a path; "0" follows "/"."""
    return os.fsencode(path) + b"/", os.fsencode(path) + b"0"


def _opened(path: Path | None) -> sqlite3.Connection:
    """Open the database; one that is damaged or of another version is begun anew, without a path a private one."""
    for attempt in (1, 2):
        database = sqlite3.connect("" if path is None else path, timeout=_WAIT_SECONDS)
        try:
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                database.execute("DROP TABLE IF EXISTS files")
            database.execute(
                "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, entry TEXT) "
                "WITHOUT ROWID"
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.OperationalError:
            database.close()
            raise  # somebody else has it, or the disk is full: no damage
        except sqlite3.DatabaseError:
            database.close()
            if attempt == 2 or path is None:
                raise
            path.write_bytes(b"")
        else:
            return database
    raise AssertionError  # the second attempt returned or raised


def _text(entry: Entry) -> str:
    """JSON of what differs from an entry that says nothing."""
    values = {name: getattr(entry, name) for name in _DEFAULTS}
    stated = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
    return json.dumps(stated, separators=(",", ":"))


def _entry(text: str) -> Entry:
    values = {name: _tuples(value) for name, value in json.loads(text).items()}
    return Entry(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists were tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
