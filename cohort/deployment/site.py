"""What the files of a deployment need to know of a catalog: what it reads and writes, as whom, when and with how much."""

import math
import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cohort.checking import check_models, read_recipes
from cohort.deployment.refusal import DeployError
from cohort.deployment.schedule import Schedule
from cohort.io.catalog import Catalog, read_catalog
from cohort.io.store import Store
from cohort.options import parse_seconds
from cohort.pipeline.cluster import where
from cohort.pipeline.clusters.clusterfile import Kubernetes, Local, Where, parse_bytes
from cohort.pipeline.memory import peak_bytes
from cohort.pipeline.plan import WORKER_BASE_BYTES, WORKER_SHARE
from cohort.userfiles import tokens_file

USUAL_MEMORY = 4 << 30
"""Bytes for a worker where nothing is ingested yet that says how large its scans are."""

MOST_MEMORY = 16 << 30
"""Bytes for a worker at most, unless more is asked for: what is larger runs in blocks."""

NOBODY = 10001
"""Number of the user in a container where nobody is named: not root, and nobody's on the host."""

_PRIVATE = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_STATE_HOME": ".local/state",
}


@dataclass(frozen=True)
class Person:
    """Who runs it: the files belong to this user, and so does the key."""

    name: str
    uid: int
    gid: int
    environment: dict[str, str]
    """Where key, cache and state of this user lie: a timer with another key would make other tokens."""

    @property
    def folders(self) -> list[Path]:
        """Private folders, in which a call writes."""
        return [Path(folder, "cohort") for folder in self.environment.values()]


@dataclass(frozen=True)
class Site:
    """A checked catalog and what was decided about running it."""

    catalog: Catalog
    person: Person
    schedule: Schedule
    place: Where
    on: str
    """``local``, an address, or the absolute path of the cluster's file."""
    workers: int | None
    memory: int | None
    """Bytes of a worker, where they were stated."""
    budget: str | None

    @property
    def unit(self) -> str:
        """Name of all that is made: the cohort's, as any system may be told it."""
        return unit_name(self.catalog.cohort)

    @property
    def catalog_path(self) -> Path:
        """Absolute path of the catalog."""
        return self.catalog.folder / self.catalog.path.name

    @property
    def store(self) -> Path | None:
        """Folder of the store; none for one in a bucket."""
        root = self.catalog.store_root()
        return root if isinstance(root, Path) else None

    @property
    def reads(self) -> list[Path]:
        """Folders that a call reads, none within another: of catalog, recipes, sources, tables, what is attached."""
        catalog = self.catalog
        sources = [catalog.resolve(s) for s in catalog.sources if "://" not in s]
        found = [catalog.folder, *(s if s.is_dir() else s.parent for s in sources)]
        # A file is named by its folder: who mounts a file keeps seeing the old one after it was replaced.
        found += [file.parent for source in sources for file in _attached(catalog, source)]
        if (people := catalog.participants) is not None:
            tables = [*people.table, *([people.map.table] if people.map else [])]
            found += [catalog.resolve(table).parent for table in tables]
        package = Path(__file__).parents[1]
        ours = [folder / "catalogs/recipes" for folder in (package, package.parent)]
        recipes = [catalog.recipe_path(name).parent for name in catalog.recipes]
        # Recipes that come with the package are wherever it is installed.
        found += [folder for folder in recipes if folder not in ours]
        return topmost(found)

    @property
    def uses_buckets(self) -> bool:
        """Whether scans or store lie in a bucket."""
        return any(
            place.startswith("s3://") for place in (*self.catalog.sources, self.catalog.store)
        )

    @property
    def hides_tmp(self) -> bool:
        """Whether a call sees all it needs with folders for temporary files of its own."""
        shared = (Path("/tmp"), Path("/var/tmp"))
        needed = [*self.reads, *self.person.folders, *([self.store] if self.store else [])]
        return not any(folder in (path, *path.parents) for path in needed for folder in shared)

    @property
    def is_remote(self) -> bool:
        """Whether a call needs the network."""
        places = (*self.catalog.sources, self.catalog.store)
        return not isinstance(self.place, Local) or any("://" in place for place in places)

    def update(
        self,
        program: str,
        *,
        on: str | None = None,
        workers: int | None = None,
        memory: int | None = None,
    ) -> list[str]:
        """Words of the command that brings everything up to date; what is given here counts instead of what was stated."""
        if on is None:
            on, workers = self.on, workers or self.workers
        memory = memory or self.memory
        words = [program, "update", str(self.catalog_path)]
        if on != "local":
            words += ["--on", on]
        if workers is not None:
            words += ["--workers", str(workers)]
        if memory is not None:
            words += ["--memory", shown_bytes(memory)]
        return words + (["--budget", self.budget] if self.budget else [])

    def worker_bytes(self) -> int:
        """Memory to ask for, for one worker: as stated, or for the largest scan of the store with the hungriest recipe."""
        if self.memory is not None:
            return self.memory
        if isinstance(self.place, Kubernetes):
            return parse_bytes(self.place.memory)
        store = Store(self.catalog.store_root())
        recipes = read_recipes(self.catalog)
        peaks = [
            peak_bytes(recipe, record)
            for record in store.records(store.scan_ids())
            if record is not None
            for recipe in recipes
        ]
        if not peaks:
            return USUAL_MEMORY
        needed = (max(peaks) + WORKER_BASE_BYTES) / WORKER_SHARE
        return min(max(1, math.ceil(needed / (1 << 29))) << 29, MOST_MEMORY)


def survey(
    catalog_path: str | Path,
    *,
    schedule: Schedule,
    on: str = "local",
    workers: int | None = None,
    memory: str | None = None,
    budget: str | None = None,
    user: str | None = None,
) -> Site:
    """Check a catalog whole, as a call would, and gather what its deployment needs; nothing is written.

    Raises
    ------
    ValueError
        For everything about the catalog, its recipes, models and sources that a call would refuse; and for a path that
        no unit or crontab can hold.
    """
    catalog = read_catalog(catalog_path)
    check_models(catalog, read_recipes(catalog))
    catalog.source_paths()
    place = where(on)
    if budget is not None:
        parse_seconds(budget)
    if on.endswith((".yaml", ".yml")):
        on = str(Path(on).absolute())
    site = Site(
        catalog,
        _person(user),
        schedule,
        place,
        on,
        workers,
        None if memory is None else parse_bytes(memory),
        budget,
    )
    paths = [site.catalog_path, site.on, site.store or "", *site.reads, *site.person.folders]
    for path in map(str, paths):
        if not path.isprintable():
            raise DeployError(
                f"{path!r} holds a character that cannot be printed; expected a path that a line of text can hold"
            )
    return site


def unit_name(cohort: str) -> str:
    """Name for what is deployed: ``cohort-`` and small letters, digits and hyphens, 48 characters at most.

    Two cohorts of one name but for capitals and signs are told apart by a digest.

    Examples
    --------
    >>> unit_name("oasis1"), unit_name("Chest_CT")
    ('cohort-oasis1', 'cohort-chest-ct-a69057')
    """
    from cohort.provenance import digest

    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in cohort.lower()).strip("-")
    if plain != cohort or len(plain) > 41:
        plain = f"{plain[:34].strip('-')}-{digest(cohort)[:6]}".strip("-")
    return f"cohort-{plain}"


def topmost(folders: Iterable[Path]) -> list[Path]:
    """Those of some absolute folders that lie in none of the others, sorted.

    Examples
    --------
    >>> [str(p) for p in topmost([Path("/a/b"), Path("/a"), Path("/ab"), Path("/a")])]
    ['/a', '/ab']
    """
    every = set(folders)
    return sorted(folder for folder in every if not every & set(folder.parents))


def shown_bytes(memory: int) -> str:
    """Memory as it is typed and as Kubernetes and Docker read it, to the byte.

    Examples
    --------
    >>> shown_bytes(4 << 30), shown_bytes(10**9)
    ('4096MiB', '1000000000B')
    """
    return f"{memory}B" if memory % (1 << 20) else f"{memory >> 20}MiB"


def program() -> str:
    """Absolute path of the command `cohort` of this installation."""
    beside = Path(sys.executable).absolute().with_name("cohort")
    found = str(beside) if beside.is_file() else shutil.which("cohort")
    if found is None:
        raise DeployError(
            f"expected the command cohort at {beside} or on the PATH, found none; install the package"
        )
    return found


def _attached(catalog: Catalog, source: Path) -> Sequence[Path]:
    return list(catalog.attachments(source / "scan" if source.is_dir() else source).values())


def _person(user: str | None) -> Person:
    """The user of that name, or who calls."""
    try:
        entry = pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
    except KeyError:
        raise DeployError(
            f"no user {user!r} on this machine; expected who reads the scans and writes the store"
        ) from None
    home = Path(entry.pw_dir)
    environment = {name: str(home / usual) for name, usual in _PRIVATE.items()}
    if entry.pw_uid == os.getuid():
        # As `key_file` and `tokens_file` find them for this user now.
        environment |= {name: os.environ[name] for name in _PRIVATE if os.environ.get(name)}
    return Person(entry.pw_name, entry.pw_uid, entry.pw_gid, environment)


def lock_file(site: Site) -> Path:
    """What a second call of cron waits at: beside the private table of tokens, which is this store's alone."""
    name = tokens_file(Store(site.catalog.store_root())).with_suffix(".lock").name
    return Path(site.person.environment["XDG_STATE_HOME"], "cohort", name)
