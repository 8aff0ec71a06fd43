"""What `outcomes` leaves out for the sake of a thousand regions, and a model of a few outcomes has."""

import functools
import math

import pandas as pd

from cohort.stats import effects, equivalence
from cohort.stats.clustering.headline import headline


def completed(tidy: pd.DataFrame, glance: pd.DataFrame) -> pd.DataFrame:
    """Effects on many outcomes with the intervals of their sizes and what could have been detected.

    Parameters
    ----------
    tidy, glance : DataFrame
        Of `cohort.stats.outcomes.Outcomes`; `tidy` with errors of clusters or without.

    Returns
    -------
    DataFrame
        `tidy` with d_adj_low, d_adj_high (0/1 terms), partial_r_low, partial_r_high and detectable (not of the
        intercept), each as `cohort.stats.regression.fit` and `cohort.stats.equivalence.detectable` have it.
    """
    sigma = tidy["outcome"].map(glance.set_index("outcome")["sigma"])
    shift = functools.cache(equivalence.noncentrality)
    first = headline(tidy)
    none = (math.nan, math.nan, math.nan)
    rows = zip(
        tidy["statistic"],
        tidy["se"],
        tidy["df"],
        sigma,
        tidy["d_adj"],
        tidy["partial_r"],
        strict=True,
    )
    found: dict[str, list[float]] = {}
    for t, se, df, sd, d, r in rows:
        _, d_low, d_high = none if math.isnan(d) else effects.adjusted_d(t, se, sd, df)
        _, r_low, r_high = none if math.isnan(r) else effects.partial_correlation(t, df)
        values = {"d_adj_low": d_low, "d_adj_high": d_high}
        for name, value in (values | {"partial_r_low": r_low, "partial_r_high": r_high}).items():
            found.setdefault(name, []).append(value)
    least = [
        math.nan if role == "intercept" or math.isnan(se) else shift(df) * se
        for role, df, se in zip(first["role"], first["df"], first["se"], strict=True)
    ]
    return tidy.assign(**found, detectable=least)
