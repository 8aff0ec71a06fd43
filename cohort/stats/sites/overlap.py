"""What sites, groups and covariates must share before the effect of a site can be told from the others."""

from collections.abc import Sequence

import numpy as np

from cohort.stats.columns import DesignError

FEW = 10
"""Scans of a site below which its own shift and spread are hardly known: a warning."""

OVERLAP = 0.5
"""Below this share of a site's rows inside the range of the other sites, a warning."""


def check_sites(
    codes: np.ndarray, sites: tuple[str, ...], values: np.ndarray, columns: tuple[str, ...]
) -> None:
    """Refuse sites and columns that leave nothing to learn from."""
    n = np.bincount(codes, minlength=len(sites))
    lonely = ", ".join(repr(label) for label, count in zip(sites, n, strict=True) if count == 1)
    if lonely:
        raise DesignError(
            f"site {lonely} has one scan only, which tells nothing of its spread: leave it out or join it with another"
        )
    if len(sites) < 2:
        raise DesignError(f"one site only ({', '.join(sites)}): nothing to harmonise")
    present = ~np.isnan(values)
    for name, column, here in zip(columns, values.T, present.T, strict=True):
        for i, label in enumerate(sites):
            inside = column[here & (codes == i)]
            if inside.size < 2:
                raise DesignError(
                    f"column {name!r} has {inside.size} of the {n[i]} scans of site {label!r}; at least 2 are needed"
                )
            if np.ptp(inside) == 0:
                everywhere = np.ptp(column[here]) == 0
                where = "all rows" if everywhere else f"all {inside.size} scans of site {label!r}"
                raise DesignError(f"column {name!r} is {inside[0]:g} in {where}: leave it out")


def check_groups(
    codes: np.ndarray,
    sites: tuple[str, ...],
    site: str,
    categories: Sequence[tuple[str, tuple[str, ...], np.ndarray]],
) -> None:
    """Refuse sites that hold one group only: there, group and site cannot be told apart."""
    for name, levels, groups in categories:
        alone = [
            f"{label!r} ({name} = {levels[held[0]]})"
            for i, label in enumerate(sites)
            if len(held := np.unique(groups[codes == i])) == 1
        ]
        if alone:
            raise DesignError(
                f"{site} is confounded with {name}: one level only at {', '.join(alone)}; leave such sites out, or put "
                f"{site} into the model as a covariate instead"
            )


def check_covariates(
    covariates: np.ndarray,
    codes: np.ndarray,
    site: str,
    kept: tuple[str, ...],
    continuous: tuple[str, ...],
    told: str,
) -> None:
    """Refuse covariates that sites, or other covariates, already tell; `told` opens the message."""
    q = covariates.shape[1]
    if len(codes) <= q + codes.max() + 1:
        raise DesignError(
            f"{told}{len(codes)} rows for {codes.max() + 1} sites and {q} covariate columns ({', '.join([*kept, *continuous])})"
        )
    means = np.array([covariates[codes == i].mean(axis=0) for i in range(codes.max() + 1)])
    within = covariates - means[codes]
    spread = np.sqrt(np.square(covariates - covariates.mean(axis=0)).sum(axis=0))
    for j, name in enumerate(continuous, q - len(continuous)):
        if np.sqrt(np.square(within[:, j]).sum()) <= 1e-8 * spread[j]:
            raise DesignError(
                f"{told}{name!r} is the same in all rows of each site: {site} and {name} cannot be told apart"
            )
    spread[spread == 0] = 1
    if np.linalg.matrix_rank(within / spread, tol=1e-8) < q:
        raise DesignError(
            f"{told}what is kept ({', '.join([*kept, *continuous])}) depends on itself and on {site}: the effects cannot be told "
            "apart; drop one of them"
        )


def warnings(
    codes: np.ndarray,
    sites: tuple[str, ...],
    covariates: np.ndarray,
    continuous: tuple[str, ...],
) -> list[str]:
    """Say where ComBat leans on its assumptions, one line each."""
    n = np.bincount(codes)
    found = [
        f"site {label!r} has {count} scans, fewer than {FEW}: its shift and spread are mostly those of its prior"
        for label, count in zip(sites, n, strict=True)
        if count < FEW
    ]
    for j, name in enumerate(continuous, covariates.shape[1] - len(continuous)):
        for i, label in enumerate(sites):
            here, there = covariates[codes == i, j], covariates[codes != i, j]
            inside = int(((here >= there.min()) & (here <= there.max())).sum())
            if inside < OVERLAP * len(here):
                found.append(
                    f"{name} of site {label!r} barely overlaps the other sites: {inside} of {len(here)} rows lie within "
                    f"{there.min():g} to {there.max():g}; its shift leans on the line through {name}"
                )
    return found
