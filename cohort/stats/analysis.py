"""One model of a catalog, whole: the screen before it, the fit, and everything that a reader asks beside it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from cohort.io.covariates import Model
from cohort.stats import columns as cells
from cohort.stats import equivalence, mixed, multiplicity, outcomes, regression, robust
from cohort.stats import screen as screening
from cohort.stats.adjust import Adjustments
from cohort.stats.asked.companions import ROW_ID, Companions, asked
from cohort.stats.asked.otheroutcomes import completed
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.exchanges import permuted
from cohort.stats.regression import Fit
from cohort.stats.screen import Screen
from cohort.stats.sites import harmonized
from cohort.stats.subjects import mixedcontrasts
from cohort.stats.subjects.mixedfit import MixedFit
from cohort.stats.table import records
from cohort.stats.table.rows import row_ids
from cohort.stats.terms.groups import check_group, group_columns

if TYPE_CHECKING:
    from cohort.stats.comparison import Comparison
    from cohort.stats.exchanges.permuted import Exchanged
    from cohort.stats.imputation import Imputed
    from cohort.stats.sites.harmonized import Harmonized


_INDEPENDENT = ("joint", "slopes", "ladder", "per_site", "adjustments", "imputed", "comparison")
"""Tables whose errors are classical and HC3 only."""

_LEAST_SQUARES = ("forest", "means", "ladder", "adjustments", "added_variable", "residuals")
"""Tables and figures that a mixed model has not."""


@dataclass(frozen=True)
class Analysis:
    """A fitted model and what stands beside it.

    Attributes
    ----------
    fit : Fit or MixedFit
        Of the outcome that figures show.
    tidy, glance : DataFrame
        Those of `fit`, then of the other outcomes; `tidy` with q and corrected p of its family, cluster-robust errors
        where rows go together (beside the others; whatever is drawn from a fit is then by them), and ``detectable``, the least effect found with a chance of 80 %.
    screen : Screen
        What the table says about the model before any p.
    warnings : tuple of str
        What to know before the numbers: of the screen, the fit, and what stands beside.
    tables : dict
        Name -> DataFrame, of ``joint`` (terms of several columns, each as a whole), ``contrasts``, ``means``, ``slopes``, ``ladder``, ``equivalence``, ``per_site``,
        ``adjustments``, ``imputed``, ``permutation``, ``harmonize`` and ``subjects`` those that the model asks for.
    comparison : Comparison or None
        The two groups with nothing held equal, on the rows of the fit.
    adjustments : Adjustments or None
        Head size taken into account in six ways.
    imputed : Imputed or None
        The same model with its missing covariates drawn.
    permuted : Exchanged or None
        Tests that exchange rows.
    harmonized : Harmonized or None
        The table without what sites add to it, which everything else is fitted to.
    left_out : dict
        What could not be computed beside the fit, and why.
    """

    fit: Fit | MixedFit
    tidy: pd.DataFrame
    glance: pd.DataFrame
    screen: Screen
    warnings: tuple[str, ...]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    comparison: "Comparison | None" = None
    adjustments: Adjustments | None = None
    imputed: "Imputed | None" = None
    permuted: "Exchanged | None" = None
    harmonized: "Harmonized | None" = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def design(self) -> Design:
        """Rows, design matrix and outcome that were fitted."""
        return self.fit.design

    @property
    def augment(self) -> pd.DataFrame:
        """One row a row that was fitted, with its ``scan_id``."""
        return self.fit.augment

    @property
    def covariance(self) -> pd.DataFrame:
        """Of the estimates."""
        return self.fit.covariance

    @property
    def hc3_covariance(self) -> pd.DataFrame | None:
        """Of the estimates, from HC3; None for a mixed model."""
        return getattr(self.fit, "hc3_covariance", None)

    @property
    def vif(self) -> dict[str, float]:
        """Variance inflation factor of each column; empty for a mixed model."""
        return getattr(self.fit, "vif", {})

    @property
    def reading(self) -> tuple[str, ...]:
        """The effects in sentences, then tests that exchange rows, and what was done to the outcomes."""
        beside = (self.permuted, self.harmonized)
        return (*self.fit.reading, *(line for part in beside if part for line in part.reading))

    @property
    def model(self) -> dict[str, Any]:
        """The model as it was asked for."""
        return self.fit.model

    @property
    def rows(self) -> dict[str, Any]:
        """Account of the rows: how many there were, were used, and were dropped for which reason."""
        return self.fit.rows

    @property
    def influence(self) -> pd.DataFrame:
        """Rows whose Cook's distance exceeds 4/n, the largest first; empty for a mixed model."""
        if "cook" not in self.augment:
            return self.augment.iloc[:0]
        high = self.augment[self.augment["cook"] > 4 / len(self.augment)]
        return high.sort_values("cook", ascending=False, ignore_index=True)

    def summary(self) -> str:
        """Lay everything out for a terminal, the warnings first."""
        from cohort.stats.wording.layout import lines

        return "\n".join([*(f"warning: {text}" for text in self.warnings), *lines(self)])

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN as None)."""
        found = self.comparison
        return {
            **self.fit.to_json(),
            "warnings": list(self.warnings),
            "reading": list(self.reading),
            "screen": self.screen.to_json(),
            "influence": [str(i) for i in self.influence.iloc[:, 0]],
            "comparison": None
            if found is None
            else {
                "group": found.group,
                "levels": list(found.levels),
                "groups": records.plain(found.groups),
                "tests": records.plain(found.tests),
                "cohen_d": [found.cohen_d, found.cohen_d_low, found.cohen_d_high],
            },
            "adjustments": None if self.adjustments is None else self.adjustments.to_json(),
            "imputation": None if self.imputed is None else self.imputed.to_json(),
            "permutation": None if self.permuted is None else self.permuted.facts,
            "harmonization": None if self.harmonized is None else self.harmonized.to_json(),
            "left_out": dict(self.left_out),
        }


def analyse(
    table: pd.DataFrame,
    model: Model,
    units: Mapping[str, str] | None = None,
    *,
    saved: Mapping[str, Any] | None = None,
    lost: Sequence[Mapping[str, str]] = (),
) -> Analysis:
    """Screen a table, fit a model to it, and compute what the model asks for beside.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant); numbers, or text that holds numbers.
    model : Model
        As a catalog states it.
    units : mapping, optional
        Column -> unit.
    saved : mapping, optional
        What an earlier fit kept of its harmonisation (``to_json()["harmonization"]``), for newcomers.
    lost : sequence of dict
        ``row_id`` and ``reason`` of rows that cannot be used, which `table` has not; they are in the account of the rows.

    Returns
    -------
    Analysis

    Raises
    ------
    DesignError
        In one line, if the model cannot be fitted, or what it declares (a contrast, a bound, a family) is not of it.
        What nobody declared and cannot be computed is told in ``left_out`` instead.
    """
    units = dict(units or {})
    if model.random is not None:
        return _mixed(table, model, units, lost)
    made, measured = None, table
    if model.harmonize is not None:
        made = harmonized.harmonized(table, model, saved)
        table = made.table
    common = asked(model, units)
    fit = regression.fit(table, outcome=model.outcome, **common)
    if lost or made is not None:
        harmonised = ((), {}) if made is None else (made.dropped, made.reasons)
        design = fit.design.after((*lost, *harmonised[0]), harmonised[1])
        counts = {"n_table": design.n_table, "n_dropped": len(design.dropped)}
        fit = replace(fit, design=design, glance=fit.glance.assign(**counts))
    if model.group is not None:
        check_group(fit.design, model.group)
    for name in model.all_outcomes:
        if name in fit.design.formula.columns:
            raise DesignError(f"the outcome {name!r} is also among the terms: {fit.design.formula}")
    others = None
    if model.all_outcomes[1:]:
        # The first one, too: so there is a design although no other outcome may have one.
        whole = outcomes.fit(table, outcomes=model.all_outcomes, **common)
        others = whole.without(model.outcome)
    clusters = _clusters(table, model, [fit.design, *(others.designs.values() if others else ())])
    if clusters is not None:
        fit = robust.clustered(fit, clusters, units)
    screen = _screen(fit.design, table, model, measured=measured)
    beside = Companions(fit, table, model, units, screen, clusters)
    tidy, warnings = fit.tidy, (*screen.warnings, *fit.warnings)
    least = (
        {} if len(tidy) == 1 else equivalence.detectable(fit).set_index("term")["effect"].to_dict()
    )
    r2 = fit.glance["r2"].item()
    tidy = tidy.assign(detectable=tidy["term"].map(least), r2=r2)
    glance = fit.glance
    if others is not None:
        more, told = robust.of_outcomes(others, clusters)
        tidy = pd.concat([tidy, completed(more, others.glance)], ignore_index=True)
        glance = pd.concat([glance, others.glance.drop(columns="pattern")], ignore_index=True)
        warnings += (*told, *others.warnings)
    tested = beside.contrasts(others)
    tidy, tested = _families(fit.design, tidy, tested, model, screen.group)
    tables = {} if tested is None else {"contrasts": tested}
    adjustments, imputed = beside.adjustments(), beside.imputed()
    compared, moved = beside.comparison(), None
    if model.permutation is not None:
        moved = permuted.exchanged(fit, others, table, model, screen.group)
    for said in (made, adjustments, imputed, moved):
        warnings += () if said is None else said.warnings
    tables = {
        **tables,
        **beside.tables(others),
        **({} if adjustments is None else {"adjustments": adjustments.table}),
        **({} if imputed is None else {"imputed": imputed.table}),
        **({} if moved is None else {"permutation": moved.table}),
        **({} if made is None else {"harmonize": made.combat.tidy}),
    }
    if fit.clusters is not None:
        plain = () if compared is None else ("comparison",)
        warnings += _alone((*tables, *plain), fit.clusters.by)
    return Analysis(
        fit=fit,
        tidy=tidy,
        glance=glance,
        screen=screen,
        warnings=tuple(dict.fromkeys(warnings)),
        tables=tables,
        comparison=compared,
        adjustments=adjustments,
        imputed=imputed,
        permuted=moved,
        harmonized=made,
        left_out=beside.left_out,
    )


def _screen(
    design: Design,
    table: pd.DataFrame,
    model: Model,
    subject: str = "subject",
    *,
    measured: pd.DataFrame | None = None,
) -> Screen:
    return screening.screen(
        design,
        table,
        group=model.group,
        head=model.head,
        site=model.site,
        ratios={name: (pair[0], pair[1]) for name, pair in model.ratios.items()},
        subject=subject,
        harmonized=model.harmonize.site if model.harmonize is not None else None,
        measured=measured if model.harmonize is not None else None,
    )


def _mixed(
    table: pd.DataFrame, model: Model, units: dict[str, str], lost: Sequence[Mapping[str, str]]
) -> Analysis:
    assert model.random is not None
    fit = mixed.fit_mixed(
        table,
        outcome=model.outcome,
        formula=model.formula,
        subject=model.random.subject,
        confounds=tuple(model.confounds),
        where=model.where,
        slope=model.random.slope,
        method=model.random.method,
        units=units,
    )
    fit = replace(fit, design=fit.design.after(lost, {}))
    if model.group is not None:
        check_group(fit.design, model.group)
    screen = _screen(fit.design, table, model, model.random.subject)
    tested = None
    if model.contrasts:
        texts, names = list(model.contrasts.values()), list(model.contrasts)
        tested = mixedcontrasts.estimates(fit, texts, names=names)
    tidy, tested = _families(fit.design, fit.tidy, tested, model, screen.group)
    # Repeats are what a mixed model is for: the warning of least squares does not hold here.
    told = [w for w in screen.warnings if w not in fit.design.warnings or w in fit.warnings]
    return Analysis(
        fit=fit,
        tidy=tidy,
        glance=fit.glance,
        screen=screen,
        warnings=tuple(dict.fromkeys((*told, *fit.warnings))),
        tables={
            "subjects": fit.subjects,
            **({} if tested is None else {"contrasts": tested}),
        },
        left_out={
            **dict.fromkeys(_LEAST_SQUARES, "of least squares; this is a mixed model"),
            **({} if model.site is None else {"per_site": "subjects of all sites are one fit"}),
        },
    )


def _clusters(table: pd.DataFrame, model: Model, designs: Sequence[Design]) -> pd.Series | None:
    """Label of each row of the table, where a cluster is stated or rows of a subject repeat; None elsewhere."""
    repeated = model.one_scan_per == "all" and any(design.n_repeated for design in designs)
    name = model.cluster or ("subject" if repeated else None)
    if name is None:
        return None
    return cells.take(table, name, "cluster").set_axis(row_ids(table, ROW_ID))


def _alone(tables: Collection[str], by: str) -> tuple[str, ...]:
    """Say which tables know nothing of clusters."""
    names = [name for name in _INDEPENDENT if name in tables]
    told = "their errors take each row for independent, also those of one"
    return (f"{', '.join(names)}: {told} {by}",) if names else ()


def _families(
    design: Design,
    tidy: pd.DataFrame,
    tested: pd.DataFrame | None,
    model: Model,
    group: str | None,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Correct the declared family, else the terms of the group and, apart from them, the contrasts."""
    if model.family is not None:
        both = tidy if tested is None else _under(tidy, tested)
        found = multiplicity.family(both, model.family.terms, outcomes=model.family.outcomes)
        new = found[[c for c in found if c not in both]]
        n = len(tidy)
        tidy = tidy.join(new.iloc[:n].reset_index(drop=True))
        if tested is not None:
            tested = tested.join(new.iloc[n:].reset_index(drop=True))
        return tidy, tested
    try:
        terms = [] if group is None else group_columns(design, group)
    except DesignError:  # part of an interaction, or a slope: whoever means a family then says so
        terms = []
    if terms and tidy.loc[tidy["term"].isin(terms), "p"].notna().any():
        tidy = multiplicity.family(tidy, terms)
    if tested is not None and tested["p"].notna().any():
        tested = multiplicity.family(tested, list(dict.fromkeys(tested["contrast"])))
    return tidy, tested


def _under(tidy: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """Terms and contrasts in one column, so that a family may hold both."""
    if both := sorted(set(tidy["term"]) & set(tested["contrast"])):
        raise DesignError(f"{both[0]!r} is a term and the name of a contrast; rename the contrast")
    return pd.concat([tidy, tested.rename(columns={"contrast": "term"})], ignore_index=True)
