"""Ordinary least squares with classical and HC3 errors side by side, and everything a reader asks of a fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import diagnostics, effects
from cohort.stats.clustering.headline import headline
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.table import records
from cohort.stats.wording import reading

if TYPE_CHECKING:
    from cohort.stats.robust import Clustered

__all__ = ["DesignError", "Fit", "added_variable", "fit"]

EXACT = 1e-14
"""Share of the outcome's variance below which residuals are rounding."""


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes
    ----------
    design : Design
        Rows, design matrix and outcome that were fitted.
    tidy : DataFrame, one row a column of the design
        outcome, term, role, estimate, unit, se, df, statistic, p, ci_low, ci_high, hc3_se, hc3_statistic, hc3_p,
        hc3_ci_low, hc3_ci_high, d_adj, d_adj_low, d_adj_high (0/1 terms), partial_r, partial_r_low, partial_r_high,
        partial_eta2, n.
    glance : DataFrame, one row
        The fit as a whole.
    augment : DataFrame, one row a row that was fitted
        Row id, participant, subject and session where the table has them, observed, fitted, residual, leverage,
        cook, rstudent.
    covariance, hc3_covariance : DataFrame, shape (p, p)
        Of the estimates, classical and HC3.
    vif : dict
        Variance inflation factor of each column but the intercept.
    warnings, reading : tuple of str
        What to know before the numbers; the effects in sentences.
    model : dict
        The model as it was asked for.
    clusters : Clustered or None
        Errors robust to rows that go together (`cohort.stats.robust.clustered`). Where they are, they are the headline:
        of the sentences, of means, bounds, and what can be detected; tables that hold a p have them side by side.
    """

    design: Design
    tidy: pd.DataFrame
    glance: pd.DataFrame
    augment: pd.DataFrame
    covariance: pd.DataFrame
    hc3_covariance: pd.DataFrame
    vif: dict[str, float]
    warnings: tuple[str, ...]
    reading: tuple[str, ...]
    model: dict[str, Any]
    clusters: "Clustered | None" = None

    @property
    def rows(self) -> dict[str, Any]:
        """Account of the rows: how many there were, were used, and were dropped for which reason."""
        return self.design.account

    def to_json(self) -> dict[str, Any]:
        """Resolve the model into plain values that JSON can hold (NaN as None)."""
        design = self.design
        versions = {
            name: metadata.version(name)
            for name in ("statsmodels", "patsy", "scipy", "numpy", "pandas")
        }
        method = "ordinary least squares; classical and HC3 standard errors, t distribution"
        if self.clusters is not None:
            how = (
                f"standard errors that allow for rows that go together ({self.clusters.described})"
            )
            method = (
                f"ordinary least squares; {how}, classical and HC3 ones beside them, t distribution"
            )
        return {
            "method": method,
            **self.model,
            "clusters": None if self.clusters is None else self.clusters.facts,
            "fitted": f"{design.y.name} ~ {design.formula}",
            "columns": [
                {"name": name, "role": design.roles[name], "unit": unit}
                for name, unit in zip(self.tidy["term"], self.tidy["unit"], strict=True)
            ],
            "coding": design.coding,
            "rows": self.rows,
            "glance": records.plain(self.glance)[0],
            "vif": records.plain(pd.DataFrame([self.vif]))[0],
            "warnings": list(self.warnings),
            "reading": list(self.reading),
            "versions": versions,
        }

    def summary(self) -> str:
        """Lay the fit out for a terminal."""
        told = [f"warning: {text}" for text in self.warnings]
        return "\n".join([*self.layout(), *told, "", *self.reading])

    def layout(self) -> list[str]:
        """Lay the formula, the rows, the effects and the whole out, a line each."""
        design, whole = self.design, self.glance.iloc[0]
        tidy, clusters = headline(self.tidy), self.clusters
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
                **({} if clusters is None else {"df": tidy["df"].map("{:.1f}".format)}),
                "p": tidy["p"].map(reading.bare_p),
                **({} if clusters is None else {"p if alone": self.tidy["p"].map(reading.bare_p)}),
                "HC3 p": tidy["hc3_p"].map(reading.bare_p),
                "d": tidy["d_adj"].map(lambda d: "" if math.isnan(d) else f"{d:.2f}"),
                "partial r": tidy["partial_r"].map(lambda r: "" if math.isnan(r) else f"{r:.3f}"),
            }
        )
        dropped = "; ".join(f"{n} {reason}" for reason, n in design.reasons.items())
        joint = f"F({whole['df_model']:.0f}, {whole['df_resid']:.0f}) {whole['f']:.4g}"
        return [
            f"{design.y.name} ~ {design.formula}",
            f"{len(design.y)} of {design.n_table} rows{f' (left out: {dropped})' if dropped else ''}",
            "",
            *([] if clusters is None else [_allowing(clusters)]),
            shown.to_string(index=False),
            "",
            f"R2 {whole['r2']:.4f}   residual sd {reading.number(whole['sigma'])}   {joint}",
        ]


def fit(
    table: pd.DataFrame,
    *,
    outcome: str | None = None,
    formula: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Fit:
    """Regress an outcome on the terms of a formula and on its confounds.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant); numbers, or text that holds numbers.
    units : mapping, optional
        Column -> unit, to write the units of the estimates.
    outcome, formula, confounds, where, one_scan_per, row_id, subject, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    Fit

    Raises
    ------
    DesignError
        In one line, if the model cannot be fitted as it is.

    Notes
    -----
    Equals statsmodels' ``OLS`` and its HC3; leverage, Cook's distance and externally studentised residuals equal
    ``OLSInfluence``. Background: reference/statistics.md 1 and 3.

    Examples
    --------
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 5], "dx": [0, 0, 0, 1, 1, 1]})
    >>> result = fit(table, formula="y ~ dx", one_scan_per="all")
    >>> result.tidy.set_index("term")["estimate"].round(6).to_dict()
    {'Intercept': 1.666667, 'dx': 3.0}
    """
    units = dict(units or {})
    design = prepare(
        table,
        outcome=outcome,
        formula=formula,
        confounds=confounds,
        where=where,
        one_scan_per=one_scan_per,
        row_id=row_id,
        subject=subject,
        order=order,
    )
    results, scale = _least_squares(design)
    scales = np.outer(scale, scale)
    hc3_covariance = diagnostics.hc3(results) / scales
    tidy = _tidy(design, results, scale, hc3_covariance, units)
    vif, condition = diagnostics.collinearity(design.X)
    augment = diagnostics.influence(design, results)
    glance = _glance(design, results, condition, augment)
    model = {
        "outcome": str(design.y.name),
        "formula": formula,
        "confounds": list(confounds),
        "where": where,
        "one_scan_per": one_scan_per,
        "units": {c: units[c] for c in (str(design.y.name), *design.formula.columns) if c in units},
    }
    names = design.X.columns
    return Fit(
        design=design,
        tidy=tidy,
        glance=glance,
        augment=augment,
        covariance=pd.DataFrame(results.cov_params() / scales, names, names),
        hc3_covariance=pd.DataFrame(hc3_covariance, names, names),
        vif=vif,
        warnings=(*design.warnings, *diagnostics.warnings(tidy, augment, vif)),
        reading=tuple(reading.sentences(design, tidy, units)),
        model=model,
    )


def added_variable(fit: Fit, term: str) -> pd.DataFrame:
    """Outcome and one term, each without what the other terms explain.

    Parameters
    ----------
    term : str
        A column of the design, as in ``fit.tidy["term"]``.

    Returns
    -------
    DataFrame, n rows, columns ``x_resid`` and ``y_resid``; index: row ids
        The line through the origin has the slope of the fit (Frisch-Waugh-Lovell).

    Raises
    ------
    DesignError
        If there is no such term.
    """
    X, y = fit.design.X, fit.design.y.to_numpy()
    if term not in X.columns:
        raise DesignError(cells.unknown_column(term, list(X.columns), "added-variable plot"))
    both = np.column_stack([X[term].to_numpy(), y])
    others = X.drop(columns=term).to_numpy()
    if others.shape[1]:
        scale = np.sqrt((others**2).sum(axis=0))
        both = both - others @ (
            np.linalg.lstsq(others / scale, both, rcond=None)[0] / scale[:, None]
        )
    return pd.DataFrame(both, index=X.index, columns=["x_resid", "y_resid"])


def _least_squares(design: Design) -> tuple[Any, np.ndarray]:
    """Fit by statsmodels on columns brought to one magnitude; returns its results and those magnitudes.

    The magnitudes are powers of two, so that no bit of a column changes: estimates and errors divided by them are
    those of the design as it was written, whatever its units.
    """
    from statsmodels.regression.linear_model import OLS

    values = design.X.to_numpy()
    _, exponents = np.frexp(np.abs(values).max(axis=0))
    scale = np.ldexp(1.0, exponents)
    results = OLS(design.y.to_numpy(), values / scale).fit()
    if results.ssr <= EXACT * results.centered_tss:
        raise DesignError(
            f"the outcome {design.y.name!r} is an exact combination of the terms {design.formula}"
        )
    return results, scale


def _tidy(
    design: Design,
    results: Any,
    scale: np.ndarray,
    hc3_covariance: np.ndarray,
    units: Mapping[str, str],
) -> pd.DataFrame:
    from scipy import stats

    names = list(design.X.columns)
    df, sigma = float(results.df_resid), math.sqrt(results.scale)
    interval = results.conf_int(1 - effects.LEVEL) / scale[:, None]
    estimate = results.params / scale
    hc3_se = np.sqrt(np.diag(hc3_covariance))
    hc3_half = stats.t.ppf((1 + effects.LEVEL) / 2, df) * hc3_se
    none = (math.nan, math.nan, math.nan)
    d = [
        effects.adjusted_d(t, se, sigma, df) if name in design.binary else none
        for name, t, se in zip(names, results.tvalues, results.bse / scale, strict=True)
    ]
    r = [none, *(effects.partial_correlation(t, df) for t in results.tvalues[1:])]
    terms = zip(names, design.terms, strict=True)
    return pd.DataFrame(
        {
            "outcome": str(design.y.name),
            "term": names,
            "role": [design.roles[name] for name in names],
            "estimate": estimate,
            "unit": [reading.unit_of(term, design, units) for _, term in terms],
            "se": results.bse / scale,
            "df": df,
            "statistic": results.tvalues,
            "p": results.pvalues,
            "ci_low": interval[:, 0],
            "ci_high": interval[:, 1],
            "hc3_se": hc3_se,
            "hc3_statistic": estimate / hc3_se,
            "hc3_p": 2 * stats.t.sf(np.abs(estimate / hc3_se), df),
            "hc3_ci_low": estimate - hc3_half,
            "hc3_ci_high": estimate + hc3_half,
            **dict(zip(("d_adj", "d_adj_low", "d_adj_high"), np.transpose(d), strict=True)),
            **dict(
                zip(("partial_r", "partial_r_low", "partial_r_high"), np.transpose(r), strict=True)
            ),
            "partial_eta2": np.square([value for value, _, _ in r]),
            "n": len(design.y),
        }
    )


def _allowing(clusters: "Clustered") -> str:
    """Line above the effects."""
    return (
        f"errors that allow for rows that go together ({clusters.described}); 'p if alone' and HC3 take each row for "
        "independent:"
    )


def _glance(design: Design, results: Any, condition: float, augment: pd.DataFrame) -> pd.DataFrame:
    n, p = design.X.shape
    lm, lm_p = diagnostics.breusch_pagan(results)
    return pd.DataFrame(
        [
            {
                "outcome": str(design.y.name),
                "n": n,
                "df_model": float(results.df_model),
                "df_resid": float(results.df_resid),
                "r2": results.rsquared,
                "r2_adj": results.rsquared_adj,
                "sigma": math.sqrt(results.scale),
                "f": results.fvalue if p > 1 else math.nan,
                "f_p": results.f_pvalue if p > 1 else math.nan,
                "aic": results.aic,
                "bic": results.bic,
                "log_likelihood": results.llf,
                "condition": condition,
                "bp_lm": lm,
                "bp_p": lm_p,
                "max_cook": augment["cook"].max(),
                "max_leverage": augment["leverage"].max(),
                "n_table": design.n_table,
                "n_dropped": len(design.dropped),
                "n_subjects": design.n_subjects,
                "n_repeated": design.n_repeated,
            }
        ]
    )
