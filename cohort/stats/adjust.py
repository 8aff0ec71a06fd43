"""Head size taken into account in six ways, side by side on the same rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import regression
from cohort.stats.columns import DesignError
from cohort.stats.design import Design
from cohort.stats.effects import LEVEL
from cohort.stats.regression import Fit
from cohort.stats.table import records
from cohort.stats.table.correlation import correlation
from cohort.stats.terms.groups import group_columns, level_of, reference_level
from cohort.stats.wording import adjust_reading

STRATEGIES = ("covariate", "raw", "ratio", "residual_all", "residual_controls", "power")
"""The default first; `raw` leaves head size out."""

_SHOWN = (
    *("estimate", "se", "df", "statistic", "p", "ci_low", "ci_high"),
    *("hc3_se", "hc3_statistic", "hc3_p", "hc3_ci_low", "hc3_ci_high"),
    *("d_adj", "d_adj_low", "d_adj_high", "partial_r", "partial_r_low", "partial_r_high"),
)


@dataclass(frozen=True)
class Adjustments:
    """One group effect under every strategy of `STRATEGIES`.

    Attributes
    ----------
    outcome, head, group, reference : str
        Columns of the table, and the level of the group that stands for the controls.
    table : DataFrame, one row a strategy and column of the group term
        strategy, outcome, term, level, estimate, unit, se, df, statistic, p, ci_low, ci_high, the same for HC3, d_adj and
        partial_r with intervals, n; ``coefficient_of`` ("slope", "alpha" or ""), coefficient with interval;
        ``r_head``, ``p_head`` (correlation of the adjusted value with head size, all rows), ``r_head_controls``,
        ``p_head_controls``; ``note``: why a strategy has no numbers (they are NaN then), else "".
    head_by_group : DataFrame, one row a test and column of the group term
        Regression of the head size on the group alone (``held`` is "") and with the other terms of the model held
        equal: held, term, level, estimate, unit, se, statistic, p, hc3_p, d_adj, partial_r.
    values : DataFrame, n rows; index: row ids
        ``control`` (bool), the head size under its own name, and the adjusted value of each strategy; those of the
        covariate and the residuals are in the outcome's unit, at the mean head size.
    sentences, warnings : tuple of str
        Why the strategies differ on these data; what to know before the numbers.
    fit : Fit
        Of the default strategy: the model with head size among its terms.
    """

    outcome: str
    head: str
    group: str
    reference: str
    table: pd.DataFrame
    head_by_group: pd.DataFrame
    values: pd.DataFrame
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    fit: Fit

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN as None)."""
        return {
            "outcome": self.outcome,
            "head": self.head,
            "group": self.group,
            "reference": self.reference,
            "table": records.plain(self.table),
            "head_by_group": records.plain(self.head_by_group),
            "sentences": list(self.sentences),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _Adjusted:
    """What one strategy makes of the outcome, or the note why it cannot."""

    values: np.ndarray | None
    unit: str = ""
    coefficient_of: str = ""
    coefficient: tuple[float, ...] = (math.nan, math.nan, math.nan)
    note: str = ""


def compare(
    table: pd.DataFrame,
    *,
    outcome: str | None = None,
    formula: str,
    head: str,
    group: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Adjustments:
    """Estimate a group effect on a volume under every way of accounting for head size.

    The rows and the other terms are the same for all: those of the model with head size among its terms.

    - ``covariate`` (the default): head size is a term of the model.
    - ``raw``: no head size.
    - ``ratio``: outcome / head size.
    - ``residual_all``, ``residual_controls``: outcome - slope * (head size - its mean), with the slope of a line
      through all rows, or through the controls.
    - ``power``: outcome / head size ** alpha, with alpha the slope of the logarithms in the controls.

    A strategy that needs what the data do not have keeps its row, with NaN and a ``note``: the ratio and the power
    need a positive head size in every row, the power a positive outcome in every control as well.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant).
    head : str
        Column of the head size. It is added to the model if that does not name it, and may stand there only as
        a term of its own.
    group : str
        Column of the group: 0/1, or a category under treatment coding. Its reference level are the controls.
    units : mapping, optional
        Column -> unit.
    outcome, formula, confounds, where, one_scan_per, row_id, subject, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    Adjustments

    Raises
    ------
    DesignError
        In one line: what `cohort.stats.regression.fit` raises; a head size that is text or part of another term;
        a group that is no term, is part of an interaction, or has no reference level.

    Notes
    -----
    Ratio, residual and power-corrected proportion as compared by Voevodskaya et al. 2014,
    doi:10.3389/fnagi.2014.00264, and Liu et al. 2014, doi:10.3389/fnins.2014.00356 (the power). A residual is
    tested with age, sex and the like beside it that were not removed from the head size: its t is not the
    covariate's (Frisch-Waugh-Lovell asks for both sides), which is one reason why the covariate is the default.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> people = pd.DataFrame({"dx": np.arange(80) % 2, "skull": rng.normal(1500, 100, 80)})
    >>> people["brain"] = 500 + 0.4 * people["skull"] - 30 * people["dx"] + rng.normal(0, 20, 80)
    >>> result = compare(people, formula="brain ~ dx", head="skull", group="dx", one_scan_per="all")
    >>> result.table["strategy"].tolist()
    ['covariate', 'raw', 'ratio', 'residual_all', 'residual_controls', 'power']
    >>> bool(result.table.set_index("strategy").loc["ratio", "r_head"] < -0.5)
    True
    """
    cells.numbers(cells.take(table, head, "head size"))
    units = dict(units or {})
    fit = regression.fit(
        table,
        outcome=outcome,
        formula=formula,
        confounds=[*confounds, head],
        where=where,
        one_scan_per=one_scan_per,
        units=units,
        row_id=row_id,
        subject=subject,
        order=order,
    )
    design = fit.design
    terms = group_columns(design, group)
    levels = [level_of(design, term, group) for term in terms]
    _check_head(design, head, group)
    controls = (design.X[terms] == 0).all(axis=1).to_numpy()
    others = design.X.drop(columns=head)
    parts: list[pd.DataFrame] = []
    by_row: dict[str, np.ndarray] = {}
    for strategy, made in _adjust(fit, head, controls, units).items():
        tidy, note = fit.tidy, made.note
        if strategy != "covariate" and made.values is not None:
            try:
                tidy = refit(others, made.values, name=strategy).tidy
            except DesignError as error:
                note = str(error)
        values = np.full(len(others), np.nan) if note or made.values is None else made.values
        effect = tidy.set_index("term").loc[terms, list(_SHOWN)].reset_index()
        effect[list(_SHOWN)] = effect[list(_SHOWN)] if not note else np.nan
        effect.insert(0, "strategy", strategy)
        effect.insert(1, "outcome", str(design.y.name))
        effect.insert(3, "level", levels)
        effect.insert(5, "unit", made.unit)
        effect["n"] = len(others)
        effect["coefficient_of"] = made.coefficient_of
        effect[["coefficient", "coefficient_low", "coefficient_high"]] = made.coefficient
        for end, rows in (("", slice(None)), ("_controls", controls)):
            left = correlation(values[rows], design.X[head].to_numpy()[rows])
            effect[[f"r_head{end}", f"p_head{end}"]] = left
        parts.append(effect.assign(note=note))
        by_row[strategy] = values
    compared = pd.concat(parts, ignore_index=True)
    by_group = _head_by_group(design, head, terms, levels, units.get(head, ""))
    sentences, warnings = adjust_reading.read(
        compared, by_group, head=head, group=group, units=units
    )
    return Adjustments(
        outcome=str(design.y.name),
        head=head,
        group=group,
        reference=reference_level(design, terms, group),
        table=compared,
        head_by_group=by_group,
        values=pd.DataFrame({"control": controls, head: design.X[head], **by_row}, design.X.index),
        sentences=tuple(sentences),
        warnings=tuple(warnings),
        fit=fit,
    )


def refit(X: pd.DataFrame, y: np.ndarray, *, name: str) -> Fit:
    """Regress other values on the columns of a design, row for row.

    Parameters
    ----------
    X : DataFrame, shape (n, p)
        ``Intercept`` first.
    y : (n,) float64 array
    name : str
        What the values are called in an error.
    """
    columns = list(X.columns[1:])
    while name in columns:
        name += "_"
    frame = X[columns].assign(**{name: y}).reset_index(drop=True)
    return regression.fit(
        frame,
        outcome=name,
        formula="1",
        confounds=columns,
        one_scan_per="all",
        row_id="",
        subject="",
    )


def _check_head(design: Design, head: str, group: str) -> None:
    if head == group:
        raise DesignError(f"{head!r} is the group and the head size")
    for term in design.formula.terms:
        if head in term.columns and term.name != head:
            raise DesignError(
                f"the head size {head!r} is part of the term {term.name}; to compare the strategies it must be a term "
                "of its own, which the others leave out"
            )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope of y on x with its interval; NaN where x is constant."""
    from scipy import stats

    centred = x - x.mean()
    spread = float(centred @ centred)
    if np.ptp(x) == 0:
        return math.nan, math.nan, math.nan
    slope = float(centred @ y) / spread
    df = len(x) - 2
    if df < 1:
        return slope, math.nan, math.nan
    rest = y - y.mean() - slope * centred
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * math.sqrt(float(rest @ rest) / df / spread)
    return slope, slope - half, slope + half


def _adjust(
    fit: Fit, head: str, controls: np.ndarray, units: Mapping[str, str]
) -> dict[str, _Adjusted]:
    y, h = fit.design.y.to_numpy(), fit.design.X[head].to_numpy()
    unit, head_unit = units.get(str(fit.design.y.name), ""), units.get(head, "")
    covariate = fit.tidy.set_index("term")[["estimate", "ci_low", "ci_high"]].loc[[head]].to_numpy()

    def shifted(line: tuple[float, ...]) -> _Adjusted:
        if math.isnan(line[0]):
            return _Adjusted(None, note=f"{head} is the same in all controls: no slope")
        return _Adjusted(y - line[0] * (h - h.mean()), unit, "slope", line)

    return {
        "covariate": shifted(tuple(covariate[0].tolist())),
        "raw": _Adjusted(y, unit),
        "ratio": _ratio(fit, head, _per(unit, head_unit)),
        "residual_all": shifted(_line(h, y)),
        "residual_controls": shifted(_line(h[controls], y[controls])),
        "power": _power(fit, head, controls, unit, head_unit),
    }


def _ratio(fit: Fit, head: str, unit: str) -> _Adjusted:
    h = fit.design.X[head]
    if note := _not_positive(h, "rows", "a share of it has no meaning"):
        return _Adjusted(None, note=note)
    return _Adjusted(fit.design.y.to_numpy() / h.to_numpy(), unit)


def _power(fit: Fit, head: str, controls: np.ndarray, unit: str, head_unit: str) -> _Adjusted:
    y, h = fit.design.y, fit.design.X[head]
    note = _not_positive(h, "rows", "it has no logarithm") or _not_positive(
        y[controls], "controls", "it has no logarithm"
    )
    if note:
        return _Adjusted(None, note=note)
    line = _line(np.log(h[controls].to_numpy()), np.log(y[controls].to_numpy()))
    if math.isnan(line[0]):
        return _Adjusted(None, note=f"{head} is the same in all controls: no exponent")
    shown = f"{unit} per {head_unit}^{line[0]:.3g}" if unit and head_unit else ""
    return _Adjusted(y.to_numpy() / h.to_numpy() ** line[0], shown, "alpha", line)


def _not_positive(column: pd.Series, among: str, why: str) -> str:
    bad = column.index[column <= 0]
    if not len(bad):
        return ""
    return f"{column.name} is not positive in {len(bad)} of {len(column)} {among} (first {bad[0]}): {why}"


def _per(unit: str, head_unit: str) -> str:
    if not unit or not head_unit:
        return ""
    return "1" if unit == head_unit else f"{unit} per {head_unit}"


def _head_by_group(
    design: Design, head: str, terms: list[str], levels: list[str], unit: str
) -> pd.DataFrame:
    """Test head size itself between the groups, alone and with the other terms held equal."""
    shown = ["estimate", "se", "statistic", "p", "hc3_p", "d_adj", "partial_r"]
    others = {
        name: term.name
        for name, term in zip(design.X.columns, design.terms, strict=True)
        if term is not None and name != head and name not in terms
    }
    h = design.X[head].to_numpy()
    parts = []
    for held in ({}, others) if others else ({},):
        tidy = refit(design.X[["Intercept", *terms, *held]], h, name=head).tidy.set_index("term")
        part = tidy.loc[terms, shown].reset_index()
        part.insert(0, "held", ", ".join(dict.fromkeys(held.values())))
        part.insert(2, "level", levels)
        part.insert(4, "unit", unit)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
