"""One call of one or more stages on one catalog: checked whole first, then under one lock, with one manifest."""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cohort import provenance
from cohort.io.catalog import Catalog, CatalogError, read_catalog
from cohort.io.deidentify import key_file
from cohort.io.private import misplaced
from cohort.io.store import Store, StoreError
from cohort.pipeline import cluster
from cohort.pipeline.ledger import Ledger, Listener, silent

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from cohort.pipeline.ingest import Ingested
    from cohort.pipeline.plan import Plan
    from cohort.pipeline.recipe import Recipe
    from cohort.stats.regression import Fit

STAGES = ("ingest", "run", "fit", "report")


@dataclass(frozen=True)
class Options:
    """How a stage works; the defaults suit a laptop."""

    store: str | Path | None = None
    """Instead of the catalog's own store."""
    sources: Sequence[str | Path] | None = None
    """Instead of the catalog's own sources."""
    on: str = "local"
    """``local`` or the address of a scheduler."""
    workers: int | None = None
    """Local worker processes; the cores of this machine by default, 0 for none: everything in this process."""
    memory: int | None = None
    """Bytes a worker may use."""
    grain: Literal["auto", "scan", "block"] = "auto"
    rehash: bool = False
    """Digest every source file again instead of trusting size, times and inode."""
    retry: bool = False
    """Also run scans that failed before on the same inputs."""
    listen: Listener = silent
    """Called with every event."""


@dataclass
class Result:
    """What one call did."""

    catalog: Catalog
    store: Store
    manifest: dict[str, Any] = field(default_factory=dict)
    problems: list[Any] = field(default_factory=list)
    """Refused series (`pipeline.book.Problem`); their `text` names files and is for the operator."""
    orphans: list[Path] = field(default_factory=list)
    """Attached images for which there is no scan."""
    absent: list[str] = field(default_factory=list)
    """Scans of the store whose files are no longer in the sources."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Scans on which a recipe failed: scan_id, recipe, type, message, new."""
    fits: dict[str, "Fit | str | None"] = field(default_factory=dict)
    """Model -> fit, None if it was fresh, or in one line why it could not be fitted."""
    report: Path | str | None = None
    """The page: a path, or a URL in an object store."""

    @property
    def newly_bad(self) -> bool:
        """Whether anything failed or was quarantined in this call."""
        return (
            any(p.new and p.state == "quarantined" for p in self.problems)
            or any(f["new"] for f in self.failed)
            or any(isinstance(f, str) for f in self.fits.values())
        )


class Call:
    """One call of one or more stages on one catalog, under one lock, with one manifest."""

    def __init__(
        self, catalog: str | Path | Catalog, client: "Client | None", options: Options
    ) -> None:
        self.options, self._client = options, client
        self.catalog = (
            catalog
            if isinstance(catalog, Catalog)
            else read_catalog(catalog, sources=options.sources, store=options.store)
        )
        self.store = Store(self.catalog.store_root())
        self.recipes = read_recipes(self.catalog)
        self._stack = ExitStack()
        self.result = Result(self.catalog, self.store)

    def work(
        self,
        command: str,
        stages: Sequence[str],
        recipe: str | None = None,
        model: str | None = None,
    ) -> Result:
        """Run the stages in order; the manifest is written whatever happens."""
        recipes = self._chosen(recipe)
        self._chosen_models(model)
        check_models(self.catalog, self.recipes)
        cluster.where(self.options.on)
        if "ingest" in stages:
            self._check_places()
        elif not self.store.info():
            raise StoreError(
                f"nothing ingested yet in {self.store.url}; run `cohort ingest {self.catalog.path}` first"
            )
        with self.store.lock(), self._stack:
            self.store.write_info(cohort=self.catalog.cohort, catalog=self.catalog.digest)
            self.store.sweep()
            ledger = Ledger(self.store, command, listen=self.options.listen)
            with ledger:
                ledger.manifest["recipes"] = {
                    r.name: {"digest": r.digest, **r.content} for r in self.recipes
                }
                for stage in stages:
                    if stage == "ingest":
                        self._ingest(ledger)
                    elif stage == "run":
                        for each in recipes:
                            self._run(ledger, each)
                        ledger.manifest["failed"] = [
                            {k: v for k, v in f.items() if k != "new"} for f in self.result.failed
                        ]
                    elif stage == "fit":
                        self._fit(ledger, self._chosen_models(model))
            if "report" in stages:
                # After the manifest: the page shows the run it belongs to.
                self.result.report = self._report(ledger)
            self.result.manifest = ledger.manifest
        return self.result

    def _check_places(self) -> None:
        """Sources can be read, and neither the store nor the key lies where it must not."""
        sources = self.catalog.source_paths()
        if not self.store.is_local:
            return
        root, key = self.store.root, self.catalog.key_path() or key_file()
        problems = [
            f"{self.catalog.path}: store: {root} lies in the source {source}; keep what is made apart from what is given"
            for source in sources
            if root == source or source in root.parents
        ]
        if self.catalog.ids == "token":
            secret = {"key": key, "tokens": tokens_file(self.store)}
            problems += [f"{self.catalog.path}: {line}" for line in misplaced(root, secret)]
        if problems:
            raise CatalogError(problems)

    def plan(self, recipe: str | None = None) -> "list[Plan]":
        """What `run` would do, from the store as it is; nothing is written."""
        return [self._plan(each) for each in self._chosen(recipe)]

    def _chosen(self, recipe: str | None) -> "list[Recipe]":
        known = [r.name for r in self.recipes]
        if recipe is not None and recipe not in known:
            raise CatalogError(
                [
                    f"no recipe {recipe!r} in {self.catalog.path}; there are {', '.join(known) or 'none'}"
                ]
            )
        return [r for r in self.recipes if recipe in (None, r.name)]

    def _chosen_models(self, model: str | None) -> list[str]:
        known = list(self.catalog.models)
        if model is not None and model not in known:
            raise CatalogError(
                [
                    f"no model {model!r} in {self.catalog.path}; there are {', '.join(known) or 'none'}"
                ]
            )
        return [m for m in known if model in (None, m)]

    def _connect(self) -> "Client | None":
        """The client, made when something has to run."""
        if self._client is None and self.options.workers != 0:
            self.options.listen({"event": "connect", "on": self.options.on})
            self._client = self._stack.enter_context(
                cluster.connect(
                    self.options.on, workers=self.options.workers, memory=self.options.memory
                )
            )
        return self._client

    def _worker_bytes(self) -> int:
        if self.options.memory is not None:
            return self.options.memory
        if self._client is not None:
            limits = [
                w["memory_limit"]
                for w in self._client.scheduler_info(n_workers=-1)["workers"].values()
            ]
            if any(limits):
                return int(min(limit for limit in limits if limit))
        return int(
            cluster.MEMORY_SHARE
            * cluster.available_bytes()
            / (self.options.workers or cluster.worker_count())
        )

    def _ingest(self, ledger: Ledger) -> "Ingested":
        from cohort.pipeline.ingest import ingest as ingest_scans

        done = ingest_scans(
            self.catalog,
            self.store,
            ledger,
            self._connect,
            cache=_cache_file(self.store),
            tokens=tokens_file(self.store),
            rehash=self.options.rehash,
        )
        self.result.problems, self.result.orphans = done.problems, done.orphans
        self.result.absent = done.absent
        return done

    def _scans(self) -> "pd.DataFrame":
        scans = self.store.table("scans")
        if scans is None:
            raise StoreError(
                f"nothing ingested yet in {self.store.url}; run `cohort ingest {self.catalog.path}` first"
            )
        return scans

    def _plan(self, recipe: "Recipe") -> "Plan":
        from cohort.pipeline.plan import make_plan

        records = [r for r in self.store.records(self._scans()["scan_id"]) if r is not None]
        return make_plan(
            recipe,
            records,
            self.store.derivatives(recipe.name),
            grain=self.options.grain,
            worker_bytes=self._worker_bytes(),
            retry=self.options.retry,
        )

    def _run(self, ledger: Ledger, recipe: "Recipe") -> None:
        from cohort.pipeline.run import gather, run_recipe

        plan = self._plan(recipe)
        run_recipe(plan, recipe, self.store, ledger, self._connect)
        derivatives = self.store.derivatives(recipe.name)
        keys = self._scans()[["scan_id", "participant", "subject", "session"]]
        keys = keys.astype(object).where(keys.notna(), None)
        table = gather(self.store, recipe, keys.to_dict("records"), derivatives)
        before = set(plan.failed)
        for scan_id in table.loc[table["state"] == "failed", "scan_id"]:
            found = derivatives[scan_id]
            self.result.failed.append(
                {
                    "scan_id": scan_id,
                    "recipe": recipe.name,
                    "type": found["type"],
                    "message": found["reason"],
                    "new": scan_id not in before,
                }
            )

    def _fit(self, ledger: Ledger, models: Sequence[str]) -> None:
        from cohort.stats.models import fit_model

        for gone in set(self.store.models()) - set(self.catalog.models):
            self.store.remove_model(gone)
        states: dict[str, str] = {}
        names = [r.name for r in self.recipes]
        for number, name in enumerate(models, 1):
            try:
                fit = fit_model(self.catalog, name, self.store, names)
                self.result.fits[name] = fit
                states[name] = "fresh" if fit is None else "done"
            except ValueError as error:
                # What was fitted before does not describe the cohort any more.
                self.store.remove_model(name)
                self.result.fits[name] = str(error)
                states[name] = f"failed: {error}"
            ledger.event(
                "fitted",
                stage="fit",
                model=name,
                state=states[name],
                done=number,
                total=len(models),
            )
        ledger.stages["fit"] = states

    def _report(self, ledger: Ledger) -> Path | str:
        from cohort.reporting.html import write_report

        self.options.listen({"event": "stage", "stage": "report"})
        inputs = self._report_inputs()
        if (fresh := self.store.report(inputs)) is not None:
            return fresh
        page = write_report(
            self.store,
            title=self.catalog.cohort,
            groups={n: m.group for n, m in self.catalog.models.items()},
            acknowledgements=self.catalog.acknowledgement or "",
            recipes={r.name: dict(r.content) for r in self.recipes},
        )
        self.store.stamp_report(inputs)
        return page

    def _report_inputs(self) -> str:
        """Digest of all the page shows, and of what draws it."""
        import cohort.reporting

        (drawing,) = cohort.reporting.__path__
        code = sorted(p for p in Path(drawing).rglob("*") if p.suffix in (".py", ".j2"))
        found = next(
            (m for r in reversed(self.store.runs()) if (m := self.store.manifest(r)).get("found")),
            {},
        )
        return provenance.digest(
            {
                "files": self.store.shown(),
                "code": [provenance.file_digest(p) for p in code],
                "found": {k: found.get(k) for k in ("found", "unmatched")},
                "catalog": self.catalog.digest,
                "recipes": [r.digest for r in self.recipes],
            }
        )


def read_recipes(catalog: Catalog) -> "list[Recipe]":
    """Read and check every recipe of a catalog, before a byte of a scan is read. Raises `RecipeError`."""
    if not catalog.recipes:
        return []
    from cohort.pipeline.recipe import RecipeError, read_recipe

    recipes, problems = [], []
    for name in catalog.recipes:
        try:
            recipes.append(
                read_recipe(catalog.recipe_path(name), variables=("image", *catalog.attach))
            )
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return recipes


def check_models(catalog: Catalog, recipes: "Sequence[Recipe]") -> None:
    """Check every model against the columns there will be: outcome, formula, confounds, where. Raises `CatalogError`."""
    if not catalog.models and catalog.participants is None:
        return
    from cohort import expression
    from cohort.stats.formula import check_formula

    columns: set[str] = set()
    if catalog.participants is not None:
        from cohort.io.participants import read_participants

        columns |= set(
            read_participants(
                catalog.participants, catalog.folder, subject_pattern=catalog.subject
            ).table.columns
        )
    for recipe in recipes:
        columns |= set(recipe.columns())
    problems = []
    for name, model in catalog.models.items():
        try:
            check_formula(model.formula, sorted(columns | {model.outcome}))
            for column in (model.outcome, *model.confounds):
                expression.check_names(expression.parse(column), columns, column)
            if model.where:
                expression.check_columns(model.where, columns)
            words = set(re.findall(r"\w+", model.formula)) | set(model.confounds)
            for key, named in (
                ("group", [model.group] if model.group else []),
                ("truth", model.truth),
            ):
                for term in named:
                    if term not in words and term != "Intercept":
                        raise ValueError(f"{key}: {term!r} is no term of {model.formula!r}")  # noqa: TRY301
        except ValueError as error:
            problems.append(f"{catalog.path}: models.{name}: {error}")
    if problems:
        raise CatalogError(problems)


def _cache_file(store: Store) -> Path:
    """Private index of the sources of a store: it holds paths, so it lies with the user, not in the store."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "cohort" / f"{provenance.digest(store.url)[:16]}.index"


def tokens_file(store: Store) -> Path:
    """Private table of what the names in a store stand for. No cache: without it nobody finds a file again."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return home / "cohort" / f"{provenance.digest(store.url)[:16]}.tokens"
