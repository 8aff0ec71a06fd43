"""Repeated scans of the same people: a fit in which the rows of a subject are allowed to be alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.effects import LEVEL
from cohort.stats.subjects.intercepts import METHODS, Intercepts, fit_many
from cohort.stats.subjects.mixedfit import MixedFit, sentences, warnings
from cohort.stats.subjects.slopes import Slopes, fit_slopes
from cohort.stats.table.rows import row_ids
from cohort.stats.wording import reading

__all__ = ["DesignError", "Intercepts", "MixedFit", "fit_many", "fit_mixed"]


def fit_mixed(
    table: pd.DataFrame,
    *,
    outcome: str | None = None,
    formula: str,
    subject: str = "subject",
    confounds: Sequence[str] = (),
    where: str | None = None,
    slope: str | None = None,
    method: str = "reml",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    order: Sequence[str] = ("session",),
) -> MixedFit:
    """Regress an outcome on the terms of a formula, with all scans of each subject and an intercept of each.

    Parameters
    ----------
    table : DataFrame
        One row a scan; numbers, or text that holds numbers.
    subject : str
        Column that names people. Rows without one are left out and counted.
    slope : str, optional
        Column of the design (usually time) along which subjects may also differ in their change.
    method : {"reml", "ml"}
        REML for estimates; ML where fits with different terms are compared by likelihood.
    units : mapping, optional
        Column -> unit, to write the units of the estimates.
    outcome, formula, confounds, where, row_id, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    MixedFit

    Raises
    ------
    DesignError
        In one line: what `prepare` refuses, no subject with several rows, a group that one subject makes up, an
        outcome that does not vary within subjects, a slope that is no column of the design.

    Notes
    -----
    Random intercept: `cohort.stats.subjects.intercepts.fit_many`, exact. Random slope: `cohort.stats.subjects.slopes.fit_slopes`. The
    two are compared by a likelihood-ratio test on the mixture 0.5 chi2(1) + 0.5 chi2(2), because a variance of zero
    lies on the border of what is possible (Stram and Lee 1994, doi:10.2307/2533455).

    Examples
    --------
    >>> table = pd.DataFrame({"subject": list("aabbccdd"), "t": [0.0, 1] * 4, "y": [1.0, 2, 5, 6, 3, 5, 4, 4]})
    >>> fit = fit_mixed(table, formula="y ~ t")
    >>> fit.tidy.set_index("term")[["estimate", "df"]].round(4).to_numpy().tolist()
    [[3.25, 3.3623], [1.0, 3.0]]
    """
    if method not in METHODS:
        raise DesignError(f"method is {method!r}; it takes {', '.join(METHODS)}")
    units = dict(units or {})
    design = _prepare(table, outcome, formula, confounds, where, row_id, subject, order)
    people, codes = _people(design, subject)
    _check_groups(design, people, codes)
    X, y = design.X.to_numpy(), design.y.to_numpy()
    # Rows in an order of their own, so that the order of the table changes no bit of an estimate.
    canonical = np.lexsort([design.X.index.to_numpy(str), codes])
    many = fit_many(X[canonical], y[canonical], codes[canonical], method=method)
    if many.problem[0]:
        raise DesignError(f"{design.y.name!r} ~ {design.formula}: {many.problem[0]}")
    slopes = None
    if slope is not None:
        along = _along(design, slope, codes)
        slopes = fit_slopes(
            X[canonical], y[canonical], codes[canonical], along[canonical], reml=method == "reml"
        )
    names = design.X.columns
    tidy = _tidy(design, many, slopes, units)
    glance = _glance(design, many, slopes, method)
    own = _own_effects(many, slopes, X, y, codes)
    fitted = X @ tidy["estimate"].to_numpy()
    with_own = fitted + own[codes, 0]
    subjects = pd.DataFrame({"subject": people, "n": np.bincount(codes), "intercept": own[:, 0]})
    if slopes is not None:
        with_own += own[codes, 1] * along
        subjects["slope"] = own[:, 1]
    se = many.se[:, 0]
    return MixedFit(
        design=design,
        tidy=tidy,
        glance=glance,
        augment=design.rows.assign(
            observed=y, fitted=fitted, fitted_subject=with_own, residual=y - with_own
        ),
        subjects=subjects,
        compared=None
        if slopes is None
        else pd.DataFrame(
            {"term": names, "se_intercept": se, "se_slope": tidy["se"], "ratio": tidy["se"] / se}
        ),
        covariance=pd.DataFrame(
            many.covariance[0] if slopes is None else slopes.covariance, names, names
        ),
        warnings=(*design.warnings, *warnings(glance.iloc[0], len(people), slopes)),
        reading=tuple(sentences(design, tidy, glance.iloc[0], slope, units)),
        model={
            "outcome": str(design.y.name),
            "formula": formula,
            "confounds": list(confounds),
            "where": where,
            "subject": subject,
            "slope": slope,
            "method": method,
            "units": {
                c: units[c] for c in (str(design.y.name), *design.formula.columns) if c in units
            },
        },
    )


def _prepare(
    table: pd.DataFrame,
    outcome: str | None,
    formula: str,
    confounds: Sequence[str],
    where: str | None,
    row_id: str,
    subject: str,
    order: Sequence[str],
) -> Design:
    """Design of all scans of people who have a name, without the warning that the rows are not independent."""
    names = [str(c) for c in table.columns]
    table = table.set_axis(names, axis=1)
    nameless = cells.missing(cells.take(table, subject, "random intercept per subject"))
    ids = row_ids(table, row_id)
    if row_id not in names:
        table = table.assign(**{row_id: ids})
    design = prepare(
        table[~nameless],
        outcome=outcome,
        formula=formula,
        confounds=confounds,
        where=where,
        one_scan_per="all",
        row_id=row_id,
        subject=subject,
        order=order,
    )
    lost = tuple({"row_id": str(i), "reason": f"missing {subject}"} for i in ids[nameless])
    return replace(
        design,
        n_table=len(table),
        dropped=(*lost, *design.dropped),
        # `prepare` says first that repeated rows are not independent; here the model accounts for that.
        warnings=design.warnings[1 if design.n_repeated else 0 :],
    )


def _people(design: Design, subject: str) -> tuple[list[str], np.ndarray]:
    """Subjects in natural order, and the place of each row's."""
    who = cells.categories(design.rows[subject])
    return list(who.categories), np.asarray(who.codes, np.intp)


def _check_groups(design: Design, people: Sequence[str], codes: np.ndarray) -> None:
    """Refuse a group that one subject alone makes up: however many scans, it tells nothing of a group."""
    for name in sorted(design.binary):
        values = design.X[name].to_numpy()
        for state in (0, 1):
            inside = np.unique(codes[values == state])
            if len(inside) == 1 and len(people) > 1:
                raise DesignError(
                    f"{name} = {state} holds for one subject only ({people[inside[0]]}, {int((values == state).sum())}"
                    f" rows): a group of one tells nothing"
                )


def _along(design: Design, slope: str, codes: np.ndarray) -> np.ndarray:
    names = [str(c) for c in design.X.columns[1:]]
    if slope not in names:
        raise DesignError(cells.unknown_column(slope, names, "random slope"))
    along = design.X[slope].to_numpy()
    means = np.bincount(codes, along) / np.bincount(codes)
    if np.abs(along - means[codes]).max() <= 1e-9 * np.abs(along).max():
        raise DesignError(f"random slope: {slope!r} does not vary within any subject")
    return along


def _own_effects(
    many: Intercepts, slopes: Slopes | None, X: np.ndarray, y: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Predicted effects of each subject: its intercept, and its slope if there is one; (subjects, 1 or 2)."""
    if slopes is not None:
        return slopes.effects
    ratio = float(many.ratio[0])
    rest = np.bincount(codes, y - X @ many.estimate[:, 0])
    return (rest * ratio / (1 + ratio * np.bincount(codes)))[:, None]


def _tidy(
    design: Design, many: Intercepts, slopes: Slopes | None, units: Mapping[str, str]
) -> pd.DataFrame:
    from scipy import special

    kept = ("estimate", "se", "df", "statistic", "p", "ci_low", "ci_high")
    numbers = {name: getattr(many, name)[:, 0] for name in kept}
    z_p, z_low, z_high = many.z_p[:, 0], many.z_ci_low[:, 0], many.z_ci_high[:, 0]
    if slopes is not None:
        estimate, se = slopes.estimate, np.sqrt(np.diag(slopes.covariance))
        half = special.ndtri((1 + LEVEL) / 2) * se
        z_p, z_low, z_high = (
            2 * special.ndtr(-np.abs(estimate / se)),
            estimate - half,
            estimate + half,
        )
        unknown = np.full(len(se), np.nan)
        found = (estimate, se, unknown, estimate / se, z_p, z_low, z_high)
        numbers = dict(zip(kept, found, strict=True))
    names = list(design.X.columns)
    return pd.DataFrame(
        {
            "outcome": str(design.y.name),
            "term": names,
            "role": [design.roles[name] for name in names],
            "estimate": numbers.pop("estimate"),
            "unit": [reading.unit_of(term, design, units) for term in design.terms],
            **numbers,
            "z_p": z_p,
            "z_ci_low": z_low,
            "z_ci_high": z_high,
            "n": len(design.y),
            "n_subjects": int(many.n_subjects[0]),
        }
    )


def _glance(design: Design, many: Intercepts, slopes: Slopes | None, method: str) -> pd.DataFrame:
    from scipy import special

    plain = float(many.log_likelihood[0])
    between, within = float(many.var_subject[0]), float(many.var_resid[0])
    of_slopes = dict.fromkeys(("var_slope", "cov_slope", "lrt", "lrt_p"), math.nan)
    if slopes is not None:
        between, within = float(slopes.random[0, 0]), slopes.var_resid
        lrt = max(0.0, 2 * (slopes.log_likelihood - plain))
        of_slopes = {
            "var_slope": float(slopes.random[1, 1]),
            "cov_slope": float(slopes.random[0, 1]),
            "lrt": lrt,
            "lrt_p": float(0.5 * special.chdtrc(1, lrt) + 0.5 * special.chdtrc(2, lrt)),
        }
    return pd.DataFrame(
        [
            {
                "outcome": str(design.y.name),
                "method": method,
                "n": len(design.y),
                "n_subjects": int(many.n_subjects[0]),
                "var_subject": between,
                "var_resid": within,
                "ratio": between / within,
                "icc": between / (between + within),
                "boundary": bool(many.boundary[0]),
                "log_likelihood": plain if slopes is None else slopes.log_likelihood,
                **of_slopes,
            }
        ]
    )
