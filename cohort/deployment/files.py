"""The kinds of deployment: which templates each has, what they are filled with, which command comes next."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cohort
from cohort.deployment import quoting
from cohort.deployment.refusal import DeployError
from cohort.deployment.site import NOBODY, Site, lock_file, program
from cohort.io.fields import did_you_mean
from cohort.pipeline.cluster import worker_environment
from cohort.pipeline.clusters import templates
from cohort.pipeline.clusters.clusterfile import Kubernetes, Local, Slurm

STOP_SECONDS = 45
"""From the signal to the kill: a call promises to end within 30 s of it."""

CRON_LINE = 990
"""Characters that cron reads of a line."""

BESIDE_BYTES = 512 << 20
"""Memory beside a worker's own: for the process that watches it, and one in which a scan is tried alone."""

DRIVER_BYTES = 1 << 30
"""Memory for the process that hands out work, besides its workers'."""

_IMAGE = re.compile(
    r"[a-z0-9][a-z0-9_.-]*(:\d+)?(/[a-z0-9_.-]+)*(:[\w.-]{1,128})?(@sha256:[0-9a-f]{64})?"
)
_IMAGE_TAG = re.compile(r"^(?P<name>.*?)(?P<tag>:[^:/]*)?(@.*)?$")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SECRET = re.compile(r"secret|token|passw|credential|access_?key|api_?key|private", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """One kind of place."""

    places: tuple[type, ...]
    """What ``--on`` may name there."""
    options: frozenset[str] = frozenset()
    """Of `Wishes`, those that mean something there."""
    shares: tuple[str, ...] = ()
    """Folders of other kinds of which it takes the files."""
    needs_user: bool = False
    """Whether it runs as the user who is named, who then must not be root."""


KINDS: Mapping[str, Kind] = {
    "slurm": Kind((Slurm, Local)),
    "kubernetes": Kind((Kubernetes, Local), frozenset({"image", "namespace", "timezone"})),
    "systemd": Kind((object,), frozenset({"timezone"}), needs_user=True),
    "cron": Kind((object,)),
    "compose": Kind((Local,), frozenset({"image"}), ("kubernetes/image",), needs_user=True),
}


@dataclass(frozen=True)
class Wishes:
    """What only some kinds of place can be told."""

    image: str | None = None
    namespace: str | None = None
    timezone: str | None = None


@dataclass(frozen=True)
class Rendered:
    """Files ready to be written, and what to type when they are."""

    files: Mapping[Path, str]
    """Absolute path -> text."""
    next: tuple[str, ...]
    programs: frozenset[Path] = field(default_factory=frozenset)
    """Files that can be run."""


def check_kind(name: str) -> Kind:
    """What is known of a kind. Raises `DeployError` for one that is not."""
    if name not in KINDS:
        raise DeployError(
            f"no deployment of kind {name!r}{did_you_mean(name, KINDS)}; there are {', '.join(KINDS)}"
        )
    return KINDS[name]


def render(kind_name: str, site: Site, out: Path, wishes: Wishes | None = None) -> Rendered:
    """Fill in the templates of a kind; nothing is written.

    Parameters
    ----------
    kind_name : str
        Of `KINDS`.
    site : Site
    out : Path
        The folder in which the files will lie.
    wishes : Wishes, optional

    Raises
    ------
    DeployError
        If the kind is not known, or cannot be had with what is asked.
    """
    kind, wishes = check_kind(kind_name), wishes or Wishes()
    _check(kind_name, kind, site, wishes)
    out = out.absolute()
    values = _values(kind_name, site, out, wishes)
    environment, root = templates.environment(), templates.folder()
    files: dict[Path, str] = {}
    programs: set[Path] = set()
    for template, below in _templates(root, kind_name, kind.shares):
        target = out / str(below).replace("UNIT", site.unit).removesuffix(".j2")
        if template.suffix == ".j2":
            name = template.relative_to(root).as_posix()
            files[target] = environment.get_template(name).render(values)
        else:
            files[target] = template.read_text(encoding="utf-8")
        if os.access(template, os.X_OK):
            programs.add(target)
    if "image" in kind.options:
        files[out / "image/constraints.txt"] = _constraints(root)
    if kind_name == "cron" and (
        long := [n for n in map(len, "".join(files.values()).splitlines()) if n > CRON_LINE]
    ):
        raise DeployError(
            f"the line for cron is {long[0]} characters long, and cron reads {CRON_LINE}; "
            "expected shorter paths, or another kind: systemd"
        )
    said = environment.get_template(f"{kind_name}/next.j2").render(values)
    lines = tuple(line for line in said.splitlines() if line.strip())
    return Rendered(files, lines, frozenset(programs))


def write(rendered: Rendered, *, force: bool = False) -> None:
    """Write the files.

    Raises
    ------
    DeployError
        If one is there already with another content and `force` is not set; then none is written.
    """
    changed = [
        path
        for path, text in rendered.files.items()
        if path.exists() and (not path.is_file() or path.read_text("utf-8", "replace") != text)
    ]
    if changed and not force:
        raise DeployError(
            f"{changed[0]} is there and differs; expected to write a new file; "
            "--force replaces it, --out DIR writes elsewhere"
        )
    for path, text in rendered.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path in rendered.programs:
            path.chmod(path.stat().st_mode | 0o111)


def _templates(root: Path, kind: str, shares: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """Templates of a kind, each with its path below the folder of what is made."""
    for folder, top in ((kind, root / kind), *((share, (root / share).parent) for share in shares)):
        for template in sorted((root / folder).rglob("*")):
            if template.is_file() and template.name != "next.j2":
                yield template, template.relative_to(top)


def _check(name: str, kind: Kind, site: Site, wishes: Wishes) -> None:
    for wish, value in vars(wishes).items():
        if value is not None and wish not in kind.options:
            having = ", ".join(n for n, k in KINDS.items() if wish in k.options)
            raise DeployError(f"--{wish} {value} means nothing for {name}; it is for {having}")
    if not isinstance(site.place, kind.places):
        kinds = " or ".join(place.__name__.lower() for place in kind.places)
        raise DeployError(
            f"--on {site.on}: expected for {name} a file with `cluster: {kinds}`, or no --on"
        )
    if kind.needs_user and site.person.uid == 0:
        raise DeployError(
            f"{name} would run as root; expected --user NAME, the user who reads the scans and writes the store"
        )
    if wishes.image is not None and not _IMAGE.fullmatch(wishes.image):
        raise DeployError(
            f"--image {wishes.image!r}: expected a name such as registry.example.org/lab/cohort:2026-11"
        )
    if wishes.namespace is not None and not _NAMESPACE.fullmatch(wishes.namespace):
        raise DeployError(
            f"--namespace {wishes.namespace!r}: expected small letters, digits and hyphens, 63 at most"
        )
    if isinstance(site.place, Kubernetes) and (
        secrets := sorted(n for n in site.place.env if _SECRET.search(n))
    ):
        raise DeployError(
            f"{site.on}: env.{secrets[0]} looks like a secret, and what is rendered holds none; "
            "expected it in the Kubernetes secret cohort-s3, which the pods read"
        )


def _values(kind: str, site: Site, out: Path, wishes: Wishes) -> dict[str, Any]:
    """All that a template may name."""
    person, catalog = site.person, site.catalog
    place = None if isinstance(site.place, Local) else site.place
    inside = kind in ("kubernetes", "compose")
    values: dict[str, Any] = {
        "name": catalog.cohort,
        "unit": site.unit,
        "catalog": str(site.catalog_path),
        "program": "cohort" if inside else program(),
        "update": None if inside else site.update(program()),
        "on": None if site.on == "local" else site.on,
        "where": place,
        "workers": site.workers,
        "memory": site.worker_bytes() if inside or kind == "slurm" else site.memory,
        "schedule": site.schedule,
        "user": person.name,
        "as_user": "" if person.uid == os.getuid() else f"sudo -u {person.name} ",
        "uid": person.uid or NOBODY,
        "gid": person.gid or NOBODY,
        "environment": person.environment,
        "private": [str(folder) for folder in person.folders],
        "store": None if site.store is None else str(site.store),
        "reads": [str(folder) for folder in site.reads],
        "calls": str(lock_file(site).with_suffix("")),
        "is_remote": site.is_remote,
        "stop_seconds": STOP_SECONDS,
        "driver_bytes": DRIVER_BYTES,
        "beside_bytes": BESIDE_BYTES,
        "image": wishes.image or getattr(place, "image", None) or f"cohort:{cohort.__version__}",
        "hides_tmp": site.hides_tmp,
        "uses_buckets": site.uses_buckets,
        "s3_env": str(Path(person.environment["XDG_CONFIG_HOME"], "cohort/s3.env")),
        "out": str(out),
        "source": _checkout(),
        "missing": _missing(site),
        **{name: getattr(quoting, name) for name in _QUOTING},
    }
    if inside:
        # As the workers of every other kind of cluster.
        values["worker_environment"] = json.dumps(worker_environment(values["memory"]))
    if kind == "kubernetes":
        values |= _pods(site, wishes, values["memory"])
    if kind == "compose":
        values["workers"] = site.workers or 2
        values["notebook_image"] = _IMAGE_TAG.sub(r"\g<name>-notebook\g<tag>", values["image"])
        values["update"] = site.update("cohort", on="tcp://127.0.0.1:8786", memory=values["memory"])
    return values


_QUOTING = (
    "unit_word",
    "unit_argument",
    "unit_path",
    "cron_line",
    "yaml",
    "compose",
    "pod",
    "quantity",
)


def _pods(site: Site, wishes: Wishes, memory: int) -> dict[str, Any]:
    """What only pods need: everything the catalog names lies on one volume, at the paths it has here."""
    place = site.place
    local = [*site.reads, *([site.store] if site.store else [])]
    root = Path(os.path.commonpath(local))
    if root == Path("/"):
        raise DeployError(
            f"catalog, sources, tables and store share no folder ({', '.join(map(str, local))}); pods see one volume: "
            "expected all of them in one folder, or in a bucket"
        )
    workers = site.workers or (place.workers if isinstance(place, Kubernetes) else 2)
    key = site.catalog.key_path()
    here = key or Path(site.person.environment["XDG_CONFIG_HOME"], "cohort", "key")
    return {
        "namespace": wishes.namespace or getattr(place, "namespace", None) or "default",
        "workers": workers,
        "root": str(root),
        "store_below": None if site.store is None else str(site.store.relative_to(root)),
        "key": None if site.catalog.ids == "keep" else str(key or "/run/cohort-key/cohort/key"),
        "key_here": str(here),
        "key_folder": str(here.parent),
        "key_is_missing": not here.exists(),
        "pod_environment": dict(getattr(place, "env", {})),
        "alone": site.update("cohort", on="local", workers=workers, memory=memory),
        "on_cluster": site.update("cohort", on="/etc/cohort/cluster.yaml", memory=memory),
    }


def _missing(site: Site) -> list[str]:
    """Folders in which a call writes and that have to be there before it is shut in."""
    folders = [*site.person.folders, *([site.store] if site.store else [])]
    return [str(folder) for folder in folders if not folder.is_dir()]


def _checkout() -> str | None:
    """Folder of the source of this package, if it runs from a checkout."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "pyproject.toml").is_file() else None


def _constraints(root: Path) -> str:
    """Pins of the image: a wheel carries them with the templates, in a checkout they lie at the top."""
    inside = root / "constraints.txt"
    return (inside if inside.is_file() else root.parent / "constraints.txt").read_text("utf-8")
