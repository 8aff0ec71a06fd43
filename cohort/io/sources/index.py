"""The rows of one discovery, on disk: a file each, and for DICOM the slices each holds of which series.

What is kept in memory grows with the number of series, never with that of files.
"""

import json
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cohort.io.slices.succession import Moment
from cohort.io.sources.filecache import Entry, Key
from cohort.io.sources.series import Frames, PathList

_TABLES = """
CREATE TABLE files (
    path BLOB PRIMARY KEY, relative BLOB, kind TEXT, reason TEXT, refusal TEXT, digest TEXT, pair INTEGER,
    matched INTEGER, number INTEGER, date TEXT, n_parts INTEGER, has_meta INTEGER,
    voxels BLOB, voxels_digest TEXT, uid TEXT
) WITHOUT ROWID;
CREATE INDEX claimed ON files (voxels) WHERE voxels NOT NULL;
CREATE TABLE parts (key INTEGER, path BLOB, frames TEXT, place TEXT, moments TEXT, PRIMARY KEY (key, path)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Parameters
    ----------
    path : Path
    relative : str
        POSIX path under its source.
    digest : str
    number : int, optional
        SeriesNumber.
    date : str
    has_meta : bool
        Whether the file says how it is encoded.
    frames : tuple of int, optional
        Those that belong to the series asked for; None for all.
    voxels : (path, digest), optional
        Of the file beside a NIfTI header.
    """

    path: Path
    relative: str
    digest: str
    number: int | None = None
    date: str = ""
    has_meta: bool = True
    frames: Frames = None
    voxels: tuple[Path, str] | None = None


class Index:
    """A private database in a temporary file that nobody else can open and that goes when it is closed."""

    def __init__(self) -> None:
        self.keys: dict[Key, int] = {}
        """Keys of DICOM series, in the order of their numbers."""

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("")
        self._database.executescript(_TABLES)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def add(
        self, path: Path, relative: str, entry: Entry, *, matched: bool, subject: str | None
    ) -> bool:
        """Add a file; False if it is there already, from another source.

        Parameters
        ----------
        matched : bool
            Whether the pattern fits its path.
        subject : str, optional
            From its path. Takes the place of a DICOM file's PatientID: two folders may hold one anonymised id.
        """
        name, refusal = os.fsencode(path), entry.refusal and json.dumps(entry.refusal)
        row = (
            name, os.fsencode(relative), entry.kind, entry.reason, refusal, entry.digest, entry.pair,
            matched, entry.series_number, entry.date, len(entry.parts), entry.has_meta, None, None,
            entry.uid,
        )  # fmt: skip
        marks = ",".join("?" * len(row))
        if not self._rows(f"INSERT OR IGNORE INTO files VALUES ({marks})", *row).rowcount:
            return False
        for key, frames, place, moments in entry.parts:
            number = self.keys.setdefault((subject or key[0], *key[1:]), len(self.keys))
            texts = frames and json.dumps(frames), json.dumps(place), json.dumps(moments)
            self._rows("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", number, name, *texts)
        return True

    def reasons(self) -> dict[str, PathList]:
        """Reason -> files that were passed over, in the order of their paths."""
        rows = self._rows("SELECT DISTINCT reason FROM files WHERE reason NOT NULL ORDER BY reason")
        return {reason: self._paths("reason = ?", reason) for (reason,) in rows}

    def refusals(self) -> Iterator[tuple[Path, tuple[str, str, str]]]:
        """Files that were refused, and why."""
        for path, text in self._rows(
            "SELECT path, refusal FROM files WHERE refusal NOT NULL ORDER BY path"
        ):
            code, what, fix = json.loads(text)
            yield _path(path), (code, what, fix)

    def pairs(self) -> PathList:
        """NIfTI headers whose voxels are in a file of their own."""
        return self._paths("pair")

    def slices_beside(self, path: Path) -> bool:
        """Whether DICOM images lie in the folder of a file whose names end as its own does."""
        folder = os.fsencode(path.parent) + b"/"
        rows = self._rows(
            "SELECT path FROM files WHERE path > ? AND path < ? AND kind = 'dicom'",
            folder, folder[:-1] + b"0",
        )  # fmt: skip
        others = (_path(name) for (name,) in rows)
        return any(p.parent == path.parent and ending(p) == ending(path) for p in others)

    def look_up(self, path: Path) -> tuple[str | None, str] | None:
        """Why a file was passed over, if it was, and its digest, if it has one; None for a file not added."""
        name = os.fsencode(path)
        if self._rows("SELECT 1 FROM files WHERE voxels = ?", name).fetchone():
            return "the voxels of another header", ""
        query = "SELECT coalesce(reason, 'refused'), digest FROM files WHERE path = ?"
        row = self._rows(query, name).fetchone()
        return (row[0], row[1]) if row else None

    def join(self, header: Path, voxels: Path, digest: str) -> None:
        """Make one image of a header and the file of its voxels."""
        for table in ("files", "parts"):
            self._rows(f"DELETE FROM {table} WHERE path = ?", os.fsencode(voxels))
        self._rows(
            "UPDATE files SET voxels = ?, voxels_digest = ? WHERE path = ?",
            os.fsencode(voxels), digest, os.fsencode(header),
        )  # fmt: skip

    def pass_over(self, image: Row, reason: str) -> None:
        """Take an image out, for a reason."""
        for path in (image.path, *(image.voxels or ())[:1]):
            self._rows("INSERT OR IGNORE INTO files (path, kind) VALUES (?, '')", os.fsencode(path))
            self._rows(
                "UPDATE files SET kind = '', reason = ? WHERE path = ?", reason, os.fsencode(path)
            )

    def refuse(self, path: Path, refusal: tuple[str, str, str]) -> None:
        """Take an image out, refused."""
        self._rows(
            "UPDATE files SET kind = '', reason = NULL, refusal = ? WHERE path = ?",
            json.dumps(refusal), os.fsencode(path),
        )  # fmt: skip

    def rename_reason(self, old: str, new: str) -> None:
        """Pass over for another reason what was passed over for one."""
        self._rows("UPDATE files SET reason = ? WHERE reason = ?", new, old)

    def n_images(self) -> tuple[int, int]:
        """Images, and those of them in whose path the pattern was found."""
        row = self._rows("SELECT count(*), total(matched) FROM files WHERE kind != ''").fetchone()
        return row[0], int(row[1])

    def has_alike(self) -> bool:
        """Whether two NIfTI images have one name below their sources and one content."""
        row = self._rows(
            "SELECT 1 FROM files WHERE kind = 'nifti' GROUP BY relative, digest, voxels_digest "
            "HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        return row is not None

    def nifti_names(self) -> Iterator[str]:
        """Names of NIfTI images below their sources."""
        rows = self._rows("SELECT relative FROM files WHERE kind = 'nifti'")
        return (os.fsdecode(relative) for (relative,) in rows)

    def niftis(self) -> Iterator[Row]:
        """NIfTI images in the order of their paths."""
        for path, relative, digest, voxels, voxels_digest in self._rows(
            "SELECT path, relative, digest, voxels, voxels_digest FROM files "
            "WHERE kind = 'nifti' ORDER BY path"
        ):
            beside = (_path(voxels), voxels_digest) if voxels else None
            yield Row(_path(path), os.fsdecode(relative), digest, voxels=beside)

    def dicoms(self, keys: Iterable[int]) -> list[Row]:
        """DICOM files with slices of any of the keys, in the order of their paths."""
        numbers = ",".join(str(int(key)) for key in keys)
        rows: dict[bytes, Row] = {}
        parts: dict[bytes, list[Any]] = {}
        for path, relative, digest, number, date, has_meta, n_parts, text in self._rows(
            "SELECT path, relative, digest, number, date, has_meta, n_parts, frames "
            f"FROM parts JOIN files USING (path) WHERE key IN ({numbers}) ORDER BY path"
        ):
            parts.setdefault(path, []).append(json.loads(text) if text else [])
            whole = len(parts[path]) == n_parts
            frames = None if whole else tuple(sorted(n for part in parts[path] for n in part))
            rows[path] = Row(
                _path(path), os.fsdecode(relative), digest, number, date, bool(has_meta), frames
            )
        return list(rows.values())

    def places(self, keys: Iterable[int]) -> list[tuple[float, ...]]:
        """Where slices with any of the keys lie, each place once, as `continuity.place_of` packs it."""
        numbers = ",".join(str(int(key)) for key in keys)
        rows = self._rows(f"SELECT DISTINCT place FROM parts WHERE key IN ({numbers})")
        return [tuple(json.loads(text)) for (text,) in rows]

    def moments(self, keys: Iterable[int]) -> dict[str, list[Moment]]:
        """When slices with any of the keys were taken, by their places, as `succession.moments_of` gives it."""
        numbers = ",".join(str(int(key)) for key in keys)
        found: defaultdict[str, list[Moment]] = defaultdict(list)
        for place, text in self._rows(f"SELECT place, moments FROM parts WHERE key IN ({numbers})"):
            found[place] += (tuple(moment) for moment in json.loads(text))
        return dict(found)

    def instances(self, keys: Iterable[int]) -> list[tuple[str, int, Path]]:
        """SOPInstanceUIDs that several files with slices of any of the keys have, as they stand in `Entry`: each with key and file."""
        numbers = ",".join(str(int(key)) for key in keys)
        own = f"FROM parts JOIN files USING (path) WHERE key IN ({numbers}) AND uid != ''"
        rows = self._rows(
            f"SELECT uid, key, path {own} AND uid IN "
            f"(SELECT uid {own} GROUP BY uid HAVING min(path) != max(path)) ORDER BY uid, path, key"
        )
        return [(uid, key, _path(path)) for uid, key, path in rows]

    def _paths(self, where: str, *values: object) -> PathList:
        rows = self._rows(f"SELECT path FROM files WHERE {where} ORDER BY path", *values)
        return PathList(_path(name) for (name,) in rows)

    def _rows(self, query: str, *values: object) -> sqlite3.Cursor:
        return self._database.execute(query, values)


def ending(path: Path) -> str:
    """What the names of the slices of a series end with; numbers count as one, whatever they are.

    Examples
    --------
    >>> [ending(Path(name)) for name in ("a.IMA", "IM0001", "MR.1.2.17", ".hidden")]
    ['.ima', '', '.0', '']
    """
    return re.sub(r"[0-9]+", "0", path.suffix.lower())


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name))
