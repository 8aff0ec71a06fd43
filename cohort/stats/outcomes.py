"""One design, many outcomes: ordinary least squares for a thousand regions as fast as for a few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import diagnostics, effects
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.regression import EXACT
from cohort.stats.table import rows
from cohort.stats.wording import reading

WIDTH = 256
"""Outcomes that are worked on at a time, always as many, so that an outcome's bits do not depend on its neighbours."""

_STAND_IN = "(any outcome)"


@dataclass(frozen=True)
class Outcomes:
    """The fits of many outcomes.

    Attributes
    ----------
    tidy : DataFrame, one row an outcome and term
        outcome, term, role, estimate, unit, se, df, statistic, p, ci_low, ci_high, hc3_se, hc3_statistic, hc3_p,
        hc3_ci_low, hc3_ci_high, d_adj (0/1 terms), partial_r, partial_eta2, r2, n. Numbers are NaN where an outcome
        could not be fitted; it has no rows at all where its rows give no design.
    glance : DataFrame, one row an outcome
        outcome, n, df_model, df_resid, r2, sigma, f, f_p, pattern (outcomes of one number miss the same rows), and
        reason: why it could not be fitted, or empty.
    designs : dict
        Pattern -> Design: rows, design matrix, and an account of the rows that were dropped.
    values : dict
        Pattern -> outcomes on the rows of its design, a column each.
    warnings : tuple of str
    """

    tidy: pd.DataFrame
    glance: pd.DataFrame
    designs: dict[int, Design]
    values: dict[int, pd.DataFrame]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Solution:
    """Least squares of m outcomes on p columns.

    Attributes
    ----------
    estimate, se, hc3_se : (p, m) float64 arrays
        HC3 is NaN for a term that one row alone decides.
    ssr, tss : (m,) float64 arrays
        Sums of squares: of the residuals, and about the mean.
    df_resid : float
    """

    estimate: np.ndarray
    se: np.ndarray
    hc3_se: np.ndarray
    ssr: np.ndarray
    tss: np.ndarray
    df_resid: float


def solve(X: np.ndarray, Y: np.ndarray) -> Solution:
    """Fit every column of `Y` on `X`, with classical and HC3 errors, by one QR decomposition.

    Parameters
    ----------
    X : (n, p) float64 array
        Of full rank, the first column 1 (the intercept), n > p.
    Y : (n, m) float64 array
        Without NaN.

    Returns
    -------
    Solution

    Notes
    -----
    Equals statsmodels' ``OLS`` and ``HC3_se``.

    Examples
    --------
    >>> X = np.column_stack([np.ones(4), [0.0, 0, 1, 1]])
    >>> solve(X, np.array([[1.0, 2], [3, 2], [5, 4], [7, 8]])).estimate.round(6).tolist()
    [[2.0, 2.0], [4.0, 4.0]]
    """
    (n, p), m = X.shape, Y.shape[1]
    _, exponents = np.frexp(np.abs(X).max(axis=0))
    scale = np.ldexp(1.0, exponents)  # powers of two: no bit of a column changes
    Q, R = np.linalg.qr(X / scale)
    Q = np.ascontiguousarray(Q)
    weight = np.ascontiguousarray(np.linalg.solve(R, Q.T) / scale[:, None])  # of rows in estimates
    leverage = (Q**2).sum(axis=1)
    full = leverage >= diagnostics.LEVERAGE_FULL
    robust = (weight / np.where(full, np.inf, 1 - leverage)) ** 2
    lengths = np.sqrt((weight**2).sum(axis=1))
    decided = (np.abs(weight[:, full]) > 1e-6 * lengths[:, None]).any(axis=1)
    estimate, hc3 = np.empty((p, m)), np.empty((p, m))
    ssr, tss = np.empty(m), np.empty(m)
    # Sums of one shape are added in one order, which BLAS does not promise for several threads.
    residual = np.empty((n, WIDTH))
    for start in range(0, m, WIDTH):
        block = slice(start, min(start + WIDTH, m))
        used = slice(block.stop - start)
        residual[:, used] = Y[:, block]
        residual[:, used.stop :] = 0.0
        mean = np.einsum("nm->m", residual) / n
        residual -= mean  # an offset of the outcome costs no digits
        tss[block] = np.einsum("nm,nm->m", residual, residual)[used]
        estimate[:, block] = np.einsum("pn,nm->pm", weight, residual)[:, used]
        estimate[0, block] += mean[used]
        for q, z in zip(Q.T, np.einsum("np,nm->pm", Q, residual), strict=True):
            residual -= q[:, None] * z
        np.square(residual, out=residual)
        ssr[block] = np.einsum("nm->m", residual)[used]
        hc3[:, block] = np.einsum("pn,nm->pm", robust, residual)[:, used]
    hc3[decided] = np.nan
    se = lengths[:, None] * np.sqrt(ssr / (n - p))
    return Solution(estimate, se, np.sqrt(hc3), ssr, tss, float(n - p))


def fit(
    table: pd.DataFrame,
    *,
    outcomes: Sequence[str],
    formula: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Outcomes:
    """Regress many outcomes on the same terms, each on the rows that it has.

    Outcomes that miss the same rows share one design and one QR decomposition. An outcome that cannot be fitted, say
    a constant one, does not stop the others: it has NaN and a reason.

    Parameters
    ----------
    outcomes : sequence of str
        Columns to be explained, each by itself.
    formula : str
        Terms, without a left side.
    table, confounds, where, one_scan_per, units, row_id, subject, order
        See `cohort.stats.regression.fit`.

    Returns
    -------
    Outcomes
        Outcomes in the order they were given.

    Raises
    ------
    DesignError
        If a column is unknown or stands twice, an outcome holds text, or no rows give a design.

    Notes
    -----
    Equals a loop of `cohort.stats.regression.fit`, and statsmodels' ``OLS`` with ``HC3``.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1.0, 2, 2, 4, 5, 5], "b": [3.0, 1, None, 2, 5, 9], "dx": [0, 0, 0, 1, 1, 1]})
    >>> found = fit(table, outcomes=["a", "b"], formula="dx", one_scan_per="all")
    >>> found.tidy.loc[found.tidy["term"] == "dx", ["outcome", "estimate", "n"]].round(3).values.tolist()
    [['a', 3.0, 6], ['b', 3.333, 5]]
    """
    names = [str(name) for name in outcomes]
    table = table.set_axis([str(c) for c in table.columns], axis=1)
    if not table.index.is_unique:
        table = table.reset_index(drop=True)
    values = _values(table, names)
    asked: dict[str, Any] = {
        "formula": formula,
        "confounds": confounds,
        "where": where,
        "one_scan_per": one_scan_per,
        "row_id": row_id,
        "subject": subject,
        "order": order,
    }
    # Other outcomes are no columns of a model, unless it names them.
    named = " ".join([formula, *confounds, where or "", row_id, subject, *order])
    idle = {name for name in names if name not in named}
    rest = table.loc[:, [c not in idle for c in table.columns]]
    absent = np.isnan(values)
    packed = np.packbits(absent, axis=0).T
    patterns: dict[bytes, list[int]] = {}
    for j in range(len(names)):
        patterns.setdefault(packed[j].tobytes(), []).append(j)
    designs: dict[int, Design] = {}
    held: dict[int, pd.DataFrame] = {}
    tidy: list[tuple[list[int], pd.DataFrame]] = []
    wholes: list[tuple[list[int], pd.DataFrame]] = []
    refusals: list[DesignError] = []
    for pattern, members in enumerate(patterns.values()):
        called = [names[j] for j in members]
        try:
            design, Y = _design(rest, called, values[:, members], asked)
        except DesignError as error:
            refusals.append(error)
            whole = pd.DataFrame({"outcome": called, "reason": str(error)})
        else:
            designs[pattern] = design
            held[pattern] = pd.DataFrame(Y, design.X.index, called)
            effect, whole = tables(design, held[pattern], units)
            tidy.append((members, effect))
        wholes.append((members, whole.assign(pattern=pattern)))
    if not designs:
        raise refusals[0]
    glance = _ordered(wholes)
    failed = glance.loc[glance["reason"] != "", ["outcome", "reason"]]
    told = [
        f"{len(failed)} of {len(names)} outcomes are not fitted, the first is {name!r}: {reason}"
        for name, reason in failed.head(1).itertuples(index=False)
    ]
    return Outcomes(
        _ordered(tidy), glance, designs, held, (*next(iter(designs.values())).warnings, *told)
    )


def _values(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Outcomes as numbers; shape (rows of the table, outcomes)."""
    if not names:
        raise DesignError("no outcomes are given")
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise DesignError(f"the outcome {doubled!r} is given twice")
    known = set(table.columns)
    if len(known) < table.shape[1] or not set(names) <= known:
        for name in names:
            cells.take(table, name, "outcome")
    chosen = table.loc[:, names]
    if {dtype.kind for dtype in set(chosen.dtypes)} <= set("iufb"):
        values = chosen.to_numpy(np.float64, na_value=np.nan)
        if not np.isinf(values).any():
            return values
    return np.column_stack([cells.numbers(chosen.iloc[:, j]) for j in range(len(names))])


def _design(
    table: pd.DataFrame,
    names: list[str],
    values: np.ndarray,
    asked: Mapping[str, Any],
) -> tuple[Design, np.ndarray]:
    """Design of outcomes that miss the same rows, and these outcomes on its rows, (n, outcomes)."""
    name = names[0]
    try:
        design = prepare(table.assign(**{name: values[:, 0]}), outcome=name, **asked)
    except DesignError as refusal:
        # Is it that outcome, or the rows of all of them? One that varies takes its place.
        varying = np.where(np.isnan(values[:, 0]), np.nan, np.arange(float(len(table))))
        try:
            design = prepare(table.assign(**{_STAND_IN: varying}), outcome=_STAND_IN, **asked)
        except DesignError:
            raise refusal from None
    if not design.dropped:
        return replace(design, y=pd.Series(values[:, 0], design.X.index, name=name)), values
    ids = rows.row_ids(table, asked["row_id"])
    if asked["one_scan_per"] == "mean":
        known = table.assign(**{name: values[:, 0]})
        account = rows.Account(known.set_axis(ids))
        account.keep_usable(asked["row_id"], asked["where"], (name, *design.formula.columns))
        repeats = account.keep_one_per_subject("mean", asked["subject"], asked["order"])
        values = rows.averaged(pd.DataFrame(values, columns=names), repeats, names, ()).to_numpy()
    Y = values[ids.get_indexer(design.X.index)]
    missing = (f"missing {names[0]}", f"missing {_STAND_IN}")
    dropped = tuple(
        entry | {"reason": "missing outcome"} if entry["reason"] in missing else entry
        for entry in design.dropped
    )
    y = pd.Series(Y[:, 0], design.X.index, name=names[0])
    return replace(design, y=y, dropped=dropped), Y


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

    names, Y = [str(name) for name in outcomes.columns], outcomes.to_numpy(np.float64)
    n, p = design.X.shape
    reasons = np.full(len(names), "", object)
    solved = solve(design.X.to_numpy(), Y)
    exact = solved.ssr <= EXACT * solved.tss
    reasons[exact] = f"an exact combination of the terms {design.formula}"
    constant = np.ptp(Y, axis=0) == 0
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


def _ordered(frames: Sequence[tuple[list[int], pd.DataFrame]]) -> pd.DataFrame:
    """Tables of several patterns as one, in the order of the outcomes."""
    if len(frames) == 1:
        return frames[0][1]
    together = pd.concat([frame for _, frame in frames], ignore_index=True)
    places = [np.repeat(members, len(frame) // len(members)) for members, frame in frames]
    return together.iloc[np.argsort(np.concatenate(places), kind="stable")].reset_index(drop=True)
