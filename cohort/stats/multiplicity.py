"""Many tests at once: what is declared a family is corrected together, and nothing else is."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError

COLUMNS = {"bh": "q_bh", "by": "q_by", "holm": "p_holm", "bonferroni": "p_bonferroni"}
"""Method -> column of a table; q is a false discovery rate, p a familywise error."""

PREFIXES = ("", "hc3_", "cluster_")
"""Kinds of p that a table may hold; each is corrected by itself."""


def adjust(p: np.ndarray | pd.Series | Sequence[float], method: str) -> np.ndarray:
    """Adjust the p of one family.

    Parameters
    ----------
    p : (m,) floats
        NaN, a test that could not be done, stays out of the family and comes back as NaN.
    method : {"bh", "by", "holm", "bonferroni"}

    Returns
    -------
    (m,) float64 array
        In the order of `p`, at most 1.

    Raises
    ------
    DesignError
        If the method is unknown, or a p lies outside 0 to 1.

    Notes
    -----
    ``bh`` and ``by`` bound the expected share of false findings among the findings, ``by`` whatever the dependence;
    ``holm`` and ``bonferroni`` the chance of a single false one. Equals statsmodels' ``multipletests`` and R's
    ``p.adjust``. Benjamini and Hochberg 1995 (10.1111/j.2517-6161.1995.tb02031.x), Benjamini and Yekutieli 2001
    (10.1214/aos/1013699998), Holm 1979.

    Examples
    --------
    >>> adjust([0.01, 0.04, float("nan"), 0.03], "holm").round(3).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    if method not in COLUMNS:
        raise DesignError(f"the method is {method!r}; it takes {', '.join(COLUMNS)}")
    values = np.array(p, np.float64).reshape(-1)
    tested = np.flatnonzero(~np.isnan(values))
    outside = tested[(values[tested] < 0) | (values[tested] > 1)]
    if outside.size:
        raise DesignError(
            f"p is {values[outside[0]]:g} at position {outside[0]}; it lies from 0 to 1"
        )
    # Any order among equal p gives the same: the running extreme evens them out.
    order = tested[np.argsort(values[tested])]
    values[order] = np.minimum(_METHODS[method](values[order]), 1)
    return values


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return p * len(p)


def _holm(p: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(p * np.arange(len(p), 0, -1))


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    rank = np.arange(1, len(p) + 1)
    return np.minimum.accumulate((p / (rank / max(len(p), 1)))[::-1])[::-1]


def _benjamini_yekutieli(p: np.ndarray) -> np.ndarray:
    return _benjamini_hochberg(p) * (1 / np.arange(1, len(p) + 1)).sum()


_METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bh": _benjamini_hochberg,
    "by": _benjamini_yekutieli,
    "holm": _holm,
    "bonferroni": _bonferroni,
}


def family(
    tidy: pd.DataFrame, terms: str | Sequence[str], *, outcomes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Correct the tests of a declared family: some terms, in one model or in those of several outcomes.

    Parameters
    ----------
    tidy : DataFrame
        Effects with the columns ``p`` and ``term`` (or ``contrast``), and ``hc3_p`` and ``cluster_p`` where there are
        such. Tables of several outcomes stand below each other, with the column ``outcome``.
    terms : str or sequence of str
        Terms (or contrasts) of the family.
    outcomes : sequence of str, optional
        Outcomes of the family; all without it.

    Returns
    -------
    DataFrame
        `tidy` with q_bh, q_by, p_holm, p_bonferroni, and ``family_n`` and ``family_missing``: how many tests were
        corrected together and how many had no p. The same with ``hc3_`` and ``cluster_`` before the name. NaN in rows
        outside the family.

    Raises
    ------
    DesignError
        If a term or an outcome of the family is not in the table, or none of its tests has a p.

    Examples
    --------
    >>> tidy = pd.DataFrame({"term": ["Intercept", "dx", "age"], "p": [0.0, 0.02, 0.04]})
    >>> family(tidy, ["dx", "age"])["p_bonferroni"].tolist()
    [nan, 0.04, 0.08]
    """
    by = "term" if "term" in tidy.columns else "contrast"
    wanted = {by: [terms] if isinstance(terms, str) else list(terms)}
    if outcomes is not None:
        wanted["outcome"] = list(outcomes)
    member = np.ones(len(tidy), bool)
    for column, names in wanted.items():
        held = cells.take(tidy, column, "family").astype(str)
        known = list(dict.fromkeys(held))
        for name in names:
            if name not in known:
                message = cells.unknown_column(name, known, f"{column} of the family")
                message = message.replace("no column", f"no {column}", 1)
                raise DesignError(message.replace("(columns:", f"({column}s:", 1))
        member &= held.isin(names).to_numpy()
    corrected = tidy.copy()
    for prefix in PREFIXES:
        if f"{prefix}p" not in tidy.columns:
            continue
        p = tidy[f"{prefix}p"].to_numpy(np.float64)[member]
        tested = int((~np.isnan(p)).sum())
        if not tested and not prefix:
            raise DesignError(f"none of the {len(p)} tests of the family has a p")
        for method, name in COLUMNS.items():
            corrected[f"{prefix}{name}"] = _placed(adjust(p, method), member)
        corrected[f"{prefix}family_n"] = _placed(float(tested), member)
        corrected[f"{prefix}family_missing"] = _placed(float(len(p) - tested), member)
    return corrected


def _placed(values: np.ndarray | float, member: np.ndarray) -> np.ndarray:
    placed = np.full(len(member), np.nan)
    placed[member] = values
    return placed
