"""One design, many outcomes: ordinary least squares for a thousand regions as fast as for a few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError
from cohort.stats.design import Design, prepare
from cohort.stats.regions.solution import WIDTH, Solution, solve
from cohort.stats.regions.tabulated import tables
from cohort.stats.table import rows

__all__ = ["WIDTH", "Outcomes", "Solution", "fit", "solve", "tables"]

_STAND_IN = "(any outcome)"


@dataclass(frozen=True)
class Outcomes:
    """The fits of many outcomes.

    Attributes
    ----------
    tidy : DataFrame, one row an outcome and term
        outcome, term, role, estimate, unit, se, df, statistic, p, ci_low, ci_high, hc3_se, hc3_statistic, hc3_p,
        hc3_ci_low, hc3_ci_high, d_adj (0/1 terms), partial_r, partial_eta2, r2, n. Numbers are NaN where an outcome
        could not be fitted; it has no rows at all where its rows give no design.
    glance : DataFrame, one row an outcome
        outcome, n, df_model, df_resid, r2, sigma, f, f_p, pattern (outcomes of one number miss the same rows), and
        reason: why it could not be fitted, or empty.
    designs : dict
        Pattern -> Design: rows, design matrix, and an account of the rows that were dropped.
    values : dict
        Pattern -> outcomes on the rows of its design, a column each.
    warnings : tuple of str
    """

    tidy: pd.DataFrame
    glance: pd.DataFrame
    designs: dict[int, Design]
    values: dict[int, pd.DataFrame]
    warnings: tuple[str, ...]

    def without(self, name: str) -> "Outcomes":
        """The other outcomes, and their designs."""
        values = {
            key: frame.drop(columns=name, errors="ignore") for key, frame in self.values.items()
        }
        values = {key: frame for key, frame in values.items() if frame.shape[1]}
        tidy, glance = (
            frame[frame["outcome"] != name].reset_index(drop=True)
            for frame in (self.tidy, self.glance)
        )
        designs = {key: design for key, design in self.designs.items() if key in values}
        return replace(self, tidy=tidy, glance=glance, designs=designs, values=values)


def fit(
    table: pd.DataFrame,
    *,
    outcomes: Sequence[str],
    formula: str,
    confounds: Sequence[str] = (),
    where: str | None = None,
    one_scan_per: str = "first",
    units: Mapping[str, str] | None = None,
    row_id: str = "scan_id",
    subject: str = "subject",
    order: Sequence[str] = ("session",),
) -> Outcomes:
    """Regress many outcomes on the same terms, each on the rows that it has.

    Outcomes that miss the same rows share one design and one QR decomposition. An outcome that cannot be fitted, say
    a constant one, does not stop the others: it has NaN and a reason.

    Parameters
    ----------
    outcomes : sequence of str
        Columns to be explained, each by itself.
    formula : str
        Terms, without a left side.
    table, confounds, where, one_scan_per, units, row_id, subject, order
        See `cohort.stats.regression.fit`.

    Returns
    -------
    Outcomes
        Outcomes in the order they were given.

    Raises
    ------
    DesignError
        If a column is unknown or stands twice, an outcome holds text, or no rows give a design.

    Notes
    -----
    Equals a loop of `cohort.stats.regression.fit`, and statsmodels' ``OLS`` with ``HC3``.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1.0, 2, 2, 4, 5, 5], "b": [3.0, 1, None, 2, 5, 9], "dx": [0, 0, 0, 1, 1, 1]})
    >>> found = fit(table, outcomes=["a", "b"], formula="dx", one_scan_per="all")
    >>> found.tidy.loc[found.tidy["term"] == "dx", ["outcome", "estimate", "n"]].round(3).values.tolist()
    [['a', 3.0, 6], ['b', 3.333, 5]]
    """
    names = [str(name) for name in outcomes]
    # Lists: a walk along an index of text takes as long as a fit of a hundred outcomes.
    table = table.set_axis([str(c) for c in table.columns.tolist()], axis=1)
    if not table.index.is_unique:
        table = table.reset_index(drop=True)
    values = _values(table, names)
    asked: dict[str, Any] = {
        "formula": formula,
        "confounds": confounds,
        "where": where,
        "one_scan_per": one_scan_per,
        "row_id": row_id,
        "subject": subject,
        "order": order,
    }
    # Other outcomes are no columns of a model, unless it names them.
    named = " ".join([formula, *confounds, where or "", row_id, subject, *order])
    idle = {name for name in names if name not in named}
    rest = table.drop(columns=list(idle))
    absent = np.isnan(values)
    packed = np.packbits(absent, axis=0).T
    patterns: dict[bytes, list[int]] = {}
    for j in range(len(names)):
        patterns.setdefault(packed[j].tobytes(), []).append(j)
    designs: dict[int, Design] = {}
    held: dict[int, pd.DataFrame] = {}
    tidy: list[tuple[list[int], pd.DataFrame]] = []
    wholes: list[tuple[list[int], pd.DataFrame]] = []
    refusals: list[DesignError] = []
    for pattern, members in enumerate(patterns.values()):
        called = [names[j] for j in members]
        theirs = values if len(patterns) == 1 else values[:, members]
        try:
            design, Y = _design(rest, called, theirs, asked)
        except DesignError as error:
            refusals.append(error)
            whole = pd.DataFrame({"outcome": called, "reason": str(error)})
        else:
            designs[pattern] = design
            held[pattern] = pd.DataFrame(Y, design.X.index, called)
            effect, whole = tables(design, held[pattern], units)
            tidy.append((members, effect))
        wholes.append((members, whole.assign(pattern=pattern)))
    if not designs:
        raise refusals[0]
    glance = _ordered(wholes)
    failed = glance[glance["reason"] != ""]
    told = [
        f"{len(failed)} of {len(names)} outcomes are not fitted, the first is {name!r}: {reason}"
        for name, reason in failed[["outcome", "reason"]].head(1).itertuples(index=False)
    ]
    told += _references(designs, held)
    return Outcomes(
        _ordered(tidy), glance, designs, held, (*next(iter(designs.values())).warnings, *told)
    )


def _references(designs: Mapping[int, Design], held: Mapping[int, pd.DataFrame]) -> list[str]:
    """Say whose categories lack the level that those of the first outcome are compared with."""
    told = []
    first = next(iter(designs.values())).coding
    for pattern, design in designs.items():
        for name, coded in design.coding.items():
            due = first.get(name, coded)["reference"]
            if coded["reference"] != due:
                names = list(held[pattern].columns)
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                told.append(
                    f"{names[0]}{more}: no row of it has {name} = {due}, so its effects of {name} compare with "
                    f"{coded['reference']}"
                )
    return told


def _values(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Outcomes as numbers; shape (rows of the table, outcomes)."""
    if not names:
        raise DesignError("no outcomes are given")
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise DesignError(f"the outcome {doubled!r} is given twice")
    known = set(table.columns.tolist())
    if len(known) < table.shape[1] or not set(names) <= known:
        for name in names:
            cells.take(table, name, "outcome")
    chosen = table.loc[:, names]
    if {dtype.kind for dtype in set(chosen.dtypes)} <= set("iufb"):
        values = chosen.to_numpy(np.float64, na_value=np.nan)
        if not np.isinf(values).any():
            return values
    return np.column_stack([cells.numbers(chosen.iloc[:, j]) for j in range(len(names))])


def _design(
    table: pd.DataFrame,
    names: list[str],
    values: np.ndarray,
    asked: Mapping[str, Any],
) -> tuple[Design, np.ndarray]:
    """Design of outcomes that miss the same rows, and these outcomes on its rows, (n, outcomes)."""
    name = names[0]
    try:
        design = prepare(table.assign(**{name: values[:, 0]}), outcome=name, **asked)
    except DesignError as refusal:
        # Is it that outcome, or the rows of all of them? One that varies takes its place.
        varying = np.where(np.isnan(values[:, 0]), np.nan, np.arange(float(len(table))))
        try:
            design = prepare(table.assign(**{_STAND_IN: varying}), outcome=_STAND_IN, **asked)
        except DesignError:
            raise refusal from None
    if not design.dropped:
        return replace(design, y=pd.Series(values[:, 0], design.X.index, name=name)), values
    ids = rows.row_ids(table, asked["row_id"])
    if asked["one_scan_per"] == "mean":
        known = table.assign(**{name: values[:, 0]})
        account = rows.Account(known.set_axis(ids))
        account.keep_usable(asked["row_id"], asked["where"], (name, *design.formula.columns))
        repeats = account.keep_one_per_subject("mean", asked["subject"], asked["order"])
        values = rows.averaged(pd.DataFrame(values, columns=names), repeats, names, ()).to_numpy()
    Y = values[ids.get_indexer(design.X.index)]
    missing = (f"missing {names[0]}", f"missing {_STAND_IN}")
    dropped = tuple(
        entry | {"reason": "missing outcome"} if entry["reason"] in missing else entry
        for entry in design.dropped
    )
    y = pd.Series(Y[:, 0], design.X.index, name=names[0])
    return replace(design, y=y, dropped=dropped), Y


def _ordered(frames: Sequence[tuple[list[int], pd.DataFrame]]) -> pd.DataFrame:
    """Tables of several patterns as one, in the order of the outcomes."""
    if len(frames) == 1:
        return frames[0][1]
    together = pd.concat([frame for _, frame in frames], ignore_index=True)
    places = [np.repeat(members, len(frame) // len(members)) for members, frame in frames]
    return together.iloc[np.argsort(np.concatenate(places), kind="stable")].reset_index(drop=True)
