"""What a worker process has to be: the environment it is started with, and the versions it must have."""

import contextlib
import importlib.metadata
import platform
from typing import TYPE_CHECKING

from cohort.pipeline.clusters.clusterfile import ClusterError

if TYPE_CHECKING:
    from distributed import Client

KEPT_BYTES = 256 << 20
"""Freed memory that a worker keeps for its next arrays, at most; no more than a tenth of its limit."""


def worker_environment(limit: int) -> dict[str, str]:
    """Environment of a worker process of `limit` bytes.

    No profiler: nobody reads it, and it interrupts every worker a hundred times a second. glibc's allocator: Dask's own
    setting gives every array back to the system as soon as it is freed and faults its pages in again for the next one,
    a third of the time of a small scan.
    """
    kept = min(KEPT_BYTES, limit // 10)
    return {
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(kept // 4),
        "MALLOC_TRIM_THRESHOLD_": str(kept),
    }


SAME = (
    "cohort",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "xarray",
    "zarr",
    "numba",
    "pydicom",
    "nibabel",
)
"""Packages whose versions have to be those of the driver on every worker: their numbers and formats meet in one store."""


def check_versions(client: "Client") -> None:
    """Raise `ClusterError` if a worker has another Python or other versions of the packages that make numbers."""
    here = versions()
    try:
        workers = client.run(versions)
    except ImportError as error:
        raise ClusterError(
            f"a worker lacks a package ({error}); give workers the same environment as the driver"
        ) from error
    for address, found in workers.items():
        for name, version in here.items():
            if found.get(name) != version:
                raise ClusterError(
                    f"the worker at {address} has {name} {found.get(name) or 'not'}, expected {version} as here; "
                    "give workers the same environment as the driver"
                )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in `SAME`, as installed in this process's environment."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in SAME:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
