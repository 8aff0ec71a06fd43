"""Measurements of a model without what their sites give them, and the ComBat that newcomers are harmonised by.

ComBat is estimated from the rows that the model fits and kept with the model. As long as those rows are the same, later
rows are harmonised by what was kept, so that nobody's numbers move because somebody else was scanned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort import provenance
from cohort.io.covariates import Model
from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.harmonize import Combat, fit_combat
from cohort.stats.table.rows import row_ids

ROW_ID = "scan_id"

_ASKED = ("outcome", "outcomes", "formula", "confounds", "where", "one_scan_per", "harmonize")
"""Keys of a model that decide which rows ComBat is estimated from, and how."""


@dataclass(frozen=True)
class Harmonized:
    """The table of a model, harmonised.

    Attributes
    ----------
    table : DataFrame
        Rows whose site is known, harmonised columns as float64.
    combat : Combat
    fitted : dict
        Row id -> digest of the cells that ComBat was estimated from.
    newcomers : tuple of str
        Rows that are harmonised by an estimate that was kept, and were not there when it was made.
    dropped : tuple of dict
        ``row_id`` and ``reason`` of rows that cannot be harmonised.
    reasons : dict
        Row id -> why the model leaves it out, where it is left out before anything is harmonised.
    declared : str
        Digest of what the model asked for.
    warnings, reading : tuple of str
    """

    table: pd.DataFrame
    combat: Combat
    fitted: dict[str, str]
    newcomers: tuple[str, ...]
    dropped: tuple[dict[str, str], ...]
    reasons: dict[str, str]
    declared: str
    warnings: tuple[str, ...]
    reading: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `harmonized` takes them as `saved`."""
        return {
            "combat": self.combat.to_json(),
            "fitted": self.fitted,
            "newcomers": list(self.newcomers),
            "declared": self.declared,
        }


def harmonized(
    table: pd.DataFrame, model: Model, saved: Mapping[str, Any] | None = None
) -> Harmonized:
    """Take out of a model's measurements what their sites add to them.

    Parameters
    ----------
    table : DataFrame
        One row a scan.
    model : Model
        With ``harmonize``.
    saved : mapping, optional
        `Harmonized.to_json` of an earlier fit. It is used if the model asks for the same and every row that it was
        estimated from is there and unchanged; otherwise, and under ``refit``, ComBat is estimated anew.

    Returns
    -------
    Harmonized

    Raises
    ------
    DesignError
        In one line: what `prepare` and `fit_combat` refuse.

    Notes
    -----
    A row without site or kept covariate is left out with its reason, and so is, under an estimate that was kept, one
    whose site or category was not there when it was made: a site's shift cannot be told from people whom nobody else
    has scanned.
    """
    asked = model.harmonize
    assert asked is not None
    site, columns = asked.site, list(asked.columns or model.all_outcomes)
    ids = row_ids(table, ROW_ID)
    table = table.set_axis([str(c) for c in table.columns], axis=1).set_axis(ids, axis=0)
    dropped = _empty(table, [site])
    design = _design(table.drop(index=list(dropped)), model)
    inside = [c for c in design.formula.columns if c != site and c not in columns]
    kept = inside if asked.keep is None else list(asked.keep)
    dropped |= _empty(table, [name for name in kept if name not in inside])
    table = table.drop(index=[row for row in dropped if row in table.index])
    rows = [str(row) for row in design.X.index if row in table.index]
    categories = [name for name in kept if _is_category(cells.take(table, name, "harmonize.keep"))]
    declared = provenance.digest(
        {k: v for k, v in model.model_dump(mode="json").items() if k in _ASKED}
    )
    digests = _digests(table, [site, *columns, *kept])
    combat, fitted = None if asked.refit else _kept(saved, declared, digests), dict(digests)
    told: list[str] = []
    if combat is None:
        combat = fit_combat(
            table.loc[rows],
            columns=columns,
            site=site,
            keep_categorical=categories,
            keep_continuous=[name for name in kept if name not in categories],
            parametric=asked.parametric,
            reference=asked.reference,
        )
        fitted = {row: digests[row] for row in rows}
        if saved is not None and not asked.refit:
            told = ["ComBat was estimated anew: the model, or a row it was estimated from, changed"]
    else:
        assert saved is not None
        fitted = dict(saved["fitted"])
    changed, strange = _transformed(table, combat, kept)
    lost = {row: why for row, why in strange.items() if row in set(rows)}
    if lost:
        whys = pd.Series(list(lost.values())).value_counts()
        told += [
            f"{n} rows cannot be harmonised ({why}) and are left out; refit: true estimates ComBat with them"
            for why, n in whys.items()
        ]
    newcomers = tuple(row for row in rows if row not in fitted and row not in lost)
    return Harmonized(
        table=changed.drop(index=list(lost)),
        combat=combat,
        fitted=fitted,
        newcomers=newcomers,
        dropped=tuple({"row_id": row, "reason": why} for row, why in {**dropped, **lost}.items()),
        reasons={entry["row_id"]: entry["reason"] for entry in design.dropped},
        declared=declared,
        warnings=(*told, *combat.warnings, *_warnings(design, site, columns, kept)),
        reading=(_sentence(combat, newcomers),),
    )


def _empty(table: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Rows that lack one of the columns, and which."""
    found: dict[str, str] = {}
    for name in names:
        empty = cells.missing(cells.take(table, name, "harmonize"))
        found = {**{str(row): f"missing {name}" for row in table.index[empty]}, **found}
    return found


def _design(table: pd.DataFrame, model: Model) -> Design:
    """Rows that the model fits; all scans of a subject whose mean it takes."""
    return prepare(
        table,
        outcome=model.outcome,
        formula=model.formula,
        confounds=model.confounds,
        where=model.where,
        one_scan_per="all" if model.one_scan_per == "mean" else model.one_scan_per,
        row_id=ROW_ID,
    )


def _is_category(column: pd.Series) -> bool:
    """Text, or nothing but 0 and 1."""
    if not cells.is_number(column):
        return True
    values = cells.numbers(column)
    return bool(np.isin(values[~np.isnan(values)], (0.0, 1.0)).all())


def _digests(table: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Digest of the cells of each row."""
    taken = [cells.take(table, name, "harmonize").tolist() for name in names]
    return {
        str(row): provenance.digest([None if pd.isna(cell) else cell for cell in values])
        for row, *values in zip(table.index, *taken, strict=True)
    }


def _kept(
    saved: Mapping[str, Any] | None, declared: str, digests: Mapping[str, str]
) -> Combat | None:
    """ComBat of an earlier fit, if it was estimated as this model asks from rows that are still the same."""
    if saved is None or saved["declared"] != declared:
        return None
    if any(digests.get(row) != digest for row, digest in saved["fitted"].items()):
        return None
    try:
        return Combat.from_json(saved["combat"])
    except DesignError:  # of another version
        return None


def _transformed(
    table: pd.DataFrame, combat: Combat, kept: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with harmonised columns, NaN where that cannot be; rows of levels that were not there, and which."""
    strange: dict[str, str] = {}
    for name, levels in ((combat.site, combat.sites), *combat.categories):
        column = cells.take(table, name, "harmonize")
        for row, cell, gone in zip(
            table.index, column.tolist(), cells.missing(column), strict=True
        ):
            if not gone and (said := cells.label(cell)) not in levels:
                strange.setdefault(
                    str(row), f"{name} {said} was not there when ComBat was estimated"
                )
    bare = np.isin(table.index.to_numpy(object), [*strange, *_empty(table, kept)])
    numbers = {n: cells.numbers(cells.take(table, n, "harmonize")) for n in combat.columns}
    changed = table.assign(**numbers)
    done = combat.transform(table[~bare])
    for name in combat.columns:
        changed.loc[bare, name] = np.nan
        changed.loc[~bare, name] = done[name].to_numpy()
    return changed, strange


def _warnings(design: Design, site: str, columns: Sequence[str], kept: Sequence[str]) -> list[str]:
    used = design.formula.columns
    told = []
    if site in used:
        told.append(
            f"{site} is a term of the model and its outcomes are harmonised by it: one of the two is enough"
        )
    if bare := [c for c in used if c not in (site, *columns, *kept)]:
        told.append(
            f"harmonize does not keep {', '.join(bare)}: what goes with {site} in it is taken out of the outcomes, too"
        )
    return told


def _sentence(combat: Combat, newcomers: Sequence[str]) -> str:
    kept = [*(name for name, _ in combat.categories), *combat.continuous]
    said = f"{', '.join(combat.columns)} were harmonised by ComBat over {len(combat.sites)} sites ({combat.site})"
    said += f", estimated from {sum(combat.n)} rows"
    said += f" with what goes with {', '.join(kept)} kept" if kept else ""
    if newcomers:
        said += f"; {len(newcomers)} rows that came later were harmonised by the same estimates"
    return f"{said}. The errors of the model take these estimates as known."
