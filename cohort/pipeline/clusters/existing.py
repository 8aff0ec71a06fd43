"""A scheduler that is there already: reached, with certificates if it asks for them, or in one line why not."""

import asyncio
import os
import ssl
from typing import TYPE_CHECKING, Any

from cohort.pipeline.clusters.clusterfile import ClusterError, Scheduler

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""


def open_existing(spec: Scheduler) -> "Client":
    """A client of a running scheduler.

    Raises
    ------
    ClusterError
        If its certificates cannot be read or are not trusted, or nobody answers there within `CONNECT_SECONDS`.
    """
    from distributed import Client

    try:
        security = _security(spec)
        _knock(spec.address, security)
        return Client(spec.address, timeout=CONNECT_SECONDS, security=security)
    except ssl.SSLError as error:
        raise ClusterError(f"tls: the certificates cannot be used ({error.reason})") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ClusterError):
            raise
        if "certificate" in str(error):
            raise ClusterError(
                f"the scheduler at {spec.address} and this side do not trust each other's certificates; "
                "expected `tls` with files of the same authority as the scheduler's"
            ) from error
        raise ClusterError(
            f"no scheduler answers at {spec.address} within {CONNECT_SECONDS} s; start one with `dask scheduler`"
        ) from error


def _security(spec: Scheduler) -> "Security | None":
    from distributed.security import Security

    if spec.tls is None:
        return None
    for name, file in spec.tls.model_dump().items():
        if not os.access(file, os.R_OK):
            raise ClusterError(f"tls.{name}: expected a file that can be read, found {file}")
    return Security(
        require_encryption=True,
        tls_ca_file=spec.tls.ca,
        tls_client_cert=spec.tls.cert,
        tls_client_key=spec.tls.key,
    )


def _knock(address: str, security: "Security | None") -> None:
    """Raise OSError unless a scheduler answers: a client waits for ever for a port that listens and says nothing."""
    from distributed.comm.core import connect
    from distributed.security import Security
    from distributed.utils import LoopRunner

    said: dict[str, Any] = (security or Security()).get_connection_args("client")

    async def knock() -> None:
        comm = await asyncio.wait_for(
            connect(address, timeout=CONNECT_SECONDS, **said), CONNECT_SECONDS
        )
        await comm.close()

    # Not asyncio.run: a notebook has a loop that runs.
    runner = LoopRunner(asynchronous=False)
    runner.start()
    try:
        runner.run_sync(knock)
    finally:
        runner.stop()
