"""Effects on many outcomes as tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import effects
from cohort.stats.design import LARGEST, Design
from cohort.stats.regions.solution import solve
from cohort.stats.regression import EXACT
from cohort.stats.wording import reading


def tables(
    design: Design, outcomes: pd.DataFrame, units: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate the effects of outcomes that share a design.

    Parameters
    ----------
    design : Design
        Its own outcome plays no part.
    outcomes : DataFrame, n rows, a column an outcome
        Without NaN, in the order of the rows of the design.
    units : mapping, optional
        Column -> unit.

    Returns
    -------
    tidy, glance : DataFrame
        As `Outcomes`, without the pattern.
    """
    from scipy import stats

    names, Y = [str(name) for name in outcomes.columns.tolist()], outcomes.to_numpy(np.float64)
    n, p = design.X.shape
    reasons = np.full(len(names), "", object)
    low, high = Y.min(axis=0), Y.max(axis=0)
    size = np.maximum(high, -low)
    outside = (size > LARGEST) | (size < 1 / LARGEST) & (size > 0)
    reasons[outside] = [f"it reaches {s:.3g}: state it in another unit" for s in size[outside]]
    solved = solve(design.X.to_numpy(), np.where(outside, 0.0, Y) if outside.any() else Y)
    exact = (solved.ssr <= EXACT * solved.tss) & ~outside
    reasons[exact] = f"an exact combination of the terms {design.formula}"
    constant = (low == high) & ~outside
    reasons[constant] = f"the same in all {n} rows that are used"
    reasons[np.isin(names, design.formula.columns)] = f"also among the terms {design.formula}"
    good = reasons == ""
    df = solved.df_resid
    estimate, se, hc3_se = (
        np.where(good, part, np.nan).T for part in (solved.estimate, solved.se, solved.hc3_se)
    )
    ssr, tss = np.where(good, solved.ssr, np.nan), np.where(good, solved.tss, np.nan)
    sigma, r2 = np.sqrt(ssr / df), 1 - ssr / tss
    half = stats.t.ppf((1 + effects.LEVEL) / 2, df)
    t, hc3_t = estimate / se, estimate / hc3_se
    terms = list(design.X.columns)
    r = t / np.sqrt(t**2 + df)
    r[:, 0] = np.nan  # the intercept correlates with nothing
    binary = np.array([term in design.binary for term in terms])
    numbers = {
        "se": se,
        "df": np.full((len(names), p), df),
        "statistic": t,
        "p": 2 * stats.t.sf(np.abs(t), df),
        "ci_low": estimate - half * se,
        "ci_high": estimate + half * se,
        "hc3_se": hc3_se,
        "hc3_statistic": hc3_t,
        "hc3_p": 2 * stats.t.sf(np.abs(hc3_t), df),
        "hc3_ci_low": estimate - half * hc3_se,
        "hc3_ci_high": estimate + half * hc3_se,
        "d_adj": np.where(binary, estimate / sigma[:, None], np.nan),
        "partial_r": r,
        "partial_eta2": r**2,
        "r2": np.repeat(r2[:, None], p, axis=1),
    }
    # Text is made once and taken: a list of it as long as the table would take longer than the fits.
    each = np.tile(np.arange(p), len(names))
    tidy = pd.DataFrame(
        {
            "outcome": pd.array(names, dtype="str").repeat(p),
            "term": pd.array(terms, dtype="str").take(each),
            "role": pd.array([design.roles[term] for term in terms], dtype="str").take(each),
            "estimate": estimate.ravel(),
            "unit": _units(design, names, dict(units or {})),
            **{name: values.ravel() for name, values in numbers.items()},
            "n": n,
        }
    )
    f = (tss - ssr) / (p - 1) / (ssr / df) if p > 1 else np.full(len(names), np.nan)
    glance = pd.DataFrame(
        {
            "outcome": names,
            "n": n,
            "df_model": float(p - 1),
            "df_resid": df,
            "r2": r2,
            "sigma": sigma,
            "f": f,
            "f_p": stats.f.sf(f, p - 1, df) if p > 1 else np.nan,
            "reason": reasons,
        }
    )
    return tidy, glance


def _units(design: Design, names: list[str], units: Mapping[str, str]) -> Any:
    """Units of the estimates of each outcome in turn."""
    others = dict(units)
    others.pop(stand_in := str(design.y.name), None)
    owns = [units.get(name) for name in names]
    kinds = list(dict.fromkeys(owns))
    texts: list[str] = []
    for own in kinds:
        known = others if own is None else others | {stand_in: own}
        texts += [reading.unit_of(term, design, known) for term in design.terms]
    p = len(design.terms)
    places = np.array([kinds.index(own) * p for own in owns])[:, None] + np.arange(p)
    return pd.array(texts, dtype="str").take(places.ravel())
