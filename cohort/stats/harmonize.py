"""ComBat: take out of measurements the shift and the spread that the site of each scan gives them.

A site as a covariate of the model stays the default; this is the alternative for tables that are used as they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.sites import overlap, shrinkage

FLAT = 1e-12
"""Share of a column's variation below which what is left is rounding."""

UNSEEN = ("refuse", "missing")
"""What `Combat.transform` does with the rows of a site that was not fitted."""

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Combat:
    """A fitted ComBat, plain values only: two that are equal harmonise alike, bit for bit.

    Attributes
    ----------
    columns : tuple of str
        Measurements that are harmonised (k of them).
    site : str
        Column that names the site.
    sites : tuple of str
        Sites that were fitted (s of them), in natural order.
    n : tuple of int
        Rows of each site.
    categories : tuple of (str, tuple of str)
        Categories whose differences are kept, with their levels; the first level is the reference.
    continuous : tuple of str
        Numbers whose slopes are kept.
    parametric : bool
    reference : str or None
        Site that is left as it is, and to which the others are brought.
    mean, scale : tuple of float, k long
        Of each column: its level (at zero covariates) and its standard deviation around the terms.
    slopes : tuple of tuples, (q, k)
        What one unit of each covariate column adds to each measurement.
    shift, spread : tuple of tuples, (s, k)
        Of each site, in standard deviations: what its rows lie above the mean, and the ratio of its variance.
    warnings : tuple of str
    """

    columns: tuple[str, ...]
    site: str
    sites: tuple[str, ...]
    n: tuple[int, ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    continuous: tuple[str, ...]
    parametric: bool
    reference: str | None
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    slopes: Table
    shift: Table
    spread: Table
    warnings: tuple[str, ...]

    def transform(self, table: pd.DataFrame, *, unseen: str = "refuse") -> pd.DataFrame:
        """Harmonise rows of the fitted sites, those of the fit or newcomers.

        Each row is treated by itself, so that it does not matter which others are beside it.

        Parameters
        ----------
        table : DataFrame
            With the columns, the site and the covariates of the fit.
        unseen : {"refuse", "missing"}
            A site that was not fitted is refused, or its rows come back without measurements. Nothing is guessed: a
            site's shift cannot be told from people whom nobody else has scanned.

        Returns
        -------
        DataFrame, a copy
            The columns of the fit as float64, NaN where they were NaN; the others as they were.

        Raises
        ------
        DesignError
            In one line: a column that is missing, a row without site or covariate, a level or a site that was not
            fitted.
        """
        if unseen not in UNSEEN:
            raise DesignError(f"unseen is {unseen!r}; it takes {', '.join(UNSEEN)}")
        values = np.column_stack([_numbers(table, name) for name in self.columns])
        site = _codes(table, self.site, self.sites, "site", refuse=unseen == "refuse")
        kept = np.zeros_like(values)
        covariates = _covariates(table, self.categories, self.continuous)
        # Column by column and elementwise: a matrix product could add in another order for another number of rows.
        for covariate, slope in zip(covariates, self.slopes, strict=True):
            kept += covariate[:, None] * np.array(slope)
        level, scale = np.array(self.mean) + kept, np.array(self.scale)
        z = (values - level) / scale
        shift, spread = np.array(self.shift)[site], np.array(self.spread)[site]
        result = (z - shift) / np.sqrt(spread) * scale + level
        if self.reference is not None:
            result = np.where((site == self.sites.index(self.reference))[:, None], values, result)
        result[site < 0] = np.nan
        changed = table.copy()
        for name, column in zip(self.columns, result.T, strict=True):
            changed[name] = column
        return changed

    @property
    def tidy(self) -> pd.DataFrame:
        """What is taken out of each site and column: site, n, column, shift (its unit), sd_ratio (1: like the others)."""
        places = [(i, j) for i in range(len(self.sites)) for j in range(len(self.columns))]
        return pd.DataFrame(
            {
                "site": [self.sites[i] for i, _ in places],
                "n": [self.n[i] for i, _ in places],
                "column": [self.columns[j] for _, j in places],
                "shift": [self.shift[i][j] * self.scale[j] for i, j in places],
                "sd_ratio": [math.sqrt(self.spread[i][j]) for i, j in places],
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Write the model as plain values; `from_json` makes an equal one of them, and of their JSON text."""
        return {"method": "ComBat", **asdict(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        DesignError
            If a part is missing, or there is one that this version does not know.
        """
        known = {field.name for field in fields(cls)}
        given = set(saved) - {"method"}
        if saved.get("method") != "ComBat" or given != known:
            odd = sorted(given ^ known) or ["method"]
            raise DesignError(f"this is no saved ComBat of this version: {', '.join(odd)}")
        return cls(**{name: _frozen(saved[name]) for name in known})


def fit_combat(
    table: pd.DataFrame,
    *,
    columns: Sequence[str],
    site: str,
    keep_categorical: Sequence[str] = (),
    keep_continuous: Sequence[str] = (),
    parametric: bool = True,
    reference: str | None = None,
) -> Combat:
    """Estimate what each site adds to each measurement, and by how much it spreads it.

    Parameters
    ----------
    table : DataFrame, one row a scan
        Numbers, or text that holds numbers. A measurement may be missing: each column is fitted on its own rows. A
        row without site or covariate is refused.
    columns : sequence of str, at least 2
        Measurements to harmonise together: what is learned of a site from one is lent to the others.
    site : str
        Column that names the site of each row.
    keep_categorical, keep_continuous : sequence of str
        Columns whose effects are kept (diagnosis, sex; age).
    parametric : bool
        Normal and inverse-gamma priors, or the empirical distribution over the columns.
    reference : str, optional
        Site that the others are brought to; it is left as it is.

    Returns
    -------
    Combat

    Raises
    ------
    DesignError
        In one line: fewer than two columns or sites, a site of one scan, a constant column, a column that is an
        exact combination of the terms or does not vary in a site, a site that holds one level only of a category
        that is kept, covariates that depend on each other or on the sites.

    Notes
    -----
    Johnson 2007 (doi:10.1093/biostatistics/kxj037), Fortin 2018 (doi:10.1016/j.neuroimage.2017.11.024). Equals
    neuroCombat 0.2.12 where no cell is missing (there, a missing cell makes the variance of its site NaN), the end
    of its iteration at a change of 1e-4 included. Rows are put into an order of their own first, so that the order
    of the table changes no bit. ComBat takes the sites as independent of the covariates: with few scans or little
    overlap, put the site into the model instead.

    Examples
    --------
    >>> table = pd.DataFrame({"site": list("aaabbb"), "x": [1.0, 2, 3, 6, 7, 8], "y": [1.0, 3, 2, 2, 4, 3]})
    >>> fit_combat(table, columns=["x", "y"], site="site").transform(table)["x"].round(2).tolist()
    [3.57, 4.38, 5.2, 3.8, 4.62, 5.43]
    """
    columns, continuous = _names(columns, "columns"), _names(keep_continuous, "keep_continuous")
    kept = _names(keep_categorical, "keep_categorical")
    used = [site, *columns, *kept, *continuous]
    if twice := sorted({name for name in used if used.count(name) > 1}):
        raise DesignError(f"{twice[0]!r} is named twice among site, columns and what is kept")
    if len(columns) < 2:
        raise DesignError(
            f"ComBat learns a site from several columns together; {len(columns)} given"
        )
    values = np.column_stack([_numbers(table, name) for name in columns])
    sites = _levels(table, site, "site")
    codes = _codes(table, site, sites, "site", refuse=True)
    categories = tuple((name, _levels(table, name, "keep_categorical")) for name in kept)
    for name, levels in categories:
        if len(levels) < 2:
            raise DesignError(f"keep_categorical: {name!r} is {levels[0]} in all {len(table)} rows")
    covariates = np.column_stack(
        [np.empty((len(table), 0)), *_covariates(table, categories, continuous)]
    )
    overlap.check_sites(codes, sites, values, columns)
    groups = [
        (name, levels, _codes(table, name, levels, "keep_categorical", refuse=True))
        for name, levels in categories
    ]
    overlap.check_groups(codes, sites, site, groups)
    if reference is not None and reference not in sites:
        raise DesignError(f"reference site {reference!r} is none of the sites {', '.join(sites)}")
    order = np.lexsort(np.column_stack([codes, covariates, values]).T[::-1])
    values, codes, covariates = values[order], codes[order], covariates[order]
    for j, holes in [(None, np.zeros(len(codes), bool)), *enumerate(np.isnan(values).T)]:
        if j is None or holes.any():  # a column with missing cells is fitted on its own rows
            told = "" if j is None else f"in the rows that hold {columns[j]!r}: "
            overlap.check_covariates(
                covariates[~holes], codes[~holes], site, kept, continuous, told
            )
    anchor = None if reference is None else sites.index(reference)
    standard = shrinkage.standardize(values, codes, covariates, reference=anchor)
    if names := _named(columns, standard.unexplained <= FLAT):
        raise DesignError(
            f"column {names} is an exact combination of {site} and what is kept: leave it out"
        )
    shift, spread = np.zeros((len(sites), len(columns))), np.ones((len(sites), len(columns)))
    for i in range(len(sites)):
        if i != anchor:
            shift[i], spread[i] = shrinkage.shrink(standard.z[codes == i], parametric=parametric)
    return Combat(
        columns=columns,
        site=site,
        sites=sites,
        n=tuple(np.bincount(codes).tolist()),
        categories=categories,
        continuous=continuous,
        parametric=parametric,
        reference=reference,
        mean=_frozen(standard.mean.tolist()),
        scale=_frozen(standard.scale.tolist()),
        slopes=_frozen(standard.slopes.tolist()),
        shift=_frozen(shift.tolist()),
        spread=_frozen(spread.tolist()),
        warnings=tuple(overlap.warnings(codes, sites, covariates, continuous)),
    )


def _names(given: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise DesignError(f"{what} is the text {given!r}; it takes a list of columns")
    return tuple(given)


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    return cells.numbers(cells.take(table, name, "ComBat"))


def _levels(table: pd.DataFrame, name: str, where: str) -> tuple[str, ...]:
    return tuple(cells.categories(cells.take(table, name, where)).categories)


def _codes(
    table: pd.DataFrame, name: str, levels: tuple[str, ...], what: str, *, refuse: bool
) -> np.ndarray:
    """Place of each row's label among `levels`; -1 for one that is none of them, unless that is refused."""
    column = cells.take(table, name, what)
    _refuse_empty(column)
    found = cells.categories(column)
    if refuse and (strange := [str(label) for label in found.categories if label not in levels]):
        rows = int(np.isin(np.asarray(found), strange).sum())
        advice = (
            "; fit it together with them, or give unseen='missing' to leave its rows without measurements"
            if what == "site"
            else ""
        )
        raise DesignError(
            f"{what} {name}: {', '.join(map(repr, strange))} ({rows} rows) was not fitted, only "
            f"{', '.join(levels)}{advice}"
        )
    places = np.array([levels.index(c) if c in levels else -1 for c in found.categories], np.intp)
    return places[found.codes]


def _refuse_empty(column: pd.Series) -> None:
    empty = np.flatnonzero(cells.missing(column))
    if empty.size:
        raise DesignError(
            f"column {str(column.name)!r} is missing in {empty.size} of {len(column)} rows (the first is "
            f"{column.index[empty[0]]}): without it a row cannot be harmonised; leave such rows out"
        )


def _covariates(
    table: pd.DataFrame,
    categories: tuple[tuple[str, tuple[str, ...]], ...],
    continuous: tuple[str, ...],
) -> list[np.ndarray]:
    """Columns that the slopes belong to: each level but the first of each category, then the numbers."""
    found = []
    for name, levels in categories:
        codes = _codes(table, name, levels, "keep_categorical", refuse=True)
        found += [(codes == level).astype(np.float64) for level in range(1, len(levels))]
    for name in continuous:
        _refuse_empty(cells.take(table, name, "keep_continuous"))
        found.append(_numbers(table, name))
    return found


def _named(columns: tuple[str, ...], flags: np.ndarray) -> str:
    return ", ".join(repr(name) for name, flag in zip(columns, flags, strict=True) if flag)


def _frozen(value: Any) -> Any:
    """Tuples for lists, all the way down."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
