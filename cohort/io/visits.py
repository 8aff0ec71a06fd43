"""When people were scanned: days between their visits in place of dates."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date

DAYS_PER_YEAR = 365.25

_SCANNING = range(1971, 2101)
"""Years in which people are scanned: CT is of 1971, and many a clock begins in 1970."""

_DUMMY_YEARS, _SPAN_YEARS = 5, 40


def day_of(text: str) -> date | None:
    """A date as DICOM writes it, YYYYMMDD; None for anything else."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None


def days_since_first_scan(dates: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Replace dates by what studies need of them: the days between the visits of a person.

    Parameters
    ----------
    dates : mapping of scan id -> (subject, date)
        Dates as DICOM writes them, YYYYMMDD.

    Returns
    -------
    dict of scan id -> days
        Since the first dated scan of the subject, which has 0. A scan without a date, or with a text that is none or a date
        that anonymisers write for "none", is left out: counted from that, the others would be absolute dates.

    Notes
    -----
    Nobody was scanned before 1971 or will be after 2100. On a 1 January more than 5 years before anything else nobody was
    either, as far as it matters; of dates more than 40 years apart nobody knows which are true, so none counts. No
    clock is asked.

    Examples
    --------
    >>> days_since_first_scan({"a": ("s1", "20240301"), "b": ("s1", "20240228"), "c": ("s2", "")})
    {'a': 2, 'b': 0}
    """
    known = {
        scan: (subject, day)
        for scan, (subject, text) in dates.items()
        if (day := day_of(text.strip())) is not None
    }
    of: defaultdict[str, set[date]] = defaultdict(set)
    for subject, day in known.values():
        of[subject].add(day)
    true = {subject: _true_days(days) for subject, days in of.items()}
    return {
        scan: (day - true[subject][0]).days
        for scan, (subject, day) in known.items()
        if day in true[subject]
    }


def _true_days(days: Iterable[date]) -> list[date]:
    """Those of a person's dates that may be true, in order."""
    left = sorted(day for day in days if day.year in _SCANNING)
    while len(left) > 1 and (left[0].month, left[0].day) == (1, 1):
        if (left[1] - left[0]).days < _DUMMY_YEARS * DAYS_PER_YEAR:
            break
        del left[0]
    is_long = left and (left[-1] - left[0]).days > _SPAN_YEARS * DAYS_PER_YEAR
    return [] if is_long else left
