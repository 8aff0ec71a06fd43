"""The same model within each site: estimates, errors and numbers of rows that a meta-analysis can pool."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import outcomes, regression
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.formula import Term
from cohort.stats.table.rows import row_ids

COLUMNS = (
    *("term", "estimate", "unit", "se", "df", "statistic", "p", "ci_low", "ci_high"),
    *("hc3_se", "d_adj", "d_adj_low", "d_adj_high", "partial_r", "n"),
)


def per_site(
    design: Design,
    table: pd.DataFrame,
    site: str,
    *,
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
) -> pd.DataFrame:
    """Fit the model to the rows of each site by itself, without the terms of the site.

    Parameters
    ----------
    design : Design
        What is fitted to all sites together; its rows are used.
    table : DataFrame
        The table that it was made from.
    site : str
        Column that names the site of each row.
    units : mapping, optional
        Column -> unit.

    Returns
    -------
    DataFrame, one row a site and term
        outcome, site, term, estimate, unit, se, df, statistic, p, ci_low, ci_high, hc3_se, d_adj with interval (0/1
        terms), partial_r, n, and ``reason``: why a site could not be fitted (one row of NaN then), else "". Sites in
        natural order.

    Raises
    ------
    DesignError
        If there is no such column.

    Notes
    -----
    ``metafor::rma(yi = estimate, sei = se)`` on the rows of one term pools what ENIGMA's sites report.

    Examples
    --------
    >>> from cohort.stats.design import prepare
    >>> people = pd.DataFrame({"site": list("aaaabbbb"), "dx": [0, 0, 1, 1] * 2, "y": [1.0, 2, 3, 5, 1, 3, 2, 4]})
    >>> found = per_site(prepare(people, formula="y ~ dx + site", one_scan_per="all"), people, "site")
    >>> found.loc[found["term"] == "dx", "estimate"].round(6).tolist()
    [2.5, 1.0]
    """
    outcome = str(design.y.name)
    found = []
    for name, here, formula in _split(design, table, design.y.to_frame(), site, row_id):
        try:
            fitted = regression.fit(
                here, outcome=outcome, formula=formula, one_scan_per="all", units=units
            )
            rows = fitted.tidy[list(COLUMNS)].assign(reason="")
        except DesignError as error:
            rows = _nothing(len(here), str(error))
        rows.insert(0, "site", name)
        found.append(rows)
    together = pd.concat(found, ignore_index=True)
    together.insert(0, "outcome", outcome)
    return together


def per_site_of_many(
    fits: outcomes.Outcomes,
    table: pd.DataFrame,
    site: str,
    *,
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
) -> pd.DataFrame:
    """Fit many outcomes to the rows of each site by itself.

    Parameters
    ----------
    fits : Outcomes
        What is fitted to all sites together; outcomes that could not be fitted have no rows here.
    table, site, units, row_id
        As for `per_site`.

    Returns
    -------
    DataFrame, one row an outcome, site and term
        As of `per_site`, without the interval of d_adj (NaN). Outcomes in the order they were given.
    """
    good = fits.glance.loc[fits.glance["reason"] == "", "outcome"].tolist()
    found = []
    for pattern, design in fits.designs.items():
        values = fits.values[pattern].loc[:, lambda v: v.columns.isin(good)]
        names = list(values.columns)
        for name, here, formula in _split(design, table, values, site, row_id) if names else ():
            try:
                fitted = outcomes.fit(
                    here, outcomes=names, formula=formula, one_scan_per="all", units=units
                )
            except DesignError as error:
                reasons = dict.fromkeys(names, str(error))
                rows = []
            else:
                bad = fitted.glance[fitted.glance["reason"] != ""]
                reasons = dict(zip(bad["outcome"], bad["reason"], strict=True))
                known = fitted.tidy[~fitted.tidy["outcome"].isin(bad["outcome"])]
                rows = [known.reindex(columns=["outcome", *COLUMNS]).assign(reason="")]
            rows += [_nothing(len(here), why).assign(outcome=o) for o, why in reasons.items()]
            found.append(pd.concat(rows, ignore_index=True).assign(site=name))
    columns = ["outcome", "site", *COLUMNS, "reason"]
    together = (
        pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)
    )
    place = {name: i for i, name in enumerate(good)}
    return together.sort_values(
        "outcome", key=lambda o: o.map(place), kind="stable", ignore_index=True
    )


def _split(
    design: Design, table: pd.DataFrame, values: pd.DataFrame, site: str, row_id: str
) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Each site's name, rows with their outcomes, and the formula without the terms of the site."""
    named = table.set_axis(row_ids(table, row_id), axis=0).loc[design.X.index]
    labels = cells.categories(cells.take(named, site, "site"))
    terms = [term for term in design.formula.terms if site not in term.columns]
    formula = " + ".join(map(_text, terms)) or "1"
    # What was fitted, not the table: under the rule `mean` numbers are means over a subject's scans.
    fitted = pd.concat([design.read, values], axis=1)
    rest = named.drop(columns=[c for c in fitted.columns if c in named.columns])
    named = pd.concat([rest, fitted], axis=1).reset_index(drop=True)
    for number, name in enumerate(labels.categories):
        yield str(name), named[labels.codes == number], formula


def _nothing(n: int, reason: str) -> pd.DataFrame:
    row = {name: "" if name in ("term", "unit") else np.nan for name in COLUMNS}
    return pd.DataFrame([{**row, "n": n, "reason": reason}])


def _text(term: Term) -> str:
    """Write a term so that it can be read again, whatever its columns are called."""
    return ":".join(
        f"Q({factor.columns[0]!r})" if factor.kind == "column" else factor.shown
        for factor in term.factors
    )
