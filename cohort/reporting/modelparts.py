"""What a model's page says beside its coefficients, as plain values: balance, families, head size, influence, methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cohort.reporting.effects import factor
from cohort.reporting.wording import count, number, p_value
from cohort.stats.clustering.headline import headline

MAX_INFLUENTIAL = 12
"""Influential rows that are listed."""


def own(model: Mapping[str, Any], tidy: pd.DataFrame) -> pd.DataFrame:
    """Effects on the outcome that figures show; those on the other outcomes of a family have a table of their own."""
    if "outcome" not in tidy or len(set(tidy["outcome"])) < 2:
        return tidy
    return tidy[tidy["outcome"] == str(model.get("outcome"))].reset_index(drop=True)


def group_terms(model: Mapping[str, Any]) -> list[str]:
    """Terms that compare the levels of the model's group."""
    group = (model.get("screen") or {}).get("group")
    return [
        str(column["name"])
        for column in model.get("columns") or []
        if group and column["role"] == "group" and factor(str(column["name"])) == group
    ]


def sites(
    table: pd.DataFrame, tidy: pd.DataFrame, terms: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The group's terms in each site with the sites that could not be fitted, and with what all sites together say."""
    # A page shows the outcome that its figures show; the file has all.
    table = table[table["outcome"].isin(tidy["outcome"])]
    listed = table[table["term"].isin(terms) | table["reason"].ne("")]
    whole = headline(tidy[tidy["term"].isin(terms)]).assign(site="all together", reason="")
    known = table[table["term"].isin(terms)]
    drawn = pd.concat([known, whole[[c for c in known if c in whole]]], ignore_index=True)
    return listed, drawn


def derived(model: Mapping[str, Any], tidy: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables of a page that stand in no file of their own: effect sizes, errors of clusters, the screen."""
    found = {}
    if "partial_r" in tidy and "role" in tidy:
        found["effect_sizes"] = headline(tidy)
    if "cluster_se" in tidy and tidy["cluster_se"].notna().any():
        found["clustered"] = tidy
    screen = model.get("screen") or {}
    if screen.get("correlations"):
        found["correlations"] = pd.DataFrame(screen["correlations"])
    cells = pd.DataFrame(screen.get("missing") or [])
    if len(cells) and cells["missing"].any():
        lacking = set(cells.loc[cells["missing"] > 0, "column"])
        found["missing"] = cells[cells["column"].isin(lacking)].reset_index(drop=True)
    return found


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
    tidy = headline(tidy)
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
    used = f"{count(int(rows.get('n_used') or 0), 'row')} of {count(int(rows.get('n_subjects') or 0), 'subject')}"
    said = [
        (
            f"{model.get('fitted') or model['outcome']} was fitted to {used} (of {count(int(rows.get('n_table') or 0), 'row')} in the table) by "
            f"{model['method']}."
        )
    ]
    if confounds := model.get("confounds"):
        many = "were adjusted for as covariates"
        how = "was adjusted for as a covariate" if len(confounds) == 1 else many
        said.append(f"{', '.join(confounds)} {how}.")
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
            f"Missing covariates were also imputed in {count(imputed['n_draws'], 'draw')} (seed {imputed['seed']})."
        )
    if bounds := declared.get("equivalence"):
        said.append(
            f"Equivalence ({', '.join(bounds)}) was tested by two one-sided tests against bounds declared before the fit."
        )
    if made := model.get("harmonization"):
        combat = made["combat"]
        said.append(
            f"{', '.join(combat['columns'])} {'was' if len(combat['columns']) == 1 else 'were'} harmonised over the sites of {combat['site']} by ComBat."
        )
    if moved := model.get("permutation"):
        said.append(
            f"p-values were also found by {moved['n_permutations']} arrangements of {moved['exchanged']} (Freedman-Lane, seed "
            f"{moved['seed']}), corrected by the largest t of each."
        )
    if cited := _references(model, declared):
        said.append(f"References: {'; '.join(cited)}.")
    versions = ", ".join(
        f"{name} {version}" for name, version in (model.get("versions") or {}).items()
    )
    return " ".join([*said, f"Software: {versions}."] if versions else said)


def _references(model: Mapping[str, Any], declared: Mapping[str, Any]) -> list[str]:
    """Papers of what was used."""
    used = {
        "CR2: Bell and McCaffrey 2002; Pustejovsky and Tipton 2018, doi:10.1080/07350015.2016.1247004": (
            model.get("clusters") or {}
        ).get("kind")
        == "CR2",
        "HC3: Long and Ervin 2000, doi:10.1080/00031305.2000.10474549": "HC3" in model["method"],
        "false discovery rate: Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x": declared.get(
            "family"
        ),
        "ComBat: Johnson 2007, doi:10.1093/biostatistics/kxj037, Fortin 2018, doi:10.1016/j.neuroimage.2017.11.024": model.get(
            "harmonization"
        ),
        "Freedman and Lane 1983, doi:10.1080/07350015.1983.10509354, Winkler 2014, doi:10.1016/j.neuroimage.2014.01.060": model.get(
            "permutation"
        ),
        "head size: doi:10.3389/fnins.2015.00238": model.get("adjustments"),
    }
    return [text for text, is_used in used.items() if is_used]
