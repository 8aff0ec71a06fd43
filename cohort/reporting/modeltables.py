"""Tables of a page as plain values: what a model declared and what stands beside it, checks and reliability of the table."""

from collections.abc import Callable, Mapping

import pandas as pd

from cohort.reporting.facts import Source
from cohort.reporting.tableparts import Part, figure, fine, part, probability, text
from cohort.reporting.wording import count
from cohort.stats.clustering.headline import headline


def effect_sizes(tidy: pd.DataFrame) -> Part:
    """Effects without a unit, with their intervals, and the least effect that these rows would show."""
    return part(
        "Effect sizes",
        "d: the estimate in residual standard deviations (terms of 0 and 1), with the interval of a noncentral t. Partial r and"
        " its square: the correlation that is left when all other terms are held equal. Detectable: the least effect that"
        " so many rows find with a chance of 80 %, at 5 %.",
        tidy[tidy["role"] != "intercept"],
        [
            text("Outcome", "outcome"),
            text("Term", "term"),
            figure("d", "d_adj", decimals=2),
            figure("95% interval of d", "d_adj_low", "d_adj_high", decimals=2),
            figure("Partial r", "partial_r", decimals=3),
            figure("95% interval of r", "partial_r_low", "partial_r_high", decimals=3),
            figure("Partial η²", "partial_eta2", decimals=3),
            fine("Detectable", "detectable"),
        ],
    )


def clustered(tidy: pd.DataFrame) -> Part:
    """Errors that allow for rows that go together."""
    return part(
        "Errors that allow for rows that go together",
        "The same estimates; the rows of one subject, or of one cluster that the catalog names, may be alike.",
        tidy,
        [
            text("Term", "term"),
            fine("Estimate", "estimate"),
            fine("95% interval", "cluster_ci_low", "cluster_ci_high"),
            fine("SE", "cluster_se"),
            figure("t", "cluster_statistic", decimals=2),
            figure("df", "cluster_df", digits=3),
            probability("p", "cluster_p"),
        ],
    )


def correlations(table: pd.DataFrame) -> Part:
    """What goes with the group and with the outcome, and how much each term overlaps with the others."""
    return part(
        "What goes with group and outcome",
        "Correlations of every covariate on the rows of the model, before any p. What goes with both and is not in the model"
        " is part of the group's difference. VIF: how much a term overlaps with the others.",
        table.assign(inside=["yes" if x else "no" for x in table["in_model"]]),
        [
            text("Covariate", "covariate"),
            text("In the model", "inside"),
            figure("r with the group", "r_group", decimals=2),
            figure("r with the outcome", "r_outcome", decimals=2),
            figure("VIF", "vif", decimals=1),
        ],
    )


def missing(table: pd.DataFrame) -> Part:
    """Cells that the model lacks, over all rows it is about and in each level of the group."""
    return part(
        "Missing cells",
        "Of the rows that the model is about, before any is left out. Cells that are missing unevenly between the groups"
        " change who is compared.",
        table.assign(level=table["level"].replace("", "all"), percent=100 * table["share"]),
        [
            text("Column", "column"),
            text("Level", "level"),
            figure("Rows", "n"),
            figure("Missing", "missing"),
            figure("%", "percent", decimals=1),
        ],
    )


def joint(table: pd.DataFrame) -> Part:
    """Terms of several columns (categories, splines), each tested as a whole."""
    return part(
        "Terms of several columns, each as a whole",
        "Wald's F: whether the levels of a category differ at all, whether a curve is flat.",
        table,
        [
            text("Term", "test"),
            figure("F", "f", decimals=2),
            figure("df", "df"),
            figure("residual df", "df_resid"),
            probability("p", "p"),
            probability("HC3 p", "hc3_p"),
            figure("Partial η²", "partial_eta2", decimals=3),
        ],
    )


def contrasts(table: pd.DataFrame) -> Part:
    """Sums of terms with weights, as the model declares them."""
    return part(
        "Contrasts",
        "Sums of terms, as the model declares them before the fit.",
        headline(table),
        [
            text("Outcome", "outcome"),
            text("Contrast", "contrast"),
            fine("Estimate", "estimate"),
            fine("95% interval", "ci_low", "ci_high"),
            figure("t", "statistic", decimals=2),
            figure("df", "df", digits=4),
            probability("p", "p"),
            probability("HC3 p", "hc3_p"),
            probability("q (Benjamini-Hochberg)", "q_bh"),
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
    return part(
        "Too small to matter?",
        "Two one-sided tests (TOST) against bounds that were declared before the fit. Not clear is not the same as equal.",
        told,
        [
            text("Outcome", "outcome"),
            text("Term", "term"),
            fine("Estimate", "estimate"),
            fine("Bounds", "bound_low", "bound_high"),
            fine("90% interval", "ci_low", "ci_high"),
            probability("p", "p"),
            text("Verdict", "verdict"),
        ],
    )


def exchanged(table: pd.DataFrame) -> Part:
    """Tests that exchange rows, beside those by the t distribution."""
    many = int(table["n_permutations"].iloc[0])
    return part(
        "Tests by exchanging rows",
        f"{many:,} arrangements of the rows (Freedman-Lane). The corrected p is the share of arrangements whose largest t,"
        f" over the {count(len(table), 'test')} of this table, is at least as large.",
        table,
        [
            text("Outcome", "outcome"),
            text("Term", "term"),
            figure("t", "statistic", decimals=2),
            probability("p by the t distribution", "p_parametric"),
            probability("p by exchange", "p"),
            probability("corrected p", "p_fwe"),
        ],
    )


def imputed(table: pd.DataFrame) -> Part:
    """Every term in the complete rows, and with the missing covariates drawn."""
    return part(
        "With the missing covariates drawn",
        "Complete case: the rows that have every covariate, as in the coefficients above. Imputed: all rows with an outcome,"
        " missing covariates drawn many times from what the others say, and the fits pooled (Rubin's rules). Where the two"
        " disagree, who lacks a covariate matters.",
        table,
        [
            text("Term", "term"),
            text("Rows", "method"),
            figure("n", "n"),
            fine("Estimate", "estimate"),
            fine("95% interval", "ci_low", "ci_high"),
            fine("SE", "se"),
            figure("t", "statistic", decimals=2),
            figure("df", "df", digits=4),
            probability("p", "p"),
            probability("HC3 p", "hc3_p"),
        ],
    )


def harmonized(table: pd.DataFrame) -> Part:
    """What was taken out of each site."""
    return part(
        "What was taken out of each site",
        "ComBat: what the rows of a site lie above the others, and how much wider they scatter (1: as the others), with the"
        " effects that are kept accounted for.",
        table,
        [
            text("Site", "site"),
            figure("Rows", "n"),
            text("Measurement", "column"),
            figure("Shift", "shift", digits=3),
            figure("SD ratio", "sd_ratio", digits=3),
        ],
    )


def sites(table: pd.DataFrame) -> Part:
    """The group's terms in each site by itself; sites that could not be fitted say why."""
    return part(
        "Each site by itself",
        "The same model within each site. per_site.parquet has all terms; estimate and SE are what a meta-analysis pools.",
        table,
        [
            text("Site", "site"),
            figure("Rows", "n"),
            text("Term", "term"),
            fine("Estimate", "estimate"),
            fine("95% interval", "ci_low", "ci_high"),
            fine("SE", "se"),
            probability("p", "p"),
            text("Note", "reason"),
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
        part(
            "Checks of the table",
            "What the catalog declares to hold of every row. A row that strays is named and stays: a person has to look.",
            checks,
            [
                text("Check", "check"),
                text("Declared", "expression"),
                figure("Rows", "n"),
                figure("Without a value", "missing"),
                figure("Stray", "strays"),
            ],
        )
    ]
    if len(strays):
        row = next(c for c in ("participant", "scan_id") if c in strays)
        found.append(
            part(
                "Rows that stray",
                "How far a value is from the median of all rows, in robust standard deviations.",
                strays,
                [
                    text("Check", "check"),
                    text("Row", row),
                    figure("Value", "value"),
                    figure("Expected", "expected"),
                    figure("Robust SDs", "sds", digits=3),
                ],
                anchors=anchors,
            )
        )
    return found


def _reliability(table: pd.DataFrame) -> Part:
    return part(
        "How well measurements repeat",
        "From the first two scans of everybody who was scanned twice. ICC: the share of the variance that is between people"
        " (two-way, absolute agreement). Two scans of one person differ by less than the repeatability in 95 of 100 cases.",
        table,
        [
            text("Measurement", "measurement"),
            text("Unit", "unit"),
            figure("Pairs", "n"),
            figure("ICC(2,1)", "icc21", decimals=3),
            figure("95% interval", "icc21_low", "icc21_high", decimals=3),
            figure("Mean difference", "mean_difference", digits=3),
            figure("SD of differences", "sd_difference", digits=3),
            figure("SD within a person", "within_sd", digits=3),
            figure("Repeatability", "repeatability", digits=3),
        ],
    )
