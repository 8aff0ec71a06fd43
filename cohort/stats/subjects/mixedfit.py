"""What a mixed model found, as tables, as plain values and in sentences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pandas as pd

from cohort.stats.design import Design
from cohort.stats.effects import LEVEL
from cohort.stats.subjects.slopes import Slopes
from cohort.stats.table import records
from cohort.stats.wording import reading

FEW_SUBJECTS = 30
"""Below this number of subjects, a warning: the variance between them is hardly known."""


@dataclass(frozen=True)
class MixedFit:
    """A fitted mixed model.

    Attributes
    ----------
    design : Design
        Rows, design matrix and outcome that were fitted; all scans of each subject.
    tidy : DataFrame, one row a column of the design
        outcome, term, role, estimate, unit, se, df, statistic, p, ci_low, ci_high, z_p, z_ci_low, z_ci_high, n,
        n_subjects. ``p`` and its interval are by t with Satterthwaite's ``df``; with random slopes by z (df NaN).
    glance : DataFrame, one row
        outcome, method, n, n_subjects, var_subject, var_resid, ratio, icc, boundary, log_likelihood, then of random
        slopes var_slope, cov_slope, lrt, lrt_p (NaN without).
    augment : DataFrame, one row a row that was fitted
        Row id, participant, subject and session where the table has them, observed, fitted (by the terms alone),
        fitted_subject (with the subject's own effect), residual (from the latter).
    subjects : DataFrame, one row a subject
        subject, n, intercept, and slope where there is one: predicted deviations (BLUP), in units of the outcome.
    compared : DataFrame or None
        With random slopes: term, se_intercept, se_slope (of the fits without and with them) and their ratio.
    covariance : DataFrame, shape (p, p)
    warnings, reading : tuple of str
        What to know before the numbers; the effects in sentences.
    model : dict
        The model as it was asked for.
    """

    design: Design
    tidy: pd.DataFrame
    glance: pd.DataFrame
    augment: pd.DataFrame
    subjects: pd.DataFrame
    compared: pd.DataFrame | None
    covariance: pd.DataFrame
    warnings: tuple[str, ...]
    reading: tuple[str, ...]
    model: dict[str, Any]

    @property
    def rows(self) -> dict[str, Any]:
        """Account of the rows: how many there were, were used, and were dropped for which reason."""
        return {**self.design.account, "n_subjects": len(self.subjects)}

    def to_json(self) -> dict[str, Any]:
        """Resolve the model into plain values that JSON can hold (NaN as None)."""
        design, slope = self.design, self.model["slope"]
        random = "random intercept" if slope is None else f"random intercept and slope of {slope}"
        return {
            "method": f"linear mixed model, {random} per subject, {self.model['method'].upper()}",
            **{k: v for k, v in self.model.items() if k != "method"},
            "fitted": f"{design.y.name} ~ {design.formula}",
            "columns": [
                {"name": name, "role": design.roles[name], "unit": unit}
                for name, unit in zip(self.tidy["term"], self.tidy["unit"], strict=True)
            ],
            "coding": design.coding,
            "rows": self.rows,
            "glance": records.plain(self.glance)[0],
            "warnings": list(self.warnings),
            "reading": list(self.reading),
            "versions": {n: metadata.version(n) for n in ("statsmodels", "scipy", "numpy")},
        }

    def summary(self) -> str:
        """Lay the fit out for a terminal."""
        told = [f"warning: {text}" for text in self.warnings]
        return "\n".join([*self.layout(), *told, "", *self.reading])

    def layout(self) -> list[str]:
        """Lay the formula, the rows, the effects and the whole out, a line each."""
        design, whole, tidy = self.design, self.glance.iloc[0], self.tidy
        ends = zip(
            tidy["ci_low"].map(reading.number), tidy["ci_high"].map(reading.number), strict=True
        )
        shown = pd.DataFrame(
            {
                **tidy[["term", "role"]],
                "estimate": tidy["estimate"].map(reading.number),
                "unit": tidy["unit"],
                "95 % interval": [f"{low} to {high}" for low, high in ends],
                "t": tidy["statistic"].map("{:.2f}".format),
                "df": tidy["df"].map(lambda df: "" if math.isnan(df) else f"{df:.1f}"),
                "p": tidy["p"].map(reading.bare_p),
            }
        )
        dropped = "; ".join(f"{n} {reason}" for reason, n in design.reasons.items())
        used = f"{len(design.y)} of {design.n_table} rows, {len(self.subjects)} subjects"
        variances = ", ".join(
            f"{name} {reading.number(whole[column])}"
            for name, column in (
                ("between subjects", "var_subject"),
                ("within", "var_resid"),
                ("of slopes", "var_slope"),
            )
            if not math.isnan(whole[column])
        )
        return [
            f"{design.y.name} ~ {design.formula} + ({self.model['slope'] or 1} | {self.model['subject']})",
            f"{used}{f' (left out: {dropped})' if dropped else ''}",
            "",
            shown.to_string(index=False),
            "",
            f"variance {variances}   ICC {whole['icc']:.4f}   log-likelihood {whole['log_likelihood']:.4f}",
        ]


def warnings(whole: pd.Series, n_subjects: int, slopes: Slopes | None) -> list[str]:
    """Say what the numbers of a mixed fit hide, one line each."""
    found = []
    if n_subjects < FEW_SUBJECTS:
        found.append(
            f"{n_subjects} subjects, fewer than {FEW_SUBJECTS}: the variance between them is hardly known"
        )
    if whole["boundary"]:
        found.append(
            "subjects differ no more than their own scans do (variance between subjects 0, the border of what is "
            "possible): the fit with a random intercept is ordinary least squares"
        )
    if slopes is not None:
        if slopes.optimiser != "bfgs":
            found.append(f"the random slopes were found by {slopes.optimiser}, after bfgs failed")
        found += [f"random slopes, {line}" for line in slopes.told]
        found.append("with random slopes p and intervals are by the normal distribution")
    return found


def sentences(
    design: Design,
    tidy: pd.DataFrame,
    whole: pd.Series,
    slope: str | None,
    units: Mapping[str, str],
) -> list[str]:
    """Write one sentence for each column of the design but the intercept, then of the variances and the test."""
    found = []
    places = {role: i for i, role in enumerate(reading.ORDER)}
    rows: list[Any] = [row for row in tidy.itertuples(index=False) if row.role in places]
    for row in sorted(rows, key=lambda row: places[row.role]):
        unit = f" {row.unit}" if row.unit not in ("", "1") else ""
        df = "z" if math.isnan(row.df) else f"t with {row.df:.1f} df"
        found.append(
            f"{row.term}: {reading.number(row.estimate)}{unit} (95 % interval {reading.number(row.ci_low)} to "
            f"{reading.number(row.ci_high)}; {reading.probability(row.p)}, {df}), {_beside(design, row.term)}."
        )
    found.append(
        f"Of the variance that the terms leave in {design.y.name}, {100 * whole['icc']:.1f} % lies between subjects"
        f"{' at ' + slope + ' = 0' if slope else ''} (ICC {whole['icc']:.3f})."
    )
    if slope is not None:
        found.append(
            f"Subjects {'differ' if whole['lrt_p'] < 1 - LEVEL else 'do not show that they differ'} in their change "
            f"along {slope}: likelihood ratio {whole['lrt']:.2f}, {reading.probability(whole['lrt_p'])} on the mixture "
            "0.5 chi2(1) + 0.5 chi2(2)."
        )
    return found


def _beside(design: Design, column: str) -> str:
    """Say how a coefficient is read beside the others: alone, or together with terms of the same columns."""
    own = design.terms[list(design.X.columns).index(column)]
    shared = own is not None and any(
        other is not None and other.key != own.key and set(other.columns) & set(own.columns)
        for other in design.terms
    )
    if shared:
        return "to be read together with the other terms of its columns"
    return "the other terms held equal" if len(set(design.terms)) > 2 else "nothing else held equal"
