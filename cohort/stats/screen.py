"""What a table says about a model before any p: balance, correlations, missing cells, repeats, sites, ratios."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.regression import Fit
from cohort.stats.screening import balance as balancing
from cohort.stats.screening import ratios as division
from cohort.stats.screening import screen_reading
from cohort.stats.table import records, rows
from cohort.stats.terms.groups import levels_of

HEAD = re.compile(
    r"(e?tiv|icv|intra_?cranial(_vol(ume)?)?|skull(_vol(ume)?)?|head_?size)(_(ml|cm3|mm3))?",
    re.IGNORECASE,
)
"""Names of head size."""

SAME = 1e-9
"""A column whose correlation with another is this near to 1 says the same."""

SITE = re.compile(r"(site|scanner|cent(er|re)|machine)(_?(id|name))?", re.IGNORECASE)
USUAL = re.compile(rf"age(_?y(ears?)?)?|sex|gender|male|female|{HEAD.pattern}", re.IGNORECASE)
"""Columns that are looked at although the model does not name them."""

MISSING = "missing"
"""Level of the rows whose group is not known."""


@dataclass(frozen=True)
class Screen:
    """What was found. Every table is tidy; levels of the group are text.

    Under the rule ``mean``, a subject of several rows shows the means of what the formula reads, and of any other
    column the value of the first of them.

    Attributes
    ----------
    group, head, site : str or None
        Columns that were taken for the group, the head size and the site.
    balance : DataFrame, one row a covariate and level of the group; rows that are fitted
        covariate (``sex = M`` for a level of a category, a share), in_model, level, n (not missing), mean, sd, min,
        max, ``std_difference`` (from the reference level, in the root mean square of the two sds), ``overlap`` (share
        of the level's rows inside the range of the others; NaN for a share).
    correlations : DataFrame, one row a column of the design, and a covariate beside it; rows that are fitted
        covariate, in_model, r_outcome, r_group (r with the group's 0/1 column; of several levels the correlation
        ratio eta), vif (NaN outside the model).
    missing : DataFrame, one row a column and level of the group; rows of the population
        column, in_model, level ("" for all rows), n, missing, share. The population are the rows that have a scan
        and lie inside the model's ``where``.
    repeats : DataFrame, one row a subject of several usable rows
        subject, n_rows, rows (ids), used (those of them that are fitted).
    sites : DataFrame, one row a site and level of the group; rows that are fitted
        site, level, n. Empty without a site.
    ratios : DataFrame, one row a column that is a ratio; rows that are fitted
        column, numerator, denominator, r, p (with the denominator), r_controls, p_controls.
    warnings : tuple of str
        One line each: first those of the design, then what the tables show.
    """

    group: str | None
    head: str | None
    site: str | None
    balance: pd.DataFrame
    correlations: pd.DataFrame
    missing: pd.DataFrame
    repeats: pd.DataFrame
    sites: pd.DataFrame
    ratios: pd.DataFrame
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN as None)."""
        names = ("balance", "correlations", "missing", "repeats", "sites", "ratios")
        return {
            **{name: getattr(self, name) for name in ("group", "head", "site")},
            **{name: records.plain(getattr(self, name)) for name in names},
            "warnings": list(self.warnings),
        }


def screen(
    model: Design | Fit,
    table: pd.DataFrame,
    *,
    group: str | None = None,
    head: str | None = None,
    site: str | None = None,
    ratios: Mapping[str, tuple[str, str]] | None = None,
    also: Sequence[str] = (),
    subject: str = "subject",
    harmonized: str | None = None,
    measured: pd.DataFrame | None = None,
) -> Screen:
    """Look at the rows of a model before its numbers are read.

    Parameters
    ----------
    model : Design or Fit
        What is, or will be, fitted.
    table : DataFrame
        The table that it was made from, with all its rows.
    group : str, optional
        Column whose levels are compared; by default the first term of the design with the role of a group.
    head, site : str, optional
        Columns of head size and of the site; by default the first column with such a name (`HEAD`, `SITE`).
    ratios : mapping, optional
        Column -> (numerator, denominator). An outcome that equals one column divided by another in every row, up to
        a constant factor, is found without being told; one that is told must equal it, up to rounding.
    also : sequence of str
        Covariates to look at although the model does not name them. Age, sex and head size always are (`USUAL`),
        unless another covariate says the same.
    harmonized : str, optional
        Site by which the outcome was harmonised, so that it needs no term.
    measured : DataFrame, optional
        `table` before it was harmonised: its empty cells are what is missing. Rows may be more.

    Returns
    -------
    Screen

    Raises
    ------
    DesignError
        If a column is unknown or not the ratio it is declared to be, or the table is not the one that the model was
        made from.

    Notes
    -----
    Standardised differences and their use before adjustment: Austin 2009, doi:10.1002/sim.3697. Nothing here tests
    the outcome between the groups.

    Examples
    --------
    >>> from cohort.stats.design import prepare
    >>> people = pd.DataFrame({"dx": [0, 0, 0, 1, 1, 1], "y": [1.0, 2, 3, 2, 3, 5]})
    >>> people["age"] = [60, 62, 64, 70, 72, 74]
    >>> found = screen(prepare(people, formula="y ~ dx", one_scan_per="all"), people)
    >>> found.balance[["covariate", "level", "mean", "overlap"]].to_numpy().tolist()
    [['age', '0', 62.0, 0.0], ['age', '1', 72.0, 0.0]]
    """
    design = model.design if isinstance(model, Fit) else model
    row_id = str(design.rows.columns[0])
    names = [str(c) for c in table.columns]
    table = table.set_axis(names, axis=1).set_axis(rows.row_ids(table, row_id), axis=0)
    if not table.index.is_unique:
        raise DesignError(f"the screen needs rows with names of their own: a column {row_id!r}")
    if not set(design.X.index) <= set(table.index):
        raise DesignError("the screen needs the table that the model was made from: rows differ")
    used = table.loc[design.X.index].assign(**{str(c): design.read[c] for c in design.read})
    group = _group(design) if group is None else group
    head = _first(names, HEAD) if head is None else head
    site = _first([c for c in names if c != group], SITE) if site is None else site
    outcome = str(design.y.name)
    extra = [c for c in (head, *also) if c is not None]
    for name in (c for c in (group, site, *extra) if c is not None):
        cells.take(table, name, "screen")
    beside = _beside(
        design, used, [*extra, *filter(USUAL.fullmatch, names)], {group, site, outcome}
    )
    levels = None if group is None else levels_of(design, cells.take(used, group, "group"))
    columns = [c for c in design.formula.columns if c != group]
    balance = balancing.balance(used, columns, beside, levels)
    correlations = balancing.correlations(design, used, group, beside, levels)
    whole = table
    if measured is not None:
        whole = measured.set_axis([str(c) for c in measured.columns], axis=1)
        whole = whole.set_axis(rows.row_ids(whole, row_id), axis=0)
    missing = _missing(design, whole, group, [*beside, *([site] if site else [])])
    repeats = _repeats(design, table, subject)
    sites = pd.DataFrame({"site": [], "level": [], "n": []})
    if site is not None:
        sites = _sites(cells.categories(used[site]), levels)
    controls = np.ones(len(used), bool) if levels is None else levels.codes == 0
    check = harmonized is None  # a quotient of harmonised columns is not the harmonised quotient
    found = division.left_behind(design, used, controls, ratios or {}, check=check)
    told = screen_reading.Found(
        design, group, head, site, balance, correlations, missing, sites, found, harmonized
    )
    return Screen(
        group=group,
        head=head,
        site=site,
        balance=balance,
        correlations=correlations,
        missing=missing,
        repeats=repeats,
        sites=sites,
        ratios=found,
        warnings=tuple(screen_reading.warnings(told, has_subjects=subject in names)),
    )


def _group(design: Design) -> str | None:
    for name, term in zip(design.X.columns, design.terms, strict=True):
        if term is not None and design.roles[name] == "group" and len(term.columns) == 1:
            return term.columns[0]
    return None


def _first(names: Sequence[str], pattern: re.Pattern[str]) -> str | None:
    return next(filter(pattern.fullmatch, names), None)


def _beside(
    design: Design, used: pd.DataFrame, wanted: Sequence[str], without: set[str | None]
) -> list[str]:
    """Columns to look at that neither the model nor another of them says already."""
    said = [
        design.X[name].to_numpy()
        for name, term in zip(design.X.columns, design.terms, strict=True)
        if term is not None
        and not set(term.columns) & without  # what equals the group must be seen
    ]
    found = []
    for name in dict.fromkeys(wanted):
        if name in design.formula.columns or name in without:
            continue
        values = list(balancing.coded(cells.take(used, name, "screen")).values())
        if not any(abs(balancing.pairwise(v, other)) > 1 - SAME for v in values for other in said):
            found.append(name)
            said += values
    return found


def _missing(
    design: Design, table: pd.DataFrame, group: str | None, beside: Sequence[str]
) -> pd.DataFrame:
    """Count empty cells over the rows that the model is about, whether they are fitted or not."""
    outside = {
        entry["row_id"]
        for entry in design.dropped
        if entry["reason"] == "no scan" or entry["reason"].startswith("where ")
    }
    population = table[~table.index.isin(outside)]
    level = np.full(len(population), "", dtype=object)
    names = [""]
    if group is not None:
        categories = cells.categories(population[group])
        level = np.array([*map(str, categories.categories), MISSING], dtype=object)[
            categories.codes
        ]
        names += [n for n in (*map(str, categories.categories), MISSING) if (level == n).any()]
    model = list(dict.fromkeys((str(design.y.name), *design.formula.columns)))
    found = []
    for name in dict.fromkeys((*model, *beside)):
        empty = cells.missing(cells.take(population, name, "screen"))
        for shown in names:
            here = empty if shown == "" else empty[level == shown]
            share = float(here.mean()) if len(here) else np.nan
            counted = {"n": len(here), "missing": int(here.sum()), "share": share}
            found.append({"column": name, "in_model": name in model, "level": shown, **counted})
    return pd.DataFrame(found)


def _repeats(design: Design, table: pd.DataFrame, subject: str) -> pd.DataFrame:
    fitted = set(design.X.index)
    usable = fitted | {
        entry["row_id"] for entry in design.dropped if entry["reason"] == "repeated subject"
    }
    people: dict[str, list[str]] = {}
    if subject in table.columns:
        column = table[subject][table.index.isin(usable)]
        filled = ~cells.missing(column)
        for person, row in zip(column[filled].tolist(), column.index[filled], strict=True):
            people.setdefault(cells.label(person), []).append(str(row))
    found = [
        {
            "subject": person,
            "n_rows": len(ids),
            "rows": ", ".join(ids),
            "used": ", ".join(row for row in ids if row in fitted),
        }
        for person, ids in people.items()
        if len(ids) > 1
    ]
    return pd.DataFrame(found, columns=["subject", "n_rows", "rows", "used"])


def _sites(sites: pd.Categorical, levels: pd.Categorical | None) -> pd.DataFrame:
    groups = pd.Categorical([""] * len(sites)) if levels is None else levels
    return pd.DataFrame(
        [
            {
                "site": str(site),
                "level": str(level),
                "n": int(((sites == site) & (groups == level)).sum()),
            }
            for site in sites.categories
            for level in groups.categories
        ],
        columns=["site", "level", "n"],
    )
