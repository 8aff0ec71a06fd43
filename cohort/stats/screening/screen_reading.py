"""What the tables of a screen show, one warning a line."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cohort.stats import diagnostics
from cohort.stats.design import Design
from cohort.stats.table.rows import counted
from cohort.stats.wording.reading import number, probability

ALIAS = 1 - 1e-9
"""Correlation from which a covariate is the group under another name."""

FEW = 5
"""Rows of a level of the group below which a warning."""

NEAR = 0.1
"""Distance of zero from the rows of a covariate, as a share of their range, that is near enough to read an effect there."""

MISSING_SHARE = 0.05
MISSING_GAP = 0.10
"""Share of missing cells, and its difference between levels of the group, that are worth a line."""


@dataclass(frozen=True)
class Found:
    """The design and the tables of `cohort.stats.screen.Screen`."""

    design: Design
    group: str | None
    head: str | None
    site: str | None
    balance: pd.DataFrame
    correlations: pd.DataFrame
    missing: pd.DataFrame
    sites: pd.DataFrame
    ratios: pd.DataFrame
    harmonized: str | None = None
    """Site that was taken out of the outcomes before."""


def warnings(found: Found, *, has_subjects: bool) -> list[str]:
    """Write the warnings of a screen, those of the design first.

    Parameters
    ----------
    has_subjects : bool
        Whether the table has a column that tells people apart.
    """
    lines = [*found.design.warnings, *_of_the_columns(found.design)]
    lines += _repeats(found.design, has_subjects=has_subjects)
    lines += _ratios(found)
    lines += _head(found)
    lines += _left_out(found)
    lines += _missing(found.missing, found.group)
    lines += _alone(found)
    lines += _at_zero(found)
    lines += _sites(found)
    return list(dict.fromkeys(lines))


def _of_the_columns(design: Design) -> list[str]:
    """Warnings of `diagnostics` that need no outcome: rows per term, VIF, rows that alone decide a term."""
    vif, _ = diagnostics.collinearity(design.X)
    basis, _ = np.linalg.qr(design.X.to_numpy() / np.abs(design.X.to_numpy()).max(axis=0))
    tidy = pd.DataFrame(
        {"term": design.X.columns, "role": [design.roles[c] for c in design.X.columns]}
    )
    augment = design.rows.iloc[:, :1].assign(leverage=np.square(basis).sum(axis=1), cook=0.0)
    return diagnostics.warnings(tidy.assign(p=np.nan, hc3_p=np.nan), augment, vif)


def _repeats(design: Design, *, has_subjects: bool) -> list[str]:
    if not has_subjects:
        return [
            "no column tells people apart, so whether some are in the table several times is not known"
        ]
    left_out = design.reasons.get("repeated subject", 0)
    if not left_out:  # none, or all rows are kept, of which the design warns
        return []
    told = f"{design.n_repeated} of {design.n_subjects} subjects have several rows"
    if design.one_scan_per == "mean":
        return [f"{told}: the mean of each subject's rows is fitted, as one row"]
    return [f"{told}: one row of each is fitted, {left_out} rows are not"]


def _ratios(found: Found) -> list[str]:
    lines = []
    for row in found.ratios.to_dict("records"):
        clear = [
            (r, where)
            for r, p, where in (
                (row["r"], row["p"], ""),
                (row["r_controls"], row["p_controls"], " in the reference group"),
            )
            if p < diagnostics.SIGNIFICANT
        ]
        if clear:
            r, where = clear[0]
            lines.append(
                f"{row['column']} is {row['numerator']} / {row['denominator']} and still correlates with {row['denominator']}{where} "
                f"(r = {r:.3f}): the division {'over' if r < 0 else 'under'}-corrects; {row['numerator']} with "
                f"{row['denominator']} as a covariate does not"
            )
    return lines


def _head(found: Found) -> list[str]:
    """Head size that differs by group: by its standardised difference, and by a test of equal means (Welch's)."""
    lines = []
    rows = found.balance[found.balance["covariate"] == found.head]
    if rows.empty:
        return []
    first = rows.iloc[0]
    for row in rows.iloc[1:].to_dict("records"):
        p = _welch(row["mean"], row["sd"], row["n"], first["mean"], first["sd"], first["n"])
        if p < diagnostics.SIGNIFICANT:
            lines.append(
                f"{found.head} itself differs by group: {number(row['mean'])} with {found.group} = {row['level']}, "
                f"{number(first['mean'])} with {found.group} = {first['level']} (standardised difference "
                f"{row['std_difference']:.2f}, Welch {probability(p)}); compare the ways to account for it"
            )
    return lines


def _welch(m1: float, s1: float, n1: int, m0: float, s0: float, n0: int) -> float:
    from scipy import stats

    if min(n1, n0) < 2 or not s1 + s0 > 0:
        return 1.0
    return float(stats.ttest_ind_from_stats(m1, s1, n1, m0, s0, n0, equal_var=False).pvalue)


def _left_out(found: Found) -> list[str]:
    """Covariates that go with the group and the outcome and are not in the model; the head under a ratio is."""
    divided = set(found.ratios["denominator"])
    n = len(found.design.y)
    lines = []
    for row in found.correlations[~found.correlations["in_model"]].to_dict("records"):
        if abs(row["r_group"]) > ALIAS:
            lines.append(
                f"{row['covariate']} says the same as {found.group}: the two cannot be told apart"
            )
            continue
        floor = max(0.1, 2 / np.sqrt(n))
        if (
            row["covariate"] in divided
            or not min(abs(row["r_group"]), abs(row["r_outcome"])) > floor
        ):
            continue
        lines.append(
            f"{row['covariate']} is not in the model and goes with the group (r = {row['r_group']:.2f}) and with "
            f"{found.design.y.name} (r = {row['r_outcome']:.2f}): the group's difference is partly its own"
        )
    return lines


def _missing(missing: pd.DataFrame, group: str | None) -> list[str]:
    lines = []
    for name, part in missing[missing["in_model"]].groupby("column", sort=False):
        whole, levels = part[part["level"] == ""].iloc[0], part[part["level"] != ""]
        low, high = levels["share"].min(), levels["share"].max()
        # Where the group itself is missing, its levels cannot differ in that.
        apart = name != group and len(levels) > 1 and high - low > MISSING_GAP
        if whole["share"] <= MISSING_SHARE and not apart:
            continue
        told = f"{name} is missing in {whole['missing']} of {whole['n']} rows, which are not fitted"
        if apart:
            shares = ", ".join(
                f"{100 * row['share']:.0f} % at level {row['level']}"
                for row in levels.to_dict("records")
            )
            told += f", and not alike in the groups ({shares})"
        lines.append(told)
    return lines


def _alone(found: Found) -> list[str]:
    """Products of columns that do not stand as terms of their own, and groups of which hardly anybody is there."""
    terms = [term for term in found.design.terms if term is not None]
    own = {term.columns[0] for term in terms if len(term.columns) == 1}
    products = dict.fromkeys(term for term in terms if len(term.factors) > 1)
    bare = {term: [c for c in term.columns if c not in own] for term in products}
    lines = [
        f"{term.name} is in the model and {' and '.join(names)} alone {'is' if len(names) == 1 else 'are'} not: what goes "
        f"with {names[0]} where the rest is 0 is taken for nothing; write {'*'.join(term.columns)}"
        for term, names in bare.items()
        if names
    ]
    if found.group is None:
        return lines
    if found.group not in found.design.formula.columns:
        lines.append(f"{found.group} is the group and no term of the model: nothing compares it")
    counts = found.balance.groupby("level", sort=False)["n"].max()
    return lines + [
        f"{found.group} = {level} holds for {counted(n)} only: what is said of the group is said of {'it' if n == 1 else 'them'}"
        for level, n in counts.items()
        if 0 < n < FEW
    ]


def _at_zero(found: Found) -> list[str]:
    """Where the group stands in a product, its own effect is that at zero of what it is multiplied with."""
    design = found.design
    terms = [term for term in dict.fromkeys(design.terms) if term is not None]
    if not any(term.columns == (found.group,) for term in terms):
        return []
    lines = []
    for term in terms:
        if found.group not in term.columns:
            continue
        for name in (f.shown for f in term.factors if found.group not in f.columns):
            if name in design.binary or name not in design.X:
                continue
            low, high = design.X[name].min(), design.X[name].max()
            if max(low, -high) > NEAR * (high - low):
                lines.append(
                    f"with {term.name} in the model, estimate, d and p of {found.group} itself are those at {name} = 0, "
                    f"outside the rows ({number(low)} to {number(high)}): write center({name}), or state a contrast"
                )
    return lines


def _sites(found: Found) -> list[str]:
    counts = found.sites
    if found.site is None or counts["site"].nunique() < 2:
        return []
    lines = []
    if lost := len(found.design.y) - int(counts["n"].sum()):
        lines.append(
            f"{found.site} is not known in {lost} of the rows that are fitted: they are of no site"
        )
    if found.site not in (*found.design.formula.columns, found.harmonized):
        lines.append(f"{counts['site'].nunique()} sites ({found.site}) and no term for them")
    if found.group is None:
        return lines
    wide = counts.pivot_table(index="site", columns="level", values="n", sort=False)
    single = wide[(wide > 0).sum(axis=1) == 1]
    if len(single) == len(wide):
        lines.append(
            f"every site ({found.site}) holds one group only: {found.group} and site cannot be told apart"
        )
    elif len(single):
        told = ", ".join(
            f"{site} ({found.group} = {row.idxmax()}, {row.max():.0f} rows)"
            for site, row in single.iterrows()
        )
        lines.append(
            f"{len(single)} of {len(wide)} sites ({found.site}) hold one group only and compare nothing: {told}"
        )
    return lines
