"""Pods that the operator of dask-kubernetes starts and ends."""

import json
from typing import Any

from cohort.pipeline.clusters.clusterfile import ClusterError, Kubernetes, parse_bytes
from cohort.pipeline.clusters.extras import extra
from cohort.pipeline.clusters.workers import worker_environment


def open_kubernetes(spec: Kubernetes, workers: int | None, memory: int | None) -> Any:
    """A new cluster of one worker a pod. Raises ClusterError."""
    operator = extra("dask_kubernetes.operator")
    limit = memory or parse_bytes(spec.memory)
    resources = {"memory": str(limit), "cpu": "1"}
    made = operator.make_cluster_spec(
        name=spec.name,
        image=spec.image,
        n_workers=workers or spec.workers,
        resources={"requests": resources, "limits": {"memory": str(limit)}},
        # Through the nanny: it replaces what the pod says about memory by settings of its own.
        env={
            **spec.env,
            "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON": json.dumps(worker_environment(limit)),
        },
    )
    try:
        return operator.KubeCluster(custom_cluster_spec=made, namespace=spec.namespace)
    except Exception as error:
        raise ClusterError(
            f"no Dask cluster in namespace {spec.namespace!r} ({type(error).__name__}: {error}); "
            "is the dask-kubernetes operator installed, and does kubectl reach the cluster?"
        ) from error
