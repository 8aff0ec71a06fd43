"""Packages that one kind of cluster needs and the others do not."""

import importlib
import signal
from typing import Any

from cohort.pipeline.clusters.clusterfile import ClusterError


def extra(module: str) -> Any:
    """A module of an extra. Raises ClusterError with the command that installs it."""
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ClusterError(
            f"this kind of cluster needs the package {module.split('.')[0].replace('_', '-')}; "
            "install it with pip install 'cohort[cluster]'"
        ) from error
    finally:
        # dask-jobqueue makes Ctrl-C an exit with code 0 when it is imported.
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)
