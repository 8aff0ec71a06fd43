"""What a model's page says beside its coefficients, as plain values: balance, families, head size, influence, methods."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cohort.reporting.wording import count, number, p_value

MAX_INFLUENTIAL = 12
"""Influential rows that are listed."""


def own(model: Mapping[str, Any], tidy: pd.DataFrame) -> pd.DataFrame:
    """Effects on the outcome that figures show; those on the other outcomes of a family have a table of their own."""
    if "outcome" not in tidy or len(set(tidy["outcome"])) < 2:
        return tidy
    return tidy[tidy["outcome"] == str(model.get("outcome"))].reset_index(drop=True)


def balance(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Covariates in each level of the group, from the screen that ran before the fit."""
    screen = model.get("screen") or {}
    return [
        {
            "covariate": str(row["covariate"]),
            "level": f"{screen.get('group')} = {row['level']}",
            "n": number(row["n"]),
            **{key: number(row[key], digits=3) for key in ("mean", "sd", "min", "max")},
            "difference": number(row["std_difference"], decimals=2),
            "overlap": number(row["overlap"], decimals=2),
        }
        for row in screen.get("balance") or []
        if screen.get("group")
    ]


def family(tidy: pd.DataFrame) -> dict[str, Any]:
    """Tests that were corrected together, and how many they were; no lines where a test stands alone."""
    if "q_bh" not in tidy:
        return {"lines": [], "n": 0}
    rows = tidy[tidy["q_bh"].notna()]
    if len(rows) < 2:
        return {"lines": [], "n": len(rows)}
    lines = [
        {
            "outcome": str(row["outcome"]),
            "term": str(row["term"]),
            "estimate": number(row["estimate"], digits=3),
            "unit": str(row.get("unit") or ""),
            **{key: p_value(row[key]) for key in ("p", "q_bh", "q_by", "p_holm", "p_bonferroni")},
        }
        for row in rows.to_dict("records")
    ]
    return {"lines": lines, "n": int(rows["family_n"].max())}


def comparison(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Student's and Welch's test of the group with nothing held equal."""
    found = model.get("comparison")
    if not found:
        return None
    lines = [
        {
            "test": {"student": "Student", "welch": "Welch"}.get(row["test"], row["test"]),
            **{
                key: number(row[key], digits=3) for key in ("difference", "ci_low", "ci_high", "df")
            },
            "t": number(row["statistic"], decimals=2),
            "p": p_value(row["p"]),
        }
        for row in found["tests"]
    ]
    first, second = found["levels"]
    return {"lines": lines, "title": f"{found['group']} = {second} less {found['group']} = {first}"}


def adjustments(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Head size taken into account in six ways, and why they differ."""
    found = model.get("adjustments")
    if not found:
        return None
    lines = [
        {
            "strategy": str(row["strategy"]).replace("_", ", "),
            "level": str(row["level"]),
            "estimate": number(row["estimate"], digits=3),
            "unit": str(row["unit"]),
            "t": number(row["statistic"], decimals=2),
            "p": p_value(row["p"]),
            "hc3_p": p_value(row["hc3_p"]),
            "partial_r": number(row["partial_r"], decimals=3),
            "r_head": number(row["r_head"], decimals=3),
            "note": str(row["note"]),
        }
        for row in found["table"]
    ]
    return {"head": found["head"], "lines": lines, "sentences": list(found["sentences"])}


def influential(
    model: Mapping[str, Any], augment: pd.DataFrame, anchors: Mapping[str, str]
) -> dict[str, Any]:
    """Rows that move the estimates most (Cook's distance above 4/n), each with where its picture stands on the page."""
    names = [str(name) for name in model.get("influence") or []]
    if not names or "cook" not in augment:
        return {"lines": [], "more": 0, "n": len(names)}
    cook = augment.set_axis(augment.iloc[:, 0].astype(str), axis=0)
    lines = [
        {
            "row": name,
            "anchor": anchors.get(name),
            **{
                key: number(cook.at[name, key], digits=3)  # noqa: PD008 - ids are unique
                for key in ("cook", "leverage", "rstudent")
            },
        }
        for name in names[:MAX_INFLUENTIAL]
        if name in cook.index
    ]
    return {"lines": lines, "more": max(0, len(names) - len(lines)), "n": len(names)}


def methods(model: Mapping[str, Any]) -> str:
    """What was done, in sentences that can stand in a paper, with versions."""
    rows, declared = model.get("rows") or {}, model.get("declared") or {}
    if not model.get("method") or not rows:
        return ""
    said = [
        (
            f"{model.get('fitted') or model['outcome']} was fitted by {model['method']} to "
            f"{count(int(rows.get('n_used') or 0), 'row')} of {count(int(rows.get('n_subjects') or 0), 'subject')} "
            f"(of {rows.get('n_table')} in the table)."
        )
    ]
    if model.get("where"):
        said.append(f"Rows were those in which {model['where']}.")
    rule = model.get("one_scan_per")
    several = rows.get("n_repeated_subjects") or 0
    if several and rule in ("first", "last", "mean"):
        word = {"mean": "the mean of the scans"}.get(rule, f"the {rule} scan")
        said.append(f"Of {count(several, 'subject')} with several scans {word} was used.")
    elif several:
        said.append(f"All scans of {count(several, 'subject')} with several were used.")
    if coding := model.get("coding"):
        said += [
            f"{name} was compared with {levels['reference']}."
            for name, levels in coding.items()
            if levels.get("reference") is not None
        ]
    if declared.get("family"):
        said.append(
            "The tests of the family that was declared before the fit were corrected together (Benjamini-Hochberg, "
            "Benjamini-Yekutieli, Holm, Bonferroni)."
        )
    if declared.get("head") and model.get("adjustments"):
        said.append(
            f"Head size ({declared['head']}) was also taken into account as ratio, residual and power."
        )
    if imputed := model.get("imputation"):
        said.append(
            f"Missing covariates were also imputed in {imputed['n_draws']} draws (seed {imputed['seed']})."
        )
    versions = ", ".join(
        f"{name} {version}" for name, version in (model.get("versions") or {}).items()
    )
    return " ".join([*said, f"Software: {versions}."] if versions else said)
