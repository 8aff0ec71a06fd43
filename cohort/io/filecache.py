"""What is known of files that have not changed: their digests and the part of their headers that groups them.

The cache is private: it holds paths and patients' ids. It lies outside the store with mode 0600, and can be
deleted at any time.
"""

import json
import os
import sqlite3
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_VERSION = 1
"""Raised whenever what is remembered of a file, or how it is derived, changes."""

UNREADABLE = "unreadable"
"""Reason of a file or folder that is there and cannot be read: never remembered, never taken for no image."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is in one file: an image (`kind`), nothing to read (`reason`), or something damaged (`refusal`)."""

    kind: str = ""
    reason: str | None = None
    refusal: tuple[str, str, str] | None = None
    digest: str = ""
    key: tuple[Any, ...] = ()
    series_number: int | None = None
    pair: bool = False
    # Of a pair, filled in when its other file is found; never remembered.
    voxels: Path | None = None
    voxels_digest: str | None = None


class FileCache:
    """Entries by path, valid while size, mtime, ctime and inode stay what they were.

    Parameters
    ----------
    path : Path, optional
        Database; without one nothing is remembered.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made by us, so that no moment passes in which others could read it.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = _opened(self._path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._database is not None:
            self._database.commit()
            self._database.close()

    def get(self, path: Path, state: os.stat_result) -> Entry | None:
        """Entry of a file, if the file is still the one that was read."""
        if self._database is None:
            return None
        row = self._database.execute(
            "SELECT entry FROM files WHERE path = ? AND state = ?", (os.fsencode(path), _key(state))
        ).fetchone()
        return _entry(json.loads(row[0])) if row else None

    def put(self, path: Path, state: os.stat_result, entry: Entry) -> None:
        """Remember a file as it was when `state` was taken; a file that changes while it is read is forgotten."""
        if self._database is None or entry.reason == UNREADABLE:
            return
        try:
            if _key(path.lstat()) != _key(state):
                return
        except OSError:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
            (os.fsencode(path), _key(state), json.dumps(asdict(entry))),
        )


def _opened(path: Path) -> sqlite3.Connection:
    """Open the database; one that is damaged or of another version is begun anew."""
    for attempt in (1, 2):
        database = sqlite3.connect(path)
        try:
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                database.execute("DROP TABLE IF EXISTS files")
            database.execute(
                "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT, entry TEXT)"
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError:
            database.close()
            if attempt == 2:
                raise
            path.write_bytes(b"")
        else:
            return database
    raise AssertionError  # the second attempt returned or raised


def _key(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"


def _entry(plain: dict[str, Any]) -> Entry:
    values = {f.name: plain[f.name] for f in fields(Entry)}
    values["key"] = _tuples(values["key"])
    values["refusal"] = _tuples(values["refusal"])
    return Entry(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists were tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
