"""Every reference number of the simple comparison, the adjusted models and their family, by the product's own functions.

The subsets are built from the tables by the rule for repeated scans and by `where`. A key of these sections that no
function below answers fails the test, and so does a key that belongs to no section.
"""

import numpy as np
import oasis_tables
import pytest
from scipy import stats

from cohort.stats import comparison, multiplicity, outcomes, robust
from cohort.stats.regression import fit

COVERED = ("V.", "U.", "E.", "C.", "CE.")
"""Prefixes of the keys that are looked at, all but those of `ELSEWHERE`."""

ELSEWHERE = {
    "E.resid_all.": "adjustment for head size",
    "E.resid_ctl.": "adjustment for head size",
    "E.pcp.": "adjustment for head size",
    "E.corr.": "adjustment for head size",
    "C.icc21": "scans of one person",
    "C.retest.": "scans of one person",
    "L.": "mixed models",
}
"""Keys of other sections, which have tests of their own."""

ANCOVA = "dx + age + male + skull_vol"
ELDERLY, ASSESSED = "age >= 60", "CDR >= 0"
OASIS1 = "dx + Age + eTIV + male"
MODELS = {
    "V.ancova": ("volumes", "brain_vol", ANCOVA, {"one_scan_per": "all"}),
    "U.ancova": ("volumes", "brain_vol", ANCOVA, {}),
    "U.inter": ("volumes", "brain_vol", "dx * age + male + skull_vol", {}),
    "U.age2": ("volumes", "brain_vol", ANCOVA + " + I(age**2)", {}),
    "E.crude": ("volumes", "brain_vol", "dx", {"where": ELDERLY}),
    "E.ancova": ("volumes", "brain_vol", ANCOVA, {"where": ELDERLY}),
    "E.ratio": ("volumes", "ratio", "dx + age + male", {"where": ELDERLY}),
    "C.ancova": ("oasis1", "nWBV", OASIS1, {}),
    "CE.ancova": ("oasis1", "nWBV", OASIS1, {"where": ASSESSED}),
    "CE.full": ("oasis1", "nWBV", OASIS1 + " + Educ", {"where": ASSESSED}),
    "CE.ses": ("oasis1", "nWBV", OASIS1 + " + Educ + SES", {"where": ASSESSED}),
    "CE.mmse": ("oasis1", "MMSE", "nWBV + Age + male + Educ", {"where": ASSESSED}),
}
COMPARISONS = {
    "V.seed.brain": ("volumes", "brain_vol", "alzheimers", {"one_scan_per": "all"}),
    "V.seed.ratio": ("volumes", "ratio", "alzheimers", {"one_scan_per": "all"}),
    "V.sex.brain": ("volumes", "brain_vol", "sex", {"one_scan_per": "all"}),
    "V.sex.ratio": ("volumes", "ratio", "sex", {"one_scan_per": "all"}),
    "CE.crude": ("oasis1", "nWBV", "dx", {"where": ASSESSED}),
}
REGIONS = ["brain_vol", "gray_matter_vol", "white_matter_vol", "csf_vol"]
TERM = {
    "b": "estimate",
    "se": "se",
    "t": "statistic",
    "p": "p",
    "lo": "ci_low",
    "hi": "ci_high",
    "df": "df",
    "ci_low": "ci_low",
    "ci_high": "ci_high",
}
WHOLE = {
    "rsq": "r2",
    "sigma": "sigma",
    "df": "df_resid",
    "F": "f",
    "aic": "aic",
    "llf": "log_likelihood",
}
FAMILY = {
    "t": "statistic",
    "p": "p",
    "hc3_p": "hc3_p",
    "fdr_bh": "q_bh",
    "fdr_by": "q_by",
    "holm": "p_holm",
    "bonferroni": "p_bonferroni",
}
PROBABILITIES = ("p", "hc3_p", "fdr_bh", "fdr_by", "holm", "bonferroni")


@pytest.fixture(scope="module")
def tables(shared):
    return {
        "volumes": oasis_tables.volumes(shared),
        "oasis1": oasis_tables.cross_sectional(shared),
    }


@pytest.fixture(scope="module")
def keys(shared):
    return oasis_tables.reference(shared)


@pytest.fixture(scope="module")
def fits(tables):
    return {
        key: fit(tables[table], outcome=outcome, formula=formula, **rows)
        for key, (table, outcome, formula, rows) in MODELS.items()
    }


@pytest.fixture(scope="module")
def answers(tables, fits):
    """Key -> number, of every key that the functions of the product answer."""
    found = {}
    for key, result in fits.items():
        found |= {f"{key}.{name}": value for name, value in of_a_fit(result).items()}
    for key, (table, outcome, group, rows) in COMPARISONS.items():
        compared = comparison.two_groups(tables[table], outcome=outcome, group=group, **rows)
        found |= {f"{key}.{name}": value for name, value in of_a_comparison(compared).items()}
    volumes = tables["volumes"]
    columns = ["age", "dx", "brain_vol", "skull_vol"]
    for x in columns:
        for y in columns:
            if x != y:
                r = comparison.correlation(volumes, x=x, y=y, one_scan_per="all")["r"].item()
                found[f"V.corr.{x}.{y}"] = r
    clustered = robust.cluster(fits["V.ancova"]).tidy.set_index("term").loc["dx"]
    found["V.ancova.cr1.dx.se"] = clustered["cluster_se"]
    found["V.ancova.cr1.dx.t"] = clustered["cluster_statistic"]
    found |= of_the_rows(fits) | of_the_diagnostics(fits["U.ancova"])
    found["E.partialcorr.brain.dx"] = found["E.ancova.partial_r.dx"]
    several = outcomes.fit(volumes, outcomes=REGIONS, formula=ANCOVA, where=ELDERLY).tidy
    corrected = multiplicity.family(several, "dx").query("term == 'dx'").set_index("outcome")
    for region in REGIONS:
        for quantity, column in FAMILY.items():
            found[f"E.region.{region}.{quantity}"] = corrected.loc[region, column]
    return found


def of_a_fit(result):
    tidy, whole = result.tidy.set_index("term"), result.glance.iloc[0]
    found = {name: whole[column] for name, column in WHOLE.items()}
    for term, row in tidy.iterrows():
        for name, column in TERM.items():
            found[f"ols.{term}.{name}"] = row[column]
        for name in ("se", "t", "p"):
            found[f"hc3.{term}.{name}"] = row[f"hc3_{TERM[name]}"]
        found[f"partial_r.{term}"] = row["partial_r"]
        found[f"partial_eta2.{term}"] = row["partial_eta2"]
        # the product writes d for 0/1 terms only; the reference divides any estimate by the residual sd
        is_group = term in result.design.binary
        found[f"d_adj.{term}"] = row["d_adj"] if is_group else row["estimate"] / whole["sigma"]
    return found


def of_a_comparison(compared):
    found = {
        f"{row['test']}.{name}": row[column]
        for row in compared.tests.to_dict("records")
        for name, column in TERM.items()
        if column in row
    }
    n0, n1 = compared.groups["n"]
    return found | {
        "cohen_d": compared.cohen_d,
        "hedges_g": compared.hedges_g,
        "n0": n0,
        "n1": n1,
        "mwu.U": compared.mann_whitney_u,
    }


def of_the_rows(fits):
    found = {}
    for subset in ("U", "E", "C", "CE"):
        rows = fits[f"{subset}.ancova"]
        found[f"{subset}.n"] = len(rows.augment)
        found[f"{subset}.n_dx"] = rows.design.X["dx"].sum()
    found["CE.n_ses"] = len(fits["CE.ses"].augment)
    return found


def of_the_diagnostics(result):
    whole, augment = result.glance.iloc[0], result.augment
    shapiro = stats.shapiro(augment["residual"])
    return {
        **{f"U.vif.{term}": value for term, value in result.vif.items()},
        # in raw units, which the product does not report: it says more of units than of the design
        "U.cond": np.linalg.cond(result.design.X.to_numpy()),
        "U.bp.lm": whole["bp_lm"],
        "U.bp.p": whole["bp_p"],
        "U.cook.max": whole["max_cook"],
        "U.hat.max": whole["max_leverage"],
        "U.rstudent.absmax": augment["rstudent"].abs().max(),
        "U.shapiro.W": shapiro.statistic,
        "U.shapiro.p": shapiro.pvalue,
    }


def section(key):
    """Name of the section of a key that is elsewhere, or None."""
    return next((name for prefix, name in ELSEWHERE.items() if key.startswith(prefix)), None)


def test_every_key_belongs_to_a_section(keys):
    unknown = [key for key in keys.index if not key.startswith((*COVERED, *ELSEWHERE))]
    assert unknown == []
    for prefix in (*COVERED, *ELSEWHERE):
        assert any(key.startswith(prefix) for key in keys.index), f"{prefix} has no keys any more"


def test_every_key_of_these_sections_is_looked_at(keys, answers):
    asked = [key for key in keys.index if key.startswith(COVERED) and section(key) is None]
    assert len(asked) > 300
    assert [key for key in asked if key not in answers] == []


def test_every_number_of_these_sections(keys, answers):
    wrong = {}
    for key, expected in keys.items():
        if section(key) is not None:
            continue
        tolerance = 1e-9 if key.split(".")[-1] in PROBABILITIES else 1e-10
        tolerance = 1e-6 if key == "U.shapiro.p" else tolerance
        if answers[key] != pytest.approx(expected, rel=tolerance):
            wrong[key] = (answers[key], expected)
    assert wrong == {}


def test_the_ladder_of_unadjusted_partial_correlations(tables):
    """Given skull, given age, given both: what each adjustment hides or shows."""
    for formula, expected in {
        "dx + skull_vol": -0.600667390,
        "dx + age": -0.099205814,
        "dx + age + skull_vol": -0.318891722,
    }.items():
        tidy = fit(tables["volumes"], outcome="brain_vol", formula=formula).tidy.set_index("term")
        # printed with nine decimals, of which eight hold
        assert tidy.loc["dx", "partial_r"] == pytest.approx(expected, abs=5e-9), formula
