"""Why the strategies for head size differ on the data at hand, in plain sentences."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohort.stats.diagnostics import SIGNIFICANT
from cohort.stats.wording.reading import number, probability

NAMES = {
    "covariate": "covariate",
    "raw": "no head size",
    "ratio": "ratio",
    "residual_all": "residual (slope of all rows)",
    "residual_controls": "residual (slope of the controls)",
    "power": "power-corrected",
}
"""How a strategy is called in a sentence, a table or a plot."""


def read(
    table: pd.DataFrame, by_group: pd.DataFrame, *, head: str, group: str, units: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Write the sentences and the warnings of `cohort.stats.adjust.Adjustments`.

    Parameters
    ----------
    table, by_group : DataFrame
        Its ``table`` and ``head_by_group``.
    head, group : str
    units : mapping
        Column -> unit.
    """
    outcome = str(table["outcome"].iloc[0])
    table, by_group = (t.assign(said=f"{group} = " + t["level"]) for t in (table, by_group))
    rows = {str(name): part.iloc[0] for name, part in table.groupby("strategy", sort=False)}
    sentences, warnings = [], []
    for term in table["term"].unique():
        text, differs = _head_differs(by_group[by_group["term"] == term], head, units.get(head, ""))
        sentences.append(text)
        warnings += [text] if differs else []
    # No warning: a model that takes the covariate divides nothing. The screen warns of one whose outcome is a ratio.
    if text := _ratio(rows, by_group, outcome, head):
        sentences.append(text)
    sentences.append(_raw(rows, outcome, head, units.get(outcome, "")))
    if text := _residual(rows, by_group, head):
        sentences.append(text)
    for term in table["term"].unique():
        text, agree = _agreement(table[table["term"] == term], outcome, head)
        sentences.append(text)
        warnings += [] if agree else [text]
    for name, row in rows.items():
        if row["note"]:
            sentences.append(f"The strategy {NAMES[name]} is left out: {row['note']}.")
    return sentences, warnings


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}" if unit not in ("", "1") else number(value)


def _tested(row: Any) -> str:
    return f"t = {row['statistic']:.2f}, {probability(row['p'])}, HC3 {probability(row['hc3_p'])}"


def _head_differs(tests: pd.DataFrame, head: str, unit: str) -> tuple[str, bool]:
    """Say whether head size itself differs by group, alone and with the other terms held equal."""
    found = []
    for _, row in tests.iterrows():
        size = _with_unit(abs(row["estimate"]), unit)
        told = f"{size} {'higher' if row['estimate'] >= 0 else 'lower'}"
        told = (
            f"with {row['held']} held equal {told}" if row["held"] else f"{told} with {row['said']}"
        )
        found.append(f"{told} ({_tested(row)})")
    differs = bool((tests[["p", "hc3_p"]].min(axis=1) < SIGNIFICANT).any())
    told = f"{head} is {', '.join(found)}"
    if not differs:
        return (
            f"{told}: it hardly differs by group, so adjusting for it moves no group difference of its own.",
            False,
        )
    return (
        f"{told}: head size itself differs by group, so part of a group difference may be head size, or head size "
        "measured with the group's change in it, and the strategies need not agree."
    ), True


def _ratio(rows: Mapping[str, Any], by_group: pd.DataFrame, outcome: str, head: str) -> str:
    """Say what a division by head size leaves behind, and in which direction that pushes the group."""
    row = rows["ratio"]
    if row["note"]:
        return ""
    r, controls = row["r_head"], row["r_head_controls"]
    found = f"r = {r:.3f}, {probability(row['p_head'])}; in the controls r = {controls:.3f}, {probability(row['p_head_controls'])}"
    clear = [
        value
        for value, p in ((r, row["p_head"]), (controls, row["p_head_controls"]))
        if p < SIGNIFICANT
    ]
    if not clear:
        return f"{outcome} / {head} keeps no clear trace of {head} ({found})."
    power = rows["power"]
    slower = clear[0] < 0
    told = (
        f"Dividing by {head} {'over-corrects' if slower else 'under-corrects'}: {outcome} / {head} still "
        f"{'falls' if slower else 'rises'} with {head} ({found})"
    )
    if not power["note"]:
        told += (
            f", as {outcome} grows in the controls like {head} to the power {power['coefficient']:.3f} "
            f"(95 % interval {power['coefficient_low']:.3f} to {power['coefficient_high']:.3f}), not 1"
        )
    first = by_group[by_group["term"] == row["term"]].iloc[-1]
    down = (first["estimate"] < 0) != slower
    higher = "higher" if first["estimate"] >= 0 else "lower"
    return (
        f"{told}; with {head} {higher} at {row['said']}, that alone moves the ratio's group difference "
        f"{'down' if down else 'up'}."
    )


def _raw(rows: Mapping[str, Any], outcome: str, head: str, unit: str) -> str:
    raw, model = rows["raw"], rows["covariate"]
    return (
        f"Without {head}, {raw['said']} goes with {_with_unit(raw['estimate'], unit)} of {outcome} ({_tested(raw)}; "
        f"r with {head} {raw['r_head']:.3f}); with {head} as a covariate with {_with_unit(model['estimate'], unit)} "
        f"({_tested(model)})."
    )


def _residual(rows: Mapping[str, Any], by_group: pd.DataFrame, head: str) -> str:
    """Compare the slopes: the residuals' hold nothing else equal, the model's does."""
    model, residuals = rows["covariate"], [rows["residual_all"], rows["residual_controls"]]
    if any(row["note"] for row in residuals):
        return ""
    slopes = ", ".join(
        f"{number(row['coefficient'])} {where}"
        for row, where in zip(residuals, ("over all rows", "in the controls"), strict=True)
    )
    ts = " and ".join(f"{row['statistic']:.3f}" for row in residuals)
    last = by_group[by_group["term"] == model["term"]].iloc[-1]
    held = "the group and the other terms" if last["held"] else "the group"
    shift = max(abs(row["statistic"] / model["statistic"] - 1) for row in residuals)
    share = f"{100 * shift:.2g} %" if math.isfinite(shift) else "far"
    return (
        f"The slope of the residuals ({slopes}) is that of {head} alone; the covariate's ({number(model['coefficient'])}) "
        f"holds {held} equal: t is {ts} against {model['statistic']:.3f}, up to {share} away, with a partial r of {head} "
        f"and {model['said']} of {last['partial_r']:.3f}."
    )


def _agreement(part: pd.DataFrame, outcome: str, head: str) -> tuple[str, bool]:
    """Say whether the strategies that account for head size come to the same conclusion at 5 %."""
    used = part[(part["strategy"] != "raw") & (part["note"] == "")]
    term, lowest, highest = part["said"].iloc[0], used["statistic"].min(), used["statistic"].max()
    concluded: dict[str, list[str]] = {}
    for _, row in used.iterrows():
        clear = row["p"] < SIGNIFICANT
        answer = ("lower" if row["estimate"] < 0 else "higher") if clear else "no clear difference"
        concluded.setdefault(answer, []).append(
            f"{NAMES[row['strategy']]} (t = {row['statistic']:.2f}, {probability(row['p'])})"
        )
    if len(concluded) == 1:
        answer = next(iter(concluded))
        said = (
            answer
            if answer == "no clear difference"
            else f"a {answer} {outcome} at p < {SIGNIFICANT}"
        )
        return (
            f"All {len(used)} ways to account for {head} agree on {term}: {said} (t {lowest:.2f} to {highest:.2f})."
        ), True
    told = "; ".join(f"{answer}: {', '.join(names)}" for answer, names in concluded.items())
    return (
        f"The ways to account for {head} disagree on {term} at {SIGNIFICANT}: {told}. The covariate is the one to report, "
        "the others as its sensitivity."
    ), False
