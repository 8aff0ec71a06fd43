"""The models of a catalog: assemble the table of each, fit what is stale, write ``models/<model>/``."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cohort import provenance
from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from cohort.stats import regression

REVISION = 1
"""Raised when the same table and model give other numbers or other outputs."""

KEYS = ("scan_id", "participant", "subject", "session")

_OTHER_LIBRARY = "library: "
"""How the reason of a stale row begins whose numbers are whole and of other versions of the libraries."""


class ModelError(ValueError):
    """A model that cannot be fitted to this cohort."""


def model_table(
    store: Store,
    catalog: Catalog,
    model: Model,
    recipes: Sequence[str],
    *,
    accept_versions: bool = False,
) -> "tuple[pd.DataFrame, dict[str, str]]":
    """Table of a model: one row a scan (or, in a cohort that is only a table, a participant).

    Measurements side by side with the participants' columns. A measurement whose name two recipes share is taken from
    the model's ``recipe``.

    Parameters
    ----------
    accept_versions : bool
        Numbers that several versions of a library made may stand side by side.

    Returns
    -------
    table : DataFrame
        Columns scan_id, participant, subject, session, ``unusable`` (a reason, or missing), then numbers and text.
    units : dict
        Column -> unit.

    Raises
    ------
    ModelError
        If there are no scans, two recipes measure the outcome and the model does not say which, or its numbers were
        made by several versions of a library and nobody accepts that.
    """
    import pandas as pd

    people = None if catalog.participants is None else store.table("participants")
    units = {} if people is None else store.units("participants")
    if not catalog.sources:
        if people is None:
            raise ModelError("no participants table yet: run `cohort ingest` first")
        nothing = pd.array([None] * len(people), dtype="str")
        return people.assign(scan_id=people["participant"], unusable=nothing), units
    scans = store.table("scans")
    if scans is None or scans.empty:
        raise ModelError(
            "no scans in the store, so nothing to model; `cohort status` says what became of them"
        )
    table = scans[list(KEYS)].copy()
    words = _words(model)
    reasons: dict[str, str] = {}
    makings: Counter[str] = Counter()
    for recipe in recipes:
        measured = store.table(recipe)
        if measured is None:
            continue
        columns = [c for c in measured.columns if c not in (*KEYS, "state", "reason")]
        if clash := sorted(set(columns) & set(table.columns)):
            if model.outcome in clash and model.recipe is None:
                raise ModelError(
                    f"two recipes measure {model.outcome!r}; name one in the model (recipe: {recipe})"
                )
            if model.recipe == recipe:
                table = table.drop(columns=clash)
            else:
                columns = [c for c in columns if c not in clash]
        table = table.merge(measured[["scan_id", *columns]], on="scan_id", how="left")
        units |= {c: u for c, u in store.units(recipe).items() if c in columns}
        if used := sorted(words & set(columns)):
            failed = measured.loc[measured["state"] == "failed", "scan_id"]
            reasons |= dict.fromkeys(failed, f"{recipe} failed on it")
            outdated = (measured["state"] == "stale") & measured[used].isna().any(axis=1)
            reasons |= dict.fromkeys(measured.loc[outdated, "scan_id"], f"{recipe} is stale on it")
            makings.update(_makings(measured[~outdated]))
    if len(makings) > 1 and not accept_versions:
        told = ", ".join(f"{n} of {making}" for making, n in makings.most_common())
        raise ModelError(
            f"the numbers were made by several versions of a library ({told}); bring them up to date with `cohort run`,"
            f" or mix them knowingly with --accept-versions"
        )
    unusable = [reasons.get(s) for s in table["scan_id"]]
    if people is not None:
        covariates = people.drop(columns=["subject", "session"])
        taken = sorted((set(covariates.columns) - {"participant"}) & set(table.columns))
        if taken:
            raise ModelError(
                f"{taken[0]!r} is a measurement and a column of the participants table; rename one"
            )
        lonely = table["participant"].isna()
        table = table.merge(covariates, on="participant", how="left")
        if not catalog.allow_unmatched:
            unusable = [
                r or ("no row in the participants table" if alone else None)
                for r, alone in zip(unusable, lonely, strict=True)
            ]
    return table.assign(unusable=pd.array(unusable, dtype="str")), units


def _makings(measured: "pd.DataFrame") -> dict[str, int]:
    """How many rows with numbers are of the libraries that are here, and of which others, as their reasons say."""
    rows = measured[measured["state"] != "failed"]
    others = rows["state"].eq("stale") & rows["reason"].fillna("").str.startswith(_OTHER_LIBRARY)
    found = {str(reason): int(n) for reason, n in rows.loc[others, "reason"].value_counts().items()}
    if n_here := int((~others).sum()):
        found["the versions here"] = n_here
    return found


def _words(model: Model) -> set[str]:
    """Every word of a model that may name a column."""
    text = " ".join([model.outcome, model.formula, *model.confounds, model.where or ""])
    return set(re.findall(r"\w+", text))


def fit_model(
    catalog: Catalog,
    name: str,
    store: Store,
    recipes: Sequence[str],
    *,
    accept_versions: bool = False,
) -> "regression.Fit | None":
    """Fit one model of a catalog and write it, unless the same was fitted to the same table before.

    Returns
    -------
    Fit or None
        None if the model on the disk is fresh.

    Raises
    ------
    ValueError
        In one line, if the model cannot be fitted.
    """
    model = catalog.models[name]
    table, units = model_table(store, catalog, model, recipes, accept_versions=accept_versions)
    stamp = _stamp(table, model, units)
    before = store.model(name)
    if before is not None and before.get("stamp") == stamp:
        return None
    usable = table["unusable"].isna()
    if not usable.any():
        why = table["unusable"].value_counts()
        counted = ", ".join(f"{n}: {reason}" for reason, n in why.items())
        raise ModelError(f"no rows to fit: {len(table)} in the table, all left out ({counted})")
    fit = fit_table(table, model, units)
    dropped = [
        {"row": str(r), "reason": str(why)}
        for r, why in table.loc[~usable, ["scan_id", "unusable"]].itertuples(index=False)
    ]
    store.write_model(
        name,
        {"tidy": fit.tidy, "glance": fit.glance, "augment": fit.augment},
        _model_json(name, model, fit, dropped, stamp, len(table)),
    )
    return fit


def fit_table(table: "pd.DataFrame", model: Model, units: Mapping[str, str]) -> "regression.Fit":
    """Fit a model to the usable rows of its table (`model_table`)."""
    from cohort.stats import regression

    return regression.fit(
        table[table["unusable"].isna()].drop(columns="unusable"),
        outcome=model.outcome,
        formula=model.formula,
        confounds=tuple(model.confounds),
        where=model.where,
        one_scan_per=model.one_scan_per,
        units=dict(units),
    )


def _stamp(table: "pd.DataFrame", model: Model, units: Mapping[str, str]) -> str:
    import pandas as pd

    content = {
        str(c): [None if pd.isna(v) else v for v in table[c].tolist()] for c in table.columns
    }
    return provenance.Stamp(
        {"table": provenance.digest(content), "units": provenance.digest(dict(units))},
        "fit",
        model.model_dump(mode="json"),
        REVISION,
    ).digest


def _model_json(
    name: str,
    model: Model,
    fit: "regression.Fit",
    dropped: Sequence[Mapping[str, str]],
    stamp: str,
    n_table: int,
) -> dict[str, Any]:
    from cohort.stats import regression

    resolved = fit.to_json()
    rows = resolved.get("rows", {})
    return {
        **resolved,
        "model": name,
        "outcome": model.outcome,
        "formula": model.formula,
        "confounds": model.confounds,
        "where": model.where,
        "one_scan_per": model.one_scan_per,
        "recipe": model.recipe,
        "group": model.group,
        "truth": model.truth or None,
        "rows": {
            **rows,
            "n_table": n_table,
            "dropped": [
                *dropped,
                *({"row": d["row_id"], "reason": d["reason"]} for d in rows.get("dropped", [])),
            ],
        },
        "added_variable": {
            term: {"x": frame["x_resid"].tolist(), "y": frame["y_resid"].tolist()}
            for term in fit.tidy["term"]
            if term != "Intercept"
            for frame in [regression.added_variable(fit, term)]
        },
        "stamp": stamp,
    }
