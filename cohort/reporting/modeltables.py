"""Tables of a page as plain values: what a model declared and what stands beside it, checks and reliability of the table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cohort.reporting.facts import Source
from cohort.reporting.wording import Shown, decimals_for, number, p_value
from cohort.stats.clustering.headline import headline

Part = dict[str, Any]
"""title, caption, columns ({name, is_number}), lines (of cells: {numbers} or {text, anchor}), more (lines that are not shown)."""

MAX_LINES = 60
"""Lines of one table; the others are counted, and are in the store."""


def effect_sizes(tidy: pd.DataFrame) -> Part:
    """Effects without a unit, with their intervals, and the least effect that these rows would show."""
    return _part(
        "Effect sizes",
        "d: the estimate in residual standard deviations (terms of 0 and 1), with the interval of a noncentral t. Partial r and"
        " its square: the correlation that is left when all other terms are held equal. Detectable: the least effect that"
        " so many rows find with a chance of 80 %, at 5 %.",
        tidy[tidy["role"] != "intercept"],
        [
            _text("Outcome", "outcome"),
            _text("Term", "term"),
            _number("d", "d_adj", decimals=2),
            _number("95% interval of d", "d_adj_low", "d_adj_high", decimals=2),
            _number("Partial r", "partial_r", decimals=3),
            _number("95% interval of r", "partial_r_low", "partial_r_high", decimals=3),
            _number("Partial η²", "partial_eta2", decimals=3),
            _fine("Detectable", "detectable"),
        ],
    )


def clustered(tidy: pd.DataFrame) -> Part:
    """Errors that allow for rows that go together."""
    return _part(
        "Errors that allow for rows that go together",
        "The same estimates; the rows of one subject, or of one cluster that the catalog names, may be alike.",
        tidy,
        [
            _text("Term", "term"),
            _fine("Estimate", "estimate"),
            _fine("95% interval", "cluster_ci_low", "cluster_ci_high"),
            _fine("SE", "cluster_se"),
            _number("t", "cluster_statistic", decimals=2),
            _number("df", "cluster_df", digits=3),
            _p("p", "cluster_p"),
        ],
    )


def correlations(table: pd.DataFrame) -> Part:
    """What goes with the group and with the outcome, and how much each term overlaps with the others."""
    return _part(
        "What goes with group and outcome",
        "Correlations of every covariate on the rows of the model, before any p. What goes with both and is not in the model"
        " is part of the group's difference. VIF: how much a term overlaps with the others.",
        table.assign(inside=["yes" if x else "no" for x in table["in_model"]]),
        [
            _text("Covariate", "covariate"),
            _text("In the model", "inside"),
            _number("r with the group", "r_group", decimals=2),
            _number("r with the outcome", "r_outcome", decimals=2),
            _number("VIF", "vif", decimals=1),
        ],
    )


def missing(table: pd.DataFrame) -> Part:
    """Cells that the model lacks, over all rows it is about and in each level of the group."""
    return _part(
        "Missing cells",
        "Of the rows that the model is about, before any is left out. Cells that are missing unevenly between the groups"
        " change who is compared.",
        table.assign(level=table["level"].replace("", "all"), percent=100 * table["share"]),
        [
            _text("Column", "column"),
            _text("Level", "level"),
            _number("Rows", "n"),
            _number("Missing", "missing"),
            _number("%", "percent", decimals=1),
        ],
    )


def joint(table: pd.DataFrame) -> Part:
    """Terms of several columns (categories, splines), each tested as a whole."""
    return _part(
        "Terms of several columns, each as a whole",
        "Wald's F: whether the levels of a category differ at all, whether a curve is flat.",
        table,
        [
            _text("Term", "test"),
            _number("F", "f", decimals=2),
            _number("df", "df"),
            _number("residual df", "df_resid"),
            _p("p", "p"),
            _p("HC3 p", "hc3_p"),
            _number("Partial η²", "partial_eta2", decimals=3),
        ],
    )


def contrasts(table: pd.DataFrame) -> Part:
    """Sums of terms with weights, as the model declares them."""
    return _part(
        "Contrasts",
        "Sums of terms, as the model declares them before the fit.",
        headline(table),
        [
            _text("Outcome", "outcome"),
            _text("Contrast", "contrast"),
            _fine("Estimate", "estimate"),
            _fine("95% interval", "ci_low", "ci_high"),
            _number("t", "statistic", decimals=2),
            _number("df", "df", digits=4),
            _p("p", "p"),
            _p("HC3 p", "hc3_p"),
            _p("q (Benjamini-Hochberg)", "q_bh"),
        ],
    )


def bounds(table: pd.DataFrame) -> Part:
    """Tests that an effect is too small to matter."""
    told = table.assign(
        verdict=[
            "shown: the 90% interval lies inside the bounds"
            if equal
            else "not shown: the 90% interval reaches beyond a bound"
            for equal in table["equivalent"]
        ]
    )
    return _part(
        "Too small to matter?",
        "Two one-sided tests (TOST) against bounds that were declared before the fit. Not clear is not the same as equal.",
        told,
        [
            _text("Outcome", "outcome"),
            _text("Term", "term"),
            _fine("Estimate", "estimate"),
            _fine("Bounds", "bound_low", "bound_high"),
            _fine("90% interval", "ci_low", "ci_high"),
            _p("p", "p"),
            _text("Verdict", "verdict"),
        ],
    )


def exchanged(table: pd.DataFrame) -> Part:
    """Tests that exchange rows, beside those by the t distribution."""
    many = int(table["n_permutations"].iloc[0])
    return _part(
        "Tests by exchanging rows",
        f"{many:,} arrangements of the rows (Freedman-Lane). The corrected p is the share of arrangements whose largest t,"
        f" over all {len(table)} tests of this table, is at least as large.",
        table,
        [
            _text("Outcome", "outcome"),
            _text("Term", "term"),
            _number("t", "statistic", decimals=2),
            _p("p by the t distribution", "p_parametric"),
            _p("p by exchange", "p"),
            _p("corrected p", "p_fwe"),
        ],
    )


def imputed(table: pd.DataFrame) -> Part:
    """Every term in the complete rows, and with the missing covariates drawn."""
    return _part(
        "With the missing covariates drawn",
        "Complete case: the rows that have every covariate, as in the coefficients above. Imputed: all rows with an outcome,"
        " missing covariates drawn many times from what the others say, and the fits pooled (Rubin's rules). Where the two"
        " disagree, who lacks a covariate matters.",
        table,
        [
            _text("Term", "term"),
            _text("Rows", "method"),
            _number("n", "n"),
            _fine("Estimate", "estimate"),
            _fine("95% interval", "ci_low", "ci_high"),
            _fine("SE", "se"),
            _number("t", "statistic", decimals=2),
            _number("df", "df", digits=4),
            _p("p", "p"),
            _p("HC3 p", "hc3_p"),
        ],
    )


def harmonized(table: pd.DataFrame) -> Part:
    """What was taken out of each site."""
    return _part(
        "What was taken out of each site",
        "ComBat: what the rows of a site lie above the others, and how much wider they scatter (1: as the others), with the"
        " effects that are kept accounted for.",
        table,
        [
            _text("Site", "site"),
            _number("Rows", "n"),
            _text("Measurement", "column"),
            _number("Shift", "shift", digits=3),
            _number("SD ratio", "sd_ratio", digits=3),
        ],
    )


def sites(table: pd.DataFrame) -> Part:
    """The group's terms in each site by itself; sites that could not be fitted say why."""
    return _part(
        "Each site by itself",
        "The same model within each site. per_site.parquet has all terms; estimate and SE are what a meta-analysis pools.",
        table,
        [
            _text("Site", "site"),
            _number("Rows", "n"),
            _text("Term", "term"),
            _fine("Estimate", "estimate"),
            _fine("95% interval", "ci_low", "ci_high"),
            _fine("SE", "se"),
            _p("p", "p"),
            _text("Note", "reason"),
        ],
    )


TABLES: Mapping[str, Callable[[pd.DataFrame], Part]] = {
    "effect_sizes": effect_sizes,
    "clustered": clustered,
    "joint": joint,
    "contrasts": contrasts,
    "equivalence": bounds,
    "imputed": imputed,
    "permutation": exchanged,
    "per_site": sites,
    "harmonize": harmonized,
    "correlations": correlations,
    "missing": missing,
}
"""Table of a model -> how a page shows it."""


def of_model(tables: Mapping[str, pd.DataFrame]) -> list[Part]:
    """Tables of a model, by their name, as a page shows them beside its coefficients."""
    return [show(tables[kind]) for kind, show in TABLES.items() if kind in tables]


def of_cohort(store: Source, anchors: Mapping[str, str]) -> list[Part]:
    """Checks of the table with the rows that stray, and how well measurements repeat; none that the catalog does not state."""
    parts = []
    for home in ("participants", "scans"):
        checks, strays = store.table(f"{home}.checks"), store.table(f"{home}.strays")
        if checks is not None and strays is not None:
            parts += _checks(checks, strays, anchors)
        repeated = store.table(f"{home}.reliability")
        if repeated is not None:
            parts.append(_reliability(repeated))
    return parts


def _checks(checks: pd.DataFrame, strays: pd.DataFrame, anchors: Mapping[str, str]) -> list[Part]:
    found = [
        _part(
            "Checks of the table",
            "What the catalog declares to hold of every row. A row that strays is named and stays: a person has to look.",
            checks,
            [
                _text("Check", "check"),
                _text("Declared", "expression"),
                _number("Rows", "n"),
                _number("Without a value", "missing"),
                _number("Stray", "strays"),
            ],
        )
    ]
    if len(strays):
        row = next(c for c in ("participant", "scan_id") if c in strays)
        found.append(
            _part(
                "Rows that stray",
                "How far a value is from the median of all rows, in robust standard deviations.",
                strays,
                [
                    _text("Check", "check"),
                    _text("Row", row),
                    _number("Value", "value"),
                    _number("Expected", "expected"),
                    _number("Robust SDs", "sds", digits=3),
                ],
                anchors=anchors,
            )
        )
    return found


def _reliability(table: pd.DataFrame) -> Part:
    return _part(
        "How well measurements repeat",
        "From the first two scans of everybody who was scanned twice. ICC: the share of the variance that is between people"
        " (two-way, absolute agreement). Two scans of one person differ by less than the repeatability in 95 of 100 cases.",
        table,
        [
            _text("Measurement", "measurement"),
            _text("Unit", "unit"),
            _number("Pairs", "n"),
            _number("ICC(2,1)", "icc21", decimals=3),
            _number("95% interval", "icc21_low", "icc21_high", decimals=3),
            _number("Mean difference", "mean_difference", digits=3),
            _number("SD of differences", "sd_difference", digits=3),
            _number("SD within a person", "within_sd", digits=3),
            _number("Repeatability", "repeatability", digits=3),
        ],
    )


# -- columns -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One column of a part: what it is called, which columns of the table it shows, and how."""

    name: str
    of: tuple[str, ...]
    show: Callable[[Any, int], Shown] | None = None
    """Value and decimals of the row's standard error -> number; None for text. Two numbers are an interval."""

    def stands_in(self, table: pd.DataFrame) -> bool:
        """Whether a table has what is shown, and says anything in it."""
        if not set(self.of) <= set(table.columns):
            return False
        return not table.empty and not table[list(self.of)].isin(["", None]).to_numpy().all()

    def cell(self, record: Mapping[str, Any], decimals: int, anchors: Mapping[str, str]) -> Any:
        if self.show is not None:
            values = [record[column] for column in self.of]
            if pd.isna(values).all():  # no interval: one dash, not two
                values = values[:1]
            return {"numbers": [self.show(value, decimals) for value in values]}
        value = record[self.of[0]]
        text = "" if pd.isna(value) else str(value)
        return {"text": text, "anchor": anchors.get(text)}


def _part(
    title: str,
    caption: str,
    table: pd.DataFrame,
    columns: Sequence[_Column],
    *,
    anchors: Mapping[str, str] | None = None,
) -> Part:
    used = [column for column in columns if column.stands_in(table)]
    lines = []
    for record in table.head(MAX_LINES).to_dict("records"):
        fields = {str(key): value for key, value in record.items()}
        fine = decimals_for(fields.get("se", math.nan))
        lines.append([column.cell(fields, fine, anchors or {}) for column in used])
    return {
        "title": title,
        "caption": caption,
        "columns": [{"name": c.name, "is_number": c.show is not None} for c in used],
        "lines": lines,
        "more": len(table) - len(lines),
    }


def _text(name: str, column: str) -> _Column:
    return _Column(name, (column,))


def _number(name: str, *columns: str, digits: int = 4, decimals: int | None = None) -> _Column:
    return _Column(name, columns, lambda x, _: number(x, digits=digits, decimals=decimals))


def _fine(name: str, *columns: str) -> _Column:
    """As many decimals as the standard error of the row can use."""
    return _Column(name, columns, lambda x, fine: number(x, decimals=fine))


def _p(name: str, column: str) -> _Column:
    return _Column(name, (column,), lambda x, _: p_value(x))
