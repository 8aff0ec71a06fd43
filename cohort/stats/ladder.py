"""From the crude to the adjusted difference: one more term a step, always the same rows."""

from collections.abc import Mapping

import pandas as pd

from cohort.stats import adjust
from cohort.stats.design import Design
from cohort.stats.terms.groups import group_columns
from cohort.stats.wording.reading import unit_of

KEPT = (
    *("estimate", "se", "df", "statistic", "p", "ci_low", "ci_high"),
    *("hc3_se", "hc3_p", "partial_r", "n"),
)


def ladder(design: Design, group: str, *, units: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Fit the group alone, then with the other terms added one after the other, as the formula lists them.

    Parameters
    ----------
    design : Design
        The adjusted model; the last step equals it.
    group : str
        Column whose levels are compared.
    units : mapping, optional
        Column -> unit.

    Returns
    -------
    DataFrame, one row a step and column of the group term
        outcome, step (0: the group alone), added ("" in step 0), term, estimate, unit, se, df, statistic, p, ci_low,
        ci_high, hc3_se, hc3_p, partial_r, n.

    Raises
    ------
    DesignError
        If the group is no term of its own (see `cohort.stats.terms.groups.group_columns`).

    Notes
    -----
    A step that changes the estimate shows what a covariate carried, or hid; the order is that of the formula, and
    another order has other steps with the same end.

    Examples
    --------
    >>> from cohort.stats.design import prepare
    >>> people = pd.DataFrame({"dx": [0, 0, 0, 1, 1, 1], "age": [60.0, 65, 72, 66, 75, 80]})
    >>> people["y"] = 200 - people["age"] + [0.5, -0.5, 0.2, -0.3, 0.4, -0.3]
    >>> steps = ladder(prepare(people, formula="y ~ dx + age", one_scan_per="all"), "dx")
    >>> steps[["added", "estimate"]].round(1).to_numpy().tolist()
    [['', -8.1], ['age', -0.1]]
    """
    compared = group_columns(design, group)
    term_of = dict(zip(design.X.columns, design.terms, strict=True))
    # The columns of a design are in another order: categories come first.
    by_term: dict[str, list[str]] = {}
    for listed in design.formula.terms:
        for name, term in term_of.items():
            if term is not None and term.key == listed.key and name not in compared:
                by_term.setdefault(term.name, []).append(name)
    columns, found = ["Intercept", *compared], []
    outcome = str(design.y.name)
    for step, (added, more) in enumerate([("", list[str]()), *by_term.items()]):
        columns += more
        fitted = adjust.refit(design.X[columns], design.y.to_numpy(), name=outcome)
        rows = fitted.tidy.set_index("term").loc[compared, list(KEPT)].reset_index()
        rows.insert(2, "unit", [unit_of(term_of[c], design, units or {}) for c in compared])
        rows.insert(0, "added", added)
        rows.insert(0, "step", step)
        found.append(rows)
    together = pd.concat(found, ignore_index=True)
    together.insert(0, "outcome", outcome)
    return together
