"""One call of one or more stages on one catalog: checked whole first, then under one lock, with one manifest."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort import provenance
from cohort.checking import check_models, read_recipes
from cohort.io.catalog import Catalog, CatalogError, read_catalog
from cohort.io.deidentify import key_file
from cohort.io.private import misplaced
from cohort.io.store import Store, StoreError
from cohort.options import Options, Result
from cohort.pipeline import cluster
from cohort.pipeline.changes import LISTED, Comparison
from cohort.pipeline.dispatch.cost import Meter
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.garbage import rarely_collected
from cohort.pipeline.ledger import Ledger, telling
from cohort.userfiles import cache_file, finish_withdrawal, tokens_file

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from cohort.pipeline.ingest import Ingested
    from cohort.pipeline.measuring import Wishes
    from cohort.pipeline.plan import Plan
    from cohort.pipeline.recipe import Recipe
    from cohort.reporting.unfitted import Unfitted
    from cohort.stats.analysis import Analysis
    from cohort.stats.voxels.fitting import Mapped

STAGES = ("ingest", "run", "fit", "report")


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
        self._stop = Stop()
        self._changes = Comparison(self.store)
        self._pages: list[str] = []
        self._known: Mapping[str, Mapping[str, str]] = {}
        self.result = Result(self.catalog, self.store, compare=options.compare)

    def check(
        self, stages: Sequence[str], *, recipe: str | None = None, model: str | None = None
    ) -> None:
        """Raise whatever can be known to be wrong with a call of these stages before anything is written."""
        self._chosen(recipe)
        models = self._chosen_models(model)
        if self.options.compare and not any(self.catalog.models[m].head for m in models):
            asked = "--compare adjustments needs a model that states its head (head: COLUMN)"
            found = ", ".join(models) or "no models"
            raise CatalogError([f"{self.catalog.path}: models: {asked}; found none in {found}"])
        check_models(self.catalog, self.recipes)
        if "ingest" in stages:
            self._check_places()
        elif not self.store.info():
            raise StoreError(
                f"nothing ingested yet in {self.store.url}; run `cohort ingest {self.catalog.path}` first"
            )
        if (wish := self.options).scan_pages or wish.flagged_pages:
            from cohort.reporting.scanpage import chosen

            self._pages = chosen(self.store, wish.scan_pages, flagged=wish.flagged_pages)
        if self._client is None and self.options.workers != 0:
            cluster.check(self.options.on)

    def work(
        self,
        command: str,
        stages: Sequence[str],
        recipe: str | None = None,
        model: str | None = None,
    ) -> Result:
        """Run the stages in order; the manifest is written whatever happens.

        A cohort that is only a table has nothing to wait for: its table is read by every call.
        """
        if not self.catalog.sources and "ingest" not in stages:
            stages = ["ingest", *stages]
        self.check(stages, recipe=recipe, model=model)
        recipes = self._chosen(recipe)
        with self.store.lock(), self._stack, rarely_collected():
            said = self.catalog
            self.store.write_info(cohort=said.cohort, catalog=said.digest, ids=said.ids)
            self.store.sweep()
            finish_withdrawal(self.store)
            ledger = Ledger(self.store, command, listen=self.options.listen)
            self._stop = stop = self._stack.enter_context(self._listening(ledger))
            told = ledger.manifest
            with ledger, stop.noted(told), self.result.saying(told, stop):
                told["recipes"] = {r.name: {"digest": r.digest, **r.content} for r in self.recipes}
                for stage in stages:
                    if self.result.is_halted or self._stop.is_final:
                        break
                    if stage == "ingest":
                        self._ingest(ledger)
                    elif stage == "run":
                        for each in recipes:
                            self._run(ledger, each)
                        ledger.manifest["failed"] = [
                            {k: v for k, v in f.items() if k != "new"} for f in self.result.failed
                        ]
                    elif stage == "fit":
                        self._fit(ledger, self._chosen_models(model), shown=model is not None)
                self._compare(ledger)
            if "report" in stages and not self.result.is_halted and not self._stop.is_final:
                # After the manifest: the page shows the run it belongs to.
                self.result.report = self._report(ledger)
            self.result.manifest = ledger.manifest
        return self.result

    def _listening(self, ledger: Ledger) -> Stop:
        """What ends the call before its work is done."""
        return Stop(
            budget_seconds=self.options.budget_seconds,
            max_scans=self.options.max_scans,
            cancelled=lambda: self.store.files.size(f"runs/{ledger.run_id}/cancel") is not None,
        )

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
        with rarely_collected():
            return [self._plan(each) for each in self._chosen(recipe)]

    def _chosen(self, recipe: str | None) -> "list[Recipe]":
        known = [r.name for r in self.recipes]
        if recipe is not None and recipe not in known:
            there = ", ".join(known) or "none"
            raise CatalogError([f"no recipe {recipe!r} in {self.catalog.path}; there are {there}"])
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
        if self._client is not None and (known := cluster.smallest_limit(self._client)):
            return known
        return cluster.worker_bytes(self.options.on, workers=self.options.workers)

    def _ingest(self, ledger: Ledger) -> "Ingested":
        from cohort.pipeline.ingest import ingest as ingest_scans

        done = ingest_scans(
            self.catalog,
            self.store,
            ledger,
            self._connect,
            cache=cache_file(self.store),
            tokens=tokens_file(self.store),
            rehash=self.options.rehash,
            settle_seconds=self.options.settle_seconds,
            stop=self._stop,
            seconds=self.options.time_limit_seconds,
            problems=self.result.problems,
        )
        self._changes.scans(done.contents)
        # A bucket is asked for several records at a time, and one takes as long as eight.
        if self.store.is_local:
            self._known = done.variables
        self.result.orphans, self.result.absent = done.orphans, done.absent
        return done

    def _scans(self) -> "pd.DataFrame":
        scans = self.store.table("scans")
        if scans is None:
            raise StoreError(
                f"nothing ingested yet in {self.store.url}; run `cohort ingest {self.catalog.path}` first"
            )
        return scans

    def _plan(self, recipe: "Recipe") -> "Plan":
        from cohort.pipeline.measuring import plan_recipe

        return plan_recipe(self.store, recipe, self._scans()["scan_id"], self._wishes())

    def _wishes(self) -> "Wishes":
        from cohort.pipeline.measuring import Wishes

        options = self.options
        # Asked once: a scheduler that goes away while a recipe runs cannot be asked what is left.
        known = functools.cache(self._worker_bytes)
        return Wishes(known, options.grain, options.retry, options.accept_versions, self._known)

    def _run(self, ledger: Ledger, recipe: "Recipe") -> None:
        from cohort.pipeline.measuring import Trial, measure
        from cohort.pipeline.run import run_recipe

        numbers = self._changes.numbers(recipe.name, list(recipe.columns()))
        done = measure(
            self.store,
            recipe,
            self._scans(),
            ledger,
            self._wishes(),
            Trial(self.options.canary, self.options.canary_tolerance, self.options.confirm),
            lambda plan: run_recipe(
                plan,
                recipe,
                self.store,
                ledger,
                self._connect,
                stop=self._stop,
                seconds=self.options.time_limit_seconds,
            ),
            takers=(numbers.take,),
        )
        if done.canary is not None:
            self.result.canaries.append(done.canary)
        self.result.is_halted |= done.stopped
        self.result.failed += [
            {"scan_id": s, "recipe": recipe.name, "type": kind, "message": said, "new": new}
            for s, kind, said, new in done.failed
        ]

    def _fit(self, ledger: Ledger, models: Sequence[str], *, shown: bool) -> None:
        from cohort.io.maps import forget
        from cohort.pipeline.staleness import of_kept
        from cohort.stats.asked.tablechecks import examine
        from cohort.stats.models import declared, fit_model, fit_table, model_table
        from cohort.stats.voxels.fitting import fit_maps, maps_of

        for gone in {*self.store.models(), *self.store.keeping()} - set(self.catalog.models):
            self.store.remove_model(gone)
        states: dict[str, str] = {}
        names, mixing = [r.name for r in self.recipes], self.options.accept_versions
        ledger.manifest["checks"] = list(examine(self.store, self.catalog, names))
        costs = ledger.manifest["models"] = {}
        for number, name in enumerate(models, 1):
            spec, meter = self.catalog.models[name], Meter()
            # What is asked stands in the log before anything is known of the answer.
            asked = provenance.digest(declared(name, spec))
            ledger.event("declared", stage="fit", model=name, digest=asked)
            try:
                fit: Analysis | Mapped | None
                told: dict[str, Any] = {}
                if name in (self.store.models() if spec.voxelwise else self.store.keeping()):
                    self.store.remove_model(name)  # of the other kind
                if spec.voxelwise is not None:
                    fit = fit_maps(
                        *(self.catalog, name, self.store, names),
                        accept_versions=mixing,
                        client=self._client,
                        judge=functools.partial(of_kept, {r.name: r for r in self.recipes}),
                        progress=telling(self.options.listen, name),
                    )
                    told = {} if fit is None else fit.record.get("sums", {})
                else:
                    fit = fit_model(self.catalog, name, self.store, names, accept_versions=mixing)
                states[name] = "fresh" if fit is None else "done"
                if fit is not None:
                    costs[name] = meter.cost().fields()
                if fit is None and spec.voxelwise is not None:
                    fit = maps_of(self.store, name) if shown else None
                elif fit is None and (shown or self.options.compare):
                    # What is asked for by name is shown again; what is on the disk stays.
                    table, units = model_table(
                        self.store, self.catalog, spec, names, accept_versions=mixing
                    )
                    saved = (self.store.model(name) or {}).get("harmonization")
                    fit = fit_table(table, spec, units, saved=saved)
                self.result.fits[name] = fit
            except ValueError as error:
                # What was fitted before does not describe the cohort any more; of what maps were made the next fit takes what it can.
                forget(self.store, name)
                self.result.fits[name] = str(error)
                states[name] = f"failed: {error}"
            ledger.event(
                "fitted",
                stage="fit",
                model=name,
                state=states[name],
                done=number,
                total=len(models),
                **told,
            )
        ledger.stages["fit"] = states
        fitted = set(self.store.models())
        self._changes.models(
            {
                m: self.store.model_table(m, "tidy") if m in fitted else None
                for m, spec in self.catalog.models.items()
                if spec.voxelwise is None
            }
        )

    def _compare(self, ledger: Ledger) -> None:
        """Write down what changed since the last call, and raise the alarm for what should not have."""
        self._changes.write(ledger.run_id)
        self.result.alarms = self._changes.alarms
        told = ledger.manifest["alarms"] = self._changes.alarms[:LISTED]
        ledger.manifest["n_alarms"] = len(self._changes.alarms)
        for alarm in told:
            ledger.event("alarm", **alarm)

    def _report(self, ledger: Ledger) -> Path | str:
        self.options.listen({"event": "stage", "stage": "report"})
        from cohort.reporting.unfitted import unfitted

        self._report_scans()
        without = unfitted(self.store, self.catalog.models)
        inputs = self._report_inputs(without)
        if (fresh := self.store.report(inputs)) is not None:
            return fresh
        # Drawing takes a second to load: only for a page that has to be made.
        from cohort.reporting.html import write_report

        page = write_report(
            self.store,
            title=self.catalog.cohort,
            groups={n: m.group for n, m in self.catalog.models.items()},
            acknowledgements=self.catalog.acknowledgement or "",
            recipes={r.name: dict(r.content) for r in self.recipes},
            unfitted=without,
        )
        self.store.stamp_report(inputs)
        return page

    def _report_scans(self) -> None:
        """Pages of single scans: what is no longer so goes, what is asked for is made anew."""
        if self.store.scan_pages() or self._pages:
            from cohort.reporting.scanpage import drop_stale, write_pages

            drop_stale(self.store)
            title, recipes = self.catalog.cohort, {r.name: dict(r.content) for r in self.recipes}
            self.result.pages = write_pages(self.store, self._pages, title=title, recipes=recipes)

    def _report_inputs(self, without: "Sequence[Unfitted]") -> str:
        """Digest of all the page shows, and of what draws it; `without` are the models that have no fit."""
        import cohort.reporting
        from cohort.reporting.facts import last_look

        (drawing,) = cohort.reporting.__path__
        code = sorted(p for p in Path(drawing).rglob("*") if p.suffix in (".py", ".j2", ".js"))
        found, n_withdrawn = last_look(self.store)
        return provenance.digest(
            {
                "files": self.store.shown(),
                "code": [provenance.file_digest(p) for p in code],
                "found": {k: found.get(k) for k in ("found", "unmatched")},
                "withdrawn": n_withdrawn,
                "pages": self.store.scan_pages(),
                "catalog": self.catalog.digest,
                "recipes": [r.digest for r in self.recipes],
                "unfitted": [list(model) for model in without],
            }
        )
