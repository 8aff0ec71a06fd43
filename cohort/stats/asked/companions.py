"""What stands beside a fit of least squares: contrasts, means, the ladder, bounds, sites, head size, imputation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from cohort.io.covariates import Model
from cohort.stats import columns as cells
from cohort.stats import comparison, contrasts, equivalence, imputation, means, regression, robust
from cohort.stats.adjust import Adjustments, compare
from cohort.stats.columns import DesignError
from cohort.stats.ladder import ladder
from cohort.stats.persite import per_site, per_site_of_many
from cohort.stats.regression import Fit
from cohort.stats.screen import Screen
from cohort.stats.table.rows import row_ids
from cohort.stats.terms.groups import levels_of

if TYPE_CHECKING:
    from cohort.stats.comparison import Comparison
    from cohort.stats.imputation import Imputed
    from cohort.stats.outcomes import Outcomes

ROW_ID = "scan_id"

MANY = 50
"""Further outcomes up to which each has its adjusted means, although nobody declared them: a fit of its own each."""

_T = TypeVar("_T")


def asked(model: Model, units: Mapping[str, str]) -> dict[str, Any]:
    """What a model asks of every fit of it."""
    return {
        "formula": model.formula,
        "confounds": tuple(model.confounds),
        "where": model.where,
        "one_scan_per": model.one_scan_per,
        "units": units,
    }


class Companions:
    """What stands beside a fit of least squares; what cannot be computed and was not declared is noted with its reason."""

    def __init__(
        self,
        fit: Fit,
        table: pd.DataFrame,
        model: Model,
        units: Mapping[str, str],
        screen: Screen,
        clusters: pd.Series | None = None,
    ) -> None:
        self.fit, self.table, self.model, self.units = fit, table, model, units
        self.screen, self.clusters = screen, clusters
        self.left_out: dict[str, str] = {}
        self._others: list[Fit] | None = None

    def _try(self, name: str, compute: Callable[[], _T]) -> _T | None:
        try:
            return compute()
        except DesignError as error:
            self.left_out[name] = str(error)
            return None

    def contrasts(self, others: "Outcomes | None") -> pd.DataFrame | None:
        """Declared contrasts of every outcome that could be fitted."""
        declared = self.model.contrasts
        if not declared:
            return None
        texts, names = list(declared.values()), list(declared)
        return self._each(
            "contrasts",
            self._fits(others),
            lambda fit: contrasts.estimates(fit, texts, names=names),
        )

    def _bounds(self, fit: Fit) -> pd.DataFrame:
        """Declared bounds on an outcome."""
        tested = [
            equivalence.term(fit, name, bound=(e.bound[0], e.bound[1]), scale=e.scale)
            for name, e in self.model.equivalence.items()
        ]
        return pd.concat(tested, ignore_index=True)

    def _each(
        self, name: str, fits: Sequence[Fit], compute: Callable[[Fit], pd.DataFrame]
    ) -> pd.DataFrame:
        """A table of every outcome; another one than the first may lack a level that it needs."""
        first, *rest = fits
        found = [compute(first)]
        for fit in rest:
            table = self._try(f"{name} of {fit.design.y.name}", functools.partial(compute, fit))
            found += [] if table is None else [table]
        return pd.concat(found, ignore_index=True)

    def _fits(self, others: "Outcomes | None") -> list[Fit]:
        """Of every outcome that could be fitted, the first one first."""
        if others is None:
            return [self.fit]
        if self._others is None:
            good = others.glance.loc[others.glance["reason"] == "", "outcome"]
            self._others = [self._fit(str(outcome)) for outcome in good]
        return [self.fit, *self._others]

    def _means(self, group: str, others: "Outcomes | None") -> pd.DataFrame:
        """Adjusted means of the first outcome, and of the others where they are few."""
        few = others is None or len(others.glance) <= MANY
        fits = self._fits(others) if few else [self.fit]
        found = self._each("means", fits, lambda fit: means.adjusted_means(fit, group))
        if not few:
            self.left_out["means of the other outcomes"] = f"there are more than {MANY}"
        return found

    def _fit(self, outcome: str) -> Fit:
        """Of another outcome, with errors of clusters where the first has them."""
        fit = regression.fit(self.table, outcome=outcome, **asked(self.model, self.units))
        by = self.clusters
        return fit if by is None else robust.clustered(fit, by, self.units)

    def comparison(self) -> "Comparison | None":
        """The two groups as they are, on the rows of the fit."""
        group, design = self.screen.group, self.fit.design
        if group is None:
            return None
        named = self.table.set_axis(row_ids(self.table, ROW_ID), axis=0).loc[design.X.index]
        outcome = str(design.y.name)
        rows = pd.DataFrame({outcome: design.y, group: cells.take(named, group, "group")})
        reference = str(levels_of(design, rows[group]).categories[0])
        return self._try(
            "comparison",
            lambda: comparison.two_groups(
                rows,
                outcome=outcome,
                group=group,
                reference=reference,
                one_scan_per="all",
                units=self.units,
            ),
        )

    def tables(self, others: "Outcomes | None") -> dict[str, pd.DataFrame]:
        """Terms of several columns as a whole, adjusted means, equal slopes, the ladder, declared bounds, sites."""
        fit, group, model = self.fit, self.screen.group, self.model
        found: dict[str, pd.DataFrame | None] = {}
        owned = [term.name for term in fit.design.terms if term is not None]
        if several := [name for name in dict.fromkeys(owned) if owned.count(name) > 1]:
            tests = [contrasts.joint(fit, name) for name in several]
            found["joint"] = pd.concat(tests, ignore_index=True)
        if group is not None:
            found["means"] = self._try("means", lambda: self._means(group, others))
            adjusted = [t for t in fit.design.terms if t is not None and group not in t.columns]
            if adjusted:
                found["slopes"] = self._try("slopes", lambda: means.equal_slopes(fit, group))
                found["ladder"] = self._try(
                    "ladder", lambda: ladder(fit.design, group, units=self.units)
                )
        if model.equivalence:
            for name in model.equivalence:
                if name not in fit.design.X.columns:
                    told = cells.unknown_column(name, list(fit.design.X.columns), "equivalence")
                    told = told.replace("no column", "no term", 1)
                    raise DesignError(told.replace("(columns:", "(terms:", 1))
            found["equivalence"] = self._each("equivalence", self._fits(others), self._bounds)
        if model.site is not None:
            alone = [per_site(fit.design, self.table, model.site, units=self.units)]
            if others is not None:
                alone.append(per_site_of_many(others, self.table, model.site, units=self.units))
            found["per_site"] = pd.concat(alone, ignore_index=True)
        return {name: table for name, table in found.items() if table is not None}

    def adjustments(self) -> Adjustments | None:
        """Head size in six ways, where the model states it and the outcome is not divided by it already."""
        model, group = self.model, self.screen.group
        head = model.head
        if head is None or group is None:
            return None
        divided = self.screen.ratios
        if ((divided["column"] == model.outcome) & (divided["denominator"] == head)).any():
            self.left_out["adjustments"] = f"{model.outcome} is divided by {head} already"
            return None
        common = asked(model, self.units)
        found = self._try(
            "adjustments",
            lambda: compare(self.table, outcome=model.outcome, head=head, group=group, **common),
        )
        n, here = len(self.fit.design.y), 0 if found is None else len(found.fit.design.y)
        if found is None or n == here:
            return found
        told = f"adjustments: {head} is known in {here} of the {n} rows that are fitted, and they are of those"
        return replace(found, warnings=(*found.warnings, told))

    def imputed(self) -> "Imputed | None":
        """The model with its missing covariates drawn, where it states a seed."""
        wish = self.model.impute
        if wish is None:
            return None
        design = self.fit.design
        if not set(design.reasons) & {f"missing {c}" for c in design.formula.columns}:
            self.left_out["imputed"] = "no covariate of the model is missing"
            return None
        return imputation.impute(
            self.table,
            seed=wish.seed,
            draws=wish.draws,
            group=self.screen.group,
            outcome=self.model.outcome,
            **asked(self.model, self.units),
        )
