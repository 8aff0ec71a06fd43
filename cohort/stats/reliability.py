"""How well a measurement repeats: scan-rescan reliability from the people who were scanned twice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.effects import LEVEL
from cohort.stats.table import records
from cohort.stats.table.rows import Account, row_ids

MIN_PAIRS = 3
"""Pairs below which nothing is estimated."""

_FIGURES = (
    *("mean", "icc21", "icc21_low", "icc21_high", "icc31", "icc31_low", "icc31_high"),
    *("mean_difference", "mean_difference_low", "mean_difference_high", "sd_difference"),
    *("within_sd", "repeatability", "within_cv"),
)


@dataclass(frozen=True)
class Reliability:
    """Reliability of every measurement, and the pairs it comes from.

    Attributes
    ----------
    table : DataFrame, one row a measurement
        measurement, unit, n (pairs); ``mean``; ``icc21`` (absolute agreement) and ``icc31`` (consistency) of one scan,
        with intervals; ``mean_difference`` (second - first) with its t interval, ``sd_difference``; ``within_sd``;
        ``repeatability`` (two scans of a person differ by less in 95 % of cases); ``within_cv`` (a share; NaN unless
        all values are positive). All but n are NaN below three pairs; the ICCs also where nothing varies.
    pairs : DataFrame, one row a measurement and subject
        measurement, subject, first_row, second_row (ids), first, second, mean, difference: a Bland-Altman plot.
    n_more : int
        Subjects of more than two scans; their first two are used.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    n_more: int

    def to_json(self) -> dict[str, Any]:
        """Resolve into plain values that JSON can hold (NaN as None)."""
        return {
            "table": records.plain(self.table),
            "pairs": records.plain(self.pairs),
            "n_more": self.n_more,
        }


def reliability(
    table: pd.DataFrame,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Reliability:
    """Estimate how well each measurement repeats, from the first two scans of each subject that has several.

    Parameters
    ----------
    table : DataFrame
        One row a scan; numbers, or text that holds numbers.
    columns : sequence of str, optional
        Measurements; by default every column of numbers but `row_id`, `subject`, `order` and those that hold nothing
        but 0 and 1.
    where : str, optional
        Rows to use, in the grammar of `cohort.expression.column`.
    units : mapping, optional
        Column -> unit.
    row_id, subject, order
        See `cohort.stats.design.prepare`.

    Returns
    -------
    Reliability
        A measurement that one scan of a pair lacks loses that pair, and only for itself.

    Raises
    ------
    DesignError
        If there is no column of people, a column is unknown or no number, or nobody was scanned twice.

    Notes
    -----
    ICC(2,1) and ICC(3,1): Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; their intervals: McGraw and Wong
    1996, doi:10.1037/1082-989X.1.1.30, (A,1) and (C,1). The repeatability coefficient is 1.96 sqrt(2) within_sd with
    ``within_sd**2`` the mean of difference**2 / 2, which counts a shift between the scans as error (Bland and Altman
    1999, doi:10.1177/096228029900800204); ``within_cv`` is the root mean square of each pair's own.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("aabbccdd"), "session": [1, 2] * 4})
    >>> scans["volume"] = [10.0, 10.2, 12.0, 11.9, 14.1, 14.0, 9.0, 9.1]
    >>> reliability(scans).table[["measurement", "n"]].to_numpy().tolist()
    [['volume', 4]]
    """
    names = [str(c) for c in table.columns]
    table = table.set_axis(names, axis=1).set_axis(row_ids(table, row_id), axis=0)
    if subject not in names:
        raise DesignError(cells.unknown_column(subject, names, "reliability"))
    keys = {row_id, subject, *order}
    if columns is None:
        chosen = [c for c in dict.fromkeys(names) if c not in keys and _measured(table, c)]
    else:
        chosen = list(dict.fromkeys(columns))
    values = {c: cells.numbers(cells.take(table, c, "reliability")) for c in chosen}
    repeats = _repeats(table, row_id, where, subject, order)
    if not repeats:
        raise DesignError(
            "no subject has two scans, so how well a measurement repeats is not known"
        )
    positions = np.array([found[:2] for found in repeats.values()])
    units = units or {}
    rows, pairs = [], []
    for name, column in values.items():
        both = column[positions]  # (pairs, 2)
        told = ~np.isnan(both).any(axis=1)
        both, used = both[told], positions[told]
        figures = agreement(both) if len(both) >= MIN_PAIRS else dict.fromkeys(_FIGURES, math.nan)
        rows.append({"measurement": name, "unit": units.get(name, ""), "n": len(both), **figures})
        people = [person for person, kept in zip(repeats, told, strict=True) if kept]
        pairs.append(
            pd.DataFrame(
                {
                    "measurement": name,
                    "subject": people,
                    "first_row": table.index[used[:, 0]],
                    "second_row": table.index[used[:, 1]],
                    "first": both[:, 0],
                    "second": both[:, 1],
                    "mean": both.mean(axis=1),
                    "difference": both[:, 1] - both[:, 0],
                }
            )
        )
    if not rows:
        raise DesignError("the table has no column of numbers to compare between scans")
    return Reliability(
        table=pd.DataFrame(rows),
        pairs=pd.concat(pairs, ignore_index=True),
        n_more=sum(len(found) > 2 for found in repeats.values()),
    )


def agreement(both: np.ndarray) -> dict[str, float]:
    """Agreement of two scans of the same people.

    Parameters
    ----------
    both : (n, 2) float64 array, n >= 3
        First and second scan of each person.

    Returns
    -------
    dict
        The figures of `Reliability.table`, from ``mean`` on.
    """
    from scipy import stats

    n = len(both)
    difference = both[:, 1] - both[:, 0]
    shift, sd = float(difference.mean()), float(difference.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)
    within = math.sqrt(float(np.mean(difference**2)) / 2)
    cv = math.nan
    if (both > 0).all():
        cv = math.sqrt(float(np.mean(difference**2 / 2 / both.mean(axis=1) ** 2)))
    figures = (
        *(float(both.mean()), *intraclass(both, "agreement"), *intraclass(both, "consistency")),
        *(shift, shift - half, shift + half, sd),
        *(within, float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(2) * within, cv),
    )
    return dict(zip(_FIGURES, figures, strict=True))


def intraclass(values: np.ndarray, kind: str) -> tuple[float, float, float]:
    """Intraclass correlation of one measurement, with its interval.

    Parameters
    ----------
    values : (n, k) float64 array
        n people, each measured k times.
    kind : {"agreement", "consistency"}
        ICC(2,1), in which a shift between the measurements is an error, or ICC(3,1), in which it is not.

    Returns
    -------
    icc, low, high : float
        NaN where nothing varies.

    Examples
    --------
    Six targets and four judges of Shrout and Fleiss 1979, who give .29 and .71:

    >>> judged = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> [round(v, 2) for v in intraclass(np.array(judged, float), "agreement")]
    [0.29, 0.02, 0.76]
    >>> [round(v, 2) for v in intraclass(np.array(judged, float), "consistency")]
    [0.71, 0.34, 0.95]
    """
    n, k = values.shape
    if not np.ptp(values) > 0:
        return math.nan, math.nan, math.nan
    if not np.ptp(values, axis=1).any():  # every measurement repeats to the last bit
        return 1.0, 1.0, 1.0
    centred = values - values.mean()
    people, times = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - people[:, None] - times
    ms_people = k * float(np.square(people).sum()) / (n - 1)
    ms_times = n * float(np.square(times).sum()) / (k - 1)
    ms_rest = float(np.square(rest).sum()) / ((n - 1) * (k - 1))
    if kind == "consistency":
        return _consistency(ms_people, ms_rest, n, k)
    return _agreement(ms_people, ms_times, ms_rest, n, k)


def _consistency(ms_people: float, ms_rest: float, n: int, k: int) -> tuple[float, float, float]:
    from scipy import stats

    icc = (ms_people - ms_rest) / (ms_people + (k - 1) * ms_rest)
    if ms_rest == 0:
        return icc, icc, icc
    f, df = ms_people / ms_rest, ((n - 1), (n - 1) * (k - 1))
    upper = (1 + LEVEL) / 2
    low = f / stats.f.ppf(upper, *df)
    high = f * stats.f.ppf(upper, *df[::-1])
    return icc, float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _agreement(
    ms_people: float, ms_times: float, ms_rest: float, n: int, k: int
) -> tuple[float, float, float]:
    from scipy import stats

    icc = (ms_people - ms_rest) / (ms_people + (k - 1) * ms_rest + k * (ms_times - ms_rest) / n)
    # Satterthwaite's degrees of freedom of the denominator, at the estimate.
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    parts = (a * ms_times) ** 2 / (k - 1) + (b * ms_rest) ** 2 / ((n - 1) * (k - 1))
    df = (a * ms_times + b * ms_rest) ** 2 / parts
    upper = (1 + LEVEL) / 2
    spread = k * ms_times + (k * n - k - n) * ms_rest
    f_low, f_high = stats.f.ppf(upper, n - 1, df), stats.f.ppf(upper, df, n - 1)
    low = n * (ms_people - f_low * ms_rest) / (f_low * spread + n * ms_people)
    high = n * (f_high * ms_people - ms_rest) / (spread + n * f_high * ms_people)
    return icc, float(low), float(high)


def _measured(table: pd.DataFrame, name: str) -> bool:
    column = cells.take(table, name, "reliability")
    if not cells.is_number(column):
        return False
    values = cells.numbers(column)
    values = values[~np.isnan(values)]
    return bool(len(values)) and not np.isin(values, (0.0, 1.0)).all()


def _repeats(
    table: pd.DataFrame, row_id: str, where: str | None, subject: str, order: Sequence[str]
) -> dict[str, list[int]]:
    """Rows of each subject of several, in the order of the scans; people in the order of their names."""
    account = Account(table)
    account.keep_usable(row_id, where, (subject,))
    repeats = account.keep_one_per_subject("first", subject, order)
    return {person: repeats[person] for person in sorted(repeats, key=cells.natural_key)}
