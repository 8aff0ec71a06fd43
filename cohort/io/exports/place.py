"""Where an export goes: written beside its place under another name, and put there when it is whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ExportError(ValueError):
    """Something that cannot be exported as it was asked for; one line."""


@contextmanager
def staged(target: Path, *, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Path to write to; it takes the place of `target` if the block ends well, and is removed otherwise.

    Parameters
    ----------
    target : Path
        A file; or a folder, if there is a `marker`. The folder it lies in is made if need be.
    force : bool
        Replace what is there.
    marker : str, optional
        File by which a folder is known as one of this kind: any other is never replaced.

    Raises
    ------
    ExportError
        If something is there already, and without `force` or not of this kind.
    """
    check_free(target, force=force, marker=marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(
        tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".partial", dir=target.parent)
    )
    try:
        path = room / target.name  # the ending of a name says how it is written
        if marker is not None:
            path.mkdir()
        yield path
        check_free(target, force=force, marker=marker)
        if marker is None:
            _settle(path)
            path.replace(target)
            return
        if target.is_dir():
            target.rename(room / "before")
        path.rename(target)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_free(target: Path, *, force: bool = False, marker: str | None = None) -> None:
    """Raise `ExportError` if `target` may not be written."""
    if not (target.exists() or target.is_symlink()):
        return
    if marker is None:
        if not target.is_file():
            raise ExportError(f"{target} is no file; choose another name")
    elif not target.is_dir():
        raise ExportError(f"{target} is no folder; choose another name")
    elif not any(target.iterdir()):
        return
    elif not (target / marker).is_file():
        raise ExportError(
            f"{target} holds something else (no {marker}), which is never replaced; choose another name"
        )
    if not force:
        raise ExportError(
            f"{target} is there already; choose another name, or replace it with --force"
        )


def _settle(path: Path) -> None:
    """Bring a file to the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
