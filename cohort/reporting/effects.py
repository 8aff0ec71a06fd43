"""A fitted model as a table that can be read: estimates, verdicts, the stated truth beside them, one common scale."""

import math
import re
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohort.reporting import plots
from cohort.reporting.wording import count, decimals_for, number, p_value
from cohort.stats.clustering.headline import headline

_FACTOR = re.compile(r"^(?:C\()?([^,()\[\]]+)")
"""The column in the name of a design column: ``dx`` in ``dx``, ``dx[T.AD]`` and ``C(dx)[T.AD]``."""

_IDENTITY = frozenset({"scan_id", "participant", "subject", "session"})
_DIAGNOSTICS = frozenset({"observed", "fitted", "residual", "leverage", "cook", "rstudent"})


def coefficients(model: Mapping[str, Any], tidy: pd.DataFrame) -> list[dict[str, Any]]:
    """Lines of the coefficient table; every number with its exact value."""
    outcome, vif = str(model.get("outcome", "")), model.get("vif") or {}
    lines = []
    first = headline(tidy).to_dict("records")
    for row, shown in zip(tidy.to_dict("records"), first, strict=True):
        term, decimals = str(row["term"]), decimals_for(row["se"])
        lines.append(
            {
                "term": term,
                "outcome": str(row.get("outcome", outcome)),
                "unit": str(row.get("unit") or ""),
                "is_confound": _role(row, model) == "confound",
                "is_intercept": _role(row, model) == "intercept",
                **{
                    key: number(shown.get(key), decimals=decimals)
                    for key in ("estimate", "ci_low", "ci_high")
                },
                **{
                    key: number(row.get(key), decimals=decimals)
                    for key in ("se", "hc3_se", "cluster_se")
                },
                "t": number(row.get("statistic"), decimals=2),
                "cluster_t": number(row.get("cluster_statistic"), decimals=2),
                "cluster_p": p_value(row.get("cluster_p")),
                "hc3_t": number(row.get("hc3_statistic"), decimals=2),
                "p": p_value(row.get("p")),
                "hc3_p": p_value(row.get("hc3_p")),
                "vif": number(vif.get(term), decimals=1),
                "verdict": "The outcome where every term is 0."
                if _role(row, model) == "intercept"
                else verdict(row),
            }
        )
    return lines


def _role(row: Mapping[Hashable, Any], model: Mapping[str, Any]) -> str:
    """What a term is there for: intercept, group, covariate, confound or interaction."""
    if "role" in row:
        return str(row["role"])
    term = str(row["term"])
    if term.strip("()").lower() in ("intercept", "const"):
        return "intercept"
    return "confound" if term in (model.get("confounds") or []) else "covariate"


def factor(term: str) -> str:
    """Column in the name of a design column.

    Examples
    --------
    >>> factor("dx"), factor("dx[T.AD]"), factor("C(dx)[T.AD]")
    ('dx', 'dx', 'dx')
    """
    match = _FACTOR.match(term)
    return match[1].strip() if match else term


def verdict(row: Mapping[Hashable, Any]) -> str:
    """Whether the data tell the sign of an effect, and whether the standard errors agree on it at 5 %.

    Where rows go together the errors of clusters tell it.

    Examples
    --------
    >>> verdict({"estimate": -0.5, "ci_low": -0.7, "ci_high": -0.3, "p": 1e-6, "hc3_p": 1e-5})
    'Clear: the interval lies below 0.'
    >>> verdict({"estimate": 0.2, "ci_low": -0.1, "ci_high": 0.5, "p": 0.2, "hc3_p": 0.1})
    'Not clear: the interval includes 0.'
    """
    has_clusters = "cluster_p" in row
    ends = ("cluster_ci_low", "cluster_ci_high") if has_clusters else ("ci_low", "ci_high")
    low, high = (float(row[end]) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "Could not be estimated."
    if low <= 0 <= high:
        text = "Not clear: the interval includes 0."
    else:
        text = f"Clear: the interval lies {'above' if low > 0 else 'below'} 0."
    p, robust = float(row.get("p", math.nan)), float(row.get("hc3_p", math.nan))
    if has_clusters:
        if (p < 0.05) != (float(row["cluster_p"]) < 0.05):
            text += " The classical errors say otherwise; they take rows that go together for independent."
        return text
    if math.isfinite(p) and math.isfinite(robust) and (p < 0.05) != (robust < 0.05):
        text += (
            " The two standard errors disagree here: trust HC3, which allows for unequal spread."
        )
    return text


def truth(model: Mapping[str, Any], tidy: pd.DataFrame) -> list[dict[str, Any]]:
    """Stated value of a term beside its estimate, and how many standard errors lie between them."""
    stated = model.get("truth") or {}
    lines = []
    for row in headline(tidy).to_dict("records"):
        if row["term"] not in stated:
            continue
        value, se = float(stated[row["term"]]), float(row.get("se", np.nan))
        decimals = decimals_for(se)
        away = (float(row["estimate"]) - value) / se if se > 0 else np.nan
        inside = float(row.get("ci_low", np.nan)) <= value <= float(row.get("ci_high", np.nan))
        lines.append(
            {
                "term": str(row["term"]),
                "truth": number(value, decimals=max(decimals, 0)),
                **{
                    key: number(row.get(key), decimals=decimals)
                    for key in ("estimate", "ci_low", "ci_high")
                },
                "away": number(away, decimals=2),
                "inside": inside,
            }
        )
    return lines


def truth_in_words(model: Mapping[str, Any]) -> str:
    """How many intervals of a model (as the page holds it) contain the stated truth; empty where none is stated."""
    lines = model["truth"]
    held = sum(line["inside"] for line in lines)
    if not lines:
        return ""
    return (
        f"Model {model['name']}: the 95% interval holds the stated truth for "
        f"{'all' if held == len(lines) else held} of {count(len(lines), 'term')}."
    )


def group_values(
    model: Mapping[str, Any],
    tidy: pd.DataFrame,
    augment: pd.DataFrame,
    participants: pd.DataFrame,
    *,
    asked: str | None,
) -> "tuple[str, pd.Series] | None":
    """Groups by which the outcome is drawn, one value a row of `augment`.

    The column asked for, the model's own, the first term with the role of a group, or the first column of
    `augment` that is 0/1 or a category. Columns that `augment` lacks are looked up by participant.
    """
    roles = tidy["role"] if "role" in tidy else pd.Series(index=tidy.index, dtype=object)
    terms = [
        match[1].strip()
        for term in tidy.loc[roles == "group", "term"].astype(str)
        if (match := _FACTOR.match(term))
    ]
    other = [c for c in augment.columns if c not in _IDENTITY | _DIAGNOSTICS]
    for name in (asked, model.get("group"), *terms):
        if name and (found := _column(str(name), augment, participants)) is not None:
            return str(name), found
    return next(((str(c), augment[c]) for c in other if _is_grouping(augment[c])), None)


def _column(name: str, augment: pd.DataFrame, participants: pd.DataFrame) -> "pd.Series | None":
    if name in augment:
        return augment[name]
    if "participant" not in augment or not {"participant", name} <= {*participants.columns}:
        return None
    known = participants.drop_duplicates("participant").set_index("participant")[name]
    return augment["participant"].map(known)


def _is_grouping(column: pd.Series) -> bool:
    values = column.dropna()
    if pd.api.types.is_numeric_dtype(values):
        return len(values) > 0 and bool(values.isin((0, 1)).all())
    return 0 < values.nunique() <= plots.MAX_GROUPS


_GLANCE = {
    "n": "rows used",
    "n_table": "rows of the table",
    "n_dropped": "rows left out",
    "n_subjects": "subjects",
    "n_repeated": "subjects with several rows",
    "r2": "share of the variance explained (R²)",
    "r2_adj": "the same, adjusted for the number of terms",
    "sigma": "residual standard deviation",
    "df_model": "degrees of freedom of the terms",
    "df_resid": "residual degrees of freedom",
    "f": "F of all terms together",
    "f_p": "its p",
    "log_likelihood": "log-likelihood",
    "condition": "condition number of the standardised terms",
    "bp_lm": "Breusch-Pagan test for unequal spread",
    "bp_p": "its p",
    "max_cook": "largest Cook's distance",
    "max_leverage": "largest leverage",
    "aic": "AIC",
    "bic": "BIC",
}


def glance(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """The fit as a whole: numbers of the first row of `glance`, with names a reader knows."""
    if not len(table):
        return []
    first = table.iloc[0]
    names = [str(c) for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]
    return [(_GLANCE.get(name, name.replace("_", " ")), number(first[name])) for name in names]
