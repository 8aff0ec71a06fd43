"""A catalog: the YAML that says what a cohort is, where its scans lie, what is measured and what is modelled.

Nothing here opens a scan. A catalog is checked whole before anything is read or written, and every problem
is listed at once, each with its place, what was expected and what was found.
"""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from cohort.io import covariates
from cohort.io.covariates import Check, IdMap, Model, ParticipantsTable
from cohort.io.fields import (
    Attachment,
    Columns,
    ImageTemplate,
    LocalPath,
    Name,
    Part,
    Sources,
    SubjectPattern,
    VariableName,
    at_home,
    describe,
    did_you_mean,
    listed,
)
from cohort.io.policy import DEFAULT, Codes, Policy, SeriesPolicy, SliceCount, decide
from cohort.io.sources import places
from cohort.io.storage import objects
from cohort.io.yamlfile import YamlError, read_yaml
from cohort.provenance import digest

SCAN_SUFFIXES = (".nii.gz", ".nii", ".img.gz", ".hdr", ".img", ".dcm", ".ima")
"""What `{stem}` leaves out; the dots of any other name are part of it."""

_PLACES = ("sources", "store", "key")
"""Keys that say where something lies, not what it is."""


class CatalogError(ValueError):
    """A catalog that cannot be used; one line a problem.

    Parameters
    ----------
    problems : sequence of str
        Each with its place, what was expected, what was found.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way back from a worker."""
        return type(self), (self.problems,)


class Catalog(Part):
    """A cohort as its YAML states it, validated. Paths are relative to the file."""

    cohort: Name = Field(description="the cohort's name")
    sources: Sources = Field(
        description="a list of folders, files, archives, s3:// and dicomweb:// URLs; [] for a cohort that is only a table"
    )
    store: str = Field(description="the folder, or s3://bucket/prefix, in which results are kept")
    ids: Literal["token", "keep"] = "token"
    key: LocalPath | None = None
    """File of the key of the tokens; outside the store."""
    subject: SubjectPattern | None = None
    prefer: Literal["sform", "qform"] | None = None
    """Which of a NIfTI header's two affines counts where they disagree; without it such a file is refused."""
    accept: Codes = Field(default_factory=list)
    """Refusals that are taken all the same, by their codes; for every series."""
    resample: Literal["uniform"] | None = None
    min_slices: SliceCount = DEFAULT.min_slices
    split: bool = False
    philips_precise: bool = False
    fifth_axis: Literal["echo"] | None = None
    series: list[SeriesPolicy] = Field(default_factory=list)
    """The same decisions for some series only; what each of them means says `policy.Policy`."""
    attach: dict[VariableName, Attachment] = Field(default_factory=dict)
    """Name -> where the file lies that belongs to a scan: labels, a mask (of that name), or a further image."""
    recipes: list[str] = Field(default_factory=list)
    participants: ParticipantsTable | None = Field(default=None, validate_default=True)
    models: dict[Name, Model] = Field(default_factory=dict)
    checks: dict[Name, Check] = Field(default_factory=dict)
    """What must hold of every row of the table; rows that stray are named."""
    reliability: Columns | None = None
    """Columns whose scan-rescan reliability is told, from the people who were scanned twice."""
    agreement: dict[VariableName, VariableName] = Field(default_factory=dict)
    """Measurement -> column of the participants table in which an expert measured the same, in the same unit."""
    allow_unmatched: bool = False
    acknowledgement: str | None = None
    """Printed wherever results are shown."""

    _path: Path = PrivateAttr()

    @field_validator("store")
    @classmethod
    def _store_is_a_place(cls, store: str) -> str:
        if "://" in store:
            objects.parse_url(store)
        elif not store.strip():
            raise ValueError("expected a path or s3://bucket/prefix, found empty text")
        return store

    @field_validator("attach")
    @classmethod
    def _attach_is_not_the_scan(cls, attach: dict[str, str]) -> dict[str, str]:
        if taken := sorted({"image", "affine", "grid"} & set(attach)):
            raise ValueError(
                f"{taken[0]!r} is a variable of the scan itself; choose another name, such as 'mask'"
            )
        images = {name for name, said in attach.items() if isinstance(said, ImageTemplate)}
        if taken := sorted({"labels", "mask"} & images):
            raise ValueError(
                f"{taken[0]!r} names no image; choose another name for it, such as 'second'"
            )
        return attach

    @field_validator("recipes")
    @classmethod
    def _recipes_exist(cls, recipes: list[str], info: ValidationInfo) -> list[str]:
        folder = (info.context or {})["path"].parent
        problems: list[str] = []
        for recipe in recipes:
            try:
                find_recipe(recipe, folder=folder, where="recipes: ")
            except CatalogError as error:
                problems.extend(error.problems)
        names = [recipe_name(recipe) for recipe in recipes]
        problems += [
            f"recipes: {name!r} is listed twice"
            for name in sorted({n for n in names if names.count(n) > 1})
        ]
        if problems:
            raise CatalogError(problems)
        return recipes

    @field_validator("participants")
    @classmethod
    def _something_to_read(
        cls, value: ParticipantsTable | None, info: ValidationInfo
    ) -> ParticipantsTable | None:
        if value is None and info.data.get("sources") == []:
            raise ValueError(
                "expected a table, since sources is empty: a cohort is scans, a table or both"
            )
        return value

    @field_validator("models")
    @classmethod
    def _models_name_recipes(
        cls, models: dict[str, Model], info: ValidationInfo
    ) -> dict[str, Model]:
        known = [recipe_name(recipe) for recipe in info.data.get("recipes", ())]
        if "recipes" in info.data and (
            wrong := [
                (name, m.recipe) for name, m in models.items() if m.recipe and m.recipe not in known
            ]
        ):
            raise CatalogError(
                [
                    f"models.{name}.recipe: expected one of this catalog's recipes ({listed(known)}), "
                    f"found {recipe!r}{did_you_mean(recipe, known)}"
                    for name, recipe in wrong
                ]
            )
        return models

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    @property
    def folder(self) -> Path:
        """Absolute folder of the file; paths are relative to it."""
        return Path(os.path.abspath(self._path.parent))  # noqa: PTH100 - lexical: links stay as written

    @property
    def digest(self) -> str:
        """SHA-256 of what the cohort is: everything but sources, store and key, which only say where."""
        return digest(self.model_dump(mode="json", exclude=set(_PLACES), exclude_defaults=True))

    def resolve(self, path: str) -> Path:
        """Absolute form of a path of this catalog; ``~/`` is the home of whoever calls."""
        return Path(os.path.normpath(self.folder / at_home(path)))

    def store_root(self) -> Path | str:
        """Absolute folder of the store, or its URL."""
        return self.store if "://" in self.store else self.resolve(self.store)

    def key_path(self) -> Path | None:
        """Absolute path of the key file, if the catalog names one."""
        return None if self.key is None else self.resolve(self.key)

    def source_paths(self) -> list[Path]:
        """Absolute folders and files of the scans; of a URL the path by which `places` names it.

        Raises
        ------
        CatalogError
            For every one that is not there or cannot be read.
        """
        problems, paths = [], []
        for source in self.sources:
            path = places.from_url(source) if "://" in source else self.resolve(source)
            try:
                places.check(path)
            except FileNotFoundError:
                problems.append(f"expected a folder or file, found nothing at {source!r} ({path})")
            except OSError as error:
                problems.append(f"{source!r} ({path}) cannot be read ({error.strerror})")
            paths.append(path)
        if problems:
            raise CatalogError([f"{self.path}: sources: {problem}" for problem in problems])
        return paths

    def policy(self, *names: str) -> Policy:
        """Decisions for the series of these names: its path below its source, scan id, name in quarantine."""
        return decide(self, self.series, names)

    def recipe_path(self, name: str) -> Path:
        """File of a recipe by name or path; see `find_recipe`."""
        return find_recipe(name, folder=self.folder, where=f"{self.path}: recipes: ")

    def attachments(self, path: Path) -> dict[str, Path]:
        """Where the attached images of the scan at `path` should lie: name -> absolute path, there or not."""
        return {
            name: self._fill(text, path.parent, stem(path)) for name, text in self.attach.items()
        }

    @property
    def attached_images(self) -> frozenset[str]:
        """Names of what is attached and is an image, not labels or a mask."""
        return frozenset(n for n, said in self.attach.items() if isinstance(said, ImageTemplate))

    def only_scans(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the files found in the sources that are scans, not attached to one."""
        paths = list(paths)
        attached = self.attached_in({path.parent for path in paths})
        return [path for path in paths if Path(os.path.normpath(path)) not in attached]

    def orphan_attachments(self, scans: Iterable[Path]) -> list[Path]:
        """Files that look like the attachment of a scan, for which no scan was found.

        Parameters
        ----------
        scans : iterable of Path
            Absolute paths of all discovered scans, of each its first file; refused ones too.
        """
        folders, expected = set[Path](), set[Path]()
        for scan in scans:
            folders.add(scan.parent)
            expected.update(self.attachments(scan).values())
        return sorted(self.attached_in(folders) - expected)

    def attached_in(self, folders: Iterable[Path]) -> set[Path]:
        """Files that a template names for scans of any name in `folders`."""
        filled = {
            str(self._fill(text, folder, "\0"))
            for folder in folders
            for text in self.attach.values()
        }
        patterns = {"*".join(map(glob.escape, text.split("\0"))) for text in filled}
        return {Path(found) for pattern in patterns for found in glob.glob(pattern)}  # noqa: PTH207 - absolute pattern

    def _fill(self, template: str, folder: Path, stem: str) -> Path:
        return self.resolve(template.format(stem=stem, folder=os.path.abspath(folder)))  # noqa: PTH100


def stem(path: Path) -> str:
    """File name without the ending of an image format.

    Examples
    --------
    >>> stem(Path("a/OAS1_0001_MR1.nii.gz")), stem(Path("1.2.840.10"))
    ('OAS1_0001_MR1', '1.2.840.10')
    """
    for suffix in SCAN_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name


def recipe_name(recipe: str) -> str:
    """Name of a recipe given by name or by path: the file name without .yaml."""
    return Path(recipe).name.removesuffix(".yaml")


def find_recipe(name: str, *, folder: Path, where: str = "") -> Path:
    """File of a recipe.

    Parameters
    ----------
    name : str
        A path that ends in .yaml, relative to `folder`; or a name, looked for as ``recipes/NAME.yaml`` in
        `folder`, in the folder above it, and among the recipes that come with this package.

    Raises
    ------
    CatalogError
        With the nearest name there is.
    """
    if name.endswith(".yaml"):
        path = Path(os.path.normpath(folder / name))
        if not path.is_file():
            raise CatalogError([f"{where}expected a recipe at {name!r}, found no file {path}"])
        return path
    package = Path(__file__).parents[1]
    # A wheel carries catalogs/recipes inside the package; in a checkout they lie beside it.
    folders = [
        folder / "recipes",
        folder.parent / "recipes",
        package / "catalogs/recipes",
        package.parent / "catalogs/recipes",
    ]
    known = {p.stem: p for candidate in reversed(folders) for p in sorted(candidate.glob("*.yaml"))}
    if name not in known:
        raise CatalogError(
            [
                f"{where}expected a recipe, found {name!r}{did_you_mean(name, known)}; known are {listed(known)}"
            ]
        )
    return Path(os.path.normpath(known[name]))


def read_catalog(
    path: str | Path,
    *,
    sources: Sequence[str | Path] | None = None,
    store: str | Path | None = None,
) -> Catalog:
    """Read and check a catalog.

    Parameters
    ----------
    path : path
        A YAML file.
    sources, store
        Instead of the catalog's own; relative to the current folder, as on a command line.

    Raises
    ------
    CatalogError
        One line for every problem.
    """
    path = Path(path)
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise CatalogError([str(error)]) from error
    if sources is not None:
        content["sources"] = [_from_here(source) for source in sources]
    if store is not None:
        content["store"] = _from_here(store)
    try:
        catalog = Catalog.model_validate(content, context={"path": path})
    except ValidationError as error:
        raise CatalogError([f"{path}: {line}" for line in describe(error, _part_at)]) from None
    catalog._path = path
    return catalog


def _from_here(path: str | Path) -> str:
    return str(path) if "://" in str(path) else os.path.abspath(at_home(str(path)))  # noqa: PTH100 - lexical


def _part_at(place: Sequence[str]) -> type[Part]:
    if len(place) > 2 and place[0] == "models":
        return covariates.part_at(place[2:])
    if len(place) > 2 and place[0] == "checks":
        return Check
    if len(place) > 1 and place[0] == "participants":
        return IdMap if len(place) > 2 and place[1] == "map" else ParticipantsTable
    if len(place) > 2 and place[0] == "series":
        return SeriesPolicy
    return Catalog
