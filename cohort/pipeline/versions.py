"""Versions of the libraries: all of them for the record of a run, and of those that make numbers for each number."""

import functools
import platform
from collections.abc import Mapping
from importlib import metadata

NUMERIC = ("connected-components-3d", "numba", "numpy", "scipy")
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
