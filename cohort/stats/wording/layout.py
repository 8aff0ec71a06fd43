"""An analysis as lines for a terminal: the effects, the plain comparison beside the adjusted one, means, families."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from cohort.stats.adjust import Adjustments
from cohort.stats.clustering.headline import headline
from cohort.stats.columns import DesignError
from cohort.stats.terms.groups import group_columns
from cohort.stats.wording import reading, screened

if TYPE_CHECKING:
    from cohort.stats.analysis import Analysis

INDENT = "  "


def lines(analysis: "Analysis") -> list[str]:
    """Everything but the warnings, which come first wherever this is shown."""
    parts = [
        _family(analysis.tidy),
        _joint(analysis.tables.get("joint")),
        _compared(analysis),
        _means(analysis.tables.get("means")),
        _bounds(analysis.tables.get("equivalence")),
        _contrasts(analysis.tables.get("contrasts")),
        _sites(analysis.tables.get("per_site")),
        _imputed(analysis),
        _permuted(analysis),
        _left_out(analysis.left_out),
    ]
    told = [line for part in parts if part for line in ("", *part)]
    formula, rows, *effects = analysis.fit.layout()
    before = screened.lines(analysis.screen)
    first = [formula, rows, *(["", *before] if before else []), *effects]
    return [*first, *told, "", *analysis.reading]


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    """What could not be computed, a line a reason."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(those)} left out: {reason}" for reason, those in names.items()]


def adjustments(found: Adjustments) -> list[str]:
    """Head size in six ways, side by side, and why they differ."""
    table = found.table
    shown = pd.DataFrame(
        {
            "strategy": table["strategy"],
            "level": table["level"],
            "estimate": table["estimate"].map(_number),
            "unit": table["unit"],
            "t": table["statistic"].map(_two),
            "p": table["p"].map(_p),
            "HC3 p": table["hc3_p"].map(_p),
            "partial r": table["partial_r"].map(_three),
            f"r with {found.head}": table["r_head"].map(_three),
            "note": table["note"],
        }
    )
    title = f"{found.outcome} by {found.group}, {found.head} taken into account in six ways:"
    return [title, *_frame(shown), *found.sentences]


def _number(value: Any) -> str:
    return "" if pd.isna(value) else reading.number(value)


def _two(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _three(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def _p(value: Any) -> str:
    return "" if pd.isna(value) else reading.bare_p(value)


def _frame(shown: pd.DataFrame) -> list[str]:
    return [INDENT + line for line in shown.to_string(index=False).splitlines()]


def _interval(low: pd.Series, high: pd.Series) -> list[str]:
    return [f"{_number(a)} to {_number(b)}" for a, b in zip(low, high, strict=True)]


def _family(tidy: pd.DataFrame) -> list[str]:
    """What was corrected together; nothing where one test stands alone."""
    if "family_n" not in tidy:
        return []
    tidy = headline(tidy)
    members = tidy[tidy["q_bh"].notna()]
    if len(members) < 2:
        return []
    shown = pd.DataFrame(
        {
            **members[["outcome", "term"]],
            "estimate": members["estimate"].map(_number),
            "p": members["p"].map(_p),
            "BH q": members["q_bh"].map(_p),
            "BY q": members["q_by"].map(_p),
            "Holm p": members["p_holm"].map(_p),
            "Bonferroni p": members["p_bonferroni"].map(_p),
        }
    )
    n = int(members["family_n"].iloc[0])
    return [f"a family of {n} tests, corrected together:", *_frame(shown)]


def _joint(table: pd.DataFrame | None) -> list[str]:
    """A category or a spline is one question, whatever its number of columns."""
    if table is None:
        return []
    shown = pd.DataFrame(
        {
            "term": table["test"],
            "F": table["f"].map(_two),
            "df": [f"{a:g}, {b:g}" for a, b in zip(table["df"], table["df_resid"], strict=True)],
            "p": table["p"].map(_p),
            "HC3 p": table["hc3_p"].map(_p),
            "partial eta2": table["partial_eta2"].map(_three),
        }
    )
    return ["terms of several columns, each as a whole:", *_frame(shown)]


def _compared(analysis: "Analysis") -> list[str]:
    """Student's and Welch's t beside the adjusted effect of the group."""
    found = analysis.comparison
    if found is None:
        return []
    tests = found.tests.rename(columns={"difference": "estimate"})
    try:
        terms = group_columns(analysis.design, found.group)
    except DesignError:  # part of an interaction: no single number compares the groups
        terms = []
    adjusted = headline(analysis.fit.tidy)
    adjusted = adjusted[adjusted["term"].isin(terms)].assign(test="this model")
    rows = pd.concat([tests, adjusted[list(tests)]], ignore_index=True)
    shown = pd.DataFrame(
        {
            "by": rows["test"],
            "difference": rows["estimate"].map(_number),
            "95 % interval": _interval(rows["ci_low"], rows["ci_high"]),
            "t": rows["statistic"].map(_two),
            "df": rows["df"].map(lambda df: f"{df:.1f}"),
            "p": rows["p"].map(_p),
        }
    )
    first, second = found.levels
    title = f"{found.group} = {second} less {first}, with nothing held equal and in this model:"
    return [title, *_frame(shown)]


def _means(means: pd.DataFrame | None) -> list[str]:
    if means is None:
        return []
    several = len(set(means["outcome"])) > 1
    shown = pd.DataFrame(
        {
            **({"outcome": means["outcome"]} if several else {}),
            means["group"].iloc[0]: means["level"],
            "n": means["n"],
            "observed": means["observed"].map(_number),
            "adjusted": means["estimate"].map(_number),
            "95 % interval": _interval(means["ci_low"], means["ci_high"]),
        }
    )
    return ["means, as measured and with all else equal:", *_frame(shown)]


def _bounds(table: pd.DataFrame | None) -> list[str]:
    if table is None:
        return []
    return [
        f"{row['term']} on {row['outcome']} within {_number(row['bound_low'])} to {_number(row['bound_high'])}: "
        f"{'shown' if row['equivalent'] else 'not shown'} (TOST {reading.probability(row['p'])}, 90 % interval "
        f"{_number(row['ci_low'])} to {_number(row['ci_high'])})"
        for row in table.to_dict("records")
    ]


def _contrasts(table: pd.DataFrame | None) -> list[str]:
    if table is None:
        return []
    table = headline(table)
    shown = pd.DataFrame(
        {
            **table[["outcome", "contrast"]],
            "estimate": table["estimate"].map(_number),
            "95 % interval": _interval(table["ci_low"], table["ci_high"]),
            "t": table["statistic"].map(_two),
            "p": table["p"].map(_p),
        }
    )
    for column, name in (("hc3_p", "HC3 p"), ("q_bh", "BH q")):
        if column in table:
            shown[name] = table[column].map(_p)
    return ["contrasts:", *_frame(shown)]


def _imputed(analysis: "Analysis") -> list[str]:
    """Every term in the complete rows, and below it with the missing covariates drawn."""
    found = analysis.imputed
    if found is None:
        return []
    table = found.table
    shown = pd.DataFrame(
        {
            **table[["term", "method", "n"]],
            "estimate": table["estimate"].map(_number),
            "95 % interval": _interval(table["ci_low"], table["ci_high"]),
            "t": table["statistic"].map(_two),
            "df": table["df"].map("{:.1f}".format),
            "p": table["p"].map(_p),
            "HC3 p": table["hc3_p"].map(_p),
        }
    )
    cells = found.missing.to_dict("records")
    drawn = ", ".join(f"{row['column']} in {row['missing']} rows" for row in cells)
    title = f"with missing covariates drawn ({drawn}; {found.n_draws} draws, seed {found.seed}):"
    return [title, *_frame(shown)]


def _permuted(analysis: "Analysis") -> list[str]:
    """Tests that exchange rows, beside those by the t distribution."""
    found = analysis.permuted
    if found is None:
        return []
    table = found.table
    shown = pd.DataFrame(
        {
            **table[["outcome", "term"]],
            "t": table["statistic"].map(_two),
            "p by t": table["p_parametric"].map(_p),
            "p by exchange": table["p"].map(_p),
            "corrected p": table["p_fwe"].map(_p),
        }
    )
    many = found.facts["n_permutations"]
    return [f"{many} arrangements of {found.facts['exchanged']}:", *_frame(shown)]


def _sites(table: pd.DataFrame | None) -> list[str]:
    """How many sites were fitted by themselves, and why the others were not."""
    if table is None:
        return []
    table = table[table["outcome"] == table["outcome"].iloc[0]]
    bad = table[table["reason"] != ""]
    n = table["site"].nunique()
    told = [f"{n - len(bad)} of {n} sites fitted by themselves (per_site.parquet)"]
    return told + [f"{INDENT}{row['site']}: {row['reason']}" for row in bad.to_dict("records")]
