"""The simple comparison: two groups, or two numbers, with nothing held equal.

It is printed beside an adjusted model, not instead of one: where the groups differ in age, so does what age changes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import effects
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.table.correlation import correlation as pearson


@dataclass(frozen=True)
class Comparison:
    """Two groups and their difference, the second level less the first (of 0 and 1: that of 1 less that of 0).

    Attributes
    ----------
    outcome, group, unit : str
    levels : tuple of str
        The reference, then the level that is compared with it.
    groups : DataFrame, one row a level
        level, n, mean, sd (of the sample, n - 1), se.
    tests : DataFrame, two rows
        test (``student``, ``welch``), difference, se, df, statistic, p, ci_low, ci_high.
    cohen_d, cohen_d_low, cohen_d_high : float
        Difference in pooled standard deviations, with its noncentral-t interval.
    hedges_g : float
        Cohen's d times ``1 - 3 / (4 df - 1)``, which removes most of its bias.
    mann_whitney_u, mann_whitney_p : float
        Pairs in which the second level is the larger, ties counted half; two-sided, exact where a group has at most
        eight rows and there are no ties, else by the normal approximation corrected for ties and continuity.
    design : Design or None
        Account of the rows, where they came from a table.
    """

    outcome: str
    group: str
    unit: str
    levels: tuple[str, str]
    groups: pd.DataFrame
    tests: pd.DataFrame
    cohen_d: float
    cohen_d_low: float
    cohen_d_high: float
    hedges_g: float
    mann_whitney_u: float
    mann_whitney_p: float
    design: Design | None

    def test(self, name: str) -> pd.Series:
        """One row of `tests`."""
        return self.tests.iloc[self.tests["test"].tolist().index(name)]


def two_groups(
    table: pd.DataFrame,
    *,
    outcome: str,
    group: str,
    reference: str | None = None,
    where: str | None = None,
    one_scan_per: str = "first",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Comparison:
    """Compare an outcome between the two levels of a column, by Student's and by Welch's t.

    Parameters
    ----------
    table : DataFrame
        One row a scan (or participant).
    group : str
        Column of two different values, numbers or text; they are ordered as numbers, else as text.
    reference : str, optional
        Level that the other is compared with; without it the first.
    units : mapping, optional
        Column -> unit.
    outcome, where, one_scan_per, row_id, subject, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    Comparison

    Raises
    ------
    DesignError
        If the column has not two levels or not that reference, a level has one row only, or both groups do not vary.

    Notes
    -----
    Equals ``scipy.stats.ttest_ind`` (with ``equal_var=False`` for Welch) and ``scipy.stats.mannwhitneyu``.

    Examples
    --------
    >>> table = pd.DataFrame({"y": [1.0, 2, 3, 4, 6, 8], "dx": [0, 0, 0, 1, 1, 1]})
    >>> found = two_groups(table, outcome="y", group="dx", one_scan_per="all")
    >>> found.tests[["test", "difference", "df"]].round(3).values.tolist()
    [['student', 4.0, 4.0], ['welch', 4.0, 2.941]]
    """
    design = prepare(
        table,
        outcome=outcome,
        formula=f"C(Q({group!r}))",
        where=where,
        one_scan_per=one_scan_per,
        row_id=row_id,
        subject=subject,
        order=order,
    )
    (coding,) = design.coding.values()
    levels = coding["levels"]
    if len(levels) != 2:
        raise DesignError(
            f"{group!r} has {len(levels)} levels ({', '.join(levels[:8])}); two are compared: choose them by where"
        )
    second = design.X.iloc[:, 1].to_numpy() == 1
    if reference is not None:
        if reference not in levels:
            told = cells.unknown_column(reference, levels, f"reference of {group!r}")
            told = told.replace("no column", "no level", 1).replace("(columns:", "(levels:", 1)
            raise DesignError(told)
        if reference == levels[1]:
            levels, second = levels[::-1], ~second
    y = design.y.to_numpy()
    return _comparison(
        y[~second],
        y[second],
        (str(levels[0]), str(levels[1])),
        {"outcome": outcome, "group": group, "unit": dict(units or {}).get(outcome, "")},
        design,
    )


def two_samples(reference: np.ndarray, other: np.ndarray) -> Comparison:
    """Compare two samples without a table; see `two_groups`.

    Parameters
    ----------
    reference, other : (n0,) and (n1,) float arrays
        Without NaN. The difference is `other` less `reference`.

    Returns
    -------
    Comparison

    Raises
    ------
    DesignError
        If a sample has one row, a number that is missing or infinite, or both do not vary.
    """
    names = {"outcome": "outcome", "group": "group", "unit": ""}
    first, second = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    return _comparison(first, second, ("0", "1"), names, None)


def _comparison(
    first: np.ndarray,
    second: np.ndarray,
    levels: tuple[str, str],
    names: Mapping[str, str],
    design: Design | None,
) -> Comparison:
    from scipy import stats

    n = np.array([len(first), len(second)])
    if n.min() < 2:
        raise DesignError(f"{n[0]} and {n[1]} rows: a group of one has no standard deviation")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DesignError("a sample holds a number that is missing or infinite")
    mean = np.array([first.mean(), second.mean()])
    variance = np.array([first.var(ddof=1), second.var(ddof=1)])
    if not variance.any():
        raise DesignError(f"{names['outcome']!r} does not vary within the groups: no test")
    pooled = float((variance @ (n - 1)) / (n.sum() - 2))
    share = variance / n
    kinds = {
        "student": (math.sqrt(pooled * (1 / n).sum()), float(n.sum() - 2)),
        # Welch and Satterthwaite's degrees of freedom
        "welch": (math.sqrt(share.sum()), float(share.sum() ** 2 / (share**2 / (n - 1)).sum())),
    }
    difference = float(mean[1] - mean[0])
    tests = []
    for name, (se, df) in kinds.items():
        t, half = difference / se, float(stats.t.ppf((1 + effects.LEVEL) / 2, df)) * se
        ends = {"ci_low": difference - half, "ci_high": difference + half}
        p = 2 * float(stats.t.sf(abs(t), df))
        row: dict[str, Any] = {"test": name, "difference": difference, "se": se, "df": df}
        tests.append(row | {"statistic": t, "p": p} | ends)
    student = tests[0]
    d, low, high = effects.adjusted_d(
        student["statistic"], student["se"], math.sqrt(pooled), student["df"]
    )
    ranked = stats.mannwhitneyu(second, first, method="auto")
    groups = {"level": levels, "n": n, "mean": mean, "sd": np.sqrt(variance), "se": np.sqrt(share)}
    return Comparison(
        **names,
        levels=levels,
        groups=pd.DataFrame(groups),
        tests=pd.DataFrame(tests),
        cohen_d=d,
        cohen_d_low=low,
        cohen_d_high=high,
        hedges_g=d * (1 - 3 / (4 * student["df"] - 1)),
        mann_whitney_u=float(ranked.statistic),
        mann_whitney_p=float(ranked.pvalue),
        design=design,
    )


def correlation(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    where: str | None = None,
    one_scan_per: str = "first",
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> pd.DataFrame:
    """Correlate two columns of a table (Pearson), with Fisher's interval.

    Parameters
    ----------
    x, y : str
        Columns of numbers; true and false count as 1 and 0.
    where, one_scan_per, row_id, subject, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    DataFrame, one row
        x, y, r, ci_low, ci_high, df, statistic, p, n; the interval is NaN below four rows.

    Raises
    ------
    DesignError
        If a column does not vary, holds text, or one is the other times a constant and plus another.

    Notes
    -----
    Equals ``scipy.stats.pearsonr`` and its ``confidence_interval``. Fisher 1921.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1.0, 2, 3, 4, 5], "b": [1.0, 3, 2, 5, 4]})
    >>> correlation(table, x="a", y="b", one_scan_per="all")[["r", "n"]].round(3).values.tolist()
    [[0.8, 5.0]]
    """
    design = prepare(
        table,
        outcome=y,
        formula="1",
        confounds=[x],
        where=where,
        one_scan_per=one_scan_per,
        row_id=row_id,
        subject=subject,
        order=order,
    )
    if list(design.X.columns[1:]) != [x]:
        raise DesignError(f"column {x!r} holds categories; a correlation takes numbers")
    r, p = pearson(design.X[x].to_numpy(), design.y.to_numpy())
    if 1 - abs(r) < 1e-14:
        raise DesignError(f"{y!r} is an exact multiple of {x!r}, up to a constant: no test")
    df = len(design.y) - 2
    t = r * math.sqrt(df / ((1 - r) * (1 + r)))
    _, low, high = effects.partial_correlation(t, df)
    found = {"r": r, "ci_low": low, "ci_high": high, "df": float(df), "statistic": t}
    return pd.DataFrame([{"x": x, "y": y, **found, "p": p, "n": len(design.y)}])
