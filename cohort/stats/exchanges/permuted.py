"""The tests of a model by exchanging rows: every outcome and term on the same rows, corrected together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cohort.io.covariates import Model
from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.exchanges.maximum import Tally, critical, probabilities
from cohort.stats.outcomes import Outcomes
from cohort.stats.permutation import permute
from cohort.stats.regression import Fit
from cohort.stats.table.rows import row_ids
from cohort.stats.terms.groups import group_columns
from cohort.stats.wording import reading

ROW_ID = "scan_id"
LEVEL = 0.05


@dataclass(frozen=True)
class Exchanged:
    """Permutation tests of a model.

    Attributes
    ----------
    table : DataFrame, one row an outcome and term
        As `cohort.stats.permutation.Permuted.tidy`; ``p_fwe`` is corrected for all outcomes and terms.
    facts : dict
        method, seed, n_permutations, exhaustive, exchanged, blocks, n, critical_t.
    warnings, reading : tuple of str
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    warnings: tuple[str, ...]
    reading: tuple[str, ...]


def exchanged(
    fit: Fit, others: Outcomes | None, table: pd.DataFrame, model: Model, group: str | None
) -> Exchanged:
    """Test the terms that a model states by exchanging rows (Freedman-Lane).

    Parameters
    ----------
    fit : Fit
        Of the outcome that figures show.
    others : Outcomes or None
        Of the other outcomes. All are tested on the rows that hold every one of them.
    table : DataFrame
        The table that they were made from.
    model : Model
        With ``permutation``.
    group : str or None
        Whose terms are tested where the model names none.

    Returns
    -------
    Exchanged

    Raises
    ------
    DesignError
        In one line: no term to test, one that is none, a row without a block, what `permute` refuses.

    Notes
    -----
    Arrangement k is the same for every term, so that the largest t over outcomes and terms is a statistic of one
    arrangement (Winkler 2016, doi:10.1002/hbm.23115).
    """
    asked = model.permutation
    assert asked is not None
    design = fit.design
    if asked.terms is None and group is None:
        raise DesignError("permutation: the model has no group; name what is tested (terms: [...])")
    terms = list(asked.terms or group_columns(design, str(group)))
    names = [str(c) for c in design.X.columns]
    for term in terms:
        if term not in names:
            said = cells.unknown_column(term, names, "permutation")
            raise DesignError(
                said.replace("no column", "no term", 1).replace("(columns:", "(terms:", 1)
            )
    Y, told = _together(fit, others)
    blocks = None
    if asked.blocks is not None:
        named = cells.take(table, asked.blocks, "permutation.blocks")
        named = named.set_axis(row_ids(table, ROW_ID)).loc[Y.index]
        if (empty := cells.missing(named)).any():
            raise DesignError(
                f"permutation: {asked.blocks!r} is missing in {int(empty.sum())} of {len(named)} rows (the first is"
                f" {named.index[empty][0]})"
            )
        blocks = named.map(cells.label).to_numpy()
    elif design.n_repeated and model.one_scan_per == "all":
        told.append(
            "permutation: rows of one subject are alike and change places with others'; state blocks: subject and"
            " exchange: whole"
        )
    X = design.X.loc[Y.index]
    if np.linalg.matrix_rank(X / np.abs(X).max().clip(lower=np.finfo(float).tiny)) < X.shape[1]:
        raise DesignError(
            f"permutation: the {len(Y)} rows that hold all outcomes do not tell the terms apart "
            f"({', '.join(names)}); test fewer outcomes together"
        )
    found = [
        permute(
            X,
            Y,
            term=term,
            n_permutations=asked.n,
            seed=asked.seed,
            blocks=blocks,
            exchange=asked.exchange,
        )
        for term in terms
    ]
    facts, maximum = found[0].model, np.max([one.maximum for one in found], axis=0)
    tidy = [
        one.tidy.assign(
            p_fwe=probabilities(
                Tally(
                    t=one.tidy["statistic"].to_numpy(),
                    exceeded=np.zeros(len(one.tidy), np.int64),
                    maximum=maximum,
                    start=0,
                    stop=len(maximum),
                    df=int(one.tidy["df"].iloc[0]),
                ),
                facts["alternative"],
            )[1]
        )
        for one in found
    ]
    together = pd.concat(tidy, ignore_index=True)
    bar = critical(maximum, LEVEL, int(together["df"].iloc[0]))
    shared = (
        "method",
        "alternative",
        "exchanged",
        "blocks",
        "seed",
        "n_permutations",
        "exhaustive",
    )
    return Exchanged(
        table=together,
        facts={
            **{key: facts[key] for key in shared},
            "n": len(Y),
            "critical_t": bar if np.isfinite(bar) else None,
        },
        warnings=(*told, *dict.fromkeys(text for one in found for text in one.warnings)),
        reading=tuple(_sentences(together, facts, model.outcome)),
    )


def _together(fit: Fit, others: Outcomes | None) -> tuple[pd.DataFrame, list[str]]:
    """Outcomes that could be fitted, on the rows that hold all of them, in the order of the rows' ids."""
    design = fit.design
    Y = design.y.to_frame()
    if others is not None:
        good = set(others.glance.loc[others.glance["reason"] == "", "outcome"])
        parts = [
            values.loc[:, [c for c in values if c in good]] for values in others.values.values()
        ]
        Y = pd.concat([Y, *parts], axis=1, join="inner")
        Y = Y[[str(design.y.name), *(o for o in others.glance["outcome"] if o in good)]]
    rows = [row for row in design.X.index if row in set(Y.index)]
    told = []
    if len(rows) < len(design.y):
        told.append(
            f"permutation: outcomes are corrected together on the {len(rows)} rows that hold all of them;"
            f" {len(design.y) - len(rows)} rows of {design.y.name} are not among them"
        )
    return Y.loc[sorted(rows)], told


def _sentences(table: pd.DataFrame, facts: dict[str, Any], outcome: str) -> list[str]:
    """Say what was found for the outcome that figures show, and how many of all tests stand the correction."""
    n = facts["n_permutations"]
    how = f"{'all ' if facts['exhaustive'] else ''}{n} arrangements of {facts['exchanged']}"
    several = len(table) > 1
    told = []
    for row in table[table["outcome"] == outcome].to_dict("records"):
        said = f"By {how}, {row['term']} on {outcome} has {reading.probability(row['p'])}"
        if several:
            said += f", {reading.probability(row['p_fwe'])} after correction for {len(table)} tests"
        told.append(f"{said}.")
    if several:
        stand = int((table["p_fwe"] <= LEVEL).sum())
        told.append(
            f"{stand} of {len(table)} tests have a corrected p of at most {LEVEL:g} (largest t of each arrangement)."
        )
    return told
