"""Kubernetes manifests for tests: the schemas of the API and of the operator's own kinds, and what kustomize would build."""

import copy
import functools
import importlib.util
from pathlib import Path

import yaml
from renderings import missing

VERSION = "1.33"


def load(path: Path) -> list[dict]:
    return [doc for doc in yaml.safe_load_all(path.read_text(encoding="utf-8")) if doc]


def problems(doc: dict) -> list[str]:
    """What the schemas say of one object: unknown and missing fields, wrong types."""
    if doc["apiVersion"].startswith("kubernetes.dask.org/"):
        return _of_the_operator(doc)
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate is not installed (extra `test`)")
    try:
        kubernetes_validate.validate(doc, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error)]
    return []


def _of_the_operator(doc: dict) -> list[str]:
    from jsonschema import Draft202012Validator

    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft202012Validator(_crd(doc["kind"])).iter_errors(doc)
    ]


@functools.cache
def _crd(kind: str) -> dict:
    """The schema with which the operator registers a kind, unknown fields forbidden as the API server's pruning does."""
    # Its package is found, not imported: the operator wants a cluster.
    found = importlib.util.find_spec("dask_kubernetes")
    if found is None:
        missing("dask-kubernetes is not installed (extra `test`)")
    crds = Path(found.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    with (crds / f"{kind.lower()}.yaml").open("rb") as stream:
        # 1.5 MB: PyYAML's own loader takes ten seconds for it.
        crd = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = crd["spec"]["versions"]
    schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    _close(schema)
    return schema


def _close(schema: object) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
        # JSON Schema has no word for it.
        if schema.pop("x-kubernetes-int-or-string", None):
            schema.pop("type", None)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


class KustomizeError(ValueError):
    """What `kubectl kustomize` would refuse."""


KNOWN = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "patches"}


def build(folder: Path) -> list[dict]:
    """The objects of a kustomization: resources, generated config maps, patches, namespace."""
    (spec,) = load(folder / "kustomization.yaml")
    if unknown := set(spec) - KNOWN:
        raise KustomizeError(f"unknown field {sorted(unknown)}")
    objects: list[dict] = []
    for name in spec["resources"]:
        path = folder / name
        if path.is_dir():
            objects += build(path)
        elif path.is_file():
            objects += load(path)
        else:
            raise KustomizeError(f"no resource {name}")
    for made in spec.get("configMapGenerator", ()):
        data = {}
        for name in made["files"]:
            if not (folder / name).is_file():
                raise KustomizeError(f"no file {name}")
            data[name] = (folder / name).read_text(encoding="utf-8")
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": made["name"]},
                "data": data,
            }
        )
    for patch in spec.get("patches", ()):
        if not (folder / patch["path"]).is_file():
            raise KustomizeError(f"no patch {patch['path']}")
        (change,) = load(folder / patch["path"])
        target = patch["target"]
        hit = [
            o
            for o in objects
            if (o["kind"], o["metadata"]["name"]) == (target["kind"], target["name"])
        ]
        if not hit or (change["kind"], change["metadata"]["name"]) != (
            target["kind"],
            target["name"],
        ):
            raise KustomizeError(f"no target {target}")
        for each in hit:
            objects[objects.index(each)] = merge(each, change)
    seen = [(o["kind"], o["metadata"]["name"]) for o in objects]
    if len(set(seen)) < len(seen):
        raise KustomizeError(f"an object twice among {seen}")
    for each in objects:
        each["metadata"]["namespace"] = spec["namespace"]
    return objects


KEYS = {"containers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}
"""Lists that a strategic merge joins by a key; others it replaces."""


def merge(old: object, new: object, name: str = "") -> object:
    """A strategic merge."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {k: merge(old.get(k), v, k) for k, v in new.items()}
    if isinstance(old, list) and isinstance(new, list) and name in KEYS:
        key = KEYS[name]
        found = {each[key]: each for each in old}
        for each in new:
            found[each[key]] = merge(found.get(each[key]), each)
        return list(found.values())
    return new


def pods(objects: list[dict]) -> list[dict]:
    """Specs of all pods that some objects make."""
    found = []
    for each in objects:
        if each["kind"] == "CronJob":
            found.append(each["spec"]["jobTemplate"]["spec"]["template"]["spec"])
        elif each["kind"] == "DaskCluster":
            found += [each["spec"]["worker"]["spec"], each["spec"]["scheduler"]["spec"]]
    return found
