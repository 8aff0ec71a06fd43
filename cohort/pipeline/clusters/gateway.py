"""A cluster that a server of Dask Gateway gives."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cohort.pipeline.clusters.clusterfile import ClusterError, Gateway
from cohort.pipeline.clusters.extras import extra

if TYPE_CHECKING:
    from distributed import Client


def open_gateway(spec: Gateway, workers: int | None, stack: ExitStack) -> "Client":
    """A client of a new cluster; `stack` ends both."""
    gateway = extra("dask_gateway")
    try:
        server = gateway.Gateway(spec.address, proxy_address=spec.proxy, auth=spec.auth)
        stack.callback(_close_gateway, server)
        # A cluster opens a connection of its own, which nothing closes if it fails: the login is tried on ours first.
        server.list_clusters()
        cluster = server.new_cluster(shutdown_on_close=True, **spec.options)
        stack.callback(_forget_gateway, cluster)
        stack.enter_context(cluster)
        cluster.scale(workers or spec.workers)
        return cluster.get_client()
    except Exception as error:
        raise ClusterError(
            f"the gateway at {spec.address} gave no cluster ({type(error).__name__}: {error})"
        ) from error


def _forget_gateway(cluster: Any) -> None:
    _close_gateway(cluster.gateway)
    del cluster.gateway  # its destructor has nothing left to close then


def _close_gateway(server: Any) -> None:
    server.close()
    # Its destructor closes it once more, which fails aloud in distributed 2026: the loop has ended.
    del server._loop_runner
