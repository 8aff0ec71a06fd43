"""The same model within each site: estimates, errors and numbers of rows that a meta-analysis can pool."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import regression
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
    Where one scan stands for several (rule ``mean``) the outcome is their mean, and covariates are those of the first.

    ``metafor::rma(yi = estimate, sei = se)`` on the rows of one term pools what ENIGMA's sites report.

    Examples
    --------
    >>> from cohort.stats.design import prepare
    >>> people = pd.DataFrame({"site": list("aaaabbbb"), "dx": [0, 0, 1, 1] * 2, "y": [1.0, 2, 3, 5, 1, 3, 2, 4]})
    >>> found = per_site(prepare(people, formula="y ~ dx + site", one_scan_per="all"), people, "site")
    >>> found.loc[found["term"] == "dx", "estimate"].round(6).tolist()
    [2.5, 1.0]
    """
    named = table.set_axis(row_ids(table, row_id), axis=0).loc[design.X.index]
    labels = cells.categories(cells.take(named, site, "site"))
    terms = [term for term in design.formula.terms if site not in term.columns]
    formula = " + ".join(map(_text, terms)) or "1"
    outcome = str(design.y.name)
    # The rows of `design`, not of the table: under the rule `mean` its outcome is the mean over a subject's scans.
    named = named.assign(**{outcome: design.y}).reset_index(drop=True)
    found = []
    for number, name in enumerate(labels.categories):
        here = named[labels.codes == number]
        try:
            fitted = regression.fit(
                here, outcome=outcome, formula=formula, one_scan_per="all", units=units
            )
            rows = fitted.tidy[list(COLUMNS)].assign(reason="")
        except DesignError as error:
            rows = _nothing(len(here), str(error))
        rows.insert(0, "site", str(name))
        found.append(rows)
    together = pd.concat(found, ignore_index=True)
    together.insert(0, "outcome", outcome)
    return together


def _nothing(n: int, reason: str) -> pd.DataFrame:
    row = {name: "" if name in ("term", "unit") else np.nan for name in COLUMNS}
    return pd.DataFrame([{**row, "n": n, "reason": reason}])


def _text(term: Term) -> str:
    """Write a term so that it can be read again, whatever its columns are called."""
    return ":".join(
        f"Q({factor.columns[0]!r})" if factor.kind == "column" else factor.shown
        for factor in term.factors
    )
