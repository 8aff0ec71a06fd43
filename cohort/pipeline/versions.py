"""Versions of the libraries: all of them for the record of a run, and of those that make numbers for each number."""

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

NUMERIC = ("connected-components-3d", "numba", "numpy", "scikit-image", "scipy", "SimpleITK")
"""Packages whose code makes the numbers of a recipe. What only moves or stores them is not here: an upgrade of Dask or Zarr
makes nothing stale."""

_PACKAGES = (
    "cohort",
    "dask",
    "distributed",
    "xarray",
    "zarr",
    "nibabel",
    "pydicom",
    "pandas",
    "statsmodels",
    *NUMERIC,
)


def versions() -> dict[str, str]:
    """Versions of Python and of every package on which numbers may depend."""
    return {"python": platform.python_version()} | _installed(_PACKAGES)


@functools.cache
def numeric() -> Mapping[str, str]:
    """Versions of the packages that make numbers, as this process loaded them: asked for once, because every scan notes them."""
    return _installed(NUMERIC)


@functools.cache
def checkout(folder: Path | None = None) -> Mapping[str, Any] | None:
    """Commit of the Git checkout that this program runs from, and whether it was changed since; asked for once.

    Parameters
    ----------
    folder : Path, optional
        Of the checkout; what holds this package by default.

    Returns
    -------
    dict or None
        ``commit`` and ``dirty``; None if there is no checkout, as where the package was installed.
    """
    if folder is None:
        import cohort

        folder = Path(next(iter(cohort.__path__))).parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):  # no git, or a folder of somebody else's
        return None


def _git(folder: Path, *arguments: str) -> str:
    call = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(
        call, capture_output=True, check=True, text=True, timeout=10
    ).stdout.strip()


def changes(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """What differs between the versions that a record notes and others, one text a library.

    Parameters
    ----------
    before : mapping, optional
        None, or without a library that is in `now`: nobody noted it, so it may have been any.

    Examples
    --------
    >>> changes({"numpy": "2.4.0", "scipy": "1.17.1"}, {"numpy": "2.4.0", "scipy": "1.18.0"})
    ['scipy 1.17.1 -> 1.18.0']
    >>> changes(None, {"numpy": "2.4.0"})
    ['numpy not noted -> 2.4.0']
    """
    known = before or {}
    return [
        f"{name} {known.get(name, 'not noted')} -> {now.get(name, 'not installed')}"
        for name in sorted({*known, *now})
        if known.get(name) != now.get(name)
    ]


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
