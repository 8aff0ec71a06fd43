"""A series as it was found: the files that make one scan, packed, because a cohort may hold millions of them."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

Frames = tuple[int, ...] | None
"""Numbers (from 0) of the frames of a file that belong to a series; None for all of them."""


class PathList(Sequence[Path]):
    """Paths in about a tenth of the memory that a list takes.

    Parameters
    ----------
    paths : iterable of Path
        Neighbours that begin alike pack best.

    Examples
    --------
    >>> files = PathList([Path("/scans/a/1.dcm"), Path("/scans/a/2.dcm")])
    >>> len(files), files[-1].name
    (2, '2.dcm')
    """

    __slots__ = ("_n", "_packed")

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        names = (os.fsencode(path) + b"\0" for path in paths)  # no path holds a NUL
        first, second = next(names, b""), next(names, b"")
        self._n = bool(first) + bool(second)
        if not second:  # nothing to gain by packing one, and there may be 100,000 such lists
            self._packed = first
            return
        packer = zlib.compressobj(1)
        packed = [packer.compress(first), packer.compress(second)]
        for name in names:
            packed.append(packer.compress(name))
            self._n += 1
        self._packed = b"".join([*packed, packer.flush()])

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts())

    def texts(self) -> list[str]:
        """The paths as texts, which are made in a fifth of the time."""
        plain = self._packed if self._n < 2 else zlib.decompress(self._packed)
        return [os.fsdecode(name) for name in plain.split(b"\0")[:-1]]

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        found = self.texts()[index]
        return Path(found) if isinstance(found, str) else tuple(map(Path, found))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PathList) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{self._n} paths>"


class Parts:
    """The files of a series, packed: some 60 bytes a file, of which 32 are its digest.

    Parameters
    ----------
    files : sequence of (path, SHA-256, frames)
    """

    __slots__ = ("_digests", "_frames", "paths")

    def __init__(self, files: Sequence[tuple[Path, str, Frames]]) -> None:
        self.paths = PathList(path for path, _, _ in files)
        self._digests = bytes.fromhex("".join(digest for _, digest, _ in files))
        frames = [numbers for _, _, numbers in files]
        self._frames = zlib.compress(json.dumps(frames).encode()) if any(frames) else b""

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file."""
        packed = self._digests.hex()
        return tuple(packed[i : i + 64] for i in range(0, len(packed), 64))

    @property
    def frames(self) -> tuple[Frames, ...]:
        """Which frames of each file; None for the whole file."""
        if not self._frames:
            return (None,) * len(self.paths)
        plain = json.loads(zlib.decompress(self._frames))
        return tuple(None if numbers is None else tuple(numbers) for numbers in plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __hash__(self) -> int:
        return hash(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self.paths)} files>"


@dataclass(frozen=True, slots=True)
class Series:
    """Files that make one scan; complete in itself, so that it can be sent to a worker.

    Parameters
    ----------
    kind : {"dicom", "nifti"}
    parts : Parts
        Its files, sorted; for NIfTI the header, then the voxels if they are in a file of their own.
    name : str
        Private identity. NIfTI: path relative to its source, without extension. DICOM: SeriesInstanceUID and a
        digest of the group's geometry.
    label : str
        Short name, [A-Za-z0-9]+, for stores that keep ids.
    relative : str
        POSIX path of its first file below its source: private.
    subject_id, session_id : str, optional
        As the sources give them: private.
    acquisition_uid : str
        SeriesInstanceUID, which echoes of one acquisition share: private; "" for NIfTI.
    acquisition_date : str
        The earliest, YYYYMMDD, private; "" if unknown.
    flags : tuple of str
        What is worth knowing, sorted: ``looks_like_one_series``, ``possible_truncation``.
    """

    kind: Literal["dicom", "nifti"]
    parts: Parts
    name: str
    label: str
    relative: str = ""
    subject_id: str | None = None
    session_id: str | None = None
    acquisition_uid: str = ""
    acquisition_date: str = ""
    flags: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the files are."""
        return tuple(self.parts.paths)

    @property
    def first(self) -> Path:
        """Where the first file is, which stands for the series in messages and for what lies beside it."""
        return self.parts.paths[0]

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file."""
        return self.parts.digests

    @property
    def frames(self) -> tuple[Frames, ...]:
        """Which frames of each file belong to the series; None for the whole file."""
        return self.parts.frames

    @property
    def digest(self) -> str:
        """SHA-256 of the content: the same files under other names give the same digest."""
        each = [
            digest if numbers is None else f"{digest} {json.dumps(numbers)}"
            for digest, numbers in zip(self.digests, self.frames, strict=True)
        ]
        return hashlib.sha256("\n".join([self.kind, *sorted(each)]).encode()).hexdigest()
