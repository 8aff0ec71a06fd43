"""The operator's token table: what every token of a store stands for. It lies outside the store, mode 0600.

A store with ``ids: token`` names nobody, and so its messages name no file. Whoever runs the ingest has to find the file
all the same: this table leads from a token back to the ids and paths. It grows with each ingest and forgets nothing, so
that a scan whose files went away can still be traced.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["scan", "subject", "session", "series", "file"]

_WORDS = ("file", "sub-", "ses-")
"""What stands before a token in messages and scan ids, and may be typed with it."""


class PrivateError(ValueError):
    """A token table that cannot be written or read."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one public name stands for.

    Parameters
    ----------
    token : str
        As it stands in the store: a scan id, or the token of a subject, session, series or file. Where the catalog keeps
        ids, the public name itself.
    kind : {"scan", "subject", "session", "series", "file"}
    original : str
        As the sources have it: an id, a UID, a path; several paths are on lines of their own.
    files : tuple of str
        Of a scan: the paths of its files.
    """

    token: str
    kind: Kind
    original: str
    files: tuple[str, ...] = ()


def remember(path: Path, rows: Iterable[Row]) -> None:
    """Write rows down; what was known of the same tokens is replaced, all else stays.

    Parameters
    ----------
    path : Path
        The table, mode 0600; made in a folder of mode 0700 if it is missing. Rows that are there already as they are
        cost a look-up, not a write.

    Raises
    ------
    PrivateError
        If it cannot be written.
    """
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        same = grouped.setdefault((_plain(row.token), row.kind), {})
        same[_plain(row.original)] = json.dumps(row.files)
    with _opened(path) as database:
        for (token, kind), now in grouped.items():
            known = database.execute(
                "SELECT original, files FROM tokens WHERE token = ? AND kind = ?", (token, kind)
            )
            if dict(known) == now:
                continue
            database.execute("DELETE FROM tokens WHERE token = ? AND kind = ?", (token, kind))
            database.executemany(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)",
                [(token, kind, original, files) for original, files in now.items()],
            )


def which(path: Path, token: str) -> list[Row]:
    """Find what a token stands for.

    Parameters
    ----------
    path : Path
        The table.
    token : str
        As a message or the store shows it, or its first characters; with or without ``sub-``, ``ses-`` or ``file``.

    Returns
    -------
    list of Row
        Those of which the token, or one of the parts of a scan id, begins so: a subject's token finds the subject and
        its scans. Scans come first. Empty if nothing is known by that name.

    Raises
    ------
    PrivateError
        If there is no table, or it cannot be read.
    """
    wanted = _plain(token.strip())
    starts = {wanted} | {wanted.removeprefix(word).strip() for word in _WORDS}
    found = [
        row
        for row in everything(path)
        if any(_begins(_plain(row.token), start) for start in starts if start)
    ]
    return sorted(found, key=lambda row: (row.kind != "scan", row.kind, row.token, row.original))


def _begins(token: str, start: str) -> bool:
    parts = (part.removeprefix("sub-").removeprefix("ses-") for part in token.split("_"))
    return token.startswith(start) or any(part.startswith(start) for part in parts)


def everything(path: Path) -> Iterator[Row]:
    """All rows, in no order. Raises `PrivateError` if there is no table, or it cannot be read."""
    if not path.is_file():
        raise PrivateError(
            f"no token table {path} on this machine; `cohort ingest` writes it where it runs, for the place where the store "
            "lies then: ask there, or give the catalog instead of a store that was moved"
        )
    with _opened(path) as database:
        for token, kind, original, files in database.execute("SELECT * FROM tokens"):
            yield Row(_text(token), kind, _text(original), tuple(json.loads(files)))


def forget(path: Path, rows: Iterable[Row]) -> int:
    """Take rows out for good, so that not even the bytes of the file hold them; how many there were.

    Raises
    ------
    PrivateError
        If it cannot be written. No table: nothing is forgotten.
    """
    if not path.is_file():
        return 0
    gone = 0
    with _opened(path) as database:
        database.execute("PRAGMA secure_delete = ON")
        for row in rows:
            gone += database.execute(
                "DELETE FROM tokens WHERE token = ? AND kind = ? AND original = ?",
                (_plain(row.token), row.kind, _plain(row.original)),
            ).rowcount
        database.commit()
        database.execute("VACUUM")
    return gone


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database in one transaction; its errors name the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made by us, so that no moment passes in which others could read it.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(path)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS tokens (token TEXT, kind TEXT, original TEXT, files TEXT, "
                "PRIMARY KEY (token, kind, original))"
            )
            yield database
            database.commit()
    except (OSError, sqlite3.Error) as error:
        # A full disk or one without rights says nothing against the table, which nothing can replace.
        is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        fix = "move it away and ingest again" if is_damaged else "make room or give rights there"
        raise PrivateError(f"cannot use the token table {path} ({error}); {fix}") from error


def _plain(text: str) -> str:
    """Text that a database takes: file names may hold bytes that are no UTF-8, and ids anything at all."""
    return json.dumps(text)[1:-1]


def _text(plain: str) -> str:
    return json.loads(f'"{plain}"')


def inside(store: Path | str, path: Path) -> bool:
    """Whether a private file would lie in a store, links followed; nothing here lies in a bucket.

    Examples
    --------
    >>> inside(Path("/data/store"), Path("/data/store/sub/../key"))
    True
    >>> inside("s3://bucket/store", Path("/keys/cohort"))
    False
    """
    if "://" in str(store):
        return False
    root = Path(os.path.realpath(store))
    return root in (real := Path(os.path.realpath(path))).parents or root == real


def misplaced(store: Path | str, private: Mapping[str, Path]) -> list[str]:
    """One sentence for each private file (what it is -> its path) that would lie in the store, where it must not."""
    return [
        f"{what}: {path} lies in the store {store}; whoever is given the store could undo its tokens, "
        "so keep it elsewhere"
        for what, path in private.items()
        if inside(store, path)
    ]
