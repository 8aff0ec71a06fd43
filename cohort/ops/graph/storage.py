"""Where block results wait that two passes need and memory cannot hold: compressed files in a scratch folder."""

import contextlib
import contextvars
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numcodecs.blosc import Blosc

_PIECE = 1 << 28
"""Bytes compressed at once; Blosc takes no more than 2 GB."""

_folder: contextvars.ContextVar[Path | None] = contextvars.ContextVar(
    "cohort_scratch", default=None
)


class ScratchError(OSError):
    """A block result that should lie in the scratch folder is not there."""


@dataclass(frozen=True)
class Stored:
    """Arrays in a file of the scratch folder."""

    path: str
    parts: tuple[tuple[tuple[int, ...], str, tuple[int, ...]], ...]
    """Of each array: shape, dtype, compressed length of its pieces."""

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return sum(sum(lengths) for _, _, lengths in self.parts)


@contextlib.contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """Let block results that two passes need wait in a folder of their own under `path`, not in memory.

    What is built inside the ``with`` has to be computed inside it. Each result is freed as soon as it is used, and
    the folder when the ``with`` ends. With workers elsewhere, `path` has to be on storage they share.

    Yields
    ------
    Path
        The folder; what lies in it now is what the disk carries now.
    """
    folder = Path(path) / f"scratch-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    token = _folder.set(folder)
    try:
        yield folder
    finally:
        _folder.reset(token)
        shutil.rmtree(folder, ignore_errors=True)


def current() -> str | None:
    """Folder of the innermost `scratch`, or None."""
    folder = _folder.get()
    return None if folder is None else str(folder)


def store(arrays: Sequence[np.ndarray], folder: str) -> Stored:
    """Write arrays to a new file in `folder`."""
    path = Path(folder) / f"{uuid.uuid4().hex}.blosc"
    parts = []
    try:
        with path.open("xb") as file:
            for array in arrays:
                plain = np.ascontiguousarray(array)
                codec = Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE)
                step = max(1, _PIECE // plain.itemsize)
                flat = plain.reshape(-1)
                pieces = [codec.encode(flat[i : i + step]) for i in range(0, flat.size, step)]
                for piece in pieces:
                    file.write(piece)
                parts.append((array.shape, array.dtype.str, tuple(len(p) for p in pieces)))
    except FileNotFoundError as error:
        raise ScratchError(
            "the scratch folder is gone: what is built inside `with graph.scratch(...)` is computed inside it"
        ) from error
    return Stored(str(path), tuple(parts))


def load(stored: Stored, *, free: bool = False) -> list[np.ndarray]:
    """Read the arrays back, and delete the file if nobody needs it any more (`free`)."""
    path = Path(stored.path)
    arrays = []
    try:
        with path.open("rb") as file:
            for shape, dtype, lengths in stored.parts:
                array = np.empty(shape, dtype)
                flat, start = array.reshape(-1), 0
                for length in lengths:
                    piece = np.frombuffer(Blosc().decode(file.read(length)), dtype)
                    flat[start : start + piece.size] = piece
                    start += piece.size
                arrays.append(array)
    except FileNotFoundError as error:
        raise ScratchError(
            "a block result is no longer in the scratch folder (used and freed, or the folder is gone): compute again"
        ) from error
    if free:
        path.unlink(missing_ok=True)
    return arrays
