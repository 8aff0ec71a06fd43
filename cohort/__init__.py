"""Cohort analysis of medical images: scans in, chunked Zarr, measurements, regression with confounds.

The menu of a notebook::

    import cohort
    study = cohort.open("catalogs/cohorts/oasis1.yaml")
    study.scans, study.scan("sub-0001_ses-1_OAS10001MR1"), study.measurements("oasis-csf")

Importing this package is cheap and touches nothing: every name below is loaded when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = ("open", "ingest", "run", "fit", "report", "update", "Cohort")
_OPS = (
    "intensity",
    "filters",
    "masks",
    "labels",
    "measure",
    "space",
    "register",
    "compare",
    "tissue",
    "motion",
    "synthesis",
)

__all__ = [*_API, "__version__"]  # noqa: PLE0604 - names are strings, checked by tests/test_house.py


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("cohort.api"), name)
    if name in _OPS:
        try:
            return import_module(f"cohort.ops.{name}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"module 'cohort' has no attribute {name!r}") from error
    raise AttributeError(f"module 'cohort' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API, *_OPS])
